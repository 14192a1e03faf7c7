//! Counters. Each shard owns its own, so that counting costs no more than an addition.

use std::sync::atomic::{AtomicU64, Ordering};

/// A counter that one thread raises and any thread reads.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `count`. Only the owner calls this.
    pub fn add(&self, count: u64) {
        // With one writer a load and a store lose nothing, and need no locked instruction.
        self.0.store(self.0.load(Ordering::Relaxed) + count, Ordering::Relaxed);
    }

    /// The sum so far.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

macro_rules! stats {
    ($($(#[doc = $doc:literal])* $name:ident,)*) => {
        /// What one shard has counted.
        #[derive(Debug, Default)]
        pub struct Stats {
            $($(#[doc = $doc])* pub $name: Counter,)*
        }

        /// The counts of several shards together.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Totals {
            $($(#[doc = $doc])* pub $name: u64,)*
        }

        impl Totals {
            /// Adds up what the shards have counted.
            pub fn of<'a>(shards: impl IntoIterator<Item = &'a Stats>) -> Self {
                let mut totals = Self::default();
                for shard in shards {
                    $(totals.$name += shard.$name.get();)*
                }
                totals
            }
        }
    };
}

stats! {
    /// TCP connections accepted.
    accepted,
    /// TCP connections gone.
    closed,
    /// WebSocket handshakes completed.
    opened,
    /// Requests answered with an error, for whatever reason.
    refused,
    /// Messages received.
    messages_in,
    /// Bytes received.
    bytes_in,
    /// Messages that got their place in a room's order here.
    ordered,
    /// Messages handed to members of rooms, each member counted.
    deliveries,
    /// Sends handed to the kernel.
    sends,
    /// Bytes handed to the kernel.
    bytes_out,
    /// Clients that read too slowly.
    lagged,
    /// Times that a client sent too fast and had to wait.
    throttled,
    /// Clients closed for breaking a rule of the protocol.
    failed,
    /// Handlers of the application that panicked.
    panics,
    /// Turns of the loop.
    turns,
    /// Bytes set aside for the windows of connections that compress with context takeover.
    context_bytes_reserved,
    /// Those of connections that are gone.
    context_bytes_released,
    /// Batches that another shard's mailbox did not take at once.
    mailbox_full,
}
