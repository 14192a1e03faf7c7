//! Listening sockets, and how many descriptors the process may have.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockProtocol, SockType, SockaddrStorage, UnixAddr, bind, setsockopt,
    socket, sockopt,
};

/// Connections that may wait to be accepted; the kernel caps it at `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// A socket that connections come in at.
#[derive(Debug)]
pub enum Listener {
    /// On an address and a port.
    Tcp(TcpListener),
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
        Ok(Self::Tcp(listener))
    }

    /// Listens on a path. The socket that a former process left there is removed; the permissions are those of the umask.
    ///
    /// # Errors
    /// When something else is there (`AddrInUse`), or the path cannot be had.
    pub fn unix(path: &Path) -> io::Result<Self> {
        remove_left_socket(path);
        Self::unix_at(path)
    }

    /// Listens on a path instead of whoever does so now: that one keeps those who wait for it already.
    ///
    /// # Errors
    /// When something that is no socket is there (`AddrInUse`), or the path cannot be had.
    pub fn unix_instead(path: &Path) -> io::Result<Self> {
        if !is_socket(path) {
            return Self::unix_at(path);
        }
        let mut beside = path.as_os_str().to_owned();
        beside.push(".new");
        let listener = Self::unix(Path::new(&beside))?;
        std::fs::rename(&beside, path)?;
        Ok(listener)
    }

    fn unix_at(path: &Path) -> io::Result<Self> {
        let socket = socket(AddressFamily::Unix, SockType::Stream, FLAGS, None)?;
        bind(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
        nix::sys::socket::listen(&socket, Backlog::new(BACKLOG)?)?;
        Ok(Self::Unix(UnixListener::from(socket)))
    }

    /// Another descriptor of the same socket.
    ///
    /// # Errors
    /// When no descriptor is left.
    pub fn try_clone(&self) -> io::Result<Self> {
        match self {
            Self::Tcp(listener) => listener.try_clone().map(Self::Tcp),
            Self::Unix(listener) => listener.try_clone().map(Self::Unix),
        }
    }

    /// What a connection sends goes out at once. Those of [`Listener::tcp`] do so anyway.
    ///
    /// # Errors
    /// When it is no socket.
    pub fn set_nodelay(&self) -> io::Result<()> {
        match self {
            Self::Tcp(listener) => set_nodelay(listener),
            Self::Unix(_) => Ok(()),
        }
    }

    /// The address that a TCP listener is bound to.
    pub(crate) fn local_addr(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(listener) => listener.local_addr().ok(),
            Self::Unix(_) => None,
        }
    }

    pub(super) fn set_nonblocking(&self, nonblocking: bool) -> io::Result<()> {
        match self {
            Self::Tcp(listener) => listener.set_nonblocking(nonblocking),
            Self::Unix(listener) => listener.set_nonblocking(nonblocking),
        }
    }

    /// The next connection and its peer, which has no address when it comes by a path.
    pub(super) fn accept(&self) -> io::Result<(OwnedFd, Option<SocketAddr>)> {
        match self {
            Self::Tcp(listener) => listener.accept().map(|(stream, peer)| (stream.into(), Some(peer))),
            Self::Unix(listener) => listener.accept().map(|(stream, _)| (stream.into(), None)),
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(listener) => listener.as_fd(),
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

const FLAGS: SockFlag = SockFlag::SOCK_CLOEXEC.union(SockFlag::SOCK_NONBLOCK);

/// Removes a socket that nobody listens on. Whatever else is there stays, and binding says so.
fn remove_left_socket(path: &Path) {
    // A file that is no socket refuses connections, too.
    if is_socket(path)
        && UnixStream::connect(path).is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
    {
        // Whether it could be removed is seen when the path is bound.
        let _ = std::fs::remove_file(path);
    }
}

fn is_socket(path: &Path) -> bool {
    path.symlink_metadata().is_ok_and(|found| found.file_type().is_socket())
}

/// Whether connections that wait at a listener when it is closed go to another one on its address, and are not reset
/// (Linux 5.14, `net.ipv4.tcp_migrate_req`).
pub(crate) fn waiting_connections_migrate() -> bool {
    std::fs::read_to_string("/proc/sys/net/ipv4/tcp_migrate_req").is_ok_and(|value| value.trim() == "1")
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
    fn a_path_that_a_dead_process_left_is_taken_over_and_others_are_not() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("socket");
        let first = Listener::unix(&path).expect("listen");
        let taken = Listener::unix(&path).expect_err("the first one listens");
        assert_eq!(taken.kind(), io::ErrorKind::AddrInUse);
        drop(first);
        Listener::unix(&path).expect("nobody listens any more");

        let second = Listener::unix_instead(&path).expect("nobody listens");
        let third = Listener::unix_instead(&path).expect("it takes the path over");
        drop(second);
        let _client = UnixStream::connect(&path).expect("the third one listens");
        third.accept().expect("it is the third one's");
        drop(third);
        assert_eq!(
            std::fs::read_dir(directory.path()).expect("readable").count(),
            1,
            "nothing is left beside it"
        );

        let file = directory.path().join("file");
        std::fs::write(&file, "precious").expect("write");
        for listen in [Listener::unix, Listener::unix_instead] {
            assert_eq!(listen(&file).expect_err("a file").kind(), io::ErrorKind::AddrInUse);
        }
        assert_eq!(std::fs::read_to_string(&file).expect("still there"), "precious");
    }

    #[test]
    fn the_descriptor_limit_is_the_hard_one_afterwards() {
        let limit = raise_descriptor_limit().expect("raising to the hard limit is always allowed");
        assert_eq!(getrlimit(Resource::RLIMIT_NOFILE).expect("readable"), (limit, limit));
    }
}
