//! Request bodies: their length by the header fields, and the decoding of chunked bodies. RFC 9112 §6, §7.1
//!
//! A proxy in front of the server may read the length of a body differently than the server. Then the body's end could
//! pass as a request of another client (request smuggling, RFC 9112 §11.2). So every doubtful length is refused.

use super::handshake::values;
use super::response::{Refusal, Status};
use super::take_up_to;
use httparse::Header;

/// Maximum length in bytes of all chunk extensions and trailer fields of a body together.
const MAX_EXTRA: usize = 16 * 1024;

/// Maximum number of digits of a chunk's size, including leading zeros. So many digits fit in a `u64`.
const MAX_SIZE_DIGITS: u8 = 16;

/// The length of a request's body, as the header fields of the request give it. RFC 9112 §6.3
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BodyLength {
    /// The body has this number of bytes; 0 without a body.
    Known(usize),
    /// The body comes in chunks, and the last chunk ends it.
    Chunked,
}

impl BodyLength {
    /// Returns the length of the body of a request with these header fields, at most `max_body` bytes.
    pub(super) fn of(headers: &[Header<'_>], is_http_1_0: bool, max_body: usize) -> Result<Self, Refusal> {
        let bad = |reason| Err(Refusal::new(Status::BadRequest, reason));
        let mut encodings = values(headers, "Transfer-Encoding");
        let mut lens = values(headers, "Content-Length");
        let (encoding, len) = (encodings.next(), lens.next());
        // RFC 9112 §6.3, item 5, allows a server to accept several equal lengths. This server refuses them, because an
        // intermediary that disagrees about one length may disagree about the other.
        if lens.next().is_some() {
            return bad("Send the header field Content-Length at most once.");
        }
        match (encoding, len) {
            (None, None) => Ok(Self::Known(0)),
            (None, Some(len)) => known_len(len, max_body),
            // RFC 9112 §6.3, item 3: such a request may be an attempt to smuggle another one.
            (Some(_), Some(_)) => bad("Send Content-Length or Transfer-Encoding, not both."),
            // RFC 9112 §6.1: chunked is a part of HTTP/1.1, so the framing of such a request is faulty.
            (Some(_), None) if is_http_1_0 => bad("Transfer-Encoding needs HTTP/1.1."),
            (Some(encoding), None)
                if encoding.eq_ignore_ascii_case(b"chunked") && encodings.next().is_none() =>
            {
                Ok(Self::Chunked)
            }
            (Some(_), None) => {
                bad("The only Transfer-Encoding that this server takes is \"chunked\", sent once.")
            }
        }
    }
}

/// Parses a Content-Length, which has digits only. RFC 9110 §8.6
fn known_len(text: &[u8], max_body: usize) -> Result<BodyLength, Refusal> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return Err(Refusal::new(Status::BadRequest, "The header field Content-Length must be a number."));
    }
    let digit = |len: usize, digit: &u8| len.checked_mul(10)?.checked_add(usize::from(digit - b'0'));
    match text.iter().try_fold(0, digit).filter(|len| *len <= max_body) {
        Some(len) => Ok(BodyLength::Known(len)),
        None => Err(too_long(max_body)),
    }
}

/// Returns the refusal of a request whose body has more than `max_body` bytes.
pub(super) fn too_long(max_body: usize) -> Refusal {
    if max_body == 0 {
        let reason = "This server takes no request content here; send the request without it.";
        return Refusal::new(Status::ContentTooLarge, reason);
    }
    let reason = format!("The request content is too long; send at most {max_body} bytes.");
    Refusal::with_text(Status::ContentTooLarge, reason)
}

/// The progress of a body that arrives in parts.
#[derive(Clone, Copy, Debug)]
pub(super) enum BodyDecoder {
    /// This number of bytes is missing.
    Known(usize),
    Chunked(ChunkDecoder),
}

impl BodyDecoder {
    pub(super) fn new(len: BodyLength) -> Self {
        match len {
            BodyLength::Known(len) => Self::Known(len),
            BodyLength::Chunked => Self::Chunked(ChunkDecoder::default()),
        }
    }

    /// Moves body bytes from `input` to the end of `bytes`, where the body begins at `start`. Returns whether the body
    /// is complete.
    pub(super) fn take_in(
        &mut self,
        input: &mut &mut [u8],
        bytes: &mut Vec<u8>,
        start: usize,
        max_body: usize,
    ) -> Result<bool, Refusal> {
        match self {
            Self::Known(missing) => {
                let part = take_up_to(*missing, input);
                *missing -= part.len();
                bytes.extend_from_slice(part);
                Ok(*missing == 0)
            }
            Self::Chunked(decoder) => decoder.take_in(input, bytes, start, max_body),
        }
    }
}

/// The decoder of a chunked body. Chunk extensions and trailer fields are checked and dropped. RFC 9112 §7.1
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ChunkDecoder {
    expects: Expects,
    /// The size of the current chunk so far, or the number of its bytes that are missing.
    size: u64,
    /// Number of digits of the current chunk's size so far.
    digits: u8,
    /// Number of bytes of chunk extensions and trailer fields so far.
    extra: usize,
}

/// The part of a chunked body that the decoder expects next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Expects {
    /// A digit of a chunk's size, or the end of the size.
    #[default]
    Size,
    /// White space between a chunk's size and its extension.
    ExtensionStart,
    Extension,
    /// The line feed after a chunk's size and extension.
    SizeLineFeed,
    Data,
    /// The carriage return after a chunk's data.
    DataEnd,
    /// The line feed after a chunk's data.
    DataLineFeed,
    /// The beginning of a trailer field or of the final empty line.
    TrailerStart,
    Trailer,
    /// The line feed after a trailer field.
    TrailerLineFeed,
    /// The line feed of the final empty line.
    LastLineFeed,
}

impl ChunkDecoder {
    /// Works like [`BodyDecoder::take_in`].
    fn take_in(
        &mut self,
        input: &mut &mut [u8],
        bytes: &mut Vec<u8>,
        start: usize,
        max_body: usize,
    ) -> Result<bool, Refusal> {
        while !input.is_empty() {
            if self.expects != Expects::Data {
                let byte = take_up_to(1, input)[0];
                let room = max_body.saturating_sub(bytes.len() - start);
                match self.step(byte, room).map_err(|error| error.refusal(max_body))? {
                    true => return Ok(true),
                    false => continue,
                }
            }
            let part = take_up_to(usize::try_from(self.size).unwrap_or(usize::MAX), input);
            bytes.extend_from_slice(part);
            self.size -= part.len() as u64;
            if self.size == 0 {
                self.expects = Expects::DataEnd;
            }
        }
        Ok(false)
    }

    /// Takes one byte that is no chunk data. `room` is the number of bytes that the body may still grow by. Returns
    /// whether the body is complete.
    fn step(&mut self, byte: u8, room: usize) -> Result<bool, ChunkError> {
        use Expects::*;
        let digit = char::from(byte).to_digit(16);
        let has_size = self.digits > 0;
        self.expects = match (self.expects, byte) {
            (Size, _) if let Some(digit) = digit => {
                if self.digits == MAX_SIZE_DIGITS {
                    return Err(ChunkError::Malformed);
                }
                self.size = self.size << 4 | u64::from(digit);
                self.digits += 1;
                Size
            }
            (Size, b' ' | b'\t') if has_size => ExtensionStart,
            (ExtensionStart, b' ' | b'\t') => ExtensionStart,
            (Size, b';') if has_size => Extension,
            (ExtensionStart, b';') => Extension,
            (Size, b'\r') if has_size => SizeLineFeed,
            (Extension, b'\r') => SizeLineFeed,
            (Extension, _) if is_text(byte) => Extension,
            (SizeLineFeed, b'\n') => {
                self.digits = 0;
                match self.size {
                    0 => TrailerStart,
                    size if size > room as u64 => return Err(ChunkError::TooLong),
                    _ => Data,
                }
            }
            (DataEnd, b'\r') => DataLineFeed,
            (DataLineFeed, b'\n') => Size,
            (TrailerStart, b'\r') => LastLineFeed,
            // RFC 9112 §5.2: a line that begins with white space would continue the field before it.
            (TrailerStart, b' ' | b'\t') => return Err(ChunkError::Malformed),
            (TrailerStart | Trailer, _) if is_text(byte) => Trailer,
            (Trailer, b'\r') => TrailerLineFeed,
            (TrailerLineFeed, b'\n') => TrailerStart,
            (LastLineFeed, b'\n') => return Ok(true),
            _ => return Err(ChunkError::Malformed),
        };
        if matches!(self.expects, ExtensionStart | Extension | Trailer) {
            self.extra += 1;
            if self.extra > MAX_EXTRA {
                return Err(ChunkError::TooMuchExtra);
            }
        }
        Ok(false)
    }
}

/// Returns whether a byte may be in a chunk extension or in a trailer field: no control character except the tab.
fn is_text(byte: u8) -> bool {
    byte == b'\t' || !byte.is_ascii_control()
}

/// A rule that a chunked body breaks.
#[derive(Clone, Copy, Debug)]
enum ChunkError {
    Malformed,
    TooLong,
    TooMuchExtra,
}

impl ChunkError {
    fn refusal(self, max_body: usize) -> Refusal {
        match self {
            Self::Malformed => {
                let reason = "The chunked request content is malformed: each chunk begins with its size in hexadecimal, and \
                              lines end in CR LF.";
                Refusal::new(Status::BadRequest, reason)
            }
            Self::TooLong => too_long(max_body),
            Self::TooMuchExtra => {
                let reason =
                    "The request has too many chunk extensions or trailer fields; send at most 16 KiB.";
                Refusal::new(Status::HeaderFieldsTooLarge, reason)
            }
        }
    }
}
