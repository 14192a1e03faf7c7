//! Subscriptions to all types of channels except presence, events of backends and clients, and cache channels.

use serde_json::{Value, json};
use uproar::app::PusherApp;
use uproar::config::BackendName;

use crate::support::wait_until;

use super::peer::{Rig, app};

on_both_backends!(
    subscribers_of_all_workers_get_an_event_once,
    nothing_comes_after_unsubscribing,
    a_subscription_can_be_repeated_and_cancelled,
    private_channels_need_a_valid_signature,
    names_of_channels_have_limits,
    client_events_reach_the_others_and_not_the_sender,
    client_events_are_refused_with_a_reason,
    client_events_have_a_rate,
    client_events_may_have_no_limit,
    an_application_may_forbid_client_events,
    a_cache_channel_reports_that_it_has_no_event,
    applications_do_not_hear_each_other,
);

fn subscribers_of_all_workers_get_an_event_once(backend: BackendName) {
    let rig = Rig::start(backend, 4);
    for channel in ["lobby", "private-lobby", "private-encrypted-lobby", "UPPER_case-@=,.;1"] {
        let mut peers: Vec<_> = (0..6).map(|_| rig.subscriber(channel)).collect();
        rig.publish(channel, "my-event", r#"{"text":"a \"b\" ä"}"#);
        for peer in &mut peers {
            let data = json!({ "text": "a \"b\" ä" });
            peer.expect(&json!({ "event": "my-event", "data": data, "channel": channel }));
            peer.expect_nothing();
        }
    }
}

fn nothing_comes_after_unsubscribing(backend: BackendName) {
    let rig = Rig::start(backend, 2);
    let (mut peer, mut other) = (rig.subscriber("a"), rig.subscriber("a"));
    peer.unsubscribe("a");
    peer.unsubscribe("a");
    peer.unsubscribe("never");
    peer.unsubscribe("not a name");
    peer.expect_nothing();
    rig.publish("a", "e", "{}");
    other.expect(&json!({ "event": "e", "data": {}, "channel": "a" }));
    peer.expect_nothing();
}

fn a_subscription_can_be_repeated_and_cancelled(backend: BackendName) {
    let rig = Rig::start(backend, 3);
    // Some of these channels have their home on the client's worker, others have not.
    for number in 0..12 {
        let channel = &format!("private-{number}");
        let mut peer = rig.subscriber(channel);
        peer.subscribe(channel);
        peer.expect_subscribed(channel);
        peer.unsubscribe(channel);
        peer.subscribe(channel);
        peer.expect_subscribed(channel);
        rig.publish(channel, "e", "1");
        peer.expect(&json!({ "event": "e", "data": 1, "channel": channel }));
        // If the first subscription is answered before it is cancelled, its answer says nothing of the last one. So events
        // are published until one comes.
        let other = &format!("private-other-{number}");
        peer.subscribe(other);
        peer.unsubscribe(other);
        peer.subscribe(other);
        wait_until("the last subscription counts", || {
            rig.publish(other, "e", "2");
            let event = json!({ "event": "e", "data": 2, "channel": other });
            peer.events_until_pong().contains(&event)
        });
    }
}

fn private_channels_need_a_valid_signature(backend: BackendName) {
    let rig = Rig::start(backend, 1);
    let mut peer = rig.connect();
    for channel in ["private-a", "private-encrypted-a", "private-cache-a", "presence-a"] {
        let (good, other) = (peer.auth(&[channel]), peer.auth(&["private-b"]));
        let wrong = [
            Value::Null,
            json!(""),
            json!("x"),
            json!(other),
            json!(good[..good.len() - 1]),
            json!(good.replace("278d", "378d")),
            json!(good.split(':').nth(1)),
        ];
        for auth in wrong {
            peer.send(&json!({ "event": "pusher:subscribe", "data": { "channel": channel, "auth": auth } }));
            peer.expect_rejected(channel, "AuthError", 401);
        }
        rig.publish(channel, "secret", "{}");
        peer.expect_nothing();
    }
    // The signature of another connection is worth nothing.
    let mut other = rig.connect();
    let data = json!({ "channel": "private-a", "auth": peer.auth(&["private-a"]) });
    other.send(&json!({ "event": "pusher:subscribe", "data": data }));
    other.expect_rejected("private-a", "AuthError", 401);
    peer.subscribe("private-a");
    peer.expect_subscribed("private-a");
}

fn names_of_channels_have_limits(backend: BackendName) {
    let rig = Rig::start(backend, 1);
    let mut peer = rig.connect();
    let (longest, long) = ("x".repeat(200), "x".repeat(201));
    peer.subscribe(&longest);
    peer.expect_subscribed(&longest);
    for name in ["", "a b", "#a", "a/b", "ä", "a\u{0}", &long] {
        peer.subscribe(name);
        peer.expect_rejected(name, "LimitReached", 4009);
    }
    peer.subscribe(&"y".repeat(100_000));
    let event = peer.receive();
    assert!(event["channel"].as_str().is_some_and(|name| name.len() < 1_000), "{event}");
}

fn client_events_reach_the_others_and_not_the_sender(backend: BackendName) {
    let rig = Rig::start(backend, 3);
    let mut peers: Vec<_> = (0..5).map(|_| rig.subscriber("private-a")).collect();
    for (number, data) in
        [json!({ "x": [1, null, "ä\""] }), json!("text"), json!(""), json!(null)].iter().enumerate()
    {
        let name = &format!("client-{number}");
        peers[0].send_event("private-a", name, data);
        for peer in &mut peers[1..] {
            let mut event = json!({ "event": name, "data": data, "channel": "private-a" });
            if data.is_null() {
                event.as_object_mut().expect("an object").remove("data");
            }
            peer.expect(&event);
        }
        peers[0].expect_nothing();
    }
}

fn client_events_are_refused_with_a_reason(backend: BackendName) {
    let rig = Rig::with(backend, 1, vec![PusherApp { max_event_bytes: 100, ..app() }]);
    let mut peer = rig.subscriber("private-a");
    for channel in ["a", "private-encrypted-a"] {
        peer.subscribe(channel);
        peer.expect_subscribed(channel);
        peer.send_event(channel, "client-x", &json!({}));
        assert!(peer.expect_error(Some(4301)).contains("private and presence"));
    }
    peer.send_event("private-b", "client-x", &json!({}));
    assert!(peer.expect_error(Some(4301)).contains("not subscribed"));
    peer.send_event("private-a", &format!("client-{}", "x".repeat(200)), &json!({}));
    assert!(peer.expect_error(Some(4301)).contains("name"));
    peer.send_event("private-a", "client-x", &json!("x".repeat(99)));
    assert!(peer.expect_error(Some(4301)).contains("100 bytes"));
    peer.send(&json!({ "event": "client-x", "data": {} }));
    assert!(peer.expect_error(Some(4301)).contains("private and presence"));
    peer.expect_nothing();
}

fn client_events_have_a_rate(backend: BackendName) {
    let rig = Rig::start(backend, 1);
    let (mut sender, mut other) = (rig.subscriber("private-a"), rig.subscriber("private-a"));
    let count = 200;
    for number in 0..count {
        sender.send_event("private-a", "client-x", &json!(number));
    }
    sender.send(&json!({ "event": "pusher:ping" }));
    let refused = std::iter::repeat_with(|| sender.receive())
        .take_while(|event| event["event"] != "pusher:pong")
        .inspect(|event| assert_eq!(event["data"]["code"], 4301, "{event}"))
        .count();
    // Ten events pass at once. A slow machine may need seconds for the rest.
    assert!((1..=count - 10).contains(&refused), "{refused}");
    for number in 0..10 {
        other.expect(&json!({ "event": "client-x", "data": number, "channel": "private-a" }));
    }
    sender.expect_nothing();
}

fn client_events_may_have_no_limit(backend: BackendName) {
    let rig = Rig::with(backend, 1, vec![PusherApp { client_events_per_second: 0, ..app() }]);
    let (mut sender, mut other) = (rig.subscriber("private-a"), rig.subscriber("private-a"));
    for number in 0..200 {
        sender.send_event("private-a", "client-x", &json!(number));
    }
    for number in 0..200 {
        other.expect(&json!({ "event": "client-x", "data": number, "channel": "private-a" }));
    }
    sender.expect_nothing();
}

fn an_application_may_forbid_client_events(backend: BackendName) {
    let rig = Rig::with(backend, 1, vec![PusherApp { client_events: false, ..app() }]);
    let mut peer = rig.subscriber("private-a");
    peer.send_event("private-a", "client-x", &json!({}));
    assert!(peer.expect_error(Some(4301)).contains("no client events"));
}

fn a_cache_channel_reports_that_it_has_no_event(backend: BackendName) {
    let rig = Rig::start(backend, 3);
    for channel in ["cache-a", "private-cache-a", "private-encrypted-cache-a"] {
        let mut peer = rig.subscriber(channel);
        peer.expect(&json!({ "event": "pusher:cache_miss", "channel": channel }));
        if channel == "private-cache-a" {
            let mut other = rig.subscriber(channel);
            other.expect(&json!({ "event": "pusher:cache_miss", "channel": channel }));
            other.send_event(channel, "client-x", &json!({}));
            peer.expect(&json!({ "event": "client-x", "data": {}, "channel": channel }));
            // Client events are not kept.
            let mut third = rig.subscriber(channel);
            third.expect(&json!({ "event": "pusher:cache_miss", "channel": channel }));
        }
        peer.expect_nothing();
    }
}

fn applications_do_not_hear_each_other(backend: BackendName) {
    let rig = Rig::with(backend, 2, vec![app(), PusherApp::new("77", "other", "secret")]);
    let mut peer = rig.subscriber("a");
    let mut other = rig.open("/app/other?protocol=7");
    other.receive_text();
    other.send_text(r#"{"event":"pusher:subscribe","data":{"channel":"a","auth":""}}"#);
    assert!(other.receive_text().contains("subscription_succeeded"));
    rig.publish("a", "e", "{}");
    peer.expect(&json!({ "event": "e", "data": {}, "channel": "a" }));
    other.send_text(r#"{"event":"pusher:ping"}"#);
    assert!(other.receive_text().contains("pusher:pong"));
}
