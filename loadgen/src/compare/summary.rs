//! Writes the summary of a comparison: median, range and ratios of each metric at each load point, as tables.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::Value;

use super::metric::{Metric, Spread, figure};
use super::schedule::Kind;
use super::store::{Environment, Measured, RAW, Record, Results};

const NONE: &str = "–";

/// Returns the whole summary of a comparison as Markdown.
pub(crate) fn markdown(results: &Results) -> String {
    let mut out = String::new();
    // The results of `writeln!` are ignored, because writing to a string cannot fail.
    let _ = writeln!(out, "# Comparison of {}\n", results.environment.started);
    let _ = writeln!(out, "{}\n", machine(&results.environment));
    let _ = writeln!(
        out,
        "Every figure is the median of the rounds that passed, from `{RAW}`, with the smallest and the largest beside \
         it. Ratios are of medians: to the PHP baseline, to uWebSockets, and to the bare kernel on the same \
         interface (io_uring or epoll).\n"
    );
    let _ = writeln!(out, "| server | version | how it was built | notes |\n|---|---|---|---|");
    for server in &results.environment.servers {
        let build = if server.build.is_empty() { NONE.to_owned() } else { format!("`{}`", server.build) };
        let _ = writeln!(out, "| {} | {} | {build} | {} |", server.name, server.version, server.notes);
    }
    for kind in [Kind::Echo, Kind::Broadcast, Kind::Storm, Kind::Idle, Kind::Connect] {
        for Measured { point, .. } in results.points(kind) {
            out.push_str(&point_text(results, kind, &point));
        }
    }
    out
}

/// Returns a short text about the machine, the commit, and the cores of the server and the load.
pub(crate) fn machine(environment: &Environment) -> String {
    let Environment { commit, dirty, kernel, cpu, cores, memory_bytes, rustc, .. } = environment;
    let changed = if *dirty { " with changes" } else { "" };
    let gib = *memory_bytes as f64 / f64::from(1 << 30);
    let commit = commit.get(..12).unwrap_or(commit);
    let alone = if environment.server_core == environment.load_core {
        "Server and load shared one core."
    } else {
        "The server had one core and the load another."
    };
    format!("Commit {commit}{changed}; {cpu}, {cores} cores, {gib:.0} GiB; {kernel}; {rustc}. {alone}")
}

fn point_text(results: &Results, kind: Kind, point: &str) -> String {
    let records: Vec<&Record> = results.records.iter().filter(|record| record.point == point).collect();
    let arguments = records.first().map(|record| record.arguments.join(" ")).unwrap_or_default();
    let mut out = format!("\n## {point}\n\n`loadgen {arguments}`\n");
    for metric in kind.metrics() {
        let better = if metric.more_is_better { "more" } else { "less" };
        let _ = writeln!(out, "\n### {point}: {} ({better} is better)\n", metric.title);
        out.push_str("| server | median | min–max | to PHP | to uWebSockets | to the limit |\n|---|---|---|---|---|---|\n");
        for server in names(results, point) {
            let row = row(results, kind, point, metric, server);
            let _ = writeln!(out, "| {server} | {row} |");
        }
    }
    let remarks: Vec<String> = names(results, point)
        .into_iter()
        .filter_map(|server| remark(&results.runs(server, point)).map(|text| format!("- {server}: {text}\n")))
        .collect();
    if !remarks.is_empty() {
        let _ = write!(out, "\n{}", remarks.concat());
    }
    out
}

/// Returns the names of the servers that have runs at the load point `point`, in the order of the comparison.
fn names<'a>(results: &'a Results, point: &str) -> Vec<&'a str> {
    let names = results.environment.servers.iter().map(|server| server.name.as_str());
    names.filter(|name| !results.runs(name, point).is_empty()).collect()
}

fn row(results: &Results, kind: Kind, point: &str, metric: &Metric, server: &str) -> String {
    let Some(spread) = metric.of(&results.runs(server, point)) else {
        return format!("failed{}", format!(" | {NONE}").repeat(4));
    };
    let ratio = |other: Option<&str>| {
        let (runs, _) = results.nearest(other?, kind, point)?;
        spread.ratio(&metric.of(&runs)?).map(|ratio| format!("{}×", figure(ratio)))
    };
    let ratios = [results.baseline(), results.uwebsockets(), results.limit(server)]
        .map(|other| ratio(other).unwrap_or_else(|| NONE.to_owned()));
    let Spread { median, min, max } = spread;
    format!("{} | {}–{} | {}", figure(median), figure(min), figure(max), ratios.join(" | "))
}

/// Returns the failures and warnings of `runs`, each with the number of runs that it concerns. `None` if there are no
/// failures and no warnings.
pub(crate) fn remark(runs: &[&Record]) -> Option<String> {
    let mut remarks: BTreeMap<String, usize> = BTreeMap::new();
    for run in runs {
        let mut note = |text: String| *remarks.entry(text).or_default() += 1;
        if let Some(error) = &run.error {
            note(format!("failed: {error}"));
        }
        let Some(outcome) = &run.outcome else { continue };
        if outcome["passed"] != true {
            note(format!("failed: {}", faults(outcome, run.connections)));
        }
        if outcome["generator_was_bottleneck"] == true {
            note("the load generator was the bottleneck".to_owned());
        }
        let count = |name: &str| outcome["messages"][name].as_u64().unwrap_or(0);
        if count("unfinished") > 0 && run.kind != Kind::Storm {
            note("slower than the load: messages had not arrived at the end".to_owned());
        }
        if count("unsent") > 0 {
            note("did not take all messages".to_owned());
        }
    }
    let texts: Vec<String> =
        remarks.into_iter().map(|(text, times)| format!("{text} ({times} of {})", runs.len())).collect();
    (!texts.is_empty()).then(|| texts.join("; "))
}

/// Returns the reasons why a run did not pass, separated by commas.
fn faults(outcome: &Value, connections: usize) -> String {
    let mut faults = Vec::new();
    for name in ["lost", "duplicated", "reordered", "corrupt"] {
        if outcome["messages"][name].as_u64().is_some_and(|count| count > 0) {
            faults.push(format!("{} messages {name}", outcome["messages"][name]));
        }
    }
    let connected = &outcome["connections"];
    if outcome["scenario"].get("connect").is_none() && connected["opened"] != connections {
        faults.push(format!("{} of {connections} connections opened", connected["opened"]));
    }
    for list in ["failed", "ended"] {
        for (reason, times) in connected[list].as_object().into_iter().flatten() {
            faults.push(format!("{times} times: {reason}"));
        }
    }
    faults.join(", ")
}

#[cfg(test)]
pub(crate) mod tests {
    use serde_json::json;

    use crate::compare::servers::Server;

    use super::*;

    /// Returns results of two rounds of `echo`. CPU per message was 4 and 6 µs for `php`, and 3 and 1 µs for `ours`.
    /// `broken` lost messages in the first round and did not start in the second.
    pub(crate) fn example() -> Results {
        let server = |name: &str| Server {
            name: name.to_owned(),
            version: "1".to_owned(),
            command: Vec::new(),
            apps: vec!["echo".to_owned()],
            build: String::new(),
            notes: String::new(),
            max_connections: None,
            tls: false,
        };
        let record = |server: &str, round, cpu_us: f64| Record {
            server: server.to_owned(),
            point: "echo-100".to_owned(),
            kind: Kind::Echo,
            connections: 100,
            round,
            arguments: vec!["echo".to_owned()],
            outcome: Some(json!({
                "passed": true,
                "scenario": {"echo": {}},
                "messages": {"per_second": 1e6 / cpu_us, "lost": 0},
                "latency": {"count": 9, "p50_us": 1000.0, "p99_us": 2000.0 * cpu_us},
                "server": {"cpu_us_per_message": cpu_us},
                "connections": {"opened": 100, "failed": {}, "ended": {}},
            })),
            error: None,
        };
        let mut lossy = record("broken", 1, 0.1);
        if let Some(outcome) = &mut lossy.outcome {
            outcome["passed"] = json!(false);
            outcome["messages"]["lost"] = json!(7);
        }
        let mut absent = record("broken", 2, 0.1);
        absent.outcome = None;
        absent.error = Some("no such program".to_owned());
        let records = vec![
            record("ours", 1, 3.0),
            record("php", 1, 4.0),
            record("ours", 2, 1.0),
            record("php", 2, 6.0),
            lossy,
            absent,
        ];
        let environment = Environment {
            started: "2026-01-31T10:00:00Z".to_owned(),
            finished: None,
            commit: "0123456789abcdef".to_owned(),
            dirty: false,
            kernel: "Linux".to_owned(),
            cpu: "a CPU".to_owned(),
            cores: 2,
            memory_bytes: 1 << 30,
            rustc: "rustc".to_owned(),
            profile: "release".to_owned(),
            server_core: 0,
            load_core: 1,
            load_average: String::new(),
            options: Value::Null,
            servers: ["ours", "php", "broken"].map(server).to_vec(),
        };
        Results { environment, records }
    }

    #[test]
    fn rows_have_the_median_the_spread_and_the_ratios() {
        let text = markdown(&example());
        let start = text.find("### echo-100: server CPU").expect("there is such a table");
        let rows: Vec<&str> = text[start..].lines().skip(4).take(3).collect();
        assert_eq!(
            rows,
            [
                "| ours | 2.00 | 1.00–3.00 | 0.400× | – | – |",
                "| php | 5.00 | 4.00–6.00 | 1.00× | – | – |",
                "| broken | failed | – | – | – | – |",
            ]
        );
    }

    #[test]
    fn failures_are_reported() {
        let text = markdown(&example());
        let remark = text.lines().find(|line| line.starts_with("- broken:")).expect("it has a remark");
        assert!(remark.contains("7 messages lost (1 of 2)"), "{remark}");
        assert!(remark.contains("no such program (1 of 2)"), "{remark}");
    }
}
