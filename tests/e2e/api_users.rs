//! The HTTP API for backends: users, messages to them, their rooms, their end, and bans.

use std::borrow::Cow;

use serde_json::{Value, json};
use uproar::app::{App, ClientId, CloseCode, Context, Incoming, Message, Opening, Refusal};
use uproar::config::{AppName, BackendName, Config};

use crate::api::{ADMIN, Answer, BYTES, PUBLISH, READ, TEXT, call, publish, settings};
use crate::support::client::Client;
use crate::support::token::{SECRET, token_for};
use crate::support::{TestServer, wait_until};
use crate::tokens::with_secret;

on_both_backends!(
    a_user_shows_its_connections_and_their_rooms,
    a_user_is_disconnected_with_a_code_and_a_reason,
    a_banned_user_is_closed_and_kept_out_until_the_ban_is_lifted,
    bans_are_listed_in_pages,
    a_backend_moves_a_user_into_rooms_and_out_of_them,
    a_wrong_call_for_a_user_has_its_error,
    a_message_reaches_all_connections_of_a_user_unchanged,
    the_chat_tells_a_user_in_the_format_of_each_connection,
    an_application_changes_a_message_once_and_formats_it_for_each_connection,
    a_repeated_message_reaches_a_user_once,
    a_message_that_cannot_be_sent_to_a_user_has_its_error,
);

/// An application whose clients name their user in the query.
struct Named;

impl App for Named {
    fn on_open(&mut self, context: &mut Context<'_>, client: ClientId, opening: Opening<'_>) {
        let user = opening.query.unwrap_or_default();
        if let Err(error) = context.set_user(client, user) {
            return context.close(client, CloseCode(4_003), &error.to_string());
        }
        context.join(client, opening.room, 0);
        context.send_to_client(client, Message::text("open"));
    }

    fn on_message(&mut self, _: &mut Context<'_>, _: ClientId, _: Incoming<'_>) {}
}

fn start(backend: BackendName, workers: u16) -> TestServer {
    TestServer::start_app(&settings(backend, AppName::Relay, workers), |_| Box::new(Named))
}

/// Opens `count` connections of a user, each in a room of its own. The kernel spreads them over the workers.
fn open(server: &TestServer, user: &str, count: usize) -> Vec<Client> {
    let open = |number| {
        let mut client = Client::open(server.address(), &format!("/room/{user}{number}?{user}"));
        client.expect_text("open");
        client
    };
    let clients = (0..count).map(open).collect();
    wait_until("the user's home knows of all", || {
        succeed(server, "DELETE", &format!("/api/users/{user}/rooms/none")) == json!({ "count": count })
    });
    clients
}

fn ask(server: &TestServer, method: &str, path: &str) -> Answer {
    call(server.address(), method, path, ADMIN, &[], b"")
}

/// Makes a call that succeeds, and returns its answer.
fn succeed(server: &TestServer, method: &str, path: &str) -> Value {
    let answer = ask(server, method, path);
    assert_eq!(answer.status, 200, "{method} {path}: {answer:?}");
    answer.body
}

/// Returns the rooms of all connections of a user, sorted.
fn rooms(server: &TestServer, user: &str) -> Vec<String> {
    let answer = succeed(server, "GET", &format!("/api/users/{user}"));
    let listed = answer["connections"].as_array().expect("a list");
    let rooms = listed.iter().flat_map(|one| one["rooms"].as_array().expect("a list"));
    let mut rooms: Vec<String> = rooms.map(|room| room.as_str().expect("a name").into()).collect();
    rooms.sort_unstable();
    rooms
}

fn a_user_shows_its_connections_and_their_rooms(backend: BackendName) {
    for workers in [1, 2] {
        let server = start(backend, workers);
        let nobody = json!({"user": "ada lovelace", "count": 0, "connections": []});
        assert_eq!(succeed(&server, "GET", "/api/users/ada%20lovelace"), nobody);
        let ada = open(&server, "ada", 5);
        let _bob = open(&server, "bob", 2);
        let answer = call(server.address(), "GET", "/api/users/ada", READ, &[], b"").body;
        assert_eq!((&answer["user"], &answer["count"]), (&json!("ada"), &json!(5)));
        let listed = answer["connections"].as_array().expect("a list");
        let ids: Vec<_> = listed.iter().map(|one| one["id"].as_u64().expect("a number")).collect();
        assert!(ids.len() == 5 && ids.is_sorted_by(|one, next| one < next), "{ids:?}");
        assert!(listed.iter().all(|one| one["room_count"] == 1), "{listed:?}");
        assert_eq!(rooms(&server, "ada"), ["ada0", "ada1", "ada2", "ada3", "ada4"]);
        drop(ada);
        wait_until("the server notices the ends", || rooms(&server, "ada").is_empty());
        assert_eq!(rooms(&server, "bob"), ["bob0", "bob1"]);
    }
}

fn a_user_is_disconnected_with_a_code_and_a_reason(backend: BackendName) {
    for workers in [1, 2] {
        let server = start(backend, workers);
        let bob = open(&server, "bob", 1);
        let long = "x".repeat(123);
        for (query, code, reason) in [
            ("", 1_008, "disconnected"),
            ("?code=4001&reason=bye+ada", 4_001, "bye ada"),
            ("?reason=", 1_008, ""),
            (&format!("?code=1000&reason={long}"), 1_000, &long),
        ] {
            let ada = open(&server, "ada", 4);
            let answer = succeed(&server, "DELETE", &format!("/api/users/ada{query}"));
            assert_eq!(answer, json!({"count": 4}), "{query}");
            for mut client in ada {
                assert_eq!(client.wait_for_close(), (code, reason.to_owned()), "{query}");
            }
            wait_until("the server notices the ends", || {
                succeed(&server, "DELETE", "/api/users/ada") == json!({"count": 0})
            });
        }
        assert_eq!(succeed(&server, "GET", "/api/bans"), json!({"count": 0, "bans": [], "next": null}));
        assert_eq!(rooms(&server, "bob").len(), bob.len());
    }
}

fn a_banned_user_is_closed_and_kept_out_until_the_ban_is_lifted(backend: BackendName) {
    for workers in [1, 2] {
        let server = start(backend, workers);
        let ada = open(&server, "ada", 3);
        let answer = succeed(&server, "DELETE", "/api/users/ada?ban=600&code=4010");
        assert_eq!(answer, json!({"count": 3}));
        for mut client in ada {
            assert_eq!(client.wait_for_close(), (4_010, "banned".to_owned()));
        }
        let mut client = Client::open(server.address(), "/?ada");
        assert_eq!(client.wait_for_close().0, 4_003);
        // A user that is not connected can be banned, too.
        assert_eq!(succeed(&server, "DELETE", "/api/users/eve?ban=31536000"), json!({"count": 0}));
        let answer = succeed(&server, "GET", "/api/bans");
        let listed = answer["bans"].as_array().expect("a list");
        let users: Vec<_> = listed.iter().map(|ban| ban["user"].as_str().expect("a user")).collect();
        assert_eq!((users, &answer["count"]), (vec!["ada", "eve"], &json!(2)));
        let seconds = |index: usize| listed[index]["seconds"].as_u64().expect("a number");
        assert!((1..=600).contains(&seconds(0)) && (600..=31_536_000).contains(&seconds(1)), "{listed:?}");
        for is_lifted in [true, false] {
            let answer = succeed(&server, "DELETE", "/api/bans/ada");
            assert_eq!(answer, json!({ "lifted": is_lifted }));
        }
        open(&server, "ada", 1);
        let mut client = Client::open(server.address(), "/?eve");
        assert_eq!(client.wait_for_close().0, 4_003);
    }
}

fn bans_are_listed_in_pages(backend: BackendName) {
    let server = start(backend, 1);
    let users: Vec<String> = (0..25).map(|number| format!("user {number:02}")).collect();
    for (user, seconds) in users.iter().zip((100..125).rev()) {
        succeed(&server, "DELETE", &format!("/api/users/{}?ban={seconds}", user.replace(' ', "%20")));
    }
    for limit in [1, 7, 25, 1_000] {
        let (mut listed, mut after) = (Vec::new(), String::new());
        loop {
            let page = succeed(&server, "GET", &format!("/api/bans?limit={limit}&after={after}"));
            let bans = page["bans"].as_array().expect("a list");
            assert!(bans.len() <= limit && page["count"] == 25, "{page}");
            listed.extend(bans.iter().map(|ban| ban["user"].as_str().expect("a user").to_owned()));
            let Some(next) = page["next"].as_str() else { break };
            after = next.replace(' ', "+");
        }
        assert_eq!(listed, users, "in pages of {limit}");
    }
}

fn a_backend_moves_a_user_into_rooms_and_out_of_them(backend: BackendName) {
    for workers in [1, 2] {
        let server = start(backend, workers);
        assert_eq!(succeed(&server, "PUT", "/api/users/ada/rooms/garden"), json!({"count": 0}));
        let mut ada = open(&server, "ada", 4);
        let _bob = open(&server, "bob", 1);
        for _ in 0..2 {
            assert_eq!(succeed(&server, "PUT", "/api/users/ada/rooms/cafe%CC%81"), json!({"count": 4}));
            let expected = ["ada0", "ada1", "ada2", "ada3", "café", "café", "café", "café"];
            wait_until("all are members", || rooms(&server, "ada") == expected);
        }
        let say = |room: &str, text: &str| {
            let answer = publish(&server, &format!("/api/rooms/{room}/messages"), TEXT, text.as_bytes());
            assert_eq!(answer.status, 200, "{answer:?}");
        };
        say("caf%C3%A9", "hello");
        for client in &mut ada {
            client.expect_text("hello");
        }
        assert_eq!(succeed(&server, "DELETE", "/api/users/ada/rooms/caf%C3%A9"), json!({"count": 4}));
        wait_until("all have left", || rooms(&server, "ada") == ["ada0", "ada1", "ada2", "ada3"]);
        say("caf%C3%A9", "to nobody");
        say("ada0", "end");
        ada[0].expect_text("end");
    }
}

fn a_wrong_call_for_a_user_has_its_error(backend: BackendName) {
    let server = start(backend, 2);
    let _ada = open(&server, "ada", 1);
    let (long, too_long) = ("x".repeat(255), "x".repeat(256));
    assert_eq!(succeed(&server, "GET", &format!("/api/users/{long}"))["count"], 0);
    let too_long = &format!("/api/users/{too_long}");
    let reason = &format!("/api/users/ada?reason={}", "ü".repeat(62));
    for (method, path, key, status, code) in [
        ("GET", "/api/users/", ADMIN, 400, "user"),
        ("GET", too_long, ADMIN, 400, "user"),
        ("GET", "/api/users/%ff", ADMIN, 400, "user"),
        ("DELETE", "/api/users/%ff", ADMIN, 400, "user"),
        ("DELETE", "/api/bans/", ADMIN, 400, "user"),
        ("PUT", "/api/users/%ff/rooms/a", ADMIN, 400, "user"),
        ("PUT", "/api/users/ada/rooms/a%2Fb", ADMIN, 400, "room"),
        ("DELETE", "/api/users/ada/rooms/", ADMIN, 400, "room"),
        ("GET", "/api/users/ada?x=1", ADMIN, 400, "parameter"),
        ("DELETE", "/api/users/ada?x=1", ADMIN, 400, "parameter"),
        ("DELETE", "/api/users/ada?code=1005", ADMIN, 400, "parameter"),
        ("DELETE", "/api/users/ada?code=1015", ADMIN, 400, "parameter"),
        ("DELETE", "/api/users/ada?code=5000", ADMIN, 400, "parameter"),
        ("DELETE", "/api/users/ada?code=70000", ADMIN, 400, "parameter"),
        ("DELETE", "/api/users/ada?code=", ADMIN, 400, "parameter"),
        ("DELETE", reason, ADMIN, 400, "parameter"),
        ("DELETE", "/api/users/ada?ban=0", ADMIN, 400, "parameter"),
        ("DELETE", "/api/users/ada?ban=-1", ADMIN, 400, "parameter"),
        ("DELETE", "/api/users/ada?ban=31536001", ADMIN, 400, "parameter"),
        ("DELETE", "/api/users/ada?ban=600&code=1", ADMIN, 400, "parameter"),
        ("DELETE", "/api/users/ada?ban=600&x=1", ADMIN, 400, "parameter"),
        ("PUT", "/api/users/ada/rooms/a?x=1", ADMIN, 400, "parameter"),
        ("GET", "/api/bans?limit=0", ADMIN, 400, "parameter"),
        ("DELETE", "/api/bans/ada?x=1", ADMIN, 400, "parameter"),
        ("GET", "/api/users/ada", PUBLISH, 403, "scope"),
        ("DELETE", "/api/users/ada", PUBLISH, 403, "scope"),
        ("PUT", "/api/users/ada/rooms/a", PUBLISH, 403, "scope"),
        ("DELETE", "/api/users/ada/rooms/a", READ, 403, "scope"),
        ("GET", "/api/bans", READ, 403, "scope"),
        ("DELETE", "/api/bans/ada", PUBLISH, 403, "scope"),
        ("PUT", "/api/users/ada", ADMIN, 405, "method"),
        ("GET", "/api/users/ada/rooms/a", ADMIN, 405, "method"),
        ("GET", "/api/bans/ada", ADMIN, 405, "method"),
        ("GET", "/api/users", ADMIN, 404, "no_route"),
    ] {
        let answer = call(server.address(), method, path, key, &[], b"");
        assert_eq!((answer.status, answer.code()), (status, code), "{method} {path}");
    }
    // No wrong call has had an effect.
    assert_eq!(rooms(&server, "ada"), ["ada0"]);
    assert_eq!(succeed(&server, "GET", "/api/bans")["count"], 0);
}

fn a_message_reaches_all_connections_of_a_user_unchanged(backend: BackendName) {
    for workers in [1, 2] {
        let server = start(backend, workers);
        let path = "/api/users/ada%20l/messages";
        let unheard = publish(&server, path, TEXT, b"x");
        assert_eq!((unheard.status, unheard.body), (200, json!({"count": 0})));
        let mut ada = open(&server, "ada", 5);
        let mut bob = open(&server, "bob", 1);
        let path = "/api/users/ada/messages";
        for number in 0..30 {
            let text = format!("<b>grüße</b> {number} {}", "long ".repeat(number * 20));
            let answer = publish(&server, path, TEXT, text.as_bytes());
            assert_eq!((answer.status, answer.body), (200, json!({"count": 5})));
            for client in &mut ada {
                client.expect_text(&text);
            }
        }
        assert_eq!(publish(&server, path, BYTES, &[0, 255]).body, json!({"count": 5}));
        for client in &mut ada {
            assert_eq!(client.receive().into_data().to_vec(), [0, 255]);
        }
        publish(&server, "/api/users/bob/messages", TEXT, b"only bob");
        bob[0].expect_text("only bob");
    }
}

fn the_chat_tells_a_user_in_the_format_of_each_connection(backend: BackendName) {
    for workers in [1, 2] {
        let base = settings(backend, AppName::Chat, workers);
        let server = TestServer::start(&with_secret(base, &format!("told users {workers}"), SECRET));
        let open = |format: &str| {
            let path = format!("/room/garden?token={}{format}", token_for("ada"));
            let mut client = Client::open(server.address(), &path);
            client.receive();
            client
        };
        let mut plain: Vec<Client> = (0..4).map(|_| open("")).collect();
        let mut structured: Vec<Client> = (0..4).map(|_| open("&format=json")).collect();
        wait_until("the user's home knows of all", || {
            succeed(&server, "DELETE", "/api/users/ada/rooms/none") == json!({"count": 8})
        });
        let path = "/api/users/ada/messages";
        for (path, body, line, event) in [
            (path, "<b>your</b>\norder", "* your order", json!({"event": "note", "text": "your order"})),
            (
                &*format!("{path}?as=J%C3%BCrgen"),
                "hello",
                "* from Jürgen: hello",
                json!({"event": "private_from", "name": "Jürgen", "text": "hello"}),
            ),
        ] {
            let answer = publish(&server, path, TEXT, body.as_bytes());
            assert_eq!((answer.status, answer.body), (200, json!({"count": 8})));
            for client in &mut plain {
                client.expect_text(line);
            }
            for client in &mut structured {
                // The connection may get the ages of its room's history first.
                let notice = loop {
                    let notice: Value = serde_json::from_slice(&client.receive().into_data()).expect("JSON");
                    if notice["event"] != "history" {
                        break notice;
                    }
                };
                assert_eq!(notice, event);
            }
        }
        for (path, kind, body, status, code) in [
            (path, BYTES, &b"\x00"[..], 415, "media_type"),
            (path, TEXT, b"<b></b>", 400, "bad_message"),
            (path, TEXT, &[b'x'; 8_193], 413, "too_large"),
            ("/api/users/ada/messages?as=a+b", TEXT, b"x", 400, "bad_message"),
            ("/api/users/ada/messages?as=", TEXT, b"x", 400, "bad_message"),
        ] {
            let answer = publish(&server, path, kind, body);
            assert_eq!((answer.status, answer.code()), (status, code), "{path}: {answer:?}");
        }
        assert_eq!(publish(&server, path, TEXT, &[b'x'; 8_192]).status, 200);
        plain[0].expect_text(&format!("* {}", "x".repeat(8_192)));
    }
}

/// An application that marks the messages of backends, and numbers the connections that get one on each worker.
struct Numbering;

impl App for Numbering {
    fn on_open(&mut self, context: &mut Context<'_>, client: ClientId, opening: Opening<'_>) {
        Named.on_open(context, client, opening);
    }

    fn on_message(&mut self, _: &mut Context<'_>, _: ClientId, _: Incoming<'_>) {}

    fn on_api_message<'a>(
        &mut self,
        author: Option<&str>,
        message: Incoming<'a>,
    ) -> Result<Cow<'a, [u8]>, Refusal> {
        let text = message.text().expect("the test sends text");
        Ok(format!("{author:?} {text}").into_bytes().into())
    }

    fn on_api_delivery(
        &mut self,
        context: &mut Context<'_>,
        clients: &[ClientId],
        author: Option<&str>,
        message: Incoming<'_>,
    ) {
        let text = message.text().expect("the test sends text");
        for client in clients {
            let line = format!("{author:?} {text} {} of {}", client.number, clients.len());
            context.send_to_client(*client, Message::text(&line));
        }
    }
}

fn an_application_changes_a_message_once_and_formats_it_for_each_connection(backend: BackendName) {
    for workers in [1, 2] {
        let server =
            TestServer::start_app(&settings(backend, AppName::Relay, workers), |_| Box::new(Numbering));
        let mut ada = open(&server, "ada", 4);
        let answer = publish(&server, "/api/users/ada/messages?as=bob", TEXT, b"hi");
        assert_eq!((answer.status, answer.body), (200, json!({"count": 4})));
        let mut seen = Vec::new();
        for client in &mut ada {
            let line = client.receive_text();
            let rest = line.strip_prefix("Some(\"bob\") Some(\"bob\") hi ").expect(&line);
            seen.push(rest.split_once(" of ").expect(&line).0.to_owned());
        }
        let listed = succeed(&server, "GET", "/api/users/ada")["connections"].clone();
        let mut ids: Vec<_> =
            listed.as_array().expect("a list").iter().map(|one| one["id"].to_string()).collect();
        ids.sort_unstable();
        seen.sort_unstable();
        assert_eq!(seen, ids);
    }
}

fn a_repeated_message_reaches_a_user_once(backend: BackendName) {
    for workers in [1, 2] {
        let server = start(backend, workers);
        let mut ada = open(&server, "ada", 3);
        let send = |user: &str, key: &str, text: &str| {
            let (path, header) = (format!("/api/users/{user}/messages"), format!("Idempotency-Key: {key}"));
            call(server.address(), "POST", &path, PUBLISH, &[TEXT, &header], text.as_bytes())
        };
        for number in 0..10 {
            let (key, text) = (format!("order-{number}"), format!("text {number}"));
            for _ in 0..3 {
                assert_eq!(send("ada", &key, &text).body, json!({"count": 3}));
            }
            for (user, text) in [("ada", "another"), ("bob", &*text)] {
                let other = send(user, &key, text);
                assert_eq!((other.status, other.code()), (422, "idempotency_key_reused"));
            }
            for client in &mut ada {
                client.expect_text(&text);
            }
        }
    }
}

fn a_message_that_cannot_be_sent_to_a_user_has_its_error(backend: BackendName) {
    let base = Config { max_message: 1_000, ..settings(backend, AppName::Relay, 2) };
    let server = TestServer::start_app(&base, |_| Box::new(Named));
    let mut ada = open(&server, "ada", 1);
    let path = "/api/users/ada/messages";
    for (path, key, kind, body, status, code) in [
        (path, PUBLISH, TEXT, &b""[..], 400, "empty"),
        (path, PUBLISH, TEXT, b"\xff", 400, "utf8"),
        (path, PUBLISH, TEXT, &[b'x'; 1_001], 413, "too_large"),
        (path, PUBLISH, "Content-Type: text/html", b"x", 415, "media_type"),
        (path, PUBLISH, "Idempotency-Key: a b\r\nContent-Type: text/plain", b"x", 400, "idempotency_key"),
        ("/api/users/ada/messages?as=bob", PUBLISH, TEXT, b"x", 400, "bad_message"),
        ("/api/users/ada/messages?x=1", PUBLISH, TEXT, b"x", 400, "parameter"),
        ("/api/users/%ff/messages", PUBLISH, TEXT, b"x", 400, "user"),
        ("/api/users//messages", PUBLISH, TEXT, b"x", 400, "user"),
        (path, READ, TEXT, b"x", 403, "scope"),
    ] {
        let answer = call(server.address(), "POST", path, key, &[kind], body);
        assert_eq!((answer.status, answer.code()), (status, code), "{path} {kind}: {answer:?}");
    }
    let answer = ask(&server, "GET", path);
    assert_eq!((answer.status, answer.code()), (405, "method"));
    assert_eq!(publish(&server, path, TEXT, &[b'x'; 1_000]).body, json!({"count": 1}));
    ada[0].expect_text(&"x".repeat(1_000));
}
