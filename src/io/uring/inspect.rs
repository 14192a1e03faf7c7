//! Bugs that the simulation puts into the backend.

use super::*;

#[expect(private_bounds, reason = "only this crate has another kernel, for its tests")]
impl<K: Kernel> Uring<K> {
    /// Drops every span in flight, as if the kernel no longer read it; a copy takes its place.
    pub(crate) fn let_go_of_spans(&mut self) {
        for span in self.sends.spans_mut() {
            *span = Span::copy_of(span.bytes());
        }
    }
}
