//! Which connections to look at, whether they have fallen silent.

use std::collections::VecDeque;
use std::time::Duration;

use crate::io::{Slot, shorter};

/// Most connections looked at in a turn, so that many that fall silent together hold up nobody.
pub(super) const LOOKS_A_TURN: usize = 64;

/// Room in the queue that is never given back.
const KEPT: usize = 1024;

/// A queue of connections, each to be looked at when it has stood there for a while.
#[derive(Debug)]
pub(super) struct Quiet {
    park_ms: u64,
    /// With the time of their entry, the lower half of the clock.
    queue: VecDeque<(Slot, u32)>,
}

impl Quiet {
    /// Connections are looked at every `park_ms`.
    pub(super) fn new(park_ms: u64) -> Self {
        Self { park_ms, queue: VecDeque::new() }
    }

    /// Has a connection looked at later.
    pub(super) fn list(&mut self, slot: Slot, now_ms: u64) {
        self.queue.push_back((slot, now_ms as u32));
    }

    /// The next one that is due. Its entry is gone.
    pub(super) fn next(&mut self, now_ms: u64) -> Option<Slot> {
        let (slot, _) = *self.queue.front()?;
        if self.wait_ms(now_ms)? > 0 {
            return None;
        }
        self.queue.pop_front();
        if self.queue.capacity() > KEPT && self.queue.len() < self.queue.capacity() / 4 {
            self.queue.shrink_to(self.queue.len() * 2);
        }
        Some(slot)
    }

    /// Shortens a wait so that `next` is asked in time.
    pub(super) fn limit_wait(&self, timeout: Option<Duration>, now_ms: u64) -> Option<Duration> {
        shorter(timeout, self.wait_ms(now_ms))
    }

    fn wait_ms(&self, now_ms: u64) -> Option<u64> {
        let (_, listed_ms) = self.queue.front()?;
        let waited_ms = (now_ms as u32).wrapping_sub(*listed_ms);
        Some(self.park_ms.saturating_sub(waited_ms.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_due_after_its_time_and_in_order() {
        let mut quiet = Quiet::new(1000);
        let start = u64::from(u32::MAX) - 5;
        assert_eq!(quiet.limit_wait(None, start), None);
        quiet.list(7, start);
        quiet.list(8, start + 10);
        assert_eq!(quiet.next(start + 999), None);
        assert_eq!(quiet.limit_wait(None, start + 999), Some(Duration::from_millis(1)));
        assert_eq!(quiet.next(start + 1000), Some(7));
        assert_eq!(quiet.next(start + 1000), None);
        assert_eq!(quiet.next(start + 1010), Some(8));
        assert_eq!(quiet.next(start + 9999), None);
    }

    #[test]
    fn a_crowd_that_is_gone_leaves_no_memory() {
        let mut quiet = Quiet::new(1);
        (0..10_000).for_each(|slot| quiet.list(slot, 0));
        assert_eq!(std::iter::from_fn(|| quiet.next(1)).count(), 10_000);
        assert!(quiet.queue.capacity() <= KEPT, "{}", quiet.queue.capacity());
    }
}
