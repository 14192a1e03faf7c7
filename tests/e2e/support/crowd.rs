//! Many clients on one thread, for tests in which a great deal is sent.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use super::PATIENCE;
use super::raw::{BINARY, Raw, frame};

/// Largest read, and so the most of a message that is copied once more.
const MAX_BUFFER: usize = 256 << 10;

/// WebSocket clients in one room, named by index.
pub(crate) struct Crowd {
    epoll: Epoll,
    members: Vec<Member>,
    events: Vec<EpollEvent>,
}

struct Member {
    stream: TcpStream,
    /// Received bytes are its first `filled` ones.
    input: Vec<u8>,
    filled: usize,
    /// What the kernel did not take yet.
    output: Vec<u8>,
    sent: usize,
}

impl Crowd {
    /// `count` clients of `room`, each of which the server knows as a member on return.
    pub(crate) fn gather(address: SocketAddr, room: &str, count: usize) -> Self {
        let mut crowd = Self::enter(address, std::iter::repeat_n(room, count));
        // Whoever hears itself is a member. What comes before the last word of all is then of no interest.
        for index in 0..count {
            crowd.say(index, format!("here {index}").as_bytes());
        }
        let mut here = vec![false; count];
        while here.contains(&false) {
            crowd.poll(|index, _, payload| here[index] |= payload == format!("here {index}").as_bytes());
        }
        crowd.say(0, b"all here");
        let mut silent = count;
        while silent > 0 {
            crowd.poll(|_, _, payload| silent -= usize::from(payload == b"all here"));
        }
        crowd
    }

    /// A client for each of the rooms, which may be the same; the server may not know all of them yet.
    pub(crate) fn enter<'a>(address: SocketAddr, rooms: impl Iterator<Item = &'a str>) -> Self {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).expect("an epoll instance");
        let members: Vec<_> = rooms.map(|room| Member::join(address, room)).collect();
        for (index, member) in members.iter().enumerate() {
            let event = EpollEvent::new(EpollFlags::EPOLLIN, index as u64);
            epoll.add(&member.stream, event).expect("added");
        }
        let events = vec![EpollEvent::empty(); members.len()];
        Self { epoll, members, events }
    }

    pub(crate) fn len(&self) -> usize {
        self.members.len()
    }

    /// Has a member send a binary message.
    pub(crate) fn say(&mut self, index: usize, payload: &[u8]) {
        self.send(index, &frame(BINARY, payload));
    }

    /// Has a member send bytes, now and, as far as they do not fit, during `poll`.
    pub(crate) fn send(&mut self, index: usize, bytes: &[u8]) {
        let member = &mut self.members[index];
        let waited = !member.output.is_empty();
        member.output.extend_from_slice(bytes);
        member.flush();
        if !waited && !member.output.is_empty() {
            self.watch(index, EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT);
        }
    }

    /// Waits until something happens, reads once from whoever has something, and hands out whole frames: index
    /// of the member, first byte, payload.
    pub(crate) fn poll(&mut self, each: impl FnMut(usize, u8, &[u8])) {
        assert_ne!(self.poll_within(PATIENCE, each), 0, "waited in vain for a message");
    }

    /// The same, but waits no longer than `patience`. Says of how many clients something was heard.
    pub(crate) fn poll_within(
        &mut self,
        patience: Duration,
        mut each: impl FnMut(usize, u8, &[u8]),
    ) -> usize {
        let patience = EpollTimeout::try_from(patience).expect("short enough");
        let count = self.epoll.wait(&mut self.events, patience).expect("epoll waits");
        for at in 0..count {
            let (index, flags) = (self.events[at].data() as usize, self.events[at].events());
            if flags.contains(EpollFlags::EPOLLOUT) {
                self.members[index].flush();
                if self.members[index].output.is_empty() {
                    self.watch(index, EpollFlags::EPOLLIN);
                }
            }
            if flags.intersects(EpollFlags::EPOLLIN | EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR) {
                self.members[index].read(|first, payload| each(index, first, payload));
            }
        }
        count
    }

    fn watch(&self, index: usize, flags: EpollFlags) {
        let mut event = EpollEvent::new(flags, index as u64);
        self.epoll.modify(&self.members[index].stream, &mut event).expect("modified");
    }
}

impl Member {
    fn join(address: SocketAddr, room: &str) -> Self {
        let (stream, ahead) = Raw::open(address, &format!("/room/{room}")).into_parts();
        stream.set_nonblocking(true).expect("non-blocking");
        let filled = ahead.len();
        let mut input = ahead;
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
            Ok(0) => panic!("the server closed a member of the crowd"),
            Ok(len) => self.filled += len,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return,
            Err(error) => panic!("cannot read: {error}"),
        }
        let was_full = self.filled == self.input.len();
        let mut at = 0;
        while let Some((first, header_len, len)) = header(&self.input[at..self.filled]) {
            let start = at + header_len;
            if self.filled - start < len {
                break;
            }
            each(first, &self.input[start..start + len]);
            at = start + len;
        }
        self.input.copy_within(at..self.filled, 0);
        self.filled -= at;
        if was_full && self.input.len() < MAX_BUFFER {
            self.input.resize(2 * self.input.len(), 0);
        }
    }
}

/// First byte, header length and payload length of the frame that `bytes` begin with.
fn header(bytes: &[u8]) -> Option<(u8, usize, usize)> {
    let (&first, rest) = bytes.split_first()?;
    let (&second, rest) = rest.split_first()?;
    Some(match second {
        126 => (first, 4, usize::from(u16::from_be_bytes(*rest.first_chunk()?))),
        127 => (first, 10, u64::from_be_bytes(*rest.first_chunk()?) as usize),
        len => (first, 2, usize::from(len)),
    })
}
