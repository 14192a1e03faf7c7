//! `presence`: guests join and leave a Pusher presence channel, and every member hears of each change in order.

use std::collections::VecDeque;

use crate::connections::{Connections, Payload};
use crate::end::End;
use crate::ledger::{Arrival, Ledger, MessageId};
use crate::pace::{Pace, Sender};
use crate::plan::{Plan, SentCount, Share, Window};
use crate::publishers::Publishers;
use crate::pusher::event;
use crate::totals::Totals;

use super::Traffic;
use super::receivers::Receivers;

/// The traffic of `presence`. The counter `sent` counts joins and leaves, and `received` counts what members hear of them.
///
/// The user identifier of a guest is a message of the run, so that its events have the time of the join. A guest joins with
/// a new identifier each time. Its changes are numbered: joins have even numbers, and leaves have odd ones.
pub(crate) struct Presence {
    share: Share,
    guests: Publishers,
    rate: f64,
    /// The schedule of the joins.
    pace: Pace,
    /// Time from a join to its leave, in nanoseconds.
    stay_ns: u64,
    /// The leaves that are not due yet, in the order of their times: the time in nanoseconds, and the index in `own`.
    leaves: VecDeque<(u64, usize)>,
    /// The guests of this worker, in the order of their numbers.
    own: Vec<Guest>,
    ledger: Ledger,
    receivers: Receivers,
}

/// A connection of this worker that joins and leaves.
struct Guest {
    number: u32,
    slot: usize,
    joins: u32,
    leaves: u32,
}

impl Presence {
    pub(crate) fn new(plan: &Plan, share: Share, guests: usize, rate: f64) -> Self {
        let publishers = Publishers { count: guests, connections: plan.connections };
        Self {
            share,
            guests: publishers,
            rate,
            pace: Pace::default(),
            stay_ns: (guests as f64 / rate * 1e9 / 2.0) as u64,
            leaves: VecDeque::new(),
            own: Vec::new(),
            ledger: Ledger::new(plan),
            receivers: Receivers::new(share.count, guests),
        }
    }

    /// Makes the guest at `index` a member, with the join that is due.
    fn join(&mut self, connections: &mut Connections, index: usize, now: u64) {
        let guest = &mut self.own[index];
        if !connections.is_open(guest.slot) {
            return;
        }
        let Some(due_ns) = self.pace.take(index) else { return };
        let message = MessageId { sender: guest.number, sequence: guest.joins };
        let user_id = String::from_utf8_lossy(self.ledger.write(message, due_ns, now));
        connections.join(guest.slot, &user_id);
        guest.joins += 1;
        self.leaves.push_back((due_ns + self.stay_ns, index));
    }

    /// Ends the memberships whose time has come.
    fn leave(&mut self, connections: &mut Connections, now: u64) {
        let end_ns = self.ledger.window.end_ns;
        while let Some(&(due_ns, index)) = self.leaves.front().filter(|leave| leave.0 <= now.min(end_ns - 1))
        {
            self.leaves.pop_front();
            let guest = &mut self.own[index];
            if connections.is_open(guest.slot) {
                connections.leave_channel(guest.slot);
                guest.leaves += 1;
                self.ledger.counts.sent += 1;
                if self.ledger.window.measures(due_ns) {
                    self.ledger.lag.record(now.saturating_sub(due_ns));
                }
            }
        }
    }
}

impl Traffic for Presence {
    fn start(&mut self, connections: &mut Connections, window: Window, _now: u64) {
        self.ledger.window = window;
        for slot in (0..self.share.count).filter(|&slot| connections.is_open(slot)) {
            match self.guests.number(self.share.first + slot) {
                Some(number) => self.own.push(Guest { number, slot, joins: 0, leaves: 0 }),
                None => self.receivers.start(slot, None),
            }
        }
        let senders = self.own.iter().map(|guest| Sender::new(guest.number, guest.slot)).collect();
        self.pace = Pace::new(window, self.rate, self.guests.count, senders);
    }

    fn next_due(&self) -> Option<u64> {
        let leave = self.leaves.front().map(|leave| leave.0);
        let end = self.ledger.window.end_ns;
        Some([self.pace.next_due(), leave].into_iter().flatten().min().unwrap_or(end).min(end))
    }

    fn on_time(&mut self, connections: &mut Connections, now: u64) {
        self.leave(connections, now);
        while let Some(index) = self.pace.advance(now) {
            self.join(connections, index, now);
        }
    }

    fn on_message(&mut self, _connections: &mut Connections, slot: usize, message: Payload<'_>, now: u64) {
        let is_guest = self.guests.number(self.share.first + slot).is_some();
        // Members hear of each other before the traffic starts, too.
        if is_guest || self.ledger.window.start_ns == 0 {
            return;
        }
        let Some(arrival) = self.ledger.read(message, now) else { return };
        if arrival.sender as usize >= self.guests.count {
            return self.ledger.corrupt();
        }
        let is_leave = event::is_leave(message.bytes);
        let change = Arrival {
            sequence: 2 * arrival.sequence + u32::from(is_leave),
            due_ns: arrival.due_ns + if is_leave { self.stay_ns } else { 0 },
            ..arrival
        };
        self.ledger.counts.from_others += 1;
        let order = self.receivers.observe(slot, change);
        self.ledger.received(change, order, now);
    }

    fn on_drained(&mut self, _connections: &mut Connections, _slot: usize, _now: u64) {}

    fn on_end(&mut self, slot: usize, _end: &End) -> bool {
        self.receivers.end(slot);
        true
    }

    fn is_over(&self, now: u64) -> bool {
        now >= self.ledger.window.end_ns
    }

    fn stop(&mut self) -> Vec<SentCount> {
        self.pace.stop(&mut self.ledger);
        let count = |guest: &Guest| SentCount { sender: guest.number, messages: guest.joins + guest.leaves };
        self.own.iter().map(count).collect()
    }

    fn is_complete(&self, sent: &[u32]) -> bool {
        self.receivers.is_complete(sent)
    }

    fn finish(&mut self, sent: &[u32], totals: &mut Totals) {
        self.receivers.finish(sent, &mut self.ledger, totals);
    }

    fn ledger(&mut self) -> &mut Ledger {
        &mut self.ledger
    }
}
