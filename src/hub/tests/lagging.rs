//! Tests of lagging clients, of the reports about them, and of publishers that must wait.

use super::*;

const WINDOW: usize = 100_000;
const LARGE: usize = 10_000;

fn mesh() -> Mesh {
    let mut mesh = Mesh::new(1, |options| {
        options.lag_window = WINDOW;
        options.history = 0;
    });
    for slot in 0..2 {
        mesh.open(0, slot);
        mesh.join(0, slot, "room", 0);
    }
    mesh
}

fn large(n: usize) -> String {
    format!("{n} {}", "x".repeat(LARGE))
}

fn number(payload: &str) -> usize {
    payload.split(' ').next().expect("a number").parse().expect("a number")
}

#[test]
fn a_client_that_does_not_read_lags_and_its_missed_messages_are_counted() {
    let mut mesh = mesh();
    mesh.hold(0, 0);
    for n in 0..100 {
        mesh.publish(0, "room", &large(n));
        mesh.settle();
    }
    mesh.let_go(0, 0);
    mesh.publish(0, "room", &large(100));
    mesh.settle();
    assert_eq!(mesh.take(0, 1).len(), 101, "the other client has all messages");
    let got: Vec<usize> = mesh.take(0, 0).iter().map(|payload| number(payload)).collect();
    assert!(got.is_sorted_by(|a, b| a < b));
    assert_eq!((got[0], got.last()), (0, Some(&100)));
    assert!(mesh.lagged.iter().all(|(_, lagged)| lagged.slot == 0));
    let missed: u64 = mesh.lagged.iter().map(|(_, lagged)| lagged.missed).sum();
    assert!(missed > 0);
    assert_eq!(got.len() as u64 + missed, 101);
}

#[test]
fn a_client_that_is_less_than_a_window_behind_gets_everything() {
    let mut mesh = mesh();
    mesh.hold(0, 0);
    for n in 0..WINDOW / (LARGE + 10) {
        mesh.publish(0, "room", &large(n));
        mesh.settle();
    }
    mesh.let_go(0, 0);
    assert_eq!(mesh.lagged, []);
    assert_eq!(mesh.take(0, 0), mesh.take(0, 1));
}

#[test]
fn a_client_that_was_not_offered_the_messages_does_not_lag() {
    let mut mesh = mesh();
    // Messages worth ten lag windows come before the hub is asked for a send.
    (0..100).for_each(|n| mesh.publish(0, "room", &large(n)));
    mesh.settle();
    assert_eq!(mesh.lagged, []);
    assert_eq!(mesh.take(0, 0).len(), 100);
    assert_eq!(mesh.take(0, 1).len(), 100);
}

#[test]
fn messages_that_come_after_a_visit_do_not_count_before_the_next_visit() {
    let mut mesh = mesh();
    mesh.publish(0, "room", "small");
    mesh.bring_mail();
    let hub = &mut mesh.hubs[0];
    let first = hub.poll_send(&mut 1).expect("the pass begins");
    let second = hub.poll_send(&mut 1).expect("the pass continues");
    for n in 0..100 {
        hub.order("room", None, text(&[large(n).as_bytes()]));
    }
    hub.sent(first.slot);
    hub.sent(second.slot);
    drop((first, second));
    mesh.send_all();
    assert_eq!(mesh.lagged, []);
    assert_eq!([0, 1].map(|slot| mesh.take(0, slot).len()), [100; 2]);
}

#[test]
fn messages_that_come_during_a_pass_do_not_count_at_its_end() {
    let mut mesh = mesh();
    let hub = &mut mesh.hubs[0];
    hub.poll_send(&mut 2);
    hub.order("room", None, text(&[b"in flight"]));
    let slow = hub.poll_send(&mut 1).expect("the pass begins");
    let quick = hub.poll_send(&mut 2).expect("the pass continues");
    assert!(hub.poll_send(&mut 1).is_none() && !hub.has_more(), "the pass is over");
    hub.sent(quick.slot);
    drop(quick);
    hub.order("room", None, text(&[b"waits"]));
    assert!(hub.poll_send(&mut 1).is_none(), "the slow client is skipped");
    let quick = hub.poll_send(&mut 1).expect("the quick client is not");
    for n in 0..100 {
        hub.order("room", None, text(&[large(n).as_bytes()]));
    }
    assert!(hub.poll_send(&mut 1).is_none(), "the second pass is over");
    for Outbound { slot, .. } in [slow, quick] {
        hub.sent(slot);
        assert!(!hub.is_idle(slot), "more is pending");
    }
    mesh.send_all();
    assert_eq!(mesh.lagged, []);
    assert_eq!([0, 1].map(|slot| mesh.take(0, slot).len()), [101, 100]);
}

#[test]
fn a_message_larger_than_the_window_makes_no_client_lag_that_reads() {
    let mut mesh = mesh();
    for n in 0..5 {
        mesh.publish(0, "room", &format!("{n} {}", "x".repeat(3 * WINDOW)));
        mesh.settle();
        mesh.send(0, 0, &"x".repeat(3 * WINDOW));
        mesh.settle();
    }
    assert_eq!(mesh.lagged, []);
    assert_eq!([0, 1].map(|slot| mesh.take(0, slot).len()), [10, 5]);
}

/// Returns hubs with a client at slot 0 of the first one that has missed messages, which no pass has detected yet. Also
/// returns the number of messages in the room.
fn with_undetected_lag() -> (Mesh, usize) {
    let mut mesh = mesh();
    mesh.hold(0, 0);
    // A pass trims messages that the client lacks. The client leaves before another pass detects the lag.
    for n in 0..30 {
        mesh.publish(0, "room", &large(n));
        mesh.settle();
        let room = &mesh.hubs[0].rooms[mesh.hubs[0].rooms.find("room").expect("there")];
        let member = room.members.iter().find(|member| member.slot == 0).expect("a member");
        if member.cursor < room.log.first() {
            break;
        }
    }
    assert_eq!(mesh.lagged, [], "not reported yet");
    let total = mesh.take(0, 1).len();
    (mesh, total)
}

#[test]
fn a_client_that_lagged_and_leaves_is_reported() {
    let (mut mesh, total) = with_undetected_lag();
    mesh.hubs[0].leave(0, "room");
    mesh.let_go(0, 0);
    let missed = total - mesh.take(0, 0).len();
    assert_eq!(mesh.lagged, [(0, Lagged { slot: 0, missed: missed as u64 })]);
}

#[test]
fn answers_over_the_window_are_dropped_and_counted() {
    let mut mesh = mesh();
    mesh.hold(0, 0);
    mesh.send(0, 0, "in flight");
    mesh.settle();
    mesh.hubs[0].tick(1_000);
    mesh.hubs[0].tick(2_000);
    let mut sent = 0;
    while mesh.lagged.is_empty() {
        mesh.send(0, 0, &large(sent));
        mesh.hubs[0].send_control(0, &[b"\x88\x00"]);
        sent += 1;
        mesh.send_all();
        assert!(mesh.hubs[0].outbox_len(0) <= WINDOW);
    }
    assert_eq!(mesh.lagged, [(0, Lagged { slot: 0, missed: sent as u64 })]);
    assert!(sent * LARGE > WINDOW - LARGE);
    mesh.send(0, 0, "newest");
    mesh.let_go(0, 0);
    let got = mesh.take(0, 0);
    assert_eq!((&*got[0], got.last().map(|last| &**last)), ("in flight", Some("newest")));
}

#[test]
fn a_pause_of_the_process_makes_no_client_lag() {
    let mut mesh = mesh();
    mesh.hold(0, 0);
    mesh.send(0, 0, "in flight");
    mesh.settle();
    mesh.send(0, 0, "pending");
    // The hub saw no turns in this time, so the hub cannot know whether the client read something.
    mesh.hubs[0].tick(100_000);
    (0..2 * WINDOW / LARGE).for_each(|number| mesh.send(0, 0, &large(number)));
    mesh.settle();
    assert_eq!(mesh.lagged, []);
    mesh.let_go(0, 0);
    assert_eq!(mesh.take(0, 0).len(), 2 + 2 * WINDOW / LARGE);
}

#[test]
fn a_burst_of_answers_makes_no_client_lag_that_reads() {
    let mut mesh = mesh();
    (0..4 * WINDOW / LARGE).for_each(|number| mesh.send(0, 0, &large(number)));
    mesh.settle();
    assert_eq!((mesh.take(0, 0).len(), &*mesh.lagged), (4 * WINDOW / LARGE, &[][..]));
}

#[test]
fn the_lag_of_a_former_connection_is_not_reported_for_a_new_one() {
    let mut mesh = mesh();
    let large = vec![b'x'; WINDOW / 2 + 1];
    mesh.hubs[0].send(0, text(&[&large]));
    mesh.hubs[0].tick(1_000);
    mesh.hubs[0].tick(2_000);
    mesh.hubs[0].send(0, text(&[&large]));
    mesh.hubs[0].close(0);
    mesh.hubs[0].open(0);
    assert_eq!(mesh.hubs[0].poll_lagged(), None);
}

#[test]
fn publishers_wait_from_half_a_window_until_it_is_offered() {
    let mut mesh = mesh();
    // A client that never reads makes publishers wait only until a pass has visited it.
    mesh.hold(0, 0);
    for _ in 0..3 {
        assert!(!mesh.hubs[0].is_saturated());
        (0..WINDOW / LARGE / 2 - 1).for_each(|n| mesh.publish(0, "room", &large(n)));
        mesh.bring_mail();
        assert!(!mesh.hubs[0].is_saturated());
        (0..2).for_each(|n| mesh.publish(0, "room", &large(n)));
        mesh.bring_mail();
        assert!(mesh.hubs[0].is_saturated());
        mesh.send_all();
        assert!(!mesh.hubs[0].is_saturated());
    }
}

#[test]
fn a_saturated_room_that_is_forgotten_makes_nobody_wait() {
    let mut mesh = mesh();
    (0..20).for_each(|n| mesh.publish(0, "room", &large(n)));
    mesh.bring_mail();
    assert!(mesh.hubs[0].is_saturated());
    (0..2).for_each(|slot| mesh.hubs[0].close(slot));
    assert!(!mesh.hubs[0].is_saturated());
    mesh.send_all();
    assert_eq!(mesh.hubs[0].memory(), (0, 0));
}

#[test]
fn a_client_that_lagged_and_is_finished_gets_nothing_behind_the_gap() {
    let (mut mesh, total) = with_undetected_lag();
    mesh.hubs[0].finish(0, true, b"");
    mesh.let_go(0, 0);
    mesh.settle();
    let got: Vec<usize> = mesh.take(0, 0).iter().map(|payload| number(payload)).collect();
    assert!(!got.is_empty() && got.len() < total, "{} of {total}", got.len());
    assert_eq!(got, (0..got.len()).collect::<Vec<_>>());
}
