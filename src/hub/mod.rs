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
mod delivery;
#[cfg(test)]
mod inspect;
mod log;
mod message;
mod order;
mod outbox;
mod room;
mod rooms;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, VecDeque};

use smallvec::SmallVec;

pub use batch::{Batch, ByteLen, Delivery, Note, Request};
pub use message::Message;
pub use room::Slot;

pub use crate::protocol::frame::Kind;

use crate::chunk::Span;
use crate::protocol::deflate::{Deflater, Window};
use crate::protocol::frame::encode_header;
use outbox::{Content, Outbox, Spares};
use room::Visit;
use rooms::{RoomId, Rooms};

/// Visits after which the next room that has something to send gets its turn.
const SLICE: usize = 256;
/// From so many members on a room waits for more messages while they come: to send to all of them takes long enough.
const CROWD: usize = 64;
/// Most turns that it waits.
const GATHER_TURNS: u32 = 16;
/// For how many turns more messages are to be expected when several have come in one.
const BUSY_TURNS: u32 = 32;
/// Drained outboxes kept for the next client that is owed something.
const SPARE_OUTBOXES: usize = 256;
/// A client that takes nothing of its outbox for so long is not reading.
const STALL_MS: u64 = 1_000;
/// How many lag windows of answers may wait for a client that is.
const BURST: usize = 16;

/// What a hub needs to know at the start.
#[derive(Clone, Debug)]
pub struct Options {
    /// Index of this shard.
    pub shard: u16,
    /// Number of shards.
    pub shards: u16,
    /// Bytes that a client may be behind in a room, or leave in its outbox without taking any, before it has
    /// lagged.
    pub lag_window: usize,
    /// Messages that a room keeps for newcomers.
    pub history: u32,
    /// Bytes that those may have together.
    pub history_bytes: usize,
    /// Milliseconds that they are kept after the last member left.
    pub history_ms: u64,
    /// Bytes that the logs of all rooms may have together before histories are given up; 0: no limit.
    pub history_memory: usize,
    /// Bytes from which on a message is compressed for those who can read that.
    pub compression_threshold: usize,
}

impl Options {
    /// The same without what has no meaning: nothing is kept for a time when nothing is kept.
    fn settled(self) -> Self {
        Self { history_ms: if self.history == 0 { 0 } else { self.history_ms }, ..self }
    }
}

/// In which form a client is sent its messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compression {
    /// As they are.
    #[default]
    Plain,
    /// Compressed so that everybody can read them, once for all.
    Shared,
    /// Compressed for this client alone.
    Own,
}

/// What it takes to compress for one client alone.
#[derive(Debug)]
struct Own {
    window: Window,
    /// Whether what is sent may refer to earlier messages.
    takeover: bool,
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
    /// Whether nothing follows, since [`Hub::finish`] was called.
    pub is_last: bool,
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
    compression: Compression,
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
    /// Messages of rooms that have come since the last turn.
    came: u32,
    /// Turns for which rooms have waited for more of them; 0 when they do not wait.
    gathered: u32,
    /// Turns for which more messages are to be expected.
    busy_turns: u32,
    /// Visits left for the first room of `passes`.
    slice: usize,
    /// Clients that lagged, with their numbers: the connection may be another one's by now.
    lagged: VecDeque<(u64, Lagged)>,
    outgoing: Vec<Outgoing>,
    /// Number of rooms that ask publishers to wait.
    saturated: usize,
    #[expect(clippy::vec_box, reason = "the box itself goes from client to client")]
    spare: Vec<Box<Outbox>>,
    spare_chunks: Spares,
    deflater: Deflater,
    /// Of clients with [`Compression::Own`].
    own: HashMap<Slot, Own>,
    /// Connections opened so far.
    opened: u64,
    now_ms: u64,
}

impl Hub {
    /// A hub without rooms.
    pub fn new(options: Options) -> Self {
        let outgoing = (0..options.shards).map(|_| Outgoing::default()).collect();
        Self {
            clients: Vec::new(),
            rooms: Rooms::default(),
            ready: VecDeque::new(),
            passes: VecDeque::new(),
            came: 0,
            gathered: 0,
            busy_turns: 0,
            slice: SLICE,
            lagged: VecDeque::new(),
            outgoing,
            saturated: 0,
            spare: Vec::new(),
            spare_chunks: Spares::default(),
            deflater: Deflater::new(options.compression_threshold),
            own: HashMap::new(),
            options: options.settled(),
            opened: 0,
            now_ms: 0,
        }
    }

    /// Goes by other options, of the same shard, from now on. A room that holds too much by them gives it up when it
    /// is used next; one that nobody is in keeps what it has for as long as it was to be kept.
    pub fn set_options(&mut self, options: Options) {
        let is_same = (options.shard, options.shards) == (self.options.shard, self.options.shards);
        debug_assert!(is_same, "names are shared out by the number of shards");
        self.deflater.set_threshold(options.compression_threshold);
        self.options = options.settled();
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

    /// From now on the client gets its messages compressed in a way that every client can read. To be said before
    /// it joins a room.
    pub fn compress(&mut self, slot: Slot) {
        self.set_compression(slot, Compression::Shared);
    }

    /// The same, but for this client alone, which reads with a window of 2^`window_bits` bytes; with `takeover` what
    /// it is sent may refer to what it was sent before.
    pub fn compress_alone(&mut self, slot: Slot, window_bits: u8, takeover: bool) {
        self.set_compression(slot, Compression::Own);
        self.own.insert(slot, Own { window: Window::new(window_bits), takeover });
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
        if client.compression == Compression::Own {
            self.own.remove(&slot);
        }
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
        let packed = self.clients[slot as usize].compression == Compression::Shared;
        let index = room.add(slot, packed, history.min(self.options.history), history_bytes) as u32;
        self.clients[slot as usize].seats.push(Seat { room: id, index });
        self.weigh(id);
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
        let is_shared = self.clients[slot as usize].compression == Compression::Shared;
        if is_shared && self.deflater.takes(total_len(message.parts())) {
            let frame = with_frame(message, |parts| parts.concat());
            let mut deflater = std::mem::take(&mut self.deflater);
            self.send_bytes(slot, &[deflater.pack(&frame)], Content::Message);
            self.deflater = deflater;
            return;
        }
        with_frame(message, |parts| self.send_bytes(slot, parts, Content::Message));
    }

    /// Sends a frame that is no message. After the farewell nothing is sent.
    pub fn send_control(&mut self, slot: Slot, parts: &[&[u8]]) {
        self.send_bytes(slot, parts, Content::Control);
    }

    /// Sends an HTTP response.
    pub fn send_response(&mut self, slot: Slot, response: &[u8]) {
        self.send_bytes(slot, &[response], Content::Response);
    }

    /// Says farewell: the client hears nothing new, gets what it is owed (or not, with `owed` false) and then
    /// `last`.
    pub fn finish(&mut self, slot: Slot, owed: bool, last: &[u8]) {
        self.leave_all(slot, owed);
        if let Some(outbox) = self.clients[slot as usize].outbox.as_mut().filter(|_| !owed) {
            outbox.clear();
        }
        if !last.is_empty() {
            self.append(slot, &[last], Content::Control);
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

    /// The shard that orders the messages of `room`; applications share out other names by it, too.
    pub fn home_of(&self, room: &str) -> u16 {
        home_of(room, self.options.shards)
    }

    /// What shard `shard` must hear. The caller takes it away; its own shard's requests come back to it too.
    pub fn outgoing(&mut self, shard: u16) -> &mut Outgoing {
        &mut self.outgoing[shard as usize]
    }

    /// Bytes that the client's outbox holds: answers that it does not read.
    pub fn outbox_len(&self, slot: Slot) -> usize {
        self.clients[slot as usize].outbox.as_ref().map_or(0, |outbox| outbox.len())
    }

    /// Whether nothing is being sent for the client and nothing is owed to it.
    pub fn is_idle(&self, slot: Slot) -> bool {
        !self.clients[slot as usize].sending && !self.is_owed(slot)
    }

    /// Bytes that the outboxes of all clients hold.
    pub fn outbox_bytes(&self) -> usize {
        self.clients.iter().filter_map(|client| client.outbox.as_ref()).map(|outbox| outbox.len()).sum()
    }

    /// Number of rooms on this shard and the bytes that their logs hold.
    pub fn memory(&self) -> (usize, usize) {
        (self.rooms.len(), self.rooms.iter().map(|room| room.memory()).sum())
    }
}

impl Hub {
    fn set_compression(&mut self, slot: Slot, compression: Compression) {
        let client = &mut self.clients[slot as usize];
        debug_assert!(client.seats.is_empty(), "what a room sends a member depends on it");
        client.compression = compression;
    }

    fn send_bytes(&mut self, slot: Slot, parts: &[&[u8]], content: Content) {
        if self.clients[slot as usize].finished {
            return;
        }
        let (lag_window, now_ms) = (self.options.lag_window, self.now_ms);
        let outbox = self.append(slot, parts, content);
        // A burst alone makes nobody lag: only what waits for a client that takes nothing does.
        let limit = if now_ms - outbox.moved_ms < STALL_MS { lag_window * BURST } else { lag_window };
        if outbox.len() > limit && outbox.len() > total_len(parts) {
            let missed = outbox.clear();
            self.lag(slot, missed);
        }
        self.look_at(slot);
    }

    /// Puts bytes in the client's outbox.
    fn append(&mut self, slot: Slot, parts: &[&[u8]], content: Content) -> &mut Outbox {
        let (outbox, spares) = self.outbox(slot);
        outbox.append(parts, content, spares);
        outbox
    }

    /// The client's outbox, made when there is none, and the chunks that it may take.
    fn outbox(&mut self, slot: Slot) -> (&mut Outbox, &mut Spares) {
        let Self { clients, spare, spare_chunks, now_ms, .. } = self;
        let outbox = clients[slot as usize].outbox.get_or_insert_with(|| {
            let mut outbox = spare.pop().unwrap_or_default();
            outbox.moved_ms = *now_ms;
            outbox
        });
        (outbox, spare_chunks)
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
                Visit::Send(_, span, count) => self.outbox(slot).0.push(span, count),
                Visit::Lagged(slot, missed) => self.lag(slot, missed),
                Visit::Nothing | Visit::Over => return,
            }
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

/// Calls `with` with the message as one frame: its header, then its parts.
fn with_frame<R>(message: Message<'_>, with: impl FnOnce(&[&[u8]]) -> R) -> R {
    let header = encode_header(message.kind.opcode(), true, false, total_len(message.parts()));
    let mut parts = SmallVec::<[&[u8]; 8]>::new();
    parts.push(header.as_bytes());
    parts.extend_from_slice(message.parts());
    with(&parts)
}
