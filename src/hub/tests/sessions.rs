//! Tests of sessions: acknowledgements by pong, rooms that keep messages, and clients that continue where they stopped.

use super::super::resume::SLACK_MS;
use super::*;

const KEY: SessionKey = SessionKey::new([7; 16]);
/// Session time of the tests' hubs in milliseconds.
const SESSION_MS: u64 = 10_000;
const GOING_AWAY: &[u8] = &[0x88, 2, 0x03, 0xe9];

impl Mesh {
    /// Opens a client with the session [`KEY`]. Returns the record of the session, `None` for a new one.
    fn open_with_session(&mut self, shard: u16, slot: Slot) -> Option<SessionRecord> {
        self.open_with(shard, slot, KEY)
    }

    fn open_with(&mut self, shard: u16, slot: Slot, key: SessionKey) -> Option<SessionRecord> {
        self.open(shard, slot);
        self.hubs[shard as usize].ask_for_session(slot, key, 1);
        self.bring_mail();
        let (key, record) = match self.replies.pop() {
            Some(SessionReply::Attached { key, request: 1, record, .. }) => (key, record),
            other => panic!("{other:?}"),
        };
        self.hubs[shard as usize].attach(slot, key, record.clone().unwrap_or_default());
        record
    }

    /// Closes a client, like the end of its connection.
    fn cut(&mut self, shard: u16, slot: Slot) {
        self.held.remove(&(shard, slot));
        self.hubs[shard as usize].close(slot);
        self.settle();
        self.received.remove(&(shard, slot));
        self.pings.remove(&(shard, slot));
    }

    /// Answers the last ping that a client got. Returns whether that acknowledged something.
    fn pong(&mut self, shard: u16, slot: Slot) -> bool {
        let ping = self.pings.get_mut(&(shard, slot)).and_then(Vec::pop);
        ping.is_some_and(|ping| self.hubs[shard as usize].pong(slot, &ping))
    }

    fn pings(&self, shard: u16, slot: Slot) -> usize {
        self.pings.get(&(shard, slot)).map_or(0, Vec::len)
    }

    fn tick(&mut self, now_ms: u64) {
        self.hubs.iter_mut().for_each(|hub| hub.tick(now_ms));
        self.settle();
    }

    /// Publishes numbered messages, each with a length of `len` bytes.
    fn publish_numbers(&mut self, shard: u16, room: &str, numbers: std::ops::Range<u32>, len: usize) {
        for number in numbers {
            self.publish(shard, room, &format!("{number:0len$}"));
            self.settle();
        }
    }

    /// Returns the numbers that a client received since the last call.
    fn take_numbers(&mut self, shard: u16, slot: Slot) -> Vec<u32> {
        self.take(shard, slot).iter().map(|text| text.parse().expect("a number")).collect()
    }
}

fn numbers(range: std::ops::Range<u32>) -> Vec<u32> {
    range.collect()
}

/// Returns hubs without history whose clock is at a second.
fn mesh(shards: u16) -> Mesh {
    let mut mesh = Mesh::new(shards, |options| {
        options.history = 0;
        options.session_ms = SESSION_MS;
    });
    mesh.tick(1_000);
    mesh
}

#[test]
fn a_client_that_returns_gets_what_it_has_not_acknowledged_on_whatever_shard_it_lands() {
    for shards in 1..4 {
        for (home, first, second) in (0..27).map(|n| (n / 9, n / 3 % 3, n % 3)) {
            if home.max(first).max(second) >= shards {
                continue;
            }
            for stays in [false, true] {
                let mut mesh = mesh(shards);
                let room = room_at(home, shards, 0);
                if stays {
                    // Another member, so that the second shard has a log of the room.
                    mesh.open(second, 5);
                    mesh.join(second, 5, &room, 0);
                }
                assert_eq!(mesh.open_with_session(first, 0), None);
                mesh.join(first, 0, &room, 0);
                mesh.settle();
                mesh.publish_numbers(0, &room, 0..1, 4);
                assert!(mesh.pong(first, 0));
                mesh.publish_numbers(0, &room, 1..3, 4);
                assert_eq!(mesh.take_numbers(first, 0), numbers(0..3));
                mesh.cut(first, 0);
                mesh.publish_numbers(0, &room, 3..5, 4);
                let record = mesh.open_with_session(second, 1).expect("the session is known");
                assert_eq!(record.rooms.len(), 1);
                mesh.join(second, 1, &room, 0);
                // These messages arrive while the client's position is being settled.
                mesh.publish(0, &room, "0005");
                mesh.settle();
                mesh.publish_numbers(0, &room, 6..8, 4);
                assert_eq!(mesh.take_numbers(second, 1), numbers(1..8), "{shards} {home} {first} {second}");
                assert_eq!(mesh.resumed, [Some(0)]);
                let counts = mesh.hubs.iter().map(Hub::session_counts);
                let [resumed, missed] = counts.fold([0, 0], |[resumed, missed], counts| {
                    [resumed + counts.resumed, missed + counts.missed]
                });
                assert_eq!((resumed, missed), (1, 0));
            }
        }
    }
}

#[test]
fn one_ping_is_unanswered_at_a_time_and_pings_keep_their_interval() {
    let mut mesh = mesh(1);
    mesh.open_with_session(0, 0);
    mesh.join(0, 0, "x", 0);
    mesh.publish_numbers(0, "x", 0..5, 4);
    assert_eq!(mesh.pings(0, 0), 1);
    mesh.tick(1_500);
    mesh.publish_numbers(0, "x", 5..9, 4);
    assert_eq!(mesh.pings(0, 0), 1, "the first is not answered");
    assert!(mesh.pong(0, 0));
    mesh.settle();
    assert_eq!(mesh.pings(0, 0), 1, "the messages since then need one");
    assert!(mesh.pong(0, 0));
    mesh.publish_numbers(0, "x", 9..12, 4);
    assert_eq!(mesh.pings(0, 0), 0, "the interval is not over");
    mesh.tick(1_599);
    assert_eq!(mesh.pings(0, 0), 0);
    mesh.tick(1_640);
    assert_eq!(mesh.pings(0, 0), 1);
    assert!(mesh.pong(0, 0));
    assert_eq!(mesh.hubs[0].next_ping_ms(), None, "an idle client needs no timer");
    mesh.tick(9_000);
    assert_eq!(mesh.pings(0, 0), 0);
}

/// Returns the number of sends to a client that gets 20 messages a second for 10 seconds and answers each ping.
fn sends_at_20_messages_a_second(has_session: bool) -> usize {
    let mut mesh = Mesh::new(1, |options| (options.history, options.ack_ms) = (0, 250));
    mesh.tick(1_000);
    match has_session {
        true => drop(mesh.open_with_session(0, 0)),
        false => drop(mesh.open(0, 0)),
    }
    mesh.join(0, 0, "x", 0);
    let mut sends = 0;
    for step in 0..1_000_u64 {
        let hub = &mut mesh.hubs[0];
        hub.tick(1_000 + step * 10);
        if step.is_multiple_of(5) {
            hub.publish("x", text(&[b"message"]));
        }
        mesh.bring_mail();
        while let Some(Outbound { span, .. }) = mesh.hubs[0].poll_send(&mut usize::MAX.clone()) {
            sends += 1;
            let mut reader = FrameReader::new(15, false);
            reader.payloads(span.bytes());
            drop(span);
            mesh.hubs[0].sent(0);
            reader.pings.iter().for_each(|ping| assert!(mesh.hubs[0].pong(0, ping)));
        }
    }
    sends
}

#[test]
fn pings_add_a_fifth_to_the_sends_of_20_messages_a_second() {
    assert_eq!(sends_at_20_messages_a_second(false), 200);
    let sends = sends_at_20_messages_a_second(true);
    assert!((230..=240).contains(&sends), "{sends}");
}

#[test]
fn a_client_without_a_session_costs_no_pings_no_timers_and_no_messages_kept() {
    let mut mesh = mesh(1);
    mesh.open(0, 0);
    mesh.join(0, 0, "x", 0);
    mesh.publish_numbers(0, "x", 0..50, 400);
    assert_eq!((mesh.pings(0, 0), mesh.hubs[0].next_ping_ms()), (0, None));
    assert!(!mesh.hubs[0].ping_session(0) && !mesh.hubs[0].pong(0, &[0, 0, 0, 0]));
    let (_, bytes) = mesh.hubs[0].memory();
    assert!(bytes < 4_000, "{bytes}");
    assert_eq!((mesh.hubs[0].linked(), mesh.hubs[0].session_entries()), (0, 0));
    assert!(size_of::<Client>() <= 48, "{}", size_of::<Client>());
}

#[test]
fn only_the_answer_to_the_last_ping_acknowledges() {
    let mut mesh = mesh(1);
    mesh.open_with_session(0, 0);
    mesh.join(0, 0, "x", 0);
    mesh.publish_numbers(0, "x", 0..2, 4);
    let ping = mesh.pings[&(0, 0)][0].clone();
    for wrong in [&b""[..], b"\0\0\0\0", &[0, 0, 0, 2], &[0, 0, 0, 1, 0]] {
        assert!(!mesh.hubs[0].pong(0, wrong), "{wrong:?}");
    }
    // A liveness ping repeats the unanswered ping.
    assert!(mesh.hubs[0].ping_session(0));
    mesh.settle();
    assert_eq!(mesh.pings[&(0, 0)], [ping.clone(), ping.clone()]);
    assert!(mesh.hubs[0].pong(0, &ping));
    assert!(!mesh.hubs[0].pong(0, &ping), "an answer counts once");
    mesh.cut(0, 0);
    mesh.open_with_session(0, 0);
    mesh.join(0, 0, "x", 0);
    mesh.settle();
    // The first ping followed the first message, and the second message came after it.
    assert_eq!(mesh.take_numbers(0, 0), [1]);
}

#[test]
fn messages_that_were_not_sent_yet_are_not_acknowledged() {
    let mut mesh = mesh(1);
    mesh.open_with_session(0, 0);
    mesh.join(0, 0, "x", 0);
    mesh.publish_numbers(0, "x", 0..1, 4);
    mesh.hold(0, 0);
    mesh.publish_numbers(0, "x", 1..4, 4);
    assert!(mesh.pong(0, 0), "the ping before the client stopped reading");
    mesh.cut(0, 0);
    mesh.open_with_session(0, 0);
    mesh.join(0, 0, "x", 0);
    mesh.settle();
    assert_eq!(mesh.take_numbers(0, 0), numbers(1..4));
}

#[test]
fn a_room_keeps_the_messages_of_the_session_time_for_a_client_that_is_away() {
    for home in [0, 1] {
        let mut mesh = mesh(2);
        let room = room_at(home, 2, 0);
        mesh.open_with_session(0, 0);
        mesh.join(0, 0, &room, 0);
        mesh.settle();
        mesh.publish_numbers(0, &room, 0..2, 4);
        mesh.cut(0, 0);
        for second in 2..9 {
            mesh.tick(u64::from(second) * 1_000);
            mesh.publish_numbers(1, &room, second..second + 1, 4);
        }
        mesh.tick(SESSION_MS + 900);
        mesh.open_with_session(1, 3);
        mesh.join(1, 3, &room, 0);
        mesh.settle();
        assert_eq!(mesh.take_numbers(1, 3), numbers(0..9));
        mesh.cut(1, 3);
        // Without sessions, the room is forgotten in the end.
        mesh.tick(2 * SESSION_MS + SLACK_MS + 1_000);
        mesh.tick(2 * SESSION_MS + SLACK_MS + 2_000);
        assert!(mesh.hubs.iter().all(|hub| hub.memory() == (0, 0)), "home {home}");
        mesh.tick(12 * SESSION_MS);
        assert!(mesh.hubs.iter().all(|hub| hub.session_entries() == 0 && hub.next_tick_ms().is_none()));
    }
}

#[test]
fn messages_older_than_the_session_time_are_dropped_and_counted() {
    for home in [0, 1] {
        let mut mesh = mesh(2);
        let room = room_at(home, 2, 0);
        mesh.open_with_session(0, 0);
        mesh.join(0, 0, &room, 0);
        // A member with a session that stays, so that the room keeps messages.
        mesh.open_with(1, 8, SessionKey::new([8; 16]));
        mesh.join(1, 8, &room, 0);
        mesh.settle();
        mesh.publish_numbers(0, &room, 0..4, 700);
        mesh.cut(0, 0);
        mesh.tick(5_000);
        mesh.publish_numbers(0, &room, 4..8, 700);
        mesh.tick(5_000 + SESSION_MS);
        mesh.publish_numbers(0, &room, 8..9, 700);
        let record = mesh.open_with_session(0, 0).expect("expired sessions are remembered");
        assert_eq!(record.rooms[0].1.map(|position| position.number), Some(0));
        mesh.join(0, 0, &room, 0);
        mesh.settle();
        let [Some(missed)] = mesh.resumed[..] else { panic!("{:?}", mesh.resumed) };
        assert!((3..=4).contains(&missed), "{missed} missed: log chunks are dropped as a whole");
        assert_eq!(mesh.take_numbers(0, 0), numbers(missed as u32..9));
        assert_eq!(mesh.hubs.iter().map(|hub| hub.session_counts().expired).sum::<u64>(), 1);
    }
}

#[test]
fn a_room_keeps_no_more_than_the_lag_window() {
    let mut mesh = Mesh::new(1, |options| (options.history, options.lag_window) = (0, 20_000));
    mesh.tick(1_000);
    mesh.open_with_session(0, 0);
    mesh.join(0, 0, "x", 0);
    mesh.publish_numbers(0, "x", 0..1, 100);
    assert!(mesh.pong(0, 0));
    mesh.cut(0, 0);
    mesh.publish_numbers(0, "x", 1..2_000, 100);
    let (_, bytes) = mesh.hubs[0].memory();
    assert!(bytes < 200_000, "{bytes}");
    mesh.open_with_session(0, 0);
    mesh.join(0, 0, "x", 0);
    mesh.settle();
    let [Some(missed)] = mesh.resumed[..] else { panic!("{:?}", mesh.resumed) };
    let heard = mesh.take_numbers(0, 0);
    assert!(heard.len() >= 190, "{} messages are kept", heard.len());
    assert_eq!(heard, numbers(1 + missed as u32..2_000));
}

#[test]
fn a_room_that_was_forgotten_is_told_without_a_number() {
    let mut mesh = mesh(2);
    let room = room_at(1, 2, 0);
    mesh.open_with_session(0, 0);
    mesh.join(0, 0, &room, 0);
    mesh.settle();
    mesh.publish_numbers(0, &room, 0..3, 4);
    mesh.cut(0, 0);
    mesh.tick(1_000 + SESSION_MS + SLACK_MS + 100);
    mesh.tick(1_000 + SESSION_MS + SLACK_MS + 200);
    assert!(mesh.hubs.iter().all(|hub| hub.memory() == (0, 0)));
    mesh.open_with_session(0, 0);
    mesh.join(0, 0, &room, 0);
    mesh.settle();
    mesh.publish_numbers(0, &room, 3..5, 4);
    assert_eq!((mesh.take_numbers(0, 0), &mesh.resumed[..]), (numbers(3..5), &[None][..]));
}

#[test]
fn a_client_that_leaves_a_room_has_no_position_there() {
    let mut mesh = mesh(1);
    mesh.open_with_session(0, 0);
    mesh.join(0, 0, "x", 0);
    mesh.join(0, 0, "y", 0);
    mesh.publish_numbers(0, "x", 0..3, 4);
    mesh.hubs[0].leave(0, "x");
    mesh.settle();
    mesh.cut(0, 0);
    let record = mesh.open_with_session(0, 0).expect("known");
    assert_eq!(record.rooms.iter().map(|(name, _)| &**name).collect::<Vec<_>>(), ["y"]);
    mesh.join(0, 0, "x", 0);
    mesh.settle();
    assert_eq!(mesh.take_numbers(0, 0), [0; 0]);
}

#[test]
fn a_room_that_a_client_does_not_join_again_keeps_its_position() {
    let mut mesh = mesh(2);
    let rooms = [room_at(0, 2, 0), room_at(1, 2, 0)];
    mesh.open_with_session(0, 0);
    rooms.iter().for_each(|room| mesh.join(0, 0, room, 0));
    mesh.settle();
    mesh.cut(0, 0);
    rooms.iter().for_each(|room| mesh.publish_numbers(0, room, 0..3, 4));
    for room in &rooms {
        let record = mesh.open_with_session(1, 1).expect("known");
        assert_eq!(record.rooms.len(), 2);
        mesh.join(1, 1, room, 0);
        mesh.settle();
        assert_eq!(mesh.take_numbers(1, 1), numbers(0..3));
        mesh.pong(1, 1);
        mesh.cut(1, 1);
    }
}

#[test]
fn the_answer_to_the_close_frame_acknowledges_everything_before_it() {
    for (code, twice) in [(1001, 0..0), (1000, 1..3)] {
        let mut mesh = mesh(1);
        mesh.open_with_session(0, 0);
        mesh.join(0, 0, "x", 0);
        mesh.publish_numbers(0, "x", 0..1, 4);
        assert!(mesh.pong(0, 0));
        mesh.hold(0, 0);
        mesh.publish_numbers(0, "x", 1..3, 4);
        mesh.hubs[0].begin_finish(0);
        mesh.hubs[0].finish(0, true, GOING_AWAY);
        mesh.publish_numbers(0, "x", 3..5, 4);
        mesh.let_go(0, 0);
        let sent = mesh.received.remove(&(0, 0)).expect("messages and a close frame");
        assert_eq!(sent, [&b"0000"[..], b"0001", b"0002", &GOING_AWAY[2..]]);
        mesh.hubs[0].acknowledge_end(0, code);
        mesh.cut(0, 0);
        mesh.open_with_session(0, 0);
        mesh.join(0, 0, "x", 0);
        mesh.settle();
        let expected: Vec<u32> = twice.chain(3..5).collect();
        assert_eq!(mesh.take_numbers(0, 0), expected, "code {code}");
    }
}

#[test]
fn a_client_that_gives_its_session_up_goes_on_without() {
    let mut mesh = mesh(1);
    mesh.open_with_session(0, 0);
    mesh.join(0, 0, "x", 0);
    mesh.publish_numbers(0, "x", 0..2, 4);
    mesh.open(0, 1);
    mesh.hubs[0].ask_for_session(1, KEY, 1);
    mesh.bring_mail();
    assert!(matches!(mesh.replies.pop(), Some(SessionReply::Yield { .. })));
    mesh.hubs[0].detach(0);
    mesh.bring_mail();
    let Some(SessionReply::Attached { key, record: Some(record), .. }) = mesh.replies.pop() else {
        panic!("the second client gets the session");
    };
    mesh.hubs[0].attach(1, key, record);
    mesh.join(0, 1, "x", 0);
    mesh.publish_numbers(0, "x", 2..3, 4);
    assert_eq!(mesh.take_numbers(0, 1), numbers(0..3));
    assert_eq!(mesh.take_numbers(0, 0), numbers(0..3), "it still is a member");
    mesh.cut(0, 0);
    mesh.cut(0, 1);
    assert_eq!(mesh.hubs[0].session_counts().detached, 2);
}

#[test]
fn a_client_that_lags_acknowledges_nothing_until_it_has_the_report() {
    let mut mesh = Mesh::new(1, |options| (options.history, options.lag_window) = (0, 2_000));
    mesh.tick(1_000);
    mesh.open_with_session(0, 0);
    mesh.join(0, 0, "x", 0);
    mesh.publish_numbers(0, "x", 0..1, 4);
    assert!(mesh.pong(0, 0));
    mesh.hold(0, 0);
    mesh.tick(2_000);
    mesh.publish_numbers(0, "x", 1..300, 100);
    assert!(!mesh.lagged.is_empty());
    mesh.let_go(0, 0);
    mesh.cut(0, 0);
    let record = mesh.open_with_session(0, 0).expect("known");
    assert_eq!(record.rooms[0].1.map(|position| position.number), Some(1), "nothing was acknowledged since");
}
