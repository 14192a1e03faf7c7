//! The end of the server: a shard serves on for the drain delay, stops accepting, closes its clients over the drain
//! time, and ends when all connections are gone or the time for closing is over.

use std::sync::atomic::Ordering;

use tracing::info;

use crate::hub::Slot;
use crate::io::Backend;
use crate::protocol::{CloseCode, Refusal, Status};
use crate::stats::Refused;
use crate::transport::Transport;

use super::connection::Phase;
use super::{Settings, Shard};

/// Interval in milliseconds between two drain steps, each of which closes a batch of clients.
const DRAIN_STEP_MS: u64 = 50;
/// Maximum time in milliseconds for which earlier input is handled before the drain begins. Reached only if clients
/// never stop sending.
const INPUT_FIRST_MS: u64 = 500;

/// The state of a shard during the server's shutdown.
#[derive(Debug)]
pub(super) struct Drain {
    /// Time of the next drain step, which closes a batch of clients, in milliseconds of the shard's clock.
    step_ms: u64,
    /// Progress of closing clients. `None` during the drain delay, in which the shard serves as usual.
    leaving: Option<Leaving>,
}

/// Progress of closing the clients of a shard during the server's shutdown.
#[derive(Debug)]
struct Leaving {
    /// Number of connections at the beginning of the drain.
    clients: usize,
    /// Number of clients that were told so far that the server ends.
    told: usize,
    /// First slot that was not visited yet. Clients in lower slots were told that the server ends, except those in
    /// their handshake.
    next: usize,
    begin_ms: u64,
    /// Time at which all remaining clients are told that the server ends, in milliseconds of the shard's clock.
    last_ms: u64,
    /// Time at which the shard ends, even with open connections, in milliseconds of the shard's clock. `None` until all
    /// clients were told that the server ends.
    end_ms: Option<u64>,
}

impl<B: Backend> Shard<B> {
    /// Begins the drain when the server was told to end, and closes the next batch of clients when the batch is due.
    ///
    /// Clients in their handshake may finish the handshake, since a successor of this server does not know them. They
    /// are closed right after the handshake. Once the drain time is over, they are refused. Requests that wait for a
    /// deferred answer may wait for as long.
    pub(super) fn drain_step(&mut self) {
        if self.drain.is_none() && self.shared.stopping.load(Ordering::SeqCst) {
            let step_ms = self.now_ms + self.settings.drain_delay_ms;
            self.drain = Some(Drain { step_ms, leaving: None });
            // Input that arrived before the shutdown is handled before any client is told that the server ends.
            return self.clock.look_for_input(INPUT_FIRST_MS, self.live);
        }
        let Some(drain) = self.drain.as_mut().filter(|drain| drain.step_ms <= self.now_ms) else { return };
        let leaving = drain.leaving.get_or_insert_with(|| {
            begin_leaving(&mut self.transport, &self.settings, self.live, self.now_ms)
        });
        drain.step_ms = self.now_ms + DRAIN_STEP_MS;
        if leaving.end_ms.is_some() {
            return;
        }
        if leaving.last_ms <= self.now_ms {
            leaving.end_ms = Some(self.now_ms + self.settings.close_ms + DRAIN_STEP_MS);
            self.leave_clients(0, usize::MAX, |phase| !matches!(phase, Phase::Free | Phase::Gone));
            return;
        }
        drain.step_ms = drain.step_ms.min(leaving.last_ms);
        let due = leaving.due(self.now_ms);
        let (first, count) = (leaving.next, due - leaving.told);
        leaving.told = due;
        let is_told =
            |phase| !matches!(phase, Phase::Free | Phase::Gone | Phase::Handshake | Phase::Answering);
        let next = self.leave_clients(first, count, is_told);
        if let Some(leaving) = self.drain.as_mut().and_then(|drain| drain.leaving.as_mut()) {
            leaving.next = next;
        }
    }

    /// Tells up to `count` clients, from slot `first` on, that the server ends. Skips clients whose phase `is_told`
    /// rejects. Returns the first slot that was not visited.
    fn leave_clients(&mut self, first: usize, mut count: usize, is_told: impl Fn(Phase) -> bool) -> usize {
        let mut slot = first;
        while count > 0 && slot < self.connections.len() {
            if is_told(self.connections[slot].phase) {
                count -= 1;
                self.leave_client(slot as Slot);
            }
            slot += 1;
        }
        slot
    }

    /// Tells a client that the server ends: with 503 during the handshake, with the end of the stream between two HTTP
    /// requests, and with close code 1001 on a WebSocket.
    pub(super) fn leave_client(&mut self, slot: Slot) {
        match self.connections[slot as usize].phase {
            Phase::Handshake => {
                let reason = "This server is shutting down; connect again.";
                self.refuse(slot, Refused::Draining, &Refusal::new(Status::ServiceUnavailable, reason));
            }
            Phase::Answering => {
                let reason = "This server is shutting down; try again.";
                let refusal = Refusal::new(Status::ServiceUnavailable, reason);
                self.conclude_later(slot, |shard| shard.refuse(slot, Refused::Draining, &refusal));
            }
            Phase::Idle => self.end(slot, true, &[]),
            _ => self.begin_closing(slot, true, CloseCode::GOING_AWAY, "the server is shutting down"),
        }
    }

    /// Returns whether clients are being closed because the server ends.
    pub(super) fn is_leaving(&self) -> bool {
        self.leaving().is_some()
    }

    /// Returns whether the drain time is over, so that new connections are refused without waiting for their request.
    pub(super) fn is_leaving_at_once(&self) -> bool {
        self.leaving().is_some_and(|leaving| leaving.end_ms.is_some())
    }

    fn leaving(&self) -> Option<&Leaving> {
        self.drain.as_ref()?.leaving.as_ref()
    }

    /// Returns the time of the next [`Shard::drain_step`], in milliseconds of the shard's clock. `None` before the
    /// shutdown.
    pub(super) fn next_drain_ms(&self) -> Option<u64> {
        self.drain.as_ref().map(|drain| drain.step_ms)
    }

    /// Returns whether the shard may end. The shard waits for the last connection of all shards, since it may be the
    /// home of rooms that clients of other shards use.
    pub(super) fn is_over(&self) -> bool {
        let is_empty = || self.transport.has_stopped() && self.shared.admission.count() == 0;
        let is_late = |end_ms| end_ms <= self.now_ms && self.clock.may_judge();
        self.leaving().is_some_and(|leaving| leaving.end_ms.is_some_and(is_late) || is_empty())
    }
}

impl Leaving {
    /// Returns the number of clients that must have been told before the next step that the server ends. The number
    /// follows from the elapsed time, so a late step catches up.
    fn due(&self, now_ms: u64) -> usize {
        let passed_ms = now_ms - self.begin_ms + DRAIN_STEP_MS;
        let due = (self.clients as u64 * passed_ms).div_ceil((self.last_ms - self.begin_ms).max(1));
        (due as usize).clamp(self.told, self.clients)
    }
}

/// Stops accepting connections, and plans the time over which the clients are closed.
fn begin_leaving<B: Backend>(
    transport: &mut Transport<B>,
    settings: &Settings,
    connections: usize,
    now_ms: u64,
) -> Leaving {
    transport.stop_accepting();
    let drain_ms = settings.drain_ms;
    let a_second = connections as u64 * 1000 / drain_ms.max(DRAIN_STEP_MS);
    info!(connections, a_second, "closing all connections");
    Leaving {
        clients: connections,
        told: 0,
        next: 0,
        begin_ms: now_ms,
        last_ms: now_ms + drain_ms,
        end_ms: None,
    }
}
