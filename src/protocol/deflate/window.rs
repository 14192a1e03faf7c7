//! The compression window: the earlier message data that a compressed message may refer to.

/// A compression window: the last bytes of the messages of one side of a connection, decompressed. RFC 7692 §7.1.1
#[derive(Debug)]
pub struct Window {
    bytes: Vec<u8>,
    bits: u8,
}

impl Window {
    /// Creates an empty window. The window grows with the messages to at most 2^`bits` bytes.
    pub fn new(bits: u8) -> Self {
        Self { bytes: Vec::new(), bits }
    }

    /// Returns the maximum size of the window as a power of two.
    pub fn bits(&self) -> u8 {
        self.bits
    }

    /// Returns the message bytes in the window, oldest first.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Returns the memory allocated for the window in bytes.
    pub fn memory(&self) -> usize {
        self.bytes.capacity()
    }

    /// Appends a message to the window and drops the oldest bytes over the maximum size.
    pub(super) fn push(&mut self, said: &[u8]) {
        let limit = 1 << self.bits;
        let said = &said[said.len().saturating_sub(limit)..];
        let excess = (self.bytes.len() + said.len()).saturating_sub(limit);
        self.bytes.drain(..excess);
        let len = self.bytes.len() + said.len();
        if len > self.bytes.capacity() {
            // The capacity doubles, but never beyond the maximum size of the window.
            self.bytes.reserve_exact(len.next_power_of_two().min(limit) - self.bytes.len());
        }
        self.bytes.extend_from_slice(said);
    }
}
