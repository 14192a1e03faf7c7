//! Names of channels, and what a channel can do by its name.

use std::borrow::Cow;

/// Maximum length of a channel's name in bytes. Pusher's documents say 164; the libraries let 200 pass.
const MAX_NAME: usize = 200;
/// Start of the name of the channel of a user.
const SERVER_TO_USER: &str = "#server-to-user-";

/// The type of a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Type {
    /// Open to all clients.
    Public,
    /// Open to clients with a signature. Clients may send client events.
    Private,
    /// A private channel whose events only its clients can read. No client events.
    Encrypted,
    /// A private channel whose clients know each other.
    Presence,
    /// The channel of one user, open to clients that are signed in as this user.
    User,
}

/// A valid name of a channel, with its type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Channel<'a> {
    /// The whole name.
    pub(super) name: &'a str,
    pub(super) of_type: Type,
    /// Whether a new subscriber gets the last event.
    pub(super) is_cache: bool,
}

impl<'a> Channel<'a> {
    /// Checks a name. Returns `None` if a channel cannot have the name.
    pub(super) fn parse(name: &'a str) -> Option<Self> {
        if let Some(user) = name.strip_prefix(SERVER_TO_USER) {
            // A user's identifier is any text for the client libraries, so only its length is limited.
            let is_user = (1..=MAX_NAME).contains(&user.len()) && !user.chars().any(char::is_control);
            return is_user.then_some(Self { name, of_type: Type::User, is_cache: false });
        }
        let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_-=@,.;".contains(&byte);
        if name.is_empty() || name.len() > MAX_NAME || !name.bytes().all(is_allowed) {
            return None;
        }
        let (of_type, rest) = match name {
            _ if let Some(rest) = name.strip_prefix("private-encrypted-") => (Type::Encrypted, rest),
            _ if let Some(rest) = name.strip_prefix("private-") => (Type::Private, rest),
            _ if let Some(rest) = name.strip_prefix("presence-") => (Type::Presence, rest),
            _ => (Type::Public, name),
        };
        Some(Self { name, of_type, is_cache: rest.starts_with("cache-") })
    }

    /// Returns the name of the channel's room.
    pub(super) fn room(&self, app_id: &str) -> String {
        [app_id, "/", self.name].concat()
    }

    /// Returns the user of the channel `#server-to-user-ID`.
    pub(super) fn user(&self) -> Option<&'a str> {
        self.name.strip_prefix(SERVER_TO_USER)
    }

    /// Returns whether a subscription needs a signature.
    pub(super) fn needs_signature(&self) -> bool {
        matches!(self.of_type, Type::Private | Type::Encrypted | Type::Presence)
    }

    /// Returns whether clients may send events to the channel.
    pub(super) fn takes_client_events(&self) -> bool {
        matches!(self.of_type, Type::Private | Type::Presence)
    }

    pub(super) fn is_presence(&self) -> bool {
        self.of_type == Type::Presence
    }
}

/// Returns the name of a channel for an error text: cut, because a client may send any length.
pub(super) fn shown(name: &str) -> Cow<'_, str> {
    match name.char_indices().nth(MAX_NAME) {
        Some((end, _)) => format!("{}…", &name[..end]).into(),
        None => name.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_tells_what_a_channel_can_do() {
        for (name, of_type, is_cache) in [
            ("lobby", Type::Public, false),
            ("cache-lobby", Type::Public, true),
            ("my-cache-lobby", Type::Public, false),
            ("private-a", Type::Private, false),
            ("private-cache-a", Type::Private, true),
            ("private-encrypted-a", Type::Encrypted, false),
            ("private-encrypted-cache-a", Type::Encrypted, true),
            ("presence-a", Type::Presence, false),
            ("presence-cache-a", Type::Presence, true),
            ("Private-a", Type::Public, false),
            ("private", Type::Public, false),
            ("#server-to-user-5", Type::User, false),
            ("#server-to-user-ann smith", Type::User, false),
        ] {
            let channel = Channel::parse(name).expect(name);
            assert_eq!((channel.of_type, channel.is_cache), (of_type, is_cache), "{name}");
            assert_eq!(channel.room("7"), format!("7/{name}"));
        }
        assert_eq!(Channel::parse("#server-to-user-5").and_then(|channel| channel.user()), Some("5"));
        let takers = ["private-a", "presence-a", "presence-cache-a"];
        assert!(takers.iter().all(|name| Channel::parse(name).is_some_and(|one| one.takes_client_events())));
        let others = ["a", "private-encrypted-a", "#server-to-user-1"];
        assert!(!others.iter().any(|name| Channel::parse(name).is_some_and(|one| one.takes_client_events())));
    }

    #[test]
    fn names_that_no_channel_can_have_are_refused() {
        let (longest, long) = ("a".repeat(200), "a".repeat(201));
        assert!(Channel::parse(&longest).is_some());
        for name in ["", " ", "a b", "a/b", "#a", "a#", "ä", "a\n", "#server-to-user-", "a:b", "a%20", &long]
        {
            assert_eq!(Channel::parse(name), None, "{name}");
        }
        assert!(Channel::parse("AZaz09_-=@,.;").is_some());
        assert_eq!(shown(&long).chars().count(), 201);
    }
}
