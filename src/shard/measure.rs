//! What a shard tells of itself beside what it counts as it goes.

use crate::hub::Slot;
use crate::io::Backend;

use super::connection::Phase;
use super::{Held, Shard};

/// Sends to the client in one of so many slots have their latency measured.
const SLOTS_A_SAMPLE: Slot = 16;

/// When the sends were handed over whose latency is measured. Whole clients are chosen, so that those who read
/// slowly count for as many sends as they get, and the others cost nothing but this choice.
#[derive(Debug, Default)]
pub(super) struct Samples(Vec<u64>);

impl Samples {
    /// Where the time of this client's send belongs; nowhere for most.
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
    pub(super) fn count_turn(&self) {
        self.stats.turns.add(1);
        self.stats.turned_ms.set(self.now_ms);
    }

    /// At the end of a turn: notes how long it took, and whatever is asked for.
    pub(super) fn measure_turn(&mut self) {
        // The backend has read the clock after its wait, so this takes one further reading.
        self.stats.turn_duration.record(self.backend.clock_ns() - self.backend.now_ns());
        if let Some(question) = self.stats.survey.question() {
            self.take_stock();
            self.stats.survey.answer(question);
        }
    }

    /// A connection is somewhere else in its life.
    pub(super) fn count_phase(&self, from: Phase, to: Phase) {
        if let Some(state) = from.state() {
            self.stats.connections[state as usize].take(1);
        }
        if let Some(state) = to.state() {
            self.stats.connections[state as usize].add(1);
        }
    }

    /// A send is about to be handed over.
    pub(super) fn begin_sample(&mut self, slot: Slot) {
        if let Some(begin_ns) = self.samples.at(slot) {
            *begin_ns = self.backend.clock_ns();
        }
    }

    /// A send is complete.
    pub(super) fn end_sample(&mut self, slot: Slot) {
        if let Some(begin_ns) = self.samples.at(slot) {
            self.stats.send_latency.record(self.backend.now_ns().saturating_sub(*begin_ns));
        }
    }

    /// Writes down what would cost too much to count as it goes.
    fn take_stock(&self) {
        let held_len = |held: &Held| if let Held::Bytes(bytes) = held { bytes.len() } else { 0 };
        let (rooms, log_bytes) = self.hub.memory();
        let usage = self.backend.usage();
        let stats = &self.stats;
        stats.rooms.set(rooms as u64);
        stats.log_bytes.set(log_bytes as u64);
        stats.outbox_bytes.set(self.hub.outbox_bytes() as u64);
        stats.held_bytes.set(self.held.values().flatten().map(held_len).sum::<usize>() as u64);
        stats.receive_buffer_bytes.set(usage.buffer_bytes as u64);
        stats.sends_under_way.set(usage.sends_under_way as u64);
        stats.paused_publishers.set(self.paused.len() as u64);
        stats.ring_overflows.set(usage.ring_overflows);
        stats.starved.set(usage.starved);
        let tls = self.backend.tls_usage();
        stats.tls_handshakes.set(tls.handshakes);
        stats.tls_resumed.set(tls.resumed);
    }
}
