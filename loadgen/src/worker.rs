//! Starts one worker as a thread with its own connections.

use crate::connections::Connections;
use crate::net::Net;
use crate::plan::{Command, Plan, Report, Scenario, Share};
use crate::population::Population;
use crate::scenario::Traffic;
use crate::scenario::broadcast::Broadcast;
use crate::scenario::connect::Connect;
use crate::scenario::echo::Echo;
use crate::scenario::storm::{Barrier, Storm};
use mio::Waker;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

/// The other end of a worker in this process.
pub(crate) struct Handle {
    commands: Sender<Command>,
    waker: Arc<Waker>,
}

impl Handle {
    /// Tells the worker; one that is gone has reported why.
    pub(crate) fn send(&self, command: Command) {
        if self.commands.send(command).is_ok() {
            // A worker that cannot be woken looks by itself in a tenth of a second.
            let _ = self.waker.wake();
        }
    }
}

/// Starts the thread that takes `share` of `plan`.
pub(crate) fn start(
    plan: &Plan,
    share: Share,
    barrier: Arc<Barrier>,
    reports: Sender<Report>,
) -> io::Result<Handle> {
    let net = Net::new()?;
    let waker = net.waker();
    barrier.join(waker.clone());
    let connections = Connections::new(net, plan.target.clone(), share.count, plan.timeout_ns);
    let (commands, orders) = channel();
    let plan = plan.clone();
    thread::Builder::new().name(format!("worker-{}", share.worker)).spawn(move || {
        if let Err(error) = run(&plan, share, barrier, connections, &orders, &reports) {
            let _ = reports.send(Report::Broken(error.to_string()));
        }
    })?;
    Ok(Handle { commands, waker })
}

fn run(
    plan: &Plan,
    share: Share,
    barrier: Arc<Barrier>,
    connections: Connections,
    commands: &Receiver<Command>,
    reports: &Sender<Report>,
) -> io::Result<()> {
    fn go<T: Traffic>(
        plan: &Plan,
        share: Share,
        traffic: T,
        reports: &Sender<Report>,
        connections: Connections,
        commands: &Receiver<Command>,
    ) -> io::Result<()> {
        Population::new(plan, share, traffic, reports.clone()).run(connections, commands)
    }
    match plan.scenario {
        Scenario::Echo { pipeline, rate } => {
            let traffic = Echo::new(plan, share, pipeline, rate);
            go(plan, share, traffic, reports, connections, commands)
        }
        Scenario::Broadcast { publishers, rate } => {
            let traffic = Broadcast::new(plan, share, publishers, rate);
            go(plan, share, traffic, reports, connections, commands)
        }
        Scenario::Idle => {
            let traffic = Broadcast::new(plan, share, 1, 1.0);
            go(plan, share, traffic, reports, connections, commands)
        }
        Scenario::Storm => go(plan, share, Storm::new(plan, share, barrier), reports, connections, commands),
        Scenario::Connect { rate } => {
            go(plan, share, Connect::new(plan, share, rate), reports, connections, commands)
        }
    }
}
