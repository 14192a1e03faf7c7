//! Measurements of a shard beyond its counters: durations, and sums that are made only when they are asked for.

use crate::hub::Slot;
use crate::io::Backend;

use super::Shard;
use super::connection::Phase;

/// Sampling ratio of send latency: one slot in this many is measured, with all sends to its client.
const SLOTS_A_SAMPLE: Slot = 16;

/// Start times of the sends whose latency is measured, in nanoseconds. All sends to a chosen client are measured, so
/// that slow readers are not under-represented.
#[derive(Debug, Default)]
pub(super) struct Samples(Vec<u64>);

impl Samples {
    /// Returns the stored start time of the client's send, or `None` for a client that is not measured.
    fn at(&mut self, slot: Slot) -> Option<&mut u64> {
        if !slot.is_multiple_of(SLOTS_A_SAMPLE) {
            return None;
        }
        let index = (slot / SLOTS_A_SAMPLE) as usize;
        if index >= self.0.len() {
            self.0.resize(index + 1, 0);
        }
        Some(&mut self.0[index])
    }
}

impl<B: Backend> Shard<B> {
    /// Counts a turn, and stores the time at which it began in the statistics.
    pub(super) fn count_turn(&self) {
        self.stats.turns.add(1);
        self.stats.turned_ms.set(self.transport.now_ms());
    }

    /// Ends a turn: records its duration, and updates the gauges if another thread has asked for them.
    pub(super) fn measure_turn(&mut self) {
        // The backend reads the clock after its wait, so the difference is the turn's duration without the wait.
        self.stats.turn_duration.record(self.transport.clock_ns() - self.transport.now_ns());
        if let Some(question) = self.stats.survey.question() {
            self.take_stock();
            self.stats.survey.answer(question);
        }
    }

    /// Moves a connection from its old phase to its new phase in the gauges of connections by state.
    pub(super) fn count_phase(&self, from: Phase, to: Phase) {
        if let Some(state) = from.state() {
            self.stats.connections[state as usize].take(1);
        }
        if let Some(state) = to.state() {
            self.stats.connections[state as usize].add(1);
        }
    }

    /// Stores the start time of a send that is about to be handed to the backend, if the client is measured.
    pub(super) fn begin_sample(&mut self, slot: Slot) {
        if let Some(begin_ns) = self.samples.at(slot) {
            *begin_ns = self.transport.clock_ns();
        }
    }

    /// Records the latency of a completed send, if the client is measured.
    pub(super) fn end_sample(&mut self, slot: Slot) {
        if let Some(begin_ns) = self.samples.at(slot) {
            self.stats.send_latency.record(self.transport.now_ns().saturating_sub(*begin_ns));
        }
    }

    /// Updates the gauges, which would cost too much to keep up to date all the time.
    fn take_stock(&self) {
        let (rooms, log_bytes) = self.hub.memory();
        let usage = self.transport.usage();
        let stats = &self.stats;
        stats.rooms.set(rooms as u64);
        stats.log_bytes.set(log_bytes as u64);
        stats.outbox_bytes.set(self.hub.outbox_bytes() as u64);
        stats.held_bytes.set(self.flow.held_bytes() as u64);
        stats.receive_buffer_bytes.set(usage.buffer_bytes as u64);
        stats.sends_under_way.set(usage.sends_under_way as u64);
        stats.paused_publishers.set(self.flow.publishers() as u64);
        stats.memory_bytes.set(self.memory_held() as u64);
        stats.memory_limit_bytes.set(self.settings.memory.full() as u64);
        stats.short_of_memory.set(self.memory.paused() as u64);
        stats.ring_overflows.set(usage.ring_overflows);
        stats.starved.set(usage.starved);
        let sessions = self.hub.session_counts();
        stats.sessions.set(self.hub.session_entries() as u64);
        stats.sessions_detached.set(sessions.detached);
        stats.sessions_resumed.set(sessions.resumed);
        stats.sessions_expired.set(sessions.expired);
        stats.replayed.set(sessions.replayed);
        stats.missed.set(sessions.missed);
        let tls = self.transport.tls_usage();
        stats.tls_handshakes.set(tls.handshakes);
        stats.tls_resumed.set(tls.resumed);
    }
}
