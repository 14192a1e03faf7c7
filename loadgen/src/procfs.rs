//! CPU time and memory of the server's processes, as /proc shows them.

use std::collections::{BTreeSet, HashSet};
use std::fs;
use std::io;
use std::path::PathBuf;

use serde::Serialize;

/// The processes of a server: the root processes, and all their descendants. Root processes were named with
/// --server-pid or listen on the server's port.
#[derive(Debug, Clone)]
pub(crate) struct Server {
    roots: Vec<Root>,
}

/// A root process of a server: named with --server-pid, or listening on the server's port.
#[derive(Debug, Clone, Copy)]
struct Root {
    pid: u32,
    /// The start time in clock ticks since boot. A later process with the same id has another start time.
    started: u64,
}

/// CPU time and context switches of all the server's processes since their start.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct CpuUse {
    pub(crate) user_seconds: f64,
    pub(crate) system_seconds: f64,
    pub(crate) voluntary_switches: u64,
    pub(crate) involuntary_switches: u64,
}

/// Memory of one process, or of several processes together, in bytes.
#[derive(Debug, Default, Clone, Copy, Serialize)]
pub(crate) struct Memory {
    pub(crate) rss: u64,
    pub(crate) pss: u64,
    pub(crate) private: u64,
}

impl Server {
    /// Returns the server whose root process is `pid`.
    pub(crate) fn with_pid(pid: u32) -> Result<Self, String> {
        let root = Root::find(pid).ok_or_else(|| format!("--server-pid {pid}: there is no such process"))?;
        Ok(Self { roots: vec![root] })
    }

    /// Returns the server whose root processes are the processes of this machine that listen on `port`.
    pub(crate) fn listening_on(port: u16) -> Option<Self> {
        let inodes: HashSet<String> = ["/proc/net/tcp", "/proc/net/tcp6"]
            .iter()
            .flat_map(|table| listener_inodes(table, port))
            .collect();
        let pids = all_pids().into_iter().filter(|&pid| holds_any(pid, &inodes));
        let roots: Vec<Root> = pids.filter_map(Root::find).collect();
        (!roots.is_empty()).then_some(Self { roots })
    }

    /// Returns the ids of the server's root processes.
    pub(crate) fn roots(&self) -> Vec<u32> {
        self.roots.iter().map(|root| root.pid).collect()
    }

    /// Returns whether all root processes of the server have ended.
    pub(crate) fn has_ended(&self) -> bool {
        !self.roots.iter().any(|root| Root::find(root.pid).is_some_and(|found| found.started == root.started))
    }

    /// Returns the ids of all running processes of the server, parents before children.
    pub(crate) fn pids(&self) -> Vec<u32> {
        let mut seen = BTreeSet::new();
        let mut pids = Vec::new();
        let mut waiting: Vec<u32> = self.roots();
        while let Some(pid) = waiting.pop() {
            if seen.insert(pid) {
                pids.push(pid);
                waiting.extend(children(pid));
            }
        }
        pids
    }

    pub(crate) fn cpu(&self) -> CpuUse {
        let mut total = CpuUse::default();
        for pid in self.pids() {
            add_cpu(pid, &mut total);
        }
        total
    }

    pub(crate) fn memory(&self) -> Memory {
        self.pids().into_iter().map(|pid| memory(&pid.to_string())).fold(Memory::default(), Memory::plus)
    }

    /// Returns the sum of each process's peak resident memory, in bytes.
    pub(crate) fn peak_rss(&self) -> u64 {
        let peak = |pid| field_kib(&format!("/proc/{pid}/status"), "VmHWM:").unwrap_or(0);
        self.pids().into_iter().map(peak).sum()
    }
}

impl Root {
    /// Returns the process `pid` as a root. `None` if the process has ended.
    fn find(pid: u32) -> Option<Self> {
        let fields = stat_fields(pid);
        let state = fields.first().filter(|state| !matches!(state.as_str(), "Z" | "X"));
        state?;
        Some(Self { pid, started: fields.get(19)?.parse().ok()? })
    }
}

impl CpuUse {
    /// Returns the CPU use since the reading `earlier`.
    pub(crate) fn since(self, earlier: Self) -> Self {
        Self {
            user_seconds: (self.user_seconds - earlier.user_seconds).max(0.0),
            system_seconds: (self.system_seconds - earlier.system_seconds).max(0.0),
            voluntary_switches: self.voluntary_switches.saturating_sub(earlier.voluntary_switches),
            involuntary_switches: self.involuntary_switches.saturating_sub(earlier.involuntary_switches),
        }
    }
}

impl Memory {
    pub(crate) fn plus(self, other: Self) -> Self {
        Self { rss: self.rss + other.rss, pss: self.pss + other.pss, private: self.private + other.private }
    }
}

/// Returns the memory of the process /proc/`name`, in bytes. The memory is zero if /proc cannot be read.
pub(crate) fn memory(name: &str) -> Memory {
    let path = format!("/proc/{name}/smaps_rollup");
    let field = |label| field_kib(&path, label).unwrap_or(0);
    Memory {
        rss: field("Rss:"),
        pss: field("Pss:"),
        private: field("Private_Clean:") + field("Private_Dirty:"),
    }
}

/// Returns the value that follows `label` in the file `path`, converted from KiB to bytes.
pub(crate) fn field_kib(path: &str, label: &str) -> Option<u64> {
    let text = fs::read_to_string(path).ok()?;
    let line = text.lines().find(|line| line.starts_with(label))?;
    let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib * 1024)
}

fn all_pids() -> Vec<u32> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

fn listener_inodes(table: &str, port: u16) -> Vec<String> {
    const LISTEN: &str = "0A";
    let text = fs::read_to_string(table).unwrap_or_default();
    let listener = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (_, hex_port) = fields.get(1)?.rsplit_once(':')?;
        let is_ours = u16::from_str_radix(hex_port, 16) == Ok(port) && fields.get(3) == Some(&LISTEN);
        is_ours.then(|| format!("socket:[{}]", fields.get(9).unwrap_or(&"")))
    };
    text.lines().skip(1).filter_map(listener).collect()
}

fn holds_any(pid: u32, inodes: &HashSet<String>) -> bool {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
    let links = entries.flatten().filter_map(|entry| fs::read_link(entry.path()).ok());
    links.filter_map(|link: PathBuf| link.to_str().map(str::to_owned)).any(|link| inodes.contains(&link))
}

fn children(pid: u32) -> Vec<u32> {
    let read = |task| fs::read_to_string(format!("/proc/{pid}/task/{task}/children")).unwrap_or_default();
    let lists = tasks(pid).unwrap_or_default().into_iter().map(read);
    lists.flat_map(|list| list.split_whitespace().flat_map(str::parse).collect::<Vec<u32>>()).collect()
}

fn tasks(pid: u32) -> io::Result<Vec<u32>> {
    let entries = fs::read_dir(format!("/proc/{pid}/task"))?;
    Ok(entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect())
}

fn add_cpu(pid: u32, total: &mut CpuUse) {
    // Clock ticks per second in /proc/PID/stat: 100 (USER_HZ) on every platform that Rust supports.
    const TICKS: f64 = 100.0;
    let fields = stat_fields(pid);
    let field = |index: usize| fields.get(index).and_then(|field| field.parse::<f64>().ok()).unwrap_or(0.0);
    total.user_seconds += field(11) / TICKS;
    total.system_seconds += field(12) / TICKS;
    for task in tasks(pid).unwrap_or_default() {
        let status = fs::read_to_string(format!("/proc/{pid}/task/{task}/status")).unwrap_or_default();
        for line in status.lines() {
            let number =
                || line.split_whitespace().nth(1).and_then(|word| word.parse::<u64>().ok()).unwrap_or(0);
            if line.starts_with("voluntary_ctxt_switches:") {
                total.voluntary_switches += number();
            } else if line.starts_with("nonvoluntary_ctxt_switches:") {
                total.involuntary_switches += number();
            }
        }
    }
}

/// Returns the fields of /proc/PID/stat from field 3 (the state) on. The list is empty if there is no process `pid`.
fn stat_fields(pid: u32) -> Vec<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The program's name is in parentheses and may contain spaces and parentheses.
    let rest = text.rsplit_once(')').map_or("", |(_, rest)| rest);
    rest.split_whitespace().map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::process::Command;
    use std::thread;
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn a_server_is_found_by_its_listening_port() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let port = listener.local_addr().expect("it is bound").port();
        let server = Server::listening_on(port).expect("this process listens");
        assert!(server.pids().contains(&std::process::id()));
        assert!(server.memory().rss > 0 && server.peak_rss() > 0);
        assert!(server.cpu().voluntary_switches > 0);
        assert!(Server::with_pid(u32::MAX).is_err());
        assert!(!server.has_ended());
    }

    #[test]
    fn a_process_has_ended_when_it_is_a_zombie_or_another_one_has_its_number() {
        let mut child = Command::new("sleep").arg("1000").spawn().expect("it is installed");
        let server = Server::with_pid(child.id()).expect("it runs");
        assert!(!server.has_ended());
        child.kill().expect("it is ours");
        let until = Instant::now() + Duration::from_secs(10);
        while !server.has_ended() && Instant::now() < until {
            thread::yield_now();
        }
        assert!(server.has_ended(), "a zombie has ended");
        child.wait().expect("it is ours");
        assert!(server.has_ended());
        let own = Server::with_pid(std::process::id()).expect("it runs");
        let earlier = Root { started: own.roots[0].started - 1, ..own.roots[0] };
        assert!(Server { roots: vec![earlier] }.has_ended());
    }
}
