//! `broadcast`: some connections publish, and every connection receives every message in order.

use crate::connections::{Connections, Payload};
use crate::end::End;
use crate::ledger::Ledger;
use crate::pace::{Pace, Sender};
use crate::plan::{Plan, SentCount, Share, Window};
use crate::sequence::{Order, Sequences};
use crate::totals::Totals;

use super::Traffic;

/// The traffic of `broadcast`: publishes on a fixed schedule (open loop). `idle` without --speak publishes one message
/// with this traffic.
pub(crate) struct Broadcast {
    share: Share,
    connections: usize,
    publishers: usize,
    rate: f64,
    pace: Pace,
    ledger: Ledger,
    /// The order check of the messages, with one stream per pair of receiving slot and publisher.
    sequences: Sequences,
    receivers: Vec<Receiver>,
}

#[derive(Clone, Copy, Default)]
struct Receiver {
    takes_part: bool,
    /// The connection's publisher number. `None` if the connection does not publish.
    publisher: Option<u32>,
    /// Whether the connection has ended, so that no further message is expected.
    ended: bool,
    /// The number of different messages that the connection has received.
    received: u64,
    /// A hash of the order in which the messages arrived.
    order: u64,
}

impl Broadcast {
    pub(crate) fn new(plan: &Plan, share: Share, publishers: u32, rate: f64) -> Self {
        let publishers = publishers as usize;
        Self {
            share,
            connections: plan.connections,
            publishers,
            rate,
            pace: Pace::default(),
            ledger: Ledger::new(plan),
            sequences: Sequences::new(share.count * publishers),
            receivers: vec![Receiver::default(); share.count],
        }
    }

    /// Returns the publishers whose connections belong to this worker. The publishers of all workers are spread evenly
    /// over all connections.
    fn own_publishers(&self) -> impl Iterator<Item = Sender> {
        let Share { first, count, .. } = self.share;
        let connection = |publisher: usize| publisher * self.connections / self.publishers;
        (0..self.publishers)
            .map(move |publisher| (publisher as u32, connection(publisher)))
            .filter(move |(_, id)| (first..first + count).contains(id))
            .map(move |(publisher, id)| Sender::new(publisher, id - first))
    }
}

impl Traffic for Broadcast {
    fn start(&mut self, connections: &mut Connections, window: Window, _now: u64) {
        self.ledger.window = window;
        for (slot, receiver) in self.receivers.iter_mut().enumerate() {
            receiver.takes_part = connections.is_open(slot);
        }
        let publishers: Vec<Sender> =
            self.own_publishers().filter(|publisher| connections.is_open(publisher.slot)).collect();
        for publisher in &publishers {
            self.receivers[publisher.slot].publisher = Some(publisher.number);
        }
        self.pace = Pace::new(window, self.rate, self.publishers, publishers);
    }

    fn next_due(&self) -> Option<u64> {
        self.pace.next_due()
    }

    fn on_time(&mut self, connections: &mut Connections, now: u64) {
        self.pace.run(connections, &mut self.ledger, now);
    }

    fn on_message(&mut self, _connections: &mut Connections, slot: usize, message: Payload<'_>, now: u64) {
        let Some(arrival) = self.ledger.read(message, now) else { return };
        if arrival.sender as usize >= self.publishers {
            return self.ledger.corrupt();
        }
        let is_own = self.receivers[slot].publisher == Some(arrival.sender);
        self.ledger.counts.from_others += u64::from(!is_own);
        let stream = slot * self.publishers + arrival.sender as usize;
        let order = self.sequences.observe(stream, arrival.sequence);
        if order != Order::Duplicate {
            self.receivers[slot].note(arrival.sender, arrival.sequence);
        }
        self.ledger.received(arrival, order, now);
    }

    fn on_drained(&mut self, connections: &mut Connections, slot: usize, now: u64) {
        self.pace.resume(slot, connections, &mut self.ledger, now);
    }

    fn on_end(&mut self, slot: usize, _end: &End) -> bool {
        self.receivers[slot].ended = true;
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
        let all: u64 = sent.iter().copied().map(u64::from).sum();
        let waits = |receiver: &Receiver| receiver.takes_part && !receiver.ended && receiver.received < all;
        !self.receivers.iter().any(waits)
    }

    fn finish(&mut self, sent: &[u32], totals: &mut Totals) {
        for (slot, receiver) in self.receivers.iter().enumerate().filter(|(_, receiver)| receiver.takes_part)
        {
            for (publisher, &sent) in sent.iter().enumerate() {
                let missing = self.sequences.missing(slot * self.publishers + publisher, sent);
                self.ledger.count_missing(missing);
            }
            if !receiver.ended {
                *totals.orders.entry(receiver.order).or_default() += 1;
            }
        }
    }

    fn ledger(&mut self) -> &mut Ledger {
        &mut self.ledger
    }
}

impl Receiver {
    fn note(&mut self, sender: u32, sequence: u32) {
        self.received += 1;
        let message = u64::from(sender) << 32 | u64::from(sequence);
        self.order = (self.order.rotate_left(5) ^ message).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }
}
