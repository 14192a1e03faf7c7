//! Frames for one client alone, and the end of a client.

use super::outbox::{Content, Outbox};
use super::spare_chunks::SpareChunks;
use super::{Encoding, Hub, Message, Slot, total_len, with_frame};

/// A client that takes nothing of its outbox for this time does not read, in milliseconds.
pub(super) const STALL_MS: u64 = 1_000;
/// Number of lag windows that may wait in the outbox of a client that reads.
const BURST: usize = 16;

impl Hub {
    /// Sends a message to one client.
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

    /// Sends a control frame to one client, unless it is finished.
    pub fn send_control(&mut self, slot: Slot, parts: &[&[u8]]) {
        self.send_bytes(slot, parts, Content::Control);
    }

    /// Sends an HTTP response.
    pub fn send_response(&mut self, slot: Slot, response: &[u8]) {
        self.send_bytes(slot, &[response], Content::Response);
    }

    /// Stops delivery to the client: it gets nothing new, then `last`. What is pending goes before `last` with
    /// `send_pending`, and is dropped without.
    pub fn finish(&mut self, slot: Slot, send_pending: bool, last: &[u8]) {
        self.leave_all(slot, send_pending);
        if let Some(outbox) = self.clients[slot as usize].outbox.as_mut().filter(|_| !send_pending) {
            outbox.clear();
        }
        if !last.is_empty() {
            self.append(slot, &[last], Content::Control);
        }
        self.clients[slot as usize].finished = true;
        self.queue_client(slot);
    }

    /// Bytes in the client's outbox: answers that it has not taken.
    pub fn outbox_len(&self, slot: Slot) -> usize {
        self.clients[slot as usize].outbox.as_ref().map_or(0, |outbox| outbox.len())
    }

    /// Whether nothing is in flight or pending for the client.
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

    /// Drops the client's outbox if it holds too much beside the `len` bytes that were added last. Queues the client.
    pub(super) fn limit_outbox(&mut self, slot: Slot, len: usize) {
        let (lag_window, watched_ms) = (self.options.lag_window, self.watched_ms);
        let outbox = self.outbox(slot).0;
        // A burst alone makes nobody lag, only bytes that wait for a client that does not read.
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

    /// The client's outbox, made if there is none, and the chunks that it may use.
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
