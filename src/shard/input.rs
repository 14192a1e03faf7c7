//! Input of clients: received bytes become protocol events, as far as flow control lets them.

use tracing::debug;

use crate::app::Incoming;
use crate::hub::{Replay, Slot};
use crate::io::{Backend, Buffer, Close};
use crate::protocol::response::CONTINUE;
use crate::protocol::{self, CloseCode, Failure, Opcode};

use super::Shard;
use super::connection::{Liveness, Phase};
use super::flow::{Input, Next, Pause, Verdict};
use super::life::{NO_CODE, NO_FRAME, close_frame};
use super::requests::{Answered, why};

/// Number of bytes of unread answers above which the shard does not receive from a client.
const UNREAD_LIMIT: usize = 64 << 10;

impl<B: Backend> Shard<B> {
    /// Handles a buffer received from a client, or holds a copy of it while the client is paused.
    pub(super) fn received(&mut self, slot: Slot, mut buffer: Buffer) {
        self.heard(slot);
        let bytes = buffer.bytes_mut();
        self.stats.bytes_in.add(bytes.len() as u64);
        self.journal.received(slot, bytes.len());
        let connection = &mut self.connections[slot as usize];
        let is_closing = matches!(connection.phase, Phase::Closing | Phase::Ending | Phase::Lingering);
        if is_closing && connection.flow.charge_closing(self.now_ms, bytes.len()) {
            self.transport.recycle(buffer);
            return self.close(slot, Close::Reset);
        }
        if connection.phase == Phase::Answering {
            self.hold_behind_answer(slot, bytes);
            return self.transport.recycle(buffer);
        }
        let turn = self.stats.turns.get() as u8;
        match self.flow.admit(slot, &mut connection.flow, turn, self.stopwatch.has_time_for_received()) {
            Verdict::Handle => {
                self.take_in(slot, bytes);
                self.pause_if_unread(slot);
            }
            Verdict::Hold => self.flow.hold(slot, bytes.to_vec()),
            Verdict::PauseAndHold => {
                self.flow.hold(slot, bytes.to_vec());
                self.transport.pause(slot);
            }
        }
        self.transport.recycle(buffer);
    }

    /// Handles the end of the client's direction of the stream (FIN), or holds it behind held bytes.
    pub(super) fn ended(&mut self, slot: Slot) {
        if self.flow.hold_end(slot) {
            return;
        }
        self.count_end(slot, NO_FRAME);
        let connection = &mut self.connections[slot as usize];
        connection.liveness = Liveness::Ended;
        match connection.phase {
            // The client may still be reading after its last message or request, so pending messages and responses are
            // sent.
            phase if phase.is_talking() => self.end(slot, true, &[]),
            Phase::Closing | Phase::Ending if !self.hub.is_idle(slot) => self.set_phase(slot, Phase::Ending),
            // The client may still be reading, so the answer ends the connection.
            Phase::Free | Phase::Gone | Phase::Answering => {}
            _ => self.close(slot, Close::Graceful),
        }
    }

    /// Lifts a pause reason of a client. If it was the last reason, handles the held input, then receives from the
    /// client again.
    pub(super) fn resume(&mut self, slot: Slot, reason: Pause) {
        if !self.flow.lift(&mut self.connections[slot as usize].flow, reason) {
            return;
        }
        if matches!(reason, Pause::Congestion | Pause::Memory) {
            // The time of such a pause is no silence of the client. What it has sent meanwhile is read by the next poll,
            // after this turn has judged deadlines.
            self.heard(slot);
        }
        loop {
            let turn = self.stats.turns.get() as u8;
            let has_time = self.stopwatch.has_time_for_held();
            match self.flow.next(slot, &mut self.connections[slot as usize].flow, turn, has_time) {
                Next::Handle(Input::Bytes(mut bytes)) => {
                    self.stopwatch.count_held();
                    self.take_in(slot, &mut bytes);
                    self.pause_if_unread(slot);
                }
                Next::Handle(Input::End) => return self.ended(slot),
                Next::Wait => return,
                Next::Receive => return self.transport.resume(slot),
            }
        }
    }

    /// Resumes clients that used up their share of an earlier turn, or found its time used up. Those for which the time
    /// does not suffice come first in the next turn.
    pub(super) fn resume_served(&mut self) {
        let mut due = self.flow.take_due(Pause::Share, self.now_ms).into_iter();
        while self.stopwatch.has_time_for_held()
            && let Some(slot) = due.next()
        {
            self.resume(slot, Pause::Share);
        }
        self.flow.put_back_served(due.collect());
    }

    /// Resumes paused publishers when their messages can be passed on again. Their held input creates mail, so call
    /// this before mail is posted.
    pub(super) fn resume_publishers(&mut self) {
        if self.may_resume_publishers() {
            for slot in self.flow.take_due(Pause::Congestion, self.now_ms) {
                self.resume(slot, Pause::Congestion);
            }
        }
    }

    /// Resumes clients that were paused for their rate and are within their rates again, or are being closed.
    pub(super) fn resume_rate_limited(&mut self) {
        for slot in self.flow.take_due(Pause::Rate, self.now_ms) {
            let connection = &mut self.connections[slot as usize];
            if !connection.phase.has_rate() || connection.flow.rate_wait_ms(self.now_ms) == 0 {
                self.resume(slot, Pause::Rate);
            } else if connection.flow.is_paused(Pause::Rate) {
                // The client was charged for more since the timer was set, such as the history of a room that came from
                // another shard. Or the timer belongs to an earlier connection in this slot.
                self.flow.pause_for_rate(slot, &mut connection.flow, self.now_ms);
            }
        }
    }

    /// Pauses a client whose published messages cannot be passed on yet.
    pub(super) fn pause_publisher(&mut self, slot: Slot) {
        let connection = &mut self.connections[slot as usize];
        if connection.flow.is_paused(Pause::Congestion) {
            return;
        }
        self.stats.publisher_pauses.add(1);
        if self.flow.pause(slot, &mut connection.flow, Pause::Congestion) {
            self.transport.pause(slot);
        }
    }

    /// Pauses a client that is over a rate. A closing client is not paused, since the server waits for its close
    /// frame.
    fn pause_for_rate(&mut self, slot: Slot) {
        let connection = &mut self.connections[slot as usize];
        if !connection.phase.has_rate() || connection.flow.is_paused(Pause::Rate) {
            return;
        }
        self.stats.throttled.add(1);
        if self.flow.pause_for_rate(slot, &mut connection.flow, self.now_ms) {
            self.transport.pause(slot);
        }
    }

    /// Returns whether a client leaves more than [`UNREAD_LIMIT`] bytes of answers unread, so that none of its input is
    /// handled.
    fn is_unread(&self, slot: Slot) -> bool {
        self.connections[slot as usize].phase.is_talking() && self.hub.outbox_len(slot) > UNREAD_LIMIT
    }

    /// Pauses a client that leaves many answers unread.
    pub(super) fn pause_if_unread(&mut self, slot: Slot) {
        let is_unread = self.is_unread(slot);
        let connection = &mut self.connections[slot as usize];
        if is_unread && self.flow.pause(slot, &mut connection.flow, Pause::Unread) {
            self.transport.pause(slot);
        }
    }

    /// Holds input behind a request that waits for its answer, and pauses the client.
    fn hold_behind_answer(&mut self, slot: Slot, bytes: &[u8]) {
        self.flow.hold(slot, bytes.to_vec());
        self.pause_for_answer(slot);
    }

    fn pause_for_answer(&mut self, slot: Slot) {
        if self.flow.pause(slot, &mut self.connections[slot as usize].flow, Pause::Answer) {
            self.transport.pause(slot);
        }
    }

    /// Pauses a client whose input takes long, until the next turn.
    fn pause_for_share(&mut self, slot: Slot) {
        let connection = &mut self.connections[slot as usize];
        if connection.phase != Phase::Gone && self.flow.pause(slot, &mut connection.flow, Pause::Share) {
            self.transport.pause(slot);
        }
    }

    /// Decodes bytes of a client and handles its messages until the client is over a rate, or its time in this turn is
    /// over. The rest is held.
    fn take_in(&mut self, slot: Slot, mut input: &mut [u8]) {
        debug_assert_ne!(
            self.connections[slot as usize].phase,
            Phase::Answering,
            "input waits for the answer"
        );
        let mut protocol = std::mem::take(&mut self.connections[slot as usize].protocol);
        let mut reader = std::mem::take(&mut self.reader);
        self.stopwatch.begin_buffer();
        let (mut is_over, mut is_late, mut is_behind_answer) = (false, false, false);
        let (had_part, part_memory) = (protocol.is_mid_item(), protocol.memory());
        let (mut has_finished, mut is_short_of_memory, mut sent) = (false, false, 0);
        loop {
            // Each message may become much more than its bytes here, so memory is checked before each.
            if !self.has_memory(slot, sent) && !input.is_empty() && self.is_open(slot) {
                self.flow.hold_rest(slot, input.to_vec());
                is_short_of_memory = true;
                break;
            }
            let before = input.len();
            let Some(event) = protocol.next(&mut input, &mut reader) else {
                // An incomplete message gives no event, but its bytes count.
                is_over |= self.charge(slot, 0, before);
                is_late |= before > 0 && self.is_late_after(before);
                break;
            };
            let taken = before - input.len();
            // The answer to a ping for a session costs the client nothing: the server sets the pace of these pings.
            let is_answer =
                matches!(event, protocol::ProtocolEvent::Pong(payload) if self.hub.pong(slot, payload));
            if !is_answer {
                is_over |= self.charge(slot, 1, taken);
            }
            match event {
                protocol::ProtocolEvent::Request(request) => {
                    let answered = self.answer(slot, &request);
                    has_finished |= matches!(answered, Answered::Upgraded(_));
                    self.follow(slot, &mut protocol, answered);
                    // The application may have excused the request from the rates.
                    is_over &= self.connections[slot as usize].flow.rate_wait_ms(self.now_ms) > 0;
                }
                protocol::ProtocolEvent::Continue => self.hub.send_response(slot, &[CONTINUE]),
                protocol::ProtocolEvent::Refused(refusal) => self.refused(slot, &refusal),
                protocol::ProtocolEvent::Message { kind, payload } => {
                    has_finished = true;
                    sent += payload.len();
                    self.message(slot, Incoming { kind, payload });
                }
                protocol::ProtocolEvent::Ping(payload) if self.is_open(slot) => {
                    self.send_control(slot, Opcode::Pong, payload);
                }
                protocol::ProtocolEvent::Ping(_) | protocol::ProtocolEvent::Pong(_) => {}
                protocol::ProtocolEvent::Close(frame) => {
                    let code = frame.map_or(CloseCode::NORMAL, |frame| frame.code);
                    self.closed_by_client(slot, code, frame.is_some());
                }
                protocol::ProtocolEvent::Failed(failure) => self.failed(slot, &failure),
            }
            let inflated = reader.take_inflated();
            is_over |= self.charge_inflated(slot, inflated) | self.is_rate_paused(slot);
            is_late = self.is_late_after(taken + inflated);
            match self.connections[slot as usize].phase {
                // The client was reset, so the rest of its input is not worth decoding.
                Phase::Gone => protocol.discard(),
                Phase::Answering => {
                    // Frees the buffer of the request.
                    let next = protocol.next(&mut input, &mut reader);
                    debug_assert_eq!(next, None, "a request waits for its answer");
                    if !input.is_empty() {
                        self.flow.hold_rest(slot, input.to_vec());
                    }
                    is_behind_answer = self.flow.has_held(slot);
                    break;
                }
                // A request is short, and its response may be long, so unread responses count before each request.
                phase
                    if !input.is_empty()
                        && (is_late
                            || is_over && phase.is_talking()
                            || phase == Phase::Idle && self.is_unread(slot)) =>
                {
                    self.flow.hold_rest(slot, input.to_vec());
                    break;
                }
                _ => {}
            }
        }
        self.memory.unfinished = self.memory.unfinished - part_memory + protocol.memory();
        let has_part = protocol.is_mid_item();
        self.connections[slot as usize].protocol = protocol;
        self.reader = reader;
        if had_part || has_part {
            self.set_part_deadline(slot, had_part && !has_finished, has_part);
        }
        if is_behind_answer {
            self.pause_for_answer(slot);
        }
        if is_short_of_memory {
            self.pause_for_memory(slot);
        }
        if is_over {
            self.pause_for_rate(slot);
        }
        if is_late {
            self.pause_for_share(slot);
        }
    }

    /// Starts or ends the deadline of an incomplete request or message, after input was handled. `had_part` and `has_part`
    /// say whether the same one was incomplete before, and whether one is incomplete now.
    fn set_part_deadline(&mut self, slot: Slot, had_part: bool, has_part: bool) {
        if !has_part {
            self.unfinished.end(slot);
        } else if !had_part && self.is_open(slot) {
            self.unfinished.begin(slot, self.now_ms);
        }
        if has_part && self.connections[slot as usize].phase == Phase::Idle {
            // From its first byte on, a request has as long as the first request of a connection.
            self.set_phase(slot, Phase::Handshake);
            self.set_deadline(slot, self.settings.handshake_ms);
            self.begin_handshake(slot);
        }
    }

    /// Counts handled input of `bytes` bytes. Returns whether the time for the current buffer is over.
    fn is_late_after(&mut self, bytes: usize) -> bool {
        self.stopwatch.count(bytes) && self.stopwatch.look(self.transport.clock_ns())
    }

    /// Charges a client for received messages or requests, and bytes. Returns true when the client is over a rate.
    fn charge(&mut self, slot: Slot, messages: u32, bytes: usize) -> bool {
        let (pace, now_ms) = (self.settings.pace, self.now_ms);
        if !pace.is_limited() || !self.has_rate(slot) {
            return false;
        }
        self.connections[slot as usize].flow.charge(pace, now_ms, messages, bytes)
    }

    /// Returns whether the rates of a client apply to a connection. On a trusted proxy's connection, the requests of many
    /// clients arrive.
    fn has_rate(&self, slot: Slot) -> bool {
        let connection = &self.connections[slot as usize];
        match connection.phase {
            Phase::Open => true,
            phase => phase.awaits_request() && connection.peer.is_some_and(|peer| !self.is_proxy(peer)),
        }
    }

    /// Charges a client for the bytes that decompression has added to its message. Returns true when an open client is
    /// over a rate. Resets a closing client over the limit for closing clients.
    fn charge_inflated(&mut self, slot: Slot, bytes: usize) -> bool {
        if bytes == 0 {
            return false;
        }
        let connection = &mut self.connections[slot as usize];
        let is_closing = matches!(connection.phase, Phase::Closing | Phase::Ending | Phase::Lingering);
        if is_closing && connection.flow.charge_closing(self.now_ms, bytes) {
            self.close(slot, Close::Reset);
            return false;
        }
        self.charge(slot, 0, bytes)
    }

    /// Charges clients for the history that they are sent because they joined a room. Pauses those over their rate.
    pub(super) fn charge_replays(&mut self) {
        while let Some(Replay { slot, bytes }) = self.hub.poll_replay() {
            if self.charge(slot, 0, self.settings.pace.replay_cost(bytes)) {
                self.pause_for_rate(slot);
            }
        }
    }

    fn is_rate_paused(&self, slot: Slot) -> bool {
        self.connections[slot as usize].flow.is_paused(Pause::Rate)
    }

    /// Answers a malformed request with an error, unless the connection is being refused already.
    fn refused(&mut self, slot: Slot, refusal: &protocol::Refusal) {
        if self.connections[slot as usize].phase.awaits_request() {
            self.refuse(slot, why(refusal.status), refusal);
        }
    }

    /// Closes a client that broke the WebSocket protocol, with the close code of the broken rule.
    fn failed(&mut self, slot: Slot, failure: &Failure) {
        debug!(slot, code = failure.code.0, reason = failure.reason, "client broke the protocol");
        self.stats.failed.add(1);
        self.count_end(slot, failure.code.0);
        if self.is_open(slot) {
            let frame = close_frame(failure.code, failure.reason);
            self.end(slot, true, &frame);
        } else {
            self.finish_closing(slot);
        }
    }

    /// Handles the client's close frame: answers it, unless it answers the server's close frame (RFC 6455 §5.5.1).
    fn closed_by_client(&mut self, slot: Slot, code: CloseCode, has_code: bool) {
        self.connections[slot as usize].liveness = Liveness::Ended;
        self.count_end(slot, if has_code { code.0 } else { NO_CODE });
        if self.is_open(slot) {
            self.hub.say_goodbye(slot);
            let frame = if has_code { close_frame(code, "") } else { vec![0x88, 0] };
            self.end(slot, true, &frame);
        } else {
            self.hub.acknowledge_end(slot, code.0);
            self.finish_closing(slot);
        }
    }
}
