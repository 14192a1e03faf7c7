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

/// Time for the kernel to move waiting connections from a closed listener to another one, before that one may close.
const MOVE_TIME: Duration = Duration::from_millis(1);

/// Longest time that an address may stay in use after the end of its process. A ring gives its listeners back some 15
/// ms after the process is gone.
const RELEASE_TIME: Duration = Duration::from_secs(1);
/// Time between two attempts to use such an address.
const RELEASE_RETRY: Duration = Duration::from_millis(5);

/// Most connections that may wait to be accepted. The kernel limits it to `net.core.somaxconn`, 4,096 by default.
pub(super) const BACKLOG: Backlog = Backlog::MAXALLOWABLE;

/// A listening socket.
#[derive(Debug)]
pub enum Listener {
    /// A TCP socket that the workers share.
    Tcp(TcpListener),
    /// A TCP socket of one worker. The other workers have sockets of their own on its address.
    Own(TcpListener),
    /// A Unix socket, which the workers share.
    Unix(UnixListener),
}

impl Listener {
    /// Listens on `address`, beside other listeners of this user on it (SO_REUSEPORT). The kernel spreads connections
    /// over them. `[::]` takes IPv4 connections, too.
    ///
    /// # Errors
    /// When another user has the address, no interface has it, or no descriptor is left.
    pub fn tcp(address: SocketAddr) -> io::Result<Self> {
        let listener = shared(address)?;
        listener.set_nonblocking(true)?;
        Ok(Self::Own(listener))
    }

    /// Listens on a path, with the permissions that the umask gives. Replaces a socket that an earlier process left
    /// there.
    ///
    /// # Errors
    /// When something else is there (`AddrInUse`), or the file system refuses.
    pub fn unix(path: &Path) -> io::Result<Self> {
        let (listener, pending) = Pending::bind(path, false)?;
        pending.commit()?;
        Ok(listener)
    }

    /// Duplicates the descriptor. Closing one of the two leaves the socket open.
    ///
    /// # Errors
    /// When no descriptor is left.
    pub fn try_clone(&self) -> io::Result<Self> {
        match self {
            Self::Tcp(listener) | Self::Own(listener) => listener.try_clone().map(Self::Tcp),
            Self::Unix(listener) => listener.try_clone().map(Self::Unix),
        }
    }

    /// Sets TCP_NODELAY for accepted connections. [`Listener::tcp`] has set it already.
    ///
    /// # Errors
    /// When the descriptor is no TCP socket.
    pub fn set_nodelay(&self) -> io::Result<()> {
        match self {
            Self::Tcp(listener) | Self::Own(listener) => set_nodelay(listener),
            Self::Unix(_) => Ok(()),
        }
    }

    /// The address of a TCP listener.
    pub(crate) fn local_addr(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(listener) | Self::Own(listener) => listener.local_addr().ok(),
            Self::Unix(_) => None,
        }
    }

    /// Whether the socket belongs to one worker alone.
    pub(super) fn is_own(&self) -> bool {
        matches!(self, Self::Own(_))
    }

    pub(super) fn set_nonblocking(&self, nonblocking: bool) -> io::Result<()> {
        match self {
            Self::Tcp(listener) | Self::Own(listener) => listener.set_nonblocking(nonblocking),
            Self::Unix(listener) => listener.set_nonblocking(nonblocking),
        }
    }

    /// Accepts a connection. Returns it and its peer, or `None` for the peer of a Unix socket.
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

/// Opens a blocking listener on `address`, beside other listeners of this user on it (SO_REUSEPORT).
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

/// Sets TCP_NODELAY. Accepted sockets inherit it, which saves a system call for each.
fn set_nodelay(listener: &impl AsFd) -> io::Result<()> {
    Ok(setsockopt(listener, sockopt::TcpNoDelay, &true)?)
}

/// Runs `bind`. Retries for up to a second while the address is in use, because the kernel keeps the listeners of a
/// process that was killed for a moment.
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
/// to another one on its address. It resets them if that one is closing at the same moment.
///
/// A ring may hold a socket longer than its descriptor. So sockets of the worker alone are shut down, which takes
/// effect before the call returns. The kernel seems to move handshakes that complete meanwhile on another processor a
/// little later, hence the pause.
pub(super) fn close(listeners: Vec<Listener>) {
    static CLOSING: Mutex<()> = Mutex::new(());
    if listeners.is_empty() {
        return;
    }
    let _alone = CLOSING.lock().unwrap_or_else(PoisonError::into_inner);
    for listener in listeners.iter().filter(|listener| listener.is_own()) {
        // This does not fail on a listening socket. If it did, closing would have the same effect a little later.
        let _ = shutdown(listener.as_raw_fd(), Shutdown::Read);
    }
    std::thread::sleep(MOVE_TIME);
}

/// Whether the kernel resets connections that wait at a closing listener, instead of moving them to another one on its
/// address (`net.ipv4.tcp_migrate_req`, Linux 5.14). False when the kernel's settings are hidden.
pub(crate) fn waiting_connections_are_reset() -> bool {
    match std::fs::read_to_string("/proc/sys/net/ipv4/tcp_migrate_req") {
        Ok(value) => value.trim() != "1",
        // A kernel that shows other settings but not this one is too old for it.
        Err(_) => Path::new("/proc/sys/net/ipv4").exists(),
    }
}

/// Raises the soft limit of open descriptors to the hard limit. Returns the new limit.
///
/// # Errors
/// When the kernel refuses. The limit is unchanged then.
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
