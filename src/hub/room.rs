//! A room as one shard knows it: its log, its local members, and the pass that sends members what they lack.

use crate::chunk::Span;
use crate::protocol::deflate::Deflater;

use super::log::Log;
use super::rooms::{Rank, RoomKey};
use super::times::Times;

/// Index of a connection within its shard.
pub type Slot = u32;

/// Cursors from this value on belong to members that wait for the snapshot from the room's home. The difference is the
/// number of old messages that the member wants.
const WAITING: u64 = u64::MAX - u32::MAX as u64;

/// A member of a room: a cursor into its log.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) slot: Slot,
    /// Whether the member reads the room's compressed log where there is one.
    pub(crate) compressed: bool,
    /// Number of the next message to send to the member.
    pub(crate) cursor: u64,
}

/// A walk over all members that starts a send for each member that lacks messages.
#[derive(Clone, Copy, Debug)]
struct Pass {
    /// Index of the next member to visit. All members before it have been visited.
    at: usize,
    /// The log's head when the pass began.
    head: u64,
    /// Smallest cursor of a visited member, after its visit.
    min_cursor: u64,
}

/// The state of a room that only its home shard keeps.
#[derive(Debug, Default)]
pub(crate) struct Home {
    /// The other shards that have members.
    pub(crate) subscribers: Vec<Subscriber>,
    /// Arrival times of the messages that newcomers get.
    pub(crate) times: Times,
}

/// A shard that follows a room's order.
#[derive(Debug)]
pub(crate) struct Subscriber {
    pub(crate) shard: u16,
    /// That shard's key of the room, which addresses deliveries.
    pub(crate) room: RoomKey,
}

/// The result of a visit to a member.
pub(crate) enum Visit {
    /// Send the client these bytes. The number counts the messages in them.
    Send(Slot, Span, u64),
    /// The client's cursor fell out of the log. The number counts the messages that it missed.
    Lagged(Slot, u64),
    /// This member lacks nothing, or has a send in flight.
    Nothing,
    /// The pass has visited everybody.
    Over,
}

#[derive(Debug)]
pub(crate) struct Room {
    pub(crate) name: Box<str>,
    pub(crate) key: RoomKey,
    pub(crate) home_shard: u16,
    /// The home's key of the room. On another shard it comes with the snapshot.
    pub(crate) home_key: Option<RoomKey>,
    pub(crate) log: Log,
    /// The messages of `log` in compressed form, from the arrival of the first member that reads them until the last
    /// such member is gone. Older messages it reads from `log`: RFC 7692 §6 allows plain messages at any time.
    pub(super) compressed: Option<Log>,
    /// Number of members that read `compressed`.
    compressed_members: usize,
    pub(crate) members: Vec<Member>,
    /// Present on the room's home shard.
    pub(crate) home: Option<Home>,
    /// Whether the log follows the room's order. On another shard than the home it does from the snapshot on.
    pub(crate) live: bool,
    /// Whether the hub's queue of passes has the room.
    pub(crate) queued: bool,
    /// Whether a member waits for another pass after the one in progress, even if no message comes meanwhile.
    pub(crate) revisit: bool,
    /// Whether a timer is set for the room.
    pub(crate) timed: bool,
    /// Whether the hub counts the room among those that make publishers wait.
    pub(crate) saturated: bool,
    /// Time of the last use, in milliseconds.
    pub(crate) used_ms: u64,
    /// Bytes that the hub counts for the room.
    pub(crate) weight: usize,
    /// The room's latest rank among those that may lose their history.
    pub(crate) rank: Option<Rank>,
    pass: Option<Pass>,
    /// Position in the log up to which every member was offered all messages.
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
            log: Log::starting_at(0),
            compressed: None,
            compressed_members: 0,
            members: Vec::new(),
            home,
            live,
            queued: false,
            revisit: false,
            timed: false,
            saturated: false,
            used_ms: 0,
            weight: 0,
            rank: None,
            pass: None,
            offered: 0,
        }
    }

    /// Appends a frame given in parts.
    pub(crate) fn append(&mut self, parts: &[&[u8]], deflater: &mut Deflater) {
        self.log.append(parts);
        if let (Some(compressed), Some(frame)) = (&mut self.compressed, self.log.last()) {
            compressed.append(&[deflater.compress(frame)]);
        }
    }

    /// Memory of the logs, in bytes.
    pub(crate) fn memory(&self) -> usize {
        let times = self.home.as_ref().map_or(0, |home| home.times.memory());
        self.log.memory() + self.compressed.as_ref().map_or(0, Log::memory) + times
    }

    /// Frees the memory of the logs, if every member has read them.
    pub(crate) fn release(&mut self) {
        self.log.release();
        if let Some(home) = self.home.as_mut().filter(|_| self.log.first() == self.log.head()) {
            home.times.clear();
        }
        if let Some(compressed) = &mut self.compressed {
            compressed.release();
        }
    }

    /// Adds a member that wants at most `history` old messages of at most `bytes` bytes in all. Returns its index.
    pub(crate) fn add(&mut self, slot: Slot, compressed: bool, history: u32, bytes: usize) -> usize {
        let cursor = match self.live {
            true => self.log.tail(history.into(), bytes),
            false => WAITING + u64::from(history),
        };
        // A pass in progress will reach the new member, because it is the last.
        self.members.push(Member { slot, compressed, cursor });
        if compressed {
            self.compressed_members += 1;
            let log = &self.log;
            self.compressed.get_or_insert_with(|| Log::starting_at(log.head()));
        }
        self.members.len() - 1
    }

    /// Removes the member at `index`. Unvisited members stay unvisited. Calls `moved` for every member whose index
    /// changes.
    pub(crate) fn remove(&mut self, index: usize, mut moved: impl FnMut(Slot, usize)) -> Member {
        let mut gap = index;
        if let Some(pass) = self.pass.as_mut().filter(|pass| index < pass.at) {
            // The last visited member fills the gap, and an unvisited member takes that one's place.
            pass.at -= 1;
            gap = pass.at;
            self.members.swap(index, gap);
            if index != gap {
                moved(self.members[index].slot, index);
            }
        }
        let member = self.members.swap_remove(gap);
        if member.compressed {
            self.compressed_members -= 1;
            self.compressed = self.compressed.take().filter(|_| self.compressed_members > 0);
        }
        if let Some(last) = self.members.get(gap) {
            moved(last.slot, gap);
        }
        if self.members.len() < self.members.capacity() / 4 {
            self.members.shrink_to(self.members.len() * 2);
        }
        member
    }

    /// Begins to follow the room's order with the log and the key that the home shard sent.
    pub(crate) fn start(&mut self, log: Log, home_key: RoomKey, history_bytes: usize) {
        self.offered = log.end();
        self.compressed = self.compressed.take().map(|_| Log::starting_at(log.head()));
        self.log = log;
        self.home_key = Some(home_key);
        self.live = true;
        for member in &mut self.members {
            member.cursor = self.log.tail(member.cursor - WAITING, history_bytes);
        }
    }

    /// Whether the member was sent every message.
    pub(crate) fn is_current(&self, member: &Member) -> bool {
        !self.live || member.cursor == self.log.head()
    }

    /// Whether the next send to this member reaches the end of the log.
    pub(crate) fn is_nearly_current(&self, member: &Member) -> bool {
        member.cursor >= self.log.last_chunk()
    }

    /// Whether publishers should wait, because half of the lag window was not offered to every member yet.
    pub(crate) fn is_saturated(&self, lag_window: usize) -> bool {
        self.log.end() - self.offered > lag_window as u64 / 2
    }

    /// Takes the next frames of one chunk for the member at `index`, and moves its cursor past them. If frames were
    /// trimmed before the member got them, its cursor jumps to the head.
    pub(crate) fn take(&mut self, index: usize) -> Visit {
        let member = &mut self.members[index];
        if !self.live || member.cursor == self.log.head() {
            return Visit::Nothing;
        }
        let compressed = self.compressed.as_ref().filter(|_| member.compressed);
        match compressed.and_then(|log| log.span(member.cursor)).or_else(|| self.log.span(member.cursor)) {
            Some((span, next)) => {
                let count = next - member.cursor;
                member.cursor = next;
                Visit::Send(member.slot, span, count)
            }
            None => {
                let missed = self.log.head() - member.cursor;
                member.cursor = self.log.head();
                Visit::Lagged(member.slot, missed)
            }
        }
    }

    /// Visits the next member of the pass, and begins a pass if there is none. Skips a client that has a send in
    /// flight (`is_sending`), because its completion asks for more.
    pub(crate) fn visit(&mut self, is_sending: impl Fn(Slot) -> bool) -> Visit {
        let fresh = Pass { at: 0, head: self.log.head(), min_cursor: self.log.head() };
        if self.pass.is_none() {
            self.offered = self.log.end();
        }
        let mut pass = *self.pass.get_or_insert(fresh);
        let Some(member) = self.members.get(pass.at) else { return Visit::Over };
        let lagged = self.live && member.cursor < self.log.first();
        let found = match is_sending(member.slot) && !lagged {
            true => Visit::Nothing,
            false => self.take(pass.at),
        };
        pass.min_cursor = pass.min_cursor.min(self.members[pass.at].cursor);
        pass.at += 1;
        self.pass = Some(pass);
        found
    }

    /// Ends a pass and trims what nobody needs from the logs. Returns whether another pass is due, because messages
    /// came meanwhile or a member waits for it.
    pub(crate) fn finish_pass(&mut self, lag_window: usize, history: u32, history_bytes: usize) -> bool {
        let Some(pass) = self.pass.take() else { return std::mem::take(&mut self.revisit) };
        let kept = self.log.tail(history.into(), history_bytes);
        // A member can only miss what it was offered.
        let window = self.log.window_start(self.offered, lag_window as u64);
        let oldest = pass.min_cursor.min(kept).max(window.min(pass.head));
        self.log.trim(oldest);
        if let Some(compressed) = &mut self.compressed {
            // Without history, which newcomers read from the plain log.
            compressed.trim(pass.min_cursor.max(oldest));
        }
        std::mem::take(&mut self.revisit) | (self.log.head() > pass.head)
    }

    /// Trims what is kept for newcomers alone.
    pub(crate) fn drop_history(&mut self) {
        // A pass in progress trims at its end.
        if self.live && self.pass.is_none() {
            let needed = self.members.iter().map(|member| member.cursor).min();
            let oldest = needed.unwrap_or_else(|| self.log.head());
            self.log.trim(oldest);
            if let Some(compressed) = &mut self.compressed {
                compressed.trim(oldest);
            }
            self.release();
        }
    }

    /// Whether the room has no member, neither here nor on another shard.
    pub(crate) fn is_abandoned(&self) -> bool {
        self.members.is_empty() && self.home.as_ref().is_none_or(|home| home.subscribers.is_empty())
    }

    /// Whether the log keeps no frame for a member or a newcomer.
    pub(crate) fn is_consumed(&self) -> bool {
        self.log.first() == self.log.head()
    }
}
