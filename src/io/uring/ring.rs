//! The io_uring: set-up, submitting and waiting in one system call, and taking completions.

use std::collections::VecDeque;
use std::io;
use std::time::Duration;

use io_uring::types::{CancelBuilder, SubmitArgs, Timespec};
use io_uring::{IoUring, cqueue, squeue};
use nix::libc;

use super::operation::Operation;

/// Maximum number of deferred work items that the kernel runs in one call that waits for at most one completion
/// (`IO_LOCAL_TW_DEFAULT_MAX`). One work item is the arrival of data for one connection.
pub(super) const WORK_A_WAIT: usize = 20;
/// Number of rounds without progress after which [`Ring::quiesce`] stops waiting for cancelled operations.
const QUIESCE_ROUNDS: u32 = 20;
/// Length of one round of waiting for cancelled operations.
const QUIESCE_WAIT: Duration = Duration::from_millis(50);

/// An io_uring with a table of direct descriptors.
pub(super) struct Ring {
    ring: IoUring,
    /// Requests that wait for room in the submission queue, in the order of `push`.
    overflow: VecDeque<squeue::Entry>,
    /// Number of operations in the submission queue or in flight. The kernel may use memory of these operations.
    outstanding: usize,
    /// Number of times that the completion queue was full so far.
    overflows: u64,
}

/// A completion of an operation. A multishot operation has several completions.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Completion {
    pub(crate) operation: Operation,
    /// The result of the operation's system call. An error is `-errno`.
    pub(crate) result: i32,
    /// Whether this is the last completion of its operation.
    pub(crate) is_last: bool,
    /// Id of the receive buffer that the kernel has filled, if there is one.
    pub(crate) buffer: Option<u16>,
}

impl Ring {
    /// Makes a ring with room for `submissions` requests and four times as many completions. The kernel keeps further
    /// completions in its own memory.
    ///
    /// # Errors
    /// When the kernel refuses the ring; the error names the cause.
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

    /// Registers the `entries` buffer ring entries at `address` as the buffer group `group`.
    ///
    /// # Safety
    /// The caller keeps the memory at `address` valid until the ring is dropped.
    pub(super) unsafe fn register_buffers(&self, address: u64, entries: u16, group: u16) -> io::Result<()> {
        // SAFETY: the caller keeps the memory valid.
        let result =
            unsafe { self.ring.submitter().register_buf_ring_with_flags(address, entries, group, 0) };
        result
            .map_err(|error| refusal("the ring of receive buffers", "the kernel is older than 5.19", &error))
    }

    /// Queues a request for the next `enter`.
    ///
    /// # Safety
    /// The caller keeps memory that the entry points to valid until the last completion of its operation, or until
    /// `quiesce` has returned true.
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

    /// Submits all queued requests and waits for a completion, for at most `timeout`. After many arrivals, the kernel
    /// reports only a part of the completions; [`Ring::look`] gets more.
    pub(super) fn enter(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        while !self.overflow.is_empty() {
            ignore_transient(self.ring.submit())?;
            if !self.refill() {
                // The kernel accepts no more requests before completions are taken.
                return self.wait(Some(Duration::ZERO));
            }
        }
        self.wait(timeout)
    }

    /// Submits the queued requests and makes the kernel run up to [`WORK_A_WAIT`] items of deferred work, without
    /// waiting. A wait with a timeout of zero would start and stop a timer. In a virtual machine, a timer takes longer
    /// than sends to several clients.
    pub(super) fn look(&mut self) -> io::Result<()> {
        ignore_transient(self.ring.submit())
    }

    /// Appends all posted completions to `into`.
    pub(super) fn take_completions(&mut self, into: &mut Vec<Completion>) {
        // The kernel keeps completions that do not fit in the queue, and posts them in the next call.
        self.overflows += u64::from(self.ring.submission().cq_overflow());
        let from = into.len();
        into.extend(self.ring.completion().map(|entry| Completion {
            operation: Operation::decode(entry.user_data()),
            result: entry.result(),
            is_last: !cqueue::more(entry.flags()),
            buffer: cqueue::buffer_select(entry.flags()),
        }));
        self.outstanding -= into[from..].iter().filter(|completion| completion.is_last).count();
    }

    /// Returns the number of times that the completion queue was full.
    pub(super) fn overflows(&self) -> u64 {
        self.overflows
    }

    /// Cancels all operations, waits a bounded time until they have completed, and closes the direct descriptors.
    /// Returns whether no operation is left. While this returns false, the caller must not free memory of operations.
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
            // The cancellation fails when nothing is left to cancel, too. Only arriving completions count as progress.
            let _ = self.ring.submitter().register_sync_cancel(Some(timespec(QUIESCE_WAIT)), everything);
            if handed_over.is_err() {
                return false;
            }
            vain_rounds += u32::from(self.outstanding == before);
        }
        false
    }

    /// Moves requests from `overflow` to the submission queue until the queue is full. Returns whether a request moved.
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
        ignore_transient(result)
    }
}

fn timespec(duration: Duration) -> Timespec {
    Timespec::new().sec(duration.as_secs()).nsec(duration.subsec_nanos())
}

/// Ignores transient errors of `io_uring_enter`. Taking completions or calling it again resolves such an error.
fn ignore_transient(result: io::Result<usize>) -> io::Result<()> {
    match result {
        Ok(_) => Ok(()),
        Err(error) => match error.raw_os_error() {
            Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN) => Ok(()),
            _ => Err(error),
        },
    }
}

/// Returns the likely cause of an error of `io_uring_setup`.
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

/// Makes the error for a refusal by the kernel: the refused call or object (`what`), the likely cause, and the kernel's
/// error.
fn refusal(what: &str, cause: &str, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("the kernel refused {what}: {error}; {cause}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_names_the_call_and_the_cause() {
        let error = io::Error::from_raw_os_error(libc::EPERM);
        let text = refusal("io_uring_setup", setup_cause(&error), &error).to_string();
        assert!(text.contains("io_uring_setup") && text.contains("io_uring_disabled"), "{text}");
    }

    #[test]
    fn a_table_beyond_the_descriptor_limit_is_refused_with_the_reason() {
        let text = Ring::new(8, 1 << 30).err().expect("no machine allows so many").to_string();
        assert!(text.contains("direct descriptors"), "{text}");
    }
}
