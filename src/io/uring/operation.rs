//! Operations of the io_uring: their submission entries, and the `user_data` that identifies their completions.

use std::os::fd::RawFd;

use io_uring::types::{CancelBuilder, DestinationSlot, Fd, Fixed};
use io_uring::{opcode, squeue};
use nix::libc;

use crate::io::sends::SendId;
use crate::io::{More, Slot};

/// The number of the only group of receive buffers.
pub(super) const BUFFER_GROUP: u16 = 0;

/// An operation in flight, encoded as 64 bits of `user_data`: the kind in the upper half, the index in the lower half.
///
/// A slot is reused only after every operation on it has completed. So a completion never names an earlier connection
/// of the slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    /// The accept operation with this number.
    Accept(u32),
    /// The cancellation of the accept with this number.
    CancelAccept(u32),
    Receive(Slot),
    Send(SendId),
    Shutdown(Slot),
    /// A cancellation of another operation on the connection in this slot.
    Cancel(Slot),
    /// The change of the socket option SO_LINGER that makes the following close a reset.
    Linger(Slot),
    Close(Slot),
    /// The multishot poll of the waker's event descriptor.
    Wake,
}

impl Operation {
    /// Returns the operation encoded as `user_data`.
    pub(super) fn encode(self) -> u64 {
        let (kind, index) = match self {
            Self::Accept(at) => (0, at),
            Self::CancelAccept(at) => (1, at),
            Self::Receive(slot) => (2, slot),
            Self::Send(id) => (3, id.number()),
            Self::Shutdown(slot) => (4, slot),
            Self::Cancel(slot) => (5, slot),
            Self::Linger(slot) => (6, slot),
            Self::Close(slot) => (7, slot),
            Self::Wake => (8, 0),
        };
        kind << 32 | u64::from(index)
    }

    /// Returns whether this operation is a send. Most sends complete during submission.
    pub(super) fn is_send(self) -> bool {
        matches!(self, Self::Send(_))
    }

    /// Returns the operation that `user_data` encodes.
    ///
    /// # Panics
    /// When `user_data` does not come from `encode`. The kernel returns `user_data` unchanged.
    pub(super) fn decode(user_data: u64) -> Self {
        let index = user_data as u32;
        match user_data >> 32 {
            0 => Self::Accept(index),
            1 => Self::CancelAccept(index),
            2 => Self::Receive(index),
            3 => Self::Send(SendId::from_number(index).expect("ids are not zero")),
            4 => Self::Shutdown(index),
            5 => Self::Cancel(index),
            6 => Self::Linger(index),
            7 => Self::Close(index),
            8 => Self::Wake,
            _ => panic!("no operation has user_data {user_data:#x}"),
        }
    }

    fn tag(self, entry: squeue::Entry) -> squeue::Entry {
        entry.user_data(self.encode())
    }
}

/// Returns the entry that accepts one connection into a free direct descriptor. The kernel writes the peer's address to
/// `address` and `len`.
pub(super) fn accept(
    at: u32,
    listener: RawFd,
    address: *mut libc::sockaddr,
    len: *mut libc::socklen_t,
) -> squeue::Entry {
    let accept =
        opcode::Accept::new(Fd(listener), address, len).file_index(Some(DestinationSlot::auto_target()));
    Operation::Accept(at).tag(accept.build())
}

/// Returns the entry that cancels the accept with number `at`.
pub(super) fn cancel_accept(at: u32) -> squeue::Entry {
    let target = CancelBuilder::user_data(Operation::Accept(at).encode());
    Operation::CancelAccept(at).tag(opcode::AsyncCancel2::new(target).build())
}

/// Returns the entry that receives into lent buffers until an error or the end of the stream.
pub(super) fn receive(slot: Slot) -> squeue::Entry {
    Operation::Receive(slot).tag(opcode::RecvMulti::new(Fixed(slot), BUFFER_GROUP).build())
}

/// Returns the entry that sends all of `bytes`. The kernel reads `bytes` until the operation completes.
pub(super) fn send(slot: Slot, id: SendId, bytes: &[u8], more: More) -> squeue::Entry {
    let wait_for_end = if more == More::Ends { libc::MSG_MORE } else { 0 };
    // A span is shorter than 4 GiB, as its bounds have 32 bits.
    let send = opcode::Send::new(Fixed(slot), bytes.as_ptr(), bytes.len() as u32)
        .flags(libc::MSG_NOSIGNAL | libc::MSG_WAITALL | wait_for_end);
    Operation::Send(id).tag(send.build())
}

/// Returns the entry that sends a FIN.
pub(super) fn shutdown(slot: Slot) -> squeue::Entry {
    Operation::Shutdown(slot).tag(opcode::Shutdown::new(Fixed(slot), libc::SHUT_WR).build())
}

/// Returns the entry that cancels the operation `target` of a connection.
pub(super) fn cancel(slot: Slot, target: Operation) -> squeue::Entry {
    let target = CancelBuilder::user_data(target.encode());
    Operation::Cancel(slot).tag(opcode::AsyncCancel2::new(target).build())
}

/// Returns the entry that makes a `close` pushed right after it a reset.
pub(super) fn linger(slot: Slot) -> squeue::Entry {
    static RESET: libc::linger = libc::linger { l_onoff: 1, l_linger: 0 };
    let option = opcode::SetSockOpt::new(
        Fixed(slot),
        libc::SOL_SOCKET as u32,
        libc::SO_LINGER as u32,
        (&raw const RESET).cast(),
        size_of::<libc::linger>() as u32,
    );
    // The hard link keeps the order of the two entries, and closes even if setting the option fails. Kernels before 6.7
    // then close gracefully.
    Operation::Linger(slot).tag(option.build().flags(squeue::Flags::IO_HARDLINK))
}

/// Returns the entry that closes a descriptor of the ring's table.
pub(super) fn close(slot: Slot) -> squeue::Entry {
    Operation::Close(slot).tag(opcode::Close::new(Fixed(slot)).build())
}

/// Returns the entry that reports each write to `event`. The poll is edge-triggered, so nothing has to read the event.
pub(super) fn wake(event: RawFd) -> squeue::Entry {
    Operation::Wake.tag(opcode::PollAdd::new(Fd(event), libc::POLLIN as u32).multi(true).build())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_operation_is_decoded_as_it_was_encoded() {
        let id = SendId::from_number(u32::MAX).expect("not zero");
        let operations = [
            Operation::Accept(3),
            Operation::CancelAccept(3),
            Operation::Receive(u32::MAX),
            Operation::Send(id),
            Operation::Shutdown(0),
            Operation::Cancel(7),
            Operation::Linger(7),
            Operation::Close(7),
            Operation::Wake,
        ];
        for operation in operations {
            assert_eq!(Operation::decode(operation.encode()), operation);
        }
    }
}
