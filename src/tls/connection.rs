//! The state of one TLS connection: its session, its backlog, and the sends in flight.

use std::io;

use rustls::unbuffered::EncryptError;
use tracing::debug;

use crate::chunk::Span;
use crate::io::{Backend, Close, IoEvent, Slot};
use crate::transport::Event;

use super::backlog::Backlog;
use super::session::Session;
use super::{Identity, TlsEvent};

/// Plaintext bytes that are encrypted at a time.
pub(super) const PIECE_LEN: usize = 64 << 10;
/// Ciphertext bytes of a client that one turn takes in; see [`Session::share_len`].
pub(super) const SHARE_LEN: usize = 64 << 10;
/// Bytes that a client may send after its end or its mistake. The shard allows a closing connection as much.
const MAX_DISCARDED: usize = 16 << 20;
/// The reason of a failure when something is to be sent to a client that never completed its handshake.
pub(super) const NO_HANDSHAKE: &str = "the client ended or broke off the TLS handshake";

/// One connection with TLS.
#[derive(Default)]
pub(super) struct TlsConnection {
    /// The TLS session. The first bytes of the client create it.
    pub(super) session: Option<Session>,
    /// Input that waits for a turn.
    pub(super) backlog: Backlog,
    /// The client's end of stream arrived behind the backlog.
    pub(super) end_waits: bool,
    /// The caller has paused receiving.
    is_paused: bool,
    /// This layer has paused receiving, because the backlog is long.
    is_held: bool,
    /// The last turn that took in input.
    turn: u8,
    /// Bytes left of the share of that turn.
    share: usize,
    /// Plaintext of the caller's send that is not encrypted yet.
    pub(super) plain: Option<Span>,
    /// The backend's send in flight.
    pub(super) sending: Sending,
    pub(super) state: TlsState,
    /// The handshake is complete and counted.
    pub(super) is_counted: bool,
    /// The end of our direction.
    pub(super) shutdown: Shutdown,
    /// The caller was told of the client's end.
    pub(super) has_ended: bool,
    /// Number of bytes that arrived and were ignored.
    discarded: usize,
    /// The client broke a rule of TLS. Its input is ignored, and only the alert is sent to it.
    pub(super) is_broken: bool,
}

impl TlsConnection {
    /// Whether the handshake is complete.
    pub(super) fn is_ready(&self) -> bool {
        self.session.as_ref().is_some_and(Session::is_ready)
    }

    /// Whether the handshake resumed an earlier session.
    pub(super) fn is_resumed(&self) -> bool {
        self.session.as_ref().is_some_and(Session::is_resumed)
    }

    /// Whether the client has sent close_notify.
    pub(super) fn has_peer_closed(&self) -> bool {
        self.session.as_ref().is_some_and(Session::has_peer_closed)
    }

    /// Takes the messages of TLS itself that are to be sent.
    pub(super) fn take_outgoing(&mut self) -> Vec<u8> {
        self.session.as_mut().map(Session::take_outgoing).unwrap_or_default()
    }

    /// Whether input of the client counts.
    pub(super) fn is_listening(&self) -> bool {
        self.state == TlsState::Open && !self.is_broken && !self.has_ended
    }

    /// Ignores the client from now on, because it broke a rule of TLS. Returns the event for the caller.
    pub(super) fn break_off(&mut self, slot: Slot, error: rustls::Error) -> Event {
        debug!(slot, %error, "TLS failed");
        self.is_broken = true;
        if !self.is_counted && self.plain.take().is_none() {
            return TlsEvent::NoTls { slot, is_http: false }.into();
        }
        self.fail(slot, io::Error::other(error))
    }

    /// Counts input that is ignored. Returns an event for the caller when it is too much.
    pub(super) fn discard(&mut self, slot: Slot, len: usize) -> Option<Event> {
        self.discarded = self.discarded.saturating_add(len);
        if self.state != TlsState::Open || self.discarded <= MAX_DISCARDED {
            return None;
        }
        Some(self.fail(slot, io::Error::other("the client goes on sending after the end of its TLS stream")))
    }

    /// Marks the connection as failed. Returns the event for the caller.
    fn fail(&mut self, slot: Slot, error: io::Error) -> Event {
        self.state = TlsState::Failed;
        self.plain = None;
        self.sending = self.sending.without_end();
        IoEvent::Failed { slot, error }.into()
    }

    /// Handles the end of the client's direction. Returns the event for the caller, unless it was returned before.
    ///
    /// Browsers end the stream without close_notify, so none is asked for. The part of a record that is kept is then
    /// ignored.
    pub(super) fn end(&mut self, slot: Slot) -> Option<Event> {
        if self.state != TlsState::Open || std::mem::replace(&mut self.has_ended, true) {
            return None;
        }
        if self.ends_early() && self.plain.take().is_some() {
            return Some(self.fail(slot, io::Error::other(NO_HANDSHAKE)));
        }
        Some(IoEvent::Ended { slot }.into())
    }

    /// Whether the client ended before the handshake was complete, so that it can read nothing.
    pub(super) fn ends_early(&self) -> bool {
        self.has_ended && !self.is_ready()
    }

    /// Whether no send is in flight and another one can follow, be it an alert.
    pub(super) fn may_send(&self) -> bool {
        let is_usable = matches!(self.state, TlsState::Open | TlsState::Failed);
        is_usable && self.sending == Sending::Nothing && self.shutdown != Shutdown::Done
    }

    /// Whether no send is in flight and close_notify can follow.
    pub(super) fn may_say_goodbye(&self) -> bool {
        self.sending == Sending::Nothing && self.shutdown != Shutdown::Done && !self.is_broken
    }

    /// Takes in input up to the connection's share of this turn, and appends the plaintext. Returns the number of bytes
    /// taken in, and the mistake of the client if there is one.
    pub(super) fn receive(
        &mut self,
        identity: &Identity,
        turn: u8,
        input: &mut [u8],
        plaintext: &mut Vec<u8>,
    ) -> (usize, Result<(), rustls::Error>) {
        if self.turn != turn || self.session.is_none() {
            (self.turn, self.share) = (turn, SHARE_LEN);
        }
        let session = match &mut self.session {
            Some(session) => session,
            none => match Session::new(identity.config()) {
                Ok(session) => none.insert(session),
                Err(error) => return (0, Err(error)),
            },
        };
        let len = session.share_len(input, &mut self.share);
        if session.is_ready() {
            plaintext.reserve(len);
        }
        (len, session.receive(&mut input[..len], plaintext))
    }

    /// Stops receiving, for the caller.
    pub(super) fn pause(&mut self, backend: &mut impl Backend, slot: Slot) {
        if !std::mem::replace(&mut self.is_paused, true) && !self.is_held {
            backend.pause(slot);
        }
    }

    /// Resumes receiving after [`Self::pause`].
    pub(super) fn resume(&mut self, backend: &mut impl Backend, slot: Slot) {
        self.is_paused = false;
        if !self.is_held {
            backend.resume(slot);
        }
    }

    /// Stops receiving until the backlog is taken in.
    pub(super) fn hold(&mut self, backend: &mut impl Backend, slot: Slot) {
        if !std::mem::replace(&mut self.is_held, true) && !self.is_paused {
            backend.pause(slot);
        }
    }

    /// Resumes receiving after [`Self::hold`].
    pub(super) fn release(&mut self, backend: &mut impl Backend, slot: Slot) {
        if std::mem::take(&mut self.is_held) && !self.is_paused && self.state == TlsState::Open {
            backend.resume(slot);
        }
    }

    /// Encrypts the next piece of the caller's send, if there is one and the session is ready for it. Returns whether
    /// it was the last piece.
    ///
    /// # Errors
    /// When the keys are used up.
    pub(super) fn encrypt(&mut self, out: &mut Vec<u8>) -> Result<bool, EncryptError> {
        let Some(session) = self.session.as_mut().filter(|session| session.is_ready() && !self.is_broken)
        else {
            return Ok(false);
        };
        let Some(span) = &mut self.plain else { return Ok(false) };
        let len = span.len().min(PIECE_LEN);
        session.encrypt(&span.bytes()[..len], out)?;
        span.advance(len);
        let is_last = span.is_empty();
        if is_last {
            self.plain = None;
        }
        Ok(is_last)
    }

    /// Appends close_notify, when the session can say it.
    pub(super) fn encode_close_notify(&mut self, out: &mut Vec<u8>) {
        if let Some(session) = self.session.as_mut().filter(|session| session.is_ready() && !self.is_broken) {
            // If it cannot be encoded, the end of the TCP stream tells the client.
            let _ = session.close_notify(out);
        }
    }
}

/// The end of our direction of the stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Shutdown {
    /// The caller has not asked for the end.
    #[default]
    No,
    /// The end follows the send in flight.
    Wanted,
    /// close_notify and FIN are on their way.
    Done,
}

/// The contents of the backend's send in flight.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Sending {
    /// No send is in flight.
    #[default]
    Nothing,
    /// Messages of TLS itself, or a piece of the caller's send that is not its last one.
    Part,
    /// The last piece of the caller's send.
    Last,
}

impl Sending {
    /// The state when the caller no longer waits for its send.
    fn without_end(self) -> Self {
        if self == Self::Last { Self::Part } else { self }
    }
}

/// How far a connection is in its life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum TlsState {
    #[default]
    Open,
    /// Cannot be written to any more, for this reason. The caller does not know it yet.
    Failing(&'static str),
    /// Reported as failed. An alert may be in flight.
    Failed,
    /// Closed by the caller. The last record is in flight.
    Leaving(Close),
    /// Failed or closed in the backend, too.
    Gone,
}
