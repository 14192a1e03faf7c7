//! Properties of the names and the users that clients send, for a fuzz target and for tests.

use serde::Deserialize;
use serde_json::value::RawValue;

use super::channel::Channel;
use super::inbound::Frame;
use super::presence::{NewMember, Presence, member_added};
use super::socket_id::{client_of, is_socket_id, socket_id};
use super::subscriptions::member_of;
use super::{PusherApp, signin, subscriptions};

/// Checks that a text which a client may send as the data of an event, a channel's name, a user or a socket identifier is
/// refused, or is understood and encoded as the same again.
///
/// # Panics
/// A property does not hold.
pub fn check_client_text(text: &str) {
    if let Ok(frame) = Frame::parse(text) {
        subscriptions::check_data(frame.data);
        signin::check_data(frame.data);
    }
    if let Some(channel) = Channel::parse(text) {
        let room = channel.room("7");
        assert_eq!((super::home::channel(&room), channel.name), (text, text));
        assert!(
            channel.user().is_some() || text.is_ascii() && !text.contains(['/', '"', '\\', '#']),
            "{text}"
        );
    }
    if let Some(client) = client_of(text, 9) {
        assert!(is_socket_id(text) && client_of(&socket_id(client, 9), 9) == Some(client), "{text}");
    }
    if let Ok(member) = member_of(text, &PusherApp::new("1", "key", "secret")) {
        check_member(member);
    }
}

/// Checks that the events about a member have the member in them.
fn check_member(member: NewMember) {
    #[derive(Deserialize)]
    struct Event {
        data: String,
    }
    #[derive(Deserialize)]
    struct Added<'a> {
        user_id: String,
        #[serde(borrow)]
        user_info: &'a RawValue,
    }
    let event: Event = serde_json::from_str(&member_added("presence-a", &member)).expect("an event");
    let added: Added<'_> = serde_json::from_str(&event.data).expect("the data of an event");
    assert_eq!((&*added.user_id, added.user_info.get()), (&*member.user_id, &*member.info));
    let mut presence = Presence::default();
    presence.add(1, member);
    let event: Event = serde_json::from_str(&presence.succeeded("presence-a")).expect("an event");
    assert!(serde_json::from_str::<&RawValue>(&event.data).is_ok(), "{}", event.data);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_parts_of_valid_texts_are_refused_or_understood() {
        let texts = [
            r#"{"event":"client-\u00e4\"","channel":"private-a","data":{"a":[1,"\\"],"b":"\u2028"}}"#,
            r#"{"event":"pusher:subscribe","data":{"channel":"presence-a","auth":"k:00","channel_data":"{\"user_id\":1}"}}"#,
            r#"{"event":"pusher:signin","data":"{\"auth\":\"k:0\",\"user_data\":\"{\\\"id\\\":\\\"1\\\"}\"}"}"#,
            r#"{"user_id":"ä\n","user_info":{"name":"\u0000","list":[ 1 , 2 ]}}"#,
            r#"{"user_id":18446744073709551615,"user_info":null}"#,
            "presence-cache-A_-=@,.;9",
            "#server-to-user-ann smith/\"",
            "184467440737095516.4294967295",
        ];
        for text in texts {
            let cuts: Vec<usize> = (0..=text.len()).filter(|at| text.is_char_boundary(*at)).collect();
            for at in &cuts {
                check_client_text(&text[..*at]);
                check_client_text(&text[*at..]);
                for other in ["\"", "\\", "{", "}", "[", ",", "0", "é", "\u{7f}"] {
                    check_client_text(&[&text[..*at], other, &text[*at..]].concat());
                }
            }
        }
    }
}
