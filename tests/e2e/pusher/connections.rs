//! The beginning and the end of connections, and messages that are no events.

use std::net::TcpStream;

use serde_json::json;
use tungstenite::Message;
use uproar::app::PusherApp;
use uproar::config::{AppName, BackendName, Config};

use super::peer::{KEY, Rig, app};
use crate::support::client::Client;
use crate::support::{config, wait_until};

on_both_backends!(
    the_first_event_names_the_socket_and_the_activity_timeout,
    a_refused_client_gets_an_error_and_a_close_code,
    a_full_application_refuses_before_the_upgrade,
    pings_are_answered_without_a_channel,
    messages_that_are_no_events_get_an_error_and_the_connection_goes_on,
    clients_of_a_removed_or_disabled_application_are_closed,
    origins_are_those_of_the_application,
    other_requests_are_no_connections,
);

fn the_first_event_names_the_socket_and_the_activity_timeout(backend: BackendName) {
    let rig = Rig::start(backend, 2);
    let mut seen = Vec::new();
    for protocol in [5, 6, 7] {
        let mut client = rig.open(&format!("/app/{KEY}?client=x&protocol={protocol}"));
        let text = client.receive_text();
        let rest = text
            .strip_prefix(r#"{"event":"pusher:connection_established","data":"{\"socket_id\":\""#)
            .and_then(|rest| rest.strip_suffix(r#"\",\"activity_timeout\":120}"}"#));
        let socket_id = rest.unwrap_or_else(|| panic!("{text}")).to_owned();
        let numbers: Vec<_> = socket_id.split('.').collect();
        assert!(
            numbers.len() == 2 && numbers.iter().all(|number| number.parse::<u64>().is_ok()),
            "{socket_id}"
        );
        assert!(!seen.contains(&socket_id));
        seen.push(socket_id);
    }
}

fn a_refused_client_gets_an_error_and_a_close_code(backend: BackendName) {
    let disabled = PusherApp { is_enabled: false, ..PusherApp::new("8", "off", "secret") };
    let rig = Rig::with(backend, 1, vec![app(), disabled]);
    for (path, code) in [
        ("/app/unknown?protocol=7", 4001),
        ("/app/off?protocol=7", 4003),
        ("/app/?protocol=7", 4005),
        (&format!("/app/{KEY}/more?protocol=7"), 4005),
        (&format!("/app/{KEY}?protocol=x"), 4006),
        (&format!("/app/{KEY}?protocol=3"), 4007),
        (&format!("/app/{KEY}"), 4008),
    ] {
        let mut client = rig.open(path);
        let event = super::peer::parse(&client.receive_text());
        assert_eq!(
            (&event["event"], &event["data"]["code"]),
            (&json!("pusher:error"), &json!(code)),
            "{path}"
        );
        let (closed, reason) = client.wait_for_close();
        assert_eq!((closed, json!(reason)), (code, event["data"]["message"].clone()), "{path}");
    }
}

fn a_full_application_refuses_before_the_upgrade(backend: BackendName) {
    let limited = PusherApp { max_connections: 2, ..app() };
    let rig = Rig::with(backend, 2, vec![limited, PusherApp::new("8", "other", "secret")]);
    let path = format!("/app/{KEY}?protocol=7");
    let try_open = || Client::open_on(TcpStream::connect(rig.server.address()).expect("it listens"), &path);
    let (_first, second) = (rig.connect(), rig.connect());
    assert_eq!(try_open().err(), Some(503));
    let _other = rig.open("/app/other?protocol=7");
    drop(second);
    wait_until("the connection is not counted any more", || try_open().is_ok());
}

fn pings_are_answered_without_a_channel(backend: BackendName) {
    let rig = Rig::start(backend, 1);
    let mut peer = rig.connect();
    for ping in [
        r#"{"event":"pusher:ping","data":""}"#,
        r#"{"event":"pusher:ping"}"#,
        r#"{"data":{},"event":"pusher:ping"}"#,
    ] {
        peer.client.send_text(ping);
        peer.client.expect_text(r#"{"event":"pusher:pong","data":"{}"}"#);
    }
    peer.client.send_text(r#"{"event":"pusher:pong","data":{}}"#);
    peer.expect_nothing();
}

fn messages_that_are_no_events_get_an_error_and_the_connection_goes_on(backend: BackendName) {
    let rig = Rig::start(backend, 1);
    let mut peer = rig.connect();
    for text in [
        "",
        "hello",
        "[]",
        "5",
        "{}",
        r#"{"event":5}"#,
        r#"{"event":["pusher:ping"]}"#,
        r#"{"event":"unknown"}"#,
        r#"{"event":"pusher:unknown","data":{}}"#,
        r#"{"event":"pusher:subscribe"}"#,
        r#"{"event":"pusher:subscribe","data":null}"#,
        r#"{"event":"pusher:subscribe","data":"x"}"#,
        r#"{"event":"pusher:subscribe","data":["a"]}"#,
        r#"{"event":"pusher:subscribe","data":{}}"#,
        r#"{"event":"pusher:subscribe","data":{"channel":5}}"#,
        r#"{"event":"pusher:subscribe","data":{"channel":["a"]}}"#,
        r#"{"event":"pusher:subscribe","data":{"channel":"a","auth":{}}}"#,
        r#"{"event":"pusher:subscribe","data":{"channel":"a","channel_data":{}}}"#,
        r#"{"event":"pusher:unsubscribe","data":{"channel":null}}"#,
    ] {
        peer.client.send_text(text);
        assert!(!peer.expect_error(None).is_empty(), "{text}");
    }
    peer.client.send(Message::binary(br#"{"event":"pusher:ping"}"#.to_vec()));
    assert!(peer.expect_error(None).contains("binary"));
    peer.expect_nothing();
}

fn clients_of_a_removed_or_disabled_application_are_closed(backend: BackendName) {
    let other = PusherApp::new("8", "other", "secret");
    let rig = Rig::with(backend, 2, vec![app(), other.clone(), PusherApp::new("9", "third", "secret")]);
    let mut stays = rig.connect();
    let [mut disabled, mut removed] =
        ["other", "third"].map(|key| rig.open(&format!("/app/{key}?protocol=7")));
    let (is_enabled, publisher) = (false, rig.server.publisher());
    let changed = PusherApp { secret: "new".into(), ..app() };
    rig.apps.replace(vec![PusherApp { is_enabled, ..other }, changed], &publisher).expect("applications");
    assert_eq!(disabled.wait_for_close().0, 4003);
    assert_eq!(removed.wait_for_close().0, 4001);
    // Its worker may be later than those of the others.
    wait_until("the new secret is in force", || {
        stays.unsubscribe("private-a");
        stays.subscribe("private-a");
        stays.receive()["event"] == "pusher:subscription_error"
    });
    stays.subscribe("private-a");
    stays.expect_rejected("private-a", "AuthError", 401);
    assert!(rig.apps.replace(vec![app(), app()], &publisher).is_err());
    rig.apps.replace(vec![app()], &publisher).expect("an application");
    wait_until("the old secret is valid again", || {
        stays.subscribe("private-a");
        stays.receive()["event"] == "pusher_internal:subscription_succeeded"
    });
}

fn origins_are_those_of_the_application(backend: BackendName) {
    let origins = vec!["https://shop.example".parse().expect("an origin")];
    let strict = PusherApp { origins, ..PusherApp::new("8", "strict", "secret") };
    let rig = Rig::with(backend, 1, vec![app(), strict]);
    let mut client = rig.open_from("https://any.example", &format!("/app/{KEY}?protocol=7"));
    assert!(client.receive_text().contains("connection_established"));
    let mut client = rig.open_from("https://shop.example", "/app/strict?protocol=7");
    assert!(client.receive_text().contains("connection_established"));
    let mut client = rig.open_from("https://any.example", "/app/strict?protocol=7");
    assert!(client.receive_text().contains("pusher:error"));
    assert_eq!(client.wait_for_close().0, 4009);
}

fn other_requests_are_no_connections(backend: BackendName) {
    let one = Config { max_rooms_per_connection: 1, ..config(backend, AppName::Pusher, 1) };
    let rig = Rig::with_config(&one, vec![app()]);
    let stream = || TcpStream::connect(rig.server.address()).expect("it listens");
    for path in ["/room/lobby", "/nothing", "/app"] {
        assert_eq!(Client::open_on(stream(), path).err(), Some(404), "{path}");
    }
    let mut peer = rig.subscriber("a");
    peer.subscribe("b");
    peer.expect_rejected("b", "LimitReached", 4100);
    peer.unsubscribe("a");
    peer.subscribe("b");
    peer.expect_subscribed("b");
}
