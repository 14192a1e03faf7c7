//! Shards without sockets, turned by hand.

use std::time::Duration;

use super::*;
use crate::app::Relay;
use crate::chunk::Span;
use crate::config;
use crate::hub::{HubOptions, Kind, Message};
use crate::io::{Buffer, Close, IoEvent, Usage};

/// A backend to which nothing happens but time, and what a test says.
struct Quiet {
    now_ms: u64,
    waker: Waker,
    /// By slot.
    sent: Vec<Vec<u8>>,
    /// Sends that are complete when `is_taken` says that clients take what they are sent.
    under_way: Vec<Slot>,
    is_taken: bool,
}

impl Backend for Quiet {
    fn poll(&mut self, _: Option<Duration>, events: &mut Vec<IoEvent>) -> std::io::Result<u64> {
        self.now_ms += 1;
        if self.is_taken {
            events.extend(self.under_way.drain(..).map(|slot| IoEvent::Sent { slot }));
        }
        Ok(self.now_ns())
    }
    fn send(&mut self, slot: Slot, span: Span, _: More) {
        self.sent[slot as usize].extend_from_slice(span.bytes());
        self.under_way.push(slot);
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
    fn usage(&self) -> Usage {
        Usage::default()
    }
    fn waker(&self) -> Waker {
        self.waker.clone()
    }
}

/// All shards of a server. They keep a history, so that rooms without members take messages.
fn shards(count: u16) -> Vec<Shard<Quiet>> {
    let shared = Arc::new(Shared::new(admission::Limits { server: 100, per_address: 0, handshakes: 100 }));
    let wakers: Vec<Waker> = (0..count).map(|_| Waker::new().expect("a descriptor is left")).collect();
    let (addresses, mailboxes): (Vec<_>, Vec<_>) = wakers.iter().cloned().map(mailbox).unzip();
    let make = |((shard, mailbox), waker): ((u16, Mailbox), Waker)| {
        let hub = Hub::new(HubOptions {
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
            ..Settings::new(&config::Options::default(), (shard, count), &*app)
        };
        let backend =
            Quiet { now_ms: 0, waker, sent: vec![Vec::new(); 100], under_way: Vec::new(), is_taken: true };
        let own = (Transport::plain(backend), hub, app as Box<dyn App>);
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
            shard.hub.publish(room, Message::new(Kind::Binary, &payload));
            shard.post();
            published += 1;
        }
        assert!(shard.stuck.any && shard.is_congested());
    }
    let mut events = Events::default();
    for _ in 0..100 {
        for shard in &mut shards {
            shard.turn(&mut events).expect("nothing can fail");
        }
    }
    let ordered: u64 = shards.iter().map(|shard| shard.stats.ordered.get()).sum();
    assert_eq!(ordered, published);
    assert!(shards.iter().all(|shard| !shard.stuck.any && !shard.is_congested()));
}

/// What happens when a client comes and asks for a WebSocket at `path`.
fn come(slot: Slot, path: &str) -> [IoEvent; 2] {
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    let buffer = Buffer::of(request.into());
    [IoEvent::Accepted { slot, listener: 0, peer: None }, IoEvent::Received { slot, buffer }]
}

#[test]
fn what_a_waiting_publisher_has_said_is_passed_on_without_another_occasion() {
    let mut shards = shards(3);
    let (own, other) = (room_of(&shards, 0), room_of(&shards, 1));
    shards[0].work(&mut Events::of(come(0, &format!("/room/{other}"))));
    shards[2].work(&mut Events::of(come(0, &format!("/room/{own}"))));
    settle(&mut shards);
    // More than the mailbox of shard 2 takes, and then more than may be stuck before publishers wait.
    for len in [1; 70].into_iter().chain([300_000]) {
        shards[0].hub.order(&own, None, Message::binary(&vec![b'x'; len]));
        shards[0].post();
    }
    assert!(shards[0].is_congested());
    for _ in 0..3 {
        // A message of one byte, masked with zeroes. After the first the client waits, and the others are held.
        let buffer = Buffer::of(b"\x82\x81\0\0\0\0x".as_slice().into());
        shards[0].work(&mut Events::of([IoEvent::Received { slot: 0, buffer }]));
    }
    assert_eq!((shards[0].paused.len(), shards[0].held.len()), (1, 1));
    settle(&mut shards[..2]);
    // From then on nobody but shard 2, which sends no mail, has anything to do.
    while shards[0].stuck.any {
        settle(&mut shards);
        shards[0].turn(&mut Events::default()).expect("nothing can fail");
    }
    settle(&mut shards);
    assert_eq!(shards[1].stats.ordered.get(), 3);
}

/// Turns shards for as long as one of them would not wait.
fn settle(shards: &mut [Shard<Quiet>]) {
    let mut events = Events::default();
    loop {
        let mut is_settled = true;
        for shard in &mut *shards {
            if shard.timeout() == Some(Duration::ZERO) {
                shard.turn(&mut events).expect("nothing can fail");
                is_settled = false;
            }
        }
        if is_settled {
            return;
        }
    }
}

/// A shard with 100 clients in a room, who are not pinged.
fn crowd() -> Shard<Quiet> {
    let mut shard = shards(1).remove(0);
    shard.settings.ping_ms = 1_000_000;
    shard.work(&mut Events::of((0..100).flat_map(|slot| come(slot, "/"))));
    (0..10).for_each(|_| shard.turn(&mut Events::default()).expect("nothing can fail"));
    assert!((0..100).all(|slot| shard.is_open(slot)));
    shard
}

#[test]
fn an_end_that_is_late_tells_everybody_all_the_same() {
    let mut shard = crowd();
    shard.settings.drain_ms = 1_000;
    shard.backend.backend_mut().is_taken = false;
    for text in [b"some", b"more"] {
        shard.hub.publish("lobby", Message::new(Kind::Text, text));
        (0..3).for_each(|_| shard.turn(&mut Events::default()).expect("nothing can fail"));
    }
    shard.shared.stopping.store(true, Ordering::SeqCst);
    let mut told_after = |wait_ms| {
        shard.backend.backend_mut().now_ms += wait_ms;
        shard.turn(&mut Events::default()).expect("nothing can fail");
        assert!(!shard.is_over());
        (0..100).filter(|slot| !shard.is_open(*slot)).count()
    };
    assert_eq!([0, 10, 40, 100, 500].map(&mut told_after), [5, 5, 11, 21, 71]);
    // The whole time that it had, and the time for closing, have gone by.
    assert_eq!(told_after(10_000), 100);
    shard.backend.backend_mut().is_taken = true;
    (0..10).for_each(|_| shard.turn(&mut Events::default()).expect("nothing can fail"));
    let mut owed = b"\x81\x04some\x81\x04more".to_vec();
    owed.extend(events::close_frame(CloseCode::GOING_AWAY, "the server is shutting down"));
    for sent in &shard.backend.backend_mut().sent {
        assert!(sent.ends_with(&owed), "{}", sent.escape_ascii());
    }
}
