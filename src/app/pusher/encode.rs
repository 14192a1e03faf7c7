//! Encoding of the events that clients get.

use std::fmt::Write;

/// The data of an event.
#[derive(Clone, Copy, Debug)]
pub(super) enum Data<'a> {
    /// A text, which becomes a JSON string. Servers send the data of events so: a JSON text within a string.
    Text(&'a str),
    /// A JSON value, which becomes part of the event as it is.
    Json(&'a str),
    /// No data: the event has no such key.
    None,
}

/// The answer to `pusher:ping`. It has no channel, which Pysher would not take.
pub(super) const PONG: &str = r#"{"event":"pusher:pong","data":"{}"}"#;

/// Time in seconds without a message after which clients send `pusher:ping`.
const ACTIVITY_TIMEOUT: u32 = 120;

/// Returns the first event of a connection. pusher-js needs the time, and fails on 0.
pub(super) fn connection_established(socket_id: &str) -> String {
    let data = format!("{{\"socket_id\":\"{socket_id}\",\"activity_timeout\":{ACTIVITY_TIMEOUT}}}");
    encode_event("pusher:connection_established", None, Data::Text(&data), None)
}

/// Returns the JSON text of an event. `channel` is `None` for an event of the connection, `user_id` the sender of a client
/// event in a presence channel.
pub(super) fn encode_event(
    event: &str,
    channel: Option<&str>,
    data: Data<'_>,
    user_id: Option<&str>,
) -> String {
    let data_len = match data {
        Data::Text(text) => text.len() + text.len() / 8,
        Data::Json(json) => json.len(),
        Data::None => 0,
    };
    let mut json = String::with_capacity(64 + event.len() + channel.map_or(0, str::len) + data_len);
    json.push_str("{\"event\":");
    push_text(&mut json, event);
    if !matches!(data, Data::None) {
        json.push_str(",\"data\":");
    }
    match data {
        Data::Text(text) => push_text(&mut json, text),
        Data::Json(value) => json.push_str(value),
        Data::None => {}
    }
    for (key, value) in [("channel", channel), ("user_id", user_id)] {
        if let Some(value) = value {
            let _ = write!(json, ",\"{key}\":");
            push_text(&mut json, value);
        }
    }
    json.push('}');
    json
}

/// Appends a text as a JSON string. RFC 8259 §7
pub(super) fn push_text(json: &mut String, text: &str) {
    json.push('"');
    let mut start = 0;
    for (at, byte) in text.bytes().enumerate() {
        if byte >= b' ' && byte != b'"' && byte != b'\\' {
            continue;
        }
        json.push_str(&text[start..at]);
        match byte {
            b'"' => json.push_str("\\\""),
            b'\\' => json.push_str("\\\\"),
            b'\n' => json.push_str("\\n"),
            b'\r' => json.push_str("\\r"),
            b'\t' => json.push_str("\\t"),
            _ => _ = write!(json, "\\u{byte:04x}"),
        }
        start = at + 1;
    }
    json.push_str(&text[start..]);
    json.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_encoded_as_in_pushers_documents() {
        let event = encode_event("my-event", Some("my-channel"), Data::Text(r#"{"a":"b"}"#), None);
        assert_eq!(event, r#"{"event":"my-event","data":"{\"a\":\"b\"}","channel":"my-channel"}"#);
        let event = encode_event("client-x", Some("presence-a"), Data::Json(r#"{"a":1}"#), Some("ann"));
        assert_eq!(event, r#"{"event":"client-x","data":{"a":1},"channel":"presence-a","user_id":"ann"}"#);
        assert_eq!(encode_event("pusher:pong", None, Data::Text("{}"), None), PONG);
        let event = encode_event("pusher:cache_miss", Some("cache-a"), Data::None, None);
        assert_eq!(event, r#"{"event":"pusher:cache_miss","channel":"cache-a"}"#);
        assert_eq!(
            connection_established("1.2"),
            r#"{"event":"pusher:connection_established","data":"{\"socket_id\":\"1.2\",\"activity_timeout\":120}"}"#
        );
    }

    #[test]
    fn texts_are_escaped_so_that_any_parser_gets_them_back() {
        let all: String = (0..0x800).filter_map(char::from_u32).chain("\u{2028}🎉\\\"".chars()).collect();
        for text in ["", "plain", "\"", "\\", "\\\"\n\u{0}\u{1f}\u{7f}ä", &all] {
            let mut json = String::new();
            push_text(&mut json, text);
            assert_eq!(serde_json::from_str::<String>(&json).expect("JSON"), text);
        }
    }
}
