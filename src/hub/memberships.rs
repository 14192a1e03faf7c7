//! The rooms of one client: a short list, or an index for a client in many rooms.

use std::collections::{HashMap, VecDeque};

use slab::Slab;

use super::rooms::RoomId;

/// Maximum number of rooms that a client's entry holds in place.
const FEW: usize = 2;
/// Number of stale entries that the queue of owed rooms may have in addition to one for each room.
const SPARE_OWED: usize = 16;

/// A client's membership in a room.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Membership {
    pub(super) room: RoomId,
    /// The client's index in the room's list of members.
    pub(super) index: u32,
}

/// Place of a membership among those of a client in many rooms. A place stays valid until the membership ends.
pub(super) type Place = u32;

/// All memberships of one client.
#[derive(Debug)]
pub(super) enum Memberships {
    /// At most [`FEW`] memberships, which own no memory and are searched one after another.
    Few { len: u8, list: [Membership; FEW] },
    /// More memberships, with an index by room.
    Many(Box<Many>),
}

/// The memberships of a client in many rooms, with an index by room and the rooms that owe the client messages.
#[derive(Debug, Default)]
pub(super) struct Many {
    seats: Slab<Seat>,
    by_room: HashMap<RoomId, Place>,
    /// Queue of places of rooms that have messages for the client, in the order of their turns. Entries whose seat is
    /// gone or not owed are stale and are skipped.
    owed: VecDeque<Place>,
}

#[derive(Debug)]
struct Seat {
    membership: Membership,
    /// Whether `Many::owed` contains the seat's place.
    is_owed: bool,
}

impl Default for Memberships {
    fn default() -> Self {
        Self::Few { len: 0, list: [Membership::default(); FEW] }
    }
}

impl Memberships {
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Few { len, .. } => usize::from(*len),
            Self::Many(many) => many.seats.len(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(super) fn is_many(&self) -> bool {
        matches!(self, Self::Many(_))
    }

    pub(super) fn find(&self, room: RoomId) -> Option<Membership> {
        match self {
            Self::Few { len, list } => {
                list[..usize::from(*len)].iter().find(|membership| membership.room == room).copied()
            }
            Self::Many(many) => many.by_room.get(&room).map(|place| many.seats[*place as usize].membership),
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = Membership> {
        let (few, many) = match self {
            Self::Few { len, list } => (&list[..usize::from(*len)], None),
            Self::Many(many) => (&[][..], Some(many)),
        };
        let seats = many.into_iter().flat_map(|many| &many.seats);
        few.iter().copied().chain(seats.map(|(_, seat)| seat.membership))
    }

    /// Returns the memberships of a client in few rooms. The first membership has the next turn.
    pub(super) fn few(&mut self) -> &mut [Membership] {
        match self {
            Self::Few { len, list } => &mut list[..usize::from(*len)],
            Self::Many(_) => &mut [],
        }
    }

    /// Returns the memberships of a client in many rooms. `None` for a client in few rooms.
    pub(super) fn many(&mut self) -> Option<&mut Many> {
        match self {
            Self::Few { .. } => None,
            Self::Many(many) => Some(many),
        }
    }

    /// Adds a membership in a room of which the client is no member. Returns its place in the index, if there is one.
    /// Call [`Memberships::grow`] first.
    pub(super) fn insert(&mut self, membership: Membership) -> Option<Place> {
        match self {
            Self::Few { len, list } => {
                list[usize::from(*len)] = membership;
                *len += 1;
                None
            }
            Self::Many(many) => Some(many.insert(membership)),
        }
    }

    /// Makes an index if one more membership does not fit into the short list. Returns the memberships with their new
    /// places, which their rooms must be told; `None` if nothing has changed.
    pub(super) fn grow(&mut self) -> Option<[(Membership, Place); FEW]> {
        let Self::Few { len, list } = self else { return None };
        if usize::from(*len) < FEW {
            return None;
        }
        let mut many = Box::<Many>::default();
        let placed = list.map(|membership| (membership, many.insert(membership)));
        *self = Self::Many(many);
        Some(placed)
    }

    /// Removes and returns the membership in `room`.
    pub(super) fn remove(&mut self, room: RoomId) -> Option<Membership> {
        match self {
            Self::Few { len, list } => {
                let at = list[..usize::from(*len)].iter().position(|membership| membership.room == room)?;
                *len -= 1;
                let removed = list[at];
                list[at] = list[usize::from(*len)];
                Some(removed)
            }
            Self::Many(many) => many.remove(room),
        }
    }

    /// Drops the index when one membership is left. Returns this membership, whose room must be told that it has no
    /// place any more.
    pub(super) fn shrink(&mut self) -> Option<Membership> {
        let many = self.many().filter(|many| many.seats.len() == 1)?;
        let (_, seat) = many.seats.iter().next()?;
        let last = seat.membership;
        *self = Self::Few { len: 1, list: [last, Membership::default()] };
        Some(last)
    }

    /// Updates the client's index in the member list of `room`. `place` is the membership's place, if it has one.
    pub(super) fn moved(&mut self, room: RoomId, place: Option<Place>, index: u32) {
        let membership = match (self, place) {
            (Self::Many(many), Some(place)) => {
                many.seats.get_mut(place as usize).map(|seat| &mut seat.membership)
            }
            (few, _) => few.few().iter_mut().find(|membership| membership.room == room),
        };
        if let Some(membership) = membership {
            debug_assert_eq!(membership.room, room, "a place belongs to one room");
            membership.index = index;
        }
    }
}

impl Many {
    fn insert(&mut self, membership: Membership) -> Place {
        let place = self.seats.insert(Seat { membership, is_owed: false }) as Place;
        self.by_room.insert(membership.room, place);
        place
    }

    fn remove(&mut self, room: RoomId) -> Option<Membership> {
        let place = self.by_room.remove(&room)?;
        Some(self.seats.remove(place as usize).membership)
    }

    /// Queues the room at `place` for the client, unless it is queued.
    pub(super) fn owe(&mut self, place: Place) {
        let Some(seat) = self.seats.get_mut(place as usize) else { return };
        if !std::mem::replace(&mut seat.is_owed, true) {
            self.owed.push_back(place);
            if self.owed.len() > self.seats.len() + SPARE_OWED {
                self.drop_stale();
            }
        }
    }

    /// Returns the membership in the first room that is queued for the client, and its place.
    pub(super) fn first_owed(&mut self) -> Option<(Membership, Place)> {
        while let Some(&place) = self.owed.front() {
            match self.seats.get(place as usize) {
                Some(seat) if seat.is_owed => return Some((seat.membership, place)),
                _ => self.owed.pop_front(),
            };
        }
        None
    }

    /// Removes the first queued room, which [`Many::first_owed`] has returned.
    pub(super) fn settle_first(&mut self) {
        if let Some(place) = self.owed.pop_front() {
            self.seats[place as usize].is_owed = false;
        }
    }

    /// Removes the entries of former memberships from the queue. A client that joins and leaves while it is sent
    /// something makes such entries.
    fn drop_stale(&mut self) {
        let seats = &mut self.seats;
        self.owed.retain(|place| {
            seats.get_mut(*place as usize).is_some_and(|seat| std::mem::take(&mut seat.is_owed))
        });
        self.owed.iter().for_each(|place| seats[*place as usize].is_owed = true);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn in_rooms(rooms: std::ops::Range<RoomId>) -> Memberships {
        let mut memberships = Memberships::default();
        for room in rooms {
            memberships.grow();
            memberships.insert(Membership { room, index: room * 10 });
        }
        memberships
    }

    #[test]
    fn a_client_in_few_rooms_owns_no_memory_and_its_entry_is_small() {
        assert!(!in_rooms(0..2).is_many());
        assert!(in_rooms(0..3).is_many());
        assert!(size_of::<Memberships>() <= 24);
    }

    #[test]
    fn memberships_are_found_moved_and_removed_in_lists_of_any_length() {
        for count in [1, 2, 3, 9, 1_000] {
            let mut memberships = in_rooms(0..count);
            assert_eq!(memberships.len(), count as usize);
            for room in 0..count {
                let place = memberships.many().map(|many| many.by_room[&room]);
                memberships.moved(room, place, room + 7);
                assert_eq!(memberships.find(room).map(|found| found.index), Some(room + 7));
            }
            assert!(memberships.find(count).is_none() && memberships.remove(count).is_none());
            for room in 0..count {
                assert_eq!(memberships.remove(room).map(|removed| removed.room), Some(room));
                let left: Vec<RoomId> = memberships.iter().map(|membership| membership.room).collect();
                assert_eq!(left.len(), (count - room - 1) as usize);
                assert!(!left.contains(&room));
                let last = memberships.shrink().map(|last| last.room);
                assert_eq!(last, (count > 2 && room + 2 == count).then(|| count - 1));
            }
            assert!(memberships.is_empty() && !memberships.is_many());
        }
    }

    #[test]
    fn rooms_take_turns_and_each_is_queued_once() {
        let mut memberships = in_rooms(0..5);
        let many = memberships.many().expect("five rooms");
        for place in [3, 1, 3, 4, 1] {
            many.owe(place);
        }
        let order = std::iter::from_fn(|| {
            let (membership, _) = many.first_owed()?;
            many.settle_first();
            Some(membership.room)
        });
        assert_eq!(order.collect::<Vec<_>>(), [3, 1, 4]);
    }

    #[test]
    fn the_queue_stays_short_while_a_client_joins_and_leaves() {
        let mut memberships = in_rooms(0..4);
        let many = memberships.many().expect("four rooms");
        many.owe(0);
        for round in 0..10_000 {
            let place = many.insert(Membership { room: 100, index: 0 });
            many.owe(place);
            assert!(many.owed.len() <= many.seats.len() + SPARE_OWED, "{} in round {round}", many.owed.len());
            many.remove(100);
        }
        assert_eq!(many.first_owed().map(|(membership, _)| membership.room), Some(0));
        many.settle_first();
        assert!(many.first_owed().is_none());
    }
}
