//! Whether another connection may come in.

use std::time::Duration;

use super::{Event, shorter};

/// How long to wait after the kernel had no descriptor or memory for us: what frees one may be a connection
/// of another shard or another process, which no event tells us about.
const RETRY_MS: u64 = 1000;

/// Counts the connections of one backend, and reports `Full` and `Accepting` when the answer changes.
#[derive(Debug)]
pub(super) struct Admission {
    limit: u32,
    open: u32,
    state: State,
}

#[derive(Debug)]
enum State {
    Taking,
    /// No slot, or the kernel refused; a refusal is tried again at this time.
    Full {
        retry_at_ms: Option<u64>,
    },
    Stopped,
}

impl Admission {
    pub(super) fn new(limit: u32) -> Self {
        Self { limit, open: 0, state: State::Taking }
    }

    /// Connections that may be accepted now.
    pub(super) fn room(&self) -> u32 {
        if matches!(self.state, State::Taking) { self.limit - self.open } else { 0 }
    }

    /// A connection was accepted. Its own event comes before this.
    pub(super) fn opened(&mut self, events: &mut Vec<Event>) {
        self.open += 1;
        if matches!(self.state, State::Taking) && self.open == self.limit {
            self.state = State::Full { retry_at_ms: None };
            events.push(Event::Full);
        }
    }

    /// A connection is gone. Its own event comes before this.
    pub(super) fn closed(&mut self, events: &mut Vec<Event>) {
        self.open -= 1;
        self.go_on(events);
    }

    /// The kernel had no descriptor or no memory for a connection.
    pub(super) fn refused(&mut self, now_ms: u64, events: &mut Vec<Event>) {
        if matches!(self.state, State::Taking) {
            self.state = State::Full { retry_at_ms: Some(now_ms + RETRY_MS) };
            events.push(Event::Full);
        }
    }

    /// Goes on after a refusal when it is time.
    pub(super) fn retry(&mut self, now_ms: u64, events: &mut Vec<Event>) {
        if matches!(self.state, State::Full { retry_at_ms: Some(at) } if at <= now_ms) {
            self.go_on(events);
        }
    }

    /// Shortens a wait so that `retry` comes in time.
    pub(super) fn limit_wait(&self, timeout: Option<Duration>, now_ms: u64) -> Option<Duration> {
        let wait_ms = match self.state {
            State::Full { retry_at_ms: Some(at) } => Some(at.saturating_sub(now_ms)),
            _ => None,
        };
        shorter(timeout, wait_ms)
    }

    /// Nothing is accepted from now on.
    pub(super) fn stop(&mut self) {
        self.state = State::Stopped;
    }

    pub(super) fn is_stopped(&self) -> bool {
        matches!(self.state, State::Stopped)
    }

    fn go_on(&mut self, events: &mut Vec<Event>) {
        if matches!(self.state, State::Full { .. }) && self.open < self.limit {
            self.state = State::Taking;
            events.push(Event::Accepting);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Names of the events since the last call.
    fn taken(events: &mut Vec<Event>) -> Vec<&'static str> {
        let name = |event| match event {
            Event::Full => "full",
            Event::Accepting => "accepting",
            other => panic!("not for {other:?}"),
        };
        events.drain(..).map(name).collect()
    }

    #[test]
    fn the_last_slot_pauses_and_the_first_free_one_goes_on() {
        let (mut admission, mut events) = (Admission::new(2), Vec::new());
        admission.opened(&mut events);
        assert_eq!((admission.room(), taken(&mut events)), (1, vec![]));
        admission.opened(&mut events);
        assert_eq!((admission.room(), taken(&mut events)), (0, vec!["full"]));
        admission.closed(&mut events);
        admission.closed(&mut events);
        assert_eq!((admission.room(), taken(&mut events)), (2, vec!["accepting"]));
    }

    #[test]
    fn a_refusal_is_said_once_and_tried_again_without_a_close() {
        let (mut admission, mut events) = (Admission::new(9), Vec::new());
        admission.refused(50, &mut events);
        admission.refused(60, &mut events);
        assert_eq!((admission.room(), taken(&mut events)), (0, vec!["full"]));
        assert_eq!(admission.limit_wait(None, 60), Some(Duration::from_millis(RETRY_MS - 10)));
        admission.retry(49 + RETRY_MS, &mut events);
        assert_eq!((admission.room(), taken(&mut events)), (0, vec![]));
        admission.retry(50 + RETRY_MS, &mut events);
        assert_eq!((admission.room(), taken(&mut events)), (9, vec!["accepting"]));
        assert_eq!(admission.limit_wait(None, 60), None);
    }

    #[test]
    fn after_stop_nothing_goes_on() {
        let (mut admission, mut events) = (Admission::new(1), Vec::new());
        admission.opened(&mut events);
        admission.stop();
        admission.closed(&mut events);
        assert_eq!((admission.room(), taken(&mut events)), (0, vec!["full"]));
    }
}
