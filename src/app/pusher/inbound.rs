//! The events that clients send.

use std::borrow::Cow;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

/// An event from a client.
#[derive(Debug, Deserialize)]
pub(super) struct Frame<'a> {
    /// The event's name.
    #[serde(borrow)]
    pub(super) event: Cow<'a, str>,
    /// The JSON text of the data. `None` without data, and for `null`.
    #[serde(borrow, default)]
    pub(super) data: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub(super) channel: Option<Cow<'a, str>>,
}

impl<'a> Frame<'a> {
    /// Parses an event.
    ///
    /// # Errors
    /// Returns a text for the client.
    pub(super) fn parse(json: &'a str) -> Result<Self, String> {
        // Serde takes a list for an object, too.
        if !json.trim_ascii_start().starts_with('{') {
            return Err("The message is not a JSON object; send {\"event\":…,\"data\":…}.".into());
        }
        serde_json::from_str(json).map_err(|error| format!("The message is not an event: {error}."))
    }
}

/// Returns the data of an event as a `T`. The data is an object, or a text with the JSON of one.
///
/// # Errors
/// Returns a text for the client.
pub(super) fn data_of<T: DeserializeOwned>(event: &str, data: Option<&RawValue>) -> Result<T, String> {
    let wrong = |error: serde_json::Error| format!("The data of {event} is not valid: {error}.");
    let json = data.map_or("", RawValue::get);
    let json = match json.starts_with('"') {
        true => serde_json::from_str::<String>(json).map_err(wrong)?.into(),
        false => Cow::Borrowed(json),
    };
    if !json.trim_ascii_start().starts_with('{') {
        return Err(format!("The data of {event} is not an object."));
    }
    serde_json::from_str(&json).map_err(wrong)
}

/// Text or a number, as a text. Backends use both for identifiers.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(from = "Identifier")]
pub(super) struct Id(pub(super) String);

#[derive(Deserialize)]
#[serde(untagged)]
enum Identifier {
    Text(String),
    Number(serde_json::Number),
}

impl From<Identifier> for Id {
    fn from(identifier: Identifier) -> Self {
        match identifier {
            Identifier::Text(text) => Self(text),
            Identifier::Number(number) => Self(number.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize)]
    struct Channel {
        channel: String,
        auth: Option<String>,
    }

    #[test]
    fn events_have_a_name_and_any_data() {
        let frame = Frame::parse(r#" {"event":"a\u00e4","data":{"x":[1]},"channel":"c","more":1}"#)
            .expect("an event");
        assert_eq!((&*frame.event, frame.channel.as_deref()), ("aä", Some("c")));
        assert_eq!(frame.data.map(RawValue::get), Some(r#"{"x":[1]}"#));
        for json in [r#"{"event":"a"}"#, r#"{"event":"a","data":null,"channel":null}"#] {
            let frame = Frame::parse(json).expect("an event");
            assert!(frame.data.is_none() && frame.channel.is_none());
        }
    }

    #[test]
    fn wrong_messages_are_refused_with_the_reason() {
        let long = "[".repeat(100_000);
        for json in [
            "",
            "x",
            "[]",
            "1",
            "null",
            "\"a\"",
            "{",
            "{}",
            r#"["a",{},"c"]"#,
            r#"{"event":1}"#,
            r#"{"event":null}"#,
            r#"{"event":["a"]}"#,
            r#"{"event":"a","channel":5}"#,
            r#"{"event":"a"} x"#,
            r#"{"data":{}}"#,
            r#"{"event":"a","event":"b"}"#,
            &format!("{{\"event\":\"a\",\"data\":{long}"),
        ] {
            assert!(Frame::parse(json).is_err(), "{json}");
        }
        let error = Frame::parse(r#"{"event":1}"#).expect_err("a number");
        assert!(error.contains("expected a string") && error.ends_with('.'), "{error}");
    }

    #[test]
    fn data_is_an_object_or_a_text_with_one() {
        let parse = |data: &str| {
            let json = format!("{{\"event\":\"e\",\"data\":{data}}}");
            data_of::<Channel>("e", Frame::parse(&json).expect("an event").data)
        };
        for data in [r#"{"channel":"c"}"#, r#""{\"channel\":\"c\"}""#, r#"{"channel":"c","auth":null}"#] {
            let parsed = parse(data).expect(data);
            assert_eq!((&*parsed.channel, parsed.auth), ("c", None));
        }
        for data in [
            "null",
            "[]",
            r#"["c","a"]"#,
            "1",
            r#""""#,
            r#""c""#,
            "{}",
            r#"{"channel":1}"#,
            r#"{"channel":"c","auth":1}"#,
        ] {
            let error = parse(data).expect_err(data);
            assert!(error.starts_with("The data of e is not"), "{error}");
        }
    }

    #[test]
    fn identifiers_are_texts_or_numbers() {
        let parse = |json| serde_json::from_str::<Id>(json).map(|id| id.0).ok();
        assert_eq!(parse("\"a\""), Some("a".into()));
        assert_eq!(parse("12"), Some("12".into()));
        assert_eq!(parse("18446744073709551615"), Some("18446744073709551615".into()));
        assert_eq!((parse("null"), parse("{}"), parse("true")), (None, None, None));
    }
}
