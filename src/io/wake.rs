//! Wakes a backend that waits for events. A wake-up takes a system call only while the backend waits.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use nix::errno::Errno;
use nix::sys::eventfd::{EfdFlags, EventFd};

use crate::sync::Asleep;

/// A handle that wakes one backend from any thread. All clones wake the same backend.
///
/// Sender and backend synchronise on one flag. A sender makes its message visible, then checks the flag. The backend
/// raises the flag, then checks for messages. So at least one side sees what the other side did.
#[derive(Clone, Debug)]
pub struct Waker(Arc<WakerState>);

#[derive(Debug)]
struct WakerState {
    event: EventFd,
    asleep: Asleep,
}

impl Waker {
    /// Makes a waker for a backend that is not waiting yet.
    ///
    /// # Errors
    /// When no descriptor is left for the event.
    pub fn new() -> Result<Self, Errno> {
        let event = EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?;
        Ok(Self(Arc::new(WakerState { event, asleep: Asleep::new() })))
    }

    /// Ends the backend's current or announced wait. The backend then sees all earlier writes of the caller.
    pub fn wake(&self) {
        if self.0.asleep.take() {
            // The counter of the event descriptor cannot overflow: each raised flag causes at most one write.
            let _ = self.0.event.write(1);
        }
    }

    /// Announces that the backend will wait. After this call, the caller checks for work once more before it waits.
    pub fn prepare(&self) {
        self.0.asleep.raise();
    }

    /// Withdraws the announcement of `prepare`: the wait is over or did not happen.
    pub fn cancel(&self) {
        self.0.asleep.lower();
    }

    /// Returns the event descriptor, which becomes readable on a wake-up.
    pub fn event(&self) -> BorrowedFd<'_> {
        self.0.event.as_fd()
    }

    /// Empties the event descriptor. Returns whether a wake-up had written to it.
    #[cfg(test)]
    pub(crate) fn was_written(&self) -> bool {
        self.0.event.read().is_ok()
    }

    /// Empties the event descriptor after a wake-up.
    pub fn drain(&self) {
        let _ = self.0.event.read();
    }
}
