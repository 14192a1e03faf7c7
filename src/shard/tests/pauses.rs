//! Pauses of the process: the clock jumps, and input that came meanwhile is reported bit by bit after it.

use super::*;
use crate::app::{Claims, TokenInUse};
use crate::shard::connection::Liveness;

/// Lengths of the tested pauses in milliseconds. The shortest hardly passes a deadline of one second.
const PAUSES_MS: [u64; 6] = [1_001, 1_021, 1_100, 1_900, 2_500, 60_000];

/// Returns a client's frame with this first byte and payload, masked with zeroes.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    [&[first, 0x80 | payload.len() as u8, 0, 0, 0, 0], payload].concat()
}

fn received(slot: Slot, bytes: Vec<u8>) -> IoEvent {
    IoEvent::Received { slot, buffer: Buffer::of(bytes) }
}

/// Pauses a shard for `pause_ms` milliseconds. The first poll after the pause reports nothing, as an interrupted poll
/// does. Each later poll reports the `input` of 30 clients.
fn pause(shard: &mut Shard<Quiet>, pause_ms: u64, input: impl Fn(Slot) -> Option<Vec<u8>>) {
    shard.turn(&mut Events::default()).expect("nothing can fail");
    shard.transport.backend_mut().arrivals.push_back(Vec::new());
    for slots in (0..100).collect::<Vec<_>>().chunks(30) {
        let events = slots.iter().filter_map(|slot| Some(received(*slot, input(*slot)?)));
        shard.transport.backend_mut().arrivals.push_back(events.collect());
    }
    pass(shard, pause_ms);
}

/// Returns a shard with 100 clients, all of which have just been sent a ping.
fn with_pinged_clients() -> Shard<Quiet> {
    let mut shard = with_clients();
    shard.settings.ping_ms = 1_000;
    shard.settings.pong_ms = 1_000;
    for slot in 0..100 {
        shard.connections[slot as usize].heard_ms = shard.now_ms;
        shard.set_deadline(slot, 1_000);
    }
    while shard.connections[0].liveness != Liveness::Pinged {
        pass(&mut shard, 20);
    }
    assert!(shard.connections.iter().all(|connection| connection.liveness == Liveness::Pinged));
    shard
}

#[test]
fn clients_that_answered_their_ping_during_a_pause_stay_and_are_heard() {
    for pause_ms in PAUSES_MS {
        let mut shard = with_pinged_clients();
        let answer = [frame(0x8a, b""), frame(0x81, b"hello")].concat();
        pause(&mut shard, pause_ms, |_| Some(answer.clone()));
        assert_eq!(closed(&shard), 0, "after {pause_ms} ms");
        assert_eq!(shard.stats.messages_in.get(), 100);
        pass(&mut shard, 500);
        assert_eq!(closed(&shard), 0, "after {pause_ms} ms and a while");
    }
}

#[test]
fn clients_that_did_not_answer_are_closed_after_a_pause() {
    for pause_ms in PAUSES_MS {
        let mut shard = with_pinged_clients();
        pause(&mut shard, pause_ms, |slot| slot.is_multiple_of(2).then(|| frame(0x8a, b"")));
        for _ in 0..15 {
            pass(&mut shard, 99);
        }
        let open: Vec<Slot> = (0..100).filter(|slot| shard.is_open(*slot)).collect();
        assert_eq!(open, (0..100).step_by(2).collect::<Vec<_>>(), "after {pause_ms} ms");
    }
}

#[test]
fn a_handshake_has_the_time_that_it_had_before_a_pause() {
    let mut shard = shards(1).remove(0);
    let [accepted, request] = come(0, "/");
    let IoEvent::Received { mut buffer, .. } = request else {
        unreachable!("the second event is the request")
    };
    shard.transport.backend_mut().arrivals.push_back(vec![accepted]);
    pass(&mut shard, 0);
    pause(&mut shard, 60_000, |_| None);
    assert_eq!(shard.connections[0].phase, Phase::Handshake);
    pass(&mut shard, 500);
    assert_eq!(shard.connections[0].phase, Phase::Handshake, "half of its second is left");
    shard.transport.backend_mut().arrivals.push_back(vec![received(0, buffer.bytes_mut().to_vec())]);
    pass(&mut shard, 0);
    assert!(shard.is_open(0));
}

#[test]
fn a_token_expires_during_a_pause_after_its_client_was_heard() {
    for pause_ms in PAUSES_MS {
        let mut shard = with_clients();
        for slot in 0..50 {
            let expiry_ms = shard.now_ms + 900;
            let token = TokenInUse { expiry_ms, claims: Claims::unlimited() };
            shard.context.tokens.in_use.insert(slot, token);
            shard.set_deadline(slot, 1_000_000);
        }
        pause(&mut shard, pause_ms, |_| Some(frame(0x81, b"hello")));
        assert_eq!(shard.stats.messages_in.get(), 100, "after {pause_ms} ms");
        pass(&mut shard, 20);
        assert_eq!((closed(&shard), shard.is_open(50)), (50, true), "after {pause_ms} ms");
    }
}

#[test]
fn input_that_came_before_the_end_of_the_server_is_heard() {
    for pause_ms in [0, 10, 1_500] {
        let mut shard = with_clients();
        shard.shared.stopping.store(true, Ordering::SeqCst);
        pause(&mut shard, pause_ms, |_| Some(frame(0x81, b"last words")));
        for _ in 0..10 {
            pass(&mut shard, 50);
        }
        assert_eq!((shard.stats.messages_in.get(), closed(&shard)), (100, 100), "after {pause_ms} ms");
    }
}

#[test]
fn a_closing_handshake_has_its_time_after_a_pause() {
    let mut shard = with_clients();
    for slot in 0..100 {
        shard.begin_closing(slot, true, CloseCode::GOING_AWAY, "");
    }
    pause(&mut shard, 60_000, |_| None);
    assert!(shard.connections.iter().all(|connection| connection.phase == Phase::Closing));
    assert!(shard.connections.iter().all(|connection| connection.phase == Phase::Closing));
    for _ in 0..12 {
        pass(&mut shard, 99);
    }
    let is_gone = |phase| matches!(phase, Phase::Gone | Phase::Free);
    assert!(shard.connections.iter().all(|connection| is_gone(connection.phase)));
}
