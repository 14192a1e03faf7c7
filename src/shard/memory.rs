//! The account of the memory that a shard holds for its clients, and its limit.
//!
//! A shard's part of `--memory-limit` bounds these totals together. Each is kept up to date by additions, never by a
//! walk over clients:
//!
//! - **Chunks** ([`chunk::memory`]): the logs of rooms with their compressed forms and histories, outboxes, the bytes of
//!   sends that the kernel has not taken yet, and encrypted output.
//! - **Mail**: the batches for this and other shards, and those in this shard's mailbox.
//! - **Input**: held input of paused clients, and request heads and messages that have arrived in part.
//! - **Windows** of clients with context takeover.
//!
//! The limit works in three steps:
//!
//! 1. **Taking in stops** while chunks and outgoing batches exceed a level, or outgoing batches alone a lower level. The
//!    level is lowest for clients that send much ([`Source::HeavyClient`]), so that others talk on while these wait. It is
//!    checked before each message, so that one turn cannot take in more than that and one message. Clients are paused
//!    with [`Pause::Memory`], so TCP slows them down. Requests from other shards wait in the mailbox, which holds a
//!    sixteenth of the part in each direction; then their senders' clients wait. Sends and deadlines free memory without
//!    the paused clients, so nobody waits for ever.
//! 2. **Histories are dropped and the largest holders are closed** with 1013 when the first step lasts for
//!    [`RELIEF_MS`], or as soon as all totals exceed the part. So readers that do not read, and senders that do not
//!    finish, cannot keep others paused.
//! 3. **Logs are cut** if clients do not hold that much themselves: members that are behind in the largest rooms lag.
//!    When even that is not enough for [`LAST_RESORT_MS`], clients that hold little are closed, and small logs are cut.
//!
//! Not counted, since other limits bound them: the receive buffers (8 MiB a shard), the buffers in which messages are
//! decompressed, a few spare buffers (below 8 MiB a shard), encrypted input (52 KiB for each TLS connection in its
//! handshake; others are decrypted in the next turns, which makes it held input), the entries of connections and rooms,
//! and the state of the application.

use std::cmp::Reverse;
use std::collections::{HashSet, VecDeque};

use tracing::{debug, warn};

use crate::chunk;
use crate::config::Options;
use crate::hub::Slot;
use crate::io::Backend;
use crate::protocol::CloseCode;

use super::Shard;
use super::connection::Phase;
use super::flow::Pause;
use super::life::close_frame;

/// Maximum time in milliseconds for which all turns may begin without memory for a message of a heavy client. Then the
/// clients that hold most are closed.
const RELIEF_MS: u64 = 500;
/// Time in milliseconds after a shortage for which clients that sent much stay heavy, and after memory was freed for
/// which the next shortage ends sooner.
const ATTACK_MS: u64 = 10_000;
/// Number of bytes of messages in one receive buffer, after decompression, from which on a client is heavy. No person
/// who types sends as much.
const HEAVY: usize = 16 << 10;
/// Minimum interval in milliseconds between two walks over all rooms that drop what no member waits for.
const TRIM_MS: u64 = 20;
/// Time in milliseconds for which closing clients that hold much must have freed too little before clients that hold
/// little suffer. Until then, sends and the mail between shards free memory by themselves.
const LAST_RESORT_MS: u64 = 1_000;
/// Number of turns after which a shard closes further clients.
const RELIEF_TURNS: u64 = 2;
/// Number of bytes from which on a client is closed to free more memory than is needed at once.
const MIN_HELD: usize = 16 << 10;
/// Number of bytes below which closing a client frees nothing that matters. A client that reads and talks holds less.
const MIN_SMALL: usize = 1 << 10;
/// Smallest part of a shard in bytes. With less, a few long messages would stop the shard.
const MIN_PART: usize = 16 << 20;
/// Minimum interval in milliseconds between two log lines about closed clients.
const LOG_MS: u64 = 10_000;

/// A shard's part of the memory limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MemoryPart(usize);

impl MemoryPart {
    /// Returns the part of one of `shards` shards.
    pub(super) fn new(options: &Options, shards: u16) -> Self {
        let limit = usize::try_from(options.memory_limit_bytes().0).unwrap_or(usize::MAX);
        Self((limit / usize::from(shards)).max(MIN_PART))
    }

    /// Returns a part of exactly `bytes` bytes.
    #[cfg(test)]
    pub(crate) fn of(bytes: usize) -> Self {
        Self(bytes)
    }

    /// Returns the limit of all totals together, in bytes.
    pub(super) fn full(self) -> usize {
        self.0
    }

    /// Returns the limit in bytes of chunks and outgoing batches together, up to which messages of `source` are taken in.
    fn working(self, source: Source) -> usize {
        match source {
            Source::HeavyClient => self.0 / 8 * 3,
            Source::Client => self.0 / 2,
            Source::Shard => self.0 / 8 * 5,
        }
    }

    /// Returns the limit in bytes for each direction of a mailbox.
    pub(super) fn mail(self) -> usize {
        self.0 / 16
    }

    /// Returns the limit in bytes for outgoing batches, up to which messages of `source` are taken in.
    fn outgoing(self, source: Source) -> usize {
        match source {
            Source::HeavyClient => self.mail(),
            Source::Client | Source::Shard => 2 * self.mail(),
        }
    }

    /// Returns the limit of `wanted` bytes that something with a limit of its own may take of the part.
    pub(super) fn at_most_a_quarter(self, wanted: usize) -> usize {
        wanted.min(self.0 / 4)
    }
}

/// The source of a message or request that a shard takes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// A client that has sent [`HEAVY`] bytes or more in one receive buffer, while much memory was in use.
    HeavyClient,
    /// Any other client.
    Client,
    /// This or another shard, which has taken the message in from a client.
    Shard,
}

/// The state of a shard's account of memory, beside the totals that their owners keep.
#[derive(Debug, Default)]
pub(super) struct Memory {
    /// Memory of request heads and messages that have arrived in part, in bytes.
    pub(super) unfinished: usize,
    /// Time since which every turn began without memory for a message, in milliseconds. `None` after a turn that began
    /// with memory.
    full_since_ms: Option<u64>,
    /// Time at which memory was freed last, in milliseconds; 0 before that.
    relieved_ms: u64,
    /// Time since which clients that hold much and large logs were not enough to free what was needed, in milliseconds.
    /// `None` if they were, the last time.
    futile_since_ms: Option<u64>,
    /// Time of the last walk over all rooms, in milliseconds.
    trimmed_ms: u64,
    /// Number of the turn in which memory was freed last.
    relieved_turn: u64,
    /// Time of the last log line about closed clients, in milliseconds.
    logged_ms: Option<u64>,
    /// The clients that are [`Source::HeavyClient`].
    heavy: HashSet<Slot>,
    /// Time of the last turn that began without memory for a message of a heavy client, in milliseconds.
    short_ms: u64,
    /// Clients paused with [`Pause::Memory`] that are not heavy, longest pause first.
    waiting: VecDeque<Slot>,
    /// Heavy clients paused with [`Pause::Memory`], longest pause first.
    heavy_waiting: VecDeque<Slot>,
}

impl Memory {
    /// Returns the number of clients paused with [`Pause::Memory`].
    pub(super) fn paused(&self) -> usize {
        self.waiting.len() + self.heavy_waiting.len()
    }

    /// Forgets a client whose connection is closed. `is_paused` says whether it is paused with [`Pause::Memory`].
    pub(super) fn forget(&mut self, slot: Slot, is_paused: bool) {
        self.heavy.remove(&slot);
        if is_paused {
            self.waiting.retain(|other| *other != slot);
            self.heavy_waiting.retain(|other| *other != slot);
        }
    }

    /// Returns the queue of paused clients that are sources of this kind.
    fn waiting(&mut self, source: Source) -> &mut VecDeque<Slot> {
        if source == Source::HeavyClient { &mut self.heavy_waiting } else { &mut self.waiting }
    }
}

impl<B: Backend> Shard<B> {
    /// Returns whether there is memory for another message of `source`.
    fn has_memory_for(&self, source: Source) -> bool {
        let (part, mail) = (self.settings.memory, self.hub.outgoing_weights());
        // A request causes only deliveries. Other requests that wait must not stop it: see [`Shard::take_mail`].
        let counted = if source == Source::Shard { mail.deliveries } else { mail.total() };
        counted <= part.outgoing(source) && chunk::memory() + mail.total() <= part.working(source)
    }

    /// Returns whether there is memory for another message of the client at `slot`, which has sent `sent` bytes of
    /// messages in the current receive buffer.
    pub(super) fn has_memory(&mut self, slot: Slot, sent: usize) -> bool {
        if self.has_memory_for(Source::HeavyClient) {
            return true;
        }
        if sent >= HEAVY {
            self.memory.heavy.insert(slot);
        }
        self.has_memory_for(self.source_of(slot))
    }

    /// Returns whether there is memory for another request to this shard as the home of rooms.
    pub(super) fn has_memory_for_requests(&self) -> bool {
        self.has_memory_for(Source::Shard)
    }

    fn source_of(&self, slot: Slot) -> Source {
        if self.memory.heavy.contains(&slot) { Source::HeavyClient } else { Source::Client }
    }

    /// Returns the number of bytes in the account.
    pub(super) fn memory_held(&self) -> usize {
        chunk::memory()
            + self.hub.outgoing_weights().total()
            + self.mailbox.load()
            + self.flow.held_bytes()
            + self.memory.unfinished
            + self.stats.context_bytes() as usize
    }

    /// Pauses a client until there is memory for its next message.
    pub(super) fn pause_for_memory(&mut self, slot: Slot) {
        let source = self.source_of(slot);
        let connection = &mut self.connections[slot as usize];
        if !connection.flow.is_paused(Pause::Memory) {
            self.stats.memory_pauses.add(1);
            self.memory.waiting(source).push_back(slot);
            if self.flow.pause(slot, &mut connection.flow, Pause::Memory) {
                self.transport.pause(slot);
            }
        }
    }

    /// Resumes clients that were paused for memory while there is memory for them, longest pause first.
    pub(super) fn resume_short_of_memory(&mut self) {
        if !self.has_memory_for(Source::HeavyClient) {
            self.memory.short_ms = self.now_ms;
        } else {
            self.memory.full_since_ms = None;
            self.memory.futile_since_ms = None;
            if !self.memory.heavy.is_empty() && self.now_ms - self.memory.short_ms > ATTACK_MS {
                self.memory.heavy = HashSet::new();
            }
        }
        for source in [Source::Client, Source::HeavyClient] {
            // A client that is paused again in this loop waits for the next turn.
            for _ in 0..self.memory.waiting(source).len() {
                if !self.has_memory_for(source) {
                    break;
                }
                let Some(slot) = self.memory.waiting(source).pop_front() else { break };
                self.resume(slot, Pause::Memory);
            }
        }
    }

    /// Returns whether clients that were paused for memory can resume now.
    pub(super) fn may_resume_short_of_memory(&self) -> bool {
        let Memory { waiting, heavy_waiting, .. } = &self.memory;
        !waiting.is_empty() && self.has_memory_for(Source::Client)
            || !heavy_waiting.is_empty() && self.has_memory_for(Source::HeavyClient)
    }

    /// Drops what has arrived of a client's unfinished message, and its held input. Further input of the client is
    /// discarded.
    pub(super) fn drop_input(&mut self, slot: Slot) {
        let protocol = &mut self.connections[slot as usize].protocol;
        self.memory.unfinished -= protocol.memory();
        protocol.discard();
        self.flow.drop_held(slot);
    }

    /// Frees memory at the expense of its largest holders when the shard holds more than its part, or has taken
    /// nothing in for [`RELIEF_MS`].
    pub(super) fn relieve(&mut self) {
        let part = self.settings.memory;
        let working = chunk::memory() + self.hub.outgoing_weights().total();
        let (over, held) = (working.saturating_sub(part.working(Source::HeavyClient)), self.memory_held());
        if over == 0 && held <= part.full() {
            return;
        }
        let since_ms = *self.memory.full_since_ms.get_or_insert(self.now_ms);
        if self.now_ms - self.memory.trimmed_ms >= TRIM_MS {
            // This costs nobody a message, except newcomers their history.
            self.hub.trim_logs(over + part.mail());
            self.memory.trimmed_ms = self.now_ms;
        }
        let turn = self.stats.turns.get();
        let is_due = held > part.full() || self.now_ms - since_ms >= self.relief_wait_ms();
        // The memory of the clients that were closed last is free after the backend has closed their connections.
        if is_due && turn - self.memory.relieved_turn > RELIEF_TURNS {
            self.free(over.max(held.saturating_sub(part.full())));
            self.memory.relieved_turn = turn;
            self.memory.relieved_ms = self.now_ms;
            self.memory.full_since_ms = None;
        }
    }

    /// Returns the time in milliseconds at which [`Shard::relieve`] is due, if nothing else ends the shard's wait.
    pub(super) fn next_relief_ms(&self) -> Option<u64> {
        self.memory.full_since_ms.map(|since_ms| since_ms + self.relief_wait_ms())
    }

    /// Returns the time in milliseconds for which the shard may be short of memory. It is short if all clients wait, or if
    /// memory was freed lately: then an attack goes on.
    fn relief_wait_ms(&self) -> u64 {
        let is_attacked = self.now_ms - self.memory.relieved_ms < ATTACK_MS && self.memory.relieved_ms > 0;
        let is_short = is_attacked || !self.has_memory_for(Source::Client);
        if is_short { RELIEF_MS / 10 } else { RELIEF_MS }
    }

    /// Frees `needed` bytes, and more at the expense of clients that hold much, so that the next messages do not lead
    /// here again. Drops histories, then closes the clients that hold much, then cuts the largest logs. When that has not
    /// been enough for [`LAST_RESORT_MS`], closes clients that hold little, and cuts small logs.
    fn free(&mut self, needed: usize) {
        let bytes = needed + self.settings.memory.working(Source::HeavyClient) / 2;
        let mut freed = self.hub.trim_logs(bytes);
        let mut holders: Vec<_> = (0..self.connections.len() as Slot)
            .map(|slot| (self.held_by(slot), slot))
            .filter(|(held, _)| *held >= MIN_SMALL)
            .collect();
        holders.sort_unstable_by_key(|(held, slot)| (Reverse(*held), *slot));
        let (large, small) = holders.split_at(holders.partition_point(|(held, _)| *held >= MIN_HELD));
        let mut closed = 0;
        let mut close = |shard: &mut Self, holders: &[(usize, Slot)], freed: &mut usize, bytes: usize| {
            for (held, slot) in holders {
                if *freed >= bytes {
                    break;
                }
                *freed += held;
                closed += 1;
                shard.close_to_free_memory(*slot);
            }
        };
        close(self, large, &mut freed, bytes);
        if freed < bytes {
            freed += self.hub.cut_logs(bytes - freed);
        }
        if freed >= needed {
            self.memory.futile_since_ms = None;
        } else if self.now_ms - *self.memory.futile_since_ms.get_or_insert(self.now_ms) >= LAST_RESORT_MS {
            close(self, small, &mut freed, needed);
            freed += self.hub.cut_small_logs(needed.saturating_sub(freed));
        }
        if self.memory.logged_ms.is_none_or(|logged_ms| self.now_ms - logged_ms >= LOG_MS) {
            self.memory.logged_ms = Some(self.now_ms);
            warn!(
                worker = self.settings.id.index + 1,
                closed,
                freed,
                "a worker reached its part of --memory-limit; clients that held most were closed with 1013"
            );
        }
    }

    /// Returns the number of bytes that closing a client would free.
    fn held_by(&self, slot: Slot) -> usize {
        let connection = &self.connections[slot as usize];
        match connection.phase {
            Phase::Free | Phase::Gone => 0,
            _ => {
                let sending = self.transport.send_progress(slot).map_or(0, |progress| progress.left);
                let held = if connection.flow.is_held() { self.flow.held_bytes_of(slot) } else { 0 };
                connection.protocol.memory() + held + self.hub.outbox_len(slot) + sending
            }
        }
    }

    fn close_to_free_memory(&mut self, slot: Slot) {
        debug!(slot, "closing a client to free memory");
        self.stats.memory_closes.add(1);
        self.drop_input(slot);
        if self.transport.send_progress(slot).is_none() && self.is_open(slot) {
            self.count_end(slot, CloseCode::TRY_AGAIN.0);
            let frame = close_frame(CloseCode::TRY_AGAIN, "the server is short of memory");
            return self.end(slot, false, &frame);
        }
        // A close frame would wait behind the bytes that the client does not read.
        self.abandon(slot, CloseCode::TRY_AGAIN.0);
    }
}
