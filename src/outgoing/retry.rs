//! Delays between attempts.

use std::time::Duration;

/// Delay after the first failed attempt.
const FIRST: Duration = Duration::from_millis(500);
/// Longest delay.
const LONGEST: Duration = Duration::from_secs(30);

/// An exponential backoff: each delay is twice the one before, from half a second to 30 seconds.
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// Returns the delay before the next attempt after a failed one. The delay is varied by up to a quarter, so that many
    /// servers do not come back at the same moment; `random` from 0 to 255 chooses.
    pub(crate) fn failed(&mut self, random: u8) -> Duration {
        let delay = LONGEST.min(FIRST * 2_u32.saturating_pow(self.failures.min(16)));
        self.failures = self.failures.saturating_add(1);
        delay - delay / 4 * u32::from(random) / 255
    }

    /// Returns the number of failed attempts in a row.
    pub(crate) fn failures(&self) -> u32 {
        self.failures
    }

    /// Begins again with short delays, after an attempt that did not fail. Returns whether attempts had failed before.
    pub(crate) fn succeeded(&mut self) -> bool {
        std::mem::take(&mut self.failures) > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_half_a_minute_and_begin_again_after_success() {
        let mut backoff = Backoff::default();
        let delays: Vec<_> = (0..9).map(|_| backoff.failed(0).as_millis()).collect();
        assert_eq!(delays, [500, 1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000, 30_000]);
        assert_eq!(backoff.failures(), 9);
        assert!(backoff.succeeded() && !backoff.succeeded());
        assert_eq!(backoff.failed(255), Duration::from_millis(375));
        for random in 0..=255 {
            let delay = backoff.failed(random);
            assert!(delay >= FIRST / 4 * 3 && delay <= LONGEST, "{delay:?}");
        }
    }
}
