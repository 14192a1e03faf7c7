//! A simulated thread outside the server: it publishes into rooms, and checks its receipts.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::app::{Kind, Message};
use crate::publisher::{PublishError, Publisher, Receipt};

use super::client::Rules;
use super::lodge::CLOSED;
use super::net::Net;
use super::random::Random;
use super::truth::{Application, HUSH, Truth, kind_of, payload};
use super::users::{USERS, text};

/// Number that stands for the thread in the ids of its messages, where a client has its connection's number.
pub(super) const SERIAL: u64 = u32::MAX as u64;

/// A message that the server accepted.
struct Accepted {
    room: String,
    /// Whether the application refuses the message, because its `on_publish` panics.
    is_refused: bool,
}

pub(super) struct Outside {
    publisher: Publisher,
    pub(super) random: Random,
    /// Number of messages that the thread has tried to publish.
    said: u64,
    accepted: HashMap<u64, Accepted>,
    /// Number of accepted messages to each user.
    to_users: HashMap<&'static str, u64>,
    /// Number of messages that found the queue of their shard full.
    pub(super) full: u64,
    /// Receipts in the order of their arrival, each with the id of its message.
    receipts: Arc<Mutex<Vec<(u64, Receipt)>>>,
}

impl Outside {
    pub(super) fn new(publisher: Publisher, random: Random) -> Self {
        Self {
            publisher,
            random,
            said: 0,
            accepted: HashMap::new(),
            to_users: HashMap::new(),
            full: 0,
            receipts: Arc::default(),
        }
    }

    /// Publishes a few messages now and then. Before the shutdown the server accepts each unless its queue is full.
    pub(super) fn step(&mut self, net: &mut Net, rules: &Rules) {
        if matches!(rules.application, Application::Echo | Application::Pusher) || !self.random.once_in(60) {
            return;
        }
        for _ in 0..self.random.between(1, 4) {
            self.publish(net, rules);
            if rules.application == Application::Lodge {
                self.send_to_user(net, rules);
            }
        }
    }

    fn publish(&mut self, net: &mut Net, rules: &Rules) {
        let id = SERIAL << 32 | self.said;
        self.said += 1;
        let room = &rules.rooms[self.random.below(rules.rooms.len())];
        let is_refused = self.random.once_in(10);
        let text = if is_refused { HUSH.to_vec() } else { payload(id) };
        let is_chat = rules.application == Application::Chat;
        let sender: &[u8] = if is_chat { b"outside: " } else { b"" };
        let kind = if is_chat { Kind::Text } else { kind_of(id) };
        let receipts = Arc::clone(&self.receipts);
        let then = move |receipt| receipts.lock().unwrap_or_else(PoisonError::into_inner).push((id, receipt));
        let parts = [sender, &text];
        let result = self.publisher.publish_then(room, Message::from_parts(kind, &parts), then);
        net.note("outside publishes", [self.said as usize, usize::from(result.is_ok()), 0]);
        match result {
            Ok(()) => drop(self.accepted.insert(id, Accepted { room: room.clone(), is_refused })),
            Err(PublishError::Full) => self.full += 1,
            Err(error) => assert!(rules.is_stopping, "{error} before the shutdown"),
        }
    }

    /// Sends to a user, or closes the user's clients now and then.
    fn send_to_user(&mut self, net: &mut Net, rules: &Rules) {
        let user = self.random.pick(&USERS);
        if self.random.once_in(40) {
            _ = self.publisher.close_user(user, CLOSED, user);
            return;
        }
        let number = self.sent_to(user) + 1;
        let result = self.publisher.send_to_user(user, Message::text(&text(user, SERIAL, number)));
        net.note("outside sends to a user", [number as usize, usize::from(result.is_ok()), 0]);
        match result {
            Ok(()) => drop(self.to_users.insert(user, number)),
            Err(PublishError::Full) => self.full += 1,
            Err(error) => assert!(rules.is_stopping, "{error} before the shutdown"),
        }
    }

    /// Returns the number of messages that the server accepted for a user.
    pub(super) fn sent_to(&self, user: &str) -> u64 {
        self.to_users.get(user).copied().unwrap_or_default()
    }

    /// Returns whether a user is banned.
    pub(super) fn is_banned(&self, user: &str) -> bool {
        self.publisher.is_banned(user)
    }

    /// Returns the number of messages that got a place in the order of their room.
    pub(super) fn ordered(&self) -> u64 {
        let receipts = self.receipts.lock().unwrap_or_else(PoisonError::into_inner);
        receipts.iter().filter(|(_, receipt)| matches!(receipt, Receipt::Ordered(_))).count() as u64
    }

    /// Panics unless each accepted message has exactly one receipt, which agrees with the true order. Call this method
    /// when the server has handled everything. `has_history` says whether rooms always keep a history.
    pub(super) fn check(&self, truth: &Truth, has_history: bool, is_stopping: bool) {
        let truth = truth.borrow();
        let receipts = self.receipts.lock().unwrap_or_else(PoisonError::into_inner);
        assert_eq!(receipts.len(), self.accepted.len(), "each accepted message has one receipt");
        // The position in the true order of message 0 of each epoch.
        let mut begins = HashMap::new();
        let mut waiting: Vec<u64> = self.accepted.keys().copied().collect();
        for (id, receipt) in &*receipts {
            let at = waiting.iter().position(|other| other == id).expect("a message has one receipt");
            waiting.swap_remove(at);
            let Accepted { room, is_refused } = &self.accepted[id];
            let place = truth.place(*id);
            match receipt {
                Receipt::Ordered(position) => {
                    let (stream, line) = place.expect("an ordered message has a place");
                    assert_eq!((stream, *is_refused), (room, false), "message {id:x}");
                    let begin = *line as i64 - position.number as i64;
                    let known = *begins.entry((room, position.epoch)).or_insert(begin);
                    assert_eq!(known, begin, "{position:?} of message {id:x} is another message's");
                }
                Receipt::Unheard => assert!(place.is_some() && !has_history, "message {id:x} is unheard"),
                Receipt::Refused => assert!(place.is_none() && *is_refused, "message {id:x} is refused"),
                Receipt::Sent(_) => panic!("message {id:x} went to a room, not to a user"),
                Receipt::Stopped => assert!(place.is_none() && is_stopping, "message {id:x} is dropped"),
            }
        }
    }
}
