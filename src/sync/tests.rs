//! Models of the meetings. A thread that is never woken is a deadlock, which loom reports.
//!
//! What the flags guard is read and written without any order of its own, so the flags alone must suffice.

use loom::sync::atomic::AtomicUsize;
use loom::sync::{Arc, Notify};
use loom::thread;

use super::*;

struct Sleeper {
    asleep: Asleep,
    mail: AtomicUsize,
    /// Counts like an eventfd: a wake-up before the wait ends it.
    event: Notify,
}

impl Sleeper {
    fn post(&self) {
        self.mail.fetch_add(1, Ordering::Relaxed);
        if self.asleep.take() {
            self.event.notify();
        }
    }

    /// One turn of the loop: sleeps only when there is nothing, and takes what there is.
    fn turn(&self) -> usize {
        self.asleep.raise();
        if self.mail.load(Ordering::Relaxed) == 0 {
            self.event.wait();
        }
        self.asleep.lower();
        self.mail.swap(0, Ordering::Relaxed)
    }
}

/// `preemptions` bounds the interleavings of more than two threads, which are too many to try them all.
fn nobody_sleeps_over_a_message(senders: usize, preemptions: Option<usize>) {
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
fn loom_one_sender_and_a_sleeper() {
    nobody_sleeps_over_a_message(1, None);
}

#[test]
fn loom_two_senders_and_a_sleeper() {
    nobody_sleeps_over_a_message(2, Some(3));
}

#[test]
fn loom_nobody_waits_for_room_that_there_is() {
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
        // The first try found the queue full.
        let (awaited, room, event) = &*queue;
        awaited.raise();
        while room.load(Ordering::Relaxed) == 0 {
            event.wait();
        }
        owner.join().expect("made room");
    });
}
