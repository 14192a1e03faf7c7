//! The outcome of a run: all figures that loadgen prints and writes to files.

mod warnings;

use std::fmt;

use serde::Serialize;

use crate::cli::RunOptions;
use crate::memory::PerConnection;
use crate::plan::Scenario;
use crate::procfs::CpuUse;
use crate::pusher::Dialect;
use crate::totals::{Answers, Counts, Curve, Reasons, Step, ThreadUse, Times, Totals, Wire};

/// Share of the time (0 to 1) above which a running load generator thread has no time to spare.
const BUSY_SHARE: f64 = 0.9;

/// All figures of one run, as written to the JSON file.
#[derive(Debug, Serialize)]
pub(crate) struct Outcome {
    pub(crate) scenario: Scenario,
    pub(crate) options: RunOptions,
    /// Whether the run passed: no message was lost, duplicated, reordered, corrupt or refused, every connection stayed
    /// open, and the server did not end. In `reconnect`, every closed connection must also have returned.
    pub(crate) passed: bool,
    /// Whether a signal ended the run early.
    pub(crate) interrupted: bool,
    /// Length of the measured window, in seconds.
    pub(crate) seconds: f64,
    pub(crate) connections: Connected,
    pub(crate) messages: Messages,
    pub(crate) wire: OnWire,
    /// Whether all receivers got the messages of all publishers in one order. `None` if the scenario does not compare
    /// orders.
    pub(crate) one_order: Option<bool>,
    /// Distribution of the time from the moment a message was due to its arrival.
    pub(crate) latency: Summary,
    /// Distribution of the time from the moment a message was due to the moment it was sent.
    pub(crate) send_lag: Summary,
    pub(crate) rounds: Option<Rounds>,
    pub(crate) returns: Option<Returns>,
    pub(crate) publish: Option<Published>,
    pub(crate) server: Option<ServerUse>,
    /// The unexpected end of the server's processes during the run. `None` if there was no such end.
    pub(crate) server_end: Option<ServerEnd>,
    pub(crate) bytes_per_connection: Option<PerConnection>,
    /// CPU use of each load generator thread in the measured window.
    pub(crate) generator: Vec<ThreadUse>,
    /// Whether a load generator thread had no time to spare, so that the server might handle more load.
    pub(crate) generator_was_bottleneck: bool,
    pub(crate) warnings: Vec<String>,
}

/// Connections opened, failed attempts by reason, and unexpected ends by reason.
#[derive(Debug, Serialize)]
pub(crate) struct Connected {
    pub(crate) opened: u64,
    /// Time until all connections were open, in seconds. 0 for `connect`.
    pub(crate) ramp_seconds: f64,
    pub(crate) failed: Reasons,
    pub(crate) ended: Reasons,
}

/// Message counts, and the rate of received messages.
#[derive(Debug, Serialize)]
pub(crate) struct Messages {
    #[serde(flatten)]
    pub(crate) counts: Counts,
    /// Messages received per second of the measured window.
    pub(crate) per_second: f64,
}

/// Size of the messages from the server, on the wire and as payload.
#[derive(Debug, Serialize)]
pub(crate) struct OnWire {
    #[serde(flatten)]
    pub(crate) sums: Wire,
    /// Mean frame size of a message with its header, in bytes. `None` if no message arrived.
    pub(crate) bytes_per_message: Option<f64>,
    /// Payload bytes after decompression per byte on the wire. `None` if no message arrived.
    pub(crate) ratio: Option<f64>,
}

/// Summary of a distribution of times, in microseconds.
#[derive(Debug, Serialize)]
pub(crate) struct Summary {
    pub(crate) count: u64,
    pub(crate) min_us: f64,
    pub(crate) mean_us: f64,
    pub(crate) stddev_us: f64,
    pub(crate) p50_us: f64,
    pub(crate) p90_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) p999_us: f64,
    pub(crate) max_us: f64,
}

/// Figures about the rounds of a storm.
#[derive(Debug, Serialize)]
pub(crate) struct Rounds {
    /// Rounds per second: deliveries in the measured window divided by the deliveries of one round and by the length of
    /// the window. A part of a round counts as a fraction.
    pub(crate) per_second: f64,
    /// Distribution of the durations of those rounds that lie wholly in the measured window.
    pub(crate) time: Summary,
}

/// Figures of `reconnect` about connections that the server closed and that returned.
#[derive(Debug, Serialize)]
pub(crate) struct Returns {
    pub(crate) closed: u64,
    pub(crate) back: u64,
    pub(crate) failed_attempts: u64,
    /// Time from the start of the measured window until the last closed connection was open again, in seconds. `None`
    /// if some closed connections did not return.
    pub(crate) all_back_seconds: Option<f64>,
    /// The largest number of connections that returned in one step of 100 ms.
    pub(crate) most_per_100_ms: u64,
    /// Numbers of connections closed, connections returned and failed attempts, for each 100 ms since the start of the
    /// measured window.
    pub(crate) per_100_ms: Vec<Step>,
}

/// Figures of `publish`. Deliveries and their latency are in the fields that all scenarios have.
#[derive(Debug, Serialize)]
pub(crate) struct Published {
    pub(crate) subscribers: u64,
    /// Messages that the server accepted in the measured window.
    pub(crate) accepted: u64,
    /// Messages that the server accepted per second of the measured window.
    pub(crate) per_second: f64,
    /// Messages that the server accepted per second of its CPU time. `None` without the server's CPU time.
    pub(crate) per_cpu_second: Option<f64>,
    /// The server's CPU time for each accepted message with all its deliveries, in microseconds.
    pub(crate) cpu_us_per_publish: Option<f64>,
    /// The server's CPU time for each delivery with its part of the publishing, in microseconds.
    pub(crate) cpu_us_per_delivery: Option<f64>,
    /// Number of responses by status.
    pub(crate) statuses: Reasons,
    /// Distribution of the time from the moment a request was due to its response.
    pub(crate) response_latency: Summary,
    /// Distribution of the time from the moment a request was due to the message's arrival at the last subscriber.
    pub(crate) last_subscriber_latency: Summary,
}

/// CPU use of the server's processes in the measured window, and their peak memory.
#[derive(Debug, Serialize)]
pub(crate) struct ServerUse {
    pub(crate) pids: Vec<u32>,
    pub(crate) user_seconds: f64,
    pub(crate) system_seconds: f64,
    /// User and system CPU time per message received, in microseconds. `None` if no message was received.
    pub(crate) cpu_us_per_message: Option<f64>,
    /// CPU time divided by the length of the measured window. 1.0 means one fully used core.
    pub(crate) cores: f64,
    pub(crate) voluntary_switches: u64,
    pub(crate) involuntary_switches: u64,
    pub(crate) peak_rss_bytes: u64,
}

/// CPU use and memory of the server's processes, read from the kernel.
#[derive(Debug)]
pub(crate) struct ServerSample {
    pub(crate) pids: Vec<u32>,
    pub(crate) cpu: CpuUse,
    /// Peak resident memory of the server's processes, in bytes.
    pub(crate) peak_rss_bytes: u64,
}

/// The unexpected end of the server's processes during a run.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct ServerEnd {
    pub(crate) pids: Vec<u32>,
    /// Time from the start of the run to the end of the server, in seconds.
    pub(crate) seconds: f64,
    /// The part of the run in which the server ended, such as `measuring`.
    pub(crate) during: &'static str,
}

/// The coordinator's observations of a run, in addition to the totals that the workers report.
#[derive(Debug, Default)]
pub(crate) struct Observations {
    pub(crate) interrupted: bool,
    pub(crate) seconds: f64,
    pub(crate) ramp_seconds: f64,
    pub(crate) server: Option<ServerSample>,
    pub(crate) server_end: Option<ServerEnd>,
    pub(crate) bytes_per_connection: Option<PerConnection>,
}

impl Outcome {
    pub(crate) fn new(scenario: Scenario, options: RunOptions, totals: &Totals, seen: Observations) -> Self {
        let counts = totals.counts;
        let seconds = seen.seconds.max(f64::MIN_POSITIVE);
        let unconnected = totals.failures.total() + totals.ends.total();
        let returns = matches!(scenario, Scenario::Reconnect { .. }).then(|| Returns::of(&totals.curve));
        // A client event of a Pusher server goes to all connections but its sender.
        let receivers =
            totals.opened - u64::from(options.pusher.protocol == Dialect::Pusher).min(totals.opened);
        let round = (totals.opened * receivers) as f64;
        let all_back = returns.as_ref().is_none_or(|returns| returns.back == returns.closed);
        let mut outcome = Self {
            scenario,
            options,
            passed: counts.faults() == 0 && unconnected == 0 && all_back && seen.server_end.is_none(),
            interrupted: seen.interrupted,
            seconds,
            connections: Connected {
                opened: totals.opened,
                ramp_seconds: seen.ramp_seconds,
                failed: totals.failures.clone(),
                ended: totals.ends.clone(),
            },
            messages: Messages { counts, per_second: counts.measured as f64 / seconds },
            wire: OnWire::new(totals.wire),
            one_order: (!totals.orders.is_empty()).then_some(totals.orders.len() == 1),
            latency: Summary::of(&totals.latency),
            send_lag: Summary::of(&totals.lag),
            rounds: (scenario == Scenario::Storm).then(|| Rounds {
                per_second: counts.measured as f64 / round / seconds,
                time: Summary::of(&totals.rounds),
            }),
            returns,
            publish: matches!(scenario, Scenario::Publish { .. })
                .then(|| Published::new(&totals.answers, counts.measured, &seen)),
            server: seen.server.map(|sample| ServerUse::new(sample, counts.measured, seconds)),
            server_end: seen.server_end,
            bytes_per_connection: seen.bytes_per_connection,
            generator: totals.threads.clone(),
            generator_was_bottleneck: busiest(&totals.threads) > BUSY_SHARE,
            warnings: Vec::new(),
        };
        outcome.warnings = warnings::of(&outcome);
        outcome
    }
}

fn busiest(threads: &[ThreadUse]) -> f64 {
    largest(threads, |thread| thread.cpu_ns)
}

/// Returns the largest share of the window (0 to 1) that any of `threads` spent on `part`, a time in nanoseconds.
fn largest(threads: &[ThreadUse], part: impl Fn(&ThreadUse) -> u64) -> f64 {
    threads.iter().map(|thread| part(thread) as f64 / thread.wall_ns.max(1) as f64).fold(0.0, f64::max)
}

impl fmt::Display for ServerEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pids: Vec<String> = self.pids.iter().map(u32::to_string).collect();
        let (pids, seconds, during) = (pids.join(", "), self.seconds, self.during);
        write!(
            f,
            "the server (process {pids}) ended {seconds:.1} s after the start of the run, while {during}"
        )
    }
}

impl Returns {
    fn of(curve: &Curve) -> Self {
        let sum = |count: fn(&Step) -> u64| curve.steps.iter().map(count).sum();
        let (closed, back) = (sum(|step| step.closed), sum(|step| step.back));
        Self {
            closed,
            back,
            failed_attempts: sum(|step| step.failed),
            all_back_seconds: (closed == back).then_some(curve.last_back_ns as f64 / 1e9),
            most_per_100_ms: curve.steps.iter().map(|step| step.back).max().unwrap_or(0),
            per_100_ms: curve.steps.clone(),
        }
    }
}

impl Published {
    fn new(answers: &Answers, deliveries: u64, seen: &Observations) -> Self {
        let cpu = seen.server.as_ref().map(|server| server.cpu.user_seconds + server.cpu.system_seconds);
        let cpu = cpu.filter(|&seconds| seconds > 0.0);
        let cpu_us_per = |count: u64| cpu.filter(|_| count > 0).map(|seconds| seconds * 1e6 / count as f64);
        Self {
            subscribers: answers.subscribers,
            accepted: answers.measured,
            per_second: answers.measured as f64 / seen.seconds.max(f64::MIN_POSITIVE),
            per_cpu_second: cpu.map(|seconds| answers.measured as f64 / seconds),
            cpu_us_per_publish: cpu_us_per(answers.measured),
            cpu_us_per_delivery: cpu_us_per(deliveries),
            statuses: answers.statuses.clone(),
            response_latency: Summary::of(&answers.latency),
            last_subscriber_latency: Summary::of(&answers.deliveries.to_the_last(answers.subscribers)),
        }
    }
}

impl ServerUse {
    fn new(sample: ServerSample, messages: u64, seconds: f64) -> Self {
        let ServerSample { pids, cpu, peak_rss_bytes } = sample;
        let cpu_seconds = cpu.user_seconds + cpu.system_seconds;
        Self {
            pids,
            user_seconds: cpu.user_seconds,
            system_seconds: cpu.system_seconds,
            cpu_us_per_message: (messages > 0).then(|| cpu_seconds * 1e6 / messages as f64),
            cores: cpu_seconds / seconds,
            voluntary_switches: cpu.voluntary_switches,
            involuntary_switches: cpu.involuntary_switches,
            peak_rss_bytes,
        }
    }
}

impl OnWire {
    fn new(sums: Wire) -> Self {
        let per = |whole: u64, parts: u64| (parts > 0).then(|| whole as f64 / parts as f64);
        Self {
            sums,
            bytes_per_message: per(sums.frame_bytes, sums.messages),
            ratio: per(sums.payload_bytes, sums.frame_bytes),
        }
    }
}

impl Summary {
    pub(crate) fn of(times: &Times) -> Self {
        let histogram = &times.0;
        let quantile = |quantile| histogram.value_at_quantile(quantile) as f64 / 1e3;
        Self {
            count: histogram.len(),
            min_us: histogram.min() as f64 / 1e3,
            mean_us: histogram.mean() / 1e3,
            stddev_us: histogram.stdev() / 1e3,
            p50_us: quantile(0.5),
            p90_us: quantile(0.9),
            p99_us: quantile(0.99),
            p999_us: quantile(0.999),
            max_us: histogram.max() as f64 / 1e3,
        }
    }
}
