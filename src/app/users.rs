//! Users: identifiers that applications give their clients, and answers to questions for a user's clients.

use crate::hub::{Hub, UserClient, UserPart};

use super::gathering::{Asker, Gathering};

/// Maximum number of clients in one answer to [`Context::ask_user`](super::Context::ask_user).
pub const MAX_LISTED_CLIENTS: usize = 100;
/// Maximum number of rooms that an answer to [`Context::ask_user`](super::Context::ask_user) lists for one client.
pub const MAX_LISTED_ROOMS: usize = 100;

/// The reason why a client does not get a user.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UserError {
    /// The identifier is empty or has more than 255 characters.
    #[error("the identifier of a user has 1 to 255 characters")]
    Length,
    /// The user is banned: see [`Context::ban_user`](super::Context::ban_user).
    #[error("the user is banned; lift the ban, or wait until it ends")]
    Banned,
}

/// The answer to [`Context::ask_user`](super::Context::ask_user).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// The token of the question.
    pub token: u64,
    /// The user's identifier.
    pub user: String,
    /// Number of all clients of the user, on all shards. 0 when the user is not connected.
    pub count: usize,
    /// The clients of the user, at most [`MAX_LISTED_CLIENTS`], in the order of their numbers. The list is cut off if it
    /// has fewer than `count`.
    pub clients: Vec<UserClient>,
}

/// The questions for users' clients that wait for parts from shards, each with its receiver and its user.
#[derive(Debug, Default)]
pub(crate) struct UserQuestions(Gathering<(Asker<User>, String), UserPart>);

impl UserQuestions {
    /// Asks all shards for the clients of a user.
    pub(super) fn ask(&mut self, hub: &mut Hub, shards: u16, user: &str, asker: Asker<User>) {
        let list = self.0.begin((asker, user.into()), shards);
        for shard in 0..shards {
            hub.outgoing(shard).requests.user_clients(user, list);
        }
    }

    /// Adds a shard's part to its question. Returns the answer and its receiver when all parts have arrived.
    pub(crate) fn take(&mut self, part: UserPart) -> Option<(User, Asker<User>)> {
        let ((asker, user), parts) = self.0.add(part.list, part)?;
        let count = parts.iter().map(|part| part.count as usize).sum();
        let mut clients: Vec<UserClient> = parts.into_iter().flat_map(|part| part.clients).collect();
        clients.sort_unstable_by_key(|listed| listed.client.number);
        clients.truncate(MAX_LISTED_CLIENTS);
        Some((User { token: asker.token(), user, count, clients }, asker))
    }

    /// Returns the number of questions that wait for parts.
    #[cfg(test)]
    pub(crate) fn waiting(&self) -> usize {
        self.0.len()
    }
}

/// Returns the clients that this shard has of a user, as its part of an answer: at most [`MAX_LISTED_CLIENTS`], each with
/// at most [`MAX_LISTED_ROOMS`] rooms.
pub(crate) fn clients_of_user(hub: &Hub, user: &str, list: u64) -> UserPart {
    let slots = hub.clients_of_user(user);
    let listed = slots.iter().take(MAX_LISTED_CLIENTS).map(|slot| {
        let mut rooms: Vec<String> = hub.rooms_of(*slot).map(String::from).collect();
        let room_count = rooms.len() as u32;
        rooms.sort_unstable();
        rooms.truncate(MAX_LISTED_ROOMS);
        UserClient { client: hub.client(*slot), rooms, room_count }
    });
    UserPart { list, count: slots.len() as u32, clients: listed.collect() }
}
