//! Flow control: every reason to pause meets every event.

use crate::hub::Slot;
use crate::shard::flow::{ClientFlow, Flow, Input, Next, Pause, Verdict};
use crate::shard::pace::Pace;

const REASONS: [Pause; 6] =
    [Pause::Unread, Pause::Congestion, Pause::Rate, Pause::Share, Pause::Answer, Pause::Memory];
const SLOT: Slot = 3;
const NOBODY: [Slot; 0] = [];

fn bytes(text: &str) -> Next {
    Next::Handle(Input::Bytes(text.into()))
}

#[test]
fn the_backend_is_paused_for_the_first_reason_and_resumed_after_the_last() {
    for first in REASONS {
        for second in REASONS.into_iter().filter(|second| *second != first) {
            let (mut flow, mut client) = (Flow::default(), ClientFlow::default());
            assert!(flow.pause(SLOT, &mut client, first));
            assert!(!flow.pause(SLOT, &mut client, second), "{second:?} after {first:?}");
            assert!(flow.lift(&mut client, first));
            assert_eq!(flow.next(SLOT, &mut client, 1, true), Next::Wait, "{second:?} is left");
            assert!(!flow.lift(&mut client, first), "it was lifted already");
            assert!(flow.lift(&mut client, second));
            assert_eq!(flow.next(SLOT, &mut client, 1, true), Next::Receive);
        }
    }
}

#[test]
fn input_of_a_paused_client_is_held_and_comes_back_in_order() {
    for reason in REASONS {
        let (mut flow, mut client) = (Flow::default(), ClientFlow::default());
        flow.pause(SLOT, &mut client, reason);
        for text in ["b", "c"] {
            assert_eq!(flow.admit(SLOT, &mut client, 1, true), Verdict::Hold, "{reason:?}");
            flow.hold(SLOT, text.into());
        }
        flow.hold_rest(SLOT, "a".into());
        assert!(flow.hold_end(SLOT));
        assert_eq!((flow.held(), flow.held_bytes()), (1, 3));
        flow.lift(&mut client, reason);
        let handled: Vec<_> = (1..=4).map(|turn| flow.next(SLOT, &mut client, turn, true)).collect();
        assert_eq!(handled, [bytes("a"), bytes("b"), bytes("c"), Next::Handle(Input::End)], "{reason:?}");
        assert_eq!((flow.next(SLOT, &mut client, 5, true), flow.held()), (Next::Receive, 0));
    }
}

#[test]
fn the_end_of_a_stream_is_held_only_behind_bytes() {
    let mut flow = Flow::default();
    assert!(!flow.hold_end(SLOT));
    assert_eq!(flow.held(), 0);
}

#[test]
fn a_client_that_is_paused_again_keeps_the_rest() {
    for reason in REASONS {
        let (mut flow, mut client) = (Flow::default(), ClientFlow::default());
        flow.pause(SLOT, &mut client, Pause::Unread);
        flow.hold(SLOT, "a".into());
        flow.hold(SLOT, "b".into());
        flow.lift(&mut client, Pause::Unread);
        assert_eq!(flow.next(SLOT, &mut client, 1, true), bytes("a"));
        assert!(flow.pause(SLOT, &mut client, reason), "none was left");
        assert_eq!(flow.next(SLOT, &mut client, 1, true), Next::Wait);
        assert_eq!((flow.held(), flow.held_bytes()), (1, 1));
        flow.lift(&mut client, reason);
        assert_eq!(flow.next(SLOT, &mut client, 1, true), bytes("b"));
    }
}

#[test]
fn each_turn_handles_a_share_of_each_client() {
    let (mut flow, mut client) = (Flow::default(), ClientFlow::default());
    // Flow control keeps only the low bits of the turn's number, which differ between consecutive numbers of this list.
    for turn in [7, 8, 7, 255, 0] {
        assert_eq!(flow.admit(SLOT, &mut client, turn, true), Verdict::Handle);
        assert_eq!(flow.admit(SLOT, &mut client, turn, true), Verdict::Handle);
        assert_eq!(flow.admit(SLOT, &mut client, turn, true), Verdict::PauseAndHold);
        assert_eq!(flow.admit(SLOT, &mut client, turn, true), Verdict::Hold);
        assert!(flow.has_served());
        assert_eq!(flow.take_due(Pause::Share, 0), [SLOT]);
        assert!(!flow.has_served() && flow.lift(&mut client, Pause::Share));
    }
}

#[test]
fn held_input_counts_for_the_share_of_the_turn_that_handles_it() {
    let (mut flow, mut client) = (Flow::default(), ClientFlow::default());
    flow.pause(SLOT, &mut client, Pause::Congestion);
    for text in ["a", "b", "c"] {
        flow.hold(SLOT, text.into());
    }
    flow.lift(&mut client, Pause::Congestion);
    assert_eq!(flow.next(SLOT, &mut client, 1, true), bytes("a"));
    assert_eq!(flow.next(SLOT, &mut client, 1, true), bytes("b"));
    assert_eq!(flow.next(SLOT, &mut client, 1, true), Next::Wait);
    assert_eq!(flow.take_due(Pause::Share, 0), [SLOT]);
    flow.lift(&mut client, Pause::Share);
    assert_eq!(flow.next(SLOT, &mut client, 2, true), bytes("c"));
    assert_eq!(flow.next(SLOT, &mut client, 2, true), Next::Receive);
}

#[test]
fn each_reason_is_due_in_its_own_way() {
    let pace = Pace { messages: 1, bytes: 0 };
    let (mut flow, mut client) = (Flow::default(), ClientFlow::default());
    assert!(client.charge(pace, 1_000, 5, 0), "four are a burst");
    let due_ms = 1_000 + client.rate_wait_ms(1_000);
    flow.pause_for_rate(SLOT, &mut client, 1_000);
    flow.pause(SLOT, &mut client, Pause::Unread);
    flow.pause(SLOT, &mut client, Pause::Congestion);
    flow.pause(SLOT, &mut client, Pause::Congestion);
    flow.pause(SLOT, &mut client, Pause::Share);
    flow.pause(SLOT, &mut client, Pause::Answer);
    flow.pause(SLOT, &mut client, Pause::Memory);
    assert_eq!(flow.publishers(), 1);
    assert!(flow.next_due_ms().is_some_and(|next_ms| next_ms >= due_ms));
    assert_eq!(flow.take_due(Pause::Rate, due_ms - 1), NOBODY);
    assert_eq!(flow.take_due(Pause::Rate, due_ms + 20), [SLOT]);
    assert_eq!(client.rate_wait_ms(due_ms), 0);
    assert_eq!(flow.take_due(Pause::Share, 0), [SLOT]);
    assert_eq!(flow.take_due(Pause::Congestion, 0), [SLOT]);
    assert_eq!(flow.take_due(Pause::Unread, u64::MAX), NOBODY);
    assert_eq!(flow.take_due(Pause::Answer, u64::MAX), NOBODY);
    for reason in REASONS {
        assert_eq!(flow.take_due(reason, u64::MAX), NOBODY, "{reason:?} was taken");
        assert!(flow.lift(&mut client, reason), "and is still there");
    }
}

#[test]
fn a_client_that_is_being_closed_does_not_wait_for_its_rate() {
    let pace = Pace { messages: 1, bytes: 0 };
    let (mut flow, mut client) = (Flow::default(), ClientFlow::default());
    assert!(client.charge(pace, 1_000, 500, 0));
    flow.pause_for_rate(SLOT, &mut client, 1_000);
    flow.begin_closing(SLOT, &mut client, 1_000);
    assert_eq!(flow.take_due(Pause::Rate, 1_020), [SLOT]);
    assert_eq!(client.rate_wait_ms(1_020), 0);
    assert!(!client.charge_closing(1_020, 16 << 20), "as much as was on its way");
    assert!(client.charge_closing(1_020, 1 << 20));
    // A closing client that is paused for a reason other than its rate needs no timer.
    let mut other = ClientFlow::default();
    flow.pause(4, &mut other, Pause::Unread);
    flow.begin_closing(4, &mut other, 1_000);
    assert_eq!(flow.next_due_ms().filter(|next_ms| *next_ms < 2_000), None);
}

#[test]
fn nothing_is_left_of_a_connection_that_is_gone() {
    for reason in REASONS {
        let (mut flow, mut client) = (Flow::default(), ClientFlow::default());
        flow.pause(SLOT, &mut client, reason);
        flow.hold(SLOT, "a".into());
        flow.forget(SLOT, client);
        assert_eq!((flow.held(), flow.publishers()), (0, 0), "{reason:?}");
        // The next client of the slot is not paused, even if the slot is still in the list of due clients.
        for slot in flow.take_due(reason, u64::MAX) {
            assert!(!flow.lift(&mut ClientFlow::default(), reason), "{slot}");
        }
    }
}

#[test]
fn input_waits_for_the_next_turn_when_a_turn_has_no_time_left() {
    let (mut flow, mut client) = (Flow::default(), ClientFlow::default());
    assert_eq!(flow.admit(SLOT, &mut client, 1, false), Verdict::PauseAndHold);
    flow.hold(SLOT, "a".into());
    assert_eq!(flow.admit(SLOT, &mut client, 1, true), Verdict::Hold, "input stays in order");
    flow.hold(SLOT, "b".into());
    assert_eq!(flow.take_due(Pause::Share, 0), [SLOT]);
    flow.lift(&mut client, Pause::Share);
    assert_eq!(flow.next(SLOT, &mut client, 2, true), bytes("a"));
    assert_eq!(flow.next(SLOT, &mut client, 2, false), Next::Wait);
    assert_eq!(flow.take_due(Pause::Share, 0), [SLOT]);
    flow.lift(&mut client, Pause::Share);
    assert_eq!(flow.next(SLOT, &mut client, 3, true), bytes("b"));
    assert_eq!(flow.next(SLOT, &mut client, 3, false), Next::Receive, "nothing is left to handle");
}

#[test]
fn clients_for_whom_a_turn_has_no_time_come_first_in_the_next_turn() {
    let mut flow = Flow::default();
    let mut clients = [ClientFlow::default(); 4];
    for (slot, client) in (0..).zip(&mut clients[..3]) {
        flow.pause(slot, client, Pause::Share);
    }
    let mut due = flow.take_due(Pause::Share, 0).into_iter();
    assert_eq!(due.next(), Some(0));
    // The first client is served and waits again, and another client arrives.
    flow.lift(&mut clients[0], Pause::Share);
    flow.pause(0, &mut clients[0], Pause::Share);
    flow.pause(3, &mut clients[3], Pause::Share);
    flow.put_back_served(due.collect());
    assert_eq!(flow.take_due(Pause::Share, 0), [1, 2, 0, 3]);
}
