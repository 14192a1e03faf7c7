//! Loom models of the flags `Asleep` and `Awaited`. Loom reports a thread that is never woken as a deadlock.
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
