//! The messages between the coordinator and the workers. All messages can cross a process boundary.

use std::sync::Arc;

use rustls::ClientConfig;
use serde::{Deserialize, Serialize};

use crate::message::Filler;
use crate::post::Post;
use crate::pusher::Session;
use crate::target::Target;
use crate::tls::TlsOptions;
use crate::totals::{Tick, Totals};
use crate::url::Protocol;
use crate::ws::Offer;

/// The task of a run. Every worker gets the same plan.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Plan {
    pub(crate) target: Target,
    /// The server that connections return to in the reconnect scenario, if not `target`.
    pub(crate) then: Option<Target>,
    /// The requests that publish in the publish scenario. `None` in other scenarios.
    pub(crate) post: Option<Post>,
    /// The application and the channels of a Pusher server. `None` with another protocol.
    pub(crate) pusher: Option<Session>,
    pub(crate) scenario: Scenario,
    /// Total number of connections of all workers.
    pub(crate) connections: usize,
    /// Length of each message's payload, in bytes.
    pub(crate) size: usize,
    pub(crate) payload: Filler,
    pub(crate) compression: Offer,
    pub(crate) tls: TlsOptions,
    /// The server is a chat: it puts the sender's name before each message and sends notices of its own.
    pub(crate) chat: bool,
    /// A random number that distinguishes the messages of this run from other messages.
    pub(crate) tag: u32,
    /// The clock time from which messages count their times, in nanoseconds.
    pub(crate) epoch_ns: u64,
    /// Longest duration of a handshake, in nanoseconds.
    pub(crate) timeout_ns: u64,
    /// Longest pause between arriving messages after the traffic, in nanoseconds. After such a pause the run is over.
    pub(crate) grace_ns: u64,
    /// The longest wait for the last messages, in nanoseconds.
    pub(crate) drain_ns: u64,
    /// Number of handshakes that each worker has under way at a time.
    pub(crate) in_flight: usize,
}

/// The scenario of a run: the traffic on the connections.
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
    /// Idle scenario: the connections are held open. Each connection first sends `speak` messages to itself.
    Idle {
        speak: u32,
    },
    Connect {
        rate: Option<f64>,
    },
    /// HTTP requests over kept connections, with `pipeline` requests under way on each.
    Requests {
        pipeline: u32,
    },
    /// HTTP requests publish, and `subscribers` WebSocket connections receive. Closed loop without a rate.
    Publish {
        subscribers: usize,
        rate: Option<f64>,
    },
    /// Members of a Pusher presence channel hear of `guests`, which join and leave: `rate` joins and leaves per second.
    Presence {
        guests: usize,
        rate: f64,
    },
    Reconnect {
        /// Longest random delay before the first attempt to return, in milliseconds.
        first_delay_ms: u64,
        /// Longest random delay before any attempt to return, in milliseconds.
        #[serde(rename = "most_delay_ms")]
        max_delay_ms: u64,
        /// Whether the coordinator sends SIGTERM to the server when the measured window begins.
        stop_server: bool,
    },
}

/// One worker's share of the run's connections: the numbers `first..first + count`.
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
    /// The time when the first message is due.
    pub(crate) start_ns: u64,
    /// The time when the warm-up ends and the measured window begins.
    pub(crate) measure_ns: u64,
    /// The time when the measured window ends (exclusive). No message is due from then on.
    pub(crate) end_ns: u64,
    /// Number of connections that are open at the start of the traffic.
    pub(crate) population: usize,
}

/// A command from the coordinator to a worker, in the order in which the coordinator sends the commands.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Command {
    /// Tells the worker to open its connections.
    Open,
    /// Tells the worker to start the traffic, with the times of the run.
    Start(Window),
    /// Tells the worker to stop early. The coordinator may send this command at any time.
    Stop,
    /// Tells the worker to wait for the last messages, with the number of messages that each sender has sent.
    Finish(Vec<u32>),
}

/// The number of messages that one sender has sent.
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
    /// The worker has opened `open` connections. Its other connections have failed.
    Ready { open: usize },
    /// The worker's figures since its last tick, for the progress line.
    Tick(Tick),
    /// The worker's traffic has stopped. The list has the number of messages of each of its senders.
    Stopped(Vec<SentCount>),
    /// The worker's results, in its last report.
    Done(Box<Totals>),
    /// The worker cannot continue, for this reason.
    Broken(String),
}

impl Scenario {
    /// Returns the protocol of the scenario's connections.
    pub(crate) fn protocol(self) -> Protocol {
        match self {
            Self::Requests { .. } => Protocol::Http,
            _ => Protocol::WebSocket,
        }
    }
}

impl Plan {
    /// Creates the TLS configuration. Returns `None` if no server of the run uses TLS.
    pub(crate) fn tls_config(&self) -> Result<Option<Arc<ClientConfig>>, String> {
        let is_needed = self.target.is_secure
            || self.then.as_ref().is_some_and(|then| then.is_secure)
            || self.post.as_ref().is_some_and(|post| post.target.is_secure);
        is_needed.then(|| self.tls.client_config().map(Arc::new)).transpose()
    }
}

impl Share {
    /// Divides `connections` evenly between `workers`. Returns one share per worker.
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
    /// Returns whether an event at `time_ns` lies in the measured window. The window's end is exclusive.
    pub(crate) fn measures(&self, time_ns: u64) -> bool {
        (self.measure_ns..self.end_ns).contains(&time_ns)
    }
}
