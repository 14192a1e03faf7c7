//! All rooms of a shard, by name and by key.

use std::collections::{BTreeMap, HashMap};
use std::num::NonZeroU64;
use std::ops::{Index, IndexMut};

use slab::Slab;

use crate::timers::Timers;

use super::room::{Home, Room};

/// Time in milliseconds after which a room without new messages frees its log, if every member has read the log.
pub(crate) const REST_MS: u64 = 5_000;

/// Weight of a room without members in addition to its log, in bytes: about the memory of the room and its name.
const ABANDONED_WEIGHT: usize = 512;

/// A room's rank for losing its history under memory pressure: whether it has members, the time of its last use, its
/// serial number. The room with the smallest rank is first.
pub(crate) type Rank = (bool, u64, u64);

/// Index of a room on this shard. A later room may get the index of a forgotten room.
pub(crate) type RoomId = u32;

/// Key of a room on one shard, valid until the room is forgotten. No other room of the shard ever has the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RoomKey {
    id: RoomId,
    /// Serial number of the room among all rooms that the shard ever created, from 1 on.
    serial: NonZeroU64,
}

impl RoomKey {
    pub(crate) fn serial(self) -> u64 {
        self.serial.get()
    }

    /// Returns a key without a room, for tests of code that only carries keys.
    #[cfg(test)]
    pub(crate) fn example(number: u32) -> Self {
        Self { id: number, serial: NonZeroU64::MIN }
    }
}

#[derive(Debug)]
pub(crate) struct Rooms {
    slab: Slab<Box<Room>>,
    by_name: HashMap<Box<str>, RoomId>,
    /// Serial number of the next room to be created.
    next: NonZeroU64,
    /// Base of the epochs of all rooms.
    pub(crate) epoch_base: u64,
    /// Rooms that may lose their history, in the order in which they lose it.
    ranks: BTreeMap<Rank, RoomId>,
    /// Sum of the weights of all rooms, in bytes.
    weight: usize,
    /// Timers of the rooms that may free memory or be forgotten later.
    pub(crate) timers: Timers<RoomKey>,
}

impl Default for Rooms {
    fn default() -> Self {
        Self {
            slab: Slab::new(),
            by_name: HashMap::new(),
            next: NonZeroU64::MIN,
            epoch_base: 0,
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

    /// Returns the end of the rooms' positions: all rooms are at lower ones.
    pub(crate) fn positions(&self) -> usize {
        self.slab.capacity()
    }

    /// Returns the room at a position.
    pub(crate) fn at(&self, position: usize) -> Option<&Room> {
        self.slab.get(position).map(|room| &**room)
    }

    /// Returns the number of rooms for which memory is allocated.
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

    /// Injects a bug for tests: the next room gets the serial number 1, which an earlier room may have had.
    #[cfg(test)]
    pub(crate) fn forget_serials(&mut self) {
        self.next = NonZeroU64::MIN;
    }

    pub(crate) fn find(&self, name: &str) -> Option<RoomId> {
        self.by_name.get(name).copied()
    }

    /// Returns the index of the room with this key. `None` if the room was forgotten.
    pub(crate) fn resolve(&self, key: RoomKey) -> Option<RoomId> {
        self.slab.get(key.id as usize).filter(|room| room.key == key).map(|_| key.id)
    }

    /// Returns the epoch of a room. `None` on a shard that does not know the home shard's key of the room yet.
    pub(crate) fn epoch(&self, id: RoomId) -> Option<u64> {
        // A shard never uses a serial number again, and a room's home never changes.
        self.slab[id as usize].home_key.map(|key| self.epoch_base.wrapping_add(key.serial()))
    }

    /// Creates a room whose home is `home_shard`, and returns its index. `home` is present if this shard is the home.
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
        // Shrinks at each power of two, not once, because the slab can only shrink down to its last occupied entry.
        let len = self.slab.len();
        if (len == 0 || len.is_power_of_two()) && len < self.capacity() / 8 {
            self.by_name.shrink_to(len * 2);
            self.slab.shrink_to_fit();
        }
        room
    }

    /// Updates the weight and the rank of room `id`.
    pub(crate) fn weigh(&mut self, id: RoomId) {
        let room = &mut self.slab[id as usize];
        let is_abandoned = room.live && room.is_abandoned();
        let weight = room.memory() + if is_abandoned { ABANDONED_WEIGHT } else { 0 };
        self.weight = self.weight - room.weight + weight;
        room.weight = weight;
        // The last use counts in units of about a second, so that a busy room is not sorted again for each message.
        let rank = (!is_abandoned, room.used_ms >> 10, room.key.serial());
        if room.rank != Some(rank) {
            if let Some(former) = room.rank.replace(rank) {
                self.ranks.remove(&former);
            }
            self.ranks.insert(rank, id);
        }
    }

    /// Returns the sum of the weights of all rooms in bytes, each as of its last [`Rooms::weigh`].
    pub(crate) fn weight(&self) -> usize {
        self.weight
    }

    /// Removes the room that loses its history first from the ranks and returns it. [`Rooms::weigh`] ranks it again.
    pub(crate) fn take_least(&mut self) -> Option<RoomId> {
        self.ranks.pop_first().map(|(_, id)| id)
    }

    /// Sets the timer of a room whose log can be freed later, or that has no members. Does nothing for other rooms.
    /// `retention_ms` is the time for which a room with sessions keeps its messages.
    pub(crate) fn set_timer(&mut self, id: RoomId, now_ms: u64, history_ms: u64, retention_ms: u64) {
        let room = &mut self.slab[id as usize];
        if room.timed {
            return;
        }
        let retained_until_ms = room.home.as_ref().map_or(0, |home| home.retained_until_ms);
        let has_sessions = room.home.as_ref().is_some_and(|home| home.retains(now_ms));
        let due_ms = match room.memory() == 0 || !room.is_consumed() {
            false => room.used_ms + REST_MS,
            true if room.is_abandoned() => (room.used_ms + history_ms).max(retained_until_ms),
            // By then the last message is too old for all sessions.
            true if has_sessions && room.memory() > 0 => room.used_ms + retention_ms,
            true => return,
        };
        room.timed = true;
        self.timers.set(now_ms.max(due_ms), room.key);
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
