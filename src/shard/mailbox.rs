//! How shards reach each other: a bounded mailbox each, and a wake-up only for one that sleeps.
//!
//! Requests and deliveries have a channel each. Deliveries lead to no further deliveries and are always taken;
//! requests are taken only while few deliveries are stuck. So shards never wait for each other in a circle.

use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};

use crate::hub::{Batch, Delivery, Outgoing, Request};
use crate::io::Waker;
use crate::sync::Awaited;

/// Batches that wait in each channel at most. A batch holds at most what its sender took in during one turn.
const CAPACITY: usize = 64;

/// The sending end of a shard's mailbox.
#[derive(Clone, Debug)]
pub(crate) struct Address {
    requests: Sender<(u16, Batch<Request>)>,
    deliveries: Sender<Batch<Delivery>>,
    waker: Waker,
    /// Whether somebody found the mailbox full and waits to hear that it is not.
    awaited: Arc<Awaited>,
}

/// The receiving end.
#[derive(Debug)]
pub(crate) struct Mailbox {
    pub(crate) requests: Receiver<(u16, Batch<Request>)>,
    pub(crate) deliveries: Receiver<Batch<Delivery>>,
    awaited: Arc<Awaited>,
}

/// A mailbox whose owner is woken by `waker`.
pub(crate) fn mailbox(waker: Waker) -> (Address, Mailbox) {
    mailbox_of(waker, CAPACITY)
}

/// One that takes so many batches in each channel.
pub(crate) fn mailbox_of(waker: Waker, capacity: usize) -> (Address, Mailbox) {
    let (request_sender, requests) = bounded(capacity);
    let (delivery_sender, deliveries) = bounded(capacity);
    let awaited = Arc::new(Awaited::new());
    let address = Address {
        requests: request_sender,
        deliveries: delivery_sender,
        waker,
        awaited: Arc::clone(&awaited),
    };
    (address, Mailbox { requests, deliveries, awaited })
}

impl Address {
    /// Sends what has gathered for this shard. What its mailbox does not take stays where it was; true then.
    pub(crate) fn post(&self, from: u16, outgoing: &mut Outgoing) -> bool {
        if outgoing.requests.is_empty() && outgoing.deliveries.is_empty() {
            return false;
        }
        let mut stuck = self.try_post(from, outgoing);
        if stuck {
            // The owner looks at the flag after it took something, so one more try after raising it is enough.
            self.awaited.raise();
            stuck = self.try_post(from, outgoing);
        }
        self.waker.wake();
        stuck
    }

    fn try_post(&self, from: u16, outgoing: &mut Outgoing) -> bool {
        let mut stuck = false;
        if !outgoing.deliveries.is_empty() {
            let batch = std::mem::take(&mut outgoing.deliveries);
            if let Err(TrySendError::Full(batch)) = self.deliveries.try_send(batch) {
                outgoing.deliveries = batch;
                stuck = true;
            }
        }
        if !outgoing.requests.is_empty() {
            let batch = std::mem::take(&mut outgoing.requests);
            if let Err(TrySendError::Full((_, batch))) = self.requests.try_send((from, batch)) {
                outgoing.requests = batch;
                stuck = true;
            }
        }
        stuck
    }

    /// Batches of requests and of deliveries that wait to be taken.
    pub(crate) fn depth(&self) -> (usize, usize) {
        (self.requests.len(), self.deliveries.len())
    }

    /// Wakes the owner.
    pub(crate) fn wake(&self) {
        self.waker.wake();
    }
}

impl Mailbox {
    /// Whether there is something to take.
    pub(crate) fn has_mail(&self) -> bool {
        !self.requests.is_empty() || !self.deliveries.is_empty()
    }

    /// After taking something: whether others wait to hear that there is room again.
    pub(crate) fn take_awaited(&self) -> bool {
        self.awaited.take()
    }
}
