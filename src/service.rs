//! The service manager: sockets from it (sd_listen_fds(3)) and notifications to it (sd_notify(3)). Without a service
//! manager its environment variables are not set, and the functions here do nothing.

use std::env;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::time::Duration;

use listenfd::ListenFd;
use nix::sys::socket::{getsockopt, sockopt};
use sd_notify::NotifyState;
use tracing::{error, warn};
use uproar::config::{Config, Endpoint};
use uproar::server::{Control, Given, Listener};

/// The number of the first file descriptor from the service manager.
const FIRST: usize = 3;
/// The name (`FileDescriptorName=`) of a socket whose connections speak TLS.
const TLS: &str = "tls";

/// Interval at which the number of connections is reported to the service manager.
const STATUS_INTERVAL: Duration = Duration::from_secs(10);
/// Extra time that the shutdown asks of the service manager, beyond the configured drain and close times.
const SLACK: Duration = Duration::from_secs(5);

/// Returns the sockets from the service manager, which replace `--listen`. Must be called before other threads start,
/// because it removes environment variables.
///
/// # Errors
/// An environment variable is malformed, or a socket cannot be used. The text names the remedy.
pub(crate) fn sockets() -> Result<Vec<Given>, String> {
    let variable = |name| env::var_os(name).map(|value| value.to_string_lossy().into_owned());
    let (Some(process), Some(count)) = (variable("LISTEN_PID"), variable("LISTEN_FDS")) else {
        return Ok(Vec::new());
    };
    let remedy = "let the service manager set it, or unset it to listen on the addresses of --listen";
    let wrong = |name, value, wanted| format!("{name}={value}: expected {wanted}; {remedy}");
    let process: u32 =
        process.parse().map_err(|_| wrong("LISTEN_PID", &process, "the number of a process"))?;
    if process != std::process::id() {
        return Ok(Vec::new());
    }
    let count: u16 = count.parse().map_err(|_| wrong("LISTEN_FDS", &count, "the number of sockets"))?;
    let names = variable("LISTEN_FDNAMES").unwrap_or_default();
    let names = names.split(':').chain(std::iter::repeat(""));
    let mut passed = ListenFd::from_env();
    (0..usize::from(count)).zip(names).map(|(at, name)| socket(&mut passed, at, name)).collect()
}

/// Returns the socket that the service manager passed at index `at` under `name`, with its endpoint.
fn socket(passed: &mut ListenFd, at: usize, name: &str) -> Result<Given, String> {
    let wrong = |what| {
        format!(
            "descriptor {} ({name:?}), passed by the service manager (LISTEN_FDS), {what}; \
             in a socket unit, use ListenStream= and Accept=no",
            FIRST + at
        )
    };
    let given = if let Ok(Some(listener)) = passed.take_tcp_listener(at) {
        let address = listener.local_addr().map_err(|_| wrong("has no address"))?;
        let endpoint = if name == TLS { Endpoint::Tls(address) } else { Endpoint::Tcp(address) };
        Given { listener: Listener::Tcp(listener), endpoint }
    } else if name == TLS {
        return Err(wrong("is named for TLS but is not a TCP socket"));
    } else if let Ok(Some(listener)) = passed.take_unix_listener(at) {
        let endpoint = Endpoint::Unix(path(&listener).unwrap_or_default());
        Given { listener: Listener::Unix(listener), endpoint }
    } else {
        return Err(wrong("is not a stream socket"));
    };
    match getsockopt(&given.listener, sockopt::AcceptConn) {
        Ok(true) => Ok(given),
        _ => Err(wrong("does not listen")),
    }
}

/// Returns the path of a Unix socket, or `@` and the socket's abstract name.
fn path(listener: &UnixListener) -> Option<PathBuf> {
    let address = listener.local_addr().ok()?;
    let name = || Some(format!("@{}", String::from_utf8_lossy(address.as_abstract_name()?)).into());
    address.as_pathname().map(Into::into).or_else(name)
}

/// Tells the service manager that all listeners listen, or that a reload has ended.
pub(crate) fn ready() {
    tell(&[NotifyState::Ready]);
}

/// Tells the service manager that a reload has begun. [`ready`] must follow.
pub(crate) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(error) => warn!(%error, "cannot read the clock for the service manager"),
    }
}

/// Tells the service manager that the shutdown has begun, and how long it may take.
pub(crate) fn stopping(config: &Config) {
    let time = config.drain_delay + config.drain_seconds + config.close_seconds + SLACK;
    let time = u32::try_from(time.as_micros()).unwrap_or(u32::MAX);
    let status = NotifyState::Status("closing all connections");
    tell(&[NotifyState::Stopping, NotifyState::ExtendTimeoutUsec(time), status]);
}

/// Starts a thread that reports the number of connections to the service manager at intervals. With a watchdog, the
/// thread also reports that the server is alive, as long as no worker hangs.
///
/// # Errors
/// The operating system cannot start the thread.
pub(crate) fn keep_telling(control: Control) -> std::io::Result<()> {
    if env::var_os("NOTIFY_SOCKET").is_none() {
        return Ok(());
    }
    let watchdog = sd_notify::watchdog_enabled();
    // sd_watchdog_enabled(3) recommends half of the watchdog's timeout.
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
                    Some(which) => error!("the watchdog is not notified because a worker hangs: {which}"),
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
