//! A queue of many deadlines with a coarse resolution.

use std::collections::BTreeMap;

/// Width of a tick in milliseconds. A timer fires at most this much after its deadline.
const TICK_MS: u64 = 20;

/// A queue of keys by deadline. Timers are cheap to set and cannot be cancelled: when a timer fires, its owner checks
/// whether the deadline still holds.
#[derive(Debug)]
pub struct Timers<K> {
    /// Keys of the timers, by the tick of their deadline. A key is due at the end of its tick.
    ticks: BTreeMap<u64, Vec<K>>,
}

impl<K> Default for Timers<K> {
    fn default() -> Self {
        Self { ticks: BTreeMap::new() }
    }
}

impl<K> Timers<K> {
    /// Sets a timer: [`Timers::expired`] returns `key` once `deadline_ms`, a time in milliseconds, has passed.
    pub fn set(&mut self, deadline_ms: u64, key: K) {
        self.ticks.entry(deadline_ms / TICK_MS).or_default().push(key);
    }

    /// Removes and returns the keys of the first tick that has passed, or returns `None` if no tick has passed. Call
    /// this until it returns `None`.
    pub fn expired(&mut self, now_ms: u64) -> Option<Vec<K>> {
        let entry = self.ticks.first_entry()?;
        (Self::due_ms(*entry.key()) <= now_ms).then(|| entry.remove())
    }

    /// Returns the time, in milliseconds, from which [`Timers::expired`] returns keys again. `None` when no timer is
    /// set.
    pub fn next_due_ms(&self) -> Option<u64> {
        self.ticks.first_key_value().map(|(tick, _)| Self::due_ms(*tick))
    }

    fn due_ms(tick: u64) -> u64 {
        (tick + 1) * TICK_MS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_fires_before_its_deadline_and_everything_fires_in_order() {
        let mut timers = Timers::default();
        for deadline in [500, 100, 101, 5_000] {
            timers.set(deadline, deadline);
        }
        assert!(timers.expired(99).is_none());
        let mut now = 0;
        let mut fired = Vec::new();
        while let Some(due) = timers.next_due_ms() {
            assert!(due >= now);
            now = due;
            fired.extend(timers.expired(now).expect("due now").into_iter().inspect(|k| assert!(*k <= now)));
        }
        assert_eq!(fired, [100, 101, 500, 5_000]);
    }
}
