//! Runs of loadgen as Pusher clients: against uproar, and against a server with one fault.

use std::io::Write as _;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};
use std::thread;

use serde_json::{Value, json};
use tungstenite::Message;
use uproar::Server;
use uproar::app::{Pusher, PusherApp, PusherApps};
use uproar::config::{AppName, BackendName, Config};

use crate::server::{PROGRAM, frame};

const APP: &str = "7:278d425bdf160c739803:7ad3773142a6692b25b8";

/// Starts a Pusher server without a limit of client events. Returns the server and its address.
fn uproar(backend: BackendName, client_events_per_second: u32) -> (Server, SocketAddr) {
    let config = Config {
        listen: vec!["127.0.0.1:0".parse().expect("an endpoint")],
        app: AppName::Pusher,
        backend,
        workers: Some(2),
        drain_seconds: std::time::Duration::ZERO,
        ..Config::default()
    };
    let mut parts = APP.split(':');
    let mut part = || parts.next().expect("an application has three parts");
    let app = PusherApp { client_events_per_second, ..PusherApp::new(part(), part(), part()) };
    let apps = PusherApps::new(vec![app]).expect("an application");
    let server = Server::start_app(&config, move |_| Box::new(Pusher::new(apps.clone())));
    let server = server.expect("the server starts");
    let address = server.endpoints()[0].tcp().expect("a TCP address");
    (server, address)
}

/// Runs loadgen against the server at `address`. Returns the output and the JSON figures.
fn run(address: SocketAddr, name: &str, arguments: &str) -> (Output, String, Value) {
    let json = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("pusher-{name}.json"));
    let _ = std::fs::remove_file(&json);
    let mut command = Command::new(PROGRAM);
    command.args(arguments.split_whitespace()).args(["--warmup", "0", "--quiet", "--threads", "2"]);
    command.args(["--url", &format!("ws://{address}"), "--json"]).arg(&json);
    if !arguments.contains("--protocol") {
        command.args(["--protocol", "pusher"]);
    }
    if !arguments.contains("--pusher-app") {
        command.env("LOADGEN_PUSHER_APP", APP);
    }
    let output = command.output().expect("the program can be started");
    let text = String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned();
    let figures = std::fs::read_to_string(&json).ok().and_then(|text| serde_json::from_str(&text).ok());
    (output, text, figures.unwrap_or(Value::Null))
}

/// Asserts that a run has passed with as many deliveries as `expected` tells for the number of sent messages.
fn assert_passed((output, text, figures): &(Output, String, Value), expected: impl Fn(u64) -> u64) {
    assert_eq!(output.status.code(), Some(0), "{text}");
    let messages = &figures["messages"];
    let sent = messages["sent"].as_u64().unwrap_or(0);
    assert!(sent > 0, "{messages}");
    assert_eq!(messages["received"].as_u64(), Some(expected(sent)), "{text}");
    for fault in ["lost", "duplicated", "reordered", "corrupt", "foreign", "refused", "unsent", "unfinished"]
    {
        assert_eq!(messages[fault], 0, "{fault} in {messages}");
    }
    assert!(!figures.to_string().contains("7ad3773142a6692b25b8"), "figures are published: {figures}");
}

fn all_scenarios_pass(backend: BackendName) {
    let (server, address) = uproar(backend, 0);
    let run = |name: &str, arguments: &str| run(address, &format!("{backend:?}-{name}"), arguments);

    let storm = run("storm", "storm -c 6 --duration 300ms");
    assert_passed(&storm, |sent| sent * 5);
    let (_, _, figures) = &storm;
    let rounds = figures["rounds"]["per_second"].as_f64().unwrap_or(f64::NAN);
    let measured = figures["messages"]["measured"].as_f64().unwrap_or(f64::NAN);
    let seconds = figures["seconds"].as_f64().unwrap_or(f64::NAN);
    assert!((rounds * 30.0 * seconds - measured).abs() < 1e-3, "{rounds} rounds/s, {figures}");
    let json_storm = run("json", "storm -c 3 --duration 200ms --payload json --size 300");
    assert_passed(&json_storm, |sent| sent * 2);

    let broadcast = "broadcast -c 9 --publishers 3 --rate 60 --duration 500ms --pusher-channel presence-x";
    let broadcast = run("broadcast", broadcast);
    assert_passed(&broadcast, |sent| sent * 8);
    assert_eq!((&broadcast.2["messages"]["sent"], &broadcast.2["one_order"]), (&30.into(), &true.into()));
    assert_passed(&run("all", "broadcast -c 4 --publishers 4 --rate 60 --duration 300ms"), |sent| sent * 3);

    let publish = run("publish", "publish -c 3 --subscribers 6 --rate 100 --duration 300ms");
    assert_passed(&publish, |sent| sent * 6);
    assert_eq!(publish.2["publish"]["statuses"], json!({"200": 30}), "{}", publish.1);
    assert_eq!(publish.2["publish"]["last_subscriber_latency"]["count"], 30);
    assert_passed(&run("alone", "publish -c 4 --duration 200ms"), |_| 0);
    let private = "publish -c 1 --subscribers 2 --duration 200ms --payload json --pusher-channel private-x";
    assert_passed(&run("private", private), |sent| sent * 2);

    assert_passed(&run("shared", "idle -c 20 --duration 200ms"), |sent| sent * 19);
    let own = run("own", "idle -c 20 --duration 200ms --pusher-own-channels");
    assert_passed(&own, |sent| sent);
    assert_eq!(own.2["messages"]["sent"], 20);

    let presence = run("presence", "presence -c 12 --rate 20 --duration 2s");
    assert_passed(&presence, |sent| sent * 12);
    // Joins are due from the start, leaves a second later, and the first event of each kind is due in the first 50 ms.
    let sent = presence.2["messages"]["sent"].as_u64();
    assert!((58..=61).contains(&sent.unwrap_or(0)), "{sent:?}");
    assert_eq!(presence.2["one_order"], true);
    server.stop();
}

#[test]
fn uproar_on_io_uring_passes_all_scenarios() {
    all_scenarios_pass(BackendName::IoUring);
}

#[test]
fn uproar_on_epoll_passes_all_scenarios() {
    all_scenarios_pass(BackendName::Epoll);
}

#[test]
fn an_error_of_the_server_fails_the_run_with_its_text() {
    let (server, address) = uproar(BackendName::Epoll, 1);
    let (output, text, figures) =
        run(address, "limited", "broadcast -c 3 --rate 50 --duration 300ms --grace 1s");
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("1 client events per second"), "{text}");
    assert_eq!(figures["connections"]["ended"].as_object().map(serde_json::Map::len), Some(1), "{figures}");
    for (arguments, reason) in [
        ("storm -c 3 --pusher-app 7:278d425bdf160c739803:wrong", "401"),
        ("storm -c 3 --pusher-app 7:other:secret", "4001"),
    ] {
        let (output, text, _) = run(address, "refused", arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments}: {text}");
        assert!(text.contains(reason), "{arguments}: {text}");
    }
    let wrong_secret = "publish -c 1 --rate 20 --duration 200ms --pusher-app 7:278d425bdf160c739803:wrong";
    let (output, text, figures) = run(address, "signature", wrong_secret);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert_eq!(figures["messages"]["refused"], 4);
    assert!(text.contains("4 times: 401 Unauthorized"), "{text}");
    server.stop();
}

#[test]
fn wrong_options_are_named() {
    let address = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    let address = address.expect("a port is free");
    for (arguments, reason) in [
        ("connect", "--protocol pusher is for"),
        ("storm --pusher-app 7", "ID:KEY:SECRET"),
        ("storm -c 1", "2 or more --connections"),
        ("storm --pusher-channel bench", "private-NAME"),
        ("storm --pusher-own-channels", "--pusher-own-channels is for idle"),
        ("presence --pusher-channel private-x", "presence-NAME"),
        ("storm --protocol plain --pusher-channel private-x", "needs --protocol pusher"),
        ("publish --publish-url http://127.0.0.1:1/events?a=b", "have a query already"),
        ("publish -c 1", "refused the connection"),
    ] {
        let (output, text, _) = run(address, "wrong", arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments}: {text}");
        assert!(text.contains(reason), "{arguments}: {text}");
    }
    let output = Command::new(PROGRAM).args(["storm", "--protocol", "pusher"]).output();
    let output = output.expect("the program can be started");
    assert!(String::from_utf8_lossy(&output.stderr).contains("LOADGEN_PUSHER_APP"), "{output:?}");
}

/// A fault of the test server, at the seventh client event.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Fault {
    None,
    Drop,
    Duplicate,
    /// The event returns to its sender, too.
    Echo,
    /// One byte of the message is altered.
    Corrupt,
}

/// The clients of the test server, and the number of client events.
type Room = Arc<Mutex<(Vec<TcpStream>, u32)>>;

/// Starts a Pusher server for one channel, which sends a ping and an event about the count with every client event.
fn serve(fault: Fault) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let address = listener.local_addr().expect("it is bound");
    let room = Room::default();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let room = room.clone();
            thread::spawn(move || drop(serve_client(stream, &room, fault)));
        }
    });
    address
}

fn serve_client(stream: TcpStream, room: &Room, fault: Fault) -> tungstenite::Result<()> {
    stream.set_nodelay(true)?;
    let own = stream.peer_addr()?;
    let writer = stream.try_clone()?;
    let mut socket = tungstenite::accept(stream).map_err(|_| tungstenite::Error::ConnectionClosed)?;
    let greeting = r#"{"event":"pusher:connection_established","data":"{\"socket_id\":\"1.2\"}"}"#;
    socket.send(Message::text(greeting))?;
    loop {
        let text = socket.read()?.into_text()?;
        let event: Value = serde_json::from_str(&text).expect("clients send JSON");
        if event["event"] == "pusher:subscribe" {
            // The client is open when it has the answer, so it must be in the room before that.
            let mut room = room.lock().expect("no thread panics");
            room.0.push(writer.try_clone()?);
            let answer = br#"{"event":"pusher_internal:subscription_succeeded","data":"{}","channel":"c"}"#;
            room.0.last_mut().expect("it was added").write_all(&frame(1, answer))?;
        } else if event["event"] == "client-msg" {
            deliver(&mut room.lock().expect("no thread panics"), own, &text, fault);
        }
    }
}

fn deliver((clients, count): &mut (Vec<TcpStream>, u32), own: SocketAddr, text: &str, fault: Fault) {
    *count += 1;
    let fault = if *count == 7 { fault } else { Fault::None };
    let altered =
        format!("{}{}\"}}", &text[..text.len() - 3], if text.ends_with("x\"}") { 'y' } else { 'x' });
    let text = if fault == Fault::Corrupt { &altered } else { text };
    for client in clients {
        let is_own = client.peer_addr().is_ok_and(|address| address == own);
        let times = match fault {
            Fault::Drop => 0,
            Fault::Duplicate => 2,
            _ => 1,
        };
        if is_own && fault != Fault::Echo {
            continue;
        }
        for _ in 0..times {
            let _ = client.write_all(&frame(1, text.as_bytes()));
        }
        let _ = client.write_all(&frame(1, br#"{"event":"pusher:ping","data":"{}"}"#));
        let _ = client.write_all(&frame(1, br#"{"event":"pusher_internal:subscription_count","data":"{}"}"#));
    }
}

#[test]
fn a_fault_fails_the_run_and_is_counted() {
    for scenario in ["broadcast -c 3 --rate 60", "storm -c 3"] {
        for (fault, count) in [
            (Fault::None, ""),
            (Fault::Drop, "lost"),
            (Fault::Duplicate, "duplicated"),
            (Fault::Echo, "corrupt"),
            (Fault::Corrupt, "corrupt"),
        ] {
            let arguments = format!("{scenario} --duration 300ms --grace 500ms");
            let result = run(serve(fault), &format!("{}-{fault:?}", &scenario[..3]), &arguments);
            if fault == Fault::None {
                assert_passed(&result, |sent| sent * 2);
                continue;
            }
            let (output, text, figures) = result;
            assert_eq!(output.status.code(), Some(1), "{scenario} {fault:?}: {text}");
            assert!(figures["messages"][count].as_u64() > Some(0), "{scenario} {fault:?}: {text}");
        }
    }
}
