//! Compresses messages that the server sends to clients.

use std::fmt;

use flate2::{Compress, Compression, FlushCompress};

use super::{MAX_WINDOW_BITS, TAIL, Window};
use crate::protocol::frame::{self, Frame, MAX_HEADER_LEN};

/// Smallest window size of a compression engine, as a power of two. A client that asks for a smaller window gets plain
/// messages.
const MIN_WINDOW_BITS: u8 = 9;
/// Compression level of the engines, from 1 (fastest) to 9 (smallest output).
const LEVEL: u32 = 3;
/// Largest capacity in bytes of the output buffer that is kept for the next frame.
const KEPT_ROOM: usize = 256 << 10;

/// A compressor of frames for all connections of a shard, one frame at a time. Allocates its engines on first use.
#[derive(Default)]
pub struct Deflater {
    /// The compression engines, by window size: the index is the power of two minus [`MIN_WINDOW_BITS`].
    engines: [Option<Box<Compress>>; (MAX_WINDOW_BITS - MIN_WINDOW_BITS) as usize + 1],
    threshold: usize,
    out: Vec<u8>,
}

impl Deflater {
    /// Creates a deflater that does not compress messages of less than `threshold` bytes.
    pub fn new(threshold: usize) -> Self {
        Self { engines: [const { None }; _], threshold, out: Vec::new() }
    }

    /// Sets the minimum length in bytes of a message that is compressed.
    pub fn set_threshold(&mut self, threshold: usize) {
        self.threshold = threshold;
    }

    /// Returns whether a message of `len` bytes is long enough to be compressed.
    pub fn takes(&self, len: usize) -> bool {
        len >= self.threshold
    }

    /// Compresses `frame` for all clients with a window of the default size, without reference to earlier messages.
    /// Returns `frame` itself if it is a control frame, short, already compressed, or would not get smaller.
    pub fn compress<'a>(&'a mut self, frame: &'a [u8]) -> &'a [u8] {
        frame::first(frame).and_then(|taken| self.compress_with(taken, MAX_WINDOW_BITS, &[])).unwrap_or(frame)
    }

    /// Compresses `frame` for one client, with reference to the messages in the client's `window`. With `takeover`,
    /// appends the message to the window. Returns `frame` itself if it is a control frame, short, already compressed,
    /// or would not get smaller.
    pub fn compress_within<'a>(
        &'a mut self,
        frame: &'a [u8],
        window: &mut Window,
        takeover: bool,
    ) -> &'a [u8] {
        let Some(taken) = frame::first(frame) else { return frame };
        let Some(compressed) = self.compress_with(taken, window.bits(), window.bytes()) else { return frame };
        if takeover {
            window.push(taken.payload);
        }
        compressed
    }

    fn compress_with(&mut self, frame: Frame<'_>, window_bits: u8, history: &[u8]) -> Option<&[u8]> {
        let Frame { opcode, rsv1, payload, whole } = frame;
        let engine = self.engines.get_mut(usize::from(window_bits.checked_sub(MIN_WINDOW_BITS)?))?;
        if opcode.is_control() || rsv1 || payload.is_empty() || payload.len() < self.threshold {
            return None;
        }
        let engine = engine.get_or_insert_with(|| {
            Box::new(Compress::new_with_window_bits(Compression::new(LEVEL), false, window_bits))
        });
        engine.reset();
        if !history.is_empty() {
            engine.set_dictionary(history).ok()?;
        }
        // The frame header is written right before the payload once the compressed length is known.
        self.out.clear();
        self.out.shrink_to(KEPT_ROOM);
        self.out.reserve(MAX_HEADER_LEN + payload.len());
        self.out.resize(MAX_HEADER_LEN, 0);
        engine.compress_vec(payload, &mut self.out, FlushCompress::Sync).ok()?;
        // If the output buffer is full, output may be missing, and its last bytes may equal `TAIL` by accident.
        let is_whole = engine.total_in() == payload.len() as u64
            && self.out.len() < self.out.capacity()
            && self.out.ends_with(&TAIL);
        let len = self.out.len().checked_sub(MAX_HEADER_LEN + TAIL.len())?;
        let header = frame::encode_header(opcode, true, true, len);
        let header = header.as_bytes();
        if !is_whole || header.len() + len >= whole.len() {
            return None;
        }
        let start = MAX_HEADER_LEN - header.len();
        self.out[start..MAX_HEADER_LEN].copy_from_slice(header);
        Some(&self.out[start..MAX_HEADER_LEN + len])
    }
}

impl fmt::Debug for Deflater {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Deflater").field("threshold", &self.threshold).finish_non_exhaustive()
    }
}
