//! Timeouts for clients that send nothing.

use std::time::Duration;

use tungstenite::Message;
use uproar::config::{AppName, BackendName, Config};

use crate::support::client::Client;
use crate::support::raw::{CLOSE, PING, PONG, RawClient, close_payload, frame, upgrade_request};
use crate::support::{TestServer, config, wait_until};

on_both_backends!(
    a_request_that_does_not_arrive_in_time_gets_408,
    silent_clients_are_pinged_and_then_closed,
    a_client_that_answers_pings_stays_connected,
    a_closing_handshake_has_a_timeout,
    a_refused_client_that_stays_is_reset,
);

const SHORT: Duration = Duration::from_millis(100);
const LONG: Duration = Duration::from_secs(600);

fn a_request_that_does_not_arrive_in_time_gets_408(backend: BackendName) {
    let base = config(backend, AppName::Echo, 1);
    let server = TestServer::start(&Config { handshake_seconds: SHORT, ..base });
    for beginning in [&b""[..], b"\r\n", b"G", b"GET / HTTP/1.1\r\nHost: localhost\r\n"] {
        let mut raw = RawClient::connect(server.address());
        raw.send(beginning);
        let response = raw.receive_response();
        assert_eq!(response.status, 408, "{response:?}");
    }
    // The handshake timeout covers the whole request and does not restart at each byte.
    let mut raw = RawClient::connect(server.address());
    raw.send(b"GET / HTTP/1.1\r\nX: ");
    wait_until("the server refuses the request", || {
        raw.try_send(b"x");
        server.totals().refused == 5
    });
    assert_eq!(raw.receive_response().status, 408);
}

fn silent_clients_are_pinged_and_then_closed(backend: BackendName) {
    let base = config(backend, AppName::Echo, 1);
    let server = TestServer::start(&Config { ping_seconds: SHORT, pong_seconds: SHORT, ..base });
    let mut raw = RawClient::open(server.address(), "/");
    assert_eq!(raw.receive_frame(), (PING, vec![]));
    raw.send(&frame(PONG, b""));
    assert_eq!(raw.receive_frame(), (PING, vec![]), "the pong restarts the ping timer");
    assert_eq!(raw.receive_close(), (1008, "no answer to a ping".into()));
    raw.send(&frame(CLOSE, &close_payload(1008, "")));
    raw.expect_end();
}

fn a_client_that_answers_pings_stays_connected(backend: BackendName) {
    let base = config(backend, AppName::Echo, 1);
    let server = TestServer::start(&Config { ping_seconds: SHORT, pong_seconds: LONG, ..base });
    let mut client = Client::open(server.address(), "/");
    for _ in 0..5 {
        // The tungstenite client sends its pong with the next read.
        assert!(matches!(client.socket.read(), Ok(Message::Ping(_))));
    }
    client.send_text("still here");
    client.expect_text("still here");
}

fn a_closing_handshake_has_a_timeout(backend: BackendName) {
    let base = config(backend, AppName::Chat, 1);
    let server = TestServer::start(&Config { close_seconds: SHORT, ..base });
    let mut raw = RawClient::open(server.address(), "/");
    assert!(raw.receive_frame().1.starts_with(b"* welcome"));
    raw.send(&frame(0x82, b"binary"));
    assert_eq!(raw.receive_close().0, 1003);
    // The client neither answers the close frame nor closes, so the server resets the connection.
    raw.expect_reset();
    wait_until("the connection is released", || server.connections().0 == 0);
}

fn a_refused_client_that_stays_is_reset(backend: BackendName) {
    let base = config(backend, AppName::Echo, 1);
    let server = TestServer::start(&Config { close_seconds: SHORT, ..base });
    let mut raw = RawClient::connect(server.address());
    raw.send(upgrade_request("/nowhere").as_bytes());
    assert_eq!(raw.receive_response().status, 404);
    wait_until("the connection is released although the client has not closed it", || {
        server.connections().0 == 0
    });
    drop(raw);
}
