//! Mailboxes: each shard has a bounded one, and is woken by a system call only while it sleeps.
//!
//! Requests and deliveries have a channel each. Deliveries cause no further deliveries and are always taken. Requests
//! are taken only while few deliveries are stuck. So shards never wait for each other in a circle.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};

use crate::hub::{Batch, Delivery, Outgoing, Request};
use crate::io::Waker;
use crate::publisher::{Door, Hall, MAX_ENTRIES, entrance};
use crate::sync::Awaited;

/// Number of batches that each channel of a mailbox holds. A batch has the mail of one or more turns of its sender.
const CAPACITY: usize = 64;

/// Roughly the memory, in bytes, of the batches in one channel of a mailbox. Senders and owner change it once for each
/// batch.
#[derive(Debug, Default)]
struct Load(AtomicUsize);

impl Load {
    /// Adds the weight of a batch unless the sum would exceed `limit`. A batch for an empty channel is always accepted.
    /// Another sender's refused batch counts for a moment, which may refuse this batch, too.
    fn try_add(&self, weight: usize, limit: usize) -> bool {
        let before = self.0.fetch_add(weight, Ordering::SeqCst);
        let fits = before == 0 || before + weight <= limit;
        if !fits {
            self.remove(weight);
        }
        fits
    }

    fn remove(&self, weight: usize) {
        self.0.fetch_sub(weight, Ordering::SeqCst);
    }

    fn get(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

/// The loads of both channels of a mailbox.
#[derive(Debug, Default)]
struct Loads {
    requests: Load,
    deliveries: Load,
}

/// The sending end of a shard's mailbox.
#[derive(Clone, Debug)]
pub(crate) struct Address {
    requests: Sender<(u16, Batch<Request>)>,
    deliveries: Sender<Batch<Delivery>>,
    /// The queue for entries of other threads than the shards'.
    pub(crate) door: Door,
    loads: Arc<Loads>,
    waker: Waker,
    /// Flag that a sender raises when it finds the mailbox full. The owner then wakes all senders once there is room.
    awaited: Arc<Awaited>,
}

/// The receiving end of a shard's mailbox.
#[derive(Debug)]
pub(crate) struct Mailbox {
    requests: Receiver<(u16, Batch<Request>)>,
    deliveries: Receiver<Batch<Delivery>>,
    /// A batch of requests that its owner took, handled in part and gave back. Its weight counts in `loads`.
    begun: Option<(u16, Batch<Request>)>,
    loads: Arc<Loads>,
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
    let loads = Arc::new(Loads::default());
    let address = Address {
        requests: request_sender,
        deliveries: delivery_sender,
        loads: Arc::clone(&loads),
        door,
        waker,
        awaited: Arc::clone(&awaited),
    };
    (address, Mailbox { requests, deliveries, begun: None, loads, hall, awaited })
}

impl Address {
    /// Sends the batches in `outgoing` from the shard `from` to this mailbox, and wakes the owner. Returns whether a
    /// batch stayed in `outgoing`, because its channel is full: of batches, or of more than `limit` bytes.
    pub(crate) fn post(&self, from: u16, outgoing: &mut Outgoing, limit: usize) -> bool {
        if outgoing.is_empty() {
            return false;
        }
        let mut stuck = self.try_post(from, outgoing, limit);
        if stuck {
            // The owner checks the flag after it took a batch, so one more try after raising the flag is enough.
            self.awaited.raise();
            stuck = self.try_post(from, outgoing, limit);
        }
        self.waker.wake();
        stuck
    }

    fn try_post(&self, from: u16, outgoing: &mut Outgoing, limit: usize) -> bool {
        let mut stuck = false;
        if !outgoing.deliveries.is_empty() {
            let weight = outgoing.deliveries.weight();
            if !self.loads.deliveries.try_add(weight, limit) {
                stuck = true;
            } else if let Err(TrySendError::Full(batch)) =
                self.deliveries.try_send(std::mem::take(&mut outgoing.deliveries))
            {
                self.loads.deliveries.remove(weight);
                outgoing.deliveries = batch;
                stuck = true;
            }
        }
        if !outgoing.requests.is_empty() {
            let weight = outgoing.requests.weight();
            if !self.loads.requests.try_add(weight, limit) {
                stuck = true;
            } else if let Err(TrySendError::Full((_, batch))) =
                self.requests.try_send((from, std::mem::take(&mut outgoing.requests)))
            {
                self.loads.requests.remove(weight);
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
        self.requests() > 0 || self.deliveries() > 0 || self.hall.has_entries()
    }

    /// Returns the number of batches of deliveries in the mailbox.
    pub(crate) fn deliveries(&self) -> usize {
        self.deliveries.len()
    }

    /// Returns the number of batches of requests in the mailbox.
    pub(crate) fn requests(&self) -> usize {
        self.requests.len() + usize::from(self.begun.is_some())
    }

    /// Returns roughly the memory of the batches in the mailbox, in bytes.
    pub(crate) fn load(&self) -> usize {
        self.loads.requests.get() + self.loads.deliveries.get()
    }

    /// Removes and returns the oldest batch of deliveries.
    pub(crate) fn take_deliveries(&mut self) -> Option<Batch<Delivery>> {
        let batch = self.deliveries.try_recv().ok()?;
        self.loads.deliveries.remove(batch.weight());
        Some(batch)
    }

    /// Removes and returns the oldest batch of requests, with the shard that sent it.
    pub(crate) fn take_requests(&mut self) -> Option<(u16, Batch<Request>)> {
        let taken = self.begun.take().or_else(|| self.requests.try_recv().ok())?;
        self.loads.requests.remove(taken.1.weight());
        Some(taken)
    }

    /// Gives a batch of requests back that was handled in part. It is the next that [`Mailbox::take_requests`] returns.
    pub(crate) fn give_back(&mut self, from: u16, rest: Batch<Request>) {
        self.loads.requests.0.fetch_add(rest.weight(), Ordering::SeqCst);
        self.begun = Some((from, rest));
    }

    /// Returns whether senders wait for room in the mailbox, and resets that flag. Call this after taking a batch.
    pub(crate) fn take_awaited(&self) -> bool {
        self.awaited.take()
    }
}
