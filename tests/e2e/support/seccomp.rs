//! Servers under a seccomp filter, as containers and service managers run them.

use seccompiler::{BpfProgram, apply_filter, compile_from_json};
use serde_json::{Value, json};

/// System calls that the test itself needs to start a server process and read its output.
const OWN_CALLS: [&str; 7] = ["pipe2", "vfork", "dup2", "wait4", "pidfd_open", "rt_sigtimedwait", "kill"];

/// Runs `start` under a seccomp filter that kills the process (SIGSYS) at any system call except `calls` and
/// [`OWN_CALLS`].
pub(crate) fn run_with_only_syscalls<T: Send>(calls: &[&str], start: impl FnOnce() -> T + Send) -> T {
    let known: Vec<_> = calls.iter().chain(&OWN_CALLS).filter(|call| is_known(call)).collect();
    run_under(&json!({ "match_action": "allow", "mismatch_action": "trap", "filter": rules(&known) }), start)
}

/// Runs `start` under a seccomp filter that refuses the system calls `calls` with EPERM.
pub(crate) fn run_without_syscalls<T: Send>(calls: &[&str], start: impl FnOnce() -> T + Send) -> T {
    let calls: Vec<_> = calls.iter().collect();
    run_under(
        &json!({ "match_action": { "errno": 1 }, "mismatch_action": "allow", "filter": rules(&calls) }),
        start,
    )
}

/// Runs `start` under a seccomp filter that refuses (EPERM) to set up an io_uring on a descriptor numbered `least` or
/// higher. A server under this filter gets only some of its rings.
pub(crate) fn run_with_few_rings<T: Send>(least: u64, start: impl FnOnce() -> T + Send) -> T {
    let args = json!([{ "index": 0, "type": "dword", "op": "ge", "val": least }]);
    let rules = json!([{ "syscall": "io_uring_register", "args": args }]);
    run_under(&json!({ "match_action": { "errno": 1 }, "mismatch_action": "allow", "filter": rules }), start)
}

fn rules(calls: &[&&str]) -> Vec<Value> {
    calls.iter().map(|call| json!({ "syscall": call })).collect()
}

/// Returns whether this architecture has a system call of this name.
fn is_known(call: &str) -> bool {
    program(&json!({ "match_action": "allow", "mismatch_action": "trap", "filter": rules(&[&call]) }))
        .is_some()
}

fn program(filter: &Value) -> Option<BpfProgram> {
    let text = json!({ "filter": filter }).to_string();
    let arch = std::env::consts::ARCH.try_into().expect("an architecture with seccomp");
    compile_from_json(text.as_bytes(), arch).ok()?.remove("filter")
}

/// Runs `start` on a new thread, because a seccomp filter cannot be removed from its thread and that thread's children.
fn run_under<T: Send>(filter: &Value, start: impl FnOnce() -> T + Send) -> T {
    let program = program(filter).expect("a valid filter");
    std::thread::scope(|scope| {
        let started = scope.spawn(move || {
            apply_filter(&program).expect("this kernel has seccomp");
            start()
        });
        started.join().expect("the server starts")
    })
}
