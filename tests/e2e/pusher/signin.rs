//! Signing in, and the channel of a user.

use std::time::Duration;

use serde_json::{Value, json};
use uproar::config::BackendName;

use super::peer::{Peer, Rig};

on_both_backends!(
    a_client_signs_in_and_hears_messages_to_its_user,
    a_wrong_sign_in_closes_the_client,
    a_client_has_one_user,
    the_channel_of_a_user_is_for_its_clients_only,
    a_presence_channel_takes_the_user_of_the_sign_in,
    a_long_watchlist_gets_an_error,
    a_banned_user_cannot_sign_in,
);

fn sign_in(peer: &mut Peer, user_data: &str) {
    peer.sign_in(user_data);
    peer.expect(&json!({ "event": "pusher:signin_success", "data": { "user_data": user_data } }));
}

fn a_client_signs_in_and_hears_messages_to_its_user(backend: BackendName) {
    let rig = Rig::start(backend, 3);
    let mut peers: Vec<Peer> = (0..4).map(|_| rig.connect()).collect();
    let user_data = r#"{"id":"ann","user_info":{"name":"Änn"},"watchlist":["bob"]}"#;
    for peer in &mut peers {
        sign_in(peer, user_data);
        peer.subscribe("#server-to-user-ann");
        peer.expect_subscribed("#server-to-user-ann");
    }
    rig.publish("#server-to-user-ann", "mail", "{}");
    for peer in &mut peers {
        peer.expect(&json!({ "event": "mail", "data": {}, "channel": "#server-to-user-ann" }));
        peer.expect_nothing();
    }
    // The server knows the user, so that a backend can close its connections.
    rig.server
        .publisher()
        .close_user("7/ann", uproar::app::CloseCode(4009), "terminated")
        .expect("there is room");
    for peer in &mut peers {
        assert_eq!(peer.client.wait_for_close(), (4009, "terminated".into()));
    }
}

fn a_wrong_sign_in_closes_the_client(backend: BackendName) {
    let rig = Rig::start(backend, 1);
    for user_data in [
        "{}",
        r#"{"id":""}"#,
        r#"{"id":5}"#,
        r#"{"id":null}"#,
        "x",
        "[]",
        "",
        &json!({ "id": "x".repeat(201) }).to_string(),
    ] {
        let mut peer = rig.connect();
        peer.sign_in(user_data);
        peer.expect_error(Some(4009));
        assert_eq!(peer.client.wait_for_close().0, 4009, "{user_data}");
    }
    let user_data = r#"{"id":"ann"}"#;
    let wrong = |peer: &Peer| {
        [
            json!({ "auth": peer.auth(&[user_data]), "user_data": user_data }),
            json!({ "auth": "x", "user_data": user_data }),
            json!({ "user_data": user_data }),
            json!({ "auth": peer.auth(&["user", user_data]) }),
            Value::Null,
        ]
    };
    for number in 0..5 {
        let mut peer = rig.connect();
        let data = &wrong(&peer)[number];
        peer.send(&json!({ "event": "pusher:signin", "data": data }));
        peer.expect_error(Some(4009));
        assert_eq!(peer.client.wait_for_close().0, 4009, "{data}");
    }
}

fn a_client_has_one_user(backend: BackendName) {
    let rig = Rig::start(backend, 1);
    let mut peer = rig.connect();
    sign_in(&mut peer, r#"{"id":"ann"}"#);
    sign_in(&mut peer, r#"{"id":"ann","user_info":{"x":1}}"#);
    peer.sign_in(r#"{"id":"bob"}"#);
    assert!(peer.expect_error(None).contains("another user"));
    peer.subscribe("#server-to-user-ann");
    peer.expect_subscribed("#server-to-user-ann");
}

fn the_channel_of_a_user_is_for_its_clients_only(backend: BackendName) {
    let rig = Rig::start(backend, 1);
    let mut peer = rig.connect();
    peer.subscribe("#server-to-user-ann");
    peer.expect_rejected("#server-to-user-ann", "AuthError", 401);
    sign_in(&mut peer, r#"{"id":"bob"}"#);
    peer.subscribe("#server-to-user-ann");
    peer.expect_rejected("#server-to-user-ann", "AuthError", 401);
    peer.subscribe("#server-to-user-bob");
    peer.expect_subscribed("#server-to-user-bob");
    peer.send_event("#server-to-user-bob", "client-x", &json!({}));
    peer.expect_error(Some(4301));
}

fn a_presence_channel_takes_the_user_of_the_sign_in(backend: BackendName) {
    let rig = Rig::start(backend, 2);
    let mut peer = rig.connect();
    peer.subscribe("presence-a");
    peer.expect_rejected("presence-a", "AuthError", 401);
    sign_in(&mut peer, r#"{"id":"ann","user_info":{"name":"ANN"}}"#);
    peer.subscribe("presence-a");
    peer.expect_members("presence-a", &["ann"]);
    // The user of a presence channel may be another one, and does not replace that of the sign-in.
    peer.enter("presence-b", "bob");
    peer.expect_members("presence-b", &["bob"]);
    peer.subscribe("#server-to-user-ann");
    peer.expect_subscribed("#server-to-user-ann");
}

fn a_long_watchlist_gets_an_error(backend: BackendName) {
    let rig = Rig::start(backend, 1);
    let watchlist: Vec<String> = (0..101).map(|number| number.to_string()).collect();
    let mut peer = rig.connect();
    sign_in(&mut peer, &json!({ "id": "ann", "watchlist": watchlist[..100] }).to_string());
    let mut peer = rig.connect();
    peer.sign_in(&json!({ "id": "ann", "watchlist": watchlist }).to_string());
    peer.expect_error(Some(4302));
    assert_eq!(peer.receive()["event"], "pusher:signin_success");
}

fn a_banned_user_cannot_sign_in(backend: BackendName) {
    let rig = Rig::start(backend, 1);
    rig.server.publisher().ban_user("7/ann", Duration::from_secs(600)).expect("there is room");
    let mut peer = rig.connect();
    peer.sign_in(r#"{"id":"ann"}"#);
    peer.expect_error(Some(4009));
    assert_eq!(peer.client.wait_for_close().0, 4009);
}
