//! I/O backends on io_uring or epoll: the caller starts operations on sockets and later gets their completions.
//!
//! A backend belongs to one thread. It owns the listeners, the descriptors of the connections and the receive buffers.
//! The caller makes requests (`send`, `pause`, `close`, …). [`Backend::poll`] hands all requests to the kernel
//! together, waits, and reports the results as [`IoEvent`]s.
//!
//! # Rules
//! - A [`Slot`] names a connection from its `Accepted` to its `Closed`. After `Closed`, no event is about this
//!   connection, and the backend may reuse the slot. So slots need no generation number.
//! - Receiving from a connection starts with `Accepted` and stops with `Ended` or `Failed`.
//! - A slot has at most one send in flight. After a short send, the backend sends the remaining bytes. A send completes
//!   with one `Sent` when the kernel has taken every byte, or with `Failed`.
//! - After `Failed` the caller must call `close`. No `Sent`, `Received` or second `Failed` follows.
//! - After [`Backend::close`] the slot's only further event is `Closed`. Before that, the backend cancels operations in
//!   flight and takes back the buffers of these operations. The batch that the caller is handling may still hold older
//!   events of the slot.
//! - The backend ignores requests for a connection that has failed or is being closed. The caller may still be handling
//!   older events. The backend drops the span of an ignored `send` and reports no `Sent`.
//! - The caller returns every [`Buffer`] with [`Backend::recycle`]. While the caller holds all buffers, data stays in
//!   the kernel. Receiving continues with the first buffer that returns. This is normal under load and not an error.

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

/// An event that a backend reports about a connection, or about accepting. `slot` names the connection.
#[derive(Debug)]
#[expect(missing_docs, reason = "the documentation of each variant explains its fields")]
pub enum IoEvent {
    /// The listener with this index accepted a connection, and receiving from it has started. `peer` is the client's
    /// address, or `None` for a Unix socket.
    Accepted { slot: Slot, listener: u16, peer: Option<SocketAddr> },
    /// Bytes arrived on the connection; `buffer` holds these bytes.
    Received { slot: Slot, buffer: Buffer },
    /// The peer ended its direction of the stream (FIN). The backend can still send to the peer.
    Ended { slot: Slot },
    /// The connection's send in flight is complete: the kernel has taken every byte.
    Sent { slot: Slot },
    /// Receiving or sending failed with `error`, such as a reset or a timeout. The caller must close the connection.
    Failed { slot: Slot, error: io::Error },
    /// The connection is closed and the slot is free. No later event is about this connection.
    Closed { slot: Slot },
    /// The backend paused accepting: no slot is free, or the kernel has no descriptor or memory left. The backend
    /// resumes without a request.
    AcceptPaused,
    /// The backend resumed accepting after `AcceptPaused`.
    AcceptResumed,
}

/// The way to end a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Close {
    /// Graceful close: the kernel still delivers the bytes that it has taken.
    Graceful,
    /// Reset: the kernel drops unsent bytes at once, so a peer that does not read holds no kernel memory.
    Reset,
}

/// A hint for the kernel: whether a send is the last one of its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum More {
    /// Further sends on this connection may follow.
    Follows,
    /// The last send: a `shutdown` or a graceful `close` follows. The kernel holds a partial segment back for at most
    /// 200 ms. So the last bytes and the FIN travel in one packet.
    Ends,
}

/// A receive buffer and the bytes that arrived in it. The caller returns the buffer with [`Backend::recycle`].
#[derive(Debug)]
pub struct Buffer {
    /// The whole memory of the buffer. Its first `len` bytes are the bytes that arrived.
    memory: Box<[u8]>,
    /// Number of bytes that arrived in the buffer.
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

    /// Wraps `bytes` in a buffer that belongs to no backend. The caller must not recycle this buffer.
    pub(crate) fn of(bytes: Vec<u8>) -> Self {
        Self { len: bytes.len(), memory: bytes.into_boxed_slice(), id: Self::UNOWNED }
    }

    /// Returns whether the buffer belongs to no backend.
    pub(crate) fn is_unowned(&self) -> bool {
        self.id == Self::UNOWNED
    }

    /// Copies `bytes` into the buffer, as if a peer had sent the bytes.
    #[cfg(test)]
    pub(crate) fn fill(&mut self, bytes: &[u8]) {
        self.memory[..bytes.len()].copy_from_slice(bytes);
        self.len = bytes.len();
    }

    /// Returns the number of bytes that fit in the buffer.
    #[cfg(test)]
    pub(crate) fn capacity(&self) -> usize {
        self.memory.len()
    }

    /// Returns the number by which the backend recognises the buffer.
    #[cfg(test)]
    pub(crate) fn id(&self) -> u16 {
        self.id
    }

    /// Removes the first `len` of the bytes that arrived.
    pub(crate) fn skip(&mut self, len: usize) {
        self.memory.copy_within(len..self.len, 0);
        self.len -= len;
    }

    /// Returns the bytes that arrived. The caller may change these bytes in place.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.memory[..self.len]
    }
}

/// Sizes of a backend, fixed when the backend is made.
#[derive(Clone, Debug)]
pub struct BackendOptions {
    /// Number of receive buffers, a power of two.
    pub buffers: u16,
    /// Length of each receive buffer in bytes.
    pub buffer_len: usize,
    /// Maximum number of connections that the backend holds at a time. An io_uring's table of direct descriptors has
    /// this length.
    pub slots: u32,
}

impl BackendOptions {
    /// Returns the length of all receive buffers together, in bytes.
    fn buffer_bytes(&self) -> usize {
        usize::from(self.buffers) * self.buffer_len
    }
}

impl Default for BackendOptions {
    fn default() -> Self {
        Self { buffers: 256, buffer_len: 32 * 1024, slots: 20_000 }
    }
}

/// The progress of a send in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SendProgress {
    /// Number of bytes that the kernel has not taken yet, as far as is known.
    pub left: usize,
    /// Time when the send started or the kernel last took bytes of it, in nanoseconds on the clock of
    /// [`Backend::now_ns`], as far as is known.
    pub moved_ns: u64,
}

/// Counters and sizes of a backend, for statistics.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    /// Number of times that the io_uring's completion queue was full. The kernel keeps further completions until the
    /// queue has room.
    pub ring_overflows: u64,
    /// Number of times that receiving had to wait for a free buffer.
    pub starved: u64,
    /// Number of sends in flight.
    pub sends_under_way: usize,
    /// Length of all receive buffers together, in bytes.
    pub buffer_bytes: usize,
}

/// The sockets of one shard. The documentation of the `io` module has the rules for the caller.
pub trait Backend {
    /// Hands all requests to the kernel, waits for events for at most `timeout`, and appends the events to `events`.
    /// Without a timeout, the wait lasts until an event comes or a [`Waker`] wakes the backend. Where possible, a poll
    /// takes one system call.
    ///
    /// Returns the time when the wait ended, in nanoseconds on the clock of [`Backend::now_ns`]. A poll may return
    /// early and without events, for instance when a signal interrupts it.
    ///
    /// # Errors
    /// When the io_uring or the epoll instance is broken. The failure of one connection is an event, not an error.
    fn poll(&mut self, timeout: Option<Duration>, events: &mut Vec<IoEvent>) -> io::Result<u64>;

    /// Sends `span` on a connection that has no other send in flight.
    fn send(&mut self, slot: Slot, span: Span, more: More);

    /// Returns the progress of a connection's send in flight, or `None` without one. [`Backend::nudge`] updates it.
    fn send_progress(&self, slot: Slot) -> Option<SendProgress>;

    /// Hands the rest of a connection's send in flight to the kernel again. The next polls then learn whether the kernel
    /// has taken bytes of it. Without this, a kernel that still waits for the peer need not tell.
    fn nudge(&mut self, slot: Slot);

    /// Stops receiving from a connection. Bytes that have arrived already may still be reported.
    fn pause(&mut self, slot: Slot);

    /// Resumes receiving from a connection after `pause`.
    fn resume(&mut self, slot: Slot);

    /// Sends a FIN on a connection after its send in flight, if there is one. Receiving continues.
    fn shutdown(&mut self, slot: Slot);

    /// Ends a connection; the event `Closed` follows. A second call with `Close::Reset` turns a graceful close into a
    /// reset.
    fn close(&mut self, slot: Slot, how: Close);

    /// Takes a receive buffer back from the caller.
    fn recycle(&mut self, buffer: Buffer);

    /// Closes the listeners. Connections that the kernel accepts before the listeners are closed are still reported.
    fn stop_accepting(&mut self);

    /// Returns whether [`Backend::stop_accepting`] is complete. After that, no `Accepted` follows.
    fn has_stopped(&self) -> bool;

    /// Reads a monotonic clock, in nanoseconds.
    fn now_ns(&self) -> u64;

    /// Returns the backend's counters and sizes.
    fn usage(&self) -> Usage;

    /// Returns a handle with which other threads end the wait of `poll`.
    fn waker(&self) -> Waker;
}

/// Returns the shorter of `timeout` and `wait_ms` (milliseconds). `None` means no limit.
pub(crate) fn shorter(timeout: Option<Duration>, wait_ms: Option<u64>) -> Option<Duration> {
    timeout.into_iter().chain(wait_ms.map(Duration::from_millis)).min()
}

/// Converts an IPv4-mapped IPv6 address to IPv4, so that a client has one address on all listeners.
pub(crate) fn canonical(peer: SocketAddr) -> SocketAddr {
    match peer.ip().to_canonical() {
        ip if ip == peer.ip() => peer,
        ip => SocketAddr::new(ip, peer.port()),
    }
}

/// Returns whether accepting failed because descriptors or memory ran out. An immediate retry would fail, too.
fn is_out_of_resources(error: &io::Error) -> bool {
    let causes = [libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM];
    error.raw_os_error().is_some_and(|error| causes.contains(&error))
}
