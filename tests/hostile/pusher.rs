//! Attacks on a Pusher server, while a backend triggers events for 200 subscribers in four channels.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use ring::hmac::{HMAC_SHA256, Key, sign};
use serde_json::{Value, json};
use uproar::Publisher;
use uproar::app::Message;
use uproar::config::{AppName, BackendName, Config, PusherAppsFile};

use crate::chat_users::{Measurements, USERS};
use crate::harness::{report, wait_for_turn};
use crate::support::client::Client;
use crate::support::process::settings_file;
use crate::support::raw::{RawClient, TEXT, frame};
use crate::support::{TIMEOUT, TestServer, config};

slowly_on_both_backends!(
    a_million_subscriptions,
    hostile_channel_names,
    replayed_signatures,
    large_presence_lists_again_and_again,
    webhooks_that_are_never_answered,
);

const KEY: &str = "key";
const SECRET: &str = "secret-0123456789";
const PATH: &str = "/app/key?protocol=7";
/// Names of the subscribers' channels. Subscriber `n` is in channel `n % CHANNELS.len()`.
const CHANNELS: [&str; 4] = ["kitchen", "garden", "private-attic", "cache-cellar"];
/// Time between two events of the backend.
const INTERVAL: Duration = Duration::from_millis(10);
/// Number of events before the attack, and minimum number during it.
const EVENTS: usize = 60;
/// Number of subscriptions in the attack with most of them. A debug build takes some ten times as long for each.
const SUBSCRIPTIONS: usize = if cfg!(debug_assertions) { 100_000 } else { 1_000_000 };

/// Runs an attack on a Pusher server with one application, to whose table `more` is added, and reports the measurements.
fn run_attack<R>(name: &str, backend: BackendName, more: &str, attack: impl FnOnce(&TestServer) -> R) -> R {
    let _exclusive = wait_for_turn();
    let text = format!("[[app]]\nid = '7'\nkey = '{KEY}'\nsecret = '{SECRET}'\n{more}");
    let file = settings_file(&format!("{name} {backend:?}"), text);
    let apps = PusherAppsFile::read(file.as_ref()).expect("a file with an application");
    let ping_seconds = Duration::from_secs(1);
    let server = TestServer::start(&Config {
        pusher_apps: Some(apps),
        ping_seconds,
        ..config(backend, AppName::Pusher, 2)
    });
    let (sender, attack_can_start) = mpsc::channel();
    let is_over = Arc::new(AtomicBool::new(false));
    let subscribers = {
        let (is_over, publisher, address) = (Arc::clone(&is_over), server.publisher(), server.address());
        std::thread::spawn(move || listen(address, &publisher, &sender, &is_over))
    };
    let result = attack_can_start.recv_timeout(TIMEOUT).is_ok().then(|| attack(&server));
    is_over.store(true, Ordering::Relaxed);
    let measurements = subscribers.join().expect("every subscriber gets every event");
    report(name, backend, measurements);
    result.expect("the subscribers listen before the attack")
}

/// Connects the subscribers, and triggers events until the attack is over. Asserts that each subscriber gets each event of
/// its channel, once and in order.
fn listen(
    address: SocketAddr,
    publisher: &Publisher,
    attack_can_start: &mpsc::Sender<()>,
    is_over: &AtomicBool,
) -> Measurements {
    let subscriber = |index: usize| subscriber(address, CHANNELS[index % CHANNELS.len()]);
    let mut subscribers: Vec<Client> = (0..USERS).map(subscriber).collect();
    let mut measurements = Measurements::default();
    let begin = Instant::now();
    let mut during = 0;
    while during < EVENTS || !is_over.load(Ordering::Relaxed) {
        let number = measurements.sent;
        let due = begin + INTERVAL * u32::try_from(number).expect("a short attack");
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        let channel = number % CHANNELS.len();
        let event = json!({ "event": "talk", "channel": CHANNELS[channel], "data": number.to_string() });
        let event = event.to_string();
        let sent = Instant::now();
        publisher.publish(&format!("7/{}", CHANNELS[channel]), Message::text(&event)).expect("there is room");
        measurements.sent += 1;
        for subscriber in subscribers.iter_mut().skip(channel).step_by(CHANNELS.len()) {
            assert_eq!(subscriber.receive_text(), event);
            let phase = if number < EVENTS { &mut measurements.before } else { &mut measurements.during };
            phase.add(sent.elapsed());
            measurements.received += 1;
        }
        if measurements.sent == EVENTS {
            let _ = attack_can_start.send(());
        }
        during += usize::from(number >= EVENTS);
    }
    measurements
}

/// Connects and returns the client and its socket identifier.
fn connect(address: SocketAddr) -> (Client, String) {
    let mut client = Client::open(address, PATH);
    let id = socket_id(&client.receive_text());
    (client, id)
}

fn socket_id(established: &str) -> String {
    let event: Value = serde_json::from_str(established).expect("JSON");
    let data = event["data"].as_str().expect("a text");
    let data: Value = serde_json::from_str(data).expect("JSON in the text");
    data["socket_id"].as_str().expect("an identifier").to_owned()
}

fn subscriber(address: SocketAddr, channel: &str) -> Client {
    let (mut client, id) = connect(address);
    client.send_text(&subscribe(channel, &auth(&format!("{id}:{channel}")), None));
    assert!(client.receive_text().contains("subscription_succeeded"));
    if channel.starts_with("cache-") {
        assert!(client.receive_text().contains("cache_miss"));
    }
    client
}

fn subscribe(channel: &str, auth: &str, channel_data: Option<&str>) -> String {
    let data = json!({ "channel": channel, "auth": auth, "channel_data": channel_data });
    json!({ "event": "pusher:subscribe", "data": data }).to_string()
}

fn auth(text: &str) -> String {
    format!("{KEY}:{}", hmac(text))
}

fn hmac(text: &str) -> String {
    let tag = sign(&Key::new(HMAC_SHA256, SECRET.as_bytes()), text.as_bytes());
    tag.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn a_million_subscriptions(backend: BackendName) {
    run_attack("a million subscriptions", backend, "", |server| {
        let raw = RawClient::open(server.address(), PATH);
        let (mut stream, _) = raw.into_parts();
        let mut writer = stream.try_clone().expect("a socket");
        let sender = std::thread::spawn(move || {
            for block in 0..SUBSCRIPTIONS / 100 {
                let frames = (0..100).flat_map(|number| {
                    let text = subscribe(&format!("channel-{block}-{number}"), "", None);
                    frame(TEXT, text.as_bytes())
                });
                writer.write_all(&frames.collect::<Vec<_>>()).expect("the server reads");
            }
        });
        // The first subscriptions succeed, up to the limit of rooms. All others are refused, and each is answered.
        let answer = b"\"event\":\"pusher";
        let (mut answers, mut unread) = (0, Vec::new());
        let mut buffer = vec![0; 256 << 10];
        while answers < SUBSCRIPTIONS {
            let len = stream.read(&mut buffer).expect("the server answers");
            assert_ne!(len, 0, "the server closed the connection");
            unread.extend_from_slice(&buffer[..len]);
            answers += memchr::memmem::find_iter(&unread, answer).count();
            // The start of an answer that has arrived in part is kept.
            unread.drain(..unread.len().saturating_sub(answer.len() - 1));
        }
        sender.join().expect("all frames are sent");
    });
}

fn hostile_channel_names(backend: BackendName) {
    run_attack("hostile channel names", backend, "", |server| {
        let (mut client, _) = connect(server.address());
        let long = "x".repeat(100_000);
        let names = [
            "",
            " ",
            "a b",
            "a/b",
            "../a",
            "7/a",
            "#server-to-user-",
            "#server-to-user-x",
            "ä",
            "\u{202e}a",
            "a\u{0}",
            "%2e",
            &long,
        ];
        for name in names.iter().cycle().take(1_000) {
            client.send_text(&subscribe(name, "", None));
            let answer = client.receive_text();
            assert!(answer.len() < 1_000 && answer.contains("subscription_error"), "{answer}");
        }
    });
}

fn replayed_signatures(backend: BackendName) {
    run_attack("replayed signatures", backend, "", |server| {
        let address = server.address();
        let (_owner, id) = connect(address);
        let stolen = auth(&format!("{id}:private-attic"));
        let (mut thief, _) = connect(address);
        let old = "auth_key=key&auth_timestamp=1000000000&auth_version=1.0";
        let query = format!("{old}&auth_signature={}", hmac(&format!("GET\n/apps/7/channels\n{old}")));
        let mut raw = RawClient::connect(address);
        for _ in 0..300 {
            thief.send_text(&subscribe("private-attic", &stolen, None));
            let answer = thief.receive_text();
            assert!(answer.contains("AuthError"), "{answer}");
            raw.send(format!("GET /apps/7/channels?{query} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes());
            let response = raw.receive_response();
            assert!(response.status == 401 && response.body.contains("auth_timestamp"), "{response:?}");
        }
    });
}

fn large_presence_lists_again_and_again(backend: BackendName) {
    const MEMBERS: usize = 300;
    const CHANNEL: &str = "presence-hall";
    let enter = |client: &mut Client, id: &str, user: usize| {
        let info = "x".repeat(1_900);
        let data = json!({ "user_id": user.to_string(), "user_info": info }).to_string();
        client.send_text(&subscribe(CHANNEL, &auth(&format!("{id}:{CHANNEL}:{data}")), Some(&data)));
    };
    run_attack("large presence lists", backend, "", |server| {
        let address = server.address();
        // The members do not read. Each event about a member is larger than 1,900 bytes.
        let members: Vec<_> = (0..MEMBERS)
            .map(|user| {
                let (mut client, id) = connect(address);
                enter(&mut client, &id, user);
                client
            })
            .collect();
        let attackers: Vec<_> = (0..10)
            .map(|number| {
                std::thread::spawn(move || {
                    let (mut client, id) = connect(address);
                    for _ in 0..10 {
                        enter(&mut client, &id, MEMBERS + number);
                        while !client.receive_text().contains("subscription_succeeded") {}
                        client.send_text(
                            &json!({ "event": "pusher:unsubscribe", "data": { "channel": CHANNEL } })
                                .to_string(),
                        );
                    }
                })
            })
            .collect();
        for attacker in attackers {
            attacker.join().expect("each subscription is answered");
        }
        drop(members);
    });
}

fn webhooks_that_are_never_answered(backend: BackendName) {
    let tarpit = TcpListener::bind("127.0.0.1:0").expect("a port");
    let hook = format!("[[app.webhook]]\nurl = 'http://{}/'\n", tarpit.local_addr().expect("bound"));
    let (sender, arrived) = mpsc::channel::<TcpStream>();
    std::thread::spawn(move || {
        for stream in tarpit.incoming().flatten() {
            // The receiver is gone when the attack is over.
            if sender.send(stream).is_err() {
                return;
            }
        }
    });
    run_attack("webhooks that are never answered", backend, &hook, |server| {
        let (mut client, id) = connect(server.address());
        let room = "private-attack";
        client.send_text(&subscribe(room, &auth(&format!("{id}:{room}")), None));
        assert!(client.receive_text().contains("subscription_succeeded"));
        let _connection = arrived.recv_timeout(TIMEOUT).expect("the server sends a webhook");
        for number in 0..2_000 {
            let channel = format!("channel-{number}");
            client.send_text(&subscribe(&channel, "", None));
            assert!(client.receive_text().contains("subscription_succeeded"));
            client.send_text(
                &json!({ "event": "pusher:unsubscribe", "data": { "channel": channel } }).to_string(),
            );
        }
    });
}
