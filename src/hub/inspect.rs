//! The simulation's view of a hub, and the bugs that it puts in.

use super::log::Log;
use super::*;

impl Hub {
    /// Number of clients that exist or have an outbox, a membership or a send, and of compression windows.
    pub(crate) fn occupied(&self) -> usize {
        let is_used = |client: &&Client| {
            client.number > 0 || client.outbox.is_some() || !client.memberships.is_empty() || client.sending
        };
        self.clients.iter().filter(is_used).count() + self.dedicated.len()
    }

    /// Believes that no send is in flight.
    pub(crate) fn forget_sends(&mut self) {
        self.clients.iter_mut().for_each(|client| client.sending = false);
    }

    /// Forgets the clients that wait for a send or for a room's next pass.
    pub(crate) fn forget_ready(&mut self) {
        for slot in self.ready.drain(..) {
            self.clients[slot as usize].queued = false;
        }
        self.rooms.iter_mut().for_each(|room| room.revisit = false);
    }

    /// Numbers the compressed messages of rooms with a foreign home from 0, as before their snapshot arrived.
    pub(crate) fn misnumber_compressed_logs(&mut self) {
        for room in self.rooms.iter_mut().filter(|room| room.home.is_none() && room.live) {
            let head = room.log.head();
            if let Some(compressed) = &mut room.compressed
                && compressed.first() == head
            {
                *compressed = Log::starting_at(0);
            }
        }
    }

    /// Gives the next room the key of an earlier one, if it gets that one's index.
    pub(crate) fn reuse_keys(&mut self) {
        self.rooms.forget_serials();
    }
}
