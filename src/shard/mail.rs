//! Mail: what shards tell each other, and the brakes that keep it bounded.

use crate::hub::{Delivery, Message, Request};
use crate::io::Backend;

use super::Shard;
use super::connection::Pause;

/// What other shards' mailboxes have not taken yet.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Stuck {
    /// Whether there is anything.
    pub(super) any: bool,
    /// Bytes of requests.
    requests: usize,
    /// Bytes of deliveries.
    deliveries: usize,
}

impl<B: Backend> Shard<B> {
    /// Whether there is mail that would be taken now.
    pub(super) fn has_mail(&self) -> bool {
        let saturated = self.hub.is_saturated();
        !saturated
            && (!self.mailbox.deliveries.is_empty() || self.takes_requests() && self.mailbox.has_mail())
    }

    /// Takes what other shards, and this one, have for us, as much as there is now. While a room's members have not been offered what is
    /// there already, mail waits: that ends by itself, as offering waits for no client. Requests wait also while
    /// many deliveries are stuck, as they would make more of them; not while requests are, or two shards could wait
    /// for each other.
    pub(super) fn take_mail(&mut self) {
        let mut took = false;
        for _ in 0..self.mailbox.deliveries.len() {
            if self.hub.is_saturated() {
                break;
            }
            let Ok(mut batch) = self.mailbox.deliveries.try_recv() else { break };
            batch.drain(|delivery, bytes| self.take_delivery(delivery, bytes));
            took = true;
        }
        for _ in 0..self.mailbox.requests.len() {
            if !self.takes_requests() {
                break;
            }
            let Ok((from, mut batch)) = self.mailbox.requests.try_recv() else { break };
            batch.drain(|request, bytes| self.take_request(from, request, bytes));
            took = true;
        }
        self.take_own();
        if took && self.mailbox.take_awaited() {
            for address in &self.addresses {
                address.wake();
            }
        }
    }

    /// What this shard is to order or answer for itself. It comes once round, so that what it leads to waits
    /// for the next turn.
    fn take_own(&mut self) {
        let own = self.settings.shard;
        let mut batch = std::mem::take(self.hub.outgoing(own));
        batch.requests.drain(|request, bytes| self.take_request(own, request, bytes));
        batch.deliveries.absorb(&mut self.hub.outgoing(own).deliveries);
        batch.deliveries.drain(|delivery, bytes| self.take_delivery(delivery, bytes));
        let waiting = self.hub.outgoing(own);
        if waiting.requests.is_empty() && waiting.deliveries.is_empty() {
            // The emptied batch is as good as a new one, and has its memory.
            *waiting = batch;
        }
    }

    fn takes_requests(&self) -> bool {
        !self.hub.is_saturated() && self.stuck.deliveries <= self.bounds.stuck_bytes
    }

    fn take_request(&mut self, from: u16, request: Request, bytes: &[u8]) {
        match request {
            Request::Subscribe { .. } => self.hub.subscribe(from, text(bytes)),
            Request::Unsubscribe { .. } => self.hub.unsubscribe(from, text(bytes)),
            Request::Publish { name_len, kind, .. } => {
                let (name, payload) = bytes.split_at(name_len);
                let room = text(name);
                if self.with_app(|app, _| app.on_publish(room, kind, payload)).unwrap_or(false) {
                    self.stats.ordered.add(1);
                    self.hub.order(room, Message::new(kind, payload));
                }
            }
            Request::Note(note) => {
                self.with_app(|app, context| app.on_ask(context, note));
            }
        }
    }

    fn take_delivery(&mut self, delivery: Delivery, bytes: &[u8]) {
        match delivery {
            Delivery::Snapshot { name_len, first, frame_lens } => {
                let (name, mut frames) = bytes.split_at(name_len);
                let frames = frame_lens.iter().map(|len| {
                    let (frame, rest) = frames.split_at(*len as usize);
                    frames = rest;
                    frame
                });
                self.hub.snapshot(text(name), first, frames);
            }
            Delivery::Frame { name_len, number, .. } => {
                let (name, frame) = bytes.split_at(name_len);
                self.hub.deliver(text(name), number, frame);
            }
            Delivery::Note(note) => {
                self.with_app(|app, context| app.on_tell(context, note));
            }
        }
    }

    /// Hands the gathered mail to the other shards.
    pub(super) fn post(&mut self) {
        self.stuck = Stuck::default();
        for (shard, address) in (0_u16..).zip(&self.addresses) {
            let outgoing = self.hub.outgoing(shard);
            if shard != self.settings.shard && address.post(self.settings.shard, outgoing) {
                self.stuck.any = true;
                self.stuck.requests += outgoing.requests.weight();
                self.stuck.deliveries += outgoing.deliveries.weight();
                self.stats.mailbox_full.add(1);
            }
        }
    }

    /// Whether so much waits for other shards that what a client publishes now should wait, too.
    pub(super) fn is_congested(&self) -> bool {
        self.stuck.requests + self.stuck.deliveries > self.bounds.stuck_bytes
    }

    /// Whether there are publishers that need not wait any longer: what they had published is on its way.
    pub(super) fn may_resume_publishers(&self) -> bool {
        !self.paused.is_empty() && !self.is_congested() && !self.hub.is_saturated()
    }

    /// Receives from them again, and handles what had come by then. That leads to mail, so it is done before mail is posted.
    pub(super) fn resume_publishers(&mut self) {
        if !self.may_resume_publishers() {
            return;
        }
        for slot in std::mem::take(&mut self.paused) {
            if self.connections[slot as usize].is_paused(Pause::Published) {
                self.listen_again(slot, Pause::Published);
            }
        }
    }
}

/// Names of rooms come from `&str`, so they are UTF-8.
fn text(bytes: &[u8]) -> &str {
    str::from_utf8(bytes).expect("our shards send names as text")
}
