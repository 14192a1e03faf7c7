//! The receive buffers of an io_uring. The kernel picks a buffer when data arrives.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::io;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::types::BufRingEntry;

use crate::io::{BackendOptions, Buffer};

use super::operation::BUFFER_GROUP;
use super::ring::Ring;

/// Alignment of the registered buffer ring, in bytes.
const PAGE: usize = 4096;

/// Maximum number of entries in a buffer ring; see io_uring_register(2).
const MAX_BUFFERS: u16 = 1 << 15;

/// Target for the bytes that arrive in all lent buffers together, given the recent average per buffer. The kernel fills
/// buffers in order. With fewer lent buffers, each is reused sooner, while its memory is still in the processor's
/// cache.
const CACHED_BYTES: usize = 256 << 10;

/// Number of turns in which the peak number of waiting sockets decays to a little less than half. A socket that finds
/// no buffer must be armed again, which costs more than a buffer outside the cache.
const PEAK_DECAY_TURNS: usize = 64;

/// The receive buffers of an io_uring. The memory of a buffer that is lent to the kernel is in `lent`. Any other buffer
/// is a [`Buffer`], either in `kept` or with the caller.
pub(super) struct Buffers {
    /// The buffer ring, shared with the kernel. It has `lent.len()` entries, a power of two.
    entries: NonNull<BufRingEntry>,
    layout: Layout,
    /// Number of entries added to the buffer ring so far, modulo 2^16.
    tail: u16,
    /// Memory of each lent buffer, by id. Null while a buffer is not lent.
    lent: Box<[*mut u8]>,
    buffer_len: usize,
    /// Number of lent buffers that the kernel can still fill.
    available: usize,
    /// Free buffers that are not lent. The last buffer is lent first, since its memory is the likeliest to be in the
    /// cache.
    kept: Vec<Buffer>,
    /// Moving average of the number of bytes that arrive in a buffer.
    usual_len: usize,
    /// Recent maximum number of sockets that waited for a buffer. It decays with each turn.
    waiting_peak: usize,
}

impl Buffers {
    /// Makes the receive buffers, and registers the buffer ring with the io_uring.
    ///
    /// # Errors
    /// When the number of buffers is not a power of two in range, or the kernel refuses the buffer ring.
    pub(super) fn new(options: &BackendOptions, ring: &Ring) -> io::Result<Self> {
        let count = options.buffers;
        if !count.is_power_of_two() || count > MAX_BUFFERS {
            let text = format!("{count} receive buffers, but it must be a power of two up to {MAX_BUFFERS}");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        let layout = Layout::array::<BufRingEntry>(count.into())
            .and_then(|layout| layout.align_to(PAGE))
            .map_err(io::Error::other)?;
        // SAFETY: the size is not zero, since `count` is not.
        let memory = unsafe { alloc_zeroed(layout) };
        let Some(entries) = NonNull::new(memory.cast::<BufRingEntry>()) else { handle_alloc_error(layout) };
        let mut buffers = Self {
            entries,
            layout,
            tail: 0,
            lent: vec![ptr::null_mut(); count.into()].into_boxed_slice(),
            buffer_len: options.buffer_len,
            available: 0,
            kept: (0..count).map(|id| Buffer::new(options.buffer_len, id)).collect(),
            usual_len: 0,
            waiting_peak: 0,
        };
        // SAFETY: the memory is freed by `drop` or `leak`, both of which come after the ring's own end.
        unsafe { ring.register_buffers(entries.as_ptr() as u64, count, BUFFER_GROUP) }?;
        buffers.lend(0);
        Ok(buffers)
    }

    /// Takes a free buffer back from the caller, to lend it to the kernel later.
    pub(super) fn give(&mut self, buffer: Buffer) {
        self.kept.push(buffer);
    }

    /// Lends free buffers to the kernel, as many as are useful while `waiting` sockets wait for a buffer. Returns the
    /// number of buffers that the kernel can fill now.
    pub(super) fn lend(&mut self, waiting: usize) -> usize {
        self.waiting_peak = waiting.max(self.waiting_peak - self.waiting_peak.div_ceil(PEAK_DECAY_TURNS));
        let wanted = (CACHED_BYTES / self.usual_len.max(1)).max(2 * self.waiting_peak).max(1);
        if self.available < wanted && !self.kept.is_empty() {
            for _ in self.available..wanted {
                let Some(buffer) = self.kept.pop() else { break };
                self.enter(buffer);
            }
            self.publish();
        }
        self.available
    }

    /// Adds `buffer` to the buffer ring. The kernel does not see the new entry before [`Self::publish`].
    ///
    /// # Panics
    /// When the buffer belongs to another backend.
    fn enter(&mut self, buffer: Buffer) {
        let Buffer { memory, id, .. } = buffer;
        assert_eq!(memory.len(), self.buffer_len, "a buffer of another backend");
        assert!(self.lent[usize::from(id)].is_null(), "buffer {id} of another backend");
        let memory = Box::into_raw(memory).cast::<u8>();
        self.lent[usize::from(id)] = memory;
        let index = usize::from(self.tail) & (self.lent.len() - 1);
        // SAFETY: the index is below the number of entries.
        let mut entry = unsafe { self.entries.add(index) };
        // SAFETY: the memory is initialised (zeroed), and nobody else refers to it: the kernel looks only at
        // entries before the tail, which this one is not yet.
        let entry = unsafe { entry.as_mut() };
        entry.set_addr(memory as u64);
        entry.set_len(self.buffer_len as u32);
        entry.set_bid(id);
        self.tail = self.tail.wrapping_add(1);
        self.available += 1;
    }

    /// Takes back from the kernel a buffer that it has filled with `len` bytes.
    ///
    /// # Panics
    /// When the buffer `id` is not lent to the kernel.
    pub(super) fn take(&mut self, id: u16, len: usize) -> Buffer {
        let memory = std::mem::replace(&mut self.lent[usize::from(id)], ptr::null_mut());
        assert!(!memory.is_null(), "the kernel reported buffer {id} twice");
        self.available -= 1;
        self.usual_len = (15 * self.usual_len + len).div_ceil(16);
        let memory = ptr::slice_from_raw_parts_mut(memory, self.buffer_len);
        // SAFETY: `enter` got this pointer from a box of this length. The kernel has reported the buffer as
        // used up and does not write to it any more.
        let memory = unsafe { Box::from_raw(memory) };
        Buffer { memory, len, id }
    }

    /// Leaks the memory of the lent buffers and of the buffer ring, because the kernel may still use this memory.
    pub(super) fn leak(&mut self) {
        self.lent.fill(ptr::null_mut());
        self.layout = Layout::new::<()>();
    }

    /// Publishes the tail of the buffer ring, so that the kernel sees all entries before the tail.
    fn publish(&self) {
        // SAFETY: `entries` is the start of the ring, and initialised.
        let tail = unsafe { BufRingEntry::tail(self.entries.as_ptr()) };
        // SAFETY: the tail lies in memory that we own, is aligned, and is accessed by us only here; the
        // kernel reads it with acquire semantics.
        let tail = unsafe { AtomicU16::from_ptr(tail.cast_mut()) };
        tail.store(self.tail, Ordering::Release);
    }
}

impl Drop for Buffers {
    fn drop(&mut self) {
        for memory in self.lent.iter().filter(|memory| !memory.is_null()) {
            let memory = ptr::slice_from_raw_parts_mut(*memory, self.buffer_len);
            // SAFETY: as in `take`; the owner quiesced the ring, so that the kernel writes no more.
            drop(unsafe { Box::from_raw(memory) });
        }
        if self.layout.size() > 0 {
            // SAFETY: allocated in `new` with this layout. The kernel reads it for receiving only, and the
            // owner quiesced the ring.
            unsafe { dealloc(self.entries.as_ptr().cast(), self.layout) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: u16 = 64;

    /// Takes every lent buffer back with `len` bytes, and lends free buffers again. Returns the number of lent buffers.
    fn fill_all(buffers: &mut Buffers, len: usize) -> usize {
        let lent: Vec<u16> = (0..ALL).filter(|id| !buffers.lent[usize::from(*id)].is_null()).collect();
        for id in lent {
            let buffer = buffers.take(id, len);
            buffers.give(buffer);
        }
        buffers.lend(0)
    }

    #[test]
    fn as_many_buffers_are_lent_as_the_cache_holds() {
        let ring = Ring::new(4, 1).expect("this machine has io_uring");
        let options = BackendOptions { buffers: ALL, ..BackendOptions::default() };
        let mut buffers = Buffers::new(&options, &ring).expect("memory");
        let all = usize::from(ALL);
        assert_eq!(buffers.lend(0), all, "the usual length is not known yet");
        for _ in 0..20 {
            fill_all(&mut buffers, options.buffer_len);
        }
        assert_eq!(fill_all(&mut buffers, options.buffer_len), CACHED_BYTES / options.buffer_len);
        assert_eq!(buffers.lend(20), 40, "next time, every socket finds a buffer");
        assert!(fill_all(&mut buffers, options.buffer_len) > 30);
        for _ in 0..PEAK_DECAY_TURNS * 4 {
            fill_all(&mut buffers, options.buffer_len);
        }
        assert_eq!(fill_all(&mut buffers, options.buffer_len), CACHED_BYTES / options.buffer_len);
        for _ in 0..20 {
            fill_all(&mut buffers, 60);
        }
        assert_eq!(fill_all(&mut buffers, 60), all);

        let last = buffers.take(0, 60);
        let (id, memory) = (last.id, last.memory.as_ptr());
        buffers.give(last);
        buffers.lend(0);
        assert_eq!(
            buffers.lent[usize::from(id)].cast_const(),
            memory,
            "the last buffer given is the first one lent"
        );
        drop(ring);
    }
}
