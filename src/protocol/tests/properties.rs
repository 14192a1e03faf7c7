//! Property tests over generated streams: where reads cut the bytes changes no event.

use super::naive::{self, Frame};
use super::*;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

/// A valid item of a session: frames and the expected events in order.
type Item = (Vec<Frame>, Vec<Seen>);

fn frame(fin: bool, opcode: u8, key: [u8; 4], payload: Vec<u8>) -> Frame {
    Frame { fin, key: Some(key), ..Frame::new(opcode, payload) }
}

fn control() -> impl Strategy<Value = Item> {
    (any::<bool>(), any::<[u8; 4]>(), vec(any::<u8>(), 0..=125)).prop_map(|(is_ping, key, payload)| {
        let opcode = if is_ping { 9 } else { 10 };
        let seen = if is_ping { Seen::Ping(payload.clone()) } else { Seen::Pong(payload.clone()) };
        (vec![frame(true, opcode, key, payload)], vec![seen])
    })
}

/// Generates a message in fragments that are cut anywhere, even inside a character, with control frames between them.
fn message() -> impl Strategy<Value = Item> {
    let content = prop_oneof![
        "\\PC{0,40}".prop_map(|text| (Kind::Text, text.into_bytes())),
        vec(any::<u8>(), 0..300).prop_map(|bytes| (Kind::Binary, bytes)),
    ];
    let fragments = vec((any::<prop::sample::Index>(), option::of(control())), 0..4);
    (content, any::<[u8; 4]>(), fragments).prop_map(|((kind, bytes), key, fragments)| {
        let mut cuts: Vec<usize> = fragments.iter().map(|(cut, _)| cut.index(bytes.len() + 1)).collect();
        cuts.sort_unstable();
        let (mut frames, mut seen, mut start) = (Vec::new(), Vec::new(), 0);
        let mut opcode = if kind == Kind::Text { 1 } else { 2 };
        for (cut, (_, control)) in cuts.into_iter().zip(fragments) {
            frames.push(frame(false, opcode, key, bytes[start..cut].to_vec()));
            let (control_frames, control_seen) = control.unwrap_or_default();
            frames.extend(control_frames);
            seen.extend(control_seen);
            (opcode, start) = (0, cut);
        }
        frames.push(frame(true, opcode, key, bytes[start..].to_vec()));
        seen.push(Seen::Message(kind, bytes));
        (frames, seen)
    })
}

/// Generates any frame, mostly a valid frame.
fn any_frame() -> impl Strategy<Value = Frame> {
    let payload = prop_oneof![
        4 => "\\PC{0,20}".prop_map(String::into_bytes),
        1 => vec(any::<u8>(), 0..20),
        1 => vec(b'a'..=b'z', 120..140),
        1 => (select(vec![999_u16, 1000, 1005, 3000, 5000]), "\\PC{0,9}")
            .prop_map(|(code, reason)| [&code.to_be_bytes()[..], reason.as_bytes()].concat()),
    ];
    let opcode = prop_oneof![12 => select(vec![0_u8, 0, 0, 1, 1, 2, 9, 10, 8]), 1 => 0..16_u8];
    let rsv = prop_oneof![20 => Just(0_u8), 1 => 1..8_u8];
    let key = prop_oneof![20 => any::<[u8; 4]>().prop_map(Some), 1 => Just(None)];
    let len_bytes = prop_oneof![20 => Just(None), 1 => select(vec![Some(2), Some(8)])];
    (prop::bool::weighted(0.6), rsv, opcode, key, len_bytes, payload).prop_map(
        |(fin, rsv, opcode, key, len_bytes, payload)| Frame {
            fin: fin || opcode >= 8,
            rsv,
            opcode,
            key,
            len_bytes,
            payload,
        },
    )
}

fn encode(frames: &[Frame]) -> Vec<u8> {
    frames.iter().flat_map(Frame::encode).collect()
}

proptest! {
    #![proptest_config(config(512))]

    #[test]
    fn a_correct_session_is_seen_as_it_was_meant(
        items in vec(prop_oneof![3 => message(), 1 => control()], 0..6),
        cuts in vec(0..2000_usize, 0..12),
    ) {
        let frames: Vec<Frame> = items.iter().flat_map(|(frames, _)| frames.clone()).collect();
        let expected: Vec<Seen> = items.into_iter().flat_map(|(_, seen)| seen).collect();
        // The handshake is part of the stream, and frames may follow it in the same read.
        let stream = [HANDSHAKE, &encode(&frames)].concat();
        let limits = MessageLimits::default();
        for seen in [
            feed(&mut Protocol::new(), &stream, &limits),
            feed_cut(&mut Protocol::new(), &stream, &cuts, &limits),
            feed_bytewise(&mut Protocol::new(), &stream, &limits),
        ] {
            prop_assert!(matches!(seen[0], Seen::Request(..)));
            prop_assert_eq!(&seen[1..], &expected[..]);
        }
    }

    #[test]
    fn any_frames_cut_anywhere_agree_with_the_naive_decoder(
        frames in vec(any_frame(), 0..8),
        lost in 0..30_usize,
        cuts in vec(0..400_usize, 0..8),
        max_message in select(vec![10_usize, 60, 200, 1000]),
    ) {
        let mut stream = encode(&frames);
        stream.truncate(stream.len().saturating_sub(lost));
        let limits = MessageLimits { max_message, ..MessageLimits::default() };
        let expected = naive::decode(&stream, max_message);
        prop_assert_eq!(&feed(&mut open(), &stream, &limits), &expected);
        prop_assert_eq!(&feed_cut(&mut open(), &stream, &cuts, &limits), &expected);
        prop_assert_eq!(&feed_bytewise(&mut open(), &stream, &limits), &expected);
    }

    #[test]
    fn garbage_after_the_handshake_never_panics(
        garbage in vec(any::<u8>(), 0..300),
        cuts in vec(0..300_usize, 0..8),
    ) {
        let limits = MessageLimits { max_message: 200, ..MessageLimits::default() };
        let expected = naive::decode(&garbage, limits.max_message);
        prop_assert_eq!(&feed_cut(&mut open(), &garbage, &cuts, &limits), &expected);
    }

    #[test]
    fn garbage_instead_of_a_head_never_panics(
        garbage in prop_oneof![
            vec(any::<u8>(), 0..300),
            vec(select(b"GET / HTTP/1.1\r\nHost: x, upgrade".to_vec()), 0..300),
        ],
        cuts in vec(0..300_usize, 0..8),
    ) {
        judged_alike(&garbage, &cuts)?;
    }

    #[test]
    fn a_damaged_handshake_is_judged_alike_however_it_is_cut(
        damage in vec((any::<prop::sample::Index>(), any::<u8>()), 0..3),
        cuts in vec(0..220_usize, 0..8),
    ) {
        let mut head = HANDSHAKE.to_vec();
        for (at, byte) in damage {
            let at = at.index(head.len());
            head[at] = byte;
        }
        judged_alike(&head, &cuts)?;
    }
}

fn judged_alike(head: &[u8], cuts: &[usize]) -> Result<(), TestCaseError> {
    // The two empty lines end any request head.
    let head = [head, b"\r\n\r\n"].concat();
    let limits = MessageLimits::default();
    let whole = feed(&mut Protocol::new(), &head, &limits);
    prop_assert_eq!(&feed_cut(&mut Protocol::new(), &head, cuts, &limits), &whole);
    prop_assert_eq!(&feed_bytewise(&mut Protocol::new(), &head, &limits), &whole);
    Ok(())
}
