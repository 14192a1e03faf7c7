//! Tests of hub options that change while there are clients and rooms.

use super::*;

/// Length in bytes of a message that fills most of a log's chunk.
const LEN: usize = 700;

/// Changes the options of all hubs in the mesh.
fn change(mesh: &mut Mesh, change: impl Fn(&mut HubOptions)) {
    for hub in &mut mesh.hubs {
        let mut options = hub.options.clone();
        change(&mut options);
        hub.set_options(options);
    }
}

/// Returns the number of old messages that a newcomer to the room gets.
fn seen(mesh: &mut Mesh, slot: Slot) -> usize {
    mesh.open(0, slot);
    mesh.join(0, slot, "room", 5);
    mesh.settle();
    mesh.take(0, slot).len()
}

#[test]
fn a_smaller_window_makes_clients_lag_that_are_behind_it() {
    let mut mesh = Mesh::new(1, |options| options.history = 0);
    mesh.open(0, 0);
    mesh.join(0, 0, "room", 0);
    mesh.held.insert((0, 0), None);
    for _ in 0..20 {
        mesh.publish(0, "room", &"x".repeat(LEN));
        mesh.settle();
    }
    assert_eq!(mesh.lagged, []);
    change(&mut mesh, |options| options.lag_window = 1_024);
    mesh.publish(0, "room", "one more");
    mesh.settle();
    mesh.publish(0, "room", "and one for another pass");
    mesh.settle();
    let [(0, Lagged { slot: 0, missed })] = mesh.lagged[..] else { panic!("{:?}", mesh.lagged) };
    assert!((15..=22).contains(&missed), "{missed}");
}

#[test]
fn history_can_be_switched_off_and_on() {
    let mut mesh = Mesh::new(2, |_| ());
    mesh.open(0, 0);
    mesh.join(0, 0, "room", 0);
    mesh.publish(0, "room", "first");
    mesh.settle();
    assert_eq!(seen(&mut mesh, 1), 1);
    change(&mut mesh, |options| options.history = 0);
    assert_eq!(seen(&mut mesh, 2), 0);
    mesh.publish(0, "room", "not kept");
    mesh.settle();
    change(&mut mesh, |options| {
        options.history = 5;
        options.history_ms = 60_000;
    });
    assert_eq!(seen(&mut mesh, 3), 0);
    mesh.publish(0, "room", "third");
    mesh.settle();
    assert_eq!(seen(&mut mesh, 4), 1);
}

#[test]
fn a_smaller_history_memory_applies_from_the_next_message_on() {
    let mut mesh = Mesh::new(1, |_| ());
    mesh.open(0, 0);
    for n in 0..20 {
        mesh.join(0, 0, &format!("room {n}"), 5);
        mesh.publish(0, &format!("room {n}"), &"x".repeat(LEN));
        mesh.settle();
        mesh.hubs[0].leave(0, &format!("room {n}"));
        mesh.settle();
    }
    assert_eq!(mesh.hubs[0].memory().0, 20);
    change(&mut mesh, |options| options.history_memory = 8 << 10);
    for n in 0..20 {
        mesh.publish(0, &format!("room {n}"), "x");
        mesh.settle();
    }
    assert!(mesh.hubs[0].memory().1 <= 8 << 10, "{:?}", mesh.hubs[0].memory());
}
