//! The unfinished handshakes of a shard, by client address.
//!
//! Each shard may have its part of `--max-handshakes`. At the limit, a new connection closes the oldest unfinished
//! handshake of the address with the most of them. So an address that opens many connections closes its own, and
//! clients of other addresses get in. Under an attack from as many addresses as the limit, the oldest handshake of all
//! is closed. A client then gets in if its handshake takes less time than the attackers need for as many connections
//! as the limit.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use crate::hub::Slot;
use crate::io::Backend;
use crate::stats::Refused;

use super::Shard;
use super::admission::{Excess, Place, key};

/// Capacity of a map, in entries, up to which the map keeps its memory.
const KEPT_CAPACITY: usize = 256;

/// An index of the unfinished handshakes of a shard. Each operation takes logarithmic time.
#[derive(Debug, Default)]
pub(super) struct Handshakes {
    /// The address and the number of each unfinished handshake, by slot.
    entries: HashMap<Slot, Entry>,
    /// The slots of each address's unfinished handshakes, by number: the oldest comes first. `None` is the address of
    /// clients without one, which came over a Unix socket.
    by_address: HashMap<Option<IpAddr>, BTreeMap<u64, Slot>>,
    /// Each address with its rank. The last one loses the next handshake.
    ranks: BTreeSet<(Rank, Option<IpAddr>)>,
    /// Number of the next handshake. Earlier handshakes have lower numbers.
    next: u64,
}

/// The address and the number of an unfinished handshake.
#[derive(Clone, Copy, Debug)]
struct Entry {
    address: Option<IpAddr>,
    number: u64,
}

/// The rank of an address: the number of its unfinished handshakes, and the number of the oldest one. Of two addresses
/// with the same count, the address with the older handshake ranks higher.
type Rank = (usize, Reverse<u64>);

impl Handshakes {
    /// Returns the number of unfinished handshakes.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Adds the handshake of a new connection from `address`.
    pub(super) fn add(&mut self, slot: Slot, address: Option<IpAddr>) {
        let number = self.next;
        self.next += 1;
        self.insert(slot, Entry { address: address.map(key), number });
    }

    /// Removes a handshake that is over. Does nothing when the connection has no unfinished handshake.
    pub(super) fn remove(&mut self, slot: Slot) {
        let Some(Entry { address, number }) = self.entries.remove(&slot) else { return };
        let slots = self.by_address.get_mut(&address).expect("an entry is listed under its address");
        self.ranks.remove(&(rank(slots), address));
        slots.remove(&number);
        if slots.is_empty() {
            self.by_address.remove(&address);
        } else {
            self.ranks.insert((rank(slots), address));
        }
        release_memory(&mut self.entries);
        release_memory(&mut self.by_address);
    }

    /// Counts a handshake for the client that a proxy has named. The handshake keeps its age.
    pub(super) fn move_to(&mut self, slot: Slot, address: IpAddr) {
        if let Some(Entry { number, .. }) = self.entries.get(&slot).copied() {
            self.remove(slot);
            self.insert(slot, Entry { address: Some(key(address)), number });
        }
    }

    /// Returns the slot of the oldest handshake of the address with the most of them, or `None` without handshakes.
    fn oldest_of_most(&self) -> Option<Slot> {
        let (_, address) = self.ranks.last()?;
        self.by_address[address].values().next().copied()
    }

    /// Returns the slot of the oldest handshake of the address with the most of them. Returns `None` if each address
    /// has only one, or if `newcomer` is that address.
    fn oldest_of_several(&self, newcomer: Option<IpAddr>) -> Option<Slot> {
        let ((count, _), address) = self.ranks.last()?;
        let is_other = *address != newcomer.map(key);
        if *count > 1 && is_other { self.oldest_of_most() } else { None }
    }

    fn insert(&mut self, slot: Slot, entry: Entry) {
        let slots = self.by_address.entry(entry.address).or_default();
        if !slots.is_empty() {
            self.ranks.remove(&(rank(slots), entry.address));
        }
        slots.insert(entry.number, slot);
        self.ranks.insert((rank(slots), entry.address));
        self.entries.insert(slot, entry);
    }
}

/// Returns the rank of an address with these unfinished handshakes.
fn rank(slots: &BTreeMap<u64, Slot>) -> Rank {
    let oldest = slots.keys().next().copied().unwrap_or_default();
    (slots.len(), Reverse(oldest))
}

/// Releases memory of a map that has become much smaller than it was.
fn release_memory<K: Eq + std::hash::Hash, V>(map: &mut HashMap<K, V>) {
    let capacity = map.capacity();
    if capacity > KEPT_CAPACITY && map.len() < capacity / 8 {
        map.shrink_to(capacity / 2);
    }
}

impl<B: Backend> Shard<B> {
    /// Counts a new connection, and returns the limits that it counts against. At the server's connection limit, an
    /// address with several unfinished handshakes loses one of them to a client of another address. Otherwise an idle
    /// connection makes room.
    pub(super) fn enter(&mut self, peer: Option<IpAddr>) -> Place {
        let counted = peer.filter(|peer| !self.is_proxy(*peer));
        let place = self.shared.admission.enter(counted, self.transport.now_ns());
        if place == Place::Over(Excess::Server)
            && let Some(oldest) = self.handshakes.oldest_of_several(peer)
        {
            self.evict(oldest);
            return self.shared.admission.admit(counted);
        }
        if place == Place::Over(Excess::Server) && self.end_oldest_idle() {
            return self.shared.admission.admit(counted);
        }
        place
    }

    /// Adds the handshake of a new connection, and closes another one if the shard is over its limit.
    pub(super) fn begin_handshake(&mut self, slot: Slot) {
        self.handshakes.add(slot, self.connections[slot as usize].peer);
        let limit = self.shared.admission.handshake_limit().div_ceil(self.settings.id.count.into());
        if self.handshakes.len() as u64 > limit
            && let Some(oldest) = self.handshakes.oldest_of_most()
        {
            self.evict(oldest);
        }
    }

    /// Closes a connection with an unfinished handshake to make room for another one. A reset, unlike an error response,
    /// frees the descriptor at once and needs no finished TLS handshake.
    fn evict(&mut self, slot: Slot) {
        let connection = &mut self.connections[slot as usize];
        connection.place = self.shared.admission.give_up(connection.peer, connection.place);
        let reason =
            "Too many connections have not sent their request; the oldest of this address is closed.";
        self.cut_off(slot, Refused::Handshakes, reason);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> Option<IpAddr> {
        Some(text.parse().expect("an address"))
    }

    #[test]
    fn the_oldest_handshake_of_the_address_with_the_most_comes_first() {
        let mut handshakes = Handshakes::default();
        assert_eq!(handshakes.oldest_of_most(), None);
        handshakes.add(9, ip("10.0.0.9"));
        for slot in 0..3 {
            handshakes.add(slot, ip("10.0.0.1"));
        }
        handshakes.add(5, None);
        handshakes.add(4, None);
        for slot in [0, 1] {
            assert_eq!(handshakes.oldest_of_most(), Some(slot));
            handshakes.remove(slot);
        }
        assert_eq!(handshakes.oldest_of_most(), Some(5), "two handshakes without an address");
        handshakes.remove(5);
        // Every address has one handshake now, so the oldest of all comes first.
        for slot in [9, 2, 4] {
            assert_eq!(handshakes.oldest_of_most(), Some(slot));
            handshakes.remove(slot);
            handshakes.remove(slot);
        }
        assert_eq!((handshakes.len(), handshakes.oldest_of_most()), (0, None));
        assert!(handshakes.by_address.is_empty() && handshakes.ranks.is_empty());
    }

    #[test]
    fn only_an_address_with_several_handshakes_loses_one_to_another_address() {
        let mut handshakes = Handshakes::default();
        handshakes.add(0, ip("10.0.0.1"));
        handshakes.add(1, ip("10.0.0.2"));
        assert_eq!(handshakes.oldest_of_several(ip("10.0.0.3")), None);
        handshakes.add(2, ip("10.0.0.2"));
        assert_eq!(handshakes.oldest_of_several(ip("10.0.0.3")), Some(1));
        assert_eq!(handshakes.oldest_of_several(ip("10.0.0.2")), None);
    }

    #[test]
    fn ipv6_addresses_count_together_by_their_first_64_bits() {
        let mut handshakes = Handshakes::default();
        handshakes.add(7, ip("10.0.0.1"));
        handshakes.add(1, ip("2001:db8::1"));
        handshakes.add(2, ip("2001:db8::2:0:0:1"));
        assert_eq!(handshakes.oldest_of_most(), Some(1));
    }

    #[test]
    fn a_client_that_its_proxy_names_counts_for_its_own_address_and_keeps_its_age() {
        let mut handshakes = Handshakes::default();
        for slot in 0..4 {
            handshakes.add(slot, ip("10.0.0.1"));
        }
        handshakes.add(9, ip("192.0.2.1"));
        for slot in 0..3 {
            handshakes.move_to(slot, "192.0.2.1".parse().expect("an address"));
        }
        assert_eq!(handshakes.oldest_of_most(), Some(0), "older than the handshake in slot 9");
        handshakes.move_to(50, "192.0.2.1".parse().expect("an address"));
        assert_eq!(handshakes.len(), 5, "slot 50 has no handshake");
    }

    #[test]
    fn a_flood_leaves_no_memory_behind() {
        let mut handshakes = Handshakes::default();
        for slot in 0..100_000_u32 {
            handshakes.add(slot, Some(IpAddr::from(slot.to_be_bytes())));
        }
        (0..100_000).for_each(|slot| handshakes.remove(slot));
        let capacities = [handshakes.entries.capacity(), handshakes.by_address.capacity()];
        assert!(capacities.iter().all(|capacity| *capacity <= 2 * KEPT_CAPACITY), "{capacities:?}");
    }
}
