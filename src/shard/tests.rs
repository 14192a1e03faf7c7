//! Shards without sockets, turned by hand.

mod flow;
mod memory;
mod pauses;
mod sessions;

use std::collections::VecDeque;
use std::time::Duration;

use super::*;
use crate::app::Relay;
use crate::chunk::Span;
use crate::config;
use crate::hub::{HubOptions, Kind, Message};
use crate::io::{Buffer, Close, IoEvent, SendProgress, Usage};
use crate::protocol::CloseCode;

/// A test backend without sockets. It reports only the events that a test queues.
struct Quiet {
    now_ms: u64,
    waker: Waker,
    /// Bytes sent to the client of each slot.
    sent: Vec<Vec<u8>>,
    /// Sends in flight, for the next poll to complete.
    under_way: Vec<(Slot, Span)>,
    /// Whether clients read, so that sends to them complete.
    is_taken: bool,
    /// Time of the last progress of all sends in flight, in milliseconds.
    moved_ms: u64,
    /// Connections that were closed, for the next poll to report.
    closed: Vec<Slot>,
    /// Events to report, one list for each of the next polls.
    arrivals: VecDeque<Vec<IoEvent>>,
}

impl Backend for Quiet {
    fn poll(&mut self, _: Option<Duration>, events: &mut Vec<IoEvent>) -> std::io::Result<u64> {
        self.now_ms += 1;
        if self.is_taken {
            events.extend(self.under_way.drain(..).map(|(slot, _)| IoEvent::Sent { slot }));
        }
        events.extend(self.closed.drain(..).map(|slot| IoEvent::Closed { slot }));
        events.extend(self.arrivals.pop_front().into_iter().flatten());
        Ok(self.now_ns())
    }
    fn send(&mut self, slot: Slot, span: Span, _: More) {
        self.sent[slot as usize].extend_from_slice(span.bytes());
        self.under_way.push((slot, span));
    }
    fn send_progress(&self, slot: Slot) -> Option<SendProgress> {
        let (_, span) = self.under_way.iter().find(|(other, _)| *other == slot)?;
        Some(SendProgress { left: span.len(), moved_ns: self.moved_ms * 1_000_000 })
    }
    fn nudge(&mut self, _: Slot) {}
    fn pause(&mut self, _: Slot) {}
    fn resume(&mut self, _: Slot) {}
    fn shutdown(&mut self, _: Slot) {}
    fn close(&mut self, slot: Slot, _: Close) {
        self.under_way.retain(|(other, _)| *other != slot);
        self.closed.push(slot);
    }
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

/// Returns the `count` shards of a server. The shards keep a history, so that rooms without members accept messages.
fn shards(count: u16) -> Vec<Shard<Quiet>> {
    let shared = Arc::new(Shared::new(admission::ConnectionLimits {
        server: 100,
        per_address: 0,
        handshakes: 100,
        rate: 0,
    }));
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
            max_rooms: 1_000,
            occupancy: true,
            member_reports: false,
            session_ms: 10_000,
            ack_ms: 100,
            max_sessions: 100,
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
            ..Settings::new(&config::Options::default(), ShardId { index: shard, count }, &*app)
        };
        let backend = Quiet {
            now_ms: 0,
            waker,
            sent: vec![Vec::new(); 100],
            under_way: Vec::new(),
            is_taken: true,
            moved_ms: 0,
            closed: Vec::new(),
            arrivals: VecDeque::new(),
        };
        Shard::new(Parts {
            settings,
            transport: Transport::plain(backend),
            hub,
            app,
            mailbox,
            addresses: addresses.clone(),
            shared: Arc::clone(&shared),
            stats: Arc::default(),
        })
    };
    (0..count).zip(mailboxes).zip(wakers).map(make).collect()
}

/// Returns the name of a room whose home is `shard`.
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
        // Publishes more than the mailbox of the other shard takes, and more bytes than may wait before publishers are
        // paused.
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

/// Returns the events of a client that connects and asks for a WebSocket at `path`.
fn come(slot: Slot, path: &str) -> [IoEvent; 2] {
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    let buffer = Buffer::of(request.into());
    [IoEvent::Accepted { slot, listener: 0, peer: None }, IoEvent::Received { slot, buffer }]
}

#[test]
fn held_messages_of_a_paused_publisher_are_passed_on_without_further_input() {
    let mut shards = shards(3);
    let (own, other) = (room_of(&shards, 0), room_of(&shards, 1));
    shards[0].work(&mut Events::of(come(0, &format!("/room/{other}"))));
    shards[2].work(&mut Events::of(come(0, &format!("/room/{own}"))));
    settle(&mut shards);
    // Orders more than the mailbox of shard 2 takes, and more bytes than may wait before publishers are paused.
    for len in [1; 70].into_iter().chain([300_000]) {
        shards[0].hub.order(&own, None, Message::binary(&vec![b'x'; len]));
        shards[0].post();
    }
    assert!(shards[0].is_congested());
    for _ in 0..3 {
        // A message of one byte, masked with zeroes. The first message pauses the client, and later messages are held.
        let buffer = Buffer::of(b"\x82\x81\0\0\0\0x".as_slice().into());
        shards[0].work(&mut Events::of([IoEvent::Received { slot: 0, buffer }]));
    }
    assert_eq!((shards[0].flow.publishers(), shards[0].flow.held()), (1, 1));
    settle(&mut shards[..2]);
    // From now on only shard 2 has work, and it sends no mail.
    while shards[0].stuck.any {
        settle(&mut shards);
        shards[0].turn(&mut Events::default()).expect("nothing can fail");
    }
    settle(&mut shards);
    assert_eq!(shards[1].stats.ordered.get(), 3);
}

/// Runs turns of all shards until every shard would wait for events.
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

/// Returns a shard with 100 clients in the lobby. The clients get no pings.
fn with_clients() -> Shard<Quiet> {
    let mut shard = shards(1).remove(0);
    shard.settings.ping_ms = 1_000_000;
    shard.work(&mut Events::of((0..100).flat_map(|slot| come(slot, "/"))));
    (0..10).for_each(|_| shard.turn(&mut Events::default()).expect("nothing can fail"));
    assert!((0..100).all(|slot| shard.is_open(slot)));
    shard
}

/// Advances the clock by `ms` milliseconds without a turn. Then runs turns until all queued events are reported and
/// deadlines are judged.
fn pass(shard: &mut Shard<Quiet>, ms: u64) {
    shard.transport.backend_mut().now_ms += ms;
    loop {
        shard.turn(&mut Events::default()).expect("nothing can fail");
        if shard.clock.may_judge() && shard.transport.backend_mut().arrivals.is_empty() {
            return;
        }
    }
}

fn closed(shard: &Shard<Quiet>) -> usize {
    (0..100).filter(|slot| !shard.is_open(*slot)).count()
}

#[test]
fn a_drain_with_late_turns_tells_every_client() {
    let mut shard = with_clients();
    shard.settings.drain_ms = 1_000;
    shard.transport.backend_mut().is_taken = false;
    for text in [b"some", b"more"] {
        shard.hub.publish("lobby", Message::new(Kind::Text, text));
        (0..3).for_each(|_| shard.turn(&mut Events::default()).expect("nothing can fail"));
    }
    shard.shared.stopping.store(true, Ordering::SeqCst);
    pass(&mut shard, 0);
    // The drain steps are a little late, so later steps close more clients at once.
    for (wait_ms, told) in [(0, 5..=5), (10, 5..=5), (40, 10..=12), (100, 20..=23), (400, 60..=66)] {
        pass(&mut shard, wait_ms);
        assert!(!shard.is_over() && told.contains(&closed(&shard)), "{} of {told:?}", closed(&shard));
    }
    // A long pause does not count as time: the drain goes on where it was.
    pass(&mut shard, 60_000);
    assert!((60..=72).contains(&closed(&shard)), "{}", closed(&shard));
    while closed(&shard) < 100 {
        pass(&mut shard, 50);
        assert!(!shard.is_over());
    }
    shard.transport.backend_mut().is_taken = true;
    (0..10).for_each(|_| shard.turn(&mut Events::default()).expect("nothing can fail"));
    let mut pending = b"\x81\x04some\x81\x04more".to_vec();
    pending.extend(life::close_frame(CloseCode::GOING_AWAY, "the server is shutting down"));
    for sent in &shard.transport.backend_mut().sent {
        assert!(sent.ends_with(&pending), "{}", sent.escape_ascii());
    }
}
