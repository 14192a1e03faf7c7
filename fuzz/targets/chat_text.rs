//! Fuzz target: the time and memory that the chat needs to clean a text, per byte. The input is repeated to a long text, so
//! that a cost which grows faster than the length shows.
#![no_main]

use std::borrow::Cow;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use uproar::app::clean_text;

/// Length up to which the input is repeated, in bytes.
const LONG: usize = 64 << 10;
/// Maximum CPU time for a byte. An average input takes some 80 ns here, where the code is instrumented.
const MAX_PER_BYTE: Duration = Duration::from_nanos(2_000);
/// Number of attempts of which the fastest counts.
const ATTEMPTS: usize = 3;

libfuzzer_sys::fuzz_target!(|input: &str| {
    if input.is_empty() {
        return;
    }
    let text = input.repeat(LONG.div_ceil(input.len()));
    if let Cow::Owned(cleaned) = clean_text(&text) {
        // At most one space comes behind each byte, and a buffer at most doubles when it grows.
        assert!(cleaned.capacity() <= 4 * text.len(), "{} bytes for {}", cleaned.capacity(), text.len());
    }
    let limit = MAX_PER_BYTE * text.len() as u32;
    let is_fast = (0..ATTEMPTS).any(|_| {
        let begin = cpu_time();
        std::hint::black_box(clean_text(&text));
        cpu_time() - begin < limit
    });
    assert!(is_fast, "{} bytes take more than {limit:?}", text.len());
});

/// Returns the CPU time of this thread. Unlike the time of a clock, it does not grow while other processes run.
fn cpu_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).expect("the kernel counts CPU time").into()
}
