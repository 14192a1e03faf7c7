//! A directory of results: what is in it, and how it is written and read.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::schedule::{Kind, Point};
use super::servers::Server;

const ENVIRONMENT: &str = "env.json";
pub(crate) const RAW: &str = "raw.jsonl";

/// Where and how the runs were made.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Environment {
    /// In universal time, as in 2026-01-31T23:59:00Z.
    pub(crate) started: String,
    /// When all runs were done; nothing if they were interrupted.
    pub(crate) finished: Option<String>,
    pub(crate) commit: String,
    /// Files differed from the commit.
    pub(crate) dirty: bool,
    pub(crate) kernel: String,
    pub(crate) cpu: String,
    pub(crate) cores: usize,
    pub(crate) memory_bytes: u64,
    pub(crate) rustc: String,
    /// How the load generator was compiled.
    pub(crate) profile: String,
    /// The core that the servers had, and the one that the load generator had.
    pub(crate) server_core: usize,
    pub(crate) load_core: usize,
    /// What the machine was busy with before, as /proc/loadavg says it.
    pub(crate) load_average: String,
    /// Of `loadgen compare`.
    pub(crate) options: Value,
    pub(crate) servers: Vec<Server>,
}

/// One run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) server: String,
    pub(crate) point: String,
    pub(crate) kind: Kind,
    pub(crate) connections: usize,
    /// Counts from 1.
    pub(crate) round: u32,
    /// Of the load generator.
    pub(crate) arguments: Vec<String>,
    /// What the load generator found, unless it could not even begin.
    pub(crate) outcome: Option<Value>,
    /// Why the run was not made or did not end by itself.
    pub(crate) error: Option<String>,
}

/// A directory that is being written.
pub(crate) struct Store {
    pub(crate) directory: PathBuf,
    raw: File,
}

/// Everything that a directory says.
pub(crate) struct Results {
    pub(crate) environment: Environment,
    pub(crate) records: Vec<Record>,
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

    /// What was found, if all was well.
    pub(crate) fn passed(&self) -> Option<&Value> {
        self.outcome.as_ref().filter(|outcome| self.error.is_none() && outcome["passed"] == true)
    }
}

impl Store {
    /// Makes a new directory `<date>-<name>` in `parent`; another such run of the day gets a number.
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

    /// Writes the environment, in the place of what was there.
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

    /// Where the distribution of one run is kept until the others of its point are there.
    pub(crate) fn hgrm_of_round(&self, record: &Record) -> PathBuf {
        self.directory.join(format!("{}-{}.{}.hgrm", record.point, record.server, record.round))
    }

    /// Keeps the distribution of the run whose p99 is the median of `records`, which are those of one server at
    /// one point.
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
            // The median's is gone already, and a run that failed may have none.
            let _ = fs::remove_file(self.hgrm_of_round(record));
        }
        Ok(())
    }
}

/// Where the latency distribution of a server at a point is kept.
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

    /// Runs of one server at one point.
    pub(crate) fn runs<'a>(&'a self, server: &str, point: &str) -> Vec<&'a Record> {
        self.records.iter().filter(|record| record.server == server && record.point == point).collect()
    }

    /// The points of `kind` that any server was run at, each once, in the order of the runs.
    pub(crate) fn points(&self, kind: Kind) -> Vec<(String, usize)> {
        let mut points: Vec<(String, usize)> = Vec::new();
        for record in self.records.iter().filter(|record| record.kind == kind) {
            if !points.iter().any(|(name, _)| *name == record.point) {
                points.push((record.point.clone(), record.connections));
            }
        }
        points
    }
}

fn failed(path: &Path, error: &std::io::Error) -> String {
    format!("{} cannot be written: {error}", path.display())
}
