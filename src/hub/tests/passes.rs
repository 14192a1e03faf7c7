//! Tests of passes over a room: which members are visited, and how rooms take turns.

use super::*;

/// Adds a room with members at the slots `0..count`, and orders one message in the room.
fn add_large_room(hub: &mut Hub, count: Slot) {
    for slot in 0..count {
        hub.open(slot);
        hub.join(slot, "large", 0);
    }
    assert!(hub.poll_send(&mut usize::MAX.clone()).is_none(), "nothing is pending in an empty room");
    hub.order("large", None, text(&[b"to all"]));
}

#[test]
fn a_member_that_leaves_during_a_pass_leaves_no_other_unvisited_or_visited_twice() {
    const COUNT: Slot = 12;
    // The pass stops after each possible number of visits, and each possible pair of members leaves at that moment.
    for visited in 0..=COUNT {
        for leavers in (0..COUNT).flat_map(|one| (0..COUNT).map(move |two| [one, two])) {
            let mut hub = Hub::new(options(0, 1));
            add_large_room(&mut hub, COUNT);
            let mut got = vec![0; COUNT as usize];
            for _ in 0..visited {
                got[hub.poll_send(&mut 1).expect("unvisited").slot as usize] += 1;
            }
            let was_visited = leavers.map(|slot| got[slot as usize]);
            leavers.into_iter().for_each(|slot| hub.close(slot));
            hub.open(COUNT);
            hub.join(COUNT, "large", 0);
            while let Some(outbound) = hub.poll_send(&mut usize::MAX.clone()) {
                got[outbound.slot as usize] += 1;
            }
            for slot in 0..COUNT {
                let left = leavers.iter().position(|leaver| *leaver == slot);
                let expected = left.map_or(1, |at| was_visited[at]);
                assert_eq!(got[slot as usize], expected, "{slot}, {leavers:?} left after {visited}");
            }
        }
    }
}

#[test]
fn a_small_room_waits_for_one_slice_of_a_large_one() {
    let count = if cfg!(miri) { 1_000 } else { 20_000 };
    let mut hub = Hub::new(options(0, 1));
    add_large_room(&mut hub, count);
    hub.open(count);
    hub.join(count, "small", 0);
    hub.poll_send(&mut 2).expect("the pass begins");
    hub.order("small", None, text(&[b"quick"]));
    let mut budget = SLICE + 3;
    let slots = std::iter::from_fn(|| hub.poll_send(&mut budget)).map(|outbound| outbound.slot);
    let before = slots.take_while(|slot| *slot != count).count();
    assert!(before <= SLICE, "{before} others came first");
    assert!(budget > 0, "the message came");
}

#[test]
fn forgotten_rooms_do_not_lengthen_the_slice_of_another_room() {
    let mut hub = Hub::new(HubOptions { history: 0, ..options(0, 1) });
    let count = 4 * SLICE as Slot;
    add_large_room(&mut hub, count);
    let room = |slot| format!("room {slot}");
    for slot in count..=count + 10 {
        hub.open(slot);
        hub.join(slot, &room(slot), 0);
    }
    hub.poll_send(&mut 12).expect("the pass begins");
    for slot in count..=count + 10 {
        hub.order(&room(slot), None, text(&[b"quick"]));
    }
    let mut before = 0;
    for slot in count..count + 10 {
        (0..SLICE / 10).for_each(|_| before += usize::from(hub.poll_send(&mut 1).is_some()));
        hub.close(slot);
    }
    let mut budget = 2 * SLICE;
    let slots = std::iter::from_fn(|| hub.poll_send(&mut budget)).map(|outbound| outbound.slot);
    before += slots.take_while(|slot| *slot != count + 10).count();
    assert!(before <= SLICE, "{before} others came first");
}

#[test]
fn the_budget_limits_the_number_of_clients_checked() {
    let mut hub = Hub::new(options(0, 1));
    add_large_room(&mut hub, 100);
    let mut sent = 0;
    for _ in 0..10 {
        let mut budget = 7;
        while hub.poll_send(&mut budget).is_some() {
            sent += 1;
        }
        assert_eq!(budget, 0);
    }
    assert_eq!(sent, 70);
    assert!(hub.has_more());
    while hub.poll_send(&mut 7).is_some() {
        sent += 1;
    }
    assert_eq!((sent, hub.has_more()), (100, false));
}

#[test]
fn messages_that_come_during_a_pass_leave_together_in_the_next_pass() {
    let mut hub = Hub::new(options(0, 1));
    add_large_room(&mut hub, 10);
    let first = hub.poll_send(&mut 1).expect("the pass begins");
    for _ in 0..5 {
        hub.order("large", None, text(&[b"more"]));
    }
    assert_eq!(first.messages, 1);
    drop(first);
    hub.sent(0);
    let mut got = [0; 10];
    got[0] = 1;
    let mut sends = 1;
    while let Some(Outbound { slot, span, messages, .. }) = hub.poll_send(&mut usize::MAX.clone()) {
        assert_eq!(payloads(span.bytes()).len() as u64, messages);
        got[slot as usize] += messages;
        sends += 1;
        drop(span);
        hub.sent(slot);
    }
    assert_eq!(got, [6; 10]);
    assert_eq!(sends, 11, "six messages in one or two sends for each");
}

#[test]
fn a_client_gets_its_rooms_in_turn() {
    for count in [2, 3, 20] {
        let mut hub = Hub::new(options(0, 1));
        hub.open(0);
        let rooms = &b"abcdefghijklmnopqrst"[..count];
        let name = |room: u8| (room as char).to_string();
        for room in rooms {
            hub.join(0, &name(*room), 0);
        }
        // Twenty chunks wait in each room while the first send is in flight.
        hub.send(0, text(&[b"own"]));
        hub.poll_send(&mut 1).expect("own");
        let large = vec![b'x'; 70_000];
        for room in rooms {
            hub.options.lag_window = 1 << 30;
            for _ in 0..20 {
                hub.order(&name(*room), None, text(&[&[*room], &large]));
            }
        }
        assert!(hub.poll_send(&mut usize::MAX.clone()).is_none(), "one send at a time");
        hub.sent(0);
        let mut turns = Vec::new();
        while !hub.is_idle(0) {
            let outbound = hub.poll_send(&mut usize::MAX.clone()).expect("more is pending");
            turns.push(payloads(outbound.span.bytes())[0][0]);
            hub.sent(0);
        }
        assert_eq!(turns.len(), 20 * count);
        for round in turns.chunks(count) {
            let mut round = round.to_vec();
            round.sort_unstable();
            assert_eq!(round, rooms);
        }
    }
}
