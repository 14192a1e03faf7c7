//! The batches for all destination shards, and their total memory.

use super::batch::{Batch, Delivery, Request};

/// The requests and deliveries for one destination shard.
#[derive(Debug, Default)]
pub struct Outgoing {
    /// Batch of requests to the destination shard as the home of rooms.
    pub requests: Batch<Request>,
    /// Batch of deliveries to the room members on the destination shard.
    pub deliveries: Batch<Delivery>,
}

impl Outgoing {
    /// Returns whether both batches, `requests` and `deliveries`, are empty.
    pub fn is_empty(&self) -> bool {
        self.requests.is_empty() && self.deliveries.is_empty()
    }
}

/// Weights of batches: roughly their memory in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Weights {
    pub(crate) requests: usize,
    pub(crate) deliveries: usize,
}

impl Weights {
    pub(crate) fn total(self) -> usize {
        self.requests + self.deliveries
    }
}

/// The batches for all shards of the server, by shard index. Additions count at once in the weights. Removals count
/// with the next [`Outgoings::weigh`].
#[derive(Debug)]
pub(super) struct Outgoings {
    shards: Vec<Outgoing>,
    weights: Weights,
}

impl Outgoings {
    pub(super) fn new(shards: u16) -> Self {
        Self { shards: (0..shards).map(|_| Outgoing::default()).collect(), weights: Weights::default() }
    }

    pub(super) fn at(&mut self, shard: u16) -> &mut Outgoing {
        &mut self.shards[shard as usize]
    }

    /// Returns the weights of all batches.
    pub(super) fn weights(&self) -> Weights {
        self.weights
    }

    /// Returns whether all batches are empty.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.shards.iter().all(Outgoing::is_empty)
    }

    /// Calls `add` to add a request for `shard`.
    pub(super) fn request(&mut self, shard: u16, add: impl FnOnce(&mut Batch<Request>)) {
        let batch = &mut self.shards[shard as usize].requests;
        let before = batch.weight();
        add(batch);
        self.weights.requests += batch.weight() - before;
    }

    /// Calls `add` to add a delivery for `shard`.
    pub(super) fn delivery(&mut self, shard: u16, add: impl FnOnce(&mut Batch<Delivery>)) {
        let batch = &mut self.shards[shard as usize].deliveries;
        let before = batch.weight();
        add(batch);
        self.weights.deliveries += batch.weight() - before;
    }

    /// Adds up the weights of all batches again, after batches were taken.
    pub(super) fn weigh(&mut self) {
        let sum = |weight: fn(&Outgoing) -> usize| self.shards.iter().map(weight).sum();
        self.weights = Weights {
            requests: sum(|outgoing| outgoing.requests.weight()),
            deliveries: sum(|outgoing| outgoing.deliveries.weight()),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Kind, Message, Origin};
    use super::*;

    #[test]
    fn additions_count_at_once_and_removals_with_the_next_weighing() {
        let mut outgoings = Outgoings::new(2);
        let message = Message::new(Kind::Text, &[1; 1_000]);
        outgoings.request(1, |batch| batch.publish("room", None, message, Origin::default()));
        outgoings.delivery(0, |batch| batch.note(Box::new(5_u8), 500));
        let Weights { requests, deliveries } = outgoings.weights();
        assert!((1_004..2_000).contains(&requests) && (501..1_000).contains(&deliveries));
        std::mem::take(&mut outgoings.at(1).requests);
        assert_eq!(outgoings.weights(), Weights { requests, deliveries });
        outgoings.weigh();
        assert_eq!(outgoings.weights(), Weights { requests: 0, deliveries });
    }
}
