//! The metrics of each scenario, and the median and range of a metric over several runs.

use serde_json::Value;

use super::schedule::Kind;
use super::store::{Record, Results};

/// A metric of a scenario, such as messages per second, and the function that reads it from a run's outcome.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Metric {
    /// The metric's name with its unit, for table headings and chart axes.
    pub(crate) title: &'static str,
    pub(crate) more_is_better: bool,
    read: fn(&Value) -> Option<f64>,
}

/// Median, minimum and maximum of a metric over several runs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

const fn more(title: &'static str, read: fn(&Value) -> Option<f64>) -> Metric {
    Metric { title, more_is_better: true, read }
}

const fn less(title: &'static str, read: fn(&Value) -> Option<f64>) -> Metric {
    Metric { title, more_is_better: false, read }
}

pub(crate) const PER_SECOND: Metric = more("messages/s", |run| run["messages"]["per_second"].as_f64());
pub(crate) const ROUNDS: Metric = more("rounds/s", |run| run["rounds"]["per_second"].as_f64());
pub(crate) const DELIVERIES: Metric = more("deliveries/s", |run| run["messages"]["per_second"].as_f64());
pub(crate) const HANDSHAKES: Metric = more("handshakes/s", |run| run["messages"]["per_second"].as_f64());
pub(crate) const CPU_US: Metric = less("server CPU, µs per message", cpu_us);
pub(crate) const CPU_US_PER_DELIVERY: Metric = less("server CPU, µs per delivery", cpu_us);
pub(crate) const HANDSHAKES_PER_CPU_SECOND: Metric =
    more("handshakes per CPU second", |run| cpu_us(run).filter(|us| *us > 0.0).map(|us| 1e6 / us));
pub(crate) const P50: Metric = less("latency p50, ms", |run| milliseconds(run, "p50_us"));
pub(crate) const P99: Metric = less("latency p99, ms", |run| milliseconds(run, "p99_us"));
pub(crate) const TO_LAST: Metric =
    less("one message to the last receiver, ms", |run| milliseconds(run, "max_us"));
pub(crate) const PRIVATE: Metric =
    less("private bytes per idle connection", |run| run["bytes_per_connection"]["server_private"].as_f64());
pub(crate) const KERNEL: Metric = less("kernel bytes per idle connection, both ends", |run| {
    run["bytes_per_connection"]["kernel_slab_both_ends"].as_f64()
});

impl Kind {
    /// Returns the metrics that the summary shows for the scenario.
    pub(crate) fn metrics(self) -> &'static [Metric] {
        match self {
            Self::Echo => &[PER_SECOND, CPU_US, P50, P99],
            Self::Broadcast => &[CPU_US_PER_DELIVERY, DELIVERIES, P50, P99],
            Self::Storm => &[ROUNDS, DELIVERIES, CPU_US_PER_DELIVERY],
            Self::Idle => &[PRIVATE, KERNEL, TO_LAST],
            Self::Connect => &[HANDSHAKES, HANDSHAKES_PER_CPU_SECOND, P99],
        }
    }
}

impl Metric {
    /// Returns median and range of the metric over those `runs` that passed, or `None` if no run passed.
    pub(crate) fn of(&self, runs: &[&Record]) -> Option<Spread> {
        Spread::of(runs.iter().filter_map(|run| (self.read)(run.passed()?)).collect())
    }
}

impl Spread {
    pub(crate) fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_by(f64::total_cmp);
        let (min, max) = (*values.first()?, *values.last()?);
        let middle = values.len() / 2;
        let median = match values.len() % 2 {
            0 => f64::midpoint(values[middle - 1], values[middle]),
            _ => values[middle],
        };
        Some(Self { median, min, max })
    }

    /// Returns this median divided by the median of `other`, or `None` if the median of `other` is not above 0.
    pub(crate) fn ratio(&self, other: &Self) -> Option<f64> {
        (other.median > 0.0).then(|| self.median / other.median)
    }
}

impl Results {
    /// Returns the name of the PHP baseline server, or `None` if the comparison does not include it.
    pub(crate) fn baseline(&self) -> Option<&str> {
        self.named(|name| name.starts_with("php"))
    }

    /// Returns the name of the uWebSockets server, or `None` if the comparison does not include it.
    pub(crate) fn uwebsockets(&self) -> Option<&str> {
        self.named(|name| name.starts_with("uwebsockets") || name.starts_with("uws"))
    }

    /// Returns the name of the limit program to compare `server` with. A limit program shows the cost of the bare
    /// kernel. It uses io_uring if the server's name contains `uring`, else epoll. `None` if the comparison has no such
    /// program.
    pub(crate) fn limit(&self, server: &str) -> Option<&str> {
        self.named(|name| name.starts_with("limit") && name.contains("uring") == server.contains("uring"))
    }

    /// Returns the runs of `server` at the load point `point`, and the number of connections of these runs.
    ///
    /// Memory per idle connection does not depend on the number of connections. So for an idle `point` without runs of
    /// the server, the method returns the runs at the server's largest idle load point that passed.
    pub(crate) fn nearest<'a>(
        &'a self,
        server: &str,
        kind: Kind,
        point: &str,
    ) -> Option<(Vec<&'a Record>, usize)> {
        let exact = self.runs(server, point);
        if let Some(run) = exact.first() {
            let connections = run.connections;
            return Some((exact, connections));
        }
        let points = if kind == Kind::Idle { self.points(kind) } else { Vec::new() };
        let others = points.iter().map(|measured| (self.runs(server, &measured.point), measured.connections));
        let passed = others.filter(|(runs, _)| runs.iter().any(|run| run.passed().is_some()));
        passed.max_by_key(|(_, connections)| *connections)
    }

    fn named(&self, is_wanted: impl Fn(&str) -> bool) -> Option<&str> {
        let names = self.environment.servers.iter().map(|server| server.name.as_str());
        names.into_iter().find(|name| is_wanted(&name.to_ascii_lowercase()))
    }
}

fn cpu_us(run: &Value) -> Option<f64> {
    run["server"]["cpu_us_per_message"].as_f64()
}

fn milliseconds(run: &Value, quantile: &str) -> Option<f64> {
    run["latency"]["count"].as_u64().filter(|count| *count > 0)?;
    run["latency"][quantile].as_f64().map(|us| us / 1e3)
}

/// Formats a number with three significant digits where possible, and commas between thousands.
pub(crate) fn figure(value: f64) -> String {
    let size = value.abs();
    let digits = match size {
        _ if size >= 99.95 || size == 0.0 => 0,
        _ if size >= 9.995 => 1,
        _ if size >= 0.9995 => 2,
        _ if size >= 0.09995 => 3,
        _ => 4,
    };
    let text = format!("{value:.digits$}");
    let (whole, rest) = text.split_at(text.find('.').unwrap_or(text.len()));
    let (sign, whole) = whole.split_at(usize::from(whole.starts_with('-')));
    let mut grouped = String::new();
    for (index, digit) in whole.chars().enumerate() {
        if index > 0 && (whole.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    format!("{sign}{grouped}{rest}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_has_median_minimum_and_maximum() {
        assert_eq!(Spread::of(Vec::new()), None);
        assert_eq!(Spread::of(vec![3.0]), Some(Spread { median: 3.0, min: 3.0, max: 3.0 }));
        assert_eq!(Spread::of(vec![9.0, 1.0, 2.0]), Some(Spread { median: 2.0, min: 1.0, max: 9.0 }));
        assert_eq!(Spread::of(vec![4.0, 9.0, 1.0, 2.0]), Some(Spread { median: 3.0, min: 1.0, max: 9.0 }));
    }

    #[test]
    fn ratios_are_of_medians_and_never_divide_by_zero() {
        let spread = |median| Spread { median, min: 0.0, max: 100.0 };
        assert_eq!(spread(6.0).ratio(&spread(4.0)), Some(1.5));
        assert_eq!(spread(6.0).ratio(&spread(0.0)), None);
    }

    #[test]
    fn figures_have_three_significant_digits() {
        for (value, text) in [
            (0.0, "0"),
            (0.01234, "0.0123"),
            (0.1, "0.100"),
            (1.5, "1.50"),
            (9.996, "10.0"),
            (99.96, "100"),
            (-1234.5, "-1,234"),
            (1_234_567.8, "1,234,568"),
        ] {
            assert_eq!(figure(value), text);
        }
    }
}
