//! The command line.

use std::path::PathBuf;
use std::thread::available_parallelism;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use serde::{Serialize, Serializer};

use crate::compare::CompareOptions;
use crate::message::{Filler, MIN_SIZE};
use crate::plan::Scenario;
use crate::report::ReportOptions;
use crate::ws::Offer;

/// Loads a WebSocket server and checks every message that comes back.
///
/// Exit code 0: all is well; 1: messages or connections were lost or wrong; 2: the run could not be made.
#[derive(Debug, Parser)]
#[command(name = "loadgen", version, max_term_width = 110)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Messages come back to their sender; the server must be in echo mode.
    Echo {
        /// Closed loop: messages that each connection keeps under way.
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
        pipeline: u32,
        /// Open loop: messages a second of all connections together, instead of --pipeline.
        #[arg(long, value_parser = parse_rate, conflicts_with = "pipeline")]
        rate: Option<f64>,
        #[command(flatten)]
        options: RunOptions,
    },
    /// Publishers send at a rate and everybody in the room hears everything.
    Broadcast {
        /// Connections that publish.
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
        publishers: u32,
        /// Messages a second of all publishers together.
        #[arg(long, default_value = "10", value_parser = parse_rate)]
        rate: f64,
        #[command(flatten)]
        options: RunOptions,
    },
    /// Everybody sends one message, waits for everybody's, and again: rounds a second.
    Storm {
        #[command(flatten)]
        options: RunOptions,
    },
    /// Connections are opened and held for --duration: memory of each; then one message goes to all.
    ///
    /// With --speak the server must be in echo mode, and each sends one message more instead.
    Idle {
        /// Messages that each connection sends to itself when it opens, so that it has done something.
        #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(..=1000))]
        speak: u32,
        #[command(flatten)]
        options: RunOptions,
    },
    /// Connections are opened and closed; --connections is how many may be open at once.
    Connect {
        /// Handshakes a second; as many as possible if not given.
        #[arg(long, value_parser = parse_rate)]
        rate: Option<f64>,
        #[command(flatten)]
        options: RunOptions,
    },
    /// Whoever is closed comes back after a random time, and later again if that fails: how a crowd returns.
    ///
    /// Until all were closed and are back, or for --duration; what happens is counted in steps of 100 ms.
    Reconnect {
        /// Longest random time before the first attempt to come back; it doubles with each that fails.
        #[arg(long, default_value = "500ms", value_parser = parse_duration)]
        first_delay: Duration,
        /// What it doubles up to.
        #[arg(long, default_value = "30s", value_parser = parse_duration)]
        most_delay: Duration,
        /// Where they come back to, if that is another server.
        #[arg(long, value_name = "URL")]
        then: Option<String>,
        /// Sends SIGTERM to the server when the warm-up is over.
        #[arg(long)]
        stop_server: bool,
        #[command(flatten)]
        options: RunOptions,
    },
    /// Runs servers side by side and writes figures, tables and pictures into a directory of their own.
    Compare(CompareOptions),
    /// Writes the README's table from the newest results, or checks it against them.
    Report(ReportOptions),
    /// One process of several that share the connections; the first one starts it.
    #[command(hide = true)]
    Helper,
}

/// What the program can be told to do.
pub(crate) enum Task {
    Run(Scenario, RunOptions),
    Compare(CompareOptions),
    Report(ReportOptions),
    Help,
}

/// What all scenarios have in common.
#[derive(Debug, Clone, Args, Serialize)]
pub(crate) struct RunOptions {
    /// The server and, for most servers, the room.
    #[arg(long, default_value = "ws://127.0.0.1:8000/room/bench")]
    pub(crate) url: String,
    /// Where those who reconnect go, if that is another server.
    #[arg(skip)]
    pub(crate) then: Option<String>,
    /// Connections in all.
    #[arg(long, short, default_value_t = 500, value_parser = parse_connections)]
    pub(crate) connections: usize,
    /// Payload of each message in bytes, 20 or more.
    #[arg(long, default_value_t = 64, value_parser = parse_size)]
    pub(crate) size: usize,
    /// What messages consist of.
    #[arg(long, value_enum, default_value_t)]
    pub(crate) payload: Filler,
    /// permessage-deflate: `on` for each message by itself, `takeover` with all that the server offers.
    #[arg(long, value_enum, default_value_t)]
    pub(crate) compression: Offer,
    /// The server puts a name, a colon and a space before each message, and says things of its own, as uproar's chat does.
    #[arg(long)]
    pub(crate) chat: bool,
    /// Length of the measured window, as in 10, 10s, 500ms or 2m.
    #[arg(long, default_value = "10s", value_parser = parse_duration)]
    #[serde(rename = "duration_seconds", serialize_with = "as_seconds")]
    pub(crate) duration: Duration,
    /// Traffic before the measured window.
    #[arg(long, default_value = "2s", value_parser = parse_duration)]
    #[serde(rename = "warmup_seconds", serialize_with = "as_seconds")]
    pub(crate) warmup: Duration,
    /// Threads that share the connections; half the cores if not given.
    #[arg(long, default_value_t = default_threads(), value_parser = parse_threads)]
    pub(crate) threads: usize,
    /// Addresses of 127.0.0.0/8 to spread the connections over; as many as their ports need if not given.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub(crate) destinations: Option<u32>,
    /// The server's process, whose CPU and memory are measured; found by the port if not given.
    #[arg(long)]
    pub(crate) server_pid: Option<u32>,
    /// Limit for each handshake.
    #[arg(long, default_value = "10s", value_parser = parse_duration)]
    #[serde(rename = "connect_timeout_seconds", serialize_with = "as_seconds")]
    pub(crate) connect_timeout: Duration,
    /// Messages count as lost when nothing has come for so long after the end.
    #[arg(long, default_value = "5s", value_parser = parse_duration)]
    #[serde(rename = "grace_seconds", serialize_with = "as_seconds")]
    pub(crate) grace: Duration,
    /// What still comes so long after the end is not waited for; it does not count as lost.
    #[arg(long, default_value = "30s", value_parser = parse_duration)]
    #[serde(rename = "drain_seconds", serialize_with = "as_seconds")]
    pub(crate) drain: Duration,
    /// Handshakes under way at once.
    #[arg(long, default_value_t = 100, value_parser = parse_threads)]
    pub(crate) in_flight: usize,
    /// Writes all figures to this file.
    #[arg(long)]
    #[serde(skip)]
    pub(crate) json: Option<PathBuf>,
    /// Writes the latency distribution to this file, as HdrHistogram's plotter reads it.
    #[arg(long)]
    #[serde(skip)]
    pub(crate) hgrm: Option<PathBuf>,
    /// Shows no progress.
    #[arg(long, short)]
    #[serde(skip)]
    pub(crate) quiet: bool,
}

impl Command {
    /// What is to be done.
    pub(crate) fn task(self) -> Task {
        let (scenario, options) = match self {
            Self::Helper => return Task::Help,
            Self::Compare(options) => return Task::Compare(options),
            Self::Report(options) => return Task::Report(options),
            Self::Echo { pipeline, rate, options } => (Scenario::Echo { pipeline, rate }, options),
            Self::Broadcast { publishers, rate, options } => {
                (Scenario::Broadcast { publishers, rate }, options)
            }
            Self::Storm { options } => (Scenario::Storm, options),
            Self::Idle { speak, options } => (Scenario::Idle { speak }, options),
            Self::Connect { rate, options } => (Scenario::Connect { rate }, options),
            Self::Reconnect { first_delay, most_delay, then, stop_server, options } => {
                let [first_delay_ms, most_delay_ms] =
                    [first_delay, most_delay].map(|delay| delay.as_millis() as u64);
                let scenario = Scenario::Reconnect { first_delay_ms, most_delay_ms, stop_server };
                (scenario, RunOptions { then, ..options })
            }
        };
        Task::Run(scenario, options)
    }
}

fn default_threads() -> usize {
    available_parallelism().map_or(1, |cores| (cores.get() / 2).max(1))
}

pub(crate) fn parse_connections(text: &str) -> Result<usize, String> {
    // A sender's number has 24 bits in a message.
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
    // A message's time has 48 bits of nanoseconds: three days.
    if (0.0..=100_000.0).contains(&seconds) {
        Ok(Duration::from_secs_f64(seconds))
    } else {
        Err("give a time such as 10, 10s, 500ms or 2m, up to a day".to_owned())
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
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn times_have_units() {
        for (text, ms) in [("10", 10_000), ("1.5s", 1500), ("500ms", 500), ("2m", 120_000), ("0", 0)] {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(ms)));
        }
        for wrong in ["", "s", "-1", "10 parsecs", "1e9", "NaN"] {
            assert!(parse_duration(wrong).is_err(), "{wrong}");
        }
    }
}
