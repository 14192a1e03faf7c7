//! Messages between shards and from other threads, and the backpressure that bounds them.

use tracing::error;

use crate::app::{App, Asker, Context, Incoming};
use crate::hub::{Delivery, Kind, Message, Origin, Position, Request, RoomKey};
use crate::io::Backend;
use crate::publisher::{Entry, OnReceipt, Receipt};

use super::Shard;
use super::members::{Question, Wanted};

/// Totals of the mail that full mailboxes of other shards have not taken yet.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Stuck {
    /// Whether the mailbox of at least one other shard is full and did not take a batch.
    pub(super) any: bool,
    /// Approximate size of the requests that wait for full mailboxes, in bytes.
    requests: usize,
    /// Approximate size of the deliveries that wait for full mailboxes, in bytes.
    deliveries: usize,
}

impl<B: Backend> Shard<B> {
    /// Returns whether the mailbox has a batch that [`Shard::take_mail`] would handle now.
    pub(super) fn has_mail(&self) -> bool {
        let saturated = self.hub.is_saturated();
        !saturated && (self.mailbox.deliveries() > 0 || self.takes_requests() && self.mailbox.has_mail())
    }

    /// Handles the batches in the mailbox, then two shares of the entries from other threads, then this shard's requests
    /// and deliveries to itself.
    ///
    /// All mail waits while a room is saturated. Saturation ends by itself, because offering messages waits for no
    /// client. Requests also wait while many deliveries are stuck, because requests cause more deliveries. Requests do
    /// not wait while other requests are stuck, or two shards could wait for each other. They also wait while many
    /// questions for members wait for their answers, of which each turn gives some. Requests, also to this shard itself,
    /// wait while the shard is short of memory. Sends, deadlines and [`Shard::relieve`] end that shortage. Entries from
    /// other threads wait like requests: their queue fills up, and the threads get an error.
    pub(super) fn take_mail(&mut self) {
        let mut took = false;
        for _ in 0..self.mailbox.deliveries() {
            if self.hub.is_saturated() {
                break;
            }
            let Some(mut batch) = self.mailbox.take_deliveries() else { break };
            batch.drain(|delivery, user, frames| self.take_delivery(delivery, user, frames));
            took = true;
        }
        for _ in 0..self.mailbox.requests() {
            if !self.takes_requests() {
                break;
            }
            let Some((from, mut batch)) = self.mailbox.take_requests() else { break };
            batch.drain_while(|request, room, payload| {
                self.take_request(from, request, room, payload);
                self.has_memory_for_requests()
            });
            if !batch.is_empty() {
                self.mailbox.give_back(from, batch);
            }
            took = true;
        }
        self.take_entries();
        // The answer to a request that published above is an entry itself. It leaves in the same turn.
        self.take_entries();
        self.take_own();
        self.answer_questions();
        self.hub.weigh_outgoing();
        if took && self.mailbox.take_awaited() {
            for address in &self.addresses {
                address.wake();
            }
        }
    }

    /// Handles this turn's share of the entries that other threads sent with a `Publisher`.
    fn take_entries(&mut self) {
        if !self.mailbox.hall.has_entries() || !self.takes_requests() {
            return;
        }
        let mut entries = self.mailbox.hall.take(self.bounds.entries_per_turn);
        entries.drain(..).for_each(|entry| self.take_entry(entry));
        self.mailbox.hall.put_back(entries);
    }

    fn take_entry(&mut self, entry: Entry) {
        match entry {
            Entry::Publish { room, kind, payload, on_receipt } => {
                let receipt = self.order(&room, None, Origin::default(), kind, &payload);
                self.give(on_receipt, receipt);
            }
            Entry::Send { client, kind, payload } => {
                if let Some(slot) = self.hub.find(client) {
                    self.hub.send(slot, Message::new(kind, &payload));
                }
            }
            Entry::Close { client, code, reason } => {
                if let Some(slot) = self.hub.find(client) {
                    self.begin_closing(slot, true, code, &reason);
                }
            }
            Entry::User { user, action, payload, on_receipt } => {
                let receipt = match self.hub.pass_to_user(&user, action, &payload) {
                    0 => Receipt::Unheard,
                    count => Receipt::Sent(count),
                };
                self.give(on_receipt, receipt);
            }
            Entry::Answer { ticket, answer } => self.take_answer(ticket, answer),
            Entry::Ask { note } => {
                self.with_app(|app, context| app.on_ask(context, note));
            }
        }
    }

    /// Gives a receipt to the function that waits for it, if there is one.
    fn give(&self, on_receipt: Option<OnReceipt>, receipt: Receipt) {
        if on_receipt.is_some_and(|on_receipt| !on_receipt.give(receipt)) {
            error!("a function that got a receipt panicked");
            self.stats.panics.add(1);
        }
    }

    /// Handles this shard's requests to itself as far as memory allows, then its deliveries to itself, including those
    /// that the requests caused. Mail that arises meanwhile waits for the next turn, behind older requests.
    fn take_own(&mut self) {
        let own = self.settings.id.index;
        let mut batch = std::mem::take(self.hub.outgoing(own));
        if self.has_memory_for_requests() {
            batch.requests.drain_while(|request, room, payload| {
                self.take_request(own, request, room, payload);
                self.has_memory_for_requests()
            });
        }
        batch.deliveries.absorb(&mut self.hub.outgoing(own).deliveries);
        batch.deliveries.drain(|delivery, user, frames| self.take_delivery(delivery, user, frames));
        let waiting = self.hub.outgoing(own);
        if !batch.requests.is_empty() {
            batch.requests.absorb(&mut waiting.requests);
        }
        // The emptied batches replace the unused new batches, so that their memory is used again.
        if waiting.requests.is_empty() {
            waiting.requests = batch.requests;
        }
        if waiting.deliveries.is_empty() {
            waiting.deliveries = batch.deliveries;
        }
    }

    /// Returns whether [`Shard::take_own`] would handle mail of this shard to itself now.
    pub(super) fn has_own_mail(&mut self) -> bool {
        let has_memory = self.has_memory_for_requests();
        let own = self.hub.outgoing(self.settings.id.index);
        !own.deliveries.is_empty() || has_memory && !own.requests.is_empty()
    }

    fn takes_requests(&self) -> bool {
        !self.hub.is_saturated()
            && self.has_space_for_deliveries()
            && !self.has_too_many_questions()
            && self.has_memory_for_requests()
    }

    /// Returns whether so few deliveries wait for full mailboxes that there may be more.
    pub(super) fn has_space_for_deliveries(&self) -> bool {
        self.stuck.deliveries <= self.bounds.stuck_bytes
    }

    fn take_request(&mut self, from: u16, request: Request, room: &str, payload: &[u8]) {
        match request {
            Request::Subscribe { subscriber, .. } => {
                if !self.hub.has_room(room) {
                    let history = self.history_of(room);
                    self.hub.set_history(room, history);
                }
                self.hub.subscribe(from, room, subscriber);
            }
            Request::Unsubscribe { .. } => self.hub.unsubscribe(from, room),
            Request::Publish { room: key, kind, origin, .. } => {
                self.order(room, key, origin, kind, payload);
            }
            Request::Members { query, .. } => {
                self.questions.push_back(Question {
                    from,
                    name: room.into(),
                    wanted: Wanted::Members(query),
                });
            }
            Request::CountUser { count, .. } => self.count_user(from, room, count),
            Request::User { action, .. } => _ = self.hub.pass_to_user(room, action, payload),
            Request::UserClients { list, .. } => {
                self.questions.push_back(Question {
                    from,
                    name: room.into(),
                    wanted: Wanted::UserClients(list),
                });
            }
            Request::Member { client, is_here, .. } => self.tell_member(room, client, is_here, payload),
            Request::Retain { begins, .. } => self.hub.retain(room, begins),
            Request::Range { subscriber, client, position, .. } => {
                self.hub.answer_range(from, room, subscriber, client, position);
            }
            Request::Session(request) => self.hub.take_session_request(*request),
            Request::Note(note) => {
                self.with_app(|app, context| app.on_ask(context, note));
            }
        }
    }

    /// Asks the application whether a message may be published to a room whose home is this shard, and gives the message
    /// its place in the room's order.
    fn order(
        &mut self,
        room: &str,
        key: Option<RoomKey>,
        origin: Origin,
        kind: Kind,
        payload: &[u8],
    ) -> Receipt {
        let sender = origin.sender.map(|sender| self.hub.identify(sender));
        let judge = |app: &mut dyn App, context: &mut Context<'_>| {
            app.on_publish_at(context, room, sender, Incoming { kind, payload })
        };
        if !self.with_app(judge).unwrap_or(false) {
            return Receipt::Refused;
        }
        self.stats.ordered.add(1);
        let message = Message::new(kind, payload);
        let position = self
            .hub
            .order_except(room, key, message, origin.except)
            .or_else(|| self.order_in_new_room(room, message));
        position.map_or(Receipt::Unheard, Receipt::Ordered)
    }

    /// Gives a message its place in a room that does not exist, if a new room keeps it as history.
    #[cold]
    fn order_in_new_room(&mut self, room: &str, message: Message<'_>) -> Option<Position> {
        let history = self.history_of(room);
        if !self.hub.keeps_history(history) {
            return None;
        }
        self.hub.set_history(room, history);
        self.hub.order(room, None, message)
    }

    fn take_delivery(&mut self, delivery: Delivery, user: &str, frames: &[u8]) {
        match delivery {
            Delivery::Snapshot(snapshot) => {
                self.hub.snapshot(&snapshot, frames);
                self.charge_replays();
            }
            Delivery::Frame { room, number, except, .. } => {
                self.hub.deliver(room, number, frames, except);
            }
            Delivery::Members(part) => {
                if let Some((members, asker)) = self.context.lists.add(*part) {
                    self.with_app(|app, context| match asker {
                        Asker::App(_) => app.on_members(context, members),
                        Asker::Function(then) => then(members),
                    });
                }
            }
            Delivery::User { action, .. } => self.act_on_user(user, action, frames),
            Delivery::UserClients(part) => {
                if let Some((user, asker)) = self.context.user_questions.take(*part) {
                    self.with_app(|app, context| match asker {
                        Asker::App(_) => app.on_user(context, user),
                        Asker::Function(then) => then(user),
                    });
                }
            }
            Delivery::Range(part) => self.take_range(&part, frames),
            Delivery::Session(reply) => self.take_session_reply(*reply),
            Delivery::Note(note) => {
                self.with_app(|app, context| app.on_tell(context, note));
            }
        }
    }

    /// Posts the waiting batches to the mailboxes of the other shards, and counts the batches that do not fit.
    pub(super) fn post(&mut self) {
        self.stuck = Stuck::default();
        let limit = self.settings.memory.mail();
        for (shard, address) in (0_u16..).zip(&self.addresses) {
            let outgoing = self.hub.outgoing(shard);
            if shard != self.settings.id.index && address.post(self.settings.id.index, outgoing, limit) {
                self.stuck.any = true;
                self.stuck.requests += outgoing.requests.weight();
                self.stuck.deliveries += outgoing.deliveries.weight();
                self.stats.mailbox_full.add(1);
            }
        }
        self.hub.weigh_outgoing();
    }

    /// Returns whether publishing clients must pause: many bytes wait for full mailboxes, or many questions for answers.
    pub(super) fn is_congested(&self) -> bool {
        self.stuck.requests + self.stuck.deliveries > self.bounds.stuck_bytes || self.has_too_many_questions()
    }

    /// Returns whether there are paused publishers that may resume, because few bytes wait for full mailboxes and no
    /// room is saturated.
    pub(super) fn may_resume_publishers(&self) -> bool {
        self.flow.publishers() > 0 && !self.is_congested() && !self.hub.is_saturated()
    }
}
