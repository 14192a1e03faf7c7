//! Records the machine, the commit and the options of a comparison, so that readers can judge and repeat the results.

use std::fs;
use std::process::Command;
use std::thread::available_parallelism;

use crate::procfs::field_kib;

use super::CompareOptions;
use super::cores::Cores;
use super::servers::Server;
use super::store::Environment;

const UNKNOWN: &str = "unknown";

impl Environment {
    /// Collects facts about this machine, the repository's commit and the build, before the first run.
    pub(crate) fn look(options: &CompareOptions, cores: Cores, servers: &[Server]) -> Result<Self, String> {
        // results/ and README.md may change during a comparison, so the check for uncommitted changes excludes them.
        let changes = output("git", &["status", "--porcelain", "--", ".", ":!results", ":!README.md"]);
        Ok(Self {
            started: now(),
            finished: None,
            commit: output("git", &["rev-parse", "HEAD"]).unwrap_or_else(unknown),
            dirty: changes.is_none_or(|changes| !changes.is_empty()),
            kernel: output("uname", &["-sr"]).unwrap_or_else(unknown),
            cpu: cpu_model().unwrap_or_else(unknown),
            cores: available_parallelism().map_or(1, usize::from),
            memory_bytes: field_kib("/proc/meminfo", "MemTotal:").unwrap_or(0),
            rustc: output("rustc", &["--version"]).unwrap_or_else(unknown),
            profile: if cfg!(debug_assertions) { "debug" } else { "release" }.to_owned(),
            server_core: cores.server,
            load_core: cores.load,
            load_average: fs::read_to_string("/proc/loadavg").unwrap_or_default().trim().to_owned(),
            options: serde_json::to_value(options).map_err(|error| error.to_string())?,
            servers: servers.to_vec(),
        })
    }
}

/// Returns the current UTC time, such as 2026-01-31T23:59:00Z, or `unknown` if the program `date` fails.
pub(crate) fn now() -> String {
    output("date", &["-u", "+%Y-%m-%dT%H:%M:%SZ"]).unwrap_or_else(unknown)
}

fn unknown() -> String {
    UNKNOWN.to_owned()
}

/// Runs a program. Returns its standard output without surrounding blanks, or `None` if the program fails.
fn output(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    output.status.success().then_some(text)
}

fn cpu_model() -> Option<String> {
    let text = fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("model name"))?;
    line.split_once(':').map(|(_, name)| name.trim().to_owned())
}
