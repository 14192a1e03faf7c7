//! Tests of the whole protocol; each module tests its own parts.

mod compressed;
mod frames;
pub(super) mod naive;
mod properties;
mod requests;
mod states;

use super::*;
use naive::Frame;
use proptest::test_runner::Config;

/// A handshake as a browser sends it, with the key of RFC 6455 §1.3.
pub(super) const HANDSHAKE: &[u8] =
    b"GET /chat HTTP/1.1\r\nHost: server.example.com\r\nUpgrade: websocket\r\n\
    Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";

/// Miri is some hundred times slower, and has no working directory to write failures to.
pub(super) fn config(cases: u32) -> Config {
    Config { cases: if cfg!(miri) { 4 } else { cases }, failure_persistence: None, ..Config::default() }
}

/// An event that owns what it says.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Seen {
    Request(String),
    Refused(Status),
    Message(Kind, Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(Option<(u16, String)>),
    Failed(CloseCode),
}

impl From<Event<'_>> for Seen {
    fn from(event: Event<'_>) -> Self {
        match event {
            Event::Request(request) => Self::Request(format!("{request:?}")),
            Event::Refused(refusal) => Self::Refused(refusal.status),
            Event::Message { kind, payload } => Self::Message(kind, payload.to_vec()),
            Event::Ping(payload) => Self::Ping(payload.to_vec()),
            Event::Pong(payload) => Self::Pong(payload.to_vec()),
            Event::Close(frame) => Self::Close(frame.map(|frame| (frame.code.0, frame.reason.to_owned()))),
            Event::Failed(failure) => Self::Failed(failure.code),
        }
    }
}

/// A connection after its handshake.
fn open() -> Protocol {
    let mut protocol = Protocol::new();
    let seen = feed(&mut protocol, HANDSHAKE, &Limits::default());
    assert!(matches!(seen[..], [Seen::Request(_)]), "{seen:?}");
    protocol
}

/// Feeds one read, answers requests as a server does, and checks that all is consumed.
fn feed(protocol: &mut Protocol, read: &[u8], limits: &Limits) -> Vec<Seen> {
    let mut read = read.to_vec();
    let mut input = &mut read[..];
    let mut seen = Vec::new();
    let mut reader = Reader::new(*limits);
    while let Some(event) = protocol.next(&mut input, &mut reader) {
        let upgrade = match event {
            Event::Request(request) => Some(request.upgrade.is_some()),
            _ => None,
        };
        seen.push(event.into());
        match upgrade {
            Some(true) => protocol.upgrade(None),
            Some(false) => protocol.discard(),
            None => {}
        }
    }
    assert!(input.is_empty(), "{} bytes were left", input.len());
    seen
}

/// Feeds a stream in reads that end at `cuts`, which need not be in order nor within it.
fn feed_cut(protocol: &mut Protocol, stream: &[u8], cuts: &[usize], limits: &Limits) -> Vec<Seen> {
    let mut ends: Vec<usize> = cuts.iter().map(|&cut| cut.min(stream.len())).collect();
    ends.push(stream.len());
    ends.sort_unstable();
    let mut start = 0;
    let mut seen = Vec::new();
    for end in ends {
        seen.extend(feed(protocol, &stream[start..end], limits));
        start = end;
    }
    seen
}

fn feed_bytewise(protocol: &mut Protocol, stream: &[u8], limits: &Limits) -> Vec<Seen> {
    stream.iter().flat_map(|&byte| feed(protocol, &[byte], limits)).collect()
}

/// What an open connection makes of `frames`, and that it does not depend on the reads.
#[track_caller]
fn outcome(frames: &[Frame]) -> Vec<Seen> {
    let stream: Vec<u8> = frames.iter().flat_map(Frame::encode).collect();
    let limits = Limits { max_message: 1000 };
    let whole = feed(&mut open(), &stream, &limits);
    assert_eq!(feed_bytewise(&mut open(), &stream, &limits), whole, "one byte at a time");
    whole
}
