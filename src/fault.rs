//! Bugs that a test of the simulation puts in on purpose, to see that it catches them. Without tests there are none.

/// A plausible bug, and where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// `io::uring` believes that a multishot receive is still armed when its last completion came.
    ForgottenMore,
    /// `io::uring` takes a short send for a complete one.
    ShortSend,
    /// `io::uring` lets go of a span that the kernel still reads.
    SpanLetGo,
    /// `io::uring` gives a buffer that came with an error or too late to nobody.
    LostBuffer,
    /// `hub` starts a pass's send for a client that still has one under way.
    SecondSend,
    /// `hub` does not look again at a client whose send is complete.
    ForgottenMember,
    /// `hub` refers to earlier messages for a client that asked it not to.
    KeptContext,
    /// `hub` numbers the compressed messages of a room on as if no snapshot of its order had come.
    StaleNumbers,
    /// `shard` agrees that what a client sends refers to what it said before, and remembers nothing of that.
    ForgottenContext,
    /// `shard` does not count the memory of windows as free when their connection is gone.
    LostContext,
    /// `shard` lowers the count of connections twice.
    CountedTwice,
    /// `shard` does not wake the shard that it posts to.
    LostWake,
    /// `shard` drops what another shard's full mailbox has not taken.
    DroppedBatch,
    /// `shard` does not resume publishers that it has paused.
    NeverResumed,
}

#[cfg(test)]
thread_local! {
    /// The one that is in on this thread.
    pub(crate) static PRESENT: std::cell::Cell<Option<Fault>> = const { std::cell::Cell::new(None) };
}

/// Whether the fault is in.
#[cfg(test)]
pub(crate) fn is(fault: Fault) -> bool {
    PRESENT.get() == Some(fault)
}

/// Whether the fault is in.
#[cfg(not(test))]
pub(crate) const fn is(_: Fault) -> bool {
    false
}
