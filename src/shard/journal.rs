//! The log of connections: one line at debug level for each connection when it ends, and refusals at info or warn
//! level.
//!
//! The filter `uproar::shard::journal=debug` selects the lines of connections alone.

use std::collections::HashMap;
use std::net::IpAddr;

use tracing::{Level, debug, enabled, info, warn};

use crate::hub::Slot;
use crate::protocol::Refusal;
use crate::stats::Refused;

/// Interval, in milliseconds, in which refusals for one reason are logged once and then only counted.
const REFUSALS_MS: u64 = 10_000;
/// Maximum length of the logged part of a request's path, in bytes.
const MAX_PATH: usize = 256;

/// State of the connection log of a shard.
#[derive(Debug)]
pub(super) struct Journal {
    /// Number of the shard's worker in log lines, beginning with 1.
    worker: u16,
    /// Log data of connections that were accepted while debug logging was on, by slot. Without debug logging the map is
    /// empty and owns no memory.
    records: HashMap<Slot, Record>,
    /// Log state of refusals, by refusal reason.
    refusals: [Refusals; Refused::TEXTS.len()],
    /// Time from which [`Journal::tick`] has work, in milliseconds of the shard's clock. `None` when it has no work.
    due_ms: Option<u64>,
}

/// The data of one connection for its log line.
#[derive(Debug, Default)]
struct Record {
    /// Time at which the connection was accepted, in milliseconds of the backend's clock.
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

/// State that limits the log lines of one refusal reason.
#[derive(Clone, Copy, Debug, Default)]
struct Refusals {
    /// Time until which refusals are counted and not logged, in milliseconds. `None`: the next refusal is logged.
    until_ms: Option<u64>,
    /// Number of refusals that were not logged yet.
    count: u64,
}

impl Journal {
    /// Creates the connection log of the shard with this index.
    pub(super) fn new(shard: u16) -> Self {
        Self { worker: shard + 1, records: HashMap::new(), refusals: Default::default(), due_ms: None }
    }

    /// Starts the log data of an accepted connection, if debug logging is on.
    pub(super) fn accepted(&mut self, slot: Slot, now_ms: u64) {
        if enabled!(Level::DEBUG) {
            self.records.insert(slot, Record { since_ms: now_ms, ..Record::default() });
        } else if self.records.capacity() > 0 {
            self.records = HashMap::new();
        }
    }

    /// Records the path of a connection's request. Omits the query, which may contain a token or a session, and a session
    /// in the path.
    pub(super) fn asked(&mut self, slot: Slot, path: &str) {
        self.note(slot, |record| {
            let path = without_session(path);
            record.path = Some(path[..path.floor_char_boundary(MAX_PATH)].into());
        });
    }

    /// Records the HTTP status of the answer to a connection's request.
    pub(super) fn answered(&mut self, slot: Slot, status: u16) {
        self.note(slot, |record| record.status = Some(status));
    }

    /// Counts bytes that a client sent, for its log line.
    pub(super) fn received(&mut self, slot: Slot, bytes: usize) {
        self.note(slot, |record| record.received.bytes += bytes as u64);
    }

    /// Counts a message that a client sent, for its log line.
    pub(super) fn heard(&mut self, slot: Slot) {
        self.note(slot, |record| record.received.messages += 1);
    }

    /// Counts room messages and bytes that were sent to a client.
    pub(super) fn sent(&mut self, slot: Slot, messages: u64, bytes: usize) {
        self.note(slot, |record| {
            record.sent.messages += messages;
            record.sent.bytes += bytes as u64;
        });
    }

    /// Records the close code of a connection's WebSocket.
    pub(super) fn ended(&mut self, slot: Slot, code: u16) {
        self.note(slot, |record| record.code = Some(code));
    }

    /// Logs the line of a connection that has ended, at debug level.
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

    /// Logs a refused request. For the next [`REFUSALS_MS`], refusals for that reason are only counted.
    pub(super) fn refused(
        &mut self,
        slot: Slot,
        why: Refused,
        refusal: &Refusal,
        peer: Option<IpAddr>,
        now_ms: u64,
    ) {
        let status = refusal.status.code();
        self.answered(slot, status);
        self.count_refusal(why, Some(status), &refusal.reason, peer, now_ms);
    }

    /// Logs a connection that is closed without an answer, as [`Journal::refused`] logs refused requests.
    pub(super) fn cut_off(&mut self, why: Refused, reason: &str, peer: Option<IpAddr>, now_ms: u64) {
        self.count_refusal(why, None, reason, peer, now_ms);
    }

    fn count_refusal(
        &mut self,
        why: Refused,
        status: Option<u16>,
        text: &str,
        peer: Option<IpAddr>,
        now_ms: u64,
    ) {
        let refusals = &mut self.refusals[why as usize];
        if refusals.until_ms.is_some() {
            refusals.count += 1;
            return;
        }
        refusals.until_ms = Some(now_ms + REFUSALS_MS);
        self.due_ms.get_or_insert(now_ms + REFUSALS_MS);
        let (worker, reason, address) = (self.worker, Refused::TEXTS[why as usize], shown(peer));
        if is_alarming(why as usize) {
            warn!(worker, reason, address, status, "refused: {text}");
        } else {
            info!(worker, reason, address, status, "refused: {text}");
        }
    }

    /// Returns the time from which [`Journal::tick`] has work, in milliseconds. `None` when it has no work.
    pub(super) fn next_due_ms(&self) -> Option<u64> {
        self.due_ms
    }

    /// Logs the number of refusals that were only counted, for each refusal reason whose interval is over.
    pub(super) fn tick(&mut self, now_ms: u64) {
        if self.due_ms.is_some_and(|due_ms| due_ms <= now_ms) {
            self.sum_up(now_ms);
        }
    }

    /// Logs the number of refusals that were only counted, for every refusal reason, because the server ends.
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

/// Returns whether refusals for the reason with this index are logged as warnings, because the operator should act.
fn is_alarming(why: usize) -> bool {
    let alarms = [Refused::Connections, Refused::Address, Refused::ConnectionRate, Refused::Handshakes];
    alarms.iter().any(|alarm| *alarm as usize == why)
}

fn shown(peer: Option<IpAddr>) -> String {
    peer.map_or_else(|| "unix".into(), |peer| peer.to_string())
}

/// Returns the part of a path before the identifier of a session, as in `/resume/ID/app/KEY`.
fn without_session(path: &str) -> &str {
    const BEFORE: &str = "/resume/";
    path.find(BEFORE).map_or(path, |at| &path[..at + BEFORE.len()])
}

#[cfg(test)]
mod tests {
    use tracing::subscriber::with_default;

    use super::*;
    use crate::protocol::Status;

    #[test]
    fn without_debug_logging_no_memory_is_kept_for_connections() {
        let mut journal = Journal::new(0);
        let debug = tracing_subscriber::fmt().with_max_level(Level::DEBUG).with_writer(std::io::sink);
        with_default(debug.finish(), || (0..100).for_each(|slot| journal.accepted(slot, 0)));
        assert_eq!(journal.records.len(), 100);
        journal.accepted(100, 0);
        assert_eq!(journal.records.capacity(), 0);
    }

    #[test]
    fn sessions_in_paths_are_not_logged() {
        for (path, logged) in [
            ("/room/tea", "/room/tea"),
            ("/resume/0123456789abcdef/app/key", "/resume/"),
            ("/below/resume/0123456789abcdef", "/below/resume/"),
            ("/resume", "/resume"),
        ] {
            assert_eq!(without_session(path), logged);
        }
    }

    #[test]
    fn a_flood_of_refusals_is_counted_until_its_interval_is_over() {
        let mut journal = Journal::new(0);
        let refusal = Refusal::new(Status::NotFound, "nothing");
        let counts = |journal: &Journal| journal.refusals[Refused::NotFound as usize].count;
        for now_ms in 0..100 {
            journal.refused(1, Refused::NotFound, &refusal, None, now_ms);
        }
        assert_eq!((counts(&journal), journal.next_due_ms()), (99, Some(REFUSALS_MS)));
        // Each refusal reason has a separate interval.
        journal.refused(1, Refused::Origin, &refusal, None, 500);
        journal.tick(REFUSALS_MS - 1);
        assert_eq!(counts(&journal), 99);
        journal.tick(REFUSALS_MS);
        assert_eq!((counts(&journal), journal.next_due_ms()), (0, Some(REFUSALS_MS + 500)));
        // The count was logged, so another interval has begun, in which refusals are only counted.
        journal.refused(1, Refused::NotFound, &refusal, None, REFUSALS_MS + 1);
        assert_eq!(counts(&journal), 1);
        journal.tick(2 * REFUSALS_MS);
        journal.tick(3 * REFUSALS_MS);
        assert_eq!((counts(&journal), journal.next_due_ms()), (0, None));
        journal.refused(1, Refused::NotFound, &refusal, None, 9 * REFUSALS_MS);
        assert_eq!((counts(&journal), journal.next_due_ms()), (0, Some(10 * REFUSALS_MS)));
    }
}
