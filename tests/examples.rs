//! Tests of the programs in `examples`, on both backends.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::json;
use tungstenite::stream::MaybeTlsStream;
use tungstenite::{Error, Message, WebSocket};
use uproar::config::BackendName;
use uproar::{Options, Server};

#[expect(dead_code, reason = "main is not called")]
#[path = "../examples/clock.rs"]
mod clock;
#[expect(dead_code, reason = "main is not called")]
#[path = "../examples/json.rs"]
mod json_board;
#[expect(dead_code, reason = "main is not called")]
#[path = "../examples/presence.rs"]
mod presence;
#[expect(dead_code, reason = "main is not called")]
#[path = "../examples/shout.rs"]
mod shout;
#[expect(dead_code, reason = "main is not called")]
#[path = "../examples/token.rs"]
mod token;
#[allow(dead_code, reason = "other tests use the rest")]
#[path = "e2e/support/token.rs"]
mod tokens;
#[expect(dead_code, reason = "main is not called")]
#[path = "../examples/user.rs"]
mod user;

type Client = WebSocket<MaybeTlsStream<TcpStream>>;

const BACKENDS: [BackendName; 2] = [BackendName::IoUring, BackendName::Epoll];

/// Returns options of a server on a free port, with one worker.
fn options(backend: BackendName) -> Options {
    Options {
        listen: vec!["127.0.0.1:0".parse().expect("an endpoint")],
        backend,
        workers: Some(1),
        drain_seconds: Duration::ZERO,
        ..Options::default()
    }
}

fn connect(server: &Server, path: &str) -> Result<Client, Error> {
    let address = server.endpoints()[0].tcp().expect("a TCP address");
    tungstenite::connect(format!("ws://{address}{path}")).map(|(client, _)| client)
}

fn read(client: &mut Client) -> Message {
    client.read().expect("a message")
}

fn end(mut server: Server) {
    server.stop();
    server.join();
}

#[test]
fn shout_sends_messages_in_capitals_to_all_clients_in_the_room() {
    for backend in BACKENDS {
        let server = shout::start(options(backend)).expect("it starts");
        let mut ada = connect(&server, "/room/garden").expect("a WebSocket");
        assert_eq!(read(&mut ada), Message::text("YOU ARE GUEST 1 OF THIS WORKER"));
        let mut bob = connect(&server, "/room/garden").expect("a WebSocket");
        assert_eq!(read(&mut bob), Message::text("YOU ARE GUEST 2 OF THIS WORKER"));
        ada.send(Message::text("hello")).expect("sent");
        for client in [&mut ada, &mut bob] {
            assert_eq!(read(client), Message::text("HELLO!"));
        }
        bob.send(Message::binary(vec![1, 2, 3])).expect("sent");
        let Message::Close(Some(close)) = read(&mut bob) else { panic!("binary messages are refused") };
        assert_eq!((u16::from(close.code), close.reason.as_str()), (1003, "text only"));
        ada.send(Message::text("bye")).expect("sent");
        let Message::Close(Some(close)) = read(&mut ada) else { panic!("bye ends the connection") };
        assert_eq!((u16::from(close.code), close.reason.as_str()), (1000, "BYE"));
        end(server);
    }
}

#[test]
fn token_greets_clients_with_a_valid_token_and_refuses_others() {
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), tokens::SECRET).expect("written");
    for backend in BACKENDS {
        let server = token::start(file.path(), options(backend)).expect("it starts");
        let path = |claims| format!("/room/garden?token={}", tokens::token(&claims));
        let expiry = tokens::now() + 3600;
        let mut ada = connect(&server, &path(json!({"exp": expiry, "sub": "ada"}))).expect("a WebSocket");
        assert_eq!(read(&mut ada), Message::text("hello, ada"));
        ada.send(Message::binary(vec![1, 2, 3])).expect("sent");
        assert_eq!(read(&mut ada), Message::binary(vec![1, 2, 3]));
        let mut unnamed = connect(&server, &path(json!({"exp": expiry}))).expect("a WebSocket");
        let Message::Close(Some(close)) = read(&mut unnamed) else {
            panic!("a token without sub is refused")
        };
        assert_eq!((u16::from(close.code), close.reason.as_str()), (1008, "the token has no sub"));
        for path in ["/room/garden".into(), path(json!({"exp": 1, "sub": "ada"}))] {
            let Err(Error::Http(response)) = connect(&server, &path) else { panic!("{path} is refused") };
            assert_eq!(response.status(), 401, "{path}");
        }
        end(server);
    }
}

fn say(client: &mut Client, text: &str) {
    client.send(Message::text(text)).expect("sent");
}

#[test]
fn presence_tells_members_who_comes_and_goes_on_all_workers() {
    for backend in BACKENDS {
        let server = presence::start(Options { workers: Some(3), ..options(backend) }).expect("it starts");
        let mut ada = connect(&server, "/room/ada").expect("a WebSocket");
        for room in ["garden", "attic"] {
            say(&mut ada, &format!("join {room}"));
            assert_eq!(read(&mut ada), Message::text(format!("{room}:")));
            assert_eq!(read(&mut ada), Message::text(format!("{room} +ada")));
        }
        let mut bob = connect(&server, "/room/bob").expect("a WebSocket");
        for room in ["attic", "garden"] {
            say(&mut bob, &format!("join {room}"));
            assert_eq!(read(&mut bob), Message::text(format!("{room}: ada")));
            for client in [&mut ada, &mut bob] {
                assert_eq!(read(client), Message::text(format!("{room} +bob")));
            }
        }
        say(&mut bob, "say garden hello");
        for client in [&mut ada, &mut bob] {
            assert_eq!(read(client), Message::text("garden bob: hello"));
        }
        say(&mut bob, "leave garden");
        assert_eq!(read(&mut ada), Message::text("garden -bob"));
        bob.close(None).expect("closed");
        assert_eq!(read(&mut ada), Message::text("attic -bob"));
        say(&mut ada, "dance");
        say(&mut ada, "join attic");
        assert_eq!(read(&mut ada), Message::text("join, leave or say?"));
        drop((ada, bob));
        end(server);
    }
}

#[test]
fn user_sends_a_message_to_all_connections_of_one_user() {
    for backend in BACKENDS {
        let server = user::start(Options { workers: Some(3), ..options(backend) }).expect("it starts");
        let mut ada = connect(&server, "/room/ada").expect("a WebSocket");
        let mut bobs: Vec<_> = (0..6).map(|_| connect(&server, "/room/bob").expect("a WebSocket")).collect();
        // A connection that hears itself is known to its home shard.
        for bob in &mut bobs {
            say(bob, "bob here");
            while read(bob) != Message::text("bob: here") {}
        }
        say(&mut ada, "nobody lost");
        say(&mut ada, "bob hello");
        for bob in &mut bobs {
            while read(bob) != Message::text("ada: hello") {}
        }
        say(&mut bobs[0], "ada hi");
        assert_eq!(read(&mut ada), Message::text("bob: hi"));
        drop((ada, bobs));
        end(server);
    }
}

#[test]
fn clock_publishes_into_a_silent_server_until_it_has_stopped() {
    for backend in BACKENDS {
        let interval = Duration::from_millis(20);
        let (server, clock) = clock::start(options(backend), interval).expect("it starts");
        let mut client = connect(&server, "/room/clock").expect("a WebSocket");
        let mut read_time = || read(&mut client).to_text().expect("text").parse::<u64>().expect("a number");
        let times: Vec<u64> = (0..5).map(|_| read_time()).collect();
        assert!(times.is_sorted() && tokens::now().abs_diff(times[4]) < 60, "{times:?}");
        drop(client);
        end(server);
        clock.join().expect("the clock ends after the server");
    }
}

/// Sends an HTTP request. Returns the status of the response and its body.
fn request(server: &Server, method: &str, path: &str, body: &str) -> (u16, String) {
    let mut stream =
        TcpStream::connect(server.endpoints()[0].tcp().expect("a TCP address")).expect("accepted");
    let fields = format!("Host: localhost\r\nConnection: close\r\nContent-Length: {}\r\n", body.len());
    write!(stream, "{method} {path} HTTP/1.1\r\n{fields}\r\n{body}").expect("the server reads");
    let mut response = String::new();
    stream.read_to_string(&mut response).expect("a response");
    let (head, body) = response.split_once("\r\n\r\n").expect("a head");
    (head[9..12].parse().expect("a status"), body.to_owned())
}

#[test]
fn json_adds_and_lists_notes_over_http_and_tells_websocket_clients() {
    for backend in BACKENDS {
        let server = json_board::start(Options { workers: Some(2), ..options(backend) }).expect("it starts");
        let mut client = connect(&server, "/notes").expect("a WebSocket");
        // A client that gets its own note is a member of the room.
        say(&mut client, r#"{"text": "one"}"#);
        let note = |id: u32, text: &str| json!({"id": id, "text": text});
        let read_json = |client: &mut Client| -> serde_json::Value {
            serde_json::from_str(read(client).to_text().expect("text")).expect("JSON")
        };
        assert_eq!(read_json(&mut client), note(0, "one"));
        let (status, body) = request(&server, "POST", "/notes", r#"{"text": "two"}"#);
        assert_eq!((status, serde_json::from_str(&body).ok()), (201, Some(note(1, "two"))));
        assert_eq!(read_json(&mut client), note(1, "two"));
        let (status, body) = request(&server, "GET", "/notes", "");
        assert_eq!(status, 200);
        assert_eq!(serde_json::from_str(&body).ok(), Some(json!([note(0, "one"), note(1, "two")])));
        assert_eq!(request(&server, "HEAD", "/notes", ""), (200, String::new()));
        for (method, path, body, status) in [
            ("POST", "/notes", "no JSON", 400),
            ("POST", "/notes", r#"{"text": 1}"#, 400),
            ("DELETE", "/notes", "", 404),
            ("GET", "/", "", 404),
        ] {
            assert_eq!(request(&server, method, path, body).0, status, "{method} {path} {body}");
        }
        say(&mut client, "no JSON");
        assert_eq!(read_json(&mut client), json!({"error": "no text, or busy"}));
        assert!(matches!(connect(&server, "/"), Err(Error::Http(response)) if response.status() == 404));
        drop(client);
        end(server);
    }
}
