//! Memberships: how clients join and leave rooms.

use super::memberships::Membership;
use super::room::Visit;
use super::rooms::RoomId;
use super::{ClientId, Encoding, Hub, Position, Replay, Slot};

impl Hub {
    /// Makes the client a member of `room`, and first sends it at most `history` messages of the room's history. Does
    /// nothing if the client is a member already. Returns whether the client is a member now; false means that it is in
    /// as many rooms as the options allow.
    pub fn join(&mut self, slot: Slot, room: &str, history: u32) -> bool {
        self.join_from(slot, room, Some(history))
    }

    /// Works like [`Hub::join`] without history, but the client gets no message of the room before [`Hub::start`].
    pub fn join_held(&mut self, slot: Slot, room: &str) -> bool {
        self.join_from(slot, room, None)
    }

    /// Lets a client that joined with [`Hub::join_held`] get all messages that reach this shard from now on. Does nothing
    /// for a member that gets them already. A client whose session has a position in the room continues there: see
    /// [`Hub::poll_resumed`]. Returns false if the client is no member, or if the answer of the room's home to the shard's
    /// subscription has not come.
    pub fn start(&mut self, slot: Slot, room: &str) -> bool {
        let Some(id) = self.rooms.find(room) else { return false };
        let client = &self.clients[slot as usize];
        let Some(membership) = client.memberships.find(id) else { return false };
        let index = membership.index as usize;
        if !client.has_session || !self.rooms[id].live || !self.rooms[id].holds(index) {
            return self.rooms[id].start_held(membership.index);
        }
        match self.stopped_at(slot, id) {
            Some(position) => self.settle_position(slot, id, position),
            None => {
                self.rooms[id].start_held(membership.index);
                self.note_start(id, index);
            }
        }
        true
    }

    fn join_from(&mut self, slot: Slot, room: &str, history: Option<u32>) -> bool {
        debug_assert!(!self.clients[slot as usize].finished, "a finished client joins no room");
        let memberships = &self.clients[slot as usize].memberships;
        let known = self.rooms.find(room);
        if known.is_some_and(|id| memberships.find(id).is_some()) {
            return true;
        }
        if memberships.len() >= self.options.max_rooms {
            return false;
        }
        let id = known.unwrap_or_else(|| self.make_room(room));
        self.make_space(slot);
        let limits = self.history_limits(id);
        let resumes_at = self.resumes_at(slot, room);
        let room = &mut self.rooms[id];
        let compressed = self.clients[slot as usize].encoding == Encoding::Shared;
        let index = match history.filter(|_| resumes_at.is_none()) {
            Some(wanted) => room.add(slot, compressed, wanted, &limits),
            None => room.add_held(slot, compressed),
        };
        let place =
            self.clients[slot as usize].memberships.insert(Membership { room: id, index: index as u32 });
        room.members[index].set_place(place);
        self.owe_rest(id, index);
        self.note_occupancy(id);
        self.report_member(slot, id, true);
        self.weigh(id);
        self.queue_client(slot);
        self.report_replay(id, index);
        if self.clients[slot as usize].has_session {
            self.begin_standing(slot, id, resumes_at);
            match resumes_at {
                Some(position) if history.is_some() => self.settle_position(slot, id, position),
                Some(_) => {}
                None => self.note_start(id, index),
            }
        }
        true
    }

    /// Ends the client's membership in `room`. The client still gets the messages that are in the room's log now.
    pub fn leave(&mut self, slot: Slot, room: &str) {
        let Some(id) = self.rooms.find(room) else { return };
        let memberships = &mut self.clients[slot as usize].memberships;
        if let Some(membership) = memberships.remove(id) {
            if let Some(last) = memberships.shrink() {
                self.rooms[last.room].members[last.index as usize].set_place(None);
            }
            self.end_standing(slot, id);
            self.end_membership(slot, membership, true);
        }
    }

    /// Returns whether the client is a member of `room`.
    pub fn is_member(&self, slot: Slot, room: &str) -> bool {
        let id = self.rooms.find(room);
        id.is_some_and(|id| self.clients[slot as usize].memberships.find(id).is_some())
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

    /// Returns the next report about a client that gets a room's history. Call this after [`Hub::join`] and
    /// [`Hub::snapshot`], until it returns `None`.
    pub fn poll_replay(&mut self) -> Option<Replay> {
        self.replays.pop()
    }

    /// Reports the history that the new member at `index` of the room gets. Reports nothing without history, or while
    /// the room waits for its snapshot.
    pub(super) fn report_replay(&mut self, room: RoomId, index: usize) {
        let room = &self.rooms[room];
        let member = &room.members[index];
        let bytes = room.unsent_bytes(member);
        if bytes > 0 {
            self.replays.push(Replay { slot: member.slot, bytes });
        }
    }

    /// Notes the position at which the member at `index` of the room begins, if its client has a session.
    pub(super) fn note_start(&mut self, id: RoomId, index: usize) {
        let room = &self.rooms[id];
        let slot = room.members[index].slot;
        if self.clients[slot as usize].has_session
            && let Some(number) = room.position(index)
            && let Some(epoch) = self.rooms.epoch(id)
        {
            self.set_start(slot, id, Position { epoch, number });
        }
    }

    pub(super) fn leave_all(&mut self, slot: Slot, send_pending: bool) {
        for membership in std::mem::take(&mut self.clients[slot as usize].memberships).iter() {
            self.end_membership(slot, membership, send_pending);
        }
    }

    /// Ends a membership that was removed from the client's list. With `send_pending` the client's outbox takes over
    /// the messages that the client has not been sent.
    fn end_membership(&mut self, slot: Slot, membership: Membership, send_pending: bool) {
        if send_pending {
            self.move_pending(slot, membership);
        }
        if self.clients[slot as usize].has_session {
            self.suspend(slot, membership, send_pending);
        }
        let room = &mut self.rooms[membership.room];
        let clients = &mut self.clients;
        room.remove(membership.index as usize, |moved, index| {
            let memberships = &mut clients[moved.slot as usize].memberships;
            memberships.moved(membership.room, moved.place(), index as u32);
        });
        self.queue_client(slot);
        self.note_occupancy(membership.room);
        self.report_member(slot, membership.room, false);
        self.maybe_forget(membership.room);
    }

    /// Makes space for one more membership of the client. A client in many rooms gets an index of its memberships, and
    /// a queue of the rooms that have messages for it.
    fn make_space(&mut self, slot: Slot) {
        for (membership, place) in self.clients[slot as usize].memberships.grow().into_iter().flatten() {
            let index = membership.index as usize;
            self.rooms[membership.room].members[index].set_place(Some(place));
            self.owe_rest(membership.room, index);
        }
    }

    /// Appends the room's messages that the member has not been sent to its outbox, as spans of the log's chunks.
    fn move_pending(&mut self, slot: Slot, membership: Membership) {
        loop {
            match self.rooms[membership.room].take(membership.index as usize) {
                Visit::Send(_, span, count) => self.outbox(slot).0.push(span, count),
                Visit::Lagged(slot, missed) => self.lag(slot, missed),
                Visit::Busy(..) | Visit::Nothing | Visit::Over => return,
            }
        }
    }
}
