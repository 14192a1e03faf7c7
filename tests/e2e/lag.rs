//! Clients that read too slowly: other clients are not affected, and the slow client is told.

use std::time::Duration;

use uproar::config::{AppName, BackendName, Config, LagPolicy};

use crate::support::many_clients::ManyClients;
use crate::support::process::{Process, backend_arg};
use crate::support::raw::{BINARY, CLOSE, RawClient, TEXT, close_payload, frame};
use crate::support::{TestServer, config, wait_until};

on_both_backends!(
    a_client_that_never_reads_does_not_affect_the_others,
    with_the_skip_policy_a_slow_client_learns_how_many_messages_it_missed,
    a_client_that_does_not_read_its_answers_is_not_received_from,
);

fn a_client_that_never_reads_does_not_affect_the_others(backend: BackendName) {
    const READERS: usize = 100;
    const LEN: usize = 64 << 10;
    const MESSAGES: u64 = (100 << 20) / LEN as u64;
    /// Number of messages in flight: half the lag window, so that a client that reads does not lag.
    const AHEAD: u64 = 8;
    let server = Process::start(&[
        "--app=relay",
        "--workers=2",
        "--close-seconds=600",
        "--ping-seconds=600",
        backend_arg(backend),
    ]);
    let mut slow = RawClient::open(server.address, "/room/r").with_small_window();
    slow.send(&frame(TEXT, b"I am here"));
    assert_eq!(slow.receive_frame().1, b"I am here");
    let mut clients = ManyClients::join_room(server.address, "r", READERS + 1);
    let memory_before = server.memory_kib("VmHWM");

    let mut payload = pattern(LEN);
    let expected = payload.clone();
    let mut received = vec![0_u64; clients.len()];
    let mut sent = 0;
    while *received.iter().min().expect("there are clients") < MESSAGES {
        while sent < MESSAGES && sent - received.iter().min().expect("there are clients") < AHEAD {
            payload[..8].copy_from_slice(&sent.to_be_bytes());
            clients.send_binary(0, &payload);
            sent += 1;
        }
        clients.poll(|reader, _, payload| {
            assert_eq!(payload[..8], received[reader].to_be_bytes());
            assert!(payload[8..] == expected[8..], "a damaged message");
            received[reader] += 1;
        });
    }
    assert!(received.iter().all(|count| *count == MESSAGES));
    // Allowed growth: the room's log window and the spans in flight. The unread messages are four times as large.
    let grown = server.memory_kib("VmHWM") - memory_before;
    assert!(grown < 24 << 10, "{grown} KiB more than before");

    let mut next = 0_u64;
    let last = loop {
        let (first, payload) = slow.receive_frame();
        if first != BINARY {
            break (first, payload);
        }
        // Skip shorter messages: the clients sent them when they joined.
        if payload.len() == LEN {
            assert_eq!(payload[..8], next.to_be_bytes());
            assert!(payload[8..] == expected[8..], "a damaged message");
            next += 1;
        }
    };
    assert_eq!(last, (CLOSE, close_payload(1013, "lagged")));
    assert!(next < MESSAGES, "the slow client received all messages");
    slow.send(&frame(CLOSE, &close_payload(1013, "")));
    slow.expect_end();
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at * 31 % 251) as u8).collect()
}

fn with_the_skip_policy_a_slow_client_learns_how_many_messages_it_missed(backend: BackendName) {
    const LEN: usize = 16 << 10;
    let base = config(backend, AppName::Relay, 2);
    let server = TestServer::start(&Config { lag_policy: LagPolicy::Skip, lag_window: 256 << 10, ..base });
    let mut slow = RawClient::open(server.address(), "/room/r").with_small_window();
    slow.send(&frame(TEXT, b"I am here"));
    assert_eq!(slow.receive_frame().1, b"I am here");
    let mut publisher = ManyClients::join_room(server.address(), "r", 1);
    let mut payload = pattern(LEN);
    let expected = payload.clone();
    let mut publish = |number: u64| {
        payload[..8].copy_from_slice(&number.to_be_bytes());
        publisher.send_binary(0, &payload);
        let mut is_echoed = false;
        while !is_echoed {
            publisher.poll(|_, _, echo| is_echoed |= echo == payload);
        }
    };
    let mut sent = 0;
    while server.totals().lagged == 0 {
        publish(sent);
        sent += 1;
    }
    for _ in 0..10 {
        publish(sent);
        sent += 1;
    }
    let (mut next, mut missed) = (0_u64, 0);
    while next < sent {
        let (first, payload) = slow.receive_frame();
        if first == TEXT {
            let text = String::from_utf8(payload).expect("text");
            let count = text.strip_prefix("* ").and_then(|text| text.strip_suffix(" messages missed"));
            let count: u64 = count.and_then(|count| count.parse().ok()).expect(&text);
            missed += count;
            next += count;
        } else if payload.len() == LEN {
            assert_eq!(payload[..8], next.to_be_bytes(), "the messages continue after the announced gap");
            assert!(payload[8..] == expected[8..], "a damaged message");
            next += 1;
        }
    }
    assert!(missed > 0);
    // The client that lagged is still a member of the room.
    slow.send(&frame(TEXT, b"I read again"));
    assert_eq!(slow.receive_frame(), (TEXT, b"I read again".to_vec()));
}

fn a_client_that_does_not_read_its_answers_is_not_received_from(backend: BackendName) {
    const LEN: usize = 100_000;
    const MESSAGES: usize = 300;
    let base = config(backend, AppName::Echo, 1);
    let server = TestServer::start(&Config { ping_seconds: Duration::from_secs(600), ..base });
    let (stream, _) = RawClient::open(server.address(), "/").with_small_window().into_parts();
    let mut raw = RawClient::from_stream(stream.try_clone().expect("the handle can be duplicated"));
    // The client reads nothing, so its writes block when the kernel's buffers and the server's outbox are full.
    let writer = std::thread::spawn(move || {
        let mut raw = RawClient::from_stream(stream);
        for number in 0..MESSAGES {
            raw.send(&frame(BINARY, &vec![number as u8; LEN]));
        }
    });
    let mut received = 0;
    wait_until("the server has stopped receiving", || {
        let now = server.totals().messages_in;
        let stopped = now > 0 && now == received;
        received = now;
        stopped
    });
    for number in 0..MESSAGES {
        assert!(raw.receive_frame() == (BINARY, vec![number as u8; LEN]), "the echo differs");
    }
    writer.join().expect("the server reads everything");
    assert_eq!(server.totals().lagged, 0);
}
