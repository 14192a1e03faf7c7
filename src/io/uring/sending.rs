//! Sending, and ending the sending direction of a stream with a FIN.

use nix::libc;

use crate::chunk::Span;
use crate::io::sends::SendId;
use crate::io::{IoEvent, More, Slot};

use super::kernel::{Kernel, Request};
use super::operation::Operation;
use super::socket::SlotState;
use super::{Uring, error_of};

#[expect(private_bounds, reason = "only this crate has another kernel, for its tests")]
impl<K: Kernel> Uring<K> {
    /// Queues the send of `span`, if the connection is open.
    ///
    /// # Panics
    /// When the slot has a send in flight.
    pub(super) fn start_send(&mut self, slot: Slot, span: Span, more: More) {
        let socket = self.at(slot);
        assert!(socket.send.is_none(), "slot {slot} has a send under way");
        if socket.state == SlotState::Open {
            let id = self.sends.insert(slot, span, more, self.now_ns);
            let socket = self.at(slot);
            socket.send = Some(id);
            socket.in_flight += 1;
            self.push_send(id);
        }
    }

    /// Queues the bytes of a send that the kernel has not taken yet.
    fn push_send(&mut self, id: SendId) {
        let send = self.sends.at(id);
        let request = Request::Send { slot: send.slot, id, span: &send.span, more: send.more };
        // SAFETY: the span stays in `sends` until the completion; `drop` quiesces the kernel first.
        unsafe { self.kernel.push(request) };
    }

    /// Cancels the send in flight of an open connection. Its completion reports the number of bytes that the kernel has
    /// taken, which a waiting send does not, and the rest is sent again.
    pub(super) fn restart_send(&mut self, slot: Slot) {
        let socket = self.at(slot);
        if let Some(id) = socket.send
            && socket.state == SlotState::Open
            && socket.cancels == 0
        {
            socket.cancels += 1;
            self.start(slot, Request::Cancel(slot, Operation::Send(id)));
        }
    }

    /// Handles the completion of a send: continues a short send, or reports `Sent` or `Failed`.
    pub(super) fn sent(&mut self, id: SendId, result: i32, events: &mut Vec<IoEvent>) {
        let send = self.sends.at(id);
        let slot = send.slot;
        if let Ok(count) = usize::try_from(result) {
            send.span.advance(count);
            send.moved_ns = self.now_ns;
        }
        let is_open = self.sockets[slot as usize].state == SlotState::Open;
        // A cancelled send of an open connection was cancelled by `restart_send`.
        let may_continue = matches!(-result, libc::EINTR | libc::EAGAIN | libc::ECANCELED) || result > 0;
        if is_open && may_continue && !send.span.is_empty() {
            return self.push_send(id);
        }
        self.sends.remove(id);
        self.at(slot).send = None;
        if is_open && result < 0 {
            self.fail(slot, error_of(result), events);
        } else if is_open {
            events.push(IoEvent::Sent { slot });
            if std::mem::take(&mut self.at(slot).shutdown_wanted) {
                self.start_shutdown(slot);
            }
        }
        self.finish_operation(slot, events);
    }

    /// Queues a FIN for a connection.
    pub(super) fn start_shutdown(&mut self, slot: Slot) {
        self.at(slot).shutting_down = true;
        self.start(slot, Request::Shutdown(slot));
    }
}
