//! The ring itself: set-up, handing over and waiting in one system call, and taking completions.

use std::collections::VecDeque;
use std::io;
use std::time::Duration;

use io_uring::types::{CancelBuilder, SubmitArgs, Timespec};
use io_uring::{IoUring, cqueue, squeue};
use nix::libc;

use super::operation::Operation;

/// Pieces of deferred work, each the arrival of data for one connection, that the kernel runs when it is entered
/// for one completion or none (`IO_LOCAL_TW_DEFAULT_MAX`).
pub(super) const WORK_A_WAIT: usize = 20;
/// How often to wait in vain, and how long each time, for cancelled operations when the ring is given up.
const QUIESCE_ROUNDS: u32 = 20;
const QUIESCE_WAIT: Duration = Duration::from_millis(50);

/// An io_uring with a table of direct descriptors.
pub(super) struct Ring {
    ring: IoUring,
    /// Requests that did not fit in the submission queue, in their order.
    overflow: VecDeque<squeue::Entry>,
    /// Operations in the submission queue or with the kernel, which may use their memory.
    outstanding: usize,
    /// Times that completions were found to have overflowed the ring.
    overflows: u64,
}

/// The completion of an operation, or one of several of a multishot one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Completion {
    pub(crate) operation: Operation,
    /// What the system call of that name would return, errors as `-errno`.
    pub(crate) result: i32,
    /// No other completion of this operation follows.
    pub(crate) last: bool,
    /// The buffer of the ring that was used up.
    pub(crate) buffer: Option<u16>,
}

impl Ring {
    /// A ring with room for `submissions` requests, and four times as many completions before the kernel has
    /// to keep them in memory of its own.
    pub(super) fn new(submissions: u32, slots: u32) -> io::Result<Self> {
        let ring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_taskrun_flag()
            .setup_submit_all()
            .setup_clamp()
            .setup_cqsize(4 * submissions)
            .build(submissions)
            .map_err(|error| refusal("io_uring_setup", setup_cause(&error), &error))?;
        ring.submitter().register_files_sparse(slots).map_err(|error| {
            let cause = match error.raw_os_error() {
                Some(libc::EMFILE) => "there are more slots than RLIMIT_NOFILE allows descriptors".into(),
                Some(libc::EINVAL) => "the kernel is older than 5.19".into(),
                _ => format!("{slots} slots"),
            };
            refusal("the table of direct descriptors", &cause, &error)
        })?;
        Ok(Self { ring, overflow: VecDeque::new(), outstanding: 0, overflows: 0 })
    }

    /// Makes the memory of `entries` buffer ring entries at `address` the ring's buffer group `group`.
    ///
    /// # Safety
    /// The memory is valid until the ring is dropped.
    pub(super) unsafe fn register_buffers(&self, address: u64, entries: u16, group: u16) -> io::Result<()> {
        // SAFETY: the caller keeps the memory valid.
        let result =
            unsafe { self.ring.submitter().register_buf_ring_with_flags(address, entries, group, 0) };
        result
            .map_err(|error| refusal("the ring of receive buffers", "the kernel is older than 5.19", &error))
    }

    /// Puts a request in the queue for the next `enter`.
    ///
    /// # Safety
    /// Memory that the entry points to stays valid until the last completion of its operation, or until
    /// `quiesce` said that nothing is under way.
    pub(super) unsafe fn push(&mut self, entry: squeue::Entry) {
        if !self.overflow.is_empty() {
            self.overflow.push_back(entry);
            return;
        }
        // SAFETY: the caller keeps the memory valid.
        if unsafe { self.ring.submission().push(&entry) }.is_ok() {
            self.outstanding += 1;
        } else {
            self.overflow.push_back(entry);
        }
    }

    /// Hands over all requests and waits for a completion, at most `timeout`. Where much has happened, not all of
    /// it is reported: see [`Ring::look`].
    pub(super) fn enter(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        while !self.overflow.is_empty() {
            passable(self.ring.submit())?;
            if !self.refill() {
                // The kernel takes no more before completions are taken.
                return self.wait(Some(Duration::ZERO));
            }
        }
        self.wait(timeout)
    }

    /// Hands over the requests in the queue and has the kernel report what has happened, up to [`WORK_A_WAIT`] pieces of
    /// deferred work, without waiting. (To wait for no time at all starts and ends a timer, which in a virtual machine takes
    /// longer than sending to several clients.)
    pub(super) fn look(&mut self) -> io::Result<()> {
        passable(self.ring.submit())
    }

    /// Takes all completions there are.
    pub(super) fn take_completions(&mut self, into: &mut Vec<Completion>) {
        // The kernel keeps them, and puts them in the ring when it is entered next.
        self.overflows += u64::from(self.ring.submission().cq_overflow());
        let from = into.len();
        into.extend(self.ring.completion().map(|entry| Completion {
            operation: Operation::decode(entry.user_data()),
            result: entry.result(),
            last: !cqueue::more(entry.flags()),
            buffer: cqueue::buffer_select(entry.flags()),
        }));
        self.outstanding -= into[from..].iter().filter(|completion| completion.last).count();
    }

    /// Times that completions were found to have overflowed the ring.
    pub(super) fn overflows(&self) -> u64 {
        self.overflows
    }

    /// Cancels everything and waits, for a bounded time, until nothing is under way; says whether that is so.
    /// Only then may memory be freed that operations use. The direct descriptors are closed, too.
    pub(super) fn quiesce(&mut self) -> bool {
        self.overflow.clear();
        let mut completions = Vec::new();
        let mut vain_rounds = 0;
        while vain_rounds < QUIESCE_ROUNDS {
            let before = self.outstanding;
            let handed_over = self.enter(Some(Duration::ZERO));
            self.take_completions(&mut completions);
            if self.outstanding == 0 {
                let _ = self.ring.submitter().unregister_files();
                return true;
            }
            let everything = CancelBuilder::any().all();
            // Nothing to be cancelled is an error here, too; what counts is whether completions come.
            let _ = self.ring.submitter().register_sync_cancel(Some(timespec(QUIESCE_WAIT)), everything);
            if handed_over.is_err() {
                return false;
            }
            vain_rounds += u32::from(self.outstanding == before);
        }
        false
    }

    /// Moves what fits from the overflow to the queue. Says whether anything did.
    fn refill(&mut self) -> bool {
        let mut queue = self.ring.submission();
        let before = self.overflow.len();
        while let Some(entry) = self.overflow.front() {
            // SAFETY: the caller of `push` promised to keep the memory valid.
            if unsafe { queue.push(entry) }.is_err() {
                break;
            }
            self.overflow.pop_front();
        }
        let moved = before - self.overflow.len();
        self.outstanding += moved;
        moved > 0
    }

    fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        let result = match timeout {
            None => self.ring.submit_and_wait(1),
            Some(Duration::ZERO) => return self.look(),
            Some(timeout) => {
                let timespec = timespec(timeout);
                self.ring.submitter().submit_with_args(1, &SubmitArgs::new().timespec(&timespec))
            }
        };
        passable(result)
    }
}

fn timespec(duration: Duration) -> Timespec {
    Timespec::new().sec(duration.as_secs()).nsec(duration.subsec_nanos())
}

/// Errors of `io_uring_enter` that taking completions or the next call puts right.
fn passable(result: io::Result<usize>) -> io::Result<()> {
    match result {
        Ok(_) => Ok(()),
        Err(error) => match error.raw_os_error() {
            Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN) => Ok(()),
            _ => Err(error),
        },
    }
}

fn setup_cause(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::ENOSYS) => "this kernel has no io_uring, or a seccomp filter hides it",
        Some(libc::EPERM) => "the sysctl kernel.io_uring_disabled or a seccomp filter forbids it",
        Some(libc::EINVAL) => "the kernel is older than 6.1, which SINGLE_ISSUER and DEFER_TASKRUN need",
        Some(libc::ENOMEM) => "memory is short, or RLIMIT_MEMLOCK is low",
        Some(libc::EMFILE | libc::ENFILE) => "no descriptor is left",
        _ => "an unexpected cause",
    }
}

fn refusal(what: &str, cause: &str, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("the kernel refused {what}: {error}; {cause}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_says_what_and_why() {
        let error = io::Error::from_raw_os_error(libc::EPERM);
        let text = refusal("io_uring_setup", setup_cause(&error), &error).to_string();
        assert!(text.contains("io_uring_setup") && text.contains("io_uring_disabled"), "{text}");
    }

    #[test]
    fn a_table_beyond_the_descriptor_limit_is_refused_with_its_reason() {
        let text = Ring::new(8, 1 << 30).err().expect("no machine allows so many").to_string();
        assert!(text.contains("direct descriptors"), "{text}");
    }
}
