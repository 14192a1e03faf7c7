//! Tests of each client's share of a turn, and of the input that waits for the next turn.

use std::io::Write;
use std::time::Duration;

use rustls::ClientConnection;
use rustls::version::{TLS12, TLS13};

use crate::io::wire::BUFFER_LEN;
use crate::io::{Close, IoEvent};
use crate::tls::connection::SHARE_LEN;
use crate::transport::Event;

use super::rig::Rig;
use super::{BOTH, HANDSHAKES_A_TURN, MAX_BACKLOG_LEN, pattern};

/// Number of short records of a client that one turn decrypts.
const RECORDS_A_TURN: usize = 256;

/// Encrypts each of the client's bytes in a separate record. Calls `before` before each record.
fn one_byte_records(
    client: &mut ClientConnection,
    bytes: &[u8],
    before: impl Fn(&mut ClientConnection),
) -> Vec<u8> {
    let mut records = Vec::new();
    for byte in bytes {
        before(client);
        client.writer().write_all(&[*byte]).expect("to memory");
        while client.wants_write() {
            client.write_tls(&mut records).expect("to memory");
        }
    }
    records
}

/// Makes all of `bytes` arrive with the next turn, in buffers of the backend's length.
fn queue_all(rig: &mut Rig, bytes: &[u8]) {
    bytes.chunks(BUFFER_LEN).for_each(|chunk| rig.queue(0, chunk));
}

#[test]
fn a_flood_of_short_records_waits_in_order_and_pauses_receiving() {
    for version in BOTH {
        let mut rig = Rig::new(&[version]);
        let mut client = rig.connect(0);
        let bytes = pattern(10_000);
        let records = one_byte_records(&mut client, &bytes, |_| {});
        queue_all(&mut rig, &records);
        rig.wire().coming.push_back(IoEvent::Ended { slot: 0 });
        let mut turns = 0;
        while rig.has_events() || rig.is_waiting() {
            let heard = rig.heard.len();
            assert!(turns == 0 || rig.events.is_empty(), "the end comes last");
            rig.turn();
            let count = rig.heard.len() - heard;
            assert!(count <= RECORDS_A_TURN, "{count} records in a turn");
            assert!(!rig.is_waiting() || rig.wire().paused.contains(&0));
            turns += 1;
        }
        assert!(rig.heard == bytes && turns == bytes.len().div_ceil(RECORDS_A_TURN), "{turns} turns");
        assert!(matches!(rig.events[..], [Event::Io(IoEvent::Ended { slot: 0 })]), "{:?}", rig.events);
        assert!(rig.wire().paused.is_empty());
        rig.turn();
        assert_eq!(rig.wire().timeout, None, "nothing is left to do");
    }
}

#[test]
fn key_updates_are_charged_like_other_records() {
    let mut rig = Rig::new(&[&TLS13]);
    let mut client = rig.connect(0);
    let bytes = pattern(1_000);
    let records =
        one_byte_records(&mut client, &bytes, |client| client.refresh_traffic_keys().expect("TLS 1.3"));
    queue_all(&mut rig, &records);
    while rig.has_events() || rig.is_waiting() {
        let heard = rig.heard.len();
        rig.turn();
        assert!(rig.heard.len() - heard <= RECORDS_A_TURN / 2);
    }
    assert!(rig.heard == bytes);
}

#[test]
fn long_records_are_charged_by_their_bytes_wherever_they_are_cut() {
    for version in BOTH {
        for first in [1, 3, 4, 5, 6, 1_000, 16_384, 20_000] {
            let mut rig = Rig::new(&[version]);
            let mut client = rig.connect(0);
            client.set_buffer_limit(None);
            let bytes = pattern(1 << 20);
            client.writer().write_all(&bytes).expect("to memory");
            let mut records = Vec::new();
            while client.wants_write() {
                client.write_tls(&mut records).expect("to memory");
            }
            rig.queue(0, &records[..first]);
            queue_all(&mut rig, &records[first..]);
            let mut turns = 0;
            while rig.has_events() || rig.is_waiting() {
                let heard = rig.heard.len();
                rig.turn();
                assert!(rig.heard.len() - heard <= SHARE_LEN + (16 << 10));
                turns += 1;
            }
            assert!(rig.heard == bytes && turns <= 17, "{turns} turns");
        }
    }
}

#[test]
fn receiving_resumes_when_neither_the_caller_nor_the_layer_has_paused_it() {
    for caller_resumes_first in [true, false] {
        let mut rig = Rig::new(&BOTH);
        let mut client = rig.connect(0);
        let records = one_byte_records(&mut client, &pattern(1_500), |_| {});
        queue_all(&mut rig, &records);
        rig.turn();
        rig.transport.pause(0);
        if caller_resumes_first {
            rig.transport.resume(0);
            assert!(rig.wire().paused.contains(&0), "too much waits");
        }
        while rig.is_waiting() {
            rig.turn();
        }
        if !caller_resumes_first {
            assert!(rig.wire().paused.contains(&0), "the caller wants nothing");
            rig.transport.resume(0);
        }
        assert!(rig.wire().paused.is_empty());
        assert!(rig.heard == pattern(1_500));
    }
}

#[test]
fn a_client_slightly_over_its_share_is_never_paused() {
    let mut rig = Rig::new(&[&TLS12]);
    let mut client = rig.connect(0);
    let mut heard = Vec::new();
    for _ in 0..10 {
        let bytes = pattern(300);
        let records = one_byte_records(&mut client, &bytes, |_| {});
        assert!(records.len() < MAX_BACKLOG_LEN);
        rig.queue(0, &records);
        rig.turn();
        heard.extend(bytes);
        assert!(rig.wire().paused.is_empty());
    }
    while rig.is_waiting() {
        rig.turn();
    }
    assert!(rig.heard == heard);
}

#[test]
fn a_client_that_sends_much_before_its_handshake_step_is_paused() {
    let mut rig = Rig::new(&BOTH);
    (0..HANDSHAKES_A_TURN as u32 + 1).for_each(|slot| rig.accept(slot, 1));
    for slot in 1..=HANDSHAKES_A_TURN as u32 {
        rig.queue(slot, b"\x16\x03\x01\x02\x00\x01");
    }
    // The client sends a ClientHello of 64,000 bytes in records of 255 bytes.
    let mut hello = b"\x16\x03\x01\x00\x04\x01\x00\xfa\x00".to_vec();
    (0..100).for_each(|_| {
        hello.extend(b"\x16\x03\x01\x00\xff");
        hello.extend([0; 255]);
    });
    for piece in hello.chunks(1_000) {
        rig.queue(0, piece);
    }
    rig.turn();
    assert!(rig.wire().paused.contains(&0) && rig.is_waiting());
    while rig.is_waiting() {
        rig.turn();
    }
    assert!(rig.wire().paused.is_empty());
    assert!(rig.events.is_empty(), "{:?}", rig.events);
}

#[test]
fn a_turn_takes_a_limited_number_of_handshake_steps() {
    const CLIENTS: u32 = 100;
    for version in BOTH {
        let mut rig = Rig::new(&[version]);
        let mut clients: Vec<_> = (0..CLIENTS).map(|_| rig.client()).collect();
        (0..CLIENTS).for_each(|slot| rig.accept(slot, 1));
        for (slot, client) in (0..).zip(&mut clients) {
            let mut hello = Vec::new();
            client.write_tls(&mut hello).expect("to memory");
            // The ClientHello arrives in two pieces, which wait together in the backlog.
            rig.queue(slot, &hello[..50]);
            rig.queue(slot, &hello[50..]);
        }
        let mut turns = Vec::new();
        while rig.has_events() || rig.is_waiting() {
            let (before, waited) = (rig.answered.len(), rig.is_waiting());
            rig.turn();
            assert!(!waited || rig.wire().timeout == Some(Duration::ZERO));
            turns.push(rig.answered.len() - before);
        }
        assert_eq!(turns.iter().sum::<usize>(), CLIENTS as usize, "{turns:?}");
        assert!(turns.iter().all(|count| *count <= HANDSHAKES_A_TURN), "{turns:?}");
        rig.turn();
        assert_eq!(rig.wire().timeout, None, "nothing is left to do");
    }
}

#[test]
fn a_client_that_leaves_after_its_hello_waits_for_its_turn_as_well() {
    const CLIENTS: u32 = 100;
    let mut rig = Rig::new(&BOTH);
    (0..CLIENTS).for_each(|slot| rig.accept(slot, 1));
    for slot in 0..CLIENTS {
        let mut hello = Vec::new();
        rig.client().write_tls(&mut hello).expect("to memory");
        rig.queue(slot, &hello);
        rig.wire().coming.push_back(IoEvent::Ended { slot });
    }
    let mut ended = 0;
    while rig.has_events() || rig.is_waiting() {
        let answered = rig.answered.len();
        rig.turn();
        assert!(rig.answered.len() - answered <= HANDSHAKES_A_TURN);
        // The server answers each ClientHello, and then reports the end of that client's stream.
        assert!(
            rig.events.iter().all(|event| matches!(event, Event::Io(IoEvent::Ended { .. }))),
            "{:?}",
            rig.events
        );
        ended += std::mem::take(&mut rig.events).len();
        assert_eq!(ended, rig.answered.len());
    }
    assert_eq!(ended, CLIENTS as usize);
    rig.turn();
    assert_eq!(rig.wire().timeout, None, "nothing is left to do");
}

#[test]
fn a_client_that_closes_while_its_handshake_waits_delays_nobody() {
    let mut rig = Rig::new(&BOTH);
    (0..40).for_each(|slot| rig.accept(slot, 1));
    for slot in 0..40 {
        let mut hello = Vec::new();
        rig.client().write_tls(&mut hello).expect("to memory");
        rig.queue(slot, &hello);
    }
    rig.turn();
    rig.transport.close(39, Close::Reset);
    while rig.is_waiting() || rig.has_events() {
        rig.turn();
    }
    assert!(!rig.answered.contains(&39));
    assert_eq!(rig.answered.iter().collect::<std::collections::BTreeSet<_>>().len(), 39);
    // The slot's next connection inherits no state.
    rig.events.clear();
    rig.wire().out.clear();
    rig.connect(39);
}
