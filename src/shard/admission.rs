//! How many connections there may be, over all shards.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::fault::{self, Fault};

/// Counts connections, and says which one is too many. Every connection is counted from its accept to the
/// release of its descriptor, whatever became of its handshake. One that is over a limit takes nobody's place.
#[derive(Debug)]
pub(crate) struct Admission {
    /// Most connections that are served at a time.
    limit: u64,
    /// Most of them from one address; 0: no limit.
    limit_per_address: u32,
    /// Most of those that are served whose request is not complete.
    handshake_limit: u64,
    /// All connections.
    count: AtomicU64,
    /// Those that are not over a limit.
    served: AtomicU64,
    /// Those among them whose request is not complete.
    handshakes: AtomicU64,
    /// Those that are not over a limit, by address; empty when there is none for addresses.
    by_address: Mutex<HashMap<IpAddr, u32>>,
}

/// Which limit a connection is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Excess {
    /// The server has all the connections that it may have.
    Server,
    /// The address has.
    Address,
    /// So many have not said yet what they want that no further one may.
    Handshakes,
}

impl Admission {
    /// Limits of the whole server, per address (0: none), and of connections without a complete request.
    pub(crate) fn new(limit: u64, limit_per_address: u32, handshake_limit: u64) -> Self {
        Self {
            limit,
            limit_per_address,
            handshake_limit,
            count: AtomicU64::new(0),
            served: AtomicU64::new(0),
            handshakes: AtomicU64::new(0),
            by_address: Mutex::default(),
        }
    }

    /// Counts a connection from `address`. One that is over a limit is to be told so; it leaves all the same.
    pub(crate) fn enter(&self, address: IpAddr) -> Result<(), Excess> {
        self.count.fetch_add(1, Ordering::Relaxed);
        self.enter_address(address)?;
        if !raise(&self.served, self.limit) {
            self.leave_address(address);
            return Err(Excess::Server);
        }
        if !raise(&self.handshakes, self.handshake_limit) {
            self.served.fetch_sub(1, Ordering::Relaxed);
            self.leave_address(address);
            return Err(Excess::Handshakes);
        }
        Ok(())
    }

    /// The request of a connection that is over no limit is complete, or will never be. Said once for each.
    pub(crate) fn handshake_over(&self) {
        self.handshakes.fetch_sub(1, Ordering::Relaxed);
    }

    /// The connection from `address` is gone, of which `enter` said that it was over a limit, or not.
    pub(crate) fn leave(&self, address: IpAddr, excess: Option<Excess>) {
        if excess.is_none() {
            self.served.fetch_sub(1, Ordering::Relaxed);
            self.leave_address(address);
            if fault::is(Fault::CountedTwice) {
                self.leave_address(address);
            }
        }
        self.count.fetch_sub(1, Ordering::Relaxed);
    }

    /// Most connections that are served at a time.
    pub(crate) fn limit(&self) -> u64 {
        self.limit
    }

    /// Connections at this moment.
    pub(crate) fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// Addresses that have connections at this moment, when they are counted.
    pub(crate) fn addresses(&self) -> usize {
        self.by_address.lock().expect("nobody panics while counting").len()
    }

    fn enter_address(&self, address: IpAddr) -> Result<(), Excess> {
        if self.limit_per_address > 0 {
            let mut by_address = self.by_address.lock().expect("nobody panics while counting");
            let count = by_address.entry(key(address)).or_default();
            if *count == self.limit_per_address {
                return Err(Excess::Address);
            }
            *count += 1;
        }
        Ok(())
    }

    fn leave_address(&self, address: IpAddr) {
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
}

/// Counts one more, if that is not too many.
fn raise(count: &AtomicU64, limit: u64) -> bool {
    let next = |count| (count < limit).then_some(count + 1);
    count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next).is_ok()
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
        let admission = Admission::new(3, 2, 100);
        assert_eq!(admission.enter(ip("10.0.0.1")), Ok(()));
        assert_eq!(admission.enter(ip("10.0.0.1")), Ok(()));
        assert_eq!(admission.enter(ip("10.0.0.1")), Err(Excess::Address));
        assert_eq!(admission.enter(ip("10.0.0.2")), Ok(()));
        assert_eq!(admission.enter(ip("10.0.0.3")), Err(Excess::Server));
        admission.leave(ip("10.0.0.1"), None);
        // Those who are over a limit are still there, and in nobody's way.
        assert_eq!(admission.enter(ip("10.0.0.3")), Ok(()));
        assert_eq!(admission.count(), 5);
        admission.leave(ip("10.0.0.1"), Some(Excess::Address));
        admission.leave(ip("10.0.0.3"), Some(Excess::Server));
        for address in ["10.0.0.1", "10.0.0.2", "10.0.0.3"] {
            admission.leave(ip(address), None);
        }
        assert_eq!((admission.count(), admission.addresses()), (0, 0));
    }

    #[test]
    fn who_has_said_what_it_wants_makes_room_for_another_handshake() {
        let admission = Admission::new(10, 2, 2);
        assert_eq!(admission.enter(ip("10.0.0.1")), Ok(()));
        assert_eq!(admission.enter(ip("10.0.0.2")), Ok(()));
        assert_eq!(admission.enter(ip("10.0.0.3")), Err(Excess::Handshakes));
        assert_eq!(admission.addresses(), 2, "who is refused counts for nobody");
        admission.handshake_over();
        assert_eq!(admission.enter(ip("10.0.0.3")), Ok(()));
        assert_eq!(admission.enter(ip("10.0.0.4")), Err(Excess::Handshakes));
    }

    #[test]
    fn ipv6_counts_by_its_first_64_bits_and_mapped_addresses_as_ipv4() {
        let admission = Admission::new(10, 1, 100);
        assert_eq!(admission.enter(ip("2001:db8::1")), Ok(()));
        assert_eq!(admission.enter(ip("2001:db8::2:0:0:1")), Err(Excess::Address));
        assert_eq!(admission.enter(ip("2001:db8:0:1::1")), Ok(()));
        assert_eq!(admission.enter(ip("::ffff:10.0.0.1")), Ok(()));
        assert_eq!(admission.enter(ip("10.0.0.1")), Err(Excess::Address));
    }
}
