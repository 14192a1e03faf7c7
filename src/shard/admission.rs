//! Connection limits, over all shards of a server.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use super::arrivals::Arrivals;

/// The connection counts and limits of a server. A connection is counted from its accept until its descriptor is
/// released, with or without a completed handshake. A connection over a limit does not count against any limit.
#[derive(Debug)]
pub(crate) struct Admission {
    /// Connection limit of the server.
    limit: AtomicU64,
    /// Connection limit of each client address; 0 means no limit.
    limit_per_address: AtomicU32,
    /// Limit of connections whose HTTP request is not complete. The shards count them, each its own.
    handshake_limit: AtomicU64,
    /// Limit of new connections per second from each client address; 0 means no limit.
    rate: AtomicU32,
    /// Number of all connections, including those over a limit.
    count: AtomicU64,
    /// Number of connections that count against the server's limit: those not over a limit.
    served: AtomicU64,
    /// Number of connections of each client address. Excludes connections over a limit, and connections accepted while
    /// addresses had no limit.
    by_address: Mutex<HashMap<IpAddr, u32>>,
    /// Recent connections of each client address. Empty, and not locked, while addresses have no rate limit.
    arrivals: Mutex<Arrivals>,
}

/// The connection limits of a server.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ConnectionLimits {
    /// Maximum number of connections of the server.
    pub(crate) server: u64,
    /// Maximum number of connections from one client address; 0 means no limit.
    pub(crate) per_address: u32,
    /// Maximum number of connections whose HTTP request is not complete.
    pub(crate) handshakes: u64,
    /// Maximum number of new connections per second from one client address; 0 means no limit.
    pub(crate) rate: u32,
}

/// The connection limits that a connection counts against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// The connection counts against the server's limit and against its client address's limit.
    Counted,
    /// The connection counts against the server's limit only: its address is unknown or a trusted proxy's, or addresses
    /// had no limit when it was accepted.
    Uncounted,
    /// The connection counts against the server's limit only: a trusted proxy hid the client's address. Header fields
    /// that name the client are ignored.
    Hidden,
    /// The connection counts against the server's limit only: a trusted proxy has passed on requests of other clients on
    /// it before.
    Reused,
    /// The connection counts against no limit: it is over this limit, and is refused.
    Over(Excess),
}

/// The reached limit because of which a connection is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Excess {
    /// The server has reached its connection limit.
    Server,
    /// The client's address has reached its connection limit.
    Address,
    /// The client's address opens connections too fast.
    Rate,
}

impl Admission {
    /// Creates the counts of a server without connections.
    pub(crate) fn new(limits: ConnectionLimits) -> Self {
        let ConnectionLimits { server, per_address, handshakes, rate } = limits;
        Self {
            limit: server.into(),
            limit_per_address: per_address.into(),
            handshake_limit: handshakes.into(),
            rate: rate.into(),
            count: AtomicU64::new(0),
            served: AtomicU64::new(0),
            by_address: Mutex::default(),
            arrivals: Mutex::default(),
        }
    }

    /// Sets the limits for connections accepted from now on. Existing connections stay open, even above the new limits.
    pub(crate) fn set_limits(&self, limits: ConnectionLimits) {
        self.limit.store(limits.server, Ordering::Relaxed);
        self.limit_per_address.store(limits.per_address, Ordering::Relaxed);
        self.handshake_limit.store(limits.handshakes, Ordering::Relaxed);
        if self.rate.swap(limits.rate, Ordering::Relaxed) != limits.rate {
            self.arrivals.lock().unwrap_or_else(PoisonError::into_inner).clear();
        }
    }

    /// Counts a connection from `address`, and returns the limits that it counts against. The caller refuses a
    /// connection over a limit. The caller also calls [`Admission::leave`] for every connection that is gone.
    /// `now_ns` is the time in nanoseconds, on a clock that all shards share.
    pub(crate) fn enter(&self, address: Option<IpAddr>, now_ns: u64) -> Place {
        self.count.fetch_add(1, Ordering::Relaxed);
        if self.is_too_fast(address, now_ns) {
            return Place::Over(Excess::Rate);
        }
        self.admit(address)
    }

    /// Returns the limits that a connection from `address` counts against. For a connection that [`Admission::enter`]
    /// found over a limit, and for which [`Admission::give_up`] has made room.
    pub(crate) fn admit(&self, address: Option<IpAddr>) -> Place {
        let place = self.enter_address(address);
        if !matches!(place, Place::Over(_)) && !raise(&self.served, &self.limit) {
            self.leave_address(address, place);
            return Place::Over(Excess::Server);
        }
        place
    }

    /// Counts a connection for the address `to` instead of `from`, and returns its new place. The connection's request
    /// must not be answered yet. If `to` is over a limit, the connection no longer counts against any limit. `now_ns` is
    /// the time in nanoseconds, on a clock that all shards share. `None` if the connection is not new to `to`, so that
    /// it does not count against the rate of the address.
    pub(crate) fn relocate(
        &self,
        from: Option<IpAddr>,
        place: Place,
        to: Option<IpAddr>,
        now_ns: Option<u64>,
    ) -> Place {
        self.leave_address(from, place);
        let is_too_fast = now_ns.is_some_and(|now_ns| self.is_too_fast(to, now_ns));
        let place = if is_too_fast { Place::Over(Excess::Rate) } else { self.enter_address(to) };
        if matches!(place, Place::Over(_)) {
            self.served.fetch_sub(1, Ordering::Relaxed);
        }
        place
    }

    /// Removes a connection that is about to be closed from the limits, and returns its new place.
    pub(crate) fn give_up(&self, address: Option<IpAddr>, place: Place) -> Place {
        if matches!(place, Place::Over(_)) {
            return place;
        }
        self.served.fetch_sub(1, Ordering::Relaxed);
        self.leave_address(address, place);
        Place::Over(Excess::Server)
    }

    /// Removes a closed connection from all counts. `place` is the last result of `enter` or `relocate` for the
    /// connection, and `address` is the address of that call.
    pub(crate) fn leave(&self, address: Option<IpAddr>, place: Place) {
        self.give_up(address, place);
        self.count.fetch_sub(1, Ordering::Relaxed);
    }

    /// Returns the connection limit of the server.
    pub(crate) fn limit(&self) -> u64 {
        self.limit.load(Ordering::Relaxed)
    }

    /// Returns the limit of connections whose HTTP request is not complete. Each shard has an equal part of it.
    pub(crate) fn handshake_limit(&self) -> u64 {
        self.handshake_limit.load(Ordering::Relaxed)
    }

    /// Returns the number of connections, including those over a limit.
    pub(crate) fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// Returns the number of client addresses with connections that count against the limit per address.
    pub(crate) fn addresses(&self) -> usize {
        self.by_address.lock().expect("no thread panics while it counts").len()
    }

    /// Charges an address for a new connection. Returns whether the address is over its rate.
    fn is_too_fast(&self, address: Option<IpAddr>, now_ns: u64) -> bool {
        let rate = self.rate.load(Ordering::Relaxed);
        let Some(address) = address.filter(|_| rate > 0) else { return false };
        let mut arrivals = self.arrivals.lock().unwrap_or_else(PoisonError::into_inner);
        !arrivals.charge(key(address), rate, now_ns)
    }

    fn enter_address(&self, address: Option<IpAddr>) -> Place {
        let limit = self.limit_per_address.load(Ordering::Relaxed);
        let Some(address) = address.filter(|_| limit > 0) else { return Place::Uncounted };
        let mut by_address = self.by_address.lock().expect("no thread panics while it counts");
        let count = by_address.entry(key(address)).or_default();
        if *count >= limit {
            return Place::Over(Excess::Address);
        }
        *count += 1;
        Place::Counted
    }

    fn leave_address(&self, address: Option<IpAddr>, place: Place) {
        if let (Some(address), Place::Counted) = (address, place) {
            let mut by_address = self.by_address.lock().expect("no thread panics while it counts");
            let key = key(address);
            let count = by_address.get_mut(&key).expect("a connection that leaves has entered");
            *count -= 1;
            if *count == 0 {
                by_address.remove(&key);
            }
        }
    }
}

/// Adds 1 to a count unless the count has reached its limit. Returns whether the count was raised.
fn raise(count: &AtomicU64, limit: &AtomicU64) -> bool {
    let limit = limit.load(Ordering::Relaxed);
    let next = |count| (count < limit).then_some(count + 1);
    count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next).is_ok()
}

/// Returns the address under which a client is counted. For IPv6 this is the first 64 bits, since one subscriber has
/// all addresses that begin with them. For an IPv4-mapped IPv6 address this is the IPv4 address.
pub(super) fn key(address: IpAddr) -> IpAddr {
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

    fn limits(server: u64, per_address: u32) -> ConnectionLimits {
        ConnectionLimits { server, per_address, handshakes: 100, rate: 0 }
    }

    fn admission(server: u64, per_address: u32) -> Admission {
        Admission::new(limits(server, per_address))
    }

    #[test]
    fn each_limit_has_its_own_excess_and_leaving_makes_room() {
        let admission = admission(3, 2);
        assert_eq!(admission.enter(ip("10.0.0.1"), 0), Place::Counted);
        assert_eq!(admission.enter(ip("10.0.0.1"), 0), Place::Counted);
        assert_eq!(admission.enter(ip("10.0.0.1"), 0), Place::Over(Excess::Address));
        assert_eq!(admission.enter(ip("10.0.0.2"), 0), Place::Counted);
        assert_eq!(admission.enter(ip("10.0.0.3"), 0), Place::Over(Excess::Server));
        admission.leave(ip("10.0.0.1"), Place::Counted);
        // The two refused connections are still open, but count against no limit.
        assert_eq!(admission.enter(ip("10.0.0.3"), 0), Place::Counted);
        assert_eq!(admission.count(), 5);
        admission.leave(ip("10.0.0.1"), Place::Over(Excess::Address));
        admission.leave(ip("10.0.0.3"), Place::Over(Excess::Server));
        for address in ["10.0.0.1", "10.0.0.2", "10.0.0.3"] {
            admission.leave(ip(address), Place::Counted);
        }
        assert_eq!((admission.count(), admission.addresses()), (0, 0));
    }

    #[test]
    fn an_address_that_connects_too_fast_is_over_its_rate_and_counts_against_no_limit() {
        let admission = Admission::new(ConnectionLimits { rate: 1, ..limits(6, 9) });
        let (hasty, other, second) = (ip("10.0.0.1"), ip("10.0.0.2"), 1_000_000_000);
        for _ in 0..4 {
            assert_eq!(admission.enter(hasty, second), Place::Counted);
        }
        assert_eq!(admission.enter(hasty, second), Place::Over(Excess::Rate));
        let proxied = admission.enter(None, second);
        assert_eq!(admission.relocate(None, proxied, hasty, Some(second)), Place::Over(Excess::Rate));
        assert_eq!(admission.enter(hasty, 2 * second), Place::Counted);
        assert_eq!(admission.enter(other, 2 * second), Place::Counted);
        assert_eq!(admission.enter(other, 2 * second), Place::Over(Excess::Server));
        admission.set_limits(limits(7, 9));
        assert_eq!(admission.enter(hasty, 2 * second), Place::Counted);
    }

    #[test]
    fn a_connection_that_is_given_up_makes_room_for_another_one() {
        let admission = admission(1, 1);
        let first = admission.enter(ip("10.0.0.1"), 0);
        assert_eq!(admission.enter(ip("10.0.0.2"), 0), Place::Over(Excess::Server));
        let given_up = admission.give_up(ip("10.0.0.1"), first);
        assert_eq!(admission.admit(ip("10.0.0.2")), Place::Counted);
        assert_eq!((admission.count(), admission.addresses()), (2, 1), "both connections are still open");
        admission.leave(ip("10.0.0.1"), given_up);
        admission.leave(ip("10.0.0.2"), Place::Counted);
        assert_eq!((admission.count(), admission.addresses()), (0, 0));
    }

    #[test]
    fn ipv6_counts_by_its_first_64_bits_and_mapped_addresses_as_ipv4() {
        let admission = admission(10, 1);
        assert_eq!(admission.enter(ip("2001:db8::1"), 0), Place::Counted);
        assert_eq!(admission.enter(ip("2001:db8::2:0:0:1"), 0), Place::Over(Excess::Address));
        assert_eq!(admission.enter(ip("2001:db8:0:1::1"), 0), Place::Counted);
        assert_eq!(admission.enter(ip("::ffff:10.0.0.1"), 0), Place::Counted);
        assert_eq!(admission.enter(ip("10.0.0.1"), 0), Place::Over(Excess::Address));
    }

    #[test]
    fn a_client_that_its_proxy_names_counts_for_its_own_address() {
        let admission = admission(3, 1);
        let (proxy, client) = (ip("10.0.0.1"), ip("192.0.2.1"));
        let first = admission.enter(None, 0);
        assert_eq!(admission.relocate(None, first, client, Some(0)), Place::Counted);
        let second = admission.enter(proxy, 0);
        assert_eq!(admission.relocate(proxy, second, client, Some(0)), Place::Over(Excess::Address));
        // The refused connection counts neither for the server nor for the proxy's address.
        assert_eq!(admission.enter(proxy, 0), Place::Counted);
        assert_eq!(admission.enter(ip("10.0.0.3"), 0), Place::Counted);
        assert_eq!(admission.enter(ip("10.0.0.4"), 0), Place::Over(Excess::Server));
        assert_eq!(admission.relocate(proxy, Place::Counted, None, Some(0)), Place::Uncounted);
        admission.leave(client, Place::Over(Excess::Address));
        admission.leave(client, Place::Counted);
        assert_eq!(admission.addresses(), 1, "10.0.0.3 alone");
        admission.leave(proxy, Place::Uncounted);
        admission.leave(ip("10.0.0.3"), Place::Counted);
        admission.leave(ip("10.0.0.4"), Place::Over(Excess::Server));
        assert_eq!((admission.count(), admission.addresses()), (0, 0));
    }

    #[test]
    fn a_connection_that_came_before_a_limit_for_addresses_leaves_uncounted() {
        let admission = admission(10, 0);
        let early = admission.enter(ip("10.0.0.1"), 0);
        assert_eq!(early, Place::Uncounted);
        admission.set_limits(limits(10, 2));
        let counted = admission.enter(ip("10.0.0.1"), 0);
        admission.leave(ip("10.0.0.1"), early);
        assert_eq!(admission.enter(ip("10.0.0.1"), 0), Place::Counted);
        // The limit per address first drops below the number of connections, and then becomes 0 (no limit).
        admission.set_limits(limits(10, 1));
        assert_eq!(admission.enter(ip("10.0.0.1"), 0), Place::Over(Excess::Address));
        admission.leave(ip("10.0.0.1"), Place::Over(Excess::Address));
        admission.set_limits(limits(1, 0));
        assert_eq!(admission.enter(ip("10.0.0.1"), 0), Place::Over(Excess::Server));
        admission.leave(ip("10.0.0.1"), Place::Over(Excess::Server));
        admission.leave(ip("10.0.0.1"), counted);
        admission.leave(ip("10.0.0.1"), counted);
        assert_eq!((admission.count(), admission.addresses()), (0, 0));
    }
}
