//! The client's half of the WebSocket protocol (RFC 6455), without input or output.
//!
//! The caller passes bytes from the server to [`Client::next`], in pieces of any size, and gets events. Bytes for the
//! server are appended to a buffer of the caller. The code shares nothing with any server on purpose: a common bug
//! would hide on both sides.

pub mod deflate;
pub mod frame;
pub(crate) mod handshake;
mod offer;

pub use offer::{Agreed, Offer};

use flate2::Decompress;

use deflate::Inflater;
use frame::{Decoded, Frame, Opcode};
use handshake::Answer;

/// The longest accepted message, in bytes.
pub const MAX_MESSAGE: usize = 64 * 1024 * 1024;

/// The protocol state of one connection. Call [`Client::start`] first, then [`Client::next`] after every read.
#[derive(Debug, Default)]
pub struct Client {
    /// The values that the server's handshake answer must have. `None` after the handshake.
    expected: Option<Box<Expected>>,
    agreed: Option<Agreed>,
    /// The decompressor for a server that keeps its compression context between messages. `None` before the first
    /// message.
    context: Option<Box<Decompress>>,
    /// The fragmented message whose last fragment has not arrived. `None` between messages.
    fragments: Option<Box<Fragments>>,
    closed: bool,
}

#[derive(Debug)]
struct Expected {
    accept: String,
    offer: Offer,
}

#[derive(Debug)]
struct Fragments {
    is_text: bool,
    is_compressed: bool,
    /// The fragmented message was returned to the caller. The next call of [`Client::next`] drops it.
    complete: bool,
    bytes: Vec<u8>,
}

/// The result of [`Client::next`].
#[derive(Debug, PartialEq, Eq)]
pub struct Step<'a> {
    /// Number of input bytes that were consumed.
    pub consumed: usize,
    /// The event in the consumed bytes.
    pub event: WsEvent<'a>,
}

/// An event from the server.
#[derive(Debug, PartialEq, Eq)]
pub enum WsEvent<'a> {
    /// The input ends inside a frame or the handshake. Call [`Client::next`] again with further bytes after the
    /// unconsumed bytes.
    NeedsMore,
    /// The opening handshake has succeeded.
    Opened,
    /// A fragment of an unfinished message, or a pong. The caller does nothing.
    Nothing,
    /// A text message, which is valid UTF-8.
    Text(&'a str),
    /// A binary message.
    Binary(&'a [u8]),
    /// A ping frame. The caller must answer with a pong frame with this payload.
    Ping(&'a [u8]),
    /// A close frame. The caller must answer with a close frame with the same code.
    Closed {
        /// The close code. `None` if the close frame is empty.
        code: Option<u16>,
        /// The text of the close reason, often empty.
        reason: &'a str,
    },
    /// A response to an HTTP request. [`Client`] never returns this event.
    Response {
        /// The HTTP status code.
        status: u16,
        /// The reason phrase after the HTTP status code.
        reason: &'a str,
        /// The body of the response.
        body: &'a [u8],
    },
}

/// A violation of the protocol by the server.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// The server answered the handshake with another HTTP status than 101.
    #[error(
        "the server answered the handshake with {status} {reason}: {body:?}; check the path of --url and the server's \
         limits"
    )]
    Refused {
        /// The HTTP status code of the server's answer.
        status: u16,
        /// The reason phrase after the HTTP status code.
        reason: String,
        /// The start of the HTTP body of the server's answer.
        body: String,
    },
    /// The server's 101 answer to the handshake is wrong. The text explains the fault.
    #[error("wrong handshake: {0}")]
    Handshake(String),
    /// The server closed the connection inside its handshake answer, after this number of bytes.
    #[error("the server closed after {0} bytes of its handshake; see its log")]
    HandshakeCut(usize),
    /// The server answered a plain HTTP request with another status than 200.
    #[error("the server answered with {status} {reason}: {body:?}; check the path of --url")]
    Status {
        /// The HTTP status code of the response.
        status: u16,
        /// The reason phrase after the HTTP status code.
        reason: String,
        /// The start of the response's body.
        body: String,
    },
    /// The server's response to a plain HTTP request cannot be used. The text explains the fault.
    #[error("not a usable HTTP response: {0}")]
    Response(String),
    /// The server closed the connection inside a response, after this number of bytes.
    #[error("the server closed after {0} bytes of a response; see its log")]
    ResponseCut(usize),
    /// Reserved bits are set in the first byte of a frame.
    #[error("a frame begins with {0:#04x}: it has reserved bits that no negotiated extension uses")]
    ReservedBits(u8),
    /// A frame has an undefined opcode.
    #[error("a frame has the undefined opcode {0:#x}")]
    Opcode(u8),
    /// A frame of the server is masked.
    #[error("the server masked a frame, which only clients may")]
    Masked,
    /// A control frame is longer than 125 bytes or fragmented.
    #[error("a control frame is fragmented or longer than 125 bytes")]
    Control,
    /// A message is longer than the accepted maximum.
    #[error("a message of {payload_len} bytes is over the limit of {max_payload}")]
    TooLong {
        /// Length of the message's payload, in bytes.
        payload_len: u64,
        /// Longest accepted payload, in bytes.
        max_payload: usize,
    },
    /// A continuation frame continues no message, or a message begins inside another message.
    #[error("fragments are out of order: {0:?} came {1}")]
    Fragments(Opcode, &'static str),
    /// A text message or a close reason is not valid UTF-8.
    #[error("a text message or close reason is not valid UTF-8")]
    Utf8,
    /// A compressed message is not valid DEFLATE data, or refers to bytes that were never sent.
    #[error("a compressed message cannot be decompressed")]
    Deflate,
    /// A close frame has a payload of one byte, or a code that must not be sent.
    #[error("a close frame is malformed or has an illegal code")]
    Close,
}

impl ProtocolError {
    /// Returns the close code that tells the server about this violation (RFC 6455 §7.4.1).
    pub fn close_code(&self) -> u16 {
        match self {
            Self::Utf8 | Self::Deflate => 1007,
            Self::TooLong { .. } => 1009,
            _ => 1002,
        }
    }
}

impl Client {
    /// Creates a client, and appends its handshake request for `path` on `host` to `out`. `nonce` becomes the
    /// handshake's key.
    pub fn start(host: &str, path: &str, nonce: [u8; 16], offer: Offer, out: &mut Vec<u8>) -> Self {
        let key = handshake::encode_key(nonce);
        handshake::write_request(out, host, path, &key, offer);
        let expected = Expected { accept: handshake::accept_for(&key), offer };
        Self { expected: Some(Box::new(expected)), ..Self::default() }
    }

    /// Returns the negotiated compression. `None` before the end of the handshake, or without compression.
    pub fn agreed(&self) -> Option<Agreed> {
        self.agreed
    }

    /// Returns whether the next frame begins a message and no compression was negotiated.
    pub fn is_between_plain_messages(&self) -> bool {
        let is_within = self.fragments.as_ref().is_some_and(|fragments| !fragments.complete);
        self.expected.is_none() && self.agreed.is_none() && !self.closed && !is_within
    }

    /// Decodes the next event at the front of `input`.
    ///
    /// Call `next` again with the rest of `input` until it returns [`WsEvent::NeedsMore`]. Put the unconsumed bytes
    /// before the bytes of the next read. After an error or [`WsEvent::Closed`], discard the rest. All connections of a
    /// thread share one `inflater`.
    pub fn next<'a>(
        &'a mut self,
        input: &'a [u8],
        inflater: &'a mut Inflater,
    ) -> Result<Step<'a>, ProtocolError> {
        if self.closed {
            return Ok(Step { consumed: input.len(), event: WsEvent::NeedsMore });
        }
        if let Some(expected) = &self.expected {
            return Ok(match handshake::read_response(input, &expected.accept, expected.offer, false)? {
                Answer::NeedsMore => Step { consumed: 0, event: WsEvent::NeedsMore },
                Answer::Accepted(consumed, agreed) => {
                    self.expected = None;
                    self.agreed = agreed;
                    Step { consumed, event: WsEvent::Opened }
                }
            });
        }
        match frame::decode(input, MAX_MESSAGE, self.agreed.is_some())? {
            Decoded::NeedsMore => Ok(Step { consumed: 0, event: WsEvent::NeedsMore }),
            Decoded::Frame(frame) => {
                let consumed = frame.frame_len;
                Ok(Step { consumed, event: self.handle_frame(frame, inflater)? })
            }
        }
    }

    /// Handles the end of the server's stream after the unconsumed bytes `rest`. Returns an error if the handshake is
    /// unfinished.
    pub fn end_of_stream(&self, rest: &[u8]) -> Result<(), ProtocolError> {
        match &self.expected {
            Some(expected) => {
                handshake::read_response(rest, &expected.accept, expected.offer, true).map(drop)
            }
            None => Ok(()),
        }
    }

    fn handle_frame<'a>(
        &'a mut self,
        frame: Frame<'a>,
        inflater: &'a mut Inflater,
    ) -> Result<WsEvent<'a>, ProtocolError> {
        match frame.opcode {
            Opcode::Ping => Ok(WsEvent::Ping(frame.payload)),
            Opcode::Pong => Ok(WsEvent::Nothing),
            Opcode::Close => {
                self.closed = true;
                read_close(frame.payload)
            }
            Opcode::Text | Opcode::Binary | Opcode::Continuation => self.handle_data(frame, inflater),
        }
    }

    fn handle_data<'a>(
        &'a mut self,
        frame: Frame<'a>,
        inflater: &'a mut Inflater,
    ) -> Result<WsEvent<'a>, ProtocolError> {
        if self.fragments.as_ref().is_some_and(|fragments| fragments.complete) {
            self.fragments = None;
        }
        if frame.opcode != Opcode::Continuation {
            if self.fragments.is_some() {
                return Err(ProtocolError::Fragments(frame.opcode, "inside a fragmented message"));
            }
            let is_text = frame.opcode == Opcode::Text;
            if frame.fin && frame.rsv1 {
                return message(is_text, self.inflate(frame.payload, inflater)?);
            }
            if frame.fin {
                return message(is_text, frame.payload);
            }
            let bytes = frame.payload.to_vec();
            let fragments = Fragments { is_text, is_compressed: frame.rsv1, complete: false, bytes };
            self.fragments = Some(Box::new(fragments));
            return Ok(WsEvent::Nothing);
        }
        let Some(mut fragments) = self.fragments.take() else {
            return Err(ProtocolError::Fragments(frame.opcode, "outside a fragmented message"));
        };
        let payload_len = fragments.bytes.len() as u64 + frame.payload.len() as u64;
        if payload_len > MAX_MESSAGE as u64 {
            return Err(ProtocolError::TooLong { payload_len, max_payload: MAX_MESSAGE });
        }
        fragments.bytes.extend_from_slice(frame.payload);
        if frame.fin && fragments.is_compressed {
            return message(fragments.is_text, self.inflate(&fragments.bytes, inflater)?);
        }
        fragments.complete = frame.fin;
        let fragments = self.fragments.insert(fragments);
        if frame.fin { message(fragments.is_text, &fragments.bytes) } else { Ok(WsEvent::Nothing) }
    }

    fn inflate<'a>(
        &mut self,
        compressed: &[u8],
        inflater: &'a mut Inflater,
    ) -> Result<&'a [u8], ProtocolError> {
        let context = match self.agreed {
            Some(Agreed { server_context: true, .. }) => {
                Some(self.context.get_or_insert_with(|| Box::new(Decompress::new(false))))
            }
            _ => None,
        };
        inflater.inflate(compressed, context.map(|context| &mut **context))
    }
}

fn message(is_text: bool, bytes: &[u8]) -> Result<WsEvent<'_>, ProtocolError> {
    if is_text {
        std::str::from_utf8(bytes).map(WsEvent::Text).map_err(|_| ProtocolError::Utf8)
    } else {
        Ok(WsEvent::Binary(bytes))
    }
}

/// Parses the payload of a close frame (RFC 6455 §5.5.1, §7.4).
fn read_close(payload: &[u8]) -> Result<WsEvent<'_>, ProtocolError> {
    match payload {
        [] => Ok(WsEvent::Closed { code: None, reason: "" }),
        [_] => Err(ProtocolError::Close),
        [high, low, reason @ ..] => {
            let code = u16::from_be_bytes([*high, *low]);
            if !matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999) {
                return Err(ProtocolError::Close);
            }
            let reason = std::str::from_utf8(reason).map_err(|_| ProtocolError::Utf8)?;
            Ok(WsEvent::Closed { code: Some(code), reason })
        }
    }
}

#[cfg(test)]
mod tests;
