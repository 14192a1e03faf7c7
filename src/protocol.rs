//! The server side of the WebSocket protocol (RFC 6455, RFC 7692), without I/O: decodes a client's bytes into events.
//!
//! A [`Protocol`] first decodes HTTP requests, one at a time. The caller answers [`ProtocolEvent::Request`] with a
//! response from [`response`]. Then it calls [`Protocol::answered`] to get the connection's next request,
//! [`Protocol::discard`] to end the connection, or [`Protocol::upgrade`]. After an upgrade, [`Protocol::next`] returns
//! messages and control frames until one side closes or the client breaks a rule.

mod assembly;
mod body;
mod client_header;
pub mod deflate;
pub mod forwarded;
pub mod frame;
mod handshake;
pub mod mask;
pub mod proxy_header;
mod request;
pub mod response;
#[cfg(test)]
mod tests;

pub use frame::{CloseCode, CloseFrame, Failure, Kind, Opcode};
pub use handshake::AcceptKey;
pub use request::{MAX_HEAD_LEN, MAX_HEADERS, Request};
pub use response::{Refusal, Status};

use assembly::{Assembly, LengthLimits, Payload, next_complete};
use deflate::{Agreement, Inflater, Window};
use request::{RequestBuffer, Step, next_step};
use simdutf8::basic;

/// The limits on messages and requests that clients send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MessageLimits {
    /// The maximum length of a message in bytes: all its fragments together, after decompression.
    pub max_message: usize,
    /// The maximum length of the body of an HTTP request in bytes. 0: requests have no body.
    pub max_request_body: usize,
}

/// The decoding state that all connections of a shard share: the message limits, a decompressor and a spare buffer.
#[derive(Debug, Default)]
pub struct Reader {
    limits: MessageLimits,
    inflater: Inflater,
    /// The buffer of the last long message, kept for the next long message.
    spare: Vec<u8>,
    /// Number of bytes that [`Reader::take_inflated`] returns next.
    inflated: usize,
}

impl Reader {
    /// Creates a reader with these message limits.
    pub fn new(limits: MessageLimits) -> Self {
        Self { limits, inflater: Inflater::default(), spare: Vec::new(), inflated: 0 }
    }

    /// Replaces the message limits, also for messages that have arrived in part.
    pub fn set_limits(&mut self, limits: MessageLimits) {
        self.limits = limits;
    }

    /// Returns the number of bytes by which messages have become longer than they were on the wire, by decompression,
    /// since the last call.
    pub fn take_inflated(&mut self) -> usize {
        std::mem::take(&mut self.inflated)
    }
}

impl Default for MessageLimits {
    fn default() -> Self {
        Self { max_message: 1024 * 1024, max_request_body: 1024 * 1024 }
    }
}

/// An event that [`Protocol::next`] decodes from a client's bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProtocolEvent<'a> {
    /// The head of an HTTP request whose client waits before it sends the body. Send [`response::CONTINUE`]. The
    /// request follows as an event of its own. RFC 9110 §10.1.1
    Continue,
    /// An HTTP request. Answer the request, then call [`Protocol::answered`], [`Protocol::upgrade`] or
    /// [`Protocol::discard`].
    Request(Request<'a>),
    /// An HTTP request that breaks a rule. Send the refusal and close the connection. All further input is discarded.
    Refused(Refusal),
    /// A complete message. The payload of a text message is valid UTF-8.
    Message {
        /// The kind of the message: text or binary.
        kind: Kind,
        /// The message's payload, unmasked and decompressed. Borrows the input if the message arrived whole and
        /// uncompressed.
        payload: &'a [u8],
    },
    /// The payload of a ping frame, at most 125 bytes. Answer with a pong frame that has an equal payload.
    Ping(&'a [u8]),
    /// The payload of a pong frame: the answer to a ping, or unsolicited.
    Pong(&'a [u8]),
    /// A close frame with its code and reason, if present. Answer with a close frame unless the server has already sent
    /// one. All further input is discarded.
    Close(Option<CloseFrame<'a>>),
    /// The rule that a frame of the client breaks. Send a close frame with this failure. All further input is
    /// discarded.
    Failed(Failure),
}

/// The protocol state of one connection. Owns heap memory only for an incomplete request, frame or message, and for
/// the [`Window`] of a client that compresses with context takeover.
///
/// ```
/// use uproar::protocol::{ProtocolEvent, MessageLimits, Protocol, Reader, response};
///
/// let mut read = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec();
/// let (mut protocol, mut reader, mut out) = (Protocol::new(), Reader::new(MessageLimits::default()), Vec::new());
/// let mut input = &mut read[..];
/// while let Some(event) = protocol.next(&mut input, &mut reader) {
///     match event {
///         ProtocolEvent::Request(request) => match request.upgrade {
///             Some(accept) => {
///                 response::switching_protocols(&accept, None, None, &mut out);
///                 protocol.upgrade(None);
///             }
///             None => {
///                 let form = response::Form::of(&request);
///                 response::respond(response::Status::Ok, &[], "text/plain", b"hi", form, &mut out);
///                 if request.keep_alive { protocol.answered() } else { protocol.discard() }
///             }
///         },
///         ProtocolEvent::Refused(refusal) => refusal.respond(&mut out),
///         _ => {}
///     }
/// }
/// assert!(out.starts_with(b"HTTP/1.1 200 OK\r\n") && !protocol.is_discarding());
/// ```
#[derive(Debug)]
pub struct Protocol {
    state: State,
}

/// The protocol state of a connection. Buffers are separate fields, so an event can borrow a buffer while other fields
/// change.
#[derive(Debug)]
enum State {
    Http {
        progress: Progress,
        buffer: Option<Box<RequestBuffer>>,
    },
    /// The connection exchanges frames. `is_over`: [`Protocol::next`] has returned a close frame or a failure.
    /// `compresses`: the client may send compressed messages.
    Open {
        is_over: bool,
        compresses: bool,
        assembly: Option<Box<Assembly>>,
    },
    Discarding,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    AwaitsRequest,
    AwaitsAnswer,
    Refused,
}

impl Protocol {
    /// Creates the state of a new connection, which expects a request.
    pub fn new() -> Self {
        Self { state: State::Http { progress: Progress::AwaitsRequest, buffer: None } }
    }

    /// Consumes a prefix of `input` and returns the next event, or `None` when all input is consumed.
    ///
    /// Call `next` until it returns `None`: the last call also frees the buffer that the last event borrowed. While a
    /// request waits for [`Protocol::answered`], [`Protocol::upgrade`] or [`Protocol::discard`], `next` returns `None`
    /// and consumes nothing.
    pub fn next<'a, 'i: 'a>(
        &'a mut self,
        input: &mut &'i mut [u8],
        reader: &'a mut Reader,
    ) -> Option<ProtocolEvent<'a>> {
        if self.is_discarding() {
            self.discard();
        }
        match &mut self.state {
            State::Http { progress: Progress::AwaitsAnswer, buffer } => {
                *buffer = None;
                None
            }
            State::Http { progress, buffer } => {
                next_request(progress, buffer, input, reader.limits.max_request_body)
            }
            State::Open { is_over, compresses, assembly } => {
                next_frame_event(is_over, *compresses, assembly, input, reader)
            }
            State::Discarding => {
                *input = &mut [];
                None
            }
        }
    }

    /// Switches the connection from HTTP to frames. Call this method after the 101 response. `agreement` is the
    /// negotiated compression, or `None` without compression.
    ///
    /// # Panics
    /// If no request waits for its answer.
    pub fn upgrade(&mut self, agreement: Option<Agreement>) {
        assert!(self.awaits_answer(), "only a request that was not yet answered can be upgraded");
        let takeover = agreement.filter(|agreement| agreement.client_takeover);
        self.state = State::Open {
            is_over: false,
            compresses: agreement.is_some(),
            assembly: takeover
                .map(|agreement| Box::new(Assembly::with_window(Window::new(agreement.client_bits())))),
        };
    }

    /// Makes [`Protocol::next`] return the connection's next request. Call this method after a response that keeps the
    /// connection.
    ///
    /// # Panics
    /// If no request waits for its answer.
    pub fn answered(&mut self) {
        assert!(self.awaits_answer(), "only a request that was not yet answered can be answered");
        *self = Self::new();
    }

    fn awaits_answer(&self) -> bool {
        matches!(self.state, State::Http { progress: Progress::AwaitsAnswer, .. })
    }

    /// Makes [`Protocol::next`] discard all further input of this client without an event.
    pub fn discard(&mut self) {
        self.state = State::Discarding;
    }

    /// Returns whether the connection exchanges frames: upgraded, and neither closed nor failed.
    pub fn is_open(&self) -> bool {
        matches!(self.state, State::Open { is_over: false, .. })
    }

    /// Returns whether [`Protocol::next`] returns no further event: the request was refused, or the connection was
    /// closed, failed or discarded.
    pub fn is_discarding(&self) -> bool {
        matches!(
            self.state,
            State::Http { progress: Progress::Refused, .. }
                | State::Open { is_over: true, .. }
                | State::Discarding
        )
    }

    /// Returns the memory of the incomplete request, frame or message, in bytes. The [`Window`] of a client with
    /// context takeover is not included.
    pub fn memory(&self) -> usize {
        match &self.state {
            State::Http { buffer, .. } => buffer.as_ref().map_or(0, |buffer| buffer.memory()),
            State::Open { assembly, .. } => {
                assembly.as_ref().map_or(0, |assembly| size_of::<Assembly>() + assembly.capacity())
            }
            State::Discarding => 0,
        }
    }

    /// Returns whether a request, a frame or a message has arrived in part.
    ///
    /// Also returns true right after the event of a request that arrived in parts.
    pub fn is_mid_item(&self) -> bool {
        match &self.state {
            _ if self.is_discarding() => false,
            State::Http { buffer, .. } => buffer.is_some(),
            State::Open { assembly, .. } => assembly.as_ref().is_some_and(|assembly| assembly.is_mid_item()),
            State::Discarding => false,
        }
    }
}

impl Default for Protocol {
    fn default() -> Self {
        Self::new()
    }
}

fn next_request<'a, 'i: 'a>(
    progress: &mut Progress,
    buffer: &'a mut Option<Box<RequestBuffer>>,
    input: &mut &'i mut [u8],
    max_body: usize,
) -> Option<ProtocolEvent<'a>> {
    Some(match next_step(buffer, input, max_body) {
        Ok(Step::More) => return None,
        Ok(Step::Continue) => ProtocolEvent::Continue,
        Ok(Step::Whole(request)) => {
            *progress = Progress::AwaitsAnswer;
            ProtocolEvent::Request(request)
        }
        Err(refusal) => {
            *progress = Progress::Refused;
            ProtocolEvent::Refused(refusal)
        }
    })
}

fn next_frame_event<'a, 'i: 'a>(
    is_over: &mut bool,
    compresses: bool,
    assembly: &'a mut Option<Box<Assembly>>,
    input: &mut &'i mut [u8],
    reader: &'a mut Reader,
) -> Option<ProtocolEvent<'a>> {
    let max_message = reader.limits.max_message;
    let compressed = compresses.then(|| Inflater::most_compressed(max_message));
    let limits = LengthLimits { plain: max_message, compressed };
    let complete = next_complete(assembly, input, limits, &mut reader.spare).transpose()?;
    let (delivered, window) = assembly.as_deref_mut().map_or((&[][..], None), Assembly::delivered);
    let result = complete.and_then(|complete| {
        let mut payload = match complete.payload {
            Payload::InPlace(payload) => payload,
            Payload::Assembled => delivered,
        };
        if complete.compressed {
            let compressed_len = payload.len();
            payload = reader.inflater.inflate(payload, window, max_message)?;
            reader.inflated += payload.len().saturating_sub(compressed_len);
            if complete.opcode == Opcode::Text && basic::from_utf8(payload).is_err() {
                return Err(Failure::TEXT);
            }
        }
        Ok(match complete.opcode {
            Opcode::Ping => ProtocolEvent::Ping(payload),
            Opcode::Pong => ProtocolEvent::Pong(payload),
            Opcode::Close => ProtocolEvent::Close(CloseFrame::decode(payload)?),
            Opcode::Text => ProtocolEvent::Message { kind: Kind::Text, payload },
            Opcode::Binary | Opcode::Continuation => ProtocolEvent::Message { kind: Kind::Binary, payload },
        })
    });
    let event = result.unwrap_or_else(ProtocolEvent::Failed);
    *is_over = matches!(event, ProtocolEvent::Close(_) | ProtocolEvent::Failed(_));
    Some(event)
}

/// Consumes and returns the first `len` bytes of `input`, or all of `input` if it is shorter.
fn take_up_to<'i>(len: usize, input: &mut &'i mut [u8]) -> &'i mut [u8] {
    input.split_off_mut(..len.min(input.len())).unwrap_or_default()
}
