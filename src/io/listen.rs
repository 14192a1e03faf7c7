//! Listening sockets, and how many descriptors the process may have.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::socket::{
    AddressFamily, Backlog, Shutdown, SockFlag, SockProtocol, SockType, SockaddrStorage, bind, setsockopt,
    shutdown, socket, sockopt,
};

use super::path::Pending;

/// How long the kernel gets to put what it moves from a closed listener at another one, before that one may be closed.
const MOVING: Duration = Duration::from_millis(1);

/// Connections that may wait to be accepted; the kernel caps it at `net.core.somaxconn`.
pub(super) const BACKLOG: i32 = 4096;

/// A socket that connections come in at.
#[derive(Debug)]
pub enum Listener {
    /// On an address and a port.
    Tcp(TcpListener),
    /// The same, of one worker alone: others have sockets of their own on its address.
    Own(TcpListener),
    /// On a path.
    Unix(UnixListener),
}

impl Listener {
    /// Listens on `address` beside any other listener of this user on the same address: the kernel spreads the
    /// connections over them. `[::]` takes IPv4 connections too.
    ///
    /// # Errors
    /// When the address is taken by another user's socket or is not ours, or no descriptor is left.
    pub fn tcp(address: SocketAddr) -> io::Result<Self> {
        let listener = shared(address)?;
        listener.set_nonblocking(true)?;
        Ok(Self::Own(listener))
    }

    /// Listens on a path. The socket that a former process left there is replaced; the permissions are those of the umask.
    ///
    /// # Errors
    /// When something else is there (`AddrInUse`), or the path cannot be had.
    pub fn unix(path: &Path) -> io::Result<Self> {
        let (listener, pending) = Pending::bind(path, false)?;
        pending.commit()?;
        Ok(listener)
    }

    /// Another descriptor of the same socket, which leaves it to others when it is closed.
    ///
    /// # Errors
    /// When no descriptor is left.
    pub fn try_clone(&self) -> io::Result<Self> {
        match self {
            Self::Tcp(listener) | Self::Own(listener) => listener.try_clone().map(Self::Tcp),
            Self::Unix(listener) => listener.try_clone().map(Self::Unix),
        }
    }

    /// What a connection sends goes out at once. Those of [`Listener::tcp`] do so anyway.
    ///
    /// # Errors
    /// When it is no socket.
    pub fn set_nodelay(&self) -> io::Result<()> {
        match self {
            Self::Tcp(listener) | Self::Own(listener) => set_nodelay(listener),
            Self::Unix(_) => Ok(()),
        }
    }

    /// The address that a TCP listener is bound to.
    pub(crate) fn local_addr(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(listener) | Self::Own(listener) => listener.local_addr().ok(),
            Self::Unix(_) => None,
        }
    }

    /// Whether no other worker accepts from it.
    pub(super) fn is_own(&self) -> bool {
        matches!(self, Self::Own(_))
    }

    pub(super) fn set_nonblocking(&self, nonblocking: bool) -> io::Result<()> {
        match self {
            Self::Tcp(listener) | Self::Own(listener) => listener.set_nonblocking(nonblocking),
            Self::Unix(listener) => listener.set_nonblocking(nonblocking),
        }
    }

    /// The next connection and its peer, which has no address when it comes by a path.
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

/// A blocking listener on `address` beside any other one of this user: the kernel spreads the connections over them.
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
    nix::sys::socket::listen(&socket, Backlog::new(BACKLOG)?)?;
    Ok(TcpListener::from(socket))
}

/// Accepted sockets inherit it, which saves a system call for each.
fn set_nodelay(listener: &impl AsFd) -> io::Result<()> {
    Ok(setsockopt(listener, sockopt::TcpNoDelay, &true)?)
}

/// Closes what a worker listens on, one worker at a time. What waits at a socket that is closed is moved to another one on its
/// address, and is reset if that one is being closed at the same moment. A ring may have a socket for longer than its
/// descriptor, so those of the worker alone are made to listen no more, which holds when the call returns. Handshakes that end
/// meanwhile on another processor seem to be moved a little later.
pub(super) fn close(listeners: Vec<Listener>) {
    static CLOSING: Mutex<()> = Mutex::new(());
    if listeners.is_empty() {
        return;
    }
    let _alone = CLOSING.lock().unwrap_or_else(PoisonError::into_inner);
    for listener in listeners.iter().filter(|listener| listener.is_own()) {
        // It listens, so this does not fail; if it did, closing would do the same a little later.
        let _ = shutdown(listener.as_raw_fd(), Shutdown::Read);
    }
    std::thread::sleep(MOVING);
}

/// Whether connections that wait at a listener when it is closed are reset, and do not go to another one on its address
/// (Linux 5.14, `net.ipv4.tcp_migrate_req`). Where the settings of the kernel are hidden it is not known, and not said.
pub(crate) fn waiting_connections_are_reset() -> bool {
    match std::fs::read_to_string("/proc/sys/net/ipv4/tcp_migrate_req") {
        Ok(value) => value.trim() != "1",
        // The kernel is an older one if it shows others of these settings.
        Err(_) => Path::new("/proc/sys/net/ipv4").exists(),
    }
}

/// Raises the soft limit of open descriptors to the hard one, and returns that.
///
/// # Errors
/// When the kernel refuses; the limit is then what it was.
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
    fn the_descriptor_limit_is_the_hard_one_afterwards() {
        let limit = raise_descriptor_limit().expect("raising to the hard limit is always allowed");
        assert_eq!(getrlimit(Resource::RLIMIT_NOFILE).expect("readable"), (limit, limit));
    }
}
