//! All rooms of a shard, by name and by index.

use std::collections::{BTreeMap, HashMap};
use std::ops::{Index, IndexMut};

use slab::Slab;

use super::room::{Home, Room};
use crate::timers::Timers;

/// After so long without a message a room whose log is read by nobody gives its memory back.
pub(crate) const REST_MS: u64 = 5_000;

/// What a room without members weighs beside its log: about what it takes in memory, with its name.
const ABANDONED_WEIGHT: usize = 512;

/// How dear a room's history is: whether somebody is there, when it was used, and which room it is.
pub(crate) type Rank = (bool, u64, u64);

/// Index of a room on this shard, used again when the room is gone.
pub(crate) type RoomId = u32;

#[derive(Debug, Default)]
pub(crate) struct Rooms {
    slab: Slab<Box<Room>>,
    by_name: HashMap<Box<str>, RoomId>,
    /// Serial number of the next room.
    next: u64,
    /// Rooms that may have to give up their history, the least dear first.
    ranks: BTreeMap<Rank, RoomId>,
    /// Weight of all rooms.
    weight: usize,
    /// Rooms to look at later, with their serial numbers.
    pub(crate) timers: Timers<(RoomId, u64)>,
}

impl Rooms {
    pub(crate) fn len(&self) -> usize {
        self.slab.len()
    }

    /// Rooms that there is memory for.
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

    pub(crate) fn find(&self, name: &str) -> Option<RoomId> {
        self.by_name.get(name).copied()
    }

    pub(crate) fn get(&self, id: RoomId) -> Option<&Room> {
        self.slab.get(id as usize).map(|room| &**room)
    }

    pub(crate) fn insert(&mut self, name: &str, is_home: bool) -> RoomId {
        let room = Room::new(name, self.next, is_home.then(Home::default));
        self.next += 1;
        let id = self.slab.insert(Box::new(room)) as RoomId;
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
        // Tried again at every halving: places can only be given up behind the last room.
        let len = self.slab.len();
        if (len == 0 || len.is_power_of_two()) && len < self.capacity() / 8 {
            self.by_name.shrink_to(len * 2);
            self.slab.shrink_to_fit();
        }
        room
    }

    /// Weighs a room anew and gives it its rank.
    pub(crate) fn weigh(&mut self, id: RoomId) {
        let room = &mut self.slab[id as usize];
        let is_abandoned = room.live && room.is_abandoned();
        let weight = room.memory() + if is_abandoned { ABANDONED_WEIGHT } else { 0 };
        self.weight = self.weight - room.weight + weight;
        room.weight = weight;
        // In seconds, about: a busy room is not to be sorted anew for each message.
        let rank = (!is_abandoned, room.used_ms >> 10, room.serial);
        if room.rank != Some(rank) {
            if let Some(former) = room.rank.replace(rank) {
                self.ranks.remove(&former);
            }
            self.ranks.insert(rank, id);
        }
    }

    /// Bytes that all rooms weigh, as far as they were weighed.
    pub(crate) fn weight(&self) -> usize {
        self.weight
    }

    /// The room that is to give up its history first. It has no rank from now on, until a message or a member
    /// gives it another one.
    pub(crate) fn take_least(&mut self) -> Option<RoomId> {
        self.ranks.pop_first().map(|(_, id)| id)
    }

    /// Has the hub look at a room when it may rest, or, with nobody in it, when its history may go.
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
        self.timers.set(now_ms.max(room.used_ms + wait_ms), (id, room.serial));
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
