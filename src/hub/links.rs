//! Clients with a session: what each has acknowledged, and the pings that it acknowledges with.
//!
//! Every WebSocket client answers a ping after everything that was sent before it (RFC 6455 §5.5.3). So the hub sends a
//! client with a session a ping behind its messages, and notes how far the client's cursor is in each room. The pong
//! acknowledges these positions. One ping is unanswered at a time.

use std::collections::HashMap;

use crate::protocol::frame::{Opcode, encode_header};
use crate::timers::Timers;

use super::memberships::Membership;
use super::rooms::RoomId;
use super::sessions::{SessionKey, SessionRecord, SessionRequest};
use super::{ClientNumber, Hub, Position, Slot};

/// Maximum number of bytes that an application keeps with a session.
pub const MAX_SESSION_STATE: usize = 1_024;

/// The sessions of this shard's clients. Clients without a session have no entry.
#[derive(Debug, Default)]
pub(super) struct Links {
    of: HashMap<Slot, Box<Link>>,
    /// Times at which clients get their next ping, each with the slot and the number of the client.
    pings: Timers<(Slot, u64)>,
}

/// The session of a client.
#[derive(Debug)]
struct Link {
    key: SessionKey,
    record: SessionRecord,
    /// The client's standing in each of its rooms.
    rooms: HashMap<RoomId, Standing>,
    /// The session's standing in rooms of which the client is not a member: not yet, or not any more because it is
    /// finished.
    waiting: HashMap<Box<str>, Standing>,
    /// Number of the last ping.
    sequence: u32,
    /// Whether the last ping is not answered.
    is_pinged: bool,
    /// Whether messages were handed out since the last ping.
    is_behind: bool,
    /// Whether a timer is set for the next ping.
    is_timed: bool,
    /// Code of the server's close frame, if the client's answer to that frame acknowledges everything before it.
    end_code: Option<[u8; 2]>,
    pinged_ms: u64,
}

/// A session's standing in a room.
#[derive(Clone, Copy, Debug, Default)]
struct Standing {
    /// The first message that the client has not acknowledged. `None` until the client has a position in the room.
    acked: Option<Position>,
    /// The position that the answer to the last ping, or to the close frame, acknowledges.
    pinged: Option<Position>,
}

impl Standing {
    fn acknowledge(&mut self) {
        self.acked = self.pinged.take().or(self.acked);
    }
}

impl Hub {
    /// Asks the home shard of a session for the session, for a client whose WebSocket is about to open. The answer is a
    /// [`SessionReply`](super::SessionReply) with the same `request`.
    pub fn ask_for_session(&mut self, slot: Slot, key: SessionKey, request: u64) {
        if let Some(client) = ClientNumber::of(self.client(slot)) {
            self.ask_session(SessionRequest::Attach { key, client, request });
        }
    }

    /// Gives a session back that came too late for its client.
    pub fn return_session(&mut self, key: SessionKey, client: ClientNumber, record: SessionRecord) {
        self.ask_session(SessionRequest::Detach { key, client, record });
    }

    /// Gives a client a session. Call this method before the client joins a room. A room in the record continues at its
    /// position when the client joins it: see [`Hub::poll_resumed`].
    pub fn attach(&mut self, slot: Slot, key: SessionKey, mut record: SessionRecord) {
        debug_assert!(
            self.clients[slot as usize].memberships.is_empty(),
            "a session begins before its rooms"
        );
        let standing = |acked| Standing { acked, pinged: None };
        let waiting = record.rooms.drain(..).map(|(name, acked)| (name, standing(acked))).collect();
        let link = Link {
            key,
            record: SessionRecord { said_goodbye: false, ..record },
            rooms: HashMap::new(),
            waiting,
            sequence: 0,
            is_pinged: false,
            is_behind: false,
            is_timed: false,
            end_code: None,
            pinged_ms: 0,
        };
        self.links.of.insert(slot, Box::new(link));
        self.clients[slot as usize].has_session = true;
    }

    /// Takes a client's session away, and gives it back to the session's home with the client's acknowledged positions.
    /// Does nothing for a client without a session.
    pub fn detach(&mut self, slot: Slot) {
        if !self.clients[slot as usize].has_session {
            return;
        }
        let memberships: Vec<Membership> = self.clients[slot as usize].memberships.iter().collect();
        for membership in memberships {
            self.suspend(slot, membership, false);
        }
        let client = ClientNumber::of(self.client(slot));
        let link = self.links.of.remove(&slot).expect("a client with a session has a link");
        self.clients[slot as usize].has_session = false;
        let Link { key, mut record, waiting, .. } = *link;
        record.rooms = waiting.into_iter().map(|(name, standing)| (name, standing.acked)).collect();
        // Some order, but always the same for the same positions.
        record.rooms.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
        record.rooms.truncate(self.options.max_rooms);
        if let Some(client) = client {
            self.ask_session(SessionRequest::Detach { key, client, record });
        }
    }

    /// Returns whether a client has a session.
    pub fn has_session(&self, slot: Slot) -> bool {
        self.clients[slot as usize].has_session
    }

    /// Replaces the bytes that the application keeps with a client's session. Does nothing for a client without a
    /// session.
    pub fn set_session_state(&mut self, slot: Slot, state: &[u8]) {
        if let Some(link) = self.links.of.get_mut(&slot) {
            link.record.state = state.into();
        }
    }

    /// Records that a client has closed its connection with a close frame.
    pub fn say_goodbye(&mut self, slot: Slot) {
        if let Some(link) = self.links.of.get_mut(&slot) {
            link.record.said_goodbye = true;
        }
    }

    /// Handles a pong. Returns whether it answers the last ping to a client with a session. Then the client has
    /// everything that was sent before that ping.
    pub fn pong(&mut self, slot: Slot, payload: &[u8]) -> bool {
        let Some(link) = self.links.of.get_mut(&slot) else { return false };
        if !link.is_pinged || payload != link.sequence.to_be_bytes() {
            return false;
        }
        link.is_pinged = false;
        link.rooms.values_mut().for_each(Standing::acknowledge);
        if std::mem::take(&mut link.is_behind) {
            self.schedule_ping(slot);
        }
        true
    }

    /// Sends a ping to a client with a session, to find out whether it is alive. Repeats an unanswered ping. Returns
    /// false for a client without a session.
    pub fn ping_session(&mut self, slot: Slot) -> bool {
        let Some(link) = self.links.of.get_mut(&slot) else { return false };
        match link.is_pinged {
            true => self.send_ping(slot),
            false => self.ping(slot),
        }
        true
    }

    /// Handles the close frame with this code of a client to which a close frame was sent. A frame with the code of the
    /// server's frame answers that frame (RFC 6455 §5.5.1), so the client has everything that was sent before. A frame
    /// with another code may have crossed the server's.
    pub fn acknowledge_end(&mut self, slot: Slot, code: u16) {
        if let Some(link) = self.links.of.get_mut(&slot)
            && link.end_code == Some(code.to_be_bytes())
        {
            link.waiting.values_mut().for_each(Standing::acknowledge);
        }
    }

    /// Notes the last bytes to a client, a close frame. With `is_sent` all of the client's messages go before it.
    pub(super) fn end_session(&mut self, slot: Slot, is_sent: bool, last: &[u8]) {
        if let Some(link) = self.links.of.get_mut(&slot) {
            // A close frame has a header of two bytes, then the code (RFC 6455 §5.5.1).
            link.end_code = last.get(2..4).filter(|_| is_sent).and_then(|code| code.try_into().ok());
        }
    }

    /// Notes that messages were handed out to a client with a session. They need a ping behind them.
    pub(super) fn schedule_ping(&mut self, slot: Slot) {
        let due_ms = match self.links.of.get_mut(&slot) {
            Some(link) if link.is_pinged || link.is_timed => return link.is_behind = true,
            Some(link) => link.pinged_ms + self.options.ack_ms,
            None => return,
        };
        let is_due = due_ms <= self.now_ms;
        // A report about missed messages must reach the client before the ping whose pong would acknowledge them.
        if is_due && !self.has_unreported_lag(slot) {
            return self.ping(slot);
        }
        let number = self.clients[slot as usize].number;
        if let Some(link) = self.links.of.get_mut(&slot) {
            (link.is_behind, link.is_timed) = (true, true);
            self.links.pings.set(due_ms.max(self.now_ms), (slot, number));
        }
    }

    /// Sends the pings that are due.
    pub(super) fn send_due_pings(&mut self) {
        while let Some(due) = self.links.pings.expired(self.now_ms) {
            for (slot, number) in due {
                if self.clients[slot as usize].number != number {
                    continue;
                }
                let Some(link) = self.links.of.get_mut(&slot) else { continue };
                link.is_timed = false;
                if std::mem::take(&mut link.is_behind) {
                    self.schedule_ping(slot);
                }
            }
        }
    }

    pub(super) fn next_ping_ms(&self) -> Option<u64> {
        self.links.pings.next_due_ms()
    }

    /// Sends a new ping behind everything that was handed out to the client, and notes the client's positions.
    fn ping(&mut self, slot: Slot) {
        let Some(link) = self.links.of.get_mut(&slot) else { return };
        for membership in self.clients[slot as usize].memberships.iter() {
            let room = &self.rooms[membership.room];
            let position = room.position(membership.index as usize);
            if let (Some(number), Some(standing)) = (position, link.rooms.get_mut(&membership.room)) {
                standing.pinged = self.rooms.epoch(membership.room).map(|epoch| Position { epoch, number });
            }
        }
        link.sequence = link.sequence.wrapping_add(1);
        (link.is_pinged, link.is_behind, link.pinged_ms) = (true, false, self.now_ms);
        self.send_ping(slot);
    }

    fn send_ping(&mut self, slot: Slot) {
        let Some(link) = self.links.of.get(&slot) else { return };
        let payload = link.sequence.to_be_bytes();
        let header = encode_header(Opcode::Ping, true, false, payload.len());
        self.send_control(slot, &[header.as_bytes(), &payload]);
    }

    /// Forgets the unanswered ping of a client that missed messages. It may have been dropped with them.
    pub(super) fn forget_ping(&mut self, slot: Slot) {
        if let Some(link) = self.links.of.get_mut(&slot) {
            link.is_pinged = false;
        }
    }

    /// Returns the position at which a client continues in a room that it joins, if its session has one.
    pub(super) fn resumes_at(&self, slot: Slot, room: &str) -> Option<Position> {
        self.links.of.get(&slot)?.waiting.get(room)?.acked
    }

    /// Returns the first message of a room of the client that it has not acknowledged. `None` before the client has a
    /// position there.
    pub(super) fn stopped_at(&self, slot: Slot, room: RoomId) -> Option<Position> {
        self.links.of.get(&slot)?.rooms.get(&room)?.acked
    }

    /// Begins a client's standing in a room that it has joined. `position` is its position there, if it has one.
    pub(super) fn begin_standing(&mut self, slot: Slot, room: RoomId, position: Option<Position>) {
        if let Some(link) = self.links.of.get_mut(&slot) {
            link.waiting.remove(&self.rooms[room].name);
            link.rooms.insert(room, Standing { acked: position, pinged: None });
        }
        self.rooms[room].session_members += 1;
        if self.rooms[room].session_members == 1 {
            self.ask_to_retain(room, true);
        }
    }

    /// Sets the position at which a client begins in a room whose snapshot has arrived. Does nothing if it has one.
    pub(super) fn set_start(&mut self, slot: Slot, room: RoomId, start: Position) {
        if let Some(standing) = self.links.of.get_mut(&slot).and_then(|link| link.rooms.get_mut(&room)) {
            standing.acked.get_or_insert(start);
        }
    }

    /// Ends a client's standing in a room that it leaves for good. Does nothing for a client without a session.
    pub(super) fn end_standing(&mut self, slot: Slot, room: RoomId) {
        let standing = self.links.of.get_mut(&slot).and_then(|link| link.rooms.remove(&room));
        if standing.is_some() {
            self.release_room(room);
        }
    }

    /// Keeps a client's standing in a room for the session, as its membership ends. With `is_sent` everything in the
    /// room's log is on its way to the client.
    pub(super) fn suspend(&mut self, slot: Slot, membership: Membership, is_sent: bool) {
        let id = membership.room;
        let Some(link) = self.links.of.get_mut(&slot) else { return };
        let Some(mut standing) = link.rooms.remove(&id) else { return };
        let room = &self.rooms[id];
        if is_sent && let Some(number) = room.position(membership.index as usize) {
            standing.pinged = self.rooms.epoch(id).map(|epoch| Position { epoch, number });
        }
        link.waiting.insert(room.name.clone(), standing);
        self.release_room(id);
    }

    /// Sets the position that the answer to the close frame acknowledges in a room. For a client that is being closed
    /// because it missed messages, which the close frame reports.
    pub(super) fn set_end(&mut self, slot: Slot, room: &str, end: Position) {
        if let Some(standing) = self.links.of.get_mut(&slot).and_then(|link| link.waiting.get_mut(room)) {
            standing.pinged = Some(end);
        }
    }

    fn release_room(&mut self, room: RoomId) {
        self.rooms[room].session_members -= 1;
        if self.rooms[room].session_members == 0 {
            self.ask_to_retain(room, false);
        }
    }

    /// Returns the number of clients with a session.
    #[cfg(test)]
    pub(crate) fn linked(&self) -> usize {
        self.links.of.len()
    }
}

/// Bugs that the simulation injects.
#[cfg(test)]
impl Hub {
    /// Injects a bug: unanswered pings acknowledge.
    pub(crate) fn acknowledge_pings(&mut self) {
        for link in self.links.of.values_mut().filter(|link| link.is_pinged) {
            link.rooms.values_mut().for_each(|standing| standing.acked = standing.pinged.or(standing.acked));
        }
    }

    /// Injects a bug: everything that was handed out counts as acknowledged.
    pub(crate) fn acknowledge_sends(&mut self) {
        for (slot, link) in &mut self.links.of {
            for membership in self.clients[*slot as usize].memberships.iter() {
                let position = self.rooms[membership.room].position(membership.index as usize);
                if let (Some(number), Some(standing)) = (position, link.rooms.get_mut(&membership.room)) {
                    standing.acked =
                        self.rooms.epoch(membership.room).map(|epoch| Position { epoch, number });
                }
            }
        }
    }

    /// Injects a bug: a client with a session that has had no ping yet gets the last message of its room again.
    pub(crate) fn rewind_new_sessions(&mut self) {
        for (slot, link) in self.links.of.iter().filter(|(_, link)| link.sequence == 0) {
            for membership in self.clients[*slot as usize].memberships.iter() {
                let resumed =
                    link.rooms.get(&membership.room).is_some_and(|standing| standing.acked.is_some());
                self.rooms[membership.room].repeat_last(membership.index as usize, resumed);
            }
        }
    }
}
