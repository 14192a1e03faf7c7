//! RFC 6455 and RFC 7692, server side, without I/O: bytes in, events out.
//!
//! A [`Protocol`] first awaits a request head. The caller answers [`Event::Request`] with bytes that
//! [`response`] writes, then says [`Protocol::upgrade`] or [`Protocol::discard`]. What follows an upgrade are
//! messages and control frames, until one of the two sides closes or the client breaks a rule.

mod assembly;
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

use assembly::{Assembly, Payload, Rooms, next_complete};
use deflate::{Agreement, Inflater, Window};
use request::{HeadBuffer, head_end};
use simdutf8::basic;

/// What a client may ask for at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a message, all its fragments together and inflated.
    pub max_message: usize,
}

/// What the connections of a shard have in common when they read: their limits, one engine to inflate with, and the
/// memory of a long message.
#[derive(Debug, Default)]
pub struct Reader {
    limits: Limits,
    inflater: Inflater,
    /// Memory of a long message that was handled, for the next one.
    spare: Vec<u8>,
}

impl Reader {
    /// A reader that keeps to `limits`.
    pub fn new(limits: Limits) -> Self {
        Self { limits, inflater: Inflater::default(), spare: Vec::new() }
    }

    /// Keeps to other limits from now on, also for messages that have come in part.
    pub fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_message: 1024 * 1024 }
    }
}

/// What a client did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// A request to answer, then to follow by [`Protocol::upgrade`] or [`Protocol::discard`].
    Request(Request<'a>),
    /// A request that breaks a rule: respond and close. The rest of the input is discarded.
    Refused(Refusal),
    /// A whole message. A text is valid UTF-8.
    Message {
        /// Whether it is text.
        kind: Kind,
        /// Its bytes, unmasked and inflated; within the input when it lay there whole and plain.
        payload: &'a [u8],
    },
    /// A ping to answer with a pong of the same payload, of 125 bytes at most.
    Ping(&'a [u8]),
    /// A pong, asked for or not.
    Pong(&'a [u8]),
    /// The client closes: answer with a close frame unless one was sent. The rest of the input is discarded.
    Close(Option<CloseFrame<'a>>),
    /// The client broke a rule: send a close frame that says so. The rest of the input is discarded.
    Failed(Failure),
}

/// One connection's state. It holds heap memory only while a head, frame or message is incomplete, and for the
/// [`Window`] of a client that compresses with context takeover.
///
/// ```
/// use uproar::protocol::{Event, Limits, Protocol, Reader, response};
///
/// let mut read = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec();
/// let (mut protocol, mut reader, mut out) = (Protocol::new(), Reader::new(Limits::default()), Vec::new());
/// let mut input = &mut read[..];
/// while let Some(event) = protocol.next(&mut input, &mut reader) {
///     match event {
///         Event::Request(request) => match request.upgrade {
///             Some(accept) => {
///                 response::switching_protocols(&accept, None, &mut out);
///                 protocol.upgrade(None);
///             }
///             None => {
///                 response::respond(response::Status::Ok, &[], "text/plain", b"hi", request.is_head(), &mut out);
///                 protocol.discard();
///             }
///         },
///         Event::Refused(refusal) => refusal.respond(&mut out),
///         _ => {}
///     }
/// }
/// assert!(out.starts_with(b"HTTP/1.1 200 OK\r\n") && protocol.is_discarding());
/// ```
#[derive(Debug)]
pub struct Protocol {
    state: State,
}

/// The buffers stand beside the progress so that an event can borrow from one while the other moves on.
#[derive(Debug)]
enum State {
    Http {
        progress: Progress,
        head: Option<Box<HeadBuffer>>,
    },
    /// `is_over` once the close frame or the failure was handed out. `compresses`: messages may come compressed.
    Open {
        is_over: bool,
        compresses: bool,
        assembly: Option<Box<Assembly>>,
    },
    Discarding,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    AwaitsHead,
    AwaitsAnswer,
    Refused,
}

impl Protocol {
    /// A new connection, which awaits the request head.
    pub fn new() -> Self {
        Self { state: State::Http { progress: Progress::AwaitsHead, head: None } }
    }

    /// Consumes a prefix of `input` and returns the next event; `None` when all is consumed and more is needed.
    ///
    /// Call it until it returns `None`: that also frees what the last event borrowed. While a request waits
    /// for [`Protocol::upgrade`] or [`Protocol::discard`] it returns `None` and consumes nothing.
    pub fn next<'a, 'i: 'a>(
        &'a mut self,
        input: &mut &'i mut [u8],
        reader: &'a mut Reader,
    ) -> Option<Event<'a>> {
        if self.is_discarding() {
            self.discard();
        }
        match &mut self.state {
            State::Http { progress: Progress::AwaitsAnswer, .. } => None,
            State::Http { progress, head } => next_request(progress, head, input),
            State::Open { is_over, compresses, assembly } => {
                next_frame_event(is_over, *compresses, assembly, input, reader)
            }
            State::Discarding => {
                *input = &mut [];
                None
            }
        }
    }

    /// Says that the request was answered with 101 and, if so, what was agreed about compression: what follows are
    /// frames.
    ///
    /// # Panics
    /// When no request waits for its answer.
    pub fn upgrade(&mut self, agreement: Option<Agreement>) {
        let awaits_answer = matches!(self.state, State::Http { progress: Progress::AwaitsAnswer, .. });
        assert!(awaits_answer, "only a request that was not yet answered can be upgraded");
        let takeover = agreement.filter(|agreement| agreement.client_takeover);
        self.state = State::Open {
            is_over: false,
            compresses: agreement.is_some(),
            assembly: takeover
                .map(|agreement| Box::new(Assembly::with_window(Window::new(agreement.client_bits())))),
        };
    }

    /// Says that nothing more is wanted of this client: everything that follows is consumed without an event.
    pub fn discard(&mut self) {
        self.state = State::Discarding;
    }

    /// Whether frames are exchanged: upgraded, and neither closed nor failed.
    pub fn is_open(&self) -> bool {
        matches!(self.state, State::Open { is_over: false, .. })
    }

    /// Whether no further event will come: refused, closed, failed or told to discard.
    pub fn is_discarding(&self) -> bool {
        matches!(
            self.state,
            State::Http { progress: Progress::Refused, .. }
                | State::Open { is_over: true, .. }
                | State::Discarding
        )
    }

    /// Whether a request head, a frame or a message has arrived in part, so that its rest is due.
    ///
    /// True also while a request waits for its answer if its head came in parts.
    pub fn is_mid_item(&self) -> bool {
        match &self.state {
            _ if self.is_discarding() => false,
            State::Http { head, .. } => head.is_some(),
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
    buffer: &'a mut Option<Box<HeadBuffer>>,
    input: &mut &'i mut [u8],
) -> Option<Event<'a>> {
    if buffer.is_none() {
        // RFC 9112 §2.2: empty lines before a request are ignored.
        let start = input.iter().position(|byte| !matches!(byte, b'\r' | b'\n')).unwrap_or(input.len());
        take_up_to(start, input);
        if input.is_empty() {
            return None;
        }
    }
    let whole_len = match buffer {
        None => head_end(&input[..input.len().min(MAX_HEAD_LEN)], &mut false),
        Some(_) => None,
    };
    let parsed = match whole_len {
        Some(len) => Request::parse(take_up_to(len, input)),
        None => {
            let buffer = buffer.get_or_insert_default();
            match buffer.take_in(input) {
                Ok(false) => return None,
                Ok(true) => Request::parse(buffer.bytes()),
                Err(refusal) => Err(refusal),
            }
        }
    };
    Some(match parsed {
        Ok(request) => {
            *progress = Progress::AwaitsAnswer;
            Event::Request(request)
        }
        Err(refusal) => {
            *progress = Progress::Refused;
            Event::Refused(refusal)
        }
    })
}

fn next_frame_event<'a, 'i: 'a>(
    is_over: &mut bool,
    compresses: bool,
    assembly: &'a mut Option<Box<Assembly>>,
    input: &mut &'i mut [u8],
    reader: &'a mut Reader,
) -> Option<Event<'a>> {
    let max_message = reader.limits.max_message;
    let compressed = compresses.then(|| Inflater::most_compressed(max_message));
    let rooms = Rooms { plain: max_message, compressed };
    let complete = next_complete(assembly, input, rooms, &mut reader.spare).transpose()?;
    let (delivered, window) = assembly.as_deref_mut().map_or((&[][..], None), Assembly::delivered);
    let result = complete.and_then(|complete| {
        let mut payload = match complete.payload {
            Payload::InPlace(payload) => payload,
            Payload::Assembled => delivered,
        };
        if complete.compressed {
            payload = reader.inflater.inflate(payload, window, max_message)?;
            if complete.opcode == Opcode::Text && basic::from_utf8(payload).is_err() {
                return Err(Failure::TEXT);
            }
        }
        Ok(match complete.opcode {
            Opcode::Ping => Event::Ping(payload),
            Opcode::Pong => Event::Pong(payload),
            Opcode::Close => Event::Close(CloseFrame::decode(payload)?),
            Opcode::Text => Event::Message { kind: Kind::Text, payload },
            Opcode::Binary | Opcode::Continuation => Event::Message { kind: Kind::Binary, payload },
        })
    });
    let event = result.unwrap_or_else(Event::Failed);
    *is_over = matches!(event, Event::Close(_) | Event::Failed(_));
    Some(event)
}

/// Consumes the first `len` bytes of `input`, or all when there are fewer.
fn take_up_to<'i>(len: usize, input: &mut &'i mut [u8]) -> &'i mut [u8] {
    input.split_off_mut(..len.min(input.len())).unwrap_or_default()
}
