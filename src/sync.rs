//! Flags that synchronise two threads, and the queue by which other threads reach a shard. `just loom` tests every
//! interleaving of the threads.

mod entrance;

#[cfg(all(loom, test))]
use loom::sync::atomic::{AtomicBool, Ordering, fence};
#[cfg(not(all(loom, test)))]
use std::sync::atomic::{AtomicBool, Ordering, fence};

pub(crate) use entrance::{Entrance, Limits, Rejection};

#[cfg(test)]
#[cfg(loom)]
mod tests;

/// A flag that tells senders whether the receiver sleeps and must be woken.
///
/// A sender makes its message visible, then takes the flag. The receiver raises the flag, then checks for messages.
/// Both threads have a full fence in between, so at least one thread sees what the other did.
#[derive(Debug)]
pub(crate) struct Asleep(AtomicBool);

impl Asleep {
    pub(crate) fn new() -> Self {
        Self(AtomicBool::new(false))
    }

    /// Announces that the receiver will sleep. After this call, the receiver must check for messages once more.
    pub(crate) fn raise(&self) {
        // An atomic exchange, so that all exchanges of the flag by receiver and senders have one order.
        self.0.swap(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// Withdraws the announcement that the receiver will sleep.
    pub(crate) fn lower(&self) {
        self.0.store(false, Ordering::Relaxed);
    }

    /// Clears the flag and returns whether the sender must wake the receiver. The sender calls this after its message
    /// is visible.
    pub(crate) fn take(&self) -> bool {
        fence(Ordering::SeqCst);
        self.0.swap(false, Ordering::Relaxed)
    }
}

/// A flag that tells the owner of a full queue whether senders wait for room.
///
/// A sender raises the flag, then tries to send once more. The owner makes room, then takes the flag. Both operations
/// exchange the flag's value, so the later one sees what the earlier thread did before. A plain store would not give
/// that guarantee.
#[derive(Debug)]
pub(crate) struct Awaited(AtomicBool);

impl Awaited {
    pub(crate) fn new() -> Self {
        Self(AtomicBool::new(false))
    }

    /// Announces that a sender waits for room. After this call, the sender must try once more.
    pub(crate) fn raise(&self) {
        self.0.swap(true, Ordering::SeqCst);
    }

    /// Clears the flag and returns whether a sender waits for room. The owner calls this after it has made room.
    pub(crate) fn take(&self) -> bool {
        self.0.swap(false, Ordering::SeqCst)
    }
}
