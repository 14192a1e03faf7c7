//! Tests every state of a connection with every kind of input.

use super::*;
use std::panic::{AssertUnwindSafe, catch_unwind};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Situation {
    New,
    MidHead,
    AwaitsAnswer,
    AwaitsAnswerAfterParts,
    Open,
    MidHeader,
    MidPayload,
    MidMessage,
    Refused,
    Closed,
    Failed,
    Discarded,
}

use Situation as S;

const ALL: [Situation; 12] = [
    S::New,
    S::MidHead,
    S::AwaitsAnswer,
    S::AwaitsAnswerAfterParts,
    S::Open,
    S::MidHeader,
    S::MidPayload,
    S::MidMessage,
    S::Refused,
    S::Closed,
    S::Failed,
    S::Discarded,
];

impl Situation {
    fn is_over(self) -> bool {
        matches!(self, S::Refused | S::Closed | S::Failed | S::Discarded)
    }

    fn is_open(self) -> bool {
        matches!(self, S::Open | S::MidHeader | S::MidPayload | S::MidMessage)
    }

    fn awaits_answer(self) -> bool {
        matches!(self, S::AwaitsAnswer | S::AwaitsAnswerAfterParts)
    }

    /// Returns a connection that has reached this situation.
    fn reach(self) -> Protocol {
        let binary = Frame::new(2, "hello").encode();
        let (mut protocol, reads): (_, Vec<Vec<u8>>) = match self {
            S::New => (Protocol::new(), vec![]),
            S::MidHead => (Protocol::new(), vec![HANDSHAKE[..50].to_vec()]),
            S::AwaitsAnswer => (Protocol::new(), vec![HANDSHAKE.to_vec()]),
            S::AwaitsAnswerAfterParts => {
                (Protocol::new(), vec![HANDSHAKE[..50].to_vec(), HANDSHAKE[50..].to_vec()])
            }
            S::Open | S::Discarded => (open(), vec![]),
            S::MidHeader => (open(), vec![binary[..3].to_vec()]),
            S::MidPayload => (open(), vec![binary[..8].to_vec()]),
            S::MidMessage => (open(), vec![Frame::fragment(1, "hello").encode()]),
            S::Refused => (Protocol::new(), vec![b"\x16\x03\x01".to_vec()]),
            S::Closed => (open(), vec![Frame::new(8, "").encode()]),
            S::Failed => (open(), vec![vec![0xff]]),
        };
        for mut read in reads {
            let mut input = &mut read[..];
            // One call of `next` per read: the state is the one right after the first event.
            let _ = protocol.next(&mut input, &mut Reader::default());
        }
        if self == S::Discarded {
            protocol.discard();
        }
        protocol
    }
}

#[test]
fn is_open_is_discarding_and_is_mid_item_are_right_in_every_state() {
    for situation in ALL {
        let protocol = situation.reach();
        assert_eq!(protocol.is_open(), situation.is_open(), "{situation:?}");
        assert_eq!(protocol.is_discarding(), situation.is_over(), "{situation:?}");
        let is_mid_item = matches!(
            situation,
            S::MidHead | S::MidHeader | S::MidPayload | S::MidMessage | S::AwaitsAnswerAfterParts
        );
        assert_eq!(protocol.is_mid_item(), is_mid_item, "{situation:?}");
    }
}

/// Checks the first event of `read` in every situation. Checks that input is left only while a request waits for its
/// answer.
#[track_caller]
fn check(read: &[u8], expected: impl Fn(Situation) -> Option<Seen>) {
    for situation in ALL {
        let mut protocol = situation.reach();
        let mut copy = read.to_vec();
        let mut input = &mut copy[..];
        let seen = protocol.next(&mut input, &mut Reader::default()).map(Seen::from);
        assert_eq!(seen, expected(situation), "{situation:?}");
        if seen.is_none() {
            let left = if situation.awaits_answer() { read.len() } else { 0 };
            assert_eq!(input.len(), left, "{situation:?}");
        }
    }
}

#[test]
fn an_empty_read_gives_no_event_in_any_state() {
    check(b"", |_| None);
}

#[test]
fn a_ping_gives_the_right_event_in_every_state() {
    check(&Frame::new(9, "?").encode(), |situation| match situation {
        // An error in a request head that arrives in parts may be found only at the end of the head.
        S::New => Some(Seen::Refused(Status::BadRequest)),
        S::Open | S::MidMessage => Some(Seen::Ping(b"?".to_vec())),
        // A started frame takes the input as its missing part. The input is long enough to end a started payload, but too
        // short to end a started header.
        S::MidPayload => {
            let mut tail = [0x89, 0x81, 0x37];
            naive::unmask(&mut tail, [0x37, 0xfa, 0x21, 0x3d], 2);
            Some(Seen::Message(Kind::Binary, [b"he", &tail[..]].concat()))
        }
        _ => None,
    });
}

#[test]
fn a_close_gives_the_right_event_in_every_state() {
    check(&Frame::new(8, b"\x03\xe8bye").encode(), |situation| match situation {
        // An error in a request head that arrives in parts may be found only at the end of the head.
        S::New => Some(Seen::Refused(Status::BadRequest)),
        S::Open | S::MidMessage => Some(Seen::Close(Some((1000, "bye".to_owned())))),
        S::MidHeader | S::MidPayload => {
            let mut protocol = situation.reach();
            let seen =
                feed(&mut protocol, &Frame::new(8, b"\x03\xe8bye").encode(), &MessageLimits::default());
            assert!(matches!(seen[0], Seen::Message(Kind::Binary, _)), "{seen:?}");
            seen.into_iter().next()
        }
        _ => None,
    });
}

#[test]
fn a_request_head_gives_the_right_event_in_every_state() {
    check(HANDSHAKE, |situation| match situation {
        S::New => feed(&mut Protocol::new(), HANDSHAKE, &MessageLimits::default()).pop(),
        S::MidHead => Some(Seen::Refused(Status::BadRequest)),
        // The text "GE" decodes as a frame header with reserved bits.
        S::Open | S::MidMessage => Some(Seen::Failed(CloseCode::PROTOCOL)),
        S::MidHeader | S::MidPayload => {
            feed(&mut situation.reach(), HANDSHAKE, &MessageLimits::default()).into_iter().next()
        }
        _ => None,
    });
}

#[test]
fn only_an_unanswered_request_can_be_upgraded() {
    for situation in ALL {
        let mut protocol = situation.reach();
        let upgraded = catch_unwind(AssertUnwindSafe(|| protocol.upgrade(None))).is_ok();
        assert_eq!(upgraded, situation.awaits_answer(), "{situation:?}");
        if upgraded {
            let seen = feed(&mut protocol, &Frame::new(1, "hi").encode(), &MessageLimits::default());
            assert_eq!(seen, [Seen::Message(Kind::Text, b"hi".to_vec())], "{situation:?}");
        }
    }
}

#[test]
fn discard_ignores_all_further_input_in_every_state() {
    for situation in ALL {
        let mut protocol = situation.reach();
        protocol.discard();
        assert!(protocol.is_discarding() && !protocol.is_open() && !protocol.is_mid_item(), "{situation:?}");
        assert_eq!(feed(&mut protocol, HANDSHAKE, &MessageLimits::default()), [], "{situation:?}");
    }
}

// RFC 6455 §5.5.1, §7.1.7: input after a close frame or a failure is discarded.
#[test]
fn input_after_the_end_in_the_same_read_is_ignored() {
    let text = Frame::new(1, "hi").encode();
    for (end, seen) in
        [(Frame::new(8, "").encode(), Seen::Close(None)), (vec![0xff], Seen::Failed(CloseCode::PROTOCOL))]
    {
        let mut protocol = open();
        assert_eq!(feed(&mut protocol, &[&end[..], &text].concat(), &MessageLimits::default()), [seen]);
        assert_eq!(feed(&mut protocol, &text, &MessageLimits::default()), []);
    }
}

#[test]
fn an_idle_connection_is_small_and_owns_no_heap() {
    assert!(size_of::<Protocol>() <= 16, "{} bytes", size_of::<Protocol>());
    let owns_nothing = |protocol: &Protocol| {
        matches!(
            protocol.state,
            State::Http { buffer: None, .. } | State::Open { assembly: None, .. } | State::Discarding
        )
    };
    assert!(owns_nothing(&Protocol::new()));
    let mut protocol = Protocol::new();
    let limits = MessageLimits::default();
    assert_eq!(feed_bytewise(&mut protocol, HANDSHAKE, &limits).len(), 1);
    assert!(owns_nothing(&protocol), "after a head in parts");
    for opcode in [1, 2, 9, 10] {
        let frame = Frame::new(opcode, "hello").encode();
        assert_eq!(feed(&mut protocol, &frame, &limits).len(), 1);
        assert!(owns_nothing(&protocol), "after a whole frame, opcode {opcode}");
        assert_eq!(feed_bytewise(&mut protocol, &frame, &limits).len(), 1);
        assert!(owns_nothing(&protocol), "after a frame in parts, opcode {opcode}");
    }
    assert_eq!(feed_bytewise(&mut protocol, &Frame::new(8, b"\x03\xe8bye").encode(), &limits).len(), 1);
    feed(&mut protocol, b"", &limits);
    assert!(owns_nothing(&protocol), "after a close in parts");
}
