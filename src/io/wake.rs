//! Waking a backend that waits, by a system call only when it does.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use nix::errno::Errno;
use nix::sys::eventfd::{EfdFlags, EventFd};

use crate::sync::Asleep;

/// Wakes one backend from any thread. Clones wake the same one.
///
/// The two sides meet on one flag: a sender makes its message visible, then looks at the flag; the sleeper raises
/// the flag, then looks for messages.
#[derive(Clone, Debug)]
pub struct Waker(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    event: EventFd,
    asleep: Asleep,
}

impl Waker {
    /// A waker that nobody waits on yet.
    ///
    /// # Errors
    /// When no descriptor is left.
    pub fn new() -> Result<Self, Errno> {
        let event = EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?;
        Ok(Self(Arc::new(Shared { event, asleep: Asleep::new() })))
    }

    /// Ends the wait of the backend, if it waits or is about to. What was written before is visible to it.
    pub fn wake(&self) {
        if self.0.asleep.take() {
            // The counter cannot overflow: one write follows each time the sleeper raised the flag.
            let _ = self.0.event.write(1);
        }
    }

    /// Announces the sleep. The caller looks for work once more after this, before it waits.
    pub fn prepare(&self) {
        self.0.asleep.raise();
    }

    /// Takes the announcement back; the sleep is over or did not happen.
    pub fn cancel(&self) {
        self.0.asleep.lower();
    }

    /// Becomes readable on a wake-up; the backend reads it empty.
    pub fn event(&self) -> BorrowedFd<'_> {
        self.0.event.as_fd()
    }

    /// Reads the event empty, and says whether something was written to it.
    #[cfg(test)]
    pub(crate) fn was_written(&self) -> bool {
        self.0.event.read().is_ok()
    }

    /// Reads the event empty.
    pub fn drain(&self) {
        let _ = self.0.event.read();
    }
}
