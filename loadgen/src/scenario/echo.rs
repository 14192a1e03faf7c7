//! `echo`: the server returns each message to its sender and to nobody else. `idle --speak` uses this traffic, too.

use std::mem;

use crate::connections::{Connections, Payload};
use crate::end::End;
use crate::ledger::{Ledger, MessageId};
use crate::pace::{Pace, Sender};
use crate::plan::{Plan, Scenario, SentCount, Share, Window};
use crate::sequence::{Order, Sequences};
use crate::totals::Totals;

use super::Traffic;

/// The traffic of `echo`: sends messages and checks the replies.
pub(crate) struct Echo {
    share: Share,
    connections: usize,
    drive: Drive,
    ledger: Ledger,
    /// The order check of the replies, with one stream per slot.
    sequences: Sequences,
    /// For each slot, the number of different replies received. `u32::MAX` after the connection has ended.
    received: Vec<u32>,
}

enum Drive {
    Closed {
        pipeline: u32,
        /// For each slot, the number of messages that its connection has sent.
        sent: Vec<u32>,
        stopped: bool,
    },
    Open {
        rate: f64,
        pace: Pace,
    },
    /// Traffic of `idle --speak`: a reply does not trigger another message.
    Idle {
        /// Number of messages that a connection sends when it opens. One more message is due at the start of the
        /// window.
        speak: u32,
        sent: Vec<u32>,
        /// Slots whose connections take part and have not yet sent the message at the start of the window.
        waiting: Vec<usize>,
    },
}

impl Echo {
    pub(crate) fn new(plan: &Plan, share: Share, pipeline: u32, rate: Option<f64>) -> Self {
        let drive = match (plan.scenario, rate) {
            (Scenario::Idle { speak }, _) => {
                Drive::Idle { speak, sent: vec![0; share.count], waiting: Vec::new() }
            }
            (_, Some(rate)) => Drive::Open { rate, pace: Pace::default() },
            (_, None) => Drive::Closed { pipeline, sent: vec![0; share.count], stopped: false },
        };
        Self {
            share,
            connections: plan.connections,
            drive,
            ledger: Ledger::new(plan),
            sequences: Sequences::new(share.count),
            received: vec![0; share.count],
        }
    }

    fn sender(&self, slot: usize) -> u32 {
        (self.share.first + slot) as u32
    }

    /// Sends the next message of `slot` in a closed loop. Does nothing in the other modes, or after the traffic has
    /// stopped.
    fn send_next(&mut self, connections: &mut Connections, slot: usize, now: u64) {
        let sender = self.sender(slot);
        if let Drive::Closed { sent, stopped: false, .. } = &mut self.drive {
            let message = MessageId { sender, sequence: sent[slot] };
            self.ledger.send(connections, slot, message, now, now);
            sent[slot] += 1;
        }
    }

    /// Sends a message of `slot` that was due at `due`, in `idle --speak`. Does nothing if the connection has ended.
    fn speak(&mut self, connections: &mut Connections, slot: usize, due: u64, now: u64) {
        let sender = self.sender(slot);
        if let Drive::Idle { sent, .. } = &mut self.drive
            && connections.is_open(slot)
        {
            let message = MessageId { sender, sequence: sent[slot] };
            self.ledger.send(connections, slot, message, due, now);
            sent[slot] += 1;
        }
    }

    fn sent(&self) -> Vec<SentCount> {
        match &self.drive {
            Drive::Closed { sent, .. } | Drive::Idle { sent, .. } => {
                let count = |(slot, &messages)| SentCount { sender: self.sender(slot), messages };
                (0..).zip(sent).map(count).collect()
            }
            Drive::Open { pace, .. } => pace.sent(),
        }
    }
}

impl Traffic for Echo {
    fn start(&mut self, connections: &mut Connections, window: Window, now: u64) {
        self.ledger.window = window;
        let open: Vec<usize> = (0..self.share.count).filter(|&slot| connections.is_open(slot)).collect();
        match &mut self.drive {
            Drive::Open { rate, pace } => {
                let first = self.share.first;
                let sender = |&slot: &usize| Sender::new((first + slot) as u32, slot);
                let senders = open.iter().map(sender).collect();
                *pace = Pace::new(window, *rate, self.connections, senders);
            }
            Drive::Closed { pipeline, .. } => {
                for _ in 0..*pipeline {
                    for &slot in &open {
                        self.send_next(connections, slot, now);
                    }
                }
            }
            Drive::Idle { waiting, .. } => *waiting = open,
        }
    }

    fn next_due(&self) -> Option<u64> {
        match &self.drive {
            Drive::Open { pace, .. } => pace.next_due(),
            Drive::Closed { stopped, .. } => (!stopped).then_some(self.ledger.window.end_ns),
            Drive::Idle { waiting, .. } => (!waiting.is_empty()).then_some(self.ledger.window.start_ns),
        }
    }

    fn on_time(&mut self, connections: &mut Connections, now: u64) {
        let start = self.ledger.window.start_ns;
        match &mut self.drive {
            Drive::Open { pace, .. } => pace.run(connections, &mut self.ledger, now),
            Drive::Idle { waiting, .. } if now >= start => {
                for slot in mem::take(waiting) {
                    self.speak(connections, slot, start, now);
                }
            }
            Drive::Closed { .. } | Drive::Idle { .. } => {}
        }
    }

    fn on_open(&mut self, connections: &mut Connections, slot: usize, now: u64) {
        if let Drive::Idle { speak, .. } = self.drive {
            for _ in 0..speak {
                self.speak(connections, slot, now, now);
            }
        }
    }

    fn on_message(&mut self, connections: &mut Connections, slot: usize, message: Payload<'_>, now: u64) {
        let Some(arrival) = self.ledger.read(message, now) else { return };
        if arrival.sender != self.sender(slot) {
            self.ledger.counts.misdelivered += 1;
            return self.ledger.corrupt();
        }
        let order = self.sequences.observe(slot, arrival.sequence);
        let is_new = order != Order::Duplicate;
        self.ledger.received(arrival, order, now);
        if is_new {
            self.received[slot] += 1;
            self.send_next(connections, slot, now);
        }
    }

    fn on_drained(&mut self, connections: &mut Connections, slot: usize, now: u64) {
        if let Drive::Open { pace, .. } = &mut self.drive {
            pace.resume(slot, connections, &mut self.ledger, now);
        }
    }

    fn on_end(&mut self, slot: usize, _end: &End) -> bool {
        // No further reply can arrive, so the worker does not wait for this slot. `finish` counts the missing replies
        // as lost.
        self.received[slot] = u32::MAX;
        true
    }

    fn is_over(&self, now: u64) -> bool {
        now >= self.ledger.window.end_ns
    }

    fn stop(&mut self) -> Vec<SentCount> {
        match &mut self.drive {
            Drive::Closed { stopped, .. } => *stopped = true,
            Drive::Open { pace, .. } => pace.stop(&mut self.ledger),
            Drive::Idle { waiting, .. } => waiting.clear(),
        }
        // The list is empty, because other workers do not wait for replies to this worker's messages.
        Vec::new()
    }

    fn is_complete(&self, _sent: &[u32]) -> bool {
        let first = self.share.first;
        self.sent().iter().all(|sent| self.received[sent.sender as usize - first] >= sent.messages)
    }

    fn finish(&mut self, _sent: &[u32], _totals: &mut Totals) {
        for SentCount { sender, messages } in self.sent() {
            let missing = self.sequences.missing(sender as usize - self.share.first, messages);
            self.ledger.count_missing(missing);
        }
    }

    fn ledger(&mut self) -> &mut Ledger {
        &mut self.ledger
    }
}
