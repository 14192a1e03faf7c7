//! Rate limits of one client, for messages and bytes, by the generic cell rate algorithm (ITU-T I.371).
//!
//! For each rate a client has one point in time: what it has sent is paid for up to then. The point may lie ahead of
//! the clock by the burst. Beyond that the client is over its rate.

/// Burst size as a time, in nanoseconds: a client or an address that was quiet may use at once as much as its rate allows
/// in this time.
pub(super) const BURST_NS: u64 = 4_000_000_000;
/// Minimum length of a rate pause, in nanoseconds, so that a client over its rate is not resumed for each message.
const PAUSE_NS: u64 = 250_000_000;
/// Minimum number of bytes that a message or a control frame costs. A short message takes the server about as long as
/// this many bytes of a long one: it is decoded, handed to the application, ordered and logged, whatever its length.
const MIN_MESSAGE_BYTES: usize = 128;
pub(super) const NS_PER_S: u64 = 1_000_000_000;
const NS_PER_MS: u64 = 1_000_000;

/// The rate limits of each client, per second.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Pace {
    /// Maximum number of messages and control frames per second; 0 means no limit.
    pub(crate) messages: u32,
    /// Maximum number of bytes per second; 0 means no limit. Bytes count on the wire, including frame headers, and
    /// again as far as decompression adds to them.
    pub(crate) bytes: u32,
}

/// The points in time up to which a client has used its rates, in nanoseconds of the shard's clock.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Spent {
    messages_ns: u64,
    bytes_ns: u64,
}

impl Pace {
    /// Returns whether there is a limit for messages or for bytes.
    pub(crate) fn is_limited(self) -> bool {
        self.messages > 0 || self.bytes > 0
    }

    /// Charges a client for received messages and bytes. Each message costs at least [`MIN_MESSAGE_BYTES`]. Returns true
    /// when the client is over a rate and must be paused.
    pub(crate) fn charge(self, spent: &mut Spent, now_ms: u64, messages: u32, bytes: usize) -> bool {
        let now_ns = now_ms * NS_PER_MS;
        let bytes = bytes.max(MIN_MESSAGE_BYTES.saturating_mul(messages as usize)) as u64;
        spend(&mut spent.messages_ns, now_ns, u64::from(messages), self.messages);
        spend(&mut spent.bytes_ns, now_ns, bytes, self.bytes);
        spent.ahead_ns(now_ns) > BURST_NS
    }

    /// Returns the number of bytes that `bytes` bytes of history cost a client that is sent them because it joined a
    /// room: at most a full burst, so that the client waits for a few seconds at most, however long the history is.
    pub(crate) fn replay_cost(self, bytes: usize) -> usize {
        let burst_bytes = u64::from(self.bytes) * (BURST_NS / NS_PER_S);
        (bytes as u64).min(burst_bytes) as usize
    }

    /// Returns the time, in milliseconds, that a client over a rate must wait until it may go on; 0 when it may go on
    /// now.
    pub(crate) fn wait_ms(spent: Spent, now_ms: u64) -> u64 {
        let excess_ns = spent.ahead_ns(now_ms * NS_PER_MS).saturating_sub(BURST_NS - PAUSE_NS);
        excess_ns.div_ceil(NS_PER_MS)
    }
}

impl Spent {
    fn ahead_ns(self, now_ns: u64) -> u64 {
        self.messages_ns.max(self.bytes_ns).saturating_sub(now_ns)
    }
}

/// Moves the point in time of a rate forward by the cost of `count` units at `rate` units a second. At a rate of 0,
/// units cost nothing.
pub(super) fn spend(at_ns: &mut u64, now_ns: u64, count: u64, rate: u32) {
    if let Some(cost_ns) = count.saturating_mul(NS_PER_S).checked_div(u64::from(rate)) {
        *at_ns = (*at_ns).max(now_ns).saturating_add(cost_ns);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the number of messages of `len` bytes that are handled within `ms` milliseconds from a client that never
    /// stops sending.
    fn taken(pace: Pace, len: usize, ms: u64) -> u64 {
        let (mut spent, mut taken, mut resumes_ms) = (Spent::default(), 0, 0);
        for now_ms in 1_000..1_000 + ms {
            while resumes_ms <= now_ms {
                taken += 1;
                if pace.charge(&mut spent, now_ms, 1, len) {
                    resumes_ms = now_ms + Pace::wait_ms(spent, now_ms);
                }
            }
        }
        taken
    }

    #[test]
    fn a_burst_passes_at_once_and_then_the_rate_holds() {
        let pace = Pace { messages: 20, bytes: 0 };
        assert_eq!(taken(pace, 9, 1), 81, "four seconds' worth, and the one that was over the rate");
        let in_100_s = taken(pace, 9, 100_000);
        assert!((2_075..=2_081).contains(&in_100_s), "{in_100_s}");
    }

    #[test]
    fn bytes_count_by_themselves() {
        let pace = Pace { messages: 1_000_000, bytes: 1_000 };
        let in_100_s = taken(pace, 500, 100_000);
        assert!((207..=209).contains(&in_100_s), "{in_100_s}");
    }

    #[test]
    fn without_a_rate_nothing_costs_anything() {
        let mut spent = Spent::default();
        assert!(!Pace::default().charge(&mut spent, 1, u32::MAX, usize::MAX));
        assert_eq!(Pace::wait_ms(spent, 1), 0);
    }

    #[test]
    fn a_client_may_go_on_after_its_wait_and_not_before() {
        let pace = Pace { messages: 10, bytes: 0 };
        let mut spent = Spent::default();
        assert!(pace.charge(&mut spent, 5, 41, 0));
        let wait_ms = Pace::wait_ms(spent, 5);
        assert_eq!(wait_ms, 100 + 250);
        assert_eq!(Pace::wait_ms(spent, 5 + wait_ms - 1), 1);
        assert_eq!(Pace::wait_ms(spent, 5 + wait_ms), 0);
    }

    #[test]
    fn a_short_message_costs_as_much_as_128_bytes() {
        let pace = Pace { messages: 0, bytes: 1_280 };
        assert_eq!(taken(pace, 7, 1), 41, "four seconds' worth, and the one that was over the rate");
        assert_eq!(taken(pace, 128, 1), 41);
        assert_eq!(taken(pace, 256, 1), 21);
        let mut spent = Spent::default();
        pace.charge(&mut spent, 0, 0, 5_120);
        assert!(!pace.charge(&mut spent, 0, 0, 0), "bytes of an unfinished message are no message");
        assert!(pace.charge(&mut spent, 0, 0, 1));
    }

    #[test]
    fn a_replay_costs_its_bytes_and_a_full_burst_at_most() {
        let replay = |pace: Pace, spent: &mut Spent, bytes| pace.charge(spent, 0, 0, pace.replay_cost(bytes));
        let pace = Pace { messages: 20, bytes: 1_000 };
        let mut spent = Spent::default();
        assert!(!replay(pace, &mut spent, 3_000));
        assert!(replay(pace, &mut spent, 3_000));
        assert_eq!(Pace::wait_ms(spent, 0), 2_000 + 250);
        let mut spent = Spent::default();
        assert!(!replay(pace, &mut spent, usize::MAX));
        assert!(replay(pace, &mut spent, usize::MAX));
        assert_eq!(Pace::wait_ms(spent, 0), 4_000 + 250);
        let without_bytes = Pace { messages: 20, bytes: 0 };
        let is_over = replay(without_bytes, &mut Spent::default(), usize::MAX);
        assert!(!is_over, "without a byte rate a replay costs nothing");
    }
}
