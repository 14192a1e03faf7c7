//! Writes and reads the files in a comparison's directory of results.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::schedule::{Kind, Point};
use super::servers::Server;

const ENVIRONMENT: &str = "env.json";
pub(crate) const RAW: &str = "raw.jsonl";

/// The machine, commit and options of a comparison, stored as `env.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Environment {
    /// Start time of the comparison in UTC, such as 2026-01-31T23:59:00Z.
    pub(crate) started: String,
    /// End time of the comparison in UTC. `None` if the comparison was interrupted or still runs.
    pub(crate) finished: Option<String>,
    pub(crate) commit: String,
    /// Whether files of the repository differed from the commit.
    pub(crate) dirty: bool,
    pub(crate) kernel: String,
    pub(crate) cpu: String,
    pub(crate) cores: usize,
    pub(crate) memory_bytes: u64,
    pub(crate) rustc: String,
    /// The build profile of the load generator.
    pub(crate) profile: String,
    /// The CPU core that the servers run on.
    pub(crate) server_core: usize,
    /// The CPU core that the load generator runs on.
    pub(crate) load_core: usize,
    /// The machine's load average before the first run, as read from /proc/loadavg.
    pub(crate) load_average: String,
    /// The options of `loadgen compare`, as JSON.
    pub(crate) options: Value,
    pub(crate) servers: Vec<Server>,
}

/// One run of one server at one load point, stored as a line of `raw.jsonl`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) server: String,
    pub(crate) point: String,
    pub(crate) kind: Kind,
    pub(crate) connections: usize,
    /// The number of the run's round, from 1.
    pub(crate) round: u32,
    /// Arguments of the load generator.
    pub(crate) arguments: Vec<String>,
    /// The outcome that the load generator wrote, as JSON. `None` if the run has no outcome.
    pub(crate) outcome: Option<Value>,
    /// The reason why the run failed or was stopped. `None` if the run was completed.
    pub(crate) error: Option<String>,
}

/// A directory of results that a comparison writes to.
pub(crate) struct Store {
    pub(crate) directory: PathBuf,
    raw: File,
}

/// A comparison's environment and runs, as read from a directory of results.
pub(crate) struct Results {
    pub(crate) environment: Environment,
    pub(crate) records: Vec<Record>,
}

/// A load point (a scenario at one number of connections) that has runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Measured {
    /// The load point's name, such as `echo-100`.
    pub(crate) point: String,
    pub(crate) connections: usize,
}

impl Record {
    pub(crate) fn new(server: &Server, point: &Point, round: u32, arguments: Vec<String>) -> Self {
        Self {
            server: server.name.clone(),
            point: point.name(),
            kind: point.kind,
            connections: point.connections,
            round,
            arguments,
            outcome: None,
            error: None,
        }
    }

    /// Returns the outcome of a run that passed, or `None` if the run failed.
    pub(crate) fn passed(&self) -> Option<&Value> {
        self.outcome.as_ref().filter(|outcome| self.error.is_none() && outcome["passed"] == true)
    }
}

impl Store {
    /// Creates the directory `<date>-<name>` in `parent`. Appends a number from 2 if that directory exists.
    pub(crate) fn create(parent: &Path, name: &str, environment: &Environment) -> Result<Self, String> {
        let date = environment.started.get(..10).unwrap_or("undated");
        let numbered = |number: u32| match number {
            1 => parent.join(format!("{date}-{name}")),
            _ => parent.join(format!("{date}-{name}-{number}")),
        };
        let is_free = |path: &PathBuf| !path.exists();
        let directory = (1..).map(numbered).find(is_free).expect("there are numbers enough");
        fs::create_dir_all(&directory).map_err(|error| failed(&directory, &error))?;
        let path = directory.join(RAW);
        let raw = File::create(&path).map_err(|error| failed(&path, &error))?;
        let store = Self { directory, raw };
        store.describe(environment)?;
        Ok(store)
    }

    /// Writes `env.json`, and replaces an earlier version.
    pub(crate) fn describe(&self, environment: &Environment) -> Result<(), String> {
        let text = serde_json::to_string_pretty(environment).map_err(|error| error.to_string())?;
        self.write(ENVIRONMENT, &(text + "\n"))
    }

    pub(crate) fn add(&mut self, record: &Record) -> Result<(), String> {
        let line = serde_json::to_string(record).map_err(|error| error.to_string())? + "\n";
        self.raw.write_all(line.as_bytes()).map_err(|error| failed(&self.directory.join(RAW), &error))
    }

    pub(crate) fn write(&self, name: &str, text: &str) -> Result<(), String> {
        let path = self.directory.join(name);
        fs::write(&path, text).map_err(|error| failed(&path, &error))
    }

    /// Returns the path of one run's latency distribution. The file is temporary: [`Store::keep_median_hgrm`] renames
    /// or removes it.
    pub(crate) fn hgrm_of_round(&self, record: &Record) -> PathBuf {
        self.directory.join(format!("{}-{}.{}.hgrm", record.point, record.server, record.round))
    }

    /// Keeps the latency distribution of the run with the median p99, and removes the files of the other runs. All
    /// `records` must be runs of one server at one load point.
    pub(crate) fn keep_median_hgrm(&self, records: &[&Record]) -> Result<(), String> {
        let p99 = |record: &Record| record.passed()?["latency"]["p99_us"].as_f64();
        let mut passed: Vec<(f64, &Record)> =
            records.iter().filter_map(|record| Some((p99(record)?, *record))).collect();
        passed.sort_by(|one, other| one.0.total_cmp(&other.0));
        if let Some(&(_, median)) = passed.get(passed.len().saturating_sub(1) / 2) {
            let kept = hgrm_path(&self.directory, &median.point, &median.server);
            fs::rename(self.hgrm_of_round(median), &kept).map_err(|error| failed(&kept, &error))?;
        }
        for record in records {
            // Errors are ignored: the median run's file was renamed, and a failed run may have no file.
            let _ = fs::remove_file(self.hgrm_of_round(record));
        }
        Ok(())
    }
}

/// Returns the path of the latency distribution that is kept for a server at a load point.
pub(crate) fn hgrm_path(directory: &Path, point: &str, server: &str) -> PathBuf {
    directory.join(format!("{point}-{server}.hgrm"))
}

impl Results {
    pub(crate) fn read(directory: &Path) -> Result<Self, String> {
        let read = |name: &str| {
            let path = directory.join(name);
            fs::read_to_string(&path).map_err(|error| format!("{} cannot be read: {error}", path.display()))
        };
        let wrong = |name: &str, error| format!("{}: {error}", directory.join(name).display());
        let environment =
            serde_json::from_str(&read(ENVIRONMENT)?).map_err(|error| wrong(ENVIRONMENT, error))?;
        let lines = read(RAW)?;
        let records = lines.lines().map(serde_json::from_str).collect::<Result<_, _>>();
        Ok(Self { environment, records: records.map_err(|error| wrong(RAW, error))? })
    }

    /// Returns the runs of one server at one load point.
    pub(crate) fn runs<'a>(&'a self, server: &str, point: &str) -> Vec<&'a Record> {
        self.records.iter().filter(|record| record.server == server && record.point == point).collect()
    }

    /// Returns the load points of the scenario `kind` that have runs, each once, in the order of the runs.
    pub(crate) fn points(&self, kind: Kind) -> Vec<Measured> {
        let mut points: Vec<Measured> = Vec::new();
        for record in self.records.iter().filter(|record| record.kind == kind) {
            if !points.iter().any(|known| known.point == record.point) {
                points.push(Measured { point: record.point.clone(), connections: record.connections });
            }
        }
        points
    }
}

fn failed(path: &Path, error: &std::io::Error) -> String {
    format!("{} cannot be written: {error}", path.display())
}
