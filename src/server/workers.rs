//! The threads of the server: each has a backend, an application and a shard.

use std::any::Any;
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender, bounded};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use tracing::{dispatcher, error, info};

use super::{Plan, StartError};
use crate::app::App;
use crate::config::{BackendName, Options};
use crate::hub::Hub;
use crate::io::{Backend, Epoll, Listener, Uring, Waker};
use crate::proxied::{ProxyLayer, Trusted};
use crate::shard::{Address, Mailbox, Parts, Settings, Shard, ShardId, Shared, hub_options, mailbox};
use crate::stats::Stats;
use crate::tls::{TlsLayer, TlsOptions};
use crate::transport::{Layers, Transport};

pub(super) type Make = dyn Fn(u16) -> Box<dyn App> + Send + Sync;
type Go = (Mailbox, Vec<Address>);

/// All workers, with nothing left to fail; they wait to be let go. When it is dropped before that, they end.
pub(super) struct Crew {
    starting: Vec<Starting>,
    mailboxes: Vec<Mailbox>,
    pub(super) addresses: Vec<Address>,
}

/// A worker that waits for its mailbox.
struct Starting {
    thread: JoinHandle<()>,
    ready: Receiver<Result<Waker, StartError>>,
    go: Sender<Go>,
    stats: Arc<Stats>,
}

impl Crew {
    /// Starts a worker for each of the lists of listeners. If one cannot start, all have ended when this returns.
    pub(super) fn start(
        options: &Options,
        plan: &Plan,
        listeners: Vec<Vec<Listener>>,
        shared: &Arc<Shared>,
        make: &Arc<Make>,
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

    /// What each worker counts.
    pub(super) fn stats(&self) -> Vec<Arc<Stats>> {
        self.starting.iter().map(|worker| Arc::clone(&worker.stats)).collect()
    }

    /// Lets the workers serve.
    pub(super) fn go(mut self) -> Vec<JoinHandle<()>> {
        let mut threads = Vec::new();
        for (worker, mailbox) in self.starting.drain(..).zip(self.mailboxes.drain(..)) {
            // A worker that is gone has said why already.
            let _ = worker.go.send((mailbox, self.addresses.clone()));
            threads.push(worker.thread);
        }
        threads
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        dismiss(std::mem::take(&mut self.starting));
    }
}

/// Has workers end that will not be let go, and waits until their listeners are closed.
fn dismiss(starting: Vec<Starting>) {
    for Starting { thread, go, .. } in starting {
        drop(go);
        // A worker that panics has said so.
        let _ = thread.join();
    }
}

impl Starting {
    /// Waits until it is ready.
    fn waker(&self) -> Result<Waker, StartError> {
        let died = || StartError::System {
            what: "start a worker",
            error: std::io::Error::other("it ended before it began"),
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
    make: &Arc<Make>,
) -> Result<Starting, StartError> {
    let stats = Arc::new(Stats::default());
    let (ready_sender, ready) = bounded(1);
    let (go, go_receiver) = bounded::<Go>(1);
    let own = (options.clone(), plan.clone(), Arc::clone(shared), Arc::clone(make), Arc::clone(&stats));
    let thread = std::thread::Builder::new()
        .name(format!("worker-{}", worker + 1))
        .spawn(move || {
            let (options, plan, shared, make, stats) = own;
            pin(worker, plan.cpus.as_ref());
            let start = Start {
                id: ShardId { index: worker, count: plan.workers },
                tls: plan.tls,
                options: &options,
                make: &*make,
                shared,
                stats,
                go: go_receiver,
                trusted: plan.trusted,
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
    id: ShardId,
    tls: Option<TlsOptions>,
    options: &'a Options,
    make: &'a Make,
    shared: Arc<Shared>,
    stats: Arc<Stats>,
    go: Receiver<Go>,
    trusted: Option<Arc<Trusted>>,
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
                let layers =
                    Layers { proxy: self.trusted.map(ProxyLayer::new), tls: self.tls.map(TlsLayer::new) };
                let transport = Transport::new(backend, layers);
                let Ok(app) = catch_unwind(AssertUnwindSafe(|| (self.make)(self.id.index))) else {
                    let _ = ready.send(Err(StartError::Application));
                    return;
                };
                let _ = ready.send(Ok(transport.waker()));
                let Ok((mailbox, addresses)) = self.go.recv() else { return };
                let hub = Hub::new(hub_options(self.options, self.id, &*app));
                let mut shard = Shard::new(Parts {
                    settings: Settings::new(self.options, self.id, &*app),
                    backend: transport,
                    hub,
                    app,
                    mailbox,
                    addresses,
                    shared: self.shared,
                    stats: self.stats,
                });
                catch_unwind(AssertUnwindSafe(|| shard.run()))
            }
            Err(error) => {
                let remedy = match name {
                    "io_uring" => "try --backend auto",
                    _ => "is the number of descriptors or memory limited (ulimit -n, ulimit -v)?",
                };
                let _ = ready.send(Err(StartError::Backend { backend: name, error, remedy }));
                return;
            }
        };
        let why = match result {
            Ok(Ok(())) => return,
            Ok(Err(error)) => format!("the backend is broken: {error}"),
            Err(panic) => format!("it panicked: {}", said_by(&*panic)),
        };
        let worker = self.id.index + 1;
        error!(worker, why, "a worker gives up");
        // A program that embeds the server may have no log.
        if !dispatcher::has_been_set() {
            let _ = writeln!(std::io::stderr(), "uproar: worker {worker} gives up: {why}");
        }
        // Its rooms and clients are in an unknown state, and the others rely on it.
        std::process::abort();
    }
}

/// What a panic said.
fn said_by(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("without a word")
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
