//! Writes a worker's messages, checks received messages, and counts sent and received messages.

use crate::connections::{Connections, Payload};
use crate::message::Stamp;
use crate::message::{Messages, Reading};
use crate::plan::{Plan, Window};
use crate::sequence::{Missing, Order};
use crate::totals::{Counts, Tick, Times};

/// Number of messages per tick whose latencies are all in the live figures. Of later messages, a sample is recorded.
const LIVE_ALL: u64 = 1000;
/// Sampling rate of the live figures: after `LIVE_ALL` messages of a tick, one message in this many is recorded.
/// Recording every message would slow the generator down.
const LIVE_ONE_IN: u64 = 64;

/// The counters and latency histograms of one worker's traffic.
pub(crate) struct Ledger {
    messages: Messages,
    chat: bool,
    /// The server sends messages of its own, which are none of this run.
    has_notices: bool,
    /// The server may put anything around a message, and may send a text as binary.
    wrapped: bool,
    epoch_ns: u64,
    text: Vec<u8>,
    pub(crate) window: Window,
    pub(crate) counts: Counts,
    pub(crate) latency: Times,
    pub(crate) lag: Times,
    pub(crate) rounds: Times,
    pub(crate) tick: Tick,
    /// The time when the latest message arrived, in nanoseconds.
    pub(crate) last_ns: u64,
    /// The wait for the last messages was cut off while messages were still arriving. Missing last messages then count
    /// as unfinished, not as lost.
    pub(crate) is_cut: bool,
}

/// The identity of a message: the sender's number, and the message's number among the sender's messages.
#[derive(Debug, Clone, Copy)]
pub(crate) struct MessageId {
    pub(crate) sender: u32,
    pub(crate) sequence: u32,
}

/// The header fields of a received message that is intact and belongs to this run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Arrival {
    pub(crate) sender: u32,
    pub(crate) sequence: u32,
    /// The time when the message was due, in nanoseconds.
    pub(crate) due_ns: u64,
}

impl Ledger {
    pub(crate) fn new(plan: &Plan) -> Self {
        Self {
            messages: Messages::new(plan.tag, plan.size, plan.payload),
            chat: plan.chat,
            has_notices: plan.chat || plan.pusher.as_ref().is_some_and(|session| session.reports_members),
            wrapped: plan.post.is_some() || plan.pusher.is_some(),
            epoch_ns: plan.epoch_ns,
            text: Vec::new(),
            window: Window::default(),
            counts: Counts::default(),
            latency: Times::default(),
            lag: Times::default(),
            rounds: Times::default(),
            tick: Tick::default(),
            last_ns: 0,
            is_cut: false,
        }
    }

    /// Queues a message on the connection in `slot`. Records the delay from `due_ns` to `now`, in nanoseconds.
    pub(crate) fn send(
        &mut self,
        connections: &mut Connections,
        slot: usize,
        message: MessageId,
        due_ns: u64,
        now: u64,
    ) {
        self.write(message, due_ns, now);
        connections.queue_text(slot, &self.text);
    }

    /// Counts a message that is sent now, and returns its payload. Records the delay from `due_ns` to `now`, in
    /// nanoseconds.
    pub(crate) fn write(&mut self, message: MessageId, due_ns: u64, now: u64) -> &[u8] {
        let MessageId { sender, sequence } = message;
        let stamp = Stamp { sender, sequence, time_ns: due_ns - self.epoch_ns };
        self.messages.write(stamp, &mut self.text);
        self.counts.sent += 1;
        if self.window.measures(due_ns) {
            self.lag.record(now.saturating_sub(due_ns));
        }
        &self.text
    }

    /// Checks a received message. Returns the header fields of an intact message. Otherwise counts the message as
    /// corrupt or foreign, and returns `None`.
    pub(crate) fn read(&mut self, message: Payload<'_>, now: u64) -> Option<Arrival> {
        self.last_ns = now;
        let reading = match (self.wrapped, self.chat) {
            (true, _) => self.messages.find(message.bytes),
            (false, true) => self.messages.read(without_name(message.bytes)),
            (false, false) => self.messages.read(message.bytes),
        };
        match reading {
            Reading::Intact(stamp) if message.is_text || self.wrapped => {
                let Stamp { sender, sequence, time_ns } = stamp;
                return Some(Arrival { sender, sequence, due_ns: self.epoch_ns + time_ns });
            }
            Reading::Intact(_) | Reading::Corrupt => self.corrupt(),
            Reading::Foreign if self.has_notices => {}
            Reading::Foreign => self.counts.foreign += 1,
        }
        None
    }

    /// Counts a corrupt message.
    pub(crate) fn corrupt(&mut self) {
        self.counts.corrupt += 1;
    }

    /// Counts messages that have not arrived by the end of the run as lost or unfinished.
    pub(crate) fn count_missing(&mut self, missing: Missing) {
        self.counts.lost += missing.inside;
        if self.is_cut {
            self.counts.unfinished += missing.after;
        } else {
            self.counts.lost += missing.after;
        }
    }

    /// Counts an intact message, and whether the message arrived late or twice.
    pub(crate) fn received(&mut self, arrival: Arrival, order: Order, now: u64) {
        match order {
            Order::Next | Order::AfterGap => {}
            Order::Late => self.counts.reordered += 1,
            Order::Duplicate => {
                self.counts.duplicated += 1;
                return;
            }
        }
        self.received_again(arrival.due_ns, 1, now);
    }

    /// Counts `count` messages that were due at `due_ns` and arrived at `now`, all intact and in order.
    pub(crate) fn received_again(&mut self, due_ns: u64, count: u64, now: u64) {
        self.last_ns = now;
        let latency = now.saturating_sub(due_ns);
        self.counts.received += count;
        self.tick.done += count;
        if self.tick.done < LIVE_ALL || self.tick.done % LIVE_ONE_IN < count {
            self.tick.latency.record(latency);
        }
        if self.window.measures(now) {
            self.counts.measured += count;
        }
        if self.window.measures(due_ns) {
            self.latency.record_n(latency, count);
        }
    }
}

/// Returns a line of a chat without the sender's name and colon before the message.
fn without_name(line: &[u8]) -> &[u8] {
    let colon = line.windows(2).position(|two| two == b": ");
    colon.map_or(line, |at| &line[at + 2..])
}
