//! What the connections of a worker say to each other once they are open.

pub(crate) mod broadcast;
pub(crate) mod connect;
pub(crate) mod echo;
pub(crate) mod reconnect;
mod round;
pub(crate) mod storm;

use crate::connections::{Connections, Payload, Repeated};
use crate::end::End;
use crate::ledger::Ledger;
use crate::plan::Window;
use crate::totals::Totals;

/// If so many attempts to connect fail before one succeeds, no more are made.
pub(crate) const MAX_FAILED_STARTS: u64 = 64;

/// The messages of one scenario, on the connections of one worker.
///
/// `start` first; then events in any order; `stop` when [`Traffic::is_over`]; `finish` last. All times are in
/// nanoseconds.
pub(crate) trait Traffic {
    /// The connections that are open now are those that take part.
    fn start(&mut self, connections: &mut Connections, window: Window, now: u64);
    /// When it wants to be called next.
    fn next_due(&self) -> Option<u64>;
    /// Sends what is due.
    fn on_time(&mut self, connections: &mut Connections, now: u64);
    /// A connection is open, whether before the start or opened by the traffic.
    fn on_open(&mut self, _connections: &mut Connections, _slot: usize, _now: u64) {}
    /// Bytes came that begin with a frame, or a part of one. What of them the traffic knows already, because another
    /// connection was told the same, is not looked at further.
    fn recognise(
        &mut self,
        _connections: &mut Connections,
        _slot: usize,
        _input: &[u8],
        _now: u64,
    ) -> Repeated {
        Repeated::default()
    }
    /// A message came.
    fn on_message(&mut self, connections: &mut Connections, slot: usize, message: Payload<'_>, now: u64);
    /// A connection takes bytes again.
    fn on_drained(&mut self, connections: &mut Connections, slot: usize, now: u64);
    /// A connection is gone, or could not be opened. Says whether an open one should not have ended so.
    fn on_end(&mut self, slot: usize, end: &End) -> bool;
    /// Whether it opens the slot again that could not be opened.
    fn tries_again(&self, _slot: usize) -> bool {
        false
    }
    /// Whether it will send nothing more by itself.
    fn is_over(&self, now: u64) -> bool;
    /// Sends nothing more; says which of its senders have sent how many messages.
    fn stop(&mut self) -> Vec<(u32, u32)>;
    /// Whether everything that can still come has come, given what each sender has sent.
    fn is_complete(&self, sent: &[u32]) -> bool;
    /// Counts what was lost and gives everything away.
    fn finish(&mut self, sent: &[u32], totals: &mut Totals);
    /// The counts so far.
    fn ledger(&mut self) -> &mut Ledger;
}
