//! The backend on epoll: readiness turned into completions.
//!
//! A connection is registered once, edge-triggered for both directions, and never changed: one `epoll_ctl` in
//! its life. An edge only marks it as readable. It then stays in the ready list until its socket has been read
//! dry, one buffer a poll, so that a busy peer cannot keep the others waiting.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::libc;
use nix::sys::epoll::{self, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::socket::{MsgFlags, Shutdown, recv, send, setsockopt, shutdown, sockopt};

use super::admission::Admission;
use super::clock::now_ns;
use super::sends::{Send, SendId, Sends};
use super::{Backend, Buffer, Close, Event, Listener, Options, Slot, Usage, Waker, canonical, listen};
use crate::chunk::Span;

/// Readiness events taken from the kernel in one call.
const EVENTS_PER_POLL: usize = 1024;

/// Connections accepted from one listener in one poll, so that a storm of them leaves time for the others.
const ACCEPTS_PER_POLL: usize = 64;

/// What an event is about when it is not a slot; slots are far below.
const WAKER_TOKEN: u64 = u64::MAX;
const FIRST_LISTENER_TOKEN: u64 = 1 << 32;

/// One shard's sockets on an epoll instance.
#[derive(Debug)]
pub struct Epoll {
    epoll: epoll::Epoll,
    waker: Waker,
    now_ns: u64,
    listeners: Vec<Listener>,
    /// Whether the listeners are in the epoll set.
    listening: bool,
    admission: Admission,
    connections: Vec<Option<Connection>>,
    free: Vec<Slot>,
    sends: Sends,
    /// Receive buffers that are not with the caller.
    buffers: Vec<Buffer>,
    /// Slots with something to do at the next poll; each has `requested` set.
    requests: Vec<Slot>,
    /// Slots that may have something to read, in the order of their turn. An entry counts only while the
    /// connection has `listed` set: closing leaves entries behind.
    ready: VecDeque<Slot>,
    /// Room for what epoll reports.
    reported: Vec<EpollEvent>,
    /// The last poll returned events of its sends alone, without asking epoll.
    skipped_wait: bool,
    /// Times that reading waited for a free buffer.
    starved: u64,
    /// Bytes of all receive buffers.
    buffer_bytes: usize,
}

#[derive(Debug)]
struct Connection {
    socket: OwnedFd,
    send: Option<SendId>,
    phase: Phase,
    requested: bool,
    /// FIN is asked for, and comes after the send under way.
    shutdown: bool,
    paused: bool,
    /// The peer's end of stream was read.
    ended: bool,
    /// The socket has not been read dry since the last edge.
    readable: bool,
    /// Reading goes on to the end of stream or the error, since no further edge is to come.
    hung_up: bool,
    listed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Open,
    Failed,
    Closing(Close),
}

impl Epoll {
    /// An epoll instance for `listeners`.
    ///
    /// # Errors
    /// When no descriptor is left for it.
    pub fn new(options: &Options, listeners: Vec<Listener>) -> io::Result<Self> {
        let epoll = epoll::Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let waker = Waker::new()?;
        epoll.add(waker.event(), EpollEvent::new(EpollFlags::EPOLLIN, WAKER_TOKEN))?;
        for listener in &listeners {
            listener.set_nonblocking(true)?;
        }
        let buffers = (0..options.buffers).map(|id| Buffer::new(options.buffer_len, id)).collect();
        Ok(Self {
            epoll,
            waker,
            now_ns: now_ns(),
            listeners,
            listening: false,
            admission: Admission::new(options.slots),
            connections: Vec::new(),
            free: Vec::new(),
            sends: Sends::default(),
            buffers,
            requests: Vec::new(),
            ready: VecDeque::new(),
            reported: vec![EpollEvent::empty(); EVENTS_PER_POLL],
            skipped_wait: false,
            starved: 0,
            buffer_bytes: options.buffer_bytes(),
        })
    }

    /// The connection at `slot`, which the caller knows to be there.
    fn at(&mut self, slot: Slot) -> &mut Connection {
        self.connections[slot as usize].as_mut().expect("a slot is used from Accepted to Closed")
    }

    /// Puts `slot` on the list of what the next poll does.
    fn request(&mut self, slot: Slot) {
        let connection = self.at(slot);
        if !connection.requested {
            connection.requested = true;
            self.requests.push(slot);
        }
    }

    /// Does what was asked for since the last poll.
    fn carry_out_requests(&mut self, events: &mut Vec<Event>) {
        let mut requests = std::mem::take(&mut self.requests);
        for slot in requests.drain(..) {
            let connection = self.at(slot);
            connection.requested = false;
            match connection.phase {
                Phase::Closing(how) => self.finish(slot, how, events),
                Phase::Open => self.continue_sending(slot, events),
                Phase::Failed => {}
            }
        }
        self.requests = requests;
    }

    fn start_send(&mut self, slot: Slot, span: Span, is_last: bool) {
        let connection = self.at(slot);
        assert!(connection.send.is_none(), "slot {slot} has a send under way");
        if connection.phase == Phase::Open {
            let id = self.sends.insert(slot, span, is_last);
            self.at(slot).send = Some(id);
            self.request(slot);
        }
    }

    /// Sends what the socket takes, and what is to come after it.
    fn continue_sending(&mut self, slot: Slot, events: &mut Vec<Event>) {
        let connection = self.connections[slot as usize].as_mut().expect("checked by the callers");
        let socket = connection.socket.as_raw_fd();
        if let Some(id) = connection.send {
            let Send { span, is_last, .. } = self.sends.at(id);
            let wait_for_end =
                if *is_last { MsgFlags::from_bits_retain(libc::MSG_MORE) } else { MsgFlags::empty() };
            match send(socket, span.bytes(), MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT | wait_for_end) {
                // A short send has filled the socket, so an edge will come when there is room again.
                Ok(count) => span.advance(count),
                Err(Errno::EAGAIN | Errno::EINTR) => return,
                Err(error) => return self.fail(slot, error, events),
            }
            if !span.is_empty() {
                return;
            }
            connection.send = None;
            self.sends.remove(id);
            events.push(Event::Sent { slot });
        }
        if std::mem::take(&mut connection.shutdown) {
            // It fails only when the peer is gone already, which receiving reports.
            let _ = shutdown(socket, Shutdown::Write);
        }
    }

    fn fail(&mut self, slot: Slot, error: Errno, events: &mut Vec<Event>) {
        let connection = self.at(slot);
        connection.phase = Phase::Failed;
        if let Some(id) = connection.send.take() {
            self.sends.remove(id);
        }
        events.push(Event::Failed { slot, error: error.into() });
    }

    /// Closes the socket and frees the slot.
    fn finish(&mut self, slot: Slot, how: Close, events: &mut Vec<Event>) {
        let connection = self.connections[slot as usize].take().expect("a slot is closed once");
        if let Some(id) = connection.send {
            self.sends.remove(id);
        }
        if how == Close::Reset {
            // Without it the socket would close gracefully, which is no harm to anybody else.
            let _ =
                setsockopt(&connection.socket, sockopt::Linger, &libc::linger { l_onoff: 1, l_linger: 0 });
        }
        drop(connection);
        self.free.push(slot);
        events.push(Event::Closed { slot });
        self.admission.closed(events);
    }

    /// Adds the listeners to the epoll set, or takes them out, as admission says.
    fn update_listeners(&mut self) -> io::Result<()> {
        let wanted = self.admission.room() > 0;
        if wanted == self.listening {
            return Ok(());
        }
        for index in 0..self.listeners.len() as u16 {
            if wanted {
                self.listen(index)?;
            } else {
                self.epoll.delete(&self.listeners[usize::from(index)])?;
            }
        }
        self.listening = wanted;
        Ok(())
    }

    /// Adds a listener to the epoll set. Of those who share it, one is woken for each connection.
    fn listen(&self, index: u16) -> io::Result<()> {
        let interest = EpollFlags::EPOLLIN | EpollFlags::EPOLLEXCLUSIVE;
        let event = EpollEvent::new(interest, FIRST_LISTENER_TOKEN + u64::from(index));
        Ok(self.epoll.add(&self.listeners[usize::from(index)], event)?)
    }

    /// Has others accept what comes next: the kernel wakes who was added first.
    fn go_last(&self, index: u16) -> io::Result<()> {
        self.epoll.delete(&self.listeners[usize::from(index)])?;
        self.listen(index)
    }

    /// Waits for readiness, and answers each kind but reading.
    fn wait(&mut self, timeout: Option<Duration>, events: &mut Vec<Event>) -> io::Result<()> {
        let mut reported = std::mem::take(&mut self.reported);
        let result = self.epoll.wait(&mut reported, whole_milliseconds(timeout));
        self.waker.cancel();
        self.now_ns = now_ns();
        let count = match result {
            Ok(count) => count,
            Err(Errno::EINTR) => 0,
            Err(error) => return Err(error.into()),
        };
        for event in &reported[..count] {
            match event.data() {
                WAKER_TOKEN => self.waker.drain(),
                token if token >= FIRST_LISTENER_TOKEN => {
                    self.take_in((token - FIRST_LISTENER_TOKEN) as u16, events)?;
                }
                token => self.react(token as Slot, event.events(), events),
            }
        }
        self.reported = reported;
        Ok(())
    }

    fn react(&mut self, slot: Slot, ready: EpollFlags, events: &mut Vec<Event>) {
        let hang_up = EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR;
        let writable = EpollFlags::EPOLLOUT | EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR;
        // A process that was forked from this one has our sockets until it begins its program, and for as long the
        // kernel reports what happens to one that is closed here. If its slot is used again, nothing comes of it.
        let Some(connection) = &mut self.connections[slot as usize] else { return };
        if ready.intersects(hang_up) {
            connection.hung_up = true;
        }
        if ready.intersects(hang_up | EpollFlags::EPOLLIN) {
            connection.readable = true;
        }
        if ready.intersects(writable) && connection.phase == Phase::Open {
            self.continue_sending(slot, events);
        }
        self.list(slot);
    }

    /// Puts `slot` at the end of the ready list, if there may be something to read and it is wanted.
    fn list(&mut self, slot: Slot) {
        let connection = self.at(slot);
        let wanted = connection.phase == Phase::Open && !connection.paused && !connection.ended;
        if wanted && connection.readable && !connection.listed {
            connection.listed = true;
            self.ready.push_back(slot);
        }
    }

    /// Accepts what waits at a listener, and lets others have their turn.
    fn take_in(&mut self, listener: u16, events: &mut Vec<Event>) -> io::Result<()> {
        let before = events.len();
        self.accept(listener, events);
        let took_one = events.len() > before;
        if took_one && !self.listeners[usize::from(listener)].is_own() {
            self.go_last(listener)
        } else {
            Ok(())
        }
    }

    /// Accepts what waits at a listener.
    fn accept(&mut self, listener: u16, events: &mut Vec<Event>) {
        for _ in 0..ACCEPTS_PER_POLL {
            if self.admission.room() == 0 {
                return;
            }
            match self.listeners[usize::from(listener)].accept() {
                Ok((socket, peer)) => self.adopt(socket, (listener, peer), events),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if super::is_out_of_resources(&error) => {
                    return self.admission.refused(self.now_ms(), events);
                }
                // The connection broke while it waited (accept(2) lists more causes); the next may be fine.
                Err(_) => {}
            }
        }
    }

    fn adopt(
        &mut self,
        socket: OwnedFd,
        (listener, peer): (u16, Option<SocketAddr>),
        events: &mut Vec<Event>,
    ) {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.connections.push(None);
            self.connections.len() as Slot - 1
        });
        let interest =
            EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT | EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLET;
        if self.epoll.add(&socket, EpollEvent::new(interest, u64::from(slot))).is_err() {
            // The user's share of epoll items or kernel memory is used up.
            self.free.push(slot);
            return self.admission.refused(self.now_ms(), events);
        }
        self.connections[slot as usize] = Some(Connection {
            socket,
            send: None,
            phase: Phase::Open,
            requested: false,
            shutdown: false,
            paused: false,
            ended: false,
            readable: false,
            hung_up: false,
            listed: false,
        });
        events.push(Event::Accepted { slot, listener, peer: peer.map(canonical) });
        self.admission.opened(events);
    }

    /// Reads one buffer from each connection in the ready list, as far as the buffers go.
    fn read_ready(&mut self, events: &mut Vec<Event>) {
        for _ in 0..self.ready.len() {
            let Some(mut buffer) = self.buffers.pop() else {
                self.starved += 1;
                return;
            };
            let slot = self.ready.pop_front().expect("the loop ends with the list");
            if self.unlist(slot) {
                let received = self.receive(slot, &mut buffer, events);
                self.list(slot);
                if received {
                    events.push(Event::Received { slot, buffer });
                    continue;
                }
            }
            self.buffers.push(buffer);
        }
    }

    /// Whether the entry of `slot`, just taken from the ready list, still counts and is to be read.
    fn unlist(&mut self, slot: Slot) -> bool {
        let Some(connection) = &mut self.connections[slot as usize] else { return false };
        let listed = std::mem::take(&mut connection.listed);
        listed && connection.phase == Phase::Open && !connection.paused
    }

    /// Reads once. Says whether bytes arrived in `buffer`.
    fn receive(&mut self, slot: Slot, buffer: &mut Buffer, events: &mut Vec<Event>) -> bool {
        let connection = self.at(slot);
        match recv(connection.socket.as_raw_fd(), &mut buffer.memory, MsgFlags::MSG_DONTWAIT) {
            Ok(0) => {
                connection.ended = true;
                events.push(Event::Ended { slot });
                false
            }
            Ok(count) => {
                connection.readable = count == buffer.memory.len() || connection.hung_up;
                buffer.len = count;
                true
            }
            Err(Errno::EAGAIN) => {
                connection.readable = false;
                false
            }
            Err(Errno::EINTR) => false,
            Err(error) => {
                self.fail(slot, error, events);
                false
            }
        }
    }
}

impl Backend for Epoll {
    fn poll(&mut self, timeout: Option<Duration>, events: &mut Vec<Event>) -> io::Result<()> {
        let before = events.len();
        self.admission.retry(self.now_ms(), events);
        self.carry_out_requests(events);
        self.update_listeners()?;
        let readable = !self.ready.is_empty() && !self.buffers.is_empty();
        let something = readable || events.len() > before;
        // The caller has something to do already. Asking epoll can wait for the next poll, but not longer.
        self.skipped_wait = something && !readable && !self.skipped_wait;
        if self.skipped_wait {
            self.waker.cancel();
            self.now_ns = now_ns();
            return Ok(());
        }
        let timeout =
            if something { Some(Duration::ZERO) } else { self.admission.limit_wait(timeout, self.now_ms()) };
        self.wait(timeout, events)?;
        self.read_ready(events);
        Ok(())
    }

    fn send(&mut self, slot: Slot, span: Span) {
        self.start_send(slot, span, false);
    }

    fn send_last(&mut self, slot: Slot, span: Span) {
        self.start_send(slot, span, true);
    }

    fn pause(&mut self, slot: Slot) {
        self.at(slot).paused = true;
    }

    fn resume(&mut self, slot: Slot) {
        self.at(slot).paused = false;
        self.list(slot);
    }

    fn shutdown(&mut self, slot: Slot) {
        let connection = self.at(slot);
        connection.shutdown = true;
        if connection.send.is_none() {
            self.request(slot);
        }
    }

    fn close(&mut self, slot: Slot, how: Close) {
        let connection = self.at(slot);
        // Asked twice, the harder way holds.
        if connection.phase != Phase::Closing(Close::Reset) {
            connection.phase = Phase::Closing(how);
        }
        self.request(slot);
    }

    fn recycle(&mut self, buffer: Buffer) {
        self.buffers.push(buffer);
    }

    fn stop_accepting(&mut self) {
        self.admission.stop();
        let listeners = std::mem::take(&mut self.listeners);
        for listener in listeners.iter().filter(|_| self.listening) {
            // Closing takes only those out of the set that nobody else has. Whether it is in there is known.
            let _ = self.epoll.delete(listener);
        }
        self.listening = false;
        listen::close(listeners);
    }

    fn has_stopped(&self) -> bool {
        self.listeners.is_empty()
    }

    fn now_ns(&self) -> u64 {
        self.now_ns
    }

    fn clock_ns(&self) -> u64 {
        now_ns()
    }

    fn usage(&self) -> Usage {
        Usage {
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

/// Rounded up, so that a timer does not find itself a little early and has to wait again.
fn whole_milliseconds(timeout: Option<Duration>) -> EpollTimeout {
    timeout.map_or(EpollTimeout::NONE, |timeout| {
        let milliseconds = timeout.as_nanos().div_ceil(1_000_000);
        EpollTimeout::try_from(milliseconds.min(i32::MAX as u128) as i32).unwrap_or(EpollTimeout::MAX)
    })
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::TcpStream;

    use super::*;

    #[test]
    fn an_idle_connection_is_small() {
        assert_eq!(size_of::<Option<Connection>>(), 16);
    }

    /// What a fork does to a socket, until the new program begins.
    #[test]
    fn a_socket_may_live_on_elsewhere() {
        let listener = Listener::tcp("127.0.0.1:0".parse().expect("an address")).expect("listen");
        let address = listener.local_addr().expect("bound");
        let mut epoll = Epoll::new(&Options::default(), vec![listener]).expect("a descriptor");
        let mut client = TcpStream::connect(address).expect("connect");
        let mut events = Vec::new();
        let mut poll_until = |epoll: &mut Epoll, is_it: fn(&Event) -> bool| {
            while !events.iter().any(is_it) {
                epoll.poll(Some(Duration::from_secs(1)), &mut events).expect("polled");
            }
        };
        poll_until(&mut epoll, |event| matches!(event, Event::Accepted { slot: 0, .. }));
        let elsewhere = epoll.at(0).socket.try_clone().expect("a descriptor");
        epoll.close(0, Close::Graceful);
        poll_until(&mut epoll, |event| matches!(event, Event::Closed { slot: 0 }));

        client.write_all(b"for nobody").expect("written");
        let before = events.len();
        epoll.poll(Some(Duration::from_secs(1)), &mut events).expect("polled");
        assert_eq!(events.len(), before);

        let mut next = TcpStream::connect(address).expect("connect");
        next.write_all(b"for us").expect("written");
        client.write_all(b"for nobody").expect("written");
        let received = loop {
            epoll.poll(Some(Duration::from_secs(1)), &mut events).expect("polled");
            if let Some(Event::Received { slot: 0, buffer }) = events.last_mut() {
                break buffer.bytes_mut().to_vec();
            }
        };
        assert_eq!(received, b"for us");
        drop(elsewhere);
    }

    #[test]
    fn timeouts_round_up() {
        assert_eq!(whole_milliseconds(Some(Duration::ZERO)), EpollTimeout::ZERO);
        assert_eq!(whole_milliseconds(Some(Duration::from_nanos(1))), EpollTimeout::from(1u8));
        assert_eq!(whole_milliseconds(Some(Duration::MAX)), EpollTimeout::MAX);
        assert_eq!(whole_milliseconds(None), EpollTimeout::NONE);
    }
}
