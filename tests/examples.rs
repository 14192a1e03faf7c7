//! Tests of the programs in `examples`, on both backends.

use std::net::TcpStream;
use std::time::Duration;

use serde_json::json;
use tungstenite::stream::MaybeTlsStream;
use tungstenite::{Error, Message, WebSocket};
use uproar::config::BackendName;
use uproar::{Options, Server};

#[expect(dead_code, reason = "main is not called")]
#[path = "../examples/shout.rs"]
mod shout;
#[expect(dead_code, reason = "main is not called")]
#[path = "../examples/token.rs"]
mod token;
#[allow(dead_code, reason = "other tests use the rest")]
#[path = "e2e/support/token.rs"]
mod tokens;

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
