//! The time of a shard, and when it may judge deadlines.
//!
//! A process may be paused: by SIGSTOP, by a debugger, with its virtual machine, or by a handler that blocks. When it
//! continues, many deadlines have passed, and the input that would have met them lies unread in the sockets. Two
//! rules keep such a pause from closing clients that did nothing wrong:
//!
//! 1. **Input first.** A deadline is judged only after the sockets were polled again since it passed. If that poll
//!    reports nothing, one poll is enough: the wait was not interrupted. Otherwise, and after a turn that began late, the
//!    shard polls until no events are reported. The number of polls is limited by the number of clients, so a flood cannot
//!    keep deadlines from being judged.
//! 2. **A pause does not count.** The clock stands still during a long pause, and so all deadlines move. A client that
//!    had two seconds left to finish a handshake, or to take its last bytes, still has two seconds.

use std::time::Duration;

/// A turn that begins more than this many milliseconds late follows a pause of the process. After a pause, more input
/// may lie in the sockets than one poll reports.
const LATE_MS: u64 = 20;
/// A turn that begins more than this many milliseconds late follows a long pause, which does not count as time.
const AWAY_MS: u64 = 500;
/// Number of polls in a row that must report no events before deadlines are judged after a pause. A backend may need
/// two polls to report the input of a socket.
const QUIET_LOOKS: u32 = 3;
/// Minimum number of clients whose input one poll reports, if at least this many clients have sent something.
const CLIENTS_A_LOOK: usize = 16;
/// Maximum time, in milliseconds, for which one pause defers deadlines.
const MAX_SEARCH_MS: u64 = 5_000;

/// The clock of a shard: the backend's clock without long pauses of the process.
#[derive(Debug)]
pub(super) struct Clock {
    /// Time at the beginning of the current turn, in milliseconds of the backend's clock.
    backend_ms: u64,
    /// Sum of all pauses that do not count as time, in milliseconds.
    away_ms: u64,
    /// End of the last pause that does not count as time, in milliseconds of the backend's clock.
    back_ms: u64,
    /// Whether the last turn followed a pause that does not count as time. A second pause in a row counts, or a shard
    /// whose turns are all slow would have a stopped clock.
    was_away: bool,
    /// Search for unread input, which defers all deadlines. `None` when deadlines may be judged.
    search: Option<Search>,
}

/// A search for input that arrived before a deadline passed: polls until the sockets report nothing more.
#[derive(Clone, Copy, Debug)]
struct Search {
    /// Number of further polls in a row that must report no events to end the search.
    quiet: u32,
    /// Number of further polls after which the search ends, even if they report events.
    left: usize,
    /// Time at which the search ends, even if polls still report events, in milliseconds of the backend's clock.
    end_ms: u64,
}

impl Clock {
    pub(super) fn new(backend_ms: u64) -> Self {
        Self { backend_ms, away_ms: 0, back_ms: 0, was_away: false, search: None }
    }

    /// Begins a turn at `backend_ms`, after a wait of at most `timeout` that reported `events` events to a shard with
    /// `clients` clients. Returns the length, in milliseconds, of a preceding pause that does not count as time;
    /// usually 0.
    pub(super) fn begin_turn(
        &mut self,
        backend_ms: u64,
        timeout: Option<Duration>,
        events: usize,
        clients: usize,
    ) -> u64 {
        let since_ms = backend_ms - self.backend_ms;
        self.backend_ms = backend_ms;
        let has_ended = self.count_look(events > 0);
        // Without a timeout no deadline is set, so the turn cannot be late.
        let timeout_ms = timeout.map_or(u64::MAX, |timeout| timeout.as_millis() as u64);
        let Some(late_ms) = since_ms.checked_sub(timeout_ms) else {
            self.was_away = false;
            return 0;
        };
        self.was_away = late_ms > AWAY_MS && !self.was_away;
        if self.was_away {
            self.look_for_input(since_ms, clients);
            // The pause may have begun at any time during the wait, so the whole wait does not count as time.
            self.away_ms += since_ms;
            self.back_ms = backend_ms;
            return since_ms;
        }
        // A turn that ends a search begins no new search, so that deadlines are judged even when every turn is late.
        if self.search.is_none() && !has_ended {
            if late_ms > LATE_MS {
                self.look_for_input(since_ms, clients);
            } else if timeout_ms > 0 && (events == 0 || events >= CLIENTS_A_LOOK) {
                self.look_once_more(since_ms, clients);
            }
        }
        0
    }

    /// Defers deadlines until the shard has read the input of `clients` clients that may have arrived in the last
    /// `since_ms` milliseconds.
    pub(super) fn look_for_input(&mut self, since_ms: u64, clients: usize) {
        let left = QUIET_LOOKS as usize + clients / CLIENTS_A_LOOK;
        let end_ms = self.backend_ms + since_ms.min(MAX_SEARCH_MS);
        self.search = Some(Search { quiet: QUIET_LOOKS, left, end_ms });
    }

    /// Defers deadlines for one more poll. If that poll reports events, the search goes on as after a pause.
    fn look_once_more(&mut self, since_ms: u64, clients: usize) {
        self.look_for_input(since_ms, clients);
        if let Some(search) = &mut self.search {
            search.quiet = 1;
        }
    }

    /// Counts this turn's poll for the search. `reported` says whether the poll had events. Returns whether the poll
    /// ended the search.
    fn count_look(&mut self, reported: bool) -> bool {
        let Some(search) = &mut self.search else { return false };
        search.left -= 1;
        search.quiet = if reported { QUIET_LOOKS } else { search.quiet - 1 };
        let has_ended = search.left == 0 || search.quiet == 0 || search.end_ms <= self.backend_ms;
        if has_ended {
            self.search = None;
        }
        has_ended
    }

    /// Returns the current time of the shard's clock in milliseconds, which all deadlines of the shard use.
    pub(super) fn now_ms(&self) -> u64 {
        self.backend_ms - self.away_ms
    }

    /// Returns the time since `backend_ms`, a time of the backend's clock, in milliseconds. A pause that does not count
    /// as time, and the time before it, are left out.
    pub(super) fn since_ms(&self, backend_ms: u64) -> u64 {
        self.backend_ms.saturating_sub(backend_ms.max(self.back_ms))
    }

    /// Returns whether deadlines may be judged in this turn. If not, the next turn must begin without waiting.
    pub(super) fn may_judge(&self) -> bool {
        self.search.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTHING: usize = 0;
    const EVENTS: usize = 3;

    /// Begins a turn after a wait with a timeout of `timeout_ms`, which took `took_ms` and reported `events` events.
    fn turn(clock: &mut Clock, timeout_ms: u64, took_ms: u64, events: usize) -> u64 {
        let timeout = Some(Duration::from_millis(timeout_ms));
        clock.begin_turn(clock.backend_ms + took_ms, timeout, events, 100)
    }

    fn clock() -> Clock {
        Clock::new(1_000_000)
    }

    #[test]
    fn a_wait_that_ends_early_judges_at_once() {
        for events in [NOTHING, EVENTS] {
            let mut clock = clock();
            assert_eq!(turn(&mut clock, 500, 499, events), 0);
            assert!(clock.may_judge());
            assert_eq!(clock.begin_turn(clock.backend_ms + 9_999_999, None, events, 1), 0);
            assert!(clock.may_judge(), "there is no deadline");
        }
    }

    #[test]
    fn a_wait_that_reported_nothing_is_followed_by_one_more_look() {
        let mut clock = clock();
        turn(&mut clock, 500, 501, NOTHING);
        assert!(!clock.may_judge(), "it may have been interrupted");
        turn(&mut clock, 0, 0, NOTHING);
        assert!(clock.may_judge());
        turn(&mut clock, 500, 501, EVENTS);
        assert!(clock.may_judge(), "a look that reports few events reports all");
        // A busy shard polls without waiting, so its deadlines are judged in every turn.
        for events in [NOTHING, EVENTS, 1_000] {
            turn(&mut clock, 0, 2, events);
            assert!(clock.may_judge());
        }
    }

    #[test]
    fn an_interrupted_wait_that_just_passed_a_deadline_is_followed_by_looks_until_nothing_is_left() {
        for first in [NOTHING, 1_000] {
            let mut clock = clock();
            turn(&mut clock, 500, 501, first);
            for events in [EVENTS, EVENTS, NOTHING, NOTHING] {
                assert!(!clock.may_judge());
                turn(&mut clock, 0, 1, events);
            }
            assert!(!clock.may_judge());
            turn(&mut clock, 0, 1, NOTHING);
            assert!(clock.may_judge());
        }
    }

    #[test]
    fn after_a_pause_deadlines_wait_until_nothing_is_reported() {
        let mut clock = clock();
        turn(&mut clock, 10, 100, NOTHING);
        for events in [EVENTS, NOTHING, NOTHING, EVENTS, NOTHING, NOTHING] {
            assert!(!clock.may_judge());
            turn(&mut clock, 0, 1, events);
        }
        assert!(!clock.may_judge());
        turn(&mut clock, 0, 1, NOTHING);
        assert!(clock.may_judge());
    }

    #[test]
    fn a_flood_keeps_deadlines_waiting_for_a_bounded_number_of_looks() {
        let mut clock = clock();
        turn(&mut clock, 10, 9_000, NOTHING);
        let looks = std::iter::from_fn(|| {
            let waits = !clock.may_judge();
            turn(&mut clock, 0, 1, EVENTS);
            waits.then_some(())
        });
        assert_eq!(looks.count(), 3 + 100 / CLIENTS_A_LOOK);
    }

    #[test]
    fn looks_that_take_long_keep_deadlines_waiting_for_as_long_as_the_pause_at_most() {
        let mut clock = clock();
        turn(&mut clock, 0, 45, EVENTS);
        for _ in 0..2 {
            assert!(!clock.may_judge());
            turn(&mut clock, 0, 19, EVENTS);
        }
        assert!(!clock.may_judge());
        turn(&mut clock, 0, 19, EVENTS);
        assert!(clock.may_judge());
    }

    #[test]
    fn a_long_pause_does_not_count_as_time() {
        let mut clock = clock();
        let before_ms = clock.now_ms();
        assert_eq!(turn(&mut clock, 2_000, 62_000, NOTHING), 62_000);
        assert_eq!(clock.now_ms(), before_ms);
        assert_eq!(turn(&mut clock, 0, 3, EVENTS), 0);
        assert_eq!(clock.now_ms(), before_ms + 3);
        assert_eq!(turn(&mut clock, 0, 5_000, EVENTS), 5_000, "a handler blocked");
        assert_eq!(clock.now_ms(), before_ms + 3);
    }

    #[test]
    fn time_goes_on_even_when_every_turn_is_slow() {
        let mut clock = clock();
        let before_ms = clock.now_ms();
        let mut judged = 0;
        for _ in 0..100 {
            turn(&mut clock, 0, 1_500, EVENTS);
            judged += u32::from(clock.may_judge());
        }
        assert_eq!(clock.now_ms(), before_ms + 75_000);
        assert!(judged >= 10, "{judged}");
    }
}
