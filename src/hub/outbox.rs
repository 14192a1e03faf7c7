//! What is owed to one client alone.

use std::collections::VecDeque;
use std::rc::Rc;

use crate::chunk::{Chunk, Span};

/// Smallest chunk that private frames are gathered in.
const MIN_CHUNK: usize = 256;
/// Each further one doubles up to this, so that many answers leave in large pieces.
const MAX_CHUNK: usize = 256 << 10;
/// Largest one that an empty outbox keeps for its next owner.
const KEPT_CHUNK: usize = 4 << 10;
/// Most parcels that it keeps the memory of.
const KEPT_PARCELS: usize = 16;

/// Bytes of larger ones that are kept for whoever needs one next: giving them back and getting them anew costs a page
/// fault for every 4 KiB.
const SPARE_BYTES: usize = 4 << 20;
/// Most chunks that are kept.
const SPARE_CHUNKS: usize = 128;
/// How much larger than what is needed a chunk that was kept may be.
const SPARE_EXCESS: usize = 4;

/// Large chunks that nobody uses now.
#[derive(Debug, Default)]
pub(crate) struct Spares {
    /// The oldest first.
    chunks: VecDeque<Rc<Chunk>>,
    /// Bytes of all.
    bytes: usize,
}

impl Spares {
    /// An empty chunk with at least that capacity.
    fn take(&mut self, capacity: usize) -> Rc<Chunk> {
        let range = capacity..=capacity.saturating_mul(SPARE_EXCESS);
        let has_none = *range.end() <= KEPT_CHUNK;
        let is_fit = |chunk: &Rc<Chunk>| range.contains(&chunk.capacity());
        let found = if has_none { None } else { self.chunks.iter().rposition(is_fit) };
        let Some(chunk) = found.and_then(|at| self.chunks.swap_remove_back(at)) else {
            return Chunk::with_capacity(capacity);
        };
        self.bytes -= chunk.capacity();
        chunk
    }

    /// Keeps a chunk instead of the oldest ones, unless it is small, in use, or too much by itself.
    fn give(&mut self, mut chunk: Rc<Chunk>) {
        let capacity = chunk.capacity();
        let is_wanted = capacity > KEPT_CHUNK && capacity <= SPARE_BYTES;
        let Some(own) = Rc::get_mut(&mut chunk).filter(|_| is_wanted) else { return };
        own.clear();
        while self.bytes + capacity > SPARE_BYTES || self.chunks.len() == SPARE_CHUNKS {
            self.bytes -= self.chunks.pop_front().map_or(0, |oldest| oldest.capacity());
        }
        self.bytes += capacity;
        self.chunks.push_back(chunk);
    }
}

/// What is sent to one client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    Message,
    /// A frame that is no message.
    Control,
    /// HTTP.
    Response,
}

/// A log with one reader: made when there is something to say, gone when it is drained. It holds frames made
/// for this client, and what is left of rooms that the client has left.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    parcels: VecDeque<Parcel>,
    /// Where the next private bytes go.
    tail: Option<Rc<Chunk>>,
    len: usize,
    /// Dropped messages of which the next parcel tells.
    telling: u64,
    /// When it was made, or last handed something out.
    pub(crate) moved_ms: u64,
}

/// Bytes that are handed out together, and what they hold.
#[derive(Debug)]
struct Parcel {
    span: Span,
    /// Whether these are frames; an HTTP response is none.
    framed: bool,
    /// Messages of rooms.
    of_rooms: u64,
    /// Messages made for this client; control frames are none.
    own: u64,
    /// Dropped messages of which this tells.
    told: u64,
}

impl Outbox {
    /// Bytes not handed out yet.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Appends bytes given in parts, which stay together in one span.
    pub(crate) fn append(&mut self, parts: &[&[u8]], content: Content, spares: &mut Spares) {
        let len: usize = parts.iter().map(|part| part.len()).sum();
        let tail = match self.tail.take() {
            Some(tail) if tail.spare() >= len => tail,
            full => self.next_chunk(full, len, spares),
        };
        let tail = self.tail.insert(tail);
        let start = tail.len();
        for part in parts {
            tail.append(part);
        }
        let span = Span::new(tail, start, start + len);
        let own = u64::from(content == Content::Message);
        let told = std::mem::take(&mut self.telling);
        self.add(Parcel { span, framed: content != Content::Response, of_rooms: 0, own, told });
    }

    /// A chunk for `len` more bytes, after the last one is full. What waits in that moves along while it is little, since
    /// what lies in one chunk leaves with one send.
    fn next_chunk(&mut self, full: Option<Rc<Chunk>>, len: usize, spares: &mut Spares) -> Rc<Chunk> {
        let Some(full) = full else { return spares.take(len.max(MIN_CHUNK)) };
        let capacity = (full.capacity() * 2).min(MAX_CHUNK);
        let waiting = self.parcels.back_mut().map(|last| &mut last.span).filter(|span| span.is_in(&full));
        match waiting.filter(|span| span.len() + len <= capacity && span.len() <= capacity / 2) {
            Some(span) => {
                let chunk = spares.take(capacity);
                chunk.append(span.bytes());
                *span = Span::new(&chunk, 0, chunk.len());
                chunk
            }
            None => spares.take(capacity.max(len)),
        }
    }

    /// Appends so many messages of a room, which lie in its log's chunk.
    pub(crate) fn push(&mut self, span: Span, messages: u64) {
        self.add(Parcel { span, framed: true, of_rooms: messages, own: 0, told: 0 });
    }

    fn add(&mut self, parcel: Parcel) {
        self.len += parcel.span.len();
        if let Some(last) = self.parcels.back_mut()
            && last.framed == parcel.framed
            && last.span.try_join(&parcel.span)
        {
            last.of_rooms += parcel.of_rooms;
            last.own += parcel.own;
            last.told += parcel.told;
            return;
        }
        self.parcels.push_back(parcel);
    }

    /// The next bytes to send, whether they are frames, and the number of messages of rooms among them.
    pub(crate) fn pop(&mut self, now_ms: u64) -> Option<(Span, bool, u64)> {
        self.moved_ms = now_ms;
        let Parcel { span, framed, of_rooms, .. } = self.parcels.pop_front()?;
        self.len -= span.len();
        Some((span, framed, of_rooms))
    }

    /// Says that what is appended next tells the client of so many messages that it will not get.
    pub(crate) fn tell(&mut self, missed: u64) {
        self.telling += missed;
    }

    /// Drops what was not handed out; returns the number of messages among it, and of those that it tells of.
    pub(crate) fn clear(&mut self) -> u64 {
        self.len = 0;
        let lost: u64 = self.parcels.drain(..).map(|parcel| parcel.of_rooms + parcel.own + parcel.told).sum();
        lost + std::mem::take(&mut self.telling)
    }

    /// Makes an empty outbox whose sends are complete fit for another client; false when it is not worth it.
    pub(crate) fn reset(&mut self, spares: &mut Spares) -> bool {
        debug_assert!(self.parcels.is_empty(), "only an empty outbox changes hands");
        self.parcels.shrink_to(KEPT_PARCELS);
        self.telling = 0;
        let Some(mut tail) = self.tail.take() else { return false };
        match Rc::get_mut(&mut tail).filter(|tail| tail.capacity() <= KEPT_CHUNK) {
            Some(own) => {
                own.clear();
                self.tail = Some(tail);
            }
            None => spares.give(tail),
        }
        self.tail.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbouring_frames_leave_together_and_are_counted() {
        let mut outbox = Outbox::default();
        outbox.append(&[b"ab", b"c"], Content::Message, &mut Spares::default());
        outbox.append(&[b"de"], Content::Control, &mut Spares::default());
        assert_eq!(outbox.len(), 5);
        outbox.push(Span::copy_of(b"room"), 3);
        assert_eq!(pop(&mut outbox), Some((b"abcde".to_vec(), 0)));
        outbox.append(&[b"f"], Content::Message, &mut Spares::default());
        assert_eq!(pop(&mut outbox), Some((b"room".to_vec(), 3)));
        assert_eq!(pop(&mut outbox), Some((b"f".to_vec(), 0)));
        assert_eq!(pop(&mut outbox), None);
        assert_eq!(outbox.len(), 0);
    }

    #[test]
    fn what_is_dropped_is_counted_in_messages() {
        let mut outbox = Outbox::default();
        outbox.append(&[b"handed out"], Content::Message, &mut Spares::default());
        outbox.pop(0);
        outbox.append(&[b"message"], Content::Message, &mut Spares::default());
        outbox.append(&[b"ping"], Content::Control, &mut Spares::default());
        outbox.push(Span::copy_of(b"room"), 3);
        assert_eq!(outbox.clear(), 4);
        assert_eq!((outbox.len(), pop(&mut outbox)), (0, None));
        outbox.tell(4);
        outbox.append(&[b"4 messages missed"], Content::Message, &mut Spares::default());
        assert_eq!(outbox.clear(), 5, "with those of which nobody was told, and the notice");
        outbox.tell(5);
        outbox.append(&[b"5 messages missed"], Content::Message, &mut Spares::default());
        outbox.pop(0);
        assert_eq!(outbox.clear(), 0, "all is told");
    }

    #[test]
    fn a_drained_outbox_is_used_again_only_when_nothing_reads_its_chunk() {
        let mut outbox = Outbox::default();
        outbox.append(&[b"x"], Content::Message, &mut Spares::default());
        let in_flight = outbox.pop(0);
        assert!(!outbox.reset(&mut Spares::default()), "the chunk is still being sent");
        drop(in_flight);
        outbox.append(&[b"y"], Content::Message, &mut Spares::default());
        drop(outbox.pop(0));
        assert!(outbox.reset(&mut Spares::default()));
        outbox.append(&[b"z"], Content::Message, &mut Spares::default());
        assert_eq!(pop(&mut outbox), Some((b"z".to_vec(), 0)));
    }

    #[test]
    fn an_outbox_keeps_little_memory_for_its_next_owner() {
        let mut outbox = Outbox::default();
        (0..1_000).for_each(|_| outbox.push(Span::copy_of(b"room"), 1));
        outbox.append(&[&[0; KEPT_CHUNK + 1]], Content::Message, &mut Spares::default());
        outbox.clear();
        assert!(!outbox.reset(&mut Spares::default()), "its chunk is too large");
        assert!(outbox.parcels.capacity() <= 2 * KEPT_PARCELS);
    }

    fn pop(outbox: &mut Outbox) -> Option<(Vec<u8>, u64)> {
        outbox.pop(0).map(|(span, _, messages)| (span.bytes().to_vec(), messages))
    }

    #[test]
    fn a_large_chunk_serves_the_next_who_needs_one_and_no_small_message() {
        let (mut outbox, mut spares) = (Outbox::default(), Spares::default());
        let large = [7; 100_000];
        outbox.append(&[&large], Content::Message, &mut spares);
        let first = outbox.parcels.pop_front().expect("a message").span.owners().1;
        assert!(!outbox.reset(&mut spares), "too large to stay");
        outbox.append(&[b"small"], Content::Message, &mut spares);
        assert_ne!(outbox.parcels.pop_front().expect("a message").span.owners().1, first);
        let mut other = Outbox::default();
        other.append(&[&large[1..]], Content::Message, &mut spares);
        let span = other.parcels.pop_front().expect("a message").span;
        assert_eq!((span.owners().1, span.bytes()), (first, &large[1..]));
    }

    #[test]
    fn few_large_chunks_are_kept_and_none_that_is_in_use() {
        let mut spares = Spares::default();
        let used = Chunk::with_capacity(1 << 20);
        spares.give(Rc::clone(&used));
        assert!(spares.chunks.is_empty(), "somebody reads it");
        for _ in 0..10 {
            spares.give(Chunk::with_capacity(1 << 20));
        }
        assert_eq!(spares.bytes, SPARE_BYTES);
        assert_eq!(spares.take(300 << 10).capacity(), 1 << 20);
        assert_eq!(spares.take(200 << 10).capacity(), 200 << 10, "the others are much too large");
        for _ in 0..1000 {
            spares.give(Chunk::with_capacity(5 << 10));
        }
        assert_eq!((spares.chunks.len(), spares.bytes), (SPARE_CHUNKS, SPARE_CHUNKS * (5 << 10)));
        spares.give(Chunk::with_capacity(SPARE_BYTES));
        assert_eq!(spares.take(SPARE_BYTES).capacity(), SPARE_BYTES, "the oldest make room");
        assert_eq!((spares.chunks.len(), spares.bytes), (0, 0));
    }

    #[test]
    fn many_small_frames_leave_together_whatever_chunk_they_began_in() {
        let (mut outbox, mut spares) = (Outbox::default(), Spares::default());
        outbox.append(&[&[0; 200]], Content::Message, &mut spares);
        let (sent, ..) = outbox.pop(0).expect("a message");
        let frames: Vec<[u8; 66]> = (1..100).map(|byte| [byte; 66]).collect();
        for frame in &frames {
            outbox.append(&[frame], Content::Message, &mut spares);
        }
        let (span, ..) = outbox.pop(0).expect("messages");
        assert_eq!((span.bytes(), outbox.len()), (frames.concat().as_slice(), 0));
        assert_eq!(sent.bytes(), [0; 200], "what is being sent stays where it is");
    }

    #[test]
    fn what_is_much_is_not_moved_again_and_again() {
        let (mut outbox, mut spares) = (Outbox::default(), Spares::default());
        for _ in 0..40 {
            outbox.append(&[&[1; MAX_CHUNK / 8]], Content::Message, &mut spares);
        }
        let sizes: Vec<usize> = std::iter::from_fn(|| outbox.pop(0)).map(|(span, ..)| span.len()).collect();
        assert_eq!(sizes.iter().sum::<usize>(), 5 * MAX_CHUNK);
        assert!(sizes.len() <= 7, "{sizes:?}");
    }
}
