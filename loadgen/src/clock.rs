//! The one clock of a run. It is the same in every process of the machine.

use nix::time::{ClockId, clock_gettime};

/// One second, in nanoseconds.
pub(crate) const SECOND_NS: u64 = 1_000_000_000;

/// Monotonic time, in nanoseconds.
pub(crate) fn now_ns() -> u64 {
    let time = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("the monotonic clock is always there");
    time.tv_sec() as u64 * SECOND_NS + time.tv_nsec() as u64
}
