//! The REST API for backends: events, channels, users, and the errors of requests.

use std::time::{SystemTime, UNIX_EPOCH};

use md5::{Digest, Md5};
use serde_json::{Value, json};
use uproar::app::PusherApp;
use uproar::config::BackendName;

use crate::support::raw::RawClient;

use super::peer::{KEY, Peer, Rig, SECRET, app, hmac};

on_both_backends!(
    an_event_reaches_all_subscribers_of_its_channels_except_one,
    a_cached_event_comes_with_the_subscription,
    a_batch_triggers_each_of_its_events,
    the_answer_has_the_attributes_that_were_asked_for,
    channels_are_listed_with_their_counts,
    a_presence_channel_has_its_users_once,
    connections_of_a_user_are_terminated,
    requests_are_checked_before_anything_happens,
    a_wrong_body_has_its_error,
    one_connection_takes_many_requests,
    an_application_sees_only_its_own_channels,
    a_disabled_application_is_forbidden,
);

/// A backend with a keep-alive connection.
struct Backend {
    raw: RawClient,
    id: &'static str,
    key: &'static str,
}

impl Backend {
    fn of(rig: &Rig) -> Self {
        Self { raw: RawClient::connect(rig.server.address()), id: "7", key: KEY }
    }

    /// Sends a signed request, and returns the status and the JSON of the response.
    fn call(&mut self, method: &str, path: &str, query: &str, body: &str) -> (u16, Value) {
        let path = format!("/apps/{}{path}", self.id);
        let query = signed_query(self.key, method, &path, query, body);
        self.send(method, &path, &query, body)
    }

    fn send(&mut self, method: &str, path: &str, query: &str, body: &str) -> (u16, Value) {
        let head =
            format!("{method} {path}?{query} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}", body.len());
        self.raw.send(format!("{head}\r\nContent-Type: application/json\r\n\r\n{body}").as_bytes());
        let response = self.raw.receive_response();
        assert!(response.head.contains("\r\nContent-Type: application/json\r\n"), "{response:?}");
        (response.status, serde_json::from_str(&response.body).expect("JSON"))
    }

    fn get(&mut self, path: &str, query: &str) -> (u16, Value) {
        self.call("GET", path, query, "")
    }

    #[track_caller]
    fn expect(&mut self, path: &str, query: &str, json: Value) {
        assert_eq!(self.get(path, query), (200, json), "{path}?{query}");
    }

    fn post(&mut self, path: &str, body: &Value) -> (u16, Value) {
        self.call("POST", path, "", &body.to_string())
    }

    /// Triggers an event with the data `{}` and other members.
    #[track_caller]
    fn trigger(&mut self, name: &str, more: Value) -> Value {
        let mut body = json!({ "name": name, "data": "{}" });
        body.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        let (status, json) = self.post("/events", &body);
        assert_eq!(status, 200, "{json}");
        json
    }
}

/// Connects as a member of a presence channel.
fn member(rig: &Rig, channel: &str, user: &str) -> Peer {
    let mut peer = rig.connect();
    peer.enter(channel, user);
    assert_eq!(peer.receive()["event"], "pusher_internal:subscription_succeeded");
    peer
}

/// Connects, and signs in as a user.
fn signed_in(rig: &Rig, user: &str) -> Peer {
    let mut peer = rig.connect();
    peer.sign_in(&json!({ "id": user }).to_string());
    assert_eq!(peer.receive()["event"], "pusher:signin_success");
    peer
}

/// Returns a query with a signature, whose own parameters are those of `query`.
fn signed_query(key: &str, method: &str, path: &str, query: &str, body: &str) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
    let mut pairs =
        vec![format!("auth_key={key}"), format!("auth_timestamp={now}"), "auth_version=1.0".into()];
    if !body.is_empty() {
        pairs.push(format!("body_md5={}", hex(&Md5::digest(body))));
    }
    pairs.extend(query.split('&').filter(|pair| !pair.is_empty()).map(Into::into));
    pairs.sort();
    let query = pairs.join("&");
    let signature = hmac(&format!("{method}\n{path}\n{query}"));
    format!("{query}&auth_signature={signature}")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn an_event_reaches_all_subscribers_of_its_channels_except_one(backend: BackendName) {
    let rig = Rig::start(backend, 3);
    let mut api = Backend::of(&rig);
    let mut peers: Vec<_> = (0..4).map(|_| rig.subscriber("a")).collect();
    let mut both = rig.subscriber("b");
    both.subscribe("a");
    both.expect_subscribed("a");
    assert_eq!(api.trigger("one", json!({ "channel": "a" })), json!({}));
    for peer in peers.iter_mut().chain([&mut both]) {
        peer.expect(&json!({ "event": "one", "data": {}, "channel": "a" }));
    }
    let except = peers[0].socket_id.clone();
    api.trigger("two", json!({ "channels": ["a", "b", "nobody"], "socket_id": except }));
    peers[0].expect_nothing();
    for peer in &mut peers[1..] {
        peer.expect(&json!({ "event": "two", "data": {}, "channel": "a" }));
        peer.expect_nothing();
    }
    let channels = [both.receive(), both.receive()].map(|event| event["channel"].clone());
    assert!(channels.contains(&json!("a")) && channels.contains(&json!("b")), "{channels:?}");
    // Nobody has this identifier: it is from another server.
    api.trigger("three", json!({ "channel": "a", "socket_id": "1.1" }));
    peers[0].expect(&json!({ "event": "three", "data": {}, "channel": "a" }));
    // Data that is no string reaches clients as the string of its JSON text.
    let (status, _) = api.post("/events", &json!({ "name": "four", "channel": "b", "data": { "x": [1] } }));
    assert_eq!(status, 200);
    both.receive();
    both.expect(&json!({ "event": "four", "data": { "x": [1] }, "channel": "b" }));
}

fn a_cached_event_comes_with_the_subscription(backend: BackendName) {
    let rig = Rig::start(backend, 2);
    let mut api = Backend::of(&rig);
    for channel in ["cache-a", "private-cache-a", "private-encrypted-cache-a"] {
        let path = format!("/channels/{channel}");
        let unknown = json!({ "occupied": false, "cache": null });
        api.expect(&path, "info=cache", unknown);
        api.trigger("old", json!({ "channel": channel }));
        let answer = api.trigger("new", json!({ "channel": channel, "info": "cache,user_count" }));
        assert_eq!(answer["channels"][channel]["cache"]["data"], "{}", "{answer}");
        assert!(answer["channels"][channel].get("user_count").is_none(), "{answer}");
        let mut peer = rig.subscriber(channel);
        peer.expect(&json!({ "event": "new", "data": {}, "channel": channel }));
        let (_, info) = api.get(&path, "info=cache,subscription_count");
        let ttl = info["cache"]["ttl"].as_u64().expect("seconds");
        assert!((1..=1800).contains(&ttl), "{info}");
        assert_eq!((&info["occupied"], &info["subscription_count"]), (&json!(true), &json!(1)));
    }
}

fn a_batch_triggers_each_of_its_events(backend: BackendName) {
    let rig = Rig::start(backend, 2);
    let mut api = Backend::of(&rig);
    let (mut a, mut b) = (rig.subscriber("a"), rig.subscriber("b"));
    let event = |name: &str, channel: &str| json!({ "name": name, "channel": channel, "data": "{}" });
    let batch = json!({ "batch": [event("1", "a"), event("2", "b"), event("3", "a")] });
    assert_eq!(api.post("/batch_events", &batch), (200, json!({})));
    for (peer, name, channel) in [(&mut a, "1", "a"), (&mut b, "2", "b")] {
        peer.expect(&json!({ "event": name, "data": {}, "channel": channel }));
    }
    a.expect(&json!({ "event": "3", "data": {}, "channel": "a" }));
    let mut asking = event("4", "a");
    asking["info"] = json!("subscription_count");
    let (status, answer) = api.post("/batch_events", &json!({ "batch": [event("5", "b"), asking] }));
    assert_eq!((status, answer), (200, json!({ "batch": [{}, { "subscription_count": 1 }] })));
    let too_many = json!({ "batch": vec![event("6", "a"); 11] });
    assert_eq!(api.post("/batch_events", &too_many).0, 400);
    a.expect(&json!({ "event": "4", "data": {}, "channel": "a" }));
    a.expect_nothing();
}

fn the_answer_has_the_attributes_that_were_asked_for(backend: BackendName) {
    let rig = Rig::start(backend, 2);
    let mut api = Backend::of(&rig);
    let _members: Vec<_> = ["1", "2", "1"].into_iter().map(|id| member(&rig, "presence-a", id)).collect();
    let _peer = rig.subscriber("b");
    let body = json!({ "channels": ["presence-a", "b", "empty"], "info": "user_count,subscription_count" });
    let channels = json!({
        "presence-a": { "user_count": 2, "subscription_count": 3 },
        "b": { "subscription_count": 1 },
        "empty": { "subscription_count": 0 },
    });
    assert_eq!(api.trigger("e", body), json!({ "channels": channels }));
    api.expect("/channels/b", "", json!({ "occupied": true }));
    api.expect("/channels/empty", "", json!({ "occupied": false }));
    api.expect(
        "/channels/presence-a",
        "info=user_count,subscription_count",
        json!({ "occupied": true, "user_count": 2, "subscription_count": 3 }),
    );
    for (path, query, part) in [
        ("/channels/b", "info=user_count", "not a presence channel"),
        ("/channels/b", "info=cache", "not a cache channel"),
        ("/channels/b", "info=colour", "no attribute"),
        ("/channels/b/users", "", "not a presence channel"),
        ("/channels/a%20b", "", "no channel's name"),
        ("/channels", "info=user_count", "filter_by_prefix=presence-"),
        ("/channels", "info=cache", "no attribute of this list"),
    ] {
        let (status, json) = api.get(path, query);
        assert_eq!(status, 400, "{path}?{query} {json}");
        assert!(json["error"].as_str().is_some_and(|text| text.contains(part)), "{json}");
    }
}

fn channels_are_listed_with_their_counts(backend: BackendName) {
    let rig = Rig::start(backend, 3);
    let mut api = Backend::of(&rig);
    api.expect("/channels", "", json!({ "channels": {} }));
    let mut peers: Vec<_> = ["a", "ab", "a", "b"].map(|channel| rig.subscriber(channel)).into();
    let _members: Vec<_> = ["1", "2", "1"].into_iter().map(|id| member(&rig, "presence-a", id)).collect();
    api.expect("/channels", "", json!({ "channels": { "a": {}, "ab": {}, "b": {}, "presence-a": {} } }));
    api.expect("/channels", "filter_by_prefix=a", json!({ "channels": { "a": {}, "ab": {} } }));
    api.expect("/channels", "filter_by_prefix=none", json!({ "channels": {} }));
    let counts =
        json!({ "channels": { "a": { "subscription_count": 2 }, "ab": { "subscription_count": 1 } } });
    api.expect("/channels", "filter_by_prefix=a&info=subscription_count", counts);
    let counts = json!({ "channels": { "presence-a": { "user_count": 2 } } });
    api.expect("/channels", "filter_by_prefix=presence-&info=user_count", counts);
    peers[3].unsubscribe("b");
    peers[3].expect_nothing();
    api.expect("/channels", "filter_by_prefix=b", json!({ "channels": {} }));
    api.expect("/connections", "", json!({ "connections": 7 }));
}

fn a_presence_channel_has_its_users_once(backend: BackendName) {
    let rig = Rig::start(backend, 2);
    let mut api = Backend::of(&rig);
    api.expect("/channels/presence-a/users", "", json!({ "users": [] }));
    let members: Vec<_> = ["2", "1", "2"].into_iter().map(|id| member(&rig, "presence-a", id)).collect();
    api.expect("/channels/presence-a/users", "", json!({ "users": [{ "id": "1" }, { "id": "2" }] }));
    drop(members);
    let is_empty = || Backend::of(&rig).get("/channels/presence-a/users", "").1 == json!({ "users": [] });
    crate::support::wait_until("the members are gone", is_empty);
}

fn connections_of_a_user_are_terminated(backend: BackendName) {
    let rig = Rig::start(backend, 2);
    let mut api = Backend::of(&rig);
    for (path, id) in
        [("/users/ann%201/terminate_connections", "ann 1"), ("/users/5/terminate_connections", "5")]
    {
        let (mut one, mut two, mut other) =
            (signed_in(&rig, id), signed_in(&rig, id), signed_in(&rig, "other"));
        assert_eq!(api.post(path, &json!({})), (200, json!({})));
        for peer in [&mut one, &mut two] {
            assert_eq!(peer.client.wait_for_close().0, 4009);
        }
        other.expect_nothing();
    }
    // Python's library leaves out the application.
    let mut peer = signed_in(&rig, "5");
    let path = "/users/5/terminate_connections";
    let query = signed_query(KEY, "POST", path, "", "{}");
    assert_eq!(api.send("POST", path, &query, "{}"), (200, json!({})));
    assert_eq!(peer.client.wait_for_close().0, 4009);
}

fn requests_are_checked_before_anything_happens(backend: BackendName) {
    let rig = Rig::start(backend, 1);
    let mut api = Backend::of(&rig);
    let mut peer = rig.subscriber("a");
    let (path, body) = ("/apps/7/events", r#"{"name":"e","channel":"a","data":""}"#);
    let query = signed_query(KEY, "POST", path, "", body);
    for (path, query, body, status) in [
        ("/apps/8/events", &query, body, 404),
        ("/apps/7/events", &query.replace("auth_signature=", "auth_signature=0"), body, 401),
        ("/apps/7/events", &query.replace(KEY, "other"), body, 401),
        ("/apps/7/events", &query, r#"{"name":"f","channel":"a","data":""}"#, 401),
        ("/apps/7/batch_events", &query, body, 401),
        ("/apps/7/events", &String::new(), body, 401),
        ("/apps/7/events", &format!("{query}&auth_key={KEY}"), body, 400),
        ("/apps/%ff/events", &query, body, 400),
        ("/users/1/terminate_connections", &String::new(), "", 404),
    ] {
        let (found, json) = api.send("POST", path, query, body);
        assert_eq!(found, status, "{path} {json}");
        assert!(json["error"].as_str().is_some_and(|text| !text.contains(SECRET)), "{json}");
    }
    for (method, path, status) in [
        ("GET", "/events", 405),
        ("DELETE", "/channels", 405),
        ("POST", "/channels/a", 405),
        ("GET", "/users/1/terminate_connections", 405),
        ("GET", "/nothing", 404),
        ("GET", "", 404),
        ("GET", "/channels/a/b", 404),
    ] {
        assert_eq!(api.call(method, path, "", "").0, status, "{method} {path}");
    }
    peer.expect_nothing();
    let mut raw = RawClient::connect(rig.server.address());
    raw.send(b"GET /up HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert_eq!(raw.receive_response().body, r#"{"health":"OK"}"#);
}

fn a_wrong_body_has_its_error(backend: BackendName) {
    let small = PusherApp { max_event_bytes: 10, ..app() };
    let rig = Rig::with(backend, 1, vec![small]);
    let mut api = Backend::of(&rig);
    for (body, status) in [
        (json!({ "name": "e", "channel": "a", "data": "0123456789" }), 200),
        (json!({ "name": "e", "channel": "a", "data": "01234567890" }), 413),
        (json!({ "name": "e", "channel": "a" }), 400),
        (json!({ "name": "e", "channel": "a b", "data": "" }), 400),
        (json!({ "name": "e", "channels": ["a", "b#"], "data": "" }), 400),
        (json!({ "name": "e", "channel": "a", "data": "", "socket_id": "x" }), 400),
        (json!({ "name": "e", "channel": "a", "data": "", "info": "x" }), 400),
        (json!({ "batch": [] }), 400),
        (json!([]), 400),
    ] {
        assert_eq!(api.post("/events", &body).0, status, "{body}");
    }
    assert_eq!(api.call("POST", "/events", "", "").0, 400);
}

fn one_connection_takes_many_requests(backend: BackendName) {
    let rig = Rig::start(backend, 1);
    let mut api = Backend::of(&rig);
    let mut peer = rig.subscriber("a");
    // More than a client may send in a second.
    for number in 0..300 {
        api.trigger(&number.to_string(), json!({ "channel": "a" }));
        peer.expect(&json!({ "event": number.to_string(), "data": {}, "channel": "a" }));
    }
}

fn an_application_sees_only_its_own_channels(backend: BackendName) {
    let second = PusherApp::new("77", "second", SECRET);
    let rig = Rig::with(backend, 2, vec![app(), second]);
    let mut peer = rig.subscriber("a");
    let mut other = Backend { id: "77", key: "second", ..Backend::of(&rig) };
    other.expect("/channels", "", json!({ "channels": {} }));
    other.expect("/channels/a", "", json!({ "occupied": false }));
    other.trigger("e", json!({ "channel": "a" }));
    peer.expect_nothing();
    let mut wrong = Backend { key: "second", ..Backend::of(&rig) };
    assert_eq!(wrong.get("/channels", "").0, 401);
}

fn a_disabled_application_is_forbidden(backend: BackendName) {
    let rig = Rig::with(backend, 1, vec![PusherApp { is_enabled: false, ..app() }]);
    let mut api = Backend::of(&rig);
    let (status, json) = api.post("/events", &json!({ "name": "e", "channel": "a", "data": "" }));
    assert_eq!(status, 403, "{json}");
    assert!(json["error"].as_str().is_some_and(|text| text.contains("disabled")), "{json}");
    assert_eq!(api.get("/channels", "").0, 403);
    // Without the secret nobody learns that the application is disabled.
    let mut stranger = Backend { key: "other", ..api };
    assert_eq!(stranger.get("/channels", "").0, 401);
}
