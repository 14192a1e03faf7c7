//! A bounded queue from any number of threads to one receiver that never waits.

use std::collections::VecDeque;
use std::sync::PoisonError;
use std::sync::TryLockError;

#[cfg(all(loom, test))]
use loom::sync::{
    Mutex,
    atomic::{AtomicBool, Ordering},
};
#[cfg(not(all(loom, test)))]
use std::sync::{
    Mutex,
    atomic::{AtomicBool, Ordering},
};

/// Capacity, in entries, that an empty queue keeps.
const KEPT_ENTRIES: usize = 64;

/// Limits of an [`Entrance`] or of one [`Entrance::take`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    pub(crate) entries: usize,
    pub(crate) bytes: usize,
}

/// The reason why an [`Entrance`] did not accept an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rejection {
    /// The entry does not fit beside the entries that wait.
    Full,
    /// The entry alone is over the queue's limit of bytes.
    TooLarge,
    /// The receiver accepts no further entries.
    Closed,
}

/// A bounded queue from any number of threads to one receiver.
///
/// Senders wait for each other for the time of a push. The receiver never waits: it leaves the entries for later while
/// a sender holds the lock. A queue of crossbeam would let the receiver spin while a sender is preempted in a push.
#[derive(Debug)]
pub(crate) struct Entrance<T> {
    /// Whether entries wait. Changes only under the lock; the receiver reads it without the lock, once a turn.
    has_entries: AtomicBool,
    queue: Mutex<Queue<T>>,
    limits: Limits,
}

#[derive(Debug)]
struct Queue<T> {
    /// The waiting entries in order, each with its size in bytes.
    entries: VecDeque<(T, usize)>,
    /// Sum of the sizes of all waiting entries.
    bytes: usize,
    is_closed: bool,
}

impl<T> Entrance<T> {
    pub(crate) fn new(limits: Limits) -> Self {
        let queue = Queue { entries: VecDeque::new(), bytes: 0, is_closed: false };
        Self { has_entries: AtomicBool::new(false), queue: Mutex::new(queue), limits }
    }

    /// Appends an entry of `bytes` bytes. The caller wakes the receiver afterwards. Returns the entry if it is not
    /// accepted.
    pub(crate) fn push(&self, entry: T, bytes: usize) -> Result<(), (Rejection, T)> {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let rejection = if queue.is_closed {
            Rejection::Closed
        } else if bytes > self.limits.bytes {
            Rejection::TooLarge
        } else if queue.entries.len() >= self.limits.entries
            || bytes > self.limits.bytes.saturating_sub(queue.bytes)
        {
            Rejection::Full
        } else {
            queue.bytes += bytes;
            queue.entries.push_back((entry, bytes));
            self.has_entries.store(true, Ordering::Release);
            return Ok(());
        };
        Err((rejection, entry))
    }

    /// Appends an entry whatever the limits are. For entries whose number is bounded elsewhere, and that must not be lost.
    /// The entry counts against the limits of [`Entrance::push`]. The caller wakes the receiver afterwards. Does nothing
    /// when the queue is closed.
    pub(crate) fn push_always(&self, entry: T, bytes: usize) {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        if !queue.is_closed {
            queue.bytes += bytes;
            queue.entries.push_back((entry, bytes));
            self.has_entries.store(true, Ordering::Release);
        }
    }

    /// Returns whether entries wait. Only the receiver's own [`Entrance::take`] makes this false again.
    pub(crate) fn has_entries(&self) -> bool {
        self.has_entries.load(Ordering::Acquire)
    }

    /// Moves the first entries to `taken`: at least one if any wait, and otherwise at most what `limits` allows. Takes
    /// nothing while a sender holds the lock; [`Entrance::has_entries`] then stays true.
    pub(crate) fn take(&self, limits: Limits, taken: &mut Vec<T>) {
        let mut queue = match self.queue.try_lock() {
            Ok(queue) => queue,
            Err(TryLockError::Poisoned(error)) => error.into_inner(),
            Err(TryLockError::WouldBlock) => return,
        };
        let (mut count, mut total) = (0, 0);
        while count < limits.entries
            && let Some((_, bytes)) = queue.entries.front()
            && (count == 0 || total + bytes <= limits.bytes)
        {
            let Some((entry, bytes)) = queue.entries.pop_front() else { break };
            queue.bytes -= bytes;
            (count, total) = (count + 1, total + bytes);
            taken.push(entry);
        }
        if queue.entries.is_empty() {
            queue.entries.shrink_to(KEPT_ENTRIES);
            self.has_entries.store(false, Ordering::Release);
        }
    }

    /// Reverses the entries that wait: a fault that the simulation injects.
    #[cfg(test)]
    pub(crate) fn reverse(&self) {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        queue.entries.make_contiguous().reverse();
    }

    /// Accepts no further entries, and returns the entries that wait. The only call of the receiver that may wait for a
    /// sender, for the time of a push.
    pub(crate) fn close(&self) -> impl Iterator<Item = T> + use<T> {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        queue.is_closed = true;
        queue.bytes = 0;
        self.has_entries.store(false, Ordering::Release);
        std::mem::take(&mut queue.entries).into_iter().map(|(entry, _)| entry)
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;

    const ALL: Limits = Limits { entries: usize::MAX, bytes: usize::MAX };

    fn take(entrance: &Entrance<u32>, limits: Limits) -> Vec<u32> {
        let mut taken = Vec::new();
        entrance.take(limits, &mut taken);
        taken
    }

    #[test]
    fn entries_and_bytes_are_bounded_exactly() {
        let entrance = Entrance::new(Limits { entries: 3, bytes: 10 });
        assert_eq!(entrance.push(1, 11), Err((Rejection::TooLarge, 1)));
        assert_eq!(entrance.push(2, 10), Ok(()));
        assert_eq!(entrance.push(3, 0), Ok(()));
        assert_eq!(entrance.push(4, 1), Err((Rejection::Full, 4)));
        assert_eq!(entrance.push(5, 0), Ok(()));
        assert_eq!(entrance.push(6, 0), Err((Rejection::Full, 6)));
        assert_eq!(take(&entrance, Limits { entries: 1, ..ALL }), [2]);
        assert_eq!(entrance.push(7, 10), Ok(()));
        assert_eq!(take(&entrance, ALL), [3, 5, 7]);
        assert!(!entrance.has_entries());
    }

    #[test]
    fn an_entry_that_must_not_be_lost_passes_the_limits_and_counts_against_them() {
        let entrance = Entrance::new(Limits { entries: 3, bytes: 10 });
        entrance.push_always(1, 100);
        entrance.push_always(2, 0);
        assert_eq!(entrance.push(3, 1), Err((Rejection::Full, 3)));
        assert_eq!(entrance.push(4, 0), Ok(()));
        entrance.push_always(5, 0);
        assert_eq!(take(&entrance, ALL), [1, 2, 4, 5]);
        assert_eq!(entrance.push(6, 10), Ok(()));
        assert_eq!(entrance.close().collect::<Vec<_>>(), [6]);
        entrance.push_always(7, 0);
        assert!(!entrance.has_entries());
    }

    #[test]
    fn one_take_is_bounded_but_never_empty() {
        let entrance = Entrance::new(ALL);
        for (entry, bytes) in [(1, 100), (2, 4), (3, 4), (4, 4), (5, 9), (6, 1)] {
            entrance.push(entry, bytes).expect("there is room");
        }
        let limits = Limits { entries: 3, bytes: 10 };
        for expected in [&[1][..], &[2, 3], &[4], &[5, 6]] {
            assert!(entrance.has_entries());
            assert_eq!(take(&entrance, limits), expected);
        }
        assert!(!entrance.has_entries());
        assert_eq!(take(&entrance, limits), [0; 0]);
    }

    #[test]
    fn a_closed_entrance_returns_what_waits_and_accepts_nothing() {
        let entrance = Entrance::new(ALL);
        entrance.push(1, 1).expect("there is room");
        entrance.push(2, 1).expect("there is room");
        assert_eq!(entrance.close().collect::<Vec<_>>(), [1, 2]);
        assert_eq!(entrance.push(3, 1), Err((Rejection::Closed, 3)));
        assert!(!entrance.has_entries());
        assert_eq!(entrance.close().count(), 0);
    }

    #[test]
    fn a_receiver_does_not_wait_for_a_sender_that_holds_the_lock() {
        let entrance = Entrance::new(ALL);
        entrance.push(1, 1).expect("there is room");
        let lock = entrance.queue.lock().expect("nobody panicked");
        assert_eq!(take(&entrance, ALL), [0; 0]);
        assert!(entrance.has_entries());
        drop(lock);
        assert_eq!(take(&entrance, ALL), [1]);
    }

    #[test]
    fn an_emptied_queue_does_not_keep_the_memory_of_a_burst() {
        let entrance = Entrance::new(ALL);
        (0..10_000).for_each(|entry| entrance.push(entry, 1).expect("there is room"));
        assert_eq!(take(&entrance, ALL).len(), 10_000);
        assert!(entrance.queue.lock().expect("nobody panicked").entries.capacity() <= 2 * KEPT_ENTRIES);
    }
}
