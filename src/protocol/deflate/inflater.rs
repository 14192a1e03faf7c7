//! Decompresses messages that clients send.

use std::fmt;

use flate2::{Decompress, DecompressError, FlushDecompress, Status};

use super::{TAIL, Window};
use crate::protocol::frame::Failure;

/// Initial capacity of the output buffer in bytes. A full output buffer doubles its capacity.
const FIRST_ROOM: usize = 4 << 10;
/// Largest capacity in bytes of the output buffer that is kept for the next message.
const KEPT_ROOM: usize = 256 << 10;
/// Maximum number of final DEFLATE blocks in a message. Senders that set BFINAL do so once per message (RFC 7692
/// §7.2.3.4). Each final block resets the engine, so a message full of two-byte final blocks would cost much CPU time.
const MOST_FINAL_BLOCKS: usize = 8;

/// A decompressor of messages for all connections of a shard, one message at a time. Allocates its engine on first use.
#[derive(Default)]
pub struct Inflater {
    engine: Option<Box<Decompress>>,
    out: Vec<u8>,
}

impl Inflater {
    /// Returns the maximum length in bytes of a compressed message that may decompress to `max` bytes. DEFLATE can make
    /// data longer: stored blocks add 5 bytes for each 64 KiB or less, and senders may flush.
    pub fn most_compressed(max: usize) -> usize {
        max + max / 64 + 64
    }

    /// Decompresses a message to at most `max` bytes and appends the result to `window`, if there is one.
    ///
    /// # Errors
    /// Returns a failure with code 1009 as soon as the decompressed message exceeds `max` bytes. Returns one with code
    /// 1007 if the message is not valid DEFLATE data.
    pub fn inflate(
        &mut self,
        compressed: &[u8],
        window: Option<&mut Window>,
        max: usize,
    ) -> Result<&[u8], Failure> {
        self.out.clear();
        self.out.shrink_to(KEPT_ROOM);
        let history = window.as_deref().map_or(&[][..], Window::bytes);
        self.begin(history)?;
        let mut final_blocks = 0;
        for mut input in [compressed, &TAIL[..]] {
            while self.step(&mut input, max)? == Status::StreamEnd {
                final_blocks += 1;
                if final_blocks > MOST_FINAL_BLOCKS {
                    return Err(Failure::DEFLATE);
                }
                let mut said = Window::new(super::MAX_WINDOW_BITS);
                said.push(history);
                said.push(&self.out);
                self.begin(said.bytes())?;
            }
        }
        if let Some(window) = window {
            window.push(&self.out);
        }
        Ok(&self.out)
    }

    /// Returns the capacity of the output buffer in bytes.
    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        self.out.capacity()
    }

    fn begin(&mut self, history: &[u8]) -> Result<(), Failure> {
        let engine = self.engine.get_or_insert_with(|| Box::new(Decompress::new(false)));
        engine.reset(false);
        if !history.is_empty() {
            engine.set_dictionary(history).map_err(failure)?;
        }
        Ok(())
    }

    /// Decompresses `input` until all of it is consumed or a final DEFLATE block ends.
    fn step(&mut self, input: &mut &[u8], max: usize) -> Result<Status, Failure> {
        let engine = self.engine.as_mut().expect("`begin` came before");
        loop {
            if self.out.len() == self.out.capacity() {
                let wanted = (2 * self.out.len()).max(FIRST_ROOM).min(max + 1);
                self.out.reserve_exact(wanted - self.out.len());
            }
            let before = engine.total_in();
            let status =
                engine.decompress_vec(input, &mut self.out, FlushDecompress::None).map_err(failure)?;
            *input = &input[(engine.total_in() - before) as usize..];
            if self.out.len() > max {
                return Err(Failure::TOO_BIG);
            }
            let is_done = input.is_empty() && self.out.len() < self.out.capacity();
            if status == Status::StreamEnd || is_done {
                return Ok(status);
            }
        }
    }
}

impl fmt::Debug for Inflater {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inflater").field("room", &self.out.capacity()).finish_non_exhaustive()
    }
}

fn failure(_: DecompressError) -> Failure {
    Failure::DEFLATE
}
