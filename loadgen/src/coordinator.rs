//! Leads a run: starts the workers, tells them when to begin and to end, watches the server meanwhile.

use std::fs;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::RecvTimeoutError;
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::cli::RunOptions;
use crate::clock::{SECOND_NS, now_ns};
use crate::memory::Snapshot;
use crate::outcome::{Observations, Outcome};
use crate::plan::{Command, Plan, Report, Scenario, Window};
use crate::procfs::{CpuUse, Server};
use crate::progress::Progress;
use crate::target::Target;
use crate::totals::{Times, Totals};
use crate::worker_pool::WorkerPool;

/// Descriptors that are not connections: the standard streams, the workers' epoll sets and timers, files.
const OTHER_DESCRIPTORS: usize = 500;
/// A storm's workers meet in memory, so it has one process; this many send 225 million messages a round.
const MAX_STORM: usize = 15_000;
/// Time for all workers to hear of the start, in nanoseconds.
const START_DELAY_NS: u64 = SECOND_NS / 20;

/// Why a run could not be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RunError {
    #[error("{0}")]
    Options(String),
    #[error("no connection could be opened: {0}")]
    NoConnection(String),
    #[error("a worker failed: {0}")]
    Worker(String),
    #[error("the workers could not be started: {0}")]
    Start(#[from] io::Error),
}

/// Makes one run; `interrupt` ends it early. Gives the result and the whole latency distribution.
pub(crate) fn run(
    scenario: Scenario,
    options: &RunOptions,
    interrupt: &AtomicBool,
) -> Result<(Outcome, Times), RunError> {
    let plan = plan(scenario, options).map_err(RunError::Options)?;
    let per_process = connections_per_process().map_err(RunError::Options)?;
    let server = match options.server_pid {
        Some(pid) => Some(Server::with_pid(pid).map_err(RunError::Options)?),
        None => Server::listening_on(plan.target.port()),
    };
    let pool = WorkerPool::start(&plan, options.threads, per_process)?;
    let progress = Progress::new(pool.len(), options.quiet);
    Run { scenario, options, interrupt, pool, progress, server, told_stop: false, stop_ns: None }.lead()
}

struct Run<'a> {
    scenario: Scenario,
    options: &'a RunOptions,
    interrupt: &'a AtomicBool,
    pool: WorkerPool,
    progress: Progress,
    server: Option<Server>,
    told_stop: bool,
    /// When the run was interrupted.
    stop_ns: Option<u64>,
}

impl Run<'_> {
    fn lead(mut self) -> Result<(Outcome, Times), RunError> {
        let mut seen = Observations::default();
        self.gather(|report| matches!(report, Report::Started))?;
        let before = self.snapshot();
        let began = now_ns();
        let population = self.open_all()?;
        seen.ramp_seconds = (now_ns() - began) as f64 / 1e9;
        let connects = matches!(self.scenario, Scenario::Connect { .. } | Scenario::Reconnect { .. });
        let mut sent = Vec::new();
        if (population > 0 || connects) && self.stop_ns.is_none() {
            if matches!(self.scenario, Scenario::Idle { .. }) {
                self.hold()?;
                let after = self.snapshot();
                seen.bytes_per_connection = Some(after.per_connection(&before, population));
            }
            sent = self.traffic(population, &mut seen)?;
        }
        let totals = self.collect(sent)?;
        self.progress.end();
        if totals.opened == 0 {
            let reason = totals.failures.0.into_iter().max_by_key(|(_, times)| *times);
            let reason = reason.map_or_else(|| "the run was interrupted".to_owned(), |(reason, _)| reason);
            return Err(RunError::NoConnection(reason));
        }
        seen.interrupted = self.stop_ns.is_some();
        let outcome = Outcome::new(self.scenario, self.options.clone(), &totals, seen);
        Ok((outcome, totals.latency))
    }

    /// Waits until every worker has opened its connections; says how many are open.
    fn open_all(&mut self) -> Result<usize, RunError> {
        self.progress.enter("connecting");
        self.pool.tell(&Command::Open);
        let mut population = 0;
        self.gather(|report| match report {
            Report::Ready { open } => {
                population += open;
                true
            }
            _ => false,
        })?;
        Ok(population)
    }

    /// Waits until every worker has sent the report that `is_wanted` recognises.
    fn gather(&mut self, mut is_wanted: impl FnMut(Report) -> bool) -> Result<(), RunError> {
        let mut waiting = self.pool.len();
        while waiting > 0 {
            if self.next_report(None, 0.0)?.is_some_and(&mut is_wanted) {
                waiting -= 1;
            }
        }
        Ok(())
    }

    fn snapshot(&self) -> Snapshot {
        Snapshot::take(self.server.as_ref(), self.pool.memory())
    }

    /// Lets the connections idle for the duration.
    fn hold(&mut self) -> Result<(), RunError> {
        self.progress.enter("idle");
        let began = now_ns();
        let length = nanos(self.options.duration);
        while now_ns() < began + length && self.stop_ns.is_none() {
            self.next_report(Some(began + length), (now_ns() - began) as f64 / length as f64)?;
        }
        Ok(())
    }

    /// Runs the traffic and reads the server's meters at the edges of the window; says what was sent.
    fn traffic(&mut self, population: usize, seen: &mut Observations) -> Result<Vec<u32>, RunError> {
        let window = self.window(population);
        self.pool.tell(&Command::Start(window));
        let length = (window.end_ns - window.start_ns).max(1) as f64;
        let cpu = |server: &Option<Server>| server.as_ref().map(Server::cpu);
        let mut first: Option<CpuUse> = None;
        let mut last: Option<CpuUse> = None;
        let mut sent = Vec::new();
        let mut waiting = self.pool.len();
        while waiting > 0 {
            let now = now_ns();
            if first.is_none() && now >= window.measure_ns {
                first = cpu(&self.server);
                self.stop_server()?;
            }
            if last.is_none() && (now >= window.end_ns || self.stop_ns.is_some()) {
                last = cpu(&self.server);
            }
            self.progress.enter(if now < window.measure_ns { "warming up" } else { "measuring" });
            let edge = [window.measure_ns, window.end_ns].into_iter().find(|&edge| edge > now);
            let fraction = now.saturating_sub(window.start_ns) as f64 / length;
            if let Some(Report::Stopped(senders)) = self.next_report(edge, fraction)? {
                waiting -= 1;
                for (sender, count) in senders {
                    let index = sender as usize;
                    sent.resize(sent.len().max(index + 1), 0);
                    sent[index] = count;
                }
            }
        }
        let end = self.stop_ns.map_or(window.end_ns, |stop| stop.min(window.end_ns));
        seen.seconds = end.saturating_sub(window.measure_ns) as f64 / 1e9;
        let last = last.or_else(|| cpu(&self.server));
        // A run that ended before its window has used nothing in it.
        let first = first.or(last);
        // One that came to its end has used what nobody can read any more.
        let reconnects = matches!(self.scenario, Scenario::Reconnect { .. });
        if let (Some(server), Some(first), Some(last), false) = (&self.server, first, last, reconnects) {
            seen.server = Some((server.pids(), last.since(first), server.peak_rss()));
        }
        Ok(sent)
    }

    /// Tells the server to end, if the scenario says so.
    fn stop_server(&self) -> Result<(), RunError> {
        if !matches!(self.scenario, Scenario::Reconnect { stop_server: true, .. }) {
            return Ok(());
        }
        let unknown =
            || RunError::Options("--stop-server: no process is known; give --server-pid".to_owned());
        for &pid in self.server.as_ref().ok_or_else(unknown)?.roots() {
            let told = kill(Pid::from_raw(pid as i32), Signal::SIGTERM);
            told.map_err(|error| RunError::Options(format!("--stop-server: process {pid}: {error}")))?;
        }
        Ok(())
    }

    /// Has the workers wait for the last messages, and adds up what they found.
    fn collect(&mut self, sent: Vec<u32>) -> Result<Totals, RunError> {
        self.progress.enter("last messages");
        self.pool.tell(&Command::Finish(sent));
        let mut totals = Totals::default();
        self.gather(|report| match report {
            Report::Done(part) => {
                totals.add(*part);
                true
            }
            _ => false,
        })?;
        Ok(totals)
    }

    fn window(&self, population: usize) -> Window {
        let start_ns = now_ns() + START_DELAY_NS;
        if matches!(self.scenario, Scenario::Idle { .. }) {
            // One message is due at the start, and the next would be a second later.
            return Window { start_ns, measure_ns: start_ns, end_ns: start_ns + 1000, population };
        }
        let measure_ns = start_ns + nanos(self.options.warmup);
        Window { start_ns, measure_ns, end_ns: measure_ns + nanos(self.options.duration), population }
    }

    /// Waits for news, shows the progress, and passes an interrupt on. Returns by `until_ns`.
    fn next_report(&mut self, until_ns: Option<u64>, fraction: f64) -> Result<Option<Report>, RunError> {
        if self.interrupt.load(Ordering::Relaxed) && !self.told_stop {
            self.told_stop = true;
            self.stop_ns = Some(now_ns());
            self.pool.tell(&Command::Stop);
        }
        let left_ns = until_ns.map_or(u64::MAX, |until| until.saturating_sub(now_ns()));
        match self.pool.reports.recv_timeout(Duration::from_nanos(left_ns.min(SECOND_NS / 10))) {
            Ok(Report::Tick(tick)) => self.progress.add(&tick),
            Ok(Report::Broken(reason)) => return Err(RunError::Worker(reason)),
            Ok(report) => return Ok(Some(report)),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => {
                return Err(RunError::Worker("it ended without a word".to_owned()));
            }
        }
        self.progress.show(fraction);
        Ok(None)
    }
}

fn plan(scenario: Scenario, options: &RunOptions) -> Result<Plan, String> {
    let mut target = Target::parse(&options.url)?;
    let destinations = match options.destinations {
        Some(destinations) => destinations,
        None => target.destinations_for(options.connections, ports_per_destination()),
    };
    target.spread(destinations)?;
    let then = options.then.as_deref().map(Target::parse).transpose()?;
    if let Scenario::Broadcast { publishers, .. } = scenario
        && publishers as usize > options.connections
    {
        return Err(format!("--publishers {publishers} is more than --connections {}", options.connections));
    }
    if scenario == Scenario::Storm && options.connections > MAX_STORM {
        return Err(format!("a storm of more than {MAX_STORM} connections would never end its first round"));
    }
    Ok(Plan {
        target,
        then,
        scenario,
        connections: options.connections,
        size: options.size,
        payload: options.payload,
        compression: options.compression,
        chat: options.chat,
        tag: fastrand::u32(..),
        epoch_ns: now_ns(),
        timeout_ns: nanos(options.connect_timeout),
        grace_ns: nanos(options.grace),
        drain_ns: nanos(options.drain),
        in_flight: options.in_flight,
    })
}

/// The kernel gives one parity of the port range quickly, and then searches; a few are taken by others.
fn ports_per_destination() -> usize {
    let text = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let bounds: Vec<usize> = text.split_whitespace().flat_map(str::parse).collect();
    match bounds[..] {
        [low, high] if high > low + 4000 => (high - low) / 2 - 1000,
        _ => 12_000,
    }
}

/// Raises the soft limit of descriptors to the hard one; says how many connections a process can have.
fn connections_per_process() -> Result<usize, String> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).map_err(|error| error.to_string())?;
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard).map_err(|error| error.to_string())?;
    }
    let room = usize::try_from(hard).unwrap_or(usize::MAX).saturating_sub(OTHER_DESCRIPTORS);
    if room == 0 {
        return Err(format!("the hard limit of {hard} descriptors is too low; raise it with `ulimit -Hn`"));
    }
    Ok(room)
}

fn nanos(time: Duration) -> u64 {
    time.as_nanos() as u64
}
