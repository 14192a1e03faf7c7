//! The registry of sessions: which client has each session, and the positions of sessions without a client.
//!
//! A session outlives its connections. A hash of the session's key chooses the session's **home** shard, which has the
//! registry entry. A shard asks the home for the session before it opens a WebSocket ([`SessionRequest::Attach`]), and
//! gives the session back when the connection has ended ([`SessionRequest::Detach`]). If another client still has the
//! session, the home takes it away from that client first ([`SessionReply::Yield`]).

use std::collections::{HashMap, VecDeque};

use crate::chunk::Counted;

use super::{ClientId, ClientNumber, Hub, Position};

/// Number of session times for which a session's positions are remembered. After the first one its messages may be gone,
/// so a client that returns later is told how many it missed.
const REMEMBERED: u64 = 10;
/// Number of stale entries that a queue may have in addition to one for each session.
const SPARE: usize = 64;
/// Memory of a registry entry in addition to its record, in bytes: the entry and its place in a queue.
const ENTRY_MEMORY: usize = 160;

/// Key of a session: a hash of its user and its identifier, equal on all shards.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SessionKey([u8; 16]);

impl SessionKey {
    /// Makes the key from a hash that nobody can choose.
    pub const fn new(hash: [u8; 16]) -> Self {
        Self(hash)
    }
}

/// The positions of a session and what the application keeps with it, while no client has the session.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SessionRecord {
    /// Bytes that the application keeps with the session.
    pub state: Vec<u8>,
    /// Whether the last client closed its connection with a close frame.
    pub said_goodbye: bool,
    /// Names of the session's rooms, each with the number of the first message that no client has acknowledged. `None`
    /// for a room of which no client has got any message.
    pub rooms: Vec<(Box<str>, Option<Position>)>,
}

impl SessionRecord {
    /// Encodes the record in few bytes.
    fn pack(&self) -> Box<[u8]> {
        let mut bytes = vec![u8::from(self.said_goodbye)];
        bytes.extend((self.state.len() as u16).to_le_bytes());
        bytes.extend(&self.state);
        for (name, position) in &self.rooms {
            bytes.extend((name.len() as u16).to_le_bytes());
            bytes.extend(name.as_bytes());
            bytes.push(u8::from(position.is_some()));
            if let Some(Position { epoch, number }) = position {
                bytes.extend(epoch.to_le_bytes());
                bytes.extend(number.to_le_bytes());
            }
        }
        bytes.into()
    }

    /// Decodes a record that [`SessionRecord::pack`] has encoded. `None` for other bytes.
    fn unpack(mut bytes: &[u8]) -> Option<Self> {
        let bytes = &mut bytes;
        let said_goodbye = take::<1>(bytes)? == [1];
        let state_len = usize::from(u16::from_le_bytes(take(bytes)?));
        let state = bytes.split_off(..state_len)?.to_vec();
        let mut rooms = Vec::new();
        while !bytes.is_empty() {
            let name_len = usize::from(u16::from_le_bytes(take(bytes)?));
            let name = str::from_utf8(bytes.split_off(..name_len)?).ok()?;
            let position = match take(bytes)? {
                [0] => None,
                _ => Some(Position {
                    epoch: u64::from_le_bytes(take(bytes)?),
                    number: u64::from_le_bytes(take(bytes)?),
                }),
            };
            rooms.push((name.into(), position));
        }
        Some(Self { state, said_goodbye, rooms })
    }

    /// Returns whether the record has neither rooms nor bytes of the application.
    fn is_empty(&self) -> bool {
        self.state.is_empty() && self.rooms.is_empty()
    }

    /// Returns roughly the heap memory of the record in bytes.
    pub(super) fn heap_bytes(&self) -> usize {
        let names: usize = self.rooms.iter().map(|(name, _)| name.len()).sum();
        self.state.len() + names + size_of_val(&*self.rooms)
    }
}

/// Removes and returns the first `N` bytes.
fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    bytes.split_off(..N)?.try_into().ok()
}

/// Request to the home shard of a session.
#[derive(Debug)]
pub enum SessionRequest {
    /// Asks for the session on behalf of a client whose WebSocket is about to open.
    Attach {
        /// The session.
        key: SessionKey,
        /// The client.
        client: ClientNumber,
        /// Number of the client's request, which the reply repeats.
        request: u64,
    },
    /// Gives the session back, because its client's connection has ended or lost the session to another client.
    Detach {
        /// The session.
        key: SessionKey,
        /// The client that had the session.
        client: ClientNumber,
        /// The session's positions at its end.
        record: SessionRecord,
    },
}

/// Reply of a session's home shard to the shard of a client.
#[derive(Debug)]
pub enum SessionReply {
    /// The client has the session now.
    Attached {
        /// The session.
        key: SessionKey,
        /// The client.
        client: ClientNumber,
        /// Number of the client's request.
        request: u64,
        /// The positions of an earlier client; `None` for a new session.
        record: Option<SessionRecord>,
    },
    /// The client gets no session: the registry is full of sessions that clients have.
    Full {
        /// The client.
        client: ClientNumber,
        /// Number of the client's request.
        request: u64,
    },
    /// The client does not get the session, because a later client asks for it, too.
    Superseded {
        /// The client.
        client: ClientNumber,
        /// Number of the client's request.
        request: u64,
    },
    /// The client must give the session back, because another client asks for it.
    Yield {
        /// The client.
        client: ClientNumber,
    },
}

/// Numbers of a shard's sessions, counted since the server's start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SessionCounts {
    /// Sessions whose client's connection has ended.
    pub detached: u64,
    /// Sessions that a returning client has got.
    pub resumed: u64,
    /// Sessions whose client did not return in time.
    pub expired: u64,
    /// Messages that returning clients got because they had not acknowledged them.
    pub replayed: u64,
    /// Messages that returning clients were told to have missed.
    pub missed: u64,
}

/// The sessions whose home is this shard.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    entries: HashMap<SessionKey, Entry>,
    /// Sessions without a client, by the time since when they have none.
    away: VecDeque<Away>,
    /// Expired sessions whose positions are remembered.
    expired: VecDeque<Away>,
    next_serial: u64,
    counted: Counted,
    memory: usize,
    pub(super) counts: SessionCounts,
}

#[derive(Debug)]
struct Entry {
    /// Number of the entry's last change from having a client to having none. Compared with [`Away::serial`].
    serial: u64,
    owner: Owner,
}

#[derive(Debug)]
enum Owner {
    /// A client has the session. Another client may wait until the first one has given the session back.
    Client { client: ClientNumber, next: Option<Box<(ClientNumber, u64)>> },
    /// No client has the session.
    Nobody(Box<[u8]>),
}

/// A place in a queue of sessions without a client. Stale if the entry has another serial number.
#[derive(Clone, Copy, Debug)]
struct Away {
    key: SessionKey,
    serial: u64,
    since_ms: u64,
}

impl Sessions {
    /// Handles a client that asks for a session. Returns the replies. `max` is the maximum number of sessions.
    fn attach(
        &mut self,
        key: SessionKey,
        client: ClientNumber,
        request: u64,
        max: usize,
    ) -> Vec<SessionReply> {
        if !self.entries.contains_key(&key) && !self.make_space(max) {
            return vec![SessionReply::Full { client, request }];
        }
        let Some(entry) = self.entries.get_mut(&key) else {
            let owner = Owner::Client { client, next: None };
            self.entries.insert(key, Entry { serial: 0, owner });
            self.weigh(ENTRY_MEMORY, 0);
            return vec![SessionReply::Attached { key, client, request, record: None }];
        };
        match &mut entry.owner {
            Owner::Client { client: holder, next } => {
                let holder = *holder;
                match next.replace(Box::new((client, request))) {
                    Some(earlier) => {
                        let (client, request) = *earlier;
                        vec![SessionReply::Superseded { client, request }]
                    }
                    None => vec![SessionReply::Yield { client: holder }],
                }
            }
            Owner::Nobody(packed) => {
                let record = SessionRecord::unpack(packed);
                let len = packed.len();
                entry.owner = Owner::Client { client, next: None };
                self.weigh(0, len);
                self.counts.resumed += 1;
                vec![SessionReply::Attached { key, client, request, record }]
            }
        }
    }

    /// Handles the end of a client that had the session. Returns the reply to a client that waits for the session.
    fn detach(
        &mut self,
        key: SessionKey,
        client: ClientNumber,
        record: SessionRecord,
        now_ms: u64,
    ) -> Option<SessionReply> {
        let entry = self.entries.get_mut(&key)?;
        let Owner::Client { client: holder, next } = &mut entry.owner else { return None };
        if *holder != client {
            return None;
        }
        if let Some(next) = next.take() {
            let (client, request) = *next;
            *holder = client;
            let record = Some(record).filter(|record| !record.is_empty());
            self.counts.detached += 1;
            self.counts.resumed += u64::from(record.is_some());
            return Some(SessionReply::Attached { key, client, request, record });
        }
        if record.is_empty() {
            self.entries.remove(&key);
            self.weigh(0, ENTRY_MEMORY);
            return None;
        }
        let packed = record.pack();
        let len = packed.len();
        self.next_serial += 1;
        entry.serial = self.next_serial;
        entry.owner = Owner::Nobody(packed);
        self.away.push_back(Away { key, serial: self.next_serial, since_ms: now_ms });
        self.counts.detached += 1;
        self.weigh(len, 0);
        self.drop_stale();
        None
    }

    /// Makes space for one more session: forgets the session without a client that is away for the longest time. Returns
    /// whether there is space.
    fn make_space(&mut self, max: usize) -> bool {
        while self.entries.len() >= max {
            let Some((oldest, is_expired)) = self
                .expired
                .pop_front()
                .map(|oldest| (oldest, true))
                .or_else(|| self.away.pop_front().map(|oldest| (oldest, false)))
            else {
                return false;
            };
            if self.remove(oldest) && !is_expired {
                self.counts.expired += 1;
            }
        }
        true
    }

    /// Marks sessions as expired whose client did not return within `session_ms`, and forgets those expired for long.
    fn expire(&mut self, now_ms: u64, session_ms: u64) {
        while let Some(oldest) = self.away.front().copied()
            && (!self.is_current(oldest) || oldest.since_ms + session_ms <= now_ms)
        {
            self.away.pop_front();
            if self.is_current(oldest) {
                self.counts.expired += 1;
                self.expired.push_back(oldest);
            }
        }
        while let Some(oldest) = self.expired.front().copied()
            && (!self.is_current(oldest) || oldest.since_ms + REMEMBERED * session_ms <= now_ms)
        {
            self.expired.pop_front();
            self.remove(oldest);
        }
    }

    /// Returns the time in milliseconds at which [`Sessions::expire`] is due next.
    fn next_due_ms(&self, session_ms: u64) -> Option<u64> {
        let away = self.away.front().map(|oldest| oldest.since_ms + session_ms);
        let expired = self.expired.front().map(|oldest| oldest.since_ms + REMEMBERED * session_ms);
        away.into_iter().chain(expired).min()
    }

    fn is_current(&self, Away { key, serial, .. }: Away) -> bool {
        let entry = self.entries.get(&key).filter(|entry| entry.serial == serial);
        entry.is_some_and(|entry| matches!(entry.owner, Owner::Nobody(_)))
    }

    /// Forgets a session, unless its place in the queue is stale. Returns whether it was forgotten.
    fn remove(&mut self, away: Away) -> bool {
        if !self.is_current(away) {
            return false;
        }
        if let Some(Entry { owner: Owner::Nobody(packed), .. }) = self.entries.remove(&away.key) {
            self.weigh(0, packed.len() + ENTRY_MEMORY);
        }
        if self.entries.len() < self.entries.capacity() / 8 {
            self.entries.shrink_to(self.entries.len() * 2);
        }
        true
    }

    /// Removes stale places from the queues when they are the most.
    fn drop_stale(&mut self) {
        if self.away.len() + self.expired.len() > 2 * self.entries.len() + SPARE {
            let (mut away, mut expired) = (std::mem::take(&mut self.away), std::mem::take(&mut self.expired));
            away.retain(|away| self.is_current(*away));
            expired.retain(|away| self.is_current(*away));
            (self.away, self.expired) = (away, expired);
        }
    }

    /// Counts added and removed memory in bytes.
    fn weigh(&mut self, added: usize, removed: usize) {
        self.memory = self.memory + added - removed;
        self.counted.set(self.memory);
    }

    /// Returns the number of sessions, of which some are remembered only.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Returns whether any session waits for its client's return.
    pub(super) fn has_away(&self) -> bool {
        !self.away.is_empty() || !self.expired.is_empty()
    }
}

impl Hub {
    /// Handles a request about a session whose home is this shard.
    pub fn take_session_request(&mut self, request: SessionRequest) {
        let max = if self.options.session_ms == 0 { 0 } else { self.options.max_sessions };
        let replies = match request {
            SessionRequest::Attach { key, client, request } => {
                self.sessions.attach(key, client, request, max)
            }
            SessionRequest::Detach { key, client, record } => {
                self.sessions.detach(key, client, record, self.now_ms).into_iter().collect()
            }
        };
        for reply in replies {
            let (SessionReply::Attached { client, .. }
            | SessionReply::Full { client, .. }
            | SessionReply::Superseded { client, .. }
            | SessionReply::Yield { client }) = reply;
            let ClientId { shard, .. } = self.identify(client);
            self.outgoing.delivery(shard, |batch| batch.session(reply));
        }
    }

    /// Returns the counts of this shard's sessions.
    pub fn session_counts(&self) -> SessionCounts {
        self.sessions.counts
    }

    /// Returns the number of sessions whose home is this shard.
    pub fn session_entries(&self) -> usize {
        self.sessions.len()
    }

    /// Sends a request to the home shard of a session.
    pub(super) fn ask_session(&mut self, request: SessionRequest) {
        let (SessionRequest::Attach { key, .. } | SessionRequest::Detach { key, .. }) = &request;
        let hash = u64::from_le_bytes(key.0[..8].try_into().expect("eight of sixteen bytes"));
        let home = (hash % u64::from(self.options.shards)) as u16;
        self.outgoing.request(home, |batch| batch.session(request));
    }

    pub(super) fn expire_sessions(&mut self) {
        if self.sessions.has_away() {
            self.sessions.expire(self.now_ms, self.options.session_ms);
        }
    }

    pub(super) fn sessions_due_ms(&self) -> Option<u64> {
        self.sessions.next_due_ms(self.options.session_ms)
    }
}

/// A bug that the simulation injects.
#[cfg(test)]
impl Hub {
    /// Injects a bug: sessions without a client lose the first message of each room that they have not acknowledged.
    pub(crate) fn lose_entries(&mut self) {
        for entry in self.sessions.entries.values_mut() {
            let Owner::Nobody(packed) = &mut entry.owner else { continue };
            let Some(mut record) = SessionRecord::unpack(packed) else { continue };
            record
                .rooms
                .iter_mut()
                .filter_map(|(_, position)| position.as_mut())
                .for_each(|at| at.number += 1);
            *packed = record.pack();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU64;

    use super::*;

    fn client(number: u64) -> ClientNumber {
        ClientNumber { slot: number as u32, number: NonZeroU64::new(number).expect("not 0") }
    }

    fn key(number: u8) -> SessionKey {
        SessionKey([number; 16])
    }

    fn record(room: &str, number: u64) -> SessionRecord {
        let position = Position { epoch: 7, number };
        SessionRecord {
            state: b"ann".to_vec(),
            said_goodbye: false,
            rooms: vec![(room.into(), Some(position))],
        }
    }

    /// Returns the record in the only reply, which gives the session to `client`.
    fn attached(replies: &[SessionReply], expected: ClientNumber) -> Option<SessionRecord> {
        match replies {
            [SessionReply::Attached { client, record, .. }] if *client == expected => record.clone(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_record_is_the_same_after_packing() {
        let mut records = vec![SessionRecord::default(), record("ä", 3)];
        let rooms = vec![("".into(), None), ("b".repeat(300).into(), record("", u64::MAX).rooms[0].1)];
        records.push(SessionRecord { state: vec![9; 1_000], said_goodbye: true, rooms });
        for record in records {
            let packed = record.pack();
            assert_eq!(SessionRecord::unpack(&packed).as_ref(), Some(&record));
            // A cut record is refused, or has fewer rooms.
            for len in 0..packed.len() {
                let cut = SessionRecord::unpack(&packed[..len]);
                assert!(cut.is_none_or(|cut| cut.rooms.len() < record.rooms.len()), "{len}");
            }
        }
    }

    #[test]
    fn a_returning_client_gets_the_positions_of_the_one_before() {
        let mut sessions = Sessions::default();
        assert_eq!(attached(&sessions.attach(key(1), client(1), 5, 10), client(1)), None);
        assert!(sessions.detach(key(1), client(9), record("x", 1), 0).is_none(), "another client's");
        assert!(sessions.detach(key(1), client(1), record("x", 2), 0).is_none());
        assert_eq!(attached(&sessions.attach(key(1), client(2), 5, 10), client(2)), Some(record("x", 2)));
        assert_eq!(attached(&sessions.attach(key(2), client(3), 5, 10), client(3)), None);
        let SessionCounts { detached, resumed, .. } = sessions.counts;
        assert_eq!((detached, resumed), (1, 1));
    }

    #[test]
    fn the_newest_client_wins() {
        let mut sessions = Sessions::default();
        sessions.attach(key(1), client(1), 5, 10);
        let replies = sessions.attach(key(1), client(2), 6, 10);
        assert!(
            matches!(replies[..], [SessionReply::Yield { client: old }] if old == client(1)),
            "{replies:?}"
        );
        let replies = sessions.attach(key(1), client(3), 7, 10);
        assert!(
            matches!(replies[..], [SessionReply::Superseded { client: other, request: 6 }] if other == client(2))
        );
        let reply = sessions.detach(key(1), client(1), record("x", 4), 0).into_iter().collect::<Vec<_>>();
        assert_eq!(attached(&reply, client(3)), Some(record("x", 4)));
        assert!(sessions.detach(key(1), client(1), record("x", 5), 0).is_none(), "it has lost the session");
    }

    #[test]
    fn sessions_expire_and_are_forgotten_later() {
        let mut sessions = Sessions::default();
        for number in 1..4 {
            sessions.attach(key(number), client(number.into()), 1, 10);
            sessions.detach(key(number), client(number.into()), record("x", 1), u64::from(number) * 100);
        }
        assert_eq!(sessions.next_due_ms(1_000), Some(1_100));
        sessions.expire(1_200, 1_000);
        assert_eq!((sessions.counts.expired, sessions.len()), (2, 3));
        assert_eq!(attached(&sessions.attach(key(1), client(8), 1, 10), client(8)), Some(record("x", 1)));
        sessions.expire(10_200, 1_000);
        assert_eq!((sessions.counts.expired, sessions.len()), (3, 2), "one has a client, one is remembered");
        sessions.expire(10_300, 1_000);
        assert_eq!((sessions.len(), sessions.next_due_ms(1_000)), (1, None));
        sessions.detach(key(1), client(8), SessionRecord::default(), 10_400);
        assert_eq!((sessions.len(), sessions.memory), (0, 0), "a session without rooms is none");
    }

    #[test]
    fn at_the_limit_the_longest_away_are_forgotten_first() {
        let mut sessions = Sessions::default();
        for number in 1..4 {
            sessions.attach(key(number), client(number.into()), 1, 3);
        }
        assert!(matches!(
            sessions.attach(key(4), client(4), 1, 3)[..],
            [SessionReply::Full { request: 1, .. }]
        ));
        sessions.detach(key(2), client(2), record("x", 1), 0);
        sessions.detach(key(1), client(1), record("x", 1), 10);
        assert_eq!(attached(&sessions.attach(key(4), client(4), 1, 3), client(4)), None);
        assert_eq!(attached(&sessions.attach(key(1), client(5), 1, 3), client(5)), Some(record("x", 1)));
        assert_eq!((sessions.len(), sessions.counts.expired), (3, 1));
    }

    #[test]
    fn queues_stay_short_while_a_client_returns_again_and_again() {
        let mut sessions = Sessions::default();
        for number in 1..10_000 {
            sessions.attach(key(1), client(number), 1, 10);
            sessions.detach(key(1), client(number), record("x", 1), number);
            assert!(sessions.away.len() <= 2 + SPARE + 1, "{}", sessions.away.len());
        }
        assert!(sessions.memory < ENTRY_MEMORY + 40);
    }

    #[test]
    fn a_detached_session_is_small() {
        assert!(size_of::<(SessionKey, Entry)>() <= 64, "{}", size_of::<(SessionKey, Entry)>());
        let rooms =
            (0..10).map(|number| (format!("room-{number:04}").into(), record("", 9).rooms[0].1)).collect();
        let many = SessionRecord { rooms, ..record("x", 1) };
        assert!(many.pack().len() <= 16 + 10 * 40, "{}", many.pack().len());
    }

    #[test]
    fn a_hundred_thousand_detached_sessions_take_200_bytes_each_and_40_for_their_room() {
        const COUNT: u64 = 100_000;
        let mut sessions = Sessions::default();
        for number in 1..=COUNT {
            let mut hash = [0; 16];
            hash[..8].copy_from_slice(&number.to_le_bytes());
            sessions.attach(SessionKey(hash), client(number), 1, usize::MAX);
            sessions.detach(SessionKey(hash), client(number), record("room-0001", 1), 0);
        }
        // A hash table has a byte of its own for each place, and the allocator rounds a record up to 16 bytes and adds 8.
        let table = sessions.entries.capacity() * 8 / 7 * (size_of::<(SessionKey, Entry)>() + 1);
        let queues = (sessions.away.capacity() + sessions.expired.capacity()) * size_of::<Away>();
        let record = record("room-0001", 1).pack().len().next_multiple_of(16) + 8;
        let each = (table + queues) / COUNT as usize + record;
        assert!(each <= 200 + 40, "{each} bytes");
    }
}
