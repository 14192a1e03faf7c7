//! Rate limits: a client that sends too fast is paused and loses no message.

use std::time::Duration;

use tungstenite::Message;
use uproar::config::{AppName, BackendName, Config};

use crate::support::client::Client;
use crate::support::raw::{BINARY, CLOSE, PING, PONG, RawClient, close_payload, frame};
use crate::support::{TestServer, config, wait_until};

on_both_backends!(
    no_message_above_the_rate_is_lost,
    bytes_have_their_own_rate,
    a_close_after_too_many_messages_is_answered,
    the_end_of_the_stream_is_handled_after_too_many_messages,
    a_flood_of_pings_is_answered_at_the_rate,
    the_server_shuts_down_while_clients_are_paused,
    a_paused_client_that_disconnects_is_released,
);

fn echo(backend: BackendName, message_rate: u32, byte_rate: u32) -> TestServer {
    let base = config(backend, AppName::Echo, 1);
    TestServer::start(&Config { message_rate: Some(message_rate), byte_rate: Some(byte_rate), ..base })
}

fn no_message_above_the_rate_is_lost(backend: BackendName) {
    let server = echo(backend, 400, 0);
    let mut fast = RawClient::open(server.address(), "/");
    let message = |n: u32| n.to_be_bytes();
    let all: Vec<u8> = (0..2_000).flat_map(|n| frame(BINARY, &message(n))).collect();
    fast.send(&all);
    // Another client is not delayed by the paused client.
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

fn bytes_have_their_own_rate(backend: BackendName) {
    let server = echo(backend, 0, 100_000);
    let mut client = Client::open(server.address(), "/");
    let long = Message::binary(vec![7; 500_000]);
    client.send(long.clone());
    assert_eq!(client.receive(), long);
    client.send_text("short");
    client.expect_text("short");
    assert!(server.totals().throttled > 0);
}

fn a_close_after_too_many_messages_is_answered(backend: BackendName) {
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

fn the_end_of_the_stream_is_handled_after_too_many_messages(backend: BackendName) {
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

fn the_server_shuts_down_while_clients_are_paused(backend: BackendName) {
    let base = config(backend, AppName::Echo, 1);
    let server = TestServer::start(&Config {
        message_rate: Some(1),
        close_seconds: Duration::from_secs(20),
        drain_seconds: Duration::from_secs(20),
        ..base
    });
    let mut raw = RawClient::open(server.address(), "/");
    raw.send(&frame(BINARY, b"x").repeat(1_000));
    wait_until("the client is paused", || server.totals().throttled > 0);
    server.stop();
    while raw.receive_frame().0 != CLOSE {}
    raw.try_send(&frame(CLOSE, &close_payload(1001, "")));
    raw.expect_end();
}

/// At the rate of one message a second, the client's 4,000 pongs would take an hour.
fn a_paused_client_that_disconnects_is_released(backend: BackendName) {
    let base = config(backend, AppName::Chat, 1);
    let ping_seconds = Duration::from_millis(100);
    let server = TestServer::start(&Config { message_rate: Some(1), ping_seconds, ..base });
    let mut raw = RawClient::open(server.address(), "/");
    raw.send(&frame(PONG, b"").repeat(4_000));
    wait_until("the client is paused", || server.totals().throttled > 0);
    raw.abort();
    wait_until("the connection is released", || server.connections().0 == 0);
}
