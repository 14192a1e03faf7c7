//! A model test: random commands on up to four shards, compared with the messages that each client must receive.
//!
//! Batches of requests from one shard to another keep their order, and so do batches of deliveries. Nothing else is
//! ordered, and sends take any time. One seed drives a run. A failing seed is printed, and UPROAR_MODEL_SEED runs that
//! seed again.

mod expected;

use std::time::Duration;

use expected::{Client, Orders};

use super::*;

const ROOMS: usize = 6;
const SLOTS: usize = 6;
const STEPS: usize = 400;

/// Batches in transit from one shard to another: a queue of requests and a queue of deliveries.
#[derive(Debug, Default)]
struct Lane {
    requests: VecDeque<Batch<Request>>,
    deliveries: VecDeque<Batch<Delivery>>,
}

/// A send in flight: the span, and a copy of its bytes from the time when the hub handed it out.
#[derive(Debug)]
struct InFlight {
    span: Span,
    bytes: Vec<u8>,
}

#[derive(Debug)]
struct World {
    random: Random,
    options: HubOptions,
    /// Limits of each room's history. `None` means those of the options.
    histories: Vec<Option<History>>,
    /// Whether the lag policy is `skip`: a client that lagged continues instead of being closed.
    skip: bool,
    hubs: Vec<Hub>,
    lanes: Vec<Vec<Lane>>,
    orders: Orders,
    clients: HashMap<(u16, Slot), Client>,
    in_flight: HashMap<(u16, Slot), InFlight>,
    now_ms: u64,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut random = Random(seed);
        let shards = 1 + random.below(4) as u16;
        // The configuration limits history to half of the lag window.
        let lag_window = [1 << 30, 1 << 30, 200_000, 20_000, 4_000][random.below(5)];
        let mut options = options(0, shards);
        options.lag_window = lag_window;
        options.history = [0, 1, 7, 50][random.below(4)];
        options.history_bytes = [0, 300, 2_000][random.below(3)].min(lag_window / 2);
        options.history_ms = [0, 100, 1 << 40][random.below(3)];
        let history = |random: &mut Random| {
            let (messages, kept_ms) = ([0, 2, 20][random.below(3)], [0, 100, 1 << 40][random.below(3)]);
            History { messages, kept_for: Duration::from_millis(kept_ms) }
        };
        let histories = (0..ROOMS).map(|_| random.chance(40).then(|| history(&mut random))).collect();
        let lanes = (0..shards).map(|_| (0..shards).map(|_| Lane::default()).collect()).collect();
        Self {
            skip: random.chance(70),
            hubs: (0..shards).map(|shard| Hub::new(HubOptions { shard, ..options.clone() })).collect(),
            lanes,
            orders: Orders::new(ROOMS, shards),
            clients: HashMap::new(),
            in_flight: HashMap::new(),
            now_ms: 0,
            options,
            histories,
            random,
        }
    }

    fn room(&self, room: usize) -> String {
        format!("room {room}")
    }

    fn run(&mut self) {
        let patience = 1 + self.random.below(30);
        for _ in 0..STEPS {
            let shard = self.random.below(self.hubs.len()) as u16;
            let slot = self.random.below(SLOTS) as Slot;
            match self.random.below(100) {
                0..50 => self.command(shard, slot),
                50..65 => self.post(shard),
                65..75 => self.bring(shard, false),
                75..85 => self.bring(shard, true),
                85..93 => {
                    let most = [3, 10, 300][self.random.below(3)];
                    let budget = 1 + self.random.below(most);
                    self.poll(shard, budget);
                }
                93..95 => self.tick(),
                _ => {
                    for _ in 0..patience {
                        let slot = self.random.below(SLOTS) as Slot;
                        self.complete(shard, slot);
                    }
                }
            }
        }
        self.come_to_rest();
        self.check_current();
        self.close_everybody();
        self.check_leftovers();
    }

    fn command(&mut self, shard: u16, slot: Slot) {
        let Some(client) = self.clients.get(&(shard, slot)) else {
            let hub = &mut self.hubs[shard as usize];
            let id = hub.open(slot);
            let (window_bits, takeover) = (9 + self.random.below(7) as u8, self.random.chance(50));
            let reader = match self.random.below(3) {
                0 => FrameReader::new(15, false),
                1 => {
                    hub.compress(slot);
                    FrameReader::new(15, false)
                }
                _ => {
                    hub.compress_dedicated(slot, window_bits, takeover);
                    FrameReader::new(window_bits, takeover)
                }
            };
            self.clients.insert((shard, slot), Client::new(id, reader));
            return;
        };
        if client.is_finished() {
            if self.random.chance(20) {
                self.close(shard, slot);
            }
            return;
        }
        let room = self.random.below(ROOMS);
        match self.random.below(100) {
            0..26 => self.join(shard, slot, room),
            26..30 => self.start(shard, slot, room),
            30..80 => self.publish(shard, slot, room),
            80..88 => self.leave(shard, slot, room),
            88..96 => self.send(shard, slot),
            96..98 => {
                let send_pending = self.random.chance(50);
                self.finish(shard, slot, send_pending);
            }
            _ => self.close(shard, slot),
        }
    }

    fn join(&mut self, shard: u16, slot: Slot, room: usize) {
        let name = self.room(room);
        let hub = &mut self.hubs[shard as usize];
        let wanted = [0, 1, 3, 100][self.random.below(4)];
        let is_new = hub.rooms.find(&name).is_none();
        let is_held = self.random.chance(20);
        match is_held {
            true => hub.join_held(slot, &name),
            false => hub.join(slot, &name, wanted),
        };
        settle_new_rooms(hub, |name| self.histories[number_of(name)]);
        let is_live = hub.rooms[hub.rooms.find(&name).expect("joined")].live;
        if is_new && hub.home_of(&name) == shard {
            self.orders.begin(room, shard);
        }
        let (messages, bytes) = self.history(room);
        let client = self.clients.get_mut(&(shard, slot)).expect("open");
        if !client.is_member(room) {
            client.join(room, wanted, is_held);
            if is_live && !is_held {
                client.start(&self.orders, room, shard, messages, bytes);
            }
        }
    }

    /// Lets a held client get messages.
    fn start(&mut self, shard: u16, slot: Slot, room: usize) {
        let name = self.room(room);
        let hub = &mut self.hubs[shard as usize];
        let is_live = hub.rooms.find(&name).is_some_and(|id| hub.rooms[id].live);
        let client = self.clients.get_mut(&(shard, slot)).expect("open");
        assert_eq!(hub.start(slot, &name), is_live && client.is_member(room));
        if is_live && client.is_held(room) {
            client.release(room, self.orders.known(room, shard));
        }
    }

    /// Returns the limits of a room's history: the number of messages and their size in bytes.
    fn history(&self, room: usize) -> (u32, usize) {
        let messages = self.histories[room].map_or(self.options.history, |history| history.messages);
        (messages, self.options.history_bytes)
    }

    fn leave(&mut self, shard: u16, slot: Slot, room: usize) {
        let client = self.clients.get_mut(&(shard, slot)).expect("open");
        let unread =
            self.hubs[shard as usize].outbox_len(slot) + client.pending_bytes(room, shard, &self.orders);
        // A client that lags while it leaves would not get the message sent below.
        if !client.is_member(room) || unread + 100 > self.options.lag_window {
            return;
        }
        client.leave(room, self.orders.known(room, shard));
        let name = self.room(room);
        self.hubs[shard as usize].leave(slot, &name);
        // The marker ends the membership: room messages after it belong to another membership.
        self.hubs[shard as usize].send(slot, text(&[b"left ", room.to_string().as_bytes()]));
    }

    fn publish(&mut self, shard: u16, slot: Slot, room: usize) {
        let padding = match self.random.below(100) {
            0 => 70_000 + self.random.below(70_000),
            1..5 => self.random.below(20_000),
            _ => self.random.below(200),
        };
        let payload = format!("{} {}", self.orders.new_id(), "x".repeat(padding));
        let everywhere = self.random.chance(30);
        let mut except = None;
        if self.random.chance(30) {
            let (other, slot) = (self.random.below(self.hubs.len()) as u16, self.random.below(SLOTS) as Slot);
            except = self.clients.get(&(other, slot)).and_then(|client| ClientNumber::of(client.id));
        }
        let (name, hub) = (self.room(room), &mut self.hubs[shard as usize]);
        // Calls `publish_from` only for clients in one room, because the model cannot tell copies of a message in two
        // rooms apart.
        match everywhere && hub.rooms_of(slot).count() == 1 {
            true => hub.publish_from(slot, text(&[payload.as_bytes()])),
            false => {
                let parts = [&payload.as_bytes()[..1], &payload.as_bytes()[1..]];
                hub.publish_as(&name, text(&parts), Origin { sender: None, except });
            }
        }
    }

    fn send(&mut self, shard: u16, slot: Slot) {
        let hub = &mut self.hubs[shard as usize];
        // The model keeps outboxes below the lag window. Another test covers outboxes that lag.
        if hub.outbox_len(slot) + 100 < self.options.lag_window {
            let client = self.clients.get_mut(&(shard, slot)).expect("open");
            hub.send(slot, text(&[b"own ", client.next_own().to_string().as_bytes()]));
        }
    }

    fn finish(&mut self, shard: u16, slot: Slot, send_pending: bool) {
        let client = self.clients.get_mut(&(shard, slot)).expect("open");
        let hub = &mut self.hubs[shard as usize];
        hub.finish(slot, send_pending, b"\x88\x04last");
        let send_pending = send_pending && !hub.has_unreported_lag(slot);
        assert!(hub.find(client.id).is_none(), "nobody finds a finished client");
        client.finish(send_pending, |room| self.orders.known(room, shard));
    }

    fn close(&mut self, shard: u16, slot: Slot) {
        self.complete(shard, slot);
        let Some(client) = self.clients.remove(&(shard, slot)) else { return };
        self.hubs[shard as usize].close(slot);
        assert!(self.hubs[shard as usize].find(client.id).is_none());
    }

    /// Puts the shard's batches into the queues to their destinations.
    fn post(&mut self, from: u16) {
        for to in 0..self.hubs.len() {
            let outgoing = self.hubs[from as usize].outgoing(to as u16);
            let lane = &mut self.lanes[from as usize][to];
            if !outgoing.requests.is_empty() && self.random.chance(80) {
                lane.requests.push_back(std::mem::take(&mut outgoing.requests));
            }
            if !outgoing.deliveries.is_empty() && self.random.chance(80) {
                lane.deliveries.push_back(std::mem::take(&mut outgoing.deliveries));
            }
        }
    }

    /// Delivers the oldest batch of requests or of deliveries from a random shard to shard `to`.
    fn bring(&mut self, to: u16, requests: bool) {
        let from = self.random.below(self.hubs.len()) as u16;
        let lane = &mut self.lanes[from as usize][to as usize];
        if requests {
            let Some(mut batch) = lane.requests.pop_front() else { return };
            batch.drain(|request, room, payload| self.take_request(to, from, &request, room, payload));
        } else {
            let Some(mut batch) = lane.deliveries.pop_front() else { return };
            batch.drain(|delivery, _, frames| self.take_delivery(to, &delivery, frames));
        }
    }

    fn take_request(&mut self, to: u16, from: u16, request: &Request, name: &str, payload: &[u8]) {
        let hub = &mut self.hubs[to as usize];
        let room = number_of(name);
        let was_there = hub.rooms.find(name).is_some();
        take_request(hub, from, request, name, payload, self.histories[room]);
        if !was_there && hub.rooms.find(name).is_some() {
            self.orders.begin(room, to);
        }
        match request {
            Request::Subscribe { .. } => self.orders.answer(room, to, from),
            Request::Publish { origin, .. } if hub.rooms.find(name).is_some() => {
                self.orders.order(room, to, payload);
                self.exclude(room, to, origin.except);
            }
            _ => {}
        }
    }

    fn take_delivery(&mut self, to: u16, delivery: &Delivery, frames: &[u8]) {
        let hub = &mut self.hubs[to as usize];
        let key = &match delivery {
            Delivery::Snapshot(snapshot) => snapshot.room,
            Delivery::Frame { room, .. } => *room,
            other => panic!("no test sends {other:?}"),
        };
        let id = hub.rooms.resolve(*key);
        let room = id.map(|id| number_of(&hub.rooms[id].name));
        take_delivery(hub, delivery, frames);
        // The room may have been forgotten before this delivery, or by the snapshot.
        let Some(room) = room else { return };
        match delivery {
            Delivery::Snapshot(_) => {
                let answer = self.orders.answered(room, to);
                if hub.rooms.resolve(*key).is_none() {
                    return;
                }
                self.orders.accept(room, to, answer);
                let (messages, bytes) = self.history(room);
                for ((shard, _), client) in &mut self.clients {
                    if *shard == to && client.is_member(room) && !client.is_held(room) {
                        client.start(&self.orders, room, to, messages, bytes);
                    }
                }
            }
            Delivery::Frame { except, .. } => {
                self.orders.deliver(room, to);
                self.exclude(room, to, *except);
            }
            _ => {}
        }
    }

    /// Records that a client of the shard, if `except` names one, does not get the newest message of the room.
    fn exclude(&mut self, room: usize, shard: u16, except: Option<ClientNumber>) {
        let known = self.orders.known(room, shard);
        let Some(id) = except.map(|except| self.hubs[shard as usize].identify(except)) else { return };
        if let Some(client) = self.clients.get_mut(&(id.shard, id.slot)).filter(|client| client.id == id)
            && id.shard == shard
        {
            client.exclude(room, known);
        }
    }

    fn poll(&mut self, shard: u16, mut budget: usize) {
        let hub = &mut self.hubs[shard as usize];
        while let Some(outbound) = hub.poll_send(&mut budget) {
            let Outbound { slot, span, messages, .. } = outbound;
            let bytes = span.bytes().to_vec();
            let client = self.clients.get_mut(&(shard, slot)).expect("sends are for open clients");
            client.handed_out(&bytes, messages);
            let before = self.in_flight.insert((shard, slot), InFlight { span, bytes });
            assert!(before.is_none(), "one send at a time");
        }
        while let Some(Lagged { slot, missed }) = self.hubs[shard as usize].poll_lagged() {
            assert!(self.options.lag_window < 1 << 30, "the window is too large to lag");
            let client = self.clients.get_mut(&(shard, slot)).expect("open clients lag");
            client.reported += missed;
            if !self.skip && !client.is_finished() {
                self.finish(shard, slot, false);
            }
        }
    }

    /// Completes the client's send in flight.
    fn complete(&mut self, shard: u16, slot: Slot) {
        let Some(InFlight { span, bytes }) = self.in_flight.remove(&(shard, slot)) else { return };
        assert_eq!(span.bytes(), bytes, "bytes in flight do not change");
        drop(span);
        let client = self.clients.get_mut(&(shard, slot)).expect("open");
        client.receive(&self.orders, self.options.lag_window);
        self.hubs[shard as usize].sent(slot);
    }

    fn tick(&mut self) {
        self.now_ms += [1, 50, 500, 10_000][self.random.below(4)];
        for hub in &mut self.hubs {
            hub.tick(self.now_ms);
        }
    }

    /// Delivers all batches and completes all sends until nothing is left to do.
    fn come_to_rest(&mut self) {
        let shards = self.hubs.len() as u16;
        for _ in 0..10_000 {
            for shard in 0..shards {
                self.post(shard);
                self.bring(shard, true);
                self.bring(shard, false);
                self.poll(shard, 100);
                (0..SLOTS as Slot).for_each(|slot| self.complete(shard, slot));
            }
            let mail =
                self.lanes.iter().flatten().any(|l| !l.requests.is_empty() || !l.deliveries.is_empty());
            let held = self.hubs.iter_mut().any(|hub| hub.has_more() || !hub.outgoing.is_empty());
            if !mail && !held && self.in_flight.is_empty() {
                return;
            }
        }
        panic!("the shards never come to rest");
    }

    fn check_current(&self) {
        for (&(shard, slot), client) in &self.clients {
            assert!(self.hubs[shard as usize].is_idle(slot));
            client.is_current(&self.orders, shard, self.options.lag_window);
        }
        assert!(!self.hubs.iter().any(Hub::is_saturated));
    }

    fn close_everybody(&mut self) {
        let mut clients: Vec<(u16, Slot)> = self.clients.keys().copied().collect();
        clients.sort_unstable();
        for (shard, slot) in clients {
            self.close(shard, slot);
        }
        self.come_to_rest();
        self.now_ms += 1 << 41;
        for _ in 0..3 {
            self.hubs.iter_mut().for_each(|hub| hub.tick(self.now_ms));
            self.now_ms += 1 << 41;
        }
    }

    fn check_leftovers(&self) {
        for hub in &self.hubs {
            assert_eq!(hub.memory(), (0, 0));
            assert_eq!(hub.next_tick_ms(), None);
            assert!(hub.clients.iter().all(|client| client.number == 0 && client.outbox.is_none()));
            assert!(!hub.has_more() && hub.lagged.is_empty());
        }
    }
}

/// Returns the number of the room from its name (see [`World::room`]).
fn number_of(name: &str) -> usize {
    expected::number(&name.as_bytes()[5..])
}

fn run(seed: u64) {
    struct Naming(u64);
    impl Drop for Naming {
        fn drop(&mut self) {
            if std::thread::panicking() {
                eprintln!("the model failed with UPROAR_MODEL_SEED={}", self.0);
            }
        }
    }
    let _naming = Naming(seed);
    World::new(seed).run();
}

#[test]
fn every_client_receives_its_messages_and_nothing_is_left() {
    let seeds = match std::env::var("UPROAR_MODEL_SEED") {
        Ok(seed) => {
            let seed = seed.parse().expect("UPROAR_MODEL_SEED is a number");
            seed..seed + 1
        }
        Err(_) => 0..if cfg!(miri) { 3 } else { 600 },
    };
    seeds.for_each(run);
}
