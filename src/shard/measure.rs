//! Measurements of a shard beyond its counters: durations, and sums that are made only when they are asked for.

use crate::hub::Slot;
use crate::io::Backend;

use super::Shard;
use super::connection::Phase;

/// Latency is measured for all sends to the client in one of so many slots.
const SLOTS_A_SAMPLE: Slot = 16;

/// Start times of the sends whose latency is measured. Whole clients are chosen, so that slow readers are not
/// under-represented, and the others cost nothing but this choice.
#[derive(Debug, Default)]
pub(super) struct Samples(Vec<u64>);

impl Samples {
    /// Returns the start time of the client's send. `None` for clients that are not measured.
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
    /// Counts a turn, and notes when it began.
    pub(super) fn count_turn(&self) {
        self.stats.turns.add(1);
        self.stats.turned_ms.set(self.transport.now_ms());
    }

    /// Ends a turn: records its duration, and answers a survey if there is one.
    pub(super) fn measure_turn(&mut self) {
        // The backend read the clock after its wait, so this is the second reading of the turn.
        self.stats.turn_duration.record(self.transport.clock_ns() - self.transport.now_ns());
        if let Some(question) = self.stats.survey.question() {
            self.take_stock();
            self.stats.survey.answer(question);
        }
    }

    /// Counts a connection under its new phase.
    pub(super) fn count_phase(&self, from: Phase, to: Phase) {
        if let Some(state) = from.state() {
            self.stats.connections[state as usize].take(1);
        }
        if let Some(state) = to.state() {
            self.stats.connections[state as usize].add(1);
        }
    }

    /// Notes the start time of a send that is about to be handed over.
    pub(super) fn begin_sample(&mut self, slot: Slot) {
        if let Some(begin_ns) = self.samples.at(slot) {
            *begin_ns = self.transport.clock_ns();
        }
    }

    /// Records the latency of a send that is complete.
    pub(super) fn end_sample(&mut self, slot: Slot) {
        if let Some(begin_ns) = self.samples.at(slot) {
            self.stats.send_latency.record(self.transport.now_ns().saturating_sub(*begin_ns));
        }
    }

    /// Updates the gauges, whose values would cost too much to keep up to date all the time.
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
        stats.ring_overflows.set(usage.ring_overflows);
        stats.starved.set(usage.starved);
        let tls = self.transport.tls_usage();
        stats.tls_handshakes.set(tls.handshakes);
        stats.tls_resumed.set(tls.resumed);
    }
}
