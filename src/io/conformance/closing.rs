//! Tests of closing: one `Closed` as the last event, and the end of the stream as the peer sees it.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::rc::Rc;

use crate::chunk::{Chunk, Span};
use crate::io::{Backend, Close, Slot};

use super::receiving::reset;
use super::rig::{Make, Rig, pattern};
use super::sending::LARGE;

pub(super) fn idle<B: Backend>(make: Make<B>) {
    for how in [Close::Graceful, Close::Reset] {
        let mut rig = Rig::new(make);
        let (_client, slot) = rig.connect();
        rig.close(slot, how);
        rig.nothing_more();
    }
}

pub(super) fn with_a_send_in_flight<B: Backend>(make: Make<B>) {
    for how in [Close::Graceful, Close::Reset] {
        let mut rig = Rig::new(make);
        let (_client, slot) = rig.connect();
        let chunk = Chunk::with_capacity(LARGE);
        chunk.append(&pattern(LARGE));
        rig.send_span(slot, Span::new(&chunk, 0, LARGE));
        rig.nothing_more();
        assert_eq!(Rc::strong_count(&chunk), 2);
        rig.close(slot, how);
        assert_eq!(Rc::strong_count(&chunk), 1, "the span is dropped before `Closed`");
        rig.nothing_more();
    }
}

pub(super) fn delivers_what_was_sent<B: Backend>(make: Make<B>) {
    let mut rig = Rig::new(make);
    let (mut client, slot) = rig.connect();
    rig.send(slot, b"last words");
    rig.sent(slot);
    rig.close(slot, Close::Graceful);
    let mut text = String::new();
    client.read_to_string(&mut text).expect("the words, then the end");
    assert_eq!(text, "last words");
}

pub(super) fn reset_is_seen_as_one<B: Backend>(make: Make<B>) {
    let mut rig = Rig::new(make);
    let (mut client, slot) = rig.connect();
    rig.close(slot, Close::Reset);
    let error = client.read(&mut [0]).expect_err("not a graceful end");
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

pub(super) fn reset_drops_unsent_bytes<B: Backend>(make: Make<B>) {
    let mut rig = Rig::new(make);
    let (mut client, slot) = rig.connect();
    rig.send(slot, &pattern(LARGE));
    rig.nothing_more();
    rig.close(slot, Close::Reset);
    let mut received = Vec::new();
    let error = client.read_to_end(&mut received).expect_err("a reset, not the rest");
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

pub(super) fn after_failure<B: Backend>(make: Make<B>) {
    for how in [Close::Graceful, Close::Reset] {
        let mut rig = Rig::new(make);
        let (client, slot) = rig.connect();
        reset(client);
        rig.failed(slot);
        rig.close(slot, how);
        rig.nothing_more();
    }
}

pub(super) fn after_the_peers_end<B: Backend>(make: Make<B>) {
    let mut rig = Rig::new(make);
    let (client, slot) = rig.connect();
    drop(client);
    assert!(rig.receive_all(slot).is_empty());
    rig.close(slot, Close::Graceful);
    rig.nothing_more();
}

/// Checks that the backend ignores requests after `close`, because the caller may still be handling older events.
pub(super) fn ignores_calls_while_closing<B: Backend>(make: Make<B>) {
    let mut rig = Rig::new(make);
    let (mut client, slot) = rig.connect();
    client.write_all(b"unheard").expect("written");
    rig.backend.close(slot, Close::Graceful);
    rig.backend.pause(slot);
    rig.backend.resume(slot);
    rig.send(slot, b"too late");
    rig.backend.shutdown(slot);
    rig.backend.close(slot, Close::Reset);
    rig.closed(slot);
    rig.nothing_more();
    let mut received = Vec::new();
    let _ = client.read_to_end(&mut received);
    assert!(received.is_empty(), "{received:?}");
}

pub(super) fn many_at_once<B: Backend>(make: Make<B>) {
    let mut rig = Rig::new(make);
    for _ in 0..3 {
        let mut clients: Vec<(TcpStream, Slot)> = (0..200).map(|_| rig.connect()).collect();
        for (at, (client, slot)) in clients.iter_mut().enumerate() {
            // Some connections have input, some have a send in flight, and some have neither.
            match at % 3 {
                0 => client.write_all(b"x").expect("written"),
                1 => rig.send_span(*slot, Span::copy_of(b"y")),
                _ => {}
            }
            rig.backend.close(*slot, if at % 2 == 0 { Close::Graceful } else { Close::Reset });
        }
        for (_, slot) in &clients {
            rig.closed(*slot);
        }
        rig.nothing_more();
    }
}

pub(super) fn dropped_with_everything_in_flight<B: Backend>(make: Make<B>) {
    let mut rig = Rig::new(make);
    let (_stuck, slot) = rig.connect();
    let (_idle, _) = rig.connect();
    let (mut talking, _) = rig.connect();
    let chunk = Chunk::with_capacity(LARGE);
    chunk.append(&pattern(LARGE));
    rig.send_span(slot, Span::new(&chunk, 0, LARGE));
    talking.write_all(b"hello").expect("written");
    let (_, held) = rig.received();
    // This close has not reached the kernel when the backend is dropped.
    rig.backend.close(slot, Close::Graceful);
    drop(rig);
    assert_eq!(Rc::strong_count(&chunk), 1, "the span is dropped");
    drop(held);
}
