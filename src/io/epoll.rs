//! The backend on epoll, which turns readiness events of sockets into completions of sends and receives.
//!
//! Each socket is registered once, with one `epoll_ctl`, edge-triggered for both directions. An edge marks the socket
//! as readable. The socket then stays in the ready list until no unread bytes are left. Each poll reads one buffer from
//! a socket, so a busy peer does not delay the others.

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::libc;
use nix::sys::epoll::{self, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::socket::{MsgFlags, Shutdown, recv, send, setsockopt, shutdown, sockopt};

use crate::chunk::Span;

use super::accept_gate::AcceptGate;
use super::clock::{NS_PER_MS, now_ns};
use super::sends::{Send, SendId, Sends};
use super::{
    Backend, BackendOptions, Buffer, Close, IoEvent, Listener, More, SendProgress, Slot, Usage, Waker,
    canonical, listen,
};

/// Maximum number of readiness events that one `epoll_wait` returns.
const EVENTS_PER_POLL: usize = 1024;

/// Maximum number of connections accepted from one listener in one poll. So a burst of new clients leaves time for
/// other clients.
const ACCEPTS_PER_POLL: usize = 64;

/// The epoll token of the waker's event. Other tokens stand for sockets or listeners.
const WAKER_TOKEN: u64 = u64::MAX;
/// The epoll token of the first listener; the tokens of further listeners follow. The token of a socket is its slot of
/// 32 bits, and so is lower.
const FIRST_LISTENER_TOKEN: u64 = 1 << 32;

/// One shard's sockets on an epoll instance.
#[derive(Debug)]
pub struct Epoll {
    epoll: epoll::Epoll,
    waker: Waker,
    /// Time when the last wait ended, in nanoseconds.
    now_ns: u64,
    listeners: Vec<Listener>,
    /// Whether the listeners are in the epoll set.
    is_listening: bool,
    accept_gate: AcceptGate,
    /// The sockets of open connections, by slot. `None` for a free slot.
    sockets: Vec<Option<EpollSocket>>,
    /// Free slots: indexes in `sockets` without a socket.
    free: Vec<Slot>,
    sends: Sends,
    /// Free receive buffers.
    buffers: Vec<Buffer>,
    /// Slots with a request that the next poll carries out. Their sockets have `is_requested` set.
    requests: Vec<Slot>,
    /// The ready list: slots that may have input, in the order of reading. An entry counts only while its socket has
    /// `is_listed` set, because closing a socket leaves its entry behind.
    ready: VecDeque<Slot>,
    /// The list into which `epoll_wait` writes readiness events. Kept between polls to reuse its memory.
    reported: Vec<EpollEvent>,
    /// Whether the last poll returned its events without a call to `epoll_wait`.
    skipped_wait: bool,
    /// Number of times that reading waited for a free buffer.
    starved: u64,
    /// Length of all receive buffers together, in bytes.
    buffer_bytes: usize,
}

/// The socket of one connection.
#[derive(Debug)]
struct EpollSocket {
    fd: OwnedFd,
    /// The connection's send in flight.
    send: Option<SendId>,
    state: SocketState,
    /// Whether the slot is in `requests`.
    is_requested: bool,
    /// Whether a FIN must follow the send in flight, as the caller requested.
    shutdown_wanted: bool,
    /// Whether the caller has paused receiving.
    paused: bool,
    /// Whether the peer's end of stream was read.
    ended: bool,
    /// Whether the socket may have unread bytes: no read has emptied it since the last edge.
    readable: bool,
    /// Whether the peer has hung up. No further edge comes, so reading continues until the end of the stream or an
    /// error.
    hung_up: bool,
    /// Whether the slot is in the ready list.
    is_listed: bool,
}

/// The life-cycle state of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SocketState {
    Open,
    /// The connection was reported as failed. The caller must close it.
    Failed,
    /// The caller closed this connection. The next poll closes its descriptor.
    Closing(Close),
}

impl Epoll {
    /// Makes an epoll backend that accepts connections from `listeners`.
    ///
    /// # Errors
    /// When no descriptor is left for the epoll instance.
    pub fn new(options: &BackendOptions, listeners: Vec<Listener>) -> io::Result<Self> {
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
            is_listening: false,
            accept_gate: AcceptGate::new(options.slots),
            sockets: Vec::new(),
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

    /// Returns the socket at `slot`.
    ///
    /// # Panics
    /// When `slot` names no open connection.
    fn at(&mut self, slot: Slot) -> &mut EpollSocket {
        self.sockets[slot as usize].as_mut().expect("a slot is used from Accepted to Closed")
    }

    /// Adds `slot` to the requests that the next poll carries out.
    fn request(&mut self, slot: Slot) {
        let socket = self.at(slot);
        if !socket.is_requested {
            socket.is_requested = true;
            self.requests.push(slot);
        }
    }

    /// Carries out the caller's requests since the last poll.
    fn carry_out_requests(&mut self, events: &mut Vec<IoEvent>) {
        let mut requests = std::mem::take(&mut self.requests);
        for slot in requests.drain(..) {
            let socket = self.at(slot);
            socket.is_requested = false;
            match socket.state {
                SocketState::Closing(how) => self.finish(slot, how, events),
                SocketState::Open => self.continue_sending(slot, events),
                SocketState::Failed => {}
            }
        }
        self.requests = requests;
    }

    /// Sends as many bytes of the send in flight as the socket takes. Sends the FIN after the last byte if the caller
    /// requested one.
    fn continue_sending(&mut self, slot: Slot, events: &mut Vec<IoEvent>) {
        let socket = self.sockets[slot as usize].as_mut().expect("checked by the callers");
        let fd = socket.fd.as_raw_fd();
        if let Some(id) = socket.send {
            let now_ns = self.now_ns;
            let Send { span, more, moved_ns, .. } = self.sends.at(id);
            let mut flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
            if *more == More::Ends {
                flags |= MsgFlags::from_bits_retain(libc::MSG_MORE);
            }
            match send(fd, span.bytes(), flags) {
                // A short send has filled the socket. An edge comes when the socket has room again.
                Ok(count) => {
                    span.advance(count);
                    *moved_ns = now_ns;
                }
                Err(Errno::EAGAIN | Errno::EINTR) => return,
                Err(error) => return self.fail(slot, error, events),
            }
            if !span.is_empty() {
                return;
            }
            socket.send = None;
            self.sends.remove(id);
            events.push(IoEvent::Sent { slot });
        }
        if std::mem::take(&mut socket.shutdown_wanted) {
            // `shutdown` fails only when the peer is gone already, and receiving reports that.
            let _ = shutdown(fd, Shutdown::Write);
        }
    }

    fn fail(&mut self, slot: Slot, error: Errno, events: &mut Vec<IoEvent>) {
        let socket = self.at(slot);
        socket.state = SocketState::Failed;
        if let Some(id) = socket.send.take() {
            self.sends.remove(id);
        }
        events.push(IoEvent::Failed { slot, error: error.into() });
    }

    /// Closes a connection's socket, frees its slot, and reports `Closed`.
    fn finish(&mut self, slot: Slot, how: Close, events: &mut Vec<IoEvent>) {
        let socket = self.sockets[slot as usize].take().expect("a slot is closed once");
        if let Some(id) = socket.send {
            self.sends.remove(id);
        }
        if how == Close::Reset {
            // If setting the option fails, the socket closes gracefully, which harms no other connection.
            let _ = setsockopt(&socket.fd, sockopt::Linger, &libc::linger { l_onoff: 1, l_linger: 0 });
        }
        drop(socket);
        self.free.push(slot);
        events.push(IoEvent::Closed { slot });
        self.accept_gate.closed(events);
    }

    /// Adds all listeners to the epoll set, or removes all, as the accept gate decides.
    fn update_listeners(&mut self) -> io::Result<()> {
        let wanted = self.accept_gate.room() > 0;
        if wanted == self.is_listening {
            return Ok(());
        }
        for index in 0..self.listeners.len() as u16 {
            if wanted {
                self.listen(index)?;
            } else {
                self.epoll.delete(&self.listeners[usize::from(index)])?;
            }
        }
        self.is_listening = wanted;
        Ok(())
    }

    /// Adds a listener to the epoll set. For each new connection, the kernel wakes one of the workers that share the
    /// listener.
    fn listen(&self, index: u16) -> io::Result<()> {
        let interest = EpollFlags::EPOLLIN | EpollFlags::EPOLLEXCLUSIVE;
        let event = EpollEvent::new(interest, FIRST_LISTENER_TOKEN + u64::from(index));
        Ok(self.epoll.add(&self.listeners[usize::from(index)], event)?)
    }

    /// Moves this worker behind all others that share a listener, because the kernel wakes the worker that was added
    /// first.
    fn go_last(&self, index: u16) -> io::Result<()> {
        self.epoll.delete(&self.listeners[usize::from(index)])?;
        self.listen(index)
    }

    /// Waits for readiness events. Handles wake-ups, accepts and sends, and adds readable sockets to the ready list.
    fn wait(&mut self, timeout: Option<Duration>, events: &mut Vec<IoEvent>) -> io::Result<()> {
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

    /// Handles a readiness event of a socket.
    fn react(&mut self, slot: Slot, ready: EpollFlags, events: &mut Vec<IoEvent>) {
        let hang_up = EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR;
        let writable = EpollFlags::EPOLLOUT | EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR;
        // A forked child holds this process's sockets until it executes its program. Until then, the kernel reports
        // events of sockets that are closed here. If such a slot is in use again, the new socket is read once without
        // result.
        let Some(socket) = &mut self.sockets[slot as usize] else { return };
        if ready.intersects(hang_up) {
            socket.hung_up = true;
        }
        if ready.intersects(hang_up | EpollFlags::EPOLLIN) {
            socket.readable = true;
        }
        if ready.intersects(writable) && socket.state == SocketState::Open {
            self.continue_sending(slot, events);
        }
        self.list(slot);
    }

    /// Appends `slot` to the ready list, if the caller wants input and the socket may have unread bytes.
    fn list(&mut self, slot: Slot) {
        let socket = self.at(slot);
        let wanted = socket.state == SocketState::Open && !socket.paused && !socket.ended;
        if wanted && socket.readable && !socket.is_listed {
            socket.is_listed = true;
            self.ready.push_back(slot);
        }
    }

    /// Accepts the connections that wait at a listener. If workers share the listener, lets another worker accept next.
    fn take_in(&mut self, listener: u16, events: &mut Vec<IoEvent>) -> io::Result<()> {
        let before = events.len();
        self.accept(listener, events);
        let took_one = events.len() > before;
        if took_one && !self.listeners[usize::from(listener)].is_own() {
            self.go_last(listener)
        } else {
            Ok(())
        }
    }

    /// Accepts the connections that wait at a listener, at most [`ACCEPTS_PER_POLL`].
    fn accept(&mut self, listener: u16, events: &mut Vec<IoEvent>) {
        for _ in 0..ACCEPTS_PER_POLL {
            if self.accept_gate.room() == 0 {
                return;
            }
            match self.listeners[usize::from(listener)].accept() {
                Ok((socket, peer)) => self.adopt(socket, listener, peer, events),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if super::is_out_of_resources(&error) => {
                    return self.accept_gate.refused(self.now_ns / NS_PER_MS, events);
                }
                // The connection broke while it waited to be accepted; accept(2) lists more causes. The next connection
                // may be fine.
                Err(_) => {}
            }
        }
    }

    /// Registers an accepted socket in the epoll set, gives the socket a slot, and reports `Accepted`.
    fn adopt(&mut self, socket: OwnedFd, listener: u16, peer: Option<SocketAddr>, events: &mut Vec<IoEvent>) {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.sockets.push(None);
            self.sockets.len() as Slot - 1
        });
        let interest =
            EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT | EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLET;
        if self.epoll.add(&socket, EpollEvent::new(interest, u64::from(slot))).is_err() {
            // The user has no epoll items left (fs.epoll.max_user_watches), or the kernel has no memory.
            self.free.push(slot);
            return self.accept_gate.refused(self.now_ns / NS_PER_MS, events);
        }
        self.sockets[slot as usize] = Some(EpollSocket {
            fd: socket,
            send: None,
            state: SocketState::Open,
            is_requested: false,
            shutdown_wanted: false,
            paused: false,
            ended: false,
            readable: false,
            hung_up: false,
            is_listed: false,
        });
        events.push(IoEvent::Accepted { slot, listener, peer: peer.map(canonical) });
        self.accept_gate.opened(events);
    }

    /// Reads one buffer from each socket in the ready list, as long as buffers are free.
    fn read_ready(&mut self, events: &mut Vec<IoEvent>) {
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
                    events.push(IoEvent::Received { slot, buffer });
                    continue;
                }
            }
            self.buffers.push(buffer);
        }
    }

    /// Marks the entry of `slot` in the ready list as removed. Returns whether the entry counted and the caller wants
    /// input.
    fn unlist(&mut self, slot: Slot) -> bool {
        let Some(socket) = &mut self.sockets[slot as usize] else { return false };
        let was_listed = std::mem::take(&mut socket.is_listed);
        was_listed && socket.state == SocketState::Open && !socket.paused
    }

    /// Reads from a socket once. Returns whether bytes arrived in `buffer`.
    fn receive(&mut self, slot: Slot, buffer: &mut Buffer, events: &mut Vec<IoEvent>) -> bool {
        let socket = self.at(slot);
        match recv(socket.fd.as_raw_fd(), &mut buffer.memory, MsgFlags::MSG_DONTWAIT) {
            Ok(0) => {
                socket.ended = true;
                events.push(IoEvent::Ended { slot });
                false
            }
            Ok(count) => {
                socket.readable = count == buffer.memory.len() || socket.hung_up;
                buffer.len = count;
                true
            }
            Err(Errno::EAGAIN) => {
                socket.readable = false;
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
    fn poll(&mut self, timeout: Option<Duration>, events: &mut Vec<IoEvent>) -> io::Result<u64> {
        let before = events.len();
        self.accept_gate.retry(self.now_ns / NS_PER_MS, events);
        self.carry_out_requests(events);
        self.update_listeners()?;
        let readable = !self.ready.is_empty() && !self.buffers.is_empty();
        let something = readable || events.len() > before;
        // The caller has events to handle already, so this poll skips `epoll_wait`. The next poll must not skip it.
        self.skipped_wait = something && !readable && !self.skipped_wait;
        if self.skipped_wait {
            self.waker.cancel();
            self.now_ns = now_ns();
            return Ok(self.now_ns);
        }
        let timeout = if something {
            Some(Duration::ZERO)
        } else {
            self.accept_gate.limit_wait(timeout, self.now_ns / NS_PER_MS)
        };
        self.wait(timeout, events)?;
        self.read_ready(events);
        Ok(self.now_ns)
    }

    fn send(&mut self, slot: Slot, span: Span, more: More) {
        let socket = self.at(slot);
        assert!(socket.send.is_none(), "slot {slot} has a send under way");
        if socket.state == SocketState::Open {
            let id = self.sends.insert(slot, span, more, self.now_ns);
            self.at(slot).send = Some(id);
            self.request(slot);
        }
    }

    fn send_progress(&self, slot: Slot) -> Option<SendProgress> {
        let socket = self.sockets.get(slot as usize)?.as_ref()?;
        self.sends.progress(socket.send?)
    }

    fn nudge(&mut self, slot: Slot) {
        if self.at(slot).send.is_some() {
            self.request(slot);
        }
    }

    fn pause(&mut self, slot: Slot) {
        self.at(slot).paused = true;
    }

    fn resume(&mut self, slot: Slot) {
        self.at(slot).paused = false;
        self.list(slot);
    }

    fn shutdown(&mut self, slot: Slot) {
        let socket = self.at(slot);
        socket.shutdown_wanted = true;
        if socket.send.is_none() {
            self.request(slot);
        }
    }

    fn close(&mut self, slot: Slot, how: Close) {
        let socket = self.at(slot);
        if socket.state != SocketState::Closing(Close::Reset) {
            socket.state = SocketState::Closing(how);
        }
        self.request(slot);
    }

    fn recycle(&mut self, buffer: Buffer) {
        self.buffers.push(buffer);
    }

    fn stop_accepting(&mut self) {
        self.accept_gate.stop();
        let listeners = std::mem::take(&mut self.listeners);
        for listener in listeners.iter().filter(|_| self.is_listening) {
            // Closing the descriptor would leave the listener in the epoll set if another worker holds it, too.
            let _ = self.epoll.delete(listener);
        }
        self.is_listening = false;
        listen::close(listeners);
    }

    fn has_stopped(&self) -> bool {
        self.listeners.is_empty()
    }

    fn now_ns(&self) -> u64 {
        now_ns()
    }

    fn usage(&self) -> Usage {
        Usage {
            starved: self.starved,
            sends_under_way: self.sends.len(),
            buffer_bytes: self.buffer_bytes,
            ring_overflows: 0,
        }
    }

    fn waker(&self) -> Waker {
        self.waker.clone()
    }
}

/// Converts a timeout to whole milliseconds, rounded up, so that a timer is due when the wait ends.
fn whole_milliseconds(timeout: Option<Duration>) -> EpollTimeout {
    timeout.map_or(EpollTimeout::NONE, |timeout| {
        let milliseconds = timeout.as_nanos().div_ceil(1_000_000);
        EpollTimeout::try_from(milliseconds.min(i32::MAX as u128) as i32).unwrap_or(EpollTimeout::MAX)
    })
}
