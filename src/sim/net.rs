//! The simulated network between clients and kernels, and the simulated clock.

use std::collections::VecDeque;
use std::net::SocketAddr;

use super::fault::Fault;
use super::random::Random;

/// Capacity of the narrowest links, in bytes.
pub(super) const NARROW: usize = 16;

/// One direction of a stream, with the bytes that were sent and not received yet.
#[derive(Debug)]
pub(super) struct Pipe {
    pub(super) bytes: VecDeque<u8>,
    pub(super) capacity: usize,
    /// Whether the sender has sent FIN.
    pub(super) ended: bool,
}

impl Pipe {
    pub(super) fn room(&self) -> usize {
        self.capacity.saturating_sub(self.bytes.len())
    }

    pub(super) fn take(&mut self, count: usize) -> Vec<u8> {
        self.bytes.drain(..count).collect()
    }
}

/// A simulated TCP connection between a client and the server.
#[derive(Debug)]
pub(super) struct Conn {
    pub(super) peer: SocketAddr,
    pub(super) to_server: Pipe,
    pub(super) to_client: Pipe,
    /// Whether the client or the network has reset the connection.
    pub(super) broken: bool,
    /// Whether the server has reset the connection, on purpose or by closing with unread bytes.
    pub(super) server_reset: bool,
    /// Whether the server has closed its descriptor of the connection.
    pub(super) server_gone: bool,
}

#[derive(Debug)]
pub(super) struct Net {
    pub(super) random: Random,
    pub(super) now_ms: u64,
    pub(super) conns: Vec<Conn>,
    /// Backlog of each shard: connections that wait to be accepted.
    pub(super) backlogs: Vec<VecDeque<usize>>,
    /// Whether the kernels and the network misbehave within their contracts.
    pub(super) adverse: bool,
    /// Hash of all events of the run, in order.
    pub(super) trace: u64,
    pub(super) verbose: bool,
    /// The fault that the test injects. `None` for a normal run.
    pub(super) fault: Option<Fault>,
    /// Number of messages that clients got.
    pub(super) heard: u64,
    /// Number of messages to users that clients got.
    pub(super) to_users: u64,
    /// Number of lists of members of presence channels that clients got.
    pub(super) lists: u64,
    /// Number of compressed messages that clients got.
    pub(super) inflated: u64,
    /// Number of messages that clients compressed.
    pub(super) deflated: u64,
    /// Number of receives that found no free buffer.
    pub(super) starved: u64,
    /// Number of receives that were cancelled.
    pub(super) paused: u64,
}

impl Net {
    pub(super) fn new(random: Random, shards: usize, verbose: bool, fault: Option<Fault>) -> Self {
        let backlogs = vec![VecDeque::new(); shards];
        Self {
            random,
            now_ms: 1_000,
            conns: Vec::new(),
            backlogs,
            adverse: true,
            trace: 0,
            verbose,
            fault,
            heard: 0,
            to_users: 0,
            lists: 0,
            inflated: 0,
            deflated: 0,
            starved: 0,
            paused: 0,
        }
    }

    /// Records an event of the run in the trace, and prints it if `verbose`.
    pub(super) fn note(&mut self, what: &str, numbers: [usize; 3]) {
        let mut add = |number: u64| {
            self.trace = (self.trace ^ number).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(7)
        };
        add(self.now_ms);
        what.bytes().for_each(|byte| add(byte.into()));
        numbers.iter().for_each(|number| add(*number as u64));
        if self.verbose {
            println!("{:>8} {what} {numbers:?}", self.now_ms);
        }
    }

    /// Connects a client to a shard. Returns the index of the connection.
    pub(super) fn connect(&mut self, shard: usize, peer: SocketAddr) -> usize {
        let capacity = self.random.pick(&[NARROW, 200, 2_000, 16_000]);
        let pipe = || Pipe { bytes: VecDeque::new(), capacity, ended: false };
        let conn = Conn {
            peer,
            to_server: pipe(),
            to_client: pipe(),
            broken: false,
            server_reset: false,
            server_gone: false,
        };
        self.conns.push(conn);
        let at = self.conns.len() - 1;
        self.backlogs[shard].push_back(at);
        self.note("connect", [shard, at, capacity]);
        at
    }

    /// Returns whether the run injects this fault.
    pub(super) fn has(&self, fault: Fault) -> bool {
        self.fault == Some(fault)
    }

    /// Returns whether the fault `LostBuffer` loses the receive buffer that is being given back.
    pub(super) fn is_lost(&mut self) -> bool {
        self.has(Fault::LostBuffer) && self.random.once_in(50)
    }

    /// Returns whether something rare happens: once in `times` times on average, and only while the network is adverse.
    pub(super) fn mishap(&mut self, times: usize) -> bool {
        self.adverse && self.random.once_in(times)
    }
}
