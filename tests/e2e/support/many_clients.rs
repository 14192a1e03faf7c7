//! Many WebSocket clients on one thread, for tests that transfer a lot of data.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use super::TIMEOUT;
use super::raw::{BINARY, RawClient, frame, server_frame_lens};

/// Size in bytes at which a receive buffer stops growing, unless a single frame needs more.
const MAX_READ: usize = 256 << 10;

/// A set of WebSocket clients, addressed by index.
pub(crate) struct ManyClients {
    epoll: Epoll,
    connections: Vec<Connection>,
    events: Vec<EpollEvent>,
}

struct Connection {
    stream: TcpStream,
    /// Receive buffer. The first `filled` bytes hold received data.
    input: Vec<u8>,
    filled: usize,
    /// Send buffer. The kernel has accepted the first `sent` bytes.
    output: Vec<u8>,
    sent: usize,
}

impl ManyClients {
    /// Connects `count` clients to `room` and waits until the server has made all of them members.
    pub(crate) fn join_room(address: SocketAddr, room: &str, count: usize) -> Self {
        let mut clients = Self::connect(address, std::iter::repeat_n(room, count));
        // A client that receives its own message is a member of the room.
        for index in 0..count {
            clients.send_binary(index, format!("here {index}").as_bytes());
        }
        let mut here = vec![false; count];
        while here.contains(&false) {
            clients.poll(|index, _, payload| here[index] |= payload == format!("here {index}").as_bytes());
        }
        // A client that has received this message has received every `here` message before it.
        clients.send_binary(0, b"all here");
        let mut waiting = count;
        while waiting > 0 {
            clients.poll(|_, _, payload| waiting -= usize::from(payload == b"all here"));
        }
        clients
    }

    /// Connects one client for each room name. Does not wait until the server has made the clients members.
    pub(crate) fn connect<'a>(address: SocketAddr, rooms: impl Iterator<Item = &'a str>) -> Self {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).expect("an epoll instance");
        let connections: Vec<_> = rooms.map(|room| Connection::open(address, room)).collect();
        for (index, connection) in connections.iter().enumerate() {
            let event = EpollEvent::new(EpollFlags::EPOLLIN, index as u64);
            epoll.add(&connection.stream, event).expect("the socket can be watched");
        }
        let events = vec![EpollEvent::empty(); connections.len()];
        Self { epoll, connections, events }
    }

    /// Returns the number of clients.
    pub(crate) fn len(&self) -> usize {
        self.connections.len()
    }

    /// Sends a binary message from the client `index`.
    pub(crate) fn send_binary(&mut self, index: usize, payload: &[u8]) {
        self.send(index, &frame(BINARY, payload));
    }

    /// Sends bytes from the client `index`. Bytes that the kernel does not accept now are sent by `poll`.
    pub(crate) fn send(&mut self, index: usize, bytes: &[u8]) {
        let connection = &mut self.connections[index];
        let was_blocked = !connection.output.is_empty();
        connection.output.extend_from_slice(bytes);
        connection.flush();
        if !was_blocked && !connection.output.is_empty() {
            self.watch(index, EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT);
        }
    }

    /// Waits for events and reads once from every client with input. Calls `each` for every complete frame, with the
    /// client's index, the frame's first byte and the frame's payload. Panics when no event comes within `TIMEOUT`.
    pub(crate) fn poll(&mut self, each: impl FnMut(usize, u8, &[u8])) {
        assert_ne!(self.poll_for(TIMEOUT, each), 0, "timed out waiting for a message");
    }

    /// Waits at most `timeout` and reads like [`ManyClients::poll`]. Returns the number of clients with events.
    pub(crate) fn poll_for(&mut self, timeout: Duration, mut each: impl FnMut(usize, u8, &[u8])) -> usize {
        let timeout = EpollTimeout::try_from(timeout).expect("a timeout that epoll supports");
        let count = self.epoll.wait(&mut self.events, timeout).expect("epoll waits");
        for at in 0..count {
            let (index, flags) = (self.events[at].data() as usize, self.events[at].events());
            if flags.contains(EpollFlags::EPOLLOUT) {
                self.connections[index].flush();
                if self.connections[index].output.is_empty() {
                    self.watch(index, EpollFlags::EPOLLIN);
                }
            }
            if flags.intersects(EpollFlags::EPOLLIN | EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR) {
                self.connections[index].read(|first, payload| each(index, first, payload));
            }
        }
        count
    }

    fn watch(&self, index: usize, flags: EpollFlags) {
        let mut event = EpollEvent::new(flags, index as u64);
        self.epoll.modify(&self.connections[index].stream, &mut event).expect("the socket is watched");
    }
}

impl Connection {
    fn open(address: SocketAddr, room: &str) -> Self {
        let (stream, input) = RawClient::open(address, &format!("/room/{room}")).into_parts();
        stream.set_nonblocking(true).expect("a TCP socket");
        let (filled, mut input) = (input.len(), input);
        input.resize((8 << 10).max(2 * filled), 0);
        Self { stream, input, filled, output: Vec::new(), sent: 0 }
    }

    fn flush(&mut self) {
        while self.sent < self.output.len() {
            match self.stream.write(&self.output[self.sent..]) {
                Ok(len) => self.sent += len,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) => panic!("cannot send: {error}"),
            }
        }
        self.output.clear();
        self.sent = 0;
    }

    fn read(&mut self, mut each: impl FnMut(u8, &[u8])) {
        if self.filled == self.input.len() {
            self.input.resize(2 * self.filled, 0);
        }
        match self.stream.read(&mut self.input[self.filled..]) {
            Ok(0) => panic!("the server closed a connection"),
            Ok(len) => self.filled += len,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return,
            Err(error) => panic!("cannot read: {error}"),
        }
        let was_full = self.filled == self.input.len();
        let mut at = 0;
        while let Some((header_len, len)) = server_frame_lens(&self.input[at..self.filled]) {
            let start = at + header_len;
            if self.filled - start < len {
                break;
            }
            each(self.input[at], &self.input[start..start + len]);
            at = start + len;
        }
        self.input.copy_within(at..self.filled, 0);
        self.filled -= at;
        if was_full && self.input.len() < MAX_READ {
            self.input.resize(2 * self.input.len(), 0);
        }
    }
}
