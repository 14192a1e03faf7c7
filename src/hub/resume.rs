//! Resumption of rooms: a client with a session continues where it stopped, and rooms keep messages for that.
//!
//! A client that joins a room in which its session has a position is **held** there until its position is settled. If
//! this shard's log has the position, the member's cursor is set to it: a resumption is a history join from a position.
//! Otherwise the room's home is asked for the messages from there on. The answer travels with the room's deliveries, so
//! it ends exactly at this shard's head of the log, and nothing is missing or doubled.

use crate::chunk::Span;

use super::rooms::{RoomId, RoomKey};
use super::{ClientNumber, Hub, Position, Replay, Slot};

/// Time in milliseconds for which a room keeps messages in addition to the session time, so that the messages of a
/// session do not expire before the session.
pub(super) const SLACK_MS: u64 = 2_000;

/// Report about a client that continues in a room where its session stopped. The client is held in the room until
/// [`Hub::begin_resumed`].
#[derive(Debug)]
pub struct Resumed {
    /// Slot of the client's connection.
    pub slot: Slot,
    /// Name of the room.
    pub room: Box<str>,
    /// Number of messages that the client has missed for good. `None` if the number is unknown, because the server has
    /// forgotten the room meanwhile.
    pub missed: Option<u64>,
    /// The first message that the client gets.
    pub first: Position,
    client: ClientNumber,
    key: RoomKey,
}

/// Messages of a room from a session's position on: the answer of the room's home.
#[derive(Debug)]
pub struct RangePart {
    /// The asking shard's key of the room.
    pub room: RoomKey,
    /// The client that continues.
    pub client: ClientNumber,
    /// The first message of the answer.
    pub first: Position,
    /// Number of messages between the session's position and `first`. `None` if unknown.
    pub missed: Option<u64>,
    /// Length of each encoded frame in bytes.
    pub frame_lens: Vec<u32>,
}

impl Hub {
    /// Returns the next report about a client that continues in a room. Call this after [`Hub::join`] until it returns
    /// `None`. After each report, tell the client what it missed, then call [`Hub::begin_resumed`].
    pub fn poll_resumed(&mut self) -> Option<Resumed> {
        self.resumed.pop_front()
    }

    /// Lets a resumed client get its messages, from this shard's log or from `frames`: the encoded frames of a
    /// [`RangePart`], one after another, and their number. A client that is being closed gets nothing; its answer to the
    /// close frame acknowledges the missed messages.
    pub fn begin_resumed(&mut self, resumed: &Resumed, frames: Option<(&[u8], u64)>) {
        let Resumed { slot, ref room, missed, first, client, key } = *resumed;
        if self.find_leaving(self.identify(client)) != Some(slot) {
            return;
        }
        self.sessions.counts.missed += missed.unwrap_or(0);
        if self.clients[slot as usize].finished {
            return self.set_end(slot, room, first);
        }
        let Some(id) = self.rooms.resolve(key) else { return };
        let Some(membership) = self.clients[slot as usize].memberships.find(id) else { return };
        let index = membership.index as usize;
        if !self.rooms[id].holds(index) {
            return;
        }
        let head = self.rooms[id].log.head();
        let (cursor, replayed) = match frames {
            Some((_, count)) => (head, count),
            None => (first.number, head.saturating_sub(first.number)),
        };
        self.rooms[id].seek(index, cursor);
        self.sessions.counts.replayed += replayed;
        if let Some((bytes, count)) = frames.filter(|(bytes, _)| !bytes.is_empty()) {
            self.outbox(slot).0.push(Span::copy_of(bytes), count);
            self.replays.push(Replay { slot, bytes: bytes.len() });
        }
        self.owe_rest(id, index);
        self.queue_client(slot);
        if frames.is_none() {
            self.report_replay(id, index);
        }
    }

    /// Settles the position of a new, held member of room `id` whose session stopped at `position`: reports it if this
    /// shard has the messages or is the room's home, and otherwise asks the home.
    pub(super) fn settle_position(&mut self, slot: Slot, id: RoomId, position: Position) {
        let Some(client) = ClientNumber::of(self.client(slot)) else { return };
        let room = &self.rooms[id];
        let key = room.key;
        let first = room.log.first();
        let epoch = self.rooms.epoch(id).filter(|_| room.live);
        if let Some(epoch) = epoch
            && (room.home.is_some() || epoch == position.epoch && position.number >= first)
        {
            let (first, missed) = start_of(position, epoch, first);
            let room = room.name.clone();
            return self.resumed.push_back(Resumed { slot, room, missed, first, client, key });
        }
        let add = |batch: &mut super::Batch<super::Request>| batch.range(&room.name, key, client, position);
        self.outgoing.request(room.home_shard, add);
    }

    /// Answers a shard whose client continues in a room at `position`. Called on the room's home shard.
    pub fn answer_range(
        &mut self,
        from: u16,
        name: &str,
        subscriber: RoomKey,
        client: ClientNumber,
        position: Position,
    ) {
        let Some(id) = self.rooms.find(name) else { return };
        let Some(epoch) = self.rooms.epoch(id) else { return };
        let log = &self.rooms[id].log;
        let (first, missed) = start_of(position, epoch, log.first());
        let frames = log.frames(first.number);
        let part = RangePart { room: subscriber, client, first, missed, frame_lens: Vec::new() };
        self.outgoing.delivery(from, |batch| batch.range(part, frames));
    }

    /// Handles the answer of a room's home for a client that continues there. Returns the report, or `None` if the client
    /// is no longer there.
    pub fn take_range(&mut self, part: &RangePart) -> Option<Resumed> {
        let RangePart { room: key, client, first, missed, .. } = *part;
        let slot = self.find(self.identify(client))?;
        let id = self.rooms.resolve(key)?;
        let membership = self.clients[slot as usize].memberships.find(id)?;
        // The client may have left the room and joined it again.
        if !self.rooms[id].holds(membership.index as usize) {
            return None;
        }
        let room = self.rooms[id].name.clone();
        Some(Resumed { slot, room, missed, first, client, key })
    }

    /// Returns the client's position in `room`: the first message not yet handed out or queued. `None` if the client is
    /// not a member, or has no position yet.
    pub fn position(&self, slot: Slot, room: &str) -> Option<Position> {
        let id = self.rooms.find(room)?;
        let membership = self.clients[slot as usize].memberships.find(id)?;
        let number = self.rooms[id].position(membership.index as usize)?;
        Some(Position { epoch: self.rooms.epoch(id)?, number })
    }

    /// Tells the home of room `id` that this shard has got its first member with a session, or lost its last one.
    pub(super) fn ask_to_retain(&mut self, id: RoomId, begins: bool) {
        match self.rooms[id].home_shard {
            home if home == self.options.shard => self.count_session_shard(id, begins),
            home => {
                let name = &self.rooms[id].name;
                self.outgoing.request(home, |batch| batch.retain(name, begins));
            }
        }
    }

    /// Handles a shard's first member with a session in a room whose home is this shard, or the loss of its last one.
    pub fn retain(&mut self, room: &str, begins: bool) {
        if let Some(id) = self.rooms.find(room) {
            self.count_session_shard(id, begins);
        }
    }

    fn count_session_shard(&mut self, id: RoomId, begins: bool) {
        let until_ms = self.now_ms + self.options.session_ms + SLACK_MS;
        let Some(home) = &mut self.rooms[id].home else { return };
        if begins {
            home.session_shards += 1;
            self.keeps_histories = true;
        } else {
            home.session_shards = home.session_shards.saturating_sub(1);
            home.retained_until_ms = until_ms;
            self.set_timer(id);
        }
    }

    /// Returns whether room `id` keeps messages for clients with sessions that are away.
    pub(super) fn retains(&self, id: RoomId) -> bool {
        self.rooms[id].home.as_ref().is_some_and(|home| home.retains(self.now_ms))
    }

    /// Returns the number of the first message that room `id` keeps for clients with sessions that are away. `u64::MAX`
    /// if it keeps none.
    pub(super) fn retained_from(&self, id: RoomId) -> u64 {
        let Some(home) = self.rooms[id].home.as_ref().filter(|home| home.retains(self.now_ms)) else {
            return u64::MAX;
        };
        home.times.first_after(self.now_ms.saturating_sub(self.retention_ms()))
    }

    /// Returns the time in milliseconds for which rooms with sessions keep their messages.
    pub(super) fn retention_ms(&self) -> u64 {
        self.options.session_ms + SLACK_MS
    }
}

/// Returns the first message that a client gets which stopped at `position`, in a room with this epoch whose log begins
/// at number `first`. Also returns the number of messages that it misses, or `None` if that is unknown.
fn start_of(position: Position, epoch: u64, first: u64) -> (Position, Option<u64>) {
    if position.epoch != epoch {
        return (Position { epoch, number: first }, None);
    }
    let number = position.number.max(first);
    (Position { epoch, number }, Some(number - position.number))
}
