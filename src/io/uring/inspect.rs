//! A deliberate bug that the simulation adds to the io_uring backend.

use super::*;

#[expect(private_bounds, reason = "only this crate has another kernel, for its tests")]
impl<K: Kernel> Uring<K> {
    /// Drops the span of every send in flight, as if the kernel no longer read it, and keeps a copy instead.
    pub(crate) fn let_go_of_spans(&mut self) {
        for span in self.sends.spans_mut() {
            *span = Span::copy_of(span.bytes());
        }
    }
}
