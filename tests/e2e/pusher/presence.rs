//! Presence channels: their members, and the events about them.

use std::collections::BTreeSet;

use serde_json::json;
use uproar::app::PusherApp;
use uproar::config::BackendName;

use super::peer::{Peer, Rig, app};

on_both_backends!(
    members_are_listed_and_announced,
    a_user_with_several_connections_is_one_member,
    a_connection_that_ends_leaves_its_channels,
    client_events_name_their_sender,
    members_have_limits,
    a_second_subscription_gets_an_error,
    a_cancelled_subscription_leaves_no_member,
    a_cache_channel_tells_members_first,
    lists_and_events_agree_over_all_workers,
);

const CHANNEL: &str = "presence-room";

fn members_are_listed_and_announced(backend: BackendName) {
    let rig = Rig::start(backend, 3);
    let mut ann = rig.connect();
    ann.enter(CHANNEL, "ann");
    ann.expect_members(CHANNEL, &["ann"]);
    let mut bob = rig.connect();
    bob.enter(CHANNEL, "bob");
    bob.expect_members(CHANNEL, &["ann", "bob"]);
    ann.expect_added(CHANNEL, "bob");
    rig.publish(CHANNEL, "e", "{}");
    for peer in [&mut ann, &mut bob] {
        peer.expect(&json!({ "event": "e", "data": {}, "channel": CHANNEL }));
    }
    bob.unsubscribe(CHANNEL);
    ann.expect_removed(CHANNEL, "bob");
    bob.enter(CHANNEL, "bob");
    bob.expect_members(CHANNEL, &["ann", "bob"]);
    ann.expect_added(CHANNEL, "bob");
    for peer in [&mut ann, &mut bob] {
        peer.expect_nothing();
    }
}

fn a_user_with_several_connections_is_one_member(backend: BackendName) {
    let rig = Rig::start(backend, 3);
    let mut watcher = rig.connect();
    watcher.enter(CHANNEL, "watcher");
    watcher.expect_members(CHANNEL, &["watcher"]);
    let mut tabs: Vec<Peer> = (0..4).map(|_| rig.connect()).collect();
    for (number, tab) in tabs.iter_mut().enumerate() {
        // The backend may name a user by a number.
        tab.enter_with(CHANNEL, &json!({ "user_id": 12, "user_info": { "name": "12" } }).to_string());
        tab.expect_members(CHANNEL, &["12", "watcher"]);
        if number == 0 {
            watcher.expect_added(CHANNEL, "12");
        }
    }
    watcher.expect_nothing();
    for tab in &mut tabs[1..] {
        tab.unsubscribe(CHANNEL);
        tab.expect_nothing();
    }
    watcher.expect_nothing();
    tabs[0].unsubscribe(CHANNEL);
    watcher.expect_removed(CHANNEL, "12");
    watcher.expect_nothing();
}

fn a_connection_that_ends_leaves_its_channels(backend: BackendName) {
    let rig = Rig::start(backend, 3);
    let channels = ["presence-1", "presence-2", "presence-3"];
    let mut watcher = rig.connect();
    for channel in channels {
        watcher.enter(channel, "watcher");
        watcher.expect_members(channel, &["watcher"]);
    }
    let mut other = rig.connect();
    for channel in channels {
        other.enter(channel, "other");
        other.expect_members(channel, &["other", "watcher"]);
        watcher.expect_added(channel, "other");
    }
    drop(other);
    let mut gone: Vec<String> = (0..3)
        .map(|_| {
            let event = watcher.receive();
            assert_eq!(event["event"], "pusher_internal:member_removed", "{event}");
            event["channel"].as_str().expect("a channel").to_owned()
        })
        .collect();
    gone.sort_unstable();
    assert_eq!(gone, channels);
    watcher.expect_nothing();
}

fn client_events_name_their_sender(backend: BackendName) {
    let rig = Rig::start(backend, 2);
    let (mut ann, mut bob) = (rig.connect(), rig.connect());
    ann.enter(CHANNEL, "ann");
    ann.expect_members(CHANNEL, &["ann"]);
    bob.enter(CHANNEL, "bob");
    bob.expect_members(CHANNEL, &["ann", "bob"]);
    ann.expect_added(CHANNEL, "bob");
    bob.send_event(CHANNEL, "client-typing", &json!({ "at": 1 }));
    let event =
        json!({ "event": "client-typing", "data": { "at": 1 }, "channel": CHANNEL, "user_id": "bob" });
    ann.expect(&event);
    bob.expect_nothing();
}

fn members_have_limits(backend: BackendName) {
    let limited = PusherApp { max_presence_members: 2, max_member_bytes: 300, ..app() };
    let rig = Rig::with(backend, 3, vec![limited]);
    let mut peer = rig.connect();
    for data in ["x".repeat(301), json!({ "user_id": "x".repeat(201) }).to_string()] {
        peer.enter_with(CHANNEL, &data);
        peer.expect_rejected(CHANNEL, "LimitReached", 4301);
    }
    for data in ["{}", "[]", "x", r#"{"user_id":null}"#] {
        peer.enter_with(CHANNEL, data);
        peer.expect_rejected(CHANNEL, "AuthError", 401);
    }
    let mut members: Vec<Peer> = (0..3).map(|_| rig.connect()).collect();
    for (user, member) in ["a", "b", "b"].iter().zip(&mut members) {
        member.enter(CHANNEL, user);
        assert_eq!(member.receive()["event"], "pusher_internal:subscription_succeeded");
    }
    peer.enter(CHANNEL, "c");
    peer.expect_rejected(CHANNEL, "LimitReached", 4100);
    peer.send_event(CHANNEL, "client-x", &json!({}));
    peer.expect_error(Some(4301));
    // The refused connection left nothing behind, so another user takes the place of one that leaves.
    drop(peer);
    members[0].expect_added(CHANNEL, "b");
    members[0].unsubscribe(CHANNEL);
    members[1].expect_removed(CHANNEL, "a");
    members[0].enter(CHANNEL, "c");
    members[0].expect_members(CHANNEL, &["b", "c"]);
}

fn a_second_subscription_gets_an_error(backend: BackendName) {
    let rig = Rig::start(backend, 2);
    let mut peer = rig.connect();
    peer.enter(CHANNEL, "ann");
    peer.expect_members(CHANNEL, &["ann"]);
    peer.enter(CHANNEL, "other");
    assert!(peer.expect_error(None).contains("already"));
    peer.expect_nothing();
}

fn a_cancelled_subscription_leaves_no_member(backend: BackendName) {
    let rig = Rig::start(backend, 3);
    let mut watcher = rig.connect();
    watcher.enter(CHANNEL, "watcher");
    watcher.expect_members(CHANNEL, &["watcher"]);
    let mut closing = Vec::new();
    for number in 0..20 {
        let mut peer = rig.connect();
        peer.enter(CHANNEL, "ghost");
        if number % 2 == 0 {
            peer.unsubscribe(CHANNEL);
        }
        peer.client.socket.close(None).expect("the close frame can be sent");
        closing.push(peer);
        watcher.expect_added(CHANNEL, "ghost");
        watcher.expect_removed(CHANNEL, "ghost");
    }
    let mut peer = rig.connect();
    for _ in 0..5 {
        peer.enter(CHANNEL, "ghost");
        peer.unsubscribe(CHANNEL);
    }
    peer.enter(CHANNEL, "ghost");
    for _ in 0..5 {
        watcher.expect_added(CHANNEL, "ghost");
        watcher.expect_removed(CHANNEL, "ghost");
    }
    watcher.expect_added(CHANNEL, "ghost");
    // A subscription that is answered before the server reads that it is cancelled has an answer, too.
    peer.expect_members(CHANNEL, &["ghost", "watcher"]);
    peer.send(&json!({ "event": "pusher:ping" }));
    let answers =
        std::iter::repeat_with(|| peer.receive()).take_while(|event| event["event"] != "pusher:pong");
    answers.for_each(|event| assert_eq!(event["event"], "pusher_internal:subscription_succeeded"));
    watcher.expect_nothing();
}

fn a_cache_channel_tells_members_first(backend: BackendName) {
    let rig = Rig::start(backend, 2);
    let channel = "presence-cache-room";
    let mut peer = rig.connect();
    peer.enter(channel, "ann");
    peer.expect_members(channel, &["ann"]);
    peer.expect(&json!({ "event": "pusher:cache_miss", "channel": channel }));
    let mut other = rig.connect();
    other.enter(channel, "bob");
    other.expect_members(channel, &["ann", "bob"]);
    // The news about a member is no event to keep.
    other.expect(&json!({ "event": "pusher:cache_miss", "channel": channel }));
    peer.expect_added(channel, "bob");
}

/// The members of the channel as a client knows them.
struct View {
    peer: Peer,
    members: BTreeSet<String>,
}

impl View {
    /// Handles the next event. Panics if it contradicts the members so far.
    fn take(&mut self) {
        let event = self.peer.receive();
        let data = &event["data"];
        let id = data["user_id"].as_str().unwrap_or_default();
        match event["event"].as_str() {
            Some("pusher_internal:subscription_succeeded") => {
                let ids = data["presence"]["ids"].as_array().expect("identifiers");
                self.members = ids.iter().map(|id| id.as_str().expect("a text").to_owned()).collect();
                assert_eq!(data["presence"]["count"], self.members.len());
            }
            Some("pusher_internal:member_added") => assert!(self.members.insert(id.into()), "{event}"),
            Some("pusher_internal:member_removed") => assert!(self.members.remove(id), "{event}"),
            _ => panic!("unexpected {event}"),
        }
    }
}

fn lists_and_events_agree_over_all_workers(backend: BackendName) {
    let rig = Rig::start(backend, 4);
    let mut views: Vec<View> = Vec::new();
    // Nobody waits for another client, so that joins and leaves meet on their way.
    for number in 0..60 {
        let mut peer = rig.connect();
        peer.enter(CHANNEL, &format!("user{}", number % 40));
        views.push(View { peer, members: BTreeSet::new() });
        if number % 3 == 2 {
            drop(views.remove(number % views.len()));
        }
    }
    let mut last = rig.connect();
    last.enter(CHANNEL, "last");
    views.push(View { peer: last, members: BTreeSet::new() });
    // Events come in one order, so a client that knows of the last user has got all earlier events.
    let mut end = rig.connect();
    end.enter(CHANNEL, "end");
    for view in &mut views {
        while !view.members.contains("end") {
            view.take();
        }
    }
    drop(end);
    for view in &mut views {
        while view.members.contains("end") {
            view.take();
        }
    }
    let expected = views[0].members.clone();
    assert!(expected.len() > 20 && expected.contains("last"), "{expected:?}");
    for view in &views {
        assert_eq!(view.members, expected);
    }
}
