//! What the kernel knows of the server: its processes, their CPU time and their memory.

use std::collections::{BTreeSet, HashSet};
use std::fs;
use std::io;
use std::path::PathBuf;

use serde::Serialize;

/// The processes of a server: those that were named or that listen, and all their descendants.
#[derive(Debug, Clone)]
pub(crate) struct Server {
    roots: Vec<u32>,
}

/// CPU and context switches since the processes began, in all.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct CpuUse {
    pub(crate) user_seconds: f64,
    pub(crate) system_seconds: f64,
    pub(crate) voluntary_switches: u64,
    pub(crate) involuntary_switches: u64,
}

/// Memory of all the processes together, in bytes.
#[derive(Debug, Default, Clone, Copy, Serialize)]
pub(crate) struct Memory {
    pub(crate) rss: u64,
    pub(crate) pss: u64,
    pub(crate) private: u64,
}

impl Server {
    /// The server with process `pid`.
    pub(crate) fn with_pid(pid: u32) -> Result<Self, String> {
        fs::metadata(format!("/proc/{pid}"))
            .map_err(|_| format!("--server-pid {pid}: there is no such process"))?;
        Ok(Self { roots: vec![pid] })
    }

    /// The processes of this machine that listen on `port`.
    pub(crate) fn listening_on(port: u16) -> Option<Self> {
        let inodes: HashSet<String> = ["/proc/net/tcp", "/proc/net/tcp6"]
            .iter()
            .flat_map(|table| listener_inodes(table, port))
            .collect();
        let roots: Vec<u32> = all_pids().into_iter().filter(|&pid| holds_any(pid, &inodes)).collect();
        (!roots.is_empty()).then_some(Self { roots })
    }

    /// The processes that were named or that listen.
    pub(crate) fn roots(&self) -> &[u32] {
        &self.roots
    }

    /// The processes as they are now, parents before children.
    pub(crate) fn pids(&self) -> Vec<u32> {
        let mut seen = BTreeSet::new();
        let mut pids = Vec::new();
        let mut waiting: Vec<u32> = self.roots.clone();
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

    /// The most memory that each process ever had resident, in bytes, together.
    pub(crate) fn peak_rss(&self) -> u64 {
        let peak = |pid| field_kib(&format!("/proc/{pid}/status"), "VmHWM:").unwrap_or(0);
        self.pids().into_iter().map(peak).sum()
    }
}

impl CpuUse {
    /// What was used since `earlier`.
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

/// Memory of the process that `name` stands for in /proc, in bytes; zeros if it is not to be read.
pub(crate) fn memory(name: &str) -> Memory {
    let path = format!("/proc/{name}/smaps_rollup");
    let field = |label| field_kib(&path, label).unwrap_or(0);
    Memory {
        rss: field("Rss:"),
        pss: field("Pss:"),
        private: field("Private_Clean:") + field("Private_Dirty:"),
    }
}

/// The field that `path` gives in KiB after `label`, in bytes.
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
    // The kernel counts these in hundredths of a second on every platform that Rust runs on (USER_HZ).
    const TICKS: f64 = 100.0;
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name of the program is in parentheses and may itself have spaces and parentheses.
    let fields: Vec<&str> =
        text.rsplit_once(')').map_or(Vec::new(), |(_, rest)| rest.split_whitespace().collect());
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

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn finds_itself_by_its_listening_port() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let port = listener.local_addr().expect("it is bound").port();
        let server = Server::listening_on(port).expect("this process listens");
        assert!(server.pids().contains(&std::process::id()));
        assert!(server.memory().rss > 0 && server.peak_rss() > 0);
        assert!(server.cpu().voluntary_switches > 0);
        assert!(Server::with_pid(u32::MAX).is_err());
    }
}
