//! The log of a room: numbered encoded frames that readers can read from any position.

use std::collections::VecDeque;
use std::rc::Rc;

use crate::chunk::{Chunk, Counted, Span};

/// Capacity of a log's first chunk, in bytes.
const MIN_CHUNK: usize = 1 << 10;
/// Maximum capacity in bytes of a log's chunk, unless one frame is larger. Each chunk is twice as large as the chunk
/// before, so that a quiet room stays small and a busy room is sent in large pieces.
const MAX_CHUNK: usize = 64 << 10;

/// The log of a room: an append-only sequence of frames. Frame `n` is the room's message number `n`. New frames are
/// appended at [`Log::head`], old chunks are dropped at the front. No frame straddles two chunks, so every span ends at
/// the end of a frame.
#[derive(Debug)]
pub(crate) struct Log {
    chunks: VecDeque<Piece>,
    /// Number of the next frame to be appended.
    head: u64,
    /// Byte position of the next frame: the number of bytes ever appended to the log.
    end: u64,
    /// Number of the oldest frame that a reader still needs. The log keeps its chunk and all later chunks.
    floor: u64,
    /// Memory of all pieces of the log, in bytes.
    memory: usize,
}

/// Piece of a log: a chunk, and the ends of the frames in it.
#[derive(Debug)]
struct Piece {
    chunk: Rc<Chunk>,
    /// Number of the first frame in the piece.
    first: u64,
    /// Byte position in the log at which the piece starts.
    start: u64,
    /// Offset in the chunk, in bytes, at which each frame ends.
    ends: Vec<u32>,
    /// The memory of `ends`.
    counted: Counted,
}

impl Piece {
    fn next(&self) -> u64 {
        self.first + self.ends.len() as u64
    }

    fn memory(&self) -> usize {
        self.chunk.capacity() + self.ends.capacity() * size_of::<u32>()
    }

    fn end(&self) -> u64 {
        self.start + self.chunk.len() as u64
    }

    fn offset(&self, number: u64) -> usize {
        match number.checked_sub(self.first + 1) {
            Some(before) => self.ends[before as usize] as usize,
            None => 0,
        }
    }
}

impl Log {
    /// Returns an empty log whose first frame will have the number `head`.
    pub(crate) fn starting_at(head: u64) -> Self {
        Self { chunks: VecDeque::new(), head, end: 0, floor: head, memory: 0 }
    }

    /// Returns the number of the next frame to be appended.
    pub(crate) fn head(&self) -> u64 {
        self.head
    }

    /// Returns the byte position after the log's last byte.
    pub(crate) fn end(&self) -> u64 {
        self.end
    }

    /// Returns the number of the oldest frame that can still be read.
    pub(crate) fn first(&self) -> u64 {
        self.floor
    }

    /// Returns the memory of the log in bytes.
    pub(crate) fn memory(&self) -> usize {
        self.memory
    }

    /// Appends one frame, given in parts.
    pub(crate) fn append(&mut self, parts: &[&[u8]]) {
        let len: usize = parts.iter().map(|part| part.len()).sum();
        self.make_room(len);
        let piece = self.chunks.back_mut().expect("make_room leaves a chunk");
        for part in parts {
            piece.chunk.append(part);
        }
        let before = piece.ends.capacity();
        piece.ends.push(piece.chunk.len() as u32);
        if piece.ends.capacity() > before {
            self.memory += (piece.ends.capacity() - before) * size_of::<u32>();
            piece.counted.set(piece.ends.capacity() * size_of::<u32>());
        }
        self.head += 1;
        self.end += len as u64;
    }

    /// Ensures that the last chunk has at least `len` spare bytes.
    fn make_room(&mut self, len: usize) {
        let mut capacity = MIN_CHUNK;
        if let Some(last) = self.chunks.back_mut() {
            // A chunk made for one large frame is not reused, or a busy room would keep it for ever.
            let usable = (len..=MAX_CHUNK).contains(&last.chunk.capacity());
            let consumed = self.floor == self.head && usable;
            if let Some(chunk) = Rc::get_mut(&mut last.chunk).filter(|_| consumed) {
                chunk.clear();
                last.ends.clear();
                last.first = self.head;
                last.start = self.end;
                return;
            }
            if last.chunk.spare() >= len {
                return;
            }
            capacity = (last.chunk.capacity() * 2).clamp(MIN_CHUNK, MAX_CHUNK);
        }
        let chunk = Chunk::with_capacity(capacity.max(len));
        self.memory += chunk.capacity();
        let counted = Counted::default();
        let piece = Piece { chunk, first: self.head, start: self.end, ends: Vec::new(), counted };
        self.chunks.push_back(piece);
    }

    /// Returns the frames from number `from` to the end of their chunk, and the number of the frame after that chunk.
    #[cfg(test)]
    pub(crate) fn span(&self, from: u64) -> Option<(Span, u64)> {
        self.span_before(from, u64::MAX)
    }

    /// Returns the frames from number `from` up to number `end`, exclusive, or to the end of their chunk if that comes
    /// first. Also returns the number of the frame after them.
    pub(crate) fn span_before(&self, from: u64, end: u64) -> Option<(Span, u64)> {
        if from < self.floor || from >= self.head {
            return None;
        }
        let piece = self.piece(from);
        let next = piece.next();
        let (to, next) = if end < next { (piece.offset(end), end) } else { (piece.chunk.len(), next) };
        Some((Span::new(&piece.chunk, piece.offset(from), to), next))
    }

    /// Returns the number of the first frame in the last chunk, or the head if there is no chunk.
    pub(crate) fn last_chunk(&self) -> u64 {
        self.chunks.back().map_or(self.head, |piece| piece.first)
    }

    /// Returns the frames from number `from`, or from the oldest kept frame, up to the newest frame.
    pub(crate) fn frames(&self, from: u64) -> impl Iterator<Item = &[u8]> {
        (from.max(self.floor)..self.head).map(|number| {
            let piece = self.piece(number);
            &piece.chunk.bytes()[piece.offset(number)..piece.offset(number + 1)]
        })
    }

    /// Returns the newest frame. `None` if the log is empty.
    pub(crate) fn last(&self) -> Option<&[u8]> {
        self.frames(self.head.saturating_sub(1)).next()
    }

    /// Returns the piece that contains frame `number`. The frame must exist.
    fn piece(&self, number: u64) -> &Piece {
        let last = self.chunks.len() - 1;
        if self.chunks[last].first <= number {
            return &self.chunks[last];
        }
        &self.chunks[self.chunks.partition_point(|piece| piece.next() <= number)]
    }

    /// Returns the number of the first frame of the log's tail: the last `count` frames, or fewer, so that their total
    /// size is at most `bytes` bytes. Looks at few frames only, because each pass asks for the tail.
    pub(crate) fn tail(&self, count: u64, bytes: usize) -> u64 {
        let oldest = self.floor.max(self.head.saturating_sub(count));
        if self.bytes_from(oldest) <= bytes {
            return oldest;
        }
        let earliest = self.end - bytes as u64;
        let piece = &self.chunks[self.chunks.partition_point(|piece| piece.end() < earliest)];
        match earliest.checked_sub(piece.start + 1) {
            Some(before) => {
                piece.first + piece.ends.partition_point(|end| u64::from(*end) <= before) as u64 + 1
            }
            None => piece.first,
        }
    }

    /// Returns the size of the frames from number `from` on, in bytes.
    pub(crate) fn bytes_from(&self, from: u64) -> usize {
        if from >= self.head {
            return 0;
        }
        let piece = self.piece(from.max(self.floor));
        (self.end - piece.start) as usize - piece.offset(from.max(self.floor))
    }

    /// Drops the frames below `number`, because no reader needs these frames.
    pub(crate) fn trim(&mut self, number: u64) {
        self.floor = self.floor.max(number.min(self.head));
        // The last chunk stays for the next frame, until `release` frees it.
        while self.chunks.len() > 1 && self.chunks[0].next() <= self.floor {
            self.memory -= self.chunks.pop_front().map_or(0, |piece| piece.memory());
        }
    }

    /// Returns the number of the first frame in the oldest chunk that ends less than `window` bytes before the byte
    /// `position`.
    pub(crate) fn window_start(&self, position: u64, window: u64) -> u64 {
        let inside = self.chunks.iter().find(|piece| piece.end() + window > position);
        inside.map_or(self.head, |piece| piece.first)
    }

    /// Frees the memory of the log if no reader needs any of its frames.
    pub(crate) fn release(&mut self) {
        if self.floor == self.head {
            self.chunks = VecDeque::new();
            self.memory = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(log: &Log, mut from: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        while let Some((span, next)) = log.span(from) {
            bytes.extend_from_slice(span.bytes());
            from = next;
        }
        bytes
    }

    #[test]
    fn a_reader_sees_all_frames_from_its_position_on() {
        let mut log = Log::starting_at(7);
        let frames: Vec<Vec<u8>> = (0..500_u16).map(|n| vec![n as u8; 1 + usize::from(n % 90)]).collect();
        for frame in &frames {
            log.append(&[&frame[..1], &frame[1..]]);
        }
        for from in 0..=500 {
            assert_eq!(read(&log, 7 + from), frames[from as usize..].concat());
        }
        assert_eq!(log.frames(490 + 7).map(<[u8]>::to_vec).collect::<Vec<_>>(), frames[490..]);
    }

    #[test]
    fn a_frame_larger_than_a_chunk_gets_a_chunk_of_its_own() {
        let mut log = Log::starting_at(0);
        log.append(&[b"small"]);
        log.append(&[&[9; MAX_CHUNK * 3]]);
        log.append(&[b"after"]);
        let (span, next) = log.span(1).expect("there");
        assert_eq!((span.len(), next), (MAX_CHUNK * 3, 2));
    }

    #[test]
    fn the_tail_obeys_both_limits() {
        let mut log = Log::starting_at(0);
        for _ in 0..100 {
            log.append(&[&[1; 100]]);
        }
        assert_eq!(log.tail(50, 1 << 20), 50);
        assert_eq!(log.tail(50, 1_000), 90);
        assert_eq!(log.tail(50, 999), 91);
        assert_eq!(log.tail(1_000, 1 << 20), 0);
        assert_eq!(log.tail(50, 0), 100);
    }

    /// Returns what [`Log::tail`] returns, one frame after another.
    fn naive_tail(log: &Log, count: u64, bytes: usize) -> u64 {
        let frames: Vec<usize> = log.frames(0).map(<[u8]>::len).collect();
        let mut left = bytes;
        let fits = |len: &&usize| {
            let fits = **len <= left;
            left = left.saturating_sub(**len);
            fits
        };
        log.head() - frames.iter().rev().take(count as usize).take_while(fits).count() as u64
    }

    #[test]
    fn the_tail_is_that_of_a_walk_over_all_frames() {
        let mut log = Log::starting_at(3);
        for n in 0..600_usize {
            log.append(&[&vec![1; 2 + n * 7_919 % 400 * (n % 3)]]);
            if n % 7 == 0 {
                log.trim(log.head() - n as u64 % 90);
            }
            for count in [0, 1, 5, 50, 1_000] {
                for bytes in [0, 1, 2, 300, 999, 5_000, 1 << 20] {
                    let expected = naive_tail(&log, count, bytes);
                    assert_eq!(log.tail(count, bytes), expected, "{count} frames, {bytes} bytes, {n}");
                }
            }
        }
    }

    #[test]
    fn trimmed_frames_are_gone_and_a_consumed_chunk_is_used_again() {
        let mut log = Log::starting_at(0);
        for round in 0..1_000_u64 {
            log.append(&[&[1; 700]]);
            log.trim(round + 1);
            assert_eq!(log.first(), round + 1);
        }
        assert!(log.span(999).is_none());
        assert!(log.memory() <= 2 * MIN_CHUNK, "{} bytes", log.memory());
        log.release();
        assert_eq!(log.memory(), 0);
        log.append(&[b"x"]);
        assert_eq!(read(&log, 1_000), b"x");
    }

    #[test]
    fn the_memory_is_the_sum_of_the_pieces() {
        let mut log = Log::starting_at(0);
        for n in 0..2_000_usize {
            log.append(&[&vec![1; n * 37 % 3_000]]);
            if n % 3 == 0 {
                log.trim(n as u64 / 2 + n as u64 % 7 * 50);
            }
            assert_eq!(log.memory(), log.chunks.iter().map(Piece::memory).sum::<usize>());
        }
    }

    #[test]
    fn the_chunk_of_a_large_frame_is_not_kept_for_small_ones() {
        let mut log = Log::starting_at(0);
        log.append(&[&[1; 8 * MAX_CHUNK]]);
        log.trim(1);
        log.append(&[b"small"]);
        log.trim(2);
        assert!(log.memory() <= 2 * MAX_CHUNK, "{} bytes", log.memory());
    }

    #[test]
    fn a_chunk_in_flight_is_not_used_again() {
        let mut log = Log::starting_at(0);
        log.append(&[b"old"]);
        let (in_flight, _) = log.span(0).expect("there");
        log.trim(1);
        log.append(&[b"new"]);
        assert_eq!(in_flight.bytes(), b"old");
        assert_eq!(read(&log, 1), b"new");
    }

    #[test]
    fn the_window_keeps_at_least_its_number_of_bytes() {
        let mut log = Log::starting_at(0);
        for _ in 0..10_000 {
            log.append(&[&[1; 100]]);
        }
        let start = log.window_start(log.end(), 100_000);
        assert!((9_000 - 700..=9_000).contains(&start), "{start}");
        log.trim(start);
        assert_eq!(log.first(), start);
    }
}
