//! The chat application, as seen by a client that asks for JSON.

use std::time::Duration;

use serde_json::{Value, json};
use tungstenite::Message;
use uproar::config::{AppName, BackendName, Config};

use crate::support::chat_user::ChatUser;
use crate::support::client::Client;
use crate::support::token::{SECRET, token_for};
use crate::support::{TestServer, config};
use crate::tokens::with_secret;

on_both_backends!(
    what_is_for_one_client_is_an_object_and_the_rooms_lines_are_text,
    a_name_or_a_text_cannot_pass_for_an_object,
    the_past_has_its_times_on_every_worker,
    every_connection_of_a_user_gets_a_private_message_in_its_format,
    clients_that_do_not_ask_for_objects_get_none,
);

fn chat(backend: BackendName, workers: u16) -> TestServer {
    TestServer::start(&config(backend, AppName::Chat, workers))
}

/// Opens a WebSocket at `path` and reads the chat's welcome. Returns the client and its name in the chat.
fn enter(server: &TestServer, path: &str) -> (Client, String) {
    let mut client = Client::open(server.address(), path);
    let welcome = event(&mut client);
    assert_eq!(welcome["event"], "welcome", "{welcome}");
    let name = welcome["name"].as_str().expect("a name").to_owned();
    (client, name)
}

/// Receives the next message and parses it as a JSON object.
#[track_caller]
fn event(client: &mut Client) -> Value {
    match client.receive() {
        Message::Binary(bytes) => serde_json::from_slice(&bytes).expect("JSON"),
        other => panic!("wanted an object, got {other:?}"),
    }
}

/// Receives messages up to the next JSON object. Returns the text lines before the object, and the object.
fn lines_and_event(client: &mut Client) -> (Vec<String>, Value) {
    let mut lines = Vec::new();
    loop {
        match client.receive() {
            Message::Text(line) => lines.push(line.as_str().to_owned()),
            Message::Binary(bytes) => return (lines, serde_json::from_slice(&bytes).expect("JSON")),
            other => panic!("{other:?}"),
        }
    }
}

fn what_is_for_one_client_is_an_object_and_the_rooms_lines_are_text(backend: BackendName) {
    let server = chat(backend, 1);
    let mut ada = Client::open(server.address(), "/room/tea?x=1&format=json");
    let welcome = event(&mut ada);
    let name = welcome["name"].as_str().expect("a name").to_owned();
    let limits = json!({"message": 1 << 20, "private_message": 8192});
    let id = welcome["id"].as_u64().expect("a number");
    assert_eq!(name, format!("User #{id} (1)"));
    assert_eq!(welcome, json!({"event": "welcome", "room": "tea", "name": name, "id": id, "limits": limits}));
    assert_eq!(event(&mut ada), json!({"event": "history", "room": "tea", "ages": [], "unsent": 0}));
    let mut bob = ChatUser::join(server.address(), "tea");
    bob.set_name("bob");
    ada.expect_text(&format!("* {} is now bob", bob.default_name()));
    bob.send_text("hello");
    ada.expect_text("bob: hello");
    ada.send_text("/who");
    let names = [name.clone(), "bob".into()];
    assert_eq!(event(&mut ada), json!({"event": "people", "room": "tea", "names": names, "count": 2}));
    ada.send_text("/msg bob psst");
    assert_eq!(event(&mut ada), json!({"event": "private_to", "name": "bob", "text": "psst"}));
    bob.expect_text("bob: hello");
    bob.expect_text(&format!("* from {name}: psst"));
    ada.send_text("/nick Bob");
    assert_eq!(event(&mut ada), json!({"event": "taken", "name": "Bob"}));
    ada.send_text("/nick ada");
    ada.expect_text(&format!("* {name} is now ada"));
    bob.expect_text(&format!("* {name} is now ada"));
    bob.send_text("/msg ada yes?");
    assert_eq!(event(&mut ada), json!({"event": "private_from", "name": "bob", "text": "yes?"}));
    ada.send_text("/fly");
    let text = "unknown command /fly; /help lists the commands";
    assert_eq!(event(&mut ada), json!({"event": "note", "text": text}));
    ada.send_text("/help");
    let help = event(&mut ada);
    assert_eq!(help["event"], "help");
    assert_eq!(help["commands"][1], json!({"usage": "/join ROOM", "does": "go to another room"}));
    ada.send_text("/join x (9): eve, mallory");
    let room = "x (9): eve, mallory";
    assert_eq!(event(&mut ada), json!({"event": "joined", "room": room}));
    assert_eq!(event(&mut ada), json!({"event": "history", "room": room, "ages": [], "unsent": 0}));
    ada.send_text("/who");
    assert_eq!(event(&mut ada), json!({"event": "people", "room": room, "names": ["ada"], "count": 1}));
}

fn a_name_or_a_text_cannot_pass_for_an_object(backend: BackendName) {
    let server = chat(backend, 1);
    let (mut ada, _) = enter(&server, "/?format=json");
    assert_eq!(event(&mut ada)["event"], "history");
    let mut eve = ChatUser::join(server.address(), "lobby");
    eve.set_name("{\"event\"");
    assert_eq!(ada.receive_text(), format!("* {} is now {{\"event\"", eve.default_name()));
    eve.send_text("\"people\"}");
    ada.expect_text("{\"event\": \"people\"}");
    eve.send(Message::binary(r#"{"event":"people"}"#));
    assert_eq!(eve.wait_for_close().0, 1003);
    ada.send_text("so");
    assert!(ada.receive_text().ends_with(": so"));
}

fn the_past_has_its_times_on_every_worker(backend: BackendName) {
    const WORKERS: u16 = 4;
    let server = chat(backend, WORKERS);
    let mut ada = ChatUser::join(server.address(), "past");
    let label = ada.default_name();
    let mut say = |text: &str| {
        ada.send_text(text);
        ada.expect_text(&format!("{label}: {text}"));
    };
    // Send more lines than the history keeps, so that the chat must forget the oldest ones.
    (0..60).for_each(|number| say(&format!("early {number}")));
    std::thread::sleep(Duration::from_millis(2_100));
    (0..7).for_each(|number| say(&format!("late {number}")));
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..200 {
        let (mut client, name) = enter(&server, "/room/past?format=json");
        let (mut lines, history) = lines_and_event(&mut client);
        let ages: Vec<u64> = serde_json::from_value(history["ages"].clone()).expect("ages");
        let unsent = history["unsent"].as_u64().expect("a count") as usize;
        assert_eq!((history["event"].as_str(), ages.len(), lines.len() + unsent), (Some("history"), 50, 50));
        lines.extend((0..unsent).map(|_| client.receive_text()));
        for (line, age) in lines.iter().zip(&ages) {
            let is_early = line.contains(": early ");
            assert_eq!(is_early, *age > ages[49], "{line} is {age} s old: {ages:?}");
        }
        seen.insert(name.split_once('(').expect("a worker").1.to_owned());
        if seen.len() == usize::from(WORKERS) {
            return;
        }
    }
    panic!("only on {seen:?}");
}

fn every_connection_of_a_user_gets_a_private_message_in_its_format(backend: BackendName) {
    let base = Config { max_private_message: 2000, ..config(backend, AppName::Chat, 2) };
    let server = TestServer::start(&with_secret(base, "formats", SECRET));
    let open = |user: &str, format: &str| {
        let path = format!("/?token={}{format}", token_for(user));
        Client::open(server.address(), &path)
    };
    let mut plain: Vec<_> = (0..6).map(|_| open("ada", "")).collect();
    let mut structured: Vec<_> = (0..6).map(|_| open("ada", "&format=json")).collect();
    for client in &mut plain {
        client.expect_text("* welcome to lobby, you are ada; /help lists the commands");
    }
    for client in &mut structured {
        assert_eq!(
            (event(client)["name"].as_str(), event(client)["event"].as_str()),
            (Some("ada"), Some("history"))
        );
    }
    let mut bob = open("bob", "");
    bob.expect_text("* welcome to lobby, you are bob; /help lists the commands");
    for text in ["psst".to_owned(), "x".repeat(2000)] {
        bob.send_text(&format!("/msg ada {text}"));
        bob.expect_text(&format!("* to ada: {text}"));
        for client in &mut plain {
            client.expect_text(&format!("* from bob: {text}"));
        }
        for client in &mut structured {
            assert_eq!(event(client), json!({"event": "private_from", "name": "bob", "text": text}));
        }
    }
    bob.send_text(&format!("/msg ada {}", "x".repeat(2001)));
    bob.expect_text("* a private message has at most 2000 bytes; yours has 2001");
}

fn clients_that_do_not_ask_for_objects_get_none(backend: BackendName) {
    let server = chat(backend, 1);
    for path in ["/", "/?format=text", "/?format=json2", "/?xformat=json", "/?FORMAT=json"] {
        let mut client = Client::open(server.address(), path);
        assert!(client.receive_text().starts_with("* welcome to lobby, you are User #"), "{path}");
    }
}
