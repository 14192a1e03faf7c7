//! The command line of loadgen.

use std::path::PathBuf;
use std::thread::available_parallelism;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use serde::{Serialize, Serializer};

use crate::compare::CompareOptions;
use crate::message::{Filler, MIN_SIZE};
use crate::plan::Scenario;
use crate::post::PublishOptions;
use crate::pusher::{Dialect, PusherOptions};
use crate::report::ReportOptions;
use crate::tls::TlsOptions;
use crate::ws::Offer;

const EXAMPLES: &str = "\
Examples (start the server first, in the mode that the scenario needs):
  uproar --app echo  & loadgen echo --connections 100
  uproar --app relay & loadgen broadcast --connections 1000 --rate 100
  loadgen publish --protocol pusher --pusher-app ID:KEY:SECRET --subscribers 1000 --rate 100 --connections 4
  loadgen compare --servers uproar-epoll,uproar-io-uring --scenarios echo --rounds 3

`loadgen SCENARIO --help` describes a scenario and its options.";

/// The URL of the load if none is given.
const WS_URL: &str = "ws://127.0.0.1:8000/room/bench";
/// The URL of a Pusher server if none is given.
const PUSHER_URL: &str = "ws://127.0.0.1:8000";
/// The URL of an HTTP load if none is given.
const HTTP_URL: &str = "http://127.0.0.1:8000/";

/// Puts load on a WebSocket server and checks every message that comes back.
///
/// Choose a scenario. It opens the connections, warms up for --warmup, measures for --duration, waits for the last
/// messages, and prints throughput, latency, and the server's CPU time and memory. A message that is lost, repeated,
/// out of order or altered fails the run, and so does a connection that the server ends.
///
/// Exit code: 0 if the run passed, 1 if messages or connections failed, 2 if the run could not be made.
#[derive(Debug, Parser)]
#[command(name = "loadgen", version, max_term_width = 110, after_help = EXAMPLES)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Each connection sends messages and gets them back. Measures round trips.
    ///
    /// The server must be in echo mode (uproar --app echo). By default each connection sends its next message when
    /// the last one is back (closed loop). With --rate messages leave on a fixed schedule, and the latency counts from
    /// the scheduled time (open loop).
    #[command(after_help = "Example: loadgen echo --connections 100 --rate 5000 --duration 30s")]
    Echo {
        /// Closed loop: messages that each connection keeps under way.
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
        pipeline: u32,
        /// Open loop: messages per second of all connections together, instead of --pipeline.
        #[arg(long, value_parser = parse_rate, conflicts_with = "pipeline")]
        rate: Option<f64>,
        #[command(flatten)]
        options: RunOptions,
    },
    /// Some connections publish at a fixed rate, and all receive every message. Measures delivery.
    ///
    /// The server must be in relay mode (uproar --app relay), or a chat with --chat. The latency counts from the
    /// scheduled time of a message. With --protocol pusher the messages are client events, which do not return to their
    /// sender; raise the server's limit of client events.
    #[command(after_help = "Example: loadgen broadcast --connections 1000 --publishers 1 --rate 100")]
    Broadcast {
        /// Connections that publish.
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
        publishers: u32,
        /// Messages per second of all publishers together.
        #[arg(long, default_value = "10", value_parser = parse_rate)]
        rate: f64,
        #[command(flatten)]
        options: RunOptions,
    },
    /// Every connection sends one message and waits for everybody's, then the next round begins. Measures rounds.
    ///
    /// With N connections a round has N × N deliveries. The server must be in relay mode (uproar --app relay), or a
    /// chat with --chat; a chat needs --message-rate 0 --byte-rate 0, or its limit is what is measured. With --protocol
    /// pusher the messages are client events, and a round has N × (N - 1) deliveries; raise the server's limit of client
    /// events.
    #[command(after_help = "Examples:\n  loadgen storm --connections 500 --size 20\n  \
        loadgen storm --connections 200 --protocol pusher --pusher-app ID:KEY:SECRET")]
    Storm {
        #[command(flatten)]
        options: RunOptions,
    },
    /// Opens connections and holds them for --duration. Measures memory per connection.
    ///
    /// In the end one message goes to all of them, to show that they work; the server must be in relay mode. With
    /// --speak each connection sends messages to itself instead, and the server must be in echo mode. With
    /// --pusher-own-channels the server answers a ping of each connection instead.
    #[command(after_help = "Example: loadgen idle --connections 10000 --duration 5s")]
    Idle {
        /// Messages that each connection sends to itself when it opens.
        #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(..=1000))]
        speak: u32,
        #[command(flatten)]
        options: RunOptions,
    },
    /// Opens connections and closes them at once, again and again. Measures handshakes.
    ///
    /// --connections is the number that may be open at a time. An end that is not the answer to loadgen's close frame
    /// fails the run.
    #[command(after_help = "Example: loadgen connect --connections 32 --rate 1000")]
    Connect {
        /// Handshakes per second; as many as possible if not given.
        #[arg(long, value_parser = parse_rate)]
        rate: Option<f64>,
        #[command(flatten)]
        options: RunOptions,
    },
    /// Each connection sends GET requests for --url and waits for the responses. Measures HTTP with keep-alive.
    ///
    /// Every response must have status 200, a Content-Length and the same body. The first request of each connection is
    /// not measured. --size, --payload, --compression and --chat do not apply.
    #[command(after_help = "Example: loadgen requests --connections 16 --url http://127.0.0.1:8000/")]
    Requests {
        /// Requests that each connection keeps under way.
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
        pipeline: u32,
        #[command(flatten)]
        options: RunOptions,
    },
    /// HTTP clients publish with POST requests, and WebSocket subscribers get every message. Measures publishing.
    ///
    /// --connections is the number of HTTP clients, which keep their connections. Each sends its next request when the
    /// last one is answered (closed loop). With --rate requests leave on a fixed schedule, and the latency counts from the
    /// scheduled time (open loop). A request must be answered with a status of 200 to 299. uproar needs --api-keys; for
    /// another server give --publish-url. With --protocol pusher the requests are signed events. Subscribers find a message inside anything that the server puts around it.
    #[command(after_help = "Examples:\n  loadgen publish --connections 16 --api-key KEY\n  \
        loadgen publish --connections 1 --subscribers 1000 --rate 50 --api-key KEY\n  \
        loadgen publish --connections 4 --subscribers 10 --url ws://127.0.0.1:8080/sub/x \\\n      \
        --publish-url http://127.0.0.1:8080/api --publish-header 'Content-Type: application/json' \\\n      \
        --publish-body '{\"channel\":\"x\",\"data\":\"{payload-json}\"}'")]
    Publish {
        /// Open loop: requests per second of all connections together.
        #[arg(long, value_parser = parse_rate)]
        rate: Option<f64>,
        #[command(flatten)]
        publish: PublishOptions,
        #[command(flatten)]
        options: RunOptions,
    },
    /// Members of a Pusher presence channel hear of guests that join and leave. Measures presence.
    ///
    /// --connections is the number of members that stay. Further connections, two for each join per second, join and leave
    /// the channel; a guest stays for a second. Every member must hear of every join and leave, once and in order. --size,
    /// --payload and --chat do not apply.
    #[command(
        after_help = "Example: loadgen presence --connections 1000 --rate 10 --pusher-app ID:KEY:SECRET"
    )]
    Presence {
        /// Joins per second. There are as many leaves.
        #[arg(long, default_value = "10", value_parser = parse_rate)]
        rate: f64,
        #[command(flatten)]
        options: RunOptions,
    },
    /// Holds connections and reopens those that the server closes. Measures how clients return after a restart.
    ///
    /// A closed connection returns after a random delay of up to --first-delay; the limit doubles with each failed
    /// attempt up to --max-delay. The run ends when all were closed and are back, or after --duration. Only an end
    /// with code 1001 or 1012 is expected. Closed, returned and failed connections are counted per 100 ms.
    #[command(after_help = "Example: loadgen reconnect --connections 5000 --duration 90s --stop-server \
                            --then ws://127.0.0.1:8001/room/bench")]
    Reconnect {
        /// Longest delay before the first attempt to return.
        #[arg(long, default_value = "500ms", value_parser = parse_duration)]
        first_delay: Duration,
        /// Longest delay before any attempt to return.
        #[arg(long, default_value = "30s", value_parser = parse_duration, alias = "most-delay")]
        max_delay: Duration,
        /// The server to return to, if it is another one.
        #[arg(long, value_name = "URL")]
        then: Option<String>,
        /// Send SIGTERM to the server after the warm-up.
        #[arg(long)]
        stop_server: bool,
        #[command(flatten)]
        options: RunOptions,
    },
    /// Runs several servers side by side and writes figures, tables and charts into a directory.
    ///
    /// Each run has a fresh server on one core and the load on another. The servers take turns in every round.
    #[command(after_help = "Examples:\n  loadgen compare --dry-run\n  loadgen compare --servers \
        uproar-epoll,uproar-epoll-tls --scenarios echo,connect --name tls")]
    Compare(CompareOptions),
    /// Writes the results table of the README from the newest comparison, or checks it.
    #[command(after_help = "Example: loadgen report --check")]
    Report(ReportOptions),
    /// Runs one of several processes that share the connections. The first process starts it.
    #[command(hide = true)]
    Helper,
}

/// The task that a command line asks for.
pub(crate) enum Task {
    Run(Scenario, Box<RunOptions>),
    Compare(CompareOptions),
    Report(ReportOptions),
    Helper,
}

/// The options of all scenarios.
#[derive(Debug, Clone, Args, Serialize)]
pub(crate) struct RunOptions {
    /// The server and, for most servers, the room: ws:// or, with TLS, wss://. `requests` takes
    /// http:// and https://, and http://127.0.0.1:8000/ if none is given. With --protocol pusher the default is
    /// ws://127.0.0.1:8000.
    #[arg(long, default_value = WS_URL)]
    pub(crate) url: String,
    /// The server that connections return to in the reconnect scenario, if not the server of `url`.
    #[arg(skip)]
    pub(crate) then: Option<String>,
    /// The requests and subscribers of the publish scenario.
    #[arg(skip)]
    pub(crate) publish: Option<PublishOptions>,
    /// Number of connections.
    #[arg(long, short, default_value_t = 500, value_parser = parse_connections)]
    pub(crate) connections: usize,
    /// Payload of each message, in bytes; 20 or more.
    #[arg(long, default_value_t = 64, value_parser = parse_size, value_name = "BYTES")]
    pub(crate) size: usize,
    /// Content of the messages.
    #[arg(long, value_enum, default_value_t)]
    pub(crate) payload: Filler,
    /// permessage-deflate: `on` compresses each message by itself, `takeover` uses all that the server offers.
    #[arg(long, value_enum, default_value_t)]
    pub(crate) compression: Offer,
    #[command(flatten)]
    #[serde(flatten)]
    pub(crate) tls: TlsOptions,
    /// The server is a chat: it puts `NAME: ` before each message and sends notices of its own, as uproar's chat does.
    #[arg(long)]
    pub(crate) chat: bool,
    #[command(flatten)]
    #[serde(flatten)]
    pub(crate) pusher: PusherOptions,
    /// Length of the measured window, such as 10, 10s, 500ms or 2m.
    #[arg(long, default_value = "10s", value_parser = parse_duration)]
    #[serde(rename = "duration_seconds", serialize_with = "as_seconds")]
    pub(crate) duration: Duration,
    /// Length of the traffic before the measured window.
    #[arg(long, default_value = "2s", value_parser = parse_duration)]
    #[serde(rename = "warmup_seconds", serialize_with = "as_seconds")]
    pub(crate) warmup: Duration,
    /// Threads that share the connections; half the cores if not given.
    #[arg(long, default_value_t = default_threads(), value_parser = parse_threads)]
    pub(crate) threads: usize,
    /// Addresses of 127.0.0.0/8 to spread the connections over; as many as the local ports require if not given.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub(crate) destinations: Option<u32>,
    /// Process id of the server, whose CPU time and memory are measured; found by the port if not given.
    #[arg(long, value_name = "PID")]
    pub(crate) server_pid: Option<u32>,
    /// Time limit of each handshake.
    #[arg(long, default_value = "10s", value_parser = parse_duration)]
    #[serde(rename = "connect_timeout_seconds", serialize_with = "as_seconds")]
    pub(crate) connect_timeout: Duration,
    /// A missing message counts as lost when nothing has arrived for this time after the measured window.
    #[arg(long, default_value = "5s", value_parser = parse_duration)]
    #[serde(rename = "grace_seconds", serialize_with = "as_seconds")]
    pub(crate) grace: Duration,
    /// Longest wait for the last messages. Those that are still on their way then do not count as lost.
    #[arg(long, default_value = "30s", value_parser = parse_duration)]
    #[serde(rename = "drain_seconds", serialize_with = "as_seconds")]
    pub(crate) drain: Duration,
    /// Handshakes under way at a time.
    #[arg(long, default_value_t = 100, value_parser = parse_threads)]
    pub(crate) in_flight: usize,
    /// Write all figures to this file.
    #[arg(long, value_name = "FILE")]
    #[serde(skip)]
    pub(crate) json: Option<PathBuf>,
    /// Write the latency distribution to this file, in the format of HdrHistogram's plotter.
    #[arg(long, value_name = "FILE")]
    #[serde(skip)]
    pub(crate) hgrm: Option<PathBuf>,
    /// Show no progress.
    #[arg(long, short)]
    #[serde(skip)]
    pub(crate) quiet: bool,
}

impl Command {
    /// Returns the task that the command line asks for, with its options.
    pub(crate) fn task(self) -> Task {
        let (scenario, options) = match self {
            Self::Helper => return Task::Helper,
            Self::Compare(options) => return Task::Compare(options),
            Self::Report(options) => return Task::Report(options),
            Self::Echo { pipeline, rate, options } => (Scenario::Echo { pipeline, rate }, options),
            Self::Broadcast { publishers, rate, options } => {
                (Scenario::Broadcast { publishers, rate }, options)
            }
            Self::Storm { options } => (Scenario::Storm, options),
            Self::Idle { speak, options } => (Scenario::Idle { speak }, options),
            Self::Connect { rate, options } => (Scenario::Connect { rate }, options),
            Self::Requests { pipeline, options } => {
                let url = if options.url == WS_URL { HTTP_URL.to_owned() } else { options.url };
                (Scenario::Requests { pipeline }, RunOptions { url, ..options })
            }
            Self::Publish { rate, publish, options } => {
                let scenario = Scenario::Publish { subscribers: publish.subscribers, rate };
                (scenario, RunOptions { publish: Some(publish), ..options })
            }
            Self::Presence { rate, options } => {
                let pusher = PusherOptions { protocol: Dialect::Pusher, ..options.pusher };
                // A guest stays for half of the time between its joins.
                let guests = (2.0 * rate).ceil().max(2.0) as usize;
                // A message of the smallest size is the user identifier of a guest.
                let (size, payload) = (MIN_SIZE, Filler::default());
                (Scenario::Presence { guests, rate }, RunOptions { pusher, size, payload, ..options })
            }
            Self::Reconnect { first_delay, max_delay, then, stop_server, options } => {
                let [first_delay_ms, max_delay_ms] =
                    [first_delay, max_delay].map(|delay| delay.as_millis() as u64);
                let scenario = Scenario::Reconnect { first_delay_ms, max_delay_ms, stop_server };
                (scenario, RunOptions { then, ..options })
            }
        };
        let uses_pusher = options.pusher.protocol == Dialect::Pusher && options.url == WS_URL;
        let url = if uses_pusher { PUSHER_URL.to_owned() } else { options.url };
        Task::Run(scenario, Box::new(RunOptions { url, ..options }))
    }
}

fn default_threads() -> usize {
    available_parallelism().map_or(1, |cores| (cores.get() / 2).max(1))
}

pub(crate) fn parse_connections(text: &str) -> Result<usize, String> {
    // The sender's number in a message has 24 bits.
    parse_between(text, 1, 1 << 24)
}

fn parse_threads(text: &str) -> Result<usize, String> {
    parse_between(text, 1, 65_536)
}

fn parse_size(text: &str) -> Result<usize, String> {
    parse_between(text, MIN_SIZE, 16 << 20)
}

fn parse_between(text: &str, least: usize, most: usize) -> Result<usize, String> {
    match text.parse() {
        Ok(number) if (least..=most).contains(&number) => Ok(number),
        _ => Err(format!("give a number between {least} and {most}")),
    }
}

fn parse_rate(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(rate) if (0.001..=1e8).contains(&rate) => Ok(rate),
        _ => Err("give messages a second, between 0.001 and 100000000".to_owned()),
    }
}

pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|symbol: char| symbol.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "ms" => 1e-3,
        "" | "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => f64::NAN,
    };
    let seconds = digits.parse::<f64>().map_or(f64::NAN, |number| number * unit);
    // The time in a message has 48 bits of nanoseconds, which is three days.
    if (0.0..=100_000.0).contains(&seconds) {
        Ok(Duration::from_secs_f64(seconds))
    } else {
        Err("give a time such as 10, 10s, 500ms or 2m, up to 100000s".to_owned())
    }
}

pub(crate) fn as_seconds<S: Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(time.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn durations_have_units() {
        for (text, ms) in [("10", 10_000), ("1.5s", 1500), ("500ms", 500), ("2m", 120_000), ("0", 0)] {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(ms)));
        }
        for wrong in ["", "s", "-1", "10 parsecs", "1e9", "NaN"] {
            assert!(parse_duration(wrong).is_err(), "{wrong}");
        }
    }
}
