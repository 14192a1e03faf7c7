//! The workers of a run: threads of this process, or helper processes if one process may have too few descriptors.

use std::io::{self, BufRead as _, BufReader, Write};
use std::process::{self, Child, ChildStdin, Stdio};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::{env, thread};

use serde::Serialize;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

use crate::plan::{Command, Plan, Report, Share};
use crate::procfs::{Memory, memory};
use crate::scenario::storm::Barrier;
use crate::worker::{self, Handle};

/// All workers of a run, and the channel of their reports.
pub(crate) struct WorkerPool {
    links: Vec<Link>,
    pub(crate) reports: Receiver<Report>,
}

enum Link {
    Thread(Handle),
    Process {
        child: Child,
        /// The helper process's standard input, for commands as lines of JSON. The helper ends when this pipe is
        /// closed.
        input: Option<ChildStdin>,
    },
}

impl WorkerPool {
    /// Starts `threads` workers in this process if it has room for the connections. Otherwise starts as many helper
    /// processes as needed. One process can have `per_process` connections.
    pub(crate) fn start(plan: &Plan, threads: usize, per_process: usize) -> io::Result<Self> {
        let (sender, reports) = channel();
        let is_alone = plan.connections <= per_process;
        let needed = if is_alone { threads } else { plan.connections.div_ceil(per_process).max(threads) };
        let workers = needed.min(plan.connections);
        let plan = Plan { in_flight: plan.in_flight.div_ceil(workers), ..plan.clone() };
        let barrier = Arc::new(Barrier::default());
        let start = |share| {
            if is_alone {
                worker::start(&plan, share, barrier.clone(), sender.clone()).map(Link::Thread)
            } else {
                start_process(&plan, share, sender.clone())
            }
        };
        let links =
            Share::divide(plan.connections, workers).into_iter().map(start).collect::<io::Result<_>>()?;
        Ok(Self { links, reports })
    }

    pub(crate) fn len(&self) -> usize {
        self.links.len()
    }

    /// Sends a command to every worker.
    pub(crate) fn tell(&mut self, command: &Command) {
        for link in &mut self.links {
            match link {
                Link::Thread(handle) => handle.send(command.clone()),
                // An error is ignored: the end of the helper's reports shows that the helper process has ended.
                Link::Process { input, .. } => drop(input.as_mut().map(|input| write_line(input, command))),
            }
        }
    }

    /// Returns the memory of the helper processes, in bytes.
    pub(crate) fn memory(&self) -> Memory {
        let pid = |link: &Link| match link {
            Link::Thread(_) => None,
            Link::Process { child, .. } => Some(child.id()),
        };
        let helpers = self.links.iter().filter_map(pid);
        helpers.map(|pid| memory(&pid.to_string())).fold(Memory::default(), Memory::plus)
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        if let Self::Process { child, input } = self {
            drop(input.take());
            // The helper process ends because its standard input is closed. Its exit code does not matter.
            let _ = child.wait();
        }
    }
}

/// Runs a helper process: one worker that reads commands from standard input.
pub(crate) fn run_helper() -> io::Result<()> {
    // Ctrl-C in a terminal also reaches helper processes. A helper ignores the signal and waits for the stop command.
    for signal in [SIGINT, SIGTERM] {
        flag::register(signal, Arc::new(AtomicBool::new(false)))?;
    }
    let mut lines = BufReader::new(io::stdin()).lines();
    let first = lines.next().ok_or(io::ErrorKind::UnexpectedEof)??;
    let (plan, share): (Plan, Share) = serde_json::from_str(&first)?;
    let (sender, reports) = channel();
    let handle = worker::start(&plan, share, Arc::new(Barrier::default()), sender)?;
    thread::spawn(move || {
        for line in lines.map_while(Result::ok) {
            match serde_json::from_str(&line) {
                Ok(command) => handle.send(command),
                Err(_) => break,
            }
        }
    });
    let mut output = io::stdout().lock();
    for report in reports {
        write_line(&mut output, &report)?;
    }
    Ok(())
}

fn start_process(plan: &Plan, share: Share, reports: Sender<Report>) -> io::Result<Link> {
    let program = env::current_exe()?;
    let mut child =
        process::Command::new(program).arg("helper").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let mut input = child.stdin.take();
    if let Some(input) = &mut input {
        write_line(input, &(plan, share))?;
    }
    if let Some(output) = child.stdout.take() {
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                let report =
                    serde_json::from_str(&line).unwrap_or_else(|error| Report::Broken(error.to_string()));
                let is_last = matches!(report, Report::Done(_) | Report::Broken(_));
                if reports.send(report).is_err() || is_last {
                    return;
                }
            }
            let _ = reports.send(Report::Broken("a helper process ended without a report".to_owned()));
        });
    }
    Ok(Link::Process { child, input })
}

fn write_line(output: &mut impl Write, value: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    output.write_all(&line)?;
    output.flush()
}
