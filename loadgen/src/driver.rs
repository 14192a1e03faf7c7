//! A worker's loop: opens the worker's connections, runs the traffic, and reports to the coordinator.

use std::io;
use std::mem;
use std::sync::mpsc::{Receiver, Sender, TryRecvError};

use crate::clock::{SECOND_NS, now_ns};
use crate::connections::{Connections, Handler, Payload, Repeated, Response};
use crate::end::End;
use crate::plan::{Command, Plan, Report, Scenario, Share};
use crate::scenario::{MAX_FAILED_STARTS, Traffic};
use crate::thread_use::Meter;
use crate::totals::{Reasons, Totals};

/// Interval between a worker's progress reports to the coordinator, in nanoseconds.
const TICK_NS: u64 = SECOND_NS / 4;
/// Interval between a worker's checks that all messages have arrived, in nanoseconds.
const CHECK_NS: u64 = SECOND_NS / 1000;

/// Largest number of turns in which a worker reads its sockets again at the end of a run.
const MAX_LAST_TURNS: usize = 64;
/// Longest time in which a worker reads its sockets again at the end of a run, in nanoseconds.
const LAST_TURNS_NS: u64 = SECOND_NS / 10;

/// The state of a worker, without its connections. The driver is the event handler of the worker's connections.
pub(crate) struct Driver<T> {
    share: Share,
    scenario: Scenario,
    traffic: T,
    stage: Stage,
    in_flight: usize,
    grace_ns: u64,
    drain_ns: u64,
    /// Deadline for the arrival of the last messages, in nanoseconds. 0 before the traffic has ended.
    drained_ns: u64,
    /// Number of slots that are opened before the traffic starts.
    ramp_count: usize,
    /// The next slot to be opened before the traffic starts.
    next: usize,
    /// Number of the worker's connections that are open now.
    open: usize,
    /// Number of connections that the worker has opened since the start of the run.
    opened: u64,
    /// Number of messages that each sender of all workers has sent, by sender number. Empty until the traffic has
    /// ended.
    expected: Vec<u32>,
    /// The time of the next check that all messages have arrived, in nanoseconds.
    next_check_ns: u64,
    failures: Reasons,
    ends: Reasons,
    /// The worker opens no further connections, after a stop command, a lack of descriptors or ports, or too many
    /// failed first attempts.
    hopeless: bool,
    meter: Meter,
    next_tick_ns: u64,
    reports: Sender<Report>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The worker waits for the command to open its connections.
    Wait,
    /// The worker opens its connections.
    Ramp,
    /// The worker has opened its connections and waits for the start command.
    Hold,
    /// The worker runs the traffic.
    Run,
    /// The worker's traffic has stopped. The worker waits to be told how many messages each sender has sent.
    Stopped,
    /// The worker waits for the last messages to arrive.
    Drain,
    Over,
}

impl<T: Traffic> Driver<T> {
    pub(crate) fn new(plan: &Plan, share: Share, traffic: T, reports: Sender<Report>) -> Self {
        Self {
            share,
            scenario: plan.scenario,
            traffic,
            stage: Stage::Wait,
            in_flight: plan.in_flight,
            grace_ns: plan.grace_ns,
            drain_ns: plan.drain_ns,
            drained_ns: 0,
            ramp_count: if matches!(plan.scenario, Scenario::Connect { .. }) { 0 } else { share.count },
            next: 0,
            open: 0,
            opened: 0,
            expected: Vec::new(),
            next_check_ns: 0,
            failures: Reasons::default(),
            ends: Reasons::default(),
            hopeless: false,
            meter: Meter::default(),
            next_tick_ns: 0,
            reports,
        }
    }

    /// Runs the worker until its results are reported or the coordinator is gone.
    pub(crate) fn run(
        mut self,
        mut connections: Connections,
        commands: &Receiver<Command>,
    ) -> io::Result<()> {
        self.report(Report::Started);
        while self.stage != Stage::Over {
            match commands.try_recv() {
                Ok(command) => self.obey(command, &mut connections),
                Err(TryRecvError::Disconnected) => return Ok(()),
                Err(TryRecvError::Empty) => {}
            }
            let now = now_ns();
            self.step(&mut connections, now);
            connections.flush(&mut self);
            let until = match self.stage {
                Stage::Run => self.traffic.next_due(),
                Stage::Drain => Some(self.next_check_ns),
                _ => None,
            };
            connections.turn(until, &mut self, |worker, connections| worker.on_time(connections))?;
            if now >= self.next_tick_ns {
                self.next_tick_ns = now + TICK_NS;
                connections.expire(now, &mut self);
                self.tick();
            }
        }
        self.finish(connections)
    }

    fn obey(&mut self, command: Command, connections: &mut Connections) {
        let now = now_ns();
        match command {
            Command::Open => self.stage = Stage::Ramp,
            Command::Start(window) => {
                self.meter = Meter::new(window);
                self.traffic.start(connections, window, now);
                self.stage = Stage::Run;
            }
            Command::Stop => {
                self.hopeless = true;
                let window = &mut self.traffic.ledger().window;
                window.end_ns = window.end_ns.min(now);
            }
            Command::Finish(sent) => {
                self.traffic.ledger().last_ns = now;
                self.drained_ns = now + self.drain_ns;
                self.expected = sent;
                self.stage = Stage::Drain;
            }
        }
    }

    fn step(&mut self, connections: &mut Connections, now: u64) {
        match self.stage {
            Stage::Ramp => self.ramp(connections),
            Stage::Run => {
                self.meter.read(now);
                self.traffic.on_time(connections, now);
                if self.traffic.is_over(now) {
                    self.meter.stop(now);
                    self.stage = Stage::Stopped;
                    let sent = self.traffic.stop();
                    self.report(Report::Stopped(sent));
                }
            }
            Stage::Drain if now >= self.next_check_ns => {
                self.next_check_ns = now + CHECK_NS;
                let is_quiet = now > self.traffic.ledger().last_ns + self.grace_ns;
                if is_quiet || self.traffic.is_complete(&self.expected) {
                    self.stage = Stage::Over;
                } else if now > self.drained_ns {
                    self.traffic.ledger().is_cut = true;
                    self.stage = Stage::Over;
                }
            }
            Stage::Wait | Stage::Hold | Stage::Stopped | Stage::Drain | Stage::Over => {}
        }
    }

    /// Opens connections, with at most `in_flight` handshakes at a time. Reports when every handshake has ended.
    fn ramp(&mut self, connections: &mut Connections) {
        while !self.hopeless && self.next < self.ramp_count && connections.pending() < self.in_flight {
            let slot = self.next;
            self.next += 1;
            connections.open(slot, self.share.first + slot);
        }
        if connections.pending() == 0 && (self.hopeless || self.next == self.ramp_count) {
            self.stage = Stage::Hold;
            self.report(Report::Ready { open: self.open });
        }
    }

    fn failed(&mut self, end: End) {
        let local = matches!(end, End::Descriptors | End::PortsExhausted(_));
        self.failures.note(end.to_string());
        self.hopeless |= local || self.opened == 0 && self.failures.total() >= MAX_FAILED_STARTS;
    }

    fn on_time(&mut self, connections: &mut Connections) {
        if self.stage == Stage::Run {
            self.traffic.on_time(connections, now_ns());
        }
    }

    fn tick(&mut self) {
        let ledger = self.traffic.ledger();
        let mut tick = mem::take(&mut ledger.tick);
        tick.worker = self.share.worker;
        tick.faults = ledger.counts.faults();
        tick.open = self.open;
        self.report(Report::Tick(tick));
    }

    /// Reports the worker's results and closes its connections.
    fn finish(mut self, mut connections: Connections) -> io::Result<()> {
        self.take_last_events(&mut connections)?;
        let mut totals = Totals { opened: self.opened, ..Totals::default() };
        totals.threads.extend(self.meter.used());
        self.traffic.finish(&self.expected, &mut totals);
        self.tick();
        let ledger = self.traffic.ledger();
        totals.counts = ledger.counts;
        totals.latency = mem::take(&mut ledger.latency);
        totals.lag = mem::take(&mut ledger.lag);
        totals.rounds = mem::take(&mut ledger.rounds);
        totals.failures = mem::take(&mut self.failures);
        totals.ends = mem::take(&mut self.ends);
        totals.wire = connections.wire();
        connections.leave(&mut self);
        self.report(Report::Done(Box::new(totals)));
        Ok(())
    }

    /// Handles socket events that have already arrived. So the results include connections that the server closed at
    /// the very end.
    fn take_last_events(&mut self, connections: &mut Connections) -> io::Result<()> {
        let began = now_ns();
        for _ in 0..MAX_LAST_TURNS {
            let now = now_ns();
            let events = connections.turn(Some(now), self, |_, _| {})?;
            if events == 0 || now > began + LAST_TURNS_NS {
                break;
            }
        }
        if matches!(self.scenario, Scenario::Connect { .. }) {
            if self.traffic.ledger().is_cut {
                self.traffic.ledger().counts.unfinished += connections.pending() as u64;
            } else {
                connections.give_up_pending(self);
            }
        }
        Ok(())
    }

    fn report(&self, report: Report) {
        // An error means that the coordinator is gone. The worker sees this at its command channel.
        let _ = self.reports.send(report);
    }
}

impl<T: Traffic> Handler for Driver<T> {
    fn on_open(&mut self, connections: &mut Connections, slot: usize, now: u64) {
        self.open += 1;
        self.opened += 1;
        self.traffic.on_open(connections, slot, now);
    }

    fn recognise(&mut self, connections: &mut Connections, slot: usize, input: &[u8], now: u64) -> Repeated {
        self.traffic.recognise(connections, slot, input, now)
    }

    fn on_message(&mut self, connections: &mut Connections, slot: usize, message: Payload<'_>, now: u64) {
        self.traffic.on_message(connections, slot, message, now);
    }

    fn on_response(&mut self, connections: &mut Connections, slot: usize, response: Response<'_>, now: u64) {
        self.traffic.on_response(connections, slot, response, now);
    }

    fn on_drained(&mut self, connections: &mut Connections, slot: usize) {
        self.traffic.on_drained(connections, slot, now_ns());
    }

    fn on_end(&mut self, slot: usize, end: End, was_open: bool) {
        self.open -= usize::from(was_open);
        let is_fault = self.traffic.on_end(slot, &end);
        if !was_open && self.traffic.tries_again(slot) {
            return;
        }
        if !was_open {
            self.failed(end);
        } else if is_fault {
            self.ends.note(end.to_string());
        }
    }
}
