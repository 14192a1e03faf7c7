//! Mailboxes: each shard has a bounded one, and is woken by a system call only while it sleeps.
//!
//! Requests and deliveries have a channel each. Deliveries cause no further deliveries and are always taken. Requests
//! are taken only while few deliveries are stuck. So shards never wait for each other in a circle.

use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};

use crate::hub::{Batch, Delivery, Outgoing, Request};
use crate::io::Waker;
use crate::publisher::{Door, Hall, MAX_ENTRIES, entrance};
use crate::sync::Awaited;

/// Number of batches that each channel of a mailbox holds. A batch has the mail of one or more turns of its sender.
const CAPACITY: usize = 64;

/// The sending end of a shard's mailbox.
#[derive(Clone, Debug)]
pub(crate) struct Address {
    requests: Sender<(u16, Batch<Request>)>,
    deliveries: Sender<Batch<Delivery>>,
    /// The queue for entries of other threads than the shards'.
    pub(crate) door: Door,
    waker: Waker,
    /// Flag that a sender raises when it finds the mailbox full. The owner then wakes all senders once there is room.
    awaited: Arc<Awaited>,
}

/// The receiving end of a shard's mailbox.
#[derive(Debug)]
pub(crate) struct Mailbox {
    pub(crate) requests: Receiver<(u16, Batch<Request>)>,
    pub(crate) deliveries: Receiver<Batch<Delivery>>,
    /// The queue with entries of other threads than the shards'.
    pub(crate) hall: Hall,
    awaited: Arc<Awaited>,
}

/// Creates a mailbox, and returns its sending end and its receiving end. `waker` wakes the owner.
pub(crate) fn mailbox(waker: Waker) -> (Address, Mailbox) {
    mailbox_of(waker, CAPACITY, MAX_ENTRIES)
}

/// Creates a mailbox with `capacity` batches in each channel, one for requests and one for deliveries, and with at most
/// `entries` entries of other threads.
pub(crate) fn mailbox_of(waker: Waker, capacity: usize, entries: usize) -> (Address, Mailbox) {
    let (request_sender, requests) = bounded(capacity);
    let (delivery_sender, deliveries) = bounded(capacity);
    let awaited = Arc::new(Awaited::new());
    let (door, hall) = entrance(waker.clone(), entries);
    let address = Address {
        requests: request_sender,
        deliveries: delivery_sender,
        door,
        waker,
        awaited: Arc::clone(&awaited),
    };
    (address, Mailbox { requests, deliveries, hall, awaited })
}

impl Address {
    /// Sends the batches in `outgoing` from the shard `from` to this mailbox, and wakes the owner. Returns whether a
    /// batch stayed in `outgoing`, because its channel is full.
    pub(crate) fn post(&self, from: u16, outgoing: &mut Outgoing) -> bool {
        if outgoing.is_empty() {
            return false;
        }
        let mut stuck = self.try_post(from, outgoing);
        if stuck {
            // The owner checks the flag after it took a batch, so one more try after raising the flag is enough.
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

    /// Returns the number of batches of requests and of deliveries in the mailbox.
    pub(crate) fn depth(&self) -> (usize, usize) {
        (self.requests.len(), self.deliveries.len())
    }

    /// Wakes the shard that owns the mailbox.
    pub(crate) fn wake(&self) {
        self.waker.wake();
    }
}

impl Mailbox {
    /// Returns whether the mailbox holds a batch or an entry of another thread.
    pub(crate) fn has_mail(&self) -> bool {
        !self.requests.is_empty() || !self.deliveries.is_empty() || self.hall.has_entries()
    }

    /// Returns whether senders wait for room in the mailbox, and resets that flag. Call this after taking a batch.
    pub(crate) fn take_awaited(&self) -> bool {
        self.awaited.take()
    }
}
