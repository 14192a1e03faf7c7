//! Opcodes, frame headers of the server, close codes and close payloads. RFC 6455 §5.2, §5.5, §7.4

use simdutf8::compat::from_utf8;
use std::fmt;

/// The kind of a message: text or binary.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A text message: valid UTF-8.
    Text,
    /// A binary message: any bytes.
    Binary,
}

impl Kind {
    /// Returns the opcode of the first frame of a message of this kind.
    pub fn opcode(self) -> Opcode {
        match self {
            Self::Text => Opcode::Text,
            Self::Binary => Opcode::Binary,
        }
    }
}

/// The opcode of a frame: the type of its content. RFC 6455 §5.2
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Opcode {
    /// A continuation frame: a further fragment of a message.
    Continuation = 0x0,
    /// A text frame: a whole text message, or its first fragment.
    Text = 0x1,
    /// A binary frame: a whole binary message, or its first fragment.
    Binary = 0x2,
    /// A close frame: the last frame that a peer sends.
    Close = 0x8,
    /// A ping frame: a request for a pong with an equal payload.
    Ping = 0x9,
    /// A pong frame: the answer to a ping, or an unsolicited sign of life.
    Pong = 0xa,
}

impl Opcode {
    /// Returns whether this is the opcode of a control frame: close, ping or pong.
    pub fn is_control(self) -> bool {
        matches!(self, Self::Close | Self::Ping | Self::Pong)
    }

    pub(super) fn from_bits(bits: u8) -> Option<Self> {
        Some(match bits {
            0x0 => Self::Continuation,
            0x1 => Self::Text,
            0x2 => Self::Binary,
            0x8 => Self::Close,
            0x9 => Self::Ping,
            0xa => Self::Pong,
            _ => return None,
        })
    }
}

/// Maximum payload length in bytes of a control frame. RFC 6455 §5.5
pub const MAX_CONTROL_LEN: usize = 125;

/// Maximum length in bytes of a frame header sent by a server, which has no masking key.
pub const MAX_HEADER_LEN: usize = 10;

/// An encoded frame header that the server sends.
#[derive(Clone, Copy)]
pub struct Header {
    bytes: [u8; MAX_HEADER_LEN],
    len: u8,
}

impl Header {
    /// Returns the encoded bytes of the frame header.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

impl fmt::Debug for Header {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Header({:02x?})", self.as_bytes())
    }
}

/// Encodes the unmasked header of a frame with `len` bytes of payload. RFC 6455 §5.2
///
/// `fin` marks the last frame of a message. `rsv1` marks the first frame of a compressed message, and needs negotiated
/// compression.
///
/// # Panics
/// If a control frame is fragmented or longer than [`MAX_CONTROL_LEN`].
pub fn encode_header(opcode: Opcode, fin: bool, rsv1: bool, len: usize) -> Header {
    let fits = fin && len <= MAX_CONTROL_LEN;
    assert!(fits || !opcode.is_control(), "a control frame is whole and short, not {len} bytes, fin {fin}");
    let mut bytes = [0; MAX_HEADER_LEN];
    bytes[0] = u8::from(fin) << 7 | u8::from(rsv1) << 6 | opcode as u8;
    let header_len = match (u8::try_from(len), u16::try_from(len)) {
        (Ok(len @ ..126), _) => {
            bytes[1] = len;
            2
        }
        (_, Ok(len)) => {
            bytes[1] = 126;
            bytes[2..4].copy_from_slice(&len.to_be_bytes());
            4
        }
        _ => {
            bytes[1] = 127;
            bytes[2..10].copy_from_slice(&(len as u64).to_be_bytes());
            10
        }
    };
    Header { bytes, len: header_len }
}

/// A decoded frame that the server sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// The opcode of the frame.
    pub opcode: Opcode,
    /// Whether the frame begins a compressed message.
    pub rsv1: bool,
    /// The payload of the frame, without the frame's header.
    pub payload: &'a [u8],
    /// The whole frame: header and payload.
    pub whole: &'a [u8],
}

/// Decodes the server's frame at the start of `bytes`. Returns `None` if the frame is incomplete, is masked, or has a
/// reserved opcode.
pub fn first(bytes: &[u8]) -> Option<Frame<'_>> {
    let (&[first, second], rest) = bytes.split_first_chunk()?;
    let (len, rest) = match second {
        0..126 => (u64::from(second), rest),
        126 => rest.split_first_chunk().map(|(len, rest)| (u64::from(u16::from_be_bytes(*len)), rest))?,
        127 => rest.split_first_chunk().map(|(len, rest)| (u64::from_be_bytes(*len), rest))?,
        _ => return None,
    };
    let payload = rest.get(..usize::try_from(len).ok()?)?;
    let whole_len = bytes.len() - rest.len() + payload.len();
    Some(Frame {
        opcode: Opcode::from_bits(first & 0x0f)?,
        rsv1: first & 0x40 != 0,
        payload,
        whole: &bytes[..whole_len],
    })
}

/// Returns an iterator over the server's frames in `bytes`. Ends at the first frame that [`first`] cannot decode.
pub fn frames(mut bytes: &[u8]) -> impl Iterator<Item = Frame<'_>> {
    std::iter::from_fn(move || {
        let frame = first(bytes)?;
        bytes = &bytes[frame.whole.len()..];
        Some(frame)
    })
}

/// The status code of a close frame. RFC 6455 §7.4
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CloseCode(pub u16);

impl CloseCode {
    /// Close code 1000: the connection ends normally.
    pub const NORMAL: Self = Self(1000);
    /// Close code 1001: the server shuts down, or the browser left the page.
    pub const GOING_AWAY: Self = Self(1001);
    /// Close code 1002: the peer broke a rule of the WebSocket protocol.
    pub const PROTOCOL: Self = Self(1002);
    /// Close code 1003: the peer sent a kind of message (text or binary) that is not accepted.
    pub const UNSUPPORTED: Self = Self(1003);
    /// Close code 1007: the payload does not match the kind of message, for instance text that is not UTF-8.
    pub const INVALID: Self = Self(1007);
    /// Close code 1008: the peer broke a rule that has no other code.
    pub const POLICY: Self = Self(1008);
    /// Close code 1009: a message is longer than the limit.
    pub const TOO_BIG: Self = Self(1009);
    /// Close code 1011: the server met an unexpected condition.
    pub const INTERNAL: Self = Self(1011);
    /// Close code 1012: the server restarts. The client may connect again after a moment.
    pub const SERVICE_RESTART: Self = Self(1012);
    /// Close code 1013: the server is overloaded, or the client reads too slowly. The client may connect again later.
    pub const TRY_AGAIN: Self = Self(1013);

    /// Returns whether a close frame may carry this code.
    pub fn is_sendable(self) -> bool {
        // RFC 6455 §7.4.1 and §7.4.2; IANA registered 1012 to 1014 later. Codes 1005, 1006 and 1015 never appear in a
        // frame, and all other codes from 0 to 2999 are reserved.
        matches!(self.0, 1000..=1003 | 1007..=1014 | 3000..=4999)
    }
}

impl fmt::Display for CloseCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The encoded payload of a close frame.
#[derive(Clone, Copy)]
pub struct ClosePayload {
    bytes: [u8; MAX_CONTROL_LEN],
    len: u8,
}

impl ClosePayload {
    /// Returns the encoded payload: the close code and the reason.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

/// Encodes the payload of a close frame. Cuts a reason over 123 bytes at a character boundary. RFC 6455 §5.5.1
///
/// # Panics
/// If a close frame must not carry `code`, see [`CloseCode::is_sendable`].
pub fn close_payload(code: CloseCode, reason: &str) -> ClosePayload {
    assert!(code.is_sendable(), "{code} must not stand in a close frame");
    let reason = &reason.as_bytes()[..reason.floor_char_boundary(MAX_CONTROL_LEN - 2)];
    let len = 2 + reason.len();
    let mut bytes = [0; MAX_CONTROL_LEN];
    bytes[..2].copy_from_slice(&code.0.to_be_bytes());
    bytes[2..len].copy_from_slice(reason);
    ClosePayload { bytes, len: len as u8 }
}

/// The decoded payload of a close frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CloseFrame<'a> {
    /// The close code that the client sent. The server may send this code back.
    pub code: CloseCode,
    /// The client's reason for closing the connection. Often empty.
    pub reason: &'a str,
}

impl<'a> CloseFrame<'a> {
    /// Decodes and checks the payload of a received close frame. Returns `None` for an empty payload. RFC 6455 §5.5.1
    pub(super) fn decode(payload: &'a [u8]) -> Result<Option<Self>, Failure> {
        let Some((code, reason)) = payload.split_first_chunk() else {
            return if payload.is_empty() { Ok(None) } else { Err(Failure::CLOSE_OF_ONE_BYTE) };
        };
        let code = CloseCode(u16::from_be_bytes(*code));
        if !code.is_sendable() {
            return Err(Failure::CLOSE_CODE);
        }
        let reason = from_utf8(reason).map_err(|_| Failure::CLOSE_REASON)?;
        Ok(Some(Self { code, reason }))
    }

    /// Checks `prefix`, the received part of a close frame's payload.
    pub(super) fn check_prefix(prefix: &'a [u8]) -> Result<(), Failure> {
        let Some((code, reason)) = prefix.split_first_chunk::<2>() else { return Ok(()) };
        match from_utf8(reason) {
            // The prefix ends within a character of the reason, so only the code is checked.
            Err(error) if error.error_len().is_none() => Self::decode(code).map(|_| ()),
            _ => Self::decode(prefix).map(|_| ()),
        }
    }
}

/// A rule that a client has broken: the code and reason of the close frame that ends its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {reason}")]
pub struct Failure {
    /// The close code to send to the client.
    pub code: CloseCode,
    /// The broken rule, short enough for a close frame.
    pub reason: &'static str,
}

impl Failure {
    pub(super) const RESERVED_BITS: Self =
        Self::protocol("a reserved bit is set that no negotiated extension gives a meaning here");
    pub(super) const OPCODE: Self = Self::protocol("the opcode is reserved; it must be 0, 1, 2, 8, 9 or 10");
    pub(super) const UNMASKED: Self = Self::protocol("the frame is not masked; a client masks every frame");
    pub(super) const CONTROL_FRAGMENTED: Self =
        Self::protocol("a control frame is fragmented; it must be whole");
    pub(super) const CONTROL_LEN: Self = Self::protocol("a control frame is longer than 125 bytes");
    pub(super) const LEN_NOT_MINIMAL: Self = Self::protocol("the payload length is not in its shortest form");
    pub(super) const LEN_HIGH_BIT: Self = Self::protocol("the highest bit of the payload length is set");
    pub(super) const NOTHING_TO_CONTINUE: Self =
        Self::protocol("a continuation without a message that it continues");
    pub(super) const MESSAGE_INTERRUPTED: Self =
        Self::protocol("a new message within an unfinished fragmented one");
    pub(super) const CLOSE_OF_ONE_BYTE: Self =
        Self::protocol("a close frame of one byte; a close code has two");
    const CLOSE_CODE: Self = Self::protocol("the close code is one that must not be sent");
    const CLOSE_REASON: Self = Self { code: CloseCode::INVALID, reason: "the close reason is not UTF-8" };
    pub(super) const TOO_BIG: Self =
        Self { code: CloseCode::TOO_BIG, reason: "the message is longer than this server accepts" };
    pub(super) const TEXT: Self = Self { code: CloseCode::INVALID, reason: "the text message is not UTF-8" };
    pub(super) const DEFLATE: Self =
        Self { code: CloseCode::INVALID, reason: "the compressed message is not valid DEFLATE data" };

    const fn protocol(reason: &'static str) -> Self {
        assert!(reason.len() <= MAX_CONTROL_LEN - 2, "a reason must fit in a close frame");
        Self { code: CloseCode::PROTOCOL, reason }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // RFC 6455 §5.2 and §5.7: a payload length has its shortest form.
    #[test]
    fn a_header_uses_the_shortest_form_of_its_length() {
        let cases: [(usize, &[u8]); 7] = [
            (0, &[0x82, 0]),
            (125, &[0x82, 125]),
            (126, &[0x82, 126, 0, 126]),
            (256, &[0x82, 126, 1, 0]),
            (65_535, &[0x82, 126, 0xff, 0xff]),
            (65_536, &[0x82, 127, 0, 0, 0, 0, 0, 1, 0, 0]),
            (1 << 32, &[0x82, 127, 0, 0, 0, 1, 0, 0, 0, 0]),
        ];
        for (len, expected) in cases {
            assert_eq!(encode_header(Opcode::Binary, true, false, len).as_bytes(), expected, "{len}");
        }
        assert_eq!(encode_header(Opcode::Text, false, true, 1).as_bytes(), [0x41, 1]);
        assert_eq!(encode_header(Opcode::Continuation, true, false, 1).as_bytes(), [0x80, 1]);
        assert_eq!(encode_header(Opcode::Pong, true, false, 125).as_bytes(), [0x8a, 125]);
    }

    // RFC 6455 §5.5: a control frame has at most 125 bytes of payload.
    #[test]
    #[should_panic(expected = "whole and short")]
    fn encoding_a_long_control_frame_panics() {
        encode_header(Opcode::Ping, true, false, 126);
    }

    // RFC 6455 §5.5.1: a close reason has at most 123 bytes and is UTF-8.
    #[test]
    fn a_long_close_reason_is_cut_at_a_character_boundary() {
        assert_eq!(close_payload(CloseCode::NORMAL, "").as_bytes(), [0x03, 0xe8]);
        assert_eq!(close_payload(CloseCode::TRY_AGAIN, "lagged").as_bytes(), b"\x03\xf5lagged");
        for (reason, kept) in [("a".repeat(123), 123), ("a".repeat(124), 123), ("é".repeat(80), 122)] {
            let payload = close_payload(CloseCode::NORMAL, &reason);
            assert_eq!(&payload.as_bytes()[2..], &reason.as_bytes()[..kept]);
        }
    }

    // RFC 6455 §7.4.1: code 1006 never appears in a close frame.
    #[test]
    #[should_panic(expected = "1006 must not stand in a close frame")]
    fn encoding_a_reserved_close_code_panics() {
        close_payload(CloseCode(1006), "");
    }

    // RFC 6455 §5.5.1: every failure makes a close payload that the decoder accepts.
    #[test]
    fn failures_fit_in_a_close_frame() {
        let failures = [
            Failure::RESERVED_BITS,
            Failure::TEXT,
            Failure::DEFLATE,
            Failure::TOO_BIG,
            Failure::CLOSE_REASON,
        ];
        for failure in failures {
            let payload = close_payload(failure.code, failure.reason);
            let decoded = CloseFrame::decode(payload.as_bytes()).expect("a valid payload");
            assert_eq!(decoded, Some(CloseFrame { code: failure.code, reason: failure.reason }));
        }
    }
}
