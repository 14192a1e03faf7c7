//! The memory that this process may use, as the system reports it.

use std::fs;
use std::path::Path;
use std::sync::OnceLock;

use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit};

/// The limit of memory that is smallest for this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Machine {
    /// The limit in bytes.
    pub(crate) bytes: u64,
    /// The name of the limit, for people.
    pub(crate) source: &'static str,
}

/// Memory that is assumed in bytes if the system reports none.
const UNKNOWN: u64 = 1 << 30;

/// Returns the smallest of the machine's memory, the limits of the process's control groups, and the limit of its
/// address space. Asks the system once.
pub(crate) fn memory() -> Machine {
    static MEMORY: OnceLock<Machine> = OnceLock::new();
    *MEMORY.get_or_init(|| {
        let found = [
            (physical(&read("/proc/meminfo")), "the machine's memory"),
            (
                control_group(&read("/proc/self/cgroup"), Path::new("/sys/fs/cgroup")),
                "the memory limit of the control group",
            ),
            (address_space(), "the limit of the address space (ulimit -v)"),
        ];
        let known = found.into_iter().filter_map(|(bytes, source)| Some(Machine { bytes: bytes?, source }));
        let unknown = Machine { bytes: UNKNOWN, source: "a memory that the system does not report" };
        known.min_by_key(|machine| machine.bytes).unwrap_or(unknown)
    })
}

fn read(path: impl AsRef<Path>) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// Returns the size of the machine's memory in bytes, from the text of `/proc/meminfo`.
fn physical(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib << 10)
}

/// Returns the smallest memory limit of the process's control group and of the groups around it, in bytes. `groups` is
/// the text of `/proc/self/cgroup`, `root` the directory of all groups.
fn control_group(groups: &str, root: &Path) -> Option<u64> {
    let mut limits = Vec::new();
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
        // Version 2 has one tree without a name, version 1 a tree for each controller.
        let (root, file) = match controllers {
            "" => (root.to_owned(), "memory.max"),
            "memory" => (root.join("memory"), "memory.limit_in_bytes"),
            _ => continue,
        };
        for group in Path::new(path.trim_start_matches('/')).ancestors() {
            limits.extend(read(root.join(group).join(file)).trim().parse::<u64>());
        }
    }
    limits.into_iter().min()
}

fn address_space() -> Option<u64> {
    let (soft, _) = getrlimit(Resource::RLIMIT_AS).ok()?;
    (soft != RLIM_INFINITY).then_some(soft)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_memory_of_this_machine_is_known() {
        let Machine { bytes, source } = memory();
        assert!(bytes > 16 << 20, "{bytes} bytes: {source}");
        assert_eq!(physical("MemFree: 1 kB\nMemTotal:       16384 kB\n"), Some(16 << 20));
        assert_eq!(physical("MemTotal: many\n"), None);
    }

    #[test]
    fn the_smallest_limit_of_nested_control_groups_counts() {
        let root = std::env::temp_dir().join(format!("uproar-cgroup-{}", std::process::id()));
        let inner = root.join("system.slice/uproar.service");
        fs::create_dir_all(&inner).expect("a directory");
        fs::create_dir_all(root.join("memory/box")).expect("a directory");
        fs::write(inner.join("memory.max"), "max\n").expect("a file");
        fs::write(root.join("system.slice/memory.max"), "700\n").expect("a file");
        fs::write(root.join("memory/box/memory.limit_in_bytes"), "900\n").expect("a file");
        let limit = |groups| control_group(groups, &root);
        assert_eq!(limit("0::/system.slice/uproar.service\n"), Some(700));
        assert_eq!(limit("5:cpu:/box\n4:memory:/box\n"), Some(900));
        assert_eq!(limit("0::/elsewhere\n"), None);
        assert_eq!(limit(""), None);
        fs::remove_dir_all(root).expect("it is there");
    }
}
