//! Listening sockets, and the limit of open descriptors.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::socket::{
    AddressFamily, Backlog, Shutdown, SockFlag, SockProtocol, SockType, SockaddrStorage, bind, setsockopt,
    shutdown, socket, sockopt,
};

use super::path::Pending;

/// Time between the closes of two workers' listeners. In this time, the kernel moves waiting connections from the
/// closed listener to another listener.
const MOVE_TIME: Duration = Duration::from_millis(1);

/// Longest wait for the kernel to release the listen address of a process that has ended. An io_uring releases its
/// listeners about 15 ms after the process is gone.
const RELEASE_TIME: Duration = Duration::from_secs(1);
/// Time between two attempts to bind an address that is still in use.
const RELEASE_RETRY: Duration = Duration::from_millis(5);

/// Maximum number of connections that wait at a listener to be accepted. The kernel lowers this number to
/// `net.core.somaxconn`, 4,096 by default.
pub(super) const BACKLOG: Backlog = Backlog::MAXALLOWABLE;

/// A listening TCP or Unix socket.
#[derive(Debug)]
pub enum Listener {
    /// A TCP socket that all workers share.
    Tcp(TcpListener),
    /// A TCP socket of one worker alone. Each other worker has another socket on this address.
    Own(TcpListener),
    /// A Unix socket that all workers share.
    Unix(UnixListener),
}

impl Listener {
    /// Listens on a TCP address, which other listeners of this user may share (SO_REUSEPORT). The kernel spreads
    /// connections over all listeners of the address. `[::]` accepts IPv4 connections, too.
    ///
    /// # Errors
    /// When another user listens on the address, no interface has the address, or no descriptor is left.
    pub fn tcp(address: SocketAddr) -> io::Result<Self> {
        let listener = shared(address)?;
        listener.set_nonblocking(true)?;
        Ok(Self::Own(listener))
    }

    /// Listens on a Unix socket at `path`, with the permissions that the umask gives. Replaces a socket that an earlier
    /// process left at the path.
    ///
    /// # Errors
    /// When something else is at the path (`AddrInUse`), or the file system refuses.
    pub fn unix(path: &Path) -> io::Result<Self> {
        let (listener, pending) = Pending::bind(path, false)?;
        pending.commit()?;
        Ok(listener)
    }

    /// Duplicates the listener's descriptor. The socket stays open until the original and the duplicate are closed.
    ///
    /// # Errors
    /// When no descriptor is left.
    pub fn try_clone(&self) -> io::Result<Self> {
        match self {
            Self::Tcp(listener) | Self::Own(listener) => listener.try_clone().map(Self::Tcp),
            Self::Unix(listener) => listener.try_clone().map(Self::Unix),
        }
    }

    /// Sets TCP_NODELAY for connections accepted from this listener. [`Listener::tcp`] has set the option already.
    ///
    /// # Errors
    /// When the option cannot be set on a TCP socket.
    pub fn set_nodelay(&self) -> io::Result<()> {
        match self {
            Self::Tcp(listener) | Self::Own(listener) => set_nodelay(listener),
            Self::Unix(_) => Ok(()),
        }
    }

    /// Returns the address of a TCP listener, or `None` for a Unix socket.
    pub(crate) fn local_addr(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(listener) | Self::Own(listener) => listener.local_addr().ok(),
            Self::Unix(_) => None,
        }
    }

    /// Returns whether the socket belongs to one worker alone.
    pub(super) fn is_own(&self) -> bool {
        matches!(self, Self::Own(_))
    }

    pub(super) fn set_nonblocking(&self, nonblocking: bool) -> io::Result<()> {
        match self {
            Self::Tcp(listener) | Self::Own(listener) => listener.set_nonblocking(nonblocking),
            Self::Unix(listener) => listener.set_nonblocking(nonblocking),
        }
    }

    /// Accepts a connection. Returns its descriptor and the peer's address, which is `None` for a Unix socket.
    pub(super) fn accept(&self) -> io::Result<(OwnedFd, Option<SocketAddr>)> {
        match self {
            Self::Tcp(listener) | Self::Own(listener) => {
                listener.accept().map(|(stream, peer)| (stream.into(), Some(peer)))
            }
            Self::Unix(listener) => listener.accept().map(|(stream, _)| (stream.into(), None)),
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(listener) | Self::Own(listener) => listener.as_fd(),
            Self::Unix(listener) => listener.as_fd(),
        }
    }
}

impl AsRawFd for Listener {
    fn as_raw_fd(&self) -> RawFd {
        self.as_fd().as_raw_fd()
    }
}

/// Opens a blocking TCP listener on `address`, which other listeners of this user may share (SO_REUSEPORT).
pub(crate) fn shared(address: SocketAddr) -> io::Result<TcpListener> {
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let socket = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, SockProtocol::Tcp)?;
    setsockopt(&socket, sockopt::ReuseAddr, &true)?;
    setsockopt(&socket, sockopt::ReusePort, &true)?;
    set_nodelay(&socket)?;
    if address.is_ipv6() {
        setsockopt(&socket, sockopt::Ipv6V6Only, &false)?;
    }
    bind(socket.as_raw_fd(), &SockaddrStorage::from(address))?;
    nix::sys::socket::listen(&socket, BACKLOG)?;
    Ok(TcpListener::from(socket))
}

/// Sets TCP_NODELAY on a listener. Accepted sockets inherit the option, which saves a system call for each connection.
fn set_nodelay(listener: &impl AsFd) -> io::Result<()> {
    Ok(setsockopt(listener, sockopt::TcpNoDelay, &true)?)
}

/// Runs `bind`, and retries for up to a second while the address is in use. The kernel keeps the listeners of a killed
/// process for a moment.
pub(crate) fn when_released<T>(mut bind: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    let deadline = Instant::now() + RELEASE_TIME;
    loop {
        match bind() {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < deadline => {
                std::thread::sleep(RELEASE_RETRY);
            }
            result => return result,
        }
    }
}

/// Closes the listeners of a worker, one worker at a time. The kernel moves connections that wait at a closing listener
/// to another listener on the address. If that listener is closing at the same moment, the kernel resets the
/// connections.
///
/// An io_uring may keep a socket open after its descriptor is closed. So `shutdown` ends listening on the sockets of
/// this worker alone, before the call returns. A handshake that completes on another processor during the call seems to
/// move a little later, hence the pause.
pub(super) fn close(listeners: Vec<Listener>) {
    static CLOSING: Mutex<()> = Mutex::new(());
    if listeners.is_empty() {
        return;
    }
    let _alone = CLOSING.lock().unwrap_or_else(PoisonError::into_inner);
    for listener in listeners.iter().filter(|listener| listener.is_own()) {
        // `shutdown` does not fail on a listening socket. If it did, closing the descriptor would end listening a
        // little later.
        let _ = shutdown(listener.as_raw_fd(), Shutdown::Read);
    }
    std::thread::sleep(MOVE_TIME);
}

/// Returns whether the kernel resets connections that wait at a closing listener. With `net.ipv4.tcp_migrate_req`
/// (Linux 5.14), the kernel moves such connections to another listener on the address. False when the kernel's settings
/// are hidden.
pub(crate) fn waiting_connections_are_reset() -> bool {
    match std::fs::read_to_string("/proc/sys/net/ipv4/tcp_migrate_req") {
        Ok(value) => value.trim() != "1",
        // A kernel that shows other settings but not `tcp_migrate_req` is too old to move connections.
        Err(_) => Path::new("/proc/sys/net/ipv4").exists(),
    }
}

/// Raises the soft limit of open descriptors to the hard limit. Returns the new limit.
///
/// # Errors
/// When the kernel refuses the new limit. The old limit then stays.
pub fn raise_descriptor_limit() -> io::Result<u64> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    }
    Ok(hard)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_listeners_share_one_address() {
        let first = Listener::tcp("127.0.0.1:0".parse().expect("an address")).expect("listen");
        let address = first.local_addr().expect("bound");
        let second = Listener::tcp(address).expect("listen beside the first");
        assert_eq!(second.local_addr(), Some(address));
    }

    #[test]
    fn an_address_that_is_released_late_is_had_and_one_that_stays_in_use_is_an_error() {
        let address = "127.0.0.1:0".parse::<SocketAddr>().expect("an address");
        let first = TcpListener::bind(address).expect("listen");
        let address = first.local_addr().expect("bound");
        let start = Instant::now();
        let error = when_released(|| TcpListener::bind(address)).expect_err("the first listener has it");
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        assert!(start.elapsed() >= RELEASE_TIME);
        let mut attempts = 0;
        let mut first = Some(first);
        when_released(|| {
            attempts += 1;
            if attempts == 3 {
                first = None;
            }
            TcpListener::bind(address)
        })
        .expect("the address is free with the third attempt");
        assert_eq!(attempts, 3);
    }

    #[test]
    fn the_descriptor_limit_is_raised_to_the_hard_limit() {
        let limit = raise_descriptor_limit().expect("raising to the hard limit is always allowed");
        assert_eq!(getrlimit(Resource::RLIMIT_NOFILE).expect("readable"), (limit, limit));
    }
}
