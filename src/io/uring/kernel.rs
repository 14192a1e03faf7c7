//! The interface between backend and kernel: the requests, and the trait of a ring.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, RawFd};
use std::time::Duration;

use crate::chunk::Span;
use crate::io::sends::SendId;
use crate::io::{BackendOptions, Buffer, Listener, More, Slot, clock, listen};

use super::accepts::{Addresses, PER_LISTENER};
use super::buffers::Buffers;
use super::operation::{self, Operation};
use super::ring::{Completion, Ring};

/// A request to the kernel. Its completion names the [`Operation`].
#[derive(Clone, Copy, Debug)]
pub(crate) enum Request<'a> {
    /// Accept one connection of the listener with this index, and write its peer to address buffer `at`.
    Accept { at: u32, listener: usize },
    /// Cancel the accept operation with this number.
    CancelAccept(u32),
    /// Receive from the connection into lent buffers until an error or the end of the stream.
    Receive(Slot),
    /// Send all bytes of the span on the connection.
    Send { slot: Slot, id: SendId, span: &'a Span, more: More },
    /// Send a FIN to the peer.
    Shutdown(Slot),
    /// Cancel this operation of the connection.
    Cancel(Slot, Operation),
    /// Make the `Close` request pushed right after this one a reset.
    Linger(Slot),
    /// Close the connection's descriptor.
    Close(Slot),
    /// Report each write to the waker's event descriptor.
    Wake(RawFd),
}

/// The kernel's side of an io_uring. The simulation implements this trait, too.
pub(crate) trait Kernel {
    /// Queues a request for the next `enter`.
    ///
    /// # Safety
    /// The caller keeps the memory of a span valid until its operation completes, or until `quiesce` has returned true.
    unsafe fn push(&mut self, request: Request<'_>);

    /// Submits all queued requests and waits for a completion, for at most `timeout`.
    fn enter(&mut self, timeout: Option<Duration>) -> io::Result<()>;

    /// Makes the kernel post further completions to the completion queue, without waiting.
    fn look(&mut self) -> io::Result<()>;

    /// Appends all posted completions to `into`.
    fn take_completions(&mut self, into: &mut Vec<Completion>);

    /// Cancels all operations and waits until they have completed. Returns whether no operation is left; if false, the
    /// memory of spans must stay.
    fn quiesce(&mut self) -> bool;

    /// Returns the peer's address of the completed accept `at`, or `None` for a Unix socket.
    fn peer(&mut self, at: u32) -> Option<SocketAddr>;

    /// Returns the number of listeners.
    fn listeners(&self) -> usize;

    /// Closes the listeners. No accept may be in flight on any listener.
    fn close_listeners(&mut self);

    /// Takes a free receive buffer back from the caller.
    fn give(&mut self, buffer: Buffer);

    /// Takes the lent buffer `id` back from the kernel, which has filled it with `len` bytes.
    fn take(&mut self, id: u16, len: usize) -> Buffer;

    /// Lends free buffers to the kernel while `waiting` sockets wait for a buffer. Returns the number of buffers that
    /// the kernel can fill now.
    fn lend(&mut self, waiting: usize) -> usize;

    /// Reads a monotonic clock, in nanoseconds.
    fn now_ns(&self) -> u64;

    /// Returns the number of times that the completion queue was full.
    fn overflows(&self) -> u64 {
        0
    }
}

/// The Linux kernel of this machine, with an io_uring.
pub(crate) struct Linux {
    /// The io_uring. The first field, so that the ring is closed before the memory below is freed.
    ring: Ring,
    listeners: Vec<Listener>,
    addresses: Addresses,
    buffers: Buffers,
}

impl Linux {
    /// Makes the io_uring and its receive buffers.
    ///
    /// # Errors
    /// When the kernel refuses the ring or the buffers; the error names the cause.
    pub(super) fn new(
        options: &BackendOptions,
        listeners: Vec<Listener>,
        submissions: u32,
    ) -> io::Result<Self> {
        let ring = Ring::new(submissions, options.slots)?;
        for listener in &listeners {
            // For accepts on a non-blocking listener, some kernels wait for a connection and others report EAGAIN.
            listener.set_nonblocking(false)?;
        }
        let addresses = Addresses::new(PER_LISTENER * listeners.len());
        Ok(Self { buffers: Buffers::new(options, &ring)?, ring, listeners, addresses })
    }
}

impl Kernel for Linux {
    unsafe fn push(&mut self, request: Request<'_>) {
        let entry = match request {
            Request::Accept { at, listener } => {
                let (address, len) = self.addresses.lend(at);
                operation::accept(at, self.listeners[listener].as_raw_fd(), address, len)
            }
            Request::CancelAccept(at) => operation::cancel_accept(at),
            Request::Receive(slot) => operation::receive(slot),
            Request::Send { slot, id, span, more } => operation::send(slot, id, span.bytes(), more),
            Request::Shutdown(slot) => operation::shutdown(slot),
            Request::Cancel(slot, target) => operation::cancel(slot, target),
            Request::Linger(slot) => operation::linger(slot),
            Request::Close(slot) => operation::close(slot),
            Request::Wake(event) => operation::wake(event),
        };
        // SAFETY: an entry points to a static, to an address buffer, which is kept until `quiesce` has returned true,
        // or to a span that the caller keeps.
        unsafe { self.ring.push(entry) };
    }

    fn enter(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        self.ring.enter(timeout)
    }

    fn look(&mut self) -> io::Result<()> {
        self.ring.look()
    }

    fn take_completions(&mut self, into: &mut Vec<Completion>) {
        self.ring.take_completions(into);
    }

    fn quiesce(&mut self) -> bool {
        let is_quiet = self.ring.quiesce();
        if !is_quiet {
            // The kernel may still write to an address buffer or a receive buffer, so their memory must stay.
            std::mem::forget(std::mem::take(&mut self.addresses));
            self.buffers.leak();
        }
        is_quiet
    }

    fn peer(&mut self, at: u32) -> Option<SocketAddr> {
        self.addresses.peer(at)
    }

    fn listeners(&self) -> usize {
        self.listeners.len()
    }

    fn close_listeners(&mut self) {
        listen::close(std::mem::take(&mut self.listeners));
    }

    fn give(&mut self, buffer: Buffer) {
        self.buffers.give(buffer);
    }

    fn take(&mut self, id: u16, len: usize) -> Buffer {
        self.buffers.take(id, len)
    }

    fn lend(&mut self, waiting: usize) -> usize {
        self.buffers.lend(waiting)
    }

    fn now_ns(&self) -> u64 {
        clock::now_ns()
    }

    fn overflows(&self) -> u64 {
        self.ring.overflows()
    }
}
