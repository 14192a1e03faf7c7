//! Tests of every scenario against a correct server.

use std::time::Duration;

use serde_json::Value;

use crate::server::{Fault, Mode, loadgen, serve};

fn passes(mode: Mode, name: &str, arguments: &str) -> Value {
    let (output, figures) = loadgen(serve(mode, Fault::None), name, arguments);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    assert_eq!(figures["passed"], true);
    let messages = &figures["messages"];
    for fault in ["lost", "duplicated", "reordered", "corrupt", "foreign"] {
        assert_eq!(messages[fault], 0, "{fault} in {messages}");
    }
    figures
}

#[test]
fn echo_passes_in_a_closed_loop() {
    let figures = passes(Mode::Echo, "closed", "echo -c 5 --threads 2 --pipeline 3 --duration 300ms");
    assert_eq!(figures["messages"]["sent"], figures["messages"]["received"]);
    assert!(figures["messages"]["received"].as_u64() >= Some(15));
}

#[test]
fn echo_passes_in_an_open_loop() {
    let figures = passes(Mode::Echo, "open", "echo -c 5 --threads 2 --rate 200 --duration 500ms --size 300");
    assert_eq!(figures["messages"]["sent"], 100);
    assert_eq!(figures["latency"]["count"], 100);
}

#[test]
fn broadcast_passes() {
    let figures = passes(
        Mode::Relay,
        "broadcast",
        "broadcast -c 9 --threads 2 --publishers 3 --rate 60 --duration 500ms",
    );
    assert_eq!(figures["messages"]["sent"], 30);
    assert_eq!(figures["messages"]["received"], 270);
    assert_eq!(figures["one_order"], true);
}

#[test]
fn a_chat_is_understood_with_the_option_chat() {
    let arguments = "broadcast -c 12 --publishers 11 --rate 60 --duration 500ms";
    let figures = passes(Mode::Chat, "chat", &format!("{arguments} --chat"));
    assert_eq!((&figures["messages"]["sent"], &figures["messages"]["received"]), (&30.into(), &360.into()));
    let (output, figures) = loadgen(serve(Mode::Chat, Fault::None), "no-chat", arguments);
    assert!(!output.status.success() && figures["messages"]["foreign"].as_u64() >= Some(360));
    assert!(String::from_utf8_lossy(&output.stdout).contains("--chat"));
}

#[test]
fn storm_passes() {
    let figures = passes(Mode::Relay, "storm", "storm -c 6 --threads 3 --duration 300ms");
    let (sent, received) = (&figures["messages"]["sent"], &figures["messages"]["received"]);
    assert_eq!(sent.as_u64().map(|sent| sent * 6), received.as_u64());
    assert!(figures["rounds"]["time"]["count"].as_u64() >= Some(1));
}

#[test]
fn idle_passes() {
    let figures = passes(Mode::Relay, "idle", "idle -c 20 --duration 200ms");
    assert_eq!(figures["messages"]["received"], 20);
    assert_eq!(figures["latency"]["count"], 20);
    assert!(figures["bytes_per_connection"]["server_rss"].is_number());
}

#[test]
fn connect_passes() {
    let figures = passes(Mode::Echo, "connect", "connect -c 8 --threads 2 --rate 100 --duration 300ms");
    assert_eq!(figures["messages"]["sent"], figures["messages"]["received"]);
    assert_eq!(figures["connections"]["opened"], figures["messages"]["received"]);
    assert_eq!(figures["connections"]["ended"], serde_json::json!({}));
}

#[test]
fn a_slow_storm_counts_the_part_of_its_round() {
    // The server delays each message by 300 ms, so a round of three messages takes at least 900 ms.
    let slow = serve(Mode::Relay, Fault::Delay(Duration::from_millis(300)));
    let arguments = "storm -c 3 --size 20 --duration 100ms --drain 0";
    let (output, figures) = loadgen(slow, "slow", arguments);
    let messages = &figures["messages"];
    assert!(output.status.success(), "{messages}");
    assert_eq!(figures["rounds"]["time"]["count"], 0);
    assert_eq!((&messages["sent"], &messages["lost"]), (&3.into(), &0.into()));
    let counts = ["received", "unfinished"].map(|name| messages[name].as_u64().unwrap_or(0));
    assert!(counts[1] > 0 && counts[0] + counts[1] == 9, "{messages}");
    let rounds = figures["rounds"]["per_second"].as_f64().unwrap_or(f64::NAN);
    let measured = messages["measured"].as_f64().unwrap_or(f64::NAN);
    assert!((rounds * 9.0 * 0.1 - measured).abs() < 1e-6, "{rounds} rounds/s, {messages}");
}
