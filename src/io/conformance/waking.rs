//! Tests of waking a backend, and of its waits.

use std::io::Write;
use std::net::Shutdown;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use crate::io::Backend;
use crate::io::clock::NS_PER_MS;

use super::rig::{Make, Rig, pattern};
use super::sending::LARGE;

pub(super) fn ends_an_endless_wait<B: Backend>(make: Make<B>) {
    let mut rig = Rig::new(make);
    let waker = rig.backend.waker();
    let (message, mailbox) = mpsc::channel();
    let other = thread::spawn(move || {
        message.send("work").expect("the mailbox is open");
        waker.wake();
    });
    // Acts as a shard: announces the wait, checks for work once more, and waits. Only the wake-up can end the wait.
    let waker = rig.backend.waker();
    loop {
        waker.prepare();
        if let Ok(work) = mailbox.try_recv() {
            assert_eq!(work, "work");
            break;
        }
        rig.poll(None);
    }
    other.join().expect("woke");
    assert!(rig.events.is_empty());
}

pub(super) fn between_prepare_and_poll<B: Backend>(make: Make<B>) {
    let mut rig = Rig::new(make);
    for _ in 0..3 {
        let waker = rig.backend.waker();
        waker.prepare();
        thread::spawn(move || waker.wake()).join().expect("woke");
        // The wake-up came before this wait, and still ends it.
        rig.poll(None);
    }
    rig.rests();
}

pub(super) fn rests_when_idle<B: Backend>(make: Make<B>) {
    let mut rig = Rig::new(make);
    rig.rests();
    let (mut client, slot) = rig.connect();
    rig.nothing_more();
    rig.rests();
    // Neither input of a paused connection nor a stuck send is work for the backend.
    rig.backend.pause(slot);
    rig.turn();
    client.write_all(b"later").expect("written");
    client.shutdown(Shutdown::Write).expect("connected");
    rig.send(slot, &pattern(LARGE));
    rig.rests();
}

pub(super) fn costs_nothing_when_awake<B: Backend>(make: Make<B>) {
    let mut rig = Rig::new(make);
    // Takes events that the start may have left, such as the readiness of the first registration.
    rig.turn();
    let waker = rig.backend.waker();
    waker.prepare();
    rig.turn();
    // The poll has withdrawn the announcement of its wait. So `wake` writes nothing that could end the next wait early.
    waker.wake();
    let before = rig.backend.now_ns();
    rig.poll(Some(Duration::from_millis(20)));
    assert!(rig.backend.now_ns() >= before + 20 * NS_PER_MS, "the wait ended early");
}

pub(super) fn time_passes_without_events<B: Backend>(make: Make<B>) {
    let mut rig = Rig::new(make);
    let (_client, _) = rig.connect();
    rig.nothing_more();
    let before = rig.backend.now_ns();
    rig.poll(Some(Duration::from_millis(30)));
    assert!(rig.backend.now_ns() >= before + 30 * NS_PER_MS, "the wait ended early");
    assert!(rig.events.is_empty());
}

pub(super) fn many_times<B: Backend>(make: Make<B>) {
    const MESSAGES: u32 = 20_000;
    let mut rig = Rig::new(make);
    let waker = rig.backend.waker();
    let (message, mailbox) = mpsc::channel();
    let other = thread::spawn(move || {
        for number in 0..MESSAGES {
            message.send(number).expect("the mailbox is open");
            waker.wake();
        }
    });
    let waker = rig.backend.waker();
    let mut expected = 0;
    while expected < MESSAGES {
        waker.prepare();
        if mailbox.try_recv().map(|number| assert_eq!(number, expected)).is_ok() {
            expected += 1;
            waker.cancel();
            continue;
        }
        // After a lost wake-up, this poll would wait forever.
        rig.poll(None);
    }
    other.join().expect("all sent");
}
