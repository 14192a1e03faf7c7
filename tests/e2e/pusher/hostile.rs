//! Clients that ask for too much: they get errors, and cost the others nothing.

use serde_json::json;
use uproar::config::{AppName, BackendName, Config};

use super::peer::{Rig, app};
use crate::support::config;

on_both_backends!(
    a_flood_of_subscriptions_ends_at_the_limit,
    subscribing_and_leaving_over_and_over_leaves_nothing_behind,
    huge_and_deep_texts_are_refused_and_not_repeated,
    a_signature_is_worth_nothing_on_another_connection_or_after_a_restart,
);

fn a_flood_of_subscriptions_ends_at_the_limit(backend: BackendName) {
    let few = Config { max_rooms_per_connection: 10, ..config(backend, AppName::Pusher, 2) };
    let rig = Rig::with_config(&few, vec![app()]);
    let (mut flood, mut other) = (rig.connect(), rig.subscriber("news"));
    let count = 3_000;
    for number in 0..count {
        flood.subscribe(&format!("cache-{number}"));
    }
    flood.send(&json!({ "event": "pusher:ping" }));
    let is_limit = |event: &serde_json::Value| event["data"]["type"] == "LimitReached";
    let mut events = std::iter::repeat_with(|| flood.receive());
    let refused =
        events.by_ref().take_while(|event| event["event"] != "pusher:pong").filter(is_limit).count();
    assert_eq!(refused, count - 10);
    rig.publish("news", "e", "{}");
    other.expect(&json!({ "event": "e", "data": {}, "channel": "news" }));
}

fn subscribing_and_leaving_over_and_over_leaves_nothing_behind(backend: BackendName) {
    let rig = Rig::start(backend, 3);
    let mut watcher = rig.connect();
    watcher.enter("presence-a", "watcher");
    watcher.expect_members("presence-a", &["watcher"]);
    let mut restless = rig.connect();
    for _ in 0..300 {
        restless.enter("presence-a", "restless");
        restless.unsubscribe("presence-a");
        restless.subscribe("private-cache-a");
        restless.unsubscribe("private-cache-a");
    }
    for _ in 0..300 {
        watcher.expect_added("presence-a", "restless");
        watcher.expect_removed("presence-a", "restless");
    }
    restless.enter("presence-a", "restless");
    watcher.expect_added("presence-a", "restless");
    drop(restless);
    watcher.expect_removed("presence-a", "restless");
    watcher.expect_nothing();
}

fn huge_and_deep_texts_are_refused_and_not_repeated(backend: BackendName) {
    let rig = Rig::start(backend, 1);
    let (mut peer, mut other) = (rig.subscriber("private-a"), rig.subscriber("private-a"));
    let huge = "x".repeat(500_000);
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let short = |text: String| assert!(text.len() < 2_000, "{} bytes", text.len());
    peer.client.send_text(&format!(r#"{{"event":"{huge}","data":{{}}}}"#));
    short(peer.client.receive_text());
    peer.client.send_text(&format!(r#"{{"event":"client-{huge}","channel":"private-a","data":{{}}}}"#));
    short(peer.client.receive_text());
    peer.client.send_text(&format!(r#"{{"event":"client-x","channel":"{huge}","data":{{}}}}"#));
    short(peer.client.receive_text());
    peer.client.send_text(&format!(r#"{{"event":"client-x","channel":"private-a","data":{deep}}}"#));
    short(peer.client.receive_text());
    peer.client.send_text(&format!(r#"{{"event":"pusher:subscribe","data":{deep}}}"#));
    short(peer.client.receive_text());
    peer.client.send_text(&format!(r#"{{"event":"pusher:subscribe","data":{{"channel":"a","x":{deep}}}}}"#));
    short(peer.client.receive_text());
    peer.enter_with("presence-a", &format!(r#"{{"user_id":"a","user_info":"{huge}"}}"#));
    short(peer.client.receive_text());
    peer.enter_with("presence-a", &huge);
    short(peer.client.receive_text());
    peer.expect_nothing();
    other.expect_nothing();
}

fn a_signature_is_worth_nothing_on_another_connection_or_after_a_restart(backend: BackendName) {
    let rig = Rig::start(backend, 1);
    let first = rig.connect();
    let (auth, socket_id) = (first.auth(&["private-a"]), first.socket_id.clone());
    let subscribe = json!({ "event": "pusher:subscribe", "data": { "channel": "private-a", "auth": auth } });
    drop(first);
    let mut second = rig.connect();
    second.send(&subscribe);
    second.expect_rejected("private-a", "AuthError", 401);
    drop((second, rig));
    let rig = Rig::start(backend, 1);
    let mut first_again = rig.connect();
    assert_ne!(first_again.socket_id, socket_id);
    first_again.send(&subscribe);
    first_again.expect_rejected("private-a", "AuthError", 401);
}
