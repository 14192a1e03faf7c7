//! Clients that read slowly cost the others nothing, and hear what became of them.

use std::time::Duration;

use uproar::config::{AppName, BackendName, Config, LagPolicy};

use crate::support::many_clients::ManyClients;
use crate::support::process::{Process, backend_arg};
use crate::support::raw::{BINARY, CLOSE, RawClient, TEXT, close_payload, frame};
use crate::support::{TestServer, config, wait_until};

on_both_backends!(
    who_never_reads_costs_the_others_nothing,
    who_may_skip_is_told_how_much_it_missed,
    unread_answers_stop_the_asker,
);

fn who_never_reads_costs_the_others_nothing(backend: BackendName) {
    const READERS: usize = 100;
    const LEN: usize = 64 << 10;
    const MESSAGES: u64 = (100 << 20) / LEN as u64;
    /// Messages under way at a time: half the lag window, so that whoever reads does not lag.
    const AHEAD: u64 = 8;
    let server = Process::start(&[
        "--app=relay",
        "--workers=2",
        "--close-seconds=600",
        "--ping-seconds=600",
        backend_arg(backend),
    ]);
    let mut sluggard = RawClient::open(server.address, "/room/r").with_small_window();
    sluggard.send(&frame(TEXT, b"I am here"));
    assert_eq!(sluggard.receive_frame().1, b"I am here");
    let mut crowd = ManyClients::join_room(server.address, "r", READERS + 1);
    let memory_before = server.memory_kib("VmHWM");

    let mut payload = pattern(LEN);
    let expected = payload.clone();
    let mut received = vec![0_u64; crowd.len()];
    let mut sent = 0;
    while *received.iter().min().expect("a crowd") < MESSAGES {
        while sent < MESSAGES && sent - received.iter().min().expect("a crowd") < AHEAD {
            payload[..8].copy_from_slice(&sent.to_be_bytes());
            crowd.send_text(0, &payload);
            sent += 1;
        }
        crowd.poll(|reader, _, payload| {
            assert_eq!(payload[..8], received[reader].to_be_bytes());
            assert!(payload[8..] == expected[8..], "a torn message");
            received[reader] += 1;
        });
    }
    assert!(received.iter().all(|count| *count == MESSAGES));
    // The log's window and the spans in flight, with much to spare; far less than what was not read.
    let grown = server.memory_kib("VmHWM") - memory_before;
    assert!(grown < 24 << 10, "{grown} KiB more than before");

    let mut next = 0_u64;
    let last = loop {
        let (first, payload) = sluggard.receive_frame();
        if first != BINARY {
            break (first, payload);
        }
        // What the crowd said to find each other came before.
        if payload.len() == LEN {
            assert_eq!(payload[..8], next.to_be_bytes());
            assert!(payload[8..] == expected[8..], "a torn message");
            next += 1;
        }
    };
    assert_eq!(last, (CLOSE, close_payload(1013, "lagged")));
    assert!(next < MESSAGES, "it cannot have had all");
    sluggard.send(&frame(CLOSE, &close_payload(1013, "")));
    sluggard.expect_end();
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at * 31 % 251) as u8).collect()
}

fn who_may_skip_is_told_how_much_it_missed(backend: BackendName) {
    const LEN: usize = 16 << 10;
    let base = config(backend, AppName::Relay, 2);
    let server = TestServer::start(&Config { lag_policy: LagPolicy::Skip, lag_window: 256 << 10, ..base });
    let mut sluggard = RawClient::open(server.address(), "/room/r").with_small_window();
    sluggard.send(&frame(TEXT, b"I am here"));
    assert_eq!(sluggard.receive_frame().1, b"I am here");
    let mut publisher = ManyClients::join_room(server.address(), "r", 1);
    let mut payload = pattern(LEN);
    let expected = payload.clone();
    let mut publish = |number: u64| {
        payload[..8].copy_from_slice(&number.to_be_bytes());
        publisher.send_text(0, &payload);
        let mut heard = false;
        while !heard {
            publisher.poll(|_, _, echo| heard |= echo == payload);
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
        let (first, payload) = sluggard.receive_frame();
        if first == TEXT {
            let text = String::from_utf8(payload).expect("text");
            let count = text.strip_prefix("* ").and_then(|text| text.strip_suffix(" messages missed"));
            let count: u64 = count.and_then(|count| count.parse().ok()).expect(&text);
            missed += count;
            next += count;
        } else if payload.len() == LEN {
            assert_eq!(payload[..8], next.to_be_bytes(), "it goes on where it was told, without a hole");
            assert!(payload[8..] == expected[8..], "a torn message");
            next += 1;
        }
    }
    assert!(missed > 0);
    // It is as good a member as before.
    sluggard.send(&frame(TEXT, b"I read again"));
    assert_eq!(sluggard.receive_frame(), (TEXT, b"I read again".to_vec()));
}

fn unread_answers_stop_the_asker(backend: BackendName) {
    const LEN: usize = 100_000;
    const MESSAGES: usize = 300;
    let base = config(backend, AppName::Echo, 1);
    let server = TestServer::start(&Config { ping_seconds: Duration::from_secs(600), ..base });
    let (stream, _) = RawClient::open(server.address(), "/").with_small_window().into_parts();
    let mut raw = RawClient::from_stream(stream.try_clone().expect("a second handle"));
    // Without reading it cannot write either, after what the kernel and the server's bounded outbox take.
    let writer = std::thread::spawn(move || {
        let mut raw = RawClient::from_stream(stream);
        for number in 0..MESSAGES {
            raw.send(&frame(BINARY, &vec![number as u8; LEN]));
        }
    });
    let mut heard = 0;
    wait_until("the server has stopped listening", || {
        let now = server.totals().messages_in;
        let stopped = now > 0 && now == heard;
        heard = now;
        stopped
    });
    for number in 0..MESSAGES {
        assert!(raw.receive_frame() == (BINARY, vec![number as u8; LEN]), "the echo differs");
    }
    writer.join().expect("all was written");
    assert_eq!(server.totals().lagged, 0);
}
