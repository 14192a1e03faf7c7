//! Tests of the limits of a room's history, and of the memory limit for the histories of all rooms.

use std::time::Duration;

use super::*;

/// Length in bytes of a message that fills most of a log's chunk.
const LEN: usize = 700;

/// Returns a hub in which a client visited `rooms` rooms, one after the other. In each room the client joined,
/// published one message, and left.
fn visited(rooms: usize, history_memory: usize) -> Mesh {
    let mut mesh = Mesh::new(1, |options| options.history_memory = history_memory);
    mesh.open(0, 0);
    for n in 0..rooms {
        mesh.hubs[0].tick(n as u64 * 2_000);
        mesh.join(0, 0, &format!("room {n}"), 5);
        mesh.publish(0, &format!("room {n}"), &"x".repeat(LEN));
        mesh.settle();
        mesh.hubs[0].leave(0, &format!("room {n}"));
        mesh.settle();
    }
    mesh.take(0, 0);
    mesh
}

/// Returns the number of old messages that a newcomer to the room gets.
fn seen(mesh: &mut Mesh, room: &str) -> usize {
    mesh.join(0, 0, room, 5);
    mesh.settle();
    mesh.hubs[0].leave(0, room);
    mesh.settle();
    mesh.take(0, 0).len()
}

#[test]
fn the_least_recently_used_rooms_without_members_go_first() {
    let mut mesh = visited(20, 16 << 10);
    let (rooms, bytes) = mesh.hubs[0].memory();
    assert!(bytes <= 16 << 10 && (8..=12).contains(&rooms), "{rooms} rooms, {bytes} bytes");
    assert_eq!(seen(&mut mesh, "room 19"), 1);
    assert_eq!(seen(&mut mesh, "room 0"), 0);
}

#[test]
fn a_room_that_is_joined_again_counts_as_used() {
    let mut mesh = visited(8, 16 << 10);
    assert_eq!(seen(&mut mesh, "room 0"), 1);
    mesh.hubs[0].tick(30_000);
    assert_eq!(seen(&mut mesh, "room 0"), 1);
    for n in 100..106 {
        mesh.join(0, 0, &format!("room {n}"), 5);
        mesh.publish(0, &format!("room {n}"), &"x".repeat(LEN));
        mesh.settle();
        mesh.hubs[0].leave(0, &format!("room {n}"));
    }
    mesh.settle();
    mesh.take(0, 0);
    assert_eq!(seen(&mut mesh, "room 1"), 0);
    assert_eq!(seen(&mut mesh, "room 0"), 1);
}

#[test]
fn rooms_with_messages_too_long_to_keep_are_limited_too() {
    let mut mesh = Mesh::new(1, |options| options.history_memory = 64 << 10);
    mesh.open(0, 0);
    for n in 0..1_000 {
        let room = format!("room {n}");
        mesh.join(0, 0, &room, 5);
        mesh.publish(0, &room, &"x".repeat(2_000));
        mesh.settle();
        mesh.hubs[0].leave(0, &room);
        mesh.settle();
        mesh.hubs[0].tick(n * 10_000);
    }
    let (rooms, bytes) = mesh.hubs[0].memory();
    assert!(rooms <= 128 && bytes <= 64 << 10, "{rooms} rooms, {bytes} bytes");
}

#[test]
fn rooms_with_members_lose_their_history_last_and_no_pending_message() {
    let mut mesh = Mesh::new(1, |options| options.history_memory = 8 << 10);
    for slot in 0..12_u32 {
        mesh.open(0, slot);
        mesh.join(0, slot, &format!("room {slot}"), 5);
    }
    mesh.hold(0, 0);
    for round in 0..3 {
        for slot in 0..12_u32 {
            mesh.hubs[0].tick(round * 50_000 + u64::from(slot) * 2_000);
            mesh.publish(0, &format!("room {slot}"), &format!("{round} {}", "x".repeat(LEN)));
            mesh.settle();
        }
    }
    let firsts = |lines: Vec<String>| lines.iter().map(|line| line[..1].to_owned()).collect::<String>();
    mesh.let_go(0, 0);
    for slot in 0..12_u32 {
        assert_eq!(firsts(mesh.take(0, slot)), "012", "slot {slot}");
    }
    // The room that was used last keeps its history. Rooms that were used earlier lost their history.
    mesh.open(0, 50);
    let mut kept = |room: &str| {
        mesh.join(0, 50, room, 5);
        mesh.settle();
        mesh.hubs[0].leave(50, room);
        mesh.settle();
        mesh.take(0, 50).len()
    };
    assert_eq!((kept("room 1"), kept("room 11")), (0, 1));
    let bytes = mesh.hubs[0].memory().1;
    assert!(bytes <= 8 << 10, "{bytes} bytes");
}

#[test]
fn the_counted_weight_is_the_actual_memory_after_any_use() {
    let mut random = Random(7);
    let mut mesh = Mesh::new(3, |options| options.history_memory = 20 << 10);
    for (shard, slot) in (0..3).flat_map(|shard| (0..8).map(move |slot| (shard, slot))) {
        mesh.open(shard, slot);
    }
    for step in 0..6_000_u64 {
        let (shard, slot) = (random.below(3) as u16, random.below(8) as Slot);
        let room = format!("room {}", random.below(60));
        match random.below(10) {
            0..3 => mesh.join(shard, slot, &room, 5),
            3..5 => mesh.hubs[shard as usize].leave(slot, &room),
            5..9 => mesh.publish(shard, &room, &"x".repeat(random.below(2_000))),
            _ => mesh.hubs.iter_mut().for_each(|hub| hub.tick(step * 300)),
        }
        if random.chance(60) {
            mesh.settle();
        }
    }
    mesh.settle();
    for hub in &mesh.hubs {
        let abandoned = hub.rooms.iter().filter(|room| room.live && room.is_abandoned()).count();
        assert_eq!(hub.rooms.weight(), hub.memory().1 + abandoned * 512);
    }
    assert!(mesh.lagged.is_empty());
}

fn history(messages: u32, seconds: u64) -> History {
    History { messages, kept_for: Duration::from_secs(seconds) }
}

/// Publishes the messages `0` to `9` in the room, from shard 0.
fn publish_ten(mesh: &mut Mesh, room: &str) {
    for n in 0..10 {
        mesh.publish(0, room, &n.to_string());
    }
    mesh.settle();
}

#[test]
fn a_room_has_its_own_history_on_all_shards() {
    for (home, messages, expected) in
        [0, 1].into_iter().flat_map(|home| [(home, 0, 0), (home, 2, 2), (home, 8, 8)])
    {
        let mut mesh = Mesh::new(3, |_| ());
        let (own, other) = (room_at(home, 3, 0), room_at(home, 3, 1));
        mesh.histories.insert(own.clone(), history(messages, 60));
        for shard in 0..3 {
            (0..2).for_each(|slot| _ = mesh.open(shard, slot));
        }
        // Without a member that stays, a room without history would be forgotten.
        for room in [&own, &other] {
            mesh.join(2, 0, room, 0);
            publish_ten(&mut mesh, room);
        }
        mesh.take(2, 0);
        for shard in 0..3 {
            mesh.join(shard, 1, &own, 100);
            mesh.settle();
            let latest: Vec<String> = (10 - expected..10).map(|n| n.to_string()).collect();
            assert_eq!(mesh.take(shard, 1), latest, "shard {shard}, home {home}, {messages} messages");
            mesh.join(shard, 1, &other, 100);
            mesh.settle();
            assert_eq!(mesh.take(shard, 1).len(), 5, "the limit of the options");
        }
    }
}

#[test]
fn a_message_to_a_room_that_does_not_exist_waits_there_if_that_room_has_a_history() {
    for (default, own, expected) in [(0, Some(3), 3), (5, Some(0), 0), (5, None, 5), (0, None, 0)] {
        let mut mesh = Mesh::new(2, |options| options.history = default);
        let room = room_at(1, 2, 0);
        mesh.histories.extend(own.map(|messages| (room.clone(), history(messages, 60))));
        publish_ten(&mut mesh, &room);
        assert_eq!(mesh.hubs[1].memory().0, usize::from(expected > 0), "rooms with a history exist");
        mesh.open(0, 0);
        mesh.join(0, 0, &room, 100);
        mesh.settle();
        assert_eq!(mesh.take(0, 0).len(), expected);
    }
}

#[test]
fn a_room_without_members_keeps_its_history_for_its_own_time() {
    let mut mesh = Mesh::new(1, |_| ());
    mesh.histories.insert("short".into(), history(5, 1));
    mesh.histories.insert("long".into(), history(5, 600));
    mesh.histories.insert("not at all".into(), history(5, 0));
    mesh.open(0, 0);
    for room in ["short", "long", "not at all", "like all others"] {
        mesh.join(0, 0, room, 0);
        publish_ten(&mut mesh, room);
        mesh.hubs[0].leave(0, room);
    }
    mesh.settle();
    mesh.take(0, 0);
    assert!(!mesh.hubs[0].has_room("not at all"));
    for (now_ms, kept) in [(900, 3), (1_100, 2), (59_000, 2), (61_000, 1), (599_000, 1), (601_000, 0)] {
        mesh.hubs[0].tick(now_ms);
        assert_eq!(mesh.hubs[0].memory().0, kept, "after {now_ms} ms");
    }
}

#[test]
fn a_room_that_is_created_again_may_have_another_history() {
    let mut mesh = Mesh::new(2, |_| ());
    let room = room_at(1, 2, 0);
    for messages in [3, 0, 7] {
        mesh.histories.insert(room.clone(), history(messages, 1));
        for shard in 0..2 {
            (0..2).for_each(|slot| _ = mesh.open(shard, slot));
        }
        mesh.join(0, 0, &room, 0);
        publish_ten(&mut mesh, &room);
        mesh.join(1, 1, &room, 100);
        mesh.settle();
        assert_eq!(mesh.take(1, 1).len(), messages as usize);
        for shard in 0..2 {
            (0..2).for_each(|slot| mesh.hubs[shard].close(slot));
        }
        mesh.settle();
        let later = mesh.hubs[1].now_ms + 10_000;
        (0..3).for_each(|n| mesh.hubs[1].tick(later + n));
        assert!(!mesh.hubs[1].has_room(&room));
    }
}

#[test]
fn a_room_that_a_client_has_left_at_once_is_not_created_again() {
    let mut hub = Hub::new(options(0, 1));
    hub.open(0);
    hub.join(0, "room", 0);
    hub.leave(0, "room");
    assert_eq!(hub.poll_new_room(), None);
    hub.join(0, "room", 0);
    assert_eq!(hub.poll_new_room().as_deref(), Some("room"));
    assert_eq!(hub.poll_new_room(), None);
}

#[test]
fn histories_of_single_rooms_count_for_the_memory_limit() {
    let mut mesh = Mesh::new(1, |options| {
        options.history = 0;
        options.history_memory = 8 << 10;
    });
    for n in 0..20 {
        let room = format!("room {n}");
        mesh.histories.insert(room.clone(), history(5, 600));
        mesh.publish(0, &room, &"x".repeat(LEN));
        mesh.settle();
    }
    assert!((1..8).contains(&mesh.hubs[0].memory().0), "{:?}", mesh.hubs[0].memory());
    mesh.open(0, 0);
    assert_eq!((seen(&mut mesh, "room 0"), seen(&mut mesh, "room 19")), (0, 1));
}
