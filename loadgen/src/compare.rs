//! `loadgen compare`: runs several servers in turns, one at a time, and writes the results into a directory.
//!
//! ```text
//! servers ─▶ schedule ─▶ run ─▶ process, cores          environment ─▶ store
//!                         └─▶ store ─▶ metric ─▶ summary, plot
//! ```

mod cores;
mod environment;
mod identity;
pub(crate) mod metric;
pub(crate) mod plot;
mod process;
mod run;
pub(crate) mod schedule;
mod servers;
pub(crate) mod store;
pub(crate) mod summary;

use std::collections::HashSet;
use std::io::{Write as _, stderr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use clap::Args;
use serde::Serialize;

use crate::cli::{as_seconds, parse_connections, parse_duration};

use cores::Cores;
use identity::{Identities, KeyKind};
use run::Run;
use schedule::{Kind, Point, Schedule};
use servers::Server;
use store::{Environment, Record, Results, Store};

/// Options of `loadgen compare`.
#[derive(Debug, Args, Serialize)]
pub(crate) struct CompareOptions {
    /// Scenarios to run, separated by commas.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "echo,broadcast,storm,idle,connect")]
    pub(crate) scenarios: Vec<Kind>,
    /// Names of the servers to run, separated by commas; all servers in the servers file without TLS if not given.
    #[arg(long, value_delimiter = ',')]
    pub(crate) servers: Vec<String>,
    /// Number of runs of each server with each scenario and number of connections; the servers take turns.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(crate) rounds: u32,
    /// File with the names, commands and versions of the servers.
    #[arg(long, default_value = "benches/peers/servers.json")]
    pub(crate) servers_file: PathBuf,
    /// Name of the comparison; its results go to RESULTS/DATE-NAME.
    #[arg(long, default_value = "comparison")]
    pub(crate) name: String,
    /// Parent directory of all comparisons' results.
    #[arg(long, default_value = "results")]
    pub(crate) results: PathBuf,
    /// Length of the measured window of each run.
    #[arg(long, default_value = "3s", value_parser = parse_duration)]
    #[serde(rename = "duration_seconds", serialize_with = "as_seconds")]
    pub(crate) duration: Duration,
    /// Length of the warm-up traffic before the measured window.
    #[arg(long, default_value = "1s", value_parser = parse_duration)]
    #[serde(rename = "warmup_seconds", serialize_with = "as_seconds")]
    pub(crate) warmup: Duration,
    /// Numbers of connections for each scenario, separated by commas, instead of the default numbers.
    #[arg(long, value_delimiter = ',', value_parser = parse_connections)]
    pub(crate) connections: Vec<usize>,
    /// Load generator options for all runs, in one word as in --load='--size 16384 --pipeline 16'.
    #[arg(long, default_value = "", allow_hyphen_values = true)]
    pub(crate) load: String,
    /// Run fewer load points with fewer connections. `loadgen report` ignores such results.
    #[arg(long)]
    pub(crate) quick: bool,
    /// Also run the servers that speak TLS. Servers named with --servers are always run.
    #[arg(long)]
    pub(crate) tls: bool,
    /// Build the servers first, each with its build command in the servers file.
    #[arg(long)]
    #[serde(skip)]
    pub(crate) build: bool,
    /// Print the plan and its expected duration, and run nothing.
    #[arg(long)]
    #[serde(skip)]
    pub(crate) dry_run: bool,
}

/// Runs all servers at all load points and writes the results. Returns false if an interrupt stopped the comparison.
pub(crate) fn compare(options: &CompareOptions, interrupt: &AtomicBool) -> Result<bool, String> {
    let servers = servers::read(&options.servers_file, &options.servers, options.tls)?;
    let cores = Cores::choose()?;
    let schedule = Schedule::new(options, servers);
    say(&schedule.text());
    if options.dry_run {
        return Ok(true);
    }
    if options.build {
        servers::build(&schedule.servers);
    }
    let mut environment = Environment::look(options, cores, &schedule.servers)?;
    if cfg!(debug_assertions) {
        say("warning: this load generator was built without --release; its figures are worth nothing\n");
    }
    let mut store = Store::create(&options.results, &options.name, &environment)?;
    let kinds: Vec<KeyKind> = schedule.servers.iter().filter_map(Server::key_kind).collect();
    let mut comparison = Comparison {
        schedule: &schedule,
        cores,
        identities: Identities::create(&store.directory, &kinds)?,
        interrupt,
        began: Instant::now(),
        done: 0,
        expected_done: 0.0,
    };
    for point in &schedule.points {
        comparison.measure(point, &mut store)?;
    }
    let is_whole = !interrupt.load(Ordering::Relaxed);
    environment.finished = is_whole.then(environment::now);
    store.describe(&environment)?;
    let results = Results::read(&store.directory)?;
    store.write("summary.md", &summary::markdown(&results))?;
    plot::draw_all(&results, &store.directory)?;
    say(&format!("the results are in {}\n", store.directory.display()));
    Ok(is_whole)
}

struct Comparison<'a> {
    schedule: &'a Schedule,
    cores: Cores,
    identities: Identities,
    interrupt: &'a AtomicBool,
    began: Instant,
    done: usize,
    /// The expected duration of the finished runs, in seconds.
    expected_done: f64,
}

impl Comparison<'_> {
    /// Runs every server once per round at one load point (a scenario at one number of connections). Stores the
    /// records.
    fn measure(&mut self, point: &Point, store: &mut Store) -> Result<(), String> {
        let mut records: Vec<Record> = Vec::new();
        let mut broken: HashSet<&str> = HashSet::new();
        for round in 1..=self.schedule.rounds {
            for server in self.schedule.servers_at(point) {
                self.done += 1;
                self.expected_done += point.seconds;
                if broken.contains(server.name.as_str()) || self.interrupt.load(Ordering::Relaxed) {
                    continue;
                }
                let identity = server.key_kind().and_then(|kind| self.identities.with_key(kind));
                let run =
                    Run { server, identity, point, round, cores: self.cores, interrupt: self.interrupt };
                let record = run.make(store);
                if self.interrupt.load(Ordering::Relaxed) {
                    continue;
                }
                // A server without an outcome, or one that ran into the time limit, is skipped in later rounds to save
                // time.
                if record.outcome.as_ref().is_none_or(|outcome| outcome["interrupted"] == true) {
                    broken.insert(&server.name);
                }
                store.add(&record)?;
                self.say(&record);
                records.push(record);
            }
        }
        if point.kind.has_latency() {
            for server in self.schedule.servers_at(point) {
                let own: Vec<&Record> =
                    records.iter().filter(|record| record.server == server.name).collect();
                store.keep_median_hgrm(&own)?;
            }
        }
        Ok(())
    }

    fn say(&self, record: &Record) {
        let total = self.schedule.seconds();
        let pace = (self.began.elapsed().as_secs_f64() / self.expected_done).max(1.0);
        let left_minutes = (total - self.expected_done) * pace / 60.0;
        let figures = record.kind.metrics().iter().filter_map(|metric| {
            let spread = metric.of(&[record])?;
            Some(format!("{} {}", metric::figure(spread.median), metric.title))
        });
        let figures: Vec<String> = figures.chain(summary::remark(&[record])).collect();
        say(&format!(
            "[{}/{}, {left_minutes:.1} min left] {} {} {}: {}\n",
            self.done,
            self.schedule.runs(),
            record.point,
            record.server,
            record.round,
            figures.join("; ")
        ));
    }
}

fn say(text: &str) {
    // Write errors are ignored: a closed standard error must not end the comparison.
    let _ = stderr().write_all(text.as_bytes());
}
