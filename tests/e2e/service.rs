//! The server under a service manager: what it tells of itself.

use nix::sys::ptrace;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use uproar::config::BackendName;

use crate::support::client::Client;
use crate::support::manager::Manager;
use crate::support::process::{Process, backend_arg, settings_file, uproar};
use crate::support::until;

on_both_backends!(
    the_manager_hears_of_start_reload_and_end,
    the_watchdog_hears_nothing_while_a_worker_hangs,
);

fn the_manager_hears_of_start_reload_and_end(backend: BackendName) {
    let manager = Manager::new();
    let name = format!("told {backend:?}");
    let path = settings_file(&name, "max-message = 100\n");
    let args = ["--app=echo", "--listen=127.0.0.1:0", "--drain-delay=1", "--drain-seconds=2", "--close-seconds=3"];
    let mut command = uproar(&[&args[..], &["--config", &path, backend_arg(backend)]].concat());
    let server = Process::run(manager.listens_to(&mut command));
    assert_eq!(manager.hears("="), "READY=1\n");
    manager.hears("STATUS=0 connections");
    let mut client = Client::open(server.address, "/");

    settings_file(&name, "max-message = 10\n");
    server.signal(Signal::SIGHUP);
    let reloading = manager.hears("RELOADING=1\n");
    let time = reloading.lines().find_map(|line| line.strip_prefix("MONOTONIC_USEC="));
    assert!(time.is_some_and(|time| time.parse::<u64>().is_ok_and(|time| time > 0)), "{reloading}");
    assert_eq!(manager.hears("READY=1"), "READY=1\n");
    client.say("more than ten bytes");
    assert_eq!(client.closed().0, 1009);

    server.signal(Signal::SIGTERM);
    // What the three take together, and five seconds more.
    assert!(manager.hears("STOPPING=1\n").contains("\nEXTEND_TIMEOUT_USEC=11000000\n"));
    assert_eq!(server.ended().code, Some(0));
    assert_eq!(manager.heard(), [""; 0]);
}

fn the_watchdog_hears_nothing_while_a_worker_hangs(backend: BackendName) {
    let manager = Manager::new();
    let args = ["--app=echo", "--listen=127.0.0.1:0", "--workers=2", backend_arg(backend)];
    let mut command = uproar(&args);
    let server = Process::run(manager.listens_to(&mut command).env("WATCHDOG_USEC", "200000"));
    let complaints = || server.log().matches("the watchdog is not told").count();
    for _ in 0..3 {
        manager.hears("WATCHDOG=1");
    }
    assert_eq!(complaints(), 0);
    let held = Held::new(server.thread("worker-2"));
    until("it is seen to hang", || complaints() >= 1);
    manager.heard();
    until("it is seen to hang still", || complaints() >= 3);
    assert!(!manager.heard().concat().contains("WATCHDOG"));
    assert!(server.log().contains("shard 1 has not turned for "), "{}", server.log());
    drop(held);
    manager.hears("WATCHDOG=1");
    server.signal(Signal::SIGTERM);
    assert_eq!(server.ended().code, Some(0));
}

#[test]
fn the_watchdog_of_another_process_is_not_fed() {
    let manager = Manager::new();
    let mut command = uproar(&["--listen=127.0.0.1:0", "--backend=epoll"]);
    let variables = [("WATCHDOG_USEC", "1000"), ("WATCHDOG_PID", "1")];
    let server = Process::run(manager.listens_to(&mut command).envs(variables));
    manager.hears("STATUS=0 connections");
    server.signal(Signal::SIGTERM);
    manager.hears("STOPPING=1");
    assert_eq!(server.ended().code, Some(0));
    assert!(!manager.heard().concat().contains("WATCHDOG"));
}

/// One thread of another process that is stopped; only the thread that stopped it can let it go.
struct Held(Pid);

impl Held {
    fn new(thread: Pid) -> Self {
        ptrace::attach(thread).expect("a thread of a child may be traced");
        waitpid(thread, Some(WaitPidFlag::__WALL)).expect("it stops");
        Self(thread)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // It fails only when the process was killed.
        let _ = ptrace::detach(self.0, None);
    }
}
