//! The table of sends in flight. It is separate from the sockets, so that an idle socket uses no memory for sends.

use std::num::NonZeroU32;

use crate::chunk::Span;

use super::{More, SendProgress, Slot};

/// The id of a send in flight, valid from `Sends::insert` to `Sends::remove`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SendId(NonZeroU32);

impl SendId {
    /// Returns the id as a number. [`Self::from_number`] is the inverse.
    pub(super) fn number(self) -> u32 {
        self.0.get()
    }

    /// Returns the id with this number, or `None` for 0.
    pub(super) fn from_number(number: u32) -> Option<Self> {
        NonZeroU32::new(number).map(Self)
    }

    fn index(self) -> usize {
        self.0.get() as usize - 1
    }
}

/// A send in flight: its connection, and the bytes that the kernel has not taken yet.
#[derive(Debug)]
pub(super) struct Send {
    pub(super) slot: Slot,
    pub(super) span: Span,
    pub(super) more: More,
    /// Time when the send started or the kernel last took bytes of it, in nanoseconds, as far as is known.
    pub(super) moved_ns: u64,
}

/// The table of all sends in flight of one backend.
#[derive(Debug, Default)]
pub(super) struct Sends {
    entries: Vec<Option<Send>>,
    free: Vec<SendId>,
}

impl Sends {
    /// Adds a send to the table. Returns its id.
    pub(super) fn insert(&mut self, slot: Slot, span: Span, more: More, now_ns: u64) -> SendId {
        let send = Some(Send { slot, span, more, moved_ns: now_ns });
        if let Some(id) = self.free.pop() {
            self.entries[id.index()] = send;
            return id;
        }
        self.entries.push(send);
        SendId(NonZeroU32::new(self.entries.len() as u32).expect("fewer than 2^32 connections send"))
    }

    /// Returns the spans of all sends in flight.
    #[cfg(test)]
    pub(super) fn spans_mut(&mut self) -> impl Iterator<Item = &mut Span> {
        self.entries.iter_mut().flatten().map(|send| &mut send.span)
    }

    /// Returns the progress of the send with this id.
    pub(super) fn progress(&self, id: SendId) -> Option<SendProgress> {
        let send = self.entries[id.index()].as_ref()?;
        Some(SendProgress { left: send.span.len(), moved_ns: send.moved_ns })
    }

    /// Returns the number of sends in flight.
    pub(super) fn len(&self) -> usize {
        self.entries.len() - self.free.len()
    }

    /// Returns the send with this id.
    ///
    /// # Panics
    /// When no send has this id. Only the backend itself makes ids.
    pub(super) fn at(&mut self, id: SendId) -> &mut Send {
        self.entries[id.index()].as_mut().expect("an id names a send until it is removed")
    }

    /// Removes a send from the table, and returns it.
    ///
    /// # Panics
    /// When no send has this id.
    pub(super) fn remove(&mut self, id: SendId) -> Send {
        let send = self.entries[id.index()].take().expect("a send is removed once");
        self.free.push(id);
        send
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_reused_only_after_removal() {
        let mut sends = Sends::default();
        let first = sends.insert(1, Span::copy_of(b"one"), More::Follows, 0);
        let second = sends.insert(2, Span::copy_of(b"two"), More::Follows, 0);
        assert_eq!(sends.remove(first).span.bytes(), b"one");
        let third = sends.insert(3, Span::copy_of(b"three"), More::Follows, 0);
        assert_eq!(third, first);
        assert_eq!((sends.at(second).slot, sends.at(third).slot), (2, 3));
        assert_eq!(SendId::from_number(second.number()), Some(second));
    }
}
