//! Everybody says one thing, everybody hears everything, and then again: the quadratic test.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use mio::Waker;

use crate::clock::now_ns;
use crate::connections::{Connections, Payload, Repeated};
use crate::end::End;
use crate::ledger::{Arrival, Ledger};
use crate::plan::{Plan, Share, Window};
use crate::sequence::{Missing, Order};
use crate::totals::Totals;

use super::Traffic;
use super::round::RoundCache;

/// One worker's part of the storm. The messages of round `n` have the number `n`.
pub(crate) struct Storm {
    share: Share,
    barrier: Arc<Barrier>,
    grace_ns: u64,
    drain_ns: u64,
    ledger: Ledger,
    round: u32,
    /// The connections that take part, in this worker and in all.
    slots: Vec<usize>,
    population: usize,
    /// What was heard in this round.
    cache: RoundCache,
    /// Messages of this round that this worker has received.
    received: usize,
    /// This worker has sent its first round.
    begun: bool,
    /// This worker has said that its round is complete.
    arrived: bool,
}

/// Where the workers wait for each other at the end of a round.
#[derive(Default)]
pub(crate) struct Barrier {
    arrived: AtomicUsize,
    round: AtomicU32,
    /// When the round began, in nanoseconds.
    began_ns: AtomicU64,
    /// No further round begins.
    over: AtomicBool,
    wakers: Mutex<Vec<Arc<Waker>>>,
}

impl Barrier {
    /// Adds a worker, which `waker` wakes when a round begins.
    pub(crate) fn join(&self, waker: Arc<Waker>) {
        self.wakers.lock().expect("no worker panics while it joins").push(waker);
    }

    /// One worker's round is complete; the last of `workers` begins the next.
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
                // A worker that cannot be woken looks by itself in a tenth of a second.
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
            population: 0,
            cache: RoundCache::new(share.count, plan.connections),
            received: 0,
            begun: false,
            arrived: false,
        }
    }

    fn send_round(&mut self, connections: &mut Connections, now: u64) {
        self.ledger.last_ns = now;
        for &slot in &self.slots {
            if connections.is_open(slot) {
                let message = ((self.share.first + slot) as u32, self.round);
                self.ledger.send(connections, slot, message, now, now);
            }
        }
    }

    /// Tells the others when the round is complete here, and begins the next when it is complete everywhere.
    fn advance(&mut self, connections: &mut Connections) {
        if self.begun && !self.arrived && self.received == self.slots.len() * self.population {
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
            // All of an earlier round has come, so this comes a second time.
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
        self.population = window.population;
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
            // What faster workers have sent before is heard already.
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
            self.advance(connections);
        }
        repeated
    }

    fn on_message(&mut self, connections: &mut Connections, slot: usize, message: Payload<'_>, now: u64) {
        let Some(arrival) = self.ledger.read(message, now) else { return };
        if arrival.sequence > self.round {
            // Another worker was faster to begin the round.
            self.advance(connections);
        }
        if arrival.sequence > self.round || arrival.sender as usize >= self.cache.senders() {
            return self.ledger.corrupt();
        }
        let order = self.hear(slot, arrival, message.bytes);
        self.ledger.received(arrival, order, now);
        self.advance(connections);
    }

    fn on_drained(&mut self, _connections: &mut Connections, _slot: usize, _now: u64) {}

    fn on_end(&mut self, _slot: usize, _end: &End) -> bool {
        true
    }

    fn is_over(&self, now: u64) -> bool {
        // A round that has begun is finished after the window, so that what is lost can be told from what is slow.
        let is_quiet = now > self.ledger.last_ns + self.grace_ns;
        self.barrier_is_over() || is_quiet || now > self.ledger.window.end_ns + self.drain_ns
    }

    fn stop(&mut self) -> Vec<(u32, u32)> {
        self.barrier.over.store(true, Ordering::Release);
        self.ledger.is_cut = now_ns() <= self.ledger.last_ns + self.grace_ns;
        Vec::new()
    }

    fn is_complete(&self, _sent: &[u32]) -> bool {
        true
    }

    fn finish(&mut self, _sent: &[u32], _totals: &mut Totals) {
        let awaited = self.slots.len() * self.population - self.received;
        self.ledger.count_missing(Missing { inside: 0, after: awaited as u64 });
    }

    fn ledger(&mut self) -> &mut Ledger {
        &mut self.ledger
    }
}
