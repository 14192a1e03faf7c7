//! A backend to which happens what a test says, for what stands over backends.

use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::time::Duration;

use super::{Backend, Buffer, Close, Event, Slot, Usage, Waker};
use crate::chunk::Span;

/// Bytes of a receive buffer, as backends have them.
pub(crate) const BUFFER_LEN: usize = 32 << 10;

/// What the wrapper asked of the backend.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    Shutdown(Slot),
    Close(Slot, Close),
}

/// A backend that does what the test says.
pub(crate) struct Wire {
    /// What the next poll reports.
    pub(crate) coming: VecDeque<Event>,
    /// Bytes sent, by everybody.
    pub(crate) out: Vec<u8>,
    /// Sends wait for the test to complete them.
    pub(crate) is_stuck: bool,
    /// Bytes of the send that waits.
    pub(crate) waiting: Option<(Slot, Span)>,
    /// Buffers that are out.
    pub(crate) lent: usize,
    pub(crate) asked: Vec<Asked>,
    /// Of whom nothing is to be received.
    pub(crate) paused: BTreeSet<Slot>,
    /// What the last poll was allowed to wait.
    pub(crate) timeout: Option<Duration>,
    waker: Waker,
}

impl Wire {
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

    /// Has bytes arrive with the next poll.
    pub(crate) fn queue(&mut self, slot: Slot, bytes: &[u8]) {
        let mut buffer = Buffer::new(BUFFER_LEN, 0);
        buffer.fill(bytes);
        self.lent += 1;
        self.coming.push_back(Event::Received { slot, buffer });
    }
}

impl Backend for Wire {
    fn poll(&mut self, timeout: Option<Duration>, events: &mut Vec<Event>) -> io::Result<()> {
        self.timeout = timeout;
        events.extend(self.coming.drain(..));
        Ok(())
    }

    fn send(&mut self, slot: Slot, span: Span) {
        assert!(self.waiting.is_none(), "one send at a time");
        if self.is_stuck {
            self.waiting = Some((slot, span));
        } else {
            self.out.extend_from_slice(span.bytes());
            self.coming.push_back(Event::Sent { slot });
        }
    }

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
        self.coming.push_back(Event::Closed { slot });
    }

    fn recycle(&mut self, buffer: Buffer) {
        assert!(!buffer.is_own() && buffer.capacity() == BUFFER_LEN, "not ours");
        self.lent -= 1;
    }

    fn stop_accepting(&mut self) {}

    fn has_stopped(&self) -> bool {
        true
    }

    fn now_ns(&self) -> u64 {
        0
    }

    fn clock_ns(&self) -> u64 {
        0
    }

    fn usage(&self) -> Usage {
        Usage::default()
    }

    fn waker(&self) -> Waker {
        self.waker.clone()
    }
}
