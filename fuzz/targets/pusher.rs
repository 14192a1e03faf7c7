//! Fuzz target: what clients and backends send to a Pusher server. The first character selects an event of a client, the body
//! of a backend, or the query of a signed request.
#![no_main]

use std::time::Duration;

use hmac::{Hmac, KeyInit, Mac};
use serde_json::Value;
use sha2::Sha256;
use uproar::app::pusher_parsers::{backend_events, client_event, is_signed};

const SECRET: &str = "7ad3773142a6692b25b8";
const OWN: &str = "auth_key=key&auth_timestamp=1000&auth_version=1.0";

libfuzzer_sys::fuzz_target!(|input: &str| {
    let mut chars = input.chars();
    let Some(kind) = chars.next() else { return };
    let input = chars.as_str();
    match kind as u32 % 3 {
        0 => judge_client_event(input),
        1 => judge_backend_events(input),
        _ => judge_query(input),
    }
});

/// An event of a client reaches the others with its name and its data.
fn judge_client_event(input: &str) {
    let Some(event) = client_event(input) else { return };
    // Data that is nested deeper than a `Value` may be is passed on, but cannot be compared here.
    let Ok(sent) = serde_json::from_str::<Value>(input) else { return };
    let passed = parse(&event);
    for name in ["event", "channel"] {
        assert_eq!(sent.get(name).filter(|value| !value.is_null()), passed.get(name), "{input}");
    }
    assert_eq!(sent.get("data").filter(|data| !data.is_null()), passed.get("data"), "{input}");
    assert_eq!(passed["user_id"], "user");
}

/// An event of a backend reaches clients as JSON whose data is a text.
fn judge_backend_events(input: &str) {
    for event in backend_events(input.as_bytes()) {
        let event = parse(&event);
        assert!(event["event"].is_string() && event["data"].is_string(), "{event}");
        assert!(event["channel"].is_string(), "{event}");
    }
}

/// A request is authentic if all of its query is signed, and otherwise not.
fn judge_query(query: &str) {
    assert!(!is_authentic(query));
    let name_of = |pair: &str| pair.split('=').next().unwrap_or_default().to_ascii_lowercase();
    let mut pairs: Vec<&str> = query.split('&').filter(|pair| !pair.is_empty()).collect();
    let is_plain = |pair: &&str| {
        let name = name_of(pair);
        !name.contains(['%', '+']) && !name.starts_with("auth_") && name != "body_md5"
    };
    pairs.sort_by_key(|pair| name_of(pair));
    if !pairs.iter().all(is_plain) || pairs.windows(2).any(|two| name_of(two[0]) == name_of(two[1])) {
        return;
    }
    let mut signed: Vec<&str> = pairs.iter().copied().chain(OWN.split('&')).collect();
    signed.sort_by_key(|pair| name_of(pair));
    let signed = signed.iter().map(|pair| {
        let value = pair.split_once('=').map_or("", |(_, value)| value);
        format!("{}={value}", name_of(pair))
    });
    let signature = sign(&format!("POST\n/apps/1/events\n{}", signed.collect::<Vec<_>>().join("&")));
    let rest = format!("{OWN}&auth_signature={signature}");
    assert!(is_authentic(&format!("{query}&{rest}")), "{query}");
    assert!(!is_authentic(&format!("{query}&another=1&{rest}")), "{query}");
    assert!(!is_authentic(&rest) || pairs.is_empty(), "{query}");
}

fn is_authentic(query: &str) -> bool {
    is_signed("key", SECRET, "POST", "/apps/1/events", query, Duration::from_secs(1_000))
}

fn sign(text: &str) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(SECRET.as_bytes()).expect("any length");
    mac.update(text.as_bytes());
    mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn parse(json: &str) -> Value {
    serde_json::from_str(json).unwrap_or_else(|error| panic!("{error}: {json}"))
}
