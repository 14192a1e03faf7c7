//! Plans a comparison: its load points (a scenario at one number of connections), their servers, and the duration.

use std::fmt::Write as _;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::CompareOptions;
use super::servers::Server;

/// Numbers of connections of the storms: in a full comparison, and in a quick one.
const STORMS: [&[usize]; 2] = [&[50, 200, 500, 1000], &[50, 200]];
/// Number of connections of the idle scenario: in a full comparison, and in a quick one.
const IDLES: [usize; 2] = [10_000, 2000];
/// Numbers of idle connections for servers with a connection limit, below and above that limit: in a full comparison,
/// and in a quick one.
const LIMITED_IDLES: [&[usize]; 2] = [&[100, 500, 900, 1100], &[900]];
/// Assumed handshakes per second while connections are opened, to compute the expected duration of a run.
const RAMP_PER_SECOND: f64 = 8000.0;
/// Expected time to start and stop the server and the load generator, in seconds.
const OVERHEAD_SECONDS: f64 = 0.6;
/// Longest time that an idle run holds its connections, in seconds.
const HOLD_SECONDS: f64 = 1.0;

/// A scenario that a comparison can run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    /// Echo scenario: the server returns each message to its sender.
    Echo,
    /// Broadcast scenario: one connection publishes, and all connections receive each message.
    Broadcast,
    /// Storm scenario: in each round every connection sends one message and receives everyone's messages.
    Storm,
    /// Idle scenario: connections stay open and silent.
    Idle,
    /// Connect scenario: each connection is opened and closed again at once.
    Connect,
}

/// A load point: a scenario at one number of connections.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Point {
    pub(crate) kind: Kind,
    pub(crate) connections: usize,
    /// Whether this load point is only for servers with a connection limit, to show how they behave around the limit.
    pub(crate) at_limit: bool,
    /// Load generator arguments of every run at this load point.
    pub(crate) arguments: Vec<String>,
    /// Expected duration of one run at this load point, in seconds.
    pub(crate) seconds: f64,
}

/// The plan of a comparison: the load points, the servers, and the number of rounds.
pub(crate) struct Schedule {
    pub(crate) points: Vec<Point>,
    pub(crate) servers: Vec<Server>,
    pub(crate) rounds: u32,
}

impl Kind {
    /// Returns the server mode that the scenario needs: `echo` or `relay`.
    pub(crate) fn app(self) -> &'static str {
        match self {
            Self::Echo | Self::Connect => "echo",
            Self::Broadcast | Self::Storm | Self::Idle => "relay",
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Echo => "echo",
            Self::Broadcast => "broadcast",
            Self::Storm => "storm",
            Self::Idle => "idle",
            Self::Connect => "connect",
        }
    }

    /// Returns whether a comparison keeps the latency distribution of the scenario's runs.
    pub(crate) fn has_latency(self) -> bool {
        matches!(self, Self::Echo | Self::Broadcast)
    }

    fn connections(self, quick: bool) -> Vec<usize> {
        let set = usize::from(quick);
        match self {
            Self::Echo => vec![100],
            Self::Broadcast => vec![1000],
            Self::Storm => STORMS[set].to_vec(),
            Self::Idle => vec![IDLES[set]],
            Self::Connect => vec![32],
        }
    }

    fn arguments(self) -> &'static [&'static str] {
        match self {
            Self::Echo => &["--size", "64"],
            Self::Broadcast => &["--publishers", "1", "--rate", "100", "--size", "64"],
            Self::Storm => &["--size", "20"],
            Self::Idle | Self::Connect => &[],
        }
    }
}

impl Point {
    fn new(kind: Kind, connections: usize, at_limit: bool, options: &CompareOptions) -> Self {
        let (warmup, duration) = (options.warmup.as_secs_f64(), options.duration.as_secs_f64());
        let (warmup, duration) = match kind {
            Kind::Idle => (0.0, duration.min(HOLD_SECONDS)),
            _ => (warmup, duration),
        };
        let ramp = if kind == Kind::Connect { 0.0 } else { connections as f64 / RAMP_PER_SECOND };
        let own = [kind.name().to_owned(), "--connections".to_owned(), connections.to_string()];
        let times =
            ["--warmup".to_owned(), format!("{warmup}s"), "--duration".to_owned(), format!("{duration}s")];
        let given: Vec<&str> = options.load.split_whitespace().collect();
        let usual = kind.arguments().chunks(2).filter(|option| !given.contains(&option[0])).flatten();
        let arguments = usual.copied().chain(given.iter().copied()).map(str::to_owned);
        Self {
            kind,
            connections,
            at_limit,
            arguments: own.into_iter().chain(arguments).chain(times).collect(),
            seconds: OVERHEAD_SECONDS + ramp + warmup + duration,
        }
    }

    pub(crate) fn name(&self) -> String {
        format!("{}-{}", self.kind.name(), self.connections)
    }

    /// Returns whether `server` is run at this load point.
    pub(crate) fn takes(&self, server: &Server) -> bool {
        let fits = match server.max_connections {
            Some(most) => self.at_limit || self.connections <= most,
            None => !self.at_limit,
        };
        fits && server.apps.iter().any(|app| app == self.kind.app())
    }
}

impl Schedule {
    pub(crate) fn new(options: &CompareOptions, servers: Vec<Server>) -> Self {
        let mut points = Vec::new();
        for &kind in &options.scenarios {
            let given = &options.connections;
            let counts = if given.is_empty() { kind.connections(options.quick) } else { given.clone() };
            points.extend(counts.into_iter().map(|count| Point::new(kind, count, false, options)));
            if kind == Kind::Idle && given.is_empty() {
                let limited = LIMITED_IDLES[usize::from(options.quick)];
                points.extend(limited.iter().map(|&count| Point::new(kind, count, true, options)));
            }
        }
        points.retain(|point| servers.iter().any(|server| point.takes(server)));
        Self { points, servers, rounds: options.rounds }
    }

    /// Returns the servers that are run at the load point `point`.
    pub(crate) fn servers_at(&self, point: &Point) -> impl Iterator<Item = &Server> {
        self.servers.iter().filter(|server| point.takes(server))
    }

    /// Returns the number of runs at the load point `point`, of all servers and rounds.
    pub(crate) fn runs_at(&self, point: &Point) -> usize {
        self.servers_at(point).count() * self.rounds as usize
    }

    pub(crate) fn runs(&self) -> usize {
        self.points.iter().map(|point| self.runs_at(point)).sum()
    }

    /// Returns the expected duration of all runs, in seconds.
    pub(crate) fn seconds(&self) -> f64 {
        self.points.iter().map(|point| self.runs_at(point) as f64 * point.seconds).sum()
    }

    /// Returns the plan as text: one line per load point, then the number of runs and the expected duration.
    pub(crate) fn text(&self) -> String {
        let mut out = String::new();
        for point in &self.points {
            let servers: Vec<&str> = self.servers_at(point).map(|server| server.name.as_str()).collect();
            let _ = writeln!(
                out,
                "{:<15} {} rounds of {:.1} s: {}",
                point.name(),
                self.rounds,
                point.seconds,
                servers.join(", ")
            );
        }
        let (runs, minutes) = (self.runs(), self.seconds() / 60.0);
        let _ = writeln!(out, "{runs} runs, about {minutes:.1} minutes");
        out
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    struct Program {
        #[command(flatten)]
        options: CompareOptions,
    }

    fn schedule(arguments: &str) -> Schedule {
        let words = ["compare"].into_iter().chain(arguments.split_whitespace());
        let server = |number: usize| Server {
            name: format!("server-{number}"),
            version: String::new(),
            command: Vec::new(),
            apps: vec!["echo".to_owned(), "relay".to_owned()],
            build: String::new(),
            notes: String::new(),
            max_connections: (number == 0).then_some(1000),
            tls: false,
        };
        Schedule::new(&Program::parse_from(words).options, (0..10).map(server).collect())
    }

    #[test]
    fn a_comparison_of_ten_servers_keeps_its_time_limit() {
        let full = schedule("");
        assert!(full.seconds() < 22.0 * 60.0, "{}", full.text());
        // The options of `just compare-quick`.
        let quick = schedule("--quick --rounds 1 --duration 1s --warmup 300ms");
        assert!(quick.seconds() < 2.5 * 60.0, "{}", quick.text());
    }

    #[test]
    fn a_server_with_a_limit_has_points_of_its_own() {
        let schedule = schedule("");
        let names = |index: usize| -> Vec<String> {
            let server = &schedule.servers[index];
            schedule.points.iter().filter(|point| point.takes(server)).map(Point::name).collect()
        };
        assert!(names(0).iter().any(|name| name == "idle-1100"));
        assert!(!names(0).iter().any(|name| name == "idle-10000"));
        assert!(!names(1).iter().any(|name| name == "idle-1100"));
        assert!(names(1).iter().any(|name| name == "idle-10000"));
    }

    #[test]
    fn given_load_options_replace_the_usual_ones() {
        let mut options = Program::parse_from(["compare", "--scenarios", "broadcast"]).options;
        options.load = "--size 1024 --publishers 2".to_owned();
        let point = Point::new(Kind::Broadcast, 5, false, &options).arguments.join(" ");
        assert!(point.contains("--rate 100 --size 1024 --publishers 2"), "{point}");
        assert_eq!(point.matches("--size").count(), 1, "{point}");
    }

    #[test]
    fn given_connections_replace_the_usual_numbers() {
        let schedule = schedule("--scenarios storm,echo --connections 3,7");
        let names: Vec<String> = schedule.points.iter().map(Point::name).collect();
        assert_eq!(names, ["storm-3", "storm-7", "echo-3", "echo-7"]);
    }
}
