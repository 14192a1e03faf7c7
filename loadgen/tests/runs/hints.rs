//! Tests that loadgen names the likely cause of strange figures.

use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::compare::{own_server_command, read_address};
use crate::server::{Fault, Mode, PROGRAM, finish, loadgen, prepare, serve, serve_on};

/// Runs loadgen with `arguments` against a test server. Returns the exit code and the standard output.
fn output_of(mode: Mode, fault: Fault, name: &str, arguments: &str) -> (Option<i32>, String) {
    let (output, _) = loadgen(serve(mode, fault), name, &format!("{arguments} --threads 1 --quiet"));
    (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
}

#[test]
fn an_echo_run_against_a_relay_says_that_it_is_one() {
    for (name, arguments) in
        [("relay-echo", "echo -c 3 --duration 200ms"), ("relay-open", "echo -c 3 --rate 60 --duration 200ms")]
    {
        let (code, text) = output_of(Mode::Relay, Fault::None, name, arguments);
        assert_eq!(code, Some(1), "{text}");
        assert!(text.contains("another connection sent them") && text.contains("--app echo"), "{text}");
    }
    let (_, text) = output_of(
        Mode::Echo,
        Fault::Corrupt,
        "corrupt-echo",
        "echo -c 1 --rate 60 --duration 300ms --grace 500ms",
    );
    assert!(text.contains("1 corrupt") && !text.contains("another connection"), "{text}");
}

#[test]
fn a_room_run_against_an_echo_server_says_that_it_is_one() {
    for (name, arguments) in [
        ("echo-broadcast", "broadcast -c 3 --publishers 2 --rate 60 --duration 200ms --grace 300ms"),
        ("echo-storm", "storm -c 3 --duration 200ms --grace 300ms"),
        ("echo-idle", "idle -c 3 --duration 200ms --grace 300ms"),
    ] {
        let (code, text) = output_of(Mode::Echo, Fault::None, name, arguments);
        assert_eq!(code, Some(1), "{text}");
        assert!(text.contains("seems to echo") && text.contains("--app relay"), "{text}");
    }
    let (_, text) = output_of(
        Mode::Relay,
        Fault::Drop,
        "lossy-relay",
        "broadcast -c 3 --rate 60 --duration 300ms --grace 500ms",
    );
    assert!(text.contains("3 lost") && !text.contains("seems to echo"), "{text}");
}

#[test]
fn a_chat_that_limits_its_clients_is_named() {
    let storm = "storm -c 2 --chat --duration 1s --warmup 200ms";
    // Each round of the storm waits for two messages of 25 ms each: 20 rounds a second, as with the chat's default
    // limit.
    let limited = Fault::Delay(Duration::from_millis(25));
    let (code, text) = output_of(Mode::Chat, limited, "limited-chat", storm);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("--message-rate 0"), "{text}");
    let (code, text) = output_of(Mode::Chat, Fault::None, "free-chat", storm);
    assert_eq!(code, Some(0), "{text}");
    assert!(!text.contains("--message-rate"), "{text}");
    let broadcast = "broadcast -c 2 --chat --rate 100 --duration 1s --drain 10s --grace 5s";
    let slow = Fault::Delay(Duration::from_millis(50));
    let (_, text) = output_of(Mode::Chat, slow, "limited-broadcast", broadcast);
    assert!(text.contains("--message-rate 0"), "{text}");
}

#[test]
fn a_server_that_dies_is_named_and_fails_the_run() {
    for (name, arguments) in [
        ("dead-idle", "idle -c 4 --duration 30s"),
        ("dead-echo", "echo -c 4 --duration 30s"),
        ("dead-broadcast", "broadcast -c 4 --duration 30s"),
        ("dead-storm", "storm -c 4 --duration 30s"),
        ("dead-connect", "connect -c 4 --rate 20 --duration 30s"),
    ] {
        let (mut command, address) = own_server_command(if name.contains("echo") { "echo" } else { "relay" });
        let mut server = command.stdout(Stdio::piped()).spawn().expect("it can be started");
        read_address(&mut server);
        let pid = server.id();
        let began = Instant::now();
        let arguments = format!("{arguments} --threads 1 --grace 500ms --server-pid {pid}");
        let mut run = prepare(Command::new(PROGRAM), address, name, &arguments);
        let lines = BufReader::new(run.stderr.take().expect("it is a pipe")).lines();
        // Waits until the progress lines show that the connections are open and the run measures or idles.
        for line in lines.map_while(Result::ok) {
            if line.contains("measuring") || line.contains("idling") {
                break;
            }
        }
        server.kill().expect("it is ours");
        let (output, figures) = finish(name, run);
        server.wait().expect("it is ours");
        let text = String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.code(), Some(1), "{name}: {text}");
        assert!(text.contains(&format!("the server (process {pid}) ended")), "{name}: {text}");
        assert!(!text.contains("0.00 s user") && !text.contains("peak"), "{name}: {text}");
        assert!(figures["server"].is_null() && figures["server_end"]["seconds"].is_number(), "{figures}");
        assert!(began.elapsed() < Duration::from_secs(25), "{name} did not end early");
    }
}

#[test]
fn a_running_server_is_not_reported_as_ended() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let address = listener.local_addr().expect("it is bound");
    serve_on(listener, Mode::Echo, Fault::None);
    thread::yield_now();
    let (output, figures) = loadgen(address, "alive", "echo -c 2 --duration 200ms --quiet");
    assert!(output.status.success());
    assert!(figures["server_end"].is_null() && figures["server"].is_object(), "{figures}");
}
