//! Servers that may not make every system call, as containers and service managers run them.

use seccompiler::{BpfProgram, apply_filter, compile_from_json};
use serde_json::{Value, json};

/// Starts a server that is killed (SIGSYS) by any call but these and those that starting it takes.
pub(crate) fn run_with_only<T: Send>(calls: &[&str], start: impl FnOnce() -> T + Send) -> T {
    // What this process does to start another one and to read what it says.
    let own = ["pipe2", "vfork", "dup2", "wait4", "pidfd_open", "rt_sigtimedwait", "kill"];
    let known: Vec<_> = calls.iter().chain(&own).filter(|call| is_known(call)).collect();
    run_under(&json!({ "match_action": "allow", "mismatch_action": "trap", "filter": rules(&known) }), start)
}

/// Starts a server that is refused some calls (EPERM).
pub(crate) fn run_without<T: Send>(calls: &[&str], start: impl FnOnce() -> T + Send) -> T {
    let calls: Vec<_> = calls.iter().collect();
    run_under(
        &json!({ "match_action": { "errno": 1 }, "mismatch_action": "allow", "filter": rules(&calls) }),
        start,
    )
}

/// Starts a server that is refused every ring whose descriptor is `least` or higher (EPERM), as if there were not enough
/// of something for more.
pub(crate) fn run_with_few_rings<T: Send>(least: u64, start: impl FnOnce() -> T + Send) -> T {
    let args = json!([{ "index": 0, "type": "dword", "op": "ge", "val": least }]);
    let rules = json!([{ "syscall": "io_uring_register", "args": args }]);
    run_under(&json!({ "match_action": { "errno": 1 }, "mismatch_action": "allow", "filter": rules }), start)
}

fn rules(calls: &[&&str]) -> Vec<Value> {
    calls.iter().map(|call| json!({ "syscall": call })).collect()
}

/// Whether this processor's kernel has a call of that name; others may.
fn is_known(call: &str) -> bool {
    program(&json!({ "match_action": "allow", "mismatch_action": "trap", "filter": rules(&[&call]) }))
        .is_some()
}

fn program(filter: &Value) -> Option<BpfProgram> {
    let text = json!({ "filter": filter }).to_string();
    let arch = std::env::consts::ARCH.try_into().expect("an architecture with seccomp");
    compile_from_json(text.as_bytes(), arch).ok()?.remove("filter")
}

/// A filter holds for its thread and what that starts, for good.
fn run_under<T: Send>(filter: &Value, start: impl FnOnce() -> T + Send) -> T {
    let program = program(filter).expect("a filter");
    std::thread::scope(|scope| {
        let started = scope.spawn(move || {
            apply_filter(&program).expect("this kernel has seccomp");
            start()
        });
        started.join().expect("the server starts")
    })
}
