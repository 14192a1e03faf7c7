//! A worker: a thread with its own connections.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use mio::Waker;

use crate::connections::{ConnectionOptions, Connections};
use crate::driver::Driver;
use crate::net::Net;
use crate::plan::{Command, Plan, Report, Scenario, Share};
use crate::pusher::Session;
use crate::scenario::Traffic;
use crate::scenario::broadcast::Broadcast;
use crate::scenario::connect::Connect;
use crate::scenario::echo::Echo;
use crate::scenario::presence::Presence;
use crate::scenario::probe::Probe;
use crate::scenario::publish::Publish;
use crate::scenario::reconnect::{DelayRange, Reconnect};
use crate::scenario::requests::Requests;
use crate::scenario::storm::{Barrier, Storm};

/// The coordinator's handle to a worker thread of this process.
pub(crate) struct Handle {
    commands: Sender<Command>,
    waker: Arc<Waker>,
}

impl Handle {
    /// Sends a command to the worker. Does nothing if the worker has ended, because the worker has reported the reason.
    pub(crate) fn send(&self, command: Command) {
        if self.commands.send(command).is_ok() {
            // An error is ignored: without the wake-up, the worker finds the command within a tenth of a second.
            let _ = self.waker.wake();
        }
    }
}

/// Starts a worker thread for the connections `share` of the run `plan`.
pub(crate) fn start(
    plan: &Plan,
    share: Share,
    barrier: Arc<Barrier>,
    reports: Sender<Report>,
) -> io::Result<Handle> {
    let net = Net::new()?;
    let waker = net.waker();
    barrier.join(waker.clone());
    let (commands, orders) = channel();
    let options = ConnectionOptions {
        target: plan.target.clone(),
        post: plan.post.clone(),
        pusher: plan.pusher.clone(),
        tls: plan.tls_config().map_err(io::Error::other)?,
        timeout_ns: plan.timeout_ns,
        offer: plan.compression,
    };
    let connections = Connections::new(net, share.count, options);
    let worker = Worker { plan: plan.clone(), share, connections, commands: orders, reports };
    thread::Builder::new().name(format!("worker-{}", share.worker)).spawn(move || {
        let reports = worker.reports.clone();
        if let Err(error) = worker.choose(barrier) {
            // An error means that the coordinator is gone, so nobody needs the report.
            let _ = reports.send(Report::Broken(error.to_string()));
        }
    })?;
    Ok(Handle { commands, waker })
}

struct Worker {
    plan: Plan,
    share: Share,
    connections: Connections,
    commands: Receiver<Command>,
    reports: Sender<Report>,
}

impl Worker {
    /// Runs the worker with the traffic of the plan's scenario.
    fn choose(self, barrier: Arc<Barrier>) -> io::Result<()> {
        let (plan, share) = (&self.plan, self.share);
        match plan.scenario {
            Scenario::Echo { pipeline, rate } => {
                let traffic = Echo::new(plan, share, pipeline, rate);
                self.run(traffic)
            }
            Scenario::Broadcast { publishers, rate } => {
                let traffic = Broadcast::new(plan, share, publishers, rate);
                self.run(traffic)
            }
            Scenario::Idle { speak: 1.. } => {
                let traffic = Echo::new(plan, share, 1, None);
                self.run(traffic)
            }
            Scenario::Idle { speak: 0 } if plan.pusher.as_ref().is_some_and(Session::has_own_channels) => {
                let traffic = Probe::new(plan, share);
                self.run(traffic)
            }
            Scenario::Idle { speak: 0 } => {
                let traffic = Broadcast::new(plan, share, 1, 1.0);
                self.run(traffic)
            }
            Scenario::Storm => {
                let traffic = Storm::new(plan, share, barrier);
                self.run(traffic)
            }
            Scenario::Connect { rate } => {
                let traffic = Connect::new(plan, share, rate);
                self.run(traffic)
            }
            Scenario::Requests { pipeline } => {
                let traffic = Requests::new(plan, share, pipeline);
                self.run(traffic)
            }
            Scenario::Publish { rate, .. } => {
                let post = plan.post.as_ref().expect("a plan of this scenario has requests");
                let traffic = Publish::new(plan, share, post.publishers, rate);
                self.run(traffic)
            }
            Scenario::Presence { guests, rate } => {
                let traffic = Presence::new(plan, share, guests, rate);
                self.run(traffic)
            }
            Scenario::Reconnect { first_delay_ms, max_delay_ms, .. } => {
                let [first_ns, max_ns] = [first_delay_ms, max_delay_ms].map(|ms| ms * 1_000_000);
                let traffic = Reconnect::new(plan, share, DelayRange { first_ns, max_ns });
                self.run(traffic)
            }
        }
    }

    fn run(self, traffic: impl Traffic) -> io::Result<()> {
        Driver::new(&self.plan, self.share, traffic, self.reports).run(self.connections, &self.commands)
    }
}
