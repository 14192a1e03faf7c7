//! The accept gate: decides whether the backend may accept another connection.

use std::time::Duration;

use super::{IoEvent, shorter};

/// Time in milliseconds until accepting is retried after the kernel had no descriptor or memory left. Another shard or
/// process may free some, and no event reports that.
const RETRY_MS: u64 = 1000;

/// The counter of one backend's connections, which reports `AcceptPaused` and `AcceptResumed`.
#[derive(Debug)]
pub(super) struct AcceptGate {
    limit: u32,
    open: u32,
    state: State,
}

/// Whether the backend accepts connections.
#[derive(Debug)]
enum State {
    Accepting,
    /// Accepting is paused: no slot is free, or the kernel had no descriptor or memory left. Only the second case has a
    /// retry time.
    Paused {
        retry_at_ms: Option<u64>,
    },
    Stopped,
}

impl AcceptGate {
    /// Makes a gate for at most `limit` connections at a time.
    pub(super) fn new(limit: u32) -> Self {
        Self { limit, open: 0, state: State::Accepting }
    }

    /// Returns the number of connections that may be accepted now.
    pub(super) fn room(&self) -> u32 {
        if matches!(self.state, State::Accepting) { self.limit - self.open } else { 0 }
    }

    /// Counts an accepted connection, and pauses accepting at the limit. The caller has already reported `Accepted`.
    pub(super) fn opened(&mut self, events: &mut Vec<IoEvent>) {
        self.open += 1;
        if matches!(self.state, State::Accepting) && self.open == self.limit {
            self.state = State::Paused { retry_at_ms: None };
            events.push(IoEvent::AcceptPaused);
        }
    }

    /// Counts a closed connection, and resumes accepting. The caller has already reported `Closed`.
    pub(super) fn closed(&mut self, events: &mut Vec<IoEvent>) {
        self.open -= 1;
        self.resume(events);
    }

    /// Pauses accepting, because the kernel had no descriptor or no memory for a connection.
    pub(super) fn refused(&mut self, now_ms: u64, events: &mut Vec<IoEvent>) {
        if matches!(self.state, State::Accepting) {
            self.state = State::Paused { retry_at_ms: Some(now_ms + RETRY_MS) };
            events.push(IoEvent::AcceptPaused);
        }
    }

    /// Resumes accepting if the retry after a refusal is due.
    pub(super) fn retry(&mut self, now_ms: u64, events: &mut Vec<IoEvent>) {
        if matches!(self.state, State::Paused { retry_at_ms: Some(at) } if at <= now_ms) {
            self.resume(events);
        }
    }

    /// Shortens the timeout of a poll so that the caller calls `retry` in time.
    pub(super) fn limit_wait(&self, timeout: Option<Duration>, now_ms: u64) -> Option<Duration> {
        let wait_ms = match self.state {
            State::Paused { retry_at_ms: Some(at) } => Some(at.saturating_sub(now_ms)),
            _ => None,
        };
        shorter(timeout, wait_ms)
    }

    /// Stops accepting for good.
    pub(super) fn stop(&mut self) {
        self.state = State::Stopped;
    }

    /// Returns whether `stop` was called.
    pub(super) fn is_stopped(&self) -> bool {
        matches!(self.state, State::Stopped)
    }

    fn resume(&mut self, events: &mut Vec<IoEvent>) {
        if matches!(self.state, State::Paused { .. }) && self.open < self.limit {
            self.state = State::Accepting;
            events.push(IoEvent::AcceptResumed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Removes all events from the list and returns their names.
    fn taken(events: &mut Vec<IoEvent>) -> Vec<&'static str> {
        let name = |event| match event {
            IoEvent::AcceptPaused => "paused",
            IoEvent::AcceptResumed => "resumed",
            other => panic!("unexpected: {other:?}"),
        };
        events.drain(..).map(name).collect()
    }

    #[test]
    fn the_last_slot_pauses_and_the_first_free_one_resumes() {
        let (mut gate, mut events) = (AcceptGate::new(2), Vec::new());
        gate.opened(&mut events);
        assert_eq!((gate.room(), taken(&mut events)), (1, vec![]));
        gate.opened(&mut events);
        assert_eq!((gate.room(), taken(&mut events)), (0, vec!["paused"]));
        gate.closed(&mut events);
        gate.closed(&mut events);
        assert_eq!((gate.room(), taken(&mut events)), (2, vec!["resumed"]));
    }

    #[test]
    fn a_refusal_is_reported_once_and_retried_without_a_close() {
        let (mut gate, mut events) = (AcceptGate::new(9), Vec::new());
        gate.refused(50, &mut events);
        gate.refused(60, &mut events);
        assert_eq!((gate.room(), taken(&mut events)), (0, vec!["paused"]));
        assert_eq!(gate.limit_wait(None, 60), Some(Duration::from_millis(RETRY_MS - 10)));
        gate.retry(49 + RETRY_MS, &mut events);
        assert_eq!((gate.room(), taken(&mut events)), (0, vec![]));
        gate.retry(50 + RETRY_MS, &mut events);
        assert_eq!((gate.room(), taken(&mut events)), (9, vec!["resumed"]));
        assert_eq!(gate.limit_wait(None, 60), None);
    }

    #[test]
    fn after_stop_accepting_never_resumes() {
        let (mut gate, mut events) = (AcceptGate::new(1), Vec::new());
        gate.opened(&mut events);
        gate.stop();
        gate.closed(&mut events);
        assert_eq!((gate.room(), taken(&mut events)), (0, vec!["paused"]));
    }
}
