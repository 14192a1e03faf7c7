//! What a worker counts and measures, and how the counts of several become one.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::connections::Repeated;

/// So many different reasons are kept; a server that gives every client another one must not fill the memory.
const MAX_REASONS: usize = 24;
/// The longest time that is told from longer ones: one hour, in nanoseconds.
const LONGEST_NS: u64 = 3_600_000_000_000;

/// Times in nanoseconds, to three digits.
#[derive(Debug, Clone)]
pub(crate) struct Times(pub(crate) Histogram<u64>);

/// Everything that one worker, or all together, found out.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Totals {
    pub(crate) counts: Counts,
    /// Of the messages that were due in the measured window.
    pub(crate) latency: Times,
    /// How late the generator itself sent, for the same messages.
    pub(crate) lag: Times,
    /// How long the rounds of a storm took.
    pub(crate) rounds: Times,
    /// Connections that were opened.
    pub(crate) opened: u64,
    /// Why the others were not.
    pub(crate) failures: Reasons,
    /// Why connections ended before their time.
    pub(crate) ends: Reasons,
    /// A digest of the order in which messages came, for each order that a receiver saw.
    pub(crate) orders: BTreeMap<u64, u64>,
    /// What each thread used of its CPU in the measured window.
    pub(crate) threads: Vec<ThreadUse>,
    pub(crate) wire: Wire,
    pub(crate) curve: Curve,
}

/// How connections ended and came back, over the measured window.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Curve {
    /// One for each tenth of a second.
    pub(crate) steps: Vec<Step>,
    /// When the last one was back, in nanoseconds.
    pub(crate) last_back_ns: u64,
}

/// What happened in a tenth of a second.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Step {
    /// Connections closed.
    pub(crate) closed: u64,
    /// Opened again.
    pub(crate) back: u64,
    /// Attempts to do so that failed.
    pub(crate) failed: u64,
}

/// What messages took on the wire, from the server to us, and what they said.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Wire {
    /// Messages of any kind, intact or not.
    pub(crate) messages: u64,
    /// Their frames with headers, compressed or not, in bytes.
    pub(crate) frame_bytes: u64,
    /// What they said, in bytes.
    pub(crate) payload_bytes: u64,
}

/// Numbers of messages.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Counts {
    /// Given to the kernel, or on the way there.
    pub(crate) sent: u64,
    /// Intact ones received, in all.
    pub(crate) received: u64,
    /// Intact ones received in the measured window.
    pub(crate) measured: u64,
    pub(crate) lost: u64,
    pub(crate) duplicated: u64,
    pub(crate) reordered: u64,
    pub(crate) corrupt: u64,
    /// Received, but not of this run.
    pub(crate) foreign: u64,
    /// Due, but held back because the server took no more.
    pub(crate) unsent: u64,
    /// Still to come when the time was up, while others came.
    pub(crate) unfinished: u64,
}

/// How often each reason was given.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Reasons(pub(crate) BTreeMap<String, u64>);

/// CPU of one thread, in nanoseconds.
#[derive(Debug, Default, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct ThreadUse {
    /// Length of the window.
    pub(crate) wall_ns: u64,
    /// It ran.
    pub(crate) cpu_ns: u64,
    /// It could have run, but the core was taken.
    pub(crate) wait_ns: u64,
}

/// News for the progress line.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Tick {
    pub(crate) worker: usize,
    /// Connections open now.
    pub(crate) open: usize,
    /// Messages, or handshakes, since the last tick.
    pub(crate) done: u64,
    /// Lost ones not yet counted, all other faults so far.
    pub(crate) faults: u64,
    /// Latencies since the last tick.
    pub(crate) latency: Times,
}

impl Totals {
    /// Adds what another worker found.
    pub(crate) fn add(&mut self, other: Self) {
        self.counts.add(other.counts);
        self.latency.add(&other.latency);
        self.lag.add(&other.lag);
        self.rounds.add(&other.rounds);
        self.opened += other.opened;
        self.failures.add(other.failures);
        self.ends.add(other.ends);
        for (order, receivers) in other.orders {
            *self.orders.entry(order).or_default() += receivers;
        }
        self.threads.extend(other.threads);
        self.wire.messages += other.wire.messages;
        self.wire.frame_bytes += other.wire.frame_bytes;
        self.wire.payload_bytes += other.wire.payload_bytes;
        self.curve.add(&other.curve);
    }
}

impl Curve {
    /// The width of a step, in nanoseconds.
    const STEP_NS: u64 = 100_000_000;

    /// The step that lies so far into the window.
    pub(crate) fn at(&mut self, elapsed_ns: u64) -> &mut Step {
        let index = (elapsed_ns / Self::STEP_NS) as usize;
        self.steps.resize(self.steps.len().max(index + 1), Step::default());
        &mut self.steps[index]
    }

    fn add(&mut self, other: &Self) {
        for (index, step) in other.steps.iter().enumerate() {
            let sum = self.at(index as u64 * Self::STEP_NS);
            sum.closed += step.closed;
            sum.back += step.back;
            sum.failed += step.failed;
        }
        self.last_back_ns = self.last_back_ns.max(other.last_back_ns);
    }
}

impl Wire {
    /// A message came, of which the last or only frame had `frame_len` bytes.
    pub(crate) fn count(&mut self, frame_len: usize, payload_len: usize) {
        self.messages += 1;
        self.frame_bytes += frame_len as u64;
        self.payload_bytes += payload_len as u64;
    }

    /// Messages came that were recognised.
    pub(crate) fn count_again(&mut self, repeated: Repeated) {
        self.messages += repeated.messages as u64;
        self.frame_bytes += repeated.bytes as u64;
        self.payload_bytes += repeated.payload_bytes as u64;
    }
}

impl Counts {
    /// Messages that did not come as they should.
    pub(crate) fn faults(&self) -> u64 {
        self.lost + self.duplicated + self.reordered + self.corrupt
    }

    fn add(&mut self, other: Self) {
        self.sent += other.sent;
        self.received += other.received;
        self.measured += other.measured;
        self.lost += other.lost;
        self.duplicated += other.duplicated;
        self.reordered += other.reordered;
        self.corrupt += other.corrupt;
        self.foreign += other.foreign;
        self.unsent += other.unsent;
        self.unfinished += other.unfinished;
    }
}

impl Reasons {
    pub(crate) fn note(&mut self, reason: String) {
        self.note_times(reason, 1);
    }

    pub(crate) fn total(&self) -> u64 {
        self.0.values().sum()
    }

    fn add(&mut self, other: Self) {
        for (reason, times) in other.0 {
            self.note_times(reason, times);
        }
    }

    fn note_times(&mut self, reason: String, times: u64) {
        let known = self.0.len() < MAX_REASONS || self.0.contains_key(&reason);
        let reason = if known { reason } else { "other reasons".to_owned() };
        *self.0.entry(reason).or_default() += times;
    }
}

impl Times {
    pub(crate) fn record(&mut self, time_ns: u64) {
        self.record_n(time_ns, 1);
    }

    pub(crate) fn record_n(&mut self, time_ns: u64, count: u64) {
        self.0.saturating_record_n(time_ns, count);
    }

    pub(crate) fn add(&mut self, other: &Self) {
        self.0.add(&other.0).expect("all histograms have the same bounds");
    }
}

impl Default for Times {
    fn default() -> Self {
        Self(Histogram::new_with_bounds(1, LONGEST_NS, 3).expect("the bounds are valid"))
    }
}

impl Serialize for Times {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let recorded = self.0.iter_recorded();
        serializer.collect_seq(recorded.map(|step| (step.value_iterated_to(), step.count_at_value())))
    }
}

impl<'de> Deserialize<'de> for Times {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut times = Self::default();
        for (value, count) in Vec::<(u64, u64)>::deserialize(deserializer)? {
            times.0.saturating_record_n(value, count);
        }
        Ok(times)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn totals_survive_a_process_boundary_and_add_up() {
        let wire = Wire { messages: 2, frame_bytes: 30, payload_bytes: 70 };
        let mut totals = Totals { opened: 3, wire, ..Totals::default() };
        for time_ns in [1, 999, 123_456, 7_000_000_000] {
            totals.latency.record(time_ns);
        }
        totals.failures.note("refused".to_owned());
        totals.orders.insert(u64::MAX, 2);
        let text = serde_json::to_string(&totals).expect("totals have a JSON form");
        let copy: Totals = serde_json::from_str(&text).expect("it reads its own form");
        totals.add(copy);
        assert_eq!(totals.opened, 6);
        assert_eq!(totals.wire, Wire { messages: 4, frame_bytes: 60, payload_bytes: 140 });
        assert_eq!(totals.orders[&u64::MAX], 4);
        assert_eq!(totals.failures.total(), 2);
        let counts: Vec<u64> = totals.latency.0.iter_recorded().map(|step| step.count_at_value()).collect();
        assert_eq!(counts, [2; 4]);
    }

    #[test]
    fn curves_of_different_lengths_add_up() {
        let (mut one, mut other) =
            (Curve::default(), Curve { last_back_ns: 250_000_000, ..Curve::default() });
        one.at(50_000_000).closed += 2;
        other.at(99_999_999).closed += 1;
        other.at(250_000_000).back += 1;
        one.add(&other);
        let (first, last) = (Step { closed: 3, ..Step::default() }, Step { back: 1, ..Step::default() });
        assert_eq!((&*one.steps, one.last_back_ns), (&[first, Step::default(), last][..], 250_000_000));
    }

    #[test]
    fn endless_reasons_stay_bounded_and_none_is_uncounted() {
        let mut reasons = Reasons::default();
        for number in 0..1000 {
            reasons.note(number.to_string());
        }
        assert_eq!(reasons.0.len(), MAX_REASONS + 1);
        assert_eq!(reasons.total(), 1000);
    }
}
