//! `storm`: in each round every connection sends one message and receives the messages of all connections.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use mio::Waker;

use crate::clock::now_ns;
use crate::connections::{Connections, Payload, Repeated};
use crate::end::End;
use crate::ledger::{Arrival, Ledger, MessageId};
use crate::plan::{Plan, SentCount, Share, Window};
use crate::sequence::{Missing, Order};
use crate::totals::Totals;

use super::Traffic;
use super::round::RoundCache;

/// The traffic of `storm` on one worker. The messages of round `n` have sequence number `n`.
pub(crate) struct Storm {
    share: Share,
    barrier: Arc<Barrier>,
    grace_ns: u64,
    drain_ns: u64,
    ledger: Ledger,
    round: u32,
    /// The slots of this worker whose connections take part.
    slots: Vec<usize>,
    /// The number of messages that each connection receives in a round.
    per_connection: usize,
    /// Whether messages return to their sender.
    echoes: bool,
    /// The checked messages of the current round.
    cache: RoundCache,
    /// The number of messages of the current round that this worker has received.
    received: usize,
    /// Whether this worker has sent the messages of its first round.
    begun: bool,
    /// Whether this worker has reported to the barrier that its round is complete.
    arrived: bool,
}

/// A barrier where the workers of a storm wait for each other at the end of a round.
#[derive(Default)]
pub(crate) struct Barrier {
    arrived: AtomicUsize,
    round: AtomicU32,
    /// The start of the current round, in nanoseconds.
    began_ns: AtomicU64,
    /// Whether the storm is over, so that no further round begins.
    over: AtomicBool,
    wakers: Mutex<Vec<Arc<Waker>>>,
}

impl Barrier {
    /// Adds a worker to the barrier. `waker` wakes this worker when a round begins.
    pub(crate) fn join(&self, waker: Arc<Waker>) {
        self.wakers.lock().expect("no worker panics while it joins").push(waker);
    }

    /// Reports that one worker's round is complete. The last of `workers` workers starts the next round, or ends the
    /// storm if the time `end_ns` has come.
    fn arrive(&self, workers: usize, end_ns: u64, ledger: &mut Ledger) {
        if self.arrived.fetch_add(1, Ordering::AcqRel) + 1 < workers {
            return;
        }
        let now = now_ns();
        let began = self.began_ns.swap(now, Ordering::AcqRel);
        if ledger.window.measures(began) && now < end_ns {
            ledger.rounds.record(now - began);
        }
        self.arrived.store(0, Ordering::Release);
        if now >= end_ns {
            self.over.store(true, Ordering::Release);
        }
        self.round.fetch_add(1, Ordering::AcqRel);
        if workers > 1 {
            for waker in &*self.wakers.lock().expect("no worker panics while it wakes") {
                // Errors are ignored: a worker that misses the wake-up checks the barrier within a tenth of a second.
                let _ = waker.wake();
            }
        }
    }
}

impl Storm {
    pub(crate) fn new(plan: &Plan, share: Share, barrier: Arc<Barrier>) -> Self {
        Self {
            share,
            barrier,
            grace_ns: plan.grace_ns,
            drain_ns: plan.drain_ns,
            ledger: Ledger::new(plan),
            round: 0,
            slots: Vec::new(),
            per_connection: 0,
            echoes: plan.pusher.is_none(),
            cache: RoundCache::new(share, plan.connections, plan.pusher.is_none()),
            received: 0,
            begun: false,
            arrived: false,
        }
    }

    fn send_round(&mut self, connections: &mut Connections, now: u64) {
        self.ledger.last_ns = now;
        for &slot in &self.slots {
            if connections.is_open(slot) {
                let sender = (self.share.first + slot) as u32;
                let message = MessageId { sender, sequence: self.round };
                self.ledger.send(connections, slot, message, now, now);
            }
        }
    }

    /// Reports a complete round to the barrier. Starts the next round when all workers have completed theirs.
    fn advance(&mut self, connections: &mut Connections) {
        if self.begun && !self.arrived && self.received == self.slots.len() * self.per_connection {
            self.arrived = true;
            self.barrier.arrive(self.share.workers, self.ledger.window.end_ns, &mut self.ledger);
        }
        if self.arrived && self.barrier.round.load(Ordering::Acquire) > self.round && !self.barrier_is_over()
        {
            self.round += 1;
            self.arrived = false;
            self.received = 0;
            self.cache.begin();
            self.send_round(connections, now_ns());
        }
    }

    fn barrier_is_over(&self) -> bool {
        self.barrier.over.load(Ordering::Acquire)
    }

    fn hear(&mut self, slot: usize, arrival: Arrival, payload: &[u8]) -> Order {
        if arrival.sequence != self.round {
            // All messages of earlier rounds have arrived, so a message with another round's number is a duplicate.
            return Order::Duplicate;
        }
        if !self.cache.note(slot, arrival, payload) {
            return Order::Duplicate;
        }
        self.received += 1;
        Order::Next
    }
}

impl Traffic for Storm {
    fn start(&mut self, connections: &mut Connections, window: Window, _now: u64) {
        self.ledger.window = window;
        self.per_connection = window.population - usize::from(!self.echoes);
        self.slots = (0..self.share.count).filter(|&slot| connections.is_open(slot)).collect();
        self.ledger.last_ns = window.start_ns;
    }

    fn next_due(&self) -> Option<u64> {
        (!self.begun).then_some(self.ledger.window.start_ns)
    }

    fn on_time(&mut self, connections: &mut Connections, now: u64) {
        if self.begun {
            self.advance(connections);
        } else if now >= self.ledger.window.start_ns {
            // Messages from workers that started earlier may already have arrived and been counted.
            self.begun = true;
            self.barrier.began_ns.store(self.ledger.window.start_ns, Ordering::Release);
            self.send_round(connections, now);
        }
    }

    fn recognise(&mut self, connections: &mut Connections, slot: usize, input: &[u8], now: u64) -> Repeated {
        let ledger = &mut self.ledger;
        let repeated = self.cache.recognise(slot, input, |due_ns, count| {
            ledger.received_again(due_ns, count, now);
        });
        if repeated.messages > 0 {
            self.received += repeated.messages;
            // Another connection received the same messages, so the server sends messages to more than their sender.
            self.ledger.counts.from_others += repeated.messages as u64;
            self.advance(connections);
        }
        repeated
    }

    fn on_message(&mut self, connections: &mut Connections, slot: usize, message: Payload<'_>, now: u64) {
        let Some(arrival) = self.ledger.read(message, now) else { return };
        if arrival.sequence > self.round {
            // Another worker may have started the message's round before this worker.
            self.advance(connections);
        }
        if arrival.sequence > self.round || arrival.sender as usize >= self.cache.senders() {
            return self.ledger.corrupt();
        }
        let own = (self.share.first + slot) as u32;
        if arrival.sender == own && !self.echoes {
            return self.ledger.corrupt();
        }
        self.ledger.counts.from_others += u64::from(arrival.sender != own);
        let order = self.hear(slot, arrival, message.bytes);
        self.ledger.received(arrival, order, now);
        self.advance(connections);
    }

    fn on_drained(&mut self, _connections: &mut Connections, _slot: usize, _now: u64) {}

    fn on_end(&mut self, _slot: usize, _end: &End) -> bool {
        true
    }

    fn is_over(&self, now: u64) -> bool {
        // A round that has begun may finish after the window, so that lost messages can be told from slow ones.
        let is_quiet = now > self.ledger.last_ns + self.grace_ns;
        self.barrier_is_over() || is_quiet || now > self.ledger.window.end_ns + self.drain_ns
    }

    fn stop(&mut self) -> Vec<SentCount> {
        self.barrier.over.store(true, Ordering::Release);
        self.ledger.is_cut = now_ns() <= self.ledger.last_ns + self.grace_ns;
        Vec::new()
    }

    fn is_complete(&self, _sent: &[u32]) -> bool {
        true
    }

    fn finish(&mut self, _sent: &[u32], _totals: &mut Totals) {
        let awaited = self.slots.len() * self.per_connection - self.received;
        self.ledger.count_missing(Missing { inside: 0, after: awaited as u64 });
    }

    fn ledger(&mut self) -> &mut Ledger {
        &mut self.ledger
    }
}
