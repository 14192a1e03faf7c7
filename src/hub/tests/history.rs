//! Tests of the memory limit for the histories of all rooms.

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
