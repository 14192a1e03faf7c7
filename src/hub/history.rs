//! Histories of rooms: the limits of one room's history, and the memory limit of all histories.

use std::time::Duration;

use super::Hub;
use super::rooms::RoomId;

/// Limits of the history of one room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct History {
    /// Maximum number of messages that the room keeps for clients that join later. 0 means no history.
    pub messages: u32,
    /// Time that the room keeps its history after its last member left. Rounded down to milliseconds.
    pub kept_for: Duration,
}

/// The limits of a room's history that apply now.
#[derive(Clone, Copy, Debug)]
pub(super) struct HistoryLimits {
    /// Maximum number of messages.
    pub(super) messages: u32,
    /// Maximum size of the messages in bytes.
    pub(super) bytes: usize,
    /// Time in milliseconds that the room keeps its history after its last member left.
    pub(super) kept_ms: u64,
}

impl Hub {
    /// Returns whether this shard has the room.
    pub fn has_room(&self, room: &str) -> bool {
        self.rooms.find(room).is_some()
    }

    /// Sets the limits of the history of a room whose home is this shard; `None` means those of the options. Creates the
    /// room if it does not exist. Call this method for a new room only, before the first [`Hub::subscribe`] and
    /// [`Hub::order`], since other shards learn the limits when they subscribe.
    pub fn set_history(&mut self, room: &str, history: Option<History>) {
        let id = self.rooms.find(room).unwrap_or_else(|| self.insert_room(room));
        self.rooms[id].history = history;
        self.keeps_histories |= history.is_some_and(|history| history.messages > 0);
    }

    /// Returns the name of the next room that a client's join has created on this shard, its home. The caller may set
    /// the limits of its history with [`Hub::set_history`]. Call this method after [`Hub::join`] until it returns
    /// `None`.
    pub fn poll_new_room(&mut self) -> Option<Box<str>> {
        while let Some(key) = self.new_rooms.pop() {
            // The client may have left again.
            if let Some(id) = self.rooms.resolve(key) {
                return Some(self.rooms[id].name.clone());
            }
        }
        None
    }

    /// Returns whether a room with these limits keeps messages for clients that join later.
    pub fn keeps_history(&self, history: Option<History>) -> bool {
        self.limits(history).messages > 0
    }

    /// Returns the limits that apply to the history of room `id`.
    pub(super) fn history_limits(&self, id: RoomId) -> HistoryLimits {
        self.limits(self.rooms[id].history)
    }

    fn limits(&self, history: Option<History>) -> HistoryLimits {
        let options = &self.options;
        let bytes = options.history_bytes;
        let Some(History { messages, kept_for }) = history else {
            return HistoryLimits { messages: options.history, bytes, kept_ms: options.history_ms };
        };
        let messages = if bytes == 0 { 0 } else { messages };
        let kept_ms = if messages == 0 { 0 } else { u64::try_from(kept_for.as_millis()).unwrap_or(u64::MAX) };
        HistoryLimits { messages, bytes, kept_ms }
    }

    /// Updates the weight of room `id`. While all rooms together exceed `history_memory`, drops histories, the least
    /// recently used first. Rooms without members are forgotten before rooms with members lose their history.
    pub(super) fn weigh(&mut self, id: RoomId) {
        if !self.keeps_histories || self.options.history_memory == 0 {
            return;
        }
        self.rooms.weigh(id);
        while self.has_too_much_history() {
            let Some(least) = self.rooms.take_least() else { return };
            if self.rooms[least].live && self.rooms[least].is_abandoned() {
                self.forget(least);
            } else {
                self.rooms[least].drop_history();
                self.rooms.weigh(least);
            }
        }
    }

    /// Returns the number of the first message that room `id` keeps although no member waits for it: for newcomers, or for
    /// clients with sessions that are away.
    pub(super) fn kept_from(&self, id: RoomId) -> u64 {
        let limits = self.history_limits(id);
        let history = self.rooms[id].log.tail(limits.messages.into(), limits.bytes);
        history.min(self.retained_from(id))
    }

    pub(super) fn has_too_much_history(&self) -> bool {
        self.options.history_memory > 0 && self.rooms.weight() > self.options.history_memory
    }
}
