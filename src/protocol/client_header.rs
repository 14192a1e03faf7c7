//! Frame headers of clients: decoding and rules. RFC 6455 §5.2

use super::frame::{Failure, MAX_CONTROL_LEN, MAX_HEADER_LEN, Opcode};

/// Maximum length in bytes of a frame header of a client.
pub(super) const MAX_CLIENT_HEADER_LEN: usize = MAX_HEADER_LEN + 4;

/// The bit of the first byte that marks a compressed message. RFC 7692 §6
const RSV1: u8 = 0x40;

/// The decoded header of a frame sent by a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ClientHeader {
    pub(super) fin: bool,
    pub(super) opcode: Opcode,
    /// Whether the frame begins a compressed message.
    pub(super) compressed: bool,
    pub(super) key: [u8; 4],
    /// Length of the payload in bytes. Within the limits.
    pub(super) len: usize,
}

/// The state of the connection that a header is checked against.
#[derive(Clone, Copy, Debug)]
pub(super) struct HeaderContext {
    /// Whether a fragmented message is unfinished.
    pub(super) in_message: bool,
    /// Bytes that a plain message may still grow by.
    pub(super) room: usize,
    /// Bytes that a compressed message may still grow by. `None` if compression was not negotiated.
    pub(super) compressed_room: Option<usize>,
}

impl ClientHeader {
    /// Decodes the header at the start of `bytes`. Returns it with its length, or `None` if it is incomplete.
    ///
    /// Checks each byte as soon as it has arrived, so that the failure does not depend on how reads cut the bytes.
    pub(super) fn decode(bytes: &[u8], context: HeaderContext) -> Result<Option<(Self, usize)>, Failure> {
        let Some((&first, rest)) = bytes.split_first() else { return Ok(None) };
        let fin = first & 0x80 != 0;
        let opcode = decode_first(first, context)?;
        let compressed = first & RSV1 != 0;
        let Some((&second, rest)) = rest.split_first() else { return Ok(None) };
        // RFC 6455 §5.1
        if second & 0x80 == 0 {
            return Err(Failure::UNMASKED);
        }
        let short_len = second & 0x7f;
        // RFC 6455 §5.5
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
    // RFC 6455 §5.2; RFC 7692 §6: only the first frame of a message may have the first of these bits.
    let begins_message = matches!(byte & 0x0f, 0x1 | 0x2);
    let allowed = if context.compressed_room.is_some() && begins_message { RSV1 } else { 0 };
    if byte & 0x70 & !allowed != 0 {
        return Err(Failure::RESERVED_BITS);
    }
    let fin = byte & 0x80 != 0;
    // RFC 6455 §5.4 and §5.5
    match Opcode::from_bits(byte & 0x0f).ok_or(Failure::OPCODE)? {
        Opcode::Close | Opcode::Ping | Opcode::Pong if !fin => Err(Failure::CONTROL_FRAGMENTED),
        Opcode::Continuation if !context.in_message => Err(Failure::NOTHING_TO_CONTINUE),
        Opcode::Text | Opcode::Binary if context.in_message => Err(Failure::MESSAGE_INTERRUPTED),
        opcode => Ok(opcode),
    }
}

/// Decodes the extended payload length. Returns it with the bytes behind it. RFC 6455 §5.2
fn decode_len(short_len: u8, bytes: &[u8]) -> Result<Option<(u64, &[u8])>, Failure> {
    let (len, rest, least) = match short_len {
        126 => {
            let Some((len, rest)) = bytes.split_first_chunk() else { return Ok(None) };
            (u64::from(u16::from_be_bytes(*len)), rest, 126)
        }
        127 => {
            // The first byte has the bit, so the check does not wait for the rest.
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
