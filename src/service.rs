//! The service manager: which sockets it passes (sd_listen_fds(3)), and what it is told (sd_notify(3)). Without one the
//! variables that it sets are not there, and nothing happens.

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

/// The descriptor of the first socket that is passed.
const FIRST: usize = 3;
/// The name (`FileDescriptorName=`) of a socket whose connections speak TLS.
const TLS: &str = "tls";

/// How often it is told how many connections there are.
const STATUS_INTERVAL: Duration = Duration::from_secs(10);
/// How much longer than it should take the end may take.
const SLACK: Duration = Duration::from_secs(5);

/// The sockets that are to be listened on instead of what --listen says. To be called before there are other threads,
/// since the variables are removed.
///
/// # Errors
/// What is wrong with the variables or with a socket, and the way out.
pub(crate) fn sockets() -> Result<Vec<Given>, String> {
    let variable = |name| env::var_os(name).map(|value| value.to_string_lossy().into_owned());
    let (Some(process), Some(count)) = (variable("LISTEN_PID"), variable("LISTEN_FDS")) else {
        return Ok(Vec::new());
    };
    let remedy = "have the service manager set it, or unset it to listen on what --listen says";
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

/// The socket at a place of those that are passed.
fn socket(passed: &mut ListenFd, at: usize, name: &str) -> Result<Given, String> {
    let wrong = |what| {
        format!(
            "descriptor {} ({name:?}), which the service manager passes (LISTEN_FDS), {what}; \
             in a socket unit, use ListenStream= and Accept=no",
            FIRST + at
        )
    };
    let given = if let Ok(Some(listener)) = passed.take_tcp_listener(at) {
        let address = listener.local_addr().map_err(|_| wrong("has no address"))?;
        let endpoint = if name == TLS { Endpoint::Tls(address) } else { Endpoint::Tcp(address) };
        Given { listener: Listener::Tcp(listener), endpoint }
    } else if name == TLS {
        return Err(wrong("is named for TLS and has no address and port"));
    } else if let Ok(Some(listener)) = passed.take_unix_listener(at) {
        let endpoint = Endpoint::Unix(path(&listener).unwrap_or_default());
        Given { listener: Listener::Unix(listener), endpoint }
    } else {
        return Err(wrong("is no stream socket"));
    };
    match getsockopt(&given.listener, sockopt::AcceptConn) {
        Ok(true) => Ok(given),
        _ => Err(wrong("does not listen")),
    }
}

/// The path of a socket, or its name after an @.
fn path(listener: &UnixListener) -> Option<PathBuf> {
    let address = listener.local_addr().ok()?;
    let name = || Some(format!("@{}", String::from_utf8_lossy(address.as_abstract_name()?)).into());
    address.as_pathname().map(Into::into).or_else(name)
}

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
    if env::var_os("NOTIFY_SOCKET").is_none() {
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
