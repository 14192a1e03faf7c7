//! Sends under way, apart from the connections so that an idle one does not pay for them.

use std::num::NonZeroU32;

use super::Slot;
use crate::chunk::Span;

/// Names a send from `insert` to `remove`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SendId(NonZeroU32);

impl SendId {
    /// A number to get the same id back from with `from_number`.
    pub(super) fn number(self) -> u32 {
        self.0.get()
    }

    pub(super) fn from_number(number: u32) -> Option<Self> {
        NonZeroU32::new(number).map(Self)
    }

    fn index(self) -> usize {
        self.0.get() as usize - 1
    }
}

/// What is still to be sent of one span, and for whom.
#[derive(Debug)]
pub(super) struct Send {
    pub(super) slot: Slot,
    pub(super) span: Span,
    /// Our direction ends right after it.
    pub(super) is_last: bool,
}

/// All sends under way of one backend.
#[derive(Debug, Default)]
pub(super) struct Sends {
    entries: Vec<Option<Send>>,
    free: Vec<SendId>,
}

impl Sends {
    pub(super) fn insert(&mut self, slot: Slot, span: Span, is_last: bool) -> SendId {
        let send = Some(Send { slot, span, is_last });
        if let Some(id) = self.free.pop() {
            self.entries[id.index()] = send;
            return id;
        }
        self.entries.push(send);
        SendId(NonZeroU32::new(self.entries.len() as u32).expect("fewer than 2^32 connections send"))
    }

    /// The spans in flight.
    #[cfg(test)]
    pub(super) fn spans_mut(&mut self) -> impl Iterator<Item = &mut Span> {
        self.entries.iter_mut().flatten().map(|send| &mut send.span)
    }

    /// How many are under way.
    pub(super) fn len(&self) -> usize {
        self.entries.len() - self.free.len()
    }

    /// # Panics
    /// When there is no such send, like `remove`: ids are the backend's own.
    pub(super) fn at(&mut self, id: SendId) -> &mut Send {
        self.entries[id.index()].as_mut().expect("an id names a send until it is removed")
    }

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
    fn ids_are_used_again_only_after_removal() {
        let mut sends = Sends::default();
        let first = sends.insert(1, Span::copy_of(b"one"), false);
        let second = sends.insert(2, Span::copy_of(b"two"), false);
        assert_eq!(sends.remove(first).span.bytes(), b"one");
        let third = sends.insert(3, Span::copy_of(b"three"), false);
        assert_eq!(third, first);
        assert_eq!((sends.at(second).slot, sends.at(third).slot), (2, 3));
        assert_eq!(SendId::from_number(second.number()), Some(second));
    }
}
