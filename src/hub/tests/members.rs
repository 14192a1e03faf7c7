//! Tests of lists of a room's members, in pages.

use std::collections::HashSet;

use super::*;

#[test]
fn pages_list_all_members_of_this_shard_and_count_them() {
    let mut hub = Hub::new(options(0, 1));
    let clients: Vec<ClientId> = (0..10).map(|slot| hub.open(slot)).collect();
    for slot in 0..10 {
        hub.join(slot, "room", 0);
    }
    for limit in [1, 3, 10, 100] {
        let (mut below, mut seen) = (u32::MAX, Vec::new());
        while below > 0 {
            let MembersPage { count, start, clients } = hub.members_below("room", below, limit);
            assert_eq!(count, 10);
            assert!(!clients.is_empty() && clients.len() <= limit as usize);
            below = start - clients.len() as u32;
            seen.extend(clients);
        }
        seen.sort_by_key(|client| client.number);
        assert_eq!(seen, clients, "pages of {limit}");
    }
    let nobody = hub.members_below("no room", u32::MAX, 5);
    assert_eq!((nobody.count, nobody.start, nobody.clients.len()), (0, 0, 0));
    let counted = hub.members_below("room", 5, 0);
    assert_eq!((counted.count, counted.start, counted.clients.len()), (10, 5, 0));
}

/// Members join and leave between the pages, also while a pass has visited a part of them.
#[test]
fn a_client_that_stays_is_on_a_page_whoever_comes_and_goes() {
    for seed in 0..2_000 {
        let mut random = Random(seed);
        let mut hub = Hub::new(options(0, 1));
        let slots = 1 + random.below(20) as Slot;
        let mut members = HashSet::new();
        for slot in 0..slots {
            hub.open(slot);
        }
        for slot in 0..slots {
            if random.chance(70) {
                hub.join(slot, "room", 0);
                members.insert(slot);
            }
        }
        let mut stayed = members.clone();
        let mut ever = members.clone();
        let (mut below, mut seen) = (u32::MAX, HashSet::new());
        loop {
            let MembersPage { count, start, clients } =
                hub.members_below("room", below, 1 + random.below(4) as u32);
            assert_eq!(count as usize, members.len());
            below = start - clients.len() as u32;
            seen.extend(clients.iter().map(|client| client.slot));
            if below == 0 {
                break;
            }
            for _ in 0..random.below(6) {
                let slot = random.below(slots as usize) as Slot;
                match random.below(3) {
                    0 => {
                        hub.join(slot, "room", 0);
                        members.insert(slot);
                        ever.insert(slot);
                    }
                    1 => {
                        hub.leave(slot, "room");
                        members.remove(&slot);
                        stayed.remove(&slot);
                    }
                    _ => {
                        hub.order("room", None, text(&[b"hello"]));
                        while let Some(Outbound { slot, .. }) = hub.poll_send(&mut random.below(5)) {
                            hub.sent(slot);
                        }
                    }
                }
            }
        }
        assert!(stayed.is_subset(&seen), "seed {seed}: {stayed:?} stayed, {seen:?} are listed");
        assert!(seen.is_subset(&ever), "seed {seed}: {seen:?} are listed, only {ever:?} were members");
    }
}
