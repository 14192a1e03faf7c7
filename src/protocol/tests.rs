//! Tests of the whole WebSocket protocol. Each module has tests of its own parts.

mod bodies;
mod compressed;
mod frames;
#[expect(unreachable_pub, reason = "the fuzz targets pass on what is in it")]
mod judged_proxies;
pub(super) mod naive;
mod naive_bodies;
mod naive_proxies;
mod properties;
mod proxies;
mod requests;
mod seen;
mod states;

use super::*;
use naive::Frame;
use proptest::test_runner::Config;
use seen::{Seen, feed, feed_bytewise, feed_cut};

/// A WebSocket handshake request as browsers send it, with the key of RFC 6455 §1.3.
pub(super) const HANDSHAKE: &[u8] =
    b"GET /chat HTTP/1.1\r\nHost: server.example.com\r\nUpgrade: websocket\r\n\
    Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";

/// Returns the configuration of a property test with `cases` cases. Miri is some hundred times slower, and has no
/// working directory to write failures to.
pub(super) fn config(cases: u32) -> Config {
    Config { cases: if cfg!(miri) { 4 } else { cases }, failure_persistence: None, ..Config::default() }
}

/// Returns a connection after its handshake, without compression.
fn open() -> Protocol {
    let mut protocol = Protocol::new();
    let seen = feed(&mut protocol, HANDSHAKE, &MessageLimits::default());
    assert!(matches!(seen[..], [Seen::Request(..)]), "{seen:?}");
    protocol
}

/// Returns the events of an open connection for `frames`. Asserts that read boundaries do not change the events.
#[track_caller]
fn outcome(frames: &[Frame]) -> Vec<Seen> {
    let stream: Vec<u8> = frames.iter().flat_map(Frame::encode).collect();
    let limits = MessageLimits { max_message: 1000, ..MessageLimits::default() };
    let whole = feed(&mut open(), &stream, &limits);
    assert_eq!(feed_bytewise(&mut open(), &stream, &limits), whole, "one byte at a time");
    whole
}
