//! Spare chunks: large chunks that outboxes no longer use, kept for the next large message.

use std::collections::VecDeque;
use std::rc::Rc;

use crate::chunk::Chunk;

use super::outbox::KEPT_CHUNK;

/// Maximum total capacity, in bytes, of the spare chunks. A freed and newly allocated chunk costs a page fault for
/// every 4 KiB.
const SPARE_BYTES: usize = 4 << 20;
/// Maximum number of spare chunks.
const SPARE_CHUNKS: usize = 128;
/// Maximum ratio of a spare chunk's capacity to the requested capacity.
const SPARE_EXCESS: usize = 4;

/// Large chunks that no outbox uses, kept for the next large message.
#[derive(Debug, Default)]
pub(crate) struct SpareChunks {
    /// The spare chunks, oldest first.
    chunks: VecDeque<Rc<Chunk>>,
    /// Total capacity of the spare chunks, in bytes.
    bytes: usize,
}

impl SpareChunks {
    /// Returns an empty chunk with a capacity of at least `capacity` bytes: a spare chunk, or a new chunk.
    pub(super) fn take(&mut self, capacity: usize) -> Rc<Chunk> {
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

    /// Stores a chunk for later, unless it is small, in use, or larger than the limit. Drops the oldest spare chunks to
    /// make space.
    pub(super) fn give(&mut self, mut chunk: Rc<Chunk>) {
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

    /// Drops all spare chunks. Returns the number of freed bytes.
    pub(super) fn clear(&mut self) -> usize {
        self.chunks.clear();
        std::mem::take(&mut self.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_large_chunks_are_kept_and_none_in_use() {
        let mut spares = SpareChunks::default();
        let used = Chunk::with_capacity(1 << 20);
        spares.give(Rc::clone(&used));
        assert!(spares.chunks.is_empty(), "it is in use");
        for _ in 0..10 {
            spares.give(Chunk::with_capacity(1 << 20));
        }
        assert_eq!(spares.bytes, SPARE_BYTES);
        assert_eq!(spares.take(300 << 10).capacity(), 1 << 20);
        assert_eq!(spares.take(200 << 10).capacity(), 200 << 10, "the kept chunks are much too large");
        for _ in 0..1000 {
            spares.give(Chunk::with_capacity(5 << 10));
        }
        assert_eq!((spares.chunks.len(), spares.bytes), (SPARE_CHUNKS, SPARE_CHUNKS * (5 << 10)));
        spares.give(Chunk::with_capacity(SPARE_BYTES));
        assert_eq!(spares.take(SPARE_BYTES).capacity(), SPARE_BYTES, "the oldest chunks go");
        assert_eq!((spares.chunks.len(), spares.bytes), (0, 0));
    }
}
