//! A client's view of its user, and of the messages to the user.
//!
//! A message to a user is the text `~USER SENDER NUMBER`. Each sender numbers its messages to one user.

use std::collections::HashMap;

/// Identifiers of the users in the simulation.
pub(super) const USERS: [&str; 4] = ["u0", "u1", "u2", "u3"];
/// The user that clients ban. All others are never banned.
pub(super) const OUTCAST: &str = "u3";

/// Returns the text of a sender's message to a user.
pub(super) fn text(user: &str, sender: u64, number: u64) -> String {
    format!("~{user} {sender} {number}")
}

/// The user of a client, as the client knows it.
#[derive(Debug, Default)]
pub(super) struct UserView {
    /// The user; empty without one.
    name: String,
    /// Number of the last message of each sender to the user that came since the client has had the user.
    last: HashMap<u64, u64>,
    /// Number of the last message that the client itself sent to the user since it has known that it has the user.
    own: Option<u64>,
    /// Number of messages that the client has sent to each user.
    sent: HashMap<String, u64>,
    /// Whether the client has missed messages, which may have told of another user.
    pub(super) is_lost: bool,
}

impl UserView {
    /// Handles the notice that the client has another user, or none if `name` is empty.
    pub(super) fn change(&mut self, name: &str) {
        if self.name != name {
            (self.last, self.own, self.name) = (HashMap::new(), None, name.into());
        }
    }

    /// Returns the user of the client, or `None` without one.
    pub(super) fn known(&self) -> Option<&'static str> {
        USERS.into_iter().find(|user| *user == self.name)
    }

    /// Returns whether the client may have this user.
    pub(super) fn may_be(&self, user: &str) -> bool {
        self.is_lost || self.name == user
    }

    /// Returns the text of the next message that the client sends to a user.
    pub(super) fn say(&mut self, serial: u64, user: &str) -> String {
        let number = self.sent.entry(user.into()).or_default();
        *number += 1;
        if self.name == user {
            self.own = Some(*number);
        }
        text(user, serial, *number)
    }

    /// Checks a message to a user that came to the client. With `skips` the server may skip messages and report them
    /// later.
    pub(super) fn hear(&mut self, serial: u64, skips: bool, message: &str) {
        let mut parts = message.trim_start_matches('~').split(' ');
        let (user, sender, number) = (parts.next(), parts.next(), parts.next());
        let number_of = |part: Option<&str>| part.and_then(|part| part.parse::<u64>().ok()).expect(message);
        let (sender, number) = (number_of(sender), number_of(number));
        let is_own = user == Some(self.name.as_str());
        self.is_lost |= skips && !is_own;
        if self.is_lost {
            return;
        }
        assert!(is_own, "connection {serial} with the user {:?} got {message}", self.name);
        if let Some(last) = self.last.insert(sender, number) {
            assert!(number > last, "connection {serial} got {message} after {last}");
            self.is_lost |= skips && number > last + 1;
            assert!(
                self.is_lost || number == last + 1,
                "connection {serial} got {message} too early, after {last}"
            );
        }
    }

    /// Panics if the client lacks messages to its user, or has a user that is banned. `accepted` returns the number of
    /// messages to a user that `outside` has sent.
    pub(super) fn check_current(
        &self,
        serial: u64,
        outside: u64,
        accepted: impl Fn(&str) -> u64,
        is_banned: bool,
    ) {
        if self.is_lost {
            return;
        }
        assert!(!is_banned || self.name != OUTCAST, "connection {serial} has a banned user");
        if let Some(own) = self.own {
            assert_eq!(
                self.last.get(&serial),
                Some(&own),
                "connection {serial} lacks its own messages to {}",
                self.name
            );
        }
        if let Some(last) = self.last.get(&outside) {
            assert_eq!(
                *last,
                accepted(&self.name),
                "connection {serial} lacks messages from outside to {}",
                self.name
            );
        }
    }
}
