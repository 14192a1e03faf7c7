//! Receiving: multishot receives, and the queue of sockets that wait for a buffer.

use nix::libc;

use crate::io::{IoEvent, Slot};

use super::kernel::{Kernel, Request};
use super::ring::Completion;
use super::socket::{ReceiveState, SlotState};
use super::{Uring, error_of};

#[expect(private_bounds, reason = "only this crate has another kernel, for its tests")]
impl<K: Kernel> Uring<K> {
    /// Arms a receive if the socket wants input. If other sockets wait for a buffer, the socket joins the queue
    /// instead.
    pub(super) fn receive(&mut self, slot: Slot) {
        let others_wait = !self.starving.is_empty();
        let socket = self.at(slot);
        if !socket.wants_input() || socket.receive != ReceiveState::Idle {
            return;
        }
        if others_wait && !socket.had_turn {
            socket.receive = ReceiveState::Starving;
            return self.starving.push_back(slot);
        }
        socket.receive = ReceiveState::Armed;
        self.start(slot, Request::Receive(slot));
    }

    /// Arms receives for sockets in the queue for a buffer, one for each free buffer. Returns whether further sockets
    /// must be armed at once, because the sockets armed now may have no input.
    pub(super) fn arm_starving(&mut self) -> bool {
        let buffers = self.kernel.lend(self.starving.len());
        let mut left = buffers;
        while left > 0
            && let Some(slot) = self.starving.pop_front()
        {
            let socket = &mut self.sockets[slot as usize];
            // Closing a socket leaves its entry in the queue.
            if socket.receive == ReceiveState::Starving {
                socket.receive = ReceiveState::Idle;
                socket.had_turn = true;
                self.receive(slot);
                left -= 1;
            }
        }
        buffers > 0 && !self.starving.is_empty()
    }

    /// Handles a completion of a connection's multishot receive.
    pub(super) fn received(&mut self, slot: Slot, completion: Completion, events: &mut Vec<IoEvent>) {
        let Completion { result, is_last, buffer, .. } = completion;
        let buffer = buffer.map(|id| self.kernel.take(id, result.max(0) as usize));
        let socket = self.at(slot);
        if is_last {
            socket.receive = ReceiveState::Idle;
        }
        let counts = socket.state == SlotState::Open && !socket.ended;
        match (result, buffer) {
            (1.., Some(buffer)) if counts => {
                socket.had_turn = false;
                events.push(IoEvent::Received { slot, buffer });
            }
            (_, Some(buffer)) => self.kernel.give(buffer),
            _ => {}
        }
        if counts && result <= 0 {
            self.receiving_ended(slot, result, events);
        }
        if is_last {
            self.finish_operation(slot, events);
        }
    }

    /// Handles a receive that completed with 0 bytes or an error.
    fn receiving_ended(&mut self, slot: Slot, result: i32, events: &mut Vec<IoEvent>) {
        match -result {
            0 => {
                self.at(slot).ended = true;
                events.push(IoEvent::Ended { slot });
            }
            libc::ENOBUFS => {
                self.starved += 1;
                let socket = self.at(slot);
                socket.receive = ReceiveState::Starving;
                if std::mem::take(&mut socket.had_turn) {
                    self.starving.push_front(slot);
                } else {
                    self.starving.push_back(slot);
                }
            }
            // A pause cancelled the receive, or the receive must be armed again.
            libc::ECANCELED | libc::EINTR | libc::EAGAIN => {}
            _ => self.fail(slot, error_of(result), events),
        }
    }
}
