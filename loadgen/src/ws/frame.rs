//! WebSocket frames of a client (RFC 6455 §5): sent frames are masked, received frames are not masked.

use super::ProtocolError;

/// RSV1: the bit of a frame's first byte that permessage-deflate uses.
const RSV1: u8 = 0x40;

/// The type of a frame (RFC 6455 §5.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opcode {
    /// Continuation frame: a further part of a fragmented message.
    Continuation,
    /// Text frame: the first or only part of a text message.
    Text,
    /// Binary frame: the first or only part of a binary message.
    Binary,
    /// Close frame: ends the connection.
    Close,
    /// Ping frame: asks for a pong.
    Ping,
    /// Pong frame: answers a ping.
    Pong,
}

/// A whole frame in the receive buffer.
#[derive(Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// Whether the frame is the last part of its message.
    pub fin: bool,
    /// Whether RSV1 is set: the frame is the first part of a compressed message.
    pub rsv1: bool,
    /// The type of the frame.
    pub opcode: Opcode,
    /// The payload of the frame.
    pub payload: &'a [u8],
    /// Length of the frame with its header, in bytes.
    pub frame_len: usize,
}

/// The result of decoding the start of the receive buffer with [`decode`].
#[derive(Debug, PartialEq, Eq)]
pub enum Decoded<'a> {
    /// The receive buffer begins with this whole frame.
    Frame(Frame<'a>),
    /// The receive buffer ends inside a frame.
    NeedsMore,
}

impl Opcode {
    fn from_bits(bits: u8) -> Result<Self, ProtocolError> {
        match bits {
            0x0 => Ok(Self::Continuation),
            0x1 => Ok(Self::Text),
            0x2 => Ok(Self::Binary),
            0x8 => Ok(Self::Close),
            0x9 => Ok(Self::Ping),
            0xA => Ok(Self::Pong),
            _ => Err(ProtocolError::Opcode(bits)),
        }
    }

    fn bits(self) -> u8 {
        match self {
            Self::Continuation => 0x0,
            Self::Text => 0x1,
            Self::Binary => 0x2,
            Self::Close => 0x8,
            Self::Ping => 0x9,
            Self::Pong => 0xA,
        }
    }

    /// Returns whether this is the opcode of a close, ping or pong frame.
    pub fn is_control(self) -> bool {
        self.bits() >= 0x8
    }
}

/// Appends a frame with FIN set, masked with `key`, to `out`.
pub fn encode(out: &mut Vec<u8>, opcode: Opcode, payload: &[u8], key: [u8; 4]) {
    encode_with(out, 0x80 | opcode.bits(), payload, key);
}

/// Appends a frame with FIN set and a compressed payload (RSV1 set, RFC 7692 §7.2.1), masked with `key`, to `out`.
pub fn encode_compressed(out: &mut Vec<u8>, opcode: Opcode, payload: &[u8], key: [u8; 4]) {
    encode_with(out, 0xC0 | opcode.bits(), payload, key);
}

fn encode_with(out: &mut Vec<u8>, first: u8, payload: &[u8], key: [u8; 4]) {
    out.push(first);
    match payload.len() {
        len @ 0..=125 => out.push(0x80 | len as u8),
        len @ 126..=0xFFFF => {
            out.push(0x80 | 126);
            out.extend_from_slice(&(len as u16).to_be_bytes());
        }
        len => {
            out.push(0x80 | 127);
            out.extend_from_slice(&(len as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(&key);
    let start = out.len();
    out.extend_from_slice(payload);
    mask(&mut out[start..], key);
}

/// Returns the length of a masked frame with a payload of `payload_len` bytes, in bytes.
pub fn masked_len(payload_len: usize) -> usize {
    let header_len = match payload_len {
        0..=125 => 2,
        126..=0xFFFF => 4,
        _ => 10,
    };
    header_len + 4 + payload_len
}

/// Masks or unmasks `bytes` in place (RFC 6455 §5.3).
pub fn mask(bytes: &mut [u8], key: [u8; 4]) {
    let [a, b, c, d] = key;
    let wide_key = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let (words, rest) = bytes.as_chunks_mut::<8>();
    for word in words {
        *word = (u64::from_ne_bytes(*word) ^ wide_key).to_ne_bytes();
    }
    for (byte, key) in rest.iter_mut().zip(key.iter().cycle()) {
        *byte ^= key;
    }
}

/// Decodes the server's frame at the start of `bytes`. A payload of more than `max_payload` bytes is an error.
///
/// `compression` says that RSV1 may be set, because compression was negotiated.
pub fn decode(bytes: &[u8], max_payload: usize, compression: bool) -> Result<Decoded<'_>, ProtocolError> {
    let [first, second, ..] = *bytes else { return Ok(Decoded::NeedsMore) };
    let reserved = first & 0x70;
    if reserved != 0 && !(compression && reserved == RSV1) {
        // RFC 6455 §5.2: reserved bits are 0 unless an extension uses them.
        return Err(ProtocolError::ReservedBits(first));
    }
    let opcode = Opcode::from_bits(first & 0x0F)?;
    let rsv1 = reserved != 0;
    if rsv1 && !matches!(opcode, Opcode::Text | Opcode::Binary) {
        // RFC 7692 §6.1: RSV1 is set in the first frame of a message only.
        return Err(ProtocolError::ReservedBits(first));
    }
    let fin = first & 0x80 != 0;
    if second & 0x80 != 0 {
        // RFC 6455 §5.1: a server must not mask its frames.
        return Err(ProtocolError::Masked);
    }
    if opcode.is_control() && (!fin || second > 125) {
        // RFC 6455 §5.5: control frames are short and never fragmented.
        return Err(ProtocolError::Control);
    }
    let header_len = match second {
        126 => 4,
        127 => 10,
        _ => 2,
    };
    if bytes.len() < header_len {
        return Ok(Decoded::NeedsMore);
    }
    let payload_len = match second {
        126 => u64::from(u16::from_be_bytes([bytes[2], bytes[3]])),
        127 => bytes[2..10].iter().fold(0, |len, &byte| (len << 8) | u64::from(byte)),
        short => u64::from(short),
    };
    if payload_len > max_payload as u64 {
        return Err(ProtocolError::TooLong { payload_len, max_payload });
    }
    let frame_len = header_len + payload_len as usize;
    if bytes.len() < frame_len {
        return Ok(Decoded::NeedsMore);
    }
    Ok(Decoded::Frame(Frame { fin, rsv1, opcode, payload: &bytes[header_len..frame_len], frame_len }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn naive_mask(bytes: &mut [u8], key: [u8; 4]) {
        for (index, byte) in bytes.iter_mut().enumerate() {
            *byte ^= key[index % 4];
        }
    }

    /// Encodes a server's frame byte by byte, after the figure in RFC 6455 §5.2.
    fn naive_server_frame(fin: bool, opcode: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![if fin { 128 } else { 0 } + opcode];
        let len = payload.len();
        if len < 126 {
            frame.push(len as u8);
        } else if len < 65_536 {
            frame.extend([126, (len / 256) as u8, (len % 256) as u8]);
        } else {
            frame.push(127);
            frame.extend((0..8).rev().map(|byte| ((len as u64) >> (8 * byte)) as u8));
        }
        frame.extend(payload);
        frame
    }

    #[test]
    fn masking_agrees_with_its_naive_twin_at_every_length() {
        let key = [0x37, 0xFA, 0x21, 0x3D];
        for len in 0..70 {
            let mut fast: Vec<u8> = (0..len).collect();
            let mut naive = fast.clone();
            mask(&mut fast, key);
            naive_mask(&mut naive, key);
            assert_eq!(fast, naive, "length {len}");
        }
    }

    #[test]
    fn the_masked_example_of_rfc_6455_is_encoded() {
        // RFC 6455 §5.7: a single-frame masked text message "Hello".
        let mut out = Vec::new();
        encode(&mut out, Opcode::Text, b"Hello", [0x37, 0xFA, 0x21, 0x3D]);
        assert_eq!(out, [0x81, 0x85, 0x37, 0xFA, 0x21, 0x3D, 0x7F, 0x9F, 0x4D, 0x51, 0x58]);
    }

    #[test]
    fn every_length_form_is_encoded_and_decoded() {
        for len in [0, 1, 125, 126, 127, 65_535, 65_536, 70_000] {
            let payload = vec![b'x'; len];
            let mut out = Vec::new();
            encode(&mut out, Opcode::Binary, &payload, [0; 4]);
            assert_eq!(out.len(), masked_len(len));
            let naive = naive_server_frame(true, 2, &payload);
            // Turns the client's frame into the server's: removes the key of zeros and clears the mask bit.
            let key_at = out.len() - len - 4;
            out.drain(key_at..key_at + 4);
            out[1] &= 0x7F;
            assert_eq!(out, naive, "length {len}");
            let expected = Frame {
                fin: true,
                rsv1: false,
                opcode: Opcode::Binary,
                payload: &payload,
                frame_len: naive.len(),
            };
            assert_eq!(decode(&naive, 1 << 20, false), Ok(Decoded::Frame(expected)));
        }
    }

    #[test]
    fn a_frame_cut_anywhere_needs_more() {
        for len in [0, 5, 126, 300] {
            let whole = naive_server_frame(true, 1, &vec![b'y'; len]);
            for cut in 0..whole.len() {
                assert_eq!(decode(&whole[..cut], 1 << 20, true), Ok(Decoded::NeedsMore));
            }
        }
    }

    #[test]
    fn a_frame_that_a_server_must_not_send_is_refused() {
        assert_eq!(decode(&[0xC1, 0], 9, false), Err(ProtocolError::ReservedBits(0xC1)));
        assert_eq!(decode(&[0x83, 0], 9, false), Err(ProtocolError::Opcode(3)));
        assert_eq!(decode(&[0x81, 0x80], 9, false), Err(ProtocolError::Masked));
        assert_eq!(decode(&[0x09, 0], 9, false), Err(ProtocolError::Control));
        assert_eq!(decode(&[0x89, 126], 9, false), Err(ProtocolError::Control));
        let too_long = ProtocolError::TooLong { payload_len: 10, max_payload: 9 };
        assert_eq!(decode(&[0x81, 10], 9, false), Err(too_long));
        let endless = [0x82, 127, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF];
        assert!(matches!(decode(&endless, 9, false), Err(ProtocolError::TooLong { .. })));
    }

    #[test]
    fn rsv1_is_allowed_only_where_compression_was_negotiated() {
        let mut out = Vec::new();
        encode_compressed(&mut out, Opcode::Text, b"Hello", [0; 4]);
        assert_eq!(out[0], 0xC1);
        for first in [0xC1, 0x41, 0xC2, 0x42] {
            let rsv1 = |compression| match decode(&[first, 0], 9, compression) {
                Ok(Decoded::Frame(frame)) => Ok(frame.rsv1),
                other => Err(other.map(drop)),
            };
            assert_eq!(rsv1(true), Ok(true));
            assert_eq!(rsv1(false), Err(Err(ProtocolError::ReservedBits(first))));
        }
        // First bytes of frames with illegal reserved bits: RSV1 in continuations and control frames, and RSV2 or RSV3.
        for first in [0xC0, 0x40, 0xC8, 0xC9, 0xCA, 0xA1, 0x91, 0xE1, 0xF1] {
            assert_eq!(decode(&[first, 0], 9, true), Err(ProtocolError::ReservedBits(first)));
        }
        assert!(matches!(decode(&[0x81, 0], 9, true), Ok(Decoded::Frame(Frame { rsv1: false, .. }))));
    }
}
