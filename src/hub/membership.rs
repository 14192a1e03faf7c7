//! Memberships: how clients join and leave rooms.

use super::room::Visit;
use super::rooms::RoomId;
use super::{ClientId, Encoding, Hub, Slot};

/// A client's membership in a room.
#[derive(Clone, Copy, Debug)]
pub(super) struct Membership {
    pub(super) room: RoomId,
    /// The client's index in the room's list of members.
    pub(super) index: u32,
}

impl Hub {
    /// Makes the client a member of `room`, and first sends it at most `history` messages of the room's history. Does
    /// nothing if the client is a member already.
    pub fn join(&mut self, slot: Slot, room: &str, history: u32) {
        debug_assert!(!self.clients[slot as usize].finished, "a finished client joins no room");
        let id = self.find_or_make(room);
        if self.clients[slot as usize].memberships.iter().any(|membership| membership.room == id) {
            return;
        }
        let history_bytes = self.options.history_bytes;
        let room = &mut self.rooms[id];
        let compressed = self.clients[slot as usize].encoding == Encoding::Shared;
        let index = room.add(slot, compressed, history.min(self.options.history), history_bytes) as u32;
        self.clients[slot as usize].memberships.push(Membership { room: id, index });
        self.weigh(id);
        self.queue_client(slot);
    }

    /// Ends the client's membership in `room`. The client still gets the messages that are in the room's log now.
    pub fn leave(&mut self, slot: Slot, room: &str) {
        let Some(id) = self.rooms.find(room) else { return };
        let memberships = &mut self.clients[slot as usize].memberships;
        if let Some(at) = memberships.iter().position(|membership| membership.room == id) {
            let membership = memberships.swap_remove(at);
            self.end_membership(slot, membership, true);
        }
    }

    /// Returns the names of the rooms of which the client is a member.
    pub fn rooms_of(&self, slot: Slot) -> impl Iterator<Item = &str> {
        self.clients[slot as usize].memberships.iter().map(|membership| &*self.rooms[membership.room].name)
    }

    /// Returns the members of `room` that are on this shard.
    pub fn members(&self, room: &str) -> impl ExactSizeIterator<Item = ClientId> {
        let members = self.rooms.find(room).map_or(&[][..], |id| &self.rooms[id].members);
        members.iter().map(|member| self.client(member.slot))
    }

    pub(super) fn leave_all(&mut self, slot: Slot, send_pending: bool) {
        while let Some(membership) = self.clients[slot as usize].memberships.pop() {
            self.end_membership(slot, membership, send_pending);
        }
    }

    /// Ends a membership that was removed from the client's list. With `send_pending` the client's outbox takes over
    /// the messages that the client has not been sent.
    fn end_membership(&mut self, slot: Slot, membership: Membership, send_pending: bool) {
        if send_pending {
            self.move_pending(slot, membership);
        }
        let room = &mut self.rooms[membership.room];
        let clients = &mut self.clients;
        room.remove(membership.index as usize, |moved, index| {
            let memberships = &mut clients[moved as usize].memberships;
            if let Some(other) = memberships.iter_mut().find(|other| other.room == membership.room) {
                other.index = index as u32;
            }
        });
        self.queue_client(slot);
        self.maybe_forget(membership.room);
    }

    /// Appends the room's messages that the member has not been sent to its outbox, as spans of the log's chunks.
    fn move_pending(&mut self, slot: Slot, membership: Membership) {
        loop {
            match self.rooms[membership.room].take(membership.index as usize) {
                Visit::Send(_, span, count) => self.outbox(slot).0.push(span, count),
                Visit::Lagged(slot, missed) => self.lag(slot, missed),
                Visit::Nothing | Visit::Over => return,
            }
        }
    }
}
