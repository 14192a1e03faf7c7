//! Slow, plain twins of the protocol's routines, written from the RFC alone.

/// RFC 6455 §5.3, byte by byte.
pub(crate) fn unmask(data: &mut [u8], key: [u8; 4], offset: usize) {
    for (at, byte) in data.iter_mut().enumerate() {
        *byte ^= key[(at + offset) % 4];
    }
}
