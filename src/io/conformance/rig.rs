//! The fixture of the conformance suite: a backend with one listener, and the events that the backend has reported.

use std::collections::{HashMap, VecDeque};
use std::io::Read;
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crate::chunk::Span;
use crate::io::{Backend, BackendOptions, Close, IoEvent, Listener, More, Slot};

/// Longest wait for an event. A passing test never waits as long.
const PATIENCE: Duration = Duration::from_secs(20);

/// A function that makes the backend under test.
pub(super) type Make<B> = fn(&BackendOptions, Vec<Listener>) -> std::io::Result<B>;

pub(super) struct Rig<B> {
    pub(super) backend: B,
    pub(super) address: SocketAddr,
    /// Reported events that the test has not taken yet.
    pub(super) events: VecDeque<IoEvent>,
}

impl<B: Backend> Rig<B> {
    pub(super) fn new(make: Make<B>) -> Self {
        Self::with(make, "127.0.0.1:0", &BackendOptions::default())
    }

    pub(super) fn with(make: Make<B>, address: &str, options: &BackendOptions) -> Self {
        Self::on(make, Listener::tcp(address.parse().expect("an address")).expect("listen"), options)
    }

    pub(super) fn on(make: Make<B>, listener: Listener, options: &BackendOptions) -> Self {
        let address = listener.local_addr().expect("bound");
        let backend = make(options, vec![listener]).expect("this machine has the backend");
        Self { backend, address, events: VecDeque::new() }
    }

    /// Connects a client without waiting for the backend to accept the connection.
    pub(super) fn dial(&self) -> TcpStream {
        let client = TcpStream::connect(self.address).expect("connect");
        client.set_nodelay(true).expect("a TCP socket");
        client.set_read_timeout(Some(PATIENCE)).expect("a TCP socket");
        client.set_write_timeout(Some(PATIENCE)).expect("a TCP socket");
        client
    }

    /// Connects a client, and accepts it. Returns the client and its slot.
    pub(super) fn connect(&mut self) -> (TcpStream, Slot) {
        let client = self.dial();
        (client, self.accepted().0)
    }

    /// Waits for the next accepted connection. Returns its slot and its peer's address.
    pub(super) fn accepted(&mut self) -> (Slot, SocketAddr) {
        self.wait_for(|event| match event {
            IoEvent::Accepted { slot, peer, .. } => Some((*slot, peer.expect("of a TCP listener"))),
            _ => None,
        })
    }

    /// Stops accepting, and waits until the backend has stopped.
    pub(super) fn stop_accepting(&mut self) {
        self.backend.stop_accepting();
        while !self.backend.has_stopped() {
            self.turn();
        }
    }

    /// Polls the backend once without waiting, and keeps the events for the test.
    pub(super) fn turn(&mut self) {
        self.poll(Some(Duration::ZERO));
    }

    pub(super) fn poll(&mut self, timeout: Option<Duration>) {
        let mut events = Vec::new();
        self.backend.poll(timeout, &mut events).expect("the backend works");
        self.events.extend(events);
    }

    /// Polls until `pick` returns `Some` for an event. Removes that event and returns the value.
    pub(super) fn wait_for<T>(&mut self, pick: impl Fn(&IoEvent) -> Option<T>) -> T {
        let start = Instant::now();
        loop {
            let found = self.events.iter().enumerate().find_map(|(at, event)| Some((at, pick(event)?)));
            if let Some((at, result)) = found {
                self.events.remove(at);
                return result;
            }
            assert!(start.elapsed() < PATIENCE, "the event did not come; these came: {:?}", self.events);
            self.poll(Some(Duration::from_millis(100)));
        }
    }

    pub(super) fn sent(&mut self, slot: Slot) {
        self.wait_for(|event| matches!(event, IoEvent::Sent { slot: at } if *at == slot).then_some(()));
    }

    pub(super) fn closed(&mut self, slot: Slot) {
        self.wait_for(|event| matches!(event, IoEvent::Closed { slot: at } if *at == slot).then_some(()));
    }

    pub(super) fn failed(&mut self, slot: Slot) -> std::io::ErrorKind {
        self.wait_for(|event| match event {
            IoEvent::Failed { slot: at, error } if *at == slot => Some(error.kind()),
            _ => None,
        })
    }

    pub(super) fn send(&mut self, slot: Slot, bytes: &[u8]) {
        self.send_span(slot, Span::copy_of(bytes));
    }

    pub(super) fn send_span(&mut self, slot: Slot, span: Span) {
        self.backend.send(slot, span, More::Follows);
    }

    pub(super) fn close(&mut self, slot: Slot, how: Close) {
        self.backend.close(slot, how);
        self.closed(slot);
    }

    /// Receives from all connections until each slot in `goals` has the number of bytes given there. Returns the bytes
    /// by slot.
    pub(super) fn receive(&mut self, goals: &[(Slot, usize)]) -> HashMap<Slot, Vec<u8>> {
        let mut got: HashMap<Slot, Vec<u8>> = goals.iter().map(|(slot, _)| (*slot, Vec::new())).collect();
        while goals.iter().any(|(slot, len)| got[slot].len() < *len) {
            let (slot, mut buffer) = self.received();
            got.entry(slot).or_default().extend_from_slice(buffer.bytes_mut());
            self.backend.recycle(buffer);
        }
        got
    }

    /// Waits for bytes on any connection. Returns the slot and the buffer.
    pub(super) fn received(&mut self) -> (Slot, crate::io::Buffer) {
        let is_received = |event: &IoEvent| matches!(event, IoEvent::Received { .. });
        let start = Instant::now();
        loop {
            if let Some(at) = self.events.iter().position(is_received)
                && let Some(IoEvent::Received { slot, buffer }) = self.events.remove(at)
            {
                return (slot, buffer);
            }
            assert!(start.elapsed() < PATIENCE, "nothing arrived; these came: {:?}", self.events);
            self.poll(Some(Duration::from_millis(100)));
        }
    }

    /// Receives on `slot` until the end of the stream. Returns all bytes.
    pub(super) fn receive_all(&mut self, slot: Slot) -> Vec<u8> {
        let mut bytes = Vec::new();
        loop {
            let next = |event: &IoEvent| match event {
                IoEvent::Received { slot: at, .. } | IoEvent::Ended { slot: at } => *at == slot,
                _ => false,
            };
            let Some(at) = self.events.iter().position(next) else {
                self.poll(Some(Duration::from_millis(100)));
                continue;
            };
            match self.events.remove(at) {
                Some(IoEvent::Received { mut buffer, .. }) => {
                    bytes.extend_from_slice(buffer.bytes_mut());
                    self.backend.recycle(buffer);
                }
                _ => return bytes,
            }
        }
    }

    /// Fails when the backend does not wait although it has nothing to do. In 60 ms, a waiting backend returns from few
    /// polls, and a spinning backend from thousands.
    pub(super) fn rests(&mut self) {
        let (start, mut polls) = (Instant::now(), 0);
        while start.elapsed() < Duration::from_millis(60) {
            self.poll(Some(Duration::from_millis(30)));
            polls += 1;
        }
        assert!(polls < 20, "{polls} polls in no time");
        assert!(self.events.is_empty(), "unexpected: {:?}", self.events);
    }

    /// Fails when an event is left or comes in the next 10 turns.
    pub(super) fn nothing_more(&mut self) {
        for _ in 0..10 {
            self.turn();
        }
        assert!(self.events.is_empty(), "unexpected: {:?}", self.events);
    }
}

/// Reads exactly `len` bytes from the client's socket.
pub(super) fn read(mut client: &TcpStream, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    client.read_exact(&mut bytes).expect("as many bytes");
    bytes
}

/// Makes `len` bytes whose values depend on their positions, so that lost or swapped pieces show.
pub(super) fn pattern(len: usize) -> Vec<u8> {
    // The length of the block is a prime, so that no power of two is a period. Repeating a block is fast.
    let block: Vec<u8> = (0..65_521_usize).map(|at| (at ^ (at >> 8)) as u8).collect();
    let mut bytes = block.repeat(len.div_ceil(block.len()));
    bytes.truncate(len);
    bytes
}
