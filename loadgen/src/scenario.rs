//! The scenarios: for each one, the traffic on the connections of a worker.

pub(crate) mod broadcast;
pub(crate) mod connect;
pub(crate) mod echo;
pub(crate) mod presence;
pub(crate) mod probe;
pub(crate) mod publish;
mod receivers;
pub(crate) mod reconnect;
pub(crate) mod requests;
mod round;
pub(crate) mod storm;

use crate::connections::{Connections, Payload, Repeated, Response};
use crate::end::End;
use crate::ledger::Ledger;
use crate::plan::{SentCount, Window};
use crate::totals::Totals;

/// Number of failed connection attempts after which a worker opens no more, if no attempt has succeeded.
pub(crate) const MAX_FAILED_STARTS: u64 = 64;

/// The traffic of one scenario on the connections of one worker.
///
/// The worker first opens connections, then calls `start`, then `on_time` and the event methods in any order. It calls
/// `stop` when [`Traffic::is_over`] returns true, and `finish` last. All times are in nanoseconds.
pub(crate) trait Traffic {
    /// Starts the traffic on the connections that are open now. `window` has the start and the end of the traffic.
    fn start(&mut self, connections: &mut Connections, window: Window, now: u64);
    /// Returns the time when [`Traffic::on_time`] must be called next, or `None` if no work is scheduled.
    fn next_due(&self) -> Option<u64>;
    /// Does the work that is due by `now`: sends messages, or opens connections.
    fn on_time(&mut self, connections: &mut Connections, now: u64);
    /// Handles a connection whose handshake succeeded, before `start` or during the traffic.
    fn on_open(&mut self, _connections: &mut Connections, _slot: usize, _now: u64) {}
    /// Compares `input`, which begins with a frame or a part of one, with messages that another connection has
    /// received. Returns the equal part. The traffic has counted that part, and the caller does not parse it.
    fn recognise(
        &mut self,
        _connections: &mut Connections,
        _slot: usize,
        _input: &[u8],
        _now: u64,
    ) -> Repeated {
        Repeated::default()
    }
    /// Handles a message that has arrived on the connection `slot`.
    fn on_message(&mut self, connections: &mut Connections, slot: usize, message: Payload<'_>, now: u64);
    /// Handles the response to a request that has published a message.
    fn on_response(
        &mut self,
        _connections: &mut Connections,
        _slot: usize,
        _response: Response<'_>,
        _now: u64,
    ) {
    }
    /// Handles a connection whose outbox is empty again, so that it has room for more messages.
    fn on_drained(&mut self, connections: &mut Connections, slot: usize, now: u64);
    /// Handles a connection that has ended or could not be opened. Returns true if the end of an open connection is a
    /// fault.
    fn on_end(&mut self, slot: usize, end: &End) -> bool;
    /// Returns whether the traffic itself opens `slot` again after a failed attempt. If so, the failure is not
    /// reported.
    fn tries_again(&self, _slot: usize) -> bool {
        false
    }
    /// Returns true once the traffic has nothing more to send by itself, so that the worker calls `stop`.
    fn is_over(&self, now: u64) -> bool;
    /// Stops sending. Returns the number of messages that each sender has sent, or an empty list if other workers do
    /// not need it.
    fn stop(&mut self) -> Vec<SentCount>;
    /// Returns whether every expected message has arrived. `sent[n]` is the number of messages that sender `n` has
    /// sent.
    fn is_complete(&self, sent: &[u32]) -> bool;
    /// Counts the messages that have not arrived, and moves the results that only this scenario has to `totals`.
    fn finish(&mut self, sent: &[u32], totals: &mut Totals);
    /// Returns the counters and times of the traffic.
    fn ledger(&mut self) -> &mut Ledger;
}
