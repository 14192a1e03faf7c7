//! Expectations of the model test: the order of every room, and the messages that every client must receive.

use std::collections::BTreeSet;

use super::*;

/// A message in a room's order.
#[derive(Debug)]
struct Ordered {
    /// Length of the message's frame in bytes.
    len: usize,
}

/// Stretch of a room's order that one log contains: the messages from number `base` up to but not including `end`.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Stretch {
    base: usize,
    end: usize,
}

/// The messages of all rooms, in each room's order.
#[derive(Debug)]
pub(super) struct Orders {
    rooms: Vec<Vec<Ordered>>,
    /// Room number and place in the room's order of each message, by message id.
    places: HashMap<usize, (usize, usize)>,
    /// Stretch of the room's order in each shard's log, by room and shard.
    logs: Vec<Vec<Stretch>>,
    /// Stretches covered by the snapshots in transit, by room and shard.
    answers: Vec<Vec<VecDeque<Stretch>>>,
    ids: usize,
}

impl Orders {
    pub(super) fn new(rooms: usize, shards: u16) -> Self {
        let shards = usize::from(shards);
        Self {
            rooms: (0..rooms).map(|_| Vec::new()).collect(),
            places: HashMap::new(),
            logs: vec![vec![Stretch::default(); shards]; rooms],
            answers: vec![vec![VecDeque::new(); shards]; rooms],
            ids: 0,
        }
    }

    pub(super) fn new_id(&mut self) -> usize {
        self.ids += 1;
        self.ids
    }

    /// Records that the home shard creates the room, without history.
    pub(super) fn begin(&mut self, room: usize, home: u16) {
        let end = self.rooms[room].len();
        self.logs[room][home as usize] = Stretch { base: end, end };
    }

    pub(super) fn order(&mut self, room: usize, home: u16, payload: &[u8]) {
        let id = number(payload.split(|byte| *byte == b' ').next().expect("a number"));
        self.places.insert(id, (room, self.rooms[room].len()));
        self.rooms[room].push(Ordered { len: header_len(payload.len()) + payload.len() });
        self.logs[room][home as usize].end += 1;
    }

    pub(super) fn answer(&mut self, room: usize, home: u16, to: u16) {
        let log = self.logs[room][home as usize];
        self.answers[room][to as usize].push_back(log);
    }

    pub(super) fn answered(&mut self, room: usize, shard: u16) -> Stretch {
        self.answers[room][shard as usize].pop_front().expect("the shard subscribed")
    }

    pub(super) fn accept(&mut self, room: usize, shard: u16, answer: Stretch) {
        self.logs[room][shard as usize] = answer;
    }

    pub(super) fn deliver(&mut self, room: usize, shard: u16) {
        self.logs[room][shard as usize].end += 1;
    }

    /// Returns the number of messages in the room's order up to the end of the shard's log.
    pub(super) fn known(&self, room: usize, shard: u16) -> usize {
        self.logs[room][shard as usize].end
    }

    /// Returns the place in the room's order of the first message that a newcomer on this shard gets.
    fn history(&self, room: usize, shard: u16, count: u32, bytes: usize) -> usize {
        let Stretch { base, end } = self.logs[room][shard as usize];
        let mut left = bytes;
        let old = self.rooms[room][base..end].iter().rev().take(count as usize);
        let count = old.take_while(|message| match left.checked_sub(message.len) {
            Some(rest) => {
                left = rest;
                true
            }
            None => false,
        });
        end - count.count()
    }

    fn bytes(&self, room: usize, from: usize, to: usize) -> usize {
        self.rooms[room][from..to].iter().map(|message| message.len).sum()
    }
}

pub(super) fn number(digits: &[u8]) -> usize {
    str::from_utf8(digits).expect("text").parse().expect("a number")
}

/// Stay of a client in a room: one membership, from joining to leaving.
#[derive(Debug)]
struct Stay {
    wanted: u32,
    /// Whether the client gets no messages yet.
    is_held: bool,
    /// Place in the room's order of the next message to be received. `None` until the room's log has arrived.
    next: Option<usize>,
    /// Place after the last message that the client gets for this stay. `None` until the client leaves.
    end: Option<usize>,
    /// Places of the messages from which the client is excluded.
    excluded: BTreeSet<usize>,
}

#[derive(Debug)]
pub(super) struct Client {
    pub(super) id: ClientId,
    /// Number of missed messages that the hub reported.
    pub(super) reported: u64,
    /// Number of messages that the client missed.
    missed: u64,
    /// The client's stays, by room. Only the last stay in a room may be unfinished.
    stays: Vec<VecDeque<Stay>>,
    own_sent: usize,
    own_received: usize,
    finished: Option<Finish>,
    heard_last: bool,
    reader: FrameReader,
    /// Payloads that the hub handed out and the client has not read yet, by send.
    unread: VecDeque<Vec<Vec<u8>>>,
}

#[derive(Debug)]
enum Finish {
    /// Finish after sending: the client gets its pending messages, then the last bytes.
    SendPending,
    /// Finish at once: pending messages are dropped, and the client gets only the last bytes.
    DropPending,
}

impl Client {
    pub(super) fn new(id: ClientId, reader: FrameReader) -> Self {
        Self {
            id,
            reader,
            unread: VecDeque::new(),
            reported: 0,
            missed: 0,
            stays: (0..ROOMS).map(|_| VecDeque::new()).collect(),
            own_sent: 0,
            own_received: 0,
            finished: None,
            heard_last: false,
        }
    }

    pub(super) fn is_finished(&self) -> bool {
        self.finished.is_some()
    }

    pub(super) fn is_member(&self, room: usize) -> bool {
        self.stays[room].back().is_some_and(|stay| stay.end.is_none())
    }

    /// Returns the number of bytes of the room that are pending if the client leaves now.
    pub(super) fn pending_bytes(&self, room: usize, shard: u16, orders: &Orders) -> usize {
        let next = self.stays[room].back().and_then(|stay| stay.next);
        next.map_or(0, |next| orders.bytes(room, next, orders.known(room, shard)))
    }

    pub(super) fn next_own(&mut self) -> usize {
        self.own_sent += 1;
        self.own_sent - 1
    }

    pub(super) fn is_held(&self, room: usize) -> bool {
        self.stays[room].back().is_some_and(|stay| stay.is_held)
    }

    /// Records that the client gets the messages from place `known` on.
    pub(super) fn release(&mut self, room: usize, known: usize) {
        let stay = self.stays[room].back_mut().expect("a member");
        (stay.is_held, stay.next) = (false, Some(known));
    }

    pub(super) fn join(&mut self, room: usize, wanted: u32, is_held: bool) {
        self.stays[room].push_back(Stay {
            wanted,
            is_held,
            next: None,
            end: None,
            excluded: BTreeSet::new(),
        });
    }

    /// Records that the shard has the room's log, which decides the first message that the client gets: the room's
    /// history has at most `messages` messages of `bytes` bytes.
    pub(super) fn start(&mut self, orders: &Orders, room: usize, shard: u16, messages: u32, bytes: usize) {
        let stay = self.stays[room].back_mut().expect("a member");
        assert!(stay.next.is_none(), "a stay starts once");
        stay.next = Some(orders.history(room, shard, stay.wanted.min(messages), bytes));
    }

    /// Records that the client leaves the room. The client gets the messages before place `known`, or none if it waited
    /// for the room's log.
    pub(super) fn leave(&mut self, room: usize, known: usize) {
        let stay = self.stays[room].back_mut().expect("a member");
        stay.end = Some(if stay.next.is_some() { known } else { 0 });
        stay.next.get_or_insert(0);
        stay.is_held = false;
    }

    /// Records that the client does not get the newest message that its shard has of the room.
    pub(super) fn exclude(&mut self, room: usize, known: usize) {
        if self.is_member(room) {
            self.stays[room].back_mut().expect("a member").excluded.insert(known - 1);
        }
    }

    pub(super) fn finish(&mut self, send_pending: bool, known: impl Fn(usize) -> usize) {
        for room in 0..ROOMS {
            if self.is_member(room) {
                self.leave(room, known(room));
            }
        }
        self.finished = Some(if send_pending { Finish::SendPending } else { Finish::DropPending });
    }

    pub(super) fn handed_out(&mut self, bytes: &[u8], messages: u64) {
        let payloads = self.reader.payloads(bytes);
        let is_of_room = |payload: &&Vec<u8>| payload[0].is_ascii_digit();
        assert_eq!(payloads.iter().filter(is_of_room).count() as u64, messages);
        if matches!(self.finished, Some(Finish::DropPending)) {
            assert_eq!(payloads, [b"last"], "only the last bytes are sent");
        }
        self.unread.push_back(payloads);
    }

    pub(super) fn receive(&mut self, orders: &Orders, lag_window: usize) {
        for payload in self.unread.pop_front().expect("it was handed out") {
            assert!(!self.heard_last, "nothing follows the last bytes");
            let mut words = payload.split(|byte| *byte == b' ');
            match words.next().expect("a word") {
                b"own" => {
                    let received = number(words.next().expect("a number"));
                    assert_eq!(received, self.own_received, "messages for one client come in order");
                    self.own_received += 1;
                }
                b"left" => {
                    let room = number(words.next().expect("a room"));
                    let mut stay = self.stays[room].pop_front().expect("a stay that ended");
                    let end = stay.end.expect("the stay has ended");
                    self.missed += skip_to(&mut stay, end, orders, room, lag_window);
                }
                b"last" => {
                    assert!(self.is_finished());
                    self.heard_last = true;
                }
                id => self.receive_message(number(id), &payload, orders, lag_window),
            }
        }
    }

    fn receive_message(&mut self, id: usize, payload: &[u8], orders: &Orders, lag_window: usize) {
        let (room, place) = orders.places[&id];
        let mut stay = self.stays[room].pop_front().expect("a message of a room that the client is in");
        assert!(stay.end.is_none_or(|end| place < end), "message {id} comes after leaving");
        assert!(!stay.excluded.contains(&place), "message {id} comes although the client is excluded");
        assert_eq!(payload.len(), orders.rooms[room][place].len - header_len(payload.len()), "torn");
        self.missed += skip_to(&mut stay, place, orders, room, lag_window);
        stay.next = Some(place + 1);
        self.stays[room].push_front(stay);
    }

    /// Checks that the client has every message except the messages reported as missed.
    pub(super) fn is_current(&self, orders: &Orders, shard: u16, lag_window: usize) {
        assert_eq!(self.heard_last, self.is_finished());
        if matches!(self.finished, Some(Finish::DropPending)) {
            return;
        }
        assert_eq!(self.own_received, self.own_sent);
        let mut missed = self.missed;
        for (room, stays) in self.stays.iter().enumerate() {
            for stay in stays.iter().filter(|stay| !stay.is_held) {
                let known = orders.known(room, shard);
                let end = stay.end.unwrap_or(known);
                assert!(stay.end.is_some() || end == orders.rooms[room].len(), "the shard has all messages");
                let mut stay = Stay {
                    wanted: 0,
                    is_held: false,
                    next: stay.next,
                    end: stay.end,
                    excluded: stay.excluded.clone(),
                };
                missed += skip_to(&mut stay, end, orders, room, lag_window);
            }
        }
        assert_eq!(missed, self.reported, "missed messages are reported");
    }
}

/// Advances a stay to `place`. Returns the number of messages in between, which the client missed.
fn skip_to(stay: &mut Stay, place: usize, orders: &Orders, room: usize, lag_window: usize) -> u64 {
    let next = stay.next.replace(place).expect("the stay has started");
    assert!(next <= place, "a message is repeated");
    let missing = place - next - stay.excluded.range(next..place).count();
    if missing > 0 {
        let bytes = orders.bytes(room, next, place);
        assert!(bytes >= lag_window, "{missing} messages of only {bytes} bytes are missing");
    }
    missing as u64
}

fn header_len(payload_len: usize) -> usize {
    match payload_len {
        0..126 => 2,
        126..65_536 => 4,
        _ => 10,
    }
}
