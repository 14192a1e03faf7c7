//! Tests of the messages that members, newcomers and leaving clients get.

use super::*;

#[test]
fn a_message_reaches_the_members_on_all_shards_once_and_in_one_order() {
    let mut mesh = Mesh::new(4, |_| {});
    let room = room_at(2, 4, 0);
    for shard in 0..4 {
        mesh.open(shard, 0);
        mesh.join(shard, 0, &room, 0);
    }
    mesh.settle();
    for n in 0..10 {
        (0..4).for_each(|shard| mesh.publish(shard, &room, &format!("{n} of {shard}")));
        // The requests of the shards arrive in another order in each round.
        (0..4).for_each(|turn| mesh.bring_requests((turn * 3 + n) % 4));
    }
    mesh.settle();
    let order = mesh.take(0, 0);
    assert_eq!(order.len(), 40);
    (1..4).for_each(|shard| assert_eq!(mesh.take(shard, 0), order));
    mesh.settle();
    (0..4).for_each(|shard| assert!(mesh.take(shard, 0).is_empty()));
}

#[test]
fn history_is_limited_by_count_by_bytes_and_by_the_client() {
    let newcomer_gets = |wanted, history, history_bytes| {
        let mut mesh = Mesh::new(2, |options| {
            options.history = history;
            options.history_bytes = history_bytes;
        });
        let room = room_at(0, 2, 0);
        (0..10).for_each(|n| mesh.publish(0, &room, &format!("message {n}")));
        mesh.settle();
        let counts = [0, 1].map(|shard| {
            mesh.open(shard, 0);
            mesh.join(shard, 0, &room, wanted);
            mesh.settle();
            let got = mesh.take(shard, 0);
            let expected: Vec<_> = (10 - got.len()..10).map(|n| format!("message {n}")).collect();
            assert_eq!(got, expected, "the last messages in their order");
            got.len()
        });
        assert_eq!(counts[0], counts[1], "at home and elsewhere");
        counts[0]
    };
    let frame = 2 + "message 0".len();
    assert_eq!(newcomer_gets(100, 5, 1_000), 5);
    assert_eq!(newcomer_gets(3, 5, 1_000), 3);
    assert_eq!(newcomer_gets(0, 5, 1_000), 0);
    assert_eq!(newcomer_gets(100, 5, 4 * frame), 4);
    assert_eq!(newcomer_gets(100, 5, 4 * frame - 1), 3);
    assert_eq!(newcomer_gets(100, 0, 1_000), 0);
}

#[test]
fn messages_published_while_the_snapshot_is_on_its_way_arrive_once() {
    let mut mesh = Mesh::new(2, |_| {});
    let room = room_at(0, 2, 0);
    (0..3).for_each(|n| mesh.publish(0, &room, &n.to_string()));
    mesh.settle();
    mesh.open(1, 0);
    mesh.join(1, 0, &room, 100);
    mesh.publish(0, &room, "before the subscription");
    mesh.bring_requests(0);
    mesh.bring_requests(1);
    mesh.publish(0, &room, "after the snapshot");
    mesh.publish(1, &room, "its own");
    mesh.settle();
    let got = mesh.take(1, 0);
    assert_eq!(got, ["0", "1", "2", "before the subscription", "after the snapshot", "its own"]);
}

#[test]
fn joining_again_before_the_snapshot_waits_for_that_snapshot() {
    let mut mesh = Mesh::new(2, |_| {});
    let room = room_at(0, 2, 0);
    mesh.open(1, 0);
    mesh.join(1, 0, &room, 9);
    mesh.bring_requests(1);
    mesh.hubs[1].leave(0, &room);
    mesh.publish(0, &room, "while nobody is there");
    mesh.bring_requests(1);
    mesh.bring_requests(0);
    mesh.join(1, 0, &room, 9);
    mesh.settle();
    mesh.publish(1, &room, "afterwards");
    mesh.settle();
    assert_eq!(mesh.take(1, 0), ["while nobody is there", "afterwards"]);
}

#[test]
fn a_snapshot_for_an_empty_room_ends_the_subscription() {
    let mut mesh = Mesh::new(2, |options| options.history = 0);
    let room = room_at(0, 2, 0);
    mesh.open(1, 0);
    mesh.join(1, 0, &room, 0);
    mesh.hubs[1].leave(0, &room);
    mesh.settle();
    assert_eq!([0, 1].map(|shard: usize| mesh.hubs[shard].memory()), [(0, 0); 2]);
}

#[test]
fn joining_twice_has_the_effect_of_joining_once() {
    let mut mesh = Mesh::new(1, |_| {});
    mesh.open(0, 0);
    mesh.publish(0, "room", "old");
    mesh.settle();
    (0..3).for_each(|_| mesh.join(0, 0, "room", 5));
    mesh.settle();
    assert_eq!(mesh.take(0, 0), ["old"]);
    assert_eq!(mesh.hubs[0].members("room").len(), 1);
    assert_eq!(mesh.hubs[0].rooms_of(0).collect::<Vec<_>>(), ["room"]);
}

#[test]
fn a_client_that_leaves_gets_earlier_messages_and_no_later_ones() {
    let mut mesh = Mesh::new(1, |_| {});
    mesh.open(0, 0);
    mesh.join(0, 0, "room", 0);
    mesh.hold(0, 0);
    mesh.send(0, 0, "in flight");
    mesh.settle();
    mesh.publish(0, "room", "first");
    mesh.send(0, 0, "own");
    mesh.publish(0, "room", "second");
    mesh.settle();
    mesh.hubs[0].leave(0, "room");
    mesh.publish(0, "room", "too late");
    mesh.settle();
    mesh.let_go(0, 0);
    assert_eq!(mesh.take(0, 0), ["in flight", "own", "first", "second"]);
}

#[test]
fn the_last_bytes_follow_pending_messages_or_replace_them() {
    for send_pending in [true, false] {
        let mut mesh = Mesh::new(1, |_| {});
        let id = mesh.open(0, 0);
        mesh.join(0, 0, "room", 0);
        mesh.join(0, 0, "other", 0);
        mesh.hold(0, 0);
        mesh.send(0, 0, "in flight");
        mesh.settle();
        mesh.publish(0, "room", "of the room");
        mesh.send(0, 0, "own");
        mesh.settle();
        mesh.hubs[0].finish(0, send_pending, b"\x88\x03bye");
        assert_eq!(mesh.hubs[0].find(id), None);
        assert_eq!(mesh.hubs[0].rooms_of(0).count(), 0);
        mesh.publish(0, "room", "too late");
        mesh.publish(0, "other", "too late");
        mesh.send(0, 0, "too late");
        mesh.hubs[0].send_control(0, &[b"\x88\x00"]);
        mesh.settle();
        assert!(!mesh.hubs[0].is_idle(0));
        mesh.let_go(0, 0);
        match send_pending {
            true => assert_eq!(mesh.take(0, 0), ["in flight", "own", "of the room", "bye"]),
            false => assert_eq!(mesh.take(0, 0), ["in flight", "bye"]),
        }
        assert!(mesh.hubs[0].is_idle(0));
    }
}

#[test]
fn messages_for_one_client_come_before_its_rooms() {
    let mut mesh = Mesh::new(1, |_| {});
    mesh.open(0, 0);
    mesh.join(0, 0, "room", 0);
    mesh.publish(0, "room", "of the room");
    mesh.bring_mail();
    mesh.send(0, 0, "own");
    mesh.send(0, 0, "own too");
    mesh.send_all();
    assert_eq!(mesh.take(0, 0), ["own", "own too", "of the room"]);
}

#[test]
fn a_client_has_one_send_in_flight() {
    let mut hub = Hub::new(options(0, 1));
    hub.open(0);
    hub.join(0, "room", 0);
    hub.order("room", None, text(&[b"one"]));
    let first = hub.poll_send(&mut 10).expect("one is pending");
    assert_eq!((payloads(first.span.bytes()), first.messages), (vec![b"one".to_vec()], 1));
    hub.order("room", None, text(&[b"two"]));
    hub.send(0, text(&[b"own"]));
    assert!(hub.poll_send(&mut 10).is_none());
    hub.sent(0);
    assert!(!hub.is_idle(0), "more is pending");
    assert_eq!(payloads(hub.poll_send(&mut 10).expect("own").span.bytes()), [b"own"]);
    hub.sent(0);
    assert!(!hub.is_idle(0), "more is pending");
    assert_eq!(payloads(hub.poll_send(&mut 10).expect("two").span.bytes()), [b"two"]);
    hub.sent(0);
    assert!(hub.is_idle(0), "nothing is pending");
}

#[test]
fn messages_that_come_during_a_send_leave_together_in_whole_frames() {
    let mut mesh = Mesh::new(1, |_| {});
    mesh.open(0, 0);
    mesh.join(0, 0, "room", 0);
    mesh.hold(0, 0);
    let sizes = [0, 1, 125, 126, 65_535, 65_536, 100_000, 7, 64 << 10, 3];
    for size in sizes {
        mesh.publish(0, "room", &"x".repeat(size));
        mesh.settle();
    }
    // Each span is decoded by itself. Decoding fails if the span ends within a frame.
    mesh.let_go(0, 0);
    assert_eq!(mesh.take(0, 0).iter().map(String::len).collect::<Vec<_>>(), sizes);
}

#[test]
fn a_message_keeps_its_kind_and_its_parts_are_joined() {
    let mut hub = Hub::new(options(0, 1));
    hub.open(0);
    hub.join(0, "room", 0);
    hub.order("room", None, Message::from_parts(Kind::Binary, &[b"a", b"", b"bc"]));
    assert_eq!(hub.poll_send(&mut 9).expect("pending").span.bytes(), b"\x82\x03abc");
}

#[test]
fn a_message_published_from_a_client_reaches_all_its_rooms() {
    let mut mesh = Mesh::new(2, |_| {});
    let rooms: Vec<String> = (0..2).map(|home| room_at(home, 2, 0)).collect();
    for (slot, room) in (0..).zip(&rooms) {
        mesh.open(0, slot);
        mesh.join(0, slot, room, 0);
    }
    mesh.open(0, 2);
    rooms.iter().for_each(|room| mesh.join(0, 2, room, 0));
    mesh.settle();
    mesh.hubs[0].publish_from(2, text(&[b"hello"]));
    mesh.settle();
    assert_eq!([0, 1, 2].map(|slot| mesh.take(0, slot).len()), [1, 1, 2]);
}

#[test]
fn the_id_of_a_closed_client_finds_nobody_although_its_slot_is_used_again() {
    let mut mesh = Mesh::new(2, |_| {});
    let former = mesh.open(1, 3);
    mesh.join(1, 3, "room", 0);
    mesh.send(1, 3, "for the former client");
    assert_eq!(mesh.hubs[1].find(former), Some(3));
    assert_eq!(mesh.hubs[0].find(former), None, "the client is on another shard");
    mesh.hubs[1].close(3);
    assert_eq!(mesh.hubs[1].find(former), None);
    let next = mesh.open(1, 3);
    assert_ne!(next.number, former.number);
    assert_eq!((mesh.hubs[1].find(former), mesh.hubs[1].find(next)), (None, Some(3)));
    mesh.publish(0, "room", "to the room");
    mesh.settle();
    assert!(mesh.take(1, 3).is_empty(), "the new client inherits neither rooms nor answers");
    mesh.send(1, 3, "for the next client");
    mesh.settle();
    assert_eq!(mesh.take(1, 3), ["for the next client"]);
}

#[test]
fn client_numbers_are_unique_over_all_shards_and_begin_with_1() {
    let mut mesh = Mesh::new(3, |_| {});
    let mut numbers: Vec<u64> = (0..30).map(|n| mesh.open((n % 3) as u16, (n / 3) as Slot).number).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (1..=30).collect::<Vec<u64>>());
}
