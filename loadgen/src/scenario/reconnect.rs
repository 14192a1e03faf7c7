//! `reconnect`: holds connections, and reopens closed ones after a random delay, as clients do after a server restart.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::mem;

use crate::clock::now_ns;
use crate::connections::{Connections, Payload};
use crate::end::End;
use crate::ledger::{Arrival, Ledger};
use crate::plan::{Plan, SentCount, Share, Window};
use crate::sequence::Order;
use crate::target::Target;
use crate::totals::{Curve, Totals};

use super::Traffic;

/// Limits of the random delay before a closed connection is reopened, in nanoseconds.
///
/// Each delay is random between 0 and an upper limit. The limit is `first_ns` at first, and doubles with each failed
/// attempt up to `max_ns` (full jitter). So clients that were closed together do not return together.
#[derive(Debug, Clone, Copy)]
pub(crate) struct DelayRange {
    pub(crate) first_ns: u64,
    pub(crate) max_ns: u64,
}

/// The traffic of `reconnect`: reopens closed connections. The counters treat the end of a connection as a message
/// sent, and the connection's return as the message's arrival.
pub(crate) struct Reconnect {
    share: Share,
    ledger: Ledger,
    delays: DelayRange,
    then: Option<Target>,
    slots: Vec<Slot>,
    /// The slots to reopen, each with its due time in nanoseconds. The earliest comes first.
    due: BinaryHeap<Reverse<(u64, usize)>>,
    curve: Curve,
    rng: fastrand::Rng,
}

#[derive(Clone, Copy, Default)]
struct Slot {
    is_open: bool,
    /// The time when the connection was last closed, in nanoseconds. 0 means never.
    closed_ns: u64,
    /// The number of failed attempts to reopen the connection since it was last closed.
    failed: u32,
}

impl Reconnect {
    pub(crate) fn new(plan: &Plan, share: Share, delays: DelayRange) -> Self {
        Self {
            share,
            ledger: Ledger::new(plan),
            delays,
            then: plan.then.clone(),
            slots: vec![Slot::default(); share.count],
            due: BinaryHeap::new(),
            curve: Curve::default(),
            rng: fastrand::Rng::new(),
        }
    }

    /// Returns the nanoseconds from the start of the measured window to `now`, or 0 before the window.
    fn elapsed_ns(&self, now: u64) -> u64 {
        match self.ledger.window.measure_ns {
            0 => 0,
            began => now.saturating_sub(began),
        }
    }
}

impl Traffic for Reconnect {
    fn start(&mut self, connections: &mut Connections, window: Window, _now: u64) {
        self.ledger.window = window;
        if let Some(target) = self.then.take() {
            connections.redirect(target);
        }
    }

    fn next_due(&self) -> Option<u64> {
        self.due.peek().map(|Reverse((due_ns, _))| *due_ns)
    }

    fn on_time(&mut self, connections: &mut Connections, now: u64) {
        while let Some(Reverse((due_ns, slot))) = self.due.peek().copied()
            && due_ns <= now
        {
            self.due.pop();
            connections.open(slot, self.share.first + slot);
        }
    }

    fn on_open(&mut self, _connections: &mut Connections, slot: usize, now: u64) {
        let entry = &mut self.slots[slot];
        entry.is_open = true;
        entry.failed = 0;
        if entry.closed_ns == 0 {
            return;
        }
        let arrival = Arrival { sender: 0, sequence: 0, due_ns: entry.closed_ns };
        self.ledger.received(arrival, Order::Next, now);
        let elapsed_ns = self.elapsed_ns(now);
        self.curve.at(elapsed_ns).back += 1;
        self.curve.last_back_ns = elapsed_ns;
    }

    fn on_message(&mut self, _: &mut Connections, _slot: usize, _message: Payload<'_>, _now: u64) {}

    fn on_drained(&mut self, _connections: &mut Connections, _slot: usize, _now: u64) {}

    fn on_end(&mut self, slot: usize, end: &End) -> bool {
        let now = now_ns();
        let elapsed_ns = self.elapsed_ns(now);
        let entry = &mut self.slots[slot];
        let was_open = mem::take(&mut entry.is_open);
        if !was_open && entry.closed_ns == 0 {
            return true;
        }
        if was_open {
            entry.closed_ns = now;
            self.ledger.counts.sent += 1;
            self.curve.at(elapsed_ns).closed += 1;
        } else {
            entry.failed += 1;
            self.curve.at(elapsed_ns).failed += 1;
        }
        let DelayRange { first_ns, max_ns } = self.delays;
        let longest_ns = first_ns.saturating_mul(1 << entry.failed.min(32)).min(max_ns);
        self.due.push(Reverse((now + self.rng.u64(0..=longest_ns), slot)));
        // An end with a code of a server shutdown is no fault: 1001 is going away (RFC 6455 §7.4.1), 1012 is service
        // restart (IANA registry).
        !matches!(end, End::Closed { code: Some(1001 | 1012), .. })
    }

    fn tries_again(&self, slot: usize) -> bool {
        self.slots[slot].closed_ns > 0
    }

    fn is_over(&self, now: u64) -> bool {
        let is_back = |slot: &Slot| slot.is_open && slot.closed_ns > 0;
        now >= self.ledger.window.end_ns || self.slots.iter().all(is_back)
    }

    fn stop(&mut self) -> Vec<SentCount> {
        Vec::new()
    }

    fn is_complete(&self, _sent: &[u32]) -> bool {
        true
    }

    fn finish(&mut self, _sent: &[u32], totals: &mut Totals) {
        totals.curve = mem::take(&mut self.curve);
    }

    fn ledger(&mut self) -> &mut Ledger {
        &mut self.ledger
    }
}
