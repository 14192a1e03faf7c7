//! Input of a connection that waits for a turn.

/// A queue of bytes. Taking a piece seldom moves the rest.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    bytes: Vec<u8>,
    /// Number of bytes at the beginning that were taken already, at most half of all.
    start: usize,
}

impl Backlog {
    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Number of bytes that wait.
    pub(super) fn len(&self) -> usize {
        self.bytes.len() - self.start
    }

    /// Appends bytes.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// The bytes that wait. The caller may change them in place.
    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..]
    }

    /// Removes the first `len` bytes.
    pub(super) fn advance(&mut self, len: usize) {
        self.start += len;
        if self.start == self.bytes.len() {
            // This frees the memory, too.
            *self = Self::default();
        } else if self.start > self.bytes.len() / 2 {
            self.bytes.drain(..self.start);
            self.start = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_keep_their_order_and_the_memory_is_bounded() {
        let (mut backlog, mut put, mut taken) = (Backlog::default(), 0_u8, 0_u8);
        for round in 0..10_000_usize {
            for _ in 0..round % 7 {
                backlog.push(&[put]);
                put = put.wrapping_add(1);
            }
            let len = (round % 5).min(backlog.len());
            for byte in &backlog.bytes_mut()[..len] {
                assert_eq!(*byte, taken);
                taken = taken.wrapping_add(1);
            }
            backlog.advance(len);
            if backlog.len() > 100 {
                backlog.advance(backlog.len());
                taken = put;
                assert_eq!(backlog.bytes.capacity(), 0);
            }
            assert!(backlog.bytes.len() <= 2 * backlog.len());
        }
    }
}
