//! Pins the server and the load generator to different CPU cores.

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

/// The process ID 0 in affinity calls: the calling thread. Child processes inherit its cores.
const SELF: Pid = Pid::from_raw(0);

/// The CPU cores of a comparison: one for the server and one for the load generator. If this process may use only one
/// core, the two fields are equal.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cores {
    pub(crate) server: usize,
    pub(crate) load: usize,
}

impl Cores {
    /// Chooses the first two cores that this process may use, or the only core for both purposes.
    pub(crate) fn choose() -> Result<Self, String> {
        let allowed = sched_getaffinity(SELF)
            .map_err(|error| format!("the cores of this process cannot be read: {error}"))?;
        let is_allowed = |core: &usize| allowed.is_set(*core).unwrap_or(false);
        let mut cores = (0..CpuSet::count()).filter(is_allowed);
        let server = cores.next().ok_or("this process has no core")?;
        Ok(Self { server, load: cores.next().unwrap_or(server) })
    }
}

/// Pins the calling thread to `core`, and every child process that the thread starts later.
pub(crate) fn pin(core: usize) -> Result<(), String> {
    let failed = |error| format!("core {core} cannot be used: {error}");
    let mut set = CpuSet::new();
    set.set(core).map_err(failed)?;
    sched_setaffinity(SELF, &set).map_err(failed)
}
