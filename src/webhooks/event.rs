//! Events as JSON.

use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;

/// A kind of event that `--webhook-events` chooses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "server", derive(clap::ValueEnum))]
pub enum WebhookEvent {
    /// A room has got its first member.
    Occupied,
    /// A room has lost its last member.
    Vacated,
    /// A person has come to a room: the first connection of a user, or a connection without a user.
    Joined,
    /// A person has left a room: the last connection of a user, or a connection without a user.
    Left,
}

impl WebhookEvent {
    /// All kinds of events.
    pub const ALL: [Self; 4] = [Self::Occupied, Self::Vacated, Self::Joined, Self::Left];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Occupied => "occupied",
            Self::Vacated => "vacated",
            Self::Joined => "joined",
            Self::Left => "left",
        }
    }
}

/// A message of a room, for a report.
#[derive(Debug)]
pub(crate) struct Message<'a> {
    /// Number of the message in its room. `None` if the room does not exist.
    pub(crate) number: Option<u64>,
    pub(crate) epoch: Option<u64>,
    pub(crate) user: Option<&'a str>,
    /// Number of the client that has sent the message.
    pub(crate) client: Option<u64>,
    /// Whether the payload is text in UTF-8.
    pub(crate) is_text: bool,
    pub(crate) payload: &'a [u8],
}

/// An event as it is serialised. Fields without a value are left out.
#[derive(Debug, Serialize)]
pub(super) struct Event<'a> {
    event: &'static str,
    /// Time of the event in milliseconds since 1970.
    time: u64,
    room: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    client: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    number: Option<u64>,
    /// As text, since it needs more digits than the numbers of JavaScript have.
    #[serde(skip_serializing_if = "Option::is_none")]
    epoch: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    base64: Option<String>,
}

impl<'a> Event<'a> {
    pub(super) fn new(event: &'static str, room: &'a str) -> Self {
        let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64;
        Self {
            event,
            time,
            room,
            user: None,
            client: None,
            number: None,
            epoch: None,
            text: None,
            base64: None,
        }
    }

    /// Adds the person to whom the event happened.
    pub(super) fn of(self, user: Option<&'a str>, client: Option<u64>) -> Self {
        Self { user, client, ..self }
    }

    pub(super) fn message(room: &'a str, message: Message<'a>) -> Self {
        let Message { number, epoch, user, client, is_text, payload } = message;
        let text = str::from_utf8(payload).ok().filter(|_| is_text);
        let base64 = text.is_none().then(|| STANDARD.encode(payload));
        let epoch = epoch.map(|epoch| epoch.to_string());
        Self { user, client, number, epoch, text, base64, ..Self::new("message", room) }
    }

    pub(super) fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("texts and numbers are JSON")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_has_only_the_fields_that_it_has_a_value_for() {
        let json = |event: Event<'_>| String::from_utf8(Event { time: 7, ..event }.to_json()).expect("UTF-8");
        for kind in WebhookEvent::ALL {
            let expected = format!(r#"{{"event":"{}","time":7,"room":"tea"}}"#, kind.name());
            assert_eq!(json(Event::new(kind.name(), "tea")), expected);
        }
        let joined = Event::new("joined", "a \"b\"").of(Some("ann"), None);
        assert_eq!(json(joined), r#"{"event":"joined","time":7,"room":"a \"b\"","user":"ann"}"#);
        let message = Message {
            number: Some(3),
            epoch: Some(u64::MAX),
            user: None,
            client: Some(17),
            is_text: true,
            payload: "é".as_bytes(),
        };
        let expected = r#"{"event":"message","time":7,"room":"tea","client":17,"number":3,"epoch":"18446744073709551615","text":"é"}"#;
        assert_eq!(json(Event::message("tea", message)), expected);
        let message = Message {
            number: None,
            epoch: None,
            user: None,
            client: None,
            is_text: false,
            payload: b"\0\xff",
        };
        let expected = r#"{"event":"message","time":7,"room":"tea","base64":"AP8="}"#;
        assert_eq!(json(Event::message("tea", message)), expected);
    }
}
