//! The events that clients and servers exchange, as JSON.

use serde::{Deserialize, Serialize};
use serde_json::json;
use serde_json::value::RawValue;

use crate::post::escape;

use super::{PusherApp, sign};

/// The message that asks the server for a `pusher:pong`.
pub(crate) const PING: &str = r#"{"event":"pusher:ping","data":{}}"#;
/// The answer to a `pusher:ping` of the server.
pub(crate) const PONG: &str = r#"{"event":"pusher:pong","data":{}}"#;
/// Longest part of a server's error that is shown, in characters.
const MAX_ERROR: usize = 200;

/// An event from a server. Others than these do not concern a load generator.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum ServerEvent {
    /// The connection is established. The text is its socket identifier.
    Established(String),
    /// The server has confirmed the subscription.
    Subscribed,
    Ping,
    Pong,
    /// A member has joined or left a presence channel.
    Members,
    /// The server reports an error, with this text.
    Error(String),
    /// An event of the protocol that needs no reaction.
    Other,
    /// An event of a client or a backend.
    Message,
}

/// A member of a presence channel.
pub(crate) struct Member {
    pub(crate) user_id: String,
}

#[derive(Deserialize)]
struct Frame<'a> {
    event: &'a str,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
}

impl ServerEvent {
    /// Parses a message of a server.
    pub(crate) fn parse(text: &str) -> Self {
        // Most messages are no events of the protocol, so they are not parsed as JSON.
        if !text.contains("\"pusher") {
            return Self::Message;
        }
        let Ok(Frame { event, data }) = serde_json::from_str::<Frame<'_>>(text) else { return Self::Message };
        let data = data.map_or("", RawValue::get);
        match event {
            "pusher:connection_established" => socket_id(data).map_or_else(
                || Self::Error(format!("its greeting has no socket_id: {}", shown(text))),
                Self::Established,
            ),
            "pusher_internal:subscription_succeeded" => Self::Subscribed,
            "pusher:ping" => Self::Ping,
            "pusher:pong" => Self::Pong,
            "pusher_internal:member_added" | "pusher_internal:member_removed" => Self::Members,
            "pusher:error" | "pusher:subscription_error" => Self::Error(shown(data)),
            _ if event.starts_with("pusher") => Self::Other,
            _ => Self::Message,
        }
    }
}

/// Returns whether an event says that a member has left. The event is one about members.
pub(crate) fn is_leave(text: &[u8]) -> bool {
    const NAME: &[u8] = b"\"pusher_internal:member_removed\"";
    text.windows(NAME.len()).any(|window| window == NAME)
}

/// Returns whether clients may send events to a channel.
pub(crate) fn takes_client_events(channel: &str) -> bool {
    (channel.starts_with("private-") && !channel.starts_with("private-encrypted-"))
        || channel.starts_with("presence-")
}

/// Returns the message that subscribes to a channel. `member` is the client as a member of a presence channel.
pub(crate) fn subscribe(app: &PusherApp, socket_id: &str, channel: &str, member: &Member) -> String {
    let data = if channel.starts_with("presence-") {
        let member =
            json!({"user_id": member.user_id, "user_info": {"name": "Member of a benchmark"}}).to_string();
        let auth = sign::authorize(app, socket_id, channel, Some(&member));
        json!({"channel": channel, "auth": auth, "channel_data": member})
    } else if channel.starts_with("private-") {
        json!({"channel": channel, "auth": sign::authorize(app, socket_id, channel, None)})
    } else {
        json!({"channel": channel})
    };
    json!({"event": "pusher:subscribe", "data": data}).to_string()
}

/// Returns the message that ends the subscription to a channel.
pub(crate) fn unsubscribe(channel: &str) -> String {
    json!({"event": "pusher:unsubscribe", "data": {"channel": channel}}).to_string()
}

/// Replaces the content of `out` with the client event that sends `payload` to a channel.
pub(crate) fn write_client_event(channel: &str, payload: &[u8], out: &mut Vec<u8>) {
    out.clear();
    for part in [r#"{"event":"client-msg","channel":""#, channel, r#"","data":""#] {
        out.extend_from_slice(part.as_bytes());
    }
    escape(payload, out);
    out.extend_from_slice(br#""}"#);
}

/// Returns the socket identifier in the data of a greeting: an object, or a text with the JSON of an object.
fn socket_id(data: &str) -> Option<String> {
    #[derive(Deserialize, Serialize)]
    struct Greeting {
        socket_id: String,
    }
    let inner: Option<String> = serde_json::from_str(data).ok();
    let greeting: Option<Greeting> = serde_json::from_str(inner.as_deref().unwrap_or(data)).ok();
    greeting.map(|greeting| greeting.socket_id)
}

fn shown(text: &str) -> String {
    text.chars().take(MAX_ERROR).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_of_the_protocol_are_told_from_messages() {
        let long = "x".repeat(300);
        for (text, event) in [
            (
                r#"{"event":"pusher:connection_established","data":"{\"socket_id\":\"1.2\",\"activity_timeout\":120}"}"#,
                ServerEvent::Established("1.2".to_owned()),
            ),
            (
                r#"{"data":{"socket_id":"3.4"},"event":"pusher:connection_established"}"#,
                ServerEvent::Established("3.4".to_owned()),
            ),
            (r#"{"event":"pusher_internal:subscription_succeeded","channel":"a"}"#, ServerEvent::Subscribed),
            (r#"{"event":"pusher:ping","data":"{}"}"#, ServerEvent::Ping),
            (r#"{"event":"pusher:pong","data":"{}"}"#, ServerEvent::Pong),
            (r#"{"event":"pusher_internal:member_added","channel":"a","data":"{}"}"#, ServerEvent::Members),
            (r#"{"event":"pusher_internal:subscription_count","channel":"a"}"#, ServerEvent::Other),
            (r#"{"event":"msg","channel":"a","data":"\"pusher:ping\""}"#, ServerEvent::Message),
            (r#"{"event":"msg","channel":"a","data":"hello"}"#, ServerEvent::Message),
            (
                r#"{"event":"pusher:error","data":{"code":4301}}"#,
                ServerEvent::Error(r#"{"code":4301}"#.into()),
            ),
            ("\"pusher is no event", ServerEvent::Message),
        ] {
            assert_eq!(ServerEvent::parse(text), event, "{text}");
        }
        let greeting = r#"{"event":"pusher:connection_established","data":"{}"}"#;
        assert!(
            matches!(ServerEvent::parse(greeting), ServerEvent::Error(text) if text.contains("socket_id"))
        );
        let error = format!(r#"{{"event":"pusher:error","data":"{long}"}}"#);
        assert!(matches!(ServerEvent::parse(&error), ServerEvent::Error(text) if text.len() == MAX_ERROR));
        assert!(is_leave(br#"{"event":"pusher_internal:member_removed","channel":"a"}"#));
        assert!(!is_leave(br#"{"event":"pusher_internal:member_added","channel":"a"}"#));
    }

    #[test]
    fn a_subscription_has_what_its_channel_needs() {
        let app: PusherApp = "7:key:secret".parse().expect("an application");
        let member = Member { user_id: "u".to_owned() };
        let data = |channel| -> serde_json::Value {
            let text = subscribe(&app, "1.2", channel, &member);
            let message: serde_json::Value = serde_json::from_str(&text).expect("JSON");
            assert_eq!(message["event"], "pusher:subscribe");
            message["data"].clone()
        };
        assert_eq!(data("a"), json!({"channel": "a"}));
        let private = data("private-a");
        assert!(private["auth"].as_str().is_some_and(|auth| auth.len() == 68), "{private}");
        let presence = data("presence-a");
        let member = presence["channel_data"].as_str().expect("the data of a member is a text");
        assert!(member.contains(r#""user_id":"u""#), "{presence}");
        assert_ne!(presence["auth"], sign::authorize(&app, "1.2", "presence-a", None));
    }

    #[test]
    fn a_client_event_has_the_escapes_of_json() {
        let mut out = Vec::new();
        write_client_event("private-a", b"x\"\\\n", &mut out);
        let event: serde_json::Value = serde_json::from_slice(&out).expect("JSON");
        assert_eq!(event, json!({"event": "client-msg", "channel": "private-a", "data": "x\"\\\n"}));
        assert!(takes_client_events("private-a") && takes_client_events("presence-a"));
        assert!(!takes_client_events("a") && !takes_client_events("private-encrypted-a"));
    }
}
