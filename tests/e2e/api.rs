//! The HTTP API for backends: keys, publishing, reading, errors and metrics.

use std::net::SocketAddr;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use uproar::app::{
    App, ClientId, Context, History, HttpRequest, Incoming, Kind, Message, Opening, Response, Status,
};
use uproar::config::{ApiKeys, AppName, BackendName, Config};

use crate::support::client::Client;
use crate::support::metrics::Metrics;
use crate::support::process::{
    Process, backend_arg, expect_start_failure, run_to_end, settings_file, uproar,
};
use crate::support::raw::RawClient;
use crate::support::{TIMEOUT, TestServer, config, wait_until};

on_both_backends!(
    a_wrong_key_route_method_or_scope_has_its_error,
    a_published_message_reaches_the_members_of_a_relay_unchanged,
    the_chat_shows_a_notice_or_a_line_of_a_user,
    a_message_that_cannot_be_published_has_its_error,
    one_call_publishes_to_many_rooms,
    a_repeated_call_publishes_once,
    the_rates_of_clients_do_not_apply_to_calls_with_a_key,
    an_application_may_change_and_refuse_messages,
    a_full_queue_has_its_error_and_is_tried_again,
    the_documented_calls_have_the_documented_answers,
    keys_are_reloaded_and_never_logged,
    without_keys_the_application_answers,
);

pub(crate) const READ: &str = "read-key-0123456789";
pub(crate) const PUBLISH: &str = "publish-key-0123456789";
pub(crate) const ADMIN: &str = "admin-key-0123456789";

/// A response of the API.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: Value,
}

impl Answer {
    /// Returns the code of the error, after a check that it has a message and a remedy.
    pub(crate) fn code(&self) -> &str {
        let error = &self.body["error"];
        for part in ["message", "remedy"] {
            assert!(error[part].as_str().is_some_and(|text| text.ends_with(['.', '}'])), "{self:?}");
        }
        error["code"].as_str().expect("a code")
    }
}

fn key_file(name: &str) -> String {
    settings_file(name, format!("# keys\nsite read {READ}\nphp publish {PUBLISH}\nops admin {ADMIN}\n"))
}

pub(crate) fn settings(backend: BackendName, app: AppName, workers: u16) -> Config {
    let path =
        key_file(&format!("api keys {backend:?} {app:?} {workers} {:?}", std::thread::current().name()));
    let keys = ApiKeys::read(path.as_ref()).expect("valid keys");
    let admin = Some(([127, 0, 0, 1], 0).into());
    Config { api_keys: Some(keys), admin, ..config(backend, app, workers) }
}

pub(crate) fn request(method: &str, path: &str, key: &str, headers: &[&str], body: &[u8]) -> Vec<u8> {
    let headers: String = headers.iter().map(|line| format!("{line}\r\n")).collect();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {key}\r\n\
         Content-Length: {}\r\n{headers}\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

pub(crate) fn receive(raw: &mut RawClient) -> Answer {
    let response = raw.receive_response();
    assert!(response.head.contains("\r\nContent-Type: application/json\r\n"), "{response:?}");
    let body = serde_json::from_str(&response.body).expect("JSON");
    Answer { status: response.status, head: response.head, body }
}

pub(crate) fn call(
    address: SocketAddr,
    method: &str,
    path: &str,
    key: &str,
    headers: &[&str],
    body: &[u8],
) -> Answer {
    let mut raw = RawClient::connect(address);
    raw.send(&request(method, path, key, headers, body));
    receive(&mut raw)
}

pub(crate) const TEXT: &str = "Content-Type: text/plain";
pub(crate) const BYTES: &str = "Content-Type: application/octet-stream";
pub(crate) const JSON: &str = "Content-Type: application/json";

pub(crate) fn publish(server: &TestServer, path: &str, kind: &str, body: &[u8]) -> Answer {
    call(server.address(), "POST", path, PUBLISH, &[kind], body)
}

/// Opens a WebSocket and waits until the client is a member of its room.
pub(crate) fn join(server: &TestServer, room: &str) -> Client {
    let mut client = Client::open(server.address(), &format!("/room/{room}"));
    client.send_text("here");
    client.expect_text("here");
    client
}

fn a_wrong_key_route_method_or_scope_has_its_error(backend: BackendName) {
    let server = TestServer::start(&settings(backend, AppName::Relay, 1));
    let path = "/api/rooms/a/messages";
    for (method, path, key, status, code, field) in [
        ("POST", path, "wrong-key-0123456789", 401, "unknown_key", "WWW-Authenticate: Bearer"),
        ("POST", path, "", 401, "no_key", "WWW-Authenticate: Bearer"),
        ("GET", "/api/", "wrong-key-0123456789", 401, "unknown_key", "WWW-Authenticate: Bearer"),
        ("GET", "/api/", ADMIN, 404, "no_route", ""),
        ("POST", "/api/rooms/a/b/messages", ADMIN, 404, "no_route", ""),
        ("POST", "/api/rooms/a/messages/", ADMIN, 404, "no_route", ""),
        ("DELETE", path, ADMIN, 405, "method", "Allow: "),
        ("GET", "/api/messages", ADMIN, 405, "method", "Allow: POST"),
        ("POST", path, READ, 403, "scope", ""),
        ("POST", "/api/messages", READ, 403, "scope", ""),
        ("POST", "/api/rooms/a/messages?bs=1", ADMIN, 400, "parameter", ""),
        ("POST", "/api/rooms/a/messages?as=a&as=b", ADMIN, 400, "parameter", ""),
        ("POST", "/api/rooms//messages", ADMIN, 400, "room", ""),
        ("POST", "/api/rooms/%ff/messages", ADMIN, 400, "room", ""),
        ("POST", "/api/rooms/a%2Fb/messages", ADMIN, 400, "room", ""),
    ] {
        let answer = call(server.address(), method, path, key, &[TEXT], b"x");
        assert_eq!((answer.status, answer.code()), (status, code), "{method} {path}");
        assert!(answer.head.contains(&format!("\r\n{field}")), "{}", answer.head);
    }
    for headers in
        ["", "Authorization: Basic YTpi\r\n", &format!("Authorization: Bearer {ADMIN}\r\n").repeat(2)]
    {
        let mut raw = RawClient::connect(server.address());
        raw.send(format!("POST {path} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n").as_bytes());
        let answer = receive(&mut raw);
        assert_eq!((answer.status, answer.code()), (401, "no_key"));
    }
    let metrics = Metrics::fetch(server.admin_address().expect("it has one"));
    let count = |labels: &[(&str, &str)]| metrics.sum("uproar_api_requests_total", labels);
    assert_eq!(count(&[("route", "/api/rooms/ROOM/messages"), ("key", "site"), ("status", "403")]), 1.0);
    assert_eq!(count(&[("route", "/api/rooms/ROOM/messages"), ("key", "none"), ("status", "401")]), 5.0);
    assert_eq!(count(&[("route", "none"), ("key", "ops"), ("status", "404")]), 3.0);
    assert_eq!(server.totals().ordered, 0);
}

fn a_published_message_reaches_the_members_of_a_relay_unchanged(backend: BackendName) {
    for workers in [1, 2] {
        let server = TestServer::start(&settings(backend, AppName::Relay, workers));
        let unheard = publish(&server, "/api/rooms/garden/messages", TEXT, b"x");
        assert_eq!((unheard.status, unheard.body), (200, json!({"number": null, "epoch": null})));
        let mut members = [join(&server, "garden"), join(&server, "caf%C3%A9"), join(&server, "a%20b")];
        let first = publish(&server, "/api/rooms/garden/messages", TEXT, "<b>grüße</b>\n".as_bytes());
        let utf8 = "Content-Type: Text/Plain; charset=UTF-8";
        let second = publish(&server, "/api/rooms/garden/messages", utf8, b"two");
        let third = publish(&server, "/api/rooms/garden/messages", BYTES, &[0, 255]);
        for (answer, number) in [(&first, 1), (&second, 2), (&third, 3)] {
            assert_eq!((answer.status, &answer.body["number"]), (200, &json!(number)), "{answer:?}");
            assert!(answer.body["epoch"].as_str().is_some_and(|epoch| epoch.parse::<u64>().is_ok()));
            assert_eq!(answer.body["epoch"], first.body["epoch"]);
        }
        members[0].expect_text("<b>grüße</b>\n");
        members[0].expect_text("two");
        assert_eq!(members[0].receive().into_data().to_vec(), [0, 255]);
        // The decomposed form names the same room.
        assert_eq!(publish(&server, "/api/rooms/cafe%CC%81/messages", TEXT, b"one room").status, 200);
        members[1].expect_text("one room");
        assert_eq!(publish(&server, "/api/rooms/a%20b/messages", TEXT, b"a space").status, 200);
        members[2].expect_text("a space");
    }
}

fn the_chat_shows_a_notice_or_a_line_of_a_user(backend: BackendName) {
    let server = TestServer::start(&settings(backend, AppName::Chat, 2));
    let mut member = Client::open(server.address(), "/room/garden");
    member.receive_text();
    member.send_text("here");
    member.receive_text();
    let path = "/api/rooms/garden/messages";
    publish(&server, path, TEXT, b"the shop <b>opens</b>\nat 9");
    member.expect_text("* the shop opens at 9");
    publish(&server, &format!("{path}?as=J%C3%BCrgen"), TEXT, b"hello\r\nops: hi");
    member.expect_text("Jürgen: hello  ops: hi");
    // A command is text, since a backend has none.
    publish(&server, path, TEXT, b"/who");
    member.expect_text("* /who");
    for (path, kind, body, status, code) in [
        (path, BYTES, &b"\x00"[..], 415, "media_type"),
        (path, TEXT, b"<b></b>", 400, "bad_message"),
        ("/api/rooms/garden/messages?as=a+b", TEXT, b"x", 400, "bad_message"),
        ("/api/rooms/garden/messages?as=*", TEXT, b"x", 400, "bad_message"),
        ("/api/rooms/garden/messages?as=", TEXT, b"x", 400, "bad_message"),
    ] {
        let answer = publish(&server, path, kind, body);
        assert_eq!((answer.status, answer.code()), (status, code), "{path}: {answer:?}");
    }
    let many = br#"{"rooms": ["garden"], "text": "to all", "as": "ada"}"#;
    assert_eq!(publish(&server, "/api/messages", JSON, many).status, 200);
    member.expect_text("ada: to all");
}

fn a_message_that_cannot_be_published_has_its_error(backend: BackendName) {
    let base = Config { max_message: 1_000, ..settings(backend, AppName::Relay, 1) };
    let server = TestServer::start(&base);
    let path = "/api/rooms/a/messages";
    for (path, kind, body, status, code) in [
        (path, TEXT, &b""[..], 400, "empty"),
        (path, TEXT, b"\xff", 400, "utf8"),
        (path, "Content-Type: text/html", b"x", 415, "media_type"),
        (path, "Content-Type: text/plain; charset=latin1", b"x", 415, "media_type"),
        (path, "X-Nothing: 1", b"x", 415, "media_type"),
        (path, TEXT, &[b'x'; 1_001], 413, "too_large"),
        ("/api/rooms/a/messages?as=ada", TEXT, b"x", 400, "bad_message"),
        ("/api/messages", TEXT, b"x", 415, "media_type"),
        ("/api/messages", JSON, b"x", 400, "json"),
        ("/api/messages", JSON, br#"{"rooms": ["a"]}"#, 400, "json"),
        ("/api/messages", JSON, br#"{"rooms": ["a"], "text": "x", "binary": "eA=="}"#, 400, "json"),
        ("/api/messages", JSON, br#"{"rooms": ["a"], "text": "x", "to": "b"}"#, 400, "json"),
        ("/api/messages", JSON, br#"{"rooms": [], "text": "x"}"#, 400, "rooms"),
        ("/api/messages", JSON, br#"{"rooms": ["a", "a"], "text": "x"}"#, 400, "rooms"),
        ("/api/messages", JSON, br#"{"rooms": ["/"], "text": "x"}"#, 400, "room"),
        ("/api/messages", JSON, br#"{"rooms": ["a"], "text": ""}"#, 400, "empty"),
        ("/api/messages", JSON, br#"{"rooms": ["a"], "binary": "?"}"#, 400, "base64"),
    ] {
        let answer = publish(&server, path, kind, body);
        assert_eq!((answer.status, answer.code()), (status, code), "{path} {body:?}: {answer:?}");
    }
    for header in
        ["Idempotency-Key: ", "Idempotency-Key: a b", &format!("Idempotency-Key: {}", "x".repeat(256))]
    {
        let answer = call(server.address(), "POST", path, ADMIN, &[TEXT, header], b"x");
        assert_eq!((answer.status, answer.code()), (400, "idempotency_key"), "{header}");
    }
    assert_eq!(server.totals().ordered, 0);
    assert_eq!(publish(&server, path, TEXT, &[b'x'; 1_000]).status, 200);
}

fn one_call_publishes_to_many_rooms(backend: BackendName) {
    let server = TestServer::start(&settings(backend, AppName::Relay, 2));
    let mut rooms: Vec<_> = (0..100).map(|number| format!("room{number}")).collect();
    let mut members: Vec<Client> = rooms[..5].iter().map(|room| join(&server, room)).collect();
    let body = json!({"rooms": rooms, "text": "to all"}).to_string();
    let answer = publish(&server, "/api/messages", JSON, body.as_bytes());
    let results = answer.body["results"].as_array().expect("a list");
    let named: Vec<_> = results.iter().map(|result| result["room"].as_str().expect("a name")).collect();
    assert_eq!(named, rooms);
    assert_eq!((&results[0]["number"], &results[5]["number"]), (&json!(1), &Value::Null));
    let body = json!({"rooms": ["room0"], "binary": "AP8="}).to_string();
    assert_eq!(publish(&server, "/api/messages", JSON, body.as_bytes()).status, 200);
    for member in &mut members {
        member.expect_text("to all");
    }
    assert_eq!(members[0].receive().into_data().to_vec(), [0, 255]);
    rooms.push("one more".into());
    let body = json!({"rooms": rooms, "text": "x"}).to_string();
    assert_eq!(publish(&server, "/api/messages", JSON, body.as_bytes()).code(), "rooms");
}

fn a_repeated_call_publishes_once(backend: BackendName) {
    for workers in [1, 2] {
        let server = TestServer::start(&settings(backend, AppName::Relay, workers));
        let mut member = join(&server, "a");
        let path = "/api/rooms/a/messages";
        for number in 1..=20 {
            let key = format!("Idempotency-Key: order-{number}");
            let again = |key_of_api: &str, path: &str, body: &[u8]| {
                call(server.address(), "POST", path, key_of_api, &[TEXT, &key], body)
            };
            // Both requests are on their way before the first answer comes.
            let mut raws = [(); 2].map(|()| RawClient::connect(server.address()));
            for raw in &mut raws {
                raw.send(&request("POST", path, PUBLISH, &[TEXT, &key], format!("text {number}").as_bytes()));
            }
            let [first, second] = raws.each_mut().map(receive);
            assert_eq!((first.status, &first.body), (200, &second.body));
            let third = again(PUBLISH, path, format!("text {number}").as_bytes());
            assert_eq!((third.status, third.body), (200, first.body));
            member.expect_text(&format!("text {number}"));
            for (path, body) in [(path, "another"), ("/api/rooms/b/messages", &format!("text {number}"))] {
                let other = again(PUBLISH, path, body.as_bytes());
                assert_eq!((other.status, other.code()), (422, "idempotency_key_reused"));
            }
            // Another key of the API has its own space of names.
            assert_eq!(again(ADMIN, path, b"of ops").status, 200);
            member.expect_text("of ops");
        }
        let body = json!({"rooms": ["a", "b"], "text": "both"}).to_string();
        let [first, second] = [(); 2].map(|()| {
            call(
                server.address(),
                "POST",
                "/api/messages",
                PUBLISH,
                &[JSON, "Idempotency-Key: x"],
                body.as_bytes(),
            )
        });
        assert_eq!((first.status, &first.body), (200, &second.body));
        member.expect_text("both");
        publish(&server, path, TEXT, b"end");
        member.expect_text("end");
    }
}

/// An application that marks the messages of backends, and refuses one.
pub(crate) struct Marking;

impl App for Marking {
    fn history_of(&mut self, _: &str) -> Option<History> {
        Some(History { messages: 5, kept_for: std::time::Duration::from_secs(60) })
    }

    fn on_open(&mut self, context: &mut Context<'_>, client: ClientId, opening: Opening<'_>) {
        context.join(client, opening.room, 5);
        context.send_to_client(client, Message::text("joined"));
    }

    fn on_message(&mut self, _: &mut Context<'_>, _: ClientId, _: Incoming<'_>) {}

    fn on_publish(&mut self, _: &str, _: Option<ClientId>, _: Kind, payload: &[u8]) -> bool {
        !payload.ends_with(b"bad")
    }

    fn on_api_message<'a>(
        &mut self,
        author: Option<&str>,
        message: Incoming<'a>,
    ) -> Result<std::borrow::Cow<'a, [u8]>, uproar::app::Refusal> {
        Ok([author.unwrap_or("nobody").as_bytes(), b"|", message.payload].concat().into())
    }
}

fn the_rates_of_clients_do_not_apply_to_calls_with_a_key(backend: BackendName) {
    // At the chat's 20 messages a second this is far more than its burst.
    const CALLS: usize = 300;
    let server = TestServer::start(&settings(backend, AppName::Chat, 2));
    let pipeline = |key: &str| {
        let mut raw = RawClient::connect(server.address());
        raw.send(&request("POST", "/api/rooms/garden/messages", key, &[TEXT], b"x").repeat(CALLS));
        raw
    };
    let mut raw = pipeline(PUBLISH);
    for number in 0..CALLS {
        let answer = receive(&mut raw);
        assert_eq!((answer.status, answer.body["number"].as_u64()), (200, Some(number as u64)));
    }
    assert_eq!(server.totals().throttled, 0);
    let _raw = pipeline("wrong-key-0123456789");
    wait_until("calls with a wrong key are paused", || server.totals().throttled > 0);
}

fn an_application_may_change_and_refuse_messages(backend: BackendName) {
    let server = TestServer::start_app(&settings(backend, AppName::Relay, 2), |_| Box::new(Marking));
    // Without members, the history keeps the message.
    let answer = publish(&server, "/api/rooms/a/messages?as=ada", TEXT, b"good");
    assert_eq!((answer.status, &answer.body["number"]), (200, &json!(0)));
    let answer = publish(&server, "/api/rooms/a/messages", TEXT, b"bad");
    assert_eq!((answer.status, answer.code()), (403, "refused"));
    let body = json!({"rooms": ["a", "b"], "text": "bad"}).to_string();
    let answer = publish(&server, "/api/messages", JSON, body.as_bytes());
    assert_eq!(answer.body["results"][1]["error"]["code"], "refused");
    let mut member = Client::open(server.address(), "/room/a");
    member.expect_text("joined");
    member.expect_text("ada|good");
}

/// An application whose shard stands still while a message to the room `still` waits for the gate.
struct Gated {
    gate: Arc<Mutex<()>>,
    /// Tells the test that the shard stands still.
    still: Sender<()>,
}

impl App for Gated {
    fn on_request(&mut self, context: &mut Context<'_>, _: &HttpRequest<'_>) -> uproar::app::Answer {
        Response::json(Status::Ok, context.shard().to_string()).into()
    }

    fn on_open(&mut self, _: &mut Context<'_>, _: ClientId, _: Opening<'_>) {}

    fn on_message(&mut self, _: &mut Context<'_>, _: ClientId, _: Incoming<'_>) {}

    fn on_publish(&mut self, room: &str, _: Option<ClientId>, _: Kind, _: &[u8]) -> bool {
        if room.starts_with("still") {
            self.still.send(()).expect("the test lives");
            drop(self.gate.lock());
        }
        true
    }
}

fn a_full_queue_has_its_error_and_is_tried_again(backend: BackendName) {
    let gate = Arc::new(Mutex::new(()));
    let app_gate = Arc::clone(&gate);
    let (sender, stands_still) = channel();
    let make =
        move |_| -> Box<dyn App> { Box::new(Gated { gate: Arc::clone(&app_gate), still: sender.clone() }) };
    let server = TestServer::start_app(&settings(backend, AppName::Relay, 2), make);
    let publisher = server.publisher();
    let mut raw = RawClient::connect(server.address());
    raw.send(&request("GET", "/shard", "", &[], b""));
    let shard = receive(&mut raw).body.as_u64().expect("a shard") as u16;
    let room_at = |home: u16, start: &str| {
        let names = (0..).map(|number| format!("{start}{number}"));
        names.into_iter().find(|name| publisher.home_of(name) == home).expect("there are many names")
    };
    let (still, busy, free) =
        (room_at(1 - shard, "still"), room_at(1 - shard, "busy"), room_at(shard, "free"));
    let path = format!("/api/rooms/{busy}/messages");
    let closed = gate.lock().expect("no test panics here");
    publisher.publish(&still, Message::text("x")).expect("an empty queue");
    stands_still.recv_timeout(TIMEOUT).expect("the shard gets the message");
    while publisher.publish(&busy, Message::new(Kind::Binary, &[0; 64 << 10])).is_ok() {}
    while publisher.publish(&busy, Message::text("x")).is_ok() {}
    raw.send(&request("POST", &path, ADMIN, &[TEXT], b"x"));
    let answer = receive(&mut raw);
    assert_eq!((answer.status, answer.code()), (429, "busy"));
    assert!(answer.head.contains("\r\nRetry-After: 1\r\n"), "{}", answer.head);
    for (method, rest) in [("POST", "/messages"), ("PUT", "/rooms/a"), ("DELETE", "?ban=600")] {
        raw.send(&request(method, &format!("/api/users/{busy}{rest}"), ADMIN, &[TEXT], b"x"));
        let answer = receive(&mut raw);
        assert_eq!((answer.status, answer.code()), (429, "busy"), "{method}");
    }
    // The ban holds, although the user's connections could not be closed.
    assert!(publisher.is_banned(&busy));
    let body = json!({"rooms": [busy, free], "text": "x"}).to_string();
    raw.send(&request("POST", "/api/messages", ADMIN, &[JSON], body.as_bytes()));
    let results = receive(&mut raw).body["results"].clone();
    assert_eq!((&results[0]["error"]["code"], &results[1]["number"]), (&json!("busy"), &Value::Null));
    assert!(results[1].get("error").is_none(), "{results}");
    // The answer 429 is not kept for the next call with the key. The key's home is the shard that runs.
    let key = (0..).map(|number| format!("key{number}"));
    let key =
        key.into_iter().find(|key| publisher.home_of(&format!("ops {key}")) == shard).expect("many keys");
    let header = format!("Idempotency-Key: {key}");
    let again = request("POST", &path, ADMIN, &[TEXT, &header], b"x");
    raw.send(&again);
    assert_eq!(receive(&mut raw).status, 429);
    drop(closed);
    wait_until("the queue has space", || {
        raw.send(&again);
        receive(&mut raw).status == 200
    });
}

/// Checks that two JSON texts have the same members, and entries of the same types.
fn expect_same_shape(documented: &Value, answer: &Value, at: &str) {
    match (documented, answer) {
        (Value::Object(documented), Value::Object(answer)) => {
            let names = |object: &serde_json::Map<String, Value>| object.keys().cloned().collect::<Vec<_>>();
            assert_eq!(names(documented), names(answer), "{at}");
            for (name, value) in documented {
                expect_same_shape(value, &answer[name], &format!("{at}.{name}"));
            }
        }
        (Value::Array(documented), Value::Array(answer)) => {
            assert!(!answer.is_empty(), "{at}");
            expect_same_shape(&documented[0], &answer[0], at);
        }
        (Value::Null, _) | (_, Value::Null) => {}
        _ => assert_eq!(std::mem::discriminant(documented), std::mem::discriminant(answer), "{at}"),
    }
}

/// Runs each `curl` of docs/api.md with the shell, and compares the answers with those on the page.
fn the_documented_calls_have_the_documented_answers(backend: BackendName) {
    let page =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/api.md")).expect("the page");
    let server = TestServer::start(&settings(backend, AppName::Chat, 2));
    let mut members: Vec<_> = (0..3).map(|_| Client::open(server.address(), "/room/garden")).collect();
    for member in &mut members {
        member.receive_text();
        member.send_text("hello");
        while !member.receive_text().ends_with(": hello") {}
    }
    members[0].send_text("/nick ada");
    while !members[0].receive_text().ends_with(" is now ada") {}
    let mut calls = 0;
    for part in page.split("```sh\ncurl").skip(1) {
        let (command, rest) = part.split_once("```").expect("the end of the block");
        let script = format!("curl -s{command}").replace("after=116", "after=0");
        let output = std::process::Command::new("sh")
            .args(["-c", &script])
            .env("API", format!("http://{}/api", server.address()))
            .env("KEY", ADMIN)
            .env("NO_PROXY", "*")
            .output()
            .expect("a shell with curl");
        let text = String::from_utf8(output.stdout).expect("UTF-8");
        let answer: Value = serde_json::from_str(&text).expect(&script);
        assert!(answer.get("error").is_none(), "{script}: {text}");
        if let Some((documented, _)) =
            rest.trim_start().strip_prefix("```json\n").and_then(|json| json.split_once("```"))
        {
            expect_same_shape(&serde_json::from_str(documented).expect("JSON on the page"), &answer, command);
        }
        calls += 1;
    }
    assert!(calls >= 13, "{calls} calls are on the page");
}

fn keys_are_reloaded_and_never_logged(backend: BackendName) {
    let name = format!("reloaded keys {backend:?}");
    let path = key_file(&name);
    let flag = format!("--api-keys={path}");
    let server = Process::start(&["--app=relay", "--log=trace", &flag, backend_arg(backend)]);
    let status = |key: &str| call(server.address, "POST", "/api/rooms/a/messages", key, &[TEXT], b"x").status;
    let other = "other-key-0123456789";
    assert_eq!([PUBLISH, READ, other].map(status), [200, 403, 401]);
    settings_file(&name, format!("php publish {PUBLISH}\nphp read {other}"));
    server.signal(Signal::SIGHUP);
    let said = format!("'{path}' for '--api-keys <FILE>': line 2: the name php is on an earlier line");
    wait_until("the log says what is wrong", || server.log().contains(&said));
    assert_eq!([PUBLISH, READ, other].map(status), [200, 403, 401]);
    settings_file(&name, format!("new publish {other}"));
    server.signal(Signal::SIGHUP);
    wait_until("the keys are reloaded", || server.log().contains("api-keys: new keys in"));
    assert_eq!([PUBLISH, READ, other].map(status), [401, 401, 200]);
    server.signal(Signal::SIGTERM);
    let log = server.wait().log;
    for key in [READ, PUBLISH, ADMIN, other] {
        assert!(!log.contains(key), "{key}: {log}");
    }
    for part in ["an API call was answered", "an API call was refused", "site", "scope"] {
        assert!(log.contains(part), "{part}: {log}");
    }
}

fn without_keys_the_application_answers(backend: BackendName) {
    let server = TestServer::start(&config(backend, AppName::Relay, 1));
    let mut raw = RawClient::connect(server.address());
    raw.send(&request("POST", "/api/rooms/a/messages", ADMIN, &[TEXT], b"x"));
    let response = raw.receive_response();
    assert_eq!((response.status, response.body.contains("Nothing is here")), (404, true), "{response:?}");
}

#[test]
fn a_wrong_file_of_keys_prevents_the_start_and_check_shows_no_key() {
    let wrong = settings_file("wrong api keys", format!("php publish {PUBLISH}\nops everything {ADMIN}\n"));
    let empty = settings_file("no api keys", "# nothing\n");
    for (path, why) in [
        (&*wrong, "line 2: the scopes of ops have to be read, publish or admin"),
        (&*empty, "there is no key; add a line NAME SCOPES KEY"),
        ("/nowhere/keys", "no such file; check the path"),
    ] {
        for command in ["check", "serve"] {
            expect_start_failure(&mut uproar(&[command, "--api-keys", path]), &["--api-keys", path, why]);
        }
    }
    let path = key_file("checked api keys");
    let printed = run_to_end(&mut uproar(&["check", "--api-keys", &path]));
    let text = String::from_utf8([printed.stdout, printed.stderr].concat()).expect("text");
    assert!(text.contains(&format!("api-keys = \"{path}\"")), "{text}");
    assert!(!text.contains(ADMIN), "{text}");
}
