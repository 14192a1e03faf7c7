//! Loom models of the flags `Asleep` and `Awaited`, and of the queue `Entrance`. Loom reports a thread that is never
//! woken as a deadlock.
//!
//! The models access the guarded data with relaxed ordering, so that only the flags order these accesses.

use loom::sync::atomic::AtomicUsize;
use loom::sync::{Arc, Notify};
use loom::thread;

use super::*;

struct Sleeper {
    asleep: Asleep,
    mail: AtomicUsize,
    /// The model of the eventfd: a notification before the wait ends the wait.
    event: Notify,
}

impl Sleeper {
    fn post(&self) {
        self.mail.fetch_add(1, Ordering::Relaxed);
        if self.asleep.take() {
            self.event.notify();
        }
    }

    /// Runs one turn of the receiver's loop. The receiver sleeps only if no message waits. Returns the number of
    /// messages taken.
    fn turn(&self) -> usize {
        self.asleep.raise();
        if self.mail.load(Ordering::Relaxed) == 0 {
            self.event.wait();
        }
        self.asleep.lower();
        self.mail.swap(0, Ordering::Relaxed)
    }
}

/// Checks that no message is left while the receiver sleeps. `preemptions` limits the interleavings, because more than
/// two threads have too many to try all of them.
fn a_message_wakes_the_receiver(senders: usize, preemptions: Option<usize>) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = preemptions;
    model.check(move || {
        let mail = AtomicUsize::new(0);
        let sleeper = Arc::new(Sleeper { asleep: Asleep::new(), mail, event: Notify::new() });
        let start = |_| {
            let sleeper = Arc::clone(&sleeper);
            thread::spawn(move || sleeper.post())
        };
        let threads: Vec<_> = (0..senders).map(start).collect();
        let mut taken = 0;
        while taken < senders {
            taken += sleeper.turn();
        }
        assert_eq!(taken, senders);
        threads.into_iter().for_each(|thread| thread.join().expect("posted"));
    });
}

#[test]
fn loom_one_sender_wakes_the_receiver() {
    a_message_wakes_the_receiver(1, None);
}

#[test]
fn loom_two_senders_wake_the_receiver() {
    a_message_wakes_the_receiver(2, Some(3));
}

#[test]
fn loom_a_sender_hears_of_room_in_a_full_queue() {
    loom::model(|| {
        let queue = Arc::new((Awaited::new(), AtomicUsize::new(0), Notify::new()));
        let owner = {
            let queue = Arc::clone(&queue);
            thread::spawn(move || {
                let (awaited, room, event) = &*queue;
                room.store(1, Ordering::Relaxed);
                if awaited.take() {
                    event.notify();
                }
            })
        };
        // The sender's first attempt found the queue full.
        let (awaited, room, event) = &*queue;
        awaited.raise();
        while room.load(Ordering::Relaxed) == 0 {
            event.wait();
        }
        owner.join().expect("made room");
    });
}

/// A shard as other threads see it: the queue of its entrance, and its wake-up.
struct Shard {
    entrance: Entrance<(usize, usize)>,
    asleep: Asleep,
    event: Notify,
}

impl Shard {
    fn new(entries: usize) -> Self {
        let limits = Limits { entries, bytes: entries };
        Self { entrance: Entrance::new(limits), asleep: Asleep::new(), event: Notify::new() }
    }

    /// Sends an entry, and wakes the shard if it sleeps.
    fn send(&self, entry: (usize, usize)) -> Result<(), Rejection> {
        self.entrance.push(entry, 1).map_err(|(rejection, _)| rejection)?;
        if self.asleep.take() {
            self.event.notify();
        }
        Ok(())
    }

    /// Runs one turn of the shard's loop, which sleeps only if no entry waits. Takes at most `entries` entries.
    fn turn(&self, entries: usize, taken: &mut Vec<(usize, usize)>) {
        self.asleep.raise();
        if !self.entrance.has_entries() {
            self.event.wait();
        }
        self.asleep.lower();
        self.entrance.take(Limits { entries, bytes: usize::MAX }, taken);
        // A turn that took nothing, because a sender holds the lock, lets that sender run.
        thread::yield_now();
    }
}

/// Checks that all entries of `senders` threads arrive once, and in the order of each sender, although the shard sleeps
/// whenever nothing waits.
fn entries_arrive_once_and_in_order(senders: usize, each: usize, preemptions: Option<usize>) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = preemptions;
    model.check(move || {
        let shard = Arc::new(Shard::new(senders * each));
        let start = |sender| {
            let shard = Arc::clone(&shard);
            thread::spawn(move || {
                (0..each).for_each(|number| shard.send((sender, number)).expect("the queue has room"));
            })
        };
        let threads: Vec<_> = (0..senders).map(start).collect();
        let mut taken = Vec::new();
        while taken.len() < senders * each {
            shard.turn(1, &mut taken);
        }
        for sender in 0..senders {
            let numbers = taken.iter().filter(|(from, _)| *from == sender).map(|(_, number)| *number);
            assert!(numbers.eq(0..each), "{taken:?}");
        }
        threads.into_iter().for_each(|thread| thread.join().expect("sent"));
    });
}

#[test]
fn loom_entries_of_one_sender_arrive_once_and_in_order() {
    entries_arrive_once_and_in_order(1, 2, Some(3));
}

#[test]
fn loom_entries_of_two_senders_arrive_once_and_in_order() {
    entries_arrive_once_and_in_order(2, 1, Some(3));
}

#[test]
fn loom_an_accepted_entry_is_taken_or_returned_when_the_entrance_closes() {
    loom::model(|| {
        let shard = Arc::new(Shard::new(2));
        let sender = {
            let shard = Arc::clone(&shard);
            thread::spawn(move || (0..2).filter(|number| shard.send((0, *number)).is_ok()).count())
        };
        let mut taken = Vec::new();
        shard.entrance.take(Limits { entries: 1, bytes: 1 }, &mut taken);
        taken.extend(shard.entrance.close());
        let accepted = sender.join().expect("sent");
        assert!(taken.iter().map(|(_, number)| *number).eq(0..accepted), "{taken:?} of {accepted}");
        assert!(!shard.entrance.has_entries());
        assert_eq!(shard.send((0, 9)), Err(Rejection::Closed));
    });
}
