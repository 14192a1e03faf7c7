//! Webhooks: events, their order and signature, and endpoints that fail.

use std::collections::HashMap;
use std::net::SocketAddr;

use hmac::{Hmac, KeyInit, Mac};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use sha2::Sha256;
use uproar::config::{AppName, BackendName, CaFile, Config, Secret};

use crate::support::chat_user::ChatUser;
use crate::support::client::Client;
use crate::support::metrics::Metrics;
use crate::support::process::{
    Process, backend_arg, expect_start_failure, run_to_end, settings_file, uproar,
};
use crate::support::receiver::{Received, Receiver, Reply};
use crate::support::tls::{Identity, arg};
use crate::support::token::{SECRET, token_for};
use crate::support::{TestServer, config, wait_until};

on_both_backends!(
    the_events_of_a_chat_arrive_in_order,
    a_user_with_several_connections_is_one_person,
    messages_arrive_in_the_order_of_their_room,
    a_refused_request_is_repeated_and_delays_no_other_endpoint,
    an_endpoint_that_hangs_costs_clients_nothing,
    an_endpoint_that_comes_later_gets_the_events,
    https_endpoints_need_a_known_authority,
    a_full_queue_drops_events_and_counts_them,
    webhooks_are_reloaded,
);

/// Returns settings with webhooks at `urls`, which are told about the messages of `rooms`.
fn settings(backend: BackendName, app: AppName, urls: &[String], rooms: &[&str]) -> Config {
    let name = format!("webhook {backend:?} {:?}", std::thread::current().name());
    let secret = Secret::read(settings_file(&name, SECRET).as_ref()).expect("a secret");
    Config {
        webhook: urls.iter().map(|url| url.parse().expect("a URL")).collect(),
        webhook_secret_file: Some(secret),
        webhook_messages: rooms.iter().map(|room| room.parse().expect("a room")).collect(),
        admin: Some(([127, 0, 0, 1], 0).into()),
        ..config(backend, app, 2)
    }
}

fn accepting() -> Receiver {
    Receiver::start(|_, _| Reply::status(204))
}

/// Returns the signature of a body, computed without the crate that the server uses.
fn signature(body: &str, secret: &str) -> String {
    let mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).expect("HMAC takes keys of any length");
    let bytes = mac.chain_update(body).finalize().into_bytes();
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256={hex}")
}

/// Returns the events of a request, after a check of its form and its signature.
fn events_of(request: &Received) -> Vec<Value> {
    assert_eq!((&*request.method, request.field("content-type")), ("POST", Some("application/json")));
    assert_eq!(request.field("uproar-signature"), Some(&*signature(&request.body, SECRET)));
    let body: Value = serde_json::from_str(&request.body).expect("JSON");
    assert!(body["time"].as_u64() > Some(1_700_000_000_000) && body["id"].is_string(), "{body}");
    body["events"].as_array().expect("a list").clone()
}

/// Returns a short text of an event.
fn text(event: &Value) -> String {
    assert!(event["time"].as_u64() > Some(1_700_000_000_000), "{event}");
    let part = |name: &str| match &event[name] {
        Value::Null => String::new(),
        Value::String(text) => format!(" {text}"),
        other => format!(" {other}"),
    };
    let parts: String =
        ["room", "user", "client", "number", "text", "base64"].into_iter().map(part).collect();
    format!("{}{parts}", event["event"].as_str().expect("a kind"))
}

/// Returns all events that the receiver has accepted, as short texts. A repeated request counts once.
fn events(receiver: &Receiver) -> Vec<String> {
    let mut by_id: Vec<(Value, Vec<String>)> = Vec::new();
    for request in receiver.requests() {
        let body: Value = serde_json::from_str(&request.body).expect("JSON");
        if !by_id.iter().any(|(id, _)| *id == body["id"]) {
            by_id.push((body["id"].clone(), events_of(&request).iter().map(text).collect()));
        }
    }
    by_id.into_iter().flat_map(|(_, texts)| texts).collect()
}

#[track_caller]
fn expect_events(receiver: &Receiver, expected: &[String]) {
    wait_until(&format!("the events {expected:?} arrive"), || events(receiver).len() >= expected.len());
    assert_eq!(events(receiver), expected);
}

fn texts(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

fn metric(server: &TestServer, name: &str, labels: &[(&str, &str)]) -> f64 {
    Metrics::fetch(server.admin_address().expect("an admin listener")).sum(name, labels)
}

fn the_events_of_a_chat_arrive_in_order(backend: BackendName) {
    let receiver = accepting();
    let config = settings(backend, AppName::Chat, &[receiver.url("/hooks?key=1")], &["gard*"]);
    let server = TestServer::start(&config);
    let mut ada = ChatUser::join_on_worker(server.address(), "garden", 1);
    // Connections to the wrong worker came and left before.
    let joined = format!("joined garden {}", ada.number);
    wait_until("the chat user has joined", || events(&receiver).contains(&joined));
    let before = events(&receiver);
    let of_ada = before.iter().position(|event| *event == joined).expect("just found");
    assert!(before[..of_ada].contains(&"occupied garden".into()), "{before:?}");
    ada.set_name("ada");
    ada.send_text("hello");
    ada.expect_text("ada: hello");
    let mut bob = ChatUser::join(server.address(), "attic");
    bob.send_text("not reported");
    let number = bob.number;
    drop(bob);
    wait_until("bob has left", || events(&receiver).last() == Some(&"vacated attic".into()));
    let ada_name = ada.default_name();
    drop(ada);
    wait_until("ada has left", || events(&receiver).last() == Some(&"vacated garden".into()));
    let after = events(&receiver).split_off(of_ada + 1);
    let of_room = |room: &str| -> Vec<String> {
        after.iter().filter(|event| event.split(' ').nth(1) == Some(room)).cloned().collect()
    };
    let garden = of_room("garden");
    let garden: Vec<_> = garden.iter().filter(|event| !is_of_other(event, &joined)).collect();
    let left = joined.replace("joined", "left");
    // The chat's own announcement is nobody's message.
    let renamed = format!("message garden 0 * {ada_name} is now ada");
    let spoken = "message garden ada 1 ada: hello";
    let expected = ["joined garden ada", &left, &renamed, spoken, "left garden ada", "vacated garden"];
    assert_eq!(garden, expected, "{after:?}");
    let attic = [
        "occupied attic",
        &format!("joined attic {number}"),
        &format!("left attic {number}"),
        "vacated attic",
    ];
    assert_eq!(of_room("attic"), attic);
    assert!(receiver.requests().iter().all(|request| request.path == "/hooks?key=1"));
}

/// Returns the number of the connection in the text of an event.
fn server_user(event: &str) -> &str {
    event.rsplit(' ').next().expect("words")
}

/// Returns whether an event is about a connection without a user other than the one of `event`.
fn is_of_other(event: &str, joined: &str) -> bool {
    let is_number = server_user(event).parse::<u64>().is_ok();
    !event.starts_with("message") && is_number && server_user(event) != server_user(joined)
}

fn a_user_with_several_connections_is_one_person(backend: BackendName) {
    let receiver = accepting();
    let config = settings(backend, AppName::Relay, &[receiver.url("/")], &[]);
    let config = Config { auth_hmac_secret_file: config.webhook_secret_file.clone(), ..config };
    let server = TestServer::start(&config);
    let open = |user: &str| {
        let mut client = Client::open(server.address(), &format!("/room/tea?token={}", token_for(user)));
        client.send_text("here");
        client.expect_text("here");
        client
    };
    let (first, second) = (open("ann"), open("ann"));
    drop(first);
    wait_until("the connection is closed", || server.connections().0 == 1);
    let mut other = Client::open(server.address(), &format!("/room/tea?token={}", token_for("bob")));
    other.send_text("here");
    other.expect_text("here");
    expect_events(&receiver, &texts(&["occupied tea", "joined tea ann", "joined tea bob"]));
    drop(second);
    let expected = ["occupied tea", "joined tea ann", "joined tea bob", "left tea ann"];
    expect_events(&receiver, &texts(&expected));
    drop(other);
    expect_events(&receiver, &texts(&[&expected[..], &["left tea bob", "vacated tea"]].concat()));
}

fn messages_arrive_in_the_order_of_their_room(backend: BackendName) {
    const CLIENTS: usize = 4;
    const EACH: usize = 300;
    let receiver = accepting();
    let config = settings(backend, AppName::Relay, &[receiver.url("/")], &["*"]);
    let server = TestServer::start(&config);
    let rooms = ["a", "b"];
    let clients: Vec<_> = (0..CLIENTS)
        .map(|at| Client::open(server.address(), &format!("/room/{}", rooms[at % rooms.len()])))
        .collect();
    let threads: Vec<_> = clients
        .into_iter()
        .enumerate()
        .map(|(at, mut client)| {
            std::thread::spawn(move || {
                for number in 0..EACH {
                    client.send_text(&format!("{at}-{number}"));
                }
                // The client's own last message comes back after all others.
                let last = format!("{at}-{}", EACH - 1);
                while client.receive_text() != last {}
                client
            })
        })
        .collect();
    let clients: Vec<_> = threads.into_iter().map(|thread| thread.join().expect("no panic")).collect();
    let is_message = |event: &String| event.starts_with("message ");
    wait_until("all messages arrive", || {
        events(&receiver).iter().filter(|event| is_message(event)).count() == CLIENTS * EACH
    });
    let mut next: HashMap<String, u64> = HashMap::new();
    let mut spoken: HashMap<String, usize> = HashMap::new();
    for request in receiver.requests() {
        for event in events_of(&request).iter().filter(|event| event["event"] == "message") {
            let room = event["room"].as_str().expect("a room").to_owned();
            let number = next.entry(room).or_default();
            assert_eq!(event["number"], json!(*number), "{event}");
            *number += 1;
            let (speaker, said) = event["text"].as_str().and_then(|text| text.split_once('-')).expect("text");
            let count = spoken.entry(speaker.to_owned()).or_default();
            assert_eq!(said.parse(), Ok(*count), "{event}");
            *count += 1;
            assert!(event["client"].is_u64() && event["epoch"].is_string(), "{event}");
        }
    }
    assert_eq!(next.values().sum::<u64>(), (CLIENTS * EACH) as u64);
    let connections: Vec<_> = receiver.requests().iter().map(|request| request.connection).collect();
    assert!(connections.iter().all(|number| *number == connections[0]), "one connection is used again");
    assert!(connections.len() < CLIENTS * EACH / 4, "{} requests: events travel together", connections.len());
    drop(clients);
}

fn a_refused_request_is_repeated_and_delays_no_other_endpoint(backend: BackendName) {
    let refusing = Receiver::start(|number, _| Reply::status(if number < 2 { 500 } else { 200 }));
    let redirecting =
        Receiver::start(|_, _| Reply::Respond(307, "Location: /elsewhere\r\n".into(), String::new()));
    let good = accepting();
    let urls = [refusing.url("/"), redirecting.url("/here"), good.url("/")];
    let server = TestServer::start(&settings(backend, AppName::Relay, &urls, &["tea"]));
    let mut client = Client::open(server.address(), "/room/tea");
    client.send_text("hello");
    client.expect_text("hello");
    let number = |events: &[String]| events[1].rsplit(' ').next().map(str::to_owned);
    wait_until("the good endpoint gets the events", || events(&good).len() == 3);
    let client_number = number(&events(&good)).expect("a number");
    let expected = texts(&[
        "occupied tea",
        &format!("joined tea {client_number}"),
        &format!("message tea {client_number} 0 hello"),
    ]);
    expect_events(&good, &expected);
    wait_until("the refused request is repeated", || refusing.requests().len() >= 3);
    expect_events(&refusing, &expected);
    let requests = refusing.requests();
    assert!(requests[..3].windows(2).all(|pair| pair[0].body == pair[1].body), "{requests:?}");
    assert!(redirecting.requests().iter().all(|request| request.path == "/here"), "no redirect is followed");
    let endpoint = refusing.url("");
    wait_until("the events count as accepted", || {
        metric(&server, "uproar_webhook_events_total", &[("endpoint", &endpoint)]) == 3.0
    });
    assert_eq!(metric(&server, "uproar_webhook_failures_total", &[("endpoint", &endpoint)]), 2.0);
    assert_eq!(metric(&server, "uproar_webhook_queued", &[("endpoint", &endpoint)]), 0.0);
    let stuck = redirecting.url("");
    assert!(metric(&server, "uproar_webhook_queued", &[("endpoint", &stuck)]) >= 1.0);
    assert_eq!(metric(&server, "uproar_webhook_events_total", &[("endpoint", &stuck)]), 0.0);
}

fn an_endpoint_that_hangs_costs_clients_nothing(backend: BackendName) {
    let hanging = Receiver::start(|_, _| Reply::Hang);
    let broken = Receiver::start(|_, _| Reply::Disconnect);
    let good = accepting();
    let urls = [hanging.url("/"), broken.url("/"), good.url("/")];
    let server = TestServer::start(&settings(backend, AppName::Relay, &urls, &["*"]));
    let mut client = Client::open(server.address(), "/room/tea");
    for number in 0..200 {
        client.send_text(&number.to_string());
        client.expect_text(&number.to_string());
    }
    drop(client);
    wait_until("the good endpoint gets all events", || events(&good).len() == 204);
    assert_eq!(events(&good)[203], "vacated tea");
    let waiting = metric(&server, "uproar_webhook_queued", &[("endpoint", &hanging.url(""))]);
    assert_eq!(waiting, 204.0);
    assert!(metric(&server, "uproar_webhook_failures_total", &[("endpoint", &broken.url(""))]) >= 1.0);
    // Dropping the server waits for the endpoints only for a short time.
}

fn an_endpoint_that_comes_later_gets_the_events(backend: BackendName) {
    let address: SocketAddr = accepting().address();
    let url = format!("http://{address}/");
    let server = TestServer::start(&settings(backend, AppName::Relay, std::slice::from_ref(&url), &[]));
    let client = Client::open(server.address(), "/room/tea");
    let endpoint = url.trim_end_matches('/');
    wait_until("a request fails", || {
        metric(&server, "uproar_webhook_failures_total", &[("endpoint", endpoint)]) >= 1.0
    });
    let receiver = Receiver::start_at(address, |_, _| Reply::status(200));
    wait_until("the events arrive", || events(&receiver).len() == 2);
    drop(client);
    wait_until("later events arrive", || events(&receiver).len() == 4);
    assert_eq!(events(&receiver)[3], "vacated tea");
}

fn https_endpoints_need_a_known_authority(backend: BackendName) {
    let identity = Identity::new();
    let receiver = Receiver::start_tls(&identity, |_, _| Reply::status(200));
    let config = settings(backend, AppName::Relay, &[receiver.url("/")], &[]);
    let trusting =
        Config { ca_file: Some(CaFile::read(&identity.cert()).expect("a certificate")), ..config.clone() };
    let server = TestServer::start(&trusting);
    drop(Client::open(server.address(), "/room/tea"));
    wait_until("the events arrive", || events(&receiver).len() == 4);
    assert_eq!(events(&receiver)[3], "vacated tea");
    drop(server);
    let server = TestServer::start(&config);
    drop(Client::open(server.address(), "/room/tea"));
    wait_until("the request fails", || {
        metric(&server, "uproar_webhook_failures_total", &[("endpoint", &receiver.url(""))]) >= 1.0
    });
    assert_eq!(events(&receiver).len(), 4);
}

fn a_full_queue_drops_events_and_counts_them(backend: BackendName) {
    let hanging = Receiver::start(|_, _| Reply::Hang);
    let config = settings(backend, AppName::Relay, &[hanging.url("/")], &["*"]);
    let server = TestServer::start(&Config { memory_limit: 1 << 30, ..config });
    let mut client = Client::open(server.address(), "/room/tea");
    let long = "x".repeat(1 << 20);
    for _ in 0..20 {
        client.send_text(&long);
        client.expect_text(&long);
    }
    let endpoint = hanging.url("");
    let value = |name: &str, labels: &[(&str, &str)]| {
        metric(&server, name, &[&[("endpoint", &*endpoint)], labels].concat())
    };
    // The queue has 16 MiB, and each event is a little longer than its message.
    let dropped = value("uproar_webhook_dropped_total", &[("reason", "full")]);
    assert_eq!(dropped, 5.0);
    let bytes = value("uproar_webhook_queued_bytes", &[]);
    assert!(bytes > (15 << 20) as f64 && bytes <= (16 << 20) as f64, "{bytes}");
    assert_eq!(value("uproar_webhook_queued", &[]), 17.0);
}

fn webhooks_are_reloaded(backend: BackendName) {
    let (first, second) = (accepting(), accepting());
    let name = format!("webhooks {backend:?}");
    let identity = Identity::new();
    let secret = identity.file("secret", SECRET);
    let file = |text: &str| settings_file(&name, text);
    let secret_line = format!("webhook-secret-file = {:?}\n", arg(&secret));
    let path = file(&format!("webhook = [{:?}]\n{secret_line}", first.url("/hush")));
    let server = Process::start(&["--config", &path, "--app=relay", "--workers=1", backend_arg(backend)]);
    drop(Client::open(server.address, "/room/tea"));
    wait_until("the first endpoint gets the events", || events(&first).len() == 4);
    let reload = |what: &str| {
        server.signal(Signal::SIGHUP);
        wait_until(what, || server.log().contains(what));
    };
    file(&format!("webhook = [{:?}]\n{secret_line}webhook-events = [\"occupied\"]\n", second.url("/hush")));
    reload("webhook-events: ");
    wait_until("the old endpoint is removed", || server.log().contains("the webhook endpoint is removed"));
    drop(Client::open(server.address, "/room/coffee"));
    expect_events(&second, &texts(&["occupied coffee"]));
    assert_eq!(events(&first).len(), 4);
    let other = "another secret for tests, of more than 32 bytes";
    identity.file("secret", other);
    reload("webhook-secret-file");
    drop(Client::open(server.address, "/room/cocoa"));
    wait_until("an event with the new signature arrives", || second.requests().len() == 2);
    let request = &second.requests()[1];
    assert_eq!(request.field("uproar-signature"), Some(&*signature(&request.body, other)));
    // A wrong file changes nothing.
    file("webhook = [\"ftp://hush\"]\n");
    reload("begins with https://");
    server.signal(Signal::SIGTERM);
    let ended = server.wait();
    assert_eq!(ended.code, Some(0), "{}", ended.log);
    assert!(!ended.log.contains("hush") && !ended.log.contains("secret for tests"), "{}", ended.log);
}

#[test]
fn everybody_leaves_when_a_server_with_several_workers_ends() {
    let receiver = accepting();
    let secret = settings_file("webhooks of several workers", SECRET);
    let args =
        ["--app=chat", "--workers=2", "--webhook", &receiver.url("/"), "--webhook-secret-file", &secret];
    let server = Process::start(&[&args[..], &["--drain-seconds=0.2"]].concat());
    let ada = ChatUser::join_on_worker(server.address, "garden", 1);
    let bob = ChatUser::join_on_worker(server.address, "garden", 2);
    let number = |user: &ChatUser| user.number;
    let closed: Vec<_> = [(number(&ada), ada), (number(&bob), bob)]
        .into_iter()
        .map(|(number, mut user)| (number, std::thread::spawn(move || user.wait_for_close().0)))
        .collect();
    server.signal(Signal::SIGTERM);
    assert_eq!(server.wait().code, Some(0));
    let all = events(&receiver);
    for (number, closed) in closed {
        assert_eq!(closed.join().expect("no panic"), 1001);
        assert!(all.contains(&format!("left garden {number}")), "{all:?}");
    }
    assert_eq!(all.last().map(String::as_str), Some("vacated garden"));
}

#[test]
fn nothing_secret_is_logged_at_any_level() {
    let receiver = accepting();
    let url = receiver.url("/hush?key=hush").replacen("http://", "http://ann:hush@", 1);
    let secret = settings_file("secret of logged webhooks", SECRET);
    for format in ["--log-format=text", "--log-format=json"] {
        let args = ["--app=relay", "--workers=1", "--webhook", &url, "--webhook-secret-file", &secret];
        let server = Process::start(&[&args[..], &["--log=trace", format]].concat());
        let before = receiver.requests().len();
        drop(Client::open(server.address, "/room/tea"));
        wait_until("the events arrive", || receiver.requests().len() > before);
        server.signal(Signal::SIGTERM);
        let log = server.wait().log;
        // The form of the credentials in the header field.
        for secret in ["hush", "YW5uOmh1c2g", SECRET] {
            assert!(log.contains("ended") && !log.contains(secret), "{secret}: {log}");
        }
    }
    assert_eq!(receiver.requests()[0].field("authorization"), Some("Basic YW5uOmh1c2g="));
    let output = run_to_end(&mut uproar(&["check", "--webhook", &url, "--webhook-secret-file", &secret]));
    let text = String::from_utf8([output.stdout, output.stderr].concat()).expect("UTF-8");
    assert!(text.contains("webhook = (secret)") && !text.contains("hush"), "{text}");
}

#[test]
fn what_waits_is_sent_when_the_server_ends() {
    let receiver = Receiver::start(|number, _| {
        // The first request takes long, so that the other events wait for it.
        std::thread::sleep(std::time::Duration::from_millis(if number == 0 { 500 } else { 0 }));
        Reply::status(200)
    });
    let url = receiver.url("/");
    let secret = settings_file("webhooks at the end", SECRET);
    let args = ["--app=relay", "--workers=1", "--webhook", &url, "--webhook-secret-file", &secret];
    let server = Process::start(&[&args[..], &["--drain-seconds=0"]].concat());
    let client = Client::open(server.address, "/room/tea");
    wait_until("the first request is under way", || !receiver.requests().is_empty());
    server.signal(Signal::SIGTERM);
    let ended = server.wait();
    assert_eq!(ended.code, Some(0), "{}", ended.log);
    assert_eq!(events(&receiver).last().map(String::as_str), Some("vacated tea"));
    drop(client);
}

#[test]
fn wrong_options_of_webhooks_are_refused() {
    let secret = settings_file("webhook secret", SECRET);
    let short = settings_file("short webhook secret", "hush");
    let url = "--webhook=https://ann:hush@example.org/hush";
    for (args, parts) in [
        (vec!["--webhook=example.org", "--webhook-secret-file", &secret], vec!["like https://example.org"]),
        (vec![url], vec!["--webhook https://example.org needs a secret", "openssl rand"]),
        (vec!["--webhook-secret-file", &secret], vec!["there is no webhook", "add --webhook URL"]),
        (vec!["--webhook-messages=tea"], vec!["--webhook-messages tea", "add --webhook URL"]),
        (vec![url, "--webhook-secret-file", &short], vec!["has 4 bytes"]),
        (vec![url, url, "--webhook-secret-file", &secret], vec!["one URL of https://example.org twice"]),
        (vec![url, "--webhook-secret-file", &secret, "--webhook-messages=a/b"], vec!["a/b", "like garden"]),
        (vec!["--ca-file", &secret], vec!["--ca-file", "no certificate"]),
        (vec!["--webhook-events=born"], vec!["born", "occupied"]),
    ] {
        for command in ["serve", "check"] {
            expect_start_failure(uproar(&[command]).args(&args), &parts);
        }
    }
}
