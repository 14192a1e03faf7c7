//! Clients that send faster than they may: they wait, lose nothing, and cost nobody anything.

use std::time::Duration;

use tungstenite::Message;
use uproar::config::{AppName, BackendName, Config};

use crate::support::client::Client;
use crate::support::raw::{BINARY, CLOSE, PING, PONG, RawClient, close_payload, frame};
use crate::support::{TestServer, config, wait_until};

on_both_backends!(
    nothing_is_lost_over_the_rate,
    bytes_have_a_rate_of_their_own,
    a_close_behind_too_many_messages_is_answered,
    an_end_behind_too_many_messages_comes_after_them,
    a_flood_of_pings_is_answered_at_the_rate,
    a_server_ends_while_clients_wait,
    who_waits_and_is_gone_is_forgotten,
);

fn echo(backend: BackendName, message_rate: u32, byte_rate: u32) -> TestServer {
    let base = config(backend, AppName::Echo, 1);
    TestServer::start(&Config { message_rate: Some(message_rate), byte_rate: Some(byte_rate), ..base })
}

fn nothing_is_lost_over_the_rate(backend: BackendName) {
    let server = echo(backend, 400, 0);
    let mut fast = RawClient::open(server.address(), "/");
    let message = |n: u32| n.to_be_bytes();
    let all: Vec<u8> = (0..2_000).flat_map(|n| frame(BINARY, &message(n))).collect();
    fast.send(&all);
    // Somebody else is not held up by it.
    let mut other = Client::open(server.address(), "/");
    for n in 0..100 {
        other.send_text(&n.to_string());
        other.expect_text(&n.to_string());
    }
    for n in 0..2_000 {
        assert_eq!(fast.receive_frame(), (BINARY, message(n).to_vec()));
    }
    assert!(server.totals().throttled > 0);
}

fn bytes_have_a_rate_of_their_own(backend: BackendName) {
    let server = echo(backend, 0, 100_000);
    let mut client = Client::open(server.address(), "/");
    let long = Message::binary(vec![7; 500_000]);
    client.send(long.clone());
    assert_eq!(client.receive(), long);
    client.send_text("short");
    client.expect_text("short");
    assert!(server.totals().throttled > 0);
}

fn a_close_behind_too_many_messages_is_answered(backend: BackendName) {
    let server = echo(backend, 100, 0);
    let mut raw = RawClient::open(server.address(), "/");
    let mut bytes = frame(BINARY, b"x").repeat(450);
    bytes.extend(frame(CLOSE, &close_payload(1000, "")));
    raw.send(&bytes);
    for _ in 0..450 {
        assert_eq!(raw.receive_frame().0, BINARY);
    }
    assert_eq!(raw.receive_close().0, 1000);
    raw.expect_end();
    assert!(server.totals().throttled > 0);
}

fn an_end_behind_too_many_messages_comes_after_them(backend: BackendName) {
    let server = echo(backend, 100, 0);
    let mut raw = RawClient::open(server.address(), "/");
    raw.send(&frame(BINARY, b"x").repeat(450));
    raw.half_close();
    for _ in 0..450 {
        assert_eq!(raw.receive_frame().0, BINARY);
    }
    raw.expect_end();
}

fn a_flood_of_pings_is_answered_at_the_rate(backend: BackendName) {
    let server = echo(backend, 200, 0);
    let mut raw = RawClient::open(server.address(), "/");
    raw.send(&frame(PING, b"p").repeat(900));
    for _ in 0..900 {
        assert_eq!(raw.receive_frame(), (PONG, b"p".to_vec()));
    }
    assert!(server.totals().throttled > 0);
}

fn a_server_ends_while_clients_wait(backend: BackendName) {
    let base = config(backend, AppName::Echo, 1);
    let server = TestServer::start(&Config {
        message_rate: Some(1),
        close_seconds: Duration::from_secs(20),
        drain_seconds: Duration::from_secs(20),
        ..base
    });
    let mut raw = RawClient::open(server.address(), "/");
    raw.send(&frame(BINARY, b"x").repeat(1_000));
    wait_until("it has to wait", || server.totals().throttled > 0);
    server.stop();
    while raw.receive_frame().0 != CLOSE {}
    raw.try_send(&frame(CLOSE, &close_payload(1001, "")));
    raw.expect_end();
}

/// Though so much was received ahead that it would keep the server busy for an hour.
fn who_waits_and_is_gone_is_forgotten(backend: BackendName) {
    let base = config(backend, AppName::Chat, 1);
    let ping_seconds = Duration::from_millis(100);
    let server = TestServer::start(&Config { message_rate: Some(1), ping_seconds, ..base });
    let mut raw = RawClient::open(server.address(), "/");
    raw.send(&frame(PONG, b"").repeat(4_000));
    wait_until("it has to wait", || server.totals().throttled > 0);
    raw.abort();
    wait_until("it is forgotten", || server.connections().0 == 0);
}
