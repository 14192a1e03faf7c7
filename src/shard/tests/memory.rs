//! The account of memory, and the deadlines of messages and sends.

use super::*;
use crate::chunk::{self, Chunk};
use crate::shard::flow::Pause;
use crate::shard::memory::MemoryPart;

/// Returns a client's frame with a payload of `len` bytes, cut to `sent` bytes of it. The mask is zero.
fn frame(first: u8, len: usize, sent: usize) -> Vec<u8> {
    let mut frame = vec![first];
    match len {
        0..126 => frame.push(0x80 | len as u8),
        126..65_536 => {
            frame.push(0x80 | 126);
            frame.extend_from_slice(&(len as u16).to_be_bytes());
        }
        _ => {
            frame.push(0x80 | 127);
            frame.extend_from_slice(&(len as u64).to_be_bytes());
        }
    }
    frame.extend_from_slice(&[0; 4]);
    frame.resize(frame.len() + sent, b'x');
    frame
}

fn receive(shard: &mut Shard<Quiet>, slot: Slot, bytes: Vec<u8>) {
    shard.work(&mut Events::of([IoEvent::Received { slot, buffer: Buffer::of(bytes) }]));
}

/// Runs turns for `ms` milliseconds, in steps that are too short for a pause of the process.
fn run(shard: &mut Shard<Quiet>, ms: u64) {
    (0..ms / 100).for_each(|_| pass(shard, 100));
}

/// Returns the number of payload bytes that a client was sent.
fn got(shard: &mut Shard<Quiet>, slot: Slot) -> usize {
    shard.transport.backend_mut().sent[slot as usize].iter().filter(|byte| **byte == b'x').count()
}

#[test]
fn messages_beyond_the_memory_wait_and_all_of_them_arrive() {
    let mut shard = with_clients();
    shard.settings.memory = MemoryPart::of(chunk::memory() + (2 << 20));
    let (before, limit) = (shard.memory_held(), shard.settings.memory.full());
    shard.transport.backend_mut().sent = vec![Vec::new(); 100];
    for slot in 0..5 {
        receive(&mut shard, slot, frame(0x82, 3_000, 3_000).repeat(100));
        assert!(shard.memory_held() - shard.flow.held_bytes() < limit / 2 + 200_000);
    }
    assert!(shard.stats.memory_pauses.get() > 0 && shard.memory.paused() > 0);
    settle(std::slice::from_mut(&mut shard));
    run(&mut shard, 10_000);
    assert_eq!((shard.memory.paused(), shard.flow.held_bytes()), (0, 0));
    assert_eq!(shard.stats.ordered.get(), 500);
    for slot in 0..100 {
        assert_eq!(got(&mut shard, slot), 500 * 3_000, "client {slot}");
    }
    assert_eq!((closed(&shard), shard.stats.memory_closes.get()), (0, 0));
    let kept = shard.memory_held().saturating_sub(before);
    assert!(kept < 1_100_000, "{kept} bytes are more than the lag window of the room");
}

#[test]
fn over_the_limit_the_clients_with_the_largest_unfinished_messages_are_closed() {
    let mut shard = with_clients();
    shard.settings.memory = MemoryPart::of(chunk::memory() + (1 << 20));
    for slot in 0..30 {
        // Later clients hold more.
        receive(&mut shard, slot, frame(0x82, 900_000, 20_000 + 100 * slot as usize));
        assert!(shard.memory_held() <= shard.settings.memory.full() + 500_000);
    }
    pass(&mut shard, 0);
    assert!(shard.memory_held() <= shard.settings.memory.full());
    let closed = shard.stats.memory_closes.get();
    assert!(closed > 0 && closed < 30, "{closed}");
    assert_eq!(shard.stats.ended[crate::stats::Ended::TryAgain as usize].get(), closed);
    // The others are served.
    shard.transport.backend_mut().sent = vec![Vec::new(); 100];
    receive(&mut shard, 50, frame(0x82, 100, 100));
    pass(&mut shard, 0);
    assert_eq!(got(&mut shard, 60), 100);
}

#[test]
fn over_the_limit_the_clients_with_the_largest_unfinished_request_bodies_are_closed() {
    let mut shard = with_clients();
    shard.settings.memory = MemoryPart::of(chunk::memory() + (1 << 20));
    shard.transport.backend_mut().sent.resize(200, Vec::new());
    let before = shard.memory_held();
    for slot in 100..150 {
        let head = "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 900000\r\n\r\n";
        let bytes = [head.as_bytes(), &[b'x'; 30_000]].concat();
        shard.work(&mut Events::of([IoEvent::Accepted { slot, listener: 0, peer: None }]));
        receive(&mut shard, slot, bytes);
    }
    assert!(shard.memory_held() > before + 500_000, "bodies count");
    (0..5).for_each(|_| pass(&mut shard, 0));
    assert!(shard.memory_held() <= shard.settings.memory.full());
    let closed_bodies = shard.stats.memory_closes.get();
    assert!((1..50).contains(&closed_bodies), "{closed_bodies}");
    assert_eq!(closed(&shard), 0, "clients that hold nothing stay");
}

#[test]
fn readers_that_read_nothing_do_not_keep_others_paused() {
    let mut shard = with_clients();
    shard.settings.memory = MemoryPart::of(chunk::memory() + (1 << 20));
    shard.transport.backend_mut().is_taken = false;
    let message = vec![b'x'; 100_000];
    for slot in 0..10 {
        shard.hub.send(slot, Message::binary(&message));
    }
    pass(&mut shard, 0);
    assert!(!shard.has_memory(50, 0));
    receive(&mut shard, 50, frame(0x82, 100, 100));
    assert_eq!(shard.memory.paused(), 1);
    run(&mut shard, 1_000);
    let closed = shard.stats.memory_closes.get();
    assert!((1..=10).contains(&closed), "{closed}");
    assert!((50..100).all(|slot| shard.is_open(slot)), "clients that hold little stay");
}

#[test]
fn clients_that_send_much_wait_before_others_do() {
    let mut shard = with_clients();
    shard.settings.memory = MemoryPart::of(16 << 20);
    shard.transport.backend_mut().is_taken = false;
    let filler = Chunk::with_capacity((6 << 20) - chunk::memory() - 50_000);
    // Two clients send more than the others: one few long messages, one many short messages.
    for (slot, frames) in [(0, frame(0x82, 40_000, 40_000)), (1, frame(0x82, 4_000, 4_000).repeat(10))] {
        (0..3).for_each(|_| receive(&mut shard, slot, frames.clone()));
    }
    assert_eq!(shard.memory.paused(), 2);
    for slot in 2..50 {
        receive(&mut shard, slot, frame(0x82, 100, 100));
        assert!(!shard.connections[slot as usize].flow.is_paused(Pause::Memory), "client {slot}");
    }
    drop(filler);
    (0..3).for_each(|_| pass(&mut shard, 0));
    assert_eq!(shard.memory.paused(), 0);
}

#[test]
fn a_message_that_is_not_complete_in_time_is_closed_with_1008() {
    let mut shard = with_clients();
    shard.settings.message_ms = 10_000;
    for slot in [1, 2, 3] {
        receive(&mut shard, slot, frame(0x82, 50_000, 10_000));
    }
    run(&mut shard, 8_000);
    // Neither pongs nor further bytes extend the deadline. A complete message does not count any more.
    receive(&mut shard, 1, vec![b'x'; 1_000]);
    receive(&mut shard, 2, vec![b'x'; 40_000]);
    assert_eq!(shard.unfinished.len(), 2);
    run(&mut shard, 1_000);
    assert_eq!(closed(&shard), 0);
    run(&mut shard, 2_500);
    assert!(!shard.is_open(1) && shard.is_open(2) && !shard.is_open(3));
    assert_eq!(shard.stats.ended[crate::stats::Ended::Policy as usize].get(), 2);
    assert_eq!((shard.unfinished.len(), shard.memory.unfinished), (0, 0));
}

#[test]
fn each_message_of_a_client_has_a_deadline_of_its_own() {
    let mut shard = with_clients();
    shard.settings.message_ms = 10_000;
    receive(&mut shard, 1, frame(0x82, 100, 50));
    for _ in 0..10 {
        run(&mut shard, 5_000);
        // The end of one message and the beginning of the next.
        receive(&mut shard, 1, [vec![b'x'; 50], frame(0x82, 100, 50)].concat());
    }
    assert_eq!((closed(&shard), shard.stats.late_messages.get()), (0, 0));
    run(&mut shard, 12_000);
    assert!(!shard.is_open(1));
}

#[test]
fn the_deadline_of_a_message_waits_while_the_server_does_not_receive() {
    let mut shards = shards(2);
    let (own, other) = (room_of(&shards, 0), room_of(&shards, 1));
    shards[0].settings.message_ms = 10_000;
    shards[0].settings.ping_ms = 1_000_000;
    shards[0].settings.memory = MemoryPart::of(chunk::memory() + (16 << 20));
    shards[0].work(&mut Events::of(come(1, &format!("/room/{own}"))));
    receive(&mut shards[0], 1, frame(0x82, 100, 50));
    // The other shard takes no mail, and a batch beyond what its mailbox holds stays here.
    for _ in 0..2 {
        shards[0].hub.publish(&other, Message::binary(&vec![b'x'; 3 << 20]));
        shards[0].post();
    }
    shards[0].pause_for_memory(1);
    run(&mut shards[0], 30_000);
    assert!(shards[0].is_open(1) && shards[0].memory.paused() == 1);
    settle(&mut shards);
    run(&mut shards[0], 8_000);
    assert!(shards[0].is_open(1) && shards[0].memory.paused() == 0);
    run(&mut shards[0], 4_000);
    assert!(!shards[0].is_open(1));
}

#[test]
fn a_client_that_takes_none_of_a_message_is_closed_although_it_answers() {
    let mut shard = with_clients();
    (shard.settings.ping_ms, shard.settings.pong_ms) = (2_000, 1_000);
    let has_pong = |shard: &mut Shard<Quiet>, slot| receive(shard, slot, frame(0x8a, 0, 0));
    for slot in 0..100 {
        shard.set_deadline(slot, 2_000);
    }
    shard.transport.backend_mut().is_taken = false;
    shard.transport.backend_mut().moved_ms = shard.transport.backend_mut().now_ms;
    shard.hub.send(7, Message::binary(&[b'x'; 1_000]));
    for step in 0..40 {
        for slot in 0..100 {
            has_pong(&mut shard, slot);
        }
        run(&mut shard, 200);
        if step == 10 {
            assert!(shard.is_open(7), "2.2 s are too early");
        }
    }
    assert_eq!((closed(&shard), shard.stats.stalled.get()), (1, 1));
    assert!(!shard.is_open(7));
}

#[test]
fn a_slow_reader_of_a_long_message_stays() {
    let mut shard = with_clients();
    (shard.settings.ping_ms, shard.settings.pong_ms) = (2_000, 1_000);
    for slot in 0..100 {
        shard.set_deadline(slot, 2_000);
    }
    shard.transport.backend_mut().is_taken = false;
    shard.hub.send(7, Message::binary(&[b'x'; 1_000]));
    for _ in 0..40 {
        // The kernel takes some bytes every two seconds.
        shard.transport.backend_mut().moved_ms = shard.transport.backend_mut().now_ms;
        for _ in 0..10 {
            receive(&mut shard, 7, frame(0x8a, 0, 0));
            run(&mut shard, 200);
        }
    }
    assert!(shard.is_open(7));
    assert_eq!(shard.stats.stalled.get(), 0);
}
