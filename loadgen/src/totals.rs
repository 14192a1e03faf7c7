//! The counters and times of a run, and the addition of several workers' results.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::connections::Repeated;
use crate::deliveries::Deliveries;

/// Largest number of different failure reasons that are kept. A server with random reasons cannot fill the memory.
const MAX_REASONS: usize = 24;
/// Upper limit of recorded times, in nanoseconds: one hour.
const LONGEST_NS: u64 = 3_600_000_000_000;

/// A histogram of times in nanoseconds, with three significant digits.
#[derive(Debug, Clone)]
pub(crate) struct Times(pub(crate) Histogram<u64>);

/// The results of one worker, or of all workers together.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Totals {
    pub(crate) counts: Counts,
    /// Latency of the messages that were due in the measured window.
    pub(crate) latency: Times,
    /// Delay between due time and sending, for messages that were due in the measured window.
    pub(crate) lag: Times,
    /// Durations of the rounds of the storm scenario.
    pub(crate) rounds: Times,
    /// Number of connections that were opened.
    pub(crate) opened: u64,
    /// Reasons why connections could not be opened.
    pub(crate) failures: Reasons,
    /// Reasons why open connections ended although the client did not close them.
    pub(crate) ends: Reasons,
    /// Number of receivers for each order of messages. The key is a hash of the order.
    pub(crate) orders: BTreeMap<u64, u64>,
    /// CPU use of each worker thread in the measured window.
    pub(crate) threads: Vec<ThreadUse>,
    pub(crate) wire: Wire,
    pub(crate) curve: Curve,
    pub(crate) answers: Answers,
}

/// The responses to requests that publish, and the deliveries of the published messages.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Answers {
    /// Number of subscribers that were connected when the traffic began.
    pub(crate) subscribers: u64,
    /// Number of messages that the server accepted in the measured window.
    pub(crate) measured: u64,
    /// Time from the due time of a request to its response, for requests that were due in the measured window.
    pub(crate) latency: Times,
    /// Number of responses by status. The status of a refusal has its reason and the start of its body.
    pub(crate) statuses: Reasons,
    pub(crate) deliveries: Deliveries,
}

/// Numbers of connections that were closed and reopened over the measured window.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Curve {
    /// The events over time: one entry per tenth of a second.
    pub(crate) steps: Vec<Step>,
    /// The time when the last closed connection was open again, in nanoseconds since the start of the measured window.
    pub(crate) last_back_ns: u64,
}

/// The numbers of closed and reopened connections in one tenth of a second.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Step {
    /// Connections that the server closed.
    pub(crate) closed: u64,
    /// Connections that were reopened.
    pub(crate) back: u64,
    /// Number of failed attempts to reopen a connection.
    pub(crate) failed: u64,
}

/// Number and size of the messages from the server, on the wire and as payload.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Wire {
    /// Number of received messages of any kind, intact or not.
    pub(crate) messages: u64,
    /// Size of the received frames with headers, compressed or not, in bytes.
    pub(crate) frame_bytes: u64,
    /// Size of the received payloads after decompression, in bytes.
    pub(crate) payload_bytes: u64,
}

/// Numbers of messages by result.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Counts {
    /// Messages that were handed to the kernel or wait in an outbox.
    pub(crate) sent: u64,
    /// Number of intact messages received.
    pub(crate) received: u64,
    /// Number of intact messages received in the measured window.
    pub(crate) measured: u64,
    pub(crate) lost: u64,
    pub(crate) duplicated: u64,
    pub(crate) reordered: u64,
    pub(crate) corrupt: u64,
    /// Intact messages that another connection sent, in a scenario without rooms. These messages count as corrupt, too.
    #[serde(default)]
    pub(crate) misdelivered: u64,
    /// Intact messages that another connection sent, in a scenario with rooms.
    #[serde(default)]
    pub(crate) from_others: u64,
    /// Received messages that are not from this run.
    pub(crate) foreign: u64,
    /// Messages that the server refused to publish.
    #[serde(default)]
    pub(crate) refused: u64,
    /// Messages that were due but never sent, because the server accepted no more bytes.
    pub(crate) unsent: u64,
    /// Messages that had not arrived when the wait for them ended, although other messages were still arriving.
    pub(crate) unfinished: u64,
}

/// Number of occurrences of each failure reason.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Reasons(pub(crate) BTreeMap<String, u64>);

/// CPU use of one thread, in nanoseconds.
#[derive(Debug, Default, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct ThreadUse {
    /// Length of the window in which the thread was measured.
    pub(crate) wall_ns: u64,
    /// Time in which the thread ran on a core.
    pub(crate) cpu_ns: u64,
    /// Time in which the thread was ready to run and had no core.
    pub(crate) wait_ns: u64,
}

/// A worker's figures for the progress line.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Tick {
    pub(crate) worker: usize,
    /// Number of the worker's connections that are open now.
    pub(crate) open: usize,
    /// Number of received messages or handshakes since the last tick.
    pub(crate) done: u64,
    /// Number of faults since the start of the run. Lost messages are counted at the end only.
    pub(crate) faults: u64,
    /// Latencies of received messages since the last tick.
    pub(crate) latency: Times,
}

impl Totals {
    /// Adds the results of another worker to these results.
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
        self.answers.add(other.answers);
    }
}

impl Answers {
    fn add(&mut self, other: Self) {
        self.subscribers += other.subscribers;
        self.measured += other.measured;
        self.latency.add(&other.latency);
        self.statuses.add(other.statuses);
        self.deliveries.add(&other.deliveries);
    }
}

impl Curve {
    /// The length of a [`Step`], in nanoseconds.
    const STEP_NS: u64 = 100_000_000;

    /// Returns the step that contains the time `elapsed_ns` nanoseconds after the start of the measured window.
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
    /// Counts a received message whose last or only frame has `frame_len` bytes.
    pub(crate) fn count(&mut self, frame_len: usize, payload_len: usize) {
        self.messages += 1;
        self.frame_bytes += frame_len as u64;
        self.payload_bytes += payload_len as u64;
    }

    /// Counts received messages that the handler has recognised.
    pub(crate) fn count_again(&mut self, repeated: Repeated) {
        self.messages += repeated.messages as u64;
        self.frame_bytes += repeated.bytes as u64;
        self.payload_bytes += repeated.payload_bytes as u64;
    }
}

impl Counts {
    /// Returns the number of messages that are lost, duplicated, reordered, corrupt or refused.
    pub(crate) fn faults(&self) -> u64 {
        self.lost + self.duplicated + self.reordered + self.corrupt + self.refused
    }

    fn add(&mut self, other: Self) {
        self.sent += other.sent;
        self.received += other.received;
        self.measured += other.measured;
        self.lost += other.lost;
        self.duplicated += other.duplicated;
        self.reordered += other.reordered;
        self.corrupt += other.corrupt;
        self.misdelivered += other.misdelivered;
        self.from_others += other.from_others;
        self.foreign += other.foreign;
        self.refused += other.refused;
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
    fn many_different_reasons_are_bounded_and_all_counted() {
        let mut reasons = Reasons::default();
        for number in 0..1000 {
            reasons.note(number.to_string());
        }
        assert_eq!(reasons.0.len(), MAX_REASONS + 1);
        assert_eq!(reasons.total(), 1000);
    }
}
