//! Flow control: whose input is handled now, and whose has to wait.
//!
//! A client is paused for one or more reasons, see [`Pause`]. The shard does not receive from a paused client, so TCP
//! slows down its sender. Input that the backend had received before is held here, and handled in order later.
//!
//! - **In:** the shard asks [`Flow::admit`] about every buffer and gives the buffer to [`Flow::hold`] when it must
//!   wait. [`Flow::pause`] adds a reason. It returns true when the backend must be told to pause, too.
//! - **Out:** [`Flow::take_due`] returns the clients for whom a reason may be over, and [`Flow::lift`] removes it. Then
//!   [`Flow::next`] returns what to do, again and again, until it says that the client waits or is received from.

use std::collections::{HashMap, VecDeque};

use crate::hub::Slot;
use crate::timers::Timers;

use super::pace::{Pace, Spent};

/// Receive buffers of one client that are handled in one turn, so that a flood does not delay other clients.
const SHARE: u8 = 2;
/// Bits of [`ClientFlow::share`] that count buffers; the bits above them hold the number of the turn.
const SHARE_BITS: u32 = 3;
/// Rate of a client that is being closed. It may send 16 MiB at once, more than was on its way before it could know,
/// and then 4 MiB a second. Its answer to our close frame comes after that data.
const CLOSING_PACE: Pace = Pace { messages: 0, bytes: 4 << 20 };

/// A reason not to receive from a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pause {
    /// The client does not read its answers.
    Unread = 1,
    /// Messages that it publishes cannot be passed on yet.
    Congestion = 2,
    /// It is over one of its rates.
    Rate = 4,
    /// It has had its share of the turn.
    Share = 8,
}

/// Input of a client that is held.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Input {
    /// Bytes that arrived.
    Bytes(Vec<u8>),
    /// The end of the client's direction of the stream.
    End,
}

/// The answer to whether a buffer may be handled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is to be handled now.
    Handle,
    /// It is to be held; the client is paused already.
    Hold,
    /// It is to be held, and the backend is to be told to pause the client.
    PauseAndHold,
}

/// What to do next for a client after a reason was lifted.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Handle this input.
    Handle(Input),
    /// Nothing: a reason to pause is left, or has come.
    Wait,
    /// Receive from the client again: nothing is held any more.
    Receive,
}

/// The flow of one client, kept in its connection. Only [`Flow`] changes it.
// Packed, so that a connection does not grow by the padding.
#[derive(Clone, Copy, Debug, Default)]
#[repr(Rust, packed(2))]
pub(crate) struct ClientFlow {
    /// What it has used of its rates.
    spent: Spent,
    /// Bits of all [`Pause`]s that hold.
    pauses: u8,
    /// Buffers handled in the last turn in which there were any, and above [`SHARE_BITS`] the low bits of that turn.
    share: u8,
}

/// The flow of all clients of a shard.
#[derive(Debug, Default)]
pub(super) struct Flow {
    /// Input of paused clients, oldest first. Answers to it are not made before it is handled, so a client does not lag
    /// because it had to wait.
    held: HashMap<Slot, VecDeque<Input>>,
    /// Clients paused with [`Pause::Share`].
    served: Vec<Slot>,
    /// Clients paused with [`Pause::Congestion`].
    publishers: Vec<Slot>,
    /// When clients paused with [`Pause::Rate`] may go on.
    rate_timers: Timers<Slot>,
}

impl ClientFlow {
    /// Whether input has to wait, for any reason.
    pub(super) fn is_held(&self) -> bool {
        self.pauses != 0
    }

    pub(crate) fn is_paused(&self, reason: Pause) -> bool {
        self.pauses & reason as u8 != 0
    }

    /// Charges an open client for what it sent. Returns true when it is over a rate.
    pub(super) fn charge(&mut self, pace: Pace, now_ms: u64, messages: u32, bytes: usize) -> bool {
        let mut spent = self.spent;
        let is_over = pace.charge(&mut spent, now_ms, messages, bytes);
        self.spent = spent;
        is_over
    }

    /// Charges a client that is being closed for bytes that it still sends. Returns true when they are too many.
    pub(super) fn charge_closing(&mut self, now_ms: u64, bytes: usize) -> bool {
        self.charge(CLOSING_PACE, now_ms, 0, bytes)
    }

    /// Milliseconds until the client is within its rates again.
    pub(super) fn rate_wait_ms(&self, now_ms: u64) -> u64 {
        Pace::wait_ms(self.spent, now_ms)
    }

    /// Counts a buffer against the client's share of a turn. Returns false when the share is used up.
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
    /// Decides whether a buffer of a client may be handled in this turn.
    pub(super) fn admit(&mut self, slot: Slot, client: &mut ClientFlow, turn: u8) -> Verdict {
        if client.is_held() {
            return Verdict::Hold;
        }
        if client.take_share(turn) {
            return Verdict::Handle;
        }
        self.pause(slot, client, Pause::Share);
        Verdict::PauseAndHold
    }

    /// Keeps bytes of a client until it may go on.
    pub(super) fn hold(&mut self, slot: Slot, bytes: Vec<u8>) {
        self.held.entry(slot).or_default().push_back(Input::Bytes(bytes));
    }

    /// Keeps the rest of a buffer that was handled in part, before what is held already.
    pub(super) fn hold_rest(&mut self, slot: Slot, bytes: Vec<u8>) {
        self.held.entry(slot).or_default().push_front(Input::Bytes(bytes));
    }

    /// Keeps the end of the stream when bytes are held that come before it. Returns false when nothing is held.
    pub(super) fn hold_end(&mut self, slot: Slot) -> bool {
        let Some(held) = self.held.get_mut(&slot) else { return false };
        held.push_back(Input::End);
        true
    }

    /// Adds a reason to pause. Returns true when it is the first one, so that the backend is to be told.
    pub(super) fn pause(&mut self, slot: Slot, client: &mut ClientFlow, reason: Pause) -> bool {
        let is_first = !client.is_held();
        if !client.is_paused(reason) {
            client.pauses |= reason as u8;
            match reason {
                Pause::Share => self.served.push(slot),
                Pause::Congestion => self.publishers.push(slot),
                Pause::Unread | Pause::Rate => {}
            }
        }
        is_first
    }

    /// Adds [`Pause::Rate`], until the client is within its rates again. Returns what [`Flow::pause`] does.
    pub(super) fn pause_for_rate(&mut self, slot: Slot, client: &mut ClientFlow, now_ms: u64) -> bool {
        self.rate_timers.set(now_ms + client.rate_wait_ms(now_ms), slot);
        self.pause(slot, client, Pause::Rate)
    }

    /// Starts the account of a client that is being closed. If it is paused for its rate it goes on soon, since its own
    /// close frame may be among what is held.
    pub(super) fn begin_closing(&mut self, slot: Slot, client: &mut ClientFlow, now_ms: u64) {
        client.spent = Spent::default();
        if client.is_paused(Pause::Rate) {
            self.rate_timers.set(now_ms, slot);
        }
    }

    /// Takes the clients for whom this reason may be over. Some of them may be gone, and their slots used again.
    /// [`Pause::Unread`] is over when a send completes, so this returns nobody for it.
    pub(super) fn take_due(&mut self, reason: Pause, now_ms: u64) -> Vec<Slot> {
        match reason {
            Pause::Share => std::mem::take(&mut self.served),
            Pause::Congestion => std::mem::take(&mut self.publishers),
            Pause::Rate => std::iter::from_fn(|| self.rate_timers.expired(now_ms)).flatten().collect(),
            Pause::Unread => Vec::new(),
        }
    }

    /// Removes a reason. Returns false when it was not there.
    pub(super) fn lift(&mut self, client: &mut ClientFlow, reason: Pause) -> bool {
        let was_paused = client.is_paused(reason);
        client.pauses &= !(reason as u8);
        was_paused
    }

    /// Returns what to do for a client that is not received from. To be called until it returns no input.
    pub(super) fn next(&mut self, slot: Slot, client: &mut ClientFlow, turn: u8) -> Next {
        if client.is_held() {
            return Next::Wait;
        }
        let first = self.held.get(&slot).and_then(VecDeque::front);
        if matches!(first, Some(Input::Bytes(_))) && !client.take_share(turn) {
            self.pause(slot, client, Pause::Share);
            return Next::Wait;
        }
        match self.held.get_mut(&slot).and_then(VecDeque::pop_front) {
            Some(Input::Bytes(bytes)) => Next::Handle(Input::Bytes(bytes)),
            // Nothing comes after it.
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

    /// Drops all that belongs to a connection that is gone.
    pub(super) fn forget(&mut self, slot: Slot, client: ClientFlow) {
        if client.is_paused(Pause::Congestion) {
            self.publishers.retain(|other| *other != slot);
        }
        self.held.remove(&slot);
    }

    /// Whether clients wait that had their share of the last turn.
    pub(super) fn has_served(&self) -> bool {
        !self.served.is_empty()
    }

    /// Number of clients paused with [`Pause::Congestion`].
    pub(super) fn publishers(&self) -> usize {
        self.publishers.len()
    }

    /// Forgets to resume the publishers that are paused now.
    #[cfg(test)]
    pub(super) fn forget_publishers(&mut self) {
        self.publishers.clear();
    }

    /// Number of clients with held input.
    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        self.held.len()
    }

    /// Bytes that are held.
    pub(super) fn held_bytes(&self) -> usize {
        let len = |input: &Input| if let Input::Bytes(bytes) = input { bytes.len() } else { 0 };
        self.held.values().flatten().map(len).sum()
    }

    /// When the next client may be within its rates again.
    pub(super) fn next_due_ms(&self) -> Option<u64> {
        self.rate_timers.next_due_ms()
    }
}
