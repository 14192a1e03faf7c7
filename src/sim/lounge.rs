//! Clients of the application `pusher`: what they subscribe to, and their view of each channel.
//!
//! A client may start at any place of a channel's true order that agrees with what it was told at the start: the members
//! of a presence channel, or the last event of a cache channel. Each event that it gets rules out the places where
//! another event follows. No place may ever be left without an event, and the end must be one of them.

use std::collections::BTreeMap;

use ring::hmac::{HMAC_SHA256, Key, sign};
use serde_json::{Value, json};

use crate::app::{PusherApp, PusherApps};

use super::random::Random;
use super::truth::{Line, Streams};

/// Path at which clients connect.
pub(super) const PATH: &str = "/app/key?protocol=7";
/// The channels of the simulation.
const CHANNELS: [&str; 6] =
    ["presence-a", "presence-b", "presence-cache-c", "private-d", "cache-e", "private-cache-f"];
const APP: &str = "1";
const USERS: [&str; 4] = ["ann", "bob", "carl", "dora"];

/// Returns the only application of the server.
pub(super) fn apps() -> PusherApps {
    let app = PusherApp { client_events_per_second: 1_000_000, ..PusherApp::new(APP, "key", "secret") };
    PusherApps::with_salt(vec![app], 7)
}

/// Returns the room of the channel with this name.
fn room(channel: &str) -> String {
    format!("{APP}/{channel}")
}

/// Returns the room that a client's message asks to publish in as a backend does, whether it is that of a cache channel,
/// and the event. `None` for other messages.
pub(super) fn backend_event(message: &[u8]) -> Option<(String, bool, &str)> {
    let (channel, event) = str::from_utf8(message).ok()?.strip_prefix('=')?.split_once(' ')?;
    Some((room(channel), channel.contains("cache-"), event))
}

/// A client's subscriptions.
#[derive(Debug, Default)]
pub(super) struct Subscriptions {
    /// Socket identifier. Empty until the connection is established.
    socket_id: String,
    /// The channels that the client wants, after the requests that it has sent.
    wanted: Vec<&'static str>,
    /// The client's view of each channel that it has been told to be subscribed to.
    views: BTreeMap<String, View>,
    /// Number of events that the client has made.
    made: u64,
    /// Whether the client has missed events.
    is_lost: bool,
    /// Number of lists of members that agreed with the true members.
    pub(super) lists: u64,
}

#[derive(Debug)]
struct View {
    /// Places in the channel's order at which the client's next event may be.
    places: Vec<usize>,
    /// Whether the last event of a cache channel, or the news that there is none, comes next.
    awaits_cached: bool,
}

impl Subscriptions {
    /// Returns the next message of the client. `None` until the connection is established.
    pub(super) fn act(&mut self, random: &mut Random, serial: u64) -> Option<String> {
        if self.socket_id.is_empty() {
            return None;
        }
        let channel = random.pick(&CHANNELS);
        self.made += 1;
        let data = json!({ "from": serial, "number": self.made });
        Some(match random.below(10) {
            0..6 if self.wanted.contains(&channel) => self.unsubscribe(channel),
            0..6 => self.subscribe(random, channel, serial),
            6..8 => json!({ "event": "client-x", "channel": channel, "data": data }).to_string(),
            _ => format!(
                "={channel} {}",
                json!({ "event": "news", "data": data.to_string(), "channel": channel })
            ),
        })
    }

    fn subscribe(&mut self, random: &mut Random, channel: &'static str, serial: u64) -> String {
        self.wanted.push(channel);
        let mut data = json!({ "channel": channel });
        let mut signed = format!("{}:{channel}", self.socket_id);
        if channel.starts_with("presence-") {
            let info = json!({ "from": serial, "number": self.made });
            let user = json!({ "user_id": random.pick(&USERS), "user_info": info }).to_string();
            signed = format!("{signed}:{user}");
            data["channel_data"] = json!(user);
        }
        let tag = sign(&Key::new(HMAC_SHA256, b"secret"), signed.as_bytes());
        let digits: String = tag.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        data["auth"] = json!(format!("key:{digits}"));
        json!({ "event": "pusher:subscribe", "data": data }).to_string()
    }

    fn unsubscribe(&mut self, channel: &'static str) -> String {
        self.wanted.retain(|other| *other != channel);
        json!({ "event": "pusher:unsubscribe", "data": { "channel": channel } }).to_string()
    }

    /// Checks an event that the client with connection number `serial` got.
    pub(super) fn hear(&mut self, truth: &Streams, serial: u64, text: &str) {
        let event: Value = serde_json::from_str(text).expect("an event is JSON");
        let name = event["event"].as_str().expect("an event has a name");
        match name {
            "pusher:connection_established" => {
                let data: Value =
                    serde_json::from_str(event["data"].as_str().expect("a text")).expect("JSON");
                self.socket_id = data["socket_id"].as_str().expect("an identifier").into();
                return;
            }
            "pusher:error" => {
                self.is_lost |= text.contains("events were skipped");
                return;
            }
            _ if self.is_lost => return,
            _ => {}
        }
        let channel = event["channel"].as_str().expect("an event of a channel");
        let lines = truth.lines(&room(channel));
        if name == "pusher_internal:subscription_succeeded" {
            let view = View::begin(lines, channel, text);
            assert!(!view.places.is_empty(), "connection {serial} got {text}, which was never true");
            self.lists += u64::from(channel.starts_with("presence-"));
            self.views.insert(channel.into(), view);
            return;
        }
        let view = self.views.get_mut(channel);
        let view = view.unwrap_or_else(|| panic!("connection {serial} got {text}, but is not in {channel}"));
        view.advance(lines, serial, name, text);
        assert!(!view.places.is_empty(), "connection {serial} got {text} out of order");
    }

    /// Panics if the client lacks events of its channels.
    pub(super) fn check_current(&self, truth: &Streams, serial: u64) {
        if self.is_lost || self.socket_id.is_empty() {
            return;
        }
        for channel in &self.wanted {
            let lines = truth.lines(&room(channel));
            let view = self.views.get(*channel);
            let view = view.unwrap_or_else(|| panic!("connection {serial} waits for {channel}"));
            let is_current = view.places.iter().any(|place| skip_own(lines, *place, serial) == lines.len());
            assert!(is_current && !view.awaits_cached, "connection {serial} has not got all of {channel}");
        }
    }
}

impl View {
    /// Returns the view of a client that was told by `text` that it is subscribed.
    fn begin(lines: &[Line], channel: &str, text: &str) -> Self {
        let awaits_cached = channel.contains("cache-");
        if !channel.starts_with("presence-") {
            return Self { places: (0..=lines.len()).collect(), awaits_cached };
        }
        let listed = listed(text);
        let mut members = BTreeMap::new();
        let mut places = Vec::new();
        for place in 0..=lines.len() {
            if members == listed {
                places.push(place);
            }
            if let Some(line) = lines.get(place) {
                fold(&mut members, line);
            }
        }
        Self { places, awaits_cached }
    }

    /// Handles an event of the channel.
    fn advance(&mut self, lines: &[Line], serial: u64, name: &str, text: &str) {
        if std::mem::take(&mut self.awaits_cached) {
            let expected = (name != "pusher:cache_miss").then_some(text.as_bytes());
            self.places.retain(|place| {
                let last = lines[..*place].iter().rev().find(|line| is_news(line));
                last.map(|line| &*line.bytes) == expected
            });
            return;
        }
        self.places = self
            .places
            .iter()
            .map(|place| skip_own(lines, *place, serial))
            .filter(|place| lines.get(*place).is_some_and(|line| line.bytes == text.as_bytes()))
            .map(|place| place + 1)
            .collect();
        self.places.dedup();
    }
}

/// Panics unless all members of presence channels are gone again.
pub(super) fn check_vacant(truth: &Streams) {
    for channel in CHANNELS {
        let mut members = BTreeMap::new();
        truth.lines(&room(channel)).iter().for_each(|line| fold(&mut members, line));
        assert!(members.is_empty(), "{members:?} are left in {channel}");
    }
}

/// Returns the first place from `place` on whose event the client does not leave out: its own client events.
fn skip_own(lines: &[Line], mut place: usize, serial: u64) -> usize {
    while let Some(line) = lines.get(place) {
        let event: Value = serde_json::from_slice(&line.bytes).expect("an event is JSON");
        if event["event"] != "client-x" || event["data"]["from"] != serial {
            break;
        }
        place += 1;
    }
    place
}

/// Returns whether a line is an event of a backend.
fn is_news(line: &Line) -> bool {
    let event: Value = serde_json::from_slice(&line.bytes).expect("an event is JSON");
    event["event"] == "news"
}

/// Returns the members of a list, with their JSON texts.
fn listed(text: &str) -> BTreeMap<String, Value> {
    let event: Value = serde_json::from_str(text).expect("JSON");
    let data: Value = serde_json::from_str(event["data"].as_str().expect("a text")).expect("JSON");
    let presence = &data["presence"];
    let hash = presence["hash"].as_object().expect("an object");
    let ids: Vec<&Value> = presence["ids"].as_array().expect("a list").iter().collect();
    assert!(ids.len() == hash.len() && presence["count"] == ids.len(), "{text}");
    hash.iter().map(|(id, info)| (id.clone(), info.clone())).collect()
}

/// Applies an event about members. Panics if it contradicts the members so far.
fn fold(members: &mut BTreeMap<String, Value>, line: &Line) {
    let event: Value = serde_json::from_slice(&line.bytes).expect("an event is JSON");
    let data = || -> Value { serde_json::from_str(event["data"].as_str().expect("a text")).expect("JSON") };
    match event["event"].as_str() {
        Some("pusher_internal:member_added") => {
            let data = data();
            let id = data["user_id"].as_str().expect("an identifier").to_owned();
            assert!(members.insert(id, data["user_info"].clone()).is_none(), "{event} came twice");
        }
        Some("pusher_internal:member_removed") => {
            let id = data()["user_id"].as_str().expect("an identifier").to_owned();
            assert!(members.remove(&id).is_some(), "{event} about nobody");
        }
        _ => {}
    }
}
