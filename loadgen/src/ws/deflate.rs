//! Compression and decompression of messages (RFC 7692 §7.2).

use std::fmt;
use std::hash::{DefaultHasher, Hasher as _};

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use super::offer::Agreed;
use super::{MAX_MESSAGE, ProtocolError};

/// The last bytes of every compressed message. The sender removes these bytes (RFC 7692 §7.2.1).
const TAIL: [u8; 4] = [0, 0, 0xFF, 0xFF];
/// Base-2 logarithm of the compressor's smallest window in bytes. With a smaller agreed window, messages are sent
/// uncompressed.
const MIN_WINDOW_BITS: u8 = 9;
/// The compression level of sent messages, from 1 (fast) to 9 (small).
const LEVEL: u32 = 3;
/// First capacity of the buffer for a decompressed message, in bytes. A full buffer doubles.
const FIRST_ROOM: usize = 4 << 10;
/// Number of decompressed messages in the cache.
const REMEMBERED: usize = 8192;
/// Length above which compressed messages share one cache entry, in bytes.
const LONG: usize = 4 << 10;

/// The decompressor of all connections of a thread, with a cache of decompressed messages.
///
/// If the server keeps no context, one message has the same bytes for every connection. Then the cache keeps
/// decompression from making the generator the bottleneck.
#[derive(Default)]
pub struct Inflater {
    engine: Option<Box<Decompress>>,
    remembered: Vec<Remembered>,
    /// The last decompressed message of a connection whose server keeps its context.
    out: Vec<u8>,
}

#[derive(Default, Clone)]
struct Remembered {
    compressed: Vec<u8>,
    content: Vec<u8>,
}

impl Inflater {
    /// Decompresses a message. `context` is the connection's own decompressor, or `None` if the server keeps no
    /// context.
    pub(super) fn inflate(
        &mut self,
        compressed: &[u8],
        context: Option<&mut Decompress>,
    ) -> Result<&[u8], ProtocolError> {
        if let Some(context) = context {
            inflate(context, compressed, &mut self.out)?;
            return Ok(&self.out);
        }
        if self.remembered.is_empty() {
            self.remembered.resize(REMEMBERED, Remembered::default());
        }
        let index = if compressed.len() > LONG { 0 } else { place(compressed) };
        let entry = &mut self.remembered[index];
        if entry.compressed != compressed || compressed.is_empty() {
            // Empties the cache entry first, so that a failed decompression leaves no entry with wrong content.
            entry.compressed.clear();
            let engine = self.engine.get_or_insert_with(|| Box::new(Decompress::new(false)));
            engine.reset(false);
            inflate(engine, compressed, &mut entry.content)?;
            entry.compressed.extend_from_slice(compressed);
        }
        Ok(&entry.content)
    }
}

fn place(bytes: &[u8]) -> usize {
    let mut hasher = DefaultHasher::new();
    hasher.write(bytes);
    (hasher.finish() % REMEMBERED as u64) as usize
}

/// Replaces the content of `out` with the decompressed form of one message.
fn inflate(engine: &mut Decompress, compressed: &[u8], out: &mut Vec<u8>) -> Result<(), ProtocolError> {
    out.clear();
    for mut input in [compressed, &TAIL[..]] {
        loop {
            if out.len() == out.capacity() {
                out.reserve(out.len().max(FIRST_ROOM));
            }
            let before = engine.total_in();
            let status = engine
                .decompress_vec(input, out, FlushDecompress::None)
                .map_err(|_| ProtocolError::Deflate)?;
            input = &input[(engine.total_in() - before) as usize..];
            if out.len() > MAX_MESSAGE {
                return Err(ProtocolError::TooLong {
                    payload_len: out.len() as u64,
                    max_payload: MAX_MESSAGE,
                });
            }
            if status == Status::StreamEnd {
                // RFC 7692 §7.2.3.4: a message may have a final block, and more blocks after it.
                engine.reset(false);
            } else if out.len() < out.capacity() {
                break;
            }
        }
        if !input.is_empty() {
            return Err(ProtocolError::Deflate);
        }
    }
    Ok(())
}

/// The compressor of all connections of a thread.
#[derive(Default)]
pub struct Deflater {
    engine: Option<(u8, Box<Compress>)>,
    out: Vec<u8>,
}

/// The compressor of a connection whose client keeps its context. `None` until the first message is sent.
pub type DeflateState = Option<Box<Compress>>;

impl Deflater {
    /// Compresses `payload` with the negotiated parameters. Returns `None` if the payload must be sent uncompressed.
    pub fn deflate(&mut self, payload: &[u8], agreed: Agreed, context: &mut DeflateState) -> Option<&[u8]> {
        let bits = agreed.client_window_bits;
        if bits < MIN_WINDOW_BITS {
            return None;
        }
        if payload.is_empty() {
            // RFC 7692 §7.2.3.6: an empty message is one empty block. The engine writes no block when flushed twice in
            // a row.
            return Some(&[0]);
        }
        let engine = || Box::new(Compress::new_with_window_bits(Compression::new(LEVEL), false, bits));
        let engine = if agreed.client_context {
            context.get_or_insert_with(engine)
        } else {
            if self.engine.as_ref().is_none_or(|(window, _)| *window != bits) {
                self.engine = None;
            }
            let (_, engine) = self.engine.get_or_insert_with(|| (bits, engine()));
            engine.reset();
            engine
        };
        self.out.clear();
        let before = engine.total_in();
        loop {
            self.out.reserve(payload.len() / 2 + FIRST_ROOM);
            let done = (engine.total_in() - before) as usize;
            engine
                .compress_vec(&payload[done..], &mut self.out, FlushCompress::Sync)
                .expect("a stream that has not ended can be continued");
            if self.out.len() < self.out.capacity() {
                break;
            }
        }
        assert!(self.out.ends_with(&TAIL), "a flushed stream ends with an empty block");
        self.out.truncate(self.out.len() - TAIL.len());
        Some(&self.out)
    }
}

impl fmt::Debug for Inflater {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inflater").finish_non_exhaustive()
    }
}

impl fmt::Debug for Deflater {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Deflater").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALONE: Agreed = Agreed { server_context: false, client_context: false, client_window_bits: 15 };
    const WITH_CONTEXT: Agreed = Agreed { server_context: true, client_context: true, ..ALONE };

    /// Returns random text of `len` characters.
    fn noise(seed: u64, len: usize) -> Vec<u8> {
        let mut rng = fastrand::Rng::with_seed(seed);
        (0..len).map(|_| rng.alphanumeric() as u8).collect()
    }

    #[test]
    fn the_examples_of_rfc_7692_are_decompressed() {
        // The examples of RFC 7692 §7.2.3.1, §7.2.3.3 and §7.2.3.4: compressed, stored, with BFINAL, and in two blocks.
        let examples: [&[u8]; 4] = [
            &[0xF2, 0x48, 0xCD, 0xC9, 0xC9, 0x07, 0x00],
            &[0x00, 0x05, 0x00, 0xFA, 0xFF, 0x48, 0x65, 0x6C, 0x6C, 0x6F, 0x00],
            &[0xF3, 0x48, 0xCD, 0xC9, 0xC9, 0x07, 0x00, 0x00],
            &[0xF2, 0x48, 0x05, 0x00, 0x00, 0x00, 0xFF, 0xFF, 0xCA, 0xC9, 0xC9, 0x07, 0x00],
        ];
        let mut inflater = Inflater::default();
        for example in examples.iter().chain(&examples) {
            assert_eq!(inflater.inflate(example, None), Ok(&b"Hello"[..]));
        }
        // The example of RFC 7692 §7.2.3.2: the second message refers to the first.
        let mut context = Decompress::new(false);
        let second = [0xF2, 0x00, 0x11, 0x00, 0x00];
        for message in [examples[0], &second] {
            assert_eq!(inflater.inflate(message, Some(&mut context)), Ok(&b"Hello"[..]));
        }
        assert_eq!(inflater.inflate(&second, None), Err(ProtocolError::Deflate));
    }

    #[test]
    fn a_compressed_message_is_decompressed_to_the_original() {
        for agreed in [ALONE, WITH_CONTEXT, Agreed { client_window_bits: 9, ..WITH_CONTEXT }] {
            let (mut deflater, mut inflater) = (Deflater::default(), Inflater::default());
            let (mut sending, mut receiving) = (None, Decompress::new(false));
            for len in [0, 1, 20, 64, 300, 4096, 70_000, 0, 1 << 20, 5] {
                for payload in [noise(len as u64, len), vec![b'a'; len]] {
                    let compressed =
                        deflater.deflate(&payload, agreed, &mut sending).expect("it can").to_vec();
                    let context = agreed.client_context.then_some(&mut receiving);
                    assert_eq!(inflater.inflate(&compressed, context), Ok(&payload[..]), "{agreed:?}, {len}");
                }
            }
            assert_eq!(sending.is_some(), agreed.client_context);
        }
        let small = Agreed { client_window_bits: 8, ..ALONE };
        assert_eq!(Deflater::default().deflate(b"Hello", small, &mut None), None);
    }

    #[test]
    fn a_context_makes_repeated_messages_shorter() {
        let payload = noise(1, 200);
        for (agreed, shorter) in [(ALONE, false), (WITH_CONTEXT, true)] {
            let (mut deflater, mut context) = (Deflater::default(), None);
            let mut len = || deflater.deflate(&payload, agreed, &mut context).map_or(0, <[u8]>::len);
            let (first, second) = (len(), len());
            assert!(first > 100, "{first}");
            assert_eq!((second < 20, second == first), (shorter, !shorter), "{second} after {first}");
        }
    }

    #[test]
    fn a_wrong_message_leaves_nothing_in_the_cache() {
        let mut inflater = Inflater::default();
        // A DEFLATE block of an undefined type, which is an error both times.
        for _ in 0..2 {
            assert_eq!(inflater.inflate(&[0x06, 0x07], None), Err(ProtocolError::Deflate));
        }
        let (mut deflater, mut context) = (Deflater::default(), None);
        for round in 0..2 {
            for seed in 0..REMEMBERED as u64 {
                let payload = noise(seed, 40);
                let compressed = deflater.deflate(&payload, ALONE, &mut context).expect("it can");
                assert_eq!(inflater.inflate(compressed, None), Ok(&payload[..]), "{round}, {seed}");
            }
        }
    }

    #[test]
    fn a_message_that_never_ends_is_cut_off() {
        let mut deflater = Deflater::default();
        let zeros = vec![0; MAX_MESSAGE + 1];
        let bomb = deflater.deflate(&zeros, ALONE, &mut None).expect("it can");
        let fault = Inflater::default().inflate(bomb, None).map(<[u8]>::len);
        assert!(matches!(fault, Err(ProtocolError::TooLong { .. })), "{fault:?}");
    }
}
