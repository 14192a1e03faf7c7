//! Reading of rooms: the messages that a room keeps, and all rooms of a shard.

use crate::protocol::frame::{self, Frame};

use super::{Hub, Kind};

/// The history of a room, in part: a page of the messages that the room keeps for clients that join later.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptPage {
    /// The life of the room. Message numbers are compared within one epoch.
    pub epoch: u64,
    /// Number of the oldest kept message. Equal to `next` if the room keeps none.
    pub first: u64,
    /// Number of the room's next message.
    pub next: u64,
    /// The messages of this page, in order.
    pub messages: Vec<KeptMessage>,
}

/// A message that a room keeps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptMessage {
    /// Number of the message in the room's order.
    pub number: u64,
    /// Type of the message: text or binary.
    pub kind: Kind,
    /// Payload of the message.
    pub payload: Vec<u8>,
    /// Age of the message in seconds.
    pub age_s: u32,
}

impl Hub {
    /// Returns the kept messages of `room` from number `from` on: at most `limit`, and at most `bytes` bytes of frames
    /// unless the first one is longer. `None` if the room does not exist or this shard is not its home.
    pub fn kept_messages(&self, room: &str, from: u64, limit: u32, bytes: usize) -> Option<KeptPage> {
        let id = self.rooms.find(room)?;
        let (room, limits) = (&self.rooms[id], self.history_limits(id));
        let home = room.home.as_ref()?;
        let (first, next) = (room.log.tail(limits.messages.into(), limits.bytes), room.log.head());
        let from = from.clamp(first, next);
        let until = next.min(from.saturating_add(limit.into()));
        let ages = home.times.ages(from..until, self.now_ms);
        let mut left = bytes;
        let frames = (from..until).zip(room.log.frames(from)).take_while(|(number, frame)| {
            let fits = frame.len() <= left || *number == from;
            left = left.saturating_sub(frame.len());
            fits
        });
        let messages = frames.zip(ages).filter_map(|((number, frame), age_s)| {
            let Frame { opcode, payload, .. } = frame::first(frame)?;
            let kind = if opcode == Kind::Binary.opcode() { Kind::Binary } else { Kind::Text };
            Some(KeptMessage { number, kind, payload: payload.into(), age_s })
        });
        let messages = messages.collect();
        Some(KeptPage { epoch: self.rooms.epoch(id)?, first, next, messages })
    }

    /// Calls `each` with the rooms at the next `count` positions from `from` on: a room's name, and the number of its
    /// members on this shard. Leaves out rooms of other shards without members here. Returns the position at which the
    /// caller continues, or `None` at the end.
    ///
    /// A room never moves, so a walk from position 0 on sees each room once that exists all the time. A name may come
    /// twice if its room was forgotten and created again.
    pub fn scan_rooms(&self, from: usize, count: usize, mut each: impl FnMut(&str, usize)) -> Option<usize> {
        let end = from.saturating_add(count);
        for room in (from..end.min(self.rooms.positions())).filter_map(|position| self.rooms.at(position)) {
            if room.home.is_some() || !room.members.is_empty() {
                each(&room.name, room.members.len());
            }
        }
        (end < self.rooms.positions()).then_some(end)
    }
}
