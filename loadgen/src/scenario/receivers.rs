//! The connections that receive what others publish, and the check that each message arrives once and in order.

use crate::ledger::{Arrival, Ledger};
use crate::sequence::{Order, Sequences};
use crate::totals::Totals;

/// The receivers of one worker, by slot.
pub(super) struct Receivers {
    /// Number of publishers of all workers.
    publishers: usize,
    /// The order check of the messages, with one stream per pair of receiving slot and publisher.
    sequences: Sequences,
    slots: Vec<Receiver>,
}

#[derive(Clone, Copy, Default)]
struct Receiver {
    takes_part: bool,
    /// The publisher whose messages do not come to this connection, because the connection sends them itself.
    own: Option<u32>,
    /// Whether the connection has ended, so that no further message is expected.
    ended: bool,
    /// The number of different messages that the connection has received.
    received: u64,
    /// A hash of the order in which the messages arrived.
    order: u64,
}

impl Receivers {
    pub(super) fn new(slots: usize, publishers: usize) -> Self {
        Self {
            publishers,
            sequences: Sequences::new(slots * publishers),
            slots: vec![Receiver::default(); slots],
        }
    }

    /// Expects all messages on the connection in `slot`, except those of the publisher `own`.
    pub(super) fn start(&mut self, slot: usize, own: Option<u32>) {
        self.slots[slot].takes_part = true;
        self.slots[slot].own = own;
    }

    /// Expects no further messages on the connection in `slot`, which has ended.
    pub(super) fn end(&mut self, slot: usize) {
        self.slots[slot].ended = true;
    }

    /// Records a message of a known publisher. Returns the order of its arrival.
    pub(super) fn observe(&mut self, slot: usize, arrival: Arrival) -> Order {
        let stream = slot * self.publishers + arrival.sender as usize;
        let order = self.sequences.observe(stream, arrival.sequence);
        if order != Order::Duplicate {
            self.slots[slot].note(arrival);
        }
        order
    }

    /// Returns whether all receivers have all messages. `sent[n]` is the number of messages of publisher `n`.
    pub(super) fn is_complete(&self, sent: &[u32]) -> bool {
        let all: u64 = sent.iter().copied().map(u64::from).sum();
        let own = |receiver: &Receiver| receiver.own.and_then(|own| sent.get(own as usize)).copied();
        let expected = |receiver: &Receiver| all - own(receiver).map_or(0, u64::from);
        let waits = |receiver: &Receiver| {
            receiver.takes_part && !receiver.ended && receiver.received < expected(receiver)
        };
        !self.slots.iter().any(waits)
    }

    /// Counts the missing messages of all receivers, and the orders in which the messages arrived.
    pub(super) fn finish(&self, sent: &[u32], ledger: &mut Ledger, totals: &mut Totals) {
        for (slot, receiver) in self.slots.iter().enumerate().filter(|(_, receiver)| receiver.takes_part) {
            let own = receiver.own.map(|own| own as usize);
            for (publisher, &sent) in sent.iter().enumerate().filter(|&(number, _)| Some(number) != own) {
                ledger.count_missing(self.sequences.missing(slot * self.publishers + publisher, sent));
            }
            // Receivers that do not get all messages do not have the order of the others.
            if !receiver.ended && receiver.own.is_none() {
                *totals.orders.entry(receiver.order).or_default() += 1;
            }
        }
    }
}

impl Receiver {
    fn note(&mut self, arrival: Arrival) {
        self.received += 1;
        let message = u64::from(arrival.sender) << 32 | u64::from(arrival.sequence);
        self.order = (self.order.rotate_left(5) ^ message).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }
}
