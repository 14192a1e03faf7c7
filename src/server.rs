//! The server: listeners, one shard a worker, signals.

use std::net::{SocketAddr, TcpListener};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::SystemTime;

use crossbeam_channel::{Receiver, Sender, bounded};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use tracing::{error, info, warn};

use crate::admin::{Admin, Watch, Watched};
use crate::app::{App, Chat, Echo, Relay};
use crate::config::{AppName, BackendName, Config};
use crate::hub::{self, Hub};
use crate::io::{Backend, Epoll, Options, Uring, Waker, listen};
use crate::protocol::Limits;
use crate::shard::admission::Admission;
use crate::shard::{Address, Mailbox, Pace, Settings, Shard, Shared, mailbox};
use crate::stats::{Stats, Totals};

/// Descriptors left for other things than connections: rings, wake-ups, standard streams.
const OTHER_DESCRIPTORS_PER_WORKER: u64 = 8;
const OTHER_DESCRIPTORS: u64 = 32;
/// With fewer connections than twice as many, all of them may be in their handshake at a time.
const LEAST_HANDSHAKES: u64 = 1024;
/// Most direct descriptors that a ring may have (`IORING_MAX_FIXED_FILES`).
const MAX_SLOTS: u64 = 1 << 20;

/// What keeps a server from starting: one line, with the way out.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Settings that cannot be.
    #[error("{0}")]
    Settings(String),
    /// An address that cannot be listened on.
    #[error("cannot listen on {address}: {error}; {remedy}")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// Why not.
        error: std::io::Error,
        /// What to do.
        remedy: &'static str,
    },
    /// The backend that was asked for is not to be had.
    #[error("cannot use {backend}: {error}; try --backend auto")]
    Backend {
        /// Which.
        backend: &'static str,
        /// Why not.
        error: std::io::Error,
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

/// A running server. [`Server::stop`] and [`Server::join`] end it; merely dropping it does not.
#[derive(Debug)]
pub struct Server {
    addresses: Vec<SocketAddr>,
    backend: &'static str,
    workers: Vec<JoinHandle<()>>,
    stats: Vec<Arc<Stats>>,
    stopper: Stopper,
    admin: Option<Admin>,
}

/// Tells a server to end, from any thread.
#[derive(Clone, Debug)]
pub struct Stopper {
    shared: Arc<Shared>,
    shards: Arc<[Address]>,
}

impl Stopper {
    /// Stops accepting, and closes all clients over the drain time.
    pub fn stop(&self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        for shard in &*self.shards {
            shard.wake();
        }
    }
}

impl Server {
    /// Starts the server with one of the applications that come with it.
    ///
    /// # Errors
    /// See [`StartError`].
    pub fn start(config: &Config) -> Result<Self, StartError> {
        match config.app {
            AppName::Chat => Self::start_app(config, |_| Box::<Chat>::default()),
            AppName::Relay => Self::start_app(config, |_| Box::<Relay>::default()),
            AppName::Echo => Self::start_app(config, |_| Box::<Echo>::default()),
        }
    }

    /// Starts the server with an application of your own: `make` is called once on each worker, with its index.
    ///
    /// # Errors
    /// See [`StartError`].
    pub fn start_app<F>(config: &Config, make: F) -> Result<Self, StartError>
    where
        F: Fn(u16) -> Box<dyn App> + Send + Sync + 'static,
    {
        config.check().map_err(StartError::Settings)?;
        let workers = config.worker_count();
        let admin = config.admin.map(listen_for_admin).transpose()?;
        let (addresses, listeners) = listen_all(&config.listen, workers)?;
        let descriptors = listen::raise_descriptor_limit()
            .map_err(|error| StartError::System { what: "raise the descriptor limit", error })?;
        let plan = Plan::new(config, workers, descriptors);
        let shared = Arc::new(Shared {
            admission: Admission::new(
                plan.max_connections,
                config.max_connections_per_ip,
                plan.max_handshakes,
            ),
            stopping: AtomicBool::new(false),
        });
        let make: Arc<Make> = Arc::new(make);
        let mut starting = Vec::new();
        for (worker, listeners) in (0..workers).zip(listeners) {
            starting.push(spawn(worker, config, &plan, listeners, &shared, &make)?);
        }
        let mut wakers = Vec::new();
        for worker in &starting {
            wakers.push(worker.ready.recv().unwrap_or_else(|_| Err(StartError::worker_died()))?);
        }
        let (shards, mailboxes): (Vec<_>, Vec<_>) = wakers.into_iter().map(mailbox).unzip();
        let (mut threads, mut stats) = (Vec::new(), Vec::new());
        for (worker, mailbox) in starting.into_iter().zip(mailboxes) {
            // A worker that is gone has said why already.
            let _ = worker.go.send((mailbox, shards.clone()));
            threads.push(worker.thread);
            stats.push(worker.stats);
        }
        let stopper = Stopper { shared, shards: shards.into() };
        info!("room for {} connections with {descriptors} descriptors", plan.max_connections);
        let backend = plan.backend_name();
        let admin = admin.map(|listener| start_admin(listener, backend, &stats, &stopper)).transpose()?;
        Ok(Self { addresses, backend, workers: threads, stats, stopper, admin })
    }

    /// The addresses that it listens on, with the ports that the kernel chose.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
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
        let admission = &self.stopper.shared.admission;
        (admission.count(), admission.addresses())
    }

    /// A handle that ends the server.
    pub fn stopper(&self) -> Stopper {
        self.stopper.clone()
    }

    /// Ends the server: see [`Stopper::stop`].
    pub fn stop(&self) {
        self.stopper.stop();
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

impl StartError {
    fn worker_died() -> Self {
        let error = std::io::Error::other("it ended before it began");
        Self::System { what: "start a worker", error }
    }
}

type Make = dyn Fn(u16) -> Box<dyn App> + Send + Sync;
type Go = (Mailbox, Vec<Address>);

/// What follows from the settings, the same for every worker.
#[derive(Clone, Debug)]
struct Plan {
    /// Counted once: a pinned thread sees one processor only.
    workers: u16,
    backend: BackendName,
    max_connections: u64,
    max_handshakes: u64,
    io: Options,
    /// Which processors the workers may use.
    cpus: Option<CpuSet>,
}

impl Plan {
    fn new(config: &Config, worker_count: u16, descriptors: u64) -> Self {
        let workers = u64::from(worker_count);
        let other = OTHER_DESCRIPTORS + OTHER_DESCRIPTORS_PER_WORKER * workers;
        let free = descriptors.saturating_sub(other).max(1);
        let with_slots = |slots: u64| Options {
            slots: u32::try_from(slots).unwrap_or(u32::MAX),
            buffers: config.receive_buffers,
            ..Options::default()
        };
        let ring = with_slots(free.min(MAX_SLOTS));
        let backend = match config.backend {
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
        let wanted = u64::from(config.max_connections);
        if wanted > possible {
            warn!(
                "--max-connections {wanted} is more than the {possible} that {descriptors} descriptors allow; \
                 raise the hard limit (ulimit -Hn){}",
                if backend == BackendName::IoUring { ", or --workers" } else { "" }
            );
        }
        let max_connections = if wanted == 0 { possible } else { wanted };
        let max_handshakes = match config.max_handshakes {
            0 => (max_connections / 2).max(LEAST_HANDSHAKES),
            chosen => chosen.into(),
        };
        Self {
            workers: worker_count,
            backend,
            max_connections,
            max_handshakes,
            io,
            cpus: sched_getaffinity(Pid::from_raw(0)).ok(),
        }
    }

    fn backend_name(&self) -> &'static str {
        if self.backend == BackendName::IoUring { "io-uring" } else { "epoll" }
    }
}

/// A worker that waits for its mailbox.
struct Starting {
    thread: JoinHandle<()>,
    ready: Receiver<Result<Waker, StartError>>,
    go: Sender<Go>,
    stats: Arc<Stats>,
}

fn spawn(
    worker: u16,
    config: &Config,
    plan: &Plan,
    listeners: Vec<TcpListener>,
    shared: &Arc<Shared>,
    make: &Arc<Make>,
) -> Result<Starting, StartError> {
    let stats = Arc::new(Stats::default());
    let (ready_sender, ready) = bounded(1);
    let (go, go_receiver) = bounded::<Go>(1);
    let own = (config.clone(), plan.clone(), Arc::clone(shared), Arc::clone(make), Arc::clone(&stats));
    let thread = std::thread::Builder::new()
        .name(format!("worker-{}", worker + 1))
        .spawn(move || {
            let (config, plan, shared, make, stats) = own;
            pin(worker, plan.cpus.as_ref());
            let start = Start {
                ids: (worker, plan.workers),
                config: &config,
                make: &*make,
                shared,
                stats,
                go: go_receiver,
            };
            if plan.backend == BackendName::IoUring {
                start.run(Uring::new(&plan.io, listeners), "io_uring", &ready_sender);
            } else {
                start.run(Epoll::new(&plan.io, listeners), "epoll", &ready_sender);
            }
        })
        .map_err(|error| StartError::System { what: "start a worker", error })?;
    Ok(Starting { thread, ready, go, stats })
}

/// What a worker needs besides its backend.
struct Start<'a> {
    /// Index of the worker, and how many there are.
    ids: (u16, u16),
    config: &'a Config,
    make: &'a Make,
    shared: Arc<Shared>,
    stats: Arc<Stats>,
    go: Receiver<Go>,
}

impl Start<'_> {
    fn run<B: Backend>(
        self,
        backend: std::io::Result<B>,
        name: &'static str,
        ready: &Sender<Result<Waker, StartError>>,
    ) {
        let result = match backend {
            Ok(backend) => {
                let Ok(app) = catch_unwind(AssertUnwindSafe(|| (self.make)(self.ids.0))) else {
                    let _ = ready.send(Err(StartError::Application));
                    return;
                };
                let _ = ready.send(Ok(backend.waker()));
                let Ok(go) = self.go.recv() else { return };
                let hub = Hub::new(hub_options(self.config, self.ids, &*app));
                let settings = settings(self.config, self.ids, &*app);
                let own = (backend, hub, app);
                let mut shard = Shard::new(settings, own, go, (self.shared, self.stats));
                catch_unwind(AssertUnwindSafe(|| shard.run()))
            }
            Err(error) => {
                let _ = ready.send(Err(StartError::Backend { backend: name, error }));
                return;
            }
        };
        match result {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error!(worker = self.ids.0 + 1, %error, "the backend is broken; giving up"),
            Err(_) => error!(worker = self.ids.0 + 1, "a worker panicked; giving up"),
        }
        // Its rooms and clients are in an unknown state, and the others rely on it.
        std::process::abort();
    }
}

fn hub_options(config: &Config, (shard, shards): (u16, u16), app: &dyn App) -> hub::Options {
    let history = if config.history_bytes > 0 { app.history() } else { 0 };
    hub::Options {
        shard,
        shards,
        lag_window: config.lag_window as usize,
        history,
        history_bytes: config.history_bytes as usize,
        history_ms: millis(config.history_seconds),
        compression_threshold: config.compression_threshold as usize,
        history_memory: match usize::try_from(config.history_memory).unwrap_or(usize::MAX) {
            0 => 0,
            bytes => (bytes / usize::from(shards)).max(1),
        },
    }
}

fn settings(config: &Config, (shard, shards): (u16, u16), app: &dyn App) -> Settings {
    let (messages, bytes) = app.rates();
    Settings {
        shard,
        shards,
        limits: Limits { max_message: config.max_message as usize },
        compression: config.compression,
        context_memory: config.context_memory as usize / usize::from(shards),
        pace: Pace {
            messages: config.message_rate.unwrap_or(messages),
            bytes: config.byte_rate.unwrap_or(bytes),
        },
        lag_policy: config.lag_policy,
        has_page: app.has_page(),
        handshake_ms: millis(config.handshake_seconds),
        ping_ms: millis(config.ping_seconds),
        pong_ms: millis(config.pong_seconds),
        close_ms: millis(config.close_seconds),
        drain_ms: millis(config.drain_seconds),
    }
}

fn millis(time: std::time::Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Binds every address once for each worker; the kernel spreads connections over them.
fn listen_all(
    wanted: &[SocketAddr],
    workers: u16,
) -> Result<(Vec<SocketAddr>, Vec<Vec<TcpListener>>), StartError> {
    let mut bound = Vec::new();
    let mut listeners: Vec<Vec<TcpListener>> = (0..workers).map(|_| Vec::new()).collect();
    for &address in wanted {
        let refused =
            |error: std::io::Error| StartError::Listen { address, remedy: remedy(&error, &LISTEN), error };
        // Sockets of one user share a port silently, so ask first whether another server has it.
        if address.port() != 0 {
            drop(TcpListener::bind(address).map_err(refused)?);
        }
        let mut actual = address;
        for own in &mut listeners {
            let listener = listen::listen(actual).map_err(refused)?;
            actual = listener.local_addr().map_err(refused)?;
            own.push(listener);
        }
        bound.push(actual);
    }
    Ok((bound, listeners))
}

/// Binds the address of the admin listener.
fn listen_for_admin(address: SocketAddr) -> Result<TcpListener, StartError> {
    TcpListener::bind(address).map_err(|error| StartError::Listen {
        address,
        remedy: remedy(&error, &ADMIN),
        error,
    })
}

fn start_admin(
    listener: TcpListener,
    backend: &'static str,
    stats: &[Arc<Stats>],
    stopper: &Stopper,
) -> Result<Admin, StartError> {
    let watched = |(stats, address): (&Arc<Stats>, &Address)| Watched {
        stats: Arc::clone(stats),
        address: address.clone(),
    };
    let watch = Watch {
        backend,
        started: SystemTime::now(),
        shared: Arc::clone(&stopper.shared),
        shards: stats.iter().zip(&*stopper.shards).map(watched).collect(),
    };
    Admin::start(listener, watch)
        .map_err(|error| StartError::System { what: "start a thread of the admin listener", error })
}

/// What to do about an address that cannot be listened on: when its port is taken, when it is privileged, otherwise.
type Remedies = [&'static str; 3];

const LISTEN: Remedies = [
    "another program has the port: end it, or choose another one with --listen",
    "ports below 1024 need a privilege (CAP_NET_BIND_SERVICE); choose a higher one with --listen",
    "choose another address with --listen",
];
const ADMIN: Remedies = [
    "another program has the port: end it, or choose another one with --admin",
    "ports below 1024 need a privilege (CAP_NET_BIND_SERVICE); choose a higher one with --admin",
    "choose another address with --admin",
];

fn remedy(error: &std::io::Error, [taken, privileged, other]: &Remedies) -> &'static str {
    match error.kind() {
        std::io::ErrorKind::AddrInUse => taken,
        std::io::ErrorKind::AddrNotAvailable => "no interface of this machine has that address",
        std::io::ErrorKind::PermissionDenied => privileged,
        _ => other,
    }
}

/// Pins this thread to the processor that is its own by turns. Without the permission it runs anywhere.
fn pin(worker: u16, cpus: Option<&CpuSet>) {
    let Some(cpus) = cpus else { return };
    let usable: Vec<usize> = (0..CpuSet::count()).filter(|cpu| cpus.is_set(*cpu).unwrap_or(false)).collect();
    if usable.is_empty() {
        return;
    }
    let cpu = usable[usize::from(worker) % usable.len()];
    let mut own = CpuSet::new();
    if own.set(cpu).and_then(|()| sched_setaffinity(Pid::from_raw(0), &own)).is_err() {
        info!(worker = worker + 1, cpu, "cannot pin the worker; it runs on any processor");
    }
}
