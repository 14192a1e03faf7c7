//! The people in rooms: which users and connections are members of the rooms whose home is one shard.

use std::collections::HashMap;
use std::sync::Arc;

use super::WebhookEvent;

/// Function that gets the events of a room, in order: the kind, the user, and the client's number where there is no user.
type Report<'a> = &'a mut dyn FnMut(WebhookEvent, Option<&str>, Option<u64>);

/// The members of the rooms of one shard. A user with several connections in a room is one person. A connection without
/// a user is a person of its own.
#[derive(Debug, Default)]
pub(crate) struct Presence {
    rooms: HashMap<Box<str>, Room>,
}

#[derive(Debug, Default)]
struct Room {
    /// The user of each client in the room, by the client's number. `None` for a client without a user.
    clients: HashMap<u64, Option<Arc<str>>>,
    /// Number of clients of each user in the room. No number is 0.
    users: HashMap<Arc<str>, u32>,
}

impl Presence {
    /// Handles a client that has become a member of a room, or a member whose user has changed.
    pub(crate) fn joined(&mut self, room: &str, client: u64, user: Option<&str>, report: Report<'_>) {
        if !self.rooms.contains_key(room) {
            self.rooms.insert(room.into(), Room::default());
            report(WebhookEvent::Occupied, None, None);
        }
        let Some(known) = self.rooms.get_mut(room) else { return };
        match known.clients.get(&client) {
            Some(old) if old.as_deref() == user => return,
            _ => {}
        }
        let old = known.clients.remove(&client);
        let user = user.map(Arc::from);
        // The new person comes before the old one leaves, so that the room is never empty in between.
        if known.add(client, user.as_ref()) {
            let number = user.is_none().then_some(client);
            report(WebhookEvent::Joined, user.as_deref(), number);
        }
        if let Some(old) = old {
            known.report_left(client, old, report);
        }
    }

    /// Handles a client that is no member of a room any more.
    pub(crate) fn left(&mut self, room: &str, client: u64, report: Report<'_>) {
        let Some(known) = self.rooms.get_mut(room) else { return };
        let Some(old) = known.clients.remove(&client) else { return };
        known.report_left(client, old, report);
        if known.clients.is_empty() {
            self.rooms.remove(room);
            report(WebhookEvent::Vacated, None, None);
        }
    }

    /// Returns the user of a client in a room, if the client is a member and has one.
    pub(crate) fn user_of(&self, room: &str, client: u64) -> Option<&str> {
        self.rooms.get(room)?.clients.get(&client)?.as_deref()
    }
}

impl Room {
    /// Adds a client. Returns whether a person has come.
    fn add(&mut self, client: u64, user: Option<&Arc<str>>) -> bool {
        self.clients.insert(client, user.cloned());
        let Some(user) = user else { return true };
        let count = self.users.entry(Arc::clone(user)).or_default();
        *count += 1;
        *count == 1
    }

    /// Reports that a person has left, if a client that is not in the room any more was the last one of its user.
    fn report_left(&mut self, client: u64, user: Option<Arc<str>>, report: Report<'_>) {
        let Some(user) = user else {
            return report(WebhookEvent::Left, None, Some(client));
        };
        let Some(count) = self.users.get_mut(&user) else { return };
        *count -= 1;
        if *count == 0 {
            self.users.remove(&user);
            report(WebhookEvent::Left, Some(&user), None);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the events of these changes in the room `tea`, as texts. A change is a client's number, and its user (empty
    /// for none) or `None` if the client leaves.
    fn events(changes: &[(u64, Option<&str>)]) -> Vec<String> {
        let (mut presence, mut events) = (Presence::default(), Vec::new());
        for (client, change) in changes {
            let mut report = |event: WebhookEvent, user: Option<&str>, client: Option<u64>| {
                let who = user.map(str::to_owned).or_else(|| client.map(|number| number.to_string()));
                events.push(format!("{} {}", event.name(), who.unwrap_or_default()).trim().to_owned());
            };
            match change {
                Some(user) => {
                    presence.joined("tea", *client, Some(*user).filter(|user| !user.is_empty()), &mut report);
                }
                None => presence.left("tea", *client, &mut report),
            }
        }
        events
    }

    #[test]
    fn a_user_is_one_person_over_all_its_connections() {
        let changes = [(1, Some("ann")), (2, Some("ann")), (1, None), (3, Some("bob")), (2, None), (3, None)];
        let expected = ["occupied", "joined ann", "joined bob", "left ann", "left bob", "vacated"];
        assert_eq!(events(&changes), expected);
    }

    #[test]
    fn a_connection_without_a_user_is_a_person() {
        let changes = [(1, Some("")), (2, Some("")), (1, None), (2, None), (1, Some("")), (1, None)];
        let once = ["occupied", "joined 1", "joined 2", "left 1", "left 2", "vacated"];
        assert_eq!(events(&changes), [&once[..], &["occupied", "joined 1", "left 1", "vacated"]].concat());
    }

    #[test]
    fn a_change_of_the_user_is_a_change_of_the_person() {
        let changes = [
            (1, Some("")),
            (1, Some("ann")),
            (1, Some("ann")),
            (2, Some("ann")),
            (1, Some("bob")),
            (2, Some("")),
        ];
        let expected = ["occupied", "joined 1", "joined ann", "left 1", "joined bob", "joined 2", "left ann"];
        assert_eq!(events(&changes), expected);
        assert_eq!(events(&[(7, None)]), [""; 0]);
    }

    #[test]
    fn the_users_of_members_are_known_and_nothing_is_kept_of_empty_rooms() {
        let mut presence = Presence::default();
        let mut ignore = |_: WebhookEvent, _: Option<&str>, _: Option<u64>| {};
        presence.joined("tea", 1, Some("ann"), &mut ignore);
        presence.joined("tea", 2, None, &mut ignore);
        assert_eq!((presence.user_of("tea", 1), presence.user_of("tea", 2)), (Some("ann"), None));
        assert_eq!(presence.user_of("coffee", 1), None);
        (1..=2).for_each(|client| presence.left("tea", client, &mut ignore));
        assert!(presence.rooms.is_empty());
    }
}
