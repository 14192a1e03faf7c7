//! The clock of a run: the monotonic clock, which all processes of the machine share.

use nix::time::{ClockId, clock_gettime};

/// One second, in nanoseconds.
pub(crate) const SECOND_NS: u64 = 1_000_000_000;

/// Returns the monotonic time, in nanoseconds.
pub(crate) fn now_ns() -> u64 {
    let time = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("the monotonic clock is always there");
    time.tv_sec() as u64 * SECOND_NS + time.tv_nsec() as u64
}
