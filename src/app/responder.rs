//! Answers that come later than the handler returns.

use std::fmt;

use crate::protocol::Status;
use crate::publisher::{Publisher, Ticket};

use super::Answer;

/// The place of an answer that comes later, see [`HttpRequest::defer`](super::HttpRequest::defer).
#[derive(Debug)]
pub struct Deferral(pub(super) Ticket);

impl Deferral {
    /// Returns whether this is the deferral of the request with this ticket.
    pub(crate) fn is_of(&self, ticket: Ticket) -> bool {
        self.0 == ticket
    }
}

/// The right to answer a deferred request once, from any thread. Dropping the value without an answer answers the
/// request with 500.
///
/// [`HttpRequest::defer`](super::HttpRequest::defer) returns one. An answer to a client that has left meanwhile does
/// nothing. An answer cannot reach another request.
pub struct Responder {
    publisher: Publisher,
    shard: u16,
    /// `None` after the answer.
    ticket: Option<Ticket>,
}

impl Responder {
    pub(super) fn new(publisher: Publisher, shard: u16, ticket: Ticket) -> Self {
        Self { publisher, shard, ticket: Some(ticket) }
    }

    /// Answers the request. Never blocks, and wakes the client's shard if that sleeps.
    pub fn answer(mut self, answer: impl Into<Answer>) {
        self.send(answer.into());
    }

    fn send(&mut self, answer: Answer) {
        if let Some(ticket) = self.ticket.take() {
            let bytes = if let Answer::Respond(response) = &answer { response.body.len() } else { 0 };
            self.publisher.answer(self.shard, ticket, Box::new(answer), bytes);
        }
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        self.send(Answer::refuse(Status::InternalServerError, "The server has no answer; try again later."));
    }
}

impl fmt::Debug for Responder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Responder").field("ticket", &self.ticket).finish_non_exhaustive()
    }
}
