//! A room on one shard: its log, its members there, and the pass that sends members their pending messages.

use std::collections::BTreeSet;

use crate::chunk::Span;
use crate::protocol::deflate::Deflater;

use super::history::{History, HistoryLimits};
use super::log::Log;
use super::memberships::Place;
use super::rooms::{Rank, RoomKey};
use super::times::Times;

/// Slot: index of a connection within its shard.
pub type Slot = u32;

/// Smallest cursor value that means "waits for the snapshot from the room's home". The difference of a cursor to this
/// value is the number of old messages that the member wants.
const WAITING: u64 = u64::MAX - u32::MAX as u64;

/// Cursor value of a held member: see [`Room::add_held`].
const HELD: u64 = WAITING - 1;

/// Place in `Member::bits` of a client in few rooms.
const NO_PLACE: u32 = u32::MAX >> 1;

/// A member of a room, with its cursor into the room's log.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) slot: Slot,
    /// Bit 0: whether the member reads the room's compressed log where that has the message. The other bits: the place
    /// of the room among the client's many rooms, or [`NO_PLACE`].
    bits: u32,
    /// Cursor: number of the next message to send to the member.
    pub(crate) cursor: u64,
}

impl Member {
    fn new(slot: Slot, compressed: bool, cursor: u64) -> Self {
        Self { slot, bits: NO_PLACE << 1 | u32::from(compressed), cursor }
    }

    /// Returns whether the member gets nothing yet: see [`Room::add_held`].
    fn is_held(&self) -> bool {
        self.cursor == HELD
    }

    fn is_compressed(&self) -> bool {
        self.bits & 1 == 1
    }

    /// Returns the place of the room among the client's many rooms. `None` for a client in few rooms.
    pub(super) fn place(&self) -> Option<Place> {
        Some(self.bits >> 1).filter(|place| *place != NO_PLACE)
    }

    pub(super) fn set_place(&mut self, place: Option<Place>) {
        self.bits = place.unwrap_or(NO_PLACE) << 1 | self.bits & 1;
    }
}

/// A pass: one walk over all members of a room that starts a send for each member with pending messages.
#[derive(Clone, Copy, Debug)]
struct Pass {
    /// Index of the next member to visit. The pass has visited all members before this index.
    at: usize,
    /// Number of the log's next message when the pass began.
    head: u64,
    /// Smallest cursor of the visited members, each read after the visit.
    min_cursor: u64,
}

/// The state of a room that only its home shard keeps.
#[derive(Debug, Default)]
pub(crate) struct Home {
    /// Subscriptions of the other shards that have members of the room.
    pub(crate) subscribers: Vec<Subscriber>,
    /// Arrival times of the messages in the room's history.
    pub(crate) times: Times,
    /// Whether the room has members on any shard, as last reported by the hub.
    pub(crate) is_occupied: bool,
    /// Number of shards that have members with a session.
    pub(super) session_shards: u32,
    /// Time in milliseconds until which the room keeps messages for the sessions of former members; 0 without any.
    pub(super) retained_until_ms: u64,
}

impl Home {
    /// Returns whether the room keeps messages for clients with sessions that are away.
    pub(super) fn retains(&self, now_ms: u64) -> bool {
        self.session_shards > 0 || now_ms < self.retained_until_ms
    }
}

/// Subscription of another shard to a room, kept on the room's home shard.
#[derive(Debug)]
pub(crate) struct Subscriber {
    pub(crate) shard: u16,
    /// The subscribing shard's key of the room, which addresses deliveries.
    pub(crate) room: RoomKey,
}

/// The result of a pass's visit to one member of a room.
pub(crate) enum Visit {
    /// Send the span to the client. The last number counts the messages in the span.
    Send(Slot, Span, u64),
    /// The client lagged: its cursor fell out of the log. The last number counts the missed messages.
    Lagged(Slot, u64),
    /// The visited member has pending messages, but its client has a send in flight. Reported for a client in many
    /// rooms, with the place of this room among them.
    Busy(Slot, Place),
    /// The visited member has no pending messages, or its client has a send in flight.
    Nothing,
    /// The pass has visited all members.
    Over,
}

#[derive(Debug)]
pub(crate) struct Room {
    pub(crate) name: Box<str>,
    pub(crate) key: RoomKey,
    pub(crate) home_shard: u16,
    /// The home shard's key of the room. On another shard the key arrives with the snapshot.
    pub(crate) home_key: Option<RoomKey>,
    /// The limits of the room's history. `None` means those of the hub's options. On another shard than the home they
    /// arrive with the snapshot.
    pub(crate) history: Option<History>,
    pub(crate) log: Log,
    /// The messages of `log` in compressed form. Exists while a member reads compressed messages, from the first such
    /// member on. Older messages are read from `log`: RFC 7692 §6 allows plain messages at any time.
    pub(super) compressed: Option<Log>,
    /// Number of members that read the log `compressed`.
    compressed_members: usize,
    pub(crate) members: Vec<Member>,
    /// Number of members with a session.
    pub(super) session_members: u32,
    /// State that only the room's home shard keeps. `None` on other shards.
    pub(crate) home: Option<Home>,
    /// Whether `log` follows the room's order: always on the home shard, elsewhere once the snapshot has arrived.
    pub(crate) live: bool,
    /// Whether the hub's queue of passes contains the room.
    pub(crate) queued: bool,
    /// Whether a member needs another pass after the pass in progress, even if no new message comes.
    pub(crate) revisit: bool,
    /// Whether a timer is set for the room.
    pub(crate) timed: bool,
    /// Whether the hub counts the room as saturated, so that publishers must wait.
    pub(crate) saturated: bool,
    /// Time of the room's last use, in milliseconds.
    pub(crate) used_ms: u64,
    /// Weight of the room in bytes, as the hub last counted it for the limit `history_memory`.
    pub(crate) weight: usize,
    /// The room's current rank for losing its history. `None` if the room is not ranked.
    pub(crate) rank: Option<Rank>,
    /// Members and the numbers of messages that they do not get. A pair is dropped when the member's cursor passes the
    /// message, or when the member leaves.
    pub(crate) excluded: BTreeSet<(Slot, u64)>,
    pass: Option<Pass>,
    /// Byte position in the log. All messages before it were offered to every member, or will be in the pass in
    /// progress.
    offered: u64,
}

impl Room {
    pub(crate) fn new(name: &str, key: RoomKey, home_shard: u16, home: Option<Home>) -> Self {
        let live = home.is_some();
        Self {
            name: name.into(),
            key,
            home_shard,
            home_key: live.then_some(key),
            history: None,
            log: Log::starting_at(0),
            compressed: None,
            compressed_members: 0,
            members: Vec::new(),
            session_members: 0,
            home,
            live,
            queued: false,
            revisit: false,
            timed: false,
            saturated: false,
            used_ms: 0,
            weight: 0,
            rank: None,
            excluded: BTreeSet::new(),
            pass: None,
            offered: 0,
        }
    }

    /// Appends a frame, given in parts, to the room's log and to its compressed log if there is one.
    pub(crate) fn append(&mut self, parts: &[&[u8]], deflater: &mut Deflater) {
        self.log.append(parts);
        if let (Some(compressed), Some(frame)) = (&mut self.compressed, self.log.last()) {
            compressed.append(&[deflater.compress(frame)]);
        }
    }

    /// Returns the memory of the room's logs and arrival times in bytes.
    pub(crate) fn memory(&self) -> usize {
        let times = self.home.as_ref().map_or(0, |home| home.times.memory());
        self.log.memory() + self.compressed.as_ref().map_or(0, Log::memory) + times
    }

    /// Frees the memory of the room's logs, if every member has read them.
    pub(crate) fn release(&mut self) {
        self.log.release();
        if let Some(home) = self.home.as_mut().filter(|_| self.log.first() == self.log.head()) {
            home.times.clear();
        }
        if let Some(compressed) = &mut self.compressed {
            compressed.release();
        }
    }

    /// Adds a member that gets at most `wanted` old messages within `limits`. Returns the member's index.
    pub(super) fn add(&mut self, slot: Slot, compressed: bool, wanted: u32, limits: &HistoryLimits) -> usize {
        let cursor = match self.live {
            true => self.log.tail(wanted.min(limits.messages).into(), limits.bytes),
            false => WAITING + u64::from(wanted),
        };
        self.add_at(slot, compressed, cursor)
    }

    /// Adds a member that gets nothing until [`Room::start_held`]. Returns the member's index.
    pub(super) fn add_held(&mut self, slot: Slot, compressed: bool) -> usize {
        self.add_at(slot, compressed, HELD)
    }

    /// Lets a held member get all messages from now on. Does nothing for other members. Returns false if the room is not
    /// live; then nothing changes.
    pub(super) fn start_held(&mut self, index: u32) -> bool {
        let member = &mut self.members[index as usize];
        if self.live && member.is_held() {
            member.cursor = self.log.head();
        }
        self.live
    }

    fn add_at(&mut self, slot: Slot, compressed: bool, cursor: u64) -> usize {
        // A pass in progress will reach the new member, because it is the last in the list.
        self.members.push(Member::new(slot, compressed, cursor));
        if compressed {
            self.compressed_members += 1;
            let log = &self.log;
            self.compressed.get_or_insert_with(|| Log::starting_at(log.head()));
        }
        self.members.len() - 1
    }

    /// Removes the member at `index` from the room and from the pass in progress. Calls `moved` with every other member
    /// whose index changes, and its new index.
    pub(crate) fn remove(&mut self, index: usize, mut moved: impl FnMut(&Member, usize)) -> Member {
        let mut gap = index;
        if let Some(pass) = self.pass.as_mut().filter(|pass| index < pass.at) {
            // The last visited member fills the gap, and an unvisited member takes the place of the last visited
            // member.
            pass.at -= 1;
            gap = pass.at;
            self.members.swap(index, gap);
            if index != gap {
                moved(&self.members[index], index);
            }
        }
        let member = self.members.swap_remove(gap);
        if !self.excluded.is_empty() {
            self.excluded.retain(|(slot, _)| *slot != member.slot);
        }
        if member.is_compressed() {
            self.compressed_members -= 1;
            self.compressed = self.compressed.take().filter(|_| self.compressed_members > 0);
        }
        if let Some(last) = self.members.get(gap) {
            moved(last, gap);
        }
        if self.members.len() < self.members.capacity() / 4 {
            self.members.shrink_to(self.members.len() * 2);
        }
        member
    }

    /// Makes the room live on a shard other than its home: installs the log and the key from the home shard's snapshot.
    pub(super) fn start(&mut self, log: Log, home_key: RoomKey, limits: &HistoryLimits) {
        self.offered = log.end();
        self.compressed = self.compressed.take().map(|_| Log::starting_at(log.head()));
        self.log = log;
        self.home_key = Some(home_key);
        self.live = true;
        for member in self.members.iter_mut().filter(|member| !member.is_held()) {
            let wanted = (member.cursor - WAITING).min(limits.messages.into());
            member.cursor = self.log.tail(wanted, limits.bytes);
        }
    }

    /// Injects a bug: moves the cursor of a member that has got everything back by one message.
    #[cfg(test)]
    pub(super) fn repeat_last(&mut self, index: usize, is_resumed: bool) {
        let (head, first) = (self.log.head(), self.log.first());
        let member = &mut self.members[index];
        if is_resumed && self.live && member.cursor == head && first < head {
            member.cursor -= 1;
        }
    }

    /// Returns whether the member at `index` is held: see [`Room::add_held`].
    pub(super) fn holds(&self, index: usize) -> bool {
        self.members[index].is_held()
    }

    /// Gives a held member its position.
    pub(super) fn seek(&mut self, index: usize, cursor: u64) {
        debug_assert!(self.holds(index), "only a held member gets a position");
        self.members[index].cursor = cursor;
    }

    /// Returns the member's position if it has one: it is not held, and does not wait for the snapshot.
    pub(super) fn position(&self, index: usize) -> Option<u64> {
        Some(self.members[index].cursor).filter(|cursor| self.live && *cursor < HELD)
    }

    /// Returns whether the member has no pending messages in this room. True while the room is not live, for a held
    /// member, and for a member with a position ahead of this shard's log.
    pub(crate) fn is_current(&self, member: &Member) -> bool {
        !self.live || member.cursor >= self.log.head()
    }

    /// Returns the size of the room's messages that the member has not been sent, in bytes before compression. 0 while
    /// the room is not live.
    pub(crate) fn unsent_bytes(&self, member: &Member) -> usize {
        if self.live { self.log.bytes_from(member.cursor) } else { 0 }
    }

    /// Returns whether the next send to this member reaches the end of the log.
    pub(crate) fn is_nearly_current(&self, member: &Member) -> bool {
        member.cursor >= self.log.last_chunk()
    }

    /// Returns whether the room must send to the member at `index` before the next pass. If only the pass is to send,
    /// ensures that a pass visits the member again.
    pub(crate) fn owes_at_once(&mut self, index: u32) -> bool {
        let member = &self.members[index as usize];
        if self.is_current(member) {
            return false;
        }
        let can_wait = self.queued && self.is_nearly_current(member);
        self.revisit |= can_wait;
        !can_wait
    }

    /// Returns whether publishers should wait: more than half of the lag window was not offered to every member yet.
    pub(crate) fn is_saturated(&self, lag_window: usize) -> bool {
        self.log.end() - self.offered > lag_window as u64 / 2
    }

    /// Returns the pending frames of one chunk for the member at `index`, and moves its cursor past them. If the log no
    /// longer has the member's next frame, reports the lag and moves the cursor to the head.
    pub(crate) fn take(&mut self, index: usize) -> Visit {
        let end = self.next_excluded(index);
        self.take_before(index, end)
    }

    /// Works like [`Room::take`], for frames before number `end`.
    fn take_before(&mut self, index: usize, end: u64) -> Visit {
        if self.is_current(&self.members[index]) {
            return Visit::Nothing;
        }
        let member = &mut self.members[index];
        let compressed = self.compressed.as_ref().filter(|_| member.is_compressed());
        let span = |log: &Log| log.span_before(member.cursor, end);
        match compressed.and_then(span).or_else(|| span(&self.log)) {
            Some((span, next)) => {
                let count = next - member.cursor;
                member.cursor = next;
                Visit::Send(member.slot, span, count)
            }
            None => {
                let (slot, missed) = (member.slot, self.unread(index));
                self.members[index].cursor = self.log.head();
                self.excluded.retain(|(other, _)| *other != slot);
                Visit::Lagged(slot, missed)
            }
        }
    }

    /// Returns the number of messages in the log that the member at `index` still has to get.
    pub(crate) fn unread(&self, index: usize) -> u64 {
        let Member { slot, cursor, .. } = self.members[index];
        if cursor >= self.log.head() {
            return 0;
        }
        let excluded = self.excluded.range((slot, cursor)..=(slot, u64::MAX)).count();
        self.log.head() - cursor - excluded as u64
    }

    /// Moves the cursor of the member at `index` past messages from which the member is excluded. Returns the number of
    /// the next message from which it is excluded, or `u64::MAX`.
    fn next_excluded(&mut self, index: usize) -> u64 {
        if self.excluded.is_empty() { u64::MAX } else { self.skip_excluded(index) }
    }

    /// Works like [`Room::next_excluded`], in a room with exclusions.
    #[cold]
    fn skip_excluded(&mut self, index: usize) -> u64 {
        let member = &mut self.members[index];
        let slot = member.slot;
        while self.live
            && let Some(&(_, number)) = self.excluded.range((slot, 0)..=(slot, u64::MAX)).next()
        {
            if number > member.cursor {
                return number;
            }
            member.cursor = member.cursor.max(number + 1);
            self.excluded.remove(&(slot, number));
        }
        u64::MAX
    }

    /// Visits the next member of the pass, and begins a pass if there is none. Skips a client with a send in flight
    /// (`is_sending`), because the completion of the send asks for more messages.
    pub(crate) fn visit(&mut self, is_sending: impl Fn(Slot) -> bool) -> Visit {
        let fresh = Pass { at: 0, head: self.log.head(), min_cursor: self.log.head() };
        if self.pass.is_none() {
            self.offered = self.log.end();
        }
        let mut pass = *self.pass.get_or_insert(fresh);
        if pass.at == self.members.len() {
            return Visit::Over;
        }
        // This comes before the check for lag, since a client does not lag behind messages that it does not get.
        let end = self.next_excluded(pass.at);
        let member = &self.members[pass.at];
        let lagged = self.live && member.cursor < self.log.first();
        let found = match is_sending(member.slot) && !lagged {
            true => match member.place().filter(|_| !self.is_current(member)) {
                Some(place) => Visit::Busy(member.slot, place),
                None => Visit::Nothing,
            },
            false => self.take_before(pass.at, end),
        };
        pass.min_cursor = pass.min_cursor.min(self.members[pass.at].cursor);
        pass.at += 1;
        self.pass = Some(pass);
        found
    }

    /// Returns the index of the member that [`Room::visit`] has visited last.
    pub(crate) fn visited(&self) -> Option<usize> {
        self.pass.and_then(|pass| pass.at.checked_sub(1))
    }

    /// Ends the pass and trims frames that no member needs, except those from number `kept` on. Returns whether another
    /// pass is due, because new messages came during the pass or a member waits for one.
    pub(crate) fn finish_pass(&mut self, lag_window: usize, kept: u64) -> bool {
        let Some(pass) = self.pass.take() else { return std::mem::take(&mut self.revisit) };
        // Only offered messages count for the window: a member cannot lag behind messages that it was not offered.
        let window = self.log.window_start(self.offered, lag_window as u64);
        let oldest = pass.min_cursor.min(kept).max(window.min(pass.head));
        self.log.trim(oldest);
        if let Some(compressed) = &mut self.compressed {
            // The compressed log keeps no history, because new members read history from the plain log.
            compressed.trim(pass.min_cursor.max(oldest));
        }
        std::mem::take(&mut self.revisit) | (self.log.head() > pass.head)
    }

    /// Drops the room's history: trims the frames that no member still needs.
    pub(crate) fn drop_history(&mut self) {
        self.trim(u64::MAX);
    }

    /// Trims the frames that no member still needs, except those from number `kept` on. If a pass is in progress, its end
    /// trims the log.
    pub(super) fn trim(&mut self, kept: u64) {
        if self.live && self.pass.is_none() {
            let needed = self.members.iter().map(|member| member.cursor).min();
            let oldest = needed.unwrap_or(u64::MAX).min(kept);
            self.log.trim(oldest);
            if let Some(compressed) = &mut self.compressed {
                compressed.trim(oldest);
            }
            self.release();
        }
    }

    /// Drops all frames of the room's logs. Members that have not been sent all of them lag.
    pub(crate) fn cut(&mut self) {
        let head = self.log.head();
        self.log.trim(head);
        if let Some(compressed) = &mut self.compressed {
            compressed.trim(head);
        }
        self.release();
    }

    /// Returns whether the room has no members on any shard, as far as this shard knows.
    pub(crate) fn is_abandoned(&self) -> bool {
        self.members.is_empty() && self.home.as_ref().is_none_or(|home| home.subscribers.is_empty())
    }

    /// Returns whether the log keeps no frames, neither for a member nor as history.
    pub(crate) fn is_consumed(&self) -> bool {
        self.log.first() == self.log.head()
    }
}
