//! Tests that every fault of a server fails the run, and that the output names the fault.

use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use serde_json::Value;

use crate::server::{Fault, Mode, loadgen, serve};

const BROADCAST: &str = "broadcast -c 4 --threads 2 --rate 60 --duration 300ms --grace 1s";
const ECHO: &str = "echo -c 1 --rate 60 --duration 300ms --grace 1s";

/// Runs loadgen against a server with the fault `fault`. Returns the figures and the output of the run, which must
/// fail.
fn fails(mode: Mode, fault: Fault, name: &str, arguments: &str) -> (Value, String) {
    let (output, figures) = loadgen(serve(mode, fault), name, arguments);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert_eq!(figures["passed"], false);
    (figures, text)
}

/// Asserts that `fault` is counted once per receiver, and that no other kind of fault is counted.
fn only(figures: &Value, fault: &str, receivers: u64) {
    for name in ["lost", "duplicated", "reordered", "corrupt"] {
        let expected = if name == fault { receivers } else { 0 };
        assert_eq!(figures["messages"][name], expected, "{name} in {}", figures["messages"]);
    }
}

#[test]
fn a_lost_message_fails_the_run() {
    only(&fails(Mode::Relay, Fault::Drop, "drop-b", BROADCAST).0, "lost", 4);
    only(&fails(Mode::Echo, Fault::Drop, "drop-e", ECHO).0, "lost", 1);
}

#[test]
fn a_duplicated_message_fails_the_run() {
    only(&fails(Mode::Relay, Fault::Duplicate, "duplicate-b", BROADCAST).0, "duplicated", 4);
    only(&fails(Mode::Echo, Fault::Duplicate, "duplicate-e", ECHO).0, "duplicated", 1);
}

#[test]
fn a_reordered_message_fails_the_run() {
    only(&fails(Mode::Relay, Fault::Reorder, "reorder-b", BROADCAST).0, "reordered", 4);
    only(&fails(Mode::Echo, Fault::Reorder, "reorder-e", ECHO).0, "reordered", 1);
}

#[test]
fn an_altered_message_fails_the_run() {
    // Each receiver counts an altered message as corrupt, and its original as lost.
    for (fault, name) in [(Fault::Corrupt, "corrupt"), (Fault::Binary, "binary")] {
        let messages = &fails(Mode::Relay, fault, name, BROADCAST).0["messages"];
        assert_eq!((&messages["corrupt"], &messages["lost"]), (&4.into(), &4.into()));
    }
}

#[test]
fn a_storm_with_an_incomplete_round_fails() {
    let storm = "storm -c 3 --threads 2 --duration 300ms --grace 1s";
    only(&fails(Mode::Relay, Fault::Drop, "drop-s", storm).0, "lost", 3);
    let (figures, _) = fails(Mode::Relay, Fault::Duplicate, "duplicate-s", storm);
    assert_eq!(figures["messages"]["duplicated"], 3);
}

#[test]
fn a_closed_connection_fails_the_run() {
    let (figures, text) = fails(Mode::Echo, Fault::Close, "close", ECHO);
    assert!(figures["messages"]["lost"].as_u64() >= Some(1));
    assert!(text.contains("the server closed with code 1013: lagged"), "{text}");
}

#[test]
fn a_message_to_everybody_is_not_an_echo() {
    let (figures, _) =
        fails(Mode::Relay, Fault::None, "misdelivered", "echo -c 2 --rate 40 --duration 300ms");
    assert_eq!(figures["messages"]["corrupt"], figures["messages"]["sent"]);
}

#[test]
fn a_known_delay_is_measured() {
    let delay = Fault::Delay(Duration::from_millis(60));
    let (output, figures) = loadgen(serve(Mode::Echo, delay), "delay", "echo -c 1 --duration 1s");
    assert!(output.status.success());
    let latency = &figures["latency"];
    // The histogram has three significant digits, so the minimum may look slightly shorter than the delay of 60 ms. A
    // busy machine adds to the latency.
    assert!(latency["min_us"].as_f64() >= Some(59_940.0), "{latency}");
    assert!(latency["p50_us"].as_f64() < Some(1_000_000.0), "{latency}");
}

#[test]
fn a_stall_shows_in_the_latency_of_an_open_loop() {
    let stall = Fault::Stall(Duration::from_secs(1));
    let open = "echo -c 1 --rate 100 --duration 2s";
    let (output, figures) = loadgen(serve(Mode::Echo, stall), "stall", open);
    assert!(output.status.success());
    let latency = &figures["latency"];
    // Of 200 messages, about 100 were due during the stall of one second and waited for its end. At least 50 of them
    // waited for half a second.
    assert_eq!(latency["count"], 200);
    assert!(latency["max_us"].as_f64() >= Some(999_000.0), "{latency}");
    assert!(latency["p90_us"].as_f64() >= Some(500_000.0), "{latency}");
}

/// Returns the error text of a run that loadgen refuses to start (exit code 2).
fn cannot(address: SocketAddr, name: &str, arguments: &str) -> String {
    let (output, figures) = loadgen(address, name, arguments);
    assert_eq!((output.status.code(), figures), (Some(2), Value::Null));
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn errors_name_the_way_out() {
    let unused =
        TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a port is free");
    let refused = cannot(unused, "refused", "echo -c 3");
    assert!(refused.contains("refused the connection; start the server there"), "{refused}");

    let web = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let address = web.local_addr().expect("it is bound");
    std::thread::spawn(move || {
        use std::io::{Read as _, Write as _};
        for mut stream in web.incoming().flatten() {
            let _ = stream.read(&mut [0; 1000]);
            let _ = stream.write_all(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 12\r\n\r\nnot for you!");
        }
    });
    let answered = cannot(address, "answered", "echo -c 3");
    assert!(answered.contains("403 Forbidden") && answered.contains("not for you!"), "{answered}");

    let silent = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let address = silent.local_addr().expect("it is bound");
    let unanswered = cannot(address, "unanswered", "connect -c 1 --connect-timeout 100ms --duration 500ms");
    assert!(unanswered.contains("was not answered in time"), "{unanswered}");
}
