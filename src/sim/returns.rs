//! Clients that return with their session: what each has heard, over all of its connections.

use std::collections::HashMap;

use super::hearing::Hearing;

/// Rules of a run in which clients have sessions.
#[derive(Clone, Copy, Debug)]
pub(super) struct SessionRules {
    pub(super) session_ms: u64,
    /// Whether rooms may be too large, and clients away for too long, so that clients miss messages and are told.
    pub(super) is_lossy: bool,
}

/// A client's session: its identifier, and what the client has heard in each room.
#[derive(Default)]
pub(super) struct Returns {
    id: String,
    /// The rooms in which the client was, each with the time when it left, in milliseconds.
    rooms: HashMap<String, (Hearing, u64)>,
    /// Time when the client left the room to which it returns now, in milliseconds.
    left_ms: Option<u64>,
}

impl Returns {
    pub(super) fn new(client: usize) -> Self {
        Self { id: format!("session-of-{client:06}"), rooms: HashMap::new(), left_ms: None }
    }

    pub(super) fn id(&self) -> &str {
        &self.id
    }

    /// Keeps what the client has heard in a room, at the end of its connection.
    pub(super) fn keep(&mut self, hearing: Hearing, now_ms: u64) {
        if let Some(room) = hearing.stream() {
            self.rooms.insert(room.to_owned(), (hearing, now_ms));
        }
    }

    /// Returns what the client has heard in the room to which it returns. The next message that it hears must follow.
    /// `None` for a new room.
    pub(super) fn take(&mut self, room: &str, serial: u64) -> Option<Hearing> {
        let left = self.rooms.remove(room);
        self.left_ms = left.as_ref().map(|(_, left_ms)| *left_ms);
        left.map(|(hearing, _)| hearing.resumed(serial))
    }

    /// Returns whether the server may have forgotten the client's position, now that it has let the client in. The server
    /// remembers positions ten times as long as messages.
    pub(super) fn may_be_forgotten(&self, now_ms: u64, rules: SessionRules) -> bool {
        rules.is_lossy && self.left_ms.is_some_and(|left_ms| now_ms > left_ms + 8 * rules.session_ms)
    }
}
