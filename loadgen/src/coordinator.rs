//! Coordinates a run: starts the workers, tells the workers when to start and stop, and watches the server.

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
use crate::outcome::{Observations, Outcome, ServerEnd, ServerSample};
use crate::plan::{Command, Plan, Report, Scenario, SentCount, Window};
use crate::post::Post;
use crate::procfs::{CpuUse, Server};
use crate::progress::Progress;
use crate::publishers::Publishers;
use crate::pusher::Session;
use crate::target::Target;
use crate::totals::{Times, Totals};
use crate::worker_pool::WorkerPool;

/// Number of descriptors for other uses than connections: standard streams, files, epoll instances and timers.
const OTHER_DESCRIPTORS: usize = 500;
/// Largest number of connections in the storm scenario. Its workers must share one process's memory. A round of this
/// size is 225 million messages.
const MAX_STORM: usize = 15_000;
/// Interval between checks that the server still runs, in nanoseconds.
const LOOK_NS: u64 = SECOND_NS / 10;
/// Delay from the start command to the start of the traffic, in nanoseconds. Every worker gets the command meanwhile.
const START_DELAY_NS: u64 = SECOND_NS / 20;

/// The reason why a run could not be started or completed.
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

/// Runs `scenario` against the server of `options`. A set `interrupt` flag ends the run early. Returns the figures of
/// the run and its latency histogram.
pub(crate) fn run(
    scenario: Scenario,
    options: &RunOptions,
    interrupt: &AtomicBool,
) -> Result<(Outcome, Times), RunError> {
    let plan = plan(scenario, options).map_err(RunError::Options)?;
    let per_process = connections_per_process().map_err(RunError::Options)?;
    let server = match options.server_pid {
        Some(pid) => Some(Server::with_pid(pid).map_err(RunError::Options)?),
        None => {
            let target = plan.post.as_ref().map_or(&plan.target, |post| &post.target);
            target.is_local().then(|| Server::listening_on(target.port())).flatten()
        }
    };
    let pool = WorkerPool::start(&plan, options.threads, per_process)?;
    let progress = Progress::new(pool.len(), options.quiet);
    let run = Run {
        scenario,
        options,
        interrupt,
        pool,
        progress,
        server,
        began_ns: now_ns(),
        stop_ns: None,
        was_interrupted: false,
        server_end: None,
        next_look_ns: 0,
    };
    run.lead()
}

struct Run<'a> {
    scenario: Scenario,
    options: &'a RunOptions,
    interrupt: &'a AtomicBool,
    pool: WorkerPool,
    progress: Progress,
    server: Option<Server>,
    began_ns: u64,
    /// The time when the workers were told to stop early, in nanoseconds. `None` if the run was not stopped.
    stop_ns: Option<u64>,
    was_interrupted: bool,
    /// The unexpected end of the server's processes. `None` while the server runs.
    server_end: Option<ServerEnd>,
    /// The time of the next check that the server still runs, in nanoseconds.
    next_look_ns: u64,
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
            let end = self.server_end.map_or_else(String::new, |end| format!("; {end}"));
            return Err(RunError::NoConnection(reason + &end));
        }
        self.look_at_server(now_ns());
        seen.interrupted = self.was_interrupted;
        seen.server_end = self.server_end;
        if seen.server_end.is_some() {
            // The kernel drops the figures of ended processes.
            seen.server = None;
            seen.bytes_per_connection = None;
        }
        let outcome = Outcome::new(self.scenario, self.options.clone(), &totals, seen);
        let has_deliveries = self.options.publish.is_none() || totals.answers.subscribers > 0;
        Ok((outcome, if has_deliveries { totals.latency } else { totals.answers.latency }))
    }

    /// Tells every worker to open its connections, and waits for the workers' reports. Returns the number of open
    /// connections.
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

    /// Waits until every worker has sent a report that `is_wanted` accepts.
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

    /// Keeps the connections idle for the duration of the run.
    fn hold(&mut self) -> Result<(), RunError> {
        self.progress.enter("idling");
        let began = now_ns();
        let length = nanos(self.options.duration);
        while now_ns() < began + length && self.stop_ns.is_none() {
            self.next_report(Some(began + length), (now_ns() - began) as f64 / length as f64)?;
        }
        Ok(())
    }

    /// Runs the traffic, and reads the server's CPU time at the start and the end of the measured window. Returns the
    /// number of sent messages by sender number.
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
                for SentCount { sender, messages } in senders {
                    let index = sender as usize;
                    sent.resize(sent.len().max(index + 1), 0);
                    sent[index] = messages;
                }
            }
        }
        let end = self.stop_ns.map_or(window.end_ns, |stop| stop.min(window.end_ns));
        seen.seconds = end.saturating_sub(window.measure_ns) as f64 / 1e9;
        let last = last.or_else(|| cpu(&self.server));
        // If the run ended before its measured window, the CPU use counts as zero.
        let first = first.or(last);
        // The reconnect scenario may end the server, and the kernel drops the figures of ended processes.
        let reconnects = matches!(self.scenario, Scenario::Reconnect { .. });
        if let (Some(server), Some(first), Some(last), false) = (&self.server, first, last, reconnects) {
            let peak_rss_bytes = server.peak_rss();
            seen.server = Some(ServerSample { pids: server.pids(), cpu: last.since(first), peak_rss_bytes });
        }
        Ok(sent)
    }

    /// Records an unexpected end of the server. In the reconnect scenario the server's end is expected.
    fn look_at_server(&mut self, now: u64) {
        if self.server_end.is_some() || matches!(self.scenario, Scenario::Reconnect { .. }) {
            return;
        }
        if let Some(server) = self.server.as_ref().filter(|server| server.has_ended()) {
            let seconds = (now - self.began_ns) as f64 / 1e9;
            self.server_end =
                Some(ServerEnd { pids: server.roots(), seconds, during: self.progress.phase() });
        }
    }

    /// Sends SIGTERM to the server if the run has the option --stop-server.
    fn stop_server(&self) -> Result<(), RunError> {
        if !matches!(self.scenario, Scenario::Reconnect { stop_server: true, .. }) {
            return Ok(());
        }
        let unknown = || {
            RunError::Options(
                "--stop-server: the server's process was not found; give --server-pid".to_owned(),
            )
        };
        for pid in self.server.as_ref().ok_or_else(unknown)?.roots() {
            let told = kill(Pid::from_raw(pid as i32), Signal::SIGTERM);
            told.map_err(|error| RunError::Options(format!("--stop-server: process {pid}: {error}")))?;
        }
        Ok(())
    }

    /// Tells the workers to wait for the last messages, and adds up the workers' results.
    fn collect(&mut self, sent: Vec<u32>) -> Result<Totals, RunError> {
        self.progress.enter("waiting for the last messages");
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
            // A window of one microsecond: the first message is due at its start. A second message would be due a
            // second later.
            return Window { start_ns, measure_ns: start_ns, end_ns: start_ns + 1000, population };
        }
        let measure_ns = start_ns + nanos(self.options.warmup);
        Window { start_ns, measure_ns, end_ns: measure_ns + nanos(self.options.duration), population }
    }

    /// Waits for a worker's report until `until_ns` at most; `None` means no report. Shows that `fraction` of the run
    /// is done, and passes an interrupt on to the workers.
    fn next_report(&mut self, until_ns: Option<u64>, fraction: f64) -> Result<Option<Report>, RunError> {
        let now = now_ns();
        self.was_interrupted |= self.interrupt.load(Ordering::Relaxed);
        if now >= self.next_look_ns {
            self.next_look_ns = now + LOOK_NS;
            self.look_at_server(now);
        }
        if (self.was_interrupted || self.server_end.is_some()) && self.stop_ns.is_none() {
            self.stop_ns = Some(now);
            self.pool.tell(&Command::Stop);
        }
        let left_ns = until_ns.map_or(u64::MAX, |until| until.saturating_sub(now_ns()));
        match self.pool.reports.recv_timeout(Duration::from_nanos(left_ns.min(SECOND_NS / 10))) {
            Ok(Report::Tick(tick)) => self.progress.add(&tick),
            Ok(Report::Broken(reason)) => return Err(RunError::Worker(reason)),
            Ok(report) => return Ok(Some(report)),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => {
                return Err(RunError::Worker("it ended without a report".to_owned()));
            }
        }
        self.progress.show(fraction);
        Ok(None)
    }
}

/// Returns an error for TLS options in a run without TLS, and for TLS options that do not work.
fn check_tls(options: &RunOptions, targets: [Option<&Target>; 3]) -> Result<(), String> {
    let is_secure = targets.into_iter().flatten().any(|target| target.is_secure);
    match options.tls.given() {
        Some(name) if !is_secure => {
            Err(format!("{name} is for TLS, but {} is not; give a wss:// or https:// URL", options.url))
        }
        // Checks the TLS configuration before anything starts. Each worker creates its own configuration later.
        _ if is_secure => options.tls.client_config().map(drop),
        _ => Ok(()),
    }
}

fn plan(scenario: Scenario, options: &RunOptions) -> Result<Plan, String> {
    let mut target = Target::parse(&options.url, scenario.protocol())?;
    let others = match scenario {
        Scenario::Publish { subscribers, .. } => subscribers,
        Scenario::Presence { guests, .. } => guests,
        _ => 0,
    };
    let connections = options.connections + others;
    let pusher = Session::new(scenario, &options.pusher, connections)?;
    if let Some(session) = &pusher {
        if target.resource.contains('?') {
            return Err(format!("{}: a Pusher client has a query of its own; remove this one", options.url));
        }
        target.resource = session.resource(&target.resource);
    }
    let publishers = Publishers { count: options.connections, connections };
    let post =
        options.publish.as_ref().map(|publish| Post::new(publish, &options.url, publishers, pusher.as_ref()));
    let mut post = post.transpose()?;
    for target in post.iter_mut().map(|post| &mut post.target).chain([&mut target]) {
        let needed = || target.destinations_for(connections, ports_per_destination());
        let destinations = options.destinations.unwrap_or_else(needed);
        target.spread(destinations)?;
    }
    let then = options.then.as_deref().map(|url| Target::parse(url, scenario.protocol())).transpose()?;
    check_tls(options, [Some(&target), then.as_ref(), post.as_ref().map(|post| &post.target)])?;
    if let Scenario::Broadcast { publishers, .. } = scenario
        && publishers as usize > options.connections
    {
        return Err(format!("--publishers {publishers} is more than --connections {}", options.connections));
    }
    if scenario == Scenario::Storm && pusher.is_some() && connections < 2 {
        return Err(
            "a Pusher server sends a client event to the others only; use 2 or more --connections".to_owned()
        );
    }
    if scenario == Scenario::Storm && options.connections > MAX_STORM {
        return Err(format!(
            "a storm of more than {MAX_STORM} connections would not finish its first round; use fewer --connections"
        ));
    }
    Ok(Plan {
        target,
        then,
        post,
        pusher,
        scenario,
        connections,
        size: options.size,
        payload: options.payload,
        compression: options.compression,
        tls: options.tls.clone(),
        chat: options.chat,
        tag: fastrand::u32(..),
        epoch_ns: now_ns(),
        timeout_ns: nanos(options.connect_timeout),
        grace_ns: nanos(options.grace),
        drain_ns: nanos(options.drain),
        in_flight: options.in_flight,
    })
}

/// Returns the number of local ports for connections to one destination address.
///
/// The kernel assigns one half of the port range (odd or even ports) quickly and searches for the other half. A few
/// ports belong to other programs.
fn ports_per_destination() -> usize {
    let text = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let bounds: Vec<usize> = text.split_whitespace().flat_map(str::parse).collect();
    match bounds[..] {
        [low, high] if high > low + 4000 => (high - low) / 2 - 1000,
        _ => 12_000,
    }
}

/// Raises the soft descriptor limit to the hard limit. Returns the number of connections that one process can have.
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
