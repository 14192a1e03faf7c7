//! Messages between shards. Per turn, each destination shard gets at most one batch of requests and one of deliveries.

use std::any::Any;
use std::collections::VecDeque;

use super::history::History;
use super::members::{MembersPage, MembersQuery};
use super::resume::RangePart;
use super::rooms::RoomKey;
use super::sessions::{SessionReply, SessionRequest};
use super::users::UserAction;
use super::{ClientId, ClientNumber, Kind, Message, Origin, Position};

/// Maximum capacity, in bytes, that a drained batch keeps for names and for payloads.
const KEPT_BYTES: usize = 256 << 10;
/// Maximum capacity, in entries, that a drained batch keeps.
const KEPT_ENTRIES: usize = 4 << 10;

/// Weight of a batch entry in addition to its name and payload, in bytes: about its memory, including a small note.
const ENTRY_WEIGHT: usize = 256;

/// Note: a value that one instance of an application sends another instance. The engine does not look at it.
pub type Note = Box<dyn Any + Send>;

/// A batch: entries of type `E` for one destination shard, in order.
#[derive(Debug)]
pub struct Batch<E> {
    entries: VecDeque<E>,
    /// The room names of all entries, concatenated in order. Those before `names_start` belong to drained entries.
    names: String,
    names_start: usize,
    /// The payloads of all entries, concatenated in order. Those before `bytes_start` belong to drained entries.
    bytes: Vec<u8>,
    bytes_start: usize,
    /// Memory of the entries in bytes: see [`Batch::weight`].
    weight: usize,
}

/// Request to a room's home shard. Handling a request can cause deliveries.
#[derive(Debug)]
pub enum Request {
    /// Subscribe request: asks the home shard for the room's history and all further messages.
    Subscribe {
        /// Length of the room's name in bytes.
        name_len: usize,
        /// The subscribing shard's key of the room, to which the home shard addresses deliveries.
        subscriber: RoomKey,
    },
    /// Unsubscribe request: ends the sending shard's subscription to the room.
    Unsubscribe {
        /// Length of the room's name in bytes.
        name_len: usize,
    },
    /// Publish request: a message that the home shard numbers and forwards to all members.
    Publish {
        /// Length of the room's name in bytes.
        name_len: usize,
        /// The home shard's key of the room, if the publisher knows it. With the key the home does not look the room up
        /// by name.
        room: Option<RoomKey>,
        /// Type of the message: text or binary.
        kind: Kind,
        /// Length of the message's payload in bytes.
        payload_len: usize,
        /// The clients that the message has to do with: its sender, and a client that does not get it.
        origin: Origin,
    },
    /// Question for the members of a room on the destination shard, which answers with a delivery.
    Members {
        /// Length of the room's name in bytes.
        name_len: usize,
        /// The list of which the answer is a part.
        query: MembersQuery,
    },
    /// Number of clients that the sending shard has of a user, for the user's home shard.
    CountUser {
        /// Length of the user's identifier in bytes. The identifier stands in place of a room's name.
        name_len: usize,
        /// The number of clients.
        count: u32,
    },
    /// Action on all clients of a user, which the user's home shard passes on.
    User {
        /// Length of the user's identifier in bytes. The identifier stands in place of a room's name.
        name_len: usize,
        /// Length of the action's payload in bytes.
        payload_len: usize,
        /// The action.
        action: UserAction,
    },
    /// Question for the clients of a user on the destination shard, which answers with a delivery.
    UserClients {
        /// Length of the user's identifier in bytes. The identifier stands in place of a room's name.
        name_len: usize,
        /// Number of the list of which the answer is a part.
        list: u64,
    },
    /// Report about a member of a room, for the room's home shard. The payload is the client's user, if it has one.
    Member {
        /// Length of the room's name in bytes.
        name_len: usize,
        /// Length of the user's identifier in bytes, 0 for a client without a user.
        payload_len: usize,
        /// The client.
        client: ClientNumber,
        /// Whether the client is a member now.
        is_here: bool,
    },
    /// Report that the sending shard has got its first member with a session in a room, or lost its last one.
    Retain {
        /// Length of the room's name in bytes.
        name_len: usize,
        /// Whether the shard has such members now.
        begins: bool,
    },
    /// Question for the messages of a room from a session's position on, which the home shard answers with a delivery.
    Range {
        /// Length of the room's name in bytes.
        name_len: usize,
        /// The asking shard's key of the room.
        subscriber: RoomKey,
        /// The client that continues in the room.
        client: ClientNumber,
        /// The first message that the client has not acknowledged.
        position: Position,
    },
    /// Request about a session whose home is the destination shard.
    Session(Box<SessionRequest>),
    /// Note for the application instance of the destination shard. The instance may answer with a delivery.
    Note(Note),
}

/// Delivery from a room's home shard. Handling a delivery causes no deliveries, so a shard can always take deliveries,
/// and two shards never wait for each other. A snapshot, a note, a reply about a session, and an action on a user's
/// clients may cause requests.
#[derive(Debug)]
pub enum Delivery {
    /// Snapshot: the answer to [`Request::Subscribe`], with the frames of the room's history.
    Snapshot(Box<Snapshot>),
    /// Frame: the next message of a room, encoded.
    Frame {
        /// The subscribing shard's key of the room.
        room: RoomKey,
        /// Number of the message in the room's order.
        number: u64,
        /// Length of the encoded frame in bytes.
        frame_len: usize,
        /// The client of the receiving shard that does not get the message.
        except: Option<ClientNumber>,
    },
    /// Answer to [`Request::Members`].
    Members(Box<MembersPart>),
    /// Action on the clients that the destination shard has of a user.
    User {
        /// Length of the user's identifier in bytes.
        name_len: usize,
        /// Length of the action's payload in bytes.
        payload_len: usize,
        /// The action.
        action: UserAction,
    },
    /// Answer to [`Request::UserClients`].
    UserClients(Box<UserPart>),
    /// Answer to [`Request::Range`], with the frames.
    Range(Box<RangePart>),
    /// Reply about a session, mostly to a [`Request::Session`].
    Session(Box<SessionReply>),
    /// Note that answers another instance's note.
    Note(Note),
}

/// The members of a room on one shard, as part of a list.
#[derive(Debug)]
pub struct MembersPart {
    /// Number of the list, from the query.
    pub list: u64,
    /// The shard of the members.
    pub shard: u16,
    /// The members.
    pub page: MembersPage,
    /// The application's description of each listed member, in the order of `page`.
    pub descriptions: Vec<String>,
}

/// The clients of a user on one shard, as part of a list.
#[derive(Debug)]
pub struct UserPart {
    /// Number of the list, from the question.
    pub list: u64,
    /// Number of all clients of the user on the shard.
    pub count: u32,
    /// The listed clients.
    pub clients: Vec<UserClient>,
}

/// A client of a user with its rooms.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserClient {
    /// The client.
    pub client: ClientId,
    /// Names of rooms of which the client is a member, sorted.
    pub rooms: Vec<String>,
    /// Number of all rooms of which the client is a member.
    pub room_count: u32,
}

/// The state of a room that a shard gets when it subscribes, without the frames of the history.
#[derive(Debug)]
pub struct Snapshot {
    /// The subscribing shard's key of the room.
    pub room: RoomKey,
    /// The home shard's key of the room, valid until the subscription ends.
    pub home: RoomKey,
    /// Limits of the room's history. `None` means those of the options.
    pub history: Option<History>,
    /// Message number of the first frame. Without frames, the number of the room's next message.
    pub first: u64,
    /// Length of each encoded frame in bytes.
    pub frame_lens: Vec<u32>,
}

impl<E> Default for Batch<E> {
    fn default() -> Self {
        Self {
            entries: VecDeque::new(),
            names: String::new(),
            names_start: 0,
            bytes: Vec::new(),
            bytes_start: 0,
            weight: 0,
        }
    }
}

impl<E> Batch<E> {
    /// Returns whether the batch has no entry.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Returns roughly the memory of the batch's entries in bytes. Notes count with the heap memory that the instances
    /// that sent them reported.
    pub fn weight(&self) -> usize {
        self.weight
    }

    /// Calls `each` with the entries in order, each with its room's name and its payload. The batch is empty
    /// afterwards.
    pub fn drain(&mut self, mut each: impl FnMut(E, &str, &[u8]))
    where
        E: Entry,
    {
        self.drain_while(|entry, name, payload| {
            each(entry, name, payload);
            true
        });
    }

    /// Works like [`Batch::drain`] until `each` returns false. Later entries stay in the batch.
    pub fn drain_while(&mut self, mut each: impl FnMut(E, &str, &[u8]) -> bool)
    where
        E: Entry,
    {
        while let Some(entry) = self.entries.pop_front() {
            let (names_end, bytes_end) =
                (self.names_start + entry.name_len(), self.bytes_start + entry.payload_len());
            let name = &self.names[self.names_start..names_end];
            let payload = &self.bytes[self.bytes_start..bytes_end];
            // A drained note counts until the batch is empty, because its weight is not stored with it.
            self.weight -= name.len() + payload.len() + ENTRY_WEIGHT;
            (self.names_start, self.bytes_start) = (names_end, bytes_end);
            if !each(entry, name, payload) && !self.entries.is_empty() {
                return;
            }
        }
        self.names.clear();
        self.bytes.clear();
        (self.names_start, self.bytes_start, self.weight) = (0, 0, 0);
        self.names.shrink_to(KEPT_BYTES);
        self.bytes.shrink_to(KEPT_BYTES);
        self.entries.shrink_to(KEPT_ENTRIES);
    }

    /// Moves all entries of `other` to the end of this batch.
    pub fn absorb(&mut self, other: &mut Self) {
        self.release_drained();
        self.entries.append(&mut other.entries);
        self.names.push_str(&other.names[other.names_start..]);
        self.bytes.extend_from_slice(&other.bytes[other.bytes_start..]);
        other.names.clear();
        other.bytes.clear();
        (other.names_start, other.bytes_start) = (0, 0);
        self.weight += std::mem::take(&mut other.weight);
    }

    /// Releases the memory of drained entries when it is most of the batch's. So a byte is moved at most once.
    fn release_drained(&mut self) {
        if self.names_start > self.names.len() / 2 {
            self.names.drain(..std::mem::take(&mut self.names_start));
        }
        if self.bytes_start > self.bytes.len() / 2 {
            self.bytes.drain(..std::mem::take(&mut self.bytes_start));
        }
    }

    fn push(&mut self, entry: E, name: &str, payload: &[&[u8]]) {
        let before = self.bytes.len();
        self.names.push_str(name);
        for part in payload {
            self.bytes.extend_from_slice(part);
        }
        self.entries.push_back(entry);
        self.weight += name.len() + self.bytes.len() - before + ENTRY_WEIGHT;
    }
}

/// An entry of a batch: a [`Request`] or a [`Delivery`]. An entry knows the lengths of its name and payload in the
/// batch.
pub trait Entry {
    /// Returns the length in bytes of the name of the room or user, 0 where the entry names none.
    fn name_len(&self) -> usize;

    /// Returns the length of the entry's payload or frames in bytes, 0 without any.
    fn payload_len(&self) -> usize;
}

impl Entry for Request {
    fn name_len(&self) -> usize {
        match self {
            Self::Subscribe { name_len, .. }
            | Self::Unsubscribe { name_len }
            | Self::Members { name_len, .. }
            | Self::CountUser { name_len, .. }
            | Self::User { name_len, .. }
            | Self::UserClients { name_len, .. }
            | Self::Member { name_len, .. }
            | Self::Retain { name_len, .. }
            | Self::Range { name_len, .. }
            | Self::Publish { name_len, .. } => *name_len,
            Self::Session(_) | Self::Note(_) => 0,
        }
    }

    fn payload_len(&self) -> usize {
        match self {
            Self::Publish { payload_len, .. }
            | Self::User { payload_len, .. }
            | Self::Member { payload_len, .. } => *payload_len,
            Self::Subscribe { .. }
            | Self::Unsubscribe { .. }
            | Self::Members { .. }
            | Self::CountUser { .. }
            | Self::UserClients { .. }
            | Self::Retain { .. }
            | Self::Range { .. }
            | Self::Session(_)
            | Self::Note(_) => 0,
        }
    }
}

impl Entry for Delivery {
    fn name_len(&self) -> usize {
        if let Self::User { name_len, .. } = self { *name_len } else { 0 }
    }

    fn payload_len(&self) -> usize {
        match self {
            Self::Snapshot(snapshot) => snapshot.frame_lens.iter().map(|len| *len as usize).sum(),
            Self::Range(part) => part.frame_lens.iter().map(|len| *len as usize).sum(),
            Self::Frame { frame_len, .. } => *frame_len,
            Self::User { payload_len, .. } => *payload_len,
            Self::Members(_) | Self::UserClients(_) | Self::Session(_) | Self::Note(_) => 0,
        }
    }
}

impl Batch<Request> {
    pub(crate) fn subscribe(&mut self, room: &str, subscriber: RoomKey) {
        self.push(Request::Subscribe { name_len: room.len(), subscriber }, room, &[]);
    }

    pub(crate) fn unsubscribe(&mut self, room: &str) {
        self.push(Request::Unsubscribe { name_len: room.len() }, room, &[]);
    }

    pub(crate) fn publish(
        &mut self,
        name: &str,
        room: Option<RoomKey>,
        message: Message<'_>,
        origin: Origin,
    ) {
        let payload_len = message.parts().iter().map(|part| part.len()).sum();
        let entry = Request::Publish { name_len: name.len(), room, kind: message.kind, payload_len, origin };
        self.push(entry, name, message.parts());
    }

    pub(crate) fn members(&mut self, room: &str, query: MembersQuery) {
        self.push(Request::Members { name_len: room.len(), query }, room, &[]);
    }

    pub(crate) fn count_user(&mut self, user: &str, count: u32) {
        self.push(Request::CountUser { name_len: user.len(), count }, user, &[]);
    }

    pub(crate) fn user(&mut self, user: &str, action: UserAction, payload: &[&[u8]]) {
        let payload_len = payload.iter().map(|part| part.len()).sum();
        self.push(Request::User { name_len: user.len(), payload_len, action }, user, payload);
    }

    pub(crate) fn user_clients(&mut self, user: &str, list: u64) {
        self.push(Request::UserClients { name_len: user.len(), list }, user, &[]);
    }

    pub(crate) fn member(&mut self, room: &str, client: ClientNumber, user: &str, is_here: bool) {
        let (name_len, payload_len) = (room.len(), user.len());
        self.push(Request::Member { name_len, payload_len, client, is_here }, room, &[user.as_bytes()]);
    }

    /// Injects a bug: the first report about a member tells the opposite.
    #[cfg(test)]
    pub(crate) fn reverse_member(&mut self) {
        let report = self.entries.iter_mut().find(|entry| matches!(entry, Request::Member { .. }));
        if let Some(Request::Member { is_here, .. }) = report {
            *is_here = !*is_here;
        }
    }

    pub(crate) fn retain(&mut self, room: &str, begins: bool) {
        self.push(Request::Retain { name_len: room.len(), begins }, room, &[]);
    }

    pub(crate) fn range(
        &mut self,
        room: &str,
        subscriber: RoomKey,
        client: ClientNumber,
        position: Position,
    ) {
        self.push(Request::Range { name_len: room.len(), subscriber, client, position }, room, &[]);
    }

    pub(crate) fn session(&mut self, request: SessionRequest) {
        let heap_bytes = match &request {
            SessionRequest::Attach { .. } => 0,
            SessionRequest::Detach { record, .. } => record.heap_bytes(),
        };
        self.weight += size_of_val(&request) + heap_bytes;
        self.push(Request::Session(Box::new(request)), "", &[]);
    }

    /// Adds a note for the destination's application instance. The note owns `heap_bytes` bytes on the heap in addition
    /// to its own size.
    pub(crate) fn note(&mut self, note: Note, heap_bytes: usize) {
        self.weight += size_of_val(&*note) + heap_bytes;
        self.push(Request::Note(note), "", &[]);
    }
}

impl Batch<Delivery> {
    pub(crate) fn snapshot<'a>(
        &mut self,
        (room, home): (RoomKey, RoomKey),
        history: Option<History>,
        first: u64,
        frames: impl Iterator<Item = &'a [u8]>,
    ) {
        let frame_lens = self.frames(frames);
        let snapshot = Snapshot { room, home, history, first, frame_lens };
        self.push(Delivery::Snapshot(Box::new(snapshot)), "", &[]);
    }

    /// Adds the messages of a room that a session's client has not acknowledged. `part` is the entry without the lengths
    /// of `frames`.
    pub(crate) fn range<'a>(&mut self, part: RangePart, frames: impl Iterator<Item = &'a [u8]>) {
        let frame_lens = self.frames(frames);
        self.weight += size_of_val(&part);
        self.push(Delivery::Range(Box::new(RangePart { frame_lens, ..part })), "", &[]);
    }

    /// Adds the frames of the entry that is pushed next, and returns their lengths in bytes.
    fn frames<'a>(&mut self, frames: impl Iterator<Item = &'a [u8]>) -> Vec<u32> {
        let mut frame_lens = Vec::new();
        for frame in frames {
            self.bytes.extend_from_slice(frame);
            frame_lens.push(frame.len() as u32);
            self.weight += frame.len() + size_of::<u32>();
        }
        frame_lens
    }

    pub(crate) fn session(&mut self, reply: SessionReply) {
        let heap_bytes = match &reply {
            SessionReply::Attached { record: Some(record), .. } => record.heap_bytes(),
            _ => 0,
        };
        self.weight += size_of_val(&reply) + heap_bytes;
        self.push(Delivery::Session(Box::new(reply)), "", &[]);
    }

    pub(crate) fn frame(
        &mut self,
        room: RoomKey,
        number: u64,
        parts: &[&[u8]],
        except: Option<ClientNumber>,
    ) {
        let frame_len = parts.iter().map(|part| part.len()).sum();
        self.push(Delivery::Frame { room, number, frame_len, except }, "", parts);
    }

    pub(crate) fn members(&mut self, part: MembersPart) {
        let texts: usize = part.descriptions.iter().map(|text| size_of::<String>() + text.len()).sum();
        self.weight += size_of_val(&part) + size_of_val(&*part.page.clients) + texts;
        self.push(Delivery::Members(Box::new(part)), "", &[]);
    }

    pub(crate) fn user(&mut self, user: &str, action: UserAction, payload: &[u8]) {
        let payload_len = payload.len();
        self.push(Delivery::User { name_len: user.len(), payload_len, action }, user, &[payload]);
    }

    pub(crate) fn user_clients(&mut self, part: UserPart) {
        let rooms = part.clients.iter().flat_map(|client| &client.rooms);
        let texts: usize = rooms.map(|room| size_of::<String>() + room.len()).sum();
        self.weight += size_of_val(&part) + size_of_val(&*part.clients) + texts;
        self.push(Delivery::UserClients(Box::new(part)), "", &[]);
    }

    /// Adds a note for the destination's application instance. The note owns `heap_bytes` bytes on the heap in addition
    /// to its own size.
    pub(crate) fn note(&mut self, note: Note, heap_bytes: usize) {
        self.weight += size_of_val(&*note) + heap_bytes;
        self.push(Delivery::Note(note), "", &[]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_emptied_batch_does_not_keep_the_memory_of_a_burst() {
        let mut batch = Batch::default();
        let message = Message::new(Kind::Text, &[1; 1_000]);
        (0..10_000).for_each(|_| batch.publish(&"long name".repeat(10), None, message, Origin::default()));
        let (mut names, mut bytes) = (0, 0);
        batch.drain(|_, name, payload| (names, bytes) = (names + name.len(), bytes + payload.len()));
        assert_eq!((names, bytes), (10_000 * 90, 10_000 * 1_000));
        assert!(batch.is_empty() && batch.bytes.capacity() <= KEPT_BYTES);
        assert!(batch.names.capacity() <= KEPT_BYTES && batch.entries.capacity() <= KEPT_ENTRIES);
    }

    #[test]
    fn requests_come_in_order_each_with_its_name_and_payload() {
        let key = RoomKey::example(7);
        let mut batch = Batch::default();
        batch.subscribe("ä", key);
        let mut later = Batch::default();
        let message = Message::from_parts(Kind::Text, &[b"x", b"yz"]);
        later.publish("bb", Some(key), message, Origin::default());
        later.note(Box::new(5_u8), 0);
        later.unsubscribe("c");
        batch.absorb(&mut later);
        assert!(later.is_empty() && later.weight() == 0);
        let mut seen = Vec::new();
        batch.drain(|_, name, payload| seen.push((name.to_owned(), payload.to_vec())));
        let expected = [("ä", &b""[..]), ("bb", b"xyz"), ("", b""), ("c", b"")];
        assert_eq!(seen, expected.map(|(name, payload)| (name.to_owned(), payload.to_vec())));
    }

    #[test]
    fn deliveries_come_in_order_each_with_its_frames() {
        let keys = (RoomKey::example(1), RoomKey::example(2));
        let mut batch = Batch::default();
        batch.snapshot(keys, None, 7, [&b"one"[..], b"three"].into_iter());
        batch.frame(keys.0, 9, &[b"x", b"yz"], None);
        batch.note(Box::new(5_u8), 0);
        batch.snapshot(keys, None, 0, std::iter::empty());
        let mut seen = Vec::new();
        batch.drain(|_, _, frames| seen.push(frames.to_vec()));
        assert_eq!(seen, [&b"onethree"[..], b"xyz", b"", b""]);
    }

    #[test]
    fn a_batch_that_is_drained_in_part_keeps_the_rest_in_order() {
        let mut batch = Batch::default();
        for number in 0..10_u8 {
            batch.publish(
                &format!("room{number}"),
                None,
                Message::new(Kind::Text, &[number; 20]),
                Origin::default(),
            );
        }
        let (whole, mut seen) = (batch.weight(), Vec::new());
        while !batch.is_empty() {
            let before = batch.weight();
            batch.drain_while(|_, name, payload| {
                seen.push((name.to_owned(), payload.to_vec()));
                seen.len() % 3 != 0
            });
            assert!(batch.weight() < before);
            assert_eq!(batch.weight(), whole / 10 * (10 - seen.len()));
        }
        let expected: Vec<_> = (0..10_u8).map(|n| (format!("room{n}"), vec![n; 20])).collect();
        assert_eq!(seen, expected);
    }

    #[test]
    fn entries_about_users_make_no_entry_larger() {
        assert!(size_of::<Request>() <= 72, "{} bytes", size_of::<Request>());
        assert!(size_of::<Delivery>() <= 56, "{} bytes", size_of::<Delivery>());
    }

    #[test]
    fn a_batch_that_is_never_emptied_does_not_grow() {
        let (mut batch, mut expected) = (Batch::default(), 0);
        for number in 0..10_000_u32 {
            let mut later = Batch::default();
            later.publish("room", None, Message::new(Kind::Binary, &number.to_ne_bytes()), Origin::default());
            batch.absorb(&mut later);
            if number >= 100 {
                batch.drain_while(|_, name, payload| {
                    assert_eq!((name, payload), ("room", &u32::to_ne_bytes(expected)[..]));
                    expected += 1;
                    false
                });
            }
        }
        assert_eq!((expected, batch.entries.len()), (9_900, 100));
        assert_eq!(batch.weight(), 100 * (8 + ENTRY_WEIGHT));
        assert!(batch.names.len() <= 1_000 && batch.bytes.len() <= 1_000, "{} bytes", batch.bytes.len());
    }

    #[test]
    fn the_weight_counts_names_payloads_and_the_text_of_notes() {
        let mut batch = Batch::default();
        batch.publish("room", None, Message::text("payload"), Origin::default());
        assert_eq!(batch.weight(), 4 + 7 + ENTRY_WEIGHT);
        batch.note(Box::new([0_u64; 4]), 1_000);
        assert_eq!(batch.weight(), 4 + 7 + 32 + 1_000 + 2 * ENTRY_WEIGHT);
        batch.drain(|_, _, _| {});
        assert_eq!(batch.weight(), 0);
    }
}
