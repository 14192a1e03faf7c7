//! Cancelling operations of connections, and freeing slots.

use std::io;

use crate::io::{Close, IoEvent, Slot};

use super::Uring;
use super::kernel::{Kernel, Request};
use super::operation::Operation;
use super::socket::{ReceiveState, SlotState, UringSocket};

#[expect(private_bounds, reason = "only this crate has another kernel, for its tests")]
impl<K: Kernel> Uring<K> {
    /// Marks a connection as failed, and reports the failure.
    pub(super) fn fail(&mut self, slot: Slot, error: io::Error, events: &mut Vec<IoEvent>) {
        self.at(slot).state = SlotState::Failed;
        events.push(IoEvent::Failed { slot, error });
    }

    /// Cancels the receive of a paused connection, or receive and send of a closing connection. Each cancellation names
    /// its operation, which the kernel finds in a table. To cancel by descriptor, it would search all operations of the
    /// ring.
    pub(super) fn cancel(&mut self, slot: Slot) {
        let socket = self.at(slot);
        let is_armed = socket.receive == ReceiveState::Armed;
        let receive = is_armed.then_some(Operation::Receive(slot));
        let send = match socket.state {
            SlotState::Closing(_) => socket.send.map(Operation::Send),
            SlotState::Open if socket.paused && is_armed && socket.cancels == 0 => None,
            _ => return,
        };
        for operation in receive.into_iter().chain(send) {
            self.at(slot).cancels += 1;
            self.start(slot, Request::Cancel(slot, operation));
        }
    }

    /// Handles the completion of a cancellation. Notes the slot if an operation may still be in flight.
    pub(super) fn cancelled(&mut self, slot: Slot, events: &mut Vec<IoEvent>) {
        let socket = self.at(slot);
        socket.cancels -= 1;
        if socket.in_flight > 1 {
            self.unfinished.push(slot);
        }
        self.finish_operation(slot, events);
    }

    /// Cancels operations again that are still in flight after their cancellation. Mostly, the operation completes
    /// right after the cancellation. But the kernel does not find an operation that is between two attempts. A FIN is
    /// never cancelled: a kernel thread sends it, and it always completes.
    pub(super) fn cancel_unfinished(&mut self) {
        while let Some(slot) = self.unfinished.pop() {
            let socket = self.sockets[slot as usize];
            if socket.in_flight > u8::from(socket.shutting_down) && socket.cancels == 0 {
                self.cancel(slot);
            }
        }
    }

    /// Counts an operation as completed. Then arms a receive that waited for the completion, or continues to close the
    /// connection.
    pub(super) fn finish_operation(&mut self, slot: Slot, events: &mut Vec<IoEvent>) {
        let socket = self.at(slot);
        socket.in_flight -= 1;
        match socket.state {
            SlotState::Open => self.receive(slot),
            SlotState::Closing(how) if socket.in_flight == 0 => self.release(slot, how),
            SlotState::Releasing if socket.in_flight == 0 => {
                *socket = UringSocket::default();
                events.push(IoEvent::Closed { slot });
                self.accept_gate.closed(events);
            }
            _ => {}
        }
    }

    /// Closes the descriptor of a connection that has no operation in flight.
    pub(super) fn release(&mut self, slot: Slot, how: Close) {
        self.at(slot).state = SlotState::Releasing;
        if how == Close::Reset {
            self.start(slot, Request::Linger(slot));
        }
        self.start(slot, Request::Close(slot));
    }
}
