//! Flow control: decides which client's input is handled now, and which must wait.
//!
//! A client is paused for one or more reasons, see [`Pause`]. The shard does not receive from a paused client, so TCP
//! slows down its sender. Input that arrived before the pause is held here, and handled in order later.
//!
//! - **In:** the shard asks [`Flow::admit`] about every buffer. A buffer that must wait goes to [`Flow::hold`].
//!   [`Flow::pause`] adds a reason. It returns true when the backend must pause the client, too.
//! - **Out:** [`Flow::take_due`] returns the clients for whom a reason may be over, and [`Flow::lift`] removes it. Then
//!   [`Flow::next`] returns one step at a time, until the step is to wait or to receive from the client again.

use std::collections::{HashMap, VecDeque};

use crate::hub::Slot;
use crate::timers::Timers;

use super::pace::{Pace, Spent};

/// Maximum number of receive buffers of one client that are handled in one turn, so that a flood does not delay other
/// clients.
const SHARE: u8 = 2;
/// Number of low bits of [`ClientFlow::share`] that count buffers. The higher bits hold the low bits of the turn's
/// number.
const SHARE_BITS: u32 = 3;
/// Rate limit of a closing client: 16 MiB at once, then 4 MiB a second. The burst covers data that was under way before
/// the client saw the close frame. The client's answer to the close frame comes after that data.
const CLOSING_PACE: Pace = Pace { messages: 0, bytes: 4 << 20 };

/// A reason not to receive from a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pause {
    /// Pause reason: the client has left too many bytes of answers unread.
    Unread = 1,
    /// Pause reason: messages that the client publishes cannot be passed on to other shards yet.
    Congestion = 2,
    /// Pause reason: the client is over its message rate or its byte rate.
    Rate = 4,
    /// Pause reason: the client has sent something behind a request that waits for a deferred answer.
    Answer = 32,
    /// Pause reason: the client has used up its share of buffers or of time in this turn, or all clients together have
    /// used up the time that the turn has for input.
    Share = 8,
    /// Pause reason: the shard holds too much memory for its clients.
    Memory = 16,
}

/// Input of a paused client, held until the client resumes.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Input {
    /// Bytes received from the client.
    Bytes(Vec<u8>),
    /// The client ended its direction of the stream (FIN).
    End,
}

/// The decision about a received buffer: see [`Flow::admit`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Handle the buffer now.
    Handle,
    /// Hold the buffer. The client is paused already.
    Hold,
    /// Hold the buffer and let the backend pause the client.
    PauseAndHold,
}

/// The next step for a client that was paused, after a pause reason was lifted.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Handle this held input.
    Handle(Input),
    /// Wait, because a pause reason remains or was added.
    Wait,
    /// Receive from the client again, because no input is held.
    Receive,
}

/// The flow control state of one client, stored in its connection. Only [`Flow`] changes it.
// Packed, so that padding does not make a connection larger.
#[derive(Clone, Copy, Debug, Default)]
#[repr(Rust, packed(2))]
pub(crate) struct ClientFlow {
    /// The used part of the client's message rate and byte rate.
    spent: Spent,
    /// The client's current pause reasons: a bit set of [`Pause`] values.
    pauses: u8,
    /// Number of buffers handled in the last turn that handled any. Above [`SHARE_BITS`], the low bits of that turn's
    /// number.
    share: u8,
}

/// The flow control of all clients of a shard.
#[derive(Debug, Default)]
pub(super) struct Flow {
    /// Input of paused clients, oldest first. Held input has produced no answers yet, so a pause alone never makes a
    /// client lag.
    held: HashMap<Slot, VecDeque<Input>>,
    /// Number of bytes in `held`.
    held_bytes: usize,
    /// Queue of clients paused with [`Pause::Share`], which resume in the next turns, in this order.
    served: Vec<Slot>,
    /// Clients paused with [`Pause::Congestion`], which resume when mailboxes have room.
    publishers: Vec<Slot>,
    /// Deadlines at which clients paused with [`Pause::Rate`] may resume.
    rate_timers: Timers<Slot>,
}

impl ClientFlow {
    /// Returns whether the client is paused for any reason.
    pub(super) fn is_held(&self) -> bool {
        self.pauses != 0
    }

    pub(crate) fn is_paused(&self, reason: Pause) -> bool {
        self.pauses & reason as u8 != 0
    }

    /// Charges a client for received messages or requests, and bytes. Returns true when the client is over a rate.
    pub(super) fn charge(&mut self, pace: Pace, now_ms: u64, messages: u32, bytes: usize) -> bool {
        let mut spent = self.spent;
        let is_over = pace.charge(&mut spent, now_ms, messages, bytes);
        self.spent = spent;
        is_over
    }

    /// Forgets what the client was charged for.
    pub(super) fn forget_spent(&mut self) {
        self.spent = Spent::default();
    }

    /// Charges a closing client for received bytes. Returns true when the client is over [`CLOSING_PACE`].
    pub(super) fn charge_closing(&mut self, now_ms: u64, bytes: usize) -> bool {
        self.charge(CLOSING_PACE, now_ms, 0, bytes)
    }

    /// Returns the number of milliseconds until the client is within its rates again; 0 when the client may go on.
    pub(super) fn rate_wait_ms(&self, now_ms: u64) -> u64 {
        Pace::wait_ms(self.spent, now_ms)
    }

    /// Counts a buffer against the client's share of the turn. Returns false when the share is used up.
    fn take_share(&mut self, turn: u8) -> bool {
        if self.share >> SHARE_BITS != turn & (u8::MAX >> SHARE_BITS) {
            self.share = turn << SHARE_BITS;
        }
        let has_share = self.share & ((1 << SHARE_BITS) - 1) < SHARE;
        self.share += u8::from(has_share);
        has_share
    }
}

impl Flow {
    /// Decides whether a buffer of a client is handled in this turn or held. Pauses the client when its share is used
    /// up. `has_time` says whether the turn has time for more input.
    pub(super) fn admit(&mut self, slot: Slot, client: &mut ClientFlow, turn: u8, has_time: bool) -> Verdict {
        if client.is_held() {
            return Verdict::Hold;
        }
        if has_time && client.take_share(turn) {
            return Verdict::Handle;
        }
        self.pause(slot, client, Pause::Share);
        Verdict::PauseAndHold
    }

    /// Holds received bytes of a paused client until the client resumes.
    pub(super) fn hold(&mut self, slot: Slot, bytes: Vec<u8>) {
        self.held_bytes += bytes.len();
        self.held.entry(slot).or_default().push_back(Input::Bytes(bytes));
    }

    /// Holds the rest of a client's buffer that was handled in part, in front of already held input.
    pub(super) fn hold_rest(&mut self, slot: Slot, bytes: Vec<u8>) {
        self.held_bytes += bytes.len();
        self.held.entry(slot).or_default().push_front(Input::Bytes(bytes));
    }

    /// Returns whether input of a client is held.
    pub(super) fn has_held(&self, slot: Slot) -> bool {
        self.held.get(&slot).is_some_and(|held| !held.is_empty())
    }

    /// Holds the end of the client's stream behind the client's held bytes. Returns false when no bytes are held.
    pub(super) fn hold_end(&mut self, slot: Slot) -> bool {
        let Some(held) = self.held.get_mut(&slot) else { return false };
        held.push_back(Input::End);
        true
    }

    /// Adds a pause reason to a client. Returns true when the client had no other reason, so that the backend must
    /// pause it.
    pub(super) fn pause(&mut self, slot: Slot, client: &mut ClientFlow, reason: Pause) -> bool {
        let is_first = !client.is_held();
        if !client.is_paused(reason) {
            client.pauses |= reason as u8;
            match reason {
                Pause::Share => self.served.push(slot),
                Pause::Congestion => self.publishers.push(slot),
                Pause::Unread | Pause::Rate | Pause::Answer | Pause::Memory => {}
            }
        }
        is_first
    }

    /// Adds [`Pause::Rate`] to a client until it is within its rates again. Returns true when the backend must pause
    /// the client.
    pub(super) fn pause_for_rate(&mut self, slot: Slot, client: &mut ClientFlow, now_ms: u64) -> bool {
        self.rate_timers.set(now_ms + client.rate_wait_ms(now_ms), slot);
        self.pause(slot, client, Pause::Rate)
    }

    /// Resets the rate account of a client for its closing handshake. A client that is paused for its rate resumes
    /// soon, because its own close frame may be among the held input.
    pub(super) fn begin_closing(&mut self, slot: Slot, client: &mut ClientFlow, now_ms: u64) {
        client.spent = Spent::default();
        if client.is_paused(Pause::Rate) {
            self.rate_timers.set(now_ms, slot);
        }
    }

    /// Removes and returns the clients for whom this pause reason may be over. Some clients may be gone, with their
    /// slots in use by others. Returns none for [`Pause::Unread`], which ends when a send completes, and for
    /// [`Pause::Answer`], which ends with the answer, and for [`Pause::Memory`], whose queues are in `Memory`.
    pub(super) fn take_due(&mut self, reason: Pause, now_ms: u64) -> Vec<Slot> {
        match reason {
            Pause::Share => std::mem::take(&mut self.served),
            Pause::Congestion => std::mem::take(&mut self.publishers),
            Pause::Rate => std::iter::from_fn(|| self.rate_timers.expired(now_ms)).flatten().collect(),
            Pause::Unread | Pause::Answer | Pause::Memory => Vec::new(),
        }
    }

    /// Puts clients that [`Flow::take_due`] returned for [`Pause::Share`] back to the front of the queue, because the
    /// turn's time was over before they had their turn.
    pub(super) fn put_back_served(&mut self, rest: Vec<Slot>) {
        let added = std::mem::replace(&mut self.served, rest);
        self.served.extend(added);
    }

    /// Removes a pause reason from a client. Returns false when the client did not have the reason.
    pub(super) fn lift(&mut self, client: &mut ClientFlow, reason: Pause) -> bool {
        let was_paused = client.is_paused(reason);
        client.pauses &= !(reason as u8);
        was_paused
    }

    /// Returns the next step for a client that the backend has paused. Call this until it returns no input. `has_time`
    /// says whether the turn has time for held input.
    pub(super) fn next(&mut self, slot: Slot, client: &mut ClientFlow, turn: u8, has_time: bool) -> Next {
        if client.is_held() {
            return Next::Wait;
        }
        let first = self.held.get(&slot).and_then(VecDeque::front);
        if matches!(first, Some(Input::Bytes(_))) && !(has_time && client.take_share(turn)) {
            self.pause(slot, client, Pause::Share);
            return Next::Wait;
        }
        match self.held.get_mut(&slot).and_then(VecDeque::pop_front) {
            Some(Input::Bytes(bytes)) => {
                self.held_bytes -= bytes.len();
                Next::Handle(Input::Bytes(bytes))
            }
            // No input follows the end of the stream.
            Some(Input::End) => {
                self.held.remove(&slot);
                Next::Handle(Input::End)
            }
            None => {
                self.held.remove(&slot);
                Next::Receive
            }
        }
    }

    /// Drops the flow control state of a connection that is gone.
    pub(super) fn forget(&mut self, slot: Slot, client: ClientFlow) {
        if client.is_paused(Pause::Congestion) {
            self.publishers.retain(|other| *other != slot);
        }
        self.drop_held(slot);
    }

    /// Drops the held input of a client.
    pub(super) fn drop_held(&mut self, slot: Slot) {
        self.held_bytes -= self.held_bytes_of(slot);
        self.held.remove(&slot);
    }

    /// Returns the number of held bytes of one client.
    pub(super) fn held_bytes_of(&self, slot: Slot) -> usize {
        let len = |input: &Input| if let Input::Bytes(bytes) = input { bytes.len() } else { 0 };
        self.held.get(&slot).map_or(0, |held| held.iter().map(len).sum())
    }

    /// Returns whether any client is paused with [`Pause::Share`].
    pub(super) fn has_served(&self) -> bool {
        !self.served.is_empty()
    }

    /// Returns the number of clients paused with [`Pause::Congestion`].
    pub(super) fn publishers(&self) -> usize {
        self.publishers.len()
    }

    /// Drops the list of paused publishers without resuming them: a fault that the simulation injects.
    #[cfg(test)]
    pub(super) fn forget_publishers(&mut self) {
        self.publishers.clear();
    }

    /// Returns the number of clients with held input.
    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        self.held.len()
    }

    /// Returns the number of held bytes of all clients.
    pub(super) fn held_bytes(&self) -> usize {
        self.held_bytes
    }

    /// Returns the next time, in milliseconds, at which a client may be within its rates again. `None` without such a
    /// client.
    pub(super) fn next_due_ms(&self) -> Option<u64> {
        self.rate_timers.next_due_ms()
    }
}
