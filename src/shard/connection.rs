//! The state that a shard keeps of a connection.

use std::net::IpAddr;

use crate::protocol::Protocol;
use crate::stats::State;

use super::admission::Place;
use super::flow::ClientFlow;

/// Unit, in bytes, in which the memory of a connection's compression windows is counted. Two windows of 32 KiB fit in
/// a byte.
const CONTEXT_UNIT: usize = 512;

/// The phase of a connection's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// The slot has no connection.
    Free,
    /// The request is not complete.
    Handshake,
    /// The WebSocket is open.
    Open,
    /// Our close frame is on its way; the client's is expected.
    Closing,
    /// The last bytes are on their way; our FIN follows.
    Ending,
    /// Our FIN was sent; the client's is expected.
    Lingering,
    /// The backend was told to close the socket; only `Closed` can follow.
    Gone,
}

impl Phase {
    /// Returns the label of the phase in metrics. `None` when there is no connection.
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

/// The check of the Host header of a connection's requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HostRule {
    /// No check: a trusted proxy or a Unix socket passes the requests on.
    Proxied,
    /// The listener has a loopback or private address: foreign names are refused to web pages, too.
    Local,
    /// The listener has a public address, or all addresses.
    Public,
}

/// The last sign of life of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Liveness {
    /// Something was received since the last ping, or no ping was sent.
    Heard,
    /// A ping was sent, and nothing was received since.
    Pinged,
    /// The client sends nothing more: its FIN or its close frame was received.
    Ended,
}

/// A connection. Idle ones are many, so this is kept small.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) protocol: Protocol,
    pub(crate) phase: Phase,
    /// Whether the client is expected to send anything.
    pub(crate) liveness: Liveness,
    /// Memory reserved for its compression windows, in units of [`CONTEXT_UNIT`].
    context_units: u8,
    /// The check of the Host header of its requests.
    pub(crate) host_rule: HostRule,
    /// Address of the client, if known. Behind a trusted proxy it is the proxy's until the proxy names its client.
    pub(crate) peer: Option<IpAddr>,
    /// The connection limits that it counts against.
    pub(crate) place: Place,
    /// Time at which the connection is checked; see `Shard::timed_out` for what must have happened by then.
    pub(crate) deadline_ms: u64,
    /// Time at which its timer fires; 0 when none is set.
    pub(crate) timer_ms: u64,
    /// Time of the last sign of life: something was received, or was taken by a client that had not read its answers.
    pub(crate) heard_ms: u64,
    /// Whether its input is handled.
    pub(crate) flow: ClientFlow,
}

impl Connection {
    pub(crate) fn free() -> Self {
        Self { phase: Phase::Free, ..Self::new(None, Place::Uncounted, 0) }
    }

    pub(crate) fn new(peer: Option<IpAddr>, place: Place, now_ms: u64) -> Self {
        Self {
            protocol: Protocol::new(),
            phase: Phase::Handshake,
            liveness: Liveness::Heard,
            context_units: 0,
            host_rule: HostRule::Public,
            peer,
            place,
            deadline_ms: u64::MAX,
            timer_ms: 0,
            heard_ms: now_ms,
            flow: ClientFlow::default(),
        }
    }

    /// Notes the memory reserved for its compression windows, in bytes.
    pub(crate) fn set_context_memory(&mut self, bytes: usize) {
        self.context_units = bytes.div_ceil(CONTEXT_UNIT) as u8;
    }

    /// Memory reserved for its compression windows, in bytes.
    pub(crate) fn context_memory(&self) -> usize {
        usize::from(self.context_units) * CONTEXT_UNIT
    }

    /// Notes a sign of life. Returns whether a ping was waiting for one.
    pub(crate) fn heard(&mut self, now_ms: u64) -> bool {
        self.heard_ms = now_ms;
        let was_pinged = self.liveness == Liveness::Pinged;
        if was_pinged {
            self.liveness = Liveness::Heard;
        }
        was_pinged
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_is_small() {
        assert!(size_of::<Connection>() <= 80, "{} bytes", size_of::<Connection>());
    }
}
