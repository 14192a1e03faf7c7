//! Parsers of what clients and backends send, for the fuzz targets.

use std::time::Duration;

use super::encode::{Data, encode_event};
use super::inbound::Frame;
use super::rest::{Event, SignedQuery, parse_batch, parse_event};

/// Maximum size of an event's data, in bytes.
const MAX_DATA: usize = 1 << 10;

/// Returns the event that other clients get when a client sends `json`. `None` if `json` is no event.
pub fn client_event(json: &str) -> Option<String> {
    let frame = Frame::parse(json).ok()?;
    let data = frame.data.map_or(Data::None, |data| Data::Json(data.get()));
    Some(encode_event(&frame.event, frame.channel.as_deref(), data, Some("user")))
}

/// Returns the events that clients get when a backend sends `body`, for one event or for a batch.
pub fn backend_events(body: &[u8]) -> Vec<String> {
    let batch = parse_batch(body, MAX_DATA).unwrap_or_default();
    let events = parse_event(body, MAX_DATA).into_iter().chain(batch);
    let encode = |event: Event<'_>| {
        let channel = event.channels.first().map(|name| &**name);
        encode_event(&event.name, channel, Data::Json(&event.data), None)
    };
    events.map(encode).collect()
}

/// Returns whether a request without a body has a valid signature at the time `now`, counted from 1970 on.
pub fn is_signed(key: &str, secret: &str, method: &str, path: &str, query: &str, now: Duration) -> bool {
    SignedQuery::parse(Some(query))
        .is_ok_and(|query| query.check((key, secret), (method, path), b"", now).is_ok())
}
