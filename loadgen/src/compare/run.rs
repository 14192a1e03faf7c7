//! One run: a fresh server on one core, the load on another, and what came of it.

use std::env;
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;

use super::cores::{Cores, pin};
use super::process::{Process, Running, free_address};
use super::schedule::Point;
use super::servers::Server;
use super::store::{Record, Store};

/// The load generator has so much more time than is expected before it is told to stop, and before it is killed.
const PATIENCE: Duration = Duration::from_secs(25);
const LAST_PATIENCE: Duration = Duration::from_secs(5);
/// How often it is looked whether the comparison was interrupted.
const LOOK: Duration = Duration::from_millis(100);
/// Options of every run: one thread, because it has one core; and bounds for servers that do not keep up.
const COMMON: [&str; 9] =
    ["--threads", "1", "--quiet", "--connect-timeout", "5s", "--grace", "4s", "--drain", "4s"];

/// Makes one run. What goes wrong is in the record.
pub(crate) fn run(
    (server, point, round): (&Server, &Point, u32),
    cores: Cores,
    store: &Store,
    interrupt: &AtomicBool,
) -> Record {
    let mut arguments = point.arguments.clone();
    arguments.extend(COMMON.map(str::to_owned));
    let mut record = Record::new(server, point, round, arguments);
    let patience = Duration::from_secs_f64(point.seconds) + PATIENCE;
    if let Err(reason) = measure(&mut record, (server, patience), cores, store, interrupt) {
        record.error = Some(reason);
    }
    record
}

fn measure(
    record: &mut Record,
    (server, patience): (&Server, Duration),
    cores: Cores,
    store: &Store,
    interrupt: &AtomicBool,
) -> Result<(), String> {
    let address = free_address()?;
    pin(cores.server)?;
    let command = server.command(&address.to_string(), record.kind.app(), 1);
    let mut running = Running::start(&command, address).map_err(|reason| with_build(reason, server))?;
    pin(cores.load)?;

    let program = env::current_exe().map_err(|error| format!("the load generator is not found: {error}"))?;
    let json = store.directory.join("running.json");
    let mut command = vec![program.to_string_lossy().into_owned()];
    command.extend(record.arguments.iter().cloned());
    let url = format!("ws://{}/room/bench", running.address);
    let pid = running.pid().to_string();
    let json_path = json.to_string_lossy();
    command.extend(["--url", &url, "--server-pid", &pid, "--json", &json_path].map(str::to_owned));
    if record.kind.has_latency() {
        let hgrm = store.hgrm_of_round(record);
        command.extend(["--hgrm".to_owned(), hgrm.to_string_lossy().into_owned()]);
    }
    let mut load = Process::start(&command, None)?;
    let stopped = await_end(&mut load, patience, interrupt);
    record.outcome = take_json(&json);
    stopped?;
    if let Some(end) = running.ended() {
        return Err(format!("the server ended during the run ({end})"));
    }
    match record.outcome {
        Some(_) => Ok(()),
        None => Err(format!("the load could not be made{}", load.words())),
    }
}

/// Waits for the load generator, and no longer than is good.
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
        Err(format!("it was stopped after {} s", patience.as_secs()))
    }
}

fn take_json(path: &std::path::Path) -> Option<Value> {
    let text = fs::read_to_string(path).ok()?;
    // A file that stays would be taken for the result of the next run.
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
