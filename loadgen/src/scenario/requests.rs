//! `requests`: GET requests over kept HTTP connections, in a closed loop.

use std::collections::VecDeque;

use crate::connections::{Connections, Payload};
use crate::end::End;
use crate::ledger::Ledger;
use crate::plan::{Plan, SentCount, Share, Window};
use crate::totals::Totals;

use super::Traffic;

/// The traffic of `requests`. The counter `sent` counts requests, and `received` counts responses.
pub(crate) struct Requests {
    share: Share,
    pipeline: u32,
    ledger: Ledger,
    /// For each slot, the times when its unanswered requests were sent, in nanoseconds.
    sent_ns: Vec<VecDeque<u64>>,
    /// The body of the first response, which all other responses must have. `None` before the first response.
    body: Option<Vec<u8>>,
    stopped: bool,
}

impl Requests {
    pub(crate) fn new(plan: &Plan, share: Share, pipeline: u32) -> Self {
        Self {
            share,
            pipeline,
            ledger: Ledger::new(plan),
            sent_ns: vec![VecDeque::new(); share.count],
            body: None,
            stopped: false,
        }
    }

    fn send(&mut self, connections: &mut Connections, slot: usize, now: u64) {
        connections.queue_request(slot);
        self.sent_ns[slot].push_back(now);
        self.ledger.counts.sent += 1;
    }
}

impl Traffic for Requests {
    fn start(&mut self, connections: &mut Connections, window: Window, now: u64) {
        self.ledger.window = window;
        for _ in 0..self.pipeline {
            for slot in (0..self.share.count).filter(|&slot| connections.is_open(slot)).collect::<Vec<_>>() {
                self.send(connections, slot, now);
            }
        }
    }

    fn next_due(&self) -> Option<u64> {
        (!self.stopped).then_some(self.ledger.window.end_ns)
    }

    fn on_time(&mut self, _connections: &mut Connections, _now: u64) {}

    fn on_message(&mut self, connections: &mut Connections, slot: usize, message: Payload<'_>, now: u64) {
        if *self.body.get_or_insert_with(|| message.bytes.to_vec()) != message.bytes {
            self.ledger.corrupt();
        }
        // The response to the request that opens the connection is not measured.
        let Some(sent_ns) = self.sent_ns[slot].pop_front() else { return };
        self.ledger.received_again(sent_ns, 1, now);
        if !self.stopped {
            self.send(connections, slot, now);
        }
    }

    fn on_drained(&mut self, _connections: &mut Connections, _slot: usize, _now: u64) {}

    fn on_end(&mut self, slot: usize, _end: &End) -> bool {
        self.ledger.counts.lost += self.sent_ns[slot].len() as u64;
        self.sent_ns[slot].clear();
        true
    }

    fn is_over(&self, now: u64) -> bool {
        now >= self.ledger.window.end_ns
    }

    fn stop(&mut self) -> Vec<SentCount> {
        self.stopped = true;
        Vec::new()
    }

    fn is_complete(&self, _sent: &[u32]) -> bool {
        self.sent_ns.iter().all(VecDeque::is_empty)
    }

    fn finish(&mut self, _sent: &[u32], _totals: &mut Totals) {
        self.ledger.counts.lost += self.sent_ns.iter().map(|sent| sent.len() as u64).sum::<u64>();
    }

    fn ledger(&mut self) -> &mut Ledger {
        &mut self.ledger
    }
}
