//! How the server ends, and how a connection does.

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
    a_signal_closes_all_and_ends_with_0,
    a_second_signal_ends_at_once,
    who_is_in_the_handshake_may_finish_it,
    clients_are_served_and_accepted_until_the_delay_is_over,
    stopping_from_the_library_does_the_same,
    what_a_client_is_owed_comes_before_its_farewell,
    who_goes_on_sending_after_the_close_is_cut_off,
);

fn a_signal_closes_all_and_ends_with_0(backend: BackendName) {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let server = Process::start(&["--workers=2", "--drain-seconds=0.2", backend_arg(backend)]);
        // It comes first, so it is accepted when the others are.
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
        assert!(ended.log.contains("ended totals=Totals { accepted: 21, closed: 21,"), "{}", ended.log);
    }
}

fn a_second_signal_ends_at_once(backend: BackendName) {
    let args = ["--workers=1", "--drain-seconds=600", "--close-seconds=600", backend_arg(backend)];
    let server = Process::start(&args);
    let mut client = RawClient::open(server.address, "/");
    client.receive_frame();
    server.signal(Signal::SIGTERM);
    // It does not answer, so the server waits for it.
    assert_eq!(client.receive_close().0, 1001);
    server.signal(Signal::SIGTERM);
    let ended = server.wait();
    assert_eq!(ended.code, Some(130), "{}", ended.log);
}

/// Another server may listen on the address already, but it does not know of this client.
fn who_is_in_the_handshake_may_finish_it(backend: BackendName) {
    let args = ["--app=echo", "--workers=1", "--drain-seconds=600", backend_arg(backend)];
    let server = Process::start(&args);
    let mut early = RawClient::connect(server.address);
    early.send(b"GET / HTTP/1.1\r\n");
    let mut other = Client::open(server.address, "/");
    server.signal(Signal::SIGTERM);
    assert_eq!(other.wait_for_close().0, 1001);
    early.send(upgrade_request("/").split_once("\r\n").expect("lines").1.as_bytes());
    early.expect_upgrade();
    assert_eq!(early.receive_close().0, 1001);
    drop((early, other));
    assert_eq!(server.wait().code, Some(0));
}

fn clients_are_served_and_accepted_until_the_delay_is_over(backend: BackendName) {
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
    assert!(ended.log.contains("ended totals=Totals { accepted: 2, closed: 2,"), "{}", ended.log);
}

fn stopping_from_the_library_does_the_same(backend: BackendName) {
    let server = TestServer::start(&config(backend, AppName::Relay, 4));
    let clients: Vec<_> = (0..10).map(|_| Client::open(server.address(), "/")).collect();
    let control = server.control();
    control.stop();
    for mut client in clients {
        assert_eq!(client.wait_for_close(), (1001, "the server is shutting down".into()));
    }
}

/// More than the kernel can hold for the reader waits in the server when it ends.
fn what_a_client_is_owed_comes_before_its_farewell(backend: BackendName) {
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

/// Long before its time for closing is over, and having cost no more than what could have been on its way.
fn who_goes_on_sending_after_the_close_is_cut_off(backend: BackendName) {
    let base = config(backend, AppName::Echo, 1);
    let server = TestServer::start(&Config { close_seconds: Duration::from_secs(600), ..base });
    let mut flooder = TcpStream::connect(server.address()).expect("a connection");
    flooder.write_all(upgrade_request("/").as_bytes()).expect("sent");
    // An unmasked frame: the server closes with 1002 and waits for the client's end.
    flooder.write_all(&[0x81, 0x00]).expect("sent");
    let taken = flood(flooder);
    assert!(taken > 4 << 20, "what was on its way is taken: {taken} bytes");
    assert!(taken < 128 << 20, "{taken} bytes");
}
