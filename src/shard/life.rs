//! The life of a connection: its deadlines, the closing handshake, and its end.

use tracing::debug;

use crate::app::TokenInUse;
use crate::hub::Slot;
use crate::io::clock::NS_PER_MS;
use crate::io::{Backend, Close};
use crate::protocol::frame::{close_payload, encode_header};
use crate::protocol::{CloseCode, Opcode, Refusal, Status};
use crate::stats::{Ended, Refused};

use super::Shard;
use super::connection::{Connection, Liveness, Phase};
use super::flow::Pause;

/// Close code under which the end of a WebSocket without a close frame is counted (RFC 6455 §7.4.1).
pub(super) const NO_FRAME: u16 = 1006;
/// Close code under which a close frame without a code is counted (RFC 6455 §7.4.1).
pub(super) const NO_CODE: u16 = 1005;

/// Interval in milliseconds of the timer of a connection whose request waits for a deferred answer. The timer does
/// nothing: there is no deadline for the application.
const ANSWERING_MS: u64 = 60_000;
/// Time in milliseconds between the last question for a send's progress and the end of its client.
const NUDGE_MS: u64 = 500;

impl<B: Backend> Shard<B> {
    pub(super) fn is_open(&self, slot: Slot) -> bool {
        self.connections[slot as usize].phase == Phase::Open
    }

    pub(super) fn send_control(&mut self, slot: Slot, opcode: Opcode, payload: &[u8]) {
        let header = encode_header(opcode, true, false, payload.len());
        self.hub.send_control(slot, &[header.as_bytes(), payload]);
    }

    /// Starts the closing handshake of an open client. `pending` says whether its undelivered messages are sent first
    /// or dropped.
    pub(super) fn begin_closing(&mut self, slot: Slot, pending: bool, code: CloseCode, reason: &str) {
        if !self.is_open(slot) {
            return;
        }
        // The log line omits the reason, which may contain a user's name.
        debug!(slot, code = code.0, "closing");
        let frame = close_frame(code, reason);
        self.count_end(slot, code.0);
        self.finish(slot, pending, &frame, Phase::Closing);
    }

    /// Sends the `last` bytes to a client, and then ends the server's direction of the stream. `pending` says whether
    /// undelivered messages are sent first or dropped.
    pub(super) fn end(&mut self, slot: Slot, pending: bool, last: &[u8]) {
        if self.connections[slot as usize].phase.is_talking() {
            self.finish(slot, pending, last, Phase::Ending);
            self.finish_closing(slot);
        }
    }

    /// Stops delivery to a client, sends its undelivered messages if `pending` is true, then sends the `last` bytes.
    /// Sets the deadline for closing.
    fn finish(&mut self, slot: Slot, pending: bool, last: &[u8], phase: Phase) {
        let was_open = self.is_open(slot);
        self.set_phase(slot, phase);
        if was_open {
            self.gone(slot);
        }
        self.hub.finish(slot, pending, last);
        self.set_deadline(slot, self.settings.close_ms);
        self.flow.begin_closing(slot, &mut self.connections[slot as usize].flow, self.now_ms);
    }

    /// Ends the server's direction of the stream once all bytes are sent. For a client from which nothing more is
    /// expected.
    pub(super) fn finish_closing(&mut self, slot: Slot) {
        if matches!(self.connections[slot as usize].phase, Phase::Closing | Phase::Ending) {
            self.set_phase(slot, Phase::Ending);
            if self.hub.is_idle(slot) {
                self.linger(slot);
            }
        }
    }

    /// Sends FIN after the last bytes, and waits for the client's FIN. An immediate close would answer data that still
    /// arrives with a reset, which drops the last bytes. A client that has sent its close frame sends nothing more, so
    /// its connection is closed at once.
    pub(super) fn linger(&mut self, slot: Slot) {
        if self.connections[slot as usize].liveness == Liveness::Ended {
            return self.close(slot, Close::Graceful);
        }
        self.set_phase(slot, Phase::Lingering);
        self.transport.shutdown(slot);
    }

    /// Resets a connection. If its WebSocket was open, counts the end with `code`, and tells the application that the
    /// client is gone.
    pub(super) fn abandon(&mut self, slot: Slot, code: u16) {
        if self.is_open(slot) {
            self.count_end(slot, code);
            self.set_phase(slot, Phase::Gone);
            self.gone(slot);
            self.hub.finish(slot, false, &[]);
        }
        self.close(slot, Close::Reset);
    }

    /// Closes a connection's socket. The backend reports `Closed` when the slot is free.
    pub(super) fn close(&mut self, slot: Slot, how: Close) {
        self.set_phase(slot, Phase::Gone);
        self.transport.close(slot, how);
    }

    /// Changes the phase of a connection. A connection that leaves the handshake phase no longer counts against the
    /// handshake limit, and one that leaves the answering phase takes no deferred answer.
    pub(super) fn set_phase(&mut self, slot: Slot, phase: Phase) {
        let was = std::mem::replace(&mut self.connections[slot as usize].phase, phase);
        self.count_phase(was, phase);
        match was {
            Phase::Handshake => self.handshakes.remove(slot),
            Phase::Answering => drop(self.deferred.remove(&slot)),
            _ => {}
        }
    }

    /// Counts the close code of an open WebSocket. Does nothing when the WebSocket is no longer open, so that each is
    /// counted once.
    pub(super) fn count_end(&mut self, slot: Slot, code: u16) {
        if self.is_open(slot) {
            self.journal.ended(slot, code);
            self.stats.ended[Ended::of(code) as usize].add(1);
        }
    }

    /// Drops all state of a connection whose slot is free again.
    pub(super) fn closed(&mut self, slot: Slot) {
        let gone = std::mem::replace(&mut self.connections[slot as usize], Connection::free());
        self.flow.forget(slot, gone.flow);
        self.memory.unfinished -= gone.protocol.memory();
        self.memory.forget(slot, gone.flow.is_paused(Pause::Memory));
        self.unfinished.end(slot);
        self.context.tokens.in_use.remove(&slot);
        self.count_phase(gone.phase, Phase::Free);
        self.hub.close(slot);
        self.stats.context_bytes_released.add(gone.context_memory() as u64);
        self.shared.admission.leave(gone.peer, gone.place);
        self.journal.closed(slot, gone.peer, self.transport.now_ms());
        self.live -= 1;
        self.stats.closed.add(1);
    }

    /// Sets the deadline of a connection to `wait_ms` milliseconds from now, or to the expiry of its token if that is
    /// earlier. An earlier timer of the connection is kept, and sets the next timer when it fires.
    pub(super) fn set_deadline(&mut self, slot: Slot, wait_ms: u64) {
        let connection = &mut self.connections[slot as usize];
        connection.deadline_ms = self.now_ms + wait_ms;
        if connection.phase == Phase::Open
            && let Some(token) = self.context.tokens.in_use.get(&slot)
        {
            connection.deadline_ms = connection.deadline_ms.min(token.expiry_ms);
        }
        if connection.timer_ms == 0 || connection.deadline_ms < connection.timer_ms {
            connection.timer_ms = connection.deadline_ms;
            self.timers.set(connection.deadline_ms, slot);
        }
    }

    /// Moves the expiry of all tokens earlier by `paused_ms`, the length of a pause in milliseconds. The shard's clock
    /// stood still during the pause, but tokens expire in real time.
    pub(super) fn move_expiries(&mut self, paused_ms: u64) {
        for (slot, TokenInUse { expiry_ms, .. }) in &mut self.context.tokens.in_use {
            *expiry_ms = expiry_ms.saturating_sub(paused_ms);
            let connection = &mut self.connections[*slot as usize];
            if connection.phase == Phase::Open && *expiry_ms < connection.deadline_ms {
                connection.deadline_ms = *expiry_ms;
                if *expiry_ms < connection.timer_ms {
                    connection.timer_ms = *expiry_ms;
                    self.timers.set(*expiry_ms, *slot);
                }
            }
        }
    }

    /// Handles the connections whose deadlines have passed.
    pub(super) fn fire_timers(&mut self) {
        while let Some(slots) = self.timers.expired(self.now_ms) {
            for slot in slots {
                let connection = &mut self.connections[slot as usize];
                if connection.timer_ms > self.now_ms {
                    // This timer is out of date: the slot has a later timer.
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

    /// Handles the passed deadline of a connection: refuses, pings or closes the client, depending on the phase.
    fn timed_out(&mut self, slot: Slot) {
        match self.connections[slot as usize].phase {
            Phase::Handshake if self.is_held_up(slot) => self.set_deadline(slot, self.settings.handshake_ms),
            Phase::Handshake => {
                let reason = "The request did not come in time; send it right after connecting.";
                self.refuse(slot, Refused::TimedOut, &Refusal::new(Status::RequestTimeout, reason));
            }
            // The application may take its time.
            Phase::Answering => self.set_deadline(slot, ANSWERING_MS),
            Phase::Idle => self.check_idle(slot),
            Phase::Open if self.token_has_expired(slot) => {
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

    fn token_has_expired(&self, slot: Slot) -> bool {
        self.context.tokens.in_use.get(&slot).is_some_and(|token| token.expiry_ms <= self.now_ms)
    }

    /// Notes a sign of life of a client. After the answer to a ping, the next ping follows another silent interval.
    pub(super) fn heard(&mut self, slot: Slot) {
        let answered = self.connections[slot as usize].heard(self.now_ms);
        if answered && self.is_open(slot) {
            self.set_deadline(slot, self.until_stalled(slot, self.settings.ping_ms));
        }
    }

    /// Returns the time in milliseconds for which the kernel may take none of the bytes of a send before the client is
    /// closed: a ping behind these bytes could not be answered earlier.
    fn stall_limit_ms(&self) -> u64 {
        self.settings.ping_ms.saturating_add(self.settings.pong_ms)
    }

    /// Returns the time in milliseconds for which the kernel has taken none of the bytes of the client's send in flight.
    /// `None` without a send in flight.
    fn stalled_ms(&self, slot: Slot) -> Option<u64> {
        let moved_ms = self.transport.send_progress(slot)?.moved_ns / NS_PER_MS;
        Some(self.clock.since_ms(moved_ms))
    }

    /// Closes a client that takes none of the bytes sent to it, whatever it sends. Returns whether it was closed.
    ///
    /// The backend may not know of the latest progress. So the client is closed [`NUDGE_MS`] after its time is up, and
    /// the backend is asked for the progress at the last check before that.
    fn end_stalled(&mut self, slot: Slot) -> bool {
        let Some(stalled_ms) = self.stalled_ms(slot) else { return false };
        if stalled_ms < self.stall_limit_ms().saturating_add(NUDGE_MS) {
            self.transport.nudge(slot);
            return false;
        }
        self.stats.stalled.add(1);
        self.begin_closing(slot, false, CloseCode::POLICY, "nothing was read for too long");
        true
    }

    /// Returns `wait_ms`, or the time until the client's send in flight counts as stalled if that is shorter. Both are in
    /// milliseconds.
    fn until_stalled(&self, slot: Slot, wait_ms: u64) -> u64 {
        match self.stalled_ms(slot) {
            Some(stalled_ms) => match self.stall_limit_ms().saturating_sub(stalled_ms) {
                0 => wait_ms.min(NUDGE_MS),
                left_ms => wait_ms.min(left_ms),
            },
            None => wait_ms,
        }
    }

    /// Pings a client that was silent for the ping interval, and closes a client that did not answer a ping in time, or
    /// that reads nothing.
    fn check_life(&mut self, slot: Slot) {
        if self.end_stalled(slot) {
            return;
        }
        self.check_answer(slot);
        if self.is_open(slot) {
            let wait_ms = self.connections[slot as usize].deadline_ms.saturating_sub(self.now_ms);
            let sooner_ms = self.until_stalled(slot, wait_ms);
            if sooner_ms < wait_ms {
                self.set_deadline(slot, sooner_ms);
            }
        }
    }

    /// Returns whether the server itself makes a client wait, so that its next request may have arrived already.
    fn is_held_up(&self, slot: Slot) -> bool {
        let flow = &self.connections[slot as usize].flow;
        flow.is_held() && !flow.is_paused(Pause::Unread)
    }

    /// Closes a connection that has had no HTTP request for the keep-alive time, or whose client does not read a
    /// response.
    fn check_idle(&mut self, slot: Slot) {
        let silent_ms = self.now_ms - self.connections[slot as usize].heard_ms;
        let is_read = self.hub.is_idle(slot);
        let limit_ms = match is_read {
            true => self.settings.keep_alive_ms,
            false => self.settings.keep_alive_ms.max(self.settings.close_ms),
        };
        if self.is_held_up(slot) {
            self.set_deadline(slot, limit_ms.max(1));
        } else if silent_ms < limit_ms {
            self.set_deadline(slot, limit_ms - silent_ms);
        } else if is_read {
            self.end(slot, true, &[]);
        } else {
            debug!(slot, "the client does not read its response");
            self.close(slot, Close::Reset);
        }
    }

    /// Pings a client that was silent for the ping interval, and closes a client that did not answer a ping in time.
    fn check_answer(&mut self, slot: Slot) {
        let is_catching_up = self.is_catching_up(slot);
        let connection = &mut self.connections[slot as usize];
        let silent_ms = self.now_ms - connection.heard_ms;
        let waits = [Pause::Congestion, Pause::Share, Pause::Memory];
        if waits.iter().any(|reason| connection.flow.is_paused(*reason)) {
            // The client's pong may lie unread in the socket, since a client paused for these reasons is not received
            // from.
            self.set_deadline(slot, self.settings.pong_ms);
        } else if connection.flow.is_paused(Pause::Rate) {
            // The client's pong may lie in the socket, from which the shard receives nothing. If the client is gone,
            // this ping cannot be delivered, and the connection fails.
            self.ping(slot);
            self.set_deadline(slot, self.settings.ping_ms);
        } else if connection.liveness == Liveness::Pinged && is_catching_up {
            self.set_deadline(slot, self.settings.pong_ms);
        } else if connection.liveness == Liveness::Pinged {
            self.begin_closing(slot, false, CloseCode::POLICY, "no answer to a ping");
        } else if silent_ms < self.settings.ping_ms {
            self.set_deadline(slot, self.settings.ping_ms - silent_ms);
        } else {
            connection.liveness = Liveness::Pinged;
            self.ping(slot);
            self.set_deadline(slot, self.settings.pong_ms);
        }
    }

    /// Returns whether a client with a session takes bytes that go before its ping, such as the messages of a room that it
    /// has missed. It could not answer earlier, and would get the same messages again after it returned.
    fn is_catching_up(&self, slot: Slot) -> bool {
        self.hub.has_session(slot)
            && self.stalled_ms(slot).is_some_and(|stalled_ms| stalled_ms < self.settings.pong_ms)
    }

    /// Pings a client, to find out whether it is alive.
    fn ping(&mut self, slot: Slot) {
        if !self.hub.ping_session(slot) {
            self.send_control(slot, Opcode::Ping, b"");
        }
    }
}

/// Returns the bytes of a close frame, including its header.
pub(super) fn close_frame(code: CloseCode, reason: &str) -> Vec<u8> {
    let payload = close_payload(code, reason);
    let header = encode_header(Opcode::Close, true, false, payload.as_bytes().len());
    [header.as_bytes(), payload.as_bytes()].concat()
}
