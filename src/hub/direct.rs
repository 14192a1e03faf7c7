//! Sends frames to one client alone, and finishes clients.

use super::outbox::{Content, Outbox};
use super::spare_chunks::SpareChunks;
use super::{Encoding, Hub, Message, Slot, total_len, with_frame};

/// Time in milliseconds after which a client that took nothing from its outbox counts as stalled.
pub(super) const STALL_MS: u64 = 1_000;
/// Outbox limit of a client that reads, as a multiple of the lag window.
const BURST: usize = 16;

impl Hub {
    /// Sends a message to one client, in the client's encoding, through the client's outbox.
    pub fn send(&mut self, slot: Slot, message: Message<'_>) {
        let is_shared = self.clients[slot as usize].encoding == Encoding::Shared;
        if is_shared && self.deflater.takes(total_len(message.parts())) {
            let frame = with_frame(message, |parts| parts.concat());
            let mut deflater = std::mem::take(&mut self.deflater);
            self.send_bytes(slot, &[deflater.compress(&frame)], Content::Message);
            self.deflater = deflater;
            return;
        }
        with_frame(message, |parts| self.send_bytes(slot, parts, Content::Message));
    }

    /// Sends a control frame, given in parts, to one client. Does nothing if the client is finished.
    pub fn send_control(&mut self, slot: Slot, parts: &[&[u8]]) {
        self.send_bytes(slot, parts, Content::Control);
    }

    /// Sends an HTTP response, given in parts, to one client. The outbox has no limit for responses: the caller handles
    /// no further request while [`Hub::outbox_len`] is large.
    pub fn send_response(&mut self, slot: Slot, parts: &[&[u8]]) {
        if !self.clients[slot as usize].finished {
            self.append(slot, parts, Content::Response);
            self.queue_client(slot);
        }
    }

    /// Marks the client as finished: nothing more can be sent to it and it joins no rooms, but it stays a member of its
    /// rooms. Call [`Hub::finish`] next.
    pub fn begin_finish(&mut self, slot: Slot) {
        self.clients[slot as usize].finished = true;
    }

    /// Stops delivery to the client, takes its user away, and sends it the bytes `last`. With `send_pending` its pending
    /// messages go before `last`; otherwise the pending messages are dropped. They are dropped, too, if the client has
    /// missed messages and was not told yet: no client gets messages behind a gap without a report.
    pub fn finish(&mut self, slot: Slot, send_pending: bool, last: &[u8]) {
        self.leave_all(slot, send_pending);
        self.clear_user(slot);
        let send_pending = send_pending && !self.has_unreported_lag(slot);
        if let Some(outbox) = self.clients[slot as usize].outbox.as_mut().filter(|_| !send_pending) {
            outbox.clear();
        }
        if !last.is_empty() {
            self.append(slot, &[last], Content::Control);
        }
        self.end_session(slot, send_pending, last);
        self.clients[slot as usize].finished = true;
        self.queue_client(slot);
    }

    /// Returns whether the client has missed messages that [`Hub::poll_lagged`] has not reported.
    pub(super) fn has_unreported_lag(&self, slot: Slot) -> bool {
        let number = self.clients[slot as usize].number;
        self.lagged.iter().any(|(lagged, _)| *lagged == number)
    }

    /// Returns the number of bytes in the client's outbox: answers that the client has not taken.
    pub fn outbox_len(&self, slot: Slot) -> usize {
        self.clients[slot as usize].outbox.as_ref().map_or(0, |outbox| outbox.len())
    }

    /// Returns whether no send to the client is in flight and nothing is pending for it. Takes time in proportion to the
    /// number of the client's rooms; a finished client has none.
    pub fn is_idle(&self, slot: Slot) -> bool {
        !self.clients[slot as usize].sending && !self.has_pending(slot)
    }

    fn send_bytes(&mut self, slot: Slot, parts: &[&[u8]], content: Content) {
        if self.clients[slot as usize].finished {
            return;
        }
        self.append(slot, parts, content);
        self.limit_outbox(slot, total_len(parts));
    }

    /// Queues the client, and drops its outbox if that exceeds the limit. `len` is the length of the last addition in
    /// bytes; an outbox with nothing else is never dropped.
    pub(super) fn limit_outbox(&mut self, slot: Slot, len: usize) {
        let (lag_window, watched_ms) = (self.options.lag_window, self.watched_ms);
        let outbox = self.outbox(slot).0;
        // A burst alone must not make a client lag, only bytes that wait while the client does not read.
        let limit = if watched_ms - outbox.moved_ms < STALL_MS { lag_window * BURST } else { lag_window };
        if outbox.len() > limit && outbox.len() > len {
            let missed = outbox.clear();
            self.lag(slot, missed);
        }
        self.queue_client(slot);
    }

    fn append(&mut self, slot: Slot, parts: &[&[u8]], content: Content) {
        let (outbox, spares) = self.outbox(slot);
        outbox.append(parts, content, spares);
    }

    /// Returns the client's outbox, created if there is none, and the spare chunks for it.
    pub(super) fn outbox(&mut self, slot: Slot) -> (&mut Outbox, &mut SpareChunks) {
        let Self { clients, spare_outboxes, spare_chunks, watched_ms, .. } = self;
        let outbox = clients[slot as usize].outbox.get_or_insert_with(|| {
            let mut outbox = spare_outboxes.pop().unwrap_or_default();
            outbox.moved_ms = *watched_ms;
            outbox
        });
        (outbox, spare_chunks)
    }
}
