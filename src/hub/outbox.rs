//! What is owed to one client alone.

use std::collections::VecDeque;
use std::rc::Rc;

use crate::chunk::{Chunk, Span};

/// Smallest chunk that private frames are gathered in.
const MIN_CHUNK: usize = 256;
/// Largest one that an empty outbox keeps for its next owner.
const KEPT_CHUNK: usize = 4 << 10;

/// A log with one reader: made when there is something to say, gone when it is drained. It holds frames made
/// for this client, and what is left of rooms that the client has left.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    spans: VecDeque<Span>,
    /// Where the next private bytes go.
    tail: Option<Rc<Chunk>>,
    len: usize,
}

impl Outbox {
    /// Bytes not handed out yet.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Appends bytes given in parts; they stay together in one span.
    pub(crate) fn append(&mut self, parts: &[&[u8]]) {
        let len: usize = parts.iter().map(|part| part.len()).sum();
        let tail = match &mut self.tail {
            Some(tail) if tail.spare() >= len => tail,
            tail => {
                let capacity = tail.as_ref().map_or(MIN_CHUNK, |full| full.capacity() * 2).min(KEPT_CHUNK);
                tail.insert(Chunk::with_capacity(capacity.max(len)))
            }
        };
        let start = tail.len();
        for part in parts {
            tail.append(part);
        }
        let span = Span::new(tail, start, start + len);
        self.push(span);
    }

    /// Appends what lies in another log's chunk.
    pub(crate) fn push(&mut self, span: Span) {
        self.len += span.len();
        if !self.spans.back_mut().is_some_and(|last| last.try_join(&span)) {
            self.spans.push_back(span);
        }
    }

    /// The next bytes to send.
    pub(crate) fn pop(&mut self) -> Option<Span> {
        let span = self.spans.pop_front()?;
        self.len -= span.len();
        Some(span)
    }

    /// Drops what was not handed out.
    pub(crate) fn clear(&mut self) {
        self.spans.clear();
        self.len = 0;
    }

    /// Makes an empty outbox whose sends are complete fit for another client; false when it is not worth it.
    pub(crate) fn reset(&mut self) -> bool {
        debug_assert!(self.spans.is_empty(), "only an empty outbox changes hands");
        match self.tail.as_mut().map(|tail| (tail.capacity() <= KEPT_CHUNK, Rc::get_mut(tail))) {
            Some((true, Some(tail))) => tail.clear(),
            Some(_) => self.tail = None,
            None => return false,
        }
        self.tail.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbouring_frames_leave_together_and_bytes_are_counted() {
        let mut outbox = Outbox::default();
        outbox.append(&[b"ab", b"c"]);
        outbox.append(&[b"de"]);
        assert_eq!(outbox.len(), 5);
        outbox.push(Span::copy_of(b"room"));
        assert_eq!(outbox.pop().expect("first").bytes(), b"abcde");
        outbox.append(&[b"f"]);
        assert_eq!(outbox.pop().expect("second").bytes(), b"room");
        assert_eq!(outbox.pop().expect("third").bytes(), b"f");
        assert!(outbox.pop().is_none());
        assert_eq!(outbox.len(), 0);
    }

    #[test]
    fn a_drained_outbox_is_used_again_only_when_nothing_reads_its_chunk() {
        let mut outbox = Outbox::default();
        outbox.append(&[b"x"]);
        let in_flight = outbox.pop();
        assert!(!outbox.reset(), "the chunk is still being sent");
        drop(in_flight);
        outbox.append(&[b"y"]);
        drop(outbox.pop());
        assert!(outbox.reset());
        outbox.append(&[b"z"]);
        assert_eq!(outbox.pop().expect("there").bytes(), b"z");
    }
}
