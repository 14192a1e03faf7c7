//! Users: the clients of each user on this shard, and the shards of the users whose home is this shard.
//!
//! A client may have a user. The shard of the client tells the home shard of the user's identifier how many clients of
//! the user it has, after each change. The home passes actions on to the shards that have clients of the user. Counts and
//! actions travel in the ordered batches between shards, so an action that a shard asks for after it gave a client a user
//! reaches that client.

use std::collections::HashMap;
use std::sync::Arc;

use smallvec::SmallVec;

use crate::protocol::frame::CloseCode;

use super::{Hub, Kind, Message, Slot};

/// Maximum length of a user's identifier in characters.
const MAX_USER: usize = 255;

/// Returns whether a text may be a user's identifier: it has 1 to 255 characters.
pub fn is_user(text: &str) -> bool {
    (1..=MAX_USER).contains(&text.chars().count())
}

/// Action on all clients of a user. The payload of the entry that carries it depends on the action.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UserAction {
    /// Sends a message, which is the payload.
    Send(Kind),
    /// Closes the clients after sending their pending messages. The payload is the reason.
    Close(CloseCode),
    /// Makes the clients members of a room. The payload is the room's name.
    Join {
        /// Maximum number of messages of the room's history that each client gets.
        history: u32,
    },
    /// Ends the memberships of a room. The payload is the room's name.
    Leave,
}

/// The users of a shard. Only clients with a user have entries.
#[derive(Debug, Default)]
pub(super) struct Users {
    /// The user of each client that has one.
    of: HashMap<Slot, Place>,
    /// The clients of each user on this shard, in no particular order. No list is empty.
    here: HashMap<Arc<str>, Vec<Slot>>,
    /// The users whose home is this shard, with each shard that has clients of the user and their number. No list is
    /// empty, and no number is 0.
    shards: HashMap<Box<str>, SmallVec<[(u16, u32); 2]>>,
}

/// The place of a client among the clients of its user.
#[derive(Debug)]
struct Place {
    user: Arc<str>,
    /// Index in the list of the user's clients.
    index: u32,
}

impl Users {
    /// Adds a client without a user to a user. Returns the number of the user's clients on this shard.
    fn add(&mut self, slot: Slot, user: &str) -> u32 {
        let user = self.here.get_key_value(user).map_or_else(|| user.into(), |(user, _)| Arc::clone(user));
        let clients = self.here.entry(Arc::clone(&user)).or_default();
        self.of.insert(slot, Place { user, index: clients.len() as u32 });
        clients.push(slot);
        clients.len() as u32
    }

    /// Removes a client from its user. Returns the user and the number of its remaining clients on this shard, or `None`
    /// for a client without a user.
    fn remove(&mut self, slot: Slot) -> Option<(Arc<str>, u32)> {
        let Place { user, index } = self.of.remove(&slot)?;
        let clients = self.here.get_mut(&user).expect("a client with a user is in the user's list");
        clients.swap_remove(index as usize);
        if let Some(moved) = clients.get(index as usize) {
            self.of.get_mut(moved).expect("a listed client has a user").index = index;
        }
        let left = clients.len() as u32;
        if left == 0 {
            self.here.remove(&user);
        }
        Some((user, left))
    }

    /// Stores the number of a user's clients on a shard. 0 removes the shard.
    fn count(&mut self, user: &str, shard: u16, count: u32) {
        let known = self.shards.get_mut(user);
        if count == 0 {
            let Some(shards) = known else { return };
            shards.retain(|(other, _)| *other != shard);
            if shards.is_empty() {
                self.shards.remove(user);
            }
            return;
        }
        let Some(shards) = known else {
            self.shards.insert(user.into(), SmallVec::from_slice(&[(shard, count)]));
            return;
        };
        match shards.iter_mut().find(|(other, _)| *other == shard) {
            Some((_, old)) => *old = count,
            None => shards.push((shard, count)),
        }
    }

    /// Returns the user of a client, or `None` for a client without a user.
    pub(super) fn of(&self, slot: Slot) -> Option<&str> {
        self.of.get(&slot).map(|place| &*place.user)
    }

    /// Returns the number of entries: clients with a user, users of this shard, and users whose home is this shard.
    pub(super) fn len(&self) -> usize {
        self.of.len() + self.here.len() + self.shards.len()
    }

    /// Injects a bug: this shard forgets the users whose home it is.
    #[cfg(test)]
    pub(super) fn forget_homes(&mut self) {
        self.shards.clear();
    }
}

impl Hub {
    /// Gives a client a user, instead of the one that it had. [`is_user`] is true for `user`.
    pub fn set_user(&mut self, slot: Slot, user: &str) {
        debug_assert!(is_user(user), "{} bytes are no user", user.len());
        if self.user_of(slot) == Some(user) {
            return;
        }
        self.forget_user(slot);
        let count = self.users.add(slot, user);
        self.tell_home(user, count);
        self.report_user(slot);
    }

    /// Takes a client's user away. Does nothing for a client without a user.
    pub fn clear_user(&mut self, slot: Slot) {
        if self.forget_user(slot) {
            self.report_user(slot);
        }
    }

    /// Takes a client's user away, and tells the user's home. Returns whether the client had a user.
    fn forget_user(&mut self, slot: Slot) -> bool {
        if self.users.of.is_empty() {
            return false;
        }
        let Some((user, left)) = self.users.remove(slot) else { return false };
        self.tell_home(&user, left);
        true
    }

    /// Tells the home shard of a user how many of the user's clients this shard has.
    fn tell_home(&mut self, user: &str, count: u32) {
        let home = self.home_of(user);
        self.outgoing.request(home, |batch| batch.count_user(user, count));
    }

    /// Returns the user of a client, or `None` for a client without a user.
    pub fn user_of(&self, slot: Slot) -> Option<&str> {
        self.users.of(slot)
    }

    /// Returns the slots of a user's clients on this shard, in no particular order.
    pub fn clients_of_user(&self, user: &str) -> &[Slot] {
        self.users.here.get(user).map_or(&[], Vec::as_slice)
    }

    /// Adds an action to the requests for the user's home shard, which may be this shard.
    pub fn ask_for_user(&mut self, user: &str, action: UserAction, payload: &[u8]) {
        let home = self.home_of(user);
        self.outgoing.request(home, |batch| batch.user(user, action, &[payload]));
    }

    /// Adds a message to the requests for the user's home shard, which sends it to all clients of the user.
    pub fn send_to_user(&mut self, user: &str, message: Message<'_>) {
        let home = self.home_of(user);
        let action = UserAction::Send(message.kind);
        self.outgoing.request(home, |batch| batch.user(user, action, message.parts()));
    }

    /// Handles the number of a user's clients on the shard `from`. Called on the user's home shard.
    pub fn count_user(&mut self, from: u16, user: &str, count: u32) {
        self.users.count(user, from, count);
    }

    /// Passes an action on to the shards that have clients of the user, and returns the number of these clients. Called
    /// on the user's home shard.
    pub fn pass_to_user(&mut self, user: &str, action: UserAction, payload: &[u8]) -> u32 {
        let Some(shards) = self.users.shards.get(user) else { return 0 };
        for (shard, _) in shards {
            self.outgoing.delivery(*shard, |batch| batch.user(user, action, payload));
        }
        shards.iter().map(|(_, count)| count).sum()
    }

    /// Returns the shards that have clients of a user, each with their number. Called on the user's home shard.
    pub fn shards_of_user(&self, user: &str) -> &[(u16, u32)] {
        self.users.shards.get(user).map_or(&[], SmallVec::as_slice)
    }

    /// Sends a message to the user's clients on this shard, which share one copy of each encoding.
    pub fn send_to_user_here(&mut self, user: &str, message: Message<'_>) {
        let slots = self.users.here.remove_entry(user);
        if let Some((user, slots)) = slots {
            self.send_to_all(&slots, message);
            self.users.here.insert(user, slots);
        }
    }

    /// Returns the number of entries about users, 0 when no client has a user.
    pub fn user_entries(&self) -> usize {
        self.users.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_leave_their_user_in_any_order() {
        for removed in [[0, 1, 2], [2, 1, 0], [1, 0, 2], [0, 2, 1]] {
            let mut users = Users::default();
            for slot in 0..3 {
                assert_eq!(users.add(slot, "ann"), slot + 1);
            }
            users.add(9, "bob");
            for (left, slot) in [2, 1, 0].into_iter().zip(removed) {
                assert_eq!(users.remove(slot), Some((Arc::from("ann"), left)));
                assert_eq!(users.remove(slot), None);
                let clients = users.here.get("ann").map_or(&[][..], Vec::as_slice);
                assert!(clients.len() == left as usize && !clients.contains(&slot), "{clients:?}");
            }
            assert_eq!((users.of.len(), users.here.len()), (1, 1));
        }
    }

    #[test]
    fn a_home_forgets_a_user_without_clients() {
        let mut users = Users::default();
        for (shard, count) in [(0, 1), (2, 5), (0, 3), (1, 1), (1, 0)] {
            users.count("ann", shard, count);
        }
        assert_eq!(&*users.shards["ann"], &[(0, 3), (2, 5)]);
        users.count("ann", 0, 0);
        users.count("ann", 2, 0);
        users.count("nobody", 1, 0);
        assert_eq!(users.len(), 0);
    }
}
