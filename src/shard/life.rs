//! Connections' ends: time-outs, closing handshakes, panics, and the end of the server.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;

use tracing::{debug, error, info};

use crate::app::{App, ClientId, Context};
use crate::config::LagPolicy;
use crate::hub::{Lagged, Slot};
use crate::io::{Backend, Close};
use crate::protocol::frame::encode_header;
use crate::protocol::{CloseCode, Opcode, Refusal, Status};
use crate::stats::{Ended, Refused};
use crate::transport::Transport;

use super::admission::Place;
use super::connection::{Connection, Pause, Phase};
use super::events::close_frame;
use super::pace::Spent;
use super::{Settings, Shard};

/// How often a few more clients are closed while the server ends.
const DRAIN_STEP_MS: u64 = 50;
/// The code that stands for an end without a close frame, and one without a code. RFC 6455 §7.4.1
pub(super) const NO_FRAME: u16 = 1006;
pub(super) const NO_CODE: u16 = 1005;

/// The end of the server, as a shard goes through it.
#[derive(Debug)]
pub(super) struct Drain {
    /// When there is something to do for it again.
    step_ms: u64,
    /// Clients are being closed; before that they are served and accepted as ever.
    leaving: Option<Leaving>,
}

#[derive(Debug)]
struct Leaving {
    /// Clients that there were, and how many have been told.
    clients: usize,
    told: usize,
    /// Slots below this have been told, unless they were in their handshake.
    next: usize,
    begin_ms: u64,
    /// When those are told that still are.
    last_ms: u64,
    /// When the shard ends whatever its clients do; none before all have been told, however late that is.
    end_ms: Option<u64>,
}

impl<B: Backend> Shard<B> {
    pub(super) fn is_open(&self, slot: Slot) -> bool {
        self.connections[slot as usize].phase == Phase::Open
    }

    /// Calls a handler for a client. When it panics, that client is closed, and nobody else notices.
    pub(super) fn with_client(
        &mut self,
        slot: Slot,
        handler: impl FnOnce(&mut dyn App, &mut Context<'_>, ClientId),
    ) {
        let client = self.hub.client(slot);
        if self.with_app(|app, context| handler(app, context, client)).is_none() {
            self.begin_closing(slot, true, CloseCode::INTERNAL, "the server made a mistake");
        }
    }

    /// Calls a handler, and does what it asked for; `None` when it panics.
    pub(super) fn with_app<R>(
        &mut self,
        handler: impl FnOnce(&mut dyn App, &mut Context<'_>) -> R,
    ) -> Option<R> {
        let ids = (self.settings.shard, self.settings.shards);
        let mut context = Context::new(&mut self.hub, ids, &mut self.closing);
        let app = &mut *self.app;
        let result = catch_unwind(AssertUnwindSafe(|| handler(app, &mut context)));
        if result.is_err() {
            error!("a handler of the application panicked");
            self.stats.panics.add(1);
        }
        while let Some((slot, code, reason)) = self.closing.pop() {
            self.begin_closing(slot, true, code, &reason);
        }
        result.ok()
    }

    pub(super) fn send_control(&mut self, slot: Slot, opcode: Opcode, payload: &[u8]) {
        let header = encode_header(opcode, true, false, payload.len());
        self.hub.send_control(slot, &[header.as_bytes(), payload]);
    }

    /// Starts the closing handshake from our side.
    pub(super) fn begin_closing(&mut self, slot: Slot, owed: bool, code: CloseCode, reason: &str) {
        if !self.is_open(slot) {
            return;
        }
        // The reason may have a user's name.
        debug!(slot, code = code.0, "closing");
        let frame = close_frame(code, reason);
        self.count_end(slot, code.0);
        self.farewell(slot, owed, &frame, Phase::Closing);
    }

    /// Sends the last bytes, `owed` ones before them; then our direction of the stream ends.
    pub(super) fn end(&mut self, slot: Slot, owed: bool, last: &[u8]) {
        if matches!(self.connections[slot as usize].phase, Phase::Handshake | Phase::Open) {
            self.farewell(slot, owed, last, Phase::Ending);
            self.finish_closing(slot);
        }
    }

    fn farewell(&mut self, slot: Slot, owed: bool, last: &[u8], phase: Phase) {
        let was_open = self.is_open(slot);
        self.set_phase(slot, phase);
        self.hub.finish(slot, owed, last);
        self.set_deadline(slot, self.settings.close_ms);
        self.connections[slot as usize].spent = Spent::default();
        if self.connections[slot as usize].is_paused(Pause::Pace) {
            // Its own close frame may be among what is held.
            self.pace_timers.set(self.now_ms, slot);
        }
        if was_open {
            self.with_client(slot, |app, context, client| app.on_close(context, client));
        }
    }

    /// Nothing more is awaited of the client: our direction ends when all is sent.
    pub(super) fn finish_closing(&mut self, slot: Slot) {
        if matches!(self.connections[slot as usize].phase, Phase::Closing | Phase::Ending) {
            self.set_phase(slot, Phase::Ending);
            if self.hub.is_idle(slot) {
                self.linger(slot);
            }
        }
    }

    /// All is sent: says so to the client, and waits for it to end its direction, so that what it still sends
    /// does not turn our end into a reset that eats our last words. After its close frame it sends nothing.
    pub(super) fn linger(&mut self, slot: Slot) {
        if self.connections[slot as usize].ended {
            return self.close(slot, Close::Graceful);
        }
        self.set_phase(slot, Phase::Lingering);
        self.backend.shutdown(slot);
    }

    /// Drops a connection that is of no more use.
    pub(super) fn abandon(&mut self, slot: Slot) {
        if self.is_open(slot) {
            self.count_end(slot, NO_FRAME);
            self.set_phase(slot, Phase::Gone);
            self.hub.finish(slot, false, &[]);
            self.with_client(slot, |app, context, client| app.on_close(context, client));
        }
        self.close(slot, Close::Reset);
    }

    pub(super) fn close(&mut self, slot: Slot, how: Close) {
        self.set_phase(slot, Phase::Gone);
        self.backend.close(slot, how);
    }

    /// Moves a connection on; one that leaves the handshake makes room for another one's.
    pub(super) fn set_phase(&mut self, slot: Slot, phase: Phase) {
        let connection = &mut self.connections[slot as usize];
        let was = std::mem::replace(&mut connection.phase, phase);
        let is_served = !matches!(connection.place, Place::Over(_));
        self.count_phase(was, phase);
        if was == Phase::Handshake && phase != Phase::Handshake && is_served {
            self.shared.admission.handshake_over();
        }
    }

    /// Counts how a WebSocket ends, if it has not ended yet.
    pub(super) fn count_end(&mut self, slot: Slot, code: u16) {
        if self.is_open(slot) {
            self.journal.ended(slot, code);
            self.stats.ended[Ended::of(code) as usize].add(1);
        }
    }

    /// The slot is free again.
    pub(super) fn closed(&mut self, slot: Slot) {
        let gone = std::mem::replace(&mut self.connections[slot as usize], Connection::free());
        if gone.is_paused(Pause::Published) {
            self.paused.retain(|other| *other != slot);
        }
        self.held.remove(&slot);
        self.expiries.remove(&slot);
        self.count_phase(gone.phase, Phase::Free);
        self.hub.close(slot);
        self.stats.context_bytes_released.add(gone.context_memory() as u64);
        self.shared.admission.leave(gone.peer, gone.place);
        self.journal.closed(slot, gone.peer, self.now_ms);
        self.live -= 1;
        self.stats.closed.add(1);
    }

    pub(super) fn lagged(&mut self, lagged: &Lagged) {
        let Lagged { slot, missed } = *lagged;
        if !self.is_open(slot) {
            return;
        }
        self.stats.lagged.add(1);
        match self.settings.lag_policy {
            LagPolicy::Close => self.begin_closing(slot, false, CloseCode::TRY_AGAIN, "lagged"),
            LagPolicy::Skip => {
                self.with_client(slot, |app, context, client| app.on_lag(context, client, missed));
            }
        }
    }

    /// Has [`Shard::fire_timers`] look at the connection after `wait_ms`, or when its token expires. A timer that is set
    /// already and comes earlier does for both.
    pub(super) fn set_deadline(&mut self, slot: Slot, wait_ms: u64) {
        let connection = &mut self.connections[slot as usize];
        connection.deadline_ms = self.now_ms + wait_ms;
        if connection.phase == Phase::Open
            && let Some(expiry_ms) = self.expiries.get(&slot)
        {
            connection.deadline_ms = connection.deadline_ms.min(*expiry_ms);
        }
        if connection.timer_ms == 0 || connection.deadline_ms < connection.timer_ms {
            connection.timer_ms = connection.deadline_ms;
            self.timers.set(connection.deadline_ms, slot);
        }
    }

    pub(super) fn fire_timers(&mut self) {
        while let Some(slots) = self.timers.expired(self.now_ms) {
            for slot in slots {
                let connection = &mut self.connections[slot as usize];
                if connection.timer_ms > self.now_ms {
                    // An earlier timer of this slot did the work already and set the later one.
                    continue;
                }
                connection.timer_ms = 0;
                if connection.phase == Phase::Free || connection.phase == Phase::Gone {
                    continue;
                }
                if connection.deadline_ms <= self.now_ms {
                    self.timed_out(slot);
                } else {
                    let wait_ms = connection.deadline_ms - self.now_ms;
                    self.set_deadline(slot, wait_ms);
                }
            }
        }
    }

    fn timed_out(&mut self, slot: Slot) {
        match self.connections[slot as usize].phase {
            Phase::Handshake => {
                let reason = "The request did not come in time; send it right after connecting.";
                self.refuse(slot, Refused::TimedOut, &Refusal::new(Status::RequestTimeout, reason));
            }
            Phase::Open if self.expiries.get(&slot).is_some_and(|expiry_ms| *expiry_ms <= self.now_ms) => {
                self.begin_closing(slot, true, CloseCode::POLICY, "token expired");
            }
            Phase::Open => self.check_life(slot),
            Phase::Closing | Phase::Ending | Phase::Lingering => {
                debug!(slot, "the client did not close in time");
                self.close(slot, Close::Reset);
            }
            Phase::Free | Phase::Gone => {}
        }
    }

    /// Something was heard of the client, so it lives.
    pub(super) fn heard(&mut self, slot: Slot) {
        let answered = self.connections[slot as usize].heard(self.now_ms);
        if answered && self.is_open(slot) {
            self.set_deadline(slot, self.settings.ping_ms);
        }
    }

    /// Pings a client that has been silent, and closes one that did not answer.
    fn check_life(&mut self, slot: Slot) {
        let connection = &mut self.connections[slot as usize];
        let silent_ms = self.now_ms - connection.heard_ms;
        if connection.is_paused(Pause::Published) {
            // It may have answered; we have not looked.
            self.set_deadline(slot, self.settings.pong_ms);
        } else if connection.is_paused(Pause::Pace) {
            // It may be gone, which its silence would not tell for as long as there is something to receive. Then
            // this cannot be delivered.
            self.send_control(slot, Opcode::Ping, b"");
            self.set_deadline(slot, self.settings.ping_ms);
        } else if connection.pinged {
            self.begin_closing(slot, false, CloseCode::POLICY, "no answer to a ping");
        } else if silent_ms < self.settings.ping_ms {
            self.set_deadline(slot, self.settings.ping_ms - silent_ms);
        } else {
            connection.pinged = true;
            self.send_control(slot, Opcode::Ping, b"");
            self.set_deadline(slot, self.settings.pong_ms);
        }
    }

    /// Tells a client that the server ends.
    pub(super) fn leave_client(&mut self, slot: Slot) {
        match self.connections[slot as usize].phase {
            Phase::Handshake => {
                let reason = "This server is shutting down; connect again.";
                self.refuse(slot, Refused::Draining, &Refusal::new(Status::ServiceUnavailable, reason));
            }
            _ => self.begin_closing(slot, true, CloseCode::GOING_AWAY, "the server is shutting down"),
        }
    }

    /// While the server ends: waits for the delay, then closes a few more clients each time. Those in their handshake may
    /// finish it, since the server that follows does not know of them; they are closed right after it.
    pub(super) fn drain_step(&mut self) {
        if self.drain.is_none() && self.shared.stopping.load(Ordering::SeqCst) {
            let step_ms = self.now_ms + self.settings.drain_delay_ms;
            self.drain = Some(Drain { step_ms, leaving: None });
        }
        let Some(drain) = self.drain.as_mut().filter(|drain| drain.step_ms <= self.now_ms) else { return };
        let leaving = drain
            .leaving
            .get_or_insert_with(|| begin_leaving(&mut self.backend, &self.settings, self.live, self.now_ms));
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
        let is_told = |phase| !matches!(phase, Phase::Free | Phase::Gone | Phase::Handshake);
        let next = self.leave_clients(first, count, is_told);
        if let Some(leaving) = self.drain.as_mut().and_then(|drain| drain.leaving.as_mut()) {
            leaving.next = next;
        }
    }

    /// Tells up to `count` clients with the right phase, from slot `first` on, that the server ends. Where it got to.
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

    /// Whether clients are being closed since the server ends.
    pub(super) fn is_leaving(&self) -> bool {
        self.leaving().is_some()
    }

    /// Whether nobody's request is waited for any more.
    pub(super) fn is_leaving_at_once(&self) -> bool {
        self.leaving().is_some_and(|leaving| leaving.end_ms.is_some())
    }

    fn leaving(&self) -> Option<&Leaving> {
        self.drain.as_ref()?.leaving.as_ref()
    }

    pub(super) fn next_drain_ms(&self) -> Option<u64> {
        self.drain.as_ref().map(|drain| drain.step_ms)
    }

    /// Whether the server has ended. Rooms of other shards' clients may live here, so the last shard waits for
    /// the last client of all.
    pub(super) fn is_over(&self) -> bool {
        let is_empty = || self.backend.has_stopped() && self.shared.admission.count() == 0;
        self.leaving()
            .is_some_and(|leaving| leaving.end_ms.is_some_and(|end_ms| end_ms <= self.now_ms) || is_empty())
    }
}

impl Leaving {
    /// How many must have been told before the next step. It follows from the time that has passed, so that who was kept from a
    /// step makes up for it.
    fn due(&self, now_ms: u64) -> usize {
        let passed_ms = now_ms - self.begin_ms + DRAIN_STEP_MS;
        let due = (self.clients as u64 * passed_ms).div_ceil((self.last_ms - self.begin_ms).max(1));
        (due as usize).clamp(self.told, self.clients)
    }
}

/// Stops accepting, and says how clients are to be closed.
fn begin_leaving<B: Backend>(
    backend: &mut Transport<B>,
    settings: &Settings,
    connections: usize,
    now_ms: u64,
) -> Leaving {
    backend.stop_accepting();
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
