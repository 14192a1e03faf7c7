//! A load generator for WebSocket servers that checks every message it gets back.
//!
//! ```text
//! cli ─▶ coordinator ─▶ worker_pool ─▶ worker ─▶ driver ─▶ scenario::* ─▶ ledger, pace, sequence, message
//!            │                                   └─▶ connections ─▶ net, tls, ws, http, post, pusher
//!            └─▶ procfs, memory, progress, outcome, output
//! ```
//! `compare` starts servers and runs this program against them. `report` reads the files that `compare` wrote.
//! The coordinator and its workers share only the messages in `plan`.

mod cli;
mod clock;
mod compare;
mod connections;
mod coordinator;
mod deliveries;
mod driver;
mod end;
mod http;
mod ledger;
mod memory;
mod message;
mod net;
mod outcome;
mod output;
mod pace;
mod plan;
mod post;
mod procfs;
mod progress;
mod publishers;
mod pusher;
mod report;
mod scenario;
mod sequence;
mod target;
mod thread_use;
mod tls;
mod totals;
mod url;
mod worker;
mod worker_pool;
pub mod ws;

use std::io::{self, Write as _};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use clap::Parser as _;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

use cli::Task;

/// Parses the command line, runs the task and prints the result.
pub fn main() -> ExitCode {
    match run(cli::Cli::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(reason) => {
            eprintln!("loadgen: {reason}");
            ExitCode::from(2)
        }
    }
}

fn run(cli: cli::Cli) -> Result<bool, String> {
    let caught = || interrupt_flag().map_err(|error| format!("signals cannot be caught: {error}"));
    let (scenario, options) = match cli.command.task() {
        Task::Run(scenario, options) => (scenario, options),
        Task::Compare(options) => return compare::compare(&options, &*caught()?),
        Task::Report(options) => return report::report(&options),
        Task::Helper => {
            return worker_pool::run_helper()
                .map(|()| true)
                .map_err(|error| format!("a helper process failed: {error}"));
        }
    };
    let interrupt = caught()?;
    let (outcome, latency) =
        coordinator::run(scenario, &options, &interrupt).map_err(|error| error.to_string())?;
    if let Some(path) = &options.json {
        output::write_json(&outcome, path)?;
    }
    if let Some(path) = &options.hgrm {
        output::write_hgrm(&latency, path)?;
    }
    io::stdout()
        .write_all(output::text(&outcome).as_bytes())
        .map_err(|error| format!("the result cannot be printed: {error}"))?;
    Ok(outcome.passed)
}

/// Returns a flag that the first SIGINT or SIGTERM sets. A second signal ends the process.
fn interrupt_flag() -> io::Result<Arc<AtomicBool>> {
    let interrupt = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        flag::register_conditional_shutdown(signal, 130, interrupt.clone())?;
        flag::register(signal, interrupt.clone())?;
    }
    Ok(interrupt)
}
