//! The state that a shard keeps of a connection.

use std::net::IpAddr;

use crate::protocol::Protocol;
use crate::stats::State;

use super::admission::Place;
use super::flow::ClientFlow;

/// Unit, in bytes, in which a connection counts the memory of its compression windows. The memory of two windows of 32
/// KiB, counted in this unit, fits in a `u8`.
const CONTEXT_UNIT: usize = 512;

/// The phase of a connection, from accept to close.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Free slot, without a connection.
    Free,
    /// Handshake phase: the client's HTTP request is not complete.
    Handshake,
    /// Answering phase: an HTTP request waits for a deferred answer. Later input waits, too.
    Answering,
    /// Idle phase: an HTTP request was answered, and nothing of the next one has arrived.
    Idle,
    /// The WebSocket is open: messages flow in both directions.
    Open,
    /// The server's close frame is sent or queued; the client's close frame is awaited.
    Closing,
    /// The server's last bytes are being sent; its FIN follows.
    Ending,
    /// The server's FIN is sent; the client's FIN is awaited.
    Lingering,
    /// The backend was told to close the socket. Only its `Closed` event can follow.
    Gone,
}

impl Phase {
    /// Returns whether the client's next input belongs to an HTTP request.
    pub(super) fn awaits_request(self) -> bool {
        matches!(self, Self::Handshake | Self::Idle)
    }

    /// Returns whether the server handles the client's input: requests, or messages of an open WebSocket.
    pub(super) fn is_talking(self) -> bool {
        self == Self::Open || self.awaits_request()
    }

    /// Returns whether the rates of clients apply.
    pub(super) fn has_rate(self) -> bool {
        self.is_talking() || self == Self::Answering
    }

    /// Returns the metrics label of the phase, or `None` for a slot without a connection.
    pub(super) fn state(self) -> Option<State> {
        match self {
            Self::Free => None,
            Self::Handshake => Some(State::Handshake),
            Self::Answering => Some(State::Answering),
            Self::Idle => Some(State::Idle),
            Self::Open => Some(State::Open),
            Self::Closing => Some(State::Closing),
            Self::Ending => Some(State::Ending),
            Self::Lingering => Some(State::Lingering),
            Self::Gone => Some(State::Gone),
        }
    }
}

/// The rule for checking the Host header of a connection's request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HostRule {
    /// The Host header is not checked: a trusted proxy or a Unix socket passes the request on.
    Proxied,
    /// The listener has a loopback or private address. Requests are checked with configured host names. Without them,
    /// ordinary requests are checked with the hosts of the configured origins, and so are handshakes of web pages
    /// unless origins are configured.
    Local,
    /// The listener has a public address, or all addresses. Host headers are checked only if host names are configured.
    Public,
}

/// The state of the liveness check of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Liveness {
    /// The client has sent something since the last ping, or no ping was sent.
    Heard,
    /// A ping was sent, and the client has sent nothing since.
    Pinged,
    /// The client sends nothing more: the server has received its FIN or its close frame.
    Ended,
}

/// The shard's state of one connection. Kept small, because a server may have many idle connections.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) protocol: Protocol,
    pub(crate) phase: Phase,
    /// Whether the client has sent something since the last ping, or has ended its stream.
    pub(crate) liveness: Liveness,
    /// Memory reserved for the connection's compression windows, in units of [`CONTEXT_UNIT`].
    context_units: u8,
    /// The rule for checking the Host header of the connection's request.
    pub(crate) host_rule: HostRule,
    /// Address of the client; `None` if unknown. Behind a trusted proxy, the proxy's address until the proxy names its
    /// client.
    pub(crate) peer: Option<IpAddr>,
    /// The connection limits that this connection counts against.
    pub(crate) place: Place,
    /// Time at which the connection is checked, in milliseconds of the shard's clock. `Shard::timed_out` says what is
    /// checked in each phase.
    pub(crate) deadline_ms: u64,
    /// Time at which the connection's timer fires, in milliseconds of the shard's clock; 0 when no timer is set.
    pub(crate) timer_ms: u64,
    /// Time of the client's last sign of life, in milliseconds of the shard's clock: the client sent something, or read
    /// answers that it had left unread.
    pub(crate) heard_ms: u64,
    /// Flow control state: the reasons for which the client's input is not handled now.
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

    /// Stores the memory reserved for the connection's compression windows, in bytes.
    pub(crate) fn set_context_memory(&mut self, bytes: usize) {
        self.context_units = bytes.div_ceil(CONTEXT_UNIT) as u8;
    }

    /// Returns the memory reserved for the connection's compression windows, in bytes.
    pub(crate) fn context_memory(&self) -> usize {
        usize::from(self.context_units) * CONTEXT_UNIT
    }

    /// Notes a sign of life of the client. Returns whether a ping was unanswered until now.
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
