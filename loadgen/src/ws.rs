//! The client's half of the WebSocket protocol (RFC 6455), without any input or output of its own.
//!
//! Bytes from the server go in through [`Client::next`], as many as there are and cut anywhere; events come
//! out. What is to be sent is appended to a buffer of the caller's. It shares no code with any server on
//! purpose: two sides with one bug would agree on it.

pub mod deflate;
pub mod frame;
mod handshake;
mod offer;

pub use offer::{Agreed, Offer};

use flate2::Decompress;

use deflate::Inflater;
use frame::{Decoded, Frame, Opcode};
use handshake::Answer;

/// A message longer than this is refused, in bytes.
pub const MAX_MESSAGE: usize = 64 * 1024 * 1024;

/// The state of one connection. Call [`Client::start`] first, then [`Client::next`] after every read.
#[derive(Debug, Default)]
pub struct Client {
    /// What the server must answer; gone once it has.
    expected: Option<Box<Expected>>,
    agreed: Option<Agreed>,
    /// What the server's messages may refer to, if it takes its context over; made at the first of them.
    context: Option<Box<Decompress>>,
    /// The message whose last part has not come yet.
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
    /// The last part has come and was handed out; the next call forgets the message.
    complete: bool,
    bytes: Vec<u8>,
}

/// What [`Client::next`] made of the front of its input.
#[derive(Debug, PartialEq, Eq)]
pub struct Step<'a> {
    /// So many bytes of the input are done with.
    pub consumed: usize,
    /// What they meant.
    pub event: WsEvent<'a>,
}

/// What the server did.
#[derive(Debug, PartialEq, Eq)]
pub enum WsEvent<'a> {
    /// Nothing until more bytes have come behind those not consumed.
    NeedsMore,
    /// It accepted the handshake.
    Opened,
    /// It sent a part of a message, or a pong; nothing to do.
    Nothing,
    /// It sent a text message, which is valid UTF-8.
    Text(&'a str),
    /// It sent a binary message.
    Binary(&'a [u8]),
    /// It wants a pong with this payload.
    Ping(&'a [u8]),
    /// It closes, with this code and reason; answer with a close frame of the same code.
    Closed {
        /// The close code, if it gave one.
        code: Option<u16>,
        /// Its reason, often empty.
        reason: &'a str,
    },
}

/// What the server did wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// It answered the handshake with something else than 101.
    #[error(
        "the handshake was answered {status} {reason}: {body:?}; check the path of --url and the server's limits"
    )]
    Refused {
        /// The HTTP status.
        status: u16,
        /// The words after the status.
        reason: String,
        /// The start of the body.
        body: String,
    },
    /// Its handshake is wrong.
    #[error("wrong handshake: {0}")]
    Handshake(String),
    /// It closed in the middle of the handshake, after so many bytes.
    #[error("the server closed after {0} bytes of its handshake; see its log")]
    HandshakeCut(usize),
    /// Reserved bits are set in the first byte of a frame.
    #[error(
        "a frame begins with {0:#04x}: reserved bits are set where no extension that was agreed allows it"
    )]
    ReservedBits(u8),
    /// A frame has an opcode that is not defined.
    #[error("a frame has the undefined opcode {0:#x}")]
    Opcode(u8),
    /// The server masked a frame.
    #[error("the server masked a frame, which only clients may")]
    Masked,
    /// A control frame is longer than 125 bytes or fragmented.
    #[error("a control frame is fragmented or longer than 125 bytes")]
    Control,
    /// A message is too long.
    #[error("a message of {payload_len} bytes is over the limit of {max_payload}")]
    TooLong {
        /// Announced length, in bytes.
        payload_len: u64,
        /// What is accepted, in bytes.
        max_payload: usize,
    },
    /// A continuation without a beginning, or a beginning inside a message.
    #[error("fragments are out of order: {0:?} came {1}")]
    Fragments(Opcode, &'static str),
    /// Text is not valid UTF-8.
    #[error("a text message or close reason is not valid UTF-8")]
    Utf8,
    /// A compressed message is not DEFLATE, or refers to what was never sent.
    #[error("a compressed message cannot be inflated")]
    Deflate,
    /// A close frame has one byte, or a code that must not be sent.
    #[error("a close frame is malformed or has an illegal code")]
    Close,
}

impl ProtocolError {
    /// The code to close with (RFC 6455 §7.4.1).
    pub fn close_code(&self) -> u16 {
        match self {
            Self::Utf8 | Self::Deflate => 1007,
            Self::TooLong { .. } => 1009,
            _ => 1002,
        }
    }
}

impl Client {
    /// Begins: appends the request for `path` on `host` to `out`. `nonce` names this handshake.
    pub fn start(host: &str, path: &str, nonce: [u8; 16], offer: Offer, out: &mut Vec<u8>) -> Self {
        let key = handshake::encode_key(nonce);
        handshake::write_request(out, host, path, &key, offer);
        let expected = Expected { accept: handshake::accept_for(&key), offer };
        Self { expected: Some(Box::new(expected)), ..Self::default() }
    }

    /// How messages are compressed; known once the handshake has succeeded.
    pub fn agreed(&self) -> Option<Agreed> {
        self.agreed
    }

    /// Whether a frame that comes next begins a message, and none is compressed.
    pub fn is_between_plain_messages(&self) -> bool {
        let is_within = self.fragments.as_ref().is_some_and(|fragments| !fragments.complete);
        self.expected.is_none() && self.agreed.is_none() && !self.closed && !is_within
    }

    /// Takes the next event off the front of `input`.
    ///
    /// Call it again with the rest until it answers [`WsEvent::NeedsMore`]; keep what it has not consumed in
    /// front of the next read. After an error or [`WsEvent::Closed`] everything else is discarded. `inflation` is the
    /// same for all connections.
    pub fn next<'a>(
        &'a mut self,
        input: &'a [u8],
        inflation: &'a mut Inflater,
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
                Ok(Step { consumed, event: self.handle_frame(frame, inflation)? })
            }
        }
    }

    /// Says what it means that the server closed the stream with `rest` not consumed: an error when the
    /// handshake had not ended.
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
        inflation: &'a mut Inflater,
    ) -> Result<WsEvent<'a>, ProtocolError> {
        match frame.opcode {
            Opcode::Ping => Ok(WsEvent::Ping(frame.payload)),
            Opcode::Pong => Ok(WsEvent::Nothing),
            Opcode::Close => {
                self.closed = true;
                read_close(frame.payload)
            }
            Opcode::Text | Opcode::Binary | Opcode::Continuation => self.handle_data(frame, inflation),
        }
    }

    fn handle_data<'a>(
        &'a mut self,
        frame: Frame<'a>,
        inflation: &'a mut Inflater,
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
                return message(is_text, self.inflate(frame.payload, inflation)?);
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
            return message(fragments.is_text, self.inflate(&fragments.bytes, inflation)?);
        }
        fragments.complete = frame.fin;
        let fragments = self.fragments.insert(fragments);
        if frame.fin { message(fragments.is_text, &fragments.bytes) } else { Ok(WsEvent::Nothing) }
    }

    fn inflate<'a>(
        &mut self,
        compressed: &[u8],
        inflation: &'a mut Inflater,
    ) -> Result<&'a [u8], ProtocolError> {
        let context = match self.agreed {
            Some(Agreed { server_context: true, .. }) => {
                Some(self.context.get_or_insert_with(|| Box::new(Decompress::new(false))))
            }
            _ => None,
        };
        inflation.inflate(compressed, context.map(|context| &mut **context))
    }
}

fn message(is_text: bool, bytes: &[u8]) -> Result<WsEvent<'_>, ProtocolError> {
    if is_text {
        std::str::from_utf8(bytes).map(WsEvent::Text).map_err(|_| ProtocolError::Utf8)
    } else {
        Ok(WsEvent::Binary(bytes))
    }
}

/// Reads the body of a close frame (RFC 6455 §5.5.1, §7.4).
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
