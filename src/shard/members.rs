//! Answers to questions of shards for the members of rooms and the clients of users.

use crate::app::clients_of_user;
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
    /// Name of the room, or identifier of the user.
    pub(super) name: Box<str>,
    pub(super) wanted: Wanted,
}

/// The subject of a question.
#[derive(Debug)]
pub(super) enum Wanted {
    /// The members of a room.
    Members(MembersQuery),
    /// The clients of a user, for the list with this number.
    UserClients(u64),
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

    /// Answers a question, and returns the number of listed members, clients and rooms.
    fn answer_question(&mut self, question: &Question) -> usize {
        let Question { from, ref name, ref wanted } = *question;
        match *wanted {
            Wanted::Members(MembersQuery { list, below, limit }) => {
                let page = self.hub.members_below(name, below, limit);
                let descriptions = self.describe_members(name, &page.clients);
                let listed = page.clients.len();
                let shard = self.settings.id.index;
                self.hub.outgoing(from).deliveries.members(MembersPart { list, shard, page, descriptions });
                listed
            }
            Wanted::UserClients(list) => {
                let part = clients_of_user(&self.hub, name, list);
                let listed = part.clients.iter().map(|client| 1 + client.room_count as usize).sum();
                self.hub.outgoing(from).deliveries.user_clients(part);
                listed
            }
        }
    }
}
