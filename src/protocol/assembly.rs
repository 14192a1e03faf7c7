//! Assembles frames and messages from reads that cut them anywhere.

use super::client_header::{ClientHeader, HeaderContext, MAX_CLIENT_HEADER_LEN};
use super::deflate::Window;
use super::frame::{CloseFrame, Failure, Kind, Opcode};
use super::mask::{unmask, unmask_at};
use super::take_up_to;
use simdutf8::{basic, compat};

/// Growth factor of a payload buffer: it is reserved for this many times the bytes received, to move long messages
/// rarely.
const AHEAD: usize = 8;
/// Largest payload buffer in bytes that is kept for the next long message. Allocating it again costs a page fault for
/// every 4 KiB.
const KEPT_PAYLOAD: usize = 2 << 20;
/// Largest ratio of a kept buffer to the bytes needed.
const KEPT_EXCESS: usize = 4;

/// The length limits of a message in bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct LengthLimits {
    pub(super) plain: usize,
    /// The limit of a compressed message before decompression. `None` if compression was not negotiated.
    pub(super) compressed: Option<usize>,
}

/// The state between two reads. It exists only while a frame or a message is incomplete, or for a client with context
/// takeover.
#[derive(Debug, Default)]
pub(super) struct Assembly {
    /// The first `header_len` bytes of a header that has arrived in part.
    header: [u8; MAX_CLIENT_HEADER_LEN],
    header_len: usize,
    /// The frame whose payload is incomplete.
    frame: Option<Frame>,
    /// The message that is incomplete.
    message: Option<Begun>,
    /// The message's payload so far, unmasked.
    payload: Vec<u8>,
    /// Length of the prefix of `payload` that is valid UTF-8. Fewer than four bytes follow it. Used for plain text
    /// only.
    valid_len: usize,
    /// The payload so far of a control frame, which may come between the fragments of a message.
    control: Vec<u8>,
    /// The payload that the last event borrows.
    delivered: Vec<u8>,
    /// The earlier data that compressed messages may refer to.
    window: Option<Window>,
}

/// The properties of a message that its first frame gives.
#[derive(Clone, Copy, Debug)]
struct Begun {
    kind: Kind,
    compressed: bool,
}

#[derive(Clone, Copy, Debug)]
struct Frame {
    header: ClientHeader,
    /// Bytes of the payload that have arrived. Less than `header.len` between reads.
    received: usize,
}

/// A complete message or control frame.
pub(super) struct Complete<'i> {
    /// A control opcode or the opcode of the message's first frame. Never a continuation.
    pub(super) opcode: Opcode,
    /// Whether the payload is compressed. Compressed text has not been checked for UTF-8 yet.
    pub(super) compressed: bool,
    pub(super) payload: Payload<'i>,
}

/// The place of a complete payload.
pub(super) enum Payload<'i> {
    InPlace(&'i [u8]),
    /// The buffer that [`Assembly::delivered`] returns.
    Assembled,
}

/// Takes frames from `input` until a message or a control frame is complete.
///
/// Checks plain text for UTF-8. Checks a close payload only if it arrived in parts. `spare` is the buffer for the next
/// long message.
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

/// Frees the payload that the last event borrowed, and the whole assembly if nothing is incomplete.
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

/// Returns the frame whose payload is incomplete, or decodes the next header.
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

/// Consumes the `len` bytes of a header from `input`.
fn begin(header: ClientHeader, input: &mut &mut [u8], len: usize) -> Frame {
    take_up_to(len, input);
    Frame { header, received: 0 }
}

impl Assembly {
    /// Creates the state of a client with context takeover.
    pub(super) fn with_window(window: Window) -> Self {
        Self { window: Some(window), ..Self::default() }
    }

    /// Returns the payload of the last [`Payload::Assembled`], and the window if there is one.
    pub(super) fn delivered(&mut self) -> (&[u8], Option<&mut Window>) {
        (&self.delivered, self.window.as_mut())
    }

    /// Returns whether a frame or a message is incomplete.
    pub(super) fn is_mid_item(&self) -> bool {
        self.header_len > 0 || self.frame.is_some() || self.message.is_some()
    }

    /// Returns the number of bytes allocated for payloads.
    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        self.payload.capacity() + self.control.capacity() + self.delivered.capacity()
    }

    /// Consumes all of `input`, which does not complete the header.
    fn keep_header(&mut self, input: &mut &mut [u8]) {
        let len = self.header_len + input.len();
        self.header[self.header_len..len].copy_from_slice(input);
        self.header_len = len;
        *input = &mut [];
    }

    /// Copies the bytes of `frame` that have arrived. Returns the opcode of the message or control frame that they
    /// complete, and whether it is compressed.
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
                // The next input may hold the payload whole, which needs no buffered message.
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

    /// Reserves room for `len` bytes and for the `missing` rest of their frame. Reserves no more than a multiple of the
    /// bytes received, so that an announced length alone costs no memory.
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

    /// Fails at the first byte that makes the text invalid UTF-8. RFC 6455 §8.1
    fn check_text(&mut self) -> Result<(), Failure> {
        match compat::from_utf8(&self.payload[self.valid_len..]) {
            Ok(_) => self.valid_len = self.payload.len(),
            // The last character is incomplete.
            Err(error) if error.error_len().is_none() => self.valid_len += error.valid_up_to(),
            Err(_) => return Err(Failure::TEXT),
        }
        Ok(())
    }
}
