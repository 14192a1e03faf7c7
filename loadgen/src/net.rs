//! The sockets, the timer and the wake-up of a worker, over epoll.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::sync::Arc;
use std::time::Duration;

use mio::event::Source;
use mio::net::TcpStream;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token, Waker};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};

use crate::clock::{SECOND_NS, now_ns};

const TIMER: Token = Token(usize::MAX - 1);
const WAKER: Token = Token(usize::MAX);
/// Longest wait for socket events, in nanoseconds. The worker checks its timeouts between waits.
const MAX_WAIT_NS: u64 = SECOND_NS / 10;

/// The readiness of one socket.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ready {
    /// The slot of the socket's connection.
    pub(crate) slot: usize,
    /// The socket has bytes to read, or the end of the stream.
    pub(crate) readable: bool,
    /// The server has closed the connection. Read until the end of the stream, even after a short read.
    pub(crate) ended: bool,
    /// The socket has room for bytes, or the connection attempt has ended.
    pub(crate) writable: bool,
}

/// The sockets, timer and wake-up of one worker. Socket readiness is edge-triggered.
pub(crate) struct Net {
    poll: Poll,
    events: Events,
    waker: Arc<Waker>,
    /// The timer for scheduled messages, because the timeout of `epoll_wait` has whole milliseconds only.
    timer: TimerFd,
    /// The time when the timer fires, in nanoseconds. 0 means that the timer is not set.
    armed_ns: u64,
}

impl Net {
    pub(crate) fn new() -> io::Result<Self> {
        let poll = Poll::new()?;
        let waker = Arc::new(Waker::new(poll.registry(), WAKER)?);
        let timer =
            TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC)?;
        SourceFd(&timer.as_fd().as_raw_fd()).register(poll.registry(), TIMER, Interest::READABLE)?;
        Ok(Self { poll, events: Events::with_capacity(1024), waker, timer, armed_ns: 0 })
    }

    /// Returns a handle with which another thread ends [`Net::wait`] early.
    pub(crate) fn waker(&self) -> Arc<Waker> {
        self.waker.clone()
    }

    /// Starts a connection attempt to `address`. The socket of `slot` becomes writable when the attempt has ended.
    pub(crate) fn connect(&self, slot: usize, address: SocketAddr) -> io::Result<TcpStream> {
        let mut stream = TcpStream::connect(address)?;
        let interest = Interest::READABLE | Interest::WRITABLE;
        self.poll.registry().register(&mut stream, Token(slot), interest)?;
        Ok(stream)
    }

    /// Waits for ready sockets, a wake-up, or the time `until_ns`, but at most a tenth of a second. Ready sockets go to
    /// `ready`.
    pub(crate) fn wait(&mut self, until_ns: Option<u64>, ready: &mut Vec<Ready>) -> io::Result<()> {
        let now = now_ns();
        let mut timeout_ns = MAX_WAIT_NS;
        match until_ns {
            Some(until) if until <= now => timeout_ns = 0,
            Some(until) if until < now + MAX_WAIT_NS => self.arm(until)?,
            _ => {}
        }
        match self.poll.poll(&mut self.events, Some(Duration::from_nanos(timeout_ns))) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
            _ => {}
        }
        ready.clear();
        for event in &self.events {
            match event.token() {
                TIMER => self.armed_ns = 0,
                WAKER => {}
                Token(slot) => ready.push(Ready {
                    slot,
                    readable: event.is_readable(),
                    ended: event.is_read_closed() || event.is_error(),
                    writable: event.is_writable(),
                }),
            }
        }
        Ok(())
    }

    fn arm(&mut self, until_ns: u64) -> io::Result<()> {
        if self.armed_ns == until_ns {
            return Ok(());
        }
        let at = TimeSpec::from_duration(Duration::from_nanos(until_ns));
        self.timer.set(Expiration::OneShot(at), TimerSetTimeFlags::TFD_TIMER_ABSTIME)?;
        self.armed_ns = until_ns;
        Ok(())
    }
}
