//! The backend on io_uring.
//!
//! Connections live in the ring's table of direct descriptors, and a slot is an index in it. Each connection
//! that has something to say now and then has a multishot receive armed. One that was silent for a while is
//! parked: it is polled until something comes, which costs the kernel 90 bytes less. Requests of the caller go
//! straight to the submission queue, and `poll` hands them over and waits with one system call.

#![expect(unsafe_code, reason = "the kernel reads and writes memory that requests point to")]

mod accepts;
mod buffers;
mod connection;
#[cfg(test)]
mod inspect;
mod kernel;
mod operation;
mod quiet;
mod ring;

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::time::Duration;

use nix::libc;

use self::accepts::Accepts;
use self::connection::{Connection, Listening, Phase};
pub(crate) use self::kernel::{Kernel, Linux, Request};
pub(crate) use self::operation::Operation;
use self::quiet::Quiet;
pub(crate) use self::ring::Completion;
use self::ring::WORK_A_WAIT;
use super::admission::Admission;
use super::sends::{SendId, Sends};
use super::{Backend, Buffer, Close, Event, Listener, Options, Slot, Usage, Waker, canonical};
use crate::chunk::Span;

/// Requests handed over in one system call. A longer batch takes one more for each so many.
const SUBMISSIONS: u32 = 2048;

/// How often a turn looks for more of what has arrived, so that it ends while others send without a pause.
const LOOKS_A_TURN: usize = 50;

/// One shard's sockets on an io_uring.
#[expect(private_bounds, private_interfaces, reason = "only this crate has another kernel, for its tests")]
pub struct Uring<K: Kernel = Linux> {
    /// First, so that it is closed before the memory below is freed.
    kernel: K,
    waker: Waker,
    /// A wake-up is being waited for.
    wake_armed: bool,
    now_ns: u64,
    admission: Admission,
    accepts: Accepts,
    connections: Vec<Connection>,
    sends: Sends,
    /// Slots whose receiving ended for want of a buffer, in their order. An entry counts only while the
    /// connection waits: closing leaves entries behind.
    starving: VecDeque<Slot>,
    /// Connections that receiving is armed for.
    quiet: Quiet,
    /// Slots whose cancellation completed before all it was meant for, to be looked at after the batch.
    unfinished: Vec<Slot>,
    /// Room for completions.
    completions: Vec<Completion>,
    /// Times that receiving ended for want of a buffer.
    starved: u64,
    /// Bytes of all receive buffers.
    buffer_bytes: usize,
}

impl Uring {
    /// A ring for `listeners`. It belongs to the thread that makes it.
    ///
    /// # Errors
    /// When the kernel has no io_uring, is too old for what is used here, or refuses it; the text says which.
    pub fn new(options: &Options, listeners: Vec<Listener>) -> io::Result<Self> {
        Self::with_queue(options, listeners, SUBMISSIONS)
    }

    /// A ring with a queue so short that batches do not fit in it.
    #[cfg(test)]
    pub(super) fn with_short_queue(options: &Options, listeners: Vec<Listener>) -> io::Result<Self> {
        Self::with_queue(options, listeners, 4)
    }

    fn with_queue(options: &Options, listeners: Vec<Listener>, submissions: u32) -> io::Result<Self> {
        Self::on(Linux::new(options, listeners, submissions)?, options)
    }
}

#[expect(private_bounds, reason = "as above")]
impl<K: Kernel> Uring<K> {
    /// The backend on a kernel that has the buffers already.
    pub(crate) fn on(kernel: K, options: &Options) -> io::Result<Self> {
        Ok(Self {
            waker: Waker::new()?,
            wake_armed: false,
            now_ns: kernel.now_ns(),
            accepts: Accepts::new(kernel.listeners()),
            kernel,
            admission: Admission::new(options.slots),
            connections: Vec::new(),
            sends: Sends::default(),
            starving: VecDeque::new(),
            quiet: Quiet::new(options.park_ms),
            unfinished: Vec::new(),
            completions: Vec::new(),
            starved: 0,
            buffer_bytes: options.buffer_bytes(),
        })
    }

    /// The first half of a `poll`: asks for all that is wanted, and says how long to wait.
    pub(crate) fn begin(&mut self, timeout: Option<Duration>, events: &mut Vec<Event>) -> Option<Duration> {
        let before = events.len();
        self.admission.retry(self.now_ms(), events);
        self.arm();
        let others_follow = self.arm_starving();
        self.park_quiet();
        if others_follow || events.len() > before {
            Some(Duration::ZERO)
        } else {
            let timeout = self.admission.limit_wait(timeout, self.now_ms());
            self.quiet.limit_wait(timeout, self.now_ms())
        }
    }

    /// The second half, after the wait: reports what has happened.
    pub(crate) fn end(&mut self, events: &mut Vec<Event>) -> io::Result<()> {
        self.waker.cancel();
        self.now_ns = self.kernel.now_ns();
        let mut completions = std::mem::take(&mut self.completions);
        self.kernel.take_completions(&mut completions);
        let mut result = Ok(());
        let mut taken = 0;
        for _ in 0..LOOKS_A_TURN {
            let arrivals =
                completions[taken..].iter().filter(|completion| !completion.operation.is_send()).count();
            if arrivals < WORK_A_WAIT || result.is_err() {
                break;
            }
            // There may be more: gather it, so that one pass over a room sends it together.
            taken = completions.len();
            result = self.kernel.look();
            self.kernel.take_completions(&mut completions);
        }
        for completion in completions.drain(..) {
            self.complete(completion, events);
        }
        self.completions = completions;
        self.cancel_unfinished();
        if self.has_stopped() {
            self.kernel.close_listeners();
        }
        result
    }

    /// # Panics
    /// When `slot` names no connection.
    fn at(&mut self, slot: Slot) -> &mut Connection {
        let connection = &mut self.connections[slot as usize];
        assert!(connection.phase != Phase::Vacant, "slot {slot} is used from Accepted to Closed");
        connection
    }

    fn push(&mut self, request: Request<'static>) {
        // SAFETY: it has no span.
        unsafe { self.kernel.push(request) };
    }

    /// Queues an operation of a connection.
    fn start(&mut self, slot: Slot, request: Request<'static>) {
        self.at(slot).under_way += 1;
        self.push(request);
    }

    fn start_send(&mut self, slot: Slot, span: Span, is_last: bool) {
        let connection = self.at(slot);
        assert!(connection.send.is_none(), "slot {slot} has a send under way");
        if connection.phase == Phase::Open {
            let id = self.sends.insert(slot, span, is_last);
            self.at(slot).send = Some(id);
            self.at(slot).under_way += 1;
            self.push_send(id);
        }
    }

    /// Queues what is left of a send.
    fn push_send(&mut self, id: SendId) {
        let send = self.sends.at(id);
        let request = Request::Send { slot: send.slot, id, span: &send.span, is_last: send.is_last };
        // SAFETY: the span stays in `sends` until the completion; `drop` quiesces the kernel first.
        unsafe { self.kernel.push(request) };
    }

    /// Arms whatever does not belong to one connection.
    fn arm(&mut self) {
        if !self.wake_armed {
            self.wake_armed = true;
            self.push(Request::Wake(self.waker.event().as_raw_fd()));
        }
        // An accept that finds the table full would take the connection from its queue and drop it. So there
        // are never more in flight than slots are free.
        while self.accepts.in_flight() < self.admission.room()
            && let Some(accept) = self.accepts.start()
        {
            self.push(accept);
        }
    }

    /// Arms receiving for those who wait for a buffer, as many as there are buffers. Whether others are to follow at once:
    /// those that are armed may have nothing to say.
    fn arm_starving(&mut self) -> bool {
        let buffers = self.kernel.lend(self.starving.len());
        let mut left = buffers;
        while left > 0
            && let Some(slot) = self.starving.pop_front()
        {
            let connection = &mut self.connections[slot as usize];
            if connection.listening == Listening::Starving {
                connection.listening = Listening::Nothing;
                connection.served = true;
                self.receive(slot);
                left -= 1;
            }
        }
        buffers > 0 && !self.starving.is_empty()
    }

    /// Arms receiving if it is wanted, behind those that wait for a buffer.
    fn receive(&mut self, slot: Slot) {
        let (others_wait, now_ms) = (!self.starving.is_empty(), self.now_ms());
        let connection = self.at(slot);
        if !connection.is_wanted() || connection.listening != Listening::Nothing {
            return;
        }
        if others_wait && !connection.served {
            connection.listening = Listening::Starving;
            return self.starving.push_back(slot);
        }
        connection.listening = Listening::Receive;
        connection.heard = true;
        if !std::mem::replace(&mut connection.listed, true) {
            self.quiet.list(slot, now_ms);
        }
        self.start(slot, Request::Receive(slot));
    }

    /// Parks connections of which nothing was heard for a while.
    fn park_quiet(&mut self) {
        for _ in 0..quiet::LOOKS_A_TURN {
            let Some(slot) = self.quiet.next(self.now_ms()) else { break };
            let connection = &mut self.connections[slot as usize];
            if !matches!(connection.listening, Listening::Receive | Listening::Parking) {
                connection.listed = false;
                continue;
            }
            if !std::mem::take(&mut connection.heard) && connection.phase == Phase::Open {
                connection.listening = Listening::Parking;
                self.cancel(slot);
            }
            self.quiet.list(slot, self.now_ms());
        }
    }

    /// Polls for what comes next, now that nothing receives it.
    fn park(&mut self, slot: Slot) {
        let connection = self.at(slot);
        if connection.is_wanted() {
            connection.listening = Listening::Poll;
            self.start(slot, Request::Poll(slot));
        }
    }

    fn complete(&mut self, completion: Completion, events: &mut Vec<Event>) {
        match completion.operation {
            Operation::Accept(at) => self.accepted(at, completion.result, events),
            Operation::CancelAccept(_) => {}
            Operation::Receive(slot) => self.received(slot, completion, events),
            Operation::Poll(slot) => {
                // Whatever it found, receiving finds it too.
                self.at(slot).listening = Listening::Nothing;
                self.finish_operation(slot, events);
            }
            Operation::Send(id) => self.sent(id, completion.result, events),
            Operation::Shutdown(slot) => {
                self.at(slot).shutting_down = false;
                self.finish_operation(slot, events);
            }
            Operation::Linger(slot) | Operation::Close(slot) => {
                // Closing always ends the descriptor; the others fail only when the peer is gone already.
                self.finish_operation(slot, events);
            }
            Operation::Cancel(slot) => self.cancelled(slot, events),
            Operation::Wake => self.wake_armed = !completion.last,
        }
    }

    fn accepted(&mut self, at: u32, result: i32, events: &mut Vec<Event>) {
        self.accepts.finish(at);
        let from = (self.accepts.listener(at), self.kernel.peer(at));
        match u32::try_from(result) {
            Ok(slot) => self.adopt(slot, from, events),
            Err(_) if super::is_out_of_resources(&error(result)) => {
                self.admission.refused(self.now_ms(), events);
            }
            // Cancelled, or the connection broke while it waited (accept(2) lists more causes).
            Err(_) => {}
        }
    }

    fn adopt(&mut self, slot: Slot, (listener, peer): (u16, Option<SocketAddr>), events: &mut Vec<Event>) {
        if self.connections.len() <= slot as usize {
            self.connections.resize(slot as usize + 1, Connection::default());
        }
        let connection = &mut self.connections[slot as usize];
        let listed = connection.listed;
        *connection = Connection { phase: Phase::Open, listed, ..Connection::default() };
        events.push(Event::Accepted { slot, listener, peer: peer.map(canonical) });
        self.admission.opened(events);
        self.receive(slot);
    }

    fn received(&mut self, slot: Slot, completion: Completion, events: &mut Vec<Event>) {
        let Completion { result, last, buffer, .. } = completion;
        let buffer = buffer.map(|id| self.kernel.take(id, result.max(0) as usize));
        let connection = self.at(slot);
        let parks = connection.listening == Listening::Parking;
        if last {
            connection.listening = Listening::Nothing;
        }
        let heard = connection.phase == Phase::Open && !connection.ended;
        connection.heard |= result > 0;
        match (result, buffer) {
            (1.., Some(buffer)) if heard => {
                connection.served = false;
                events.push(Event::Received { slot, buffer });
            }
            (_, Some(buffer)) => self.kernel.give(buffer),
            _ => {}
        }
        if heard && parks && result == -libc::ECANCELED {
            self.park(slot);
        } else if heard && result <= 0 {
            self.receiving_ended(slot, result, events);
        }
        if last {
            self.finish_operation(slot, events);
        }
    }

    /// A receive completed without data: with 0 or an error.
    fn receiving_ended(&mut self, slot: Slot, result: i32, events: &mut Vec<Event>) {
        match -result {
            0 => {
                self.at(slot).ended = true;
                events.push(Event::Ended { slot });
            }
            libc::ENOBUFS => {
                self.starved += 1;
                let connection = self.at(slot);
                connection.listening = Listening::Starving;
                match std::mem::take(&mut connection.served) {
                    true => self.starving.push_front(slot),
                    false => self.starving.push_back(slot),
                }
            }
            // Cancelled by a pause, or to be armed again.
            libc::ECANCELED | libc::EINTR | libc::EAGAIN => {}
            _ => self.fail(slot, result, events),
        }
    }

    fn sent(&mut self, id: SendId, result: i32, events: &mut Vec<Event>) {
        let send = self.sends.at(id);
        let slot = send.slot;
        if let Ok(count) = usize::try_from(result) {
            send.span.advance(count);
        }
        let open = self.connections[slot as usize].phase == Phase::Open;
        let again = matches!(-result, libc::EINTR | libc::EAGAIN) || result > 0;
        if open && again && !send.span.is_empty() {
            return self.push_send(id);
        }
        self.sends.remove(id);
        self.at(slot).send = None;
        if open && result < 0 {
            self.fail(slot, result, events);
        } else if open {
            events.push(Event::Sent { slot });
            if std::mem::take(&mut self.at(slot).shutdown) {
                self.start_shutdown(slot);
            }
        }
        self.finish_operation(slot, events);
    }

    fn fail(&mut self, slot: Slot, result: i32, events: &mut Vec<Event>) {
        self.at(slot).phase = Phase::Failed;
        events.push(Event::Failed { slot, error: error(result) });
    }

    fn cancelled(&mut self, slot: Slot, events: &mut Vec<Event>) {
        let connection = self.at(slot);
        connection.cancels -= 1;
        if connection.under_way > 1 {
            self.unfinished.push(slot);
        }
        self.finish_operation(slot, events);
    }

    /// Cancels again where something is still under way. Mostly the operation has completed right after its
    /// cancellation did, but the kernel does not find one that is between two attempts. A FIN, which a thread of
    /// the kernel sends, comes to its end by itself and is waited for.
    fn cancel_unfinished(&mut self) {
        while let Some(slot) = self.unfinished.pop() {
            let connection = self.connections[slot as usize];
            if connection.under_way > u8::from(connection.shutting_down) && connection.cancels == 0 {
                self.cancel(slot);
            }
        }
    }

    fn start_shutdown(&mut self, slot: Slot) {
        self.at(slot).shutting_down = true;
        self.start(slot, Request::Shutdown(slot));
    }

    /// Cancels what is under way and no longer wanted. Each operation is named: the kernel finds it in a table, while it
    /// would look through all operations of all connections for those on a descriptor.
    fn cancel(&mut self, slot: Slot) {
        let connection = self.at(slot);
        let listening = match connection.listening {
            Listening::Receive | Listening::Parking => Some(Operation::Receive(slot)),
            Listening::Poll => Some(Operation::Poll(slot)),
            Listening::Nothing | Listening::Starving => None,
        };
        let send = match connection.phase {
            Phase::Closing(_) => connection.send.map(Operation::Send),
            Phase::Open if connection.is_to_stop_receiving() && connection.cancels == 0 => None,
            _ => return,
        };
        for operation in listening.into_iter().chain(send) {
            self.at(slot).cancels += 1;
            self.start(slot, Request::Cancel(slot, operation));
        }
    }

    /// Counts an operation as completed, and goes on with what waited for that.
    fn finish_operation(&mut self, slot: Slot, events: &mut Vec<Event>) {
        let connection = self.at(slot);
        connection.under_way -= 1;
        match connection.phase {
            Phase::Open => self.receive(slot),
            Phase::Closing(how) if connection.under_way == 0 => self.release(slot, how),
            Phase::Releasing if connection.under_way == 0 => {
                let listed = connection.listed;
                *connection = Connection { listed, ..Connection::default() };
                events.push(Event::Closed { slot });
                self.admission.closed(events);
            }
            _ => {}
        }
    }

    /// Closes the descriptor, on which nothing is under way.
    fn release(&mut self, slot: Slot, how: Close) {
        self.at(slot).phase = Phase::Releasing;
        if how == Close::Reset {
            self.start(slot, Request::Linger(slot));
        }
        self.start(slot, Request::Close(slot));
    }
}

impl<K: Kernel> Backend for Uring<K> {
    fn poll(&mut self, timeout: Option<Duration>, events: &mut Vec<Event>) -> io::Result<()> {
        let timeout = self.begin(timeout, events);
        let result = self.kernel.enter(timeout);
        self.end(events).and(result)
    }

    fn send(&mut self, slot: Slot, span: Span) {
        self.start_send(slot, span, false);
    }

    fn send_last(&mut self, slot: Slot, span: Span) {
        self.start_send(slot, span, true);
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
        let connection = self.at(slot);
        if connection.phase != Phase::Open {
            return;
        }
        if connection.send.is_some() {
            connection.shutdown = true;
        } else {
            self.start_shutdown(slot);
        }
    }

    fn close(&mut self, slot: Slot, how: Close) {
        let connection = self.at(slot);
        match connection.phase {
            Phase::Open | Phase::Failed if connection.under_way > 0 => {
                connection.phase = Phase::Closing(how);
                self.cancel(slot);
            }
            Phase::Open | Phase::Failed => self.release(slot, how),
            // Asked twice, the harder way holds.
            Phase::Closing(_) if how == Close::Reset => connection.phase = Phase::Closing(how),
            Phase::Closing(_) | Phase::Releasing | Phase::Vacant => {}
        }
    }

    fn recycle(&mut self, buffer: Buffer) {
        self.kernel.give(buffer);
    }

    fn stop_accepting(&mut self) {
        if !self.admission.is_stopped() {
            self.admission.stop();
            for cancellation in self.accepts.cancellations() {
                self.push(cancellation);
            }
        }
    }

    fn has_stopped(&self) -> bool {
        self.admission.is_stopped() && self.accepts.in_flight() == 0
    }

    fn now_ns(&self) -> u64 {
        self.now_ns
    }

    fn clock_ns(&self) -> u64 {
        self.kernel.now_ns()
    }

    fn usage(&self) -> Usage {
        Usage {
            ring_overflows: self.kernel.overflows(),
            starved: self.starved,
            sends_under_way: self.sends.len(),
            buffer_bytes: self.buffer_bytes,
            ..Usage::default()
        }
    }

    fn waker(&self) -> Waker {
        self.waker.clone()
    }
}

impl<K: Kernel> Drop for Uring<K> {
    fn drop(&mut self) {
        if !self.kernel.quiesce() {
            // The kernel may still read a span, so their memory must stay.
            std::mem::forget(std::mem::take(&mut self.sends));
        }
    }
}

/// The error of a completion's negative result.
fn error(result: i32) -> io::Error {
    io::Error::from_raw_os_error(-result)
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use super::*;

    type Make = fn(&Options, Vec<Listener>) -> io::Result<Uring>;

    /// A ring, and where it listens.
    fn ring(make: Make, options: &Options) -> (Uring, SocketAddr) {
        let listener = Listener::tcp(SocketAddr::from(([127, 0, 0, 1], 0))).expect("listen");
        let address = listener.local_addr().expect("bound");
        (make(options, vec![listener]).expect("this machine has io_uring"), address)
    }

    #[test]
    fn who_is_silent_is_parked_until_it_speaks() {
        let options = Options { park_ms: 1, ..Options::default() };
        let (mut uring, address) = ring(Uring::new, &options);
        let mut client = TcpStream::connect(address).expect("connect");
        let mut await_listening = |listening| {
            let mut events = Vec::new();
            for _ in 0..1000 {
                uring.poll(Some(Duration::from_millis(5)), &mut events).expect("the ring works");
                if uring.connections.first().is_some_and(|connection| connection.listening == listening) {
                    return;
                }
            }
            panic!("{:?} instead of {listening:?}", uring.connections);
        };
        await_listening(Listening::Poll);
        io::Write::write_all(&mut client, b"hello").expect("written");
        await_listening(Listening::Receive);
        await_listening(Listening::Poll);
    }

    #[test]
    fn completions_that_overflow_the_ring_are_counted_and_come_all_the_same() {
        const CLIENTS: usize = 64;
        let (mut backend, address) = ring(Uring::with_short_queue, &Options::default());
        let (_clients, slots) = connect(CLIENTS, &mut backend, address);
        for slot in slots {
            backend.send(slot, Span::copy_of(b"hello"));
        }
        let mut sent = 0;
        while sent < CLIENTS {
            sent += events(&mut backend).iter().filter(|event| matches!(event, Event::Sent { .. })).count();
        }
        assert_ne!(backend.usage().ring_overflows, 0, "the ring has room for 16");
    }

    #[test]
    fn a_ring_is_given_up_with_all_its_connections() {
        let (mut backend, address) = ring(Uring::new, &Options::default());
        let _clients = connect(500, &mut backend, address);
        assert!(backend.kernel.quiesce(), "nothing is under way any more, and all memory can be freed");
    }

    /// So many connections, and their slots.
    fn connect(count: usize, backend: &mut Uring, address: SocketAddr) -> (Vec<TcpStream>, Vec<Slot>) {
        let clients = (0..count).map(|_| TcpStream::connect(address).expect("connected")).collect();
        let mut slots = Vec::new();
        while slots.len() < count {
            slots.extend(events(backend).iter().filter_map(|event| match event {
                Event::Accepted { slot, .. } => Some(*slot),
                _ => None,
            }));
        }
        (clients, slots)
    }

    fn events(backend: &mut Uring) -> Vec<Event> {
        let mut events = Vec::new();
        backend.poll(Some(Duration::from_secs(10)), &mut events).expect("the ring works");
        events
    }
}
