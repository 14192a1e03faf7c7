//! Assembles a client's frames and messages from reads that may end anywhere within a frame.

use super::client_header::{ClientHeader, HeaderContext, MAX_CLIENT_HEADER_LEN};
use super::deflate::Window;
use super::frame::{CloseFrame, Failure, Kind, Opcode};
use super::mask::{unmask, unmask_at};
use super::take_up_to;
use simdutf8::{basic, compat};

/// Growth limit of a payload buffer: the buffer reserves space ahead for at most this many times the received bytes, so
/// that long messages are rarely moved.
const AHEAD: usize = 8;
/// Largest payload buffer in bytes that is kept for the next long message. A new buffer costs a page fault for every 4
/// KiB.
const KEPT_PAYLOAD: usize = 2 << 20;
/// Largest ratio of a kept buffer's capacity to the bytes that a message needs. A larger kept buffer is not used.
const KEPT_EXCESS: usize = 4;

/// The maximum lengths of a client's message in bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct LengthLimits {
    pub(super) plain: usize,
    /// The limit in bytes of a compressed message before decompression. `None` if compression was not negotiated.
    pub(super) compressed: Option<usize>,
}

/// The incomplete frame and message of a connection, kept between two reads. Exists only while a frame or a message is
/// incomplete, or for a client with context takeover.
#[derive(Debug, Default)]
pub(super) struct Assembly {
    /// The buffer of a frame header that has arrived in part: its first `header_len` bytes are valid.
    header: [u8; MAX_CLIENT_HEADER_LEN],
    header_len: usize,
    /// The frame whose payload has arrived in part. `None` if no frame's payload is incomplete.
    frame: Option<Frame>,
    /// The kind and compression of the incomplete message. `None` if no message is incomplete.
    message: Option<Begun>,
    /// The received part of the incomplete message's payload, unmasked.
    payload: Vec<u8>,
    /// Length in bytes of the prefix of `payload` that is valid UTF-8. At most three bytes follow this prefix. Used for
    /// uncompressed text only.
    valid_len: usize,
    /// The received part of a control frame's payload. A control frame may come between the fragments of a message.
    control: Vec<u8>,
    /// The complete payload that the last returned event borrows.
    delivered: Vec<u8>,
    /// The earlier messages that the client's compressed messages may refer to. `None` without context takeover.
    window: Option<Window>,
}

/// The kind and compression of an incomplete message, as its first frame gives them.
#[derive(Clone, Copy, Debug)]
struct Begun {
    kind: Kind,
    compressed: bool,
}

#[derive(Clone, Copy, Debug)]
struct Frame {
    header: ClientHeader,
    /// Number of payload bytes that have arrived. Less than `header.len` between reads.
    received: usize,
}

/// A complete message or control frame of a client.
pub(super) struct Complete<'i> {
    /// The opcode of the control frame, or of the message's first frame. Never a continuation.
    pub(super) opcode: Opcode,
    /// Whether the payload is compressed. Compressed text has not been checked for UTF-8 yet.
    pub(super) compressed: bool,
    pub(super) payload: Payload<'i>,
}

/// The location of a complete payload: in the input, or in a buffer of the [`Assembly`].
pub(super) enum Payload<'i> {
    InPlace(&'i [u8]),
    /// The payload is in the buffer that [`Assembly::delivered`] returns.
    Assembled,
}

/// Decodes frames from `input` up to the first complete message or control frame. Returns `None` if all of `input` is
/// consumed and no message or control frame is complete.
///
/// Checks that uncompressed text is valid UTF-8. Checks the payload of a close frame only if the payload arrived in
/// parts. `spare` is the buffer for the next long message.
pub(super) fn next_complete<'i>(
    assembly: &mut Option<Box<Assembly>>,
    input: &mut &'i mut [u8],
    limits: LengthLimits,
    spare: &mut Vec<u8>,
) -> Result<Option<Complete<'i>>, Failure> {
    release(assembly, spare);
    while let Some(frame) = next_frame(assembly, input, limits)? {
        let header = frame.header;
        let is_alone = header.opcode.is_control() || (header.fin && header.opcode != Opcode::Continuation);
        if frame.received == 0
            && is_alone
            && let Some(payload) = input.split_off_mut(..header.len)
        {
            unmask(payload, header.key);
            let ClientHeader { opcode, compressed, .. } = header;
            if opcode == Opcode::Text && !compressed && basic::from_utf8(payload).is_err() {
                return Err(Failure::TEXT);
            }
            return Ok(Some(Complete { opcode, compressed, payload: Payload::InPlace(payload) }));
        }
        if let Some((opcode, compressed)) = assembly.get_or_insert_default().take_in(frame, input, spare)? {
            return Ok(Some(Complete { opcode, compressed, payload: Payload::Assembled }));
        }
    }
    Ok(None)
}

/// Frees the payload that the last event borrowed, or keeps its buffer as `spare`. Frees the whole assembly if it has
/// no window and no frame or message is incomplete.
fn release(assembly: &mut Option<Box<Assembly>>, spare: &mut Vec<u8>) {
    if let Some(kept) = assembly {
        let delivered = std::mem::take(&mut kept.delivered);
        if (spare.capacity() + 1..=KEPT_PAYLOAD).contains(&delivered.capacity()) {
            *spare = delivered;
        }
        if kept.window.is_none() && !kept.is_mid_item() {
            *assembly = None;
        }
    }
}

/// Returns the frame whose payload is incomplete, or decodes the next frame header from `input`. Returns `None` if more
/// input is needed.
fn next_frame(
    assembly: &mut Option<Box<Assembly>>,
    input: &mut &mut [u8],
    limits: LengthLimits,
) -> Result<Option<Frame>, Failure> {
    if input.is_empty() {
        return Ok(None);
    }
    let Some(kept) = assembly else {
        let context =
            HeaderContext { in_message: false, room: limits.plain, compressed_room: limits.compressed };
        let decoded = ClientHeader::decode(input, context)?;
        if decoded.is_none() {
            assembly.insert(Box::default()).keep_header(input);
        }
        return Ok(decoded.map(|(header, len)| begin(header, input, len)));
    };
    if let Some(frame) = kept.frame.take() {
        return Ok(Some(frame));
    }
    let is_compressed = kept.message.is_some_and(|message| message.compressed);
    let room = limits.compressed.filter(|_| is_compressed).unwrap_or(limits.plain);
    let context = HeaderContext {
        in_message: kept.message.is_some(),
        room: room.saturating_sub(kept.payload.len()),
        compressed_room: limits.compressed,
    };
    let old_len = kept.header_len;
    let fresh_len = input.len().min(MAX_CLIENT_HEADER_LEN - old_len);
    kept.header[old_len..old_len + fresh_len].copy_from_slice(&input[..fresh_len]);
    match ClientHeader::decode(&kept.header[..old_len + fresh_len], context)? {
        Some((header, len)) => {
            kept.header_len = 0;
            Ok(Some(begin(header, input, len - old_len)))
        }
        None => {
            kept.keep_header(input);
            Ok(None)
        }
    }
}

/// Consumes the last `len` bytes of a frame header from `input`. Returns the frame, of whose payload no byte was read.
fn begin(header: ClientHeader, input: &mut &mut [u8], len: usize) -> Frame {
    take_up_to(len, input);
    Frame { header, received: 0 }
}

impl Assembly {
    /// Creates the assembly of a client with context takeover, whose compressed messages refer to `window`.
    pub(super) fn with_window(window: Window) -> Self {
        Self { window: Some(window), ..Self::default() }
    }

    /// Returns the payload of the last [`Payload::Assembled`], and the client's window or `None` without context
    /// takeover.
    pub(super) fn delivered(&mut self) -> (&[u8], Option<&mut Window>) {
        (&self.delivered, self.window.as_mut())
    }

    /// Returns whether a frame or a message is incomplete.
    pub(super) fn is_mid_item(&self) -> bool {
        self.header_len > 0 || self.frame.is_some() || self.message.is_some()
    }

    /// Returns the number of bytes allocated for payloads.
    pub(super) fn capacity(&self) -> usize {
        self.payload.capacity() + self.control.capacity() + self.delivered.capacity()
    }

    /// Appends all of `input` to the buffered frame header, which stays incomplete.
    fn keep_header(&mut self, input: &mut &mut [u8]) {
        let len = self.header_len + input.len();
        self.header[self.header_len..len].copy_from_slice(input);
        self.header_len = len;
        *input = &mut [];
    }

    /// Unmasks and copies the payload bytes of `frame` from `input`. If these bytes complete a message or control
    /// frame, returns its opcode and whether its payload is compressed. Otherwise returns `None`.
    fn take_in(
        &mut self,
        mut frame: Frame,
        input: &mut &mut [u8],
        spare: &mut Vec<u8>,
    ) -> Result<Option<(Opcode, bool)>, Failure> {
        let ClientHeader { fin, opcode, compressed, key, len } = frame.header;
        let part = take_up_to(len - frame.received, input);
        unmask_at(part, key, frame.received);
        frame.received += part.len();
        let is_whole = frame.received == len;
        if !is_whole {
            self.frame = Some(frame);
            if frame.received == 0 {
                // The next input may hold the whole payload, which then needs no copy. So the message is not begun yet.
                return Ok(None);
            }
        }
        if opcode.is_control() {
            self.control.extend_from_slice(part);
            if opcode == Opcode::Close {
                CloseFrame::check_prefix(&self.control)?;
            }
            if !is_whole {
                return Ok(None);
            }
            self.delivered = std::mem::take(&mut self.control);
            return Ok(Some((opcode, false)));
        }
        let Begun { kind, compressed } = match opcode {
            Opcode::Text => *self.message.insert(Begun { kind: Kind::Text, compressed }),
            Opcode::Binary => *self.message.insert(Begun { kind: Kind::Binary, compressed }),
            _ => self.message.ok_or(Failure::NOTHING_TO_CONTINUE)?,
        };
        self.reserve(part.len(), len - frame.received, spare);
        self.payload.extend_from_slice(part);
        let is_text = kind == Kind::Text && !compressed;
        if is_text {
            self.check_text()?;
        }
        if !(is_whole && fin) {
            return Ok(None);
        }
        if is_text && self.valid_len < self.payload.len() {
            return Err(Failure::TEXT);
        }
        self.message = None;
        self.valid_len = 0;
        self.delivered = std::mem::take(&mut self.payload);
        Ok(Some((kind.opcode(), compressed)))
    }

    /// Reserves payload capacity for `len` received bytes and for the `missing` bytes of their frame. Reserves at most
    /// a multiple of the bytes received, so that an announced length alone costs no memory.
    fn reserve(&mut self, len: usize, missing: usize, spare: &mut Vec<u8>) {
        if self.payload.capacity() - self.payload.len() >= len {
            return;
        }
        let arrived = self.payload.len() + len;
        let wanted = arrived + missing.min(arrived * AHEAD);
        if (wanted..=wanted.saturating_mul(KEPT_EXCESS)).contains(&spare.capacity()) {
            let mut larger = std::mem::take(spare);
            larger.clear();
            larger.extend_from_slice(&self.payload);
            self.payload = larger;
        } else {
            self.payload.reserve(wanted - self.payload.len());
        }
    }

    /// Checks the new bytes of a text payload. Returns an error at the first byte that makes the text invalid UTF-8.
    /// RFC 6455 §8.1
    fn check_text(&mut self) -> Result<(), Failure> {
        match compat::from_utf8(&self.payload[self.valid_len..]) {
            Ok(_) => self.valid_len = self.payload.len(),
            // The payload ends within a character, whose other bytes may still arrive.
            Err(error) if error.error_len().is_none() => self.valid_len += error.valid_up_to(),
            Err(_) => return Err(Failure::TEXT),
        }
        Ok(())
    }
}
