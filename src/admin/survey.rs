//! Questions to all shards that several connections wait for together.

use std::time::{Duration, Instant};

use crate::watch::{Inquiry, Watch};

/// A survey of all shards, shared by the connections that asked for one at the same time. At most one is under way. A
/// connection that asks meanwhile waits for the next one, so that the numbers are never older than its request.
#[derive(Debug)]
pub(super) struct Survey<T> {
    /// Time that the shards have to answer.
    patience: Duration,
    running: Option<Running<T>>,
    waiting: Vec<T>,
}

#[derive(Debug)]
struct Running<T> {
    inquiry: Inquiry,
    deadline: Instant,
    asked_by: Vec<T>,
}

impl<T> Survey<T> {
    pub(super) fn new(patience: Duration) -> Self {
        Self { patience, running: None, waiting: Vec::new() }
    }

    /// Asks for a survey on behalf of `asker`, which a later [`Survey::poll`] returns.
    pub(super) fn ask(&mut self, asker: T) {
        self.waiting.push(asker);
    }

    /// Whether somebody waits.
    pub(super) fn is_pending(&self) -> bool {
        self.running.is_some() || !self.waiting.is_empty()
    }

    /// Starts a survey if one is due, and returns the askers of one that has ended: all shards have answered, or their
    /// time is over.
    pub(super) fn poll(&mut self, watch: &Watch, now: Instant) -> Vec<T> {
        let is_over =
            |running: &mut Running<T>| watch.is_answered(&running.inquiry) || now >= running.deadline;
        let askers = self.running.take_if(is_over).map_or_else(Vec::new, |running| running.asked_by);
        if self.running.is_none() && !self.waiting.is_empty() {
            self.running = Some(Running {
                inquiry: watch.ask_all(),
                deadline: now + self.patience,
                asked_by: std::mem::take(&mut self.waiting),
            });
        }
        askers
    }
}
