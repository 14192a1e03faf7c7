//! The hub's sends: decides which client gets which bytes next.

use crate::protocol::frame::frames;

use super::memberships::Place;
use super::room::{Slot, Visit};
use super::rooms::RoomId;
use super::{Dedicated, Encoding, Hub, Lagged, Outbound, SLICE, SPARE_OUTBOXES, Span};

/// Minimum number of members of a room that waits for more messages before it sends. A send to each of so many members
/// costs more than the wait.
const BATCHING_MIN_MEMBERS: usize = 64;
/// Maximum number of turns for which a room waits for more messages before it sends.
const BATCHING_MAX_TURNS: u32 = 16;
/// Number of turns for which the hub expects more messages after a turn with several messages.
const BUSY_TURNS: u32 = 32;

impl Hub {
    /// Returns the next bytes to send to a client. The client gets nothing more until [`Hub::sent`]. `budget` is the
    /// number of clients that may still be checked. `None` when nothing is to be sent now, or `budget` is used up.
    pub fn poll_send(&mut self, budget: &mut usize) -> Option<Outbound> {
        while *budget > 0 {
            *budget -= 1;
            if let Some(slot) = self.ready.pop_front() {
                self.clients[slot as usize].queued = false;
                if let Some(outbound) = self.next_for(slot) {
                    return Some(outbound);
                }
                continue;
            }
            if self.batched_turns > 0 {
                return None;
            }
            let Some(id) = self.rooms.resolve(*self.passes.front()?) else {
                self.next_pass();
                continue;
            };
            if self.slice == 0 {
                self.slice = SLICE;
                self.passes.rotate_left(1);
                continue;
            }
            self.slice -= 1;
            let clients = &self.clients;
            match self.rooms[id].visit(|slot| clients[slot as usize].is_busy()) {
                Visit::Send(slot, span, count) => {
                    if self.clients[slot as usize].memberships.is_many()
                        && let Some(index) = self.rooms[id].visited()
                    {
                        self.owe_rest(id, index);
                    }
                    return Some(self.start_sending(slot, span, count));
                }
                Visit::Lagged(slot, missed) => self.lag(slot, missed),
                Visit::Busy(slot, place) => self.owe(slot, place),
                Visit::Nothing => {}
                Visit::Over => self.finish_pass(id),
            }
        }
        None
    }

    /// Decides whether rooms wait before they send. While several messages arrive in every turn, a room with many
    /// members waits for some turns, so that each member gets the messages in one send. Call this method once a turn,
    /// before [`Hub::poll_send`].
    pub fn update_batching(&mut self) {
        let new_messages = std::mem::take(&mut self.new_messages);
        let room = self.passes.front().and_then(|key| self.rooms.resolve(*key)).map(|id| &self.rooms[id]);
        let has_many = room.is_some_and(|room| room.members.len() >= BATCHING_MIN_MEMBERS);
        let waits = new_messages > 1 && has_many && self.batched_turns < BATCHING_MAX_TURNS;
        self.batched_turns = if waits { self.batched_turns + 1 } else { 0 };
        self.busy_turns = if new_messages > 1 { BUSY_TURNS } else { self.busy_turns.saturating_sub(1) };
    }

    /// Returns whether several messages came in one of the last turns. Then the hub expects more messages soon.
    pub fn is_busy(&self) -> bool {
        self.busy_turns > 0
    }

    /// Returns whether clients or rooms are queued for sends in a later turn.
    pub fn has_more(&self) -> bool {
        !self.ready.is_empty() || !self.passes.is_empty()
    }

    /// Completes the client's send in flight, and queues the client if more is pending for it.
    pub fn sent(&mut self, slot: Slot) {
        let client = &mut self.clients[slot as usize];
        client.sending = false;
        if let Some(mut drained) = client.outbox.take_if(|outbox| outbox.len() == 0)
            && drained.reset(&mut self.spare_chunks)
            && self.spare_outboxes.len() < SPARE_OUTBOXES
        {
            self.spare_outboxes.push(drained);
        }
        if self.must_serve(slot) {
            self.queue_client(slot);
        }
    }

    /// Returns whether the client must be served before the passes over its rooms. Messages in the last chunk of a room
    /// with a queued pass wait for that pass. Without the wait, the clients served first would need a send for each
    /// message.
    fn must_serve(&mut self, slot: Slot) -> bool {
        let Self { clients, rooms, .. } = self;
        let client = &mut clients[slot as usize];
        let mut at_once = client.outbox.as_ref().is_some_and(|outbox| outbox.len() > 0);
        let Some(many) = client.memberships.many() else {
            for membership in client.memberships.few() {
                at_once |= rooms[membership.room].owes_at_once(membership.index);
            }
            return at_once;
        };
        // Each queued room is looked at until one must not wait, so the work is constant for each time a room is queued.
        while !at_once && let Some((membership, _)) = many.first_owed() {
            at_once = rooms[membership.room].owes_at_once(membership.index);
            if !at_once {
                many.settle_first();
            }
        }
        at_once
    }

    /// Returns the next report about a client that lagged. Unless the caller closes the client, it continues with the
    /// newest messages. The next message to the client counts as the notice about the missed messages.
    pub fn poll_lagged(&mut self) -> Option<Lagged> {
        while let Some((number, lagged)) = self.lagged.pop_front() {
            if self.clients[lagged.slot as usize].number == number {
                self.outbox(lagged.slot).0.tell(lagged.missed);
                return Some(lagged);
            }
        }
        None
    }

    /// Returns whether a message was published to a saturated room since the last call. Its publisher must wait before
    /// it publishes more.
    pub fn take_overload(&mut self) -> bool {
        std::mem::take(&mut self.overloaded)
    }

    /// Returns whether any room is saturated: too many bytes were not offered to all members, so publishers must wait.
    pub fn is_saturated(&self) -> bool {
        self.saturated > 0
    }
}

impl Hub {
    fn next_pass(&mut self) {
        self.passes.pop_front();
        self.slice = SLICE;
    }

    fn finish_pass(&mut self, id: RoomId) {
        self.next_pass();
        let lag_window = self.options.lag_window;
        let kept = if self.has_too_much_history() { u64::MAX } else { self.kept_from(id) };
        let room = &mut self.rooms[id];
        room.queued = room.finish_pass(lag_window, kept);
        if room.queued {
            self.passes.push_back(room.key);
        }
        if room.saturated && !room.is_saturated(lag_window) {
            room.saturated = false;
            self.saturated -= 1;
        }
        if !room.queued {
            self.set_timer(id);
        }
        self.weigh(id);
    }

    /// Starts the client's next send: from the outbox if that has bytes, otherwise from the client's rooms in turn.
    /// `None` if a send is in flight or nothing is pending.
    fn next_for(&mut self, slot: Slot) -> Option<Outbound> {
        let mut client = &mut self.clients[slot as usize];
        if client.sending {
            return None;
        }
        if let Some((span, framed, count)) =
            client.outbox.as_mut().and_then(|outbox| outbox.pop(self.watched_ms))
        {
            return Some(match framed {
                true => self.start_sending(slot, span, count),
                false => self.hand_over(slot, span, count),
            });
        }
        if client.memberships.is_many() {
            return self.next_owed(slot);
        }
        for _ in 0..client.memberships.len() {
            let memberships = client.memberships.few();
            let membership = memberships[0];
            memberships.rotate_left(1);
            match self.rooms[membership.room].take(membership.index as usize) {
                Visit::Send(slot, span, count) => return Some(self.start_sending(slot, span, count)),
                Visit::Lagged(slot, missed) => {
                    self.lag(slot, missed);
                    client = &mut self.clients[slot as usize];
                }
                Visit::Busy(..) | Visit::Nothing | Visit::Over => {}
            }
        }
        None
    }

    /// Starts the next send to a client in many rooms, from the first of the rooms that are queued for it.
    fn next_owed(&mut self, slot: Slot) -> Option<Outbound> {
        loop {
            let many = self.clients[slot as usize].memberships.many()?;
            let (membership, place) = many.first_owed()?;
            many.settle_first();
            let room = &mut self.rooms[membership.room];
            match room.take(membership.index as usize) {
                Visit::Send(slot, span, count) => {
                    if !room.is_current(&room.members[membership.index as usize]) {
                        many.owe(place);
                    }
                    return Some(self.start_sending(slot, span, count));
                }
                Visit::Lagged(slot, missed) => self.lag(slot, missed),
                Visit::Busy(..) | Visit::Nothing | Visit::Over => {}
            }
        }
    }

    /// Queues room `id` for the client of its member at `index`, if the client is in many rooms and the room has
    /// messages for it. The caller queues the client or starts a send to it.
    pub(super) fn owe_rest(&mut self, id: RoomId, index: usize) {
        let room = &self.rooms[id];
        let member = &room.members[index];
        if let Some(place) = member.place().filter(|_| !room.is_current(member)) {
            self.owe(member.slot, place);
        }
    }

    fn owe(&mut self, slot: Slot, place: Place) {
        if let Some(many) = self.clients[slot as usize].memberships.many() {
            many.owe(place);
        }
    }

    /// Starts a send of frames to the client, compressed first for [`Encoding::Dedicated`].
    fn start_sending(&mut self, slot: Slot, span: Span, messages: u64) -> Outbound {
        if self.clients[slot as usize].encoding == Encoding::Dedicated {
            let span = self.compress_for(slot, span);
            return self.hand_over(slot, span, messages);
        }
        self.hand_over(slot, span, messages)
    }

    #[inline]
    fn hand_over(&mut self, slot: Slot, span: Span, messages: u64) -> Outbound {
        let client = &mut self.clients[slot as usize];
        client.sending = true;
        if client.has_session && messages > 0 {
            self.schedule_ping(slot);
        }
        let is_last = self.clients[slot as usize].finished && !self.has_pending(slot);
        Outbound { slot, span, messages, is_last }
    }

    /// Compresses frames for one client with [`Encoding::Dedicated`]. Runs when the frames leave, because each may
    /// refer to frames that left before.
    fn compress_for(&mut self, slot: Slot, span: Span) -> Span {
        let Some(Dedicated { window, takeover }) = self.dedicated.get_mut(&slot) else { return span };
        let mut compressed = Vec::with_capacity(span.len());
        for frame in frames(span.bytes()) {
            compressed.extend_from_slice(self.deflater.compress_within(frame.whole, window, *takeover));
        }
        if compressed.len() == span.len() { span } else { Span::copy_of(&compressed) }
    }

    /// Returns whether the client's outbox or one of its rooms has something not yet handed out to the client. Looks at
    /// every room of the client; a finished client has none.
    pub(super) fn has_pending(&self, slot: Slot) -> bool {
        let client = &self.clients[slot as usize];
        client.outbox.as_ref().is_some_and(|outbox| outbox.len() > 0)
            || client.memberships.iter().any(|membership| {
                let room = &self.rooms[membership.room];
                !room.is_current(&room.members[membership.index as usize])
            })
    }

    /// Queues the client for the next [`Hub::poll_send`], unless it is queued or has a send in flight.
    pub(super) fn queue_client(&mut self, slot: Slot) {
        let client = &mut self.clients[slot as usize];
        if !client.queued && !client.sending {
            client.queued = true;
            self.ready.push_back(slot);
        }
    }

    pub(super) fn lag(&mut self, slot: Slot, missed: u64) {
        let number = self.clients[slot as usize].number;
        self.lagged.push_back((number, Lagged { slot, missed }));
        if self.clients[slot as usize].has_session {
            self.forget_ping(slot);
        }
    }
}
