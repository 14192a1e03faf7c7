//! CPU use of a thread, which shows whether the generator was the bottleneck.

use std::fs;

use crate::clock::SECOND_NS;
use crate::plan::Window;
use crate::totals::ThreadUse;

/// Shortest window whose CPU use can be measured, in nanoseconds. The kernel updates CPU times only a few times a
/// second.
const MIN_WALL_NS: u64 = SECOND_NS / 10;

/// A meter of the current thread's CPU use in the measured window.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    window: Window,
    first: Option<Reading>,
    last: Option<Reading>,
}

#[derive(Debug, Clone, Copy)]
struct Reading {
    at_ns: u64,
    cpu_ns: u64,
    wait_ns: u64,
}

impl Meter {
    pub(crate) fn new(window: Window) -> Self {
        Self { window, first: None, last: None }
    }

    /// Takes the first reading of the thread's CPU use, once the warm-up has ended. Call this function in every turn.
    pub(crate) fn read(&mut self, now: u64) {
        if self.first.is_none() && now >= self.window.measure_ns {
            self.first = Reading::of_this_thread(now);
        }
    }

    /// Takes the last reading of the thread's CPU use, at the end of the measured window.
    pub(crate) fn stop(&mut self, now: u64) {
        self.last = Reading::of_this_thread(now);
    }

    /// Returns the thread's CPU use between the two readings. `None` if a reading is missing or the window was too
    /// short.
    pub(crate) fn used(&self) -> Option<ThreadUse> {
        let (first, last) = (self.first?, self.last?);
        let used = ThreadUse {
            wall_ns: last.at_ns - first.at_ns,
            cpu_ns: last.cpu_ns - first.cpu_ns,
            wait_ns: last.wait_ns - first.wait_ns,
        };
        (used.wall_ns >= MIN_WALL_NS).then_some(used)
    }
}

impl Reading {
    fn of_this_thread(at_ns: u64) -> Option<Self> {
        let text = fs::read_to_string("/proc/thread-self/schedstat").ok()?;
        let mut fields = text.split_whitespace().map(str::parse);
        Some(Self { at_ns, cpu_ns: fields.next()?.ok()?, wait_ns: fields.next()?.ok()? })
    }
}
