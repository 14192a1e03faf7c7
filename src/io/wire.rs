//! A backend without sockets, for tests of the layers above a backend. The test sets its events and checks its
//! requests.

use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::time::Duration;

use crate::chunk::Span;

use super::{Backend, Buffer, Close, IoEvent, More, SendProgress, Slot, Usage, Waker};

/// Length of a receive buffer in bytes.
pub(crate) const BUFFER_LEN: usize = 32 << 10;

/// A request to end a connection or its sending direction.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    Shutdown(Slot),
    Close(Slot, Close),
}

/// A test backend without sockets.
pub(crate) struct Wire {
    /// Events that the next poll reports.
    pub(crate) coming: VecDeque<IoEvent>,
    /// All bytes sent so far, on any connection.
    pub(crate) out: Vec<u8>,
    /// Whether a send waits until the test completes it.
    pub(crate) is_stuck: bool,
    /// The send that waits for the test to complete it.
    pub(crate) waiting: Option<(Slot, Span)>,
    /// Number of receive buffers that were not recycled yet.
    pub(crate) lent: usize,
    /// Requests to end connections or sending directions, in their order.
    pub(crate) asked: Vec<Asked>,
    /// Connections on which receiving is paused.
    pub(crate) paused: BTreeSet<Slot>,
    /// The timeout of the last poll.
    pub(crate) timeout: Option<Duration>,
    waker: Waker,
}

impl Wire {
    /// Makes a backend without connections.
    pub(crate) fn new() -> Self {
        Self {
            coming: VecDeque::new(),
            out: Vec::new(),
            is_stuck: false,
            waiting: None,
            lent: 0,
            asked: Vec::new(),
            paused: BTreeSet::new(),
            timeout: None,
            waker: Waker::new().expect("a waker"),
        }
    }

    /// Makes `bytes` arrive on a connection with the next poll.
    pub(crate) fn queue(&mut self, slot: Slot, bytes: &[u8]) {
        let mut buffer = Buffer::new(BUFFER_LEN, 0);
        buffer.fill(bytes);
        self.lent += 1;
        self.coming.push_back(IoEvent::Received { slot, buffer });
    }
}

impl Backend for Wire {
    fn poll(&mut self, timeout: Option<Duration>, events: &mut Vec<IoEvent>) -> io::Result<u64> {
        self.timeout = timeout;
        events.extend(self.coming.drain(..));
        Ok(0)
    }

    fn send(&mut self, slot: Slot, span: Span, _: More) {
        assert!(self.waiting.is_none(), "one send at a time");
        if self.is_stuck {
            self.waiting = Some((slot, span));
        } else {
            self.out.extend_from_slice(span.bytes());
            self.coming.push_back(IoEvent::Sent { slot });
        }
    }

    fn send_progress(&self, slot: Slot) -> Option<SendProgress> {
        let (at, span) = self.waiting.as_ref()?;
        (*at == slot).then(|| SendProgress { left: span.len(), moved_ns: 0 })
    }

    fn nudge(&mut self, _: Slot) {}

    fn pause(&mut self, slot: Slot) {
        self.paused.insert(slot);
    }

    fn resume(&mut self, slot: Slot) {
        self.paused.remove(&slot);
    }

    fn shutdown(&mut self, slot: Slot) {
        self.asked.push(Asked::Shutdown(slot));
    }

    fn close(&mut self, slot: Slot, how: Close) {
        self.asked.push(Asked::Close(slot, how));
        self.coming.push_back(IoEvent::Closed { slot });
    }

    fn recycle(&mut self, buffer: Buffer) {
        assert!(!buffer.is_unowned() && buffer.capacity() == BUFFER_LEN, "a buffer of another backend");
        self.lent -= 1;
    }

    fn stop_accepting(&mut self) {}

    fn has_stopped(&self) -> bool {
        true
    }

    fn now_ns(&self) -> u64 {
        0
    }

    fn usage(&self) -> Usage {
        Usage::default()
    }

    fn waker(&self) -> Waker {
        self.waker.clone()
    }
}
