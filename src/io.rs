//! Backends: one thread's sockets in completion form, on io_uring or on epoll.
//!
//! A backend belongs to one thread. It owns the listeners, the descriptors of the connections and the receive
//! buffers. The caller makes requests (`send`, `pause`, `close`, …). [`Backend::poll`] hands them to the kernel
//! in one go, waits, and reports the results as [`IoEvent`]s.
//!
//! # Rules
//! - A [`Slot`] names a connection from its `Accepted` to its `Closed`. No event names the slot after `Closed`, and a
//!   backend reuses a slot only then. So slots need no generation.
//! - Receiving starts with `Accepted` and stops with `Ended` or `Failed`.
//! - A slot has at most one send in flight. The backend continues short sends. A send completes with one `Sent`
//!   when the kernel has taken every byte, or with `Failed`.
//! - After `Failed` the caller must call `close`. No `Sent`, `Received` or second `Failed` follows.
//! - After [`Backend::close`] the slot's only further event is `Closed`. The backend cancels operations in flight and
//!   takes their buffers back first. The batch that the caller is handling may still hold older events of the slot.
//! - The backend ignores requests for a connection that has failed or is being closed, because the caller may not have
//!   handled that event yet. It drops the span of such a `send` without a `Sent`.
//! - The caller returns every [`Buffer`] with [`Backend::recycle`]. While all buffers are out, data stays in the
//!   kernel, and receiving continues with the first buffer that returns. That is load, not an error.

mod accept_gate;
pub(crate) mod clock;
#[cfg(test)]
mod conformance;
pub mod epoll;
pub mod listen;
pub(crate) mod path;
pub(crate) mod sends;
pub mod uring;
pub mod wake;
#[cfg(test)]
pub(crate) mod wire;

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use nix::libc;

use crate::chunk::Span;

pub use self::epoll::Epoll;
pub use self::listen::Listener;
pub use self::uring::Uring;
pub use self::wake::Waker;

/// Index of a connection within one backend: small, dense, reused after `Closed`.
pub type Slot = u32;

/// An event that a backend reports. `slot` is the connection that it is about.
#[derive(Debug)]
#[expect(missing_docs, reason = "the documentation of each variant explains its fields")]
pub enum IoEvent {
    /// The listener with this index accepted a connection, and receiving from it has started. `peer` is the client's
    /// address, or `None` for a Unix socket.
    Accepted { slot: Slot, listener: u16, peer: Option<SocketAddr> },
    /// Bytes arrived; `buffer` holds them.
    Received { slot: Slot, buffer: Buffer },
    /// The peer ended its direction of the stream (FIN). Sending still works.
    Ended { slot: Slot },
    /// The send in flight is complete.
    Sent { slot: Slot },
    /// Receiving or sending failed with `error`, such as a reset or a timeout. The connection is of no more use.
    Failed { slot: Slot, error: io::Error },
    /// The connection is closed and the slot is free. No later event is about this connection.
    Closed { slot: Slot },
    /// Accepting paused, because no descriptor is left. It resumes by itself when a connection closes.
    AcceptPaused,
    /// Accepting resumed after `AcceptPaused`.
    AcceptResumed,
}

/// How to end a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Close {
    /// The kernel still delivers the bytes that it has taken.
    Graceful,
    /// A reset: the kernel drops unsent bytes at once, so that a peer that reads nothing holds no kernel memory.
    Reset,
}

/// Whether a send is the last one of its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum More {
    /// Other sends may follow.
    Follows,
    /// A `shutdown` or a graceful `close` follows. The kernel keeps a last partial segment for that, 200 ms at most, so
    /// that these bytes and the FIN travel in one packet.
    Ends,
}

/// A receive buffer and the bytes that arrived in it. The caller returns it with [`Backend::recycle`].
#[derive(Debug)]
pub struct Buffer {
    /// The whole buffer, longer than the bytes that arrived.
    memory: Box<[u8]>,
    /// Number of bytes that arrived.
    len: usize,
    /// Number by which the backend recognises the buffer.
    id: u16,
}

impl Buffer {
    /// The id of a buffer that belongs to no backend. No backend has this many buffers.
    const UNOWNED: u16 = u16::MAX;

    /// Makes an empty buffer of `len` bytes.
    pub(crate) fn new(len: usize, id: u16) -> Self {
        Self { memory: vec![0; len].into_boxed_slice(), len: 0, id }
    }

    /// Wraps bytes in a buffer that belongs to no backend, and so must not be recycled.
    pub(crate) fn of(bytes: Vec<u8>) -> Self {
        Self { len: bytes.len(), memory: bytes.into_boxed_slice(), id: Self::UNOWNED }
    }

    /// Whether the buffer belongs to no backend.
    pub(crate) fn is_unowned(&self) -> bool {
        self.id == Self::UNOWNED
    }

    /// Copies bytes into the buffer as if they had arrived.
    #[cfg(test)]
    pub(crate) fn fill(&mut self, bytes: &[u8]) {
        self.memory[..bytes.len()].copy_from_slice(bytes);
        self.len = bytes.len();
    }

    /// Number of bytes that fit in.
    #[cfg(test)]
    pub(crate) fn capacity(&self) -> usize {
        self.memory.len()
    }

    /// The number of the buffer.
    #[cfg(test)]
    pub(crate) fn id(&self) -> u16 {
        self.id
    }

    /// Removes the first `len` bytes.
    pub(crate) fn skip(&mut self, len: usize) {
        self.memory.copy_within(len..self.len, 0);
        self.len -= len;
    }

    /// The bytes that arrived. The caller may change them in place.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.memory[..self.len]
    }
}

/// Sizes of a backend, fixed at its start.
#[derive(Clone, Debug)]
pub struct BackendOptions {
    /// Number of receive buffers, a power of two.
    pub buffers: u16,
    /// Bytes of each receive buffer.
    pub buffer_len: usize,
    /// Most connections that the backend holds at a time. A ring's table of direct descriptors has this length.
    pub slots: u32,
}

impl BackendOptions {
    /// Bytes of all receive buffers together.
    fn buffer_bytes(&self) -> usize {
        usize::from(self.buffers) * self.buffer_len
    }
}

impl Default for BackendOptions {
    fn default() -> Self {
        Self { buffers: 256, buffer_len: 32 * 1024, slots: 20_000 }
    }
}

/// Counters and sizes of a backend.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    /// Times that the completion queue of a ring was full. The kernel keeps such completions until there is room.
    pub ring_overflows: u64,
    /// Times that receiving had to wait for a free buffer.
    pub starved: u64,
    /// Sends in flight.
    pub sends_under_way: usize,
    /// Bytes of all receive buffers.
    pub buffer_bytes: usize,
}

/// The sockets of one shard. The documentation of this module has the rules.
pub trait Backend {
    /// Hands all requests to the kernel, waits for events for at most `timeout`, and appends them to `events`. `None`
    /// waits until an event comes or a [`Waker`] wakes the backend. This takes one system call where possible.
    ///
    /// Returns when the wait ended, in nanoseconds on the clock of [`Backend::now_ns`]. A poll may return early and
    /// without events, for instance when a signal interrupts it.
    ///
    /// # Errors
    /// When the ring or the epoll instance itself is broken. A failure of one connection is an event.
    fn poll(&mut self, timeout: Option<Duration>, events: &mut Vec<IoEvent>) -> io::Result<u64>;

    /// Sends `span`. A slot has one send in flight at most.
    fn send(&mut self, slot: Slot, span: Span, more: More);

    /// Stops receiving. Bytes that have arrived already may still be reported.
    fn pause(&mut self, slot: Slot);

    /// Resumes receiving after `pause`.
    fn resume(&mut self, slot: Slot);

    /// Ends our direction of the stream (FIN) after the send in flight, if there is one. Receiving continues.
    fn shutdown(&mut self, slot: Slot);

    /// Ends the connection; `Closed` follows. A reset after a graceful close makes it a reset.
    fn close(&mut self, slot: Slot, how: Close);

    /// Takes a receive buffer back.
    fn recycle(&mut self, buffer: Buffer);

    /// Closes the listeners. Connections that the kernel has accepted meanwhile are still reported.
    fn stop_accepting(&mut self);

    /// Whether [`Backend::stop_accepting`] is complete, so that no `Accepted` follows.
    fn has_stopped(&self) -> bool;

    /// Reads a monotonic clock, in nanoseconds.
    fn now_ns(&self) -> u64;

    /// Reports counters and sizes.
    fn usage(&self) -> Usage;

    /// Returns a handle with which other threads end the wait of `poll`.
    fn waker(&self) -> Waker;
}

/// Shortens `timeout` to `wait_ms`, if there is such a wait.
pub(crate) fn shorter(timeout: Option<Duration>, wait_ms: Option<u64>) -> Option<Duration> {
    timeout.into_iter().chain(wait_ms.map(Duration::from_millis)).min()
}

/// Maps an IPv4 peer of a dual-stack listener to its IPv4 address, so that a host has one address on all listeners.
pub(crate) fn canonical(peer: SocketAddr) -> SocketAddr {
    match peer.ip().to_canonical() {
        ip if ip == peer.ip() => peer,
        ip => SocketAddr::new(ip, peer.port()),
    }
}

/// Whether accepting failed because descriptors or memory ran out, so that it would fail again at once.
fn is_out_of_resources(error: &io::Error) -> bool {
    let causes = [libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM];
    error.raw_os_error().is_some_and(|error| causes.contains(&error))
}
