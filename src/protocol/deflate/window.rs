//! The window: the data that a compressed message may refer to.

/// The last bytes of the compressed messages of one side of a connection, decompressed. RFC 7692 §7.1.1
#[derive(Debug)]
pub struct Window {
    bytes: Vec<u8>,
    bits: u8,
}

impl Window {
    /// Creates an empty window of at most 2^`bits` bytes. It grows with the messages.
    pub fn new(bits: u8) -> Self {
        Self { bytes: Vec::new(), bits }
    }

    /// Returns the maximum size as a power of two.
    pub fn bits(&self) -> u8 {
        self.bits
    }

    /// Returns the bytes, oldest first.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Returns the allocated memory in bytes.
    pub fn memory(&self) -> usize {
        self.bytes.capacity()
    }

    /// Adds a message and drops the oldest bytes over the maximum size.
    pub(super) fn push(&mut self, said: &[u8]) {
        let limit = 1 << self.bits;
        let said = &said[said.len().saturating_sub(limit)..];
        let excess = (self.bytes.len() + said.len()).saturating_sub(limit);
        self.bytes.drain(..excess);
        let len = self.bytes.len() + said.len();
        if len > self.bytes.capacity() {
            // Doubles, but never beyond the maximum size.
            self.bytes.reserve_exact(len.next_power_of_two().min(limit) - self.bytes.len());
        }
        self.bytes.extend_from_slice(said);
    }
}
