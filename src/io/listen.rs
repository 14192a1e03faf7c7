//! Listening sockets, and how many descriptors the process may have.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsRawFd;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockProtocol, SockType, SockaddrStorage, bind, setsockopt, socket,
    sockopt,
};

/// Connections that may wait to be accepted; the kernel caps it at `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// Listens on `addr` beside any other listener of this user on the same address: the kernel spreads the
/// connections over them. `[::]` takes IPv4 connections too.
///
/// # Errors
/// When the address is taken by another user's socket or is not ours, or no descriptor is left.
pub fn listen(addr: SocketAddr) -> io::Result<TcpListener> {
    let family = if addr.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(family, SockType::Stream, flags, SockProtocol::Tcp)?;
    setsockopt(&socket, sockopt::ReuseAddr, &true)?;
    setsockopt(&socket, sockopt::ReusePort, &true)?;
    // Accepted sockets inherit it, which saves a system call for each.
    setsockopt(&socket, sockopt::TcpNoDelay, &true)?;
    if addr.is_ipv6() {
        setsockopt(&socket, sockopt::Ipv6V6Only, &false)?;
    }
    bind(socket.as_raw_fd(), &SockaddrStorage::from(addr))?;
    nix::sys::socket::listen(&socket, Backlog::new(BACKLOG)?)?;
    Ok(TcpListener::from(socket))
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
        let first = listen("127.0.0.1:0".parse().expect("an address")).expect("listen");
        let address = first.local_addr().expect("bound");
        let second = listen(address).expect("listen beside the first");
        assert_eq!(second.local_addr().expect("bound"), address);
    }

    #[test]
    fn the_descriptor_limit_is_the_hard_one_afterwards() {
        let limit = raise_descriptor_limit().expect("raising to the hard limit is always allowed");
        assert_eq!(getrlimit(Resource::RLIMIT_NOFILE).expect("readable"), (limit, limit));
    }
}
