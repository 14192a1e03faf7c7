//! The server: listeners, one shard a worker, signals.

mod admin_listener;
mod control;
#[cfg(feature = "outgoing")]
mod key_fetcher;
mod listening;
mod outgoing;
mod plan;
mod signals;
mod workers;

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::JoinHandle;
use std::time::SystemTime;

use tracing::{info, warn};

use crate::app::{Api, App};
#[cfg(feature = "server")]
use crate::app::{Chat, ChatOptions, Echo, Pusher, PusherApps, Relay};
use crate::backends::Backends;
use crate::config::hosts::HostNames;
use crate::config::{ApiKeys, BackendName, Conflict, Endpoint, Options, Takeover};
#[cfg(feature = "server")]
use crate::config::{AppName, Config};
pub use crate::io::Listener;
use crate::io::listen;
use crate::publisher::Publisher;
use crate::shard::{Address, Shared};
use crate::stats::Stats;
pub use crate::stats::Totals;
pub use crate::tls::IdentityError;
use crate::tls::{Credentials, Identity, TlsOptions};
use crate::watch::{LastReload, Watch, Watched};

use admin_listener::Admin;
pub use control::{Control, Reloaded};
use listening::{BoundListeners, bind_all, share_given, take_paths};
use outgoing::Outgoing;
use plan::{Plan, admin_connections};
use workers::{MakeApp, Workers};

/// The reason why a server cannot start: one line with the value, the cause and the remedy.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Options that are out of range or contradict each other.
    #[error("{0}")]
    Settings(#[from] Conflict),
    /// The server cannot listen on one of its endpoints.
    #[error("cannot listen on {endpoint}: {}; {remedy}", reason(error))]
    Listen {
        /// The address or path that the server cannot listen on.
        endpoint: Endpoint,
        /// The operating system's error that prevents the start.
        error: io::Error,
        /// A hint for the user about how to remove the error.
        remedy: &'static str,
    },
    /// The certificate or its key cannot be used.
    #[error("{0}")]
    Identity(#[from] IdentityError),
    /// A TLS listener has no certificate.
    #[error("{0} needs a certificate and its private key; name them with --tls-cert FILE and --tls-key FILE")]
    Certificate(Endpoint),
    /// The I/O backend that the options name does not work on this system.
    #[error("cannot use {backend}: {}; {remedy}", reason(error))]
    Backend {
        /// The name of the I/O backend.
        backend: &'static str,
        /// The operating system's error that prevents the start.
        error: io::Error,
        /// A hint for the user about how to remove the error.
        remedy: &'static str,
    },
    /// The function that creates the application panicked.
    #[error("cannot start the application: it panicked; the panic message is printed above")]
    Application,
    /// A system call failed during another step of the start.
    #[error("cannot {action}: {}; {remedy}", reason(error))]
    System {
        /// The failed action, as a verb with its object, for example "start a worker".
        action: &'static str,
        /// The operating system's error that prevents the start.
        error: io::Error,
        /// A hint for the user about how to remove the error.
        remedy: &'static str,
    },
}

/// Hint for the user when a thread cannot start.
const THREAD_REMEDY: &str = "raise the limits of threads and memory (ulimit -u, ulimit -v)";
/// Hint for the user when a file descriptor cannot be created.
const DESCRIPTOR_REMEDY: &str = "raise the limit of open files (ulimit -n)";

/// A listening socket that the program opened or inherited, for [`Server::start_app_on`].
#[derive(Debug)]
pub struct Given {
    /// The listening socket. Other processes may have it open, too.
    pub listener: Listener,
    /// The address or path that clients connect to.
    pub endpoint: Endpoint,
}

/// A running server. [`Server::stop`] and [`Server::join`] end it; dropping the value alone does not.
#[derive(Debug)]
pub struct Server {
    endpoints: Vec<Endpoint>,
    backend: &'static str,
    workers: Vec<JoinHandle<()>>,
    stats: Vec<Arc<Stats>>,
    control: Control,
    admin: Option<Admin>,
}

impl Server {
    /// Checks the options and the certificate without starting a server. Returns a warning of one line if the
    /// certificate expires soon.
    ///
    /// # Errors
    /// The options contradict each other, or the certificate cannot be used.
    pub fn check(options: impl Into<Options>) -> Result<Option<String>, StartError> {
        Ok(check(&options.into(), &[])?.and_then(|credentials| credentials.warning(SystemTime::now())))
    }

    /// Starts the server with the application that the settings name.
    ///
    /// # Errors
    /// See [`StartError`].
    #[cfg(feature = "server")]
    pub fn start(config: &Config) -> Result<Self, StartError> {
        Self::start_on(Vec::new(), config)
    }

    /// Starts the server with the application that the settings name. The server listens on the `given` sockets, or on
    /// [`Options::listen`] if there are none.
    ///
    /// # Errors
    /// See [`StartError`].
    #[cfg(feature = "server")]
    pub fn start_on(given: Vec<Given>, config: &Config) -> Result<Self, StartError> {
        match config.app {
            AppName::Chat => {
                let Config { max_message, max_private_message, .. } = *config;
                let options = ChatOptions { max_message, max_private_message };
                Self::start_app_on(given, config, move |_| Box::new(Chat::new(options)))
            }
            AppName::Relay => Self::start_app_on(given, config, |_| Box::<Relay>::default()),
            AppName::Echo => Self::start_app_on(given, config, |_| Box::<Echo>::default()),
            AppName::Pusher => Self::start_pusher_on(given, config),
        }
    }

    /// Starts a Pusher server with the applications of a file, or with one that has random credentials.
    #[cfg(feature = "server")]
    fn start_pusher_on(given: Vec<Given>, config: &Config) -> Result<Self, StartError> {
        let apps = match &config.pusher_apps {
            Some(file) => PusherApps::new(file.apps().to_vec()).map_err(io::Error::other),
            None => PusherApps::random(),
        };
        let apps = apps.map_err(|error| StartError::System {
            action: "make random numbers for the Pusher applications",
            error,
            remedy: "wait until the system has random numbers",
        })?;
        let webhooks = Outgoing::start_pusher(&apps, &config.into()).map_err(|error| StartError::System {
            action: "start the webhooks of the Pusher applications",
            error: io::Error::other(error),
            remedy: "change the file of --pusher-apps",
        })?;
        let instances = apps.clone();
        let make = move |_| -> Box<dyn App> { Box::new(Pusher::new(instances.clone())) };
        let mut server = Self::start_app_on(given, config, make)?;
        server.control.pusher_apps = Some(apps);
        let _ = server.control.watch.pusher_webhooks.set(Arc::clone(&webhooks));
        server.control.outgoing.add_pusher(webhooks);
        Ok(server)
    }

    /// Starts a server with your application. The server's own threads serve the clients, so this call returns at once.
    ///
    /// Each worker calls `make` once, with the worker's index. If memory is too short for an io_uring ring on each
    /// worker, all workers start again on epoll and call `make` again.
    ///
    /// # Errors
    /// See [`StartError`]. A panic of `make` is [`StartError::Application`].
    pub fn start_app<F>(options: impl Into<Options>, make: F) -> Result<Self, StartError>
    where
        F: Fn(u16) -> Box<dyn App> + Send + Sync + 'static,
    {
        Self::start_app_on(Vec::new(), options, make)
    }

    /// Starts a server with your application. The server listens on the `given` sockets, or on [`Options::listen`] if
    /// there are none.
    ///
    /// # Errors
    /// See [`StartError`]. A panic of `make` is [`StartError::Application`].
    pub fn start_app_on<F>(
        given: Vec<Given>,
        options: impl Into<Options>,
        make: F,
    ) -> Result<Self, StartError>
    where
        F: Fn(u16) -> Box<dyn App> + Send + Sync + 'static,
    {
        Self::start_all(given, &options.into(), Arc::new(make))
    }

    fn start_all(given: Vec<Given>, options: &Options, make: Arc<MakeApp>) -> Result<Self, StartError> {
        let passed: Vec<_> = given.iter().map(|given| given.endpoint.clone()).collect();
        let identity = check(options, &passed)?.map(|credentials| Arc::new(Identity::new(credentials)));
        let workers = options.worker_count();
        let backends =
            Arc::new(Backends::new(options.api_keys.as_ref().map(ApiKeys::keys), options.max_message));
        let mut options = options.clone();
        let outgoing = Outgoing::start(&mut options)?;
        let options = &options;
        let make = outgoing.wrap(make);
        let make = if options.api_keys.is_some() { with_api(make, Arc::clone(&backends)) } else { make };
        let admin = admin_listener::bind(options)?;
        let BoundListeners { endpoints, listeners, pending } =
            if given.is_empty() { bind_all(options, workers) } else { share_given(given, workers) }?;
        if let Some(endpoint) = endpoints.iter().find(|endpoint| endpoint.has_tls() && identity.is_none()) {
            return Err(StartError::Certificate(endpoint.clone()));
        }
        let descriptors = listen::raise_descriptor_limit().map_err(|error| StartError::System {
            action: "raise the limit of open files to its hard limit",
            error,
            remedy: DESCRIPTOR_REMEDY,
        })?;
        let mut plan = Plan::new(options, workers, descriptors);
        plan.tls = identity.clone().map(|identity| TlsOptions {
            listeners: endpoints.iter().map(Endpoint::has_tls).collect(),
            identity,
        });
        plan.listen = endpoints.clone();
        let options = &Options { listen: endpoints.clone(), ..options.clone() };
        let (workers, shared) = spawn_workers(options, &mut plan, listeners, &make)?;
        let bans = Arc::clone(&shared.bans);
        let stats = workers.stats();
        let backend = plan.backend_name();
        let watched = |(stats, address): (&Arc<Stats>, &Address)| Watched {
            stats: Arc::clone(stats),
            address: address.clone(),
        };
        let shards = stats.iter().zip(&workers.addresses).map(watched).collect();
        let started = SystemTime::now();
        let watch = Arc::new(Watch {
            backend,
            started,
            shared,
            shards,
            identity: identity.clone(),
            hosts: Mutex::new(HostNames::new(options)),
            #[cfg(feature = "admin")]
            admin_token: Mutex::new(options.admin_token_file.clone()),
            last_reload: Mutex::new(LastReload { is_successful: true, succeeded: started }),
            backends,
            #[cfg(feature = "outgoing")]
            webhooks: outgoing.webhooks(),
            #[cfg(feature = "outgoing")]
            remote_keys: Mutex::new(outgoing.keys()),
            #[cfg(feature = "outgoing")]
            pusher_webhooks: OnceLock::new(),
        });
        if let Some(identity) = &identity {
            identity.keep_warning().map_err(|error| StartError::System {
                action: "start the thread that watches the certificate",
                error,
                remedy: THREAD_REMEDY,
            })?;
        }
        let admin_limit = admin_connections(options, descriptors) as usize;
        let admin = admin.map(|listener| admin_listener::start(listener, &watch, admin_limit)).transpose()?;
        // Unix sockets move to their paths in the last step that can fail, so that a failed start replaces no socket of
        // a running server.
        if let Err(error) = take_paths(pending) {
            admin.inspect(Admin::stop);
            return Err(error);
        }
        let doors = workers.addresses.iter().map(|address| address.door.clone());
        let publisher = Publisher::new(doors, &bans);
        let threads = workers.serve();
        let taken_over = admin.clone().filter(|_| options.takeover == Takeover::On);
        let control = Control {
            watch,
            publisher,
            plan: Arc::new(plan),
            taken_over,
            identity,
            passed,
            outgoing,
            pusher_apps: None,
        };
        Ok(Self { endpoints, backend, workers: threads, stats, control, admin })
    }

    /// Returns the addresses and paths of the listeners, with the ports that the kernel chose.
    pub fn endpoints(&self) -> &[Endpoint] {
        &self.endpoints
    }

    /// Returns the address of the admin listener, if there is one, with the port that the kernel chose.
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.admin.as_ref().map(Admin::address)
    }

    /// Returns the name of the I/O backend: `io-uring` or `epoll`.
    pub fn backend(&self) -> &'static str {
        self.backend
    }

    /// Returns the number of workers.
    pub fn workers(&self) -> usize {
        self.workers.len()
    }

    /// Returns the counters of all workers, added up.
    pub fn totals(&self) -> Totals {
        Totals::of(self.stats.iter().map(|stats| &**stats))
    }

    /// Returns the number of open connections, and the number of client addresses with connections. Addresses are
    /// counted only while [`Options::max_connections_per_ip`] is set.
    pub fn connections(&self) -> (u64, usize) {
        let admission = &self.control.watch.shared.admission;
        (admission.count(), admission.addresses())
    }

    /// Returns a handle that stops the server or changes its settings.
    pub fn control(&self) -> Control {
        self.control.clone()
    }

    /// Returns a handle that publishes into the server from any thread.
    pub fn publisher(&self) -> Publisher {
        self.control.publisher()
    }

    /// Stops the server: see [`Control::stop`].
    pub fn stop(&self) {
        self.control.stop();
    }

    /// Waits until the server's shutdown is complete. Webhooks get what waits for them for at most three seconds.
    pub fn join(&mut self) {
        for worker in self.workers.drain(..) {
            // The result is ignored, since a worker that panics aborts the process.
            let _ = worker.join();
        }
        self.control.outgoing.end();
        if let Some(admin) = self.admin.take() {
            admin.stop();
        }
    }
}

/// Returns a function that wraps the applications that `make` creates in the HTTP API for backends.
fn with_api(make: Arc<MakeApp>, backends: Arc<Backends>) -> Arc<MakeApp> {
    Arc::new(move |worker| Box::new(Api::new(make(worker), Arc::clone(&backends))))
}

/// Starts the workers. With the backend `auto`, memory may be too short for an io_uring ring on each worker; then all
/// workers use epoll.
fn spawn_workers(
    options: &Options,
    plan: &mut Plan,
    listeners: Vec<Vec<Listener>>,
    make: &Arc<MakeApp>,
) -> Result<(Workers, Arc<Shared>), StartError> {
    let start = |plan: &Plan, listeners| {
        let limits = plan.limits(options);
        let shared = Arc::new(Shared::new(limits));
        let workers = Workers::start(options, plan, listeners, &shared, make)?;
        let (connections, descriptors) = (limits.server, plan.descriptors);
        info!(limit = connections, descriptors, "room for {connections} connections");
        let (bytes, source) = options.memory_limit_bytes();
        info!(limit = bytes, "at most {} MiB are held for clients ({source})", bytes >> 20);
        Ok((workers, shared))
    };
    if options.backend != BackendName::Auto || plan.backend == BackendName::Epoll {
        return start(plan, listeners);
    }
    let clones = listeners.iter().map(|own| own.iter().map(Listener::try_clone).collect());
    let clones = clones.collect::<Result<_, _>>().map_err(|error| StartError::System {
        action: "duplicate a listening socket",
        error,
        remedy: DESCRIPTOR_REMEDY,
    })?;
    match start(plan, listeners) {
        Err(StartError::Backend { error, .. }) => {
            warn!(%error, "io_uring is not available for every worker; using epoll");
            let options = Options { backend: BackendName::Epoll, ..options.clone() };
            *plan = Plan { tls: plan.tls.take(), ..Plan::new(&options, plan.workers, plan.descriptors) };
            start(plan, clones)
        }
        result => result,
    }
}

/// Checks the options, and reads the certificate and its key if the options name them. `passed` lists the endpoints of
/// given sockets.
fn check(options: &Options, passed: &[Endpoint]) -> Result<Option<Credentials>, StartError> {
    options.check_on(passed)?;
    let files = options.tls_cert.as_ref().zip(options.tls_key.as_ref());
    Ok(files.map(|(cert, key)| Credentials::read(cert, key)).transpose()?)
}

/// Returns the text of a system error for the middle of a sentence: without the error number at its end, and beginning
/// with a small letter.
fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    let text = match text.rsplit_once(" (os error ") {
        Some((text, number)) if number.trim_end_matches(')').parse::<i32>().is_ok() => text,
        _ => &text,
    };
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_lowercase().chain(chars).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_system_error_is_shown_without_its_number_and_with_all_of_its_own_text() {
        assert_eq!(reason(&io::Error::from_raw_os_error(13)), "permission denied");
        let detailed = io::Error::other(format!("refused: {}; see x", io::Error::from_raw_os_error(1)));
        assert_eq!(reason(&detailed), "refused: Operation not permitted (os error 1); see x");
    }
}
