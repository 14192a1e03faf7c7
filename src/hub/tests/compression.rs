//! Tests of compressed messages: which clients get them, and that each message is compressed once.

use super::*;

const LONG: &str = "the same words again and again, the same words again and again, the same words again and again, \
                    the same words again and again";

/// Takes the hub's next sends and completes each. Returns the sends by slot.
fn poll(hub: &mut Hub) -> Vec<(Slot, Span)> {
    let mut all = Vec::new();
    while let Some(Outbound { slot, span, .. }) = hub.poll_send(&mut usize::MAX.clone()) {
        hub.sent(slot);
        all.push((slot, span));
    }
    all.sort_by_key(|(slot, _)| *slot);
    all
}

/// Adds five members to a room: slots 0 and 1 with shared encoding, slot 2 with plain encoding, slots 3 and 4 with
/// dedicated encoding.
fn add_members(mesh: &mut Mesh, room: &str) {
    for slot in 0..5 {
        mesh.open(0, slot);
        match slot {
            0 | 1 => mesh.hubs[0].compress(slot),
            3 => mesh.hubs[0].compress_dedicated(slot, 15, true),
            4 => mesh.hubs[0].compress_dedicated(slot, 9, false),
            _ => {}
        }
        mesh.join(0, slot, room, 0);
    }
}

#[test]
fn all_clients_with_shared_encoding_get_the_same_bytes() {
    for home in [0, 1] {
        let mut mesh = Mesh::new(2, |_| {});
        let room = room_at(home, 2, 0);
        add_members(&mut mesh, &room);
        mesh.bring_mail();
        mesh.publish(0, &room, LONG);
        mesh.publish(0, &room, "short");
        mesh.bring_mail();
        let sent = poll(&mut mesh.hubs[0]);
        assert_eq!(sent.iter().map(|(slot, _)| *slot).collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
        let bytes = |slot: usize| sent[slot].1.bytes();
        for slot in 0..5 {
            assert_eq!(payloads(bytes(slot)), [LONG.as_bytes(), b"short"], "{slot}");
        }
        assert_eq!(bytes(0).as_ptr(), bytes(1).as_ptr(), "one copy in one log");
        assert_eq!(bytes(0)[0], 0xc1, "compressed");
        assert_eq!(bytes(2)[0], 0x81, "plain");
        assert!(bytes(0).len() < bytes(2).len());
        assert_eq!(bytes(0)[bytes(0).len() - 7..], *b"\x81\x05short", "a short message stays plain");
    }
}

#[test]
fn a_message_that_refers_to_earlier_ones_is_smaller() {
    let mut mesh = Mesh::new(1, |_| {});
    let room = room_at(0, 1, 0);
    add_members(&mut mesh, &room);
    let mut readers = [FrameReader::new(15, true), FrameReader::new(9, false)];
    let mut lens = Vec::new();
    for _ in 0..3 {
        mesh.publish(0, &room, LONG);
        mesh.bring_mail();
        let sent = poll(&mut mesh.hubs[0]);
        for (reader, (_, span)) in readers.iter_mut().zip(&sent[3..]) {
            assert_eq!(reader.payloads(span.bytes()), [LONG.as_bytes()]);
        }
        lens.push([sent[3].1.len(), sent[4].1.len()]);
    }
    assert!(lens[1][0] < lens[0][0] / 2, "{lens:?}");
    assert_eq!(lens[1][1], lens[0][1], "{lens:?}");
}

#[test]
fn a_newcomer_gets_plain_history_and_compressed_messages_after_it() {
    let mut mesh = Mesh::new(1, |_| {});
    let room = room_at(0, 1, 0);
    mesh.publish(0, &room, LONG);
    mesh.settle();
    mesh.open(0, 0);
    mesh.hubs[0].compress(0);
    mesh.join(0, 0, &room, 5);
    let history = poll(&mut mesh.hubs[0]);
    assert_eq!(history[0].1.bytes()[0], 0x81);
    mesh.publish(0, &room, LONG);
    mesh.bring_mail();
    let rest = poll(&mut mesh.hubs[0]);
    assert_eq!(rest[0].1.bytes()[0], 0xc1);
    assert_eq!(payloads(rest[0].1.bytes()), [LONG.as_bytes()]);
}

#[test]
fn the_compressed_log_is_freed_with_its_last_reader() {
    let mut mesh = Mesh::new(1, |options| options.history = 0);
    let room = room_at(0, 1, 0);
    add_members(&mut mesh, &room);
    mesh.publish(0, &room, LONG);
    mesh.settle();
    let with_both = mesh.hubs[0].memory().1;
    mesh.hubs[0].leave(0, &room);
    assert_eq!(mesh.hubs[0].memory().1, with_both);
    mesh.hubs[0].close(1);
    let with_one = mesh.hubs[0].memory().1;
    assert!(with_one < with_both, "{with_one} of {with_both}");
    for slot in [0, 2, 3, 4] {
        mesh.hubs[0].close(slot);
    }
    assert!(mesh.hubs[0].dedicated.is_empty());
}

#[test]
fn a_room_that_drops_its_history_drops_it_from_both_logs() {
    let mut mesh = Mesh::new(1, |_| {});
    let room = room_at(0, 1, 0);
    add_members(&mut mesh, &room);
    let hand_out = |hub: &mut Hub| while hub.poll_send(&mut usize::MAX.clone()).is_some() {};
    for _ in 0..2 {
        mesh.publish(0, &room, LONG);
        mesh.bring_mail();
        // Every client has a send in flight when the second message comes, so no pass sees that the clients get that
        // message.
        hand_out(&mut mesh.hubs[0]);
    }
    for slot in 0..5 {
        mesh.hubs[0].sent(slot);
    }
    hand_out(&mut mesh.hubs[0]);
    let id = mesh.hubs[0].rooms.find(&room).expect("it has members");
    let room = &mut mesh.hubs[0].rooms[id];
    assert!(room.memory() > room.log.memory(), "both logs hold messages");
    room.drop_history();
    assert_eq!(room.memory(), 0);
}

#[test]
fn an_answer_is_compressed_and_an_http_response_is_not() {
    let mut mesh = Mesh::new(1, |_| {});
    for slot in 0..2 {
        mesh.open(0, slot);
        // An HTTP response whose first bytes look like a frame.
        mesh.hubs[0].send_response(slot, &[&[0x81, 0x7e, 0x00, 0xc8], &[b'a'; 200]]);
    }
    mesh.hubs[0].compress(0);
    mesh.hubs[0].compress_dedicated(1, 15, true);
    for slot in 0..2 {
        mesh.send(0, slot, LONG);
        mesh.hubs[0].finish(slot, true, b"\x88\x00");
    }
    let sent = poll(&mut mesh.hubs[0]);
    for slot in 0..2 {
        let of_slot: Vec<&Span> =
            sent.iter().filter(|(other, _)| *other == slot).map(|(_, span)| span).collect();
        assert_eq!(of_slot[0].len(), 204, "unchanged");
        let answer: Vec<u8> = of_slot[1..].iter().flat_map(|span| span.bytes().to_vec()).collect();
        assert_eq!((answer[0], &answer[answer.len() - 2..]), (0xc1, &b"\x88\x00"[..]));
        assert_eq!(payloads(&answer), [LONG.as_bytes(), b""]);
    }
}
