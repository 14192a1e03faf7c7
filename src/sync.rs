//! Flags that two threads meet on. `just loom` tries their every interleaving.

#[cfg(all(loom, test))]
use loom::sync::atomic::{AtomicBool, Ordering, fence};
#[cfg(not(all(loom, test)))]
use std::sync::atomic::{AtomicBool, Ordering, fence};

#[cfg(test)]
#[cfg(loom)]
mod tests;

/// Whether a sleeper is to be woken.
///
/// A sender makes its message visible, then takes the flag; the sleeper raises the flag, then looks for messages.
/// Each has a full fence in between, so at least one sees the other.
#[derive(Debug)]
pub(crate) struct Asleep(AtomicBool);

impl Asleep {
    pub(crate) fn new() -> Self {
        Self(AtomicBool::new(false))
    }

    /// The sleeper's announcement; it looks for messages once more after this.
    pub(crate) fn raise(&self) {
        // An exchange, so that it and the takes of all senders follow each other in one order.
        self.0.swap(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// Takes the announcement back.
    pub(crate) fn lower(&self) {
        self.0.store(false, Ordering::Relaxed);
    }

    /// The sender's look, after its message is there: whether it must wake the sleeper.
    pub(crate) fn take(&self) -> bool {
        fence(Ordering::SeqCst);
        self.0.swap(false, Ordering::Relaxed)
    }
}

/// Whether somebody waits to hear of room in a full queue.
///
/// Who waits raises the flag, then tries once more; the owner makes room, then takes the flag. Both exchange its
/// value, so the later one sees what the earlier had done before. (A mere store would not see anything.)
#[derive(Debug)]
pub(crate) struct Awaited(AtomicBool);

impl Awaited {
    pub(crate) fn new() -> Self {
        Self(AtomicBool::new(false))
    }

    /// Says that somebody waits; one more try after this is enough.
    pub(crate) fn raise(&self) {
        self.0.swap(true, Ordering::SeqCst);
    }

    /// After there is room: whether somebody must be told.
    pub(crate) fn take(&self) -> bool {
        self.0.swap(false, Ordering::SeqCst)
    }
}
