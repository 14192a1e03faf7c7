//! All rooms of a shard, by name and by key.

use std::collections::{BTreeMap, HashMap};
use std::num::NonZeroU64;
use std::ops::{Index, IndexMut};

use slab::Slab;

use crate::timers::Timers;

use super::room::{Home, Room};

/// Time without a message after which a room frees its log, in milliseconds, once every member has read it.
pub(crate) const REST_MS: u64 = 5_000;

/// Weight of a room without members beside its log, in bytes: about its memory, with its name.
const ABANDONED_WEIGHT: usize = 512;

/// How long a room keeps its history under memory pressure: by whether it has members, its last use, and its serial
/// number. The smallest goes first.
pub(crate) type Rank = (bool, u64, u64);

/// Index of a room on this shard. A later room may get the index of one that was forgotten.
pub(crate) type RoomId = u32;

/// Names a room of one shard from its creation until it is forgotten, and no other room of that shard, ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RoomKey {
    id: RoomId,
    /// Number of the room among all that the shard has made, beginning with 1.
    serial: NonZeroU64,
}

impl RoomKey {
    pub(crate) fn serial(self) -> u64 {
        self.serial.get()
    }

    /// Any key, for tests of code that only carries keys.
    #[cfg(test)]
    pub(crate) fn example(number: u32) -> Self {
        Self { id: number, serial: NonZeroU64::MIN }
    }
}

#[derive(Debug)]
pub(crate) struct Rooms {
    slab: Slab<Box<Room>>,
    by_name: HashMap<Box<str>, RoomId>,
    /// Serial number of the next room.
    next: NonZeroU64,
    /// Rooms that may lose their history, the first to lose it first.
    ranks: BTreeMap<Rank, RoomId>,
    /// Weight of all rooms, in bytes.
    weight: usize,
    /// Rooms to check later.
    pub(crate) timers: Timers<RoomKey>,
}

impl Default for Rooms {
    fn default() -> Self {
        Self {
            slab: Slab::new(),
            by_name: HashMap::new(),
            next: NonZeroU64::MIN,
            ranks: BTreeMap::new(),
            weight: 0,
            timers: Timers::default(),
        }
    }
}

impl Rooms {
    pub(crate) fn len(&self) -> usize {
        self.slab.len()
    }

    /// Number of rooms that memory is allocated for.
    pub(crate) fn capacity(&self) -> usize {
        self.slab.capacity().max(self.by_name.capacity())
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Room> {
        self.slab.iter().map(|(_, room)| &**room)
    }

    #[cfg(test)]
    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Room> {
        self.slab.iter_mut().map(|(_, room)| &mut **room)
    }

    /// Gives the next room the serial number of an earlier one.
    #[cfg(test)]
    pub(crate) fn forget_serials(&mut self) {
        self.next = NonZeroU64::MIN;
    }

    pub(crate) fn find(&self, name: &str) -> Option<RoomId> {
        self.by_name.get(name).copied()
    }

    /// The index of a room that may have been forgotten since.
    pub(crate) fn resolve(&self, key: RoomKey) -> Option<RoomId> {
        self.slab.get(key.id as usize).filter(|room| room.key == key).map(|_| key.id)
    }

    /// Makes a room whose home is `home_shard`. `home` is present where that is this shard.
    pub(crate) fn insert(&mut self, name: &str, home_shard: u16, home: Option<Home>) -> RoomId {
        let entry = self.slab.vacant_entry();
        let id = entry.key() as RoomId;
        let key = RoomKey { id, serial: self.next };
        self.next = self.next.saturating_add(1);
        entry.insert(Box::new(Room::new(name, key, home_shard, home)));
        self.by_name.insert(name.into(), id);
        id
    }

    pub(crate) fn remove(&mut self, id: RoomId) -> Room {
        let room = *self.slab.remove(id as usize);
        self.by_name.remove(&room.name);
        self.weight -= room.weight;
        if let Some(rank) = room.rank {
            self.ranks.remove(&rank);
        }
        // Tried again at every halving: the slab can only shrink down to its last room.
        let len = self.slab.len();
        if (len == 0 || len.is_power_of_two()) && len < self.capacity() / 8 {
            self.by_name.shrink_to(len * 2);
            self.slab.shrink_to_fit();
        }
        room
    }

    /// Updates a room's weight and rank.
    pub(crate) fn weigh(&mut self, id: RoomId) {
        let room = &mut self.slab[id as usize];
        let is_abandoned = room.live && room.is_abandoned();
        let weight = room.memory() + if is_abandoned { ABANDONED_WEIGHT } else { 0 };
        self.weight = self.weight - room.weight + weight;
        room.weight = weight;
        // In units of about a second, so that a busy room is not sorted again for each message.
        let rank = (!is_abandoned, room.used_ms >> 10, room.key.serial());
        if room.rank != Some(rank) {
            if let Some(former) = room.rank.replace(rank) {
                self.ranks.remove(&former);
            }
            self.ranks.insert(rank, id);
        }
    }

    /// Weight of all rooms in bytes, each as of its last [`Rooms::weigh`].
    pub(crate) fn weight(&self) -> usize {
        self.weight
    }

    /// Takes the room that loses its history first off the ranks. It has no rank until [`Rooms::weigh`] gives it one.
    pub(crate) fn take_least(&mut self) -> Option<RoomId> {
        self.ranks.pop_first().map(|(_, id)| id)
    }

    /// Sets the timer of a room that may rest later, or that nobody is in.
    pub(crate) fn set_timer(&mut self, id: RoomId, now_ms: u64, history_ms: u64) {
        let room = &mut self.slab[id as usize];
        if room.timed {
            return;
        }
        let resting = room.memory() == 0 || !room.is_consumed();
        if resting && !room.is_abandoned() {
            return;
        }
        room.timed = true;
        let wait_ms = if resting { history_ms } else { REST_MS };
        self.timers.set(now_ms.max(room.used_ms + wait_ms), room.key);
    }
}

impl Index<RoomId> for Rooms {
    type Output = Room;

    fn index(&self, id: RoomId) -> &Room {
        &self.slab[id as usize]
    }
}

impl IndexMut<RoomId> for Rooms {
    fn index_mut(&mut self, id: RoomId) -> &mut Room {
        &mut self.slab[id as usize]
    }
}
