//! Tests of input that is not TLS or breaks its rules, and of sends that no client can read.

use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use rustls::version::TLS13;

use crate::chunk::Span;
use crate::io::wire::Asked;
use crate::io::{Close, IoEvent};
use crate::tls::TlsEvent;
use crate::tls::session::MAX_PARTIAL_LEN;
use crate::transport::Event;

use super::rig::Rig;
use super::{BOTH, pattern};

#[test]
fn garbage_gets_an_alert_when_the_caller_shuts_down() {
    for garbage in
        [&b"\x00\x01\x02\x03\x04\x05\x06\x07"[..], b"\x16\x03\x01\xff\xff", b"\x80\x2e\x01\x03\x01"]
    {
        let mut rig = Rig::new(&BOTH);
        rig.accept(0, 1);
        rig.arrive(0, garbage);
        assert!(
            matches!(rig.events[..], [Event::Tls(TlsEvent::NoTls { slot: 0, is_http: false })]),
            "{:?}",
            rig.events
        );
        rig.transport.shutdown(0);
        rig.turn();
        // RFC 8446 §6: the server sends a record of type alert (21) that is fatal (2).
        let out = rig.wire().out.clone();
        assert!(out[0] == 21 && out[5] == 2, "{out:?}");
        assert_eq!(rig.wire().asked, [Asked::Shutdown(0)]);
        rig.events.clear();
        rig.arrive(0, garbage);
        rig.report(IoEvent::Ended { slot: 0 });
        assert!(matches!(rig.events[..], [Event::Io(IoEvent::Ended { slot: 0 })]), "{:?}", rig.events);
    }
}

#[test]
fn no_common_protocol_is_an_alert() {
    let mut rig = Rig::new(&BOTH);
    let mut config = (*rig.config).clone();
    config.alpn_protocols = vec![b"h2".to_vec()];
    rig.config = Arc::new(config);
    rig.accept(0, 1);
    let mut hello = Vec::new();
    let mut client = rig.client();
    client.write_tls(&mut hello).expect("to memory");
    rig.arrive(0, &hello);
    assert!(
        matches!(rig.events[..], [Event::Tls(TlsEvent::NoTls { slot: 0, is_http: false })]),
        "{:?}",
        rig.events
    );
    let answer = std::mem::take(&mut rig.wire().out);
    client.read_tls(&mut &answer[..]).expect("from memory");
    // RFC 7301 §3.2: without a common protocol, the server sends the alert no_application_protocol.
    let alert = rustls::Error::AlertReceived(rustls::AlertDescription::NoApplicationProtocol);
    assert_eq!(client.process_new_packets().expect_err("an alert"), alert);
}

#[test]
fn a_record_that_was_tampered_with_is_a_failure_with_an_alert() {
    for version in BOTH {
        let mut rig = Rig::new(&[version]);
        let mut client = rig.connect(0);
        client.writer().write_all(b"hello").expect("to memory");
        let mut record = Vec::new();
        client.write_tls(&mut record).expect("to memory");
        *record.last_mut().expect("a record") ^= 1;
        rig.arrive(0, &record);
        assert!(matches!(rig.events[..], [Event::Io(IoEvent::Failed { slot: 0, .. })]), "{:?}", rig.events);
        assert!(rig.heard.is_empty());
        // The alert has been sent before the caller closes the connection.
        rig.transport.close(0, Close::Reset);
        rig.turn();
        assert_eq!(rig.wire().asked, [Asked::Close(0, Close::Reset)]);
        let alert = std::mem::take(&mut rig.wire().out);
        client.read_tls(&mut &alert[..]).expect("from memory");
        let error = client.process_new_packets().expect_err("an alert");
        assert!(matches!(error, rustls::Error::AlertReceived(_)), "{error}");
    }
}

#[test]
fn a_failure_is_reported_once_whatever_else_happens_in_its_turn() {
    for version in BOTH {
        for is_stuck in [false, true] {
            let mut rig = Rig::new(&[version]);
            let _client = rig.connect(0);
            rig.wire().is_stuck = is_stuck;
            rig.send(0, Span::copy_of(&pattern(1_000)));
            rig.queue(0, b"\x17\x03\x03\x00\x20thirty-two bytes of junk, or more");
            rig.queue(0, b"\x17\x03\x03\x00\x04more");
            rig.wire().coming.push_back(IoEvent::Ended { slot: 0 });
            rig.report(IoEvent::Failed { slot: 0, error: io::ErrorKind::ConnectionReset.into() });
            rig.events.retain(|event| !matches!(event, Event::Io(IoEvent::Sent { .. })));
            assert!(
                matches!(rig.events[..], [Event::Io(IoEvent::Failed { slot: 0, .. })]),
                "{:?}",
                rig.events
            );
            rig.turn();
            assert_eq!(rig.events.len(), 1, "{:?}", rig.events);
            rig.transport.close(0, Close::Reset);
            assert_eq!(rig.wire().asked, [Asked::Close(0, Close::Reset)]);
        }
    }
}

#[test]
fn records_before_a_broken_one_in_the_same_buffer_count() {
    let mut rig = Rig::new(&[&TLS13]);
    rig.accept(0, 1);
    let mut client = rig.client();
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).expect("to memory");
    rig.arrive(0, &bytes);
    rig.turn();
    let answer = std::mem::take(&mut rig.wire().out);
    client.read_tls(&mut &answer[..]).expect("from memory");
    client.process_new_packets().expect("right");
    client.writer().write_all(b"GET / HTTP/1.1").expect("to memory");
    bytes.clear();
    while client.wants_write() {
        client.write_tls(&mut bytes).expect("to memory");
    }
    bytes.extend(b"\x17\x03\x03\x00\x14twenty bytes of junk");
    rig.arrive(0, &bytes);
    assert_eq!(rig.heard, b"GET / HTTP/1.1");
    assert!(matches!(rig.events[..], [Event::Io(IoEvent::Failed { slot: 0, .. })]), "{:?}", rig.events);
}

#[test]
fn a_handshake_message_without_end_is_refused() {
    let mut rig = Rig::new(&BOTH);
    rig.accept(0, 1);
    // The client sends a ClientHello of 64,000 bytes in records of one byte.
    rig.arrive(0, b"\x16\x03\x01\x00\x04\x01\x00\xfa\x00");
    for _ in 0..60_000 {
        rig.arrive(0, b"\x16\x03\x01\x00\x01\x00");
        if !rig.events.is_empty() {
            break;
        }
        assert!(rig.kept_len(0) <= 2 * MAX_PARTIAL_LEN);
    }
    assert!(
        matches!(rig.events[..], [Event::Tls(TlsEvent::NoTls { slot: 0, is_http: false })]),
        "{:?}",
        rig.events
    );
}

#[test]
fn a_client_that_sends_on_after_its_end_or_mistake_fails_at_a_limit() {
    for is_said in [true, false] {
        let mut rig = Rig::new(&BOTH);
        if is_said {
            let mut client = rig.connect(0);
            client.send_close_notify();
            rig.talk(0, &mut client);
        } else {
            rig.accept(0, 1);
            rig.arrive(0, b"\x00\x01\x02\x03\x04\x05\x06\x07");
        }
        assert_eq!(std::mem::take(&mut rig.events).len(), 1);
        rig.arrive(0, &vec![0; 16 << 20]);
        assert!(rig.events.is_empty(), "{:?}", rig.events);
        rig.arrive(0, &[0; 100_000]);
        assert!(matches!(rig.events[..], [Event::Io(IoEvent::Failed { slot: 0, .. })]), "{:?}", rig.events);
    }
}

#[test]
fn a_send_that_no_client_can_read_fails_at_once() {
    let mut hello = Vec::new();
    Rig::new(&BOTH).client().write_tls(&mut hello).expect("to memory");
    for (begin, sends_first) in [(&b""[..], true), (&hello, true), (b"", false), (&hello, false)] {
        let mut rig = Rig::new(&BOTH);
        rig.accept(0, 1);
        rig.arrive(0, begin);
        if sends_first {
            rig.send(0, Span::copy_of(b"HTTP/1.1 503"));
        }
        rig.report(IoEvent::Ended { slot: 0 });
        if !sends_first {
            assert!(matches!(rig.events[..], [Event::Io(IoEvent::Ended { slot: 0 })]), "{:?}", rig.events);
            rig.events.clear();
            rig.send(0, Span::copy_of(b"HTTP/1.1 503"));
            rig.turn();
            assert_eq!(rig.wire().timeout, Some(Duration::ZERO));
        }
        assert!(matches!(rig.events[..], [Event::Io(IoEvent::Failed { slot: 0, .. })]), "{:?}", rig.events);
        rig.transport.close(0, Close::Reset);
        rig.turn();
        assert_eq!(rig.wire().asked, [Asked::Close(0, Close::Reset)]);
    }
}

#[test]
fn a_send_to_a_client_that_speaks_another_protocol_fails() {
    for sends_first in [true, false] {
        let mut rig = Rig::new(&BOTH);
        rig.accept(0, 1);
        if sends_first {
            rig.send(0, Span::copy_of(b"HTTP/1.1 503"));
        }
        rig.arrive(0, b"\x00\x01\x02\x03\x04\x05\x06\x07");
        if !sends_first {
            assert!(
                matches!(rig.events[..], [Event::Tls(TlsEvent::NoTls { is_http: false, .. })]),
                "{:?}",
                rig.events
            );
            rig.events.clear();
            rig.send(0, Span::copy_of(b"HTTP/1.1 503"));
            rig.turn();
        }
        assert!(matches!(rig.events[..], [Event::Io(IoEvent::Failed { slot: 0, .. })]), "{:?}", rig.events);
    }
}
