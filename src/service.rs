//! What the service manager is told, after sd_notify(3). Without one `NOTIFY_SOCKET` is not set, and nothing happens.

use std::time::Duration;

use sd_notify::NotifyState;
use tracing::{error, warn};
use uproar::config::Config;
use uproar::server::Control;

/// How often it is told how many connections there are.
const STATUS_INTERVAL: Duration = Duration::from_secs(10);
/// How much longer than it should take the end may take.
const SLACK: Duration = Duration::from_secs(5);

/// All listeners listen; or the settings that were to be read again are in force.
pub(crate) fn ready() {
    tell(&[NotifyState::Ready]);
}

/// The settings are being read again; `ready` follows.
pub(crate) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(error) => warn!(%error, "cannot read the clock for the service manager"),
    }
}

/// The server ends, as slowly as its settings say.
pub(crate) fn stopping(config: &Config) {
    let time = config.drain_delay + config.drain_seconds + config.close_seconds + SLACK;
    let time = u32::try_from(time.as_micros()).unwrap_or(u32::MAX);
    let status = NotifyState::Status("closing all connections");
    tell(&[NotifyState::Stopping, NotifyState::ExtendTimeoutUsec(time), status]);
}

/// Starts a thread that tells at intervals how many connections there are, and that all is well where the service
/// manager wants to hear that: only while no worker hangs.
///
/// # Errors
/// When no thread can be had.
pub(crate) fn keep_telling(control: Control) -> std::io::Result<()> {
    if std::env::var_os("NOTIFY_SOCKET").is_none() {
        return Ok(());
    }
    let watchdog = sd_notify::watchdog_enabled();
    // It wants to hear from us twice as often as it must.
    let interval = watchdog.map_or(STATUS_INTERVAL, |patience| STATUS_INTERVAL.min(patience / 2));
    std::thread::Builder::new().name("service".into()).spawn(move || {
        let mut told = None;
        loop {
            let connections = control.connections();
            if told.replace(connections) != Some(connections) && !control.is_stopping() {
                tell(&[NotifyState::Status(&format!("{connections} connections"))]);
            }
            if watchdog.is_some() {
                match control.hung() {
                    None => tell(&[NotifyState::Watchdog]),
                    Some(which) => error!("the watchdog is not told that all is well: {which}"),
                }
            }
            std::thread::sleep(interval);
        }
    })?;
    Ok(())
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        warn!(%error, "cannot tell the service manager (NOTIFY_SOCKET)");
    }
}
