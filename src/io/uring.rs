//! The backend on io_uring, which starts socket operations and reports their completions.
//!
//! Sockets live in the ring's table of direct descriptors; a slot is an index in this table. Each open connection has a
//! multishot receive armed. The caller's requests go straight to the submission queue. `poll` submits the requests and
//! waits with one system call.

#![expect(unsafe_code, reason = "the kernel reads and writes memory that requests point to")]

mod accepts;
mod buffers;
mod closing;
#[cfg(test)]
mod inspect;
mod kernel;
mod operation;
mod receives;
mod ring;
mod sending;
mod socket;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::time::Duration;

use crate::chunk::Span;

use self::accepts::Accepts;
pub(crate) use self::kernel::{Kernel, Linux, Request};
pub(crate) use self::operation::Operation;
pub(crate) use self::ring::Completion;
use self::ring::WORK_A_WAIT;
use self::socket::{SlotState, UringSocket};
use super::accept_gate::AcceptGate;
use super::clock::NS_PER_MS;
use super::sends::Sends;
use super::{
    Backend, BackendOptions, Buffer, Close, IoEvent, Listener, More, SendProgress, Slot, Usage, Waker,
    canonical,
};

/// Number of entries in the submission queue. A longer batch of requests takes one system call for each full queue.
const SUBMISSIONS: u32 = 2048;

/// Maximum number of times that one turn asks the kernel for further completions. So the turn ends even if peers send
/// without a pause.
const LOOKS_A_TURN: usize = 50;

/// One shard's sockets on an io_uring.
#[expect(private_bounds, private_interfaces, reason = "only this crate has another kernel, for its tests")]
pub struct Uring<K: Kernel = Linux> {
    /// The kernel's side of the ring. The first field, so that the ring is closed before the memory below is freed.
    kernel: K,
    waker: Waker,
    /// Whether a poll of the waker's event is in flight.
    is_wake_armed: bool,
    /// Time when the last wait ended, in nanoseconds.
    now_ns: u64,
    accept_gate: AcceptGate,
    accepts: Accepts,
    /// The sockets and their state, by slot.
    sockets: Vec<UringSocket>,
    sends: Sends,
    /// The queue of sockets whose receive ended because no buffer was free. An entry counts only while its socket is
    /// [`socket::ReceiveState::Starving`], because closing a socket leaves its entry behind.
    starving: VecDeque<Slot>,
    /// Slots whose cancellation completed before the cancelled operation. Checked after all completions of a poll.
    unfinished: Vec<Slot>,
    /// An empty list for completions, kept between polls to reuse its memory.
    completions: Vec<Completion>,
    /// Number of times that a receive ended because no buffer was free.
    starved: u64,
    /// Length of all receive buffers together, in bytes.
    buffer_bytes: usize,
}

impl Uring {
    /// Makes an io_uring backend that accepts from `listeners`. The backend belongs to the calling thread.
    ///
    /// # Errors
    /// When the kernel has no io_uring, lacks a feature that the backend needs, or refuses the ring. The error names
    /// the cause.
    pub fn new(options: &BackendOptions, listeners: Vec<Listener>) -> io::Result<Self> {
        Self::with_queue(options, listeners, SUBMISSIONS)
    }

    /// Makes an io_uring backend whose submission queue is too short for a batch of requests.
    #[cfg(test)]
    pub(super) fn with_short_queue(options: &BackendOptions, listeners: Vec<Listener>) -> io::Result<Self> {
        Self::with_queue(options, listeners, 4)
    }

    fn with_queue(options: &BackendOptions, listeners: Vec<Listener>, submissions: u32) -> io::Result<Self> {
        Self::on(Linux::new(options, listeners, submissions)?, options)
    }
}

#[expect(private_bounds, reason = "only this crate has another kernel, for its tests")]
impl<K: Kernel> Uring<K> {
    /// Makes the backend on a kernel that already has the listeners and buffers.
    pub(crate) fn on(kernel: K, options: &BackendOptions) -> io::Result<Self> {
        Ok(Self {
            waker: Waker::new()?,
            is_wake_armed: false,
            now_ns: kernel.now_ns(),
            accepts: Accepts::new(kernel.listeners()),
            kernel,
            accept_gate: AcceptGate::new(options.slots),
            sockets: Vec::new(),
            sends: Sends::default(),
            starving: VecDeque::new(),
            unfinished: Vec::new(),
            completions: Vec::new(),
            starved: 0,
            buffer_bytes: options.buffer_bytes(),
        })
    }

    /// Runs the first half of a `poll`: queues all requests. Returns the longest allowed wait, or `None` for no limit.
    pub(crate) fn begin(&mut self, timeout: Option<Duration>, events: &mut Vec<IoEvent>) -> Option<Duration> {
        let before = events.len();
        let now_ms = self.now_ns / NS_PER_MS;
        self.accept_gate.retry(now_ms, events);
        self.arm();
        let more_sockets_follow = self.arm_starving();
        if more_sockets_follow || events.len() > before {
            Some(Duration::ZERO)
        } else {
            self.accept_gate.limit_wait(timeout, now_ms)
        }
    }

    /// Runs the second half of a `poll`, after the wait: reports events. Returns the time when the wait ended, in
    /// nanoseconds.
    ///
    /// # Errors
    /// When the io_uring is broken.
    pub(crate) fn end(&mut self, events: &mut Vec<IoEvent>) -> io::Result<u64> {
        self.waker.cancel();
        self.now_ns = self.kernel.now_ns();
        let mut completions = std::mem::take(&mut self.completions);
        let result = self.take_completions(&mut completions);
        for completion in completions.drain(..) {
            self.complete(completion, events);
        }
        self.completions = completions;
        self.cancel_unfinished();
        if self.has_stopped() {
            self.kernel.close_listeners();
        }
        result.map(|()| self.now_ns)
    }

    /// Takes the completions of a wait. The kernel reports a limited number of arrivals per call, so this function asks
    /// again until there are fewer. One pass over a room can then send all messages that have arrived.
    fn take_completions(&mut self, completions: &mut Vec<Completion>) -> io::Result<()> {
        self.kernel.take_completions(completions);
        let mut taken = 0;
        for _ in 0..LOOKS_A_TURN {
            let new = &completions[taken..];
            let arrivals = new.iter().filter(|completion| !completion.operation.is_send()).count();
            if arrivals < WORK_A_WAIT {
                break;
            }
            taken = completions.len();
            let result = self.kernel.look();
            self.kernel.take_completions(completions);
            result?;
        }
        Ok(())
    }

    /// Returns the socket at `slot`.
    ///
    /// # Panics
    /// When `slot` names no open connection.
    fn at(&mut self, slot: Slot) -> &mut UringSocket {
        let socket = &mut self.sockets[slot as usize];
        assert!(socket.state != SlotState::Vacant, "slot {slot} is used from Accepted to Closed");
        socket
    }

    /// Queues a request that holds no pointer into this process's memory.
    fn push(&mut self, request: Request<'static>) {
        // SAFETY: the request has no span.
        unsafe { self.kernel.push(request) };
    }

    /// Queues an operation of a connection, and counts it as in flight.
    fn start(&mut self, slot: Slot, request: Request<'static>) {
        self.at(slot).in_flight += 1;
        self.push(request);
    }

    /// Queues the poll of the waker's event, and as many accepts as there are free slots.
    fn arm(&mut self) {
        if !self.is_wake_armed {
            self.is_wake_armed = true;
            self.push(Request::Wake(self.waker.event().as_raw_fd()));
        }
        // If the descriptor table is full, an accept takes a connection from the listener's queue and drops it. So
        // there are never more accepts in flight than free slots.
        while self.accepts.in_flight() < self.accept_gate.room()
            && let Some(accept) = self.accepts.start()
        {
            self.push(accept);
        }
    }

    fn complete(&mut self, completion: Completion, events: &mut Vec<IoEvent>) {
        match completion.operation {
            Operation::Accept(at) => self.accepted(at, completion.result, events),
            Operation::CancelAccept(_) => {}
            Operation::Receive(slot) => self.received(slot, completion, events),
            Operation::Send(id) => self.sent(id, completion.result, events),
            Operation::Shutdown(slot) => {
                self.at(slot).shutting_down = false;
                self.finish_operation(slot, events);
            }
            // Closing always frees the descriptor. Setting SO_LINGER fails only when the peer is gone already.
            Operation::Linger(slot) | Operation::Close(slot) => self.finish_operation(slot, events),
            Operation::Cancel(slot) => self.cancelled(slot, events),
            Operation::Wake => self.is_wake_armed = !completion.is_last,
        }
    }

    fn accepted(&mut self, at: u32, result: i32, events: &mut Vec<IoEvent>) {
        self.accepts.finish(at);
        let (listener, peer) = (self.accepts.listener(at), self.kernel.peer(at));
        match u32::try_from(result) {
            Ok(slot) => self.adopt(slot, listener, peer, events),
            Err(_) if super::is_out_of_resources(&error_of(result)) => {
                self.accept_gate.refused(self.now_ns / NS_PER_MS, events);
            }
            // The accept was cancelled, or the connection broke while it waited; accept(2) lists more causes.
            Err(_) => {}
        }
    }

    fn adopt(&mut self, slot: Slot, listener: u16, peer: Option<SocketAddr>, events: &mut Vec<IoEvent>) {
        if self.sockets.len() <= slot as usize {
            self.sockets.resize(slot as usize + 1, UringSocket::default());
        }
        self.sockets[slot as usize] = UringSocket { state: SlotState::Open, ..UringSocket::default() };
        events.push(IoEvent::Accepted { slot, listener, peer: peer.map(canonical) });
        self.accept_gate.opened(events);
        self.receive(slot);
    }
}

impl<K: Kernel> Backend for Uring<K> {
    fn poll(&mut self, timeout: Option<Duration>, events: &mut Vec<IoEvent>) -> io::Result<u64> {
        let timeout = self.begin(timeout, events);
        let result = self.kernel.enter(timeout);
        let now_ns = self.end(events)?;
        result.map(|()| now_ns)
    }

    fn send(&mut self, slot: Slot, span: Span, more: More) {
        self.start_send(slot, span, more);
    }

    fn send_progress(&self, slot: Slot) -> Option<SendProgress> {
        self.sends.progress(self.sockets.get(slot as usize)?.send?)
    }

    fn nudge(&mut self, slot: Slot) {
        self.restart_send(slot);
    }

    fn pause(&mut self, slot: Slot) {
        self.at(slot).paused = true;
        self.cancel(slot);
    }

    fn resume(&mut self, slot: Slot) {
        self.at(slot).paused = false;
        self.receive(slot);
    }

    fn shutdown(&mut self, slot: Slot) {
        let socket = self.at(slot);
        if socket.state != SlotState::Open {
            return;
        }
        if socket.send.is_some() {
            socket.shutdown_wanted = true;
        } else {
            self.start_shutdown(slot);
        }
    }

    fn close(&mut self, slot: Slot, how: Close) {
        let socket = self.at(slot);
        match socket.state {
            SlotState::Open | SlotState::Failed if socket.in_flight > 0 => {
                socket.state = SlotState::Closing(how);
                self.cancel(slot);
            }
            SlotState::Open | SlotState::Failed => self.release(slot, how),
            SlotState::Closing(_) if how == Close::Reset => socket.state = SlotState::Closing(how),
            SlotState::Closing(_) | SlotState::Releasing | SlotState::Vacant => {}
        }
    }

    fn recycle(&mut self, buffer: Buffer) {
        self.kernel.give(buffer);
    }

    fn stop_accepting(&mut self) {
        if !self.accept_gate.is_stopped() {
            self.accept_gate.stop();
            for cancellation in self.accepts.cancellations() {
                self.push(cancellation);
            }
        }
    }

    fn has_stopped(&self) -> bool {
        self.accept_gate.is_stopped() && self.accepts.in_flight() == 0
    }

    fn now_ns(&self) -> u64 {
        self.kernel.now_ns()
    }

    fn usage(&self) -> Usage {
        Usage {
            ring_overflows: self.kernel.overflows(),
            starved: self.starved,
            sends_under_way: self.sends.len(),
            buffer_bytes: self.buffer_bytes,
        }
    }

    fn waker(&self) -> Waker {
        self.waker.clone()
    }
}

impl<K: Kernel> Drop for Uring<K> {
    fn drop(&mut self) {
        if !self.kernel.quiesce() {
            // The kernel may still read the spans of sends, so their memory must stay.
            std::mem::forget(std::mem::take(&mut self.sends));
        }
    }
}

/// Returns the error of a completion with a negative `result`.
fn error_of(result: i32) -> io::Error {
    io::Error::from_raw_os_error(-result)
}
