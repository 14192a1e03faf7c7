//! Surveys: requests to all shards to update their gauges, on whose end several connections wait together.

use std::time::{Duration, Instant};

use crate::watch::{Inquiry, Watch};

/// Surveys of all shards, shared by the connections that wait for them. At most one survey runs at a time. A connection
/// that asks meanwhile waits for the next survey, so that the values are never older than its request.
#[derive(Debug)]
pub(super) struct Survey<T> {
    /// Time limit for the shards to answer a survey.
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

    /// Requests a survey for `asker`. A later [`Survey::poll`] returns the asker when the survey has ended.
    pub(super) fn ask(&mut self, asker: T) {
        self.waiting.push(asker);
    }

    /// Returns whether an asker waits for a survey.
    pub(super) fn is_pending(&self) -> bool {
        self.running.is_some() || !self.waiting.is_empty()
    }

    /// Starts a survey if one is due. Returns the askers of a survey that has ended: all shards have answered, or the
    /// time limit is over.
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
