//! Tests of reading the messages that rooms keep, and of walks over all rooms.

use std::collections::BTreeMap;

use super::*;

#[test]
fn kept_messages_come_in_pages_with_their_numbers_and_payloads() {
    let mut mesh = Mesh::new(1, |options| (options.history, options.history_bytes) = (10, 1 << 20));
    mesh.open(0, 0);
    assert_eq!(mesh.hubs[0].kept_messages("room", 0, 10, 1 << 20), None);
    mesh.join(0, 0, "room", 0);
    let lens = [0, 1, 125, 126, 127, 65_535, 65_536, 70_000, 3, 4, 5, 6];
    for len in lens {
        mesh.publish(0, "room", &"x".repeat(len));
    }
    mesh.settle();
    let page =
        |from, limit, bytes| mesh.hubs[0].kept_messages("room", from, limit, bytes).expect("it exists");
    let whole = page(0, 100, 1 << 20);
    assert_eq!((whole.first, whole.next), (2, 12));
    let found: Vec<_> = whole.messages.iter().map(|one| (one.number, one.kind, one.payload.len())).collect();
    let expected: Vec<_> = (2..12).map(|number| (number as u64, Kind::Text, lens[number])).collect();
    assert_eq!(found, expected);
    for (limit, bytes) in [(1, 1 << 20), (3, 1 << 20), (100, 1), (100, 70_000), (7, 200_000)] {
        let (mut from, mut messages) = (0, Vec::new());
        loop {
            let part = page(from, limit, bytes);
            assert!(part.messages.len() <= limit as usize);
            let Some(last) = part.messages.last() else { break };
            from = last.number + 1;
            messages.extend(part.messages);
        }
        assert_eq!(messages, whole.messages, "{limit} messages, {bytes} bytes");
    }
    for from in [12, 13, u64::MAX] {
        assert!(page(from, 100, 1 << 20).messages.is_empty());
    }
}

#[test]
fn a_walk_finds_each_room_once_with_its_members_here() {
    let mut mesh = Mesh::new(2, |options| options.history = 0);
    for slot in 0..4 {
        mesh.open(0, slot);
        mesh.open(1, slot);
    }
    let mut expected = BTreeMap::new();
    for number in 0..50 {
        let name = format!("room {number}");
        for slot in 0..1 + number % 4 {
            mesh.join(number as u16 % 2, slot, &name, 0);
        }
        expected.insert(name, 1 + number as usize % 4);
    }
    mesh.settle();
    for step in [1, 7, 1_000] {
        let mut found: BTreeMap<String, usize> = BTreeMap::new();
        for hub in &mesh.hubs {
            let mut position = Some(0);
            while let Some(from) = position {
                position = hub.scan_rooms(from, step, |name, members| {
                    *found.entry(name.to_owned()).or_default() += members;
                });
            }
        }
        assert_eq!(found, expected, "in steps of {step}");
    }
}
