//! The `uproar` server.

mod service;

use std::ffi::OsString;
use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use tracing::{info, warn};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Registry, reload};
use uproar::config::{AppName, Config, Endpoint, LoadError, Loaded, LogFormat, Secret};
use uproar::server::{Control, Given, Server};

fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().collect();
    let given = match service::sockets() {
        Ok(given) => given,
        Err(line) => return refuse(&line),
    };
    let loaded = match Loaded::from_args(&args, &endpoints(&given)) {
        Ok(loaded) => loaded,
        Err(LoadError::Help(help)) => {
            let _ = help.print();
            return ExitCode::SUCCESS;
        }
        Err(LoadError::Wrong(line)) => return refuse(&line),
    };
    if loaded.check_only {
        match Server::check(&loaded.config) {
            Ok(warning) => warning.iter().for_each(|line| eprintln!("uproar: {line}")),
            Err(error) => return refuse(&error.to_string()),
        }
        let _ = write!(std::io::stdout(), "{loaded}");
        return ExitCode::SUCCESS;
    }
    match run(args, loaded, given) {
        Ok(()) => ExitCode::SUCCESS,
        Err(line) => refuse(&line),
    }
}

fn run(args: Vec<OsString>, loaded: Loaded, given: Vec<Given>) -> Result<(), String> {
    let log = start_log(&loaded.config)?;
    let passed = endpoints(&given);
    let mut signals =
        Signals::new([SIGHUP, SIGINT, SIGTERM]).map_err(|error| format!("cannot take signals: {error}"))?;
    let mut server = Server::start_on(given, &loaded.config).map_err(|error| error.to_string())?;
    for endpoint in &passed {
        info!("listening on {endpoint}, which the service manager passes, and not on what --listen says");
    }
    let config = loaded.config.clone();
    let mut running = Running { args, passed, loaded, log, control: server.control() };
    let take_signals = move || {
        let mut seen = 0;
        for signal in &mut signals {
            if signal == SIGHUP {
                service::reloading();
                running.reload();
                service::ready();
                continue;
            }
            seen += 1;
            if seen > 1 {
                std::process::exit(130);
            }
            // Before it ends: without clients that takes no time at all.
            service::stopping(&running.loaded.config);
            running.control.stop();
        }
    };
    let thread = std::thread::Builder::new().name("signals".into()).spawn(take_signals);
    thread.map_err(|error| no_thread(&error))?;
    announce(&config, &server);
    service::ready();
    service::keep_telling(server.control()).map_err(|error| no_thread(&error))?;
    server.join();
    let totals = server.totals();
    info!(?totals, "ended");
    Ok(())
}

/// Where sockets listen.
fn endpoints(given: &[Given]) -> Vec<Endpoint> {
    given.iter().map(|given| given.endpoint.clone()).collect()
}

fn no_thread(error: &std::io::Error) -> String {
    format!("cannot start a thread: {error}; is memory limited (ulimit -v)?")
}

/// What decides which lines are logged; it can be exchanged.
type LogFilter = reload::Handle<EnvFilter, Registry>;

fn log_filter(config: &Config) -> Result<EnvFilter, String> {
    EnvFilter::try_new(&config.log).map_err(|error| format!("--log {}: {error}", config.log))
}

fn start_log(config: &Config) -> Result<LogFilter, String> {
    let (filter, handle) = reload::Layer::new(log_filter(config)?);
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let log = tracing_subscriber::registry().with(filter);
    match config.log_format {
        LogFormat::Text => log.with(lines.with_ansi(std::io::stderr().is_terminal())).init(),
        LogFormat::Json => log.with(lines.json().flatten_event(true)).init(),
    }
    Ok(handle)
}

/// The server as its signals see it.
struct Running {
    /// The command line.
    args: Vec<OsString>,
    /// Where the sockets listen that the service manager passes.
    passed: Vec<Endpoint>,
    /// The settings in force.
    loaded: Loaded,
    log: LogFilter,
    control: Control,
}

impl Running {
    /// Reads the file again and goes over to what it says, or says why not.
    fn reload(&mut self) {
        let Config { tls_cert, tls_key, auth_hmac_secret_file, .. } = &self.loaded.config;
        let secret = auth_hmac_secret_file.as_ref().map(Secret::path);
        let files = [self.loaded.file.as_deref(), tls_cert.as_deref(), tls_key.as_deref(), secret];
        let names: Vec<_> = files.into_iter().flatten().map(|file| file.display().to_string()).collect();
        if names.is_empty() {
            return info!("SIGHUP: there is no file to read again; name one with --config");
        }
        match self.try_reload() {
            Ok(count) => info!("SIGHUP: read {} again: {count} changed", names.join(", ")),
            Err(why) => warn!("SIGHUP: nothing changes: {why}"),
        }
    }

    /// How many settings have changed; an error changes none.
    fn try_reload(&mut self) -> Result<usize, String> {
        let fresh = Loaded::from_args(&self.args, &self.passed).map_err(|error| error.to_string())?;
        let filter = log_filter(&fresh.config)?;
        self.control.reload(&fresh.config).map_err(|error| error.to_string())?;
        let secrets = [&self.loaded.config, &fresh.config].map(|config| config.auth_hmac_secret_file.clone());
        if let [Some(old), Some(new)] = secrets
            && old.path() == new.path()
            && old != new
        {
            info!("auth-hmac-secret-file: another secret in {}", new.path().display());
        }
        let changes = self.loaded.adopt(fresh);
        for change in &changes {
            info!("{change}");
        }
        // Last, so that the lines above are logged when there will be no more of their kind.
        if let Err(error) = self.log.reload(filter) {
            warn!("cannot change what is logged: {error}");
        }
        Ok(changes.iter().filter(|change| !change.needs_restart).count())
    }
}

/// Says where the server is to be found: the line that scripts wait for, and the one for people.
fn announce(config: &Config, server: &Server) {
    let app = format!("{:?}", config.app).to_lowercase();
    for endpoint in server.endpoints() {
        let _ = writeln!(
            std::io::stdout(),
            "listening on {endpoint} (app {app}, backend {}, workers {})",
            server.backend(),
            server.workers()
        );
    }
    if let Some(address) = server.admin_address() {
        let _ = writeln!(std::io::stdout(), "admin on http://{address}/");
    }
    let page = server.endpoints().iter().find_map(|endpoint| Some((endpoint.tcp()?, endpoint.has_tls())));
    if let (AppName::Chat, Some((mut address, has_tls))) = (config.app, page) {
        if address.ip().is_unspecified() {
            address.set_ip(if address.is_ipv4() {
                [127, 0, 0, 1].into()
            } else {
                std::net::Ipv6Addr::LOCALHOST.into()
            });
        }
        let scheme = if has_tls { "https" } else { "http" };
        let _ = writeln!(std::io::stdout(), "open {scheme}://{address}/ in two windows to chat");
    }
}

fn refuse(line: &str) -> ExitCode {
    eprintln!("uproar: {line}");
    ExitCode::from(2)
}
