//! Tests of compressed messages on an open connection. RFC 7692 §6 and §7.2

use super::naive::Frame;
use super::*;
use crate::protocol::deflate::Agreement;
use flate2::{Compress, Compression, FlushCompress};
use proptest::collection::vec;
use proptest::prelude::*;

/// Returns an open connection that has negotiated compression.
fn open_compressed(takeover: bool) -> Protocol {
    let mut protocol = Protocol::new();
    let (mut reader, mut read) = (Reader::default(), HANDSHAKE.to_vec());
    assert!(matches!(protocol.next(&mut &mut read[..], &mut reader), Some(ProtocolEvent::Request(_))));
    protocol.upgrade(Some(Agreement {
        server_takeover: false,
        client_takeover: takeover,
        server_window_bits: None,
        client_window_bits: None,
    }));
    protocol
}

fn compress(engine: &mut Compress, message: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(message.len() + 100);
    engine.compress_vec(message, &mut out, FlushCompress::Sync).expect("compresses");
    out.truncate(out.len() - 4);
    out
}

fn compressed(opcode: u8, message: &[u8]) -> Frame {
    let payload = compress(&mut Compress::new(Compression::default(), false), message);
    Frame { rsv: 4, ..Frame::new(opcode, payload) }
}

#[track_caller]
fn outcome(frames: &[Frame]) -> Vec<Seen> {
    let stream: Vec<u8> = frames.iter().flat_map(Frame::encode).collect();
    let limits = MessageLimits { max_message: 1_000, ..MessageLimits::default() };
    let whole = feed(&mut open_compressed(false), &stream, &limits);
    let bytewise = feed_bytewise(&mut open_compressed(false), &stream, &limits);
    assert_eq!(bytewise, whole, "one byte at a time");
    whole
}

#[test]
fn only_the_first_frame_of_a_message_may_have_rsv1() {
    let text = compressed(1, b"hello hello hello");
    assert_eq!(
        outcome(std::slice::from_ref(&text)),
        [Seen::Message(Kind::Text, b"hello hello hello".to_vec())]
    );
    let wrong = |frame: Frame| {
        let bit = frame.rsv;
        let seen = outcome(&[Frame { fin: false, ..text.clone() }, frame]);
        assert_eq!(seen, [Seen::Failed(CloseCode::PROTOCOL)], "{bit}");
    };
    wrong(Frame { rsv: 4, ..Frame::new(0, b"") });
    wrong(Frame { rsv: 4, ..Frame::new(9, b"") });
    wrong(Frame { rsv: 4, ..Frame::new(8, b"") });
    assert_eq!(outcome(&[Frame { rsv: 6, ..text.clone() }]), [Seen::Failed(CloseCode::PROTOCOL)]);
    assert_eq!(outcome(&[Frame { rsv: 2, ..Frame::new(1, b"") }]), [Seen::Failed(CloseCode::PROTOCOL)]);
    // Without negotiated compression, the bit RSV1 must not be set.
    assert_eq!(super::outcome(&[text]), [Seen::Failed(CloseCode::PROTOCOL)]);
}

#[test]
fn an_invalid_compressed_message_fails_with_its_code() {
    let failed = |code| vec![Seen::Failed(code)];
    assert_eq!(outcome(&[Frame { rsv: 4, ..Frame::new(1, b"\xff\xff\xff") }]), failed(CloseCode::INVALID));
    assert_eq!(outcome(&[compressed(1, b"caf\xc3")]), failed(CloseCode::INVALID), "no UTF-8");
    assert_eq!(outcome(&[compressed(2, b"caf\xc3")]).len(), 1);
    assert_eq!(outcome(&[compressed(2, &[0; 1_000])]), [Seen::Message(Kind::Binary, vec![0; 1_000])]);
    assert_eq!(outcome(&[compressed(2, &[0; 1_001])]), failed(CloseCode::TOO_BIG));
    // The compressed length has a limit of its own, which is checked when the frame header announces the length.
    let long = Frame { rsv: 4, ..Frame::new(2, [0; 1_100]) };
    assert_eq!(outcome(&[long]), failed(CloseCode::TOO_BIG));
    let parts = [Frame { rsv: 4, ..Frame::fragment(2, [0; 600]) }, Frame::new(0, [0; 500])];
    assert_eq!(outcome(&parts), failed(CloseCode::TOO_BIG));
}

#[test]
fn a_plain_message_has_the_same_limit_with_compression() {
    assert_eq!(outcome(&[Frame::new(2, [0; 1_001])]), [Seen::Failed(CloseCode::TOO_BIG)]);
    let parts = [Frame::fragment(2, [0; 600]), Frame::new(0, [0; 401])];
    assert_eq!(outcome(&parts), [Seen::Failed(CloseCode::TOO_BIG)]);
}

#[test]
fn a_window_costs_the_bytes_received_and_is_freed_with_the_connection() {
    let mut protocol = open_compressed(true);
    let mut engine = Compress::new(Compression::default(), false);
    let limits = MessageLimits::default();
    for n in 0..10 {
        let frame =
            Frame { rsv: 4, ..Frame::new(1, compress(&mut engine, format!("message {n}").as_bytes())) };
        assert_eq!(feed(&mut protocol, &frame.encode(), &limits).len(), 1);
    }
    let State::Open { assembly: Some(kept), .. } = &mut protocol.state else { panic!("{protocol:?}") };
    let (_, window) = kept.delivered();
    assert_eq!(window.map(|window| (window.bytes().len(), window.memory())), Some((90, 128)));
    assert!(!protocol.is_mid_item());
    feed(&mut protocol, &Frame::new(8, b"").encode(), &limits);
    assert!(matches!(protocol.state, State::Discarding), "{protocol:?}");
}

proptest! {
    #![proptest_config(config(256))]

    #[test]
    fn messages_arrive_however_they_are_cut(
        messages in vec(("[a-d ]{0,60}", any::<bool>(), vec(any::<prop::sample::Index>(), 0..3)), 0..8),
        cuts in vec(0..600_usize, 0..10),
        takeover: bool,
    ) {
        let mut engine = Compress::new(Compression::default(), false);
        let (mut stream, mut expected) = (Vec::new(), Vec::new());
        for (text, is_compressed, ends) in &messages {
            if !takeover {
                engine.reset();
            }
            let is_compressed = *is_compressed && !text.is_empty();
            let payload = match is_compressed {
                true => compress(&mut engine, text.as_bytes()),
                false => text.clone().into_bytes(),
            };
            let mut ends: Vec<usize> = ends.iter().map(|end| end.index(payload.len() + 1)).collect();
            ends.push(payload.len());
            ends.sort_unstable();
            let mut start = 0;
            for (at, end) in ends.iter().enumerate() {
                let (opcode, rsv) = if at == 0 { (1, 4 * u8::from(is_compressed)) } else { (0, 0) };
                let fin = at + 1 == ends.len();
                stream.extend(Frame { fin, rsv, ..Frame::new(opcode, &payload[start..*end]) }.encode());
                start = *end;
            }
            expected.push(Seen::Message(Kind::Text, text.clone().into_bytes()));
        }
        let limits = MessageLimits::default();
        prop_assert_eq!(&feed(&mut open_compressed(takeover), &stream, &limits), &expected);
        prop_assert_eq!(&feed_cut(&mut open_compressed(takeover), &stream, &cuts, &limits), &expected);
        prop_assert_eq!(&feed_bytewise(&mut open_compressed(takeover), &stream, &limits), &expected);
    }
}
