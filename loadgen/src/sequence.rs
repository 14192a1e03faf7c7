//! Whether every message came once and in order, for many streams at once.

use std::collections::HashMap;
use std::ops::Range;

/// How a message stands in its stream.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// It is the next one.
    Next,
    /// Some before it have not come (yet).
    AfterGap,
    /// It was missing, and comes after a later one.
    Late,
    /// It has come before.
    Duplicate,
}

/// How many messages of a stream have not come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Missing {
    /// Although later ones have.
    pub(crate) inside: u64,
    /// After the last one that has.
    pub(crate) after: u64,
}

/// The state of a fixed number of streams, each counting from 0.
pub(crate) struct Sequences {
    /// The number after the highest that has come, for each stream.
    next: Vec<u32>,
    /// What is missing below `next`: only the streams that have gaps are in here.
    gaps: HashMap<usize, Vec<Range<u32>>>,
}

impl Sequences {
    pub(crate) fn new(streams: usize) -> Self {
        Self { next: vec![0; streams], gaps: HashMap::new() }
    }

    /// Notes that message `sequence` of `stream` has come.
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

    /// Which of the first `sent` messages of `stream` have not come.
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

    /// Remembers everything that has come.
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
