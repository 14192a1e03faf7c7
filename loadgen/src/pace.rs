//! The schedule of messages in an open loop. The server's speed does not change the schedule.

use crate::connections::Connections;
use crate::ledger::{Ledger, MessageId};
use crate::plan::{SentCount, Window};

/// Limit of the bytes that wait in a sender's outbox. At the limit, further messages are held back.
const MAX_QUEUED: usize = 64 * 1024;

/// A schedule for messages of many senders at one total rate. The senders take turns.
///
/// Message `k` of the whole run is due at `start + k * period`, and sender `k % stride` sends it. Each worker has some
/// of the senders. A message that the socket does not take is held back and keeps its due time.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    window: Window,
    period_ns: f64,
    stride: usize,
    senders: Vec<Sender>,
    stopped: bool,
    /// The number of the next message among its sender's messages.
    sequence: u32,
    /// The index in `senders` of the next message's sender.
    turn: usize,
}

/// A connection of this worker that sends scheduled messages.
#[derive(Debug)]
pub(crate) struct Sender {
    pub(crate) number: u32,
    pub(crate) slot: usize,
    /// Number of messages that the sender has written. Later messages that are already due are held back.
    written: u32,
}

impl Sender {
    /// Creates a sender whose connection is in `slot`. `number` counts the senders of all workers.
    pub(crate) fn new(number: u32, slot: usize) -> Self {
        Self { number, slot, written: 0 }
    }
}

impl Pace {
    /// Creates a schedule of `rate` messages per second from `stride` senders in all workers. `senders` are this
    /// worker's senders, in ascending order.
    pub(crate) fn new(window: Window, rate: f64, stride: usize, senders: Vec<Sender>) -> Self {
        Self { window, period_ns: 1e9 / rate, stride, senders, stopped: false, sequence: 0, turn: 0 }
    }

    /// Returns the time when this worker's next message is due, in nanoseconds. `None` if no message is left.
    pub(crate) fn next_due(&self) -> Option<u64> {
        let sender = self.senders.get(self.turn)?;
        let due = self.due(sender.number, self.sequence);
        (!self.stopped && due < self.window.end_ns).then_some(due)
    }

    /// Writes every message that is due at or before `now`.
    pub(crate) fn run(&mut self, connections: &mut Connections, ledger: &mut Ledger, now: u64) {
        while let Some(index) = self.advance(now) {
            self.write(index, connections, ledger, now);
        }
    }

    /// Makes the next message due if its time has come. Returns the index of its sender among this worker's senders, or
    /// `None` if no further message is due at `now`.
    pub(crate) fn advance(&mut self, now: u64) -> Option<usize> {
        self.next_due().filter(|&due| due <= now)?;
        let index = self.turn;
        self.turn += 1;
        if self.turn == self.senders.len() {
            self.turn = 0;
            self.sequence += 1;
        }
        Some(index)
    }

    /// Takes the oldest message that the sender at `index` holds back, to be sent now. Returns the time when the message
    /// was due, or `None` if the sender holds none back.
    pub(crate) fn take(&mut self, index: usize) -> Option<u64> {
        let Sender { number, written, .. } = self.senders[index];
        if self.stopped || written == self.scheduled(index) {
            return None;
        }
        self.senders[index].written += 1;
        Some(self.due(number, written))
    }

    /// Writes the held-back messages of the sender in `slot`, after its outbox has room again.
    pub(crate) fn resume(
        &mut self,
        slot: usize,
        connections: &mut Connections,
        ledger: &mut Ledger,
        now: u64,
    ) {
        if self.stopped {
            return;
        }
        if let Some(index) = self.senders.iter().position(|sender| sender.slot == slot) {
            self.write(index, connections, ledger, now);
        }
    }

    /// Ends the schedule. Messages that are held back count as unsent.
    pub(crate) fn stop(&mut self, ledger: &mut Ledger) {
        self.stopped = true;
        ledger.counts.unsent = self.held_back();
    }

    /// Returns the number of messages that each sender has written.
    pub(crate) fn sent(&self) -> Vec<SentCount> {
        let count = |sender: &Sender| SentCount { sender: sender.number, messages: sender.written };
        self.senders.iter().map(count).collect()
    }

    /// Returns the number of messages that were due and are not written.
    pub(crate) fn held_back(&self) -> u64 {
        (0..self.senders.len())
            .map(|index| u64::from(self.scheduled(index) - self.senders[index].written))
            .sum()
    }

    /// Returns the number of messages of the sender at `index` that were due so far.
    fn scheduled(&self, index: usize) -> u32 {
        self.sequence + u32::from(index < self.turn)
    }

    fn due(&self, number: u32, sequence: u32) -> u64 {
        let order = u64::from(sequence) * self.stride as u64 + u64::from(number);
        self.window.start_ns + (order as f64 * self.period_ns) as u64
    }

    fn write(&mut self, index: usize, connections: &mut Connections, ledger: &mut Ledger, now: u64) {
        let Sender { number, slot, .. } = self.senders[index];
        while connections.is_open(slot) && connections.has_room(slot, MAX_QUEUED) {
            let sequence = self.senders[index].written;
            let Some(due) = self.take(index) else { return };
            ledger.send(connections, slot, MessageId { sender: number, sequence }, due, now);
        }
    }
}
