//! The state of one socket in the ring.

use crate::io::Close;
use crate::io::sends::SendId;

/// A slot of the ring's descriptor table, and the socket in it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct UringSocket {
    /// The send in flight.
    pub(super) send: Option<SendId>,
    pub(super) state: SlotState,
    /// Number of operations whose last completion has not come.
    pub(super) in_flight: u8,
    pub(super) receive: ReceiveState,
    /// Number of cancellations in flight.
    pub(super) cancels: u8,
    /// The caller wants a FIN after the send in flight.
    pub(super) shutdown_wanted: bool,
    /// A FIN is in flight.
    pub(super) shutting_down: bool,
    /// The caller has paused receiving.
    pub(super) paused: bool,
    /// The peer's end of stream has arrived.
    pub(super) ended: bool,
    /// The socket has had its turn for a buffer and has received nothing since. A receive takes all buffers that it
    /// finds, so of several receives armed together, one may leave none to the others. Those keep their place in the
    /// queue, in front of all others.
    pub(super) had_turn: bool,
}

/// How far a slot is in its life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum SlotState {
    /// No connection has the slot.
    #[default]
    Vacant,
    Open,
    /// Reported as failed; the caller closes it.
    Failed,
    /// Closed by the caller. Waits until every operation has completed.
    Closing(Close),
    /// The close itself is in flight.
    Releasing,
}

/// Whether a socket is being received from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum ReceiveState {
    /// No receive is in flight.
    #[default]
    Idle,
    /// A multishot receive is in flight.
    Armed,
    /// The socket is in the queue for a buffer.
    Starving,
}

impl UringSocket {
    /// Whether input is to be received.
    pub(super) fn wants_input(&self) -> bool {
        self.state == SlotState::Open && !self.paused && !self.ended
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_connection_is_small() {
        assert_eq!(size_of::<UringSocket>(), 16);
    }
}
