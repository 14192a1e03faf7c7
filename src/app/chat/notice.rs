//! Notices: texts of the chat for one client alone.

use std::borrow::Cow;

use serde::Serialize;

use crate::hub::Kind;

/// All commands of the chat with their descriptions, as `/help` lists them. The last one is for clients with a token.
const COMMANDS: [Command; 6] = [
    Command { usage: "/nick NAME", does: "be called NAME" },
    Command { usage: "/join ROOM", does: "go to another room" },
    Command { usage: "/msg NAME TEXT", does: "tell one person only" },
    Command { usage: "/who", does: "who is here" },
    Command { usage: "/help", does: "this list" },
    Command { usage: "/token TOKEN", does: "replace your token before it expires" },
];

/// A command with its description, in the answer to `/help`.
#[derive(Debug, Serialize)]
pub(super) struct Command {
    usage: &'static str,
    does: &'static str,
}

/// The chat's length limits, as the welcome notice tells them to clients.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Limits {
    /// Maximum length of a room message in bytes.
    pub(super) message: u32,
    /// Maximum length of a private message in bytes.
    pub(super) private_message: u32,
}

/// A notice to one client: a line of text that begins with `* `. Clients that connected with `format=json` get a JSON
/// object in a binary message instead. Room messages are always text, so no user can forge such an object.
#[derive(Debug, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(super) enum Notice<'a> {
    /// Welcome notice: the client is in its first room. `id` is its number.
    Welcome { room: &'a str, name: &'a str, id: u64, limits: Limits },
    /// Notice that the client has moved to another room.
    Joined { room: &'a str },
    /// Answer to `/who`: some of the members' names, and the number of all members.
    People { room: &'a str, names: &'a [String], count: usize },
    /// Private message from the user `name` to the client.
    PrivateFrom { name: &'a str, text: &'a str },
    /// Confirmation that the client's private message to the user `name` is on its way.
    PrivateTo { name: &'a str, text: &'a str },
    /// Refusal of a name that the client asked for: another user has the name.
    Taken { name: &'a str },
    /// Answer to `/help`: the commands.
    Help { commands: &'static [Command] },
    /// Report that the client read too slowly and skips `count` messages.
    Missed { count: u64 },
    /// Ages, in seconds, of the messages in the room's history, oldest first. The last `unsent` of these messages
    /// follow this notice; the client already has the others. `next` is the number of the next message of the room that
    /// the client gets, for a client with a session. Sent only to clients with `format=json`.
    History {
        room: &'a str,
        ages: &'a [u32],
        unsent: u64,
        #[serde(skip_serializing_if = "Option::is_none")]
        next: Option<u64>,
    },
    /// Report that a client that returned with its session continues in its room: the next message of the room has the
    /// number `next`. `missed` messages before it are lost for good; `null` if their number is unknown. Sent only to
    /// clients with `format=json`.
    Resumed { room: &'a str, next: u64, missed: Option<u64> },
    /// Notice with any other line of text.
    Note { text: Cow<'a, str> },
}

impl Notice<'_> {
    /// Returns the answer to `/help`. `has_token` tells whether the client has an access token.
    pub(super) fn help(has_token: bool) -> Self {
        let count = if has_token { COMMANDS.len() } else { COMMANDS.len() - 1 };
        Self::Help { commands: &COMMANDS[..count] }
    }

    /// Returns the message for this notice, with its type: a binary JSON object or a line of text.
    pub(super) fn encode(&self, is_json: bool) -> (Kind, String) {
        match is_json {
            true => (Kind::Binary, serde_json::to_string(self).unwrap_or_default()),
            false => (Kind::Text, format!("* {}", self.text())),
        }
    }

    fn text(&self) -> String {
        match self {
            Self::Welcome { room, name, .. } => {
                format!("welcome to {room}, you are {name}; /help lists the commands")
            }
            Self::Joined { room } => format!("you are in {room}"),
            Self::People { room, names, count } => {
                let more = count - names.len();
                let and_more = if more > 0 { format!(", and {more} more") } else { String::new() };
                format!("in {room} ({count}): {}{and_more}", names.join(", "))
            }
            Self::PrivateFrom { name, text } => format!("from {name}: {text}"),
            Self::PrivateTo { name, text } => format!("to {name}: {text}"),
            Self::Taken { name } => format!("the name {name} is taken"),
            Self::Help { commands } => {
                let commands = commands.iter().map(|Command { usage, does }| format!("{usage}: {does}"));
                commands.collect::<Vec<_>>().join("; ")
            }
            Self::Missed { count } => format!("{count} messages missed"),
            Self::History { ages, .. } => format!("the last {} messages are from before", ages.len()),
            Self::Resumed { room, .. } => format!("you are back in {room}"),
            Self::Note { text } => text.clone().into_owned(),
        }
    }
}

impl<'a> From<&'a str> for Notice<'a> {
    fn from(text: &'a str) -> Self {
        Self::Note { text: text.into() }
    }
}

impl From<String> for Notice<'_> {
    fn from(text: String) -> Self {
        Self::Note { text: text.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_what_an_object_says() {
        let names = ["a \"b\"".to_owned(), "User #7 (1)".to_owned()];
        for (notice, line, json) in [
            (
                Notice::People { room: "x: y", names: &names, count: 3 },
                "* in x: y (3): a \"b\", User #7 (1), and 1 more",
                r#"{"event":"people","room":"x: y","names":["a \"b\"","User #7 (1)"],"count":3}"#,
            ),
            (Notice::Joined { room: "tea" }, "* you are in tea", r#"{"event":"joined","room":"tea"}"#),
            (
                Notice::PrivateFrom { name: "bob", text: "hi" },
                "* from bob: hi",
                r#"{"event":"private_from","name":"bob","text":"hi"}"#,
            ),
            ("so".into(), "* so", r#"{"event":"note","text":"so"}"#),
        ] {
            assert_eq!(notice.encode(false), (Kind::Text, line.to_owned()));
            assert_eq!(notice.encode(true), (Kind::Binary, json.to_owned()));
        }
        let help = "* /nick NAME: be called NAME; /join ROOM: go to another room; /msg NAME TEXT: tell one person only; \
                    /who: who is here; /help: this list";
        assert_eq!(Notice::help(false).encode(false).1, help);
        let with_token = format!("{help}; /token TOKEN: replace your token before it expires");
        assert_eq!(Notice::help(true).encode(false).1, with_token);
    }
}
