//! What the ring is asked to do, and how its completions are told apart.

use io_uring::types::{CancelBuilder, DestinationSlot, Fd, Fixed};
use io_uring::{opcode, squeue};
use nix::libc;
use std::os::fd::RawFd;

use crate::io::Slot;
use crate::io::sends::SendId;

/// The buffer group of the one buffer ring.
pub(super) const BUFFER_GROUP: u16 = 0;

/// An operation under way. It travels as `user_data`: the kind in the upper half, the index in the lower.
///
/// A completion never names a connection of the past, since a slot is used again only after every operation
/// on it has completed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    /// Accepts into the address buffer of this index.
    Accept(u32),
    CancelAccept(u32),
    Receive(Slot),
    Poll(Slot),
    Send(SendId),
    Shutdown(Slot),
    Cancel(Slot),
    Linger(Slot),
    Close(Slot),
    Wake,
}

impl Operation {
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
            Self::Poll(slot) => (9, slot),
        };
        kind << 32 | u64::from(index)
    }

    /// Whether this sends, which mostly completes as it is handed over.
    pub(super) fn is_send(self) -> bool {
        matches!(self, Self::Send(_))
    }

    /// # Panics
    /// When `user_data` is not from `encode`: the kernel gives back what it was given.
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
            9 => Self::Poll(index),
            _ => panic!("no operation has user_data {user_data:#x}"),
        }
    }

    fn tag(self, entry: squeue::Entry) -> squeue::Entry {
        entry.user_data(self.encode())
    }
}

/// Accepts one connection into a free direct descriptor; the kernel writes `address` and `len`.
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

pub(super) fn cancel_accept(at: u32) -> squeue::Entry {
    let target = CancelBuilder::user_data(Operation::Accept(at).encode());
    Operation::CancelAccept(at).tag(opcode::AsyncCancel2::new(target).build())
}

/// Receives into buffers of the ring until something ends it.
pub(super) fn receive(slot: Slot) -> squeue::Entry {
    Operation::Receive(slot).tag(opcode::RecvMulti::new(Fixed(slot), BUFFER_GROUP).build())
}

/// Completes when there is something to receive.
pub(super) fn poll(slot: Slot) -> squeue::Entry {
    Operation::Poll(slot).tag(opcode::PollAdd::new(Fixed(slot), libc::POLLIN as u32).build())
}

/// Sends all of `bytes`, which the kernel reads until the operation completes.
pub(super) fn send(slot: Slot, id: SendId, bytes: &[u8], is_last: bool) -> squeue::Entry {
    let wait_for_end = if is_last { libc::MSG_MORE } else { 0 };
    // A span is shorter than 4 GiB, as its bounds have 32 bits.
    let send = opcode::Send::new(Fixed(slot), bytes.as_ptr(), bytes.len() as u32)
        .flags(libc::MSG_NOSIGNAL | libc::MSG_WAITALL | wait_for_end);
    Operation::Send(id).tag(send.build())
}

pub(super) fn shutdown(slot: Slot) -> squeue::Entry {
    Operation::Shutdown(slot).tag(opcode::Shutdown::new(Fixed(slot), libc::SHUT_WR).build())
}

pub(super) fn cancel(slot: Slot, target: Operation) -> squeue::Entry {
    let target = CancelBuilder::user_data(target.encode());
    Operation::Cancel(slot).tag(opcode::AsyncCancel2::new(target).build())
}

/// Makes the `close` pushed right after it a reset.
pub(super) fn linger(slot: Slot) -> squeue::Entry {
    static RESET: libc::linger = libc::linger { l_onoff: 1, l_linger: 0 };
    let option = opcode::SetSockOpt::new(
        Fixed(slot),
        libc::SOL_SOCKET as u32,
        libc::SO_LINGER as u32,
        (&raw const RESET).cast(),
        size_of::<libc::linger>() as u32,
    );
    // The close comes after it, and also when it fails: a kernel before 6.7 closes gracefully instead.
    Operation::Linger(slot).tag(option.build().flags(squeue::Flags::IO_HARDLINK))
}

pub(super) fn close(slot: Slot) -> squeue::Entry {
    Operation::Close(slot).tag(opcode::Close::new(Fixed(slot)).build())
}

/// Reports each write to `event`. Edge-triggered, so the event need not be read empty.
pub(super) fn wake(event: RawFd) -> squeue::Entry {
    Operation::Wake.tag(opcode::PollAdd::new(Fd(event), libc::POLLIN as u32).multi(true).build())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_operation_survives_the_journey() {
        let id = SendId::from_number(u32::MAX).expect("not zero");
        let operations = [
            Operation::Accept(3),
            Operation::CancelAccept(3),
            Operation::Receive(u32::MAX),
            Operation::Poll(5),
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
