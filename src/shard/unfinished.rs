//! Deadlines of messages: a client that begins a message must finish it in time.
//!
//! Only clients with an incomplete frame or message have an entry here, so others cost nothing. Neither pongs nor
//! further bytes of the message extend its deadline.

use std::collections::BTreeMap;

use tracing::debug;

use crate::hub::Slot;
use crate::io::Backend;
use crate::protocol::CloseCode;

use super::Shard;
use super::flow::Pause;
use super::life::close_frame;

/// Maximum interval in milliseconds between two checks of all entries.
const MAX_INTERVAL_MS: u64 = 1_000;

/// The clients with an incomplete frame or message, and the time when each began.
#[derive(Debug, Default)]
pub(super) struct Unfinished {
    /// Time at which each client's incomplete message began, in milliseconds. Moved by the time for which the server
    /// did not receive from the client.
    begun_ms: BTreeMap<Slot, u64>,
    /// Time of the last check, in milliseconds.
    checked_ms: u64,
}

impl Unfinished {
    /// Adds a client whose message has arrived in part, or notes that the client has begun another message.
    pub(super) fn begin(&mut self, slot: Slot, now_ms: u64) {
        if self.begun_ms.is_empty() {
            self.checked_ms = now_ms;
        }
        self.begun_ms.insert(slot, now_ms);
    }

    /// Removes a client without an incomplete message.
    pub(super) fn end(&mut self, slot: Slot) {
        self.begun_ms.remove(&slot);
    }

    /// Returns the number of clients with an incomplete message.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.begun_ms.len()
    }
}

impl<B: Backend> Shard<B> {
    /// Closes clients whose message is not complete in time.
    pub(super) fn check_unfinished(&mut self) {
        if self.next_unfinished_ms().is_none_or(|next_ms| next_ms > self.now_ms) {
            return;
        }
        let since_ms = self.now_ms - self.unfinished.checked_ms;
        self.unfinished.checked_ms = self.now_ms;
        let limit_ms = self.message_limit_ms();
        let mut late = Vec::new();
        for (slot, begun_ms) in &mut self.unfinished.begun_ms {
            let flow = &self.connections[*slot as usize].flow;
            if flow.is_paused(Pause::Congestion) || flow.is_paused(Pause::Memory) {
                *begun_ms = self.now_ms.min(*begun_ms + since_ms);
            } else if self.now_ms - *begun_ms >= limit_ms {
                late.push(*slot);
            }
        }
        for slot in late {
            self.unfinished.end(slot);
            if self.is_open(slot) {
                debug!(slot, "a message was not complete in time");
                self.stats.late_messages.add(1);
                self.drop_input(slot);
                self.count_end(slot, CloseCode::POLICY.0);
                let frame = close_frame(CloseCode::POLICY, "the message was not complete in time");
                self.end(slot, true, &frame);
            }
        }
    }

    /// Returns the time in milliseconds at which [`Shard::check_unfinished`] is due. `None` without incomplete messages.
    pub(super) fn next_unfinished_ms(&self) -> Option<u64> {
        let interval_ms = (self.settings.message_ms / 8).clamp(1, MAX_INTERVAL_MS);
        (!self.unfinished.begun_ms.is_empty()).then_some(self.unfinished.checked_ms + interval_ms)
    }

    /// Returns the time limit of a message in milliseconds. A byte rate may need longer for the longest message.
    fn message_limit_ms(&self) -> u64 {
        let (bytes, rate) = (self.settings.limits.max_message as u64, u64::from(self.settings.pace.bytes));
        self.settings.message_ms.saturating_add((bytes * 1_000).checked_div(rate).unwrap_or(0))
    }
}
