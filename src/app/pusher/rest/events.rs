//! Bodies of the REST API: the events that a backend triggers.

use std::borrow::Cow;
use std::fmt::Display;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::app::Status;

/// Maximum number of channels of one event.
const MAX_CHANNELS: usize = 100;
/// Maximum number of events of one batch.
const MAX_BATCH: usize = 10;
/// Maximum length of an event's name, in bytes.
const MAX_NAME: usize = 200;

/// An event for one or several channels.
#[derive(Debug, PartialEq, Eq)]
pub(in super::super) struct Event<'a> {
    pub(in super::super) name: Cow<'a, str>,
    /// The data, as a JSON string with its quotes: the form in which clients get it.
    pub(in super::super) data: Cow<'a, str>,
    pub(in super::super) channels: Vec<Cow<'a, str>>,
    /// The socket identifier of the client that does not get the event.
    pub(in super::super) except: Option<Cow<'a, str>>,
    /// Attributes that the answer lists for each channel, separated by commas.
    pub(in super::super) info: Option<Cow<'a, str>>,
}

/// The reason why the body of a request is refused: a status and a sentence.
#[derive(Debug, PartialEq, Eq)]
pub(in super::super) struct BadBody {
    pub(super) status: Status,
    pub(super) message: String,
}

#[derive(Deserialize)]
struct Body<'a> {
    #[serde(borrow)]
    name: Option<Cow<'a, str>>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    #[serde(borrow)]
    channel: Option<Cow<'a, str>>,
    #[serde(borrow)]
    channels: Option<Vec<Cow<'a, str>>>,
    #[serde(borrow)]
    socket_id: Option<Cow<'a, str>>,
    #[serde(borrow)]
    info: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
struct Batch<'a> {
    #[serde(borrow)]
    batch: Vec<Body<'a>>,
}

/// Parses the body of `POST /apps/ID/events`. The data may have `max_data` bytes.
pub(in super::super) fn parse_event(body: &[u8], max_data: usize) -> Result<Event<'_>, BadBody> {
    Event::of(parse(body, EVENT)?, max_data)
}

/// Parses the body of `POST /apps/ID/batch_events`. The data of each event may have `max_data` bytes.
pub(in super::super) fn parse_batch(body: &[u8], max_data: usize) -> Result<Vec<Event<'_>>, BadBody> {
    let Batch { batch } = parse(body, BATCH)?;
    if batch.is_empty() || batch.len() > MAX_BATCH {
        return Err(bad(format!("the batch has {} events; send 1 to {MAX_BATCH}", batch.len())));
    }
    batch.into_iter().map(|body| Event::of(body, max_data)).collect()
}

/// Parses a body. `expected` is an example for the error.
fn parse<'a, T: Deserialize<'a>>(body: &'a [u8], expected: &str) -> Result<T, BadBody> {
    let explain =
        |error: &dyn Display| bad(format!("the body is not the expected JSON: {error}; send {expected}"));
    // Serde takes a list for an object, too.
    if !body.trim_ascii_start().starts_with(b"{") {
        return Err(explain(&"it is not an object"));
    }
    serde_json::from_slice(body).map_err(|error| explain(&error))
}

const EVENT: &str = r#"{"name": "…", "channels": ["…"], "data": "…"}"#;
const BATCH: &str = r#"{"batch": [{"name": "…", "channel": "…", "data": "…"}]}"#;

impl<'a> Event<'a> {
    fn of(body: Body<'a>, max_data: usize) -> Result<Self, BadBody> {
        let Body { name, data, channel, channels, socket_id: except, info } = body;
        let name = name.ok_or_else(|| bad("the event has no name".into()))?;
        if name.is_empty() || name.len() > MAX_NAME {
            return Err(bad(format!("the event's name has {} bytes; use 1 to {MAX_NAME}", name.len())));
        }
        let channels = match (channel, channels) {
            (Some(channel), None) => vec![channel],
            (None, Some(channels)) => channels,
            (None, None) => return Err(bad("the event has neither channel nor channels".into())),
            (Some(_), Some(_)) => {
                return Err(bad("the event has both channel and channels; send one".into()));
            }
        };
        if channels.is_empty() || channels.len() > MAX_CHANNELS {
            return Err(bad(format!("the event has {} channels; send 1 to {MAX_CHANNELS}", channels.len())));
        }
        let data = data.ok_or_else(|| bad("the event has no data".into()))?.get();
        // Clients expect a string. Another JSON value becomes the string of its text.
        let data = if data.starts_with('"') {
            Cow::Borrowed(data)
        } else {
            Cow::Owned(serde_json::Value::from(data).to_string())
        };
        let len = string_len(&data, max_data);
        if len > max_data {
            let message = format!("the data has {len} bytes; send at most {max_data}");
            return Err(BadBody { status: Status::ContentTooLarge, message });
        }
        Ok(Self { name, data, channels, except, info })
    }
}

/// Returns the number of bytes of the text that a JSON string stands for. Counts only strings that may be longer than
/// `limit`; the result for others is an upper bound.
fn string_len(json: &str, limit: usize) -> usize {
    let at_most = json.len() - 2;
    if at_most <= limit {
        return at_most;
    }
    serde_json::from_str::<String>(json).map_or(at_most, |text| text.len())
}

fn bad(message: String) -> BadBody {
    BadBody { status: Status::BadRequest, message }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(body: &str) -> BadBody {
        parse_event(body.as_bytes(), 10).expect_err(body)
    }

    #[test]
    fn an_event_has_one_channel_or_several() {
        let one = br#"{"name":"e","channel":"a","data":"x\"y","socket_id":"1.2","info":"cache","more":[1]}"#;
        let event = parse_event(one, 10).expect("valid");
        let expected = Event {
            name: "e".into(),
            data: r#""x\"y""#.into(),
            channels: vec!["a".into()],
            except: Some("1.2".into()),
            info: Some("cache".into()),
        };
        assert_eq!(event, expected);
        let several = br#"{"name":"e\u00e9","channels":["a","b"],"data":""}"#;
        let event = parse_event(several, 10).expect("valid");
        assert_eq!((&*event.name, event.channels.len(), &*event.data), ("eé", 2, r#""""#));
    }

    #[test]
    fn data_that_is_no_string_becomes_one() {
        for (data, expected) in [("{\"a\": 1}", r#""{\"a\": 1}""#), ("[]", "\"[]\""), ("7", "\"7\"")] {
            let body = format!(r#"{{"name":"e","channel":"a","data":{data}}}"#);
            let event = parse_event(body.as_bytes(), 10).expect(data);
            assert_eq!(event.data, expected);
        }
    }

    #[test]
    fn the_length_of_the_data_counts_without_escapes() {
        let body = |data: &str| format!(r#"{{"name":"e","channel":"a","data":"{data}"}}"#);
        for (data, is_allowed) in [
            ("0123456789", true),
            ("01234567890", false),
            (r#"\"\"\"\"\"\"\"\"\"\""#, true),
            (r#"\"\"\"\"\"\"\"\"\"\"\""#, false),
            (r"\u00e9\u00e9\u00e9\u00e9\u00e9", true),
            (r"\u00e9\u00e9\u00e9\u00e9\u00e9x", false),
        ] {
            let result = parse_event(body(data).as_bytes(), 10).map(|_| ()).map_err(|error| error.status);
            let expected = if is_allowed { Ok(()) } else { Err(Status::ContentTooLarge) };
            assert_eq!(result, expected, "{data}");
        }
    }

    #[test]
    fn a_wrong_body_is_explained() {
        let many = |count: usize| vec!["\"a\""; count].join(",");
        for (body, part) in [
            (String::new(), "not the expected JSON"),
            ("[]".into(), "not the expected JSON"),
            (r#"["e", "", "a", null, null, null]"#.into(), "it is not an object"),
            (r#"{"name":7,"channel":"a","data":""}"#.into(), "not the expected JSON"),
            (r#"{"channel":"a","data":""}"#.into(), "no name"),
            (r#"{"name":"","channel":"a","data":""}"#.into(), "has 0 bytes"),
            (format!(r#"{{"name":"{}","channel":"a","data":""}}"#, "n".repeat(201)), "has 201 bytes"),
            (r#"{"name":"e","data":""}"#.into(), "neither channel nor channels"),
            (r#"{"name":"e","data":"","channel":"a","channels":["b"]}"#.into(), "both"),
            (r#"{"name":"e","data":"","channels":[]}"#.into(), "has 0 channels"),
            (format!(r#"{{"name":"e","data":"","channels":[{}]}}"#, many(101)), "has 101 channels"),
            (r#"{"name":"e","channel":"a"}"#.into(), "no data"),
            (r#"{"name":"e","channel":"a","data":null}"#.into(), "no data"),
            (r#"{"name":"e","channel":"a","data":"","data":""}"#.into(), "duplicate field"),
        ] {
            let BadBody { status, message } = failure(&body);
            assert!(status == Status::BadRequest && message.contains(part), "{body}: {message}");
        }
    }

    #[test]
    fn a_batch_has_1_to_10_events() {
        let event = r#"{"name":"e","channel":"a","data":""}"#;
        for (count, is_allowed) in [(0, false), (1, true), (10, true), (11, false)] {
            let body = format!(r#"{{"batch":[{}]}}"#, vec![event; count].join(","));
            assert_eq!(parse_batch(body.as_bytes(), 10).is_ok(), is_allowed, "{count}");
        }
        assert!(parse_batch(event.as_bytes(), 10).is_err());
    }
}
