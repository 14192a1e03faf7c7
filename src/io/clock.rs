//! The time as all backends of the process see it.

use std::sync::LazyLock;
use std::time::Instant;

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Milliseconds since the first call in this process.
pub(super) fn now_ms() -> u64 {
    START.elapsed().as_millis() as u64
}
