//! How many connections there may be, over all shards.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

/// Counts connections, and says which one is too many. Every connection is counted from its accept to the
/// release of its descriptor, whatever became of its handshake.
#[derive(Debug)]
pub(crate) struct Admission {
    /// Most connections that are served at a time.
    limit: u64,
    /// Most of them from one address; 0: no limit.
    limit_per_address: u32,
    count: AtomicU64,
    /// Connections by address; empty when there is no limit.
    by_address: Mutex<HashMap<IpAddr, u32>>,
}

/// Which limit a connection is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Excess {
    /// The server has all the connections that it may have.
    Server,
    /// The address has.
    Address,
}

impl Admission {
    /// Limits of the whole server and per address (0: none).
    pub(crate) fn new(limit: u64, limit_per_address: u32) -> Self {
        Self { limit, limit_per_address, count: AtomicU64::new(0), by_address: Mutex::default() }
    }

    /// Counts a connection from `address`. One that is over a limit is to be told so; it counts all the same.
    pub(crate) fn enter(&self, address: IpAddr) -> Result<(), Excess> {
        let count = self.count.fetch_add(1, Ordering::Relaxed) + 1;
        let mut from_here = 0;
        if self.limit_per_address > 0 {
            let mut by_address = self.by_address.lock().expect("nobody panics while counting");
            let entry = by_address.entry(key(address)).or_default();
            *entry += 1;
            from_here = *entry;
        }
        if from_here > self.limit_per_address {
            Err(Excess::Address)
        } else if count > self.limit {
            Err(Excess::Server)
        } else {
            Ok(())
        }
    }

    /// The connection from `address` is gone.
    pub(crate) fn leave(&self, address: IpAddr) {
        self.count.fetch_sub(1, Ordering::Relaxed);
        if self.limit_per_address > 0 {
            let mut by_address = self.by_address.lock().expect("nobody panics while counting");
            let key = key(address);
            let count = by_address.get_mut(&key).expect("who leaves has entered");
            *count -= 1;
            if *count == 0 {
                by_address.remove(&key);
            }
        }
    }

    /// Connections at this moment.
    pub(crate) fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// Addresses that have connections at this moment, when they are counted.
    pub(crate) fn addresses(&self) -> usize {
        self.by_address.lock().expect("nobody panics while counting").len()
    }
}

/// What counts as one address: a subscriber of IPv6 has a /64, an IPv4 address in IPv6 clothes is an IPv4 address.
fn key(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX))),
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn each_limit_has_its_own_excess_and_leaving_makes_room() {
        let admission = Admission::new(3, 2);
        assert_eq!(admission.enter(ip("10.0.0.1")), Ok(()));
        assert_eq!(admission.enter(ip("10.0.0.1")), Ok(()));
        assert_eq!(admission.enter(ip("10.0.0.1")), Err(Excess::Address));
        admission.leave(ip("10.0.0.1"));
        assert_eq!(admission.enter(ip("10.0.0.2")), Ok(()));
        assert_eq!(admission.enter(ip("10.0.0.3")), Err(Excess::Server));
        for address in ["10.0.0.1", "10.0.0.1", "10.0.0.2", "10.0.0.3"] {
            admission.leave(ip(address));
        }
        assert_eq!((admission.count(), admission.addresses()), (0, 0));
    }

    #[test]
    fn ipv6_counts_by_its_first_64_bits_and_mapped_addresses_as_ipv4() {
        let admission = Admission::new(10, 1);
        assert_eq!(admission.enter(ip("2001:db8::1")), Ok(()));
        assert_eq!(admission.enter(ip("2001:db8::2:0:0:1")), Err(Excess::Address));
        assert_eq!(admission.enter(ip("2001:db8:0:1::1")), Ok(()));
        assert_eq!(admission.enter(ip("::ffff:10.0.0.1")), Ok(()));
        assert_eq!(admission.enter(ip("10.0.0.1")), Err(Excess::Address));
    }
}
