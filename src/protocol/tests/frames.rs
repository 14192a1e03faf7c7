//! Tests of the rules for frames, each with its section of the RFC.

use super::*;

fn failed(code: CloseCode) -> Vec<Seen> {
    vec![Seen::Failed(code)]
}

fn text(payload: &str) -> Seen {
    Seen::Message(Kind::Text, payload.into())
}

// RFC 6455 §5.7: the example frames are decoded.
#[test]
fn the_examples_of_the_rfc() {
    let hello = [0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58];
    assert_eq!(feed(&mut open(), &hello, &MessageLimits::default()), [text("Hello")]);
    let fragments = [Frame::fragment(1, "Hel"), Frame::new(0, "lo")];
    assert_eq!(outcome(&fragments), [text("Hello")]);
    assert_eq!(outcome(&[Frame::new(9, "Hello")]), [Seen::Ping(b"Hello".to_vec())]);
}

// RFC 6455 §5.1: a client masks every frame.
#[test]
fn an_unmasked_frame_fails() {
    for opcode in [1, 2, 8, 9, 10] {
        let frame = Frame { key: None, ..Frame::new(opcode, "") };
        assert_eq!(outcome(&[frame]), failed(CloseCode::PROTOCOL));
    }
}

// RFC 6455 §5.2: the reserved bits RSV1, RSV2 and RSV3 are 0.
#[test]
fn a_reserved_bit_fails() {
    for rsv in 1..8 {
        for opcode in [1, 9] {
            assert_eq!(outcome(&[Frame { rsv, ..Frame::new(opcode, "") }]), failed(CloseCode::PROTOCOL));
        }
        let fragments = [Frame::fragment(1, "a"), Frame { rsv, ..Frame::new(0, "b") }];
        assert_eq!(outcome(&fragments), failed(CloseCode::PROTOCOL));
    }
}

// RFC 6455 §5.2: reserved opcodes are refused.
#[test]
fn a_reserved_opcode_fails_at_its_first_byte() {
    for opcode in [3, 4, 5, 6, 7, 11, 12, 13, 14, 15] {
        assert_eq!(outcome(&[Frame::new(opcode, "")]), failed(CloseCode::PROTOCOL));
        assert_eq!(
            feed(&mut open(), &[0x80 | opcode], &MessageLimits::default()),
            failed(CloseCode::PROTOCOL)
        );
    }
}

// RFC 6455 §5.2: "the minimal number of bytes MUST be used to encode the length"
#[test]
fn a_length_not_in_its_shortest_form_fails() {
    for (len, len_bytes) in [(0, 2), (125, 2), (0, 8), (126, 8), (999, 8)] {
        let frame = Frame { len_bytes: Some(len_bytes), ..Frame::new(2, vec![0; len]) };
        assert_eq!(outcome(&[frame]), failed(CloseCode::PROTOCOL), "{len} in {len_bytes} bytes");
    }
}

#[test]
fn lengths_at_the_limits_of_each_form_pass() {
    for len in [0, 1, 125, 126, 127, 65535, 65536] {
        let payload = vec![b'a'; len];
        let stream = Frame::new(2, &payload).encode();
        let seen = feed_cut(&mut open(), &stream, &[1, 5, 20], &MessageLimits::default());
        assert_eq!(seen, [Seen::Message(Kind::Binary, payload)], "{len}");
    }
}

// RFC 6455 §5.2: "the most significant bit MUST be 0"
#[test]
fn a_length_with_its_highest_bit_fails() {
    let header = [0x82, 0xff, 0x80, 0, 0, 0, 0, 1, 0, 0];
    assert_eq!(feed(&mut open(), &header, &MessageLimits::default()), failed(CloseCode::PROTOCOL));
    assert_eq!(feed(&mut open(), &header[..3], &MessageLimits::default()), failed(CloseCode::PROTOCOL));
}

// RFC 6455 §5.5: "MUST have a payload length of 125 bytes or less and MUST NOT be fragmented"
#[test]
fn a_long_or_fragmented_control_frame_fails() {
    for opcode in [8, 9, 10] {
        assert_eq!(outcome(&[Frame::new(opcode, [b'a'; 126])]), failed(CloseCode::PROTOCOL));
        assert_eq!(outcome(&[Frame::fragment(opcode, "")]), failed(CloseCode::PROTOCOL));
    }
    assert_eq!(outcome(&[Frame::new(9, [b'a'; 125])]), [Seen::Ping(vec![b'a'; 125])]);
    assert_eq!(outcome(&[Frame::new(10, [b'a'; 125])]), [Seen::Pong(vec![b'a'; 125])]);
}

// RFC 6455 §5.4: control frames may stand within a fragmented message, and are not part of it.
#[test]
fn control_frames_may_come_between_fragments() {
    let frames = [
        Frame::fragment(1, "a"),
        Frame::new(9, "1"),
        Frame::fragment(0, "b"),
        Frame::new(10, "2"),
        Frame::new(0, "c"),
    ];
    assert_eq!(outcome(&frames), [Seen::Ping(b"1".to_vec()), Seen::Pong(b"2".to_vec()), text("abc")]);
    let closing = [Frame::fragment(1, "a"), Frame::new(8, ""), Frame::new(0, "b")];
    assert_eq!(outcome(&closing), [Seen::Close(None)]);
}

// RFC 6455 §5.4: a continuation frame needs an incomplete message.
#[test]
fn a_continuation_without_a_start_fails() {
    assert_eq!(outcome(&[Frame::new(0, "a")]), failed(CloseCode::PROTOCOL));
    assert_eq!(outcome(&[Frame::fragment(0, "a")]), failed(CloseCode::PROTOCOL));
    let after_message = [Frame::fragment(1, "a"), Frame::new(0, "b"), Frame::new(0, "c")];
    assert_eq!(outcome(&after_message), [text("ab"), Seen::Failed(CloseCode::PROTOCOL)]);
}

// RFC 6455 §5.4: fragments of one message are not interleaved with those of another.
#[test]
fn a_new_message_inside_a_fragmented_one_fails() {
    for opcode in [1, 2] {
        let frames = [Frame::fragment(1, "a"), Frame::new(opcode, "b")];
        assert_eq!(outcome(&frames), failed(CloseCode::PROTOCOL));
    }
}

// RFC 6455 §5.4: a message may have any number of fragments.
#[test]
fn many_fragments_pass_and_empty_ones_cost_no_memory() {
    let fragments = if cfg!(miri) { 64 } else { 65_536 };
    let limits = MessageLimits { max_message: fragments, ..MessageLimits::default() };
    for payload in ["", "x"] {
        let mut protocol = open();
        assert_eq!(feed(&mut protocol, &Frame::fragment(1, "").encode(), &limits), []);
        let fragment = Frame::fragment(0, payload).encode();
        for _ in 0..fragments {
            assert_eq!(feed(&mut protocol, &fragment, &limits), []);
        }
        let State::Open { assembly: Some(assembly), .. } = &protocol.state else { panic!("{protocol:?}") };
        assert!(assembly.capacity() <= 2 * payload.len() * fragments, "{} bytes", assembly.capacity());
        let seen = feed(&mut protocol, &Frame::new(0, "").encode(), &limits);
        assert_eq!(seen, [text(&payload.repeat(fragments))]);
    }
}

// RFC 6455 §8.1, with the malformed sequences of Unicode 3.9 and the borders of each length.
#[test]
fn text_that_is_not_utf8_fails() {
    let bad: [&[u8]; 12] = [
        b"\x80",
        b"\xc0\x80",
        b"\xc1\xbf",
        b"\xc3(",
        b"\xe0\x9f\xbf",
        b"\xed\xa0\x80",
        b"\xf0\x8f\xbf\xbf",
        b"\xf4\x90\x80\x80",
        b"\xf5",
        b"\xff",
        b"\xe2\x82",
        b"\xf0\x9f\x98",
    ];
    for bytes in bad {
        let payload = [b"ok ", bytes].concat();
        assert_eq!(outcome(&[Frame::new(1, &payload)]), failed(CloseCode::INVALID), "{bytes:02x?}");
        let fragments = [Frame::fragment(1, &payload), Frame::new(0, "")];
        assert_eq!(outcome(&fragments), failed(CloseCode::INVALID), "{bytes:02x?} in fragments");
        assert_eq!(outcome(&[Frame::new(2, &payload)]), [Seen::Message(Kind::Binary, payload)]);
    }
}

// RFC 6455 §5.6: a character may be cut between fragments.
#[test]
fn a_character_may_be_cut_between_fragments() {
    let content = "κόσμε 😀";
    for cut in 0..=content.len() {
        let (start, end) = content.as_bytes().split_at(cut);
        let frames = [Frame::fragment(1, start), Frame::new(9, ""), Frame::new(0, end)];
        assert_eq!(outcome(&frames), [Seen::Ping(vec![]), text(content)], "cut at {cut}");
    }
}

// RFC 6455 §8.1: text that is not UTF-8 is refused as early as possible.
#[test]
fn invalid_text_fails_at_its_first_invalid_byte() {
    let stream = Frame::new(1, b"abc\xe2\x28 and much more that is never sent").encode();
    let header_len = 6;
    let mut protocol = open();
    assert_eq!(feed(&mut protocol, &stream[..header_len + 4], &MessageLimits::default()), []);
    let wrong_byte = &stream[header_len + 4..header_len + 5];
    assert_eq!(feed(&mut protocol, wrong_byte, &MessageLimits::default()), failed(CloseCode::INVALID));
    let all_at_once = &stream[..header_len + 5];
    assert_eq!(feed(&mut open(), all_at_once, &MessageLimits::default()), failed(CloseCode::INVALID));
}

// RFC 6455 §10.4, §7.4.1: a message over the limit is refused with code 1009.
#[test]
fn a_message_over_the_limit_fails_at_its_header() {
    let limits = MessageLimits { max_message: 10, ..MessageLimits::default() };
    let exact = Frame::new(1, "0123456789").encode();
    assert_eq!(feed(&mut open(), &exact, &limits), [text("0123456789")]);
    let over = Frame::new(1, "0123456789a").encode();
    assert_eq!(feed(&mut open(), &over[..2], &limits), failed(CloseCode::TOO_BIG));
    let huge = [0x82, 0xff, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff];
    assert_eq!(
        feed(&mut open(), &huge, &MessageLimits { max_message: usize::MAX >> 1, ..MessageLimits::default() })
            .len(),
        0
    );
    assert_eq!(feed(&mut open(), &huge, &limits), failed(CloseCode::TOO_BIG));
    // A control frame does not count towards the length of the message around it.
    let control = Frame::new(9, "0123456789a").encode();
    assert_eq!(feed(&mut open(), &control, &limits), [Seen::Ping(b"0123456789a".to_vec())]);
}

#[test]
fn fragments_over_the_limit_fail_at_the_header_that_exceeds_it() {
    let limits = MessageLimits { max_message: 10, ..MessageLimits::default() };
    let mut protocol = open();
    assert_eq!(feed(&mut protocol, &Frame::fragment(2, "01234").encode(), &limits), []);
    assert_eq!(feed(&mut protocol, &Frame::fragment(0, "56789").encode(), &limits), []);
    assert_eq!(feed(&mut protocol, &Frame::fragment(0, "").encode(), &limits), []);
    assert_eq!(feed(&mut protocol, &Frame::new(0, "a").encode()[..2], &limits), failed(CloseCode::TOO_BIG));
}

#[test]
fn a_frame_cut_right_after_its_header_leaves_no_message_open() {
    let mut protocol = open();
    let stream = Frame::new(1, "one").encode();
    assert_eq!(feed_cut(&mut protocol, &stream, &[6], &MessageLimits::default()), [text("one")]);
    assert_eq!(feed(&mut protocol, &Frame::new(1, "two").encode(), &MessageLimits::default()), [text("two")]);
}

#[test]
fn an_announced_length_alone_allocates_nothing() {
    let stream = Frame::new(2, vec![1; 100_000]).encode();
    for (arrived, most) in [(14, 0), (100, 900), (20_000, 100_000)] {
        let mut protocol = open();
        assert_eq!(feed(&mut protocol, &stream[..arrived], &MessageLimits::default()), []);
        assert!(payload_memory(&protocol) <= most, "{} bytes after {arrived}", payload_memory(&protocol));
    }
}

#[test]
fn the_buffer_of_a_long_message_is_reused_for_long_messages_only() {
    let stream = Frame::new(2, vec![1; 100_000]).encode();
    let mut reader = Reader::default();
    let mut take_in = |protocol: &mut Protocol, bytes: &[u8]| {
        let mut bytes = bytes.to_vec();
        let mut input = &mut bytes[..];
        while protocol.next(&mut input, &mut reader).is_some() {}
        reader.spare.capacity()
    };
    let (mut first, mut second, mut third) = (open(), open(), open());
    assert_eq!(take_in(&mut first, &stream[..50_000]), 0);
    let kept = take_in(&mut first, &stream[50_000..]);
    assert_eq!((kept, payload_memory(&first)), (100_000, 0));
    assert_eq!(take_in(&mut second, &stream[..100]), kept);
    assert_eq!((take_in(&mut third, &stream[..30_000]), payload_memory(&third)), (0, kept));
    assert_eq!(take_in(&mut third, &stream[30_000..]), kept);
}

fn payload_memory(protocol: &Protocol) -> usize {
    match &protocol.state {
        State::Open { assembly: Some(assembly), .. } => assembly.capacity(),
        _ => 0,
    }
}

// RFC 6455 §5.5.1 and §7.4: a close payload has a valid code and a UTF-8 reason, or is empty.
#[test]
fn close_payloads_are_decoded_and_checked() {
    let close = |payload: &[u8]| outcome(&[Frame::new(8, payload)]);
    assert_eq!(close(b""), [Seen::Close(None)]);
    assert_eq!(close(b"\x03"), failed(CloseCode::PROTOCOL));
    assert_eq!(close(b"\x03\xe8"), [Seen::Close(Some((1000, String::new())))]);
    assert_eq!(close("\u{3}\u{f}".as_bytes()), failed(CloseCode::PROTOCOL));
    for code in
        [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999_u16]
    {
        let payload = [&code.to_be_bytes()[..], "grüße".as_bytes()].concat();
        assert_eq!(close(&payload), [Seen::Close(Some((code, "grüße".to_owned())))]);
    }
    for code in [0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535_u16] {
        assert_eq!(close(&code.to_be_bytes()), failed(CloseCode::PROTOCOL), "{code}");
    }
    for reason in [&b"ab\xff"[..], b"ab\xe2\x82"] {
        assert_eq!(close(&[b"\x03\xe8", reason].concat()), failed(CloseCode::INVALID));
    }
}

#[test]
fn an_invalid_close_fails_at_its_first_invalid_byte() {
    let stream = Frame::new(8, b"\x03\xe8a\xff and more").encode();
    assert_eq!(feed(&mut open(), &stream[..9], &MessageLimits::default()), []);
    assert_eq!(feed(&mut open(), &stream[..10], &MessageLimits::default()), failed(CloseCode::INVALID));
    let stream = Frame::new(8, b"\x03\xed and more").encode();
    assert_eq!(feed(&mut open(), &stream[..8], &MessageLimits::default()), failed(CloseCode::PROTOCOL));
}

#[test]
fn a_frame_that_is_whole_in_the_input_is_not_copied() {
    let limits = MessageLimits::default();
    let mut protocol = open();
    // The payload of a frame is not copied either if only the frame's header was cut between two reads.
    let cut = Frame::new(2, "cut header").encode();
    assert_eq!(feed(&mut protocol, &cut[..3], &limits), []);
    let mut read = cut[3..].to_vec();
    for opcode in [1, 2, 9, 10, 8] {
        let payload = if opcode == 8 { &b"\x03\xe8 some bytes"[..] } else { b"some bytes" };
        read.extend(Frame::new(opcode, payload).encode());
    }
    let range = read.as_ptr_range();
    let mut input = &mut read[..];
    let mut count = 0;
    let mut reader = Reader::new(limits);
    while let Some(event) = protocol.next(&mut input, &mut reader) {
        let bytes = match event {
            ProtocolEvent::Message { payload, .. }
            | ProtocolEvent::Ping(payload)
            | ProtocolEvent::Pong(payload) => payload,
            ProtocolEvent::Close(Some(frame)) => frame.reason.as_bytes(),
            other => panic!("{other:?}"),
        };
        let place = bytes.as_ptr_range();
        assert!(range.start <= place.start && place.end <= range.end, "event {count} was copied");
        count += 1;
    }
    assert_eq!(count, 6);
}

#[test]
fn a_request_head_that_is_whole_in_the_input_is_not_copied() {
    let mut read = HANDSHAKE.to_vec();
    let range = read.as_ptr_range();
    let mut input = &mut read[..];
    let mut protocol = Protocol::new();
    let mut reader = Reader::default();
    let Some(ProtocolEvent::Request(request)) = protocol.next(&mut input, &mut reader) else {
        panic!("no request")
    };
    assert!(range.contains(&request.path.as_ptr()));
}
