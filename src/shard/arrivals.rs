//! The rate limit of new connections for each client address, by the generic cell rate algorithm (ITU-T I.371).
//!
//! For each address there is one point in time: its connections are paid for up to then. The point may lie ahead of the
//! clock by the burst. A connection that would move it further is over the rate, and is not charged.

use std::collections::HashMap;
use std::net::IpAddr;

use super::pace::{BURST_NS, NS_PER_S, spend};

/// Maximum number of addresses in the table, which then takes about 2 MiB. Addresses without an entry in a full table
/// have no rate limit.
const MAX_ADDRESSES: usize = 50_000;
/// Number of addresses up to which the table is not swept.
const MIN_SWEEP: usize = 1_000;
/// Minimum interval between two sweeps of the table, in nanoseconds.
const SWEEP_NS: u64 = NS_PER_S;

/// The recent connections of each client address. Any number of addresses takes bounded memory.
#[derive(Debug, Default)]
pub(super) struct Arrivals {
    /// The point in time up to which the connections of each address are paid for, in nanoseconds.
    paid_ns: HashMap<IpAddr, u64>,
    /// Number of addresses that the last sweep left.
    left: usize,
    /// Time of the last sweep, in nanoseconds.
    swept_ns: u64,
}

impl Arrivals {
    /// Charges an address for a new connection. `rate` is the number of connections per second that an address may
    /// open, and not 0. Returns false when the address is over its rate.
    pub(super) fn charge(&mut self, address: IpAddr, rate: u32, now_ns: u64) -> bool {
        self.sweep_if_large(now_ns);
        if self.paid_ns.len() >= MAX_ADDRESSES && !self.paid_ns.contains_key(&address) {
            return true;
        }
        let paid_ns = self.paid_ns.entry(address).or_default();
        let mut next_ns = *paid_ns;
        spend(&mut next_ns, now_ns, 1, rate);
        let is_within = next_ns <= now_ns + BURST_NS;
        if is_within {
            *paid_ns = next_ns;
        }
        is_within
    }

    /// Drops all addresses, for when the rate limit is switched off.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Drops the addresses that have not used any of their burst, when the table has doubled since the last sweep.
    fn sweep_if_large(&mut self, now_ns: u64) {
        let len = self.paid_ns.len();
        let is_large = len >= (2 * self.left).clamp(MIN_SWEEP, MAX_ADDRESSES);
        if is_large && now_ns.saturating_sub(self.swept_ns) >= SWEEP_NS {
            self.paid_ns.retain(|_, paid_ns| *paid_ns > now_ns);
            self.left = self.paid_ns.len();
            self.paid_ns.shrink_to(2 * self.left);
            self.swept_ns = now_ns;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn ip(number: u32) -> IpAddr {
        IpAddr::from(number.to_be_bytes())
    }

    #[test]
    fn a_burst_passes_at_once_and_then_the_rate_holds() {
        let mut arrivals = Arrivals::default();
        let mut count = |from_ms: u64, to_ms: u64| {
            let times = (from_ms..to_ms).flat_map(|ms| [ms; 3]);
            times.filter(|ms| arrivals.charge(ip(1), 10, ms * MS)).count()
        };
        assert_eq!(count(5_000, 5_100), 40, "four seconds' worth");
        assert_eq!(count(5_100, 15_100), 100, "ten a second, although far more are tried");
        assert_eq!(count(60_000, 60_100), 40, "the address was quiet");
    }

    #[test]
    fn addresses_have_separate_rates() {
        let mut arrivals = Arrivals::default();
        while arrivals.charge(ip(1), 1, MS) {}
        assert!(arrivals.charge(ip(2), 1, MS));
    }

    #[test]
    fn a_full_table_keeps_limiting_the_addresses_in_it_and_lets_others_pass() {
        let mut arrivals = Arrivals::default();
        let attack_ns = 1_000 * MS;
        let max = MAX_ADDRESSES as u32;
        (0..max + 10_000)
            .for_each(|number| while arrivals.charge(ip(number), 1, attack_ns) && number < max {});
        assert_eq!(arrivals.paid_ns.len(), MAX_ADDRESSES);
        assert!(!arrivals.charge(ip(3), 1, attack_ns));
        assert!(arrivals.charge(ip(max + 1), 1, attack_ns));
        // Once the attack's connections are paid for, the table makes room and gives its memory back.
        let later_ns = attack_ns + BURST_NS + SWEEP_NS;
        assert!(arrivals.charge(ip(max + 1), 1, later_ns));
        assert_eq!(arrivals.paid_ns.len(), 1);
        assert!(arrivals.paid_ns.capacity() < 100, "{}", arrivals.paid_ns.capacity());
        while arrivals.charge(ip(max + 1), 1, later_ns) {}
    }
}
