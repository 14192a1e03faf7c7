//! Receive buffers that the kernel picks from as data arrives.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::io;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::types::BufRingEntry;

use super::operation::BUFFER_GROUP;
use super::ring::Ring;
use crate::io::{Buffer, Options};

/// The registered buffer ring starts on a page of its own.
const PAGE: usize = 4096;

/// The most entries of a buffer ring, io_uring_register(2).
const MOST: u16 = 1 << 15;

/// A buffer belongs either to the kernel, and then its memory is in `lent`, or to the caller as a [`Buffer`].
pub(super) struct Buffers {
    /// The ring of `lent.len()` entries, a power of two, that the kernel reads.
    entries: NonNull<BufRingEntry>,
    layout: Layout,
    /// Entries published so far; it wraps.
    tail: u16,
    /// Memory of each buffer by its id, null while the caller has it.
    lent: Box<[*mut u8]>,
    buffer_len: usize,
    /// Number of buffers that the kernel can still fill.
    available: usize,
}

impl Buffers {
    pub(super) fn new(options: &Options, ring: &Ring) -> io::Result<Self> {
        let count = options.buffers;
        if !count.is_power_of_two() || count > MOST {
            let text = format!("{count} receive buffers, but it must be a power of two up to {MOST}");
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
        };
        // SAFETY: the memory is freed by `drop` or `leak`, both of which come after the ring's own end.
        unsafe { ring.register_buffers(entries.as_ptr() as u64, count, BUFFER_GROUP) }?;
        for id in 0..count {
            buffers.give(Buffer::new(options.buffer_len, id));
        }
        Ok(buffers)
    }

    /// Gives a buffer to the kernel.
    ///
    /// # Panics
    /// When it is not one of ours.
    pub(super) fn give(&mut self, buffer: Buffer) {
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
        self.publish();
        self.available += 1;
    }

    /// Takes a buffer back that the kernel has filled with `len` bytes.
    ///
    /// # Panics
    /// When the kernel did not have it.
    pub(super) fn take(&mut self, id: u16, len: usize) -> Buffer {
        let memory = std::mem::replace(&mut self.lent[usize::from(id)], ptr::null_mut());
        assert!(!memory.is_null(), "the kernel reported buffer {id} twice");
        self.available -= 1;
        let memory = ptr::slice_from_raw_parts_mut(memory, self.buffer_len);
        // SAFETY: `give` got this pointer from a box of this length. The kernel has reported the buffer as
        // used up and does not write to it any more.
        let memory = unsafe { Box::from_raw(memory) };
        Buffer { memory, len, id }
    }

    /// Number of buffers that the kernel can still fill.
    pub(super) fn available(&self) -> usize {
        self.available
    }

    /// Keeps the memory for ever, since the kernel may still write to it.
    pub(super) fn leak(&mut self) {
        self.lent.fill(ptr::null_mut());
        self.layout = Layout::new::<()>();
    }

    /// Shows the kernel the entries up to the tail.
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
