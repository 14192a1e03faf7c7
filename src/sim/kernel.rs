//! The simulated kernel of one shard. It does whatever io_uring may do, in an order that the seed decides. It also acts
//! out the bugs of `io::uring` that a test injects (see [`super::fault`]).

use std::cell::RefCell;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use nix::libc;

use crate::chunk::Span;
use crate::io::sends::SendId;
use crate::io::uring::{Completion, Kernel, Operation, Request};
use crate::io::{BackendOptions, Buffer, Slot};

use super::fault::Fault;
use super::net::Net;

/// Maximum number of turns for which input may wait while no receive is armed. With two buffers for thirty connections,
/// a connection may fail to get a buffer many times.
const UNHEARD: usize = 200;

/// A send in flight. The simulated kernel keeps its own span, so it detects when the backend frees the memory too
/// early, and never reads freed memory.
struct Sending {
    id: SendId,
    span: Span,
    /// Copy of the bytes to send, made when the send started.
    bytes: Vec<u8>,
    /// Number of bytes sent so far.
    done: usize,
}

/// An open direct descriptor.
struct Descriptor {
    /// Index of the connection in the simulated network.
    conn: usize,
    /// Whether a multishot receive is in flight.
    receiving: bool,
    send: Option<Sending>,
    /// Whether a shutdown request (FIN) is in flight.
    shutdown: bool,
    /// Operations whose cancellation is in flight.
    cancels: VecDeque<Operation>,
    /// Whether closing the descriptor resets the connection.
    linger: bool,
    /// Number of turns for which input has waited while no receive was armed.
    unheard: usize,
}

/// State of one shard's simulated kernel, shared by the backend and the world that drives the kernel.
pub(super) struct Core {
    pub(super) net: Rc<RefCell<Net>>,
    shard: usize,
    /// Requests that the backend has pushed and not submitted yet.
    queue: VecDeque<Owned>,
    descriptors: Vec<Option<Descriptor>>,
    /// Numbers of the accepts in flight.
    accepts: VecDeque<u32>,
    /// Peer addresses of accepted connections, by accept number.
    peers: Vec<SocketAddr>,
    wake_armed: bool,
    /// Whether the waker's event was ever written. The event then stays readable.
    ever_woken: bool,
    /// Completions that the backend can take now.
    pub(super) ready: VecDeque<Completion>,
    /// Completions that are reported some time after their effect.
    late: Vec<Completion>,
    /// Receive buffers that the kernel can fill, lent by the backend.
    lent: VecDeque<Buffer>,
    /// Filled receive buffers that the backend has not taken yet.
    filled: Vec<Buffer>,
    /// Total number of receive buffers.
    buffers: usize,
    pub(super) listening: bool,
}

/// A submitted request that owns the memory to which it points.
enum Owned {
    Send(Slot, SendId, Span),
    Other(Request<'static>),
}

/// The backend's handle of the simulated kernel.
#[derive(Clone)]
pub(super) struct Simulated(pub(super) Rc<RefCell<Core>>);

impl Simulated {
    pub(super) fn new(net: &Rc<RefCell<Net>>, shard: usize, options: &BackendOptions) -> Self {
        let lent = (0..options.buffers).map(|id| Buffer::new(options.buffer_len, id)).collect();
        Self(Rc::new(RefCell::new(Core {
            net: Rc::clone(net),
            shard,
            queue: VecDeque::new(),
            descriptors: (0..options.slots).map(|_| None).collect(),
            accepts: VecDeque::new(),
            peers: vec![SocketAddr::from(([0; 4], 0)); 64],
            wake_armed: false,
            ever_woken: false,
            ready: VecDeque::new(),
            late: Vec::new(),
            lent,
            filled: Vec::new(),
            buffers: options.buffers.into(),
            listening: true,
        })))
    }
}

impl Kernel for Simulated {
    #[expect(unsafe_code, reason = "the trait declares it as unsafe")]
    unsafe fn push(&mut self, request: Request<'_>) {
        let owned = match request {
            Request::Send { slot, id, span, .. } => Owned::Send(slot, id, span.clone()),
            Request::Accept { at, listener } => Owned::Other(Request::Accept { at, listener }),
            Request::CancelAccept(at) => Owned::Other(Request::CancelAccept(at)),
            Request::Receive(slot) => Owned::Other(Request::Receive(slot)),
            Request::Shutdown(slot) => Owned::Other(Request::Shutdown(slot)),
            Request::Cancel(slot, target) => Owned::Other(Request::Cancel(slot, target)),
            Request::Linger(slot) => Owned::Other(Request::Linger(slot)),
            Request::Close(slot) => Owned::Other(Request::Close(slot)),
            Request::Wake(event) => Owned::Other(Request::Wake(event)),
        };
        self.0.borrow_mut().queue.push_back(owned);
    }

    fn enter(&mut self, _: Option<Duration>) -> std::io::Result<()> {
        self.0.borrow_mut().submit();
        Ok(())
    }

    fn look(&mut self) -> std::io::Result<()> {
        Ok(())
    }

    fn take_completions(&mut self, into: &mut Vec<Completion>) {
        let mut core = self.0.borrow_mut();
        let count = core.ready.len();
        let count = match core.net.borrow_mut().mishap(4) {
            true => count.div_ceil(2),
            false => count,
        };
        into.extend(core.ready.drain(..count));
    }

    fn quiesce(&mut self) -> bool {
        let mut core = self.0.borrow_mut();
        core.queue.clear();
        core.descriptors.clear();
        true
    }

    fn peer(&mut self, at: u32) -> Option<SocketAddr> {
        Some(self.0.borrow().peers[at as usize])
    }

    fn listeners(&self) -> usize {
        1
    }

    fn close_listeners(&mut self) {
        self.0.borrow_mut().listening = false;
    }

    fn give(&mut self, buffer: Buffer) {
        let mut core = self.0.borrow_mut();
        let is_lost = core.net.borrow_mut().is_lost();
        if !is_lost {
            core.lent.push_back(buffer);
        }
    }

    fn take(&mut self, id: u16, len: usize) -> Buffer {
        let mut core = self.0.borrow_mut();
        let at =
            core.filled.iter().position(|buffer| buffer.id() == id).expect("a completion named the buffer");
        let mut buffer = core.filled.swap_remove(at);
        assert_eq!(buffer.bytes_mut().len(), len, "buffer {id} has another length");
        buffer
    }

    fn lend(&mut self, _: usize) -> usize {
        self.0.borrow().lent.len()
    }

    fn now_ns(&self) -> u64 {
        self.0.borrow().net.borrow().now_ms * 1_000_000
    }
}

impl Core {
    /// Starts the requests that the backend has pushed, as the system call does.
    pub(super) fn submit(&mut self) {
        while let Some(request) = self.queue.pop_front() {
            match request {
                Owned::Send(slot, id, span) => {
                    let bytes = span.bytes().to_vec();
                    let descriptor = self.at(slot);
                    assert!(descriptor.send.is_none(), "two sends in flight on slot {slot}");
                    descriptor.send = Some(Sending { id, span, bytes, done: 0 });
                }
                Owned::Other(request) => self.take_request(request),
            }
        }
    }

    fn take_request(&mut self, request: Request<'static>) {
        match request {
            Request::Accept { at, .. } => {
                self.accepts.push_back(at);
                let free = self.descriptors.iter().filter(|one| one.is_none()).count();
                assert!(self.accepts.len() <= free, "an accept that may find the table full");
            }
            Request::CancelAccept(at) => {
                if let Some(position) = self.accepts.iter().position(|other| *other == at) {
                    self.accepts.remove(position);
                    self.complete(Operation::Accept(at), -libc::ECANCELED);
                }
                self.complete(Operation::CancelAccept(at), 0);
            }
            Request::Receive(slot) => {
                let descriptor = self.at(slot);
                assert!(!descriptor.receiving, "two receives in flight on slot {slot}");
                descriptor.receiving = true;
                // A new receive handles waiting input at once, for as long as the seed decides.
                while self.net.borrow_mut().mishap(4) && self.step_receive(slot) {}
            }
            Request::Shutdown(slot) => self.at(slot).shutdown = true,
            Request::Cancel(slot, target) => self.at(slot).cancels.push_back(target),
            Request::Linger(slot) => {
                self.at(slot).linger = true;
                self.complete(Operation::Linger(slot), 0);
            }
            Request::Close(slot) => self.close(slot),
            Request::Wake(_) => {
                self.wake_armed = true;
                if self.ever_woken {
                    self.woken();
                }
            }
            Request::Send { .. } => unreachable!("sends are `Owned::Send`"),
        }
    }

    fn at(&mut self, slot: Slot) -> &mut Descriptor {
        self.descriptors[slot as usize].as_mut().expect("an operation on a descriptor that is open")
    }

    /// Completes an operation at once: its completion is ready for the backend.
    fn complete(&mut self, operation: Operation, result: i32) {
        self.ready.push_back(Completion { operation, result, is_last: true, buffer: None });
    }

    /// Completes an operation, and reports the completion now or later, as the seed decides.
    fn complete_late(&mut self, operation: Operation, result: i32) {
        if self.net.borrow_mut().mishap(3) {
            self.late.push(Completion { operation, result, is_last: true, buffer: None });
        } else {
            self.complete(operation, result);
        }
    }

    /// Reports to the backend that its waker's event was written.
    pub(super) fn woken(&mut self) {
        self.ever_woken = true;
        if self.wake_armed {
            let is_last = self.net.borrow_mut().mishap(8);
            self.wake_armed = !is_last;
            self.ready.push_back(Completion { operation: Operation::Wake, result: 1, is_last, buffer: None });
        }
    }

    fn close(&mut self, slot: Slot) {
        let descriptor = self.descriptors[slot as usize].take().expect("closed once");
        let is_busy = descriptor.receiving || descriptor.send.is_some() || descriptor.shutdown;
        assert!(!is_busy && descriptor.cancels.is_empty(), "slot {slot} is closed with operations in flight");
        let mut net = self.net.borrow_mut();
        net.note("close", [self.shard, slot as usize, descriptor.conn]);
        let conn = &mut net.conns[descriptor.conn];
        conn.server_gone = true;
        conn.to_client.ended = true;
        conn.server_reset = descriptor.linger || !conn.to_server.bytes.is_empty();
        drop(net);
        self.complete(Operation::Close(slot), 0);
    }

    /// Checks after a turn that no wanted input has waited too long while no receive was armed.
    pub(super) fn check_heard(&mut self, is_wanted: impl Fn(Slot) -> bool) {
        let net = self.net.borrow();
        for (slot, descriptor) in (0..).zip(&mut self.descriptors) {
            let Some(descriptor) = descriptor else { continue };
            let waits = !net.conns[descriptor.conn].to_server.bytes.is_empty() && !descriptor.receiving;
            let receive = Operation::Receive(slot);
            let is_known = self.ready.iter().chain(&self.late).any(|one| one.operation == receive);
            descriptor.unheard =
                if waits && !is_known && is_wanted(slot) { descriptor.unheard + 1 } else { 0 };
            assert!(descriptor.unheard < UNHEARD, "nothing received from slot {slot} for {UNHEARD} turns");
        }
    }

    /// Returns descriptions of everything that is still open or lent. Empty at the end of a good run.
    pub(super) fn leftovers(&self) -> Vec<String> {
        let mut found = Vec::new();
        let open = self.descriptors.iter().filter(|one| one.is_some()).count();
        if open > 0 {
            found.push(format!("{open} descriptors"));
        }
        if self.lent.len() != self.buffers {
            found.push(format!("{} buffers", self.buffers - self.lent.len()));
        }
        found
    }

    /// Continues one pending operation. Returns whether there was one.
    pub(super) fn step(&mut self) -> bool {
        if !self.late.is_empty() && self.net.borrow_mut().random.once_in(2) {
            let at = self.net.borrow_mut().random.below(self.late.len());
            self.ready.push_back(self.late.swap_remove(at));
            return true;
        }
        let count = self.descriptors.len();
        let first = self.net.borrow_mut().random.below(count + 1);
        if first == count && self.accept() {
            return true;
        }
        let any = (0..count).any(|offset| self.step_slot(((first + offset) % count) as Slot));
        if any || self.accept() {
            return true;
        }
        let late = self.late.pop();
        self.ready.extend(late);
        late.is_some()
    }

    fn accept(&mut self) -> bool {
        let mut net = self.net.borrow_mut();
        if self.accepts.is_empty() || net.backlogs[self.shard].is_empty() {
            return false;
        }
        let at = self.accepts.pop_front().expect("not empty");
        if net.mishap(16) {
            let error = net.random.pick(&[libc::EMFILE, libc::ECONNABORTED, libc::ENOBUFS, libc::EINTR]);
            net.note("accept fails", [self.shard, at as usize, error as usize]);
            drop(net);
            self.complete(Operation::Accept(at), -error);
            return true;
        }
        let conn = net.backlogs[self.shard].pop_front().expect("not empty");
        let slot = self.descriptors.iter().position(Option::is_none).expect("asserted in `take_request`");
        self.peers[at as usize] = net.conns[conn].peer;
        net.note("accept", [self.shard, slot, conn]);
        drop(net);
        self.descriptors[slot] = Some(Descriptor {
            conn,
            receiving: false,
            send: None,
            shutdown: false,
            cancels: VecDeque::new(),
            linger: false,
            unheard: 0,
        });
        self.complete(Operation::Accept(at), slot as i32);
        true
    }

    /// Continues one pending operation of a slot. Returns whether there was one.
    fn step_slot(&mut self, slot: Slot) -> bool {
        if self.descriptors[slot as usize].is_none() {
            return false;
        }
        let first = self.net.borrow_mut().random.below(4);
        (0..4).any(|offset| match (first + offset) % 4 {
            0 => self.step_receive(slot),
            1 => self.step_send(slot),
            2 => self.step_shutdown(slot),
            _ => self.step_cancel(slot),
        })
    }

    fn step_receive(&mut self, slot: Slot) -> bool {
        let shared = Rc::clone(&self.net);
        let mut net = shared.borrow_mut();
        let Descriptor { conn: at, receiving, .. } = *self.at(slot);
        let mishap = net.mishap(64);
        let conn = &mut net.conns[at];
        let available = conn.to_server.bytes.len();
        if !receiving || available == 0 && !conn.broken && !conn.to_server.ended {
            return false;
        }
        let result = if conn.broken {
            -libc::ECONNRESET
        } else if available == 0 {
            0
        } else if self.lent.is_empty() || mishap {
            net.starved += 1;
            -libc::ENOBUFS
        } else {
            let mut buffer = self.lent.pop_front().expect("not empty");
            let most = available.min(buffer.capacity());
            let count = if net.adverse { net.random.between(1, most) } else { most };
            buffer.fill(&net.conns[at].to_server.take(count));
            let is_last = net.mishap(6);
            let is_told = !net.has(Fault::ForgottenMore);
            net.note("receive", [slot as usize, at, count]);
            let (operation, id) = (Operation::Receive(slot), buffer.id());
            self.filled.push(buffer);
            self.ready.push_back(Completion {
                operation,
                result: count as i32,
                is_last: is_last && is_told,
                buffer: Some(id),
            });
            self.at(slot).receiving = !is_last;
            return true;
        };
        net.note("receive ends", [slot as usize, at, -result as usize]);
        drop(net);
        self.at(slot).receiving = false;
        self.complete(Operation::Receive(slot), result);
        true
    }

    fn step_send(&mut self, slot: Slot) -> bool {
        let shared = Rc::clone(&self.net);
        let mut net = shared.borrow_mut();
        let descriptor = self.at(slot);
        let at = descriptor.conn;
        let Some(send) = &mut descriptor.send else { return false };
        let left = send.bytes.len() - send.done;
        let room = net.conns[at].to_client.room();
        if net.conns[at].broken {
            let result = if send.done > 0 { send.done as i32 } else { -libc::EPIPE };
            net.note("send fails", [slot as usize, at, send.done]);
            drop(net);
            self.finish_send(slot, result);
            return true;
        }
        if left > 0 && room == 0 {
            return false;
        }
        if left > 0 {
            let most = left.min(room);
            let count = if net.adverse { net.random.between(1, most) } else { most };
            net.conns[at].to_client.bytes.extend(&send.bytes[send.done..send.done + count]);
            send.done += count;
            net.note("send", [slot as usize, at, count]);
        }
        let (done, len) = (send.done, send.bytes.len());
        let interrupted = net.mishap(24);
        let told = if net.has(Fault::ShortSend) { len } else { done };
        drop(net);
        if done == len || interrupted {
            self.finish_send(slot, told as i32);
        }
        true
    }

    /// Completes a slot's send. Panics if the backend has changed or freed the memory of the send.
    fn finish_send(&mut self, slot: Slot, result: i32) {
        let send = self.at(slot).send.take().expect("a send is in flight");
        assert!(send.span.bytes() == send.bytes, "bytes changed while they were sent");
        let (owners, chunk) = send.span.owners();
        let ours = self.descriptors.iter().flatten().filter_map(|one| one.send.as_ref());
        let ours = ours.filter(|other| other.span.owners().1 == chunk).count() + 1;
        assert!(owners > ours, "the memory of a send on slot {slot} was freed");
        self.complete_late(Operation::Send(send.id), result);
    }

    fn step_shutdown(&mut self, slot: Slot) -> bool {
        let descriptor = self.at(slot);
        if !descriptor.shutdown {
            return false;
        }
        descriptor.shutdown = false;
        let at = descriptor.conn;
        let mut net = self.net.borrow_mut();
        net.note("shutdown", [slot as usize, at, 0]);
        net.conns[at].to_client.ended = true;
        drop(net);
        self.complete_late(Operation::Shutdown(slot), 0);
        true
    }

    fn step_cancel(&mut self, slot: Slot) -> bool {
        let Some(target) = self.at(slot).cancels.pop_front() else { return false };
        if self.net.borrow_mut().mishap(4) {
            // Like the real kernel, a cancellation may not find an operation that is between two attempts.
            self.complete_late(Operation::Cancel(slot), -libc::EALREADY);
            return true;
        }
        let descriptor = self.at(slot);
        let found = match target {
            Operation::Receive(_) => std::mem::take(&mut descriptor.receiving),
            Operation::Send(id) => descriptor.send.as_ref().is_some_and(|send| send.id == id),
            other => panic!("nobody cancels {other:?}"),
        };
        if found && let Operation::Send(_) = target {
            let done = self.at(slot).send.as_ref().map_or(0, |send| send.done);
            self.finish_send(slot, if done > 0 { done as i32 } else { -libc::ECANCELED });
        } else if found {
            self.net.borrow_mut().paused += 1;
            self.complete(target, -libc::ECANCELED);
        }
        self.complete_late(Operation::Cancel(slot), if found { 1 } else { -libc::ENOENT });
        true
    }
}
