//! Reference-counted byte buffers that can grow while earlier bytes are being sent.
//!
//! The hub appends encoded frames to a [`Chunk`]. A backend holds a [`Span`] of the chunk as long as the kernel may
//! read the bytes of the span. Chunk and span live on one thread, so the reference counts are not atomic.
//!
//! Each thread counts the memory of its chunks: see [`memory`]. So the account of a shard's memory includes the logs of
//! rooms, outboxes and sends in flight without a walk over any of these.

#![expect(unsafe_code, reason = "appending while others read earlier bytes needs interior mutability")]

use std::cell::Cell;
use std::fmt;
use std::mem::MaybeUninit;
use std::ptr::NonNull;
use std::rc::Rc;

/// Memory of a chunk in addition to its bytes: the value itself, its reference counts, and the allocator's overhead.
const OVERHEAD: usize = size_of::<Chunk>() + 48;

thread_local! {
    /// Memory of this thread's chunks and of its [`Counted`] values, in bytes.
    static MEMORY: Cell<usize> = const { Cell::new(0) };
}

/// Returns the memory of the calling thread's chunks and [`Counted`] values, in bytes.
pub fn memory() -> usize {
    MEMORY.get()
}

/// Memory beside a chunk that counts in [`memory`] until this value is dropped.
#[derive(Debug, Default)]
pub(crate) struct Counted(usize);

impl Counted {
    /// Replaces the counted number of bytes.
    pub(crate) fn set(&mut self, bytes: usize) {
        MEMORY.set(MEMORY.get() - self.0 + bytes);
        self.0 = bytes;
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.set(0);
    }
}

/// A byte buffer of fixed capacity to which bytes can only be appended. Appended bytes never change and never move.
pub struct Chunk {
    /// Start of the chunk's allocation of `capacity` bytes. The first `len` bytes are initialised.
    start: NonNull<MaybeUninit<u8>>,
    capacity: usize,
    len: Cell<usize>,
    /// The chunk's share of its thread's [`memory`].
    _counted: Counted,
}

impl Chunk {
    /// Creates an empty chunk that can hold `capacity` bytes.
    ///
    /// # Panics
    /// If `capacity` is 4 GiB or more: the bounds of a [`Span`] have 32 bits.
    pub fn with_capacity(capacity: usize) -> Rc<Self> {
        assert!(u32::try_from(capacity).is_ok(), "a chunk holds less than 4 GiB, not {capacity} bytes");
        let boxed: Box<[MaybeUninit<u8>]> = Box::new_uninit_slice(capacity);
        let start = NonNull::from(Box::leak(boxed)).cast();
        Self::owning(start, capacity, 0)
    }

    /// Turns `bytes` into a full chunk without copying them.
    fn of(bytes: Vec<u8>) -> Rc<Self> {
        let len = bytes.len();
        assert!(u32::try_from(len).is_ok(), "a chunk holds less than 4 GiB, not {len} bytes");
        let start = NonNull::from(Box::leak(bytes.into_boxed_slice())).cast();
        Self::owning(start, len, len)
    }

    /// Creates the chunk that owns the leaked box of `capacity` bytes at `start`, of which the first `len` are
    /// initialised.
    fn owning(start: NonNull<MaybeUninit<u8>>, capacity: usize, len: usize) -> Rc<Self> {
        let mut counted = Counted::default();
        counted.set(capacity + OVERHEAD);
        Rc::new(Self { start, capacity, len: Cell::new(len), _counted: counted })
    }

    /// Returns the number of bytes appended to the chunk so far.
    pub fn len(&self) -> usize {
        self.len.get()
    }

    /// Returns whether the chunk has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the number of bytes that the chunk can hold.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Returns the number of bytes that can still be appended to the chunk.
    pub fn spare(&self) -> usize {
        self.capacity - self.len()
    }

    /// Appends `bytes` to the chunk, also while spans of the chunk exist.
    ///
    /// # Panics
    /// If `bytes` do not fit. Check [`Chunk::spare`] first.
    pub fn append(&self, bytes: &[u8]) {
        let len = self.len();
        assert!(bytes.len() <= self.capacity - len, "{} bytes do not fit in {}", bytes.len(), self.spare());
        // SAFETY: `len <= capacity`, so the result stays within (or one past) the allocation.
        let end = unsafe { self.start.as_ptr().add(len) };
        // SAFETY: the assertion leaves room for `bytes` at `end`. `bytes()` only hands out initialised bytes, so no
        // reference covers the bytes at or after `len`: nothing borrowed changes, and `bytes` cannot overlap them.
        unsafe { end.cast::<u8>().copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
        self.len.set(len + bytes.len());
    }

    /// Removes all bytes, so that the chunk can be filled again. Only the chunk's sole owner can call this method.
    pub fn clear(&mut self) {
        self.len.set(0);
    }

    /// Returns the bytes appended to the chunk so far.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: the first `len` bytes are initialised. Nothing writes them while `self` is borrowed: `append` writes
        // after them, and `clear` needs `&mut self`.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr().cast::<u8>(), self.len()) }
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        let slice = NonNull::slice_from_raw_parts(self.start, self.capacity);
        // SAFETY: `start` and `capacity` come from a leaked box of this type, or of bytes, which have the same layout.
        // Only this line frees it.
        drop(unsafe { Box::from_raw(slice.as_ptr()) });
    }
}

impl fmt::Debug for Chunk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Chunk({} of {} bytes)", self.len(), self.capacity)
    }
}

/// A range of a chunk's bytes. The span keeps its chunk alive.
#[derive(Clone, Debug)]
pub struct Span {
    chunk: Rc<Chunk>,
    start: u32,
    end: u32,
}

impl Span {
    /// Creates a span of the bytes `start..end` (without `end`) of `chunk`.
    ///
    /// # Panics
    /// If the range is not within the bytes appended to `chunk`.
    pub fn new(chunk: &Rc<Chunk>, start: usize, end: usize) -> Self {
        assert!(start <= end && end <= chunk.len(), "{start}..{end} is not within {chunk:?}");
        // `Chunk::with_capacity` ensures that every position in a chunk fits in 32 bits.
        Self { chunk: Rc::clone(chunk), start: start as u32, end: end as u32 }
    }

    /// Copies `bytes` to a new chunk and returns a span of the whole chunk.
    pub fn copy_of(bytes: &[u8]) -> Self {
        let chunk = Chunk::with_capacity(bytes.len());
        chunk.append(bytes);
        Self::new(&chunk, 0, bytes.len())
    }

    /// Turns `bytes` into a new chunk, without copying, and returns a span of the whole chunk.
    pub fn of(bytes: Vec<u8>) -> Self {
        let chunk = Chunk::of(bytes);
        Self { start: 0, end: chunk.len() as u32, chunk }
    }

    /// Returns the bytes of the span. The address of the bytes does not change while any clone of this span lives.
    pub fn bytes(&self) -> &[u8] {
        &self.chunk.bytes()[self.start as usize..self.end as usize]
    }

    /// Returns the number of the chunk's owners, this span included, and the chunk's address.
    #[cfg(test)]
    pub(crate) fn owners(&self) -> (usize, *const Chunk) {
        (Rc::strong_count(&self.chunk), Rc::as_ptr(&self.chunk))
    }

    /// Returns whether the span is a range of `chunk`.
    pub(crate) fn is_in(&self, chunk: &Rc<Chunk>) -> bool {
        Rc::ptr_eq(&self.chunk, chunk)
    }

    /// Returns the number of bytes in the span.
    pub fn len(&self) -> usize {
        (self.end - self.start) as usize
    }

    /// Returns whether the span has no bytes.
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Removes the first `count` bytes from the span after the kernel has sent these bytes.
    ///
    /// # Panics
    /// If the span has fewer than `count` bytes.
    pub fn advance(&mut self, count: usize) {
        assert!(count <= self.len(), "cannot advance {count} in a span of {} bytes", self.len());
        self.start += count as u32;
    }

    /// Extends this span by `next` if `next` starts where this span ends in the same chunk. Returns whether the span
    /// was extended.
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
    fn a_vector_becomes_a_span() {
        for len in [0, 1, 100_000] {
            let mut bytes = vec![7; len];
            bytes.reserve(100);
            assert_eq!(Span::of(bytes).bytes(), vec![7; len]);
        }
    }

    #[test]
    fn adjacent_spans_of_one_chunk_join() {
        let chunk = Chunk::with_capacity(6);
        chunk.append(b"abcdef");
        let mut span = Span::new(&chunk, 0, 2);
        assert!(span.try_join(&Span::new(&chunk, 2, 5)));
        assert_eq!(span.bytes(), b"abcde");
        assert!(!span.try_join(&Span::new(&chunk, 4, 6)));
        assert!(!span.try_join(&Span::copy_of(b"x")));
    }

    #[test]
    fn the_sole_owner_can_empty_a_chunk() {
        let mut chunk = Chunk::with_capacity(2);
        chunk.append(b"ab");
        Rc::get_mut(&mut chunk).expect("the only owner").clear();
        chunk.append(b"cd");
        assert_eq!(chunk.bytes(), b"cd");
    }

    #[test]
    fn spans_keep_their_bytes_while_the_chunk_grows() {
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
    fn the_memory_of_a_thread_counts_chunks_as_long_as_anything_refers_to_them() {
        let before = memory();
        let chunk = Chunk::with_capacity(1_000);
        let span = Span::copy_of(&[1; 500]);
        let clone = span.clone();
        let mut counted = Counted::default();
        counted.set(70);
        counted.set(30);
        assert_eq!(memory() - before, 1_000 + 500 + 30 + 2 * OVERHEAD);
        drop((chunk, span, counted));
        assert_eq!(memory() - before, 500 + OVERHEAD, "a clone is left");
        std::thread::spawn(|| assert_eq!(memory(), 0)).join().expect("each thread has its own count");
        drop(clone);
        assert_eq!(memory(), before);
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
    fn a_span_beyond_the_appended_bytes_panics() {
        Span::new(&Chunk::with_capacity(8), 0, 1);
    }

    #[test]
    #[should_panic(expected = "do not fit")]
    fn an_append_beyond_the_capacity_panics() {
        Chunk::with_capacity(1).append(b"ab");
    }
}
