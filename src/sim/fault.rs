//! Faults: bugs that tests inject on purpose, to show that the simulation catches bugs of their kind.
//!
//! Production code has no code for faults. Tests inject a fault from outside: the simulated kernel misreports, a client
//! reads with the wrong state, or a shard's state is corrupted between the two halves of a turn.

use crate::io::Uring;
use crate::shard::Shard;
use crate::shard::admission::{Admission, Place};
use crate::transport::Events;

use super::kernel::Simulated;

/// A fault: the part of the server that would have the bug, and the bug's effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// Fault: `io::uring` believes that a multishot receive is still armed after its last completion.
    ForgottenMore,
    /// Fault: `io::uring` treats a short send as a complete send.
    ShortSend,
    /// Fault: `io::uring` drops a span that the kernel still reads.
    SpanLetGo,
    /// Fault: `io::uring` does not return a receive buffer to the kernel.
    LostBuffer,
    /// Fault: `hub` starts a second send for a client that has a send in flight.
    SecondSend,
    /// Fault: `hub` forgets clients that wait for a send.
    ForgottenMember,
    /// Fault: `hub` refers to earlier messages for a client that asked for no context takeover.
    KeptContext,
    /// Fault: `hub` does not renumber a room's compressed log when the room's snapshot arrives.
    StaleNumbers,
    /// Fault: `hub` confuses a room with a forgotten room that had its index before.
    StaleKey,
    /// Fault: `hub` sends messages to clients that they leave out.
    ForgottenExclusion,
    /// Fault: `hub` drops a report that a room is occupied or vacated.
    DroppedOccupancy,
    /// Fault: `hub` reports that a new member of a room has left it, and the reverse.
    ReversedMemberReport,
    /// Fault: `hub` forgets the users whose home it is.
    ForgottenUser,
    /// Fault: `hub` lets held members get messages at once.
    EarlyStart,
    /// Fault: `app` loses a member of a room while the list waits for other shards.
    LostMember,
    /// Fault: `hub` takes positions as acknowledged when their ping is sent.
    AckedEarly,
    /// Fault: `hub` takes positions as acknowledged when messages are handed out.
    AckedSent,
    /// Fault: `hub` loses a message of each session that has no client.
    LostEntry,
    /// Fault: `hub` does not keep messages for clients that are away.
    ForgottenSessions,
    /// Fault: `hub` sends a client that continues in a room its last message once more.
    OverlappingRange,
    /// Fault: `shard` agrees to context takeover by the client, but remembers none of the client's messages.
    ForgottenContext,
    /// Fault: `shard` does not release the memory of compression windows when their connection closes.
    LostContext,
    /// Fault: `shard` lowers the connection count twice for one connection.
    CountedTwice,
    /// Fault: `shard` does not wake the shard to which it posts.
    LostWake,
    /// Fault: `shard` drops requests that another shard's full mailbox did not take.
    DroppedBatch,
    /// Fault: `shard` drops an entry that it took from its entrance.
    DroppedEntry,
    /// Fault: `shard` forgets requests that wait for deferred answers.
    ForgottenRequest,
    /// Fault: `sync` reverses the entries that wait in an entrance.
    ReversedEntrance,
    /// Fault: `shard` does not resume publishers that it paused.
    NeverResumed,
}

/// Runs the second half of a shard's turn, with the injected fault if there is one.
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
        Some(Fault::ForgottenRequest) => shard.forget_deferred(),
        Some(Fault::DroppedEntry) => shard.entrance().drop_first(),
        Some(Fault::ReversedEntrance) => shard.entrance().reverse(),
        Some(Fault::ForgottenExclusion) => shard.hub().forget_exclusions(),
        Some(Fault::DroppedOccupancy) => _ = shard.hub().poll_occupancy(),
        Some(Fault::ReversedMemberReport) => shard.hub().reverse_member_report(),
        Some(Fault::ForgottenUser) => shard.hub().forget_users(),
        Some(Fault::EarlyStart) => shard.hub().start_held_members(),
        Some(Fault::AckedEarly) => shard.hub().acknowledge_pings(),
        Some(Fault::AckedSent) => shard.hub().acknowledge_sends(),
        Some(Fault::ForgottenSessions) => shard.hub().forget_retention(),
        Some(Fault::OverlappingRange) => shard.hub().rewind_new_sessions(),
        Some(Fault::LostMember) => shard.lose_members(),
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
        Some(Fault::LostEntry) => shard.hub().lose_entries(),
        Some(Fault::DroppedBatch) => shard.drop_stuck_requests(),
        Some(Fault::NeverResumed) => shard.forget_paused(),
        _ => {}
    }
}
