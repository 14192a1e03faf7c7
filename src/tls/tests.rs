//! Tests of the TLS layer with input that is split at any byte.

mod failures;
pub(super) mod rig;
mod turns;

use std::io::{Read, Write};
use std::time::Duration;

use rustls::version::{TLS12, TLS13};
use rustls::{ClientConnection, SupportedProtocolVersion};

use crate::io::wire::Asked;

use self::rig::{Rig, client_config, credentials};
use super::connection::PIECE_LEN;
use super::*;

const BOTH: [&SupportedProtocolVersion; 2] = [&TLS12, &TLS13];

/// Makes `len` bytes whose values depend on their positions, so that lost or swapped pieces show.
fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at ^ (at >> 8) ^ (at >> 16)) as u8).collect()
}

#[test]
fn bytes_arrive_unchanged_however_the_stream_is_cut() {
    for version in BOTH {
        for pieces in [&[1][..], &[2, 3, 5], &[5, 1], &[16_384], &[16_385, 4], &[32_768], &[700, 1, 30_000]] {
            let mut rig = Rig::new(&[version]);
            rig.pieces = pieces.to_vec();
            let mut client = rig.connect(3);
            for len in [1, 100, 16_384, 16_385, 40_000] {
                rig.hear(3, &mut client, &pattern(len));
                rig.say(3, &mut client, &pattern(len));
                assert_eq!(rig.kept_len(3), 0, "an idle connection holds no bytes");
            }
            assert!(rig.events.is_empty(), "{:?}", rig.events);
        }
    }
}

#[test]
fn many_records_in_one_buffer_are_one_event() {
    let mut rig = Rig::new(&[&TLS13]);
    let mut client = rig.connect(0);
    let mut records = Vec::new();
    for number in 0..200_u8 {
        client.writer().write_all(&[number; 100]).expect("to memory");
        client.write_tls(&mut records).expect("to memory");
    }
    assert_eq!(records.len(), 200 * (100 + 22));
    rig.arrive(0, &records);
    let expected: Vec<u8> = (0..200_u8).flat_map(|number| [number; 100]).collect();
    assert_eq!((rig.received, &rig.heard), (1, &expected));
}

#[test]
fn a_mebibyte_arrives_in_both_directions() {
    for version in BOTH {
        let mut rig = Rig::new(&[version]);
        let mut client = rig.connect(0);
        let bytes = pattern(1 << 20);
        rig.hear(0, &mut client, &bytes);
        rig.say(0, &mut client, &bytes);
    }
}

#[test]
fn a_slow_reader_costs_a_copy_of_one_piece() {
    let mut rig = Rig::new(&BOTH);
    let mut client = rig.connect(0);
    rig.wire().is_stuck = true;
    let bytes = pattern(1 << 20);
    rig.send(0, Span::copy_of(&bytes));
    let mut releases = 0;
    let mut read = Vec::new();
    while let Some((_, span)) = &rig.wire().waiting {
        assert!(span.len() < PIECE_LEN + 1_000, "{} bytes wait", span.len());
        assert_eq!(rig.sent(), 0);
        releases += 1;
        rig.release();
        read.extend(rig.talk(0, &mut client));
    }
    assert_eq!((releases, rig.sent()), ((1 << 20) / PIECE_LEN, 1));
    assert!(read == bytes);
}

#[test]
fn connections_of_plain_listeners_pass_through() {
    let mut rig = Rig::new(&BOTH);
    rig.accept(7, 0);
    rig.arrive(7, b"GET / HTTP/1.1\r\n\r\n");
    assert_eq!(rig.heard, b"GET / HTTP/1.1\r\n\r\n");
    rig.send(7, Span::copy_of(b"plain"));
    rig.turn();
    assert_eq!((&rig.wire().out.clone()[..], rig.sent()), (&b"plain"[..], 1));
    rig.transport.shutdown(7);
    rig.transport.close(7, Close::Graceful);
    assert_eq!(rig.wire().asked, [Asked::Shutdown(7), Asked::Close(7, Close::Graceful)]);
    rig.turn();
    assert!(matches!(rig.events[..], [Event::Io(IoEvent::Closed { slot: 7 })]), "{:?}", rig.events);
}

#[test]
fn plain_http_is_reported_and_can_be_answered_in_plain() {
    let mut rig = Rig::new(&BOTH);
    rig.accept(0, 1);
    rig.arrive(0, b"GET / HTTP/1.1\r\n");
    assert!(
        matches!(rig.events[..], [Event::Tls(TlsEvent::NoTls { slot: 0, is_http: true })]),
        "{:?}",
        rig.events
    );
    rig.send(0, Span::copy_of(b"HTTP/1.1 400"));
    rig.turn();
    assert_eq!((&rig.wire().out.clone()[..], rig.sent()), (&b"HTTP/1.1 400"[..], 1));
}

#[test]
fn a_long_hello_is_answered() {
    for version in BOTH {
        let mut rig = Rig::new(&[version]);
        rig.pieces = vec![1_000, 3];
        let mut config = (*rig.config).clone();
        config.alpn_protocols = (0..60).map(|number| vec![number; 250]).collect();
        config.alpn_protocols.push(b"http/1.1".to_vec());
        rig.config = Arc::new(config);
        let mut client = rig.connect(0);
        rig.say(0, &mut client, b"hello");
    }
}

#[test]
fn the_end_is_reported_once_with_or_without_close_notify() {
    for (version, is_said) in BOTH.into_iter().flat_map(|version| [(version, true), (version, false)]) {
        let mut rig = Rig::new(&[version]);
        let mut client = rig.connect(0);
        client.writer().write_all(b"last").expect("to memory");
        if is_said {
            client.send_close_notify();
        }
        rig.talk(0, &mut client);
        assert_eq!(rig.heard, b"last");
        // Bytes after the end of the stream and a half record are ignored.
        rig.arrive(0, b"\x17\x03\x03\x00\x20half");
        rig.report(IoEvent::Ended { slot: 0 });
        assert!(matches!(rig.events[..], [Event::Io(IoEvent::Ended { slot: 0 })]), "{:?}", rig.events);
        rig.events.clear();
        rig.say(0, &mut client, b"still reading");
    }
}

/// Passes `bytes` to the client. Returns whether the client has received close_notify.
fn is_said_to_end(client: &mut ClientConnection, bytes: &[u8]) -> bool {
    let mut rest = bytes;
    while !rest.is_empty() {
        client.read_tls(&mut rest).expect("from memory");
        client.process_new_packets().expect("right");
    }
    matches!(client.reader().read(&mut [0]), Ok(0))
}

#[test]
fn shutdown_sends_close_notify_after_the_send_in_flight() {
    for version in BOTH {
        let mut rig = Rig::new(&[version]);
        let mut client = rig.connect(0);
        rig.wire().is_stuck = true;
        rig.send(0, Span::copy_of(&pattern(100_000)));
        rig.transport.shutdown(0);
        assert_eq!(rig.wire().asked, []);
        while rig.release() {}
        assert_eq!((rig.sent(), &rig.wire().asked[..]), (1, &[Asked::Shutdown(0)][..]));
        assert_eq!(rig.talk(0, &mut client), pattern(100_000));
        assert!(is_said_to_end(&mut client, b""));
        rig.hear(0, &mut client, b"receiving goes on");
    }
}

#[test]
fn a_graceful_close_sends_close_notify_if_no_send_is_in_flight() {
    for (how, is_stuck, is_said) in
        [(Close::Graceful, false, true), (Close::Graceful, true, false), (Close::Reset, false, false)]
    {
        let mut rig = Rig::new(&BOTH);
        let mut client = rig.connect(0);
        rig.wire().is_stuck = is_stuck;
        rig.transport.close(0, how);
        rig.arrive(0, b"\x17\x03\x03\x00\x20half");
        if is_said {
            assert!(
                rig.wire().timeout.is_some_and(|timeout| timeout <= Duration::from_millis(LAST_RECORD_MS))
            );
        }
        rig.turn();
        assert_eq!(rig.wire().asked, [Asked::Close(0, how)]);
        assert!(matches!(rig.events[..], [Event::Io(IoEvent::Closed { slot: 0 })]), "{:?}", rig.events);
        let out = std::mem::take(&mut rig.wire().out);
        assert_eq!(is_said_to_end(&mut client, &out), is_said, "{how:?}");
        rig.turn();
        assert_eq!(rig.wire().timeout, None, "nothing is left to do");
    }
}

#[test]
fn a_close_does_not_wait_for_a_send_in_flight() {
    let mut rig = Rig::new(&BOTH);
    let _client = rig.connect(0);
    rig.wire().is_stuck = true;
    rig.send(0, Span::copy_of(b"never read"));
    rig.transport.close(0, Close::Graceful);
    assert_eq!(rig.wire().asked, [Asked::Close(0, Close::Graceful)]);
}

#[test]
fn bytes_sent_before_the_end_of_the_handshake_wait_for_it() {
    for version in BOTH {
        let mut rig = Rig::new(&[version]);
        rig.accept(0, 1);
        rig.send(0, Span::copy_of(b"HTTP/1.1 503"));
        rig.turn();
        assert_eq!((rig.wire().out.len(), rig.sent()), (0, 0));
        let mut client = rig.client();
        assert_eq!(rig.talk(0, &mut client), b"HTTP/1.1 503");
        assert_eq!(rig.sent(), 1);
    }
}

#[test]
fn a_plain_http_client_gets_the_refusal_that_waits() {
    let mut rig = Rig::new(&BOTH);
    rig.accept(0, 1);
    rig.send(0, Span::copy_of(b"HTTP/1.1 503"));
    rig.arrive(0, b"GET / HTTP/1.1\r\n");
    rig.turn();
    assert_eq!((&rig.wire().out.clone()[..], rig.sent()), (&b"HTTP/1.1 503"[..], 1));
}

#[test]
fn a_client_that_leaves_during_the_handshake_leaves_no_state() {
    for version in BOTH {
        let mut rig = Rig::new(&[version]);
        let mut hello = Vec::new();
        rig.client().write_tls(&mut hello).expect("to memory");
        for (at, len) in (0..).zip([0, 1, 4, 5, 100, hello.len()]) {
            rig.accept(at, 1);
            rig.arrive(at, &hello[..len]);
            rig.wire().out.clear();
            if len % 2 == 0 {
                rig.report(IoEvent::Ended { slot: at });
                assert!(matches!(rig.events[..], [Event::Io(IoEvent::Ended { .. })]), "{:?}", rig.events);
            } else {
                rig.report(IoEvent::Failed { slot: at, error: io::ErrorKind::ConnectionReset.into() });
                assert!(matches!(rig.events[..], [Event::Io(IoEvent::Failed { .. })]), "{:?}", rig.events);
            }
            rig.transport.close(at, Close::Graceful);
            rig.turn();
            assert!(matches!(rig.events[..], [_, Event::Io(IoEvent::Closed { .. })]), "{:?}", rig.events);
            rig.events.clear();
            assert!(!rig.transport.tls_layer().expect("a listener has TLS").has(at));
        }
    }
}

#[test]
fn shutting_down_before_the_handshake_ends_the_stream_at_once() {
    let mut rig = Rig::new(&BOTH);
    rig.accept(0, 1);
    rig.transport.shutdown(0);
    assert_eq!(rig.wire().asked, [Asked::Shutdown(0)]);
    assert!(rig.wire().out.is_empty());
}

#[test]
fn key_updates_are_accepted_and_answered() {
    let mut rig = Rig::new(&[&TLS13]);
    let mut client = rig.connect(0);
    for round in 0..5_u8 {
        client.refresh_traffic_keys().expect("TLS 1.3");
        rig.hear(0, &mut client, &[round; 10]);
        rig.say(0, &mut client, &[round; 20]);
    }
    assert!(rig.events.is_empty(), "{:?}", rig.events);
}

#[test]
fn a_session_is_resumed_by_its_ticket() {
    for version in BOTH {
        let mut rig = Rig::new(&[version]);
        let mut first = rig.connect(0);
        rig.say(0, &mut first, b"hello");
        let usage = rig.transport.tls_usage();
        assert_eq!((usage.handshakes, usage.resumed), (1, 0));
        let mut second = rig.connect(1);
        rig.say(1, &mut second, b"hello again");
        assert_eq!(second.handshake_kind(), Some(rustls::HandshakeKind::Resumed));
        let usage = rig.transport.tls_usage();
        assert_eq!((usage.handshakes, usage.resumed), (2, 1));
    }
}

#[test]
fn a_new_certificate_is_for_new_connections() {
    let mut rig = Rig::new(&BOTH);
    let mut old = rig.connect(0);
    let (credentials, roots) = credentials();
    rig.identity.replace(credentials);
    rig.config = client_config(roots, &BOTH);
    let mut new = rig.connect(1);
    assert_ne!(old.peer_certificates(), new.peer_certificates());
    rig.say(0, &mut old, b"nobody is dropped");
    rig.say(1, &mut new, b"and this one trusts the new one");
}

#[test]
fn the_protocol_is_http() {
    let mut rig = Rig::new(&BOTH);
    let mut config = (*rig.config).clone();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    rig.config = Arc::new(config);
    assert_eq!(rig.connect(0).alpn_protocol(), Some(&b"http/1.1"[..]));
}
