//! An attack, and the people beside it.

use std::fs::OpenOptions;
use std::io::Write;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::Duration;

use uproar::config::{AppName, BackendName, Config};

use crate::chatters::{CHATTERS, Noticed, talk};
use crate::support::{TIMEOUT, TestServer, config};

/// One attack at a time: they would disturb each other's figures, and need each other's descriptors.
static STAGE: Mutex<()> = Mutex::new(());

/// The settings of a chat server to be attacked, with two workers. It pings soon, so that it soon forgets attackers
/// that are gone; the chatters speak often enough to need no pong.
pub(crate) fn chat(backend: BackendName) -> Config {
    Config { ping_seconds: Duration::from_secs(1), ..config(backend, AppName::Chat, 2) }
}

/// The same without rates, so that the attack meets what stands behind them.
pub(crate) fn chat_without_rates(backend: BackendName) -> Config {
    Config { message_rate: Some(0), byte_rate: Some(0), ..chat(backend) }
}

/// Has the chatters talk on a server of this process while `attack` is made on it.
pub(crate) fn beside_chatters<R>(row: &str, config: &Config, attack: impl FnOnce(&TestServer) -> R) -> R {
    let _alone = alone();
    let server = TestServer::start(config);
    let (result, noticed) = during_talk(server.address(), || attack(&server));
    report(row, config.backend, noticed);
    result
}

/// Waits for the stage.
pub(crate) fn alone() -> impl Drop {
    STAGE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Has the chatters talk at `address` while `attack` is made. Panics when somebody has not heard everything.
pub(crate) fn during_talk<R>(address: SocketAddr, attack: impl FnOnce() -> R) -> (R, Noticed) {
    let (calm_over, until_then) = mpsc::channel();
    let attack_over = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&attack_over);
    let chatters = std::thread::spawn(move || talk(address, &calm_over, &told));
    // It ends with an error when the chatters panicked, which is said below.
    let result = until_then.recv_timeout(TIMEOUT).is_ok().then(attack);
    attack_over.store(true, Ordering::Relaxed);
    let noticed = chatters.join().expect("the chatters hear everything");
    (result.expect("the chatters were at peace before the attack"), noticed)
}

/// Says what the chatters noticed: a line for people, and one of JSON.
pub(crate) fn report(row: &str, backend: BackendName, mut noticed: Noticed) {
    let backend = if backend == BackendName::IoUring { "io-uring" } else { "epoll" };
    let [calm50, calm99, calm_max] = [500, 990, 1000].map(|permille| noticed.calm.permille(permille));
    let [hot50, hot99, hot_max] = [500, 990, 1000].map(|permille| noticed.attacked.permille(permille));
    println!(
        "{row} ({backend}): p99 {calm99} µs before, {hot99} µs during it; {CHATTERS} chatters heard all of {}",
        noticed.said
    );
    let Some(path) = std::env::var_os("UPROAR_REPORT") else { return };
    let line = format!(
        "{{\"attack\":\"{row}\",\"backend\":\"{backend}\",\"chatters\":{CHATTERS},\"said\":{},\"heard\":{},\
         \"calm_p50_us\":{calm50},\"calm_p99_us\":{calm99},\"calm_max_us\":{calm_max},\
         \"attacked_p50_us\":{hot50},\"attacked_p99_us\":{hot99},\"attacked_max_us\":{hot_max}}}\n",
        noticed.said, noticed.heard
    );
    let file = OpenOptions::new().create(true).append(true).open(path);
    file.and_then(|mut file| file.write_all(line.as_bytes())).expect("UPROAR_REPORT can be written");
}
