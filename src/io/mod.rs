//! The backend contract: sockets in completion form, on io_uring or on epoll.
//!
//! A backend belongs to one thread. It owns the listeners, the connections' descriptors and the receive
//! buffers. The caller asks for things (`send`, `pause`, `close` …), and [`Backend::poll`] hands those requests
//! to the kernel in one go, waits, and reports what happened as [`Event`]s.
//!
//! # Rules
//! - A [`Slot`] names a connection from its `Accepted` to its `Closed`. It is not used again before `Closed`
//!   was reported, and no event names it afterwards, so a slot needs no generation here.
//! - Receiving starts by itself after `Accepted`, and stops after `Ended` and after `Failed`.
//! - At most one send a slot is under way. Its completion is `Sent` when every byte was taken by the kernel
//!   (the backend continues short sends), otherwise `Failed`.
//! - After `Failed` the caller owes a `close`; no `Sent`, `Received` or further `Failed` follows.
//! - After [`Backend::close`] the only event to come for the slot is `Closed`. What was under way is cancelled,
//!   and its buffers come back before `Closed` is reported. Events of the batch that the caller is still
//!   handling when it closes may name the slot, of course.
//! - Requests for a connection that has failed or is being closed are ignored, since the caller may not have
//!   handled the event yet. A span given to such a `send` is dropped without `Sent`.
//! - Every [`Buffer`] goes back with [`Backend::recycle`]. While all are out, data stays in the kernel, and
//!   receiving goes on when the first one returns: this is load, not an error.

mod admission;
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
pub use epoll::Epoll;
pub use listen::Listener;
pub use uring::Uring;
pub use wake::Waker;

/// Index of a connection within one backend: small, dense, used again after `Closed`.
pub type Slot = u32;

/// What a backend reports. `slot` is the connection in question.
#[derive(Debug)]
#[expect(missing_docs, reason = "the variants' own text says what their fields are")]
pub enum Event {
    /// A connection of the listener with this index was accepted and is being received from. `peer` is where it is
    /// from, unless it came by a path.
    Accepted { slot: Slot, listener: u16, peer: Option<SocketAddr> },
    /// A proxy has said where the connection is from, in a header before the client's own bytes, or that it does not
    /// tell. No backend reports it, only the layer `proxied`.
    Proxied { slot: Slot, peer: Option<SocketAddr> },
    /// The header that a proxy owes did not come, for this reason. What the peer sends after that is reported, and counts
    /// for nothing. No backend reports it, only the layer `proxied`.
    Unproxied { slot: Slot, reason: &'static str },
    /// Bytes arrived; they are in `buffer`.
    Received { slot: Slot, buffer: Buffer },
    /// The peer will send no more (end of stream); sending still works.
    Ended { slot: Slot },
    /// The send under way is complete.
    Sent { slot: Slot },
    /// Receiving or sending failed with `error` (reset, time-out, …): the connection is of no more use.
    Failed { slot: Slot, error: io::Error },
    /// The client speaks no TLS where it should, or none that we can. Nothing more is received from it. One that speaks
    /// plain HTTP can be answered so: the connection goes on without TLS. Any other one is told when our direction is
    /// ended, and what is sent to it fails. No backend reports it, only the layer `tls`.
    Insecure { slot: Slot, is_http: bool },
    /// The slot is free; the last event that names this connection.
    Closed { slot: Slot },
    /// No descriptor is left for another connection. Reported once when accepting pauses; it goes on by
    /// itself when a connection closes.
    Full,
    /// Accepting paused by `Full` goes on.
    Accepting,
}

/// How to end a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Close {
    /// What the kernel has already taken is still delivered.
    Graceful,
    /// Reset: unsent data is dropped at once, so that a peer that reads nothing holds no kernel memory.
    Reset,
}

/// Bytes that arrived, in a buffer borrowed from the backend. It goes back with [`Backend::recycle`].
#[derive(Debug)]
pub struct Buffer {
    /// Whole buffer; the backend finds its own again by `id`.
    memory: Box<[u8]>,
    len: usize,
    id: u16,
}

impl Buffer {
    /// No backend has so many.
    const OWN: u16 = u16::MAX;

    pub(crate) fn new(len: usize, id: u16) -> Self {
        Self { memory: vec![0; len].into_boxed_slice(), len: 0, id }
    }

    /// Bytes that are in no buffer of a backend; it is not to go back to one.
    pub(crate) fn of(bytes: Vec<u8>) -> Self {
        Self { len: bytes.len(), memory: bytes.into_boxed_slice(), id: Self::OWN }
    }

    /// Whether it is no backend's.
    pub(crate) fn is_own(&self) -> bool {
        self.id == Self::OWN
    }

    /// Puts bytes in, as if they had arrived.
    #[cfg(test)]
    pub(crate) fn fill(&mut self, bytes: &[u8]) {
        self.memory[..bytes.len()].copy_from_slice(bytes);
        self.len = bytes.len();
    }

    /// Bytes that fit in.
    #[cfg(test)]
    pub(crate) fn capacity(&self) -> usize {
        self.memory.len()
    }

    /// Index of the buffer.
    #[cfg(test)]
    pub(crate) fn id(&self) -> u16 {
        self.id
    }

    /// Takes away the first `len` bytes.
    pub(crate) fn skip(&mut self, len: usize) {
        self.memory.copy_within(len..self.len, 0);
        self.len -= len;
    }

    /// The bytes that arrived; they may be changed in place.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.memory[..self.len]
    }
}

/// What both backends need to know at the start.
#[derive(Clone, Debug)]
pub struct Options {
    /// Number of receive buffers, a power of two.
    pub buffers: u16,
    /// Bytes of each receive buffer.
    pub buffer_len: usize,
    /// Most connections this backend will hold, which sizes the direct descriptor table of a ring.
    pub slots: u32,
    /// Milliseconds after which a connection that says nothing is parked, which io_uring alone does: between one and
    /// two of them.
    pub park_ms: u64,
}

impl Options {
    /// Bytes of all receive buffers.
    fn buffer_bytes(&self) -> usize {
        usize::from(self.buffers) * self.buffer_len
    }
}

/// What a backend holds and has counted.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    /// Times that completions were found to have overflowed the ring; the kernel keeps them.
    pub ring_overflows: u64,
    /// Times that receiving waited for a free buffer.
    pub starved: u64,
    /// Sends that are not complete.
    pub sends_under_way: usize,
    /// Bytes of the receive buffers.
    pub buffer_bytes: usize,
    /// TLS handshakes completed.
    pub tls_handshakes: u64,
    /// Those among them that went on with a former session.
    pub tls_resumed: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self { buffers: 256, buffer_len: 32 * 1024, slots: 20_000, park_ms: 1000 }
    }
}

/// One shard's sockets. The module's documentation has the rules.
pub trait Backend {
    /// Hands over what was asked for since the last call, waits for events at most `timeout` (`None`: until
    /// one comes or a [`Waker`] wakes) and appends them to `events`. One system call where that is possible.
    /// It may come back early and without events, for instance because a signal or readiness of no interest
    /// ended the wait.
    ///
    /// # Errors
    /// Only when the ring or the epoll instance itself is broken; what happens to one connection is an event.
    fn poll(&mut self, timeout: Option<Duration>, events: &mut Vec<Event>) -> io::Result<()>;

    /// Sends `span`; one at a time for a slot.
    fn send(&mut self, slot: Slot, span: Span);

    /// The same for the last bytes of a connection that is shut down, or closed, when they are sent: the kernel keeps
    /// the rest of them for that, 200 ms at most, so that the end travels with them and not by itself.
    fn send_last(&mut self, slot: Slot, span: Span) {
        self.send(slot, span);
    }

    /// Stops receiving. What has been received already may still be reported.
    fn pause(&mut self, slot: Slot);

    /// Goes on receiving after `pause`.
    fn resume(&mut self, slot: Slot);

    /// Ends our direction of the stream (FIN) after the send under way, if there is one; receiving goes on.
    fn shutdown(&mut self, slot: Slot);

    /// Ends the connection; `Closed` follows.
    fn close(&mut self, slot: Slot, how: Close);

    /// Takes a receive buffer back.
    fn recycle(&mut self, buffer: Buffer);

    /// Closes the listeners. Whoever was being accepted meanwhile is still reported.
    fn stop_accepting(&mut self);

    /// Whether that has come to its end, and no `Accepted` follows.
    fn has_stopped(&self) -> bool;

    /// Nanoseconds on a monotonic clock, as of the last `poll`.
    fn now_ns(&self) -> u64;

    /// The same in milliseconds.
    fn now_ms(&self) -> u64 {
        self.now_ns() / clock::NS_PER_MS
    }

    /// Reads that clock.
    fn clock_ns(&self) -> u64;

    /// What it holds and has counted.
    fn usage(&self) -> Usage;

    /// A handle with which other threads end a waiting `poll`.
    fn waker(&self) -> Waker;
}

/// The shorter of a time-out and a wait for something of our own, if there is that.
pub(crate) fn shorter(timeout: Option<Duration>, wait_ms: Option<u64>) -> Option<Duration> {
    timeout.into_iter().chain(wait_ms.map(Duration::from_millis)).min()
}

/// An IPv4 peer of a dual-stack listener under its IPv4 address, so that one host has one address.
pub(crate) fn canonical(peer: SocketAddr) -> SocketAddr {
    match peer.ip().to_canonical() {
        ip if ip == peer.ip() => peer,
        ip => SocketAddr::new(ip, peer.port()),
    }
}

/// Whether accepting failed for want of descriptors or memory, and so would fail again at once.
fn is_out_of_resources(error: &io::Error) -> bool {
    let causes = [libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM];
    error.raw_os_error().is_some_and(|error| causes.contains(&error))
}
