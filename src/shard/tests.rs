//! Shards without sockets, turned by hand.

use std::time::Duration;

use super::*;
use crate::app::Relay;
use crate::config::Config;
use crate::hub::{Kind, Message, Options};
use crate::io::{Buffer, Close, Usage};

/// A backend to which nothing happens but time.
struct Quiet {
    now_ms: u64,
    waker: Waker,
}

impl Backend for Quiet {
    fn poll(&mut self, _: Option<Duration>, _: &mut Vec<Event>) -> std::io::Result<()> {
        self.now_ms += 1;
        Ok(())
    }
    fn send(&mut self, slot: Slot, _: crate::chunk::Span) {
        panic!("nobody is at slot {slot}");
    }
    fn pause(&mut self, _: Slot) {}
    fn resume(&mut self, _: Slot) {}
    fn shutdown(&mut self, _: Slot) {}
    fn close(&mut self, _: Slot, _: Close) {}
    fn recycle(&mut self, _: Buffer) {}
    fn stop_accepting(&mut self) {}
    fn has_stopped(&self) -> bool {
        true
    }
    fn now_ns(&self) -> u64 {
        self.now_ms * 1_000_000
    }
    fn clock_ns(&self) -> u64 {
        self.now_ns()
    }
    fn usage(&self) -> Usage {
        Usage::default()
    }
    fn waker(&self) -> Waker {
        self.waker.clone()
    }
}

/// All shards of a server. They keep a history, so that rooms without members take messages.
fn shards(count: u16) -> Vec<Shard<Quiet>> {
    let shared = Arc::new(Shared::new(admission::Limits { server: 10, per_address: 0, handshakes: 10 }));
    let wakers: Vec<Waker> = (0..count).map(|_| Waker::new().expect("a descriptor is left")).collect();
    let (addresses, mailboxes): (Vec<_>, Vec<_>) = wakers.iter().cloned().map(mailbox).unzip();
    let make = |((shard, mailbox), waker): ((u16, Mailbox), Waker)| {
        let hub = Hub::new(Options {
            shard,
            shards: count,
            lag_window: 1 << 20,
            history: 10,
            history_bytes: 1 << 10,
            history_ms: 1_000_000,
            compression_threshold: 128,
            history_memory: 0,
        });
        let app = Box::<Relay>::default();
        let settings = Settings {
            context_memory: 1 << 20,
            handshake_ms: 1_000,
            ping_ms: 1_000,
            pong_ms: 1_000,
            close_ms: 1_000,
            drain_ms: 0,
            ..Settings::new(&Config::default(), (shard, count), &*app)
        };
        let own = (Quiet { now_ms: 0, waker }, hub, app as Box<dyn App>);
        Shard::new(settings, own, (mailbox, addresses.clone()), (Arc::clone(&shared), Arc::default()))
    };
    (0..count).zip(mailboxes).zip(wakers).map(make).collect()
}

/// A room whose messages `shard` puts in order.
fn room_of(shards: &[Shard<Quiet>], shard: u16) -> String {
    let mut names = (0..).map(|number| format!("room-{number}"));
    names.find(|name| shards[0].hub.home_of(name) == shard).expect("every shard is the home of some")
}

#[test]
fn two_shards_with_full_mailboxes_do_not_wait_for_each_other() {
    let mut shards = shards(2);
    let rooms = [room_of(&shards, 1), room_of(&shards, 0)];
    let payload = vec![b'x'; 10_000];
    let mut published = 0;
    for (shard, room) in shards.iter_mut().zip(&rooms) {
        // More than the mailbox of the other takes, and then more than may be stuck before publishers wait.
        for _ in 0..150 {
            shard.hub.publish(room, Message { kind: Kind::Binary, parts: &[&payload] });
            shard.post();
            published += 1;
        }
        assert!(shard.stuck.any && shard.is_congested());
    }
    let mut events = Vec::new();
    for _ in 0..100 {
        for shard in &mut shards {
            shard.turn(&mut events).expect("nothing can fail");
        }
    }
    let ordered: u64 = shards.iter().map(|shard| shard.stats.ordered.get()).sum();
    assert_eq!(ordered, published);
    assert!(shards.iter().all(|shard| !shard.stuck.any && !shard.is_congested()));
}
