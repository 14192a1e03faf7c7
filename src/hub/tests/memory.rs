//! Tests of the memory that is left when rooms and clients are gone, or when rooms are unused.

use super::*;

/// Advances the hubs' time to `now_ms`, with a tick whenever a timer is due.
fn tick_until(mesh: &mut Mesh, now_ms: u64) {
    for hub in &mut mesh.hubs {
        while let Some(due_ms) = hub.next_tick_ms().filter(|due_ms| *due_ms <= now_ms) {
            hub.tick(due_ms);
            assert!(hub.next_tick_ms().is_none_or(|next| next > due_ms), "a tick makes progress");
        }
        hub.tick(now_ms);
    }
}

#[test]
fn rooms_that_were_used_once_leave_no_memory() {
    const CLIENTS: usize = 500;
    let rooms = match (cfg!(miri), cfg!(debug_assertions)) {
        (true, _) => 2_000,
        (_, true) => 100_000,
        _ => 1_000_000,
    };
    let mut mesh = Mesh::new(4, |_| {});
    for n in 0..CLIENTS {
        mesh.open((n % 4) as u16, (n / 4) as Slot);
    }
    let mut heard = 0;
    for first in (0..rooms).step_by(CLIENTS) {
        let name = |n: usize| format!("room {}", first + n);
        let place = |n: usize| ((n % 4) as u16, (n / 4) as Slot);
        for n in 0..CLIENTS {
            let (shard, slot) = place(n);
            mesh.join(shard, slot, &name(n), 5);
            mesh.publish(shard, &name(n), "hello");
        }
        mesh.settle();
        for n in 0..CLIENTS {
            let (shard, slot) = place(n);
            heard += mesh.take(shard, slot).len();
            mesh.hubs[shard as usize].leave(slot, &name(n));
        }
        mesh.settle();
    }
    assert_eq!(heard, rooms);
    let kept: usize = mesh.hubs.iter().map(|hub| hub.memory().0).sum();
    assert_eq!(kept, rooms, "only the home keeps a history");
    tick_until(&mut mesh, 61_000);
    for hub in &mesh.hubs {
        assert_eq!((hub.memory(), hub.next_tick_ms()), ((0, 0), None));
        assert!(hub.rooms.capacity() < 100, "{} places for rooms", hub.rooms.capacity());
    }
}

#[test]
fn an_unused_room_without_history_frees_its_log() {
    let mut mesh = Mesh::new(2, |options| options.history = 0);
    let room = room_at(0, 2, 0);
    for shard in 0..2 {
        mesh.open(shard, 0);
        mesh.join(shard, 0, &room, 0);
    }
    mesh.settle();
    for round in 0..3 {
        mesh.publish(0, &room, "hello");
        mesh.settle();
        assert!(mesh.hubs.iter().all(|hub| hub.memory().1 > 0));
        tick_until(&mut mesh, (round + 1) * 10_000);
        for hub in &mesh.hubs {
            assert_eq!((hub.memory(), hub.next_tick_ms()), ((1, 0), None));
        }
        (0..2).for_each(|shard| assert_eq!(mesh.take(shard, 0), ["hello"]));
    }
}

#[test]
fn a_room_in_use_keeps_its_log_and_has_one_timer() {
    let mut mesh = Mesh::new(1, |options| options.history = 0);
    mesh.open(0, 0);
    mesh.join(0, 0, "room", 0);
    for turn in 0..1_000 {
        tick_until(&mut mesh, turn * 1_000);
        mesh.publish(0, "room", "hello");
        mesh.settle();
        assert!(mesh.hubs[0].memory().1 > 0);
    }
    assert_eq!(count_timers(&mut mesh.hubs[0]), 1);
}

#[test]
fn a_room_does_not_inherit_the_timer_of_a_forgotten_room() {
    let mut mesh = Mesh::new(1, |options| options.history = 0);
    mesh.open(0, 0);
    for round in 0..100 {
        mesh.hubs[0].leave(0, "room");
        tick_until(&mut mesh, round * 25);
        mesh.join(0, 0, "room", 0);
        mesh.publish(0, "room", "hello");
        mesh.settle();
    }
    for turn in 0..100 {
        tick_until(&mut mesh, 3_000 + turn * 100);
        mesh.publish(0, "room", "hello");
        mesh.settle();
    }
    assert_eq!(count_timers(&mut mesh.hubs[0]), 1);
}

fn count_timers(hub: &mut Hub) -> usize {
    std::iter::from_fn(|| hub.rooms.timers.expired(u64::MAX)).map(|due| due.len()).sum()
}

#[test]
fn unread_messages_stay_while_the_room_is_unused() {
    let mut mesh = Mesh::new(1, |options| options.history = 0);
    mesh.open(0, 0);
    mesh.join(0, 0, "room", 0);
    mesh.hold(0, 0);
    mesh.publish(0, "room", "in flight");
    mesh.settle();
    mesh.publish(0, "room", "waits");
    mesh.settle();
    tick_until(&mut mesh, 100_000);
    mesh.let_go(0, 0);
    assert_eq!(mesh.take(0, 0), ["in flight", "waits"]);
}

#[test]
fn history_is_kept_for_its_time_after_the_last_member_left() {
    let mut mesh = Mesh::new(2, |_| {});
    let room = room_at(0, 2, 0);
    mesh.open(1, 0);
    mesh.join(1, 0, &room, 0);
    mesh.publish(1, &room, "old");
    mesh.settle();
    mesh.take(1, 0);
    tick_until(&mut mesh, 500_000);
    mesh.hubs[1].leave(0, &room);
    mesh.settle();
    tick_until(&mut mesh, 559_000);
    mesh.join(1, 0, &room, 5);
    mesh.settle();
    assert_eq!(mesh.take(1, 0), ["old"], "less than a minute since the last member left");
    mesh.hubs[1].leave(0, &room);
    mesh.settle();
    tick_until(&mut mesh, 620_000);
    mesh.join(1, 0, &room, 5);
    mesh.settle();
    assert!(mesh.take(1, 0).is_empty(), "more than a minute");
}

#[test]
fn members_that_leave_free_their_memory() {
    let mut hub = Hub::new(HubOptions { history: 0, ..options(0, 1) });
    for slot in 0..10_000 {
        hub.open(slot);
        hub.join(slot, "room", 0);
    }
    (1..10_000).for_each(|slot| hub.close(slot));
    let room = &hub.rooms[hub.rooms.find("room").expect("one is there")];
    assert!(room.members.capacity() < 100, "{}", room.members.capacity());
}
