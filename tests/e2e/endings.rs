//! Shutdown of the server and closing of connections.

use std::io::Write;
use std::net::TcpStream;
use std::time::Duration;

use nix::sys::signal::Signal;
use uproar::config::{AppName, BackendName, Config};

use crate::support::client::Client;
use crate::support::process::{Process, backend_arg};
use crate::support::raw::{RawClient, TEXT, upgrade_request};
use crate::support::{TestServer, config, send_until_closed};

on_both_backends!(
    a_signal_closes_all_clients_and_the_server_exits_with_0,
    a_second_signal_ends_the_server_at_once,
    a_handshake_in_progress_at_shutdown_can_finish,
    clients_are_served_and_accepted_during_the_drain_delay,
    the_library_stops_a_server_as_a_signal_does,
    pending_messages_are_sent_before_the_close_frame,
    a_client_that_keeps_sending_after_the_close_is_reset,
);

fn a_signal_closes_all_clients_and_the_server_exits_with_0(backend: BackendName) {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let server = Process::start(&["--workers=2", "--drain-seconds=0.2", backend_arg(backend)]);
        // This connection comes first, so the server has accepted it once later clients are served.
        let mut waiting = RawClient::connect(server.address);
        waiting.send(b"GET / HTTP/1.1\r\n");
        let clients: Vec<_> = (0..20).map(|_| Client::open(server.address, "/")).collect();
        server.signal(signal);
        for mut client in clients {
            assert_eq!(client.wait_for_close(), (1001, "the server is shutting down".into()));
        }
        assert_eq!(waiting.receive_response().status, 503);
        drop(waiting);
        let ended = server.wait();
        assert_eq!(ended.code, Some(0), "{}", ended.log);
        assert!(ended.log.contains("ended accepted=21 closed=21 "), "{}", ended.log);
    }
}

fn a_second_signal_ends_the_server_at_once(backend: BackendName) {
    let args = ["--workers=1", "--drain-seconds=600", "--close-seconds=600", backend_arg(backend)];
    let server = Process::start(&args);
    let mut client = RawClient::open(server.address, "/");
    client.receive_frame();
    server.signal(Signal::SIGTERM);
    // The client does not answer the close frame, so the server waits for the closing handshake.
    assert_eq!(client.receive_close().0, 1001);
    server.signal(Signal::SIGTERM);
    let ended = server.wait();
    assert_eq!(ended.code, Some(130), "{}", ended.log);
}

/// A handshake that was in progress at shutdown is finished: another server on the address cannot take the connection
/// over.
fn a_handshake_in_progress_at_shutdown_can_finish(backend: BackendName) {
    let args = ["--app=echo", "--workers=1", "--drain-seconds=600", backend_arg(backend)];
    let server = Process::start(&args);
    let mut early = RawClient::connect(server.address);
    early.send(b"GET / HTTP/1.1\r\n");
    let mut other = Client::open(server.address, "/");
    server.signal(Signal::SIGTERM);
    assert_eq!(other.wait_for_close().0, 1001);
    early.send(upgrade_request("/").split_once("\r\n").expect("a request of several lines").1.as_bytes());
    early.expect_upgrade();
    assert_eq!(early.receive_close().0, 1001);
    drop((early, other));
    assert_eq!(server.wait().code, Some(0));
}

fn clients_are_served_and_accepted_during_the_drain_delay(backend: BackendName) {
    let args = ["--app=echo", "--workers=2", "--drain-delay=2", "--drain-seconds=0.1", backend_arg(backend)];
    let server = Process::start(&args);
    let mut early = Client::open(server.address, "/");
    server.signal(Signal::SIGTERM);
    let mut late = Client::open(server.address, "/");
    for client in [&mut early, &mut late] {
        client.send_text("still here");
        client.expect_text("still here");
    }
    for mut client in [early, late] {
        assert_eq!(client.wait_for_close(), (1001, "the server is shutting down".into()));
    }
    let ended = server.wait();
    assert_eq!(ended.code, Some(0), "{}", ended.log);
    assert!(ended.log.contains("ended accepted=2 closed=2 "), "{}", ended.log);
}

fn the_library_stops_a_server_as_a_signal_does(backend: BackendName) {
    let server = TestServer::start(&config(backend, AppName::Relay, 4));
    let clients: Vec<_> = (0..10).map(|_| Client::open(server.address(), "/")).collect();
    let control = server.control();
    control.stop();
    for mut client in clients {
        assert_eq!(client.wait_for_close(), (1001, "the server is shutting down".into()));
    }
}

/// The pending messages exceed the kernel's buffers, so some are still in the server at shutdown.
fn pending_messages_are_sent_before_the_close_frame(backend: BackendName) {
    let server = TestServer::start(&Config {
        lag_window: 64 << 20,
        close_seconds: Duration::from_secs(600),
        ..config(backend, AppName::Relay, 1)
    });
    let mut reader = RawClient::open(server.address(), "/").with_small_window();
    let mut publisher = Client::open(server.address(), "/");
    let text = |number: usize| format!("{number:05} {}", "x".repeat(32 << 10));
    for number in 0..600 {
        publisher.send_text(&text(number));
        publisher.expect_text(&text(number));
    }
    server.stop();
    assert_eq!(publisher.wait_for_close().0, 1001);
    for number in 0..600 {
        assert_eq!(reader.receive_frame(), (TEXT, text(number).into_bytes()));
    }
    assert_eq!(reader.receive_close(), (1001, "the server is shutting down".into()));
}

/// The server resets the client long before the closing timeout, after a bounded number of bytes.
fn a_client_that_keeps_sending_after_the_close_is_reset(backend: BackendName) {
    let base = config(backend, AppName::Echo, 1);
    let server = TestServer::start(&Config { close_seconds: Duration::from_secs(600), ..base });
    let mut client = TcpStream::connect(server.address()).expect("the server accepts the connection");
    client.write_all(upgrade_request("/").as_bytes()).expect("the server reads");
    // Send an unmasked frame. The server closes with 1002 and waits for the client to close.
    client.write_all(&[0x81, 0x00]).expect("the server reads");
    let sent = send_until_closed(client);
    // Bytes that were in flight when the server closed must not cause a reset.
    assert!(sent > 4 << 20, "reset after {sent} bytes");
    assert!(sent < 128 << 20, "not reset after {sent} bytes");
}
