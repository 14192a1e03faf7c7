//! Answers to questions of shards for the members of rooms.

use crate::hub::{MembersPart, MembersQuery};
use crate::io::Backend;

use super::Shard;

/// Number of members after which the shard answers further questions in a later turn. One answer may exceed it.
const MEMBERS_PER_TURN: usize = 256;
/// Number of waiting questions above which the shard takes no requests, and clients that ask must wait.
const MAX_WAITING: usize = 1_000;

/// A question that waits for its answer.
#[derive(Debug)]
pub(super) struct Question {
    /// Index of the shard that asks.
    pub(super) from: u16,
    pub(super) room: Box<str>,
    pub(super) query: MembersQuery,
}

impl<B: Backend> Shard<B> {
    /// Answers this turn's share of the waiting questions.
    pub(super) fn answer_questions(&mut self) {
        let mut members = 0;
        while members < MEMBERS_PER_TURN
            && self.may_answer_questions()
            && let Some(question) = self.questions.pop_front()
        {
            // An answer without members costs something, too.
            members += 1 + self.answer_question(&question);
        }
    }

    /// Returns whether questions wait that [`Shard::answer_questions`] would answer now.
    pub(super) fn may_answer_questions(&self) -> bool {
        !self.questions.is_empty() && self.has_space_for_deliveries()
    }

    /// Returns whether so many questions wait that no more may come.
    pub(super) fn has_too_many_questions(&self) -> bool {
        self.questions.len() > MAX_WAITING
    }

    /// Answers a question, and returns the number of listed members.
    fn answer_question(&mut self, question: &Question) -> usize {
        let Question { from, ref room, query: MembersQuery { list, below, limit } } = *question;
        let page = self.hub.members_below(room, below, limit);
        let descriptions = self.describe_members(room, &page.clients);
        let listed = page.clients.len();
        let shard = self.settings.id.index;
        self.hub.outgoing(from).deliveries.members(MembersPart { list, shard, page, descriptions });
        listed
    }
}
