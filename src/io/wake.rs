//! Wakes a waiting backend. This takes a system call only when the backend does wait.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use nix::errno::Errno;
use nix::sys::eventfd::{EfdFlags, EventFd};

use crate::sync::Asleep;

/// Wakes one backend from any thread. Clones wake the same backend.
///
/// The two sides meet on one flag. A sender makes its message visible and then looks at the flag. The sleeper raises
/// the flag and then looks for messages. So at least one of them sees the other.
#[derive(Clone, Debug)]
pub struct Waker(Arc<WakerState>);

#[derive(Debug)]
struct WakerState {
    event: EventFd,
    asleep: Asleep,
}

impl Waker {
    /// Makes a waker for a backend that does not wait yet.
    ///
    /// # Errors
    /// When no descriptor is left.
    pub fn new() -> Result<Self, Errno> {
        let event = EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?;
        Ok(Self(Arc::new(WakerState { event, asleep: Asleep::new() })))
    }

    /// Ends the wait of the backend, if it waits or is about to. The backend sees all earlier writes of the caller.
    pub fn wake(&self) {
        if self.0.asleep.take() {
            // The counter cannot overflow: there is one write at most each time that the sleeper raises the flag.
            let _ = self.0.event.write(1);
        }
    }

    /// Announces a wait. After this, the caller looks for work once more before it waits.
    pub fn prepare(&self) {
        self.0.asleep.raise();
    }

    /// Withdraws the announcement: the wait is over or did not happen.
    pub fn cancel(&self) {
        self.0.asleep.lower();
    }

    /// The event descriptor that becomes readable on a wake-up.
    pub fn event(&self) -> BorrowedFd<'_> {
        self.0.event.as_fd()
    }

    /// Empties the event. Returns whether it was written to.
    #[cfg(test)]
    pub(crate) fn was_written(&self) -> bool {
        self.0.event.read().is_ok()
    }

    /// Empties the event.
    pub fn drain(&self) {
        let _ = self.0.event.read();
    }
}
