//! Tests of messages to several clients, and of the ages of a room's history.

use super::*;

#[test]
fn clients_of_one_message_share_its_copies() {
    let mut hub = Hub::new(options(0, 1));
    for slot in 0..6 {
        hub.open(slot);
        if slot >= 4 {
            hub.compress(slot);
        }
    }
    let long = "all of this is for all of them ".repeat(20);
    hub.send_to_all(&[0, 1, 2, 4, 5], Message::text(&long));
    let mut copies = HashMap::new();
    while let Some(Outbound { slot, span, .. }) = hub.poll_send(&mut usize::MAX.clone()) {
        copies.entry(span.owners().1).or_insert_with(Vec::new).push(slot);
        assert_eq!(span.bytes().len() > long.len(), slot < 4, "{slot}");
    }
    let mut groups: Vec<_> = copies.into_values().collect();
    groups.sort_unstable();
    assert_eq!(groups, [vec![0, 1, 2], vec![4, 5]]);
}

#[test]
fn a_client_that_reads_nothing_lags_behind_shared_messages_too() {
    let mut hub = Hub::new(HubOptions { lag_window: 1_000, ..options(0, 1) });
    (0..2).for_each(|slot| _ = hub.open(slot));
    let text = "x".repeat(300);
    for round in 0..10 {
        hub.tick(round * 2_000);
        hub.send_to_all(&[0, 1], Message::text(&text));
        while let Some(Outbound { slot, .. }) = hub.poll_send(&mut usize::MAX.clone()) {
            if slot == 0 {
                hub.sent(0);
            }
        }
    }
    assert_eq!(hub.poll_lagged().map(|lagged| lagged.slot), Some(1));
    assert!(hub.outbox_len(1) <= 1_000);
}

#[test]
fn the_home_shard_knows_how_old_the_past_is() {
    let mut mesh = Mesh::new(2, |_| {});
    let room = room_at(1, 2, 0);
    let hub = &mut mesh.hubs[1];
    hub.set_history(&room, None);
    for (now_ms, message) in [(0, "a"), (500, "b"), (9_000, "c")] {
        hub.tick(now_ms);
        hub.order(&room, None, Message::text(message));
    }
    hub.tick(10_000);
    assert_eq!(hub.history_ages(&room), [10, 10, 1]);
    hub.open(0);
    assert_eq!(hub.unsent(0, &room), None, "not a member");
    hub.join(0, &room, 2);
    assert_eq!(hub.unsent(0, &room), Some(2));
    while hub.poll_send(&mut usize::MAX.clone()).is_some() {}
    assert_eq!(hub.unsent(0, &room), Some(0));
    assert!(hub.history_ages("no room").is_empty());
    assert!(mesh.hubs[0].history_ages(&room).is_empty());
}
