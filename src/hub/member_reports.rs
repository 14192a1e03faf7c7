//! Reports about the members of rooms: each shard tells a room's home shard which of its clients are members, with their
//! users.
//!
//! A report travels in the ordered batch of requests, so the home gets it before each message that the new member
//! publishes.

use super::rooms::RoomId;
use super::{ClientNumber, Hub, Position, Slot};

impl Hub {
    /// Reports a client of this shard that has become a member of a room, or has left it. Does nothing unless the options
    /// ask for reports.
    pub(super) fn report_member(&mut self, slot: Slot, room: RoomId, is_here: bool) {
        if !self.options.member_reports {
            return;
        }
        let Some(client) = ClientNumber::of(self.client(slot)) else { return };
        let user = self.users.of(slot).filter(|_| is_here).unwrap_or_default();
        let room = &self.rooms[room];
        self.outgoing.request(room.home_shard, |batch| batch.member(&room.name, client, user, is_here));
    }

    /// Reports a client again to the home shard of each of its rooms, after its user has changed.
    pub(super) fn report_user(&mut self, slot: Slot) {
        if !self.options.member_reports {
            return;
        }
        let memberships = &self.clients[slot as usize].memberships;
        let rooms: Vec<RoomId> = memberships.iter().map(|membership| membership.room).collect();
        for room in rooms {
            self.report_member(slot, room, true);
        }
    }

    /// Returns the position that the next message of `room` gets. `None` if the room does not exist. Only the room's home
    /// shard knows the position.
    pub fn next_position(&self, room: &str) -> Option<Position> {
        let id = self.rooms.find(room)?;
        let (room, epoch) = (&self.rooms[id], self.rooms.epoch(id)?);
        (room.home_shard == self.options.shard).then(|| Position { epoch, number: room.log.head() })
    }
}
