//! When the last messages of a room came.

use std::collections::VecDeque;

/// Messages that come within this time of each other share a mark.
const GRAIN_MS: u64 = 1_000;

/// The times of the messages that a room keeps for newcomers, to the second. The room's home shard has them.
#[derive(Debug, Default)]
pub(crate) struct Times {
    /// The oldest first. Each holds for the messages up to the next one.
    marks: VecDeque<Mark>,
}

/// The time at which a message came, and those after it.
#[derive(Clone, Copy, Debug)]
struct Mark {
    /// Number of the first message.
    first: u64,
    at_ms: u64,
}

impl Times {
    /// Notes that message `number` came, and forgets those before the last `kept`.
    pub(crate) fn note(&mut self, number: u64, now_ms: u64, kept: u32) {
        let oldest = (number + 1).saturating_sub(kept.into());
        if self.marks.back().is_none_or(|last| now_ms >= last.at_ms + GRAIN_MS) {
            self.marks.push_back(Mark { first: number, at_ms: now_ms });
        }
        while self.marks.get(1).is_some_and(|second| second.first <= oldest) {
            self.marks.pop_front();
        }
    }

    /// The ages, in seconds, of the messages `numbers`, which were noted.
    pub(crate) fn ages(&self, numbers: std::ops::Range<u64>, now_ms: u64) -> Vec<u32> {
        let age = |number| {
            let after = self.marks.partition_point(|mark| mark.first <= number);
            let at_ms = after.checked_sub(1).map_or(now_ms, |last| self.marks[last].at_ms);
            u32::try_from(now_ms.saturating_sub(at_ms) / 1_000).unwrap_or(u32::MAX)
        };
        numbers.map(age).collect()
    }

    /// Gives the memory back.
    pub(crate) fn clear(&mut self) {
        self.marks = VecDeque::new();
    }

    /// Bytes of memory.
    pub(crate) fn memory(&self) -> usize {
        self.marks.capacity() * size_of::<Mark>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_messages_have_their_ages() {
        let mut times = Times::default();
        for (number, now_ms) in [(0, 0), (1, 500), (2, 999), (3, 1_000), (4, 61_000), (5, 61_001)] {
            times.note(number, now_ms, 50);
        }
        assert_eq!(times.ages(0..6, 70_000), [70, 70, 70, 69, 9, 9]);
        assert_eq!(times.ages(4..6, 61_500), [0, 0]);
        assert!(times.ages(6..6, 70_000).is_empty());
    }

    #[test]
    fn memory_is_bounded_by_what_is_kept() {
        let mut times = Times::default();
        for number in 0..100_000 {
            times.note(number, number * 5_000, 50);
        }
        assert!(times.memory() <= 128 * size_of::<Mark>(), "{}", times.memory());
        let ages = times.ages(99_950..100_000, 99_999 * 5_000);
        assert_eq!((ages.len(), ages[0], ages[49]), (50, 49 * 5, 0));
        times.clear();
        assert_eq!(times.memory(), 0);
    }
}
