//! The threads of the server: each has a backend, an application and a shard.

use std::any::Any;
use std::io::{self, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender, bounded};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use tracing::{dispatcher, error, info};

use crate::app::App;
use crate::config::{BackendName, Options};
use crate::hub::Hub;
use crate::io::{Backend, Epoll, Listener, Uring, Waker};
use crate::proxied::ProxyLayer;
use crate::shard::{Address, Mailbox, Parts, Settings, Shard, ShardId, Shared, hub_options, mailbox};
use crate::stats::Stats;
use crate::tls::TlsLayer;
use crate::transport::{Layers, Transport};

use super::plan::Plan;
use super::{StartError, THREAD_REMEDY};

/// The function that creates the application of a worker, called with the worker's index.
pub(super) type MakeApp = dyn Fn(u16) -> Box<dyn App> + Send + Sync;

/// Started worker threads that wait for [`Workers::serve`]. Dropping the value before that call ends them.
pub(super) struct Workers {
    starting: Vec<Starting>,
    mailboxes: Vec<Mailbox>,
    pub(super) addresses: Vec<Address>,
}

/// A worker thread that has started and waits for its [`Links`].
struct Starting {
    thread: JoinHandle<()>,
    /// Receives the worker's waker, or its start error.
    ready: Receiver<Result<Waker, StartError>>,
    /// Sends the worker its links, after which the worker serves. Dropping this sender before that ends the worker.
    links: Sender<Links>,
    stats: Arc<Stats>,
}

/// The links of a worker to all shards: its mailbox, and the addresses of all mailboxes.
struct Links {
    mailbox: Mailbox,
    /// The address of each shard's mailbox, by shard index.
    addresses: Vec<Address>,
}

impl Workers {
    /// Starts one worker thread for each list of listeners. After an error all worker threads have ended.
    pub(super) fn start(
        options: &Options,
        plan: &Plan,
        listeners: Vec<Vec<Listener>>,
        shared: &Arc<Shared>,
        make: &Arc<MakeApp>,
    ) -> Result<Self, StartError> {
        let mut starting = Vec::new();
        let spawned = (0..).zip(listeners).try_for_each(|(worker, listeners)| {
            starting.push(spawn(worker, options, plan, listeners, shared, make)?);
            Ok(())
        });
        let wakers: Result<Vec<_>, _> = spawned.and_then(|()| starting.iter().map(Starting::waker).collect());
        match wakers {
            Ok(wakers) => {
                let (addresses, mailboxes) = wakers.into_iter().map(mailbox).unzip();
                Ok(Self { starting, mailboxes, addresses })
            }
            Err(error) => {
                dismiss(starting);
                Err(error)
            }
        }
    }

    /// Returns the counters of each worker.
    pub(super) fn stats(&self) -> Vec<Arc<Stats>> {
        self.starting.iter().map(|worker| Arc::clone(&worker.stats)).collect()
    }

    /// Sends all workers their links, so that they serve clients. Returns the threads of the workers.
    pub(super) fn serve(mut self) -> Vec<JoinHandle<()>> {
        let mut threads = Vec::new();
        for (worker, mailbox) in self.starting.drain(..).zip(self.mailboxes.drain(..)) {
            // The send fails only if the worker has died, and a dying worker aborts the process.
            let _ = worker.links.send(Links { mailbox, addresses: self.addresses.clone() });
            threads.push(worker.thread);
        }
        threads
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        dismiss(std::mem::take(&mut self.starting));
    }
}

/// Ends workers that do not serve yet, and waits until their listeners are closed.
fn dismiss(starting: Vec<Starting>) {
    for Starting { thread, links, .. } in starting {
        drop(links);
        // The result is ignored, since the panic hook has reported a panic of the worker.
        let _ = thread.join();
    }
}

impl Starting {
    /// Waits until the worker is ready. Returns the worker's waker, or its start error.
    fn waker(&self) -> Result<Waker, StartError> {
        let died = || StartError::System {
            action: "start a worker",
            error: io::Error::other("its thread ended early"),
            remedy: "see the panic message above",
        };
        self.ready.recv().unwrap_or_else(|_| Err(died()))
    }
}

fn spawn(
    worker: u16,
    options: &Options,
    plan: &Plan,
    listeners: Vec<Listener>,
    shared: &Arc<Shared>,
    make: &Arc<MakeApp>,
) -> Result<Starting, StartError> {
    let stats = Arc::new(Stats::default());
    let (ready_sender, ready) = bounded(1);
    let (links, links_receiver) = bounded(1);
    let start = Start {
        id: ShardId { index: worker, count: plan.workers },
        options: options.clone(),
        plan: plan.clone(),
        make: Arc::clone(make),
        shared: Arc::clone(shared),
        stats: Arc::clone(&stats),
        links: links_receiver,
        ready: ready_sender,
    };
    let thread = std::thread::Builder::new()
        .name(format!("worker-{}", worker + 1))
        .spawn(move || start.run(listeners))
        .map_err(|error| StartError::System { action: "start a worker", error, remedy: THREAD_REMEDY })?;
    Ok(Starting { thread, ready, links, stats })
}

/// The data that a worker's thread needs to create its shard.
struct Start {
    id: ShardId,
    options: Options,
    plan: Plan,
    make: Arc<MakeApp>,
    shared: Arc<Shared>,
    stats: Arc<Stats>,
    links: Receiver<Links>,
    ready: Sender<Result<Waker, StartError>>,
}

impl Start {
    /// Runs the worker on this thread until the server has ended.
    fn run(self, listeners: Vec<Listener>) {
        pin(self.id.index, self.plan.cpus.as_ref());
        if self.plan.backend == BackendName::IoUring {
            let backend = Uring::new(&self.plan.io, listeners);
            self.run_on(backend, "io_uring", "use --backend auto or epoll");
        } else {
            let backend = Epoll::new(&self.plan.io, listeners);
            self.run_on(backend, "epoll", "raise the limits of open files and memory (ulimit -n, ulimit -v)");
        }
    }

    fn run_on<B: Backend>(self, backend: io::Result<B>, name: &'static str, remedy: &'static str) {
        let backend = match backend {
            Ok(backend) => backend,
            Err(error) => {
                let _ = self.ready.send(Err(StartError::Backend { backend: name, error, remedy }));
                return;
            }
        };
        let layers =
            Layers { proxy: self.plan.trusted.map(ProxyLayer::new), tls: self.plan.tls.map(TlsLayer::new) };
        let transport = Transport::new(backend, layers);
        let Ok(app) = catch_unwind(AssertUnwindSafe(|| (self.make)(self.id.index))) else {
            let _ = self.ready.send(Err(StartError::Application));
            return;
        };
        let _ = self.ready.send(Ok(transport.waker()));
        let Ok(Links { mailbox, addresses }) = self.links.recv() else { return };
        let mut shard = Shard::new(Parts {
            settings: Settings::new(&self.options, self.id, &*app),
            transport,
            hub: Hub::new(hub_options(&self.options, self.id, &*app)),
            app,
            mailbox,
            addresses,
            shared: self.shared,
            stats: self.stats,
        });
        match catch_unwind(AssertUnwindSafe(|| shard.run())) {
            Ok(Ok(())) => {}
            Ok(Err(error)) => abort(self.id.index, &format!("the backend failed: {error}")),
            Err(panic) => abort(self.id.index, &format!("it panicked: {}", panic_message(&*panic))),
        }
    }
}

/// Reports that a worker has failed and aborts the process. The worker's rooms and clients are in an unknown state, and
/// the other workers depend on it.
fn abort(worker: u16, reason: &str) -> ! {
    let worker = worker + 1;
    error!(worker, reason, "a worker failed; the process aborts");
    // A program that embeds the server may have no log, so the error also goes to stderr.
    if !dispatcher::has_been_set() {
        let _ = writeln!(io::stderr(), "uproar: worker {worker} failed; the process aborts: {reason}");
    }
    std::process::abort();
}

/// Returns the text of a panic's payload, for the log.
fn panic_message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("without a message")
}

/// Pins this thread to one of the usable processors, in turn by worker index. Without the permission the thread runs on
/// any processor.
fn pin(worker: u16, cpus: Option<&CpuSet>) {
    let Some(cpus) = cpus else { return };
    let usable: Vec<usize> = (0..CpuSet::count()).filter(|cpu| cpus.is_set(*cpu).unwrap_or(false)).collect();
    if usable.is_empty() {
        return;
    }
    let cpu = usable[usize::from(worker) % usable.len()];
    let mut own = CpuSet::new();
    if own.set(cpu).and_then(|()| sched_setaffinity(Pid::from_raw(0), &own)).is_err() {
        info!(worker = worker + 1, cpu, "cannot pin the worker to a processor; it runs on any of them");
    }
}
