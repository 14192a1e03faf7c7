//! Flags that synchronise two threads. `just loom` tests every interleaving.

#[cfg(all(loom, test))]
use loom::sync::atomic::{AtomicBool, Ordering, fence};
#[cfg(not(all(loom, test)))]
use std::sync::atomic::{AtomicBool, Ordering, fence};

#[cfg(test)]
#[cfg(loom)]
mod tests;

/// A flag that tells senders whether the receiver sleeps and must be woken.
///
/// A sender makes its message visible, then takes the flag. The receiver raises the flag, then checks for messages.
/// Each has a full fence in between, so at least one of them sees what the other did.
#[derive(Debug)]
pub(crate) struct Asleep(AtomicBool);

impl Asleep {
    pub(crate) fn new() -> Self {
        Self(AtomicBool::new(false))
    }

    /// Announces that the receiver will sleep. It must check for messages once more after this call.
    pub(crate) fn raise(&self) {
        // An exchange, so that it has a place in one order with the exchanges of all senders.
        self.0.swap(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// Withdraws the announcement.
    pub(crate) fn lower(&self) {
        self.0.store(false, Ordering::Relaxed);
    }

    /// Clears the flag and returns whether the sender must wake the receiver. Call it when the message is visible.
    pub(crate) fn take(&self) -> bool {
        fence(Ordering::SeqCst);
        self.0.swap(false, Ordering::Relaxed)
    }
}

/// A flag that tells the owner of a full queue whether senders wait for room.
///
/// A sender raises the flag, then tries once more. The owner makes room, then takes the flag. Both exchange the flag's
/// value, so the later one sees what the earlier one did before. A plain store would not give that guarantee.
#[derive(Debug)]
pub(crate) struct Awaited(AtomicBool);

impl Awaited {
    pub(crate) fn new() -> Self {
        Self(AtomicBool::new(false))
    }

    /// Announces that a sender waits. It must try once more after this call.
    pub(crate) fn raise(&self) {
        self.0.swap(true, Ordering::SeqCst);
    }

    /// Clears the flag and returns whether a sender waits. Call it when there is room.
    pub(crate) fn take(&self) -> bool {
        self.0.swap(false, Ordering::SeqCst)
    }
}
