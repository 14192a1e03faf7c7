//! The server: listeners, one shard a worker, signals.

mod admin_listener;
mod listening;
mod signals;
mod workers;

use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::SystemTime;

use nix::sched::{CpuSet, sched_getaffinity};
use nix::unistd::Pid;
use tracing::{info, warn};

use crate::app::App;
#[cfg(feature = "server")]
use crate::app::{Chat, ChatOptions, Echo, Relay};
use crate::config::hosts::HostNames;
#[cfg(feature = "server")]
use crate::config::{AppName, Config};
use crate::config::{BackendName, Conflict, Endpoint, Options, Takeover};
pub use crate::io::Listener;
use crate::io::{BackendOptions, Uring, listen};
use crate::proxied::Trusted;
use crate::shard::admission::ConnectionLimits;
use crate::shard::{Address, Shared};
use crate::stats::Stats;
pub use crate::stats::Totals;
pub use crate::tls::IdentityError;
use crate::tls::{Credentials, Identity, TlsOptions};
use crate::watch::{LastReload, Watch, Watched};
use admin_listener::Admin;
use listening::{Listening, listen_all, share_all, take_paths};
use workers::{Crew, Make};

/// Descriptors left for other things than connections: rings, wake-ups, standard streams.
const OTHER_DESCRIPTORS_PER_WORKER: u64 = 8;
const OTHER_DESCRIPTORS: u64 = 32;
/// Connections of the admin listener at a time; the next one closes the oldest. Their descriptors are set aside, too.
const MAX_ADMIN_CONNECTIONS: u64 = 512;
/// With fewer connections than twice as many, all of them may be in their handshake at a time.
const LEAST_HANDSHAKES: u64 = 1024;
/// Most direct descriptors that a ring may have (`IORING_MAX_FIXED_FILES`).
const MAX_SLOTS: u64 = 1 << 20;

/// What keeps a server from starting: one line, with the way out.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Settings that cannot be.
    #[error("{0}")]
    Settings(#[from] Conflict),
    /// Something that cannot be listened on.
    #[error("cannot listen on {endpoint}: {error}; {remedy}")]
    Listen {
        /// Which.
        endpoint: Endpoint,
        /// Why not.
        error: std::io::Error,
        /// What to do.
        remedy: &'static str,
    },
    /// A certificate or key that is of no use.
    #[error("{0}")]
    Identity(#[from] IdentityError),
    /// A listener with TLS that has nothing to show.
    #[error("{0} needs a certificate and its key; name them with --tls-cert FILE and --tls-key FILE")]
    Certificate(Endpoint),
    /// The backend that was asked for is not to be had.
    #[error("cannot use {backend}: {error}; {remedy}")]
    Backend {
        /// Which.
        backend: &'static str,
        /// Why not.
        error: std::io::Error,
        /// What to do.
        remedy: &'static str,
    },
    /// The application could not be made.
    #[error("cannot start the application: it panicked; its message stands above")]
    Application,
    /// The kernel refused something else.
    #[error("cannot {what}: {error}")]
    System {
        /// What was tried.
        what: &'static str,
        /// Why not.
        error: std::io::Error,
    },
}

/// A socket that listens already, and where.
#[derive(Debug)]
pub struct Given {
    /// The socket; it may stay open elsewhere, too.
    pub listener: Listener,
    /// What clients connect to.
    pub endpoint: Endpoint,
}

/// A running server. [`Server::stop`] and [`Server::join`] end it; merely dropping it does not.
#[derive(Debug)]
pub struct Server {
    endpoints: Vec<Endpoint>,
    backend: &'static str,
    workers: Vec<JoinHandle<()>>,
    stats: Vec<Arc<Stats>>,
    control: Control,
    admin: Option<Admin>,
}

/// The changes that [`Control::reload`] has found in files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reloaded {
    /// The new certificate, if it is another one: subject, expiry and SHA-256 fingerprint.
    pub certificate: Option<String>,
}

/// Tells a server what to do, from any thread.
#[derive(Clone, Debug)]
pub struct Control {
    watch: Arc<Watch>,
    plan: Arc<Plan>,
    /// What ends with the call of `stop`, since another server answers there.
    taken_over: Option<Admin>,
    /// What listeners with TLS show, if there are any.
    identity: Option<Arc<Identity>>,
    /// Where the sockets listen that it was started on.
    passed: Vec<Endpoint>,
}

impl Control {
    /// Stops accepting, and closes all clients over the drain time.
    pub fn stop(&self) {
        self.watch.shared.stopping.store(true, Ordering::SeqCst);
        self.watch.wake();
        if let Some(admin) = &self.taken_over {
            admin.stop();
        }
    }

    /// Goes over to other settings; what clients send after this is judged by them. Of those that the help puts under
    /// "need a restart" the former ones stay. Nobody is closed for a limit on connections that has become smaller,
    /// and a deadline that runs already stays as it is. The certificate and its key are read again, for new connections.
    ///
    /// # Errors
    /// When they cannot be together, or the certificate is of no use; then all former ones stay.
    pub fn reload(&self, options: impl Into<Options>) -> Result<Reloaded, StartError> {
        let options = options.into();
        let credentials = check(&options, &self.passed).inspect_err(|_| self.reload_failed())?;
        let mut certificate = None;
        if let (Some(identity), Some(credentials)) = (&self.identity, credentials) {
            certificate = identity.replace(credentials).then(|| identity.description());
            identity.warn();
        }
        *self.watch.host_names() = HostNames::new(&options);
        self.watch.shared.admission.set_limits(self.plan.limits(&options));
        if let Some(trusted) = &self.plan.trusted {
            trusted.replace(&options.trusted_proxies);
        }
        // The listeners stay as they are until the server starts again.
        self.watch.shared.settings_update.publish(Options { listen: self.plan.listen.clone(), ..options });
        self.watch.wake();
        self.watch.reloaded(true);
        Ok(Reloaded { certificate })
    }

    /// Records that settings could not be loaded, for the metric `uproar_config_last_reload_successful`.
    /// [`Control::reload`] records its own errors.
    pub fn reload_failed(&self) {
        self.watch.reloaded(false);
    }

    /// Whether [`Control::stop`] was called.
    pub fn is_stopping(&self) -> bool {
        self.watch.is_draining()
    }

    /// Connections at this moment.
    pub fn connections(&self) -> u64 {
        self.watch.shared.admission.count()
    }

    /// Which workers hang, in words, if any do: those that have not turned for 5 s and do not within a second of being
    /// woken. It waits for that second.
    pub fn hung(&self) -> Option<String> {
        self.watch.hung()
    }
}

impl Server {
    /// Checks what [`Server::start_app`] would check before it listens. Returns a warning of one line if the certificate
    /// expires soon.
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

    /// Starts the server with the application that the settings name, on `given` sockets instead of
    /// [`Options::listen`], unless `given` is empty.
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
        }
    }

    /// Starts a server with your application. It serves clients on threads of its own from then on.
    ///
    /// `make` is called once on each worker, with the index of the worker. It is called again on each worker if the
    /// system does not have enough memory for a ring on each: all workers then start again on epoll.
    ///
    /// # Errors
    /// See [`StartError`]. A panic of `make` is [`StartError::Application`].
    pub fn start_app<F>(options: impl Into<Options>, make: F) -> Result<Self, StartError>
    where
        F: Fn(u16) -> Box<dyn App> + Send + Sync + 'static,
    {
        Self::start_app_on(Vec::new(), options, make)
    }

    /// Starts a server with your application on `given` sockets instead of [`Options::listen`], unless `given` is
    /// empty.
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
        Self::start_workers(given, &options.into(), Arc::new(make))
    }

    fn start_workers(given: Vec<Given>, options: &Options, make: Arc<Make>) -> Result<Self, StartError> {
        let passed: Vec<_> = given.iter().map(|given| given.endpoint.clone()).collect();
        let identity = check(options, &passed)?.map(|credentials| Arc::new(Identity::new(credentials)));
        let workers = options.worker_count();
        let admin = admin_listener::bind(options)?;
        let Listening { endpoints, listeners, pending } =
            if given.is_empty() { listen_all(options, workers) } else { share_all(given, workers) }?;
        if let Some(bare) = endpoints.iter().find(|endpoint| endpoint.has_tls() && identity.is_none()) {
            return Err(StartError::Certificate(bare.clone()));
        }
        let descriptors = listen::raise_descriptor_limit()
            .map_err(|error| StartError::System { what: "raise the descriptor limit", error })?;
        let mut plan = Plan::new(options, workers, descriptors);
        plan.tls = identity.clone().map(|identity| TlsOptions {
            listeners: endpoints.iter().map(Endpoint::has_tls).collect(),
            identity,
        });
        plan.listen = endpoints.clone();
        let options = &Options { listen: endpoints.clone(), ..options.clone() };
        let (crew, shared) = start_crew(options, &mut plan, listeners, &make)?;
        let stats = crew.stats();
        let backend = plan.backend_name();
        let watched = |(stats, address): (&Arc<Stats>, &Address)| Watched {
            stats: Arc::clone(stats),
            address: address.clone(),
        };
        let shards = stats.iter().zip(&crew.addresses).map(watched).collect();
        let started = SystemTime::now();
        let watch = Arc::new(Watch {
            backend,
            started,
            shared,
            shards,
            identity: identity.clone(),
            hosts: Mutex::new(HostNames::new(options)),
            last_reload: Mutex::new(LastReload { is_successful: true, succeeded: started }),
        });
        if let Some(identity) = &identity {
            let no_thread = |error| StartError::System { what: "start the thread of the certificate", error };
            identity.keep_warning().map_err(no_thread)?;
        }
        let admin_limit = admin_connections(options, descriptors) as usize;
        let admin = admin.map(|listener| admin_listener::start(listener, &watch, admin_limit)).transpose()?;
        // From here on nothing fails, so that no start that does takes a path from a server that runs.
        if let Err(error) = take_paths(pending) {
            admin.inspect(Admin::stop);
            return Err(error);
        }
        let threads = crew.go();
        let taken_over = admin.clone().filter(|_| options.takeover == Takeover::On);
        let control = Control { watch, plan: Arc::new(plan), taken_over, identity, passed };
        Ok(Self { endpoints, backend, workers: threads, stats, control, admin })
    }

    /// What it listens on, with the ports that the kernel chose.
    pub fn endpoints(&self) -> &[Endpoint] {
        &self.endpoints
    }

    /// The address of the admin listener, if there is one, with the port that the kernel chose.
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.admin.as_ref().map(Admin::address)
    }

    /// Which backend it runs on.
    pub fn backend(&self) -> &'static str {
        self.backend
    }

    /// Number of workers.
    pub fn workers(&self) -> usize {
        self.workers.len()
    }

    /// What was counted so far.
    pub fn totals(&self) -> Totals {
        Totals::of(self.stats.iter().map(|stats| &**stats))
    }

    /// Connections at this moment, and the addresses that they are from, as far as these are counted.
    pub fn connections(&self) -> (u64, usize) {
        let admission = &self.control.watch.shared.admission;
        (admission.count(), admission.addresses())
    }

    /// A handle that ends the server or changes its settings.
    pub fn control(&self) -> Control {
        self.control.clone()
    }

    /// Ends the server: see [`Control::stop`].
    pub fn stop(&self) {
        self.control.stop();
    }

    /// Waits until the server has ended.
    pub fn join(&mut self) {
        for worker in self.workers.drain(..) {
            // A worker that panics aborts the process.
            let _ = worker.join();
        }
        if let Some(admin) = self.admin.take() {
            admin.stop();
        }
    }
}

/// Checks the settings, and reads the certificate and its key if there are listeners for them.
fn check(options: &Options, passed: &[Endpoint]) -> Result<Option<Credentials>, StartError> {
    options.check_on(passed)?;
    let files = options.tls_cert.as_ref().zip(options.tls_key.as_ref());
    Ok(files.map(|(cert, key)| Credentials::read(cert, key)).transpose()?)
}

/// Starts the workers. Where memory is limited there may be a ring and not one for each; unless io_uring was asked for,
/// all are on epoll then.
fn start_crew(
    options: &Options,
    plan: &mut Plan,
    listeners: Vec<Vec<Listener>>,
    make: &Arc<Make>,
) -> Result<(Crew, Arc<Shared>), StartError> {
    let start = |plan: &Plan, listeners| {
        let limits = plan.limits(options);
        let shared = Arc::new(Shared::new(limits));
        let crew = Crew::start(options, plan, listeners, &shared, make)?;
        let (connections, descriptors) = (limits.server, plan.descriptors);
        info!(limit = connections, descriptors, "room for {connections} connections");
        Ok((crew, shared))
    };
    if options.backend != BackendName::Auto || plan.backend == BackendName::Epoll {
        return start(plan, listeners);
    }
    let clones = listeners.iter().map(|own| own.iter().map(Listener::try_clone).collect());
    let clones = clones
        .collect::<Result<_, _>>()
        .map_err(|error| StartError::System { what: "share a listener", error })?;
    match start(plan, listeners) {
        Err(StartError::Backend { error, .. }) => {
            warn!(%error, "io_uring is not to be had for every worker; using epoll");
            let options = Options { backend: BackendName::Epoll, ..options.clone() };
            *plan = Plan { tls: plan.tls.take(), ..Plan::new(&options, plan.workers, plan.descriptors) };
            start(plan, clones)
        }
        result => result,
    }
}

/// What follows from the settings, the same for every worker.
#[derive(Clone, Debug)]
struct Plan {
    /// Counted once: a pinned thread sees one processor only.
    workers: u16,
    /// The addresses and paths of the listeners, in their order.
    listen: Vec<Endpoint>,
    backend: BackendName,
    /// How many of them the process may have, and how many connections these allow.
    descriptors: u64,
    possible: u64,
    io: BackendOptions,
    /// Which listeners have TLS, if there are any.
    tls: Option<TlsOptions>,
    /// Whose connections begin with a PROXY header, if some do.
    trusted: Option<Arc<Trusted>>,
    /// Which processors the workers may use.
    cpus: Option<CpuSet>,
}

impl Plan {
    fn new(options: &Options, worker_count: u16, descriptors: u64) -> Self {
        let workers = u64::from(worker_count);
        let admin = admin_connections(options, descriptors);
        let other = OTHER_DESCRIPTORS + OTHER_DESCRIPTORS_PER_WORKER * workers + admin;
        let free = descriptors.saturating_sub(other).max(1);
        let with_slots = |slots: u64| BackendOptions {
            slots: u32::try_from(slots).unwrap_or(u32::MAX),
            buffers: options.receive_buffers,
            ..BackendOptions::default()
        };
        let ring = with_slots(free.min(MAX_SLOTS));
        let backend = match options.backend {
            BackendName::Auto => match Uring::new(&ring, Vec::new()) {
                Ok(_) => BackendName::IoUring,
                Err(error) => {
                    warn!(%error, "io_uring is not to be had; using epoll");
                    BackendName::Epoll
                }
            },
            chosen => chosen,
        };
        let io = if backend == BackendName::IoUring { ring } else { with_slots(free) };
        // A ring has its own table of descriptors, and the limit holds for each.
        let possible = if backend == BackendName::IoUring { u64::from(io.slots) * workers } else { free };
        Self {
            workers: worker_count,
            listen: options.listen.clone(),
            backend,
            descriptors,
            possible,
            io,
            tls: None,
            trusted: options.proxy_protocol.then(|| Arc::new(Trusted::new(&options.trusted_proxies))),
            cpus: sched_getaffinity(Pid::from_raw(0)).ok(),
        }
    }

    /// How many connections there may be with these settings.
    fn limits(&self, options: &Options) -> ConnectionLimits {
        let Self { descriptors, possible, .. } = *self;
        let wanted = u64::from(options.max_connections);
        if wanted > possible {
            warn!(
                wanted,
                possible,
                descriptors,
                "--max-connections {wanted} is more than {descriptors} descriptors allow, so the limit is {possible}; \
                 raise the hard limit of descriptors (ulimit -Hn){}",
                if self.backend == BackendName::IoUring { " or --workers" } else { "" }
            );
        }
        let server = if wanted == 0 { possible } else { wanted.min(possible) };
        let handshakes = match options.max_handshakes {
            0 => (server / 2).max(LEAST_HANDSHAKES),
            chosen => chosen.into(),
        };
        ConnectionLimits { server, per_address: options.max_connections_per_ip, handshakes }
    }

    fn backend_name(&self) -> &'static str {
        if self.backend == BackendName::IoUring { "io-uring" } else { "epoll" }
    }
}

/// Returns the limit of connections of the admin listener: 0 without one.
#[cfg(feature = "admin")]
fn admin_connections(options: &Options, descriptors: u64) -> u64 {
    options.admin.map_or(0, |_| (descriptors / 8).clamp(1, MAX_ADMIN_CONNECTIONS))
}

#[cfg(not(feature = "admin"))]
fn admin_connections(_options: &Options, _descriptors: u64) -> u64 {
    0
}

#[cfg(all(test, feature = "server"))]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::config::tests::other_value;
    use crate::config::{Cli, keys, needs_restart, options};
    use crate::shard::{Settings, ShardId, hub_options};

    /// All that [`Control::reload`] and the log make of settings.
    fn in_force(config: &Config) -> String {
        let epoll = Options { backend: BackendName::Epoll, ..Options::default() };
        let options = Options::from(config);
        let (plan, id, app) = (Plan::new(&epoll, 1, 1_000), ShardId { index: 0, count: 1 }, Relay);
        let shard = (Settings::new(&options, id, &app), hub_options(&options, id, &app));
        let identity = config.tls_cert.as_ref().or(config.tls_key.as_ref());
        format!("{shard:?} {:?} {} {identity:?}", plan.limits(&options), config.log)
    }

    /// Whoever adds an option has `reload` take it over, or puts it under those that need a restart.
    #[test]
    fn each_option_changes_at_once_unless_the_help_says_that_it_needs_a_restart() {
        let options = options();
        let of = |argument: &[&str]| {
            let cli = Cli::try_parse_from([&["uproar"], argument].concat());
            cli.unwrap_or_else(|error| panic!("{argument:?}: {error}")).into_config()
        };
        let before = in_force(&of(&[]));
        for option in keys(&options) {
            let argument = format!("--{}={}", option.get_long().expect("a name"), other_value(option));
            let is_live = in_force(&of(&[&argument])) != before;
            assert_eq!(is_live, !needs_restart(option), "{argument}");
        }
    }
}
