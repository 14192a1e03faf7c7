//! Encrypted input of a TLS connection that waits for a later turn.

/// A queue of bytes. Removing bytes at the front seldom moves the other bytes.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    bytes: Vec<u8>,
    /// Number of bytes at the beginning of `bytes` that were removed already, at most half of all.
    start: usize,
}

impl Backlog {
    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Returns the number of bytes in the queue.
    pub(super) fn len(&self) -> usize {
        self.bytes.len() - self.start
    }

    /// Appends `bytes` to the queue.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Returns the bytes in the queue. The caller may change these bytes in place.
    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..]
    }

    /// Removes the first `len` bytes of the queue.
    pub(super) fn advance(&mut self, len: usize) {
        self.start += len;
        if self.start == self.bytes.len() {
            // An empty queue holds no memory.
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
