//! How many connections there may be, over all shards.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Counts connections, and says which one is too many. Every connection is counted from its accept to the
/// release of its descriptor, whatever became of its handshake. One that is over a limit takes nobody's place.
#[derive(Debug)]
pub(crate) struct Admission {
    /// Most connections that are served at a time.
    limit: AtomicU64,
    /// Most of them from one address; 0: no limit.
    limit_per_address: AtomicU32,
    /// Most of those that are served whose request is not complete.
    handshake_limit: AtomicU64,
    /// All connections.
    count: AtomicU64,
    /// Those that are not over a limit.
    served: AtomicU64,
    /// Those among them whose request is not complete.
    handshakes: AtomicU64,
    /// Those that are not over a limit and came while there was one for addresses, by address.
    by_address: Mutex<HashMap<IpAddr, u32>>,
}

/// How many connections there may be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Of all that are served.
    pub(crate) server: u64,
    /// From one address; 0: no limit.
    pub(crate) per_address: u32,
    /// Of those that are served whose request is not complete.
    pub(crate) handshakes: u64,
}

/// How a connection is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// As one that is served, for the server and for its address.
    Counted,
    /// As one that is served, for the server alone: its address is not known or a trusted proxy's, or there was no
    /// limit for addresses when it came.
    Uncounted,
    /// In the same way, since a proxy passes it on and does not tell its address. Nobody vouches for what its request says
    /// of that.
    Hidden,
    /// Not as one that is served: it is over a limit.
    Over(Excess),
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
    /// Nobody is there yet.
    pub(crate) fn new(limits: Limits) -> Self {
        let Limits { server, per_address, handshakes } = limits;
        Self {
            limit: server.into(),
            limit_per_address: per_address.into(),
            handshake_limit: handshakes.into(),
            count: AtomicU64::new(0),
            served: AtomicU64::new(0),
            handshakes: AtomicU64::new(0),
            by_address: Mutex::default(),
        }
    }

    /// Holds for connections that come from now on; nobody who is in has to go.
    pub(crate) fn set_limits(&self, limits: Limits) {
        self.limit.store(limits.server, Ordering::Relaxed);
        self.limit_per_address.store(limits.per_address, Ordering::Relaxed);
        self.handshake_limit.store(limits.handshakes, Ordering::Relaxed);
    }

    /// Counts a connection from `address`. One that is over a limit is to be told so; it leaves all the same.
    pub(crate) fn enter(&self, address: Option<IpAddr>) -> Place {
        self.count.fetch_add(1, Ordering::Relaxed);
        let place = self.enter_address(address);
        if matches!(place, Place::Over(_)) {
            return place;
        }
        if !raise(&self.served, &self.limit) {
            self.leave_address(address, place);
            return Place::Over(Excess::Server);
        }
        if !raise(&self.handshakes, &self.handshake_limit) {
            self.served.fetch_sub(1, Ordering::Relaxed);
            self.leave_address(address, place);
            return Place::Over(Excess::Handshakes);
        }
        place
    }

    /// Counts a connection for another address than the one that `enter` was told, or for none, and gives it another
    /// place. Its request must not be complete yet. When the new address has too many it is over that limit from now
    /// on, and neither served nor in a handshake.
    pub(crate) fn relocate(&self, (from, place): (Option<IpAddr>, Place), to: Option<IpAddr>) -> Place {
        self.leave_address(from, place);
        let place = self.enter_address(to);
        if matches!(place, Place::Over(_)) {
            self.served.fetch_sub(1, Ordering::Relaxed);
            self.handshake_over();
        }
        place
    }

    /// The request of a connection that is over no limit is complete, or will never be. Said once for each.
    pub(crate) fn handshake_over(&self) {
        self.handshakes.fetch_sub(1, Ordering::Relaxed);
    }

    /// The connection from `address` is gone, for which `enter` or `relocate` gave this place.
    pub(crate) fn leave(&self, address: Option<IpAddr>, place: Place) {
        if !matches!(place, Place::Over(_)) {
            self.served.fetch_sub(1, Ordering::Relaxed);
            self.leave_address(address, place);
        }
        self.count.fetch_sub(1, Ordering::Relaxed);
    }

    /// Most connections that are served at a time.
    pub(crate) fn limit(&self) -> u64 {
        self.limit.load(Ordering::Relaxed)
    }

    /// Connections at this moment.
    pub(crate) fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// Addresses that have connections at this moment, when they are counted.
    pub(crate) fn addresses(&self) -> usize {
        self.by_address.lock().expect("nobody panics while counting").len()
    }

    fn enter_address(&self, address: Option<IpAddr>) -> Place {
        let limit = self.limit_per_address.load(Ordering::Relaxed);
        let Some(address) = address.filter(|_| limit > 0) else { return Place::Uncounted };
        let mut by_address = self.by_address.lock().expect("nobody panics while counting");
        let count = by_address.entry(key(address)).or_default();
        if *count >= limit {
            return Place::Over(Excess::Address);
        }
        *count += 1;
        Place::Counted
    }

    fn leave_address(&self, address: Option<IpAddr>, place: Place) {
        if let (Some(address), Place::Counted) = (address, place) {
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
fn raise(count: &AtomicU64, limit: &AtomicU64) -> bool {
    let limit = limit.load(Ordering::Relaxed);
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

    fn ip(text: &str) -> Option<IpAddr> {
        Some(text.parse().expect("an address"))
    }

    fn admission(server: u64, per_address: u32, handshakes: u64) -> Admission {
        Admission::new(Limits { server, per_address, handshakes })
    }

    #[test]
    fn each_limit_has_its_own_excess_and_leaving_makes_room() {
        let admission = admission(3, 2, 100);
        assert_eq!(admission.enter(ip("10.0.0.1")), Place::Counted);
        assert_eq!(admission.enter(ip("10.0.0.1")), Place::Counted);
        assert_eq!(admission.enter(ip("10.0.0.1")), Place::Over(Excess::Address));
        assert_eq!(admission.enter(ip("10.0.0.2")), Place::Counted);
        assert_eq!(admission.enter(ip("10.0.0.3")), Place::Over(Excess::Server));
        admission.leave(ip("10.0.0.1"), Place::Counted);
        // Those who are over a limit are still there, and in nobody's way.
        assert_eq!(admission.enter(ip("10.0.0.3")), Place::Counted);
        assert_eq!(admission.count(), 5);
        admission.leave(ip("10.0.0.1"), Place::Over(Excess::Address));
        admission.leave(ip("10.0.0.3"), Place::Over(Excess::Server));
        for address in ["10.0.0.1", "10.0.0.2", "10.0.0.3"] {
            admission.leave(ip(address), Place::Counted);
        }
        assert_eq!((admission.count(), admission.addresses()), (0, 0));
    }

    #[test]
    fn who_has_said_what_it_wants_makes_room_for_another_handshake() {
        let admission = admission(10, 2, 2);
        assert_eq!(admission.enter(ip("10.0.0.1")), Place::Counted);
        assert_eq!(admission.enter(ip("10.0.0.2")), Place::Counted);
        assert_eq!(admission.enter(ip("10.0.0.3")), Place::Over(Excess::Handshakes));
        assert_eq!(admission.addresses(), 2, "who is refused counts for nobody");
        admission.handshake_over();
        assert_eq!(admission.enter(ip("10.0.0.3")), Place::Counted);
        assert_eq!(admission.enter(ip("10.0.0.4")), Place::Over(Excess::Handshakes));
    }

    #[test]
    fn ipv6_counts_by_its_first_64_bits_and_mapped_addresses_as_ipv4() {
        let admission = admission(10, 1, 100);
        assert_eq!(admission.enter(ip("2001:db8::1")), Place::Counted);
        assert_eq!(admission.enter(ip("2001:db8::2:0:0:1")), Place::Over(Excess::Address));
        assert_eq!(admission.enter(ip("2001:db8:0:1::1")), Place::Counted);
        assert_eq!(admission.enter(ip("::ffff:10.0.0.1")), Place::Counted);
        assert_eq!(admission.enter(ip("10.0.0.1")), Place::Over(Excess::Address));
    }

    #[test]
    fn who_turns_out_to_be_from_elsewhere_counts_there() {
        let admission = admission(3, 1, 3);
        let (proxy, client) = (ip("10.0.0.1"), ip("192.0.2.1"));
        let first = (None, admission.enter(None));
        assert_eq!(admission.relocate(first, client), Place::Counted);
        let second = (proxy, admission.enter(proxy));
        assert_eq!(admission.relocate(second, client), Place::Over(Excess::Address));
        // It takes nobody's place, neither among those who are served nor in a handshake nor at the proxy's address.
        assert_eq!(admission.enter(proxy), Place::Counted);
        assert_eq!(admission.enter(ip("10.0.0.3")), Place::Counted);
        assert_eq!(admission.enter(ip("10.0.0.4")), Place::Over(Excess::Server));
        assert_eq!(admission.relocate((proxy, Place::Counted), None), Place::Uncounted);
        admission.leave(client, Place::Over(Excess::Address));
        admission.leave(client, Place::Counted);
        assert_eq!(admission.addresses(), 1, "10.0.0.3 alone");
        admission.leave(proxy, Place::Uncounted);
        admission.leave(ip("10.0.0.3"), Place::Counted);
        admission.leave(ip("10.0.0.4"), Place::Over(Excess::Server));
        assert_eq!((admission.count(), admission.addresses()), (0, 0));
    }

    #[test]
    fn who_came_before_a_limit_for_addresses_leaves_uncounted() {
        let admission = admission(10, 0, 100);
        let early = admission.enter(ip("10.0.0.1"));
        assert_eq!(early, Place::Uncounted);
        admission.set_limits(Limits { server: 10, per_address: 2, handshakes: 100 });
        let counted = admission.enter(ip("10.0.0.1"));
        admission.leave(ip("10.0.0.1"), early);
        assert_eq!(admission.enter(ip("10.0.0.1")), Place::Counted);
        // The limit is below what is there, and then there is none.
        admission.set_limits(Limits { server: 10, per_address: 1, handshakes: 100 });
        assert_eq!(admission.enter(ip("10.0.0.1")), Place::Over(Excess::Address));
        admission.leave(ip("10.0.0.1"), Place::Over(Excess::Address));
        admission.set_limits(Limits { server: 1, per_address: 0, handshakes: 100 });
        assert_eq!(admission.enter(ip("10.0.0.1")), Place::Over(Excess::Server));
        admission.leave(ip("10.0.0.1"), Place::Over(Excess::Server));
        admission.leave(ip("10.0.0.1"), counted);
        admission.leave(ip("10.0.0.1"), counted);
        assert_eq!((admission.count(), admission.addresses()), (0, 0));
    }
}
