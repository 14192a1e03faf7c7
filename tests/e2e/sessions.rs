//! Sessions: clients that return with `?session=ID` continue where they stopped.

use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Mutex;
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use serde_json::json;
use tungstenite::Message;
use uproar::app::{Answer, App, ClientId, Context, HttpRequest, Incoming, Opening, ResumedRoom, Upgrade};
use uproar::config::{AppName, BackendName, Config, LagPolicy};

use crate::support::chat_user::ChatUser;
use crate::support::client::Client;
use crate::support::metrics::Metrics;
use crate::support::process::{Process, backend_arg};
use crate::support::raw::{BINARY, PING, PONG, RawClient, TEXT, frame, upgrade_request};
use crate::support::token::{SECRET, now, token, token_for};
use crate::support::{TIMEOUT, TestServer, config, wait_until};
use crate::tokens::with_secret;

on_both_backends!(
    a_client_that_is_cut_again_and_again_misses_nothing,
    a_client_that_acknowledges_nothing_gets_everything_again,
    the_chat_gives_room_and_name_back,
    a_name_is_not_given_back_after_a_close_frame_or_to_two,
    structured_clients_learn_the_number_of_the_next_message,
    the_newest_connection_wins,
    a_relay_client_that_missed_messages_is_told_once,
    a_client_that_skips_is_told_what_it_missed,
    users_have_sessions_of_their_own,
    an_invalid_identifier_is_refused_and_none_is_logged,
    without_sessions_there_are_no_pings,
    answers_to_pings_cost_no_rate,
    an_application_keeps_bytes_with_a_session,
    sessions_are_counted,
);

const ID: &str = "0123456789abcdef";

/// Opens a client with the session [`ID`] in the lobby. Connects again until a client of an earlier connection is gone.
fn open(address: SocketAddr) -> Client {
    Client::open(address, &format!("/?session={ID}"))
}

fn relay(backend: BackendName, change: impl FnOnce(&mut Config)) -> TestServer {
    let mut config = config(backend, AppName::Relay, 3);
    change(&mut config);
    TestServer::start(&config)
}

/// Sends numbered messages and receives each one, so that all of them have a place in the room's order afterwards.
fn publish(publisher: &mut Client, numbers: Range<u32>) {
    for number in numbers {
        publisher.send_text(&number.to_string());
        publisher.expect_text(&number.to_string());
    }
}

fn number(client: &mut Client) -> u32 {
    client.receive_text().parse().expect("a number")
}

/// Receives consecutive numbers up to `last`. Returns the first one.
fn receive_up_to(client: &mut Client, last: u32) -> u32 {
    let first = number(client);
    for expected in first + 1..=last {
        assert_eq!(number(client), expected);
    }
    first
}

/// Cuts the client's connection with a TCP reset.
fn cut(client: Client) {
    let stream = client.socket.get_ref().try_clone().expect("a descriptor is left");
    drop(client);
    RawClient::from_stream(stream).abort();
}

fn a_client_that_is_cut_again_and_again_misses_nothing(backend: BackendName) {
    let server = relay(backend, |config| config.ack_interval = Duration::from_millis(1));
    let address = server.address();
    let mut publisher = Client::open(address, "/");
    let mut subscriber = open(address);
    // A message that both get, so that the subscriber is a member.
    publisher.send_text("0");
    publisher.expect_text("0");
    subscriber.expect_text("0");
    let (mut next, mut silent) = (1, Vec::new());
    for round in 0..30_u32 {
        let here = 1 + round * 10..6 + round * 10;
        publish(&mut publisher, here.clone());
        // Reads some of them.
        for _ in 0..round % 4 {
            assert_eq!(number(&mut subscriber), next);
            next += 1;
        }
        match round % 3 {
            0 => drop(subscriber),
            1 => cut(subscriber),
            // The server does not notice that this client is gone, and the new connection takes the session over.
            _ => silent.push(subscriber),
        }
        publish(&mut publisher, here.end..here.end + 5);
        subscriber = open(address);
        let first = number(&mut subscriber);
        assert!(first <= next, "round {round}: {first} comes after {next} is missed");
        for expected in first + 1..=next {
            assert_eq!(number(&mut subscriber), expected, "round {round}");
        }
        next += 1;
    }
    assert_eq!(receive_up_to(&mut subscriber, 300), next);
}

fn a_client_that_acknowledges_nothing_gets_everything_again(backend: BackendName) {
    let server = relay(backend, |_| {});
    let address = server.address();
    let mut publisher = Client::open(address, "/");
    publish(&mut publisher, 0..1);
    let mut raw = RawClient::open(address, &format!("/?session={ID}"));
    // A message of its own shows that the raw client is a member.
    raw.send(&frame(TEXT, b"1"));
    publisher.expect_text("1");
    publish(&mut publisher, 2..5);
    let mut heard = Vec::new();
    while heard.len() < 4 {
        let (first, payload) = raw.receive_frame();
        if first != PING {
            heard.push(payload);
        }
    }
    assert_eq!(heard, [b"1", b"2", b"3", b"4"]);
    drop(raw);
    publish(&mut publisher, 5..6);
    let mut again = open(address);
    assert_eq!(receive_up_to(&mut again, 5), 1);
}

/// Opens a chat client with the session [`ID`], and returns it with the chat's first line.
fn open_chat(address: SocketAddr, room: &str) -> (Client, String) {
    let mut client = Client::open(address, &format!("/room/{room}?session={ID}"));
    let welcome = client.receive_text();
    (client, welcome)
}

fn the_chat_gives_room_and_name_back(backend: BackendName) {
    let server = TestServer::start(&config(backend, AppName::Chat, 3));
    let address = server.address();
    let mut bob = ChatUser::join(address, "garden");
    let (mut ada, welcome) = open_chat(address, "lobby");
    assert!(welcome.starts_with("* welcome to lobby, you are User #"), "{welcome}");
    ada.send_text("/join garden");
    ada.expect_text("* you are in garden");
    ada.send_text("/nick ada");
    assert!(ada.receive_text().ends_with(" is now ada"));
    assert!(bob.receive_text().ends_with(" is now ada"));
    let mut silent = Vec::new();
    for round in 0..4 {
        if round % 2 == 0 {
            cut(ada)
        } else {
            silent.push(ada)
        }
        let said = format!("while you were away {round}");
        bob.send_text(&said);
        let line = format!("{}: {said}", bob.default_name());
        bob.expect_text(&line);
        let welcome;
        (ada, welcome) = open_chat(address, "lobby");
        assert_eq!(welcome, "* welcome to garden, you are ada; /help lists the commands");
        while ada.receive_text() != line {}
        ada.send_text(&format!("back {round}"));
        ada.expect_text(&format!("ada: back {round}"));
        bob.expect_text(&format!("ada: back {round}"));
        ada.send_text("/who");
        ada.expect_text(&format!("* in garden (2): {}, ada", bob.default_name()));
    }
}

/// Asks for the name `ada` until the name is free. The client's name is the one in its `welcome`.
fn claim(client: &mut Client, welcome: &str) {
    let (_, rest) = welcome.split_once("you are ").expect(welcome);
    let (own, _) = rest.split_once("; /help").expect(welcome);
    wait_until("the name is free", || {
        client.send_text("/nick ada");
        loop {
            match client.receive_text() {
                line if line == format!("* {own} is now ada") => return true,
                line if line == "* the name ada is taken" => return false,
                _ => {}
            }
        }
    });
}

fn a_name_is_not_given_back_after_a_close_frame_or_to_two(backend: BackendName) {
    let server = TestServer::start(&config(backend, AppName::Chat, 2));
    let address = server.address();
    let (mut ada, welcome) = open_chat(address, "lobby");
    claim(&mut ada, &welcome);
    ada.socket.close(None).expect("closing");
    while ada.socket.read().is_ok() {}
    let (mut ada, welcome) = open_chat(address, "lobby");
    assert!(welcome.starts_with("* welcome to lobby, you are User #"), "{welcome}");
    claim(&mut ada, &welcome);
    cut(ada);
    let mut other = Client::open(address, "/");
    let welcome = other.receive_text();
    claim(&mut other, &welcome);
    let (mut ada, welcome) = open_chat(address, "lobby");
    assert!(welcome.starts_with("* welcome to lobby, you are User #"), "{welcome}");
    while ada.receive_text() != "* the name ada is taken" {}
}

fn structured_clients_learn_the_number_of_the_next_message(backend: BackendName) {
    let server = TestServer::start(&config(backend, AppName::Chat, 2));
    let address = server.address();
    let mut bob = ChatUser::join(address, "garden");
    let name = bob.default_name();
    for text in ["one", "two"] {
        bob.send_text(text);
        bob.expect_text(&format!("{name}: {text}"));
    }
    let path = format!("/room/garden?format=json&session={ID}");
    let event = |client: &mut Client, name: &str| loop {
        if let Message::Binary(bytes) = client.receive() {
            let event: serde_json::Value = serde_json::from_slice(&bytes).expect("JSON");
            if event["event"] == name {
                return event;
            }
        }
    };
    let mut ada = Client::open(address, &path);
    let history = event(&mut ada, "history");
    let expected = 2 - history["unsent"].as_u64().expect("a number");
    assert_eq!(history["next"], json!(expected), "{history}");
    cut(ada);
    bob.send_text("three");
    bob.expect_text(&format!("{name}: three"));
    let mut ada = Client::open(address, &path);
    let resumed = event(&mut ada, "resumed");
    let next = resumed["next"].as_u64().expect("a number");
    assert!(next <= 2, "{resumed}");
    assert_eq!(resumed, json!({ "event": "resumed", "room": "garden", "next": next, "missed": 0 }));
    for text in ["one", "two", "three"].into_iter().skip(next as usize) {
        let line = format!("{name}: {text}");
        while ada.receive() != Message::text(line.clone()) {}
    }
}

fn the_newest_connection_wins(backend: BackendName) {
    let server = relay(backend, |_| {});
    let address = server.address();
    let mut publisher = Client::open(address, "/");
    let mut old = open(address);
    for round in 0..6 {
        let mut new = open(address);
        assert_eq!(old.wait_for_close(), (4002, "session resumed elsewhere".into()));
        publish(&mut publisher, round..round + 1);
        while number(&mut new) < round {}
        old = new;
    }
}

/// Opens a client that misses `count` messages for good, because a room keeps less than that.
fn miss(address: SocketAddr, publisher: &mut Client, count: u32) -> Client {
    publish(publisher, 0..1);
    let mut subscriber = open(address);
    subscriber.send_text("1");
    publisher.expect_text("1");
    subscriber.expect_text("1");
    cut(subscriber);
    for number in 2..2 + count {
        let text = format!("{number:0500}");
        publisher.send_text(&text);
        publisher.expect_text(&text);
    }
    open(address)
}

fn small(config: &mut Config) {
    config.lag_window = 20_000;
    config.history_bytes = 1_000;
    config.workers = Some(1);
}

fn a_relay_client_that_missed_messages_is_told_once(backend: BackendName) {
    let server = relay(backend, small);
    let address = server.address();
    let mut publisher = Client::open(address, "/");
    let mut late = miss(address, &mut publisher, 400);
    let (code, reason) = late.wait_for_close();
    let missed: u32 = reason.strip_prefix("missed ").and_then(|count| count.parse().ok()).expect(&reason);
    assert!(code == 4001 && (200..400).contains(&missed), "{code} {reason}");
    // The client has answered the close frame, so it continues behind the gap.
    let mut late = open(address);
    let first = receive_up_to(&mut late, 401);
    assert!((missed..=missed + 2).contains(&first), "{first} after {missed} were missed");
}

fn a_client_that_skips_is_told_what_it_missed(backend: BackendName) {
    let server = relay(backend, |config| {
        small(config);
        config.lag_policy = LagPolicy::Skip;
    });
    let address = server.address();
    let mut publisher = Client::open(address, "/");
    let mut late = miss(address, &mut publisher, 400);
    let notice = late.receive_text();
    let missed =
        notice.strip_prefix("* ").and_then(|rest| rest.strip_suffix(" messages missed")).expect(&notice);
    let missed: u32 = missed.parse().expect(&notice);
    let first = receive_up_to(&mut late, 401);
    assert!((missed..=missed + 2).contains(&first), "{first} after {missed} were missed");
}

fn users_have_sessions_of_their_own(backend: BackendName) {
    let config = with_secret(config(backend, AppName::Relay, 3), "sessions", SECRET);
    let server = TestServer::start(&config);
    let address = server.address();
    let open = |user: &str| Client::open(address, &format!("/?session={ID}&token={}", token_for(user)));
    let mut ada = open("ada");
    ada.send_text("0");
    ada.expect_text("0");
    let mut bob = open("bob");
    bob.send_text("1");
    bob.expect_text("1");
    ada.expect_text("1");
    drop(ada);
    bob.send_text("2");
    bob.expect_text("2");
    let mut ada = open("ada");
    while ada.receive_text() != "2" {}
    bob.send_text("3");
    bob.expect_text("3");
    ada.expect_text("3");
    // A new token of the same user continues the session.
    drop(bob);
    ada.send_text("4");
    ada.expect_text("4");
    let fresh = token(&json!({"exp": now() + 60, "sub": "bob"}));
    let mut bob = Client::open(address, &format!("/?session={ID}&token={fresh}"));
    while bob.receive_text() != "4" {}
}

fn an_invalid_identifier_is_refused_and_none_is_logged(backend: BackendName) {
    let server = Process::start(&["--log=trace", "--workers=2", "--app=chat", backend_arg(backend)]);
    let long = "x".repeat(65);
    for id in ["", "short", &long, "0123456789%20abcdef", "0123456789%C3%A4abcdef"] {
        let mut raw = RawClient::connect(server.address);
        raw.send(upgrade_request(&format!("/?session={id}")).as_bytes());
        let response = raw.receive_response();
        assert_eq!(response.status, 400, "{id}");
        assert!(response.body.contains("16 to 64 visible"), "{}", response.body);
    }
    for _ in 0..2 {
        let mut client = Client::open(server.address, &format!("/?session={ID}secret"));
        client.receive_text();
        client.socket.close(None).expect("closing");
        while client.socket.read().is_ok() {}
    }
    wait_until("the log has all ends", || server.log().matches("connection ended").count() == 7);
    assert!(!server.log().contains("secret"), "{}", server.log());
}

/// Sends a message through a raw client and returns the frames up to its return, and one more if it comes soon.
fn echoed(raw: &mut RawClient) -> Vec<u8> {
    raw.send(&frame(BINARY, b"x"));
    let mut firsts = Vec::new();
    loop {
        let (first, _) = raw.receive_frame();
        firsts.push(first);
        if first == BINARY {
            return firsts;
        }
    }
}

fn without_sessions_there_are_no_pings(backend: BackendName) {
    for (seconds, path) in [(120, "/"), (0, "/?session=0123456789abcdef")] {
        let server = relay(backend, |config| {
            config.session_seconds = Duration::from_secs(seconds);
            config.ack_interval = Duration::from_millis(1);
        });
        let mut raw = RawClient::open(server.address(), path);
        for _ in 0..20 {
            assert_eq!(echoed(&mut raw), [BINARY]);
        }
    }
    let server = relay(backend, |_| {});
    let mut raw = RawClient::open(server.address(), &format!("/?session={ID}"));
    assert_eq!(echoed(&mut raw), [BINARY]);
    let (first, payload) = raw.receive_frame();
    assert_eq!((first, payload.len()), (PING, 4));
    // The next ping comes only after the answer.
    assert_eq!(echoed(&mut raw), [BINARY]);
    raw.send(&frame(PONG, &payload));
    let (first, next) = raw.receive_frame();
    assert!(first == PING && next != payload, "{next:?}");
}

fn answers_to_pings_cost_no_rate(backend: BackendName) {
    let server = relay(backend, |config| {
        // A client may send 4 messages at once.
        config.message_rate = Some(1);
        config.ack_interval = Duration::from_millis(1);
    });
    let publisher = server.publisher();
    let mut raw = RawClient::open(server.address(), &format!("/?session={ID}"));
    assert_eq!(echoed(&mut raw), [BINARY]);
    for number in 0..35 {
        publisher
            .publish("lobby", uproar::app::Message::text(&number.to_string()))
            .expect("the queue has space");
        let payload = loop {
            match raw.receive_frame() {
                (PING, payload) => break payload,
                (TEXT, _) => {}
                other => panic!("{other:?}"),
            }
        };
        raw.send(&frame(PONG, &payload));
    }
    assert_eq!(server.totals().throttled, 0);
    for _ in 0..9 {
        raw.send(&frame(PONG, b"not asked for"));
    }
    wait_until("pongs that were not asked for count", || server.totals().throttled == 1);
}

/// A report of [`Keeper`] to the test: the kept bytes, whether the client said goodbye, and the rooms.
type Told = (Vec<u8>, bool, Vec<String>);

/// An application whose clients have a session if the path is `/with`, and that keeps each client's last message.
struct Keeper {
    told: Sender<Option<Told>>,
    resumed: Sender<(String, Option<u64>)>,
}

impl App for Keeper {
    fn on_request(&mut self, _: &mut Context<'_>, request: &HttpRequest<'_>) -> Answer {
        match request.path() {
            "/with" => Upgrade::to("").with_session(ID).into(),
            _ => Upgrade::to("").into(),
        }
    }

    fn on_open(&mut self, context: &mut Context<'_>, client: ClientId, opening: Opening<'_>) {
        let told = opening
            .resumption
            .map(|resumption| (resumption.state, resumption.said_goodbye, resumption.rooms));
        self.told.send(told).expect("the test listens");
        for room in ["a", "b", "c"] {
            context.join(client, room, 0);
        }
    }

    fn on_message(&mut self, context: &mut Context<'_>, client: ClientId, message: Incoming<'_>) {
        assert!(message.payload == b"none" || context.has_session(client));
        context.set_session_state(client, message.payload);
        context.send_to_client(client, message.into());
        context.publish_to_room("b", message.into());
    }

    fn on_resumed(&mut self, _: &mut Context<'_>, _: ClientId, resumed: ResumedRoom<'_>) {
        self.resumed.send((resumed.room.into(), resumed.missed)).expect("the test listens");
    }
}

fn an_application_keeps_bytes_with_a_session(backend: BackendName) {
    let (told_to, told) = channel();
    let (resumed_to, resumed) = channel();
    let senders = Mutex::new((told_to, resumed_to));
    let server = TestServer::start_app(&config(backend, AppName::Relay, 2), move |_| {
        let (told, resumed) = senders.lock().expect("no panic").clone();
        Box::new(Keeper { told, resumed })
    });
    let wait = || told.recv_timeout(TIMEOUT).expect("on_open");
    let mut without = Client::open(server.address(), "/without");
    assert_eq!(wait(), None);
    without.send_text("none");
    without.expect_text("none");
    without.expect_text("none");
    let mut client = Client::open(server.address(), "/with");
    assert_eq!(wait(), None, "a new session");
    for bytes in ["first", "kept"] {
        client.send_text(bytes);
        client.expect_text(bytes);
        client.expect_text(bytes);
        without.expect_text(bytes);
    }
    cut(client);
    let mut client = Client::open(server.address(), "/with");
    let rooms: Vec<String> = ["a", "b", "c"].map(String::from).into();
    assert_eq!(wait(), Some((b"kept".to_vec(), false, rooms.clone())));
    let mut again: Vec<_> = (0..3).map(|_| resumed.recv_timeout(TIMEOUT).expect("on_resumed")).collect();
    again.sort();
    assert_eq!(again, rooms.iter().map(|room| (room.clone(), Some(0))).collect::<Vec<_>>());
    client.socket.close(None).expect("closing");
    while client.socket.read().is_ok() {}
    let _last = Client::open(server.address(), "/with");
    assert_eq!(wait(), Some((b"kept".to_vec(), true, rooms)));
}

fn sessions_are_counted(backend: BackendName) {
    let mut config = config(backend, AppName::Relay, 2);
    config.admin = Some(SocketAddr::from(([127, 0, 0, 1], 0)));
    config.session_seconds = Duration::from_millis(200);
    let server = TestServer::start(&config);
    let admin = server.admin_address().expect("an admin listener");
    let count = |name: &str| Metrics::fetch(admin).sum(name, &[]);
    let mut publisher = Client::open(server.address(), "/");
    let mut client = open(server.address());
    client.send_text("0");
    client.expect_text("0");
    publisher.expect_text("0");
    assert_eq!(count("uproar_sessions"), 1.0);
    cut(client);
    wait_until("the session is detached", || count("uproar_sessions_detached_total") == 1.0);
    let client = open(server.address());
    wait_until("the session is resumed", || count("uproar_sessions_resumed_total") == 1.0);
    drop(client);
    wait_until("the session has expired", || count("uproar_sessions_expired_total") == 1.0);
    wait_until("the session is forgotten", || count("uproar_sessions") == 0.0);
    assert_eq!(count("uproar_missed_messages_total"), 0.0);
    assert!(count("uproar_replayed_messages_total") <= 1.0);
}
