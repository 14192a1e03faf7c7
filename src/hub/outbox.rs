//! Outboxes: frames that wait to be sent to one client alone.

use std::collections::VecDeque;
use std::rc::Rc;

use crate::chunk::{Chunk, Span};

use super::spare_chunks::SpareChunks;

/// Minimum capacity of an outbox's chunk in bytes.
const MIN_CHUNK: usize = 256;
/// Maximum capacity in bytes up to which an outbox doubles its chunks, so that many answers leave in few sends. A
/// larger frame gets a chunk of its length.
const MAX_CHUNK: usize = 256 << 10;
/// Maximum capacity in bytes of the chunk that an empty outbox keeps for its next client.
pub(super) const KEPT_CHUNK: usize = 4 << 10;
/// Number of parcels for which an empty outbox keeps memory.
const KEPT_PARCELS: usize = 16;

/// The kind of bytes appended to an outbox: a message, a control frame, or an HTTP response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    Message,
    /// WebSocket control frame: ping, pong or close.
    Control,
    /// HTTP response, which is no frame.
    Response,
}

/// Outbox of one client: bytes to send before room messages. It holds frames for the client alone, and messages of
/// rooms that the client has left. It exists only while it has something to send.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    parcels: VecDeque<Parcel>,
    /// The chunk to which frames for this client alone are appended.
    tail: Option<Rc<Chunk>>,
    /// Number of bytes in the outbox that were not handed out yet.
    len: usize,
    /// Number of dropped messages that the next appended parcel reports to the client.
    telling: u64,
    /// Time when the outbox was created or last handed bytes out, in milliseconds of `Hub::watched_ms`.
    pub(crate) moved_ms: u64,
}

/// Parcel: bytes that leave an outbox in one send, with counts of the messages in them.
#[derive(Debug)]
struct Parcel {
    span: Span,
    /// Whether the parcel's bytes are WebSocket frames. False for an HTTP response.
    framed: bool,
    /// Number of room messages in the parcel.
    of_rooms: u64,
    /// Number of messages in the parcel for this client alone, without control frames.
    own: u64,
    /// Number of dropped messages that a notice in this parcel reports.
    told: u64,
}

impl Outbox {
    /// Returns the number of bytes in the outbox that were not handed out yet.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Appends bytes, given in parts, as one span.
    pub(crate) fn append(&mut self, parts: &[&[u8]], content: Content, spares: &mut SpareChunks) {
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
        self.append_shared(span, content);
    }

    /// Appends a span that may also be in other clients' outboxes.
    pub(crate) fn append_shared(&mut self, span: Span, content: Content) {
        let own = u64::from(content == Content::Message);
        let told = std::mem::take(&mut self.telling);
        self.add(Parcel { span, framed: content != Content::Response, of_rooms: 0, own, told });
    }

    /// Returns a chunk with space for `len` more bytes. If few bytes of the full chunk wait, moves the waiting bytes to
    /// the new chunk, because bytes in one chunk leave in one send.
    fn next_chunk(&mut self, full: Option<Rc<Chunk>>, len: usize, spares: &mut SpareChunks) -> Rc<Chunk> {
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

    /// Appends `messages` messages of a room as a span of the room's log.
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

    /// Removes and returns the next bytes to send, whether they are frames, and their number of room messages.
    pub(crate) fn pop(&mut self, now_ms: u64) -> Option<(Span, bool, u64)> {
        self.moved_ms = now_ms;
        let Parcel { span, framed, of_rooms, .. } = self.parcels.pop_front()?;
        self.len -= span.len();
        Some((span, framed, of_rooms))
    }

    /// Records that the next appended bytes report `missed` dropped messages to the client.
    pub(crate) fn tell(&mut self, missed: u64) {
        self.telling += missed;
    }

    /// Drops all frames not handed out yet. HTTP responses stay: they come before all frames, and the client must find
    /// the first frame. Returns the number of lost messages, including the messages that a dropped notice would have
    /// reported.
    pub(crate) fn clear(&mut self) -> u64 {
        let (mut len, mut lost) = (0, std::mem::take(&mut self.telling));
        self.parcels.retain(|parcel| {
            if parcel.framed {
                lost += parcel.of_rooms + parcel.own + parcel.told;
            } else {
                len += parcel.span.len();
            }
            !parcel.framed
        });
        self.len = len;
        lost
    }

    /// Prepares an empty outbox for another client. Returns false when the caller should drop the outbox instead.
    pub(crate) fn reset(&mut self, spares: &mut SpareChunks) -> bool {
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
    fn adjacent_frames_leave_together_and_are_counted() {
        let mut outbox = Outbox::default();
        outbox.append(&[b"ab", b"c"], Content::Message, &mut SpareChunks::default());
        outbox.append(&[b"de"], Content::Control, &mut SpareChunks::default());
        assert_eq!(outbox.len(), 5);
        outbox.push(Span::copy_of(b"room"), 3);
        assert_eq!(pop(&mut outbox), Some((b"abcde".to_vec(), 0)));
        outbox.append(&[b"f"], Content::Message, &mut SpareChunks::default());
        assert_eq!(pop(&mut outbox), Some((b"room".to_vec(), 3)));
        assert_eq!(pop(&mut outbox), Some((b"f".to_vec(), 0)));
        assert_eq!(pop(&mut outbox), None);
        assert_eq!(outbox.len(), 0);
    }

    #[test]
    fn dropped_bytes_are_counted_in_messages() {
        let mut outbox = Outbox::default();
        outbox.append(&[b"handed out"], Content::Message, &mut SpareChunks::default());
        outbox.pop(0);
        outbox.append(&[b"message"], Content::Message, &mut SpareChunks::default());
        outbox.append(&[b"ping"], Content::Control, &mut SpareChunks::default());
        outbox.push(Span::copy_of(b"room"), 3);
        assert_eq!(outbox.clear(), 4);
        assert_eq!((outbox.len(), pop(&mut outbox)), (0, None));
        outbox.tell(4);
        outbox.append(&[b"4 messages missed"], Content::Message, &mut SpareChunks::default());
        assert_eq!(outbox.clear(), 5, "the unreported ones and the notice");
        outbox.tell(5);
        outbox.append(&[b"5 messages missed"], Content::Message, &mut SpareChunks::default());
        outbox.pop(0);
        assert_eq!(outbox.clear(), 0, "all are reported");
    }

    #[test]
    fn responses_are_never_dropped() {
        let mut outbox = Outbox::default();
        let mut spares = SpareChunks::default();
        outbox.append(&[b"200 OK"], Content::Response, &mut spares);
        outbox.append(&[b"101 ", b"Switching"], Content::Response, &mut spares);
        outbox.append(&[b"message"], Content::Message, &mut spares);
        assert_eq!(outbox.clear(), 1);
        assert_eq!((outbox.len(), pop(&mut outbox)), (19, Some((b"200 OK101 Switching".to_vec(), 0))));
        assert_eq!((outbox.len(), pop(&mut outbox)), (0, None));
    }

    #[test]
    fn a_drained_outbox_is_used_again_only_when_its_chunk_is_not_in_flight() {
        let mut outbox = Outbox::default();
        outbox.append(&[b"x"], Content::Message, &mut SpareChunks::default());
        let in_flight = outbox.pop(0);
        assert!(!outbox.reset(&mut SpareChunks::default()), "the chunk is in flight");
        drop(in_flight);
        outbox.append(&[b"y"], Content::Message, &mut SpareChunks::default());
        drop(outbox.pop(0));
        assert!(outbox.reset(&mut SpareChunks::default()));
        outbox.append(&[b"z"], Content::Message, &mut SpareChunks::default());
        assert_eq!(pop(&mut outbox), Some((b"z".to_vec(), 0)));
    }

    #[test]
    fn a_drained_outbox_keeps_little_memory() {
        let mut outbox = Outbox::default();
        (0..1_000).for_each(|_| outbox.push(Span::copy_of(b"room"), 1));
        outbox.append(&[&[0; KEPT_CHUNK + 1]], Content::Message, &mut SpareChunks::default());
        outbox.clear();
        assert!(!outbox.reset(&mut SpareChunks::default()), "the chunk is too large");
        assert!(outbox.parcels.capacity() <= 2 * KEPT_PARCELS);
    }

    fn pop(outbox: &mut Outbox) -> Option<(Vec<u8>, u64)> {
        outbox.pop(0).map(|(span, _, messages)| (span.bytes().to_vec(), messages))
    }

    #[test]
    fn a_large_chunk_is_used_again_for_large_messages_only() {
        let (mut outbox, mut spares) = (Outbox::default(), SpareChunks::default());
        let large = [7; 100_000];
        outbox.append(&[&large], Content::Message, &mut spares);
        let first = outbox.parcels.pop_front().expect("a message").span.owners().1;
        assert!(!outbox.reset(&mut spares), "too large to keep");
        outbox.append(&[b"small"], Content::Message, &mut spares);
        assert_ne!(outbox.parcels.pop_front().expect("a message").span.owners().1, first);
        let mut other = Outbox::default();
        other.append(&[&large[1..]], Content::Message, &mut spares);
        let span = other.parcels.pop_front().expect("a message").span;
        assert_eq!((span.owners().1, span.bytes()), (first, &large[1..]));
    }

    #[test]
    fn many_small_frames_leave_together_although_chunks_fill_up() {
        let (mut outbox, mut spares) = (Outbox::default(), SpareChunks::default());
        outbox.append(&[&[0; 200]], Content::Message, &mut spares);
        let (sent, ..) = outbox.pop(0).expect("a message");
        let frames: Vec<[u8; 66]> = (1..100).map(|byte| [byte; 66]).collect();
        for frame in &frames {
            outbox.append(&[frame], Content::Message, &mut spares);
        }
        let (span, ..) = outbox.pop(0).expect("messages");
        assert_eq!((span.bytes(), outbox.len()), (frames.concat().as_slice(), 0));
        assert_eq!(sent.bytes(), [0; 200], "bytes in flight stay where they are");
    }

    #[test]
    fn a_large_backlog_is_not_moved_repeatedly() {
        let (mut outbox, mut spares) = (Outbox::default(), SpareChunks::default());
        for _ in 0..40 {
            outbox.append(&[&[1; MAX_CHUNK / 8]], Content::Message, &mut spares);
        }
        let sizes: Vec<usize> = std::iter::from_fn(|| outbox.pop(0)).map(|(span, ..)| span.len()).collect();
        assert_eq!(sizes.iter().sum::<usize>(), 5 * MAX_CHUNK);
        assert!(sizes.len() <= 7, "{sizes:?}");
    }
}
