//! Compressed messages of clients.

use std::fmt;

use flate2::{Decompress, DecompressError, FlushDecompress, Status};

use super::{TAIL, Window};
use crate::protocol::frame::Failure;

/// What the first message is given room for; each further need doubles it.
const FIRST_ROOM: usize = 4 << 10;
/// Room that is kept for the next message.
const KEPT_ROOM: usize = 256 << 10;
/// Final blocks that a message may contain. Senders that set BFINAL do so once a message (RFC 7692 §7.2.3.4); each
/// makes the engine begin anew, which nobody shall have it do for every two bytes.
const MOST_FINAL_BLOCKS: usize = 8;

/// Inflates messages of any connection, one at a time. Its memory is taken at the first one.
#[derive(Default)]
pub struct Inflater {
    engine: Option<Box<Decompress>>,
    out: Vec<u8>,
}

impl Inflater {
    /// Bytes of a compressed message that are waited for when it may inflate to `max` bytes. DEFLATE's stored blocks
    /// add 5 bytes for each 64 KiB or less; senders flush now and then.
    pub fn most_compressed(max: usize) -> usize {
        max + max / 64 + 64
    }

    /// The content of a message, of at most `max` bytes. What it says becomes part of the `window`, if there is one.
    ///
    /// # Errors
    /// With code 1009 as soon as there is more, with 1007 when it is not DEFLATE.
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

    /// Bytes that are kept for the next message, besides the engine.
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

    /// Inflates `input` until it is used up or a final block ends.
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
