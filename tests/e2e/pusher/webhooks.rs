//! Webhooks of applications, and events with the number of subscribers.

use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Value, json};
use sha2::Sha256;
use uproar::app::PusherApp;
use uproar::config::{AppName, BackendName, Config, PusherAppsFile};

use super::peer::{KEY, Rig, SECRET, app};
use crate::support::process::settings_file;
use crate::support::receiver::{Received, Receiver, Reply};
use crate::support::{TestServer, config, wait_until};

on_both_backends!(
    what_happens_in_channels_is_sent_signed_and_in_order,
    a_page_that_is_loaded_again_causes_no_events,
    webhooks_are_replaced_with_their_applications,
    clients_get_the_number_of_subscribers,
);

/// Returns the table of the usual application, with a webhook at `url`.
fn table(url: &str, events: &str) -> String {
    format!(
        "[[app]]\nid = '7'\nkey = '{KEY}'\nsecret = '{SECRET}'\n[[app.webhook]]\nurl = '{url}'\nevents = [{events}]\n"
    )
}

fn apps_file(backend: BackendName, text: &str) -> PusherAppsFile {
    let name = format!("pusher webhooks {backend:?} {:?}", std::thread::current().name());
    PusherAppsFile::read(settings_file(&name, text).as_ref()).expect("a file with applications")
}

fn start(backend: BackendName, receiver: &Receiver, events: &str) -> Rig {
    let file = apps_file(backend, &table(&receiver.url("/hook"), events));
    let server =
        TestServer::start(&Config { pusher_apps: Some(file), ..config(backend, AppName::Pusher, 3) });
    let apps = server.control().pusher_apps().expect("applications").clone();
    Rig { server, apps }
}

/// Returns the events of a request, after a check of its form and its signature.
fn events_of(request: &Received) -> Vec<Value> {
    assert_eq!((&*request.method, &*request.path), ("POST", "/hook"));
    assert_eq!(
        (request.field("content-type"), request.field("x-pusher-key")),
        (Some("application/json"), Some(KEY))
    );
    let mac = Hmac::<Sha256>::new_from_slice(SECRET.as_bytes()).expect("HMAC takes keys of any length");
    let bytes = mac.chain_update(&request.body).finalize().into_bytes();
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(request.field("x-pusher-signature"), Some(&*hex));
    let body: Value = serde_json::from_str(&request.body).expect("JSON");
    assert!(body["time_ms"].as_u64().is_some_and(|time| time > 1_700_000_000_000), "{body}");
    body["events"].as_array().expect("a list").clone()
}

fn all_events(receiver: &Receiver) -> Vec<Value> {
    receiver.requests().iter().flat_map(events_of).collect()
}

/// Waits until the receiver has got these events of a channel, in this order, and no other event of it.
#[track_caller]
fn expect_events(receiver: &Receiver, channel: &str, expected: &[Value]) {
    let of_channel = || {
        let mut events = all_events(receiver);
        events.retain(|event| event["channel"] == channel);
        events
    };
    wait_until(&format!("{} events of {channel} come", expected.len()), || {
        of_channel().len() >= expected.len()
    });
    assert_eq!(of_channel(), expected);
}

fn what_happens_in_channels_is_sent_signed_and_in_order(backend: BackendName) {
    let receiver = Receiver::start(|_, _| Reply::status(200));
    let all = "'channel_occupied', 'channel_vacated', 'member_added', 'member_removed', 'client_event', 'cache_miss', \
               'subscription_count'";
    let rig = start(backend, &receiver, all);
    let mut sender = rig.subscriber("private-a");
    sender.send_event("private-a", "client-x", &json!({ "y": 1 }));
    sender.expect_nothing();
    let mut member = rig.connect();
    member.enter("presence-b", "ann");
    member.expect_members("presence-b", &["ann"]);
    member.send_event("presence-b", "client-z", &json!("text"));
    member.subscribe("cache-c");
    member.expect_subscribed("cache-c");
    member.expect(&json!({ "event": "pusher:cache_miss", "channel": "cache-c" }));
    member.sign_in(r#"{"id":"ann"}"#);
    assert_eq!(member.receive()["event"], "pusher:signin_success");
    member.subscribe("#server-to-user-ann");
    member.expect_subscribed("#server-to-user-ann");
    let (first, second) = (sender.socket_id.clone(), member.socket_id.clone());
    let event = |name: &str, channel: &str| json!({ "name": name, "channel": channel });
    let count = |channel: &str, count: u32| json!({ "name": "subscription_count", "channel": channel, "subscription_count": count });
    let ann = |name: &str| json!({ "name": name, "channel": "presence-b", "user_id": "ann" });
    let said = json!({ "name": "client_event", "channel": "private-a", "event": "client-x", "data": "{\"y\":1}",
                       "socket_id": first });
    let told = json!({ "name": "client_event", "channel": "presence-b", "event": "client-z", "data": "\"text\"",
                       "socket_id": second, "user_id": "ann" });
    // An event about a channel comes from its home, that about a client's event from the client's worker.
    let sorted = |channel: &str| {
        let mut events: Vec<String> = all_events(&receiver)
            .iter()
            .filter(|event| event["channel"] == channel)
            .map(Value::to_string)
            .collect();
        events.sort_unstable();
        events
    };
    let expect = |channel: &str, expected: &[Value]| {
        wait_until(&format!("the events of {channel} come"), || sorted(channel).len() >= expected.len());
        let mut expected: Vec<String> = expected.iter().map(Value::to_string).collect();
        expected.sort_unstable();
        assert_eq!(sorted(channel), expected);
    };
    expect("private-a", &[event("channel_occupied", "private-a"), said, count("private-a", 1)]);
    expect("presence-b", &[event("channel_occupied", "presence-b"), ann("member_added"), told]);
    expect(
        "cache-c",
        &[event("channel_occupied", "cache-c"), event("cache_miss", "cache-c"), count("cache-c", 1)],
    );
    drop((sender, member));
    expect_last(&receiver, "private-a", &event("channel_vacated", "private-a"));
    expect_last(&receiver, "presence-b", &event("channel_vacated", "presence-b"));
    let of_ann: Vec<Value> =
        all_events(&receiver).into_iter().filter(|event| *event == ann("member_removed")).collect();
    assert_eq!(of_ann.len(), 1);
    // The channel of a user is nobody's business.
    assert!(
        all_events(&receiver)
            .iter()
            .all(|event| event["channel"].as_str().is_some_and(|name| !name.starts_with('#')))
    );
}

/// Waits until the receiver has got an event, and asserts that it has got it once.
#[track_caller]
fn expect_last(receiver: &Receiver, channel: &str, event: &Value) {
    wait_until(&format!("{event} comes"), || all_events(receiver).contains(event));
    let of_channel = all_events(receiver).into_iter().filter(|other| other["channel"] == channel);
    assert_eq!(of_channel.filter(|other| other == event).count(), 1);
}

fn a_page_that_is_loaded_again_causes_no_events(backend: BackendName) {
    let receiver = Receiver::start(|_, _| Reply::status(200));
    let rig =
        start(backend, &receiver, "'channel_occupied', 'channel_vacated', 'member_added', 'member_removed'");
    let mut page = rig.connect();
    for _ in 0..4 {
        page.enter("presence-a", "ann");
        page.expect_members("presence-a", &["ann"]);
        page = rig.connect();
    }
    page.enter("presence-a", "ann");
    page.expect_members("presence-a", &["ann"]);
    drop(page);
    let event = |name: &str| json!({ "name": name, "channel": "presence-a" });
    let ann = |name: &str| json!({ "name": name, "channel": "presence-a", "user_id": "ann" });
    wait_until("the channel is vacated", || all_events(&receiver).len() >= 4);
    let mut events = all_events(&receiver);
    events.sort_by_key(Value::to_string);
    let mut expected =
        vec![event("channel_occupied"), ann("member_added"), ann("member_removed"), event("channel_vacated")];
    expected.sort_by_key(Value::to_string);
    assert_eq!(events, expected);
}

fn webhooks_are_replaced_with_their_applications(backend: BackendName) {
    let (receiver, other) =
        (Receiver::start(|_, _| Reply::status(200)), Receiver::start(|_, _| Reply::status(200)));
    let rig = start(backend, &receiver, "'channel_occupied'");
    let _first = rig.subscriber("a");
    expect_events(&receiver, "a", &[json!({ "name": "channel_occupied", "channel": "a" })]);
    let publisher = rig.server.publisher();
    let broken =
        PusherApp { webhooks: vec![uproar::app::PusherWebhook { url: "x".into(), events: vec![] }], ..app() };
    assert!(rig.apps.replace(vec![broken], &publisher).is_err());
    let file = apps_file(backend, &table(&other.url("/hook"), "'channel_occupied'"));
    rig.apps.replace(file.apps().to_vec(), &publisher).expect("an application");
    let mut peers = Vec::new();
    wait_until("the new webhook is told", || {
        peers.push(rig.subscriber(&format!("b{}", peers.len())));
        !other.requests().is_empty()
    });
    assert_eq!(
        receiver.requests().iter().flat_map(events_of).filter(|event| event["channel"] == "a").count(),
        1
    );
}

fn clients_get_the_number_of_subscribers(backend: BackendName) {
    let rig = Rig::with(backend, 3, vec![PusherApp { subscription_counts: true, ..app() }]);
    for channel in ["a", "private-b"] {
        let count = |count: u32| {
            let data = json!({ "subscription_count": count });
            json!({ "event": "pusher_internal:subscription_count", "data": data, "channel": channel })
        };
        let mut first = rig.subscriber(channel);
        first.expect(&count(1));
        let mut others: Vec<_> = (0..4).map(|_| rig.subscriber(channel)).collect();
        // The changes of half a second make one event.
        assert!(std::iter::repeat_with(|| first.receive()).any(|event| event == count(5)));
        others[0].unsubscribe(channel);
        others.pop();
        assert!(std::iter::repeat_with(|| first.receive()).any(|event| event == count(3)));
        first.expect_nothing();
    }
    let mut member = rig.connect();
    member.enter("presence-a", "ann");
    member.expect_members("presence-a", &["ann"]);
    member.expect_nothing();
}
