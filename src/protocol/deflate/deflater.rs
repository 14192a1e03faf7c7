//! Compressed messages for clients.

use std::fmt;

use flate2::{Compress, Compression, FlushCompress};

use super::{MAX_WINDOW_BITS, TAIL, Window};
use crate::protocol::frame::{self, Frame, MAX_HEADER_LEN};

/// Smallest window that the engine has. A client that insists on a smaller one is sent plain messages.
const MIN_WINDOW_BITS: u8 = 9;
/// How hard the engine tries, of 9.
const LEVEL: u32 = 3;
/// Room that is kept for the next frame.
const KEPT_ROOM: usize = 256 << 10;

/// Compresses frames for any connection, one at a time. Its memory is taken at the first one.
#[derive(Default)]
pub struct Deflater {
    /// By window size.
    engines: [Option<Box<Compress>>; (MAX_WINDOW_BITS - MIN_WINDOW_BITS) as usize + 1],
    threshold: usize,
    out: Vec<u8>,
}

impl Deflater {
    /// One that leaves messages of less than `threshold` bytes as they are.
    pub fn new(threshold: usize) -> Self {
        Self { engines: [const { None }; _], threshold, out: Vec::new() }
    }

    /// From now on leaves messages of less than `threshold` bytes as they are.
    pub fn set_threshold(&mut self, threshold: usize) {
        self.threshold = threshold;
    }

    /// Whether a message of `len` bytes is worth the trouble.
    pub fn takes(&self, len: usize) -> bool {
        len >= self.threshold
    }

    /// The frame to send instead of `frame`: it refers to nothing but itself and every client with the usual window
    /// can read it. That is `frame` itself when it is no message, short, compressed already or does not get smaller.
    pub fn pack<'a>(&'a mut self, frame: &'a [u8]) -> &'a [u8] {
        frame::first(frame).and_then(|taken| self.pack_for(taken, MAX_WINDOW_BITS, &[])).unwrap_or(frame)
    }

    /// The same for one client alone, whose window it knows: it may refer to what that client has got before.
    pub fn pack_within<'a>(&'a mut self, frame: &'a [u8], window: &mut Window, takeover: bool) -> &'a [u8] {
        let Some(taken) = frame::first(frame) else { return frame };
        let Some(packed) = self.pack_for(taken, window.bits(), window.bytes()) else { return frame };
        if takeover {
            window.push(taken.payload);
        }
        packed
    }

    fn pack_for(&mut self, frame: Frame<'_>, window_bits: u8, history: &[u8]) -> Option<&[u8]> {
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
        // The header goes right before the payload once its length is known.
        self.out.clear();
        self.out.shrink_to(KEPT_ROOM);
        self.out.reserve(MAX_HEADER_LEN + payload.len());
        self.out.resize(MAX_HEADER_LEN, 0);
        engine.compress_vec(payload, &mut self.out, FlushCompress::Sync).ok()?;
        // Where no room is left there may be more to come, and its last bytes may look like the end by accident.
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
