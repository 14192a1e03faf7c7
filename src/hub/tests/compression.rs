//! Who is sent compressed messages, and that they are compressed once.

use super::*;

const LONG: &str = "the same words again and again, the same words again and again, the same words again and again, \
                    the same words again and again";

/// What the hub hands out next, by slot; it counts as sent.
fn poll(hub: &mut Hub) -> Vec<(Slot, Span)> {
    let mut all = Vec::new();
    while let Some(Outbound { slot, span, .. }) = hub.poll_send(&mut usize::MAX.clone()) {
        hub.sent(slot);
        all.push((slot, span));
    }
    all.sort_by_key(|(slot, _)| *slot);
    all
}

/// Slots 0 and 1 read what is compressed for all, slot 2 reads plain messages only, slots 3 and 4 have their own.
fn crowd(mesh: &mut Mesh, room: &str) {
    for slot in 0..5 {
        mesh.open(0, slot);
        match slot {
            0 | 1 => mesh.hubs[0].compress(slot),
            3 => mesh.hubs[0].compress_alone(slot, 15, true),
            4 => mesh.hubs[0].compress_alone(slot, 9, false),
            _ => {}
        }
        mesh.join(0, slot, room, 0);
    }
}

#[test]
fn one_copy_serves_all_who_can_read_it() {
    for home in [0, 1] {
        let mut mesh = Mesh::new(2, |_| {});
        let room = room_at(home, 2, 0);
        crowd(&mut mesh, &room);
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
        assert_eq!(bytes(0).as_ptr(), bytes(1).as_ptr(), "the same bytes of the same log");
        assert_eq!(bytes(0)[0], 0xc1, "compressed");
        assert_eq!(bytes(2)[0], 0x81, "plain");
        assert!(bytes(0).len() < bytes(2).len());
        assert_eq!(bytes(0)[bytes(0).len() - 7..], *b"\x81\x05short", "not worth it");
    }
}

#[test]
fn what_refers_to_earlier_messages_is_smaller() {
    let mut mesh = Mesh::new(1, |_| {});
    let room = room_at(0, 1, 0);
    crowd(&mut mesh, &room);
    let mut ears = [Ear::new(15, true), Ear::new(9, false)];
    let mut lens = Vec::new();
    for _ in 0..3 {
        mesh.publish(0, &room, LONG);
        mesh.bring_mail();
        let sent = poll(&mut mesh.hubs[0]);
        for (ear, (_, span)) in ears.iter_mut().zip(&sent[3..]) {
            assert_eq!(ear.payloads(span.bytes()), [LONG.as_bytes()]);
        }
        lens.push([sent[3].1.len(), sent[4].1.len()]);
    }
    assert!(lens[1][0] < lens[0][0] / 2, "{lens:?}");
    assert_eq!(lens[1][1], lens[0][1], "{lens:?}");
}

#[test]
fn a_newcomer_reads_the_past_as_it_was_and_the_rest_compressed() {
    let mut mesh = Mesh::new(1, |_| {});
    let room = room_at(0, 1, 0);
    mesh.publish(0, &room, LONG);
    mesh.settle();
    mesh.open(0, 0);
    mesh.hubs[0].compress(0);
    mesh.join(0, 0, &room, 5);
    let past = poll(&mut mesh.hubs[0]);
    assert_eq!(past[0].1.bytes()[0], 0x81);
    mesh.publish(0, &room, LONG);
    mesh.bring_mail();
    let rest = poll(&mut mesh.hubs[0]);
    assert_eq!(rest[0].1.bytes()[0], 0xc1);
    assert_eq!(payloads(rest[0].1.bytes()), [LONG.as_bytes()]);
}

#[test]
fn the_compressed_log_goes_with_its_last_reader() {
    let mut mesh = Mesh::new(1, |options| options.history = 0);
    let room = room_at(0, 1, 0);
    crowd(&mut mesh, &room);
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
    assert!(mesh.hubs[0].own.is_empty());
}

#[test]
fn a_room_that_gives_up_its_history_gives_up_both_logs() {
    let mut mesh = Mesh::new(1, |_| {});
    let room = room_at(0, 1, 0);
    crowd(&mut mesh, &room);
    let hand_out = |hub: &mut Hub| while hub.poll_send(&mut usize::MAX.clone()).is_some() {};
    for _ in 0..2 {
        mesh.publish(0, &room, LONG);
        mesh.bring_mail();
        // The second message finds everybody busy, so no pass has seen them get it.
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
fn an_answer_is_compressed_and_a_response_never() {
    let mut mesh = Mesh::new(1, |_| {});
    for slot in 0..2 {
        mesh.open(0, slot);
        // Bytes that could be taken for a frame.
        mesh.hubs[0].send_response(slot, &[&[0x81, 0x7e, 0x00, 0xc8][..], &[b'a'; 200]].concat());
    }
    mesh.hubs[0].compress(0);
    mesh.hubs[0].compress_alone(1, 15, true);
    for slot in 0..2 {
        mesh.send(0, slot, LONG);
        mesh.hubs[0].finish(slot, true, b"\x88\x00");
    }
    let sent = poll(&mut mesh.hubs[0]);
    for slot in 0..2 {
        let of_slot: Vec<&Span> =
            sent.iter().filter(|(other, _)| *other == slot).map(|(_, span)| span).collect();
        assert_eq!(of_slot[0].len(), 204, "as it was");
        let answer: Vec<u8> = of_slot[1..].iter().flat_map(|span| span.bytes().to_vec()).collect();
        assert_eq!((answer[0], &answer[answer.len() - 2..]), (0xc1, &b"\x88\x00"[..]));
        assert_eq!(payloads(&answer), [LONG.as_bytes(), b""]);
    }
}
