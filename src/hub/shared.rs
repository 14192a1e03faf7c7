//! Sends a message to several clients, and tells the ages of a room's history.

use crate::chunk::Span;

use super::outbox::Content;
use super::{Encoding, Hub, Message, Slot, total_len, with_frame};

impl Hub {
    /// Sends a message to several clients. The clients share one plain copy and, for [`Encoding::Shared`], one
    /// compressed copy.
    pub fn send_to_all(&mut self, slots: &[Slot], message: Message<'_>) {
        if let [slot] = slots {
            return self.send(*slot, message);
        }
        let frame = with_frame(message, |parts| parts.concat());
        let is_long = self.deflater.takes(total_len(message.parts()));
        let (mut plain, mut compressed) = (None, None);
        for &slot in slots {
            let span = if is_long && self.clients[slot as usize].encoding == Encoding::Shared {
                compressed.get_or_insert_with(|| Span::copy_of(self.deflater.compress(&frame)))
            } else {
                plain.get_or_insert_with(|| Span::copy_of(&frame))
            };
            self.send_span(slot, span.clone());
        }
    }

    /// Returns the ages, in seconds, of the messages in the history of `room`, oldest first. Empty if this shard is not
    /// the room's home.
    pub fn history_ages(&self, room: &str) -> Vec<u32> {
        let Some(id) = self.rooms.find(room) else { return Vec::new() };
        let (room, limits) = (&self.rooms[id], self.history_limits(id));
        let Some(home) = &room.home else { return Vec::new() };
        let first = room.log.tail(limits.messages.into(), limits.bytes);
        home.times.ages(first..room.log.head(), self.now_ms)
    }

    /// Returns the number of messages of `room` not yet handed out to the client. `None` if the client is not a member,
    /// or while the history has not arrived from the room's home shard.
    pub fn unsent(&self, slot: Slot, room: &str) -> Option<u64> {
        let id = self.rooms.find(room)?;
        let membership = self.clients[slot as usize].memberships.find(id)?;
        let room = &self.rooms[id];
        room.live.then(|| room.unread(membership.index as usize))
    }

    fn send_span(&mut self, slot: Slot, span: Span) {
        if self.clients[slot as usize].finished {
            return;
        }
        let len = span.len();
        self.outbox(slot).0.append_shared(span, Content::Message);
        self.limit_outbox(slot, len);
    }
}
