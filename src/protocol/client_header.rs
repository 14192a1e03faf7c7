//! Decodes and checks the frame headers that clients send. RFC 6455 §5.2

use super::frame::{Failure, MAX_CONTROL_LEN, MAX_HEADER_LEN, Opcode};

/// Maximum length in bytes of a frame header sent by a client, including the masking key of 4 bytes.
pub(super) const MAX_CLIENT_HEADER_LEN: usize = MAX_HEADER_LEN + 4;

/// The RSV1 bit in the first byte of a frame header, which marks a compressed message. RFC 7692 §6
const RSV1: u8 = 0x40;

/// The decoded header of a frame sent by a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ClientHeader {
    pub(super) fin: bool,
    pub(super) opcode: Opcode,
    /// Whether the frame begins a compressed message.
    pub(super) compressed: bool,
    pub(super) key: [u8; 4],
    /// Length of the frame's payload in bytes, already checked against the limits.
    pub(super) len: usize,
}

/// The state of a connection against which the next frame header is checked.
#[derive(Clone, Copy, Debug)]
pub(super) struct HeaderContext {
    /// Whether a fragmented message of the client is incomplete.
    pub(super) in_message: bool,
    /// Maximum payload length in bytes of a continuation, or of the first frame of an uncompressed message.
    pub(super) room: usize,
    /// Maximum payload length in bytes of the first frame of a compressed message. `None` if compression was not
    /// negotiated.
    pub(super) compressed_room: Option<usize>,
}

impl ClientHeader {
    /// Decodes the frame header at the start of `bytes`. Returns the header and its length in bytes, or `None` if the
    /// header is incomplete.
    ///
    /// Checks each byte as soon as the byte has arrived. So the failure does not depend on where the reads end.
    pub(super) fn decode(bytes: &[u8], context: HeaderContext) -> Result<Option<(Self, usize)>, Failure> {
        let Some((&first, rest)) = bytes.split_first() else { return Ok(None) };
        let fin = first & 0x80 != 0;
        let opcode = decode_first(first, context)?;
        let compressed = first & RSV1 != 0;
        let Some((&second, rest)) = rest.split_first() else { return Ok(None) };
        // RFC 6455 §5.1: a client masks every frame.
        if second & 0x80 == 0 {
            return Err(Failure::UNMASKED);
        }
        let short_len = second & 0x7f;
        // RFC 6455 §5.5: the payload of a control frame has at most 125 bytes.
        if opcode.is_control() && usize::from(short_len) > MAX_CONTROL_LEN {
            return Err(Failure::CONTROL_LEN);
        }
        if opcode == Opcode::Close && short_len == 1 {
            return Err(Failure::CLOSE_OF_ONE_BYTE);
        }
        let Some((len, rest)) = decode_len(short_len, rest)? else { return Ok(None) };
        let room = context.compressed_room.filter(|_| compressed).unwrap_or(context.room);
        let len = match usize::try_from(len) {
            Ok(len) if opcode.is_control() || len <= room => len,
            _ => return Err(Failure::TOO_BIG),
        };
        let Some((&key, rest)) = rest.split_first_chunk() else { return Ok(None) };
        Ok(Some((Self { fin, opcode, compressed, key, len }, bytes.len() - rest.len())))
    }
}

fn decode_first(byte: u8, context: HeaderContext) -> Result<Opcode, Failure> {
    // RFC 6455 §5.2: reserved bits are 0. RFC 7692 §6: the first frame of a compressed message has RSV1 set.
    let begins_message = matches!(byte & 0x0f, 0x1 | 0x2);
    let allowed = if context.compressed_room.is_some() && begins_message { RSV1 } else { 0 };
    if byte & 0x70 & !allowed != 0 {
        return Err(Failure::RESERVED_BITS);
    }
    let fin = byte & 0x80 != 0;
    // RFC 6455 §5.4: the fragments of two messages do not interleave. §5.5: a control frame is not fragmented.
    match Opcode::from_bits(byte & 0x0f).ok_or(Failure::OPCODE)? {
        Opcode::Close | Opcode::Ping | Opcode::Pong if !fin => Err(Failure::CONTROL_FRAGMENTED),
        Opcode::Continuation if !context.in_message => Err(Failure::NOTHING_TO_CONTINUE),
        Opcode::Text | Opcode::Binary if context.in_message => Err(Failure::MESSAGE_INTERRUPTED),
        opcode => Ok(opcode),
    }
}

/// Decodes a payload length, whose extended form is at the start of `bytes`. Returns the length and the bytes behind
/// it, or `None` if the length is incomplete. RFC 6455 §5.2
fn decode_len(short_len: u8, bytes: &[u8]) -> Result<Option<(u64, &[u8])>, Failure> {
    let (len, rest, least) = match short_len {
        126 => {
            let Some((len, rest)) = bytes.split_first_chunk() else { return Ok(None) };
            (u64::from(u16::from_be_bytes(*len)), rest, 126)
        }
        127 => {
            // The forbidden highest bit is in the first byte, so this check does not wait for the other seven bytes.
            if bytes.first().is_some_and(|byte| byte & 0x80 != 0) {
                return Err(Failure::LEN_HIGH_BIT);
            }
            let Some((len, rest)) = bytes.split_first_chunk() else { return Ok(None) };
            (u64::from_be_bytes(*len), rest, 0x1_0000)
        }
        _ => (u64::from(short_len), bytes, 0),
    };
    if len < least {
        return Err(Failure::LEN_NOT_MINIMAL);
    }
    Ok(Some((len, rest)))
}
