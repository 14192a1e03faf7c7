//! `connect`: opens connections and closes them at once, at a fixed rate or as fast as possible.

use crate::clock::SECOND_NS;
use crate::connections::{Connections, Payload};
use crate::end::End;
use crate::ledger::{Arrival, Ledger};
use crate::plan::{Plan, SentCount, Share, Window};
use crate::sequence::Order;
use crate::totals::Totals;

use super::Traffic;

/// The traffic of `connect`: opens and closes connections. The counter `sent` counts attempts, and `received` counts
/// successful handshakes.
pub(crate) struct Connect {
    share: Share,
    /// Connection attempts per second of this worker. `None` means as fast as possible.
    rate: Option<f64>,
    ledger: Ledger,
    vacant: Vec<usize>,
    /// For each slot, the time when its latest connection attempt was due, in nanoseconds.
    due_ns: Vec<u64>,
    /// For each slot, whether the client has queued its close frame.
    closing: Vec<bool>,
    attempts: u64,
    failed: u64,
    stopped: bool,
}

impl Connect {
    pub(crate) fn new(plan: &Plan, share: Share, rate: Option<f64>) -> Self {
        Self {
            share,
            rate: rate.map(|rate| rate * share.count as f64 / plan.connections as f64),
            ledger: Ledger::new(plan),
            vacant: (0..share.count).rev().collect(),
            due_ns: vec![0; share.count],
            closing: vec![false; share.count],
            attempts: 0,
            failed: 0,
            stopped: false,
        }
    }

    fn due(&self, now: u64) -> u64 {
        match self.rate {
            Some(rate) => {
                self.ledger.window.start_ns + (self.attempts as f64 * SECOND_NS as f64 / rate) as u64
            }
            None => now,
        }
    }
}

impl Traffic for Connect {
    fn start(&mut self, _connections: &mut Connections, window: Window, _now: u64) {
        self.ledger.window = window;
    }

    fn next_due(&self) -> Option<u64> {
        self.rate.filter(|_| !self.stopped && !self.vacant.is_empty()).map(|_| self.due(0))
    }

    fn on_time(&mut self, connections: &mut Connections, now: u64) {
        while !self.stopped && self.due(now) <= now.min(self.ledger.window.end_ns) {
            let Some(slot) = self.vacant.pop() else { return };
            self.due_ns[slot] = self.due(now);
            self.closing[slot] = false;
            let id = self.share.worker + self.attempts as usize * self.share.workers;
            self.attempts += 1;
            self.ledger.counts.sent += 1;
            if self.ledger.window.measures(self.due_ns[slot]) {
                self.ledger.lag.record(now - self.due_ns[slot]);
            }
            connections.open(slot, id);
        }
    }

    fn on_open(&mut self, connections: &mut Connections, slot: usize, now: u64) {
        let arrival = Arrival { sender: 0, sequence: 0, due_ns: self.due_ns[slot] };
        self.ledger.received(arrival, Order::Next, now);
        self.ledger.last_ns = now;
        self.closing[slot] = true;
        connections.close(slot);
    }

    fn on_message(&mut self, _: &mut Connections, _slot: usize, _message: Payload<'_>, _now: u64) {
        self.ledger.counts.foreign += 1;
    }

    fn on_drained(&mut self, _connections: &mut Connections, _slot: usize, _now: u64) {}

    fn on_end(&mut self, slot: usize, end: &End) -> bool {
        self.vacant.push(slot);
        self.failed += u64::from(!self.closing[slot]);
        *end != End::CloseAnswered
    }

    fn is_over(&self, now: u64) -> bool {
        let hopeless = self.failed >= super::MAX_FAILED_STARTS && self.ledger.counts.received == 0;
        hopeless || now >= self.ledger.window.end_ns
    }

    fn stop(&mut self) -> Vec<SentCount> {
        self.stopped = true;
        Vec::new()
    }

    fn is_complete(&self, _sent: &[u32]) -> bool {
        self.vacant.len() == self.share.count
    }

    fn finish(&mut self, _sent: &[u32], _totals: &mut Totals) {}

    fn ledger(&mut self) -> &mut Ledger {
        &mut self.ledger
    }
}
