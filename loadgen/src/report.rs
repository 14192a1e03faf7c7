//! `loadgen report`: writes the README's results table from the raw data of a comparison, or checks the table.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use clap::Args;

use crate::compare::metric::{
    CPU_US, CPU_US_PER_DELIVERY, HANDSHAKES_PER_CPU_SECOND, Metric, PRIVATE, figure,
};
use crate::compare::schedule::Kind;
use crate::compare::store::{RAW, Record, Results};
use crate::compare::summary::machine;

const BEGIN: &str = "<!-- results: begin -->";
const END: &str = "<!-- results: end -->";
const NO_RESULTS: &str = "There are no results yet; `just compare` makes them.\n";
/// The storm load point that the results table shows. If it has no runs, the table shows the largest storm.
const STORM: &str = "storm-500";
/// The chart below the results table: file name and title.
const PLOT: (&str, &str) = ("storm-cost.svg", "Server CPU per delivery as clients grow");

/// Options of `loadgen report`.
#[derive(Debug, Args)]
pub(crate) struct ReportOptions {
    /// The directory of results; if not given, the newest finished comparison of all servers (no --quick, no --tls).
    #[arg(long)]
    pub(crate) from: Option<PathBuf>,
    /// Parent directory of all comparisons' results.
    #[arg(long, default_value = "results")]
    pub(crate) results: PathBuf,
    /// The Markdown file to write, with the markers around the results table.
    #[arg(long, default_value = "README.md")]
    pub(crate) readme: PathBuf,
    /// Change nothing, and fail if the figures in the file differ from the raw data.
    #[arg(long)]
    pub(crate) check: bool,
}

/// Writes the results table into the README, or only checks the table. Returns false if a check finds a difference.
pub(crate) fn report(options: &ReportOptions) -> Result<bool, String> {
    let newest = match &options.from {
        Some(directory) => Some((directory.clone(), Results::read(directory)?)),
        None => newest(&options.results)?,
    };
    let section = match &newest {
        Some((directory, results)) => section(results, &relative(directory, &options.readme)),
        None => NO_RESULTS.to_owned(),
    };
    let path = options.readme.display();
    let old =
        fs::read_to_string(&options.readme).map_err(|error| format!("{path} cannot be read: {error}"))?;
    let new = insert(&old, &section).ok_or_else(|| {
        format!("{path} has no place for the results; put the lines `{BEGIN}` and `{END}` where they belong")
    })?;
    if options.check {
        return Ok(agrees(&old, &new, &options.readme));
    }
    fs::write(&options.readme, new).map_err(|error| format!("{path} cannot be written: {error}"))?;
    Ok(true)
}

fn agrees(old: &str, new: &str, readme: &Path) -> bool {
    let differs = |(old, new): &(&str, &str)| old != new;
    let Some((is, ought)) = old.lines().chain([""]).zip(new.lines().chain([""])).find(differs) else {
        return true;
    };
    eprintln!(
        "loadgen: {} differs from the raw data; run `loadgen report`\n  it has:      {is}\n  it must have: {ought}",
        readme.display()
    );
    false
}

/// Replaces the text between the markers [`BEGIN`] and [`END`] with `section`. Returns `None` if a marker is missing.
fn insert(text: &str, section: &str) -> Option<String> {
    let (before, rest) = text.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}\n{section}{END}{after}"))
}

/// Finds the newest finished comparison of all servers below `parent`, or `None` if there is none. Skips comparisons
/// with --quick, --tls or --servers.
fn newest(parent: &Path) -> Result<Option<(PathBuf, Results)>, String> {
    let Ok(entries) = fs::read_dir(parent) else { return Ok(None) };
    let directories = entries.flatten().map(|entry| entry.path()).filter(|path| path.join(RAW).exists());
    let mut all = Vec::new();
    for directory in directories {
        let results = Results::read(&directory)?;
        let options = &results.environment.options;
        let names_none = options["servers"].as_array().is_none_or(Vec::is_empty);
        let has_all = names_none && options["quick"] != true && options["tls"] != true;
        if has_all && results.environment.finished.is_some() {
            all.push((directory, results));
        }
    }
    Ok(all.into_iter().max_by(|one, other| one.1.environment.started.cmp(&other.1.environment.started)))
}

/// Returns the path of `directory` for a link in the README: relative to the README's directory if possible.
fn relative(directory: &Path, readme: &Path) -> String {
    let below = readme.parent().and_then(|base| directory.strip_prefix(base).ok());
    let path = below.unwrap_or(directory);
    path.display().to_string().trim_end_matches('/').to_owned()
}

/// A column of the results table: one metric of one scenario.
#[derive(Debug, Clone, Copy)]
struct Column {
    kind: Kind,
    metric: Metric,
    head: &'static str,
}

const COLUMNS: [Column; 5] = [
    column(Kind::Storm, CPU_US_PER_DELIVERY, "CPU µs per delivery"),
    column(Kind::Broadcast, CPU_US_PER_DELIVERY, "CPU µs per delivery"),
    column(Kind::Echo, CPU_US, "CPU µs per message"),
    column(Kind::Idle, PRIVATE, "bytes per connection"),
    column(Kind::Connect, HANDSHAKES_PER_CPU_SECOND, "handshakes per CPU second"),
];

const fn column(kind: Kind, metric: Metric, head: &'static str) -> Column {
    Column { kind, metric, head }
}

/// A cell of the results table: one server's figure in one column.
enum Cell {
    /// The median at the column's load point.
    Here(String),
    /// The median at another load point, with its number of connections, because the server has no runs at the column's
    /// load point.
    Elsewhere(String),
    Failed,
    NotRun,
}

impl Column {
    fn cell(&self, results: &Results, server: &str, point: &str) -> Cell {
        let median = |runs: &[&Record]| self.metric.of(runs).map(|spread| figure(spread.median));
        let nearest = results.nearest(server, self.kind, point);
        let found = nearest.and_then(|(runs, connections)| Some((median(&runs)?, runs, connections)));
        match found {
            Some((median, runs, _)) if runs.iter().any(|run| run.point == point) => Cell::Here(median),
            Some((median, _, connections)) => {
                Cell::Elsewhere(format!("{median} (at {})", figure(connections as f64)))
            }
            None if results.runs(server, point).is_empty() => Cell::NotRun,
            None => Cell::Failed,
        }
    }
}

fn section(results: &Results, directory: &str) -> String {
    let environment = &results.environment;
    let columns: Vec<(Column, String)> =
        COLUMNS.iter().filter_map(|column| Some((*column, point(results, column.kind)?))).collect();
    let mut out = String::new();
    // The results of `writeln!` are ignored, because writing to a string cannot fail.
    let heads: Vec<String> =
        columns.iter().map(|(column, point)| format!("{point}: {}", column.head)).collect();
    let _ = writeln!(out, "| server | {} |\n|---|{}", heads.join(" | "), "---|".repeat(columns.len()));
    let mut elsewhere = false;
    for server in &environment.servers {
        let cells = columns.iter().map(|(column, point)| match column.cell(results, &server.name, point) {
            Cell::Here(text) => text,
            Cell::Elsewhere(text) => {
                elsewhere = true;
                text
            }
            Cell::Failed => "failed".to_owned(),
            Cell::NotRun => "–".to_owned(),
        });
        let cells: Vec<String> = cells.collect();
        let _ = writeln!(out, "| {} {} | {} |", server.name, server.version, cells.join(" | "));
    }
    let rounds = environment.options["rounds"].as_u64().unwrap_or(1);
    let date = environment.started.get(..10).unwrap_or("undated");
    let elsewhere = if elsewhere {
        " `(at N)`: with N connections, because it does not hold as many as the others."
    } else {
        ""
    };
    let _ = writeln!(
        out,
        "\nMedians of {rounds} rounds in turns, {date}. {} In `storm-N` each of N clients sends a message and \
         receives everybody's; `broadcast-N` has one publisher and N receivers; `idle-N` counts user memory.{elsewhere} More \
         columns, the spread and the failures: [summary]({directory}/summary.md), [raw data]({directory}/{RAW}).",
        machine(environment)
    );
    let (file, title) = PLOT;
    let _ = writeln!(out, "\n![{title}]({directory}/{file})");
    out
}

/// Returns the name of the load point that the results table shows for the scenario `kind`, or `None` if there are no
/// runs.
fn point(results: &Results, kind: Kind) -> Option<String> {
    let points = results.points(kind);
    let largest = points.iter().max_by_key(|measured| measured.connections);
    points.iter().find(|measured| measured.point == STORM).or(largest).map(|measured| measured.point.clone())
}

#[cfg(test)]
mod tests {
    use crate::compare::summary::tests::example;

    use super::*;

    #[test]
    fn the_table_has_the_medians_and_their_source() {
        let text = section(&example(), "results/2026-01-31-x");
        assert!(text.contains("| server | echo-100: CPU µs per message |"), "{text}");
        assert!(text.contains("| ours 1 | 2.00 |") && text.contains("| broken 1 | failed |"), "{text}");
        for part in
            ["2026-01-31.", "0123456789ab", "a CPU", "results/2026-01-31-x/raw.jsonl", "/storm-cost.svg"]
        {
            assert!(text.contains(part), "{part} in {text}");
        }
    }

    #[test]
    fn the_section_replaces_what_is_between_the_markers() {
        let text = format!("a\n{BEGIN}\nold\n{END}\nb\n");
        let new = insert(&text, "new\n").expect("both markers are there");
        assert_eq!(new, format!("a\n{BEGIN}\nnew\n{END}\nb\n"));
        assert_eq!(insert(&new, "new\n").as_ref(), Some(&new));
        assert_eq!(insert("no markers", "new\n"), None);
    }
}
