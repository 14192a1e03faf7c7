//! Reads from connections and turns received bytes into events for the handler.

use std::io;
use std::mem;

use crate::clock::now_ns;
use crate::end::End;
use crate::ws::deflate::Inflater;
use crate::ws::frame::Opcode;
use crate::ws::{Agreed, ProtocolError, Step, WsEvent};

use super::{ConnectionState, Connections, Handler, Payload, Response};

/// Buffer space for a read that continues an incomplete frame, in bytes.
const READ_MORE: usize = 32 * 1024;

/// The next step of the read loop after one event of a connection.
pub(super) enum Next {
    /// Decode the next event from the rest of the input.
    Event,
    /// Read from the socket again: the rest of the input is an incomplete frame.
    Read,
    /// Wait for the greeting of a Pusher server: the WebSocket handshake has succeeded.
    Upgraded,
    /// Report the open connection to the handler: the handshake has succeeded.
    Opened,
    /// Discard the rest of the input: the connection has ended.
    Ended,
}

impl Connections {
    /// Reads from the connection in `slot` until its socket is empty. `ended` says that the server has closed the
    /// connection.
    pub(super) fn read(&mut self, slot: usize, ended: bool, handler: &mut impl Handler) {
        let mut buffer = mem::take(&mut self.buffer);
        while self.read_once(slot, ended, &mut buffer, handler) {}
        self.buffer = buffer;
    }

    /// Reads once from the socket, after the kept start of a frame. Returns whether another read may find more bytes.
    fn read_once(&mut self, slot: usize, ended: bool, buffer: &mut [u8], handler: &mut impl Handler) -> bool {
        let entry = &mut self.slots[slot];
        let Some(stream) = &mut entry.stream else { return false };
        let mut inbox = mem::take(&mut entry.inbox);
        let kept = inbox.len();
        let space = if kept == 0 {
            &mut *buffer
        } else {
            inbox.resize(kept + READ_MORE.max(stream.least_room()), 0);
            &mut inbox[kept..]
        };
        let outcome = stream.read(space, &mut self.scratch);
        let len = outcome.as_ref().map_or(0, |received| received.len);
        inbox.truncate(if kept == 0 { 0 } else { kept + len });
        let received = match outcome {
            Ok(received) => received,
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                entry.inbox = inbox;
                return error.kind() == io::ErrorKind::Interrupted;
            }
            Err(error) => {
                let end = self.io_end(slot, &error);
                self.end(slot, end, handler);
                return false;
            }
        };
        entry.blocked |= received.blocked;
        if len > 0 && kept == 0 {
            let consumed = self.digest(slot, &buffer[..len], handler);
            inbox.extend_from_slice(&buffer[consumed..len]);
        } else if len > 0 {
            let consumed = self.digest(slot, &inbox, handler);
            inbox.drain(..consumed);
        }
        if received.ended {
            let cut = self.slots[slot].client.end_of_stream(&inbox).err();
            self.end(slot, cut.map_or(End::Eof, End::Protocol), handler);
            return false;
        }
        if self.slots[slot].state != ConnectionState::Vacant && !inbox.is_empty() {
            self.slots[slot].inbox = inbox;
        }
        received.more || ended
    }

    /// Handles the whole frames in `input`. Returns the number of handled bytes.
    fn digest(&mut self, slot: usize, input: &[u8], handler: &mut impl Handler) -> usize {
        let mut inflater = mem::take(&mut self.inflater);
        let consumed = self.digest_with(&mut inflater, slot, input, handler);
        self.inflater = inflater;
        consumed
    }

    fn digest_with(
        &mut self,
        inflater: &mut Inflater,
        slot: usize,
        input: &[u8],
        handler: &mut impl Handler,
    ) -> usize {
        let now = now_ns();
        let mut client = mem::take(&mut self.slots[slot].client);
        let mut consumed = 0;
        // The handler of an event may end the connection, which makes the slot vacant.
        while self.slots[slot].state != ConnectionState::Vacant {
            if client.is_between_plain_messages() {
                let repeated = handler.recognise(self, slot, &input[consumed..], now);
                self.wire.count_again(repeated);
                consumed += repeated.bytes;
            }
            let next = match client.next(&input[consumed..], inflater) {
                Ok(step) => {
                    consumed += step.consumed;
                    self.handle_event(slot, step, handler, now)
                }
                Err(error) => {
                    self.fail(slot, error, handler);
                    Next::Ended
                }
            };
            match next {
                Next::Event => {}
                Next::Read => break,
                Next::Upgraded => self.await_greeting(slot, client.agreed()),
                Next::Opened => {
                    self.opened(slot, client.agreed());
                    handler.on_open(self, slot, now);
                }
                Next::Ended => return input.len(),
            }
        }
        if self.slots[slot].state != ConnectionState::Vacant {
            self.slots[slot].client = client;
        }
        consumed
    }

    fn handle_event(&mut self, slot: usize, step: Step<'_>, handler: &mut impl Handler, now: u64) -> Next {
        let Step { consumed, event } = step;
        match event {
            WsEvent::NeedsMore => return Next::Read,
            WsEvent::Opened if self.options.pusher.is_some() => return Next::Upgraded,
            WsEvent::Opened => return Next::Opened,
            WsEvent::Nothing => self.wire.frame_bytes += consumed as u64,
            WsEvent::Text(text) if self.options.pusher.is_some() => {
                return self.handle_pusher(slot, text, consumed, handler, now);
            }
            WsEvent::Text(text) => {
                let message = Payload { is_text: true, bytes: text.as_bytes() };
                self.wire.count(consumed, text.len());
                handler.on_message(self, slot, message, now);
            }
            WsEvent::Binary(bytes) => {
                self.wire.count(consumed, bytes.len());
                handler.on_message(self, slot, Payload { is_text: false, bytes }, now);
            }
            WsEvent::Ping(payload) => self.queue(slot, Opcode::Pong, payload),
            WsEvent::Response { status, reason, body } => {
                handler.on_response(self, slot, Response { status, reason, body }, now);
            }
            WsEvent::Closed { code, reason } => {
                let entry = &self.slots[slot];
                // A close frame that arrives before the client has sent its own close frame is not an answer.
                let was_asked =
                    entry.state == ConnectionState::Closing && entry.written == entry.outbox.len();
                let end = if was_asked && matches!(code, None | Some(1000)) {
                    End::CloseAnswered
                } else {
                    End::Closed { code, reason: reason.to_owned() }
                };
                self.finish(slot, code.unwrap_or(1000), end, handler);
                return Next::Ended;
            }
        }
        Next::Event
    }

    pub(super) fn opened(&mut self, slot: usize, agreed: Option<Agreed>) {
        let entry = &mut self.slots[slot];
        entry.state = ConnectionState::Open;
        entry.agreed = agreed;
        entry.refusals = Vec::new();
        if entry.outbox.is_empty() {
            // Frees the outbox of the long handshake request: an idle connection must own no buffer.
            entry.outbox = Vec::new();
        }
        self.address = entry.address;
        self.pending.remove(&slot);
    }

    /// Reports a violation of the protocol to the server and ends the connection (RFC 6455 §7.1.7).
    fn fail(&mut self, slot: usize, error: ProtocolError, handler: &mut impl Handler) {
        if self.is_open(slot) {
            self.finish(slot, error.close_code(), End::Protocol(error), handler);
        } else {
            self.end(slot, End::Protocol(error), handler);
        }
    }

    /// Sends a close frame, unless the client has already sent one, and ends the connection.
    pub(super) fn finish(&mut self, slot: usize, code: u16, end: End, handler: &mut impl Handler) {
        if self.is_open(slot) {
            self.queue_close(slot, code);
            self.write(slot, handler);
        }
        self.end(slot, end, handler);
    }
}
