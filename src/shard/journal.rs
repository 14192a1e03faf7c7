//! What the log says of connections: at debug a line for each when it ends, at info or warn what was refused.
//!
//! Whoever wants only the former asks for `uproar::shard::journal=debug`.

use std::collections::HashMap;
use std::net::IpAddr;

use tracing::{Level, debug, enabled, info, warn};

use crate::hub::Slot;
use crate::protocol::Refusal;
use crate::stats::Refused;

/// How often a reason for refusals is in the log, so that a flood of them is none of lines.
const REFUSALS_MS: u64 = 10_000;
/// Bytes of a path that are kept for the log.
const MAX_PATH: usize = 256;

/// What a shard's log is made of.
#[derive(Debug)]
pub(super) struct Journal {
    /// Number of the worker in the log, beginning with 1.
    worker: u16,
    /// Connections of which there will be a line: those that came while there were such lines. None, and no memory for any,
    /// once one has come when there are none.
    records: HashMap<Slot, Record>,
    /// By reason.
    refusals: [Refusals; Refused::TEXTS.len()],
    /// When the first of them is looked at again.
    due_ms: Option<u64>,
}

/// What the line of a connection says.
#[derive(Debug, Default)]
struct Record {
    since_ms: u64,
    path: Option<String>,
    status: Option<u16>,
    code: Option<u16>,
    received: Count,
    sent: Count,
}

#[derive(Clone, Copy, Debug, Default)]
struct Count {
    messages: u64,
    bytes: u64,
}

/// Refusals for one reason.
#[derive(Clone, Copy, Debug, Default)]
struct Refusals {
    /// Until when they are only counted.
    until_ms: Option<u64>,
    count: u64,
}

impl Journal {
    /// The one of the shard with this index.
    pub(super) fn new(shard: u16) -> Self {
        Self { worker: shard + 1, records: HashMap::new(), refusals: Default::default(), due_ms: None }
    }

    /// A connection was accepted.
    pub(super) fn accepted(&mut self, slot: Slot, now_ms: u64) {
        if enabled!(Level::DEBUG) {
            self.records.insert(slot, Record { since_ms: now_ms, ..Record::default() });
        } else if self.records.capacity() > 0 {
            self.records = HashMap::new();
        }
    }

    /// It asks for a path. What stands behind that may be a token.
    pub(super) fn asked(&mut self, slot: Slot, path: &str) {
        self.note(slot, |record| record.path = Some(path[..path.floor_char_boundary(MAX_PATH)].into()));
    }

    /// It is answered.
    pub(super) fn answered(&mut self, slot: Slot, status: u16) {
        self.note(slot, |record| record.status = Some(status));
    }

    /// It sent bytes.
    pub(super) fn received(&mut self, slot: Slot, bytes: usize) {
        self.note(slot, |record| record.received.bytes += bytes as u64);
    }

    /// It sent a message.
    pub(super) fn heard(&mut self, slot: Slot) {
        self.note(slot, |record| record.received.messages += 1);
    }

    /// It is sent messages of a room, or anything else.
    pub(super) fn sent(&mut self, slot: Slot, messages: u64, bytes: usize) {
        self.note(slot, |record| {
            record.sent.messages += messages;
            record.sent.bytes += bytes as u64;
        });
    }

    /// Its WebSocket ends with this code.
    pub(super) fn ended(&mut self, slot: Slot, code: u16) {
        self.note(slot, |record| record.code = Some(code));
    }

    /// It is gone.
    pub(super) fn closed(&mut self, slot: Slot, peer: Option<IpAddr>, now_ms: u64) {
        let Some(Record { since_ms, path, status, code, received, sent }) = self.records.remove(&slot) else {
            return;
        };
        debug!(
            worker = self.worker,
            address = shown(peer),
            path,
            status,
            code,
            seconds = (now_ms - since_ms) as f64 / 1e3,
            received_messages = received.messages,
            received_bytes = received.bytes,
            deliveries = sent.messages,
            sent_bytes = sent.bytes,
            "connection ended"
        );
    }

    /// A request is refused: the first one for a reason has a line, those that come soon after it are counted.
    pub(super) fn refused(
        &mut self,
        slot: Slot,
        (why, refusal): (Refused, &Refusal),
        peer: Option<IpAddr>,
        now_ms: u64,
    ) {
        let status = refusal.status.code();
        self.answered(slot, status);
        let refusals = &mut self.refusals[why as usize];
        if refusals.until_ms.is_some() {
            refusals.count += 1;
            return;
        }
        refusals.until_ms = Some(now_ms + REFUSALS_MS);
        self.due_ms.get_or_insert(now_ms + REFUSALS_MS);
        let (worker, reason, address) = (self.worker, Refused::TEXTS[why as usize], shown(peer));
        if is_alarming(why as usize) {
            warn!(worker, reason, address, status, "refused: {}", refusal.reason);
        } else {
            info!(worker, reason, address, status, "refused: {}", refusal.reason);
        }
    }

    /// When [`Journal::tick`] has something to do.
    pub(super) fn next_due_ms(&self) -> Option<u64> {
        self.due_ms
    }

    /// Says how many more were refused for the reasons whose time is over.
    pub(super) fn tick(&mut self, now_ms: u64) {
        if self.due_ms.is_some_and(|due_ms| due_ms <= now_ms) {
            self.sum_up(now_ms);
        }
    }

    /// The same for all reasons, since the server ends.
    pub(super) fn end(&mut self) {
        self.sum_up(u64::MAX);
    }

    fn sum_up(&mut self, now_ms: u64) {
        let worker = self.worker;
        for (why, (refusals, &reason)) in self.refusals.iter_mut().zip(Refused::TEXTS).enumerate() {
            if refusals.until_ms.is_none_or(|until_ms| until_ms > now_ms) {
                continue;
            }
            let Refusals { count, .. } = std::mem::take(refusals);
            if count > 0 {
                if is_alarming(why) {
                    warn!(worker, reason, count, "refused more");
                } else {
                    info!(worker, reason, count, "refused more");
                }
                refusals.until_ms = Some(now_ms.saturating_add(REFUSALS_MS));
            }
        }
        self.due_ms = self.refusals.iter().filter_map(|refusals| refusals.until_ms).min();
    }

    fn note(&mut self, slot: Slot, change: impl FnOnce(&mut Record)) {
        if !self.records.is_empty()
            && let Some(record) = self.records.get_mut(&slot)
        {
            change(record);
        }
    }
}

/// Whether whoever runs the server should do something about refusals for the reason with this index.
fn is_alarming(why: usize) -> bool {
    [Refused::Connections, Refused::Address, Refused::Handshakes].iter().any(|alarm| *alarm as usize == why)
}

fn shown(peer: Option<IpAddr>) -> String {
    peer.map_or_else(|| "unix".into(), |peer| peer.to_string())
}

#[cfg(test)]
mod tests {
    use tracing::subscriber::with_default;

    use super::*;
    use crate::protocol::Status;

    #[test]
    fn when_no_line_is_wanted_any_more_nothing_is_kept_for_it() {
        let mut journal = Journal::new(0);
        let debug = tracing_subscriber::fmt().with_max_level(Level::DEBUG).with_writer(std::io::sink);
        with_default(debug.finish(), || (0..100).for_each(|slot| journal.accepted(slot, 0)));
        assert_eq!(journal.records.len(), 100);
        journal.accepted(100, 0);
        assert_eq!(journal.records.capacity(), 0);
    }

    #[test]
    fn a_flood_of_refusals_is_counted_until_its_time_is_over() {
        let mut journal = Journal::new(0);
        let refusal = Refusal::new(Status::NotFound, "nothing");
        let counts = |journal: &Journal| journal.refusals[Refused::NotFound as usize].count;
        for now_ms in 0..100 {
            journal.refused(1, (Refused::NotFound, &refusal), None, now_ms);
        }
        assert_eq!((counts(&journal), journal.next_due_ms()), (99, Some(REFUSALS_MS)));
        // Another reason has a time of its own.
        journal.refused(1, (Refused::Origin, &refusal), None, 500);
        journal.tick(REFUSALS_MS - 1);
        assert_eq!(counts(&journal), 99);
        journal.tick(REFUSALS_MS);
        assert_eq!((counts(&journal), journal.next_due_ms()), (0, Some(REFUSALS_MS + 500)));
        // They were told, and so those that follow are counted, too.
        journal.refused(1, (Refused::NotFound, &refusal), None, REFUSALS_MS + 1);
        assert_eq!(counts(&journal), 1);
        journal.tick(2 * REFUSALS_MS);
        journal.tick(3 * REFUSALS_MS);
        assert_eq!((counts(&journal), journal.next_due_ms()), (0, None));
        journal.refused(1, (Refused::NotFound, &refusal), None, 9 * REFUSALS_MS);
        assert_eq!((counts(&journal), journal.next_due_ms()), (0, Some(10 * REFUSALS_MS)));
    }
}
