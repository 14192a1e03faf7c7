//! A connection with TLS, as the wrapper keeps it: the session, and what is on its way.

use std::io;

use rustls::unbuffered::EncryptError;
use tracing::debug;

use super::Identity;
use super::backlog::Backlog;
use super::session::Session;
use crate::chunk::Span;
use crate::io::{Backend, Close, Event, Slot};

/// Bytes that are encrypted at a time.
pub(super) const PIECE_LEN: usize = 64 << 10;
/// Ciphertext of a client that is taken in in one turn; see [`Session::share_len`].
pub(super) const SHARE_LEN: usize = 64 << 10;
/// What a client may send after what it said was over, as much as the shard takes of one that is being closed.
const MAX_DISCARDED: usize = 16 << 20;
/// Why a connection fails that something is to be sent to.
pub(super) const NO_HANDSHAKE: &str = "the client ended or broke off the TLS handshake";

/// A connection with TLS.
#[derive(Default)]
pub(super) struct Secured {
    /// Made when the first bytes come.
    pub(super) session: Option<Session>,
    /// What arrived and waits for a turn.
    pub(super) backlog: Backlog,
    /// The client's end came behind that.
    pub(super) end_waits: bool,
    /// The caller wants nothing to be received.
    paused: bool,
    /// Nothing is received since too much waits.
    held: bool,
    /// The last turn in which something was taken in.
    turn: u8,
    /// What is left of its share of that turn.
    share: usize,
    /// What is left of what the caller sends.
    pub(super) plain: Option<Span>,
    pub(super) sending: Sending,
    pub(super) phase: Phase,
    /// The handshake was counted.
    pub(super) counted: bool,
    /// Our direction is to end, or has ended.
    pub(super) shutdown: Shutdown,
    /// The end of the client's direction was reported.
    pub(super) ended: bool,
    /// Bytes that came when nothing counted any more.
    discarded: usize,
    /// The peer broke a rule: nothing of it counts any more, and nothing but the alert is sent.
    pub(super) broken: bool,
}

impl Secured {
    pub(super) fn is_ready(&self) -> bool {
        self.session.as_ref().is_some_and(Session::is_ready)
    }

    pub(super) fn is_resumed(&self) -> bool {
        self.session.as_ref().is_some_and(Session::is_resumed)
    }

    pub(super) fn peer_closed(&self) -> bool {
        self.session.as_ref().is_some_and(Session::peer_closed)
    }

    /// What TLS itself has to say now.
    pub(super) fn take_outgoing(&mut self) -> Vec<u8> {
        self.session.as_mut().map(Session::take_outgoing).unwrap_or_default()
    }

    /// Whether what arrives counts.
    pub(super) fn listens(&self) -> bool {
        self.phase == Phase::Open && !self.broken && !self.ended
    }

    /// The peer broke a rule. What the caller is told.
    pub(super) fn broke(&mut self, slot: Slot, error: rustls::Error) -> Event {
        debug!(slot, %error, "TLS failed");
        self.broken = true;
        if !self.counted && self.plain.take().is_none() {
            return Event::Insecure { slot, is_http: false };
        }
        self.fail(slot, io::Error::other(error))
    }

    /// Something arrived that does not count any more. What the caller is told when that is too much.
    pub(super) fn discard(&mut self, slot: Slot, len: usize) -> Option<Event> {
        self.discarded = self.discarded.saturating_add(len);
        if self.phase != Phase::Open || self.discarded <= MAX_DISCARDED {
            return None;
        }
        Some(self.fail(slot, io::Error::other("the client goes on after the end of its TLS")))
    }

    /// What the caller is told when the connection is of no more use.
    fn fail(&mut self, slot: Slot, error: io::Error) -> Event {
        self.phase = Phase::Failed;
        self.plain = None;
        self.sending = self.sending.without_end();
        Event::Failed { slot, error }
    }

    /// The client's direction has ended. What the caller is told, if it has not been told already.
    ///
    /// The client need not have said that it is the end, since browsers do not. What is kept of a record is never looked
    /// at.
    pub(super) fn end(&mut self, slot: Slot) -> Option<Event> {
        if self.phase != Phase::Open || std::mem::replace(&mut self.ended, true) {
            return None;
        }
        if self.ends_early() && self.plain.take().is_some() {
            return Some(self.fail(slot, io::Error::other(NO_HANDSHAKE)));
        }
        Some(Event::Ended { slot })
    }

    /// Whether there will be no handshake any more, so that what is sent can never be read.
    pub(super) fn ends_early(&self) -> bool {
        self.ended && !self.is_ready()
    }

    /// Whether nothing is on its way, and something can follow, be it an alert.
    pub(super) fn may_send(&self) -> bool {
        let is_there = matches!(self.phase, Phase::Open | Phase::Failed);
        is_there && self.sending == Sending::Nothing && self.shutdown != Shutdown::Done
    }

    /// Whether nothing is on its way, and something may be sent.
    pub(super) fn is_silent(&self) -> bool {
        self.sending == Sending::Nothing && self.shutdown != Shutdown::Done && !self.broken
    }

    /// Takes in as much of what arrived as is left of its share of this turn. Returns how much.
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

    pub(super) fn pause(&mut self, inner: &mut impl Backend, slot: Slot) {
        if !std::mem::replace(&mut self.paused, true) && !self.held {
            inner.pause(slot);
        }
    }

    pub(super) fn resume(&mut self, inner: &mut impl Backend, slot: Slot) {
        self.paused = false;
        if !self.held {
            inner.resume(slot);
        }
    }

    /// Receives nothing more until what waits is taken in.
    pub(super) fn hold(&mut self, inner: &mut impl Backend, slot: Slot) {
        if !std::mem::replace(&mut self.held, true) && !self.paused {
            inner.pause(slot);
        }
    }

    /// Receives again after [`Self::hold`].
    pub(super) fn release(&mut self, inner: &mut impl Backend, slot: Slot) {
        if std::mem::take(&mut self.held) && !self.paused && self.phase == Phase::Open {
            inner.resume(slot);
        }
    }

    /// Appends the next piece of what the caller sends, if there is one and it can be sent. Says whether it is the last.
    pub(super) fn encrypt(&mut self, out: &mut Vec<u8>) -> Result<bool, EncryptError> {
        let Some(session) = self.session.as_mut().filter(|session| session.is_ready() && !self.broken) else {
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

    /// Appends that we send no more, when that can be said.
    pub(super) fn say_goodbye(&mut self, out: &mut Vec<u8>) {
        if let Some(session) = self.session.as_mut().filter(|session| session.is_ready() && !self.broken) {
            // The end of the stream says it, too.
            let _ = session.close_notify(out);
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Shutdown {
    #[default]
    No,
    Wanted,
    Done,
}

/// What the inner send under way carries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Sending {
    #[default]
    Nothing,
    /// Something of TLS itself, or of what the caller sends, but not its end.
    Part,
    /// The end of what the caller sends.
    Last,
}

impl Sending {
    /// The same, when nobody waits for the end.
    fn without_end(self) -> Self {
        if self == Self::Last { Self::Part } else { self }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Phase {
    #[default]
    Open,
    /// It cannot be written to any more for this reason, which is not reported yet.
    Failing(&'static str),
    /// Reported as failed; the alert may be on its way.
    Failed,
    /// Closed by the caller; the last record is on its way.
    Leaving(Close),
    /// Failed or closed in the inner backend, too.
    Gone,
}
