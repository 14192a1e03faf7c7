//! Bugs that tests put in on purpose, to show that the simulation catches bugs of their kind.
//!
//! Production code knows nothing of them. A fault is put in from outside: the simulated kernel misreports, a client
//! reads with the wrong state, or a shard's state is spoiled between the two halves of a turn.

use crate::io::Uring;
use crate::shard::Shard;
use crate::shard::admission::{Admission, Place};
use crate::transport::Events;

use super::kernel::Simulated;

/// A plausible bug: the part of the server that would have it, and its effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// `io::uring` believes that a multishot receive is still armed after its last completion.
    ForgottenMore,
    /// `io::uring` takes a short send for a complete one.
    ShortSend,
    /// `io::uring` drops a span that the kernel still reads.
    SpanLetGo,
    /// `io::uring` does not give a receive buffer back.
    LostBuffer,
    /// `hub` starts a second send for a client that has one in flight.
    SecondSend,
    /// `hub` forgets clients that wait for a send.
    ForgottenMember,
    /// `hub` refers to earlier messages for a client that asked for no context takeover.
    KeptContext,
    /// `hub` does not renumber a room's compressed log when the snapshot of its order arrives.
    StaleNumbers,
    /// `hub` takes a room for another one that had its index before.
    StaleKey,
    /// `shard` agrees to context takeover by the client and remembers nothing of its messages.
    ForgottenContext,
    /// `shard` does not release the memory of compression windows when their connection closes.
    LostContext,
    /// `shard` lowers the connection count twice.
    CountedTwice,
    /// `shard` does not wake the shard that it posts to.
    LostWake,
    /// `shard` drops requests that another shard's full mailbox did not take.
    DroppedBatch,
    /// `shard` does not resume publishers that it paused.
    NeverResumed,
}

/// Runs the second half of a shard's turn, with the fault if there is one.
pub(super) fn end_turn(
    shard: &mut Shard<Uring<Simulated>>,
    events: &mut Events,
    admission: &Admission,
    fault: Option<Fault>,
) {
    let closed = shard.stats().closed.get();
    let released = shard.stats().context_bytes_released.get();
    match fault {
        Some(Fault::SecondSend) => shard.hub().forget_sends(),
        Some(Fault::ForgottenMember) => shard.hub().forget_ready(),
        Some(Fault::StaleKey) => shard.hub().reuse_keys(),
        Some(Fault::StaleNumbers) => shard.hub().misnumber_compressed_logs(),
        _ => {}
    }
    shard.end_turn(events);
    match fault {
        Some(Fault::SpanLetGo) => shard.backend().let_go_of_spans(),
        Some(Fault::LostContext) => {
            let released = shard.stats().context_bytes_released.get() - released;
            shard.stats().context_bytes_reserved.add(released);
        }
        Some(Fault::CountedTwice) => {
            let closed = shard.stats().closed.get() - closed;
            (0..closed).for_each(|_| admission.leave(None, Place::Uncounted));
        }
        Some(Fault::DroppedBatch) => shard.drop_stuck_requests(),
        Some(Fault::NeverResumed) => shard.forget_paused(),
        _ => {}
    }
}
