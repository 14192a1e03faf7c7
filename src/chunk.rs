//! Reference-counted bytes that can be appended to while earlier ones are being sent.
//!
//! The hub writes encoded frames into a [`Chunk`]; a backend holds a [`Span`] of it for as long as the kernel
//! may read it. Both are of one thread, so the counts are not atomic.

#![expect(unsafe_code, reason = "appending beside readers of earlier bytes needs interior mutability")]

use std::cell::Cell;
use std::fmt;
use std::mem::MaybeUninit;
use std::ptr::NonNull;
use std::rc::Rc;

/// A buffer of fixed capacity that only grows: bytes once appended never change and never move.
pub struct Chunk {
    /// Points at `capacity` bytes, of which the first `len` are initialised.
    start: NonNull<MaybeUninit<u8>>,
    capacity: usize,
    len: Cell<usize>,
}

impl Chunk {
    /// An empty chunk for at most `capacity` bytes.
    ///
    /// # Panics
    /// When `capacity` does not fit in 32 bits, the width of a [`Span`]'s bounds.
    pub fn with_capacity(capacity: usize) -> Rc<Self> {
        assert!(u32::try_from(capacity).is_ok(), "a chunk holds less than 4 GiB, not {capacity} bytes");
        let boxed: Box<[MaybeUninit<u8>]> = Box::new_uninit_slice(capacity);
        let start = NonNull::from(Box::leak(boxed)).cast();
        Rc::new(Self { start, capacity, len: Cell::new(0) })
    }

    /// A chunk that holds `bytes` and has no room for more; nothing is copied.
    fn of(bytes: Vec<u8>) -> Rc<Self> {
        let len = bytes.len();
        assert!(u32::try_from(len).is_ok(), "a chunk holds less than 4 GiB, not {len} bytes");
        let start = NonNull::from(Box::leak(bytes.into_boxed_slice())).cast();
        Rc::new(Self { start, capacity: len, len: Cell::new(len) })
    }

    /// Bytes appended so far.
    pub fn len(&self) -> usize {
        self.len.get()
    }

    /// Whether nothing was appended yet.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes that can be appended in all.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Bytes that can still be appended.
    pub fn spare(&self) -> usize {
        self.capacity - self.len()
    }

    /// Appends `bytes`.
    ///
    /// # Panics
    /// When they do not fit: the caller asks [`Chunk::spare`] first.
    pub fn append(&self, bytes: &[u8]) {
        let len = self.len();
        assert!(bytes.len() <= self.capacity - len, "{} bytes do not fit in {}", bytes.len(), self.spare());
        // SAFETY: `len <= capacity`, so the result stays within (or one past) the allocation.
        let end = unsafe { self.start.as_ptr().add(len) };
        // SAFETY: the assertion leaves room for `bytes` at `end`. No reference covers bytes at or after
        // `len`, since `bytes()` hands out initialised ones only, so nothing that is borrowed changes; and
        // `bytes` cannot overlap the uninitialised part that is written here.
        unsafe { end.cast::<u8>().copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
        self.len.set(len + bytes.len());
    }

    /// Forgets the content, so that the chunk can be used again; only its sole owner can.
    pub fn clear(&mut self) {
        self.len.set(0);
    }

    /// Everything appended so far.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: the first `len` bytes are initialised, and they are not written again while `self` is
        // borrowed: `append` writes after them and `clear` needs `&mut self`.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr().cast::<u8>(), self.len()) }
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        let slice = NonNull::slice_from_raw_parts(self.start, self.capacity);
        // SAFETY: `start` and `capacity` came from a leaked box of just this type, or of bytes, which has the same
        // layout; freed here only.
        drop(unsafe { Box::from_raw(slice.as_ptr()) });
    }
}

impl fmt::Debug for Chunk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Chunk({} of {} bytes)", self.len(), self.capacity)
    }
}

/// A range of a chunk's bytes, which keeps the chunk alive.
#[derive(Clone, Debug)]
pub struct Span {
    chunk: Rc<Chunk>,
    start: u32,
    end: u32,
}

impl Span {
    /// The bytes `start..end` of `chunk`.
    ///
    /// # Panics
    /// When the range is not within what was appended.
    pub fn new(chunk: &Rc<Chunk>, start: usize, end: usize) -> Self {
        assert!(start <= end && end <= chunk.len(), "{start}..{end} is not within {chunk:?}");
        // `with_capacity` made sure that every position fits in 32 bits.
        Self { chunk: Rc::clone(chunk), start: start as u32, end: end as u32 }
    }

    /// A span over a chunk of its own that holds `bytes`.
    pub fn copy_of(bytes: &[u8]) -> Self {
        let chunk = Chunk::with_capacity(bytes.len());
        chunk.append(bytes);
        Self::new(&chunk, 0, bytes.len())
    }

    /// A span over a chunk of its own that `bytes` become.
    pub fn of(bytes: Vec<u8>) -> Self {
        let chunk = Chunk::of(bytes);
        Self { start: 0, end: chunk.len() as u32, chunk }
    }

    /// The bytes, at an address that does not change while any clone of this span lives.
    pub fn bytes(&self) -> &[u8] {
        &self.chunk.bytes()[self.start as usize..self.end as usize]
    }

    /// How many spans and logs hold the chunk, this one included, and which chunk it is.
    #[cfg(test)]
    pub(crate) fn owners(&self) -> (usize, *const Chunk) {
        (Rc::strong_count(&self.chunk), Rc::as_ptr(&self.chunk))
    }

    /// Whether these are bytes of `chunk`.
    pub(crate) fn is_in(&self, chunk: &Rc<Chunk>) -> bool {
        Rc::ptr_eq(&self.chunk, chunk)
    }

    /// Number of bytes.
    pub fn len(&self) -> usize {
        (self.end - self.start) as usize
    }

    /// Whether nothing is left.
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Drops the first `count` bytes from the range: they were sent.
    ///
    /// # Panics
    /// When the span is shorter than that.
    pub fn advance(&mut self, count: usize) {
        assert!(count <= self.len(), "cannot advance {count} in a span of {} bytes", self.len());
        self.start += count as u32;
    }

    /// Takes `next` in, when it starts where this one ends in the same chunk.
    pub fn try_join(&mut self, next: &Self) -> bool {
        let adjacent = Rc::ptr_eq(&self.chunk, &next.chunk) && self.end == next.start;
        if adjacent {
            self.end = next.end;
        }
        adjacent
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_stays_valid_while_the_chunk_grows() {
        let chunk = Chunk::with_capacity(8);
        chunk.append(b"abc");
        let span = Span::new(&chunk, 1, 3);
        let early = span.bytes();
        chunk.append(b"defgh");
        assert_eq!(early, b"bc");
        assert_eq!(chunk.bytes(), b"abcdefgh");
        assert_eq!(chunk.spare(), 0);
    }

    #[test]
    fn a_span_keeps_its_chunk_alive_and_advances() {
        let mut span = Span::copy_of(b"hello");
        span.advance(4);
        assert_eq!((span.bytes(), span.len()), (&b"o"[..], 1));
        span.advance(1);
        assert!(span.is_empty());
    }

    #[test]
    fn bytes_become_a_span() {
        for len in [0, 1, 100_000] {
            let mut bytes = vec![7; len];
            bytes.reserve(100);
            assert_eq!(Span::of(bytes).bytes(), vec![7; len]);
        }
    }

    #[test]
    fn neighbours_in_one_chunk_join() {
        let chunk = Chunk::with_capacity(6);
        chunk.append(b"abcdef");
        let mut span = Span::new(&chunk, 0, 2);
        assert!(span.try_join(&Span::new(&chunk, 2, 5)));
        assert_eq!(span.bytes(), b"abcde");
        assert!(!span.try_join(&Span::new(&chunk, 4, 6)));
        assert!(!span.try_join(&Span::copy_of(b"x")));
    }

    #[test]
    fn a_sole_owner_reuses_a_chunk() {
        let mut chunk = Chunk::with_capacity(2);
        chunk.append(b"ab");
        Rc::get_mut(&mut chunk).expect("the only owner").clear();
        chunk.append(b"cd");
        assert_eq!(chunk.bytes(), b"cd");
    }

    #[test]
    fn many_spans_see_their_bytes_whatever_is_appended_later() {
        let chunk = Chunk::with_capacity(1_000);
        let all: Vec<u8> = (0..1_000_u32).map(|n| (n * 7) as u8).collect();
        let mut spans = Vec::new();
        for len in (0..).take_while(|len| (len + 1) * len / 2 <= all.len()) {
            let start = chunk.len();
            chunk.append(&all[start..start + len]);
            spans.push((start / 2, Span::new(&chunk, start / 2, start + len)));
        }
        drop(chunk);
        for (start, span) in &spans {
            assert_eq!(span.bytes(), &all[*start..start + span.len()]);
        }
    }

    #[test]
    fn a_chunk_can_be_filled_from_itself_and_can_be_empty() {
        let chunk = Chunk::with_capacity(6);
        chunk.append(b"abc");
        chunk.append(chunk.bytes());
        assert_eq!(chunk.bytes(), b"abcabc");
        let empty = Chunk::with_capacity(0);
        empty.append(b"");
        assert!(empty.is_empty() && Span::new(&empty, 0, 0).is_empty() && Span::copy_of(b"").is_empty());
    }

    #[test]
    #[should_panic(expected = "is not within")]
    fn a_span_of_bytes_that_are_not_there_is_our_mistake() {
        Span::new(&Chunk::with_capacity(8), 0, 1);
    }

    #[test]
    #[should_panic(expected = "do not fit")]
    fn an_append_past_the_capacity_is_our_mistake() {
        Chunk::with_capacity(1).append(b"ab");
    }
}
