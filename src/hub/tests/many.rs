//! Clients in many rooms, clients that a message leaves out, and reports about occupied rooms.

use std::time::Duration;

use super::*;

fn reports(hub: &mut Hub) -> Vec<(String, bool)> {
    std::iter::from_fn(|| hub.poll_occupancy())
        .map(|report| (report.room.into(), report.is_occupied))
        .collect()
}

#[test]
fn a_client_joins_as_many_rooms_as_the_options_allow() {
    let mut mesh = Mesh::new(1, |options| options.max_rooms = 5);
    mesh.open(0, 0);
    for room in 0..8 {
        assert_eq!(mesh.hubs[0].join(0, &room.to_string(), 0), room < 5);
    }
    assert!(mesh.hubs[0].join(0, "3", 0), "the client is in this room");
    assert_eq!(mesh.hubs[0].memory().0, 5, "a refused room is not made");
    mesh.hubs[0].leave(0, "2");
    assert!(mesh.hubs[0].join(0, "7", 0));
}

#[test]
fn a_client_in_a_thousand_rooms_gets_every_message_while_it_is_slow() {
    let mut mesh = Mesh::new(2, |_| {});
    for shard in 0..2 {
        mesh.open(shard, 0);
    }
    let rooms: Vec<String> = (0..1_000).map(|room| format!("room {room}")).collect();
    for room in &rooms {
        mesh.join(0, 0, room, 0);
    }
    mesh.settle();
    mesh.hold(0, 0);
    for round in ["one", "two"] {
        rooms.iter().for_each(|room| mesh.publish(1, room, &format!("{room} {round}")));
        mesh.settle();
    }
    for room in &rooms[..500] {
        mesh.hubs[0].leave(0, room);
    }
    mesh.let_go(0, 0);
    let mut got = mesh.take(0, 0);
    for room in &rooms {
        let of_room: Vec<&String> = got.iter().filter(|text| text.starts_with(&format!("{room} "))).collect();
        assert_eq!(of_room, [&format!("{room} one"), &format!("{room} two")]);
    }
    got.dedup();
    assert_eq!((got.len(), mesh.hubs[0].is_idle(0), &mesh.lagged[..]), (2_000, true, &[][..]));
}

#[test]
fn a_held_member_gets_nothing_before_it_starts_and_everything_after() {
    for (home, compresses) in [(0, false), (1, false), (0, true), (1, true)] {
        let mut mesh = Mesh::new(2, |_| {});
        let room = room_at(home, 2, 0);
        mesh.open(0, 0);
        if compresses {
            mesh.hubs[0].compress(0);
        }
        assert!(!mesh.hubs[0].start(0, &room), "no member");
        assert!(mesh.hubs[0].join_held(0, &room));
        assert_eq!(mesh.hubs[0].start(0, &room), home == 0, "the home has not answered");
        mesh.hubs[0].leave(0, &room);
        mesh.settle();
        assert!(mesh.hubs[0].join_held(0, &room));
        mesh.settle();
        mesh.publish(1, &room, &"before".repeat(30));
        mesh.settle();
        assert_eq!((mesh.take(0, 0), mesh.hubs[0].unsent(0, &room)), (vec![], Some(0)));
        assert!(mesh.hubs[0].is_idle(0), "nothing is pending for a held member");
        assert!(mesh.hubs[0].start(0, &room) && mesh.hubs[0].start(0, &room));
        mesh.publish(1, &room, &"after".repeat(30));
        mesh.settle();
        assert_eq!(mesh.take(0, 0), ["after".repeat(30)]);
        assert!(mesh.lagged.is_empty());
    }
}

#[test]
fn a_held_member_neither_lags_nor_keeps_messages_in_memory() {
    let mut mesh = Mesh::new(1, |options| options.lag_window = 10_000);
    mesh.open(0, 0);
    mesh.open(0, 1);
    mesh.hubs[0].set_history("room", Some(History { messages: 0, kept_for: Duration::ZERO }));
    assert!(mesh.hubs[0].join_held(0, "room"));
    mesh.join(0, 1, "room", 0);
    for number in 0..100 {
        mesh.publish(0, "room", &format!("{number} {}", "x".repeat(5_000)));
        mesh.settle();
    }
    assert_eq!((mesh.take(0, 0).len(), mesh.take(0, 1).len(), mesh.lagged.len()), (0, 100, 0));
    mesh.hubs[0].leave(0, "room");
    mesh.settle();
    assert_eq!(mesh.take(0, 0), [""; 0]);
}

#[test]
fn everybody_but_the_excluded_client_gets_a_message_on_any_shard() {
    for home in 0..3 {
        let mut mesh = Mesh::new(3, |_| {});
        let room = room_at(home, 3, 0);
        let clients: Vec<ClientId> = (0..3)
            .flat_map(|shard| [(shard, 0), (shard, 1)])
            .map(|(shard, slot)| {
                let id = mesh.open(shard, slot);
                mesh.join(shard, slot, &room, 0);
                id
            })
            .collect();
        mesh.settle();
        for except in &clients {
            let origin = Origin { sender: None, except: ClientNumber::of(*except) };
            mesh.publish(0, &room, "before");
            mesh.hubs[0].publish_as(&room, Message::text("not for one"), origin);
            mesh.publish(0, &room, "after");
            mesh.settle();
            for client in &clients {
                let got = mesh.take(client.shard, client.slot);
                match client == except {
                    true => assert_eq!(got, ["before", "after"]),
                    false => assert_eq!(got, ["before", "not for one", "after"]),
                }
            }
        }
        assert!(mesh.hubs.iter().all(|hub| hub.rooms.iter().all(|room| room.excluded.is_empty())));
    }
}

#[test]
fn an_excluded_client_that_joins_again_gets_the_message_as_history() {
    let mut mesh = Mesh::new(1, |_| {});
    let id = mesh.open(0, 0);
    mesh.join(0, 0, "room", 0);
    let origin = Origin { sender: None, except: ClientNumber::of(id) };
    mesh.hubs[0].publish_as("room", Message::text("again"), origin);
    mesh.settle();
    assert_eq!(mesh.take(0, 0), [""; 0]);
    mesh.hubs[0].leave(0, "room");
    mesh.join(0, 0, "room", 5);
    mesh.settle();
    assert_eq!(mesh.take(0, 0), ["again"]);
}

#[test]
fn a_room_is_reported_once_with_its_first_and_its_last_member_over_all_shards() {
    let mut mesh = Mesh::new(3, |options| options.occupancy = true);
    let room = &room_at(1, 3, 0);
    for shard in 0..3 {
        mesh.open(shard, 0);
    }
    for order in [[0, 1, 2], [1, 2, 0], [2, 0, 1]] {
        for shard in order {
            mesh.join(shard, 0, room, 0);
            mesh.settle();
        }
        assert_eq!(reports(&mut mesh.hubs[1]), [(room.clone(), true)]);
        for shard in order {
            assert_eq!(reports(&mut mesh.hubs[1]), []);
            mesh.hubs[shard as usize].leave(0, room);
            mesh.settle();
        }
        assert_eq!(reports(&mut mesh.hubs[1]), [(room.clone(), false)]);
    }
    mesh.join(0, 0, room, 0);
    mesh.settle();
    mesh.hubs[0].close(0);
    mesh.settle();
    assert_eq!(reports(&mut mesh.hubs[1]), [(room.clone(), true), (room.clone(), false)]);
    assert!([0, 2].iter().all(|shard| reports(&mut mesh.hubs[*shard]).is_empty()), "only the home reports");
}

#[test]
fn occupancy_is_reported_only_on_request() {
    let mut mesh = Mesh::new(1, |options| options.occupancy = false);
    mesh.open(0, 0);
    mesh.join(0, 0, "room", 0);
    mesh.hubs[0].close(0);
    assert_eq!(mesh.hubs[0].occupancy_reports(), 0);
}

#[test]
fn the_sender_of_a_message_is_identified_on_the_home_shard() {
    let mut mesh = Mesh::new(2, |_| {});
    let ids = [mesh.open(0, 7), mesh.open(1, 3)];
    for id in ids {
        let number = ClientNumber::of(id).expect("a client");
        assert_eq!(mesh.hubs.iter().map(|hub| hub.identify(number)).collect::<Vec<_>>(), [id, id]);
    }
}
