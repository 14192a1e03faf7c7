//! The clock of all backends of this process.

use std::sync::LazyLock;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// Nanoseconds in a millisecond.
pub(crate) const NS_PER_MS: u64 = 1_000_000;

static START: LazyLock<u64> = LazyLock::new(since_boot_ns);

/// Returns the nanoseconds since the first call in this process. The clock also runs while the machine is suspended, so
/// suspension delays no deadline, such as the expiry of a token.
pub(crate) fn now_ns() -> u64 {
    let start = *START;
    since_boot_ns() - start
}

/// Returns the milliseconds since the first call in this process.
pub(crate) fn now_ms() -> u64 {
    now_ns() / NS_PER_MS
}

fn since_boot_ns() -> u64 {
    let time = clock_gettime(ClockId::CLOCK_BOOTTIME).expect("Linux has this clock since 2.6.39");
    Duration::from(time).as_nanos() as u64
}
