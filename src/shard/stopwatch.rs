//! The time of the current turn. Ends the input of one client, and the input of all clients together, after a while.
//!
//! The number of bytes alone says little about the time that input takes: a handler may be slow. But reading the clock
//! costs as much as handling a short message takes in part, so the shard reads it only after some work.

/// Minimum work of a message or control frame, in bytes. Short messages take time, too, and a handler may be slow.
const MESSAGE_WORK: usize = 1 << 10;

/// Limits of the time that a turn spends on input.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TimeLimits {
    /// Work, in bytes, after which the clock is read again. 16 KiB are 16 short messages, or as much text as the shard
    /// handles in some 20 µs.
    pub(crate) work_per_look: usize,
    /// Maximum time for one receive buffer of a client, in nanoseconds. The rest of the buffer waits for the next turn.
    pub(crate) buffer_ns: u64,
    /// Time since the turn began, in nanoseconds, after which newly received buffers wait for the next turn. Less than
    /// `held_ns`, so that every turn also handles input that earlier turns have held.
    pub(crate) received_ns: u64,
    /// Time since the turn began, in nanoseconds, after which held input waits for the next turn.
    pub(crate) held_ns: u64,
}

impl Default for TimeLimits {
    fn default() -> Self {
        Self { work_per_look: 16 << 10, buffer_ns: 4_000_000, received_ns: 25_000_000, held_ns: 50_000_000 }
    }
}

/// The times of the current turn, in nanoseconds of the backend's clock, as far as the clock was read.
#[derive(Debug, Default)]
pub(super) struct Stopwatch {
    limits: TimeLimits,
    turn_began_ns: u64,
    buffer_began_ns: u64,
    /// Time of the last look at the clock.
    looked_ns: u64,
    /// Work since the last look at the clock, in bytes.
    work: usize,
    /// Whether this turn has handled held input.
    has_handled_held: bool,
}

impl Stopwatch {
    /// Begins a turn at `now_ns`.
    pub(super) fn begin_turn(&mut self, limits: TimeLimits, now_ns: u64) {
        self.limits = limits;
        self.turn_began_ns = now_ns;
        self.has_handled_held = false;
        self.look(now_ns);
    }

    /// Begins to handle a receive buffer of a client. The work since the last look at the clock counts for this buffer,
    /// too: it is little, and a look costs more.
    pub(super) fn begin_buffer(&mut self) {
        self.buffer_began_ns = self.looked_ns;
    }

    /// Counts a handled message or fragment of `bytes` bytes. Returns whether a look at the clock is due.
    pub(super) fn count(&mut self, bytes: usize) -> bool {
        self.work = self.work.saturating_add(bytes.max(MESSAGE_WORK));
        self.work >= self.limits.work_per_look
    }

    /// Takes note of the time. Returns whether the time for the current buffer is over.
    pub(super) fn look(&mut self, now_ns: u64) -> bool {
        self.looked_ns = now_ns;
        self.work = 0;
        now_ns.saturating_sub(self.buffer_began_ns) >= self.limits.buffer_ns
    }

    /// Returns whether newly received input may be handled in this turn.
    pub(super) fn has_time_for_received(&self) -> bool {
        self.turn_ns() < self.limits.received_ns
    }

    /// Returns whether held input may be handled in this turn. The first held input of a turn may always be handled, so
    /// that every turn makes progress.
    pub(super) fn has_time_for_held(&self) -> bool {
        self.turn_ns() < self.limits.held_ns || !self.has_handled_held
    }

    /// Notes that this turn handles held input.
    pub(super) fn count_held(&mut self) {
        self.has_handled_held = true;
    }

    /// Returns the time since the turn began, in nanoseconds, at the last look at the clock.
    fn turn_ns(&self) -> u64 {
        self.looked_ns.saturating_sub(self.turn_began_ns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn stopwatch() -> Stopwatch {
        let mut stopwatch = Stopwatch::default();
        stopwatch.begin_turn(TimeLimits::default(), 1_000 * MS);
        stopwatch.begin_buffer();
        stopwatch
    }

    #[test]
    fn the_clock_is_read_after_sixteen_short_messages_or_one_long_one() {
        let mut stopwatch = stopwatch();
        assert_eq!((1..).find(|_| stopwatch.count(1)), Some(16));
        stopwatch.look(1_000 * MS);
        assert!(!stopwatch.count(15 << 10));
        assert!(stopwatch.count(1 << 20));
        stopwatch.look(1_000 * MS);
        assert!(!stopwatch.count(1));
    }

    #[test]
    fn the_time_of_a_buffer_ends_for_one_client_and_not_for_the_next() {
        let mut stopwatch = stopwatch();
        assert!(!stopwatch.look(1_003 * MS));
        assert!(stopwatch.look(1_004 * MS));
        stopwatch.begin_buffer();
        assert!(!stopwatch.look(1_007 * MS));
        assert!(stopwatch.look(1_008 * MS));
    }

    #[test]
    fn received_input_waits_before_held_input_does() {
        let mut stopwatch = stopwatch();
        stopwatch.count_held();
        stopwatch.look(1_024 * MS);
        assert!(stopwatch.has_time_for_received() && stopwatch.has_time_for_held());
        stopwatch.look(1_025 * MS);
        assert!(!stopwatch.has_time_for_received() && stopwatch.has_time_for_held());
        stopwatch.look(1_050 * MS);
        assert!(!stopwatch.has_time_for_received() && !stopwatch.has_time_for_held());
        stopwatch.begin_turn(TimeLimits::default(), 1_060 * MS);
        assert!(stopwatch.has_time_for_received() && stopwatch.has_time_for_held());
    }

    #[test]
    fn every_turn_handles_some_held_input() {
        let mut stopwatch = stopwatch();
        stopwatch.look(9_000 * MS);
        assert!(stopwatch.has_time_for_held());
        stopwatch.count_held();
        assert!(!stopwatch.has_time_for_held());
    }
}
