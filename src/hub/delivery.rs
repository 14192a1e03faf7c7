//! The hub's sends: who gets what next.

use super::room::{Slot, Visit};
use super::rooms::RoomId;
use super::{
    BUSY_TURNS, CROWD, Compression, GATHER_TURNS, Hub, Lagged, Options, Outbound, Own, SLICE, SPARE_OUTBOXES,
    Span,
};
use crate::protocol::frame::frames;

impl Hub {
    /// The next bytes to send, or `None` when there is none or `budget`, the number of clients to look at, is
    /// used up. Each client gets nothing further until [`Hub::sent`].
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
            if self.gathered > 0 {
                return None;
            }
            let (id, serial) = *self.passes.front()?;
            if self.rooms.get(id).is_none_or(|room| room.serial != serial) {
                self.next_pass();
                continue;
            }
            if self.slice == 0 {
                self.slice = SLICE;
                self.passes.rotate_left(1);
                continue;
            }
            self.slice -= 1;
            let clients = &self.clients;
            match self.rooms[id].visit(|slot| clients[slot as usize].is_busy()) {
                Visit::Send(slot, span, count) => return Some(self.start_sending(slot, span, count)),
                Visit::Lagged(slot, missed) => self.lag(slot, missed),
                Visit::Nothing => {}
                Visit::Over => self.finish_pass(id),
            }
        }
        None
    }

    /// To be called once a turn, before [`Hub::poll_send`]. While several messages come in every turn, a room with many
    /// members waits for a few turns, so that each member gets them with one send.
    pub fn gather(&mut self) {
        let came = std::mem::take(&mut self.came);
        let room = self.passes.front().and_then(|(id, _)| self.rooms.get(*id));
        let is_crowd = room.is_some_and(|room| room.members.len() >= CROWD);
        let goes_on = came > 1 && is_crowd && self.gathered < GATHER_TURNS;
        self.gathered = if goes_on { self.gathered + 1 } else { 0 };
        self.busy_turns = if came > 1 { BUSY_TURNS } else { self.busy_turns.saturating_sub(1) };
    }

    /// Whether several messages came in one of the last turns, so that further ones are likely.
    pub fn is_busy(&self) -> bool {
        self.busy_turns > 0
    }

    /// Whether [`Hub::poll_send`] stopped for its budget alone.
    pub fn has_more(&self) -> bool {
        !self.ready.is_empty() || !self.passes.is_empty()
    }

    /// The backend took all of the client's last [`Outbound`]. True when nothing more is owed for now.
    pub fn sent(&mut self, slot: Slot) -> bool {
        let client = &mut self.clients[slot as usize];
        client.sending = false;
        if let Some(mut drained) = client.outbox.take_if(|outbox| outbox.len() == 0)
            && drained.reset(&mut self.spare_chunks)
            && self.spare.len() < SPARE_OUTBOXES
        {
            self.spare.push(drained);
        }
        !self.serve_again(slot)
    }

    /// Sees to it that a client gets what has gathered for it, if anything has. What the end of a room's log owes it
    /// comes with the room's pass where there is one: served at once, each message would take a send to those who were
    /// served first.
    fn serve_again(&mut self, slot: Slot) -> bool {
        let client = &self.clients[slot as usize];
        let mut at_once = client.outbox.as_ref().is_some_and(|outbox| outbox.len() > 0);
        let mut is_owed = at_once;
        for seat in &client.seats {
            let room = &mut self.rooms[seat.room];
            if room.is_current(&room.members[seat.index as usize]) {
                continue;
            }
            let can_gather = room.queued && room.is_nearly_current(&room.members[seat.index as usize]);
            room.revisit |= can_gather;
            at_once |= !can_gather;
            is_owed = true;
        }
        if at_once {
            self.look_at(slot);
        }
        is_owed
    }

    /// The next client that lagged. It has missed messages and goes on with the newest ones, if nothing is done.
    /// What it is sent next is taken to tell it so.
    pub fn poll_lagged(&mut self) -> Option<Lagged> {
        while let Some((number, lagged)) = self.lagged.pop_front() {
            if self.clients[lagged.slot as usize].number == number {
                self.outbox(lagged.slot).0.tell(lagged.missed);
                return Some(lagged);
            }
        }
        None
    }

    /// Whether one of the client's own rooms asks publishers to wait.
    pub fn is_saturated_for(&self, slot: Slot) -> bool {
        self.saturated > 0
            && self.clients[slot as usize].seats.iter().any(|seat| self.rooms[seat.room].saturated)
    }

    /// Whether publishers should wait, since a room's members have not been offered what is there already.
    pub fn is_saturated(&self) -> bool {
        self.saturated > 0
    }
}

impl Hub {
    pub(super) fn next_pass(&mut self) {
        self.passes.pop_front();
        self.slice = SLICE;
    }

    pub(super) fn finish_pass(&mut self, id: RoomId) {
        self.next_pass();
        let Options { lag_window, history, mut history_bytes, .. } = self.options;
        if self.has_too_much_history() {
            history_bytes = 0;
        }
        let room = &mut self.rooms[id];
        room.queued = room.finish_pass(lag_window, history, history_bytes);
        if room.queued {
            self.passes.push_back((id, room.serial));
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

    /// What this client is owed next: its own first, then its rooms in turn.
    pub(super) fn next_for(&mut self, slot: Slot) -> Option<Outbound> {
        let client = &mut self.clients[slot as usize];
        if client.sending {
            return None;
        }
        if let Some((span, framed, count)) = client.outbox.as_mut().and_then(|outbox| outbox.pop(self.now_ms))
        {
            return Some(match framed {
                true => self.start_sending(slot, span, count),
                false => self.hand_over(slot, span, count),
            });
        }
        for _ in 0..client.seats.len() {
            let seat = client.seats[0];
            client.seats.rotate_left(1);
            match self.rooms[seat.room].take(seat.index as usize) {
                Visit::Send(slot, span, count) => return Some(self.start_sending(slot, span, count)),
                Visit::Lagged(slot, missed) => {
                    self.lagged.push_back((client.number, Lagged { slot, missed }));
                }
                Visit::Nothing | Visit::Over => {}
            }
        }
        None
    }

    /// Sends frames, in the form that was agreed with the client.
    pub(super) fn start_sending(&mut self, slot: Slot, span: Span, messages: u64) -> Outbound {
        let span = match self.clients[slot as usize].compression {
            Compression::Own => self.pack_for(slot, span),
            Compression::Plain | Compression::Shared => span,
        };
        self.hand_over(slot, span, messages)
    }

    fn hand_over(&mut self, slot: Slot, span: Span, messages: u64) -> Outbound {
        let client = &mut self.clients[slot as usize];
        client.sending = true;
        let is_last = client.finished && !self.is_owed(slot);
        Outbound { slot, span, messages, is_last }
    }

    /// Compresses frames for one client as they leave, since each may refer to what left before it.
    fn pack_for(&mut self, slot: Slot, span: Span) -> Span {
        let Some(Own { window, takeover }) = self.own.get_mut(&slot) else { return span };
        let mut packed = Vec::with_capacity(span.len());
        for frame in frames(span.bytes()) {
            packed.extend_from_slice(self.deflater.pack_within(frame.whole, window, *takeover));
        }
        if packed.len() == span.len() { span } else { Span::copy_of(&packed) }
    }

    pub(super) fn is_owed(&self, slot: Slot) -> bool {
        let client = &self.clients[slot as usize];
        client.outbox.as_ref().is_some_and(|outbox| outbox.len() > 0)
            || client.seats.iter().any(|seat| {
                let room = &self.rooms[seat.room];
                !room.is_current(&room.members[seat.index as usize])
            })
    }

    /// Has the client looked at by the next [`Hub::poll_send`].
    pub(super) fn look_at(&mut self, slot: Slot) {
        let client = &mut self.clients[slot as usize];
        if !client.queued && !client.sending {
            client.queued = true;
            self.ready.push_back(slot);
        }
    }

    pub(super) fn lag(&mut self, slot: Slot, missed: u64) {
        let number = self.clients[slot as usize].number;
        self.lagged.push_back((number, Lagged { slot, missed }));
    }
}
