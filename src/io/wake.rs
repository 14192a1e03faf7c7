//! Waking a backend that waits, by a system call only when it does.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};

use nix::errno::Errno;
use nix::sys::eventfd::{EfdFlags, EventFd};

/// Wakes one backend from any thread. Clones wake the same one.
///
/// The two sides meet on one flag. A sender makes its message visible, then looks at the flag; the sleeper
/// raises the flag, then looks for messages. Each has a full fence in between, so at least one sees the other.
#[derive(Clone, Debug)]
pub struct Waker(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    event: EventFd,
    asleep: AtomicBool,
}

impl Waker {
    /// A waker that nobody waits on yet.
    ///
    /// # Errors
    /// When no descriptor is left.
    pub fn new() -> Result<Self, Errno> {
        let event = EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?;
        Ok(Self(Arc::new(Shared { event, asleep: AtomicBool::new(false) })))
    }

    /// Ends the wait of the backend, if it waits or is about to. What was written before is visible to it.
    pub fn wake(&self) {
        fence(Ordering::SeqCst);
        if self.0.asleep.swap(false, Ordering::Relaxed) {
            // The counter cannot overflow: one write follows each time the sleeper raised the flag.
            let _ = self.0.event.write(1);
        }
    }

    /// Announces the sleep. The caller looks for work once more after this, before it waits.
    pub fn prepare(&self) {
        self.0.asleep.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// Takes the announcement back; the sleep is over or did not happen.
    pub fn cancel(&self) {
        self.0.asleep.store(false, Ordering::Relaxed);
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
