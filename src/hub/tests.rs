//! Tests of a hub alone and of several hubs that exchange messages.

mod compression;
mod history;
mod kept;
mod lagging;
mod many;
mod members;
mod memory;
mod model;
mod options;
mod passes;
mod rules;
mod sessions;
mod shared;

use std::collections::{HashMap, VecDeque};

use flate2::{Decompress, FlushDecompress};

use super::*;

/// Returns hub options under which no client lags. A test changes only the options under test.
fn options(shard: u16, shards: u16) -> HubOptions {
    HubOptions {
        shard,
        shards,
        lag_window: 1 << 20,
        history: 5,
        history_bytes: 1_000,
        history_ms: 60_000,
        compression_threshold: 100,
        max_rooms: 1_000,
        occupancy: true,
        member_reports: false,
        session_ms: 10_000,
        ack_ms: 100,
        max_sessions: 100,
        history_memory: 0,
    }
}

/// Returns the name of the `n`-th room whose home shard is `home`.
fn room_at(home: u16, shards: u16, n: usize) -> String {
    let mut names = (0..).map(|n| format!("room {n}")).filter(|name| home_of(name, shards) == home);
    names.nth(n).expect("there is always one more")
}

fn text<'a>(parts: &'a [&'a [u8]]) -> Message<'a> {
    Message::from_parts(Kind::Text, parts)
}

/// Reader of one client's frames, which inflates compressed frames.
#[derive(Debug)]
struct FrameReader {
    engine: Decompress,
    /// Whether a compressed message may refer to earlier messages (context takeover).
    takeover: bool,
    /// Payloads of the pings that were read.
    pings: Vec<Vec<u8>>,
}

impl FrameReader {
    fn new(window_bits: u8, takeover: bool) -> Self {
        Self { engine: Decompress::new_with_window_bits(false, window_bits), takeover, pings: Vec::new() }
    }

    /// Returns the payloads of the frames in `bytes`. Panics when a frame is cut off.
    fn payloads(&mut self, mut bytes: &[u8]) -> Vec<Vec<u8>> {
        let mut all = Vec::new();
        while !bytes.is_empty() {
            let (header, len) = match bytes[1] {
                126 => (4, usize::from(u16::from_be_bytes([bytes[2], bytes[3]]))),
                127 => (10, u64::from_be_bytes(bytes[2..10].try_into().expect("eight bytes")) as usize),
                short => (2, usize::from(short)),
            };
            let payload = &bytes[header..header + len];
            match bytes[0] {
                0x81 | 0x82 | 0x88 => all.push(payload.to_vec()),
                0x89 => self.pings.push(payload.to_vec()),
                0xc1 | 0xc2 => all.push(self.inflate(payload)),
                first => panic!("a frame begins with {first:#x}"),
            }
            bytes = &bytes[header + len..];
        }
        all
    }

    fn inflate(&mut self, payload: &[u8]) -> Vec<u8> {
        if !self.takeover {
            self.engine.reset(false);
        }
        let input = [payload, &[0x00, 0x00, 0xff, 0xff]].concat();
        let mut out = Vec::with_capacity(1 << 18);
        self.engine.decompress_vec(&input, &mut out, FlushDecompress::Sync).expect("DEFLATE");
        out
    }
}

fn payloads(bytes: &[u8]) -> Vec<Vec<u8>> {
    FrameReader::new(15, false).payloads(bytes)
}

/// Handles a request as a shard does. `history` is the application's answer for the room.
fn take_request(
    hub: &mut Hub,
    from: u16,
    request: &Request,
    room: &str,
    payload: &[u8],
    history: Option<History>,
) {
    match request {
        Request::Subscribe { subscriber, .. } => {
            if !hub.has_room(room) {
                hub.set_history(room, history);
            }
            hub.subscribe(from, room, *subscriber);
        }
        Request::Unsubscribe { .. } => hub.unsubscribe(from, room),
        Request::Retain { begins, .. } => hub.retain(room, *begins),
        Request::Range { subscriber, client, position, .. } => {
            hub.answer_range(from, room, *subscriber, *client, *position);
        }
        Request::Publish { room: key, kind, origin, .. } => {
            if !hub.has_room(room) && hub.keeps_history(history) {
                hub.set_history(room, history);
            }
            hub.order_except(room, *key, Message::new(*kind, payload), origin.except);
        }
        other => panic!("no test sends {other:?}"),
    }
}

fn take_delivery(hub: &mut Hub, delivery: &Delivery, frames: &[u8]) {
    match delivery {
        Delivery::Snapshot(snapshot) => hub.snapshot(snapshot, frames),
        Delivery::Frame { room, number, except, .. } => hub.deliver(*room, *number, frames, *except),
        other => panic!("no test sends {other:?}"),
    }
}

/// Sets the histories of the rooms that a join has created, as a shard does.
fn settle_new_rooms(hub: &mut Hub, history_of: impl Fn(&str) -> Option<History>) {
    while let Some(room) = hub.poll_new_room() {
        hub.set_history(&room, history_of(&room));
    }
}

/// Several hubs with clients. Messages between hubs arrive when the test says so. Clients read at once unless the test
/// holds them.
struct Mesh {
    hubs: Vec<Hub>,
    /// The payloads that each client received, by shard and slot.
    received: HashMap<(u16, Slot), Vec<Vec<u8>>>,
    /// Held clients, which do not read, with their sends in flight.
    held: HashMap<(u16, Slot), Option<Span>>,
    lagged: Vec<(u16, Lagged)>,
    /// The payloads of the pings that each client received, by shard and slot.
    pings: HashMap<(u16, Slot), Vec<Vec<u8>>>,
    /// Replies about sessions that a test has not looked at.
    replies: Vec<SessionReply>,
    /// Number of missed messages in each report about a client that continues in a room.
    resumed: Vec<Option<u64>>,
    /// Histories of rooms that have limits of their own, by room.
    histories: HashMap<String, History>,
}

impl Mesh {
    fn new(shards: u16, change: impl Fn(&mut HubOptions)) -> Self {
        let hub = |shard| {
            let mut options = options(shard, shards);
            change(&mut options);
            Hub::new(options)
        };
        Self {
            hubs: (0..shards).map(hub).collect(),
            received: HashMap::new(),
            held: HashMap::new(),
            lagged: Vec::new(),
            pings: HashMap::new(),
            replies: Vec::new(),
            resumed: Vec::new(),
            histories: HashMap::new(),
        }
    }

    fn open(&mut self, shard: u16, slot: Slot) -> ClientId {
        self.hubs[shard as usize].open(slot)
    }

    fn join(&mut self, shard: u16, slot: Slot, room: &str, history: u32) {
        let hub = &mut self.hubs[shard as usize];
        hub.join(slot, room, history);
        settle_new_rooms(hub, |room| self.histories.get(room).copied());
        while let Some(resumed) = hub.poll_resumed() {
            self.resumed.push(resumed.missed);
            hub.begin_resumed(&resumed, None);
        }
    }

    fn publish(&mut self, shard: u16, room: &str, payload: &str) {
        self.hubs[shard as usize].publish(room, text(&[payload.as_bytes()]));
    }

    fn send(&mut self, shard: u16, slot: Slot, payload: &str) {
        self.hubs[shard as usize].send(slot, text(&[payload.as_bytes()]));
    }

    /// Delivers the requests of shard `from` to their destination hubs.
    fn bring_requests(&mut self, from: u16) {
        for to in 0..self.hubs.len() {
            let mut batch = std::mem::take(&mut self.hubs[from as usize].outgoing(to as u16).requests);
            batch.drain(|request, room, payload| {
                let history = self.histories.get(room).copied();
                match request {
                    Request::Session(request) => self.hubs[to].take_session_request(*request),
                    other => take_request(&mut self.hubs[to], from, &other, room, payload, history),
                }
            });
        }
    }

    /// Passes the deliveries of shard `from` to their destination hubs.
    fn bring_deliveries(&mut self, from: u16) {
        for to in 0..self.hubs.len() {
            let mut batch = std::mem::take(&mut self.hubs[from as usize].outgoing(to as u16).deliveries);
            batch.drain(|delivery, _, frames| match delivery {
                Delivery::Session(reply) => self.replies.push(*reply),
                Delivery::Range(part) => {
                    if let Some(resumed) = self.hubs[to].take_range(&part) {
                        self.resumed.push(resumed.missed);
                        self.hubs[to].begin_resumed(&resumed, Some((frames, part.frame_lens.len() as u64)));
                    }
                }
                other => take_delivery(&mut self.hubs[to], &other, frames),
            });
        }
    }

    fn bring_mail(&mut self) {
        let has_mail = |hub: &mut Hub, to| !hub.outgoing(to).is_empty();
        let shards = self.hubs.len() as u16;
        while self.hubs.iter_mut().any(|hub| (0..shards).any(|to| has_mail(hub, to))) {
            (0..shards).for_each(|from| self.bring_requests(from));
            (0..shards).for_each(|from| self.bring_deliveries(from));
        }
    }

    /// Completes sends until only held clients have a send in flight.
    fn send_all(&mut self) {
        for shard in 0..self.hubs.len() as u16 {
            let hub = &mut self.hubs[shard as usize];
            while let Some(Outbound { slot, span, .. }) = hub.poll_send(&mut usize::MAX.clone()) {
                match self.held.get_mut(&(shard, slot)) {
                    Some(in_flight) => {
                        assert!(in_flight.replace(span).is_none(), "one send at a time");
                    }
                    None => {
                        let mut reader = FrameReader::new(15, false);
                        self.received.entry((shard, slot)).or_default().extend(reader.payloads(span.bytes()));
                        self.pings.entry((shard, slot)).or_default().extend(reader.pings);
                        drop(span);
                        hub.sent(slot);
                    }
                }
            }
            self.lagged.extend(std::iter::from_fn(|| hub.poll_lagged()).map(|lagged| (shard, lagged)));
        }
    }

    fn settle(&mut self) {
        self.bring_mail();
        self.send_all();
    }

    /// Holds a client: it stops reading, and its next send stays in flight.
    fn hold(&mut self, shard: u16, slot: Slot) {
        self.held.insert((shard, slot), None);
    }

    /// Lets a held client read again.
    fn let_go(&mut self, shard: u16, slot: Slot) {
        if let Some(span) = self.held.remove(&(shard, slot)).expect("was held") {
            self.received.entry((shard, slot)).or_default().extend(payloads(span.bytes()));
            drop(span);
            self.hubs[shard as usize].sent(slot);
        }
        self.send_all();
    }

    /// Returns the messages that the client received since the last call.
    fn take(&mut self, shard: u16, slot: Slot) -> Vec<String> {
        let payloads = self.received.remove(&(shard, slot)).unwrap_or_default();
        payloads.into_iter().map(|payload| String::from_utf8(payload).expect("text")).collect()
    }
}

/// Random generator with a seed (SplitMix64).
#[derive(Debug)]
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }
}
