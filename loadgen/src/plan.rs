//! The messages between the coordinator and the workers. All of them can cross a process boundary.

use std::sync::Arc;

use rustls::ClientConfig;
use serde::{Deserialize, Serialize};

use crate::message::Filler;
use crate::target::Target;
use crate::tls::TlsOptions;
use crate::totals::{Tick, Totals};
use crate::ws::Offer;

/// The task of a run. Every worker gets the same plan.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Plan {
    pub(crate) target: Target,
    /// The server that connections return to in `reconnect`, if it is another one.
    pub(crate) then: Option<Target>,
    pub(crate) scenario: Scenario,
    /// Number of connections of all workers together.
    pub(crate) connections: usize,
    /// Payload of each message, in bytes.
    pub(crate) size: usize,
    pub(crate) payload: Filler,
    pub(crate) compression: Offer,
    pub(crate) tls: TlsOptions,
    /// The server puts a name before each message and sends notices of its own.
    pub(crate) chat: bool,
    /// A random number that tells the messages of this run from others.
    pub(crate) tag: u32,
    /// The origin of the times in messages, in nanoseconds.
    pub(crate) epoch_ns: u64,
    /// Limit of a handshake, in nanoseconds.
    pub(crate) timeout_ns: u64,
    /// The run is over when no message has arrived for this time, in nanoseconds.
    pub(crate) grace_ns: u64,
    /// The longest wait for the last messages, in nanoseconds.
    pub(crate) drain_ns: u64,
    /// Handshakes that each worker has under way at a time.
    pub(crate) in_flight: usize,
}

/// The traffic of the connections.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Scenario {
    Echo {
        pipeline: u32,
        rate: Option<f64>,
    },
    Broadcast {
        publishers: u32,
        rate: f64,
    },
    Storm,
    /// Each connection sends `speak` messages to itself when it opens.
    Idle {
        speak: u32,
    },
    Connect {
        rate: Option<f64>,
    },
    Reconnect {
        /// Longest random delay before the first attempt to return, and before any attempt.
        first_delay_ms: u64,
        #[serde(rename = "most_delay_ms")]
        max_delay_ms: u64,
        /// The server is told to end when the measured window begins.
        stop_server: bool,
    },
}

/// The share of the connections that one worker has: `first..first + count`.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Share {
    pub(crate) worker: usize,
    pub(crate) workers: usize,
    pub(crate) first: usize,
    pub(crate) count: usize,
}

/// The times of a run, in nanoseconds.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub(crate) struct Window {
    /// The first message is due.
    pub(crate) start_ns: u64,
    /// The warm-up ends and the measured window begins.
    pub(crate) measure_ns: u64,
    /// The measured window ends, and no further message is due.
    pub(crate) end_ns: u64,
    /// Number of connections that are open at the start.
    pub(crate) population: usize,
}

/// A command from the coordinator to a worker. Commands come in this order.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Command {
    /// Open the connections.
    Open,
    /// Start the traffic.
    Start(Window),
    /// Stop early. This command may come at any time.
    Stop,
    /// Wait for the last messages. The list has how many messages each sender has sent.
    Finish(Vec<u32>),
}

/// The number of messages that a sender has sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SentCount {
    pub(crate) sender: u32,
    pub(crate) messages: u32,
}

/// A report from a worker to the coordinator.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Report {
    /// The worker runs and has allocated its memory.
    Started,
    /// This number of connections is open, and the others have failed.
    Ready { open: usize },
    /// News since the last tick.
    Tick(Tick),
    /// The traffic has stopped.
    Stopped(Vec<SentCount>),
    /// The worker's results. It is the last report.
    Done(Box<Totals>),
    /// The worker cannot continue.
    Broken(String),
}

impl Plan {
    /// Makes the configuration of TLS, if a server of the run needs one.
    pub(crate) fn tls_config(&self) -> Result<Option<Arc<ClientConfig>>, String> {
        let is_needed = self.target.is_secure || self.then.as_ref().is_some_and(|then| then.is_secure);
        is_needed.then(|| self.tls.client_config().map(Arc::new)).transpose()
    }
}

impl Share {
    /// Divides `connections` between `workers`.
    pub(crate) fn divide(connections: usize, workers: usize) -> Vec<Self> {
        let bound = |worker: usize| connections * worker / workers;
        (0..workers)
            .map(|worker| {
                let first = bound(worker);
                Self { worker, workers, first, count: bound(worker + 1) - first }
            })
            .collect()
    }
}

impl Window {
    /// Whether an event at `time_ns` lies in the measured window.
    pub(crate) fn measures(&self, time_ns: u64) -> bool {
        (self.measure_ns..self.end_ns).contains(&time_ns)
    }
}
