//! Messages between shards, gathered so that each destination gets one batch of each lane per turn.

use std::any::Any;

use super::rooms::RoomKey;
use super::{Kind, Message};

/// Capacities that an emptied batch keeps, in bytes and in entries.
const KEPT_BYTES: usize = 256 << 10;
const KEPT_ENTRIES: usize = 4 << 10;

/// Weight of an entry beside its bytes: about its memory, a small note included.
const ENTRY_WEIGHT: usize = 256;

/// A value that one instance of an application sends another. The engine only carries it.
pub type Note = Box<dyn Any + Send>;

/// Entries for one shard, in order.
#[derive(Debug)]
pub struct Batch<E> {
    entries: Vec<E>,
    /// The room names of all entries, one after the other.
    names: String,
    /// The payloads of all entries, one after the other.
    bytes: Vec<u8>,
    /// Bytes that notes own on the heap, as far as their senders told.
    note_bytes: usize,
}

/// An entry of the lane to a room's home shard. Handling requests makes deliveries.
#[derive(Debug)]
pub enum Request {
    /// Asks for the room's history and all further messages.
    Subscribe {
        /// Length of the room's name.
        name_len: usize,
        /// The subscriber's key of the room. It addresses the deliveries.
        subscriber: RoomKey,
    },
    /// Ends a subscription.
    Unsubscribe {
        /// Length of the room's name.
        name_len: usize,
    },
    /// A message that needs its place in the room's order.
    Publish {
        /// Length of the room's name.
        name_len: usize,
        /// The home's key of the room, where the publisher knows it. It spares the home a look-up by name.
        room: Option<RoomKey>,
        /// Text or binary.
        kind: Kind,
        /// Length of the payload.
        payload_len: usize,
    },
    /// A note that may be answered.
    Note(Note),
}

/// An entry of the lane from a room's home shard. Handling deliveries makes no deliveries, so a shard can always take
/// them, and two shards never wait for each other. A snapshot or a note may lead to one request each.
#[derive(Debug)]
pub enum Delivery {
    /// The answer to [`Request::Subscribe`]: the frames that the room keeps.
    Snapshot {
        /// The subscriber's key of the room.
        room: RoomKey,
        /// The home's key of the room, valid as long as the subscription.
        home: RoomKey,
        /// Number of the first frame, or of the next message when there is no frame.
        first: u64,
        /// Length of each encoded frame.
        frame_lens: Vec<u32>,
    },
    /// The next message of a room.
    Frame {
        /// The subscriber's key of the room.
        room: RoomKey,
        /// Number of the message in the room.
        number: u64,
        /// Length of the encoded frame.
        frame_len: usize,
    },
    /// The answer to a note.
    Note(Note),
}

impl<E> Default for Batch<E> {
    fn default() -> Self {
        Self { entries: Vec::new(), names: String::new(), bytes: Vec::new(), note_bytes: 0 }
    }
}

impl<E> Batch<E> {
    /// Whether the batch has no entry.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// About the memory that the entries take, in bytes.
    pub fn weight(&self) -> usize {
        self.names.len() + self.bytes.len() + self.note_bytes + self.entries.len() * ENTRY_WEIGHT
    }

    /// Hands the entries out in order, each with its room's name and its payload, and leaves the batch empty for
    /// further use.
    pub fn drain(&mut self, mut each: impl FnMut(E, &str, &[u8]))
    where
        E: Entry,
    {
        let (mut names, mut bytes) = (&self.names[..], &self.bytes[..]);
        for entry in self.entries.drain(..) {
            let (name, payload);
            (name, names) = names.split_at(entry.name_len());
            (payload, bytes) = bytes.split_at(entry.payload_len());
            each(entry, name, payload);
        }
        self.names.clear();
        self.bytes.clear();
        self.note_bytes = 0;
        self.names.shrink_to(KEPT_BYTES);
        self.bytes.shrink_to(KEPT_BYTES);
        self.entries.shrink_to(KEPT_ENTRIES);
    }

    /// Moves the entries of `other` behind our own.
    pub fn absorb(&mut self, other: &mut Self) {
        self.entries.append(&mut other.entries);
        self.names.push_str(&other.names);
        other.names.clear();
        self.bytes.append(&mut other.bytes);
        self.note_bytes += std::mem::take(&mut other.note_bytes);
    }

    fn push(&mut self, entry: E, name: &str, payload: &[&[u8]]) {
        self.names.push_str(name);
        for part in payload {
            self.bytes.extend_from_slice(part);
        }
        self.entries.push(entry);
    }
}

/// An entry of a batch, which knows its part of the batch's bytes.
pub trait Entry {
    /// Length of the room's name, 0 where the entry names no room.
    fn name_len(&self) -> usize;

    /// Length of the payload or the frames.
    fn payload_len(&self) -> usize;
}

impl Entry for Request {
    fn name_len(&self) -> usize {
        match self {
            Self::Subscribe { name_len, .. }
            | Self::Unsubscribe { name_len }
            | Self::Publish { name_len, .. } => *name_len,
            Self::Note(_) => 0,
        }
    }

    fn payload_len(&self) -> usize {
        match self {
            Self::Publish { payload_len, .. } => *payload_len,
            Self::Subscribe { .. } | Self::Unsubscribe { .. } | Self::Note(_) => 0,
        }
    }
}

impl Entry for Delivery {
    fn name_len(&self) -> usize {
        0
    }

    fn payload_len(&self) -> usize {
        match self {
            Self::Snapshot { frame_lens, .. } => frame_lens.iter().map(|len| *len as usize).sum(),
            Self::Frame { frame_len, .. } => *frame_len,
            Self::Note(_) => 0,
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

    pub(crate) fn publish(&mut self, name: &str, room: Option<RoomKey>, message: Message<'_>) {
        let payload_len = message.parts().iter().map(|part| part.len()).sum();
        let entry = Request::Publish { name_len: name.len(), room, kind: message.kind, payload_len };
        self.push(entry, name, message.parts());
    }

    /// Adds a note to the application instance of the destination, which owns `heap_bytes` beside its own size.
    pub(crate) fn note(&mut self, note: Note, heap_bytes: usize) {
        self.note_bytes += size_of_val(&*note) + heap_bytes;
        self.push(Request::Note(note), "", &[]);
    }
}

impl Batch<Delivery> {
    pub(crate) fn snapshot<'a>(
        &mut self,
        (room, home): (RoomKey, RoomKey),
        first: u64,
        frames: impl Iterator<Item = &'a [u8]>,
    ) {
        let mut frame_lens = Vec::new();
        for frame in frames {
            self.bytes.extend_from_slice(frame);
            frame_lens.push(frame.len() as u32);
        }
        self.push(Delivery::Snapshot { room, home, first, frame_lens }, "", &[]);
    }

    pub(crate) fn frame(&mut self, room: RoomKey, number: u64, parts: &[&[u8]]) {
        let frame_len = parts.iter().map(|part| part.len()).sum();
        self.push(Delivery::Frame { room, number, frame_len }, "", parts);
    }

    /// Adds a note to the application instance of the destination, which owns `heap_bytes` beside its own size.
    pub(crate) fn note(&mut self, note: Note, heap_bytes: usize) {
        self.note_bytes += size_of_val(&*note) + heap_bytes;
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
        (0..10_000).for_each(|_| batch.publish(&"long name".repeat(10), None, message));
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
        later.publish("bb", Some(key), Message::from_parts(Kind::Text, &[b"x", b"yz"]));
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
        batch.snapshot(keys, 7, [&b"one"[..], b"three"].into_iter());
        batch.frame(keys.0, 9, &[b"x", b"yz"]);
        batch.note(Box::new(5_u8), 0);
        batch.snapshot(keys, 0, std::iter::empty());
        let mut seen = Vec::new();
        batch.drain(|_, _, frames| seen.push(frames.to_vec()));
        assert_eq!(seen, [&b"onethree"[..], b"xyz", b"", b""]);
    }

    #[test]
    fn the_weight_counts_names_payloads_and_the_text_of_notes() {
        let mut batch = Batch::default();
        batch.publish("room", None, Message::text("payload"));
        assert_eq!(batch.weight(), 4 + 7 + ENTRY_WEIGHT);
        batch.note(Box::new([0_u64; 4]), 1_000);
        assert_eq!(batch.weight(), 4 + 7 + 32 + 1_000 + 2 * ENTRY_WEIGHT);
        batch.drain(|_, _, _| {});
        assert_eq!(batch.weight(), 0);
    }
}
