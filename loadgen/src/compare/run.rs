//! Makes one run of a comparison: a fresh server on one core, and the load generator on another.

use std::env;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;

use super::cores::{Cores, pin};
use super::identity::Identity;
use super::process::{Process, Running, free_address};
use super::schedule::Point;
use super::servers::Server;
use super::store::{Record, Store};

/// Time beyond a run's expected duration after which the load generator gets SIGINT.
const PATIENCE: Duration = Duration::from_secs(25);
/// Longest wait for the load generator to end after SIGINT.
const LAST_PATIENCE: Duration = Duration::from_secs(5);
/// Assumed TLS handshakes per second of a slow machine. The time limit of a TLS run is longer by the time for its
/// handshakes.
const TLS_HANDSHAKES_PER_SECOND: f64 = 200.0;
/// Interval between checks whether the comparison was interrupted.
const LOOK: Duration = Duration::from_millis(100);
/// Load generator options of every run: one thread, because the generator has one core, and short time limits for
/// servers that do not keep up.
const COMMON: [&str; 9] =
    ["--threads", "1", "--quiet", "--connect-timeout", "5s", "--grace", "4s", "--drain", "4s"];

/// A run that is to be made: one server at one load point in one round.
pub(crate) struct Run<'a> {
    pub(crate) server: &'a Server,
    /// The server's TLS certificate, or `None` if the server does not speak TLS.
    pub(crate) identity: Option<&'a Identity>,
    pub(crate) point: &'a Point,
    /// The number of the run's round, from 1.
    pub(crate) round: u32,
    pub(crate) cores: Cores,
    pub(crate) interrupt: &'a AtomicBool,
}

impl Run<'_> {
    /// Makes the run and returns its record. A failure is in the record's `error`.
    pub(crate) fn make(&self, store: &Store) -> Record {
        let mut arguments = self.point.arguments.clone();
        arguments.extend(COMMON.map(str::to_owned));
        let mut record = Record::new(self.server, self.point, self.round, arguments);
        if let Err(reason) = self.measure(&mut record, store) {
            record.error = Some(reason);
        }
        record
    }

    fn measure(&self, record: &mut Record, store: &Store) -> Result<(), String> {
        let Self { server, identity, cores, .. } = *self;
        let address = free_address()?;
        pin(cores.server)?;
        let command = server.command(&address.to_string(), record.kind.app(), 1, identity);
        let mut running = Running::start(&command, address).map_err(|reason| with_build(reason, server))?;
        pin(cores.load)?;

        let json = store.directory.join("running.json");
        let mut load = Process::start(&self.load_command(record, store, &running, &json)?, None)?;
        let handshakes =
            if server.tls { self.point.connections as f64 / TLS_HANDSHAKES_PER_SECOND } else { 0.0 };
        let patience = Duration::from_secs_f64(self.point.seconds + handshakes) + PATIENCE;
        let stopped = await_end(&mut load, patience, self.interrupt);
        record.outcome = take_json(&json);
        stopped?;
        if let Some(end) = running.ended() {
            return Err(format!("the server ended during the run ({end})"));
        }
        match record.outcome {
            Some(_) => Ok(()),
            None => Err(format!("the load generator failed{}", load.words())),
        }
    }

    /// Returns the load generator's program and arguments for a run against the server `running`. The load generator
    /// writes its outcome to the file `json`.
    fn load_command(
        &self,
        record: &Record,
        store: &Store,
        running: &Running,
        json: &Path,
    ) -> Result<Vec<String>, String> {
        let program =
            env::current_exe().map_err(|error| format!("the load generator is not found: {error}"))?;
        let mut command = vec![program.to_string_lossy().into_owned()];
        command.extend(record.arguments.iter().cloned());
        let scheme = if self.server.tls { "wss" } else { "ws" };
        let url = format!("{scheme}://{}/room/bench", running.address);
        let pid = running.pid().to_string();
        let json = json.to_string_lossy();
        command.extend(["--url", &url, "--server-pid", &pid, "--json", &json].map(str::to_owned));
        if let Some(Identity { cert, .. }) = self.identity {
            command.extend(["--ca-file".to_owned(), cert.to_string_lossy().into_owned()]);
        }
        if record.kind.has_latency() {
            let hgrm = store.hgrm_of_round(record);
            command.extend(["--hgrm".to_owned(), hgrm.to_string_lossy().into_owned()]);
        }
        Ok(command)
    }
}

/// Waits until the load generator ends. Sends SIGINT to it when `patience` is over or the comparison is interrupted,
/// and returns an error then.
fn await_end(load: &mut Process, patience: Duration, interrupt: &AtomicBool) -> Result<(), String> {
    let until = Instant::now() + patience;
    while !interrupt.load(Ordering::Relaxed) && Instant::now() < until {
        if load.wait(Instant::now() + LOOK).is_some() {
            return Ok(());
        }
    }
    load.signal(Signal::SIGINT);
    load.wait(Instant::now() + LAST_PATIENCE);
    if interrupt.load(Ordering::Relaxed) {
        Err("interrupted".to_owned())
    } else {
        Err(format!("the load generator was stopped after {} s", patience.as_secs()))
    }
}

fn take_json(path: &Path) -> Option<Value> {
    let text = fs::read_to_string(path).ok()?;
    // The file is removed, so that the next run cannot take it for its outcome.
    fs::remove_file(path).ok()?;
    serde_json::from_str(&text).ok()
}

fn with_build(reason: String, server: &Server) -> String {
    if server.build.is_empty() || !reason.contains("cannot be started") {
        reason
    } else {
        format!("{reason}; build it with `{}`", server.build)
    }
}
