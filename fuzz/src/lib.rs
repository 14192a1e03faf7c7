//! Code shared by the fuzz targets: decodes their inputs and checks the results.

mod clients;
#[path = "../../src/protocol/tests/judged_proxies.rs"]
mod judged_proxies;
#[path = "../../src/protocol/tests/naive.rs"]
#[expect(dead_code, reason = "the targets need only the decoder")]
mod naive;
#[path = "../../src/protocol/tests/naive_bodies.rs"]
mod naive_bodies;
#[path = "../../src/protocol/tests/naive_proxies.rs"]
mod naive_proxies;
#[path = "../../src/protocol/tests/seen.rs"]
mod seen;

use seen::{Seen, feed, feed_bytewise, feed_cut};
use uproar::protocol::deflate::{Deflater, Inflater, Window};
use uproar::protocol::frame::{encode_header, first};
use uproar::protocol::{
    CloseCode, Kind, MessageLimits, Opcode, Protocol, ProtocolEvent, Reader, Status, forwarded, proxy_header,
};

pub use clients::Clients;
pub use judged_proxies::{judge_forwarded_hops, judge_proxy_header, judge_usual_hops};

/// A valid upgrade request, which opens a connection before its frames.
pub const HANDSHAKE: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";

/// Splits a fuzz input into the stream and the positions at which the stream is cut into reads.
///
/// The low 4 bits of the first byte are the number of positions. One byte follows for each position: its distance in
/// bytes from the position before.
pub fn cuts(input: &[u8]) -> (Vec<usize>, &[u8]) {
    let Some((&count, rest)) = input.split_first() else { return (Vec::new(), input) };
    let (gaps, stream) = rest.split_at(rest.len().min(usize::from(count % 16)));
    let ends = gaps.iter().scan(0, |end, &gap| {
        *end += usize::from(gap);
        Some(*end)
    });
    (ends.collect(), stream)
}

/// Checks that a request head gives one result however its bytes are cut, and that a parsed request is consistent.
pub fn check_head(cuts: &[usize], head: &[u8]) {
    let limits = MessageLimits::default();
    // Two empty lines end any request head.
    let head = [head, b"\r\n\r\n"].concat();
    let whole = feed(&mut Protocol::new(), &head, &limits);
    assert_eq!(feed_cut(&mut Protocol::new(), &head, cuts, &limits), whole);
    assert_eq!(feed_bytewise(&mut Protocol::new(), &head, &limits), whole);
    let mut copy = head.clone();
    if let Some(ProtocolEvent::Request(request)) =
        first_event(&mut Protocol::new(), &mut copy, &mut Reader::default())
    {
        assert!(request.path == "*" || request.path.starts_with('/'), "{request:?}");
        assert!(!request.path.contains('?'), "{request:?}");
        if let (Some(host), Some(header)) = (request.host, request.header("HOST")) {
            assert!(host.is_ascii() && header.is_ascii(), "{request:?}");
        }
        if request.upgrade.is_some() {
            assert!(request.method == "GET" && request.header("sec-websocket-key").is_some(), "{request:?}");
        }
    }
}

/// Checks that `Protocol` reads a request body like the naive reader, and the requests behind it like those of a new
/// connection, however the stream is cut into reads. The body comes in chunks, or is the first `len` bytes of `stream`.
pub fn check_body(is_chunked: bool, len: usize, max: usize, cuts: &[usize], stream: &[u8]) {
    naive_bodies::check_body(is_chunked, len, max, cuts, stream);
}

/// Checks that `Protocol` decodes frames like the naive decoder, however the stream is cut into reads.
pub fn check_frames(max_message: usize, cuts: &[usize], stream: &[u8]) {
    let limits = limits(max_message);
    let expected = naive::decode(stream, max_message);
    assert_eq!(feed(&mut open(), stream, &limits), expected);
    assert_eq!(feed_cut(&mut open(), stream, cuts, &limits), expected);
    assert_eq!(feed_bytewise(&mut open(), stream, &limits), expected);
}

/// Checks that compressed messages never inflate to more than `max_message` bytes. Checks that messages compressed by
/// the server inflate to the original, with and without context takeover. `cuts` divides `stream` into messages.
pub fn check_deflate(max_message: usize, cuts: &[usize], stream: &[u8]) {
    let mut starts: Vec<usize> = cuts.iter().map(|&cut| cut.min(stream.len())).collect();
    starts.sort_unstable();
    let ends = starts.iter().copied().chain([stream.len()]);
    let messages =
        [0].into_iter().chain(starts.iter().copied()).zip(ends).map(|(start, end)| &stream[start..end]);
    let (mut inflater, mut deflater) = (Inflater::default(), Deflater::new(1));
    let (mut client_window, mut sent_window, mut received_window) =
        (Window::new(9), Window::new(12), Window::new(12));
    for message in messages {
        if let Ok(content) = inflater.inflate(message, Some(&mut client_window), max_message) {
            assert!(content.len() <= max_message);
        }
        assert!(client_window.memory() <= 1 << 9);
        let frame = [encode_header(Opcode::Binary, true, false, message.len()).as_bytes(), message].concat();
        let alone = first(deflater.compress(&frame)).map(|packed| (packed.rsv1, packed.payload.to_vec()));
        let after = first(deflater.compress_within(&frame, &mut sent_window, true))
            .map(|p| (p.rsv1, p.payload.to_vec()));
        for (packed, window) in [(alone, None), (after, Some(&mut received_window))] {
            let (is_packed, payload) = packed.expect("a frame");
            match is_packed {
                true => assert_eq!(inflater.inflate(&payload, window, message.len()), Ok(message)),
                false => assert_eq!(payload, message),
            }
        }
        assert_eq!(sent_window.bytes(), received_window.bytes());
    }
}

fn first_event<'a>(
    protocol: &'a mut Protocol,
    read: &'a mut [u8],
    reader: &'a mut Reader,
) -> Option<ProtocolEvent<'a>> {
    let mut input = read;
    protocol.next(&mut input, reader)
}

fn limits(max_message: usize) -> MessageLimits {
    MessageLimits { max_message, ..MessageLimits::default() }
}

/// Returns a `Protocol` that has completed its handshake.
fn open() -> Protocol {
    let mut protocol = Protocol::new();
    let seen = feed(&mut protocol, HANDSHAKE, &MessageLimits::default());
    assert!(matches!(seen[..], [Seen::Request(..)]), "{seen:?}");
    protocol
}
