//! Accepts in flight, and the buffers into which the kernel writes peer addresses.

use std::cell::UnsafeCell;
use std::collections::VecDeque;
use std::net::{Ipv6Addr, SocketAddr, SocketAddrV6};

use nix::libc;

use super::kernel::Request;

/// Maximum number of accepts in flight for one listener. One turn accepts at most this many connections from a
/// listener.
pub(super) const PER_LISTENER: usize = 16;

/// The numbered accept operations of all listeners. Each accept is either in flight or idle.
#[derive(Debug)]
pub(super) struct Accepts {
    /// Number of listeners. The accept with number `at` belongs to listener `at % listeners`.
    listeners: usize,
    idle: VecDeque<u32>,
}

impl Accepts {
    /// Makes the accept operations of this many listeners, all idle.
    pub(super) fn new(listeners: usize) -> Self {
        Self { listeners, idle: (0..(PER_LISTENER * listeners) as u32).collect() }
    }

    /// Returns the number of accepts in flight.
    pub(super) fn in_flight(&self) -> u32 {
        (PER_LISTENER * self.listeners - self.idle.len()) as u32
    }

    /// Returns the request for one more accept, or `None` if no accept is idle.
    pub(super) fn start(&mut self) -> Option<Request<'static>> {
        let at = self.idle.pop_front()?;
        Some(Request::Accept { at, listener: self.listener(at).into() })
    }

    /// Returns the index of the listener that the accept with number `at` belongs to.
    pub(super) fn listener(&self, at: u32) -> u16 {
        (at as usize % self.listeners) as u16
    }

    /// Marks the accept with number `at` as completed, and so as idle.
    pub(super) fn finish(&mut self, at: u32) {
        self.idle.push_back(at);
    }

    /// Returns requests that cancel all accepts in flight.
    pub(super) fn cancellations(&self) -> Vec<Request<'static>> {
        let all = 0..(PER_LISTENER * self.listeners) as u32;
        all.filter(|at| !self.idle.contains(at)).map(Request::CancelAccept).collect()
    }
}

/// The buffers for peer addresses, one for each accept. The buffer of an accept in flight belongs to the kernel.
#[derive(Default)]
pub(super) struct Addresses(Box<[UnsafeCell<Address>]>);

impl Addresses {
    pub(super) fn new(count: usize) -> Self {
        Self((0..count).map(|_| UnsafeCell::new(Address::EMPTY)).collect())
    }

    /// Lends the address buffer of accept `at` to the kernel. Returns pointers to the address and to its length. The
    /// pointers are valid until the `Addresses` are dropped.
    pub(super) fn lend(&mut self, at: u32) -> (*mut libc::sockaddr, *mut libc::socklen_t) {
        let cell = &mut self.0[at as usize];
        *cell.get_mut() = Address::EMPTY;
        let address = cell.get();
        let len = address.wrapping_byte_add(std::mem::offset_of!(Address, len));
        (address.cast(), len.cast())
    }

    /// Reads the peer's address of the completed accept `at`. Returns `None` for a Unix socket.
    pub(super) fn peer(&mut self, at: u32) -> Option<SocketAddr> {
        self.0[at as usize].get_mut().peer()
    }
}

/// A peer's address and its length as the kernel writes them: a `sockaddr_in`, a `sockaddr_in6`, or the beginning of
/// another kind of address.
#[repr(C, align(4))]
struct Address {
    bytes: [u8; size_of::<libc::sockaddr_in6>()],
    len: libc::socklen_t,
}

impl Address {
    const EMPTY: Self = Self { bytes: [0; 28], len: 28 };

    /// Returns the address if it is an IP address, else `None`.
    fn peer(&self) -> Option<SocketAddr> {
        let [family_low, family_high, port_high, port_low, ..] = self.bytes;
        let port = u16::from_be_bytes([port_high, port_low]);
        match i32::from(u16::from_ne_bytes([family_low, family_high])) {
            libc::AF_INET => Some(SocketAddr::from((self.array::<4>(4), port))),
            libc::AF_INET6 => {
                let flow_info = u32::from_be_bytes(self.array(4));
                let scope_id = u32::from_ne_bytes(self.array(24));
                let ip = Ipv6Addr::from(self.array::<16>(8));
                Some(SocketAddrV6::new(ip, port, flow_info, scope_id).into())
            }
            _ => None,
        }
    }

    fn array<const N: usize>(&self, at: usize) -> [u8; N] {
        std::array::from_fn(|index| self.bytes[at + index])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_the_kernel_writes_them() {
        let mut address = Address::EMPTY;
        address.bytes[..2].copy_from_slice(&(libc::AF_INET as u16).to_ne_bytes());
        address.bytes[2..8].copy_from_slice(&[0x1f, 0x90, 192, 0, 2, 7]);
        assert_eq!(address.peer(), "192.0.2.7:8080".parse().ok());

        address = Address::EMPTY;
        address.bytes[..2].copy_from_slice(&(libc::AF_INET6 as u16).to_ne_bytes());
        address.bytes[2..4].copy_from_slice(&[0x00, 0x50]);
        address.bytes[8..24].copy_from_slice(&"2001:db8::5".parse::<Ipv6Addr>().expect("valid").octets());
        address.bytes[24..28].copy_from_slice(&3_u32.to_ne_bytes());
        assert_eq!(address.peer(), "[2001:db8::5%3]:80".parse().ok());

        address = Address::EMPTY;
        address.bytes[..2].copy_from_slice(&(libc::AF_UNIX as u16).to_ne_bytes());
        assert_eq!(address.peer(), None);
    }
}
