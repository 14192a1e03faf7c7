//! Presence in the chat: clients that ask for it learn who is in their room, and others pay nothing for it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tungstenite::Message;
use uproar::config::{AppName, BackendName, Config, LagPolicy};

use crate::support::chat_user::ChatUser;
use crate::support::client::Client;
use crate::support::raw::RawClient;
use crate::support::token::{SECRET, token, token_for};
use crate::support::{TIMEOUT, TestServer, config, wait_until};
use crate::tokens::with_secret;

on_both_backends!(
    silent_joins_leaves_and_names_are_shown,
    several_changes_are_one_event,
    members_that_vanish_are_gone,
    others_get_no_events,
    a_watcher_takes_its_presence_to_another_room,
    rooms_are_watched_again_and_again_while_members_come_and_go,
    a_crowd_is_counted_and_listed_in_part,
    actions_on_users_change_the_presence,
    a_renewed_token_ends_presence_in_rooms_that_it_does_not_allow,
    a_watcher_that_missed_events_gets_the_list_again,
);

fn chat(backend: BackendName, workers: u16) -> TestServer {
    TestServer::start(&config(backend, AppName::Chat, workers))
}

/// A client that keeps the list of a room's members as the page does.
struct Watcher {
    client: Client,
    id: u64,
    room: String,
    members: BTreeMap<u64, String>,
    count: u64,
    /// Number of lists and of updates that have come.
    events: (usize, usize),
    /// Lines of the room, and other events.
    others: Vec<Message>,
}

impl Watcher {
    fn open(server: &TestServer, room: &str) -> Self {
        Self::open_with(server, room, "")
    }

    /// Opens a watcher with more parameters in its query, and waits for its list.
    fn open_with(server: &TestServer, room: &str, query: &str) -> Self {
        let path = format!("/room/{room}?format=json&presence=1{query}");
        let mut client = Client::open(server.address(), &path);
        let Message::Binary(welcome) = client.receive() else { panic!("no welcome") };
        let welcome: Value = serde_json::from_slice(&welcome).expect("JSON");
        let id = welcome["id"].as_u64().expect("a number");
        let mut watcher = Self {
            client,
            id,
            room: room.into(),
            members: BTreeMap::new(),
            count: 0,
            events: (0, 0),
            others: vec![],
        };
        watcher.until(|watcher| watcher.events.0 == 1);
        watcher
    }

    /// Receives events until the condition holds.
    #[track_caller]
    fn until(&mut self, mut condition: impl FnMut(&Self) -> bool) {
        let deadline = Instant::now() + TIMEOUT;
        while !condition(self) {
            assert!(Instant::now() < deadline, "{} members: {:?}", self.count, self.members);
            let message = self.client.receive();
            let event: Value = match &message {
                Message::Binary(bytes) => serde_json::from_slice(bytes).expect("JSON"),
                _ => Value::Null,
            };
            match event["event"].as_str() {
                Some(kind @ ("present" | "presence")) => self.apply(kind == "present", &event),
                _ => self.others.push(message),
            }
        }
    }

    fn apply(&mut self, is_list: bool, event: &Value) {
        assert_eq!(event["room"], self.room, "{event}");
        self.count = event["count"].as_u64().expect("a count");
        let list = |value: &Value| value.as_array().expect("a list").clone();
        let joined = if is_list { &event["members"] } else { &event["joined"] };
        if is_list {
            self.members.clear();
            self.events.0 += 1;
        } else {
            self.events.1 += 1;
            for left in list(&event["left"]) {
                self.members.remove(&left.as_u64().expect("a number"));
            }
        }
        for member in list(joined) {
            let name = member[1].as_str().expect("a name").to_owned();
            self.members.insert(member[0].as_u64().expect("a number"), name);
        }
    }

    fn names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.members.values().map(String::as_str).collect();
        names.sort_unstable();
        names
    }

    /// Receives events until exactly these members are listed and counted, the watcher's own default name excepted.
    #[track_caller]
    fn until_names(&mut self, wanted: &[&str]) {
        self.until(|watcher| {
            let names: Vec<&str> = watcher
                .members
                .iter()
                .filter(|(id, name)| **id != watcher.id || !name.starts_with("User #"))
                .map(|(_, name)| name.as_str())
                .collect();
            let mut names = names;
            names.sort_unstable();
            names == wanted && watcher.count == watcher.members.len() as u64
        });
    }
}

/// Opens a client of the room and gives it a name.
fn named(server: &TestServer, room: &str, name: &str) -> ChatUser {
    let mut user = ChatUser::join(server.address(), room);
    user.set_name(name);
    user
}

fn silent_joins_leaves_and_names_are_shown(backend: BackendName) {
    for workers in [1, 2] {
        let server = chat(backend, workers);
        let mut watchers: Vec<_> = (0..3).map(|_| Watcher::open(&server, "tea")).collect();
        let ada = ChatUser::join(server.address(), "tea");
        let ada_name = ada.default_name();
        for watcher in &mut watchers {
            watcher.until(|watcher| watcher.count == 4 && watcher.members.len() == 4);
            assert!(watcher.names().contains(&ada_name.as_str()), "{:?}", watcher.names());
            assert_eq!(watcher.members[&watcher.id], format!("User #{} ({})", watcher.id, worker(watcher)));
        }
        let mut bob = named(&server, "tea", "bob");
        for watcher in &mut watchers {
            watcher.until(|watcher| watcher.names().contains(&"bob") && watcher.count == 5);
        }
        drop(ada);
        bob.send_text("/nick rob");
        for watcher in &mut watchers {
            watcher.until(|watcher| watcher.names().contains(&"rob") && watcher.count == 4);
            assert!(!watcher.names().contains(&ada_name.as_str()));
            assert!(!watcher.names().contains(&"bob"));
        }
        // A watcher is a member, too, and what others know of it changes like the rest.
        watchers[0].client.send_text("/nick eve");
        let left = watchers.pop();
        drop(left);
        for watcher in &mut watchers {
            watcher.until(|watcher| watcher.names().contains(&"eve") && watcher.count == 3);
            assert_eq!((watcher.members.len(), watcher.events.0), (3, 1));
        }
    }
}

/// Returns the worker in the default name of a watcher, which other members know.
fn worker(watcher: &Watcher) -> &str {
    let (_, rest) = watcher.members[&watcher.id].split_once('(').expect("a default name");
    rest.trim_end_matches(')')
}

fn several_changes_are_one_event(backend: BackendName) {
    let server = chat(backend, 2);
    let mut watcher = Watcher::open(&server, "tea");
    watcher.until_names(&[]);
    let before = watcher.events.1;
    let users: Vec<_> = (0..40).map(|_| ChatUser::join(server.address(), "tea")).collect();
    watcher.until(|watcher| watcher.count == 41);
    // Connecting takes longer on a busy machine, so that several updates may come.
    let updates = watcher.events.1 - before;
    assert!(updates < 20, "{updates} updates of 40 changes");
    drop(users);
    watcher.until(|watcher| watcher.count == 1);
    assert_eq!(watcher.members.len(), 1);
    assert_eq!(watcher.events.0, 1, "one list for a watcher");
}

fn members_that_vanish_are_gone(backend: BackendName) {
    // Together longer than the time between two updates, so that the watcher hears of the silent client before its end.
    let pings = Duration::from_secs(1);
    let base = config(backend, AppName::Chat, 2);
    let server = TestServer::start(&Config { ping_seconds: pings, pong_seconds: pings, ..base });
    let mut watcher = Watcher::open(&server, "tea");
    watcher.until_names(&[]);
    // A client that crashes: its kernel resets the connection.
    let crashing = RawClient::open(server.address(), "/room/tea");
    watcher.until(|watcher| watcher.count == 2);
    crashing.abort();
    watcher.until(|watcher| watcher.count == 1);
    // A client whose machine is unplugged: it answers no ping.
    let silent = RawClient::open(server.address(), "/room/tea");
    watcher.until(|watcher| watcher.count == 2);
    watcher.until(|watcher| watcher.count == 1);
    drop(silent);
    // A client that breaks the protocol.
    let mut wrong = RawClient::open(server.address(), "/room/tea");
    watcher.until(|watcher| watcher.count == 2);
    wrong.send(&[0xff; 10]);
    watcher.until(|watcher| watcher.count == 1);
    watcher.until_names(&[]);
}

fn others_get_no_events(backend: BackendName) {
    let server = chat(backend, 2);
    let mut watcher = Watcher::open(&server, "tea");
    let mut plain = ChatUser::join(server.address(), "tea");
    let mut without_json = Client::open(server.address(), "/room/tea?presence=1");
    let mut structured = Client::open(server.address(), "/room/tea?format=json&presence=0");
    watcher.until(|watcher| watcher.count == 4);
    let guest = ChatUser::join(server.address(), "tea");
    watcher.until(|watcher| watcher.count == 5);
    drop(guest);
    watcher.until(|watcher| watcher.count == 4);
    plain.send_text("hello");
    let line = format!("{}: hello", plain.default_name());
    plain.expect_text(&line);
    assert!(without_json.receive_text().starts_with("* welcome to tea"));
    without_json.expect_text(&line);
    let mut events = Vec::new();
    loop {
        match structured.receive() {
            Message::Binary(bytes) => {
                let event: Value = serde_json::from_slice(&bytes).expect("JSON");
                events.push(event["event"].clone());
            }
            message => {
                assert_eq!(message, Message::text(line));
                break;
            }
        }
    }
    assert_eq!(events, ["welcome", "history"]);
}

fn a_watcher_takes_its_presence_to_another_room(backend: BackendName) {
    for workers in [1, 3] {
        let server = chat(backend, workers);
        let mut stays = Watcher::open(&server, "tea");
        let mut moves = Watcher::open(&server, "tea");
        stays.until(|watcher| watcher.count == 2);
        let _ada = named(&server, "milk", "ada");
        moves.client.send_text("/join milk");
        // An update of the old room may be under way. `apply` would not accept one behind the new room's list.
        loop {
            let Message::Binary(bytes) = moves.client.receive() else { continue };
            let event: Value = serde_json::from_slice(&bytes).expect("JSON");
            if event["event"] == "present" {
                moves.room = "milk".into();
                moves.apply(true, &event);
                break;
            }
        }
        moves.until(|watcher| watcher.count == 2 && watcher.names().contains(&"ada"));
        stays.until(|watcher| watcher.count == 1);
        assert_eq!(stays.members.keys().collect::<Vec<_>>(), [&stays.id]);
        let guest = ChatUser::join(server.address(), "tea");
        stays.until(|watcher| watcher.count == 2);
        let guest_there = ChatUser::join(server.address(), "milk");
        moves.until(|watcher| watcher.count == 3 && watcher.members.len() == 3);
        drop((guest, guest_there));
    }
}

fn rooms_are_watched_again_and_again_while_members_come_and_go(backend: BackendName) {
    let server = chat(backend, 3);
    std::thread::scope(|scope| {
        for room in ["tea", "milk", "tea", "garden"] {
            let server = &server;
            scope.spawn(move || {
                for round in 0..15 {
                    let user = ChatUser::join(server.address(), room);
                    let mut watcher = Watcher::open(server, room);
                    let name = user.default_name();
                    watcher.until(|watcher| watcher.names().contains(&name.as_str()));
                    if round % 3 == 0 {
                        drop(user);
                        watcher.until(|watcher| !watcher.names().contains(&name.as_str()));
                    }
                }
            });
        }
    });
    for room in ["tea", "milk", "garden"] {
        let mut watcher = Watcher::open(&server, room);
        watcher.until(|watcher| watcher.count == 1 && watcher.members.contains_key(&watcher.id));
        assert_eq!(watcher.members.len(), 1);
    }
}

fn a_crowd_is_counted_and_listed_in_part(backend: BackendName) {
    let server = chat(backend, 2);
    let mut users: Vec<_> = (0..150).map(|_| ChatUser::join(server.address(), "crowd")).collect();
    let mut watcher = Watcher::open(&server, "crowd");
    watcher.until(|watcher| watcher.count == 151);
    assert_eq!(watcher.members.len(), 100);
    users.truncate(120);
    watcher.until(|watcher| watcher.count == 121);
    users.truncate(10);
    // The places of members that have left are filled again.
    watcher.until(|watcher| watcher.count == 11 && watcher.members.len() == 11);
    let mut expected: Vec<String> = users.iter().map(ChatUser::default_name).collect();
    expected.push(watcher.members[&watcher.id].clone());
    expected.sort_unstable();
    assert_eq!(watcher.names(), expected);
}

fn actions_on_users_change_the_presence(backend: BackendName) {
    for workers in [1, 2] {
        let server = chat(backend, workers);
        let publisher = server.publisher();
        let mut watcher = Watcher::open(&server, "tea");
        let _ada = named(&server, "milk", "ada");
        publisher.join_user("ada", "tea", 0).expect("there is room");
        watcher.until_names(&["ada"]);
        publisher.join_user("ada", "tea", 0).expect("there is room");
        publisher.leave_user("ada", "tea").expect("there is room");
        watcher.until_names(&[]);
        // A watcher that is removed gets no more events, until it is added again.
        watcher.client.send_text("/nick eve");
        watcher.until_names(&["eve"]);
        let lists = watcher.events.0;
        publisher.leave_user("eve", "tea").expect("there is room");
        let mut other = Watcher::open(&server, "tea");
        other.until_names(&[]);
        publisher.join_user("eve", "tea", 0).expect("there is room");
        watcher.until(|watcher| watcher.events.0 > lists);
        watcher.until(|watcher| watcher.count == 2 && watcher.names().contains(&"eve"));
        other.until_names(&["eve"]);
    }
}

fn a_renewed_token_ends_presence_in_rooms_that_it_does_not_allow(backend: BackendName) {
    let server = TestServer::start(&with_secret(config(backend, AppName::Chat, 2), "presence", SECRET));
    let mut watcher = Watcher::open_with(&server, "tea", &format!("&token={}", token_for("eve")));
    let mut ada = Client::open(server.address(), &format!("/room/tea?token={}", token_for("ada")));
    watcher.until_names(&["ada", "eve"]);
    let expiry = crate::support::token::now() + 600;
    let narrow = token(&json!({"sub": "ada", "exp": expiry, "rooms": ["milk"]}));
    ada.send_text(&format!("/token {narrow}"));
    watcher.until_names(&["eve"]);
}

fn a_watcher_that_missed_events_gets_the_list_again(backend: BackendName) {
    const LEN: usize = 60_000;
    let base = config(backend, AppName::Chat, 1);
    let server = TestServer::start(&Config {
        lag_policy: LagPolicy::Skip,
        lag_window: 128 << 10,
        message_rate: Some(0),
        byte_rate: Some(0),
        ..base
    });
    let mut watcher = Watcher::open(&server, "tea");
    let mut ada = named(&server, "tea", "ada");
    watcher.until_names(&["ada"]);
    let before = server.totals().lagged;
    let text = "x".repeat(LEN);
    // The watcher reads nothing meanwhile.
    wait_until("the watcher lags", || {
        ada.send_text(&text);
        ada.expect_text(&format!("ada: {text}"));
        server.totals().lagged > before
    });
    watcher.until(|watcher| watcher.events.0 == 2);
    watcher.until_names(&["ada"]);
}
