//! What a compressed stream may refer back to.

/// The last bytes of what one side of a connection has said in compressed messages. RFC 7692 §7.1.1
#[derive(Debug)]
pub struct Window {
    bytes: Vec<u8>,
    bits: u8,
}

impl Window {
    /// An empty window of at most 2^`bits` bytes; it grows with what is said.
    pub fn new(bits: u8) -> Self {
        Self { bytes: Vec::new(), bits }
    }

    /// The base-2 logarithm of the most bytes that it holds.
    pub fn bits(&self) -> u8 {
        self.bits
    }

    /// What may be referred to, oldest first.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Bytes of memory that it takes.
    pub fn memory(&self) -> usize {
        self.bytes.capacity()
    }

    /// Notes that `said` was said.
    pub(super) fn push(&mut self, said: &[u8]) {
        let limit = 1 << self.bits;
        let said = &said[said.len().saturating_sub(limit)..];
        let excess = (self.bytes.len() + said.len()).saturating_sub(limit);
        self.bytes.drain(..excess);
        let len = self.bytes.len() + said.len();
        if len > self.bytes.capacity() {
            // Grown by doubling, but never past the limit.
            self.bytes.reserve_exact(len.next_power_of_two().min(limit) - self.bytes.len());
        }
        self.bytes.extend_from_slice(said);
    }
}
