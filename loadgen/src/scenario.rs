//! The traffic of a worker's connections in each scenario.

pub(crate) mod broadcast;
pub(crate) mod connect;
pub(crate) mod echo;
pub(crate) mod reconnect;
mod round;
pub(crate) mod storm;

use crate::connections::{Connections, Payload, Repeated};
use crate::end::End;
use crate::ledger::Ledger;
use crate::plan::{SentCount, Window};
use crate::totals::Totals;

/// The number of failed attempts after which no further connection is tried, if none has succeeded.
pub(crate) const MAX_FAILED_STARTS: u64 = 64;

/// The traffic of one scenario on the connections of one worker.
///
/// Call `start` first, then the event methods in any order, `stop` when [`Traffic::is_over`], and `finish` last. All
/// times are in nanoseconds.
pub(crate) trait Traffic {
    /// Starts the traffic. The connections that are open now take part.
    fn start(&mut self, connections: &mut Connections, window: Window, now: u64);
    /// Returns the time of the next call of [`Traffic::on_time`].
    fn next_due(&self) -> Option<u64>;
    /// Sends the messages that are due.
    fn on_time(&mut self, connections: &mut Connections, now: u64);
    /// A connection has opened, before the start or by the traffic.
    fn on_open(&mut self, _connections: &mut Connections, _slot: usize, _now: u64) {}
    /// Input begins with a frame, or a part of one. Returns how much of it the traffic recognises, because another
    /// connection has received the same bytes. That part is not parsed.
    fn recognise(
        &mut self,
        _connections: &mut Connections,
        _slot: usize,
        _input: &[u8],
        _now: u64,
    ) -> Repeated {
        Repeated::default()
    }
    /// A message has arrived.
    fn on_message(&mut self, connections: &mut Connections, slot: usize, message: Payload<'_>, now: u64);
    /// The outbox of a connection is empty again.
    fn on_drained(&mut self, connections: &mut Connections, slot: usize, now: u64);
    /// A connection has ended or could not be opened. Returns whether the end of an open connection is a fault.
    fn on_end(&mut self, slot: usize, end: &End) -> bool;
    /// Returns whether the traffic opens the slot again after a failed attempt.
    fn tries_again(&self, _slot: usize) -> bool {
        false
    }
    /// Returns whether the traffic sends nothing more by itself.
    fn is_over(&self, now: u64) -> bool;
    /// Stops sending. Returns how many messages each sender has sent.
    fn stop(&mut self) -> Vec<SentCount>;
    /// Returns whether every expected message has arrived. `sent` has the number of messages of each sender.
    fn is_complete(&self, sent: &[u32]) -> bool;
    /// Counts the missing messages and moves all results to `totals`.
    fn finish(&mut self, sent: &[u32], totals: &mut Totals);
    /// Returns the counters.
    fn ledger(&mut self) -> &mut Ledger;
}
