//! The shard: the loop that connects sockets, protocol, application and rooms.
//!
//! A turn handles the events of the backend, then mail from other shards, then deadlines. At its end it gives a bounded
//! number of sends to the backend, which hands them to the kernel with the next turn's single system call.

pub(crate) mod admission;
mod app_calls;
mod clock;
mod connection;
mod drain;
mod events;
mod flow;
mod http;
mod input;
#[cfg(test)]
pub(crate) mod inspect;
mod journal;
mod life;
mod mail;
mod mailbox;
mod measure;
mod pace;
mod peers;
mod requests;
mod settings;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tracing::warn;

use crate::app::{App, Closing};
use crate::hub::{Hub, Slot};
use crate::io::{Backend, More, Waker};
use crate::protocol::Reader;
use crate::stats::Stats;
use crate::timers::Timers;
use crate::transport::{Events, Transport};

use admission::Admission;
use clock::Clock;
use connection::{Connection, Phase};
use flow::Flow;
use journal::Journal;
#[cfg(test)]
pub(crate) use mailbox::mailbox_of;
pub(crate) use mailbox::{Address, Mailbox, mailbox};
pub(crate) use pace::Pace;
pub(crate) use settings::{Settings, SettingsUpdate, ShardId, hub_options};

/// Divisor of the sends of a turn while many messages come in.
const BUSY_DIVISOR: usize = 4;
/// Interval, in milliseconds, at which a full mailbox is tried again if its owner does not say that it has room.
const STUCK_RETRY_MS: u64 = 10;
/// Length, in milliseconds, from which a pause of the process is logged.
const PAUSE_LOG_MS: u64 = 1_000;

/// State that all shards of a server share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) admission: Admission,
    /// Set once, when the server is to end.
    pub(crate) stopping: AtomicBool,
    pub(crate) settings_update: SettingsUpdate,
}

impl Shared {
    /// Returns the state of a server that has no connections yet.
    pub(crate) fn new(limits: admission::ConnectionLimits) -> Self {
        Self {
            admission: Admission::new(limits),
            stopping: AtomicBool::new(false),
            settings_update: SettingsUpdate::default(),
        }
    }
}

/// Limits of the work of one shard.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// Clients that are looked at for something to send in one turn. The others wait for the next turn, after new
    /// events. More of them make fewer turns.
    pub(crate) sends_per_turn: usize,
    /// Approximate number of bytes that may wait for full mailboxes before publishers are paused.
    pub(crate) stuck_bytes: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { sends_per_turn: 256, stuck_bytes: 256 << 10 }
    }
}

/// The parts that a shard is made of.
pub(crate) struct Parts<B> {
    pub(crate) settings: Settings,
    pub(crate) transport: Transport<B>,
    pub(crate) hub: Hub,
    pub(crate) app: Box<dyn App>,
    pub(crate) mailbox: Mailbox,
    /// Mailboxes of all shards, by their index; the shard's own is among them.
    pub(crate) addresses: Vec<Address>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) stats: Arc<Stats>,
}

/// One worker: all state that lives on its thread.
pub(crate) struct Shard<B> {
    settings: Settings,
    /// Version of the settings update that `settings` come from.
    applied_version: u32,
    transport: Transport<B>,
    waker: Waker,
    hub: Hub,
    app: Box<dyn App>,
    reader: Reader,
    /// Connections by slot.
    connections: Vec<Connection>,
    /// Number of slots in use.
    live: usize,
    timers: Timers<Slot>,
    flow: Flow,
    mailbox: Mailbox,
    /// Mailboxes of all shards, by their index; the shard's own is among them.
    addresses: Vec<Address>,
    stuck: mail::Stuck,
    bounds: Bounds,
    full_log: events::FullLog,
    /// Expiry of the tokens of clients that showed one.
    expiries: HashMap<Slot, u64>,
    /// Clients that the application wants closed.
    closing: Vec<Closing>,
    /// Set while the server ends.
    drain: Option<drain::Drain>,
    samples: measure::Samples,
    journal: Journal,
    shared: Arc<Shared>,
    stats: Arc<Stats>,
    clock: Clock,
    /// Longest wait that the backend was asked for in this turn.
    timeout: Option<Duration>,
    /// Time of the turn on the shard's clock. All deadlines are in this time.
    now_ms: u64,
}

impl<B: Backend> Shard<B> {
    /// Puts a shard together.
    pub(crate) fn new(parts: Parts<B>) -> Self {
        let Parts { settings, transport, hub, app, mailbox, addresses, shared, stats } = parts;
        Self {
            reader: Reader::new(settings.limits),
            journal: Journal::new(settings.id.index),
            settings,
            applied_version: 0,
            waker: transport.waker(),
            clock: Clock::new(transport.now_ms()),
            timeout: None,
            now_ms: transport.now_ms(),
            transport,
            hub,
            app,
            connections: Vec::new(),
            live: 0,
            timers: Timers::default(),
            flow: Flow::default(),
            mailbox,
            addresses,
            stuck: mail::Stuck::default(),
            bounds: Bounds::default(),
            full_log: events::FullLog::default(),
            expiries: HashMap::new(),
            closing: Vec::new(),
            drain: None,
            samples: measure::Samples::default(),
            shared,
            stats,
        }
    }

    /// Runs until the server ends.
    ///
    /// # Errors
    /// When the backend itself is broken.
    pub(crate) fn run(&mut self) -> std::io::Result<()> {
        let mut events = Events::default();
        while !self.is_over() {
            self.turn(&mut events)?;
        }
        self.journal.end();
        Ok(())
    }

    /// Runs one turn: waits for events, and does all work that follows from them.
    pub(crate) fn turn(&mut self, events: &mut Events) -> std::io::Result<()> {
        let timeout = self.timeout();
        self.transport.poll(timeout, events)?;
        self.work(events);
        Ok(())
    }

    /// Does the work of a turn after the wait. The order of the steps matters.
    pub(crate) fn work(&mut self, events: &mut Events) {
        // The time and the settings come first, so that all that follows is judged by the current ones.
        self.tell_time(events.len());
        self.hub.tick(self.now_ms);
        self.count_turn();
        self.apply_update();
        for event in events.drain() {
            self.handle(event);
        }
        // After the events, since one of them may say that a paused connection is closed. Its slot then names nobody.
        self.resume_served();
        self.resume_publishers();
        // After the input, so that requests to this shard itself are ordered in the turn in which they came.
        self.take_mail();
        self.resume_rate_limited();
        // After all input, so that a client that answered in time is heard before its deadline is judged. After a
        // pause of the process that takes more than one turn.
        if self.clock.may_judge() {
            self.fire_timers();
            self.drain_step();
        }
        self.journal.tick(self.now_ms);
        // Last, so that the messages and answers of all steps above leave together, with one system call in the next
        // turn.
        self.send();
        self.post();
        self.measure_turn();
    }

    /// Sets the time of the turn. After a pause of the process the shard's clock is behind the backend's.
    fn tell_time(&mut self, events: usize) {
        let paused_ms = self.clock.begin_turn(self.transport.now_ms(), self.timeout, events, self.live);
        self.now_ms = self.clock.now_ms();
        if paused_ms >= PAUSE_LOG_MS {
            let worker = self.settings.id.index + 1;
            warn!(
                worker,
                seconds = paused_ms as f64 / 1e3,
                "the worker was paused for a while; all its deadlines move by that time. \
                 Was the process or its machine stopped, or does a handler block?"
            );
        }
        if paused_ms > 0 {
            self.move_expiries(paused_ms);
        }
    }

    /// Returns how long the backend may wait. If it may wait at all, the waker is prepared, so that mail ends the wait.
    pub(crate) fn timeout(&mut self) -> Option<Duration> {
        self.timeout = self.next_wait();
        self.timeout
    }

    fn next_wait(&mut self) -> Option<Duration> {
        if self.has_work() || !self.clock.may_judge() {
            return Some(Duration::ZERO);
        }
        self.waker.prepare();
        let is_stopping = self.shared.stopping.load(Ordering::SeqCst);
        let has_update = self.shared.settings_update.version() != self.applied_version;
        let is_told = is_stopping != self.drain.is_some() || has_update;
        let is_asked = self.stats.survey.question().is_some();
        if is_told || is_asked || self.has_mail() {
            self.waker.cancel();
            return Some(Duration::ZERO);
        }
        let retry = self.stuck.any.then_some(self.now_ms + STUCK_RETRY_MS);
        let timers = [self.timers.next_due_ms(), self.flow.next_due_ms(), self.hub.next_tick_ms()];
        let deadlines = timers.into_iter().chain([self.next_drain_ms(), self.journal.next_due_ms(), retry]);
        let next = deadlines.flatten().min()?;
        Some(Duration::from_millis(next.saturating_sub(self.now_ms).max(1)))
    }

    fn has_work(&mut self) -> bool {
        let has_mail = !self.hub.outgoing(self.settings.id.index).is_empty();
        has_mail || self.hub.has_more() || self.flow.has_served() || self.may_resume_publishers()
    }

    /// Hands pending messages of clients to the backend, up to the bound of a turn.
    fn send(&mut self) {
        // A client that missed messages is told so before anything that came after them.
        self.tell_lagged();
        self.hub.update_batching();
        let mut budget = self.bounds.sends_per_turn;
        if self.hub.is_busy() {
            // More messages come meanwhile, and clients that are visited in a later turn get them in the same send.
            budget = budget.div_ceil(BUSY_DIVISOR);
        }
        while let Some(outbound) = self.hub.poll_send(&mut budget) {
            self.begin_sample(outbound.slot);
            self.stats.sends.add(1);
            self.stats.deliveries.add(outbound.messages);
            self.stats.bytes_out.add(outbound.span.len() as u64);
            self.journal.sent(outbound.slot, outbound.messages, outbound.span.len());
            let is_end = outbound.is_last && self.connections[outbound.slot as usize].phase == Phase::Ending;
            let more = if is_end { More::Ends } else { More::Follows };
            self.transport.send(outbound.slot, outbound.span, more);
        }
        self.tell_lagged();
    }

    fn tell_lagged(&mut self) {
        while let Some(lagged) = self.hub.poll_lagged() {
            self.lagged(&lagged);
        }
    }
}
