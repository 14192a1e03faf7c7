//! Timers of an application instance.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

/// The timers that an application instance has set. Each token has at most one timer.
#[derive(Debug, Default)]
pub(crate) struct AppTimers {
    /// The timers in the order in which they fire: the deadline in milliseconds, then the token.
    queue: BTreeSet<(u64, u64)>,
    /// The deadline of each timer in milliseconds, by token.
    deadlines: HashMap<u64, u64>,
}

impl AppTimers {
    /// Sets the timer of a token to `after` the time `now_ms`, rounded up to milliseconds, but at least 1 ms. So a timer
    /// that a handler sets is never due in the same turn.
    pub(crate) fn set(&mut self, now_ms: u64, after: Duration, token: u64) {
        let after_ms = after.as_nanos().div_ceil(1_000_000).max(1);
        let deadline_ms = now_ms.saturating_add(u64::try_from(after_ms).unwrap_or(u64::MAX));
        self.cancel(token);
        self.deadlines.insert(token, deadline_ms);
        self.queue.insert((deadline_ms, token));
    }

    pub(crate) fn cancel(&mut self, token: u64) {
        if let Some(deadline_ms) = self.deadlines.remove(&token) {
            self.queue.remove(&(deadline_ms, token));
        }
    }

    /// Removes and returns the token of the first timer whose deadline has passed at `now_ms`.
    pub(crate) fn expired(&mut self, now_ms: u64) -> Option<u64> {
        let (deadline_ms, token) = *self.queue.first()?;
        if deadline_ms > now_ms {
            return None;
        }
        self.cancel(token);
        Some(token)
    }

    /// Returns the deadline of the next timer in milliseconds. `None` when no timer is set.
    pub(crate) fn next_due_ms(&self) -> Option<u64> {
        self.queue.first().map(|(deadline_ms, _)| *deadline_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the tokens of the timers that are due at `now_ms`.
    fn fire(timers: &mut AppTimers, now_ms: u64) -> Vec<u64> {
        std::iter::from_fn(|| timers.expired(now_ms)).collect()
    }

    #[test]
    fn timers_fire_once_in_the_order_of_their_deadlines() {
        let mut timers = AppTimers::default();
        for (after_ms, token) in [(30, 3), (10, 1), (20, 2), (10, 0)] {
            timers.set(1_000, Duration::from_millis(after_ms), token);
        }
        assert_eq!(timers.next_due_ms(), Some(1_010));
        assert_eq!(fire(&mut timers, 1_009), [0; 0]);
        assert_eq!(fire(&mut timers, 1_020), [0, 1, 2]);
        assert_eq!(fire(&mut timers, 1_020), [0; 0]);
        assert_eq!(fire(&mut timers, u64::MAX), [3]);
        assert_eq!(timers.next_due_ms(), None);
    }

    #[test]
    fn a_second_timer_with_the_same_token_replaces_the_first() {
        let mut timers = AppTimers::default();
        timers.set(0, Duration::from_millis(10), 7);
        timers.set(0, Duration::from_millis(50), 7);
        assert_eq!(fire(&mut timers, 49), [0; 0]);
        timers.set(49, Duration::from_millis(5), 7);
        assert_eq!(fire(&mut timers, 54), [7]);
        assert_eq!(fire(&mut timers, u64::MAX), [0; 0]);
    }

    #[test]
    fn a_cancelled_timer_does_not_fire() {
        let mut timers = AppTimers::default();
        timers.set(0, Duration::from_millis(10), 1);
        timers.set(0, Duration::from_millis(10), 2);
        timers.cancel(1);
        timers.cancel(9);
        assert_eq!(fire(&mut timers, 10), [2]);
    }

    #[test]
    fn a_timer_is_rounded_up_and_is_never_due_at_once() {
        let mut timers = AppTimers::default();
        for (after, deadline_ms) in [
            (Duration::ZERO, 6),
            (Duration::from_nanos(1), 6),
            (Duration::from_micros(1_001), 7),
            (Duration::from_millis(2), 7),
            (Duration::MAX, u64::MAX),
        ] {
            timers.set(5, after, 1);
            assert_eq!(timers.next_due_ms(), Some(deadline_ms), "{after:?}");
        }
    }
}
