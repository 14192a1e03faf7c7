//! `publish`: HTTP clients publish messages, and WebSocket clients receive every message in order.

use crate::connections::{Connections, Payload, Response};
use crate::end::End;
use crate::ledger::{Ledger, MessageId};
use crate::pace::{Pace, Sender};
use crate::plan::{Plan, SentCount, Share, Window};
use crate::publishers::Publishers;
use crate::sequence::Order;
use crate::totals::{Answers, Totals};

use super::Traffic;
use super::receivers::Receivers;

/// Longest part of a refusal's body that is kept, in characters.
const MAX_BODY: usize = 200;

/// The traffic of `publish`. A publisher has one request under way at a time. The counter `sent` counts requests, and
/// `received` counts the messages that have arrived at subscribers.
pub(crate) struct Publish {
    share: Share,
    publishers: Publishers,
    drive: Drive,
    ledger: Ledger,
    receivers: Receivers,
    /// The open connections of this worker that publish, in the order of their numbers.
    own: Vec<Publisher>,
    /// For each slot, the index of its publisher in `own`. `None` if the connection does not publish.
    index_at: Vec<Option<usize>>,
    answers: Answers,
    /// Whether the server ends the connection after each response, so that the next request needs a new one.
    reconnects: bool,
    /// The slots of publishers whose connections are to be opened again.
    ended: Vec<usize>,
    /// Number of requests without a response.
    under_way: usize,
    /// Longest time after the window in which requests that were due in the window are sent and answered.
    grace_ns: u64,
    /// The window has ended.
    is_late: bool,
}

/// The rule by which publishers send their next requests.
enum Drive {
    /// Closed loop: when the last request is answered.
    Closed { stopped: bool },
    /// Open loop: at a fixed rate. A publisher whose last request is not answered holds the next one back.
    Open { rate: f64, pace: Pace },
}

/// A connection of this worker that publishes.
struct Publisher {
    number: u32,
    slot: usize,
    /// Number of accepted messages, which is the next message's number. A refused message is replaced by the next one.
    accepted: u32,
    /// The time when the unanswered request was due, in nanoseconds. `None` between requests.
    due_ns: Option<u64>,
    /// Whether the server ends the connection, so that no request is sent until there is a new one.
    is_ending: bool,
}

impl Publish {
    pub(crate) fn new(plan: &Plan, share: Share, publishers: Publishers, rate: Option<f64>) -> Self {
        Self {
            share,
            publishers,
            drive: match rate {
                Some(rate) => Drive::Open { rate, pace: Pace::default() },
                None => Drive::Closed { stopped: false },
            },
            ledger: Ledger::new(plan),
            receivers: Receivers::new(share.count, publishers.count),
            own: Vec::new(),
            index_at: vec![None; share.count],
            answers: Answers::default(),
            reconnects: plan.post.as_ref().is_some_and(|post| post.reconnects),
            ended: Vec::new(),
            under_way: 0,
            grace_ns: plan.grace_ns,
            is_late: false,
        }
    }

    /// Sends the next request of a publisher, if the publisher is free and a request is due.
    fn send_next(&mut self, connections: &mut Connections, index: usize, now: u64) {
        let publisher = &mut self.own[index];
        if publisher.due_ns.is_some() || publisher.is_ending || !connections.is_open(publisher.slot) {
            return;
        }
        let due = match &mut self.drive {
            Drive::Closed { stopped } => (!*stopped && !self.is_late).then_some(now),
            Drive::Open { pace, .. } => pace.take(index),
        };
        let Some(due_ns) = due else { return };
        let message = MessageId { sender: publisher.number, sequence: publisher.accepted };
        connections.queue_post(publisher.slot, self.ledger.write(message, due_ns, now));
        publisher.due_ns = Some(due_ns);
        self.under_way += 1;
    }

    /// Returns the number of requests that were due and are not sent.
    fn held_back(&self) -> u64 {
        match &self.drive {
            Drive::Closed { .. } => 0,
            Drive::Open { pace, .. } => pace.held_back(),
        }
    }
}

impl Traffic for Publish {
    fn start(&mut self, connections: &mut Connections, window: Window, now: u64) {
        self.ledger.window = window;
        for slot in (0..self.share.count).filter(|&slot| connections.is_open(slot)) {
            match self.publishers.number(self.share.first + slot) {
                Some(number) => {
                    self.index_at[slot] = Some(self.own.len());
                    self.own.push(Publisher { number, slot, accepted: 0, due_ns: None, is_ending: false });
                }
                None => {
                    self.receivers.start(slot, None);
                    self.answers.subscribers += 1;
                }
            }
        }
        if let Drive::Open { rate, pace } = &mut self.drive {
            let senders = self.own.iter().map(|own| Sender::new(own.number, own.slot)).collect();
            *pace = Pace::new(window, *rate, self.publishers.count, senders);
        } else {
            for index in 0..self.own.len() {
                self.send_next(connections, index, now);
            }
        }
    }

    fn next_due(&self) -> Option<u64> {
        let end_ns = self.ledger.window.end_ns;
        if !self.ended.is_empty() {
            return Some(0);
        }
        if self.is_late {
            return Some(end_ns + self.grace_ns);
        }
        match &self.drive {
            Drive::Closed { .. } => Some(end_ns),
            Drive::Open { pace, .. } => Some(pace.next_due().unwrap_or(end_ns)),
        }
    }

    fn on_time(&mut self, connections: &mut Connections, now: u64) {
        self.is_late = now >= self.ledger.window.end_ns;
        for slot in self.ended.drain(..) {
            connections.open(slot, self.share.first + slot);
        }
        loop {
            let Drive::Open { pace, .. } = &mut self.drive else { return };
            let Some(index) = pace.advance(now) else { return };
            self.send_next(connections, index, now);
        }
    }

    fn on_open(&mut self, connections: &mut Connections, slot: usize, now: u64) {
        // Before the traffic starts, no slot has a publisher.
        if let Some(index) = self.index_at[slot] {
            self.own[index].is_ending = false;
            self.send_next(connections, index, now);
        }
    }

    fn on_message(&mut self, _connections: &mut Connections, slot: usize, message: Payload<'_>, now: u64) {
        let Some(arrival) = self.ledger.read(message, now) else { return };
        if arrival.sender as usize >= self.publishers.count {
            return self.ledger.corrupt();
        }
        self.ledger.counts.from_others += 1;
        let order = self.receivers.observe(slot, arrival);
        if order != Order::Duplicate && self.ledger.window.measures(arrival.due_ns) {
            self.answers.deliveries.note(arrival.sender, arrival.sequence, arrival.due_ns, now);
        }
        self.ledger.received(arrival, order, now);
    }

    fn on_response(&mut self, connections: &mut Connections, slot: usize, response: Response<'_>, now: u64) {
        let publisher = self.index_at[slot].map(|index| (index, &mut self.own[index]));
        let answered = publisher.and_then(|(index, own)| Some((index, own.due_ns.take()?, own)));
        // A response without a request breaks HTTP, so it is no message of this run.
        let Some((index, due_ns, publisher)) = answered else { return self.ledger.corrupt() };
        self.ledger.last_ns = now;
        self.under_way -= 1;
        publisher.is_ending = self.reconnects;
        let Response { status, reason, body } = response;
        if (200..300).contains(&status) {
            publisher.accepted += 1;
            self.answers.statuses.note(status.to_string());
            self.answers.measured += u64::from(self.ledger.window.measures(now));
            // The progress line counts deliveries, or publishes if there are no subscribers.
            self.ledger.tick.done += u64::from(self.answers.subscribers == 0);
        } else {
            self.ledger.counts.refused += 1;
            let body: String = String::from_utf8_lossy(body).trim().chars().take(MAX_BODY).collect();
            self.answers.statuses.note(format!("{status} {reason}: {body}"));
        }
        if self.ledger.window.measures(due_ns) {
            self.answers.latency.record(now.saturating_sub(due_ns));
        }
        self.send_next(connections, index, now);
    }

    fn on_drained(&mut self, _connections: &mut Connections, _slot: usize, _now: u64) {}

    fn on_end(&mut self, slot: usize, _end: &End) -> bool {
        self.receivers.end(slot);
        if let Some(index) = self.index_at[slot]
            && self.own[index].due_ns.take().is_some()
        {
            self.under_way -= 1;
            self.ledger.counts.lost += 1;
            return true;
        }
        let is_expected = self.index_at[slot].is_some_and(|index| self.own[index].is_ending);
        if is_expected {
            self.ended.push(slot);
        }
        !is_expected
    }

    fn is_over(&self, now: u64) -> bool {
        let end_ns = self.ledger.window.end_ns;
        let is_answered = self.under_way == 0 && (self.held_back() == 0 || self.own.is_empty());
        now >= end_ns && (is_answered || now >= end_ns + self.grace_ns)
    }

    fn stop(&mut self) -> Vec<SentCount> {
        match &mut self.drive {
            Drive::Closed { stopped } => *stopped = true,
            Drive::Open { pace, .. } => pace.stop(&mut self.ledger),
        }
        let count = |own: &Publisher| SentCount { sender: own.number, messages: own.accepted };
        self.own.iter().map(count).collect()
    }

    fn is_complete(&self, sent: &[u32]) -> bool {
        self.under_way == 0 && self.receivers.is_complete(sent)
    }

    fn finish(&mut self, sent: &[u32], totals: &mut Totals) {
        self.ledger.counts.lost += self.under_way as u64;
        self.receivers.finish(sent, &mut self.ledger, totals);
        totals.answers = std::mem::take(&mut self.answers);
    }

    fn ledger(&mut self) -> &mut Ledger {
        &mut self.ledger
    }
}
