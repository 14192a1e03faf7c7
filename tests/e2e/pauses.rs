//! Pauses of the whole server process, as by SIGSTOP, a debugger or a suspended virtual machine. Clients that did their
//! part during a pause are not closed, and the server handles everything that they sent.

use std::thread::sleep;
use std::time::Duration;

use nix::sys::signal::Signal;
use uproar::config::BackendName;

use crate::support::client::Client;
use crate::support::process::{Process, backend_arg};
use crate::support::raw::{
    BINARY, CLOSE, PING, PONG, RawClient, TEXT, close_payload, frame, upgrade_request,
};

on_both_backends!(
    clients_that_answered_their_ping_during_a_pause_stay_and_are_heard,
    a_silent_client_is_closed_after_a_pause_all_the_same,
    a_request_that_came_during_a_pause_is_answered,
    an_answer_to_a_close_frame_that_came_during_a_pause_counts,
    messages_that_came_during_a_pause_are_heard_before_the_server_ends,
);

/// Stops the server process for the time `pause` and runs `meanwhile` during the pause. The tests depend on the length
/// of the pause, so there is no event to wait for.
fn pause(server: &Process, pause: Duration, meanwhile: impl FnOnce()) {
    server.signal(Signal::SIGSTOP);
    meanwhile();
    sleep(pause);
    server.signal(Signal::SIGCONT);
}

fn clients_that_answered_their_ping_during_a_pause_stay_and_are_heard(backend: BackendName) {
    const CLIENTS: usize = 600;
    let options = ["--app=echo", "--workers=2", "--ping-seconds=1", "--pong-seconds=5"];
    let server = Process::start(&[&options[..], &[backend_arg(backend)]].concat());
    let mut clients: Vec<RawClient> = (0..CLIENTS).map(|_| RawClient::open(server.address, "/")).collect();
    for client in &mut clients {
        assert_eq!(client.receive_frame(), (PING, vec![]));
    }
    // Every tenth client sends more than one receive buffer holds, with its pong behind the long message.
    let long = vec![b'x'; 100_000];
    pause(&server, Duration::from_secs(7), || {
        for (number, client) in clients.iter_mut().enumerate() {
            if number.is_multiple_of(10) {
                client.send(&frame(BINARY, &long));
            }
            client.send(&frame(PONG, b""));
            client.send(&frame(TEXT, number.to_string().as_bytes()));
            client.send(&frame(TEXT, b"and this"));
        }
    });
    for (number, client) in clients.iter_mut().enumerate() {
        let mut heard = || loop {
            match client.receive_frame() {
                (PING, _) => client.send(&frame(PONG, b"")),
                other => return other,
            }
        };
        if number.is_multiple_of(10) {
            let (first, payload) = heard();
            assert!((first, payload.len()) == (BINARY, long.len()), "client {number}");
        }
        assert_eq!(heard(), (TEXT, number.to_string().into_bytes()), "client {number}");
        assert_eq!(heard(), (TEXT, b"and this".to_vec()), "client {number}");
    }
    let log = server.log();
    assert!(log.contains("the worker was paused"), "{log}");
}

fn a_silent_client_is_closed_after_a_pause_all_the_same(backend: BackendName) {
    let options = ["--app=echo", "--workers=1", "--ping-seconds=0.2", "--pong-seconds=0.5"];
    let server = Process::start(&[&options[..], &[backend_arg(backend)]].concat());
    let mut client = RawClient::open(server.address, "/");
    assert_eq!(client.receive_frame(), (PING, vec![]));
    pause(&server, Duration::from_secs(2), || {});
    assert_eq!(client.receive_close(), (1008, "no answer to a ping".into()));
}

fn a_request_that_came_during_a_pause_is_answered(backend: BackendName) {
    let options = ["--app=echo", "--workers=1", "--handshake-seconds=2"];
    let server = Process::start(&[&options[..], &[backend_arg(backend)]].concat());
    let request = upgrade_request("/");
    let (first, second) = request.as_bytes().split_at(30);
    let mut clients: Vec<RawClient> = (0..100).map(|_| RawClient::connect(server.address)).collect();
    clients.iter_mut().for_each(|client| client.send(first));
    // This client connects last, so the server has accepted all other clients.
    drop(Client::open(server.address, "/"));
    pause(&server, Duration::from_secs(3), || clients.iter_mut().for_each(|client| client.send(second)));
    for client in &mut clients {
        client.expect_upgrade();
    }
}

fn an_answer_to_a_close_frame_that_came_during_a_pause_counts(backend: BackendName) {
    let options = ["--app=chat", "--workers=1", "--close-seconds=1"];
    let server = Process::start(&[&options[..], &[backend_arg(backend)]].concat());
    let mut client = RawClient::open(server.address, "/");
    assert!(client.receive_frame().1.starts_with(b"* welcome"));
    client.send(&frame(BINARY, b"the chat takes text alone"));
    assert_eq!(client.receive_close().0, 1003);
    pause(&server, Duration::from_secs(2), || client.send(&frame(CLOSE, &close_payload(1003, ""))));
    client.expect_end();
}

fn messages_that_came_during_a_pause_are_heard_before_the_server_ends(backend: BackendName) {
    let options = ["--app=echo", "--workers=1", "--drain-seconds=0"];
    let server = Process::start(&[&options[..], &[backend_arg(backend)]].concat());
    let mut clients: Vec<RawClient> = (0..300).map(|_| RawClient::open(server.address, "/")).collect();
    pause(&server, Duration::from_millis(500), || {
        clients.iter_mut().for_each(|client| client.send(&frame(TEXT, b"last words")));
        server.signal(Signal::SIGTERM);
    });
    for client in &mut clients {
        assert_eq!(client.receive_frame(), (TEXT, b"last words".to_vec()));
        assert_eq!(client.receive_close().0, 1001);
        client.send(&frame(CLOSE, &close_payload(1001, "")));
    }
    assert_eq!(server.wait().code, Some(0));
}
