//! A connection as its shard knows it.

use std::net::IpAddr;

use super::admission::Place;
use super::pace::Spent;
use crate::protocol::Protocol;
use crate::stats::State;

/// In what the memory of a connection's windows is counted: two windows of at most 32 KiB fit in a byte.
const CONTEXT_UNIT: usize = 512;
/// Receive buffers of one client that are handled in a turn, so that those of others do not wait for too many.
const SHARE: u8 = 2;
const SHARE_BITS: u32 = 3;

/// Where a connection is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// No connection has this slot.
    Free,
    /// The request is awaited.
    Handshake,
    /// Messages are exchanged.
    Open,
    /// Our close frame is on its way, the client's is awaited.
    Closing,
    /// The last bytes are on their way; after them our direction ends.
    Ending,
    /// Our direction has ended, the client's end is awaited.
    Lingering,
    /// The backend was told to close; only `Closed` can come.
    Gone,
}

impl Phase {
    /// What monitoring calls it; nothing when there is no connection.
    pub(super) fn state(self) -> Option<State> {
        match self {
            Self::Free => None,
            Self::Handshake => Some(State::Handshake),
            Self::Open => Some(State::Open),
            Self::Closing => Some(State::Closing),
            Self::Ending => Some(State::Ending),
            Self::Lingering => Some(State::Lingering),
            Self::Gone => Some(State::Gone),
        }
    }
}

/// Why a connection is not being received from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pause {
    /// The client does not read the answers that it is owed.
    Unread = 1,
    /// What it publishes cannot be passed on yet.
    Published = 2,
    /// It sends faster than it may.
    Pace = 4,
    /// It has had its share of this turn.
    Share = 8,
}

#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) protocol: Protocol,
    pub(crate) phase: Phase,
    /// Which [`Pause`]s hold, as bits.
    pauses: u8,
    /// Whether the client sends nothing more: its direction of the stream has ended, or its close frame has come.
    pub(crate) ended: bool,
    /// Buffers that were handled in the last turn that there were some; above its [`SHARE_BITS`] that turn, as far as
    /// it fits.
    share: u8,
    /// Whether a ping is out and nothing was heard since.
    pub(crate) pinged: bool,
    /// What its windows may come to, in units of [`CONTEXT_UNIT`].
    context_units: u8,
    /// Where it is from, if that is known: behind a trusted proxy its client, once that is named.
    pub(crate) peer: Option<IpAddr>,
    /// How it is counted.
    pub(crate) place: Place,
    /// When something must have happened.
    pub(crate) deadline_ms: u64,
    /// When this connection's timer fires, 0 when none is set.
    pub(crate) timer_ms: u64,
    /// When something was last received, or taken by the client after it had stopped reading.
    pub(crate) heard_ms: u64,
    /// What it has used of its rates.
    pub(crate) spent: Spent,
}

impl Connection {
    pub(crate) fn free() -> Self {
        Self { phase: Phase::Free, ..Self::new(None, Place::Uncounted, 0) }
    }

    pub(crate) fn new(peer: Option<IpAddr>, place: Place, now_ms: u64) -> Self {
        Self {
            protocol: Protocol::new(),
            phase: Phase::Handshake,
            pauses: 0,
            ended: false,
            share: 0,
            pinged: false,
            context_units: 0,
            peer,
            place,
            deadline_ms: u64::MAX,
            timer_ms: 0,
            heard_ms: now_ms,
            spent: Spent::default(),
        }
    }

    /// Notes that its windows may come to so many bytes.
    pub(crate) fn set_context_memory(&mut self, bytes: usize) {
        self.context_units = bytes.div_ceil(CONTEXT_UNIT) as u8;
    }

    /// Bytes that its windows may come to.
    pub(crate) fn context_memory(&self) -> usize {
        usize::from(self.context_units) * CONTEXT_UNIT
    }

    /// Notes that something was heard of the client. True when it is what a ping asked for.
    pub(crate) fn heard(&mut self, now_ms: u64) -> bool {
        self.heard_ms = now_ms;
        std::mem::take(&mut self.pinged)
    }

    /// Adds a reason to pause; true when it is the first.
    pub(crate) fn pause(&mut self, reason: Pause) -> bool {
        let first = self.pauses == 0;
        self.pauses |= reason as u8;
        first
    }

    /// Takes a reason away; true when none is left but one was there.
    pub(crate) fn resume(&mut self, reason: Pause) -> bool {
        let before = self.pauses;
        self.pauses &= !(reason as u8);
        before != 0 && self.pauses == 0
    }

    /// Whether there is any reason to pause; then what still arrives is to be held, not handled.
    pub(crate) fn is_held(&self) -> bool {
        self.pauses != 0
    }

    /// Whether another buffer of this client may be handled in this turn; if so, it counts.
    pub(crate) fn take_share(&mut self, turn: u8) -> bool {
        if self.share >> SHARE_BITS != turn & (u8::MAX >> SHARE_BITS) {
            self.share = turn << SHARE_BITS;
        }
        let has_share = self.share & ((1 << SHARE_BITS) - 1) < SHARE;
        self.share += u8::from(has_share);
        has_share
    }

    pub(crate) fn is_paused(&self, reason: Pause) -> bool {
        self.pauses & reason as u8 != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn receiving_goes_on_when_the_last_reason_is_gone() {
        let mut connection = Connection::free();
        assert!(connection.pause(Pause::Unread));
        assert!(!connection.pause(Pause::Published));
        assert!(!connection.resume(Pause::Unread));
        assert!(connection.resume(Pause::Published));
        assert!(!connection.resume(Pause::Published));
    }

    #[test]
    fn each_turn_has_a_share() {
        let mut connection = Connection::free();
        for turn in [7, 8, 7] {
            assert_eq!((0..300).filter(|_| connection.take_share(turn)).count(), 2);
        }
    }

    #[test]
    fn a_connection_is_small() {
        assert!(size_of::<Connection>() <= 80, "{} bytes", size_of::<Connection>());
    }
}
