//! What frames are made of: opcodes, the headers that a server sends, close codes and close payloads. RFC 6455 §5.2, §5.5, §7.4

use simdutf8::compat::from_utf8;
use std::fmt;

/// What the bytes of a message are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// UTF-8 text.
    Text,
    /// Bytes without a meaning to the protocol.
    Binary,
}

impl Kind {
    /// The opcode of a message's first frame.
    pub fn opcode(self) -> Opcode {
        match self {
            Self::Text => Opcode::Text,
            Self::Binary => Opcode::Binary,
        }
    }
}

/// The meaning of a frame. RFC 6455 §5.2
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Opcode {
    /// A further fragment of a message.
    Continuation = 0x0,
    /// A text message, or its first fragment.
    Text = 0x1,
    /// A binary message, or its first fragment.
    Binary = 0x2,
    /// The last frame of its sender.
    Close = 0x8,
    /// Asks for a pong with the same payload.
    Ping = 0x9,
    /// Answers a ping, or shows life unasked.
    Pong = 0xa,
}

impl Opcode {
    /// Whether frames of this kind control the connection and carry no message data.
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

/// The most bytes a control frame carries. RFC 6455 §5.5
pub const MAX_CONTROL_LEN: usize = 125;

/// The most bytes of a header sent by a server: there is no mask.
pub const MAX_HEADER_LEN: usize = 10;

/// An encoded header of a frame sent by the server, on the stack.
#[derive(Clone, Copy)]
pub struct Header {
    bytes: [u8; MAX_HEADER_LEN],
    len: u8,
}

impl Header {
    /// The bytes that precede the payload on the wire.
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
/// `rsv1` marks the first frame of a compressed message and needs an extension that says so.
///
/// # Panics
/// When a control frame is fragmented or longer than [`MAX_CONTROL_LEN`].
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

/// A frame as a server sends it, taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// What it is.
    pub opcode: Opcode,
    /// Whether its message is compressed.
    pub rsv1: bool,
    /// What follows the header.
    pub payload: &'a [u8],
    /// The frame with its header.
    pub whole: &'a [u8],
}

/// Takes apart the frame that `bytes` begin with; `None` when they are no whole frame of a server.
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

/// Takes apart all the frames that `bytes` consist of.
pub fn frames(mut bytes: &[u8]) -> impl Iterator<Item = Frame<'_>> {
    std::iter::from_fn(move || {
        let frame = first(bytes)?;
        bytes = &bytes[frame.whole.len()..];
        Some(frame)
    })
}

/// Why an endpoint closes. RFC 6455 §7.4
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CloseCode(pub u16);

impl CloseCode {
    /// The purpose was fulfilled.
    pub const NORMAL: Self = Self(1000);
    /// The server goes down, or the browser left the page.
    pub const GOING_AWAY: Self = Self(1001);
    /// The peer broke the protocol.
    pub const PROTOCOL: Self = Self(1002);
    /// The peer sent a kind of data that is not accepted here.
    pub const UNSUPPORTED: Self = Self(1003);
    /// A text message was not UTF-8.
    pub const INVALID: Self = Self(1007);
    /// The peer broke a rule that has no code of its own.
    pub const POLICY: Self = Self(1008);
    /// A message was longer than is accepted here.
    pub const TOO_BIG: Self = Self(1009);
    /// The server met a condition that it was not made for.
    pub const INTERNAL: Self = Self(1011);
    /// The server restarts; a client may come back after a moment.
    pub const SERVICE_RESTART: Self = Self(1012);
    /// The server is overloaded, or the client did not keep up; it may try again later.
    pub const TRY_AGAIN: Self = Self(1013);

    /// Whether this code may stand in a close frame.
    pub fn is_sendable(self) -> bool {
        // RFC 6455 §7.4.1 and §7.4.2; IANA registered 1012 to 1014 later. 1005, 1006 and 1015 are for reports
        // within an endpoint only, and the rest of 0-2999 is reserved.
        matches!(self.0, 1000..=1003 | 1007..=1014 | 3000..=4999)
    }
}

impl fmt::Display for CloseCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The payload of a close frame, on the stack.
#[derive(Clone, Copy)]
pub struct ClosePayload {
    bytes: [u8; MAX_CONTROL_LEN],
    len: u8,
}

impl ClosePayload {
    /// The code and the reason as they go on the wire.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

/// Encodes a close payload; a reason over 123 bytes is cut at a character. RFC 6455 §5.5.1
///
/// # Panics
/// When `code` must not be sent, see [`CloseCode::is_sendable`].
pub fn close_payload(code: CloseCode, reason: &str) -> ClosePayload {
    assert!(code.is_sendable(), "{code} must not stand in a close frame");
    let reason = &reason.as_bytes()[..reason.floor_char_boundary(MAX_CONTROL_LEN - 2)];
    let len = 2 + reason.len();
    let mut bytes = [0; MAX_CONTROL_LEN];
    bytes[..2].copy_from_slice(&code.0.to_be_bytes());
    bytes[2..len].copy_from_slice(reason);
    ClosePayload { bytes, len: len as u8 }
}

/// What the client said in its close frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CloseFrame<'a> {
    /// Why, as a number that may be echoed.
    pub code: CloseCode,
    /// Why, in words; often empty.
    pub reason: &'a str,
}

impl<'a> CloseFrame<'a> {
    /// Decodes and checks the payload of a received close frame. RFC 6455 §5.5.1
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

    /// Finds what is wrong already with a close payload of which only a beginning has arrived.
    pub(super) fn check_prefix(prefix: &'a [u8]) -> Result<(), Failure> {
        let Some((code, reason)) = prefix.split_first_chunk::<2>() else { return Ok(()) };
        match from_utf8(reason) {
            // A character may be cut where the prefix ends.
            Err(error) if error.error_len().is_none() => Self::decode(code).map(|_| ()),
            _ => Self::decode(prefix).map(|_| ()),
        }
    }
}

/// What a client did wrong, as it is told in the close frame that ends its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {reason}")]
pub struct Failure {
    /// The close code to send.
    pub code: CloseCode,
    /// What was wrong, short enough for a close frame.
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

    // RFC 6455 §5.2 and §5.7
    #[test]
    fn headers_at_the_borders_of_their_forms() {
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

    // RFC 6455 §5.5
    #[test]
    #[should_panic(expected = "whole and short")]
    fn a_long_control_frame_is_our_mistake() {
        encode_header(Opcode::Ping, true, false, 126);
    }

    // RFC 6455 §5.5.1
    #[test]
    fn a_close_reason_is_cut_at_a_character() {
        assert_eq!(close_payload(CloseCode::NORMAL, "").as_bytes(), [0x03, 0xe8]);
        assert_eq!(close_payload(CloseCode::TRY_AGAIN, "lagged").as_bytes(), b"\x03\xf5lagged");
        for (reason, kept) in [("a".repeat(123), 123), ("a".repeat(124), 123), ("é".repeat(80), 122)] {
            let payload = close_payload(CloseCode::NORMAL, &reason);
            assert_eq!(&payload.as_bytes()[2..], &reason.as_bytes()[..kept]);
        }
    }

    // RFC 6455 §7.4.1
    #[test]
    #[should_panic(expected = "1006 must not stand in a close frame")]
    fn a_reserved_close_code_is_our_mistake() {
        close_payload(CloseCode(1006), "");
    }

    // RFC 6455 §5.5.1: what we send must be what we would accept, so every failure makes a valid close frame.
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
