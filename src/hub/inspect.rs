//! The simulation's view of a hub, and the bugs that the simulation injects into a hub.

use super::log::Log;
use super::*;

impl Hub {
    /// Returns the number of slots in use (by a client, an outbox, a membership or a send), plus the number of
    /// compression windows.
    pub(crate) fn occupied(&self) -> usize {
        let is_used = |client: &&Client| {
            client.number > 0 || client.outbox.is_some() || !client.memberships.is_empty() || client.sending
        };
        self.clients.iter().filter(is_used).count() + self.dedicated.len()
    }

    /// Injects a bug: the hub reverses its first report about a member to this shard, if there is one.
    pub(crate) fn reverse_member_report(&mut self) {
        let own = self.options.shard;
        self.outgoing.at(own).requests.reverse_member();
    }

    /// Injects a bug: the hub forgets the users whose home it is.
    pub(crate) fn forget_users(&mut self) {
        self.users.forget_homes();
    }

    /// Injects a bug: the hub forgets all sends in flight.
    pub(crate) fn forget_sends(&mut self) {
        self.clients.iter_mut().for_each(|client| client.sending = false);
    }

    /// Injects a bug: the hub forgets the clients that wait for a send or for a room's next pass.
    pub(crate) fn forget_ready(&mut self) {
        for slot in self.ready.drain(..) {
            self.clients[slot as usize].queued = false;
        }
        self.rooms.iter_mut().for_each(|room| room.revisit = false);
    }

    /// Injects a bug: the hub forgets which members are left out of which messages.
    pub(crate) fn forget_exclusions(&mut self) {
        self.rooms.iter_mut().for_each(|room| room.excluded.clear());
    }

    /// Injects a bug: held members get messages before the application starts them.
    pub(crate) fn start_held_members(&mut self) {
        for room in self.rooms.iter_mut() {
            (0..room.members.len() as u32).for_each(|index| _ = room.start_held(index));
        }
    }

    /// Injects a bug: in rooms with their home on another shard, compressed messages are numbered from 0, as before the
    /// snapshot arrived.
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

    /// Injects a bug: rooms keep no messages for sessions.
    pub(crate) fn forget_retention(&mut self) {
        for home in self.rooms.iter_mut().filter_map(|room| room.home.as_mut()) {
            (home.session_shards, home.retained_until_ms) = (0, 0);
        }
    }

    /// Injects a bug: the next room gets the key of an earlier room, if it gets that room's index.
    pub(crate) fn reuse_keys(&mut self) {
        self.rooms.forget_serials();
    }
}
