//! The state of one slot in the io_uring's table of descriptors.

use crate::io::Close;
use crate::io::sends::SendId;

/// The state of one slot in the io_uring's table of descriptors, and of the connection in the slot.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct UringSocket {
    /// The connection's send in flight.
    pub(super) send: Option<SendId>,
    pub(super) state: SlotState,
    /// Number of operations whose last completion has not arrived.
    pub(super) in_flight: u8,
    pub(super) receive: ReceiveState,
    /// Number of cancellations in flight.
    pub(super) cancels: u8,
    /// Whether a FIN must follow the send in flight, as the caller requested.
    pub(super) shutdown_wanted: bool,
    /// Whether a FIN is in flight.
    pub(super) shutting_down: bool,
    /// Whether the caller has paused receiving.
    pub(super) paused: bool,
    /// Whether the peer's end of stream has arrived.
    pub(super) ended: bool,
    /// Whether the socket has had its turn for a buffer and has received nothing since. A receive uses all buffers that
    /// it finds, so one receive may leave no buffer to others armed with it. A socket that got no buffer returns to the
    /// front of the queue.
    pub(super) had_turn: bool,
}

/// The life-cycle state of a slot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum SlotState {
    /// No connection has the slot.
    #[default]
    Vacant,
    Open,
    /// The connection was reported as failed. The caller must close it.
    Failed,
    /// The caller closed this connection. The descriptor is closed when every operation has completed.
    Closing(Close),
    /// The operation that closes the descriptor is in flight.
    Releasing,
}

/// The state of receiving from a socket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum ReceiveState {
    /// No receive is in flight.
    #[default]
    Idle,
    /// A multishot receive is in flight.
    Armed,
    /// No receive is in flight: the socket waits in the queue for a free buffer.
    Starving,
}

impl UringSocket {
    /// Returns whether the backend should receive from the socket.
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
