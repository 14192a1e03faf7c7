//! Accepts in flight, and the peer addresses that the kernel writes for them.

use std::cell::UnsafeCell;
use std::collections::VecDeque;
use std::net::{Ipv6Addr, SocketAddr, SocketAddrV6};

use nix::libc;

use super::kernel::Request;

/// Accepts in flight for one listener. As many connections come in with one turn of the loop.
pub(super) const PER_LISTENER: usize = 16;

/// Which accepts are in flight; the others are in `idle`.
#[derive(Debug)]
pub(super) struct Accepts {
    /// Accept `at` is one of listener `at % listeners`.
    listeners: usize,
    idle: VecDeque<u32>,
}

impl Accepts {
    pub(super) fn new(listeners: usize) -> Self {
        Self { listeners, idle: (0..(PER_LISTENER * listeners) as u32).collect() }
    }

    pub(super) fn in_flight(&self) -> u32 {
        (PER_LISTENER * self.listeners - self.idle.len()) as u32
    }

    /// The request for one more accept.
    pub(super) fn start(&mut self) -> Option<Request<'static>> {
        let at = self.idle.pop_front()?;
        Some(Request::Accept { at, listener: self.listener(at).into() })
    }

    /// Which listener the accept at `at` is one of.
    pub(super) fn listener(&self, at: u32) -> u16 {
        (at as usize % self.listeners) as u16
    }

    /// The accept at `at` has completed.
    pub(super) fn finish(&mut self, at: u32) {
        self.idle.push_back(at);
    }

    /// Requests to cancel all that are in flight.
    pub(super) fn cancellations(&self) -> Vec<Request<'static>> {
        let all = 0..(PER_LISTENER * self.listeners) as u32;
        all.filter(|at| !self.idle.contains(at)).map(Request::CancelAccept).collect()
    }
}

/// The address buffers of all accepts. One of an accept in flight belongs to the kernel.
#[derive(Default)]
pub(super) struct Addresses(Box<[UnsafeCell<Address>]>);

impl Addresses {
    pub(super) fn new(count: usize) -> Self {
        Self((0..count).map(|_| UnsafeCell::new(Address::EMPTY)).collect())
    }

    /// Where the kernel writes the peer and its length; both stay there until this is dropped.
    pub(super) fn lend(&mut self, at: u32) -> (*mut libc::sockaddr, *mut libc::socklen_t) {
        let cell = &mut self.0[at as usize];
        *cell.get_mut() = Address::EMPTY;
        let address = cell.get();
        let len = address.wrapping_byte_add(std::mem::offset_of!(Address, len));
        (address.cast(), len.cast())
    }

    /// The peer of the accept at `at`, which has completed: its buffer is ours again.
    pub(super) fn peer(&mut self, at: u32) -> Option<SocketAddr> {
        self.0[at as usize].get_mut().peer()
    }
}

/// A `sockaddr_in` or `sockaddr_in6` as the kernel writes it, or the beginning of another one, and its length.
#[repr(C, align(4))]
struct Address {
    bytes: [u8; size_of::<libc::sockaddr_in6>()],
    len: libc::socklen_t,
}

impl Address {
    const EMPTY: Self = Self { bytes: [0; 28], len: 28 };

    /// The address, of a family that has ports.
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
