//! A room as one shard knows it: its log, its local members, and the pass that brings the two together.

use super::log::Log;
use super::rooms::Rank;
use crate::chunk::Span;
use crate::protocol::deflate::Deflater;

/// Index of a connection within the shard.
pub type Slot = u32;

/// Cursors from here on belong to members that wait for the room's home shard to answer; the difference is the
/// number of old messages that the member wants then.
const WAITING: u64 = u64::MAX - u32::MAX as u64;

/// A member: one cursor into the log.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) slot: Slot,
    /// Whether it reads the room's compressed log where there is one.
    pub(crate) packed: bool,
    /// Number of the next message that the member has not been sent.
    pub(crate) cursor: u64,
}

/// A walk over all members that sends each what it has not had yet.
#[derive(Clone, Copy, Debug)]
struct Pass {
    /// Index of the member to be visited next. Whoever stands before it has been visited.
    at: usize,
    /// The log's head when the pass began.
    head: u64,
    /// Smallest cursor seen after its visit.
    min_cursor: u64,
}

/// What the home shard of a room knows more than the others.
#[derive(Debug, Default)]
pub(crate) struct Home {
    /// The other shards that have members.
    pub(crate) subscribers: Vec<u16>,
}

/// What a visit found.
pub(crate) enum Visit {
    /// This member gets these bytes, which are so many messages.
    Send(Slot, Span, u64),
    /// This member fell out of the window and missed so many messages.
    Lagged(Slot, u64),
    /// Nothing to do for this member.
    Nothing,
    /// The pass is over.
    Over,
}

#[derive(Debug)]
pub(crate) struct Room {
    pub(crate) name: Box<str>,
    /// Tells rooms apart that had the same index one after the other.
    pub(crate) serial: u64,
    pub(crate) log: Log,
    /// The same messages compressed, from when the first member came that reads it until the last one is gone.
    /// What is older it reads from the other log: a plain message is always allowed. RFC 7692 §6
    pub(super) packed: Option<Log>,
    /// Members that read it.
    packed_members: usize,
    pub(crate) members: Vec<Member>,
    /// Present on the room's home shard.
    pub(crate) home: Option<Home>,
    /// Whether the log follows the room's order yet; on other shards than the home it waits for the snapshot.
    pub(crate) live: bool,
    /// Whether the room stands in the hub's queue of passes.
    pub(crate) queued: bool,
    /// Whether a member waits for a pass after the one under way, even when nothing is said meanwhile.
    pub(crate) revisit: bool,
    /// Whether a timer is set for the room.
    pub(crate) timed: bool,
    /// Whether the hub counts the room among those that ask publishers to wait.
    pub(crate) saturated: bool,
    /// When the room was last used.
    pub(crate) used_ms: u64,
    /// Bytes that the hub counts for the room.
    pub(crate) weight: usize,
    /// Where the room stood, or stands, among those that may have to give up their history.
    pub(crate) rank: Option<Rank>,
    pass: Option<Pass>,
    /// Position in the log that every member has been offered.
    offered: u64,
}

impl Room {
    pub(crate) fn new(name: &str, serial: u64, home: Option<Home>) -> Self {
        let live = home.is_some();
        Self {
            name: name.into(),
            serial,
            log: Log::starting_at(0),
            packed: None,
            packed_members: 0,
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
        if let (Some(packed), Some(frame)) = (&mut self.packed, self.log.last()) {
            packed.append(&[deflater.pack(frame)]);
        }
    }

    /// Bytes of memory that the logs hold.
    pub(crate) fn memory(&self) -> usize {
        self.log.memory() + self.packed.as_ref().map_or(0, Log::memory)
    }

    /// Gives the memory of the logs back in which nothing is wanted any more.
    pub(crate) fn release(&mut self) {
        self.log.release();
        if let Some(packed) = &mut self.packed {
            packed.release();
        }
    }

    /// Adds a member that wants at most `history` old messages of at most `bytes` together; returns its index.
    pub(crate) fn add(&mut self, slot: Slot, packed: bool, history: u32, bytes: usize) -> usize {
        let cursor = match self.live {
            true => self.log.tail(history.into(), bytes),
            false => WAITING + u64::from(history),
        };
        // A pass under way will come to it, as it stands last.
        self.members.push(Member { slot, packed, cursor });
        if packed {
            self.packed_members += 1;
            let log = &self.log;
            self.packed.get_or_insert_with(|| Log::starting_at(log.head()));
        }
        self.members.len() - 1
    }

    /// Removes the member at `index` and keeps unvisited members unvisited. `moved` hears of every member that
    /// stands elsewhere now.
    pub(crate) fn remove(&mut self, index: usize, mut moved: impl FnMut(Slot, usize)) -> Member {
        let mut gap = index;
        if let Some(pass) = self.pass.as_mut().filter(|pass| index < pass.at) {
            // The last visited member fills the gap, and an unvisited one takes its place.
            pass.at -= 1;
            gap = pass.at;
            self.members.swap(index, gap);
            if index != gap {
                moved(self.members[index].slot, index);
            }
        }
        let member = self.members.swap_remove(gap);
        if member.packed {
            self.packed_members -= 1;
            self.packed = self.packed.take().filter(|_| self.packed_members > 0);
        }
        if let Some(last) = self.members.get(gap) {
            moved(last.slot, gap);
        }
        if self.members.len() < self.members.capacity() / 4 {
            self.members.shrink_to(self.members.len() * 2);
        }
        member
    }

    /// Begins to follow the room's order with the log that the home shard sent.
    pub(crate) fn start(&mut self, log: Log, history_bytes: usize) {
        self.offered = log.end();
        self.packed = self.packed.take().map(|_| Log::starting_at(log.head()));
        self.log = log;
        self.live = true;
        for member in &mut self.members {
            member.cursor = self.log.tail(member.cursor - WAITING, history_bytes);
        }
    }

    /// Whether this member has been sent all there is.
    pub(crate) fn is_current(&self, member: &Member) -> bool {
        !self.live || member.cursor == self.log.head()
    }

    /// Whether the next send to this member reaches the end of the log.
    pub(crate) fn is_nearly_current(&self, member: &Member) -> bool {
        member.cursor >= self.log.last_chunk()
    }

    /// Whether so many bytes have not been offered to every member that publishers should wait.
    pub(crate) fn is_saturated(&self, lag_window: usize) -> bool {
        self.log.end() - self.offered > lag_window as u64 / 2
    }

    /// What the member at `index` has not had: at most one chunk, and its cursor moves past it. Some frames may
    /// have fallen out of the window; then the cursor jumps to the head.
    pub(crate) fn take(&mut self, index: usize) -> Visit {
        let member = &mut self.members[index];
        if !self.live || member.cursor == self.log.head() {
            return Visit::Nothing;
        }
        let packed = self.packed.as_ref().filter(|_| member.packed);
        match packed.and_then(|log| log.span(member.cursor)).or_else(|| self.log.span(member.cursor)) {
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

    /// Visits the next member of the pass, beginning one where none is under way. `is_sending` tells whether a
    /// client has a send under way; such a client is passed over, as its completion asks for more.
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

    /// Ends a pass: drops what nobody needs. True when another one is called for, by messages that came meanwhile or by
    /// a member.
    pub(crate) fn finish_pass(&mut self, lag_window: usize, history: u32, history_bytes: usize) -> bool {
        let Some(pass) = self.pass.take() else { return std::mem::take(&mut self.revisit) };
        let kept = self.log.tail(history.into(), history_bytes);
        // Only what every member has been offered can count as missed.
        let window = self.log.window_start(self.offered, lag_window as u64);
        let oldest = pass.min_cursor.min(kept).max(window.min(pass.head));
        self.log.trim(oldest);
        if let Some(packed) = &mut self.packed {
            // No history: a newcomer reads that from the plain log.
            packed.trim(pass.min_cursor.max(oldest));
        }
        std::mem::take(&mut self.revisit) | (self.log.head() > pass.head)
    }

    /// Gives up what is kept for newcomers alone.
    pub(crate) fn drop_history(&mut self) {
        // A pass drops what it can at its end.
        if self.live && self.pass.is_none() {
            let needed = self.members.iter().map(|member| member.cursor).min();
            let oldest = needed.unwrap_or_else(|| self.log.head());
            self.log.trim(oldest);
            if let Some(packed) = &mut self.packed {
                packed.trim(oldest);
            }
            self.release();
        }
    }

    /// Whether nobody, here or on another shard, is a member.
    pub(crate) fn is_abandoned(&self) -> bool {
        self.members.is_empty() && self.home.as_ref().is_none_or(|home| home.subscribers.is_empty())
    }

    /// Whether the log holds nothing that a member or a newcomer may still get.
    pub(crate) fn is_consumed(&self) -> bool {
        self.log.first() == self.log.head()
    }
}
