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

/// Maximum number of plaintext bytes that are encrypted for one send of the backend.
pub(super) const PIECE_LEN: usize = 64 << 10;
/// Number of ciphertext bytes of a client that one turn decrypts; see [`Session::share_len`].
pub(super) const SHARE_LEN: usize = 64 << 10;
/// Maximum number of bytes that a client may send after its end of stream or its TLS error. The shard has an equal
/// limit for a closing connection.
const MAX_DISCARDED: usize = 16 << 20;
/// Error text for a send to a client that never completed its TLS handshake.
pub(super) const NO_HANDSHAKE: &str = "the client ended or broke off the TLS handshake";

/// The state of one connection with TLS.
#[derive(Default)]
pub(super) struct TlsConnection {
    /// The TLS session, or `None` before the client's first bytes.
    pub(super) session: Option<Session>,
    /// Encrypted input that waits for a later turn.
    pub(super) backlog: Backlog,
    /// Whether the client's end of stream has arrived and waits until the backlog is decrypted.
    pub(super) end_waits: bool,
    /// Whether the caller has paused receiving.
    is_paused: bool,
    /// Whether this layer has paused receiving, because the backlog is long.
    is_held: bool,
    /// Number of the last turn that decrypted input of this connection.
    turn: u8,
    /// Number of bytes left of the connection's share of the turn `turn`.
    share: usize,
    /// Plaintext of the caller's send that is not encrypted yet.
    pub(super) plain: Option<Span>,
    /// The kind of bytes in the backend's send in flight.
    pub(super) sending: Sending,
    pub(super) state: TlsState,
    /// Whether the handshake is complete and counted in `TlsUsage`.
    pub(super) is_counted: bool,
    /// The progress of ending the sending direction.
    pub(super) shutdown: Shutdown,
    /// Whether the client's end of stream was reported to the caller.
    pub(super) has_ended: bool,
    /// Number of bytes from the client that were ignored.
    discarded: usize,
    /// Whether the client broke a rule of TLS. Such a client's input is ignored, and only the alert is sent to it.
    pub(super) is_broken: bool,
}

impl TlsConnection {
    /// Returns whether the handshake is complete.
    pub(super) fn is_ready(&self) -> bool {
        self.session.as_ref().is_some_and(Session::is_ready)
    }

    /// Returns whether the handshake resumed an earlier session.
    pub(super) fn is_resumed(&self) -> bool {
        self.session.as_ref().is_some_and(Session::is_resumed)
    }

    /// Returns whether the client has sent close_notify.
    pub(super) fn has_peer_closed(&self) -> bool {
        self.session.as_ref().is_some_and(Session::has_peer_closed)
    }

    /// Removes and returns the waiting handshake messages, tickets and alerts of TLS.
    pub(super) fn take_outgoing(&mut self) -> Vec<u8> {
        self.session.as_mut().map(Session::take_outgoing).unwrap_or_default()
    }

    /// Returns whether the layer still processes the client's input.
    pub(super) fn is_listening(&self) -> bool {
        self.state == TlsState::Open && !self.is_broken && !self.has_ended
    }

    /// Ignores the client's input from now on, because the client broke a rule of TLS. Returns the event for the
    /// caller.
    pub(super) fn break_off(&mut self, slot: Slot, error: rustls::Error) -> Event {
        debug!(slot, %error, "TLS failed");
        self.is_broken = true;
        if !self.is_counted && self.plain.take().is_none() {
            return TlsEvent::NoTls { slot, is_http: false }.into();
        }
        self.fail(slot, io::Error::other(error))
    }

    /// Counts `len` bytes of ignored input. Returns a failure event for the caller when the total exceeds
    /// [`MAX_DISCARDED`].
    pub(super) fn discard(&mut self, slot: Slot, len: usize) -> Option<Event> {
        self.discarded = self.discarded.saturating_add(len);
        if self.state != TlsState::Open || self.discarded <= MAX_DISCARDED {
            return None;
        }
        Some(self.fail(slot, io::Error::other("the client goes on sending after the end of its TLS stream")))
    }

    /// Marks the connection as failed. Returns the failure event for the caller.
    fn fail(&mut self, slot: Slot, error: io::Error) -> Event {
        self.state = TlsState::Failed;
        self.plain = None;
        self.sending = self.sending.without_end();
        IoEvent::Failed { slot, error }.into()
    }

    /// Handles the end of the client's stream. Returns the event for the caller, or `None` if it was returned before.
    ///
    /// Browsers end the stream without close_notify, so the layer does not require it. An incomplete last record is
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

    /// Returns whether the client ended its stream before the handshake was complete. Such a client can read nothing.
    pub(super) fn ends_early(&self) -> bool {
        self.has_ended && !self.is_ready()
    }

    /// Returns whether no send is in flight and the connection can still send something, even if only an alert.
    pub(super) fn may_send(&self) -> bool {
        let is_usable = matches!(self.state, TlsState::Open | TlsState::Failed);
        is_usable && self.sending == Sending::Nothing && self.shutdown != Shutdown::Done
    }

    /// Returns whether no send is in flight and close_notify may be sent.
    pub(super) fn may_say_goodbye(&self) -> bool {
        self.sending == Sending::Nothing && self.shutdown != Shutdown::Done && !self.is_broken
    }

    /// Decrypts input up to the connection's share of this turn, and appends the plaintext to `plaintext`. Returns the
    /// number of input bytes that were processed, and the client's TLS error if there is one.
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

    /// Stops receiving, because the caller paused the connection.
    pub(super) fn pause(&mut self, backend: &mut impl Backend, slot: Slot) {
        if !std::mem::replace(&mut self.is_paused, true) && !self.is_held {
            backend.pause(slot);
        }
    }

    /// Resumes receiving after [`Self::pause`], unless the backlog is long.
    pub(super) fn resume(&mut self, backend: &mut impl Backend, slot: Slot) {
        self.is_paused = false;
        if !self.is_held {
            backend.resume(slot);
        }
    }

    /// Stops receiving until the backlog is decrypted.
    pub(super) fn hold(&mut self, backend: &mut impl Backend, slot: Slot) {
        if !std::mem::replace(&mut self.is_held, true) && !self.is_paused {
            backend.pause(slot);
        }
    }

    /// Resumes receiving after [`Self::hold`], unless the caller has paused the connection.
    pub(super) fn release(&mut self, backend: &mut impl Backend, slot: Slot) {
        if std::mem::take(&mut self.is_held) && !self.is_paused && self.state == TlsState::Open {
            backend.resume(slot);
        }
    }

    /// Encrypts the next piece of the caller's send into `out`, if there is a piece and the handshake is complete.
    /// Returns whether this was the last piece.
    ///
    /// # Errors
    /// When the encryption keys of the session are used up.
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

    /// Appends close_notify to `out`, if the handshake is complete and the client has broken no rule.
    pub(super) fn encode_close_notify(&mut self, out: &mut Vec<u8>) {
        if let Some(session) = self.session.as_mut().filter(|session| session.is_ready() && !self.is_broken) {
            // If close_notify cannot be encoded, the FIN tells the client that the stream has ended.
            let _ = session.close_notify(out);
        }
    }
}

/// The progress of ending the sending direction of the stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Shutdown {
    /// The caller has not requested the end of the sending direction.
    #[default]
    No,
    /// close_notify and FIN follow the send in flight.
    Wanted,
    /// close_notify and FIN were handed to the backend.
    Done,
}

/// The kind of bytes in the backend's send in flight.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Sending {
    /// No send is in flight.
    #[default]
    Nothing,
    /// Handshake messages, tickets or alerts of TLS, or a piece of the caller's send other than the last one.
    Part,
    /// The last piece of the caller's send. Its completion is reported as `Sent`.
    Last,
}

impl Sending {
    /// Returns the state after the caller has stopped waiting for its send.
    fn without_end(self) -> Self {
        if self == Self::Last { Self::Part } else { self }
    }
}

/// The life-cycle state of a TLS connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum TlsState {
    #[default]
    Open,
    /// The connection can no longer be written to, for this reason. The failure was not reported to the caller yet.
    Failing(&'static str),
    /// The failure was reported to the caller. A TLS alert may be in flight.
    Failed,
    /// The caller closed this connection. Its last record is in flight.
    Leaving(Close),
    /// The connection has failed or was closed in the backend, too.
    Gone,
}
