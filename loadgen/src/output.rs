//! Prints the result of a run, and writes the JSON file and the latency file.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use crate::memory::PerConnection;
use crate::outcome::{Outcome, Published, Returns, ServerUse, Summary};
use crate::plan::Scenario;
use crate::totals::{Reasons, Times};

/// Writes all figures of the run to `path`, as JSON.
pub(crate) fn write_json(outcome: &Outcome, path: &Path) -> Result<(), String> {
    let text = serde_json::to_string_pretty(outcome).map_err(|error| error.to_string())?;
    write(path, &(text + "\n"))
}

/// Writes the distribution of `times` in milliseconds, in the format of HdrHistogram's plotter.
pub(crate) fn write_hgrm(times: &Times, path: &Path) -> Result<(), String> {
    let histogram = &times.0;
    let mut text =
        format!("{:>12} {:>14} {:>10} {:>14}\n\n", "Value", "Percentile", "TotalCount", "1/(1-Percentile)");
    let mut count = 0;
    for step in histogram.iter_quantiles(5) {
        let (value_ms, quantile) = (step.value_iterated_to() as f64 / 1e6, step.quantile_iterated_to());
        count += step.count_since_last_iteration();
        let _ = write!(text, "{value_ms:12.6} {quantile:2.12} {count:10}");
        let _ =
            if quantile < 1.0 { writeln!(text, " {:14.2}", 1.0 / (1.0 - quantile)) } else { writeln!(text) };
    }
    let (mean, deviation) = (histogram.mean() / 1e6, histogram.stdev() / 1e6);
    let (max, total) = (histogram.max() as f64 / 1e6, histogram.len());
    let _ = writeln!(text, "#[Mean    = {mean:12.6}, StdDeviation   = {deviation:12.6}]");
    let _ = writeln!(text, "#[Max     = {max:12.6}, Total count    = {total:12}]");
    write(path, &text)
}

/// Returns the result as text, one figure per line.
pub(crate) fn text(outcome: &Outcome) -> String {
    let mut out = String::new();
    // Writing to a string cannot fail.
    let mut line = |label: &str, value: String| {
        let _ = writeln!(out, "{label:<13} {value}");
    };
    let counts = outcome.messages.counts;
    let connected = &outcome.connections;
    line("connections", format!("{} opened in {:.2} s", connected.opened, connected.ramp_seconds));
    for (label, value) in outcome.publish.iter().flat_map(|publish| published(publish, outcome.seconds)) {
        line(label, value);
    }
    let has_receivers = outcome.publish.as_ref().is_none_or(|publish| publish.subscribers > 0);
    if outcome.seconds > 0.001 && outcome.returns.is_none() && has_receivers {
        let what = match outcome.scenario {
            Scenario::Connect { .. } => "handshakes",
            Scenario::Requests { .. } => "responses",
            _ => "received",
        };
        line(
            what,
            format!("{:.0}/s ({} in {:.2} s)", outcome.messages.per_second, counts.measured, outcome.seconds),
        );
    }
    if let Some(rounds) = &outcome.rounds {
        line("rounds", format!("{:.2}/s; {}", rounds.per_second, milliseconds(&rounds.time)));
    }
    if let Some(returns) = &outcome.returns {
        line("returned", returned(returns));
    }
    if has_receivers {
        line("latency", milliseconds(&outcome.latency));
    }
    let has_schedule = match outcome.scenario {
        Scenario::Echo { rate, .. } | Scenario::Connect { rate } | Scenario::Publish { rate, .. } => {
            rate.is_some()
        }
        Scenario::Broadcast { .. } | Scenario::Presence { .. } => true,
        Scenario::Storm | Scenario::Idle { .. } | Scenario::Requests { .. } | Scenario::Reconnect { .. } => {
            false
        }
    };
    if has_schedule {
        line("sent late by", milliseconds(&outcome.send_lag));
    }
    line(
        "messages",
        format!(
            "{} sent, {} received; {} lost, {} duplicated, {} reordered, {} corrupt",
            counts.sent, counts.received, counts.lost, counts.duplicated, counts.reordered, counts.corrupt
        ),
    );
    if let (Some(bytes), Some(ratio)) = (outcome.wire.bytes_per_message, outcome.wire.ratio) {
        line(
            "on the wire",
            format!("{bytes:.1} bytes per message received, {ratio:.2} payload bytes per byte"),
        );
    }
    if let Some(server) = &outcome.server {
        line("server", server_use(server));
    }
    if let Some(end) = &outcome.server_end {
        line(
            "server",
            format!("ENDED {:.1} s after the start of the run, while {}", end.seconds, end.during),
        );
    }
    if let Some(bytes) = &outcome.bytes_per_connection {
        line("bytes each", memory(bytes));
    }
    reasons(&mut out, "not opened", &connected.failed);
    reasons(&mut out, "ended", &connected.ended);
    for warning in &outcome.warnings {
        let _ = writeln!(out, "warning: {warning}");
    }
    let verdict = if outcome.passed { "passed" } else { "FAILED" };
    let _ = writeln!(out, "{verdict}{}", if outcome.interrupted { " (interrupted)" } else { "" });
    out
}

/// Returns the labels and values of the lines that only `publish` has.
fn published(publish: &Published, seconds: f64) -> Vec<(&'static str, String)> {
    let Published { accepted, per_second, .. } = publish;
    let mut lines = vec![
        ("published", format!("{per_second:.0}/s ({accepted} in {seconds:.2} s)")),
        ("answered", milliseconds(&publish.response_latency)),
    ];
    for (status, times) in &publish.statuses.0 {
        lines.push(("status", format!("{times} times: {status}")));
    }
    if publish.subscribers > 0 {
        lines.push(("to the last", milliseconds(&publish.last_subscriber_latency)));
    }
    if let (Some(per_publish), Some(per_cpu)) = (publish.cpu_us_per_publish, publish.per_cpu_second) {
        let text = format!("{per_publish:.3} µs CPU per publish; {per_cpu:.0} publishes per CPU second");
        lines.push(("server", text));
    }
    lines
}

fn server_use(server: &ServerUse) -> String {
    let peak_mib = server.peak_rss_bytes as f64 / f64::from(1 << 20);
    let per_message =
        server.cpu_us_per_message.map_or_else(String::new, |us| format!("{us:.3} µs CPU per message; "));
    format!(
        "{per_message}{:.2} s user, {:.2} s system ({:.0}% of a core); \
         {} voluntary + {} involuntary switches; peak {peak_mib:.1} MiB",
        server.user_seconds,
        server.system_seconds,
        server.cores * 100.0,
        server.voluntary_switches,
        server.involuntary_switches
    )
}

fn returned(returns: &Returns) -> String {
    let Returns { closed, back, failed_attempts, most_per_100_ms, .. } = returns;
    let when =
        returns.all_back_seconds.map_or_else(String::new, |seconds| format!(", all within {seconds:.2} s"));
    format!(
        "{back} of {closed}{when}; at most {most_per_100_ms} in 100 ms; {failed_attempts} failed attempts"
    )
}

fn memory(bytes: &PerConnection) -> String {
    let server_part = |server| format!(" ({server:.0} of the server)");
    format!(
        "server {:.0} rss, {:.0} pss, {:.0} private; kernel {:.0} for both ends{}, {:.0} in buffers",
        bytes.server_rss,
        bytes.server_pss,
        bytes.server_private,
        bytes.kernel_slab_both_ends,
        bytes.kernel_slab_server.map_or_else(String::new, server_part),
        bytes.kernel_socket_buffers
    )
}

fn reasons(out: &mut String, label: &str, reasons: &Reasons) {
    for (reason, times) in &reasons.0 {
        let _ = writeln!(out, "{label:<13} {times} times: {reason}");
    }
}

fn milliseconds(times: &Summary) -> String {
    if times.count == 0 {
        return "-".to_owned();
    }
    format!(
        "p50 {:.3} ms, p90 {:.3}, p99 {:.3}, p99.9 {:.3}, max {:.3}",
        times.p50_us / 1e3,
        times.p90_us / 1e3,
        times.p99_us / 1e3,
        times.p999_us / 1e3,
        times.max_us / 1e3
    )
}

fn write(path: &Path, text: &str) -> Result<(), String> {
    fs::write(path, text).map_err(|error| format!("{} cannot be written: {error}", path.display()))
}
