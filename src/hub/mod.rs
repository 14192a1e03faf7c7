//! Rooms, and who is owed what: pure logic, without sockets, clocks or threads.
//!
//! Every shard has a hub. A room has a **home** shard, chosen by its name, which puts the room's messages in
//! order; every shard with members of the room keeps a copy of its log. A member is a cursor into the log, and
//! what a client alone is owed lies in its outbox, a log with one reader.
//!
//! # Order of calls
//! [`Hub::open`] and [`Hub::close`] bracket a connection. Between them commands ([`Hub::join`],
//! [`Hub::send`], [`Hub::publish`] …) say what shall happen. [`Hub::poll_send`] says what to hand to the backend,
//! and [`Hub::sent`] that it was taken. What other shards must hear gathers in [`Hub::outgoing`]; what they say
//! comes in through [`Hub::order`], [`Hub::subscribe`], [`Hub::unsubscribe`] (to a room's home) and
//! [`Hub::deliver`], [`Hub::snapshot`] (from it). [`Hub::tick`] passes the time in.

mod batch;
mod log;
mod outbox;
mod room;
mod rooms;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;

use smallvec::SmallVec;

pub use batch::{Batch, ByteLen, Delivery, Note, Request};
pub use room::Slot;

pub use crate::protocol::frame::Kind;

use crate::chunk::Span;
use crate::protocol::frame::encode_header;
use log::Log;
use outbox::Outbox;
use room::Visit;
use rooms::{RoomId, Rooms};

/// Visits after which the next room that has something to send gets its turn.
const SLICE: usize = 256;
/// Drained outboxes kept for the next client that is owed something.
const SPARE_OUTBOXES: usize = 64;

/// What a hub needs to know at the start.
#[derive(Clone, Debug)]
pub struct Options {
    /// Index of this shard.
    pub shard: u16,
    /// Number of shards.
    pub shards: u16,
    /// Bytes that a client may be behind in a room, or leave unread in its outbox, before it has lagged.
    pub lag_window: usize,
    /// Messages that a room keeps for newcomers.
    pub history: u32,
    /// Bytes that those may have together.
    pub history_bytes: usize,
    /// Milliseconds that they are kept after the last member left.
    pub history_ms: u64,
}

/// A message given in parts, which are sent as one.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    /// Text or binary.
    pub kind: Kind,
    /// The payload.
    pub parts: &'a [&'a [u8]],
}

/// Bytes for a client.
#[derive(Debug)]
pub struct Outbound {
    /// Whose.
    pub slot: Slot,
    /// Whole frames.
    pub span: Span,
    /// Messages of rooms among them.
    pub messages: u64,
}

/// A client that did not read fast enough.
#[derive(Debug, PartialEq, Eq)]
pub struct Lagged {
    /// Who.
    pub slot: Slot,
    /// Messages that it will not get.
    pub missed: u64,
}

/// For one other shard.
#[derive(Debug, Default)]
pub struct Outgoing {
    /// What its hub must put in order or answer.
    pub requests: Batch<Request>,
    /// What its members are owed.
    pub deliveries: Batch<Delivery>,
}

/// A client of any shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ClientId {
    /// Where its connection is.
    pub shard: u16,
    /// Index of the connection there; used again when it is closed.
    pub slot: Slot,
    /// Unique in the server's life, beginning with 1.
    pub number: u64,
}

/// One place in a room.
#[derive(Clone, Copy, Debug)]
struct Seat {
    room: RoomId,
    /// Index among the room's members.
    index: u32,
}

/// A connection as the hub knows it. An idle one in one room owns no memory beyond this.
#[derive(Debug, Default)]
struct Client {
    /// Which connection this is, 0 when there is none.
    number: u64,
    outbox: Option<Box<Outbox>>,
    seats: SmallVec<[Seat; 2]>,
    /// Whether the backend is sending for this client.
    sending: bool,
    /// Whether the client stands in the queue of those to be looked at.
    queued: bool,
    /// Whether its farewell was said: nothing can be sent to it and no room joined.
    finished: bool,
}

impl Client {
    /// Whether something is, or is about to be, sent that comes before any room.
    fn is_busy(&self) -> bool {
        self.sending || self.outbox.as_ref().is_some_and(|outbox| outbox.len() > 0)
    }
}

/// The rooms and clients of one shard. The module's documentation says how to call it.
#[derive(Debug)]
pub struct Hub {
    options: Options,
    clients: Vec<Client>,
    rooms: Rooms,
    /// Clients that may be owed something and are not in a room's pass.
    ready: VecDeque<Slot>,
    /// Rooms with something to send, each with a pass under way or due.
    /// Their serial numbers tell when they are gone.
    passes: VecDeque<(RoomId, u64)>,
    /// Visits left for the first room of `passes`.
    slice: usize,
    /// Clients that lagged, with their numbers: the connection may be another one's by now.
    lagged: VecDeque<(u64, Lagged)>,
    outgoing: Vec<Outgoing>,
    /// Number of rooms that ask publishers to wait.
    saturated: usize,
    #[expect(clippy::vec_box, reason = "the box itself goes from client to client")]
    spare: Vec<Box<Outbox>>,
    /// Connections opened so far.
    opened: u64,
    now_ms: u64,
}

impl Hub {
    /// A hub without rooms.
    pub fn new(mut options: Options) -> Self {
        if options.history == 0 {
            options.history_ms = 0;
        }
        let outgoing = (0..options.shards).map(|_| Outgoing::default()).collect();
        Self {
            options,
            clients: Vec::new(),
            rooms: Rooms::default(),
            ready: VecDeque::new(),
            passes: VecDeque::new(),
            slice: SLICE,
            lagged: VecDeque::new(),
            outgoing,
            saturated: 0,
            spare: Vec::new(),
            opened: 0,
            now_ms: 0,
        }
    }

    /// A connection begins at `slot`.
    pub fn open(&mut self, slot: Slot) -> ClientId {
        let index = slot as usize;
        if index >= self.clients.len() {
            self.clients.resize_with(index + 1, Client::default);
        }
        // It may still stand in the queue under its former owner; that costs one look.
        let queued = self.clients[index].queued;
        let Options { shard, shards, .. } = self.options;
        let number = self.opened * u64::from(shards) + u64::from(shard) + 1;
        self.opened += 1;
        self.clients[index] = Client { number, queued, ..Client::default() };
        ClientId { shard, slot, number }
    }

    /// The client at `slot`.
    pub fn client(&self, slot: Slot) -> ClientId {
        ClientId { shard: self.options.shard, slot, number: self.clients[slot as usize].number }
    }

    /// The slot of a client of this shard that is there and has not been said farewell to.
    pub fn find(&self, id: ClientId) -> Option<Slot> {
        let client = self.clients.get(id.slot as usize)?;
        let is_it = id.shard == self.options.shard && client.number == id.number && !client.finished;
        is_it.then_some(id.slot)
    }

    /// The connection at `slot` is gone, and nothing is being sent for it.
    pub fn close(&mut self, slot: Slot) {
        self.leave_all(slot, false);
        let client = &mut self.clients[slot as usize];
        *client = Client { queued: client.queued, ..Client::default() };
    }

    /// Makes the client a member of `room`, to get at most `history` of its old messages first. Nothing happens
    /// when it is one.
    pub fn join(&mut self, slot: Slot, room: &str, history: u32) {
        debug_assert!(!self.clients[slot as usize].finished, "nobody joins after the farewell");
        let id = self.find_or_make(room);
        if self.clients[slot as usize].seats.iter().any(|seat| seat.room == id) {
            return;
        }
        let history_bytes = self.options.history_bytes;
        let room = &mut self.rooms[id];
        let index = room.add(slot, history.min(self.options.history), history_bytes) as u32;
        self.clients[slot as usize].seats.push(Seat { room: id, index });
        self.look_at(slot);
    }

    /// Ends the membership. What the client is owed of the room so far it still gets.
    pub fn leave(&mut self, slot: Slot, room: &str) {
        let Some(id) = self.rooms.find(room) else { return };
        let seats = &mut self.clients[slot as usize].seats;
        if let Some(at) = seats.iter().position(|seat| seat.room == id) {
            let seat = seats.swap_remove(at);
            self.leave_seat(slot, seat, true);
        }
    }

    /// The rooms that the client is a member of.
    pub fn rooms_of(&self, slot: Slot) -> impl Iterator<Item = &str> {
        self.clients[slot as usize].seats.iter().map(|seat| &*self.rooms[seat.room].name)
    }

    /// The members of `room` on this shard.
    pub fn members(&self, room: &str) -> impl ExactSizeIterator<Item = ClientId> {
        let members = self.rooms.find(room).map_or(&[][..], |id| &self.rooms[id].members);
        members.iter().map(|member| self.client(member.slot))
    }

    /// Sends a message to one client.
    pub fn send(&mut self, slot: Slot, message: Message<'_>) {
        let header = encode_header(message.kind.opcode(), true, false, total_len(message.parts));
        with_header(header.as_bytes(), message.parts, |parts| self.send_frame(slot, parts, true));
    }

    /// Sends bytes that are not a message: a control frame, an HTTP response. After the farewell nothing is sent.
    pub fn send_raw(&mut self, slot: Slot, parts: &[&[u8]]) {
        self.send_frame(slot, parts, false);
    }

    /// Says farewell: the client hears nothing new, gets what it is owed (or not, with `owed` false) and then
    /// `last`.
    pub fn finish(&mut self, slot: Slot, owed: bool, last: &[u8]) {
        self.leave_all(slot, owed);
        if let Some(outbox) = self.clients[slot as usize].outbox.as_mut().filter(|_| !owed) {
            outbox.clear();
        }
        if !last.is_empty() {
            self.outbox(slot).append(&[last], false);
        }
        self.clients[slot as usize].finished = true;
        self.look_at(slot);
    }

    /// Brings a message on its way to the room's home shard, which may be this one.
    pub fn publish(&mut self, room: &str, message: Message<'_>) {
        let home = self.home_of(room);
        self.outgoing[home as usize].requests.publish(room, message);
    }

    /// [`Hub::publish`] to every room that the client is a member of.
    pub fn publish_from(&mut self, slot: Slot, message: Message<'_>) {
        for seat in &self.clients[slot as usize].seats {
            let room = &self.rooms[seat.room].name;
            self.outgoing[home_of(room, self.options.shards) as usize].requests.publish(room, message);
        }
    }

    /// The shard that orders the messages of `room`.
    pub fn home_of(&self, room: &str) -> u16 {
        home_of(room, self.options.shards)
    }

    /// What shard `shard` must hear. The caller takes it away; its own shard's requests come back to it too.
    pub fn outgoing(&mut self, shard: u16) -> &mut Outgoing {
        &mut self.outgoing[shard as usize]
    }

    /// As the home shard, gives a message its place in the room's order and brings it on its way to all members.
    pub fn order(&mut self, room: &str, message: Message<'_>) {
        debug_assert_eq!(self.home_of(room), self.options.shard, "only the home shard orders {room}");
        if self.options.history == 0 && self.rooms.find(room).is_none() {
            return;
        }
        let id = self.find_or_make(room);
        let header = encode_header(message.kind.opcode(), true, false, total_len(message.parts));
        with_header(header.as_bytes(), message.parts, |parts| {
            let number = self.rooms[id].log.head();
            let subscribers = self.rooms[id].home.iter().flat_map(|home| &home.subscribers);
            for &shard in subscribers {
                self.outgoing[shard as usize].deliveries.frame(room, number, parts);
            }
            self.rooms[id].log.append(parts);
        });
        self.appended(id);
    }

    /// As the home shard, answers `shard` with the room's history and sends it every message from now on.
    pub fn subscribe(&mut self, shard: u16, room: &str) {
        let id = self.find_or_make(room);
        let known = &mut self.rooms[id];
        let first = known.log.tail(self.options.history.into(), self.options.history_bytes);
        self.outgoing[shard as usize].deliveries.snapshot(room, first, known.log.frames(first));
        let home = known.home.get_or_insert_default();
        if !home.subscribers.contains(&shard) {
            home.subscribers.push(shard);
        }
    }

    /// As the home shard, stops sending the room's messages to `shard`.
    pub fn unsubscribe(&mut self, shard: u16, room: &str) {
        if let Some(id) = self.rooms.find(room) {
            if let Some(home) = &mut self.rooms[id].home {
                home.subscribers.retain(|other| *other != shard);
            }
            self.maybe_forget(id);
        }
    }

    /// Takes the answer to a subscription: the kept frames, the first of which is message `first`.
    pub fn snapshot<'a>(&mut self, room: &str, first: u64, frames: impl Iterator<Item = &'a [u8]>) {
        let Some(id) = self.rooms.find(room).filter(|id| !self.rooms[*id].live) else { return };
        let mut log = Log::starting_at(first);
        for frame in frames {
            log.append(&[frame]);
        }
        self.rooms[id].start(log, self.options.history_bytes);
        if self.rooms[id].members.is_empty() {
            return self.maybe_forget(id);
        }
        self.appended(id);
    }

    /// Takes message `number` of a room, encoded, from its home shard.
    pub fn deliver(&mut self, room: &str, number: u64, frame: &[u8]) {
        // Before the snapshot come messages of a subscription that ended; the snapshot has them.
        let Some(id) = self.rooms.find(room).filter(|id| self.rooms[*id].live) else { return };
        let log = &mut self.rooms[id].log;
        assert_eq!(number, log.head(), "messages of {room} come in order and without a hole");
        log.append(&[frame]);
        self.appended(id);
    }

    /// The next bytes to send, or `None` when there is none or `budget`, the number of clients to look at, is
    /// used up. Each client gets nothing further until [`Hub::sent`].
    pub fn poll_send(&mut self, budget: &mut usize) -> Option<Outbound> {
        while *budget > 0 {
            *budget -= 1;
            if let Some(slot) = self.ready.pop_front() {
                self.clients[slot as usize].queued = false;
                if let Some(outbound) = self.next_for(slot) {
                    return Some(outbound);
                }
                continue;
            }
            let (id, serial) = *self.passes.front()?;
            if self.rooms.get(id).is_none_or(|room| room.serial != serial) {
                self.next_pass();
                continue;
            }
            if self.slice == 0 {
                self.slice = SLICE;
                self.passes.rotate_left(1);
                continue;
            }
            self.slice -= 1;
            let clients = &self.clients;
            match self.rooms[id].visit(|slot| clients[slot as usize].is_busy()) {
                Visit::Send(slot, span, count) => return Some(self.start_sending(slot, span, count)),
                Visit::Lagged(slot, missed) => self.lag(slot, missed),
                Visit::Nothing => {}
                Visit::Over => self.finish_pass(id),
            }
        }
        None
    }

    /// Whether [`Hub::poll_send`] stopped for its budget alone.
    pub fn has_more(&self) -> bool {
        !self.ready.is_empty() || !self.passes.is_empty()
    }

    /// The backend took all of the client's last [`Outbound`]. True when nothing more is owed for now.
    pub fn sent(&mut self, slot: Slot) -> bool {
        let client = &mut self.clients[slot as usize];
        client.sending = false;
        if client.outbox.as_ref().is_some_and(|outbox| outbox.len() == 0) {
            let drained = client.outbox.take();
            if self.spare.len() < SPARE_OUTBOXES {
                self.spare.extend(drained.and_then(|mut outbox| outbox.reset().then_some(outbox)));
            }
        }
        if self.is_owed(slot) {
            self.look_at(slot);
            return false;
        }
        true
    }

    /// The next client that lagged. It has missed messages and goes on with the newest ones, if nothing is done.
    pub fn poll_lagged(&mut self) -> Option<Lagged> {
        while let Some((number, lagged)) = self.lagged.pop_front() {
            if self.clients[lagged.slot as usize].number == number {
                return Some(lagged);
            }
        }
        None
    }

    /// Bytes that the client's outbox holds: answers that it does not read.
    pub fn outbox_len(&self, slot: Slot) -> usize {
        self.clients[slot as usize].outbox.as_ref().map_or(0, |outbox| outbox.len())
    }

    /// Whether nothing is being sent for the client and nothing is owed to it.
    pub fn is_idle(&self, slot: Slot) -> bool {
        !self.clients[slot as usize].sending && !self.is_owed(slot)
    }

    /// Whether publishers should wait, since a room's members have not been offered what is there already.
    pub fn is_saturated(&self) -> bool {
        self.saturated > 0
    }

    /// Number of rooms on this shard and the bytes that their logs hold.
    pub fn memory(&self) -> (usize, usize) {
        (self.rooms.len(), self.rooms.iter().map(|room| room.log.memory()).sum())
    }

    /// Passes the time in: rooms that nobody uses give their memory back, and go when their time has come.
    pub fn tick(&mut self, now_ms: u64) {
        self.now_ms = now_ms;
        while let Some(due) = self.rooms.timers.expired(now_ms) {
            for (id, serial) in due {
                if self.rooms.get(id).is_some_and(|room| room.serial == serial) {
                    self.rooms[id].timed = false;
                    self.rest(id);
                }
            }
        }
    }

    /// When [`Hub::tick`] has something to do again.
    pub fn next_tick_ms(&self) -> Option<u64> {
        self.rooms.timers.next_due_ms()
    }
}

impl Hub {
    fn send_frame(&mut self, slot: Slot, parts: &[&[u8]], is_message: bool) {
        if self.clients[slot as usize].finished {
            return;
        }
        let lag_window = self.options.lag_window;
        let outbox = self.outbox(slot);
        outbox.append(parts, is_message);
        if outbox.len() > lag_window && outbox.len() > total_len(parts) {
            let missed = outbox.clear();
            self.lag(slot, missed);
        }
        self.look_at(slot);
    }

    /// The client's outbox, made when there is none.
    fn outbox(&mut self, slot: Slot) -> &mut Outbox {
        let spare = &mut self.spare;
        let outbox = &mut self.clients[slot as usize].outbox;
        outbox.get_or_insert_with(|| spare.pop().unwrap_or_default())
    }

    fn lag(&mut self, slot: Slot, missed: u64) {
        let number = self.clients[slot as usize].number;
        self.lagged.push_back((number, Lagged { slot, missed }));
    }

    fn find_or_make(&mut self, room: &str) -> RoomId {
        if let Some(id) = self.rooms.find(room) {
            return id;
        }
        let home = self.home_of(room);
        if home != self.options.shard {
            self.outgoing[home as usize].requests.subscribe(room);
        }
        let id = self.rooms.insert(room, home == self.options.shard);
        self.rooms[id].used_ms = self.now_ms;
        id
    }

    /// Something was appended to the room's log.
    fn appended(&mut self, id: RoomId) {
        let room = &mut self.rooms[id];
        room.used_ms = self.now_ms;
        if !room.queued {
            room.queued = true;
            self.passes.push_back((id, room.serial));
        }
        if !room.saturated && room.is_saturated(self.options.lag_window) {
            room.saturated = true;
            self.saturated += 1;
        }
    }

    fn next_pass(&mut self) {
        self.passes.pop_front();
        self.slice = SLICE;
    }

    fn finish_pass(&mut self, id: RoomId) {
        self.next_pass();
        let Options { lag_window, history, history_bytes, .. } = self.options;
        let room = &mut self.rooms[id];
        room.queued = room.finish_pass(lag_window, history, history_bytes);
        if room.queued {
            self.passes.push_back((id, room.serial));
        }
        if room.saturated && !room.is_saturated(lag_window) {
            room.saturated = false;
            self.saturated -= 1;
        }
        if !room.queued {
            self.set_timer(id);
        }
    }

    /// What this client is owed next: its own first, then its rooms in turn.
    fn next_for(&mut self, slot: Slot) -> Option<Outbound> {
        let client = &mut self.clients[slot as usize];
        if client.sending {
            return None;
        }
        if let Some((span, count)) = client.outbox.as_mut().and_then(|outbox| outbox.pop()) {
            return Some(self.start_sending(slot, span, count));
        }
        for _ in 0..client.seats.len() {
            let seat = client.seats[0];
            client.seats.rotate_left(1);
            match self.rooms[seat.room].take(seat.index as usize) {
                Visit::Send(slot, span, count) => return Some(self.start_sending(slot, span, count)),
                Visit::Lagged(slot, missed) => {
                    self.lagged.push_back((client.number, Lagged { slot, missed }));
                }
                Visit::Nothing | Visit::Over => {}
            }
        }
        None
    }

    fn start_sending(&mut self, slot: Slot, span: Span, messages: u64) -> Outbound {
        self.clients[slot as usize].sending = true;
        Outbound { slot, span, messages }
    }

    fn is_owed(&self, slot: Slot) -> bool {
        let client = &self.clients[slot as usize];
        client.outbox.as_ref().is_some_and(|outbox| outbox.len() > 0)
            || client.seats.iter().any(|seat| {
                let room = &self.rooms[seat.room];
                !room.is_current(&room.members[seat.index as usize])
            })
    }

    /// Has the client looked at by the next [`Hub::poll_send`].
    fn look_at(&mut self, slot: Slot) {
        let client = &mut self.clients[slot as usize];
        if !client.queued && !client.sending {
            client.queued = true;
            self.ready.push_back(slot);
        }
    }

    fn leave_all(&mut self, slot: Slot, owed: bool) {
        while let Some(seat) = self.clients[slot as usize].seats.pop() {
            self.leave_seat(slot, seat, owed);
        }
    }

    /// Gives up a seat that was taken off the client's list; what is `owed` moves to its outbox.
    fn leave_seat(&mut self, slot: Slot, seat: Seat, owed: bool) {
        if owed {
            self.take_owed(slot, seat);
        }
        let room = &mut self.rooms[seat.room];
        let clients = &mut self.clients;
        room.remove(seat.index as usize, |moved, index| {
            let seats = &mut clients[moved as usize].seats;
            if let Some(other) = seats.iter_mut().find(|other| other.room == seat.room) {
                other.index = index as u32;
            }
        });
        self.look_at(slot);
        self.maybe_forget(seat.room);
    }

    fn take_owed(&mut self, slot: Slot, seat: Seat) {
        loop {
            match self.rooms[seat.room].take(seat.index as usize) {
                Visit::Send(_, span, count) => self.outbox(slot).push(span, count),
                Visit::Lagged(slot, missed) => self.lag(slot, missed),
                Visit::Nothing | Visit::Over => return,
            }
        }
    }

    /// A room without members is kept only at home, and only for its history; or elsewhere until its snapshot
    /// comes, so that no later subscription takes it for its own.
    fn maybe_forget(&mut self, id: RoomId) {
        let room = &mut self.rooms[id];
        if !room.members.is_empty() || !room.live {
            return;
        }
        room.used_ms = self.now_ms;
        if room.home.is_some() {
            let abandoned = room.is_abandoned();
            if abandoned && (self.options.history_ms == 0 || room.log.head() == 0) {
                self.forget(id);
            } else {
                self.set_timer(id);
            }
            return;
        }
        let home = home_of(&room.name, self.options.shards);
        self.outgoing[home as usize].requests.unsubscribe(&room.name);
        self.forget(id);
    }

    fn forget(&mut self, id: RoomId) {
        let room = self.rooms.remove(id);
        self.saturated -= usize::from(room.saturated);
    }

    fn set_timer(&mut self, id: RoomId) {
        self.rooms.set_timer(id, self.now_ms, self.options.history_ms);
    }

    /// A room's timer fired: it may have been idle for long enough to rest, or to go.
    fn rest(&mut self, id: RoomId) {
        let room = &mut self.rooms[id];
        let idle_ms = self.now_ms.saturating_sub(room.used_ms);
        if room.is_abandoned() && idle_ms >= self.options.history_ms {
            return self.forget(id);
        }
        if room.is_consumed() && !room.queued && idle_ms >= rooms::REST_MS {
            room.log.release();
        }
        if room.is_abandoned() || room.log.memory() > 0 && room.is_consumed() {
            self.set_timer(id);
        }
    }
}

/// The shard that orders the messages of `room`, the same on every shard.
fn home_of(room: &str, shards: u16) -> u16 {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    room.hash(&mut hasher);
    (hasher.finish() % u64::from(shards)) as u16
}

fn total_len(parts: &[&[u8]]) -> usize {
    parts.iter().map(|part| part.len()).sum()
}

/// Calls `with` with `header` put before `parts`.
fn with_header<R>(header: &[u8], parts: &[&[u8]], with: impl FnOnce(&[&[u8]]) -> R) -> R {
    let mut all = SmallVec::<[&[u8]; 8]>::new();
    all.push(header);
    all.extend_from_slice(parts);
    with(&all)
}
