//! Checks for many message streams at once that every message arrives once and in order.

use std::collections::HashMap;
use std::ops::Range;

/// The order of a received message relative to the earlier messages of its stream.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// The message has the next expected number.
    Next,
    /// Messages with lower numbers have not arrived yet.
    AfterGap,
    /// The message was missing and arrives after a message with a higher number.
    Late,
    /// The message has arrived before.
    Duplicate,
}

/// The number of messages of a stream that have not arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Missing {
    /// Number of missing messages before the last message that has arrived.
    pub(crate) inside: u64,
    /// Number of missing messages after the last message that has arrived.
    pub(crate) after: u64,
}

/// The arrivals of a fixed number of message streams. Each stream numbers its messages from 0.
pub(crate) struct Sequences {
    /// For each stream, the number after the highest message number that has arrived.
    next: Vec<u32>,
    /// The missing message numbers below `next`, for each stream that has gaps.
    gaps: HashMap<usize, Vec<Range<u32>>>,
}

impl Sequences {
    pub(crate) fn new(streams: usize) -> Self {
        Self { next: vec![0; streams], gaps: HashMap::new() }
    }

    /// Records that message `sequence` of `stream` has arrived. Returns the order of its arrival.
    pub(crate) fn observe(&mut self, stream: usize, sequence: u32) -> Order {
        let next = &mut self.next[stream];
        let expected = *next;
        if sequence < expected {
            return self.fill(stream, sequence);
        }
        *next = sequence + 1;
        if sequence == expected {
            return Order::Next;
        }
        self.gaps.entry(stream).or_default().push(expected..sequence);
        Order::AfterGap
    }

    /// Returns how many of the first `sent` messages of `stream` have not arrived.
    pub(crate) fn missing(&self, stream: usize, sent: u32) -> Missing {
        let gaps = self.gaps.get(&stream).map_or(&[][..], Vec::as_slice);
        let inside = gaps.iter().map(|gap| u64::from(gap.end - gap.start)).sum();
        Missing { inside, after: u64::from(sent.saturating_sub(self.next[stream])) }
    }

    fn fill(&mut self, stream: usize, sequence: u32) -> Order {
        let Some(gaps) = self.gaps.get_mut(&stream) else { return Order::Duplicate };
        let Some(at) = gaps.iter().position(|gap| gap.contains(&sequence)) else { return Order::Duplicate };
        let gap = gaps.swap_remove(at);
        gaps.extend([gap.start..sequence, sequence + 1..gap.end].into_iter().filter(|part| !part.is_empty()));
        if gaps.is_empty() {
            self.gaps.remove(&stream);
        }
        Order::Late
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    /// Returns the order of message `sequence`. `seen` is the set of all message numbers that have arrived.
    fn naive(seen: &mut HashSet<u32>, sequence: u32) -> Order {
        let highest = seen.iter().max().copied();
        if !seen.insert(sequence) {
            return Order::Duplicate;
        }
        let next = highest.map_or(0, |highest| highest + 1);
        match sequence.cmp(&next) {
            std::cmp::Ordering::Less => Order::Late,
            std::cmp::Ordering::Equal => Order::Next,
            std::cmp::Ordering::Greater => Order::AfterGap,
        }
    }

    #[test]
    fn agrees_with_a_set_of_everything_seen() {
        for seed in 0..200 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let mut sequences = Sequences::new(2);
            let mut seen = HashSet::new();
            for _ in 0..100 {
                let sequence = rng.u32(..60);
                assert_eq!(sequences.observe(1, sequence), naive(&mut seen, sequence), "seed {seed}");
                let next = seen.iter().max().map_or(0, |highest| highest + 1);
                let inside = (0..next).filter(|sequence| !seen.contains(sequence)).count() as u64;
                let missing = Missing { inside, after: u64::from(70 - next) };
                assert_eq!(sequences.missing(1, 70), missing, "seed {seed}");
            }
            assert_eq!(sequences.missing(0, 70), Missing { inside: 0, after: 70 });
        }
    }
}
