//! A connection as the ring knows it.

use crate::io::Close;
use crate::io::sends::SendId;

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Connection {
    pub(super) send: Option<SendId>,
    pub(super) phase: Phase,
    /// Operations whose last completion has not come.
    pub(super) under_way: u8,
    pub(super) listening: Listening,
    /// Something arrived since `quiet` last looked.
    pub(super) heard: bool,
    /// Stands in `quiet`, this connection or the slot's last one.
    pub(super) listed: bool,
    /// Cancellations under way.
    pub(super) cancels: u8,
    /// FIN is asked for, and comes after the send under way.
    pub(super) shutdown: bool,
    /// FIN is under way.
    pub(super) shutting_down: bool,
    pub(super) paused: bool,
    /// The peer's end of stream was received.
    pub(super) ended: bool,
    /// Its turn for a buffer has come, and nothing was received since. A receive takes all buffers that it finds, so of
    /// several that are armed together one may leave nothing to the others; those keep their place in front of it.
    pub(super) served: bool,
}

/// What of the peer is noticed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Listening {
    #[default]
    Nothing,
    /// A receive is armed.
    Receive,
    /// It is being cancelled, to be parked.
    Parking,
    /// A poll is armed, after which receiving is.
    Poll,
    /// Waits in the list of that name.
    Starving,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Phase {
    #[default]
    Vacant,
    Open,
    Failed,
    /// Waits until every operation has completed.
    Closing(Close),
    /// Waits for the close itself.
    Releasing,
}

impl Connection {
    /// Whether what arrives is to be received.
    pub(super) fn is_wanted(&self) -> bool {
        self.phase == Phase::Open && !self.paused && !self.ended
    }

    /// Whether a receive is armed that should not be.
    pub(super) fn is_to_stop_receiving(&self) -> bool {
        match self.listening {
            Listening::Receive => self.paused,
            Listening::Parking => true,
            Listening::Nothing | Listening::Poll | Listening::Starving => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_connection_is_small() {
        assert_eq!(size_of::<Connection>(), 16);
    }
}
