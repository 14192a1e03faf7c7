//! The time as all backends of the process see it.

use std::sync::LazyLock;
use std::time::Instant;

pub(crate) const NS_PER_MS: u64 = 1_000_000;

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Nanoseconds since the first call in this process.
pub(crate) fn now_ns() -> u64 {
    START.elapsed().as_nanos() as u64
}

/// The same in milliseconds.
pub(crate) fn now_ms() -> u64 {
    now_ns() / NS_PER_MS
}
