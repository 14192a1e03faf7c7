//! The kernel as the backend sees it: what it is asked, and what it answers.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, RawFd};
use std::time::Duration;

use super::accepts::{Addresses, PER_LISTENER};
use super::buffers::Buffers;
use super::operation::{self, Operation};
use super::ring::{Completion, Ring};
use crate::chunk::Span;
use crate::io::sends::SendId;
use crate::io::{Buffer, Listener, Options, Slot, clock, listen};

/// What the kernel is asked to do; the completion names it by its operation.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Request<'a> {
    /// Accept one connection of the listener with this index, and keep its peer as number `at`.
    Accept {
        at: u32,
        listener: usize,
    },
    CancelAccept(u32),
    /// Receive into buffers until something ends it.
    Receive(Slot),
    /// Say when there is something to receive.
    Poll(Slot),
    /// Send all of the span; if it is the last one, together with the end that will follow.
    Send {
        slot: Slot,
        id: SendId,
        span: &'a Span,
        is_last: bool,
    },
    Shutdown(Slot),
    /// Cancel an operation of the connection.
    Cancel(Slot, Operation),
    /// Make the `Close` that is pushed right after it a reset.
    Linger(Slot),
    Close(Slot),
    /// Report each write to this event.
    Wake(RawFd),
}

/// The kernel's side of a ring, so that a simulated one can take its place.
pub(crate) trait Kernel {
    /// Takes a request, to be handed over by the next `enter`.
    ///
    /// # Safety
    /// The memory of a span stays valid until the completion of its operation, or until `quiesce` said that
    /// nothing is under way.
    unsafe fn push(&mut self, request: Request<'_>);

    /// Hands over all requests and waits for a completion, at most `timeout`.
    fn enter(&mut self, timeout: Option<Duration>) -> io::Result<()>;

    /// Has the kernel report all that has happened, without waiting.
    fn look(&mut self) -> io::Result<()>;

    /// Takes the completions there are.
    fn take_completions(&mut self, into: &mut Vec<Completion>);

    /// Ends all that is under way, and says whether that worked; if not, the memory of spans must stay.
    fn quiesce(&mut self) -> bool;

    /// The peer that the last accept with this number, which has completed, found; one that came by a path has none.
    fn peer(&mut self, at: u32) -> Option<SocketAddr>;

    /// Number of listeners.
    fn listeners(&self) -> usize;

    fn close_listeners(&mut self);

    /// Takes a receive buffer that is free again.
    fn give(&mut self, buffer: Buffer);

    /// Takes a buffer back that a completion said to hold `len` bytes.
    fn take(&mut self, id: u16, len: usize) -> Buffer;

    /// Has the kernel use buffers that are free, while so many connections wait for one. Says how many it can fill now.
    fn lend(&mut self, waiting: usize) -> usize;

    /// Nanoseconds on a monotonic clock.
    fn now_ns(&self) -> u64;

    /// Times that completions were found to have overflowed the ring.
    fn overflows(&self) -> u64 {
        0
    }
}

/// The real one.
pub(crate) struct Linux {
    /// First, so that it is closed before the memory below is freed.
    ring: Ring,
    listeners: Vec<Listener>,
    addresses: Addresses,
    buffers: Buffers,
}

impl Linux {
    pub(super) fn new(options: &Options, listeners: Vec<Listener>, submissions: u32) -> io::Result<Self> {
        let ring = Ring::new(submissions, options.slots)?;
        for listener in &listeners {
            // Kernels differ in whether the ring waits on a non-blocking descriptor or reports EAGAIN.
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
            Request::Poll(slot) => operation::poll(slot),
            Request::Send { slot, id, span, is_last } => operation::send(slot, id, span.bytes(), is_last),
            Request::Shutdown(slot) => operation::shutdown(slot),
            Request::Cancel(slot, target) => operation::cancel(slot, target),
            Request::Linger(slot) => operation::linger(slot),
            Request::Close(slot) => operation::close(slot),
            Request::Wake(event) => operation::wake(event),
        };
        // SAFETY: what entries point to is a static, an address of `addresses`, which is kept until `quiesce`
        // has said that nothing is under way, or a span that the caller keeps.
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
        let quiet = self.ring.quiesce();
        if !quiet {
            // The kernel may still write an address or a buffer.
            std::mem::forget(std::mem::take(&mut self.addresses));
            self.buffers.leak();
        }
        quiet
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
