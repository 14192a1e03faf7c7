//! Clients with sessions.

use super::*;

/// Returns a shard with a client that has a session, at slot 0.
fn with_session() -> Shard<Quiet> {
    let mut shard = shards(1).remove(0);
    shard.work(&mut Events::of(come(0, "/?session=0123456789abcdef")));
    (0..10).for_each(|_| shard.turn(&mut Events::default()).expect("nothing can fail"));
    assert!(shard.is_open(0) && shard.hub.has_session(0));
    shard
}

#[test]
fn a_client_that_slowly_takes_what_it_has_missed_is_not_closed() {
    for takes_some in [true, false] {
        let mut shard = with_session();
        (shard.settings.ping_ms, shard.settings.pong_ms) = (2_000, 1_000);
        shard.set_deadline(0, 2_000);
        shard.transport.backend_mut().is_taken = false;
        shard.transport.backend_mut().moved_ms = shard.transport.backend_mut().now_ms;
        shard.hub.publish("lobby", Message::binary(&[b'x'; 1_000]));
        for _ in 0..80 {
            if takes_some {
                shard.transport.backend_mut().moved_ms = shard.transport.backend_mut().now_ms;
            }
            pass(&mut shard, 200);
        }
        assert_eq!(shard.is_open(0), takes_some);
    }
}

#[test]
fn a_client_that_answers_no_ping_is_closed_and_keeps_its_session() {
    let mut shard = with_session();
    (shard.settings.ping_ms, shard.settings.pong_ms) = (2_000, 1_000);
    shard.set_deadline(0, 2_000);
    shard.hub.publish("lobby", Message::text("hello"));
    for _ in 0..40 {
        pass(&mut shard, 200);
    }
    assert!(!shard.is_open(0));
    assert_eq!((shard.hub.session_entries(), shard.hub.session_counts().detached), (1, 1));
}

#[test]
fn a_client_that_ends_its_stream_while_it_waits_for_its_session_is_not_kept() {
    let mut shard = shards(1).remove(0);
    let [accepted, request] = come(0, "/?session=0123456789abcdef");
    shard.work(&mut Events::of([accepted, request, IoEvent::Ended { slot: 0 }]));
    (0..10).for_each(|_| shard.turn(&mut Events::default()).expect("nothing can fail"));
    assert_eq!((shard.live, shard.hub.linked()), (0, 0));
}
