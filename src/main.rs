//! The `uproar` server.

mod logging;
mod service;

use std::ffi::OsString;
use std::io::Write;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use tracing::{info, warn};
use uproar::app::PusherApps;
use uproar::config::{
    AdminToken, ApiKeys, AppName, CaFile, Config, Endpoint, Jwks, LoadError, Loaded, Options, PusherAppsFile,
    Secret,
};
use uproar::server::{Control, Given, Server, Totals};

use logging::Log;

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
        return check(&loaded);
    }
    let log = match Log::start(&loaded.config) {
        Ok(log) => log,
        Err(line) => return refuse(&line),
    };
    let last_words = log.last_words();
    match run(args, loaded, given, log) {
        Ok(()) => ExitCode::SUCCESS,
        Err(line) => {
            last_words(&line);
            ExitCode::from(2)
        }
    }
}

/// Checks the settings, and prints them or the first error in them.
fn check(loaded: &Loaded) -> ExitCode {
    match Server::check(&loaded.config) {
        Ok(warning) => loaded.warnings.iter().chain(&warning).for_each(|line| logging::say(line)),
        Err(error) => return refuse(&error.to_string()),
    }
    let _ = write!(std::io::stdout(), "{loaded}");
    let (bytes, source) = Options::from(&loaded.config).memory_limit_bytes();
    let _ = writeln!(std::io::stdout(), "# The memory limit is {bytes} bytes: {source}.");
    ExitCode::SUCCESS
}

fn run(args: Vec<OsString>, loaded: Loaded, given: Vec<Given>, log: Log) -> Result<(), String> {
    for line in &loaded.warnings {
        warn!("{line}");
    }
    let passed = endpoints(&given);
    let mut signals = Signals::new([SIGHUP, SIGINT, SIGTERM]).map_err(|error| {
        format!("cannot install the signal handler: {error}; raise the limit of open files (ulimit -n)")
    })?;
    let mut server = Server::start_on(given, &loaded.config).map_err(|error| error.to_string())?;
    for endpoint in &passed {
        log.passed(endpoint);
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
            // The service manager is told before the stop, because a server without clients ends at once.
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
    log_totals(server.totals());
    Ok(())
}

/// Returns the endpoints of the sockets from the service manager.
fn endpoints(given: &[Given]) -> Vec<Endpoint> {
    given.iter().map(|given| given.endpoint.clone()).collect()
}

fn no_thread(error: &std::io::Error) -> String {
    format!("cannot start a thread: {error}; raise the limits of threads and memory (ulimit -u, ulimit -v)")
}

/// Logs the last line of the server, with the totals of all counters under the names of their metrics.
fn log_totals(totals: Totals) {
    info!(
        accepted = totals.accepted,
        closed = totals.closed,
        opened = totals.opened,
        refused = totals.refused,
        websocket_closes = totals.ended,
        received_messages = totals.messages_in,
        received_bytes = totals.bytes_in,
        ordered_messages = totals.ordered,
        deliveries = totals.deliveries,
        sends = totals.sends,
        sent_bytes = totals.bytes_out,
        lagged = totals.lagged,
        throttled = totals.throttled,
        publisher_pauses = totals.publisher_pauses,
        memory_pauses = totals.memory_pauses,
        memory_closes = totals.memory_closes,
        stalled_sends = totals.stalled,
        late_messages = totals.late_messages,
        protocol_failures = totals.failed,
        handler_panics = totals.panics,
        turns = totals.turns,
        mailbox_full = totals.mailbox_full,
        ring_overflows = totals.ring_overflows,
        receive_buffer_shortages = totals.starved,
        tls_handshakes = totals.tls_handshakes,
        tls_resumptions = totals.tls_resumed,
        "ended"
    );
}

/// The state of the signal thread, with which it reloads and stops the server.
struct Running {
    /// The arguments of the command line, which a reload parses again.
    args: Vec<OsString>,
    /// The endpoints of the sockets from the service manager.
    passed: Vec<Endpoint>,
    /// The settings in force, from the command line and the files that it names.
    loaded: Loaded,
    log: Log,
    control: Control,
}

impl Running {
    /// Reads all configured files again and applies the new settings, or logs the reason why it cannot.
    fn reload(&mut self) {
        let Config { tls_cert, tls_key, .. } = &self.loaded.config;
        let settings = self.loaded.file.as_deref();
        let contents = contents(&self.loaded.config);
        let others = contents.iter().map(|content| content.path);
        let files = [settings, tls_cert.as_deref(), tls_key.as_deref()].into_iter().chain(others);
        let names: Vec<_> = files.flatten().map(|file| file.display().to_string()).collect();
        if names.is_empty() {
            return info!("SIGHUP: the settings name no file to read again; name one with --config");
        }
        let files = names.join(", ");
        let outcome = self.try_reload();
        self.log.reloaded(&files, outcome);
    }

    /// Reads and applies the new settings, and returns the number of changes. After an error all settings are as
    /// before.
    fn try_reload(&mut self) -> Result<usize, String> {
        let fresh = Loaded::from_args(&self.args, &self.passed)
            .map_err(|error| error.to_string())
            .and_then(|fresh| logging::parse(&fresh.config).map(|_| fresh))
            .inspect_err(|_| self.control.reload_failed())?;
        let reloaded = self.control.reload(&fresh.config).map_err(|error| error.to_string())?;
        if let (Some(apps), Some(file)) = (self.control.pusher_apps(), &fresh.config.pusher_apps) {
            apps.replace(file.apps().to_vec(), &self.control.publisher())?;
        }
        let mut changed = 0;
        if let (Some(certificate), Some(path)) = (reloaded.certificate, &fresh.config.tls_cert) {
            changed += 1;
            self.log.replaced("tls-cert", path, "certificate", Some(&certificate));
        }
        for (option, path, what) in replaced_files(&self.loaded.config, &fresh.config) {
            changed += 1;
            self.log.replaced(option, &path, what, None);
        }
        let changes = self.loaded.adopt(fresh);
        for change in &changes {
            self.log.changed(change);
        }
        changed += changes.iter().filter(|change| !change.needs_restart).count();
        // The log filter changes last, so that the old filter applies to the lines logged above.
        if let Err(error) = self.log.reload(&self.loaded.config) {
            warn!("cannot change the log filter: {error}");
        }
        Ok(changed)
    }
}

/// The content of a file that an option names.
struct Content<'a> {
    option: &'static str,
    /// The file. `None` if the option is not set.
    path: Option<&'a Path>,
    /// The kind of the content, for the log.
    what: &'static str,
    /// Compares the option in two configurations.
    is_equal: fn(&Config, &Config) -> bool,
}

/// Returns the options that name a file with a secret, a token, keys or certificates.
fn contents(config: &Config) -> [Content<'_>; 7] {
    let Config { auth_hmac_secret_file, auth_jwks, api_keys, admin_token_file, .. } = config;
    [
        Content {
            option: "auth-hmac-secret-file",
            path: auth_hmac_secret_file.as_ref().map(Secret::path),
            what: "secret",
            is_equal: |old, new| old.auth_hmac_secret_file == new.auth_hmac_secret_file,
        },
        Content {
            option: "auth-jwks",
            path: auth_jwks.as_ref().and_then(Jwks::path),
            what: "keys",
            is_equal: |old, new| old.auth_jwks == new.auth_jwks,
        },
        Content {
            option: "api-keys",
            path: api_keys.as_ref().map(ApiKeys::path),
            what: "keys",
            is_equal: |old, new| old.api_keys == new.api_keys,
        },
        Content {
            option: "pusher-apps",
            path: config.pusher_apps.as_ref().map(PusherAppsFile::path),
            what: "applications",
            is_equal: |old, new| old.pusher_apps == new.pusher_apps,
        },
        Content {
            option: "admin-token-file",
            path: admin_token_file.as_ref().map(AdminToken::path),
            what: "token",
            is_equal: |old, new| old.admin_token_file == new.admin_token_file,
        },
        Content {
            option: "webhook-secret-file",
            path: config.webhook_secret_file.as_ref().map(Secret::path),
            what: "secret",
            is_equal: |old, new| old.webhook_secret_file == new.webhook_secret_file,
        },
        Content {
            option: "ca-file",
            path: config.ca_file.as_ref().map(CaFile::path),
            what: "certificates",
            is_equal: |old, new| old.ca_file == new.ca_file,
        },
    ]
}

/// Returns the options whose secret or keys have changed in the same file: the option's name, the file, and its content.
fn replaced_files(old: &Config, new: &Config) -> Vec<(&'static str, PathBuf, &'static str)> {
    let pairs = contents(old).into_iter().zip(contents(new));
    pairs
        .filter_map(|(before, Content { option, path, what, is_equal })| {
            let path = path.filter(|path| before.path == Some(path) && !is_equal(old, new))?;
            Some((option, path.to_owned(), what))
        })
        .collect()
}

/// Prints the server's addresses, which scripts wait for, and the URL of the chat page for people.
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
    let Some((address, has_tls)) = page else { return };
    let (address, scheme) = (reachable(address), if has_tls { "https" } else { "http" });
    match config.app {
        AppName::Chat => {
            let _ = writeln!(std::io::stdout(), "open {scheme}://{address}/ in two windows to chat");
        }
        AppName::Pusher => announce_pusher(config, server, address, scheme),
        AppName::Relay | AppName::Echo => {}
    }
}

/// Returns the address at which this host reaches a listener.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(match address.is_ipv4() {
            true => Ipv4Addr::LOCALHOST.into(),
            false => Ipv6Addr::LOCALHOST.into(),
        });
    }
    address
}

/// Prints the URL of the page of a Pusher server, and for an application with random credentials the lines for the file
/// `.env` of a Laravel project.
fn announce_pusher(config: &Config, server: &Server, address: SocketAddr, scheme: &str) {
    let apps = server.control().pusher_apps().map(PusherApps::list).unwrap_or_default();
    let (None, [app]) = (&config.pusher_apps, &apps[..]) else {
        return announce_page(address, scheme, "");
    };
    let host = match address {
        SocketAddr::V4(address) => address.ip().to_string(),
        SocketAddr::V6(address) => format!("[{}]", address.ip()),
    };
    let _ = writeln!(
        std::io::stdout(),
        "an application for this run; in Laravel's .env:\n\
         BROADCAST_CONNECTION=reverb\n\
         REVERB_APP_ID={}\nREVERB_APP_KEY={}\nREVERB_APP_SECRET={}\n\
         REVERB_HOST={host}\nREVERB_PORT={}\nREVERB_SCHEME={scheme}",
        app.id,
        app.key,
        app.secret,
        address.port(),
    );
    announce_page(address, scheme, &format!("#{}:{}:{}", app.id, app.key, app.secret));
}

fn announce_page(address: SocketAddr, scheme: &str, fragment: &str) {
    let _ = writeln!(std::io::stdout(), "open {scheme}://{address}/{fragment} to try it");
}

/// Prints a start-up error and returns the exit status. Used before the log has started.
fn refuse(line: &str) -> ExitCode {
    logging::say(line);
    ExitCode::from(2)
}
