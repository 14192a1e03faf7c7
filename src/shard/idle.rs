//! Idle connections at the server's connection limit: the one that has waited longest for its next HTTP request makes
//! room for a new connection.

use std::collections::VecDeque;

use crate::hub::Slot;
use crate::io::Backend;

use super::Shard;
use super::connection::Phase;

/// Maximum number of idle connections that one search finds.
const FOUND: usize = 64;
/// Minimum interval between two searches, in milliseconds. A search looks at all connections of the shard.
const SEARCH_MS: u64 = 100;

/// The idle connections that the last search has found.
#[derive(Debug, Default)]
pub(super) struct OldestIdle {
    /// Slots of connections that were idle, each with the time of its client's last sign of life. Longest idle first.
    found: VecDeque<(u64, Slot)>,
    /// Time from which another search is allowed, in milliseconds of the shard's clock.
    next_search_ms: u64,
}

impl<B: Backend> Shard<B> {
    /// Ends the connection of this shard that has been idle for the longest time. Returns false without such a
    /// connection, and also if it would take another search too early.
    pub(super) fn end_oldest_idle(&mut self) -> bool {
        loop {
            while let Some((heard_ms, slot)) = self.oldest_idle.found.pop_front() {
                let is_idle = self.is_unused(slot);
                let connection = &mut self.connections[slot as usize];
                if is_idle && connection.heard_ms == heard_ms {
                    connection.place = self.shared.admission.give_up(connection.peer, connection.place);
                    self.end(slot, true, &[]);
                    return true;
                }
            }
            if self.now_ms < self.oldest_idle.next_search_ms {
                return false;
            }
            self.find_oldest_idle();
        }
    }

    fn find_oldest_idle(&mut self) {
        let mut idle: Vec<_> = (0..self.connections.len() as Slot)
            .filter(|slot| self.is_unused(*slot))
            .map(|slot| (self.connections[slot as usize].heard_ms, slot))
            .collect();
        if idle.len() > FOUND {
            idle.select_nth_unstable(FOUND);
            idle.truncate(FOUND);
        }
        idle.sort_unstable();
        self.oldest_idle = OldestIdle { found: idle.into(), next_search_ms: self.now_ms + SEARCH_MS };
    }

    /// Returns whether a connection waits for its next request, and its client has taken all responses.
    fn is_unused(&self, slot: Slot) -> bool {
        let connection = &self.connections[slot as usize];
        connection.phase == Phase::Idle && !connection.flow.is_held() && self.hub.is_idle(slot)
    }
}
