//! `idle` with Pusher channels of their own: in the end the server answers a ping of each connection.

use crate::connections::{Connections, Payload};
use crate::end::End;
use crate::ledger::{Arrival, Ledger};
use crate::plan::{Plan, SentCount, Share, Window};
use crate::pusher::event::ServerEvent;
use crate::sequence::{Missing, Order};
use crate::totals::Totals;

use super::Traffic;

/// The traffic of `idle` when no connection hears of another one. The counter `sent` counts pings, and `received` counts
/// their answers.
pub(crate) struct Probe {
    share: Share,
    ledger: Ledger,
    has_begun: bool,
    /// For each slot, whether the answer to its ping has not arrived.
    waits: Vec<bool>,
}

impl Probe {
    pub(crate) fn new(plan: &Plan, share: Share) -> Self {
        let waits = vec![false; share.count];
        Self { share, ledger: Ledger::new(plan), has_begun: false, waits }
    }
}

impl Traffic for Probe {
    fn start(&mut self, _connections: &mut Connections, window: Window, _now: u64) {
        self.ledger.window = window;
    }

    fn next_due(&self) -> Option<u64> {
        (!self.has_begun).then_some(self.ledger.window.start_ns)
    }

    fn on_time(&mut self, connections: &mut Connections, now: u64) {
        if self.has_begun || now < self.ledger.window.start_ns {
            return;
        }
        self.has_begun = true;
        for slot in 0..self.share.count {
            if !connections.is_open(slot) {
                continue;
            }
            connections.queue_pusher_ping(slot);
            self.ledger.counts.sent += 1;
            self.waits[slot] = true;
        }
    }

    fn on_message(&mut self, _connections: &mut Connections, slot: usize, message: Payload<'_>, now: u64) {
        let event = std::str::from_utf8(message.bytes).map(ServerEvent::parse);
        if event != Ok(ServerEvent::Pong) {
            self.ledger.counts.foreign += 1;
            return;
        }
        let is_awaited = std::mem::take(&mut self.waits[slot]);
        let order = if is_awaited { Order::Next } else { Order::Duplicate };
        let arrival = Arrival { sender: 0, sequence: 0, due_ns: self.ledger.window.start_ns };
        self.ledger.received(arrival, order, now);
    }

    fn on_drained(&mut self, _connections: &mut Connections, _slot: usize, _now: u64) {}

    fn on_end(&mut self, _slot: usize, _end: &End) -> bool {
        true
    }

    fn is_over(&self, now: u64) -> bool {
        self.has_begun && now >= self.ledger.window.end_ns
    }

    fn stop(&mut self) -> Vec<SentCount> {
        Vec::new()
    }

    fn is_complete(&self, _sent: &[u32]) -> bool {
        !self.waits.contains(&true)
    }

    fn finish(&mut self, _sent: &[u32], _totals: &mut Totals) {
        let after = self.waits.iter().filter(|waits| **waits).count() as u64;
        self.ledger.count_missing(Missing { inside: 0, after });
    }

    fn ledger(&mut self) -> &mut Ledger {
        &mut self.ledger
    }
}
