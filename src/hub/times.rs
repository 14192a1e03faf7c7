//! Arrival times of the last messages of a room.

use std::collections::VecDeque;

/// Resolution of arrival times in milliseconds: messages that arrive within this time of a mark share the mark.
const GRAIN_MS: u64 = 1_000;

/// Arrival times of the messages in a room's history, with a resolution of one second. Only the room's home shard keeps
/// arrival times.
#[derive(Debug, Default)]
pub(crate) struct Times {
    /// Arrival marks, oldest first. Each mark applies to the messages before the next mark.
    marks: VecDeque<Mark>,
}

/// A mark: the arrival time of a message and of the messages that arrive within [`GRAIN_MS`] after it.
#[derive(Clone, Copy, Debug)]
struct Mark {
    /// Number of the first message to which the mark applies.
    first: u64,
    at_ms: u64,
}

impl Times {
    /// Records the arrival of message `number`, and drops the times of the messages before number `oldest`.
    pub(crate) fn note(&mut self, number: u64, now_ms: u64, oldest: u64) {
        if self.marks.back().is_none_or(|last| now_ms >= last.at_ms + GRAIN_MS) {
            self.marks.push_back(Mark { first: number, at_ms: now_ms });
        }
        while self.marks.get(1).is_some_and(|second| second.first <= oldest) {
            self.marks.pop_front();
        }
    }

    /// Returns the ages, in seconds, of the messages with the numbers `numbers`.
    pub(crate) fn ages(&self, numbers: std::ops::Range<u64>, now_ms: u64) -> Vec<u32> {
        let age = |number| {
            let after = self.marks.partition_point(|mark| mark.first <= number);
            let at_ms = after.checked_sub(1).map_or(now_ms, |last| self.marks[last].at_ms);
            u32::try_from(now_ms.saturating_sub(at_ms) / 1_000).unwrap_or(u32::MAX)
        };
        numbers.map(age).collect()
    }

    /// Returns the number of the first message that may have arrived after `since_ms`, a time in milliseconds.
    /// `u64::MAX` if no message with a known time has.
    pub(crate) fn first_after(&self, since_ms: u64) -> u64 {
        let before = self.marks.partition_point(|mark| mark.at_ms + GRAIN_MS <= since_ms);
        self.marks.get(before).map_or(u64::MAX, |mark| mark.first)
    }

    /// Drops all arrival times and frees their memory.
    pub(crate) fn clear(&mut self) {
        self.marks = VecDeque::new();
    }

    /// Returns the memory of the arrival times in bytes.
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
            times.note(number, now_ms, 0);
        }
        assert_eq!(times.ages(0..6, 70_000), [70, 70, 70, 69, 9, 9]);
        let firsts =
            [0, 999, 1_000, 1_999, 2_000, 61_999, 62_000].map(|since_ms| times.first_after(since_ms));
        assert_eq!(firsts, [0, 0, 3, 3, 4, 4, u64::MAX], "a mark covers the second behind it");
        assert_eq!(times.ages(4..6, 61_500), [0, 0]);
        assert!(times.ages(6..6, 70_000).is_empty());
    }

    #[test]
    fn memory_is_bounded_by_what_is_kept() {
        let mut times = Times::default();
        for number in 0..100_000 {
            times.note(number, number * 5_000, (number + 1).saturating_sub(50));
        }
        assert!(times.memory() <= 128 * size_of::<Mark>(), "{}", times.memory());
        let ages = times.ages(99_950..100_000, 99_999 * 5_000);
        assert_eq!((ages.len(), ages[0], ages[49]), (50, 49 * 5, 0));
        times.clear();
        assert_eq!(times.memory(), 0);
    }
}
