//! Rooms and the messages that each client still has to get. Pure logic, without sockets, clocks or threads.
//!
//! Every shard has a hub. A room has a **home** shard, chosen by a hash of its name, which puts the room's messages in
//! order. Every shard with members of the room keeps a copy of its log. A member is a cursor into that log. Frames for
//! one client alone lie in its outbox, a log with one reader.
//!
//! # Order of calls
//! 1. [`Hub::open`] when a connection begins, [`Hub::close`] when it is gone. In between, commands such as
//!    [`Hub::join`], [`Hub::send`] and [`Hub::publish`] change what the client gets.
//! 2. Once a turn [`Hub::tick`] with the time, and [`Hub::update_batching`] before the first send.
//! 3. [`Hub::poll_send`] until it returns `None`: each result is a send for the backend. When the backend has sent it,
//!    [`Hub::sent`]. A client has one send in flight at a time.
//! 4. [`Hub::outgoing`] has the messages for other shards. Their hubs handle them: [`Hub::order`], [`Hub::subscribe`]
//!    and [`Hub::unsubscribe`] on the room's home, [`Hub::snapshot`] and [`Hub::deliver`] on the members' shards. A
//!    shard handles its own requests in the same way.
//!
//! ```
//! # #[cfg(feature = "internals")]
//! # {
//! use uproar::hub::{Hub, HubOptions, Kind, Message, Request};
//!
//! let mut hub = Hub::new(HubOptions {
//!     shard: 0,
//!     shards: 1,
//!     lag_window: 1 << 20,
//!     history: 0,
//!     history_bytes: 0,
//!     history_ms: 0,
//!     history_memory: 0,
//!     compression_threshold: 128,
//! });
//! hub.open(7);
//! hub.join(7, "lobby", 0);
//! hub.publish("lobby", Message::text("hello"));
//!
//! let mut requests = std::mem::take(&mut hub.outgoing(0).requests);
//! requests.drain(|request, name, payload| {
//!     if let Request::Publish { room, kind, .. } = request {
//!         hub.order(name, room, Message::new(kind, payload));
//!     }
//! });
//!
//! let send = hub.poll_send(&mut 256).expect("the member gets the message");
//! assert_eq!((send.slot, send.span.bytes()), (7, &b"\x81\x05hello"[..]));
//! hub.sent(7);
//! # }
//! ```

mod batch;
mod delivery;
mod direct;
#[cfg(test)]
mod inspect;
mod log;
mod membership;
mod message;
mod order;
mod outbox;
mod room;
mod rooms;
mod shared;
mod spare_chunks;
#[cfg(test)]
mod tests;
mod times;

use std::collections::{HashMap, VecDeque};

use smallvec::SmallVec;

use crate::chunk::Span;
use crate::protocol::deflate::{Deflater, Window};
pub use crate::protocol::frame::Kind;
use crate::protocol::frame::encode_header;

pub use self::batch::{Batch, Delivery, Entry, Note, Request};
use self::membership::Membership;
pub use self::message::Message;
use self::outbox::Outbox;
pub use self::room::Slot;
pub use self::rooms::RoomKey;
use self::rooms::Rooms;
use self::spare_chunks::SpareChunks;

/// Visits after which the next room in the queue of passes gets its turn.
const SLICE: usize = 256;
/// Drained outboxes kept for the next clients that need one.
const SPARE_OUTBOXES: usize = 256;

/// The settings of a hub.
#[derive(Clone, Debug)]
pub struct HubOptions {
    /// Index of this shard.
    pub shard: u16,
    /// Number of shards.
    pub shards: u16,
    /// Bytes that a client may be behind in a room, or leave in its outbox without taking any, before it has lagged.
    pub lag_window: usize,
    /// Number of messages that a room keeps for newcomers.
    pub history: u32,
    /// Bytes of messages that a room keeps for newcomers.
    pub history_bytes: usize,
    /// Time that a room keeps them after its last member left, in milliseconds.
    pub history_ms: u64,
    /// Bytes that the logs of all rooms may take before histories are dropped. 0 means no limit.
    pub history_memory: usize,
    /// Length in bytes from which a message is compressed for clients that accept it.
    pub compression_threshold: usize,
}

impl HubOptions {
    /// The options with values that contradict each other set right: without history there is no time to keep it.
    fn settled(self) -> Self {
        Self { history_ms: if self.history == 0 { 0 } else { self.history_ms }, ..self }
    }
}

/// The form in which a client gets its messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Encoding {
    /// Uncompressed.
    #[default]
    Plain,
    /// Compressed once for all clients, without reference to other messages.
    Shared,
    /// Compressed for this client alone.
    Dedicated,
}

/// The compression state of one client with [`Encoding::Dedicated`].
#[derive(Debug)]
struct Dedicated {
    window: Window,
    /// Whether a message may refer to earlier ones.
    takeover: bool,
}

/// Bytes to send to a client.
#[derive(Debug)]
pub struct Outbound {
    /// The client's connection.
    pub slot: Slot,
    /// Whole frames, or an HTTP response.
    pub span: Span,
    /// Number of messages of rooms among the frames.
    pub messages: u64,
    /// Whether nothing follows, because [`Hub::finish`] was called.
    pub is_last: bool,
}

/// A client that read too slowly.
#[derive(Debug, PartialEq, Eq)]
pub struct Lagged {
    /// The client's connection.
    pub slot: Slot,
    /// Number of messages that the client will not get.
    pub missed: u64,
}

/// The batches for one other shard.
#[derive(Debug, Default)]
pub struct Outgoing {
    /// Requests to that shard as the home of rooms.
    pub requests: Batch<Request>,
    /// Deliveries to the members on that shard.
    pub deliveries: Batch<Delivery>,
}

impl Outgoing {
    /// Whether both batches are empty.
    pub fn is_empty(&self) -> bool {
        self.requests.is_empty() && self.deliveries.is_empty()
    }
}

/// Identifies a client of any shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ClientId {
    /// The shard of its connection.
    pub shard: u16,
    /// Index of the connection on that shard. A later connection may get the index of a closed one.
    pub slot: Slot,
    /// Number of the connection, unique in the server's life, beginning with 1.
    pub number: u64,
}

/// A connection as the hub knows it. An idle one in one room owns no memory beyond this.
#[derive(Debug, Default)]
struct Client {
    /// Number of the connection, 0 when the slot is free.
    number: u64,
    outbox: Option<Box<Outbox>>,
    memberships: SmallVec<[Membership; 2]>,
    encoding: Encoding,
    /// Whether the client has a send in flight.
    sending: bool,
    /// Whether the client is in the queue `ready`.
    queued: bool,
    /// Whether [`Hub::finish`] was called: the client can neither be sent anything nor join rooms.
    finished: bool,
}

impl Client {
    /// Whether a send is in flight, or something waits that goes before the messages of rooms.
    fn is_busy(&self) -> bool {
        self.sending || self.outbox.as_ref().is_some_and(|outbox| outbox.len() > 0)
    }
}

/// The rooms and clients of one shard. The module's documentation explains the order of calls.
#[derive(Debug)]
pub struct Hub {
    options: HubOptions,
    clients: Vec<Client>,
    rooms: Rooms,
    /// Clients to check for something to send, outside their rooms' passes.
    ready: VecDeque<Slot>,
    /// Rooms that have a pass in progress or due. Some may have been forgotten since.
    passes: VecDeque<RoomKey>,
    /// Visits left for the first room of `passes`.
    slice: usize,
    /// Messages of rooms that came since the last turn.
    new_messages: u32,
    /// Turns that rooms have waited for more messages, 0 while they do not wait.
    batched_turns: u32,
    /// Turns for which further messages are expected.
    busy_turns: u32,
    /// Clients that lagged, with their numbers: the slot may belong to another connection by now.
    lagged: VecDeque<(u64, Lagged)>,
    outgoing: Vec<Outgoing>,
    /// Number of rooms that make publishers wait.
    saturated: usize,
    #[expect(clippy::vec_box, reason = "the box itself moves from client to client")]
    spare_outboxes: Vec<Box<Outbox>>,
    spare_chunks: SpareChunks,
    deflater: Deflater,
    /// Clients with [`Encoding::Dedicated`].
    dedicated: HashMap<Slot, Dedicated>,
    /// Number of connections opened so far.
    opened: u64,
    now_ms: u64,
    /// Time for which the hub has watched how clients read. A pause of the process within a wait adds less than the
    /// time after which a client stalls.
    watched_ms: u64,
}

impl Hub {
    /// Returns a hub without rooms and clients.
    pub fn new(options: HubOptions) -> Self {
        Self {
            clients: Vec::new(),
            rooms: Rooms::default(),
            ready: VecDeque::new(),
            passes: VecDeque::new(),
            slice: SLICE,
            new_messages: 0,
            batched_turns: 0,
            busy_turns: 0,
            lagged: VecDeque::new(),
            outgoing: (0..options.shards).map(|_| Outgoing::default()).collect(),
            saturated: 0,
            spare_outboxes: Vec::new(),
            spare_chunks: SpareChunks::default(),
            deflater: Deflater::new(options.compression_threshold),
            dedicated: HashMap::new(),
            options: options.settled(),
            opened: 0,
            now_ms: 0,
            watched_ms: 0,
        }
    }

    /// Replaces the options. `shard` and `shards` must stay. A room that holds more history than the new options allow
    /// drops it at its next use; a room without members keeps it until the end of the time that was set.
    pub fn set_options(&mut self, options: HubOptions) {
        let is_same = (options.shard, options.shards) == (self.options.shard, self.options.shards);
        debug_assert!(is_same, "the number of shards decides where rooms have their home");
        self.deflater.set_threshold(options.compression_threshold);
        self.options = options.settled();
    }

    /// Begins a connection at `slot`.
    pub fn open(&mut self, slot: Slot) -> ClientId {
        let index = slot as usize;
        if index >= self.clients.len() {
            self.clients.resize_with(index + 1, Client::default);
        }
        // The slot may still be queued for its former client. That costs one needless check.
        let queued = self.clients[index].queued;
        let HubOptions { shard, shards, .. } = self.options;
        let number = self.opened * u64::from(shards) + u64::from(shard) + 1;
        self.opened += 1;
        self.clients[index] = Client { number, queued, ..Client::default() };
        ClientId { shard, slot, number }
    }

    /// Sends the client compressed messages from now on, which every client can read. Call it before the client joins
    /// a room.
    pub fn compress(&mut self, slot: Slot) {
        self.set_encoding(slot, Encoding::Shared);
    }

    /// Sends the client messages that are compressed for it alone, for a window of 2^`window_bits` bytes. With
    /// `takeover` they may refer to earlier messages. Call it before the client joins a room.
    pub fn compress_dedicated(&mut self, slot: Slot, window_bits: u8, takeover: bool) {
        self.set_encoding(slot, Encoding::Dedicated);
        self.dedicated.insert(slot, Dedicated { window: Window::new(window_bits), takeover });
    }

    fn set_encoding(&mut self, slot: Slot, encoding: Encoding) {
        let client = &mut self.clients[slot as usize];
        debug_assert!(client.memberships.is_empty(), "a room sends a member what its encoding asks for");
        client.encoding = encoding;
    }

    /// The client at `slot`.
    pub fn client(&self, slot: Slot) -> ClientId {
        ClientId { shard: self.options.shard, slot, number: self.clients[slot as usize].number }
    }

    /// The slot of a client, if it is on this shard, still connected and not finished.
    pub fn find(&self, id: ClientId) -> Option<Slot> {
        let client = self.clients.get(id.slot as usize)?;
        let is_it = id.shard == self.options.shard && client.number == id.number && !client.finished;
        is_it.then_some(id.slot)
    }

    /// Ends the connection at `slot`, which has no send in flight.
    pub fn close(&mut self, slot: Slot) {
        self.leave_all(slot, false);
        let client = &mut self.clients[slot as usize];
        if client.encoding == Encoding::Dedicated {
            self.dedicated.remove(&slot);
        }
        *client = Client { queued: client.queued, ..Client::default() };
    }

    /// Sends a message to the room's home shard, which may be this one, and from there to all members.
    pub fn publish(&mut self, room: &str, message: Message<'_>) {
        let (home, key) = match self.rooms.find(room) {
            Some(id) => (self.rooms[id].home_shard, self.rooms[id].home_key),
            None => (self.home_of(room), None),
        };
        self.outgoing[home as usize].requests.publish(room, key, message);
    }

    /// Publishes a message to every room that the client is a member of.
    pub fn publish_from(&mut self, slot: Slot, message: Message<'_>) {
        for membership in &self.clients[slot as usize].memberships {
            let room = &self.rooms[membership.room];
            self.outgoing[room.home_shard as usize].requests.publish(&room.name, room.home_key, message);
        }
    }

    /// The shard that orders the messages of `room`. Applications may divide other names among shards by it, too.
    pub fn home_of(&self, room: &str) -> u16 {
        home_of(room, self.options.shards)
    }

    /// The batches for shard `shard`, which the caller takes away. Those for this shard come back to its own hub.
    pub fn outgoing(&mut self, shard: u16) -> &mut Outgoing {
        &mut self.outgoing[shard as usize]
    }

    /// Bytes in the outboxes of all clients.
    pub fn outbox_bytes(&self) -> usize {
        self.clients.iter().filter_map(|client| client.outbox.as_ref()).map(|outbox| outbox.len()).sum()
    }

    /// Number of rooms on this shard, and the memory of their logs in bytes.
    pub fn memory(&self) -> (usize, usize) {
        (self.rooms.len(), self.rooms.iter().map(|room| room.memory()).sum())
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

/// Calls `with` with the parts of the message's frame: the header, then the payload.
fn with_frame<R>(message: Message<'_>, with: impl FnOnce(&[&[u8]]) -> R) -> R {
    let header = encode_header(message.kind.opcode(), true, false, total_len(message.parts()));
    let mut parts = SmallVec::<[&[u8]; 8]>::new();
    parts.push(header.as_bytes());
    parts.extend_from_slice(message.parts());
    with(&parts)
}
