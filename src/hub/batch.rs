//! What shards say to each other, gathered so that a turn costs one message per destination.

use std::any::Any;

use super::{Kind, Message};

/// Bytes and entries that an emptied batch keeps the memory of.
const KEPT_BYTES: usize = 256 << 10;
const KEPT_ENTRIES: usize = 4 << 10;

/// Something that one instance of an application tells another; the engine only carries it.
pub type Note = Box<dyn Any + Send>;

/// What an entry weighs beside its bytes: about what it takes in memory, a small note included.
const ENTRY_WEIGHT: usize = 256;

/// Entries for one shard, in order. Their names and payloads lie one after the other in `bytes`.
#[derive(Debug)]
pub struct Batch<E> {
    entries: Vec<E>,
    bytes: Vec<u8>,
}

/// To a room's home shard (and notes that may be answered). Handling these makes deliveries.
#[derive(Debug)]
pub enum Request {
    /// Send me the room's history and then its messages.
    Subscribe {
        /// Bytes of the room's name.
        name_len: usize,
    },
    /// Nobody here listens to the room any more.
    Unsubscribe {
        /// Bytes of the room's name.
        name_len: usize,
    },
    /// Give this message its place in the room's order.
    Publish {
        /// Bytes of the room's name.
        name_len: usize,
        /// Text or binary.
        kind: Kind,
        /// Bytes of the payload, after the name.
        payload_len: usize,
    },
    /// From one application instance to another.
    Note(Note),
}

/// From a room's home shard. Handling these makes no deliveries, so they can always be handled, and two shards never
/// wait for each other. (A snapshot that comes too late gives up its subscription, and an application may ask
/// something on being told: at most one request for each.)
#[derive(Debug)]
pub enum Delivery {
    /// The answer to `Subscribe`: the room's kept frames.
    Snapshot {
        /// Bytes of the room's name.
        name_len: usize,
        /// Number of the first frame, or of the next message when there is none.
        first: u64,
        /// Length of each encoded frame; they follow the name.
        frame_lens: Vec<u32>,
    },
    /// The next message of a room.
    Frame {
        /// Bytes of the room's name.
        name_len: usize,
        /// Number of the message in the room.
        number: u64,
        /// Bytes of the encoded frame, after the name.
        frame_len: usize,
    },
    /// From one application instance to another.
    Note(Note),
}

impl<E> Default for Batch<E> {
    fn default() -> Self {
        Self { entries: Vec::new(), bytes: Vec::new() }
    }
}

impl<E> Batch<E> {
    /// Whether it holds nothing.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// About how many bytes of memory it takes.
    pub fn weight(&self) -> usize {
        self.bytes.len() + self.entries.len() * ENTRY_WEIGHT
    }

    /// Hands the entries out in order, each with its bytes, and leaves the batch empty for further use.
    pub fn drain(&mut self, mut each: impl FnMut(E, &[u8]))
    where
        E: ByteLen,
    {
        let mut bytes = &self.bytes[..];
        for entry in self.entries.drain(..) {
            let (own, rest) = bytes.split_at(entry.byte_len());
            bytes = rest;
            each(entry, own);
        }
        self.bytes.clear();
        self.bytes.shrink_to(KEPT_BYTES);
        self.entries.shrink_to(KEPT_ENTRIES);
    }

    /// Moves `other`'s entries behind ours.
    pub fn absorb(&mut self, other: &mut Self) {
        self.entries.append(&mut other.entries);
        self.bytes.append(&mut other.bytes);
    }

    fn push(&mut self, entry: E, parts: &[&[u8]]) {
        for part in parts {
            self.bytes.extend_from_slice(part);
        }
        self.entries.push(entry);
    }
}

/// How many bytes of a batch belong to an entry.
pub trait ByteLen {
    /// Names and payloads together.
    fn byte_len(&self) -> usize;
}

impl ByteLen for Request {
    fn byte_len(&self) -> usize {
        match self {
            Self::Subscribe { name_len } | Self::Unsubscribe { name_len } => *name_len,
            Self::Publish { name_len, payload_len, .. } => name_len + payload_len,
            Self::Note(_) => 0,
        }
    }
}

impl ByteLen for Delivery {
    fn byte_len(&self) -> usize {
        match self {
            Self::Snapshot { name_len, frame_lens, .. } => {
                name_len + frame_lens.iter().map(|len| *len as usize).sum::<usize>()
            }
            Self::Frame { name_len, frame_len, .. } => name_len + frame_len,
            Self::Note(_) => 0,
        }
    }
}

impl Batch<Request> {
    pub(crate) fn subscribe(&mut self, room: &str) {
        self.push(Request::Subscribe { name_len: room.len() }, &[room.as_bytes()]);
    }

    pub(crate) fn unsubscribe(&mut self, room: &str) {
        self.push(Request::Unsubscribe { name_len: room.len() }, &[room.as_bytes()]);
    }

    pub(crate) fn publish(&mut self, room: &str, message: Message<'_>) {
        let payload_len = message.parts().iter().map(|part| part.len()).sum();
        let entry = Request::Publish { name_len: room.len(), kind: message.kind, payload_len };
        self.bytes.extend_from_slice(room.as_bytes());
        self.push(entry, message.parts());
    }

    /// Adds a note to the application instance of the destination.
    pub(crate) fn note(&mut self, note: Note) {
        self.push(Request::Note(note), &[]);
    }
}

impl Batch<Delivery> {
    pub(crate) fn snapshot<'a>(&mut self, room: &str, first: u64, frames: impl Iterator<Item = &'a [u8]>) {
        self.bytes.extend_from_slice(room.as_bytes());
        let mut frame_lens = Vec::new();
        for frame in frames {
            self.bytes.extend_from_slice(frame);
            frame_lens.push(frame.len() as u32);
        }
        self.push(Delivery::Snapshot { name_len: room.len(), first, frame_lens }, &[]);
    }

    pub(crate) fn frame(&mut self, room: &str, number: u64, parts: &[&[u8]]) {
        let frame_len = parts.iter().map(|part| part.len()).sum();
        self.bytes.extend_from_slice(room.as_bytes());
        self.push(Delivery::Frame { name_len: room.len(), number, frame_len }, parts);
    }

    /// Adds a note to the application instance of the destination.
    pub(crate) fn note(&mut self, note: Note) {
        self.push(Delivery::Note(note), &[]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_emptied_batch_does_not_keep_the_memory_of_a_burst() {
        let mut batch = Batch::default();
        let message = Message::new(Kind::Text, &[1; 1_000]);
        (0..10_000).for_each(|_| batch.publish("room", message));
        let mut bytes = 0;
        batch.drain(|_, own| bytes += own.len());
        assert_eq!(bytes, 10_000 * 1_004);
        assert!(batch.is_empty() && batch.bytes.capacity() <= KEPT_BYTES);
        assert!(batch.entries.capacity() <= KEPT_ENTRIES);
    }

    #[test]
    fn entries_come_in_order_each_with_its_bytes() {
        let mut batch = Batch::default();
        batch.snapshot("a", 7, [&b"one"[..], b"three"].into_iter());
        let mut later = Batch::default();
        later.frame("bb", 9, &[b"x", b"yz"]);
        later.note(Box::new(5_u8));
        later.snapshot("c", 0, std::iter::empty());
        batch.absorb(&mut later);
        assert!(later.is_empty());
        let mut seen = Vec::new();
        batch.drain(|entry, bytes| seen.push((entry.byte_len(), bytes.to_vec())));
        assert_eq!(
            seen,
            [(9, b"aonethree".to_vec()), (5, b"bbxyz".to_vec()), (0, vec![]), (1, b"c".to_vec())]
        );
    }
}
