//! A worker's loop: opens its share of the connections, runs the traffic on them, and reports.

use std::io;
use std::mem;
use std::sync::mpsc::{Receiver, Sender, TryRecvError};

use crate::clock::{SECOND_NS, now_ns};
use crate::connections::{Connections, Handler, Payload, Repeated};
use crate::end::End;
use crate::plan::{Command, Plan, Report, Scenario, Share};
use crate::scenario::{MAX_FAILED_STARTS, Traffic};
use crate::thread_use::Meter;
use crate::totals::{Reasons, Totals};

/// Interval between reports to the coordinator, in nanoseconds.
const TICK_NS: u64 = SECOND_NS / 4;
/// Interval between checks that all messages have arrived, in nanoseconds.
const CHECK_NS: u64 = SECOND_NS / 1000;

/// Bounds for reading the sockets again at the end: number of turns, and nanoseconds.
const MAX_LAST_TURNS: usize = 64;
const LAST_TURNS_NS: u64 = SECOND_NS / 10;

/// The state of a worker. It does not contain the connections, so that it can be their handler.
pub(crate) struct Driver<T> {
    share: Share,
    scenario: Scenario,
    traffic: T,
    stage: Stage,
    in_flight: usize,
    grace_ns: u64,
    drain_ns: u64,
    /// Deadline for the last messages, in nanoseconds.
    drained_ns: u64,
    /// The number of slots that are opened before the traffic starts, and the next one of them.
    ramp_count: usize,
    next: usize,
    /// The number of connections that are open now, and that were opened so far.
    open: usize,
    opened: u64,
    /// The number of messages that each sender of all workers has sent, known at the end.
    expected: Vec<u32>,
    /// The time of the next check that all messages have arrived, in nanoseconds.
    next_check_ns: u64,
    failures: Reasons,
    ends: Reasons,
    /// No further connection is opened.
    hopeless: bool,
    meter: Meter,
    next_tick_ns: u64,
    reports: Sender<Report>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Waits for the command to open connections.
    Wait,
    /// Opens connections.
    Ramp,
    /// All connections are open, and nothing is sent.
    Hold,
    /// Runs the traffic.
    Run,
    /// The traffic has stopped. The number of messages that other workers have sent is not known yet.
    Stopped,
    /// Waits for the last messages.
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

    /// Runs until the work is done or the coordinator is gone.
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

    /// Keeps the wanted number of handshakes under way.
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

    /// Reports the results and closes the connections.
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

    /// Handles events that have already arrived, so that a server which closes connections at the very end is caught.
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
        // The command channel shows that the coordinator is gone.
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
