//! `broadcast`: some connections publish, and every connection receives every message in order.

use crate::connections::{Connections, Payload};
use crate::end::End;
use crate::ledger::Ledger;
use crate::pace::{Pace, Sender};
use crate::plan::{Plan, SentCount, Share, Window};
use crate::publishers::Publishers;
use crate::totals::Totals;

use super::Traffic;
use super::receivers::Receivers;

/// The traffic of `broadcast`: publishes on a fixed schedule (open loop). `idle` without --speak publishes one message
/// with this traffic.
pub(crate) struct Broadcast {
    share: Share,
    publishers: Publishers,
    rate: f64,
    pace: Pace,
    ledger: Ledger,
    receivers: Receivers,
    /// For each slot, its connection's publisher number. `None` if the connection does not publish.
    own_numbers: Vec<Option<u32>>,
    /// Whether messages return to their sender.
    echoes: bool,
}

impl Broadcast {
    pub(crate) fn new(plan: &Plan, share: Share, publishers: u32, rate: f64) -> Self {
        let publishers = Publishers { count: publishers as usize, connections: plan.connections };
        Self {
            share,
            publishers,
            rate,
            pace: Pace::default(),
            ledger: Ledger::new(plan),
            receivers: Receivers::new(share.count, publishers.count),
            own_numbers: vec![None; share.count],
            echoes: plan.pusher.is_none(),
        }
    }
}

impl Traffic for Broadcast {
    fn start(&mut self, connections: &mut Connections, window: Window, _now: u64) {
        self.ledger.window = window;
        let open = self.publishers.within(self.share).filter(|&(_, slot)| connections.is_open(slot));
        let senders: Vec<Sender> = open.map(|(number, slot)| Sender::new(number, slot)).collect();
        for sender in &senders {
            self.own_numbers[sender.slot] = Some(sender.number);
        }
        for slot in (0..self.share.count).filter(|&slot| connections.is_open(slot)) {
            self.receivers.start(slot, self.own_numbers[slot].filter(|_| !self.echoes));
        }
        self.pace = Pace::new(window, self.rate, self.publishers.count, senders);
    }

    fn next_due(&self) -> Option<u64> {
        self.pace.next_due()
    }

    fn on_time(&mut self, connections: &mut Connections, now: u64) {
        self.pace.run(connections, &mut self.ledger, now);
    }

    fn on_message(&mut self, _connections: &mut Connections, slot: usize, message: Payload<'_>, now: u64) {
        let Some(arrival) = self.ledger.read(message, now) else { return };
        if arrival.sender as usize >= self.publishers.count {
            return self.ledger.corrupt();
        }
        let is_own = self.own_numbers[slot] == Some(arrival.sender);
        if is_own && !self.echoes {
            return self.ledger.corrupt();
        }
        self.ledger.counts.from_others += u64::from(!is_own);
        let order = self.receivers.observe(slot, arrival);
        self.ledger.received(arrival, order, now);
    }

    fn on_drained(&mut self, connections: &mut Connections, slot: usize, now: u64) {
        self.pace.resume(slot, connections, &mut self.ledger, now);
    }

    fn on_end(&mut self, slot: usize, _end: &End) -> bool {
        self.receivers.end(slot);
        true
    }

    fn is_over(&self, now: u64) -> bool {
        now >= self.ledger.window.end_ns
    }

    fn stop(&mut self) -> Vec<SentCount> {
        self.pace.stop(&mut self.ledger);
        self.pace.sent()
    }

    fn is_complete(&self, sent: &[u32]) -> bool {
        self.receivers.is_complete(sent)
    }

    fn finish(&mut self, sent: &[u32], totals: &mut Totals) {
        self.receivers.finish(sent, &mut self.ledger, totals);
    }

    fn ledger(&mut self) -> &mut Ledger {
        &mut self.ledger
    }
}
