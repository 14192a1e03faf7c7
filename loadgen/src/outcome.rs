//! The result of a run: what is printed, and what goes into the files.

use serde::Serialize;

use crate::cli::RunOptions;
use crate::memory::PerConnection;
use crate::plan::Scenario;
use crate::procfs::CpuUse;
use crate::totals::{Counts, Curve, Reasons, Step, ThreadUse, Times, Totals, Wire};

/// A thread that ran for more than this part of the time had no time to spare.
const BUSY_SHARE: f64 = 0.9;
/// A thread that waited for a core for more than this part of the time was late through no fault of the server.
const WAIT_SHARE: f64 = 0.1;

/// All figures of one run.
#[derive(Debug, Serialize)]
pub(crate) struct Outcome {
    pub(crate) scenario: Scenario,
    pub(crate) options: RunOptions,
    /// Nothing was lost, doubled, out of order or altered, and every connection held.
    pub(crate) passed: bool,
    /// Ended early by a signal.
    pub(crate) interrupted: bool,
    /// Length of the measured window.
    pub(crate) seconds: f64,
    pub(crate) connections: Connected,
    pub(crate) messages: Messages,
    pub(crate) wire: OnWire,
    /// Whether all receivers saw the messages of all publishers in the same order.
    pub(crate) one_order: Option<bool>,
    /// From the moment a message was to be sent to its arrival.
    pub(crate) latency: Summary,
    /// From the moment a message was to be sent to when the generator did send it.
    pub(crate) send_lag: Summary,
    pub(crate) rounds: Option<Rounds>,
    pub(crate) returns: Option<Returns>,
    pub(crate) server: Option<ServerUse>,
    pub(crate) bytes_per_connection: Option<PerConnection>,
    /// The threads that made the load.
    pub(crate) generator: Vec<ThreadUse>,
    /// One of them had no time to spare, so that the server could have done more.
    pub(crate) generator_was_bottleneck: bool,
    pub(crate) warnings: Vec<String>,
}

/// How the connections fared.
#[derive(Debug, Serialize)]
pub(crate) struct Connected {
    pub(crate) opened: u64,
    /// How long it took to open them; nothing for `connect`.
    pub(crate) ramp_seconds: f64,
    pub(crate) failed: Reasons,
    pub(crate) ended: Reasons,
}

/// How the messages fared.
#[derive(Debug, Serialize)]
pub(crate) struct Messages {
    #[serde(flatten)]
    pub(crate) counts: Counts,
    /// Received in the measured window.
    pub(crate) per_second: f64,
}

/// What the messages of the server took on the wire.
#[derive(Debug, Serialize)]
pub(crate) struct OnWire {
    #[serde(flatten)]
    pub(crate) sums: Wire,
    /// Frame and header of one message, in bytes.
    pub(crate) bytes_per_message: Option<f64>,
    /// Bytes that were said for each byte on the wire.
    pub(crate) ratio: Option<f64>,
}

/// A distribution of times.
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

/// The rounds of a storm.
#[derive(Debug, Serialize)]
pub(crate) struct Rounds {
    /// Deliveries in the measured window divided by those of a round, so that a part of a round counts, too.
    pub(crate) per_second: f64,
    /// Of the rounds that lie wholly in the window.
    pub(crate) time: Summary,
}

/// How those who were closed came back.
#[derive(Debug, Serialize)]
pub(crate) struct Returns {
    pub(crate) closed: u64,
    pub(crate) back: u64,
    pub(crate) failed_attempts: u64,
    /// From the start of the measured window until the last one was back; nothing when not all are.
    pub(crate) all_back_seconds: Option<f64>,
    /// In the 100 ms in which most came back.
    pub(crate) most_per_100_ms: u64,
    /// The same in each 100 ms since the start of the measured window.
    pub(crate) per_100_ms: Vec<Step>,
}

/// What the server used in the measured window.
#[derive(Debug, Serialize)]
pub(crate) struct ServerUse {
    pub(crate) pids: Vec<u32>,
    pub(crate) user_seconds: f64,
    pub(crate) system_seconds: f64,
    /// User and system time divided by the messages received.
    pub(crate) cpu_us_per_message: Option<f64>,
    /// 1.0 is one core.
    pub(crate) cores: f64,
    pub(crate) voluntary_switches: u64,
    pub(crate) involuntary_switches: u64,
    pub(crate) peak_rss_bytes: u64,
}

/// What the coordinator saw beside the totals of the workers.
#[derive(Debug, Default)]
pub(crate) struct Observations {
    pub(crate) interrupted: bool,
    pub(crate) seconds: f64,
    pub(crate) ramp_seconds: f64,
    /// The server's processes, its use in the window, and its peak memory in bytes.
    pub(crate) server: Option<(Vec<u32>, CpuUse, u64)>,
    pub(crate) bytes_per_connection: Option<PerConnection>,
}

impl Outcome {
    pub(crate) fn new(scenario: Scenario, options: RunOptions, totals: &Totals, seen: Observations) -> Self {
        let counts = totals.counts;
        let seconds = seen.seconds.max(f64::MIN_POSITIVE);
        let ends_matter = !matches!(scenario, Scenario::Connect { .. });
        let unconnected = totals.failures.total() + if ends_matter { totals.ends.total() } else { 0 };
        let returns = matches!(scenario, Scenario::Reconnect { .. }).then(|| Returns::of(&totals.curve));
        let all_back = returns.as_ref().is_none_or(|returns| returns.back == returns.closed);
        let mut outcome = Self {
            scenario,
            options,
            passed: counts.faults() == 0 && unconnected == 0 && all_back,
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
                per_second: counts.measured as f64 / (totals.opened as f64).powi(2) / seconds,
                time: Summary::of(&totals.rounds),
            }),
            returns,
            server: seen
                .server
                .map(|(pids, cpu, peak)| ServerUse::new(pids, cpu, peak, counts.measured, seconds)),
            bytes_per_connection: seen.bytes_per_connection,
            generator: totals.threads.clone(),
            generator_was_bottleneck: busiest(&totals.threads) > BUSY_SHARE,
            warnings: Vec::new(),
        };
        outcome.warnings = outcome.find_warnings();
        outcome
    }

    fn find_warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if self.generator_was_bottleneck {
            warnings.push(format!(
                "the load generator was the bottleneck: a thread ran {:.0}% of the time; use more --threads on \
                 more cores, or less load",
                busiest(&self.generator) * 100.0
            ));
        }
        let hungriest = largest(&self.generator, |thread| thread.wait_ns);
        if hungriest > WAIT_SHARE {
            warnings.push(format!(
                "a thread of the load generator waited for a core {:.0}% of the time; pin server and generator \
                 to different cores",
                hungriest * 100.0
            ));
        }
        let Counts { unsent, unfinished, foreign, received, .. } = self.messages.counts;
        if unfinished > 0 {
            warnings.push(format!(
                "{unfinished} messages were still to come when the time was up: the server is slower than the \
                 load, and the latency is that of those that came"
            ));
        }
        if unsent > 0 {
            warnings.push(format!(
                "{unsent} messages that were due were not sent, because the server took no more or had closed; \
                 the rate or the size is beyond what it can do"
            ));
        }
        if foreign > 0 {
            let hint = if received == 0 {
                "; this server does not send messages back verbatim, which its relay or echo mode must do (or give \
                 --chat for uproar's chat)"
            } else {
                ""
            };
            warnings.push(format!("{foreign} messages came that were not of this run{hint}"));
        }
        if self.one_order == Some(false) {
            warnings
                .push("receivers saw the messages of different publishers in different orders".to_owned());
        }
        if self.server.is_none() && self.returns.is_none() {
            warnings.push(
                "the server's process was not found, so its CPU and memory are not known; give --server-pid"
                    .to_owned(),
            );
        }
        warnings
    }
}

fn busiest(threads: &[ThreadUse]) -> f64 {
    largest(threads, |thread| thread.cpu_ns)
}

/// The largest part of its time that a thread spent so.
fn largest(threads: &[ThreadUse], part: impl Fn(&ThreadUse) -> u64) -> f64 {
    threads.iter().map(|thread| part(thread) as f64 / thread.wall_ns.max(1) as f64).fold(0.0, f64::max)
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

impl ServerUse {
    fn new(pids: Vec<u32>, cpu: CpuUse, peak_rss_bytes: u64, messages: u64, seconds: f64) -> Self {
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
