//! The time at which each published message has reached its last subscriber.

use serde::{Deserialize, Serialize};

use crate::totals::Times;

/// The deliveries of the messages that were due in the measured window: for each publisher, one span per message.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Deliveries(Vec<Vec<Span>>);

/// The arrivals of one message at the subscribers.
#[derive(Debug, Default, Clone, Copy, Serialize, Deserialize)]
struct Span {
    /// The time when the message was due, in nanoseconds.
    due_ns: u64,
    /// The time of the latest arrival, in nanoseconds.
    last_ns: u64,
    /// Number of subscribers that have the message.
    arrivals: u32,
}

impl Deliveries {
    /// Records the arrival of a message at one more subscriber. Times are in nanoseconds.
    pub(crate) fn note(&mut self, publisher: u32, sequence: u32, due_ns: u64, now: u64) {
        let span = self.span(publisher as usize, sequence as usize);
        span.due_ns = due_ns;
        span.last_ns = span.last_ns.max(now);
        span.arrivals += 1;
    }

    /// Adds the arrivals that another worker has recorded.
    pub(crate) fn add(&mut self, other: &Self) {
        for (publisher, spans) in other.0.iter().enumerate() {
            for (sequence, part) in spans.iter().enumerate().filter(|(_, span)| span.arrivals > 0) {
                let span = self.span(publisher, sequence);
                span.due_ns = part.due_ns;
                span.last_ns = span.last_ns.max(part.last_ns);
                span.arrivals += part.arrivals;
            }
        }
    }

    /// Returns the distribution of the time from a message's due time to its arrival at the last of `subscribers`.
    /// Messages that some subscribers did not get are left out.
    pub(crate) fn to_the_last(&self, subscribers: u64) -> Times {
        let mut times = Times::default();
        let is_whole = |span: &&Span| span.arrivals > 0 && u64::from(span.arrivals) == subscribers;
        for span in self.0.iter().flatten().filter(is_whole) {
            times.record(span.last_ns.saturating_sub(span.due_ns));
        }
        times
    }

    fn span(&mut self, publisher: usize, sequence: usize) -> &mut Span {
        if self.0.len() <= publisher {
            self.0.resize_with(publisher + 1, Vec::new);
        }
        let spans = &mut self.0[publisher];
        if spans.len() <= sequence {
            spans.resize(sequence + 1, Span::default());
        }
        &mut spans[sequence]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_subscriber_of_all_workers_counts() {
        let (mut one, mut other) = (Deliveries::default(), Deliveries::default());
        one.note(1, 5, 100, 300);
        one.note(1, 5, 100, 200);
        other.note(1, 5, 100, 250);
        other.note(1, 6, 100, 900);
        other.note(0, 0, 100, 600);
        one.add(&other);
        let times = one.to_the_last(3);
        assert_eq!((times.0.len(), times.0.max()), (1, 200), "two messages did not reach all");
        assert_eq!(one.to_the_last(1).0.len(), 2);
        assert_eq!(one.to_the_last(0).0.len(), 0);
    }
}
