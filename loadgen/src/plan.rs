//! What the coordinator and the workers say to each other. All of it can cross a process boundary.

use serde::{Deserialize, Serialize};

use crate::message::Filler;
use crate::target::Target;
use crate::totals::{Tick, Totals};
use crate::ws::Offer;

/// What a run is to do; every worker gets the same.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Plan {
    pub(crate) target: Target,
    /// Where those who reconnect go, if that is another server.
    pub(crate) then: Option<Target>,
    pub(crate) scenario: Scenario,
    /// Connections of all workers together.
    pub(crate) connections: usize,
    /// Payload of each message, in bytes.
    pub(crate) size: usize,
    pub(crate) payload: Filler,
    pub(crate) compression: Offer,
    /// Messages come with a name in front, and others come too.
    pub(crate) chat: bool,
    /// Tells this run's messages from others.
    pub(crate) tag: u32,
    /// The time that the messages' times count from, in nanoseconds.
    pub(crate) epoch_ns: u64,
    /// For a handshake, in nanoseconds.
    pub(crate) timeout_ns: u64,
    /// A run is over when nothing has come for so long, in nanoseconds.
    pub(crate) grace_ns: u64,
    /// What still comes so long after the end is not waited for, in nanoseconds.
    pub(crate) drain_ns: u64,
    /// Handshakes under way at once, in each worker.
    pub(crate) in_flight: usize,
}

/// What the connections do.
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
    /// Each connection first sends `speak` messages to itself.
    Idle {
        speak: u32,
    },
    Connect {
        rate: Option<f64>,
    },
    Reconnect {
        /// Limits of the random delay: at first, and after attempts that failed.
        first_delay_ms: u64,
        most_delay_ms: u64,
        /// The server is told to end when the window begins.
        stop_server: bool,
    },
}

/// The part of the connections that one worker has: `first..first + count`.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Share {
    pub(crate) worker: usize,
    pub(crate) workers: usize,
    pub(crate) first: usize,
    pub(crate) count: usize,
}

/// When a run sends and when it measures, in nanoseconds.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub(crate) struct Window {
    /// The first message is due.
    pub(crate) start_ns: u64,
    /// The warm-up is over.
    pub(crate) measure_ns: u64,
    /// No message is due any more.
    pub(crate) end_ns: u64,
    /// So many connections are open when it starts.
    pub(crate) population: usize,
}

/// From the coordinator to a worker, in this order.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Command {
    /// Open the connections.
    Open,
    /// The traffic begins.
    Start(Window),
    /// Stop early; may come at any time.
    Stop,
    /// So many messages of each sender are to have come; wait for them.
    Finish(Vec<u32>),
}

/// From a worker to the coordinator.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Report {
    /// The worker is there and has all its memory.
    Started,
    /// So many connections are open and the others have failed.
    Ready { open: usize },
    /// What happened since the last one.
    Tick(Tick),
    /// Nothing more will be sent; each sender that has sent, and how much.
    Stopped(Vec<(u32, u32)>),
    /// All is over.
    Done(Box<Totals>),
    /// The worker cannot go on.
    Broken(String),
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
    /// Whether something that happened at `time_ns` counts.
    pub(crate) fn measures(&self, time_ns: u64) -> bool {
        (self.measure_ns..self.end_ns).contains(&time_ns)
    }
}
