//! The hub: the rooms of a shard, and the messages that each client still has to get. Pure logic, without sockets,
//! clocks or threads.
//!
//! Every shard has a hub. A room has a **home** shard, chosen by a hash of the room's name. The home shard puts the
//! room's messages in order. Every shard with members of the room keeps a copy of the room's log. A member is a cursor
//! into that log. Frames for one client alone wait in the client's outbox, a log with one reader.
//!
//! # Order of calls
//! 1. [`Hub::open`] when a connection begins, [`Hub::close`] when it is gone. In between, commands such as
//!    [`Hub::join`], [`Hub::send`] and [`Hub::publish`] change what the client gets.
//! 2. Once a turn [`Hub::tick`] with the time, and [`Hub::update_batching`] before the first send.
//! 3. [`Hub::poll_send`] until it returns `None`: each result is a send for the backend. When the backend has sent it,
//!    [`Hub::sent`]. A client has one send in flight at a time.
//! 4. [`Hub::outgoing`] has the messages for other shards. The hubs there handle requests with [`Hub::order`],
//!    [`Hub::subscribe`] and [`Hub::unsubscribe`] on the room's home, and deliveries with [`Hub::snapshot`] and
//!    [`Hub::deliver`] on the members' shards. A shard handles its requests to itself with these methods, too.
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
//!     max_rooms: 1_000,
//!     occupancy: false,
//!     member_reports: false,
//!     session_ms: 0,
//!     ack_ms: 0,
//!     max_sessions: 0,
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
mod history;
#[cfg(test)]
mod inspect;
mod kept;
mod links;
mod log;
mod member_reports;
mod members;
mod membership;
mod memberships;
mod message;
mod occupancy;
mod order;
mod outbox;
mod outgoing;
mod resume;
mod room;
mod rooms;
mod sessions;
mod shared;
mod spare_chunks;
#[cfg(test)]
mod tests;
mod times;
mod users;

use std::collections::{HashMap, VecDeque};
use std::num::NonZeroU64;

use smallvec::SmallVec;

use crate::chunk::Span;
use crate::protocol::deflate::{Deflater, Window};
pub use crate::protocol::frame::Kind;
use crate::protocol::frame::encode_header;

pub use self::batch::{Batch, Delivery, Entry, MembersPart, Note, Request, Snapshot, UserClient, UserPart};
pub use self::history::History;
pub use self::kept::{KeptMessage, KeptPage};
use self::links::Links;
pub use self::links::MAX_SESSION_STATE;
pub use self::members::{MembersPage, MembersQuery};
use self::memberships::Memberships;
pub use self::message::{Message, Position};
pub use self::occupancy::Occupancy;
use self::outbox::Outbox;
pub use self::outgoing::Outgoing;
use self::outgoing::Outgoings;
pub(crate) use self::outgoing::Weights;
pub use self::resume::{RangePart, Resumed};
pub use self::room::Slot;
pub use self::rooms::RoomKey;
use self::rooms::Rooms;
use self::sessions::Sessions;
pub use self::sessions::{SessionCounts, SessionKey, SessionRecord, SessionReply, SessionRequest};
use self::spare_chunks::SpareChunks;
use self::users::Users;
pub use self::users::{UserAction, is_user};

/// Number of member visits after which the next room in the queue of passes gets its turn.
const SLICE: usize = 256;
/// Maximum number of empty outboxes kept for clients that need an outbox later.
const SPARE_OUTBOXES: usize = 256;

/// Settings of a [`Hub`]: the shard, and the limits for lag, history and compression.
#[derive(Clone, Debug)]
pub struct HubOptions {
    /// Index of this shard.
    pub shard: u16,
    /// Number of shards of the server.
    pub shards: u16,
    /// Lag limit in bytes. A client lags when it is further behind in a room's log. It also lags when more bytes wait
    /// in its outbox while the client takes none.
    pub lag_window: usize,
    /// Maximum number of messages that a room keeps for clients that join later. 0 means no history. A room may have
    /// its own limits, see [`Hub::set_history`].
    pub history: u32,
    /// Maximum size, in bytes, of the messages that a room keeps for clients that join later.
    pub history_bytes: usize,
    /// Time in milliseconds that a room keeps its history after its last member left.
    pub history_ms: u64,
    /// Memory limit in bytes for the logs of all rooms on this shard. Above it, histories are dropped. 0 means no
    /// limit.
    pub history_memory: usize,
    /// Minimum length in bytes of a message that is compressed for clients that accept compression.
    pub compression_threshold: usize,
    /// Maximum number of rooms of a client.
    pub max_rooms: usize,
    /// Whether the hub reports rooms that get their first member or lose their last one.
    pub occupancy: bool,
    /// Whether the hub reports members of rooms to the rooms' home shards, with [`Request::Member`].
    pub member_reports: bool,
    /// Time in milliseconds for which a session waits for its client's return, and for which its rooms keep messages. 0
    /// means no sessions.
    pub session_ms: u64,
    /// Minimum interval in milliseconds between two pings that ask a client with a session what it has got.
    pub ack_ms: u64,
    /// Maximum number of sessions whose home is this shard.
    pub max_sessions: usize,
}

impl HubOptions {
    /// Returns the options without contradictions: `history_ms` becomes 0 when `history` is 0.
    fn settled(self) -> Self {
        Self { history_ms: if self.history == 0 { 0 } else { self.history_ms }, ..self }
    }
}

/// The form in which a client gets its messages: plain, shared compressed, or dedicated compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Encoding {
    /// Plain encoding: the client gets uncompressed messages.
    #[default]
    Plain,
    /// Shared encoding: each message is compressed once for all clients, without reference to other messages.
    Shared,
    /// Dedicated encoding: messages are compressed for this client alone when they leave.
    Dedicated,
}

/// The compression state of one client with [`Encoding::Dedicated`].
#[derive(Debug)]
struct Dedicated {
    window: Window,
    /// Whether a compressed message may refer to earlier messages (context takeover).
    takeover: bool,
}

/// Bytes to send to one client, as [`Hub::poll_send`] returns them.
#[derive(Debug)]
pub struct Outbound {
    /// Slot of the client's connection.
    pub slot: Slot,
    /// The bytes to send: whole WebSocket frames, or an HTTP response.
    pub span: Span,
    /// Number of room messages in `span`. Messages sent to this client alone are not counted.
    pub messages: u64,
    /// Whether `span` has the client's last bytes: [`Hub::finish`] was called, and nothing else is pending.
    pub is_last: bool,
}

/// Report about a client that read too slowly and misses messages.
#[derive(Debug, PartialEq, Eq)]
pub struct Lagged {
    /// Slot of the client's connection.
    pub slot: Slot,
    /// Number of messages that the client will not get.
    pub missed: u64,
}

/// Report about a client that gets the history of a room because it joined the room.
#[derive(Debug, PartialEq, Eq)]
pub struct Replay {
    /// Slot of the client's connection.
    pub slot: Slot,
    /// Size of the history in bytes, before compression.
    pub bytes: usize,
}

/// Identifier of a client, unique on the whole server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ClientId {
    /// Index of the shard that owns the client's connection.
    pub shard: u16,
    /// Index of the connection on its shard. A later connection may get the index of a closed connection.
    pub slot: Slot,
    /// Number of the connection, from 1 on, unique for the server's lifetime.
    pub number: u64,
}

/// Compact identifier of a client, from which [`Hub::identify`] makes a [`ClientId`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientNumber {
    slot: Slot,
    number: NonZeroU64,
}

impl ClientNumber {
    /// Returns the compact identifier of a client. `None` for an identifier that no client ever had.
    pub fn of(client: ClientId) -> Option<Self> {
        NonZeroU64::new(client.number).map(|number| Self { slot: client.slot, number })
    }
}

/// The clients that a published message has to do with.
#[derive(Clone, Copy, Debug, Default)]
pub struct Origin {
    /// The client whose message or event made the application publish.
    pub sender: Option<ClientNumber>,
    /// The client that does not get the message, although it is a member of the room.
    pub except: Option<ClientNumber>,
}

/// The hub's state of one connection. An idle connection in one or two rooms owns no memory beyond this struct.
#[derive(Debug, Default)]
struct Client {
    /// Number of the connection in this slot, 0 when the slot is free.
    number: u64,
    outbox: Option<Box<Outbox>>,
    memberships: Memberships,
    encoding: Encoding,
    /// Whether the client has a send in flight.
    sending: bool,
    /// Whether the queue `Hub::ready` contains the client.
    queued: bool,
    /// Whether [`Hub::finish`] was called. A finished client gets nothing new and joins no rooms.
    finished: bool,
    /// Whether `Hub::links` has a session of the client.
    has_session: bool,
}

impl Client {
    /// Returns whether a send to the client is in flight, or its outbox has bytes, which go before room messages.
    fn is_busy(&self) -> bool {
        self.sending || self.outbox.as_ref().is_some_and(|outbox| outbox.len() > 0)
    }
}

/// All rooms and clients of one shard. The module's documentation explains the order of calls.
#[derive(Debug)]
pub struct Hub {
    options: HubOptions,
    clients: Vec<Client>,
    rooms: Rooms,
    users: Users,
    /// Sessions of this shard's clients.
    links: Links,
    /// Sessions whose home is this shard.
    sessions: Sessions,
    /// Reports for [`Hub::poll_resumed`].
    resumed: VecDeque<Resumed>,
    /// Queue of clients that [`Hub::poll_send`] checks before it continues the passes over rooms.
    ready: VecDeque<Slot>,
    /// Queue of rooms that have a pass in progress or due. A queued room may no longer exist.
    passes: VecDeque<RoomKey>,
    /// Number of member visits left for the first room of `passes` before the next room gets its turn.
    slice: usize,
    /// Number of room messages that arrived since the last [`Hub::update_batching`].
    new_messages: u32,
    /// Number of turns for which rooms have delayed sends to gather more messages. 0 means that rooms do not wait.
    batched_turns: u32,
    /// Number of coming turns in which the hub expects more messages.
    busy_turns: u32,
    /// Reports for [`Hub::poll_lagged`], each with its connection's number: the slot may belong to another connection
    /// by now.
    lagged: VecDeque<(u64, Lagged)>,
    /// Reports for [`Hub::poll_replay`].
    replays: Vec<Replay>,
    outgoing: Outgoings,
    /// Rooms for [`Hub::poll_new_room`]. A room in the list may no longer exist.
    new_rooms: Vec<RoomKey>,
    /// Whether rooms may keep a history, so that the hub counts their memory.
    keeps_histories: bool,
    /// Reports for [`Hub::poll_occupancy`], in order.
    occupancies: VecDeque<Occupancy>,
    /// Whether a message was published to a saturated room since the last [`Hub::take_overload`].
    overloaded: bool,
    /// Number of saturated rooms. Publishers to a saturated room must wait.
    saturated: usize,
    #[expect(clippy::vec_box, reason = "the box itself moves from client to client")]
    spare_outboxes: Vec<Box<Outbox>>,
    spare_chunks: SpareChunks,
    deflater: Deflater,
    /// Compression states of the clients with [`Encoding::Dedicated`], by slot.
    dedicated: HashMap<Slot, Dedicated>,
    /// Number of connections opened on this shard so far.
    opened: u64,
    now_ms: u64,
    /// Time, in milliseconds, for which the hub has watched whether clients read. A tick adds at most half of
    /// `STALL_MS`, so a pause of the process alone makes no client count as stalled.
    watched_ms: u64,
}

impl Hub {
    /// Creates a hub without rooms and clients.
    pub fn new(options: HubOptions) -> Self {
        Self {
            clients: Vec::new(),
            rooms: Rooms::default(),
            users: Users::default(),
            links: Links::default(),
            sessions: Sessions::default(),
            resumed: VecDeque::new(),
            ready: VecDeque::new(),
            passes: VecDeque::new(),
            slice: SLICE,
            new_messages: 0,
            batched_turns: 0,
            busy_turns: 0,
            lagged: VecDeque::new(),
            replays: Vec::new(),
            outgoing: Outgoings::new(options.shards),
            new_rooms: Vec::new(),
            keeps_histories: options.history > 0,
            occupancies: VecDeque::new(),
            overloaded: false,
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

    /// Replaces the options. `shard` and `shards` must not change. A room with more history than the new limits allow
    /// drops the excess at its next use. A room without members keeps its history until its timer expires.
    pub fn set_options(&mut self, options: HubOptions) {
        let is_same = (options.shard, options.shards) == (self.options.shard, self.options.shards);
        debug_assert!(is_same, "the number of shards decides where rooms have their home");
        self.deflater.set_threshold(options.compression_threshold);
        self.keeps_histories |= options.history > 0;
        self.options = options.settled();
    }

    /// Sets the base of the rooms' epochs, before the first room exists. A random base makes the epochs of two runs of a
    /// server differ.
    pub fn set_epoch_base(&mut self, base: u64) {
        self.rooms.epoch_base = base;
    }

    /// Registers a new connection at `slot`, and returns its identifier.
    pub fn open(&mut self, slot: Slot) -> ClientId {
        let index = slot as usize;
        if index >= self.clients.len() {
            self.clients.resize_with(index + 1, Client::default);
        }
        // The queue `ready` may still contain the slot for its former client. The leftover entry costs one needless
        // check.
        let queued = self.clients[index].queued;
        let HubOptions { shard, shards, .. } = self.options;
        let number = self.opened * u64::from(shards) + u64::from(shard) + 1;
        self.opened += 1;
        self.clients[index] = Client { number, queued, ..Client::default() };
        ClientId { shard, slot, number }
    }

    /// Sets the client's encoding to [`Encoding::Shared`]. Call this method before the client joins a room.
    pub fn compress(&mut self, slot: Slot) {
        self.set_encoding(slot, Encoding::Shared);
    }

    /// Sets the client's encoding to [`Encoding::Dedicated`], with a window of 2^`window_bits` bytes. With `takeover` a
    /// compressed message may refer to earlier messages. Call this method before the client joins a room.
    pub fn compress_dedicated(&mut self, slot: Slot, window_bits: u8, takeover: bool) {
        self.set_encoding(slot, Encoding::Dedicated);
        self.dedicated.insert(slot, Dedicated { window: Window::new(window_bits), takeover });
    }

    fn set_encoding(&mut self, slot: Slot, encoding: Encoding) {
        let client = &mut self.clients[slot as usize];
        debug_assert!(client.memberships.is_empty(), "a room sends a member what its encoding asks for");
        client.encoding = encoding;
    }

    /// Returns the identifier of the client at `slot`.
    pub fn client(&self, slot: Slot) -> ClientId {
        ClientId { shard: self.options.shard, slot, number: self.clients[slot as usize].number }
    }

    /// Returns the client's slot. `None` if the client is on another shard, gone, or finished.
    pub fn find(&self, id: ClientId) -> Option<Slot> {
        self.find_leaving(id).filter(|slot| !self.clients[*slot as usize].finished)
    }

    /// Returns the slot of a client that may be finished. `None` if the client is on another shard or gone.
    pub fn find_leaving(&self, id: ClientId) -> Option<Slot> {
        let client = self.clients.get(id.slot as usize)?;
        (id.shard == self.options.shard && client.number == id.number).then_some(id.slot)
    }

    /// Returns the identifier of a client on any shard.
    pub fn identify(&self, ClientNumber { slot, number }: ClientNumber) -> ClientId {
        let shard = ((number.get() - 1) % u64::from(self.options.shards)) as u16;
        ClientId { shard, slot, number: number.get() }
    }

    /// Removes the connection at `slot` and everything pending for it. No send to it may be in flight.
    pub fn close(&mut self, slot: Slot) {
        self.leave_all(slot, false);
        self.detach(slot);
        self.clear_user(slot);
        let client = &mut self.clients[slot as usize];
        if client.encoding == Encoding::Dedicated {
            self.dedicated.remove(&slot);
        }
        *client = Client { queued: client.queued, ..Client::default() };
    }

    /// Adds a message to the requests for the room's home shard, which may be this shard. The home forwards the message
    /// to all members.
    pub fn publish(&mut self, room: &str, message: Message<'_>) {
        self.publish_as(room, message, Origin::default());
    }

    /// Works like [`Hub::publish`], for a message with a sender, or with a client that does not get it.
    pub fn publish_as(&mut self, room: &str, message: Message<'_>, origin: Origin) {
        let (home, key) = match self.rooms.find(room) {
            Some(id) => {
                self.overloaded |= self.rooms[id].saturated;
                (self.rooms[id].home_shard, self.rooms[id].home_key)
            }
            None => (self.home_of(room), None),
        };
        self.outgoing.request(home, |batch| batch.publish(room, key, message, origin));
    }

    /// Publishes a message to every room of which the client at `slot` is a member.
    pub fn publish_from(&mut self, slot: Slot, message: Message<'_>) {
        self.publish_from_as(slot, message, Origin::default());
    }

    /// Works like [`Hub::publish_from`], for a message with a sender.
    pub fn publish_from_as(&mut self, slot: Slot, message: Message<'_>, origin: Origin) {
        for membership in self.clients[slot as usize].memberships.iter() {
            let room = &self.rooms[membership.room];
            self.overloaded |= room.saturated;
            let add = |batch: &mut Batch<Request>| batch.publish(&room.name, room.home_key, message, origin);
            self.outgoing.request(room.home_shard, add);
        }
    }

    /// Returns the home shard of `room`: the shard that orders the room's messages. Applications may also use this
    /// function to divide other names among shards.
    pub fn home_of(&self, room: &str) -> u16 {
        home_of(room, self.options.shards)
    }

    /// Returns the batches for the destination `shard`. The caller takes their entries and passes them to the
    /// destination's hub. Batches for this shard go back to this hub.
    pub fn outgoing(&mut self, shard: u16) -> &mut Outgoing {
        self.outgoing.at(shard)
    }

    /// Sends a note to the application instance of `shard`, as a request. The note owns `heap_bytes` bytes on the heap
    /// in addition to its own size.
    pub(crate) fn ask(&mut self, shard: u16, note: Note, heap_bytes: usize) {
        self.outgoing.request(shard, |batch| batch.note(note, heap_bytes));
    }

    /// Sends a note to the application instance of `shard`, as a delivery. The note owns `heap_bytes` bytes on the heap
    /// in addition to its own size.
    pub(crate) fn tell(&mut self, shard: u16, note: Note, heap_bytes: usize) {
        self.outgoing.delivery(shard, |batch| batch.note(note, heap_bytes));
    }

    /// Returns the memory of all batches in [`Hub::outgoing`]: the exact sum at the last [`Hub::weigh_outgoing`] and
    /// all additions since.
    pub(crate) fn outgoing_weights(&self) -> Weights {
        self.outgoing.weights()
    }

    /// Adds up the memory of all batches again. Call this after batches were taken from [`Hub::outgoing`].
    pub(crate) fn weigh_outgoing(&mut self) {
        self.outgoing.weigh();
    }

    /// Returns the number of bytes in the outboxes of all clients.
    pub fn outbox_bytes(&self) -> usize {
        self.clients.iter().filter_map(|client| client.outbox.as_ref()).map(|outbox| outbox.len()).sum()
    }

    /// Returns the number of rooms on this shard, and the memory of their logs in bytes.
    pub fn memory(&self) -> (usize, usize) {
        (self.rooms.len(), self.rooms.iter().map(|room| room.memory()).sum())
    }
}

/// Returns the home shard of `room`, by a hash of its name. The result is equal on every shard.
pub(crate) fn home_of(room: &str, shards: u16) -> u16 {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    room.hash(&mut hasher);
    (hasher.finish() % u64::from(shards)) as u16
}

fn total_len(parts: &[&[u8]]) -> usize {
    parts.iter().map(|part| part.len()).sum()
}

/// Encodes a frame with the message and calls `with` with the frame's parts: the header, then the payload.
fn with_frame<R>(message: Message<'_>, with: impl FnOnce(&[&[u8]]) -> R) -> R {
    let header = encode_header(message.kind.opcode(), true, false, total_len(message.parts()));
    let mut parts = SmallVec::<[&[u8]; 8]>::new();
    parts.push(header.as_bytes());
    parts.extend_from_slice(message.parts());
    with(&parts)
}
