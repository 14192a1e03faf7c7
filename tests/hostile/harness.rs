//! Runs an attack on a server while chat users talk.

use std::fs::OpenOptions;
use std::io::Write;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::Duration;

use serde_json::json;
use uproar::config::{AppName, BackendName, Config};

use crate::chat_users::{Measurements, USERS, converse};
use crate::support::{TIMEOUT, TestServer, config};

/// Lock held by the running attack. Two attacks at a time would distort each other's measurements and compete for
/// descriptors.
static RUNNING: Mutex<()> = Mutex::new(());

/// Returns settings of a chat server with two workers. The short ping interval releases attackers that are gone. The
/// chat users send often enough to get no ping.
pub(crate) fn chat(backend: BackendName) -> Config {
    Config { ping_seconds: Duration::from_secs(1), ..config(backend, AppName::Chat, 2) }
}

/// Returns settings of a chat server without rate limits, so that an attack reaches the next line of defence.
pub(crate) fn chat_without_rates(backend: BackendName) -> Config {
    Config { message_rate: Some(0), byte_rate: Some(0), ..chat(backend) }
}

/// Starts a server in this process, runs `attack` on it during a conversation and reports the measurements.
pub(crate) fn run_attack<R>(name: &str, config: &Config, attack: impl FnOnce(&TestServer) -> R) -> R {
    let _exclusive = wait_for_turn();
    let server = TestServer::start(config);
    let (result, measurements) = attack_during_conversation(server.address(), || attack(&server));
    report(name, config.backend, measurements);
    result
}

/// Waits until no other attack is running. Other attacks then wait until the returned guard is dropped.
pub(crate) fn wait_for_turn() -> impl Drop {
    RUNNING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs `attack` during a conversation on the server at `address`. Panics when a chat user misses a message.
pub(crate) fn attack_during_conversation<R>(
    address: SocketAddr,
    attack: impl FnOnce() -> R,
) -> (R, Measurements) {
    let (sender, attack_can_start) = mpsc::channel();
    let is_attack_over = Arc::new(AtomicBool::new(false));
    let is_over = Arc::clone(&is_attack_over);
    let users = std::thread::spawn(move || converse(address, &sender, &is_over));
    // An error means that the conversation panicked. Joining the conversation's thread below reports the panic.
    let result = attack_can_start.recv_timeout(TIMEOUT).is_ok().then(attack);
    is_attack_over.store(true, Ordering::Relaxed);
    let measurements = users.join().expect("every user receives every message");
    (result.expect("the conversation runs before the attack"), measurements)
}

/// Prints the measurements. If `UPROAR_REPORT` names a file, appends the measurements to that file as a line of JSON.
pub(crate) fn report(name: &str, backend: BackendName, mut measurements: Measurements) {
    let backend = if backend == BackendName::IoUring { "io-uring" } else { "epoll" };
    let [p50, p99, max] = [500, 990, 1000].map(|permille| measurements.before.permille(permille));
    let [during_p50, during_p99, during_max] =
        [500, 990, 1000].map(|permille| measurements.during.permille(permille));
    let Measurements { sent, received, .. } = measurements;
    println!(
        "{name} ({backend}): p99 {p99} µs before and {during_p99} µs during the attack; \
         {USERS} users received all {sent} messages"
    );
    let Some(path) = std::env::var_os("UPROAR_REPORT") else { return };
    let line = json!({
        "attack": name, "backend": backend, "users": USERS, "sent": sent, "received": received,
        "before_p50_us": p50, "before_p99_us": p99, "before_max_us": max,
        "during_p50_us": during_p50, "during_p99_us": during_p99, "during_max_us": during_max,
    });
    let file = OpenOptions::new().create(true).append(true).open(path);
    file.and_then(|mut file| writeln!(file, "{line}")).expect("the file in UPROAR_REPORT is writable");
}
