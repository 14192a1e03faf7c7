//! The shard: the loop that connects sockets, protocol, application and rooms.
//!
//! A turn handles the events of the backend, then mail from other shards, then deadlines. At its end it gives a bounded
//! number of sends to the backend, which hands them to the kernel with the next turn's single system call.

pub(crate) mod admission;
mod app_calls;
mod arrivals;
mod clock;
mod connection;
mod deferred;
mod drain;
mod events;
mod flow;
mod handshakes;
mod http;
mod idle;
mod input;
#[cfg(test)]
pub(crate) mod inspect;
mod journal;
mod life;
mod mail;
mod mailbox;
mod measure;
mod members;
pub(crate) mod memory;
mod pace;
mod peers;
mod requests;
mod sessions;
mod settings;
mod stopwatch;
#[cfg(test)]
mod tests;
mod unfinished;
mod users;

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tracing::warn;

use crate::app::{App, ContextState};
use crate::config::LagPolicy;
use crate::hub::{Hub, Slot};
use crate::io::{Backend, More, Waker};
use crate::protocol::Reader;
use crate::publisher::{Bans, Publisher};
use crate::stats::Stats;
use crate::timers::Timers;
use crate::transport::{Events, Transport};

use admission::Admission;
use clock::Clock;
use connection::{Connection, Phase};
use flow::Flow;
use handshakes::Handshakes;
use journal::Journal;
#[cfg(test)]
pub(crate) use mailbox::mailbox_of;
pub(crate) use mailbox::{Address, Mailbox, mailbox};
pub(crate) use pace::Pace;
pub(crate) use settings::{Settings, SettingsUpdate, ShardId, hub_options};
use stopwatch::Stopwatch;
pub(crate) use stopwatch::TimeLimits;

/// Divisor of [`Bounds::sends_per_turn`] while many messages come in, so that later sends carry more messages.
const BUSY_DIVISOR: usize = 4;
/// Interval in milliseconds at which a shard posts again to another shard's full mailbox, unless the owner wakes it
/// earlier.
const STUCK_RETRY_MS: u64 = 10;
/// Minimum length of a pause of the process, in milliseconds, that is logged.
const PAUSE_LOG_MS: u64 = 1_000;

/// State that all shards of a server share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) admission: Admission,
    /// Whether the server was told to shut down. Never reset.
    pub(crate) stopping: AtomicBool,
    pub(crate) settings_update: SettingsUpdate,
    /// Base of the epochs of all rooms. Random, so that epochs of two runs of a server differ.
    epoch_base: u64,
    pub(crate) bans: Arc<Bans>,
}

impl Shared {
    /// Creates the shared state of a server that has no connections yet.
    pub(crate) fn new(limits: admission::ConnectionLimits) -> Self {
        Self {
            admission: Admission::new(limits),
            stopping: AtomicBool::new(false),
            settings_update: SettingsUpdate::default(),
            epoch_base: RandomState::new().build_hasher().finish(),
            bans: Arc::default(),
        }
    }
}

/// Limits of one shard: the sends and the entries of a turn, its time for input, and the mail that waits for other
/// shards.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// Maximum number of clients whose pending messages are sent in one turn. Other clients wait for the next turn,
    /// after new events. A higher number makes fewer turns.
    pub(crate) sends_per_turn: usize,
    /// Approximate number of bytes that may wait for full mailboxes before publishers are paused.
    pub(crate) stuck_bytes: usize,
    /// Maximum number of entries from other threads that are handled in one turn, so that they delay no clients.
    pub(crate) entries_per_turn: usize,
    pub(crate) input_time: TimeLimits,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            sends_per_turn: 256,
            stuck_bytes: 256 << 10,
            entries_per_turn: 128,
            input_time: TimeLimits::default(),
        }
    }
}

/// The parts from which [`Shard::new`] creates a shard.
pub(crate) struct Parts<B> {
    pub(crate) settings: Settings,
    pub(crate) transport: Transport<B>,
    pub(crate) hub: Hub,
    pub(crate) app: Box<dyn App>,
    pub(crate) mailbox: Mailbox,
    /// Addresses of all shards' mailboxes, by shard index, including the shard's own.
    pub(crate) addresses: Vec<Address>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) stats: Arc<Stats>,
}

/// A shard: all state of one worker thread.
pub(crate) struct Shard<B> {
    settings: Settings,
    /// Version of the [`SettingsUpdate`] that `settings` come from; 0 for the settings at the start.
    applied_version: u32,
    transport: Transport<B>,
    waker: Waker,
    hub: Hub,
    app: Box<dyn App>,
    reader: Reader,
    /// The connections of the shard, by slot.
    connections: Vec<Connection>,
    /// Number of slots that have a connection.
    live: usize,
    timers: Timers<Slot>,
    flow: Flow,
    handshakes: Handshakes,
    oldest_idle: idle::OldestIdle,
    stopwatch: Stopwatch,
    mailbox: Mailbox,
    /// Addresses of all shards' mailboxes, by shard index, including the shard's own.
    addresses: Vec<Address>,
    stuck: mail::Stuck,
    /// Questions for the members of rooms that wait for their answers.
    questions: VecDeque<members::Question>,
    memory: memory::Memory,
    unfinished: unfinished::Unfinished,
    bounds: Bounds,
    full_log: events::FullLog,
    /// Requests that wait for deferred answers, by slot.
    deferred: HashMap<Slot, deferred::Deferred>,
    /// State of the application's contexts: its timers, clients that it asked to close, and the clients' tokens.
    context: ContextState,
    /// State of the server's shutdown. `None` until the server is told to shut down.
    drain: Option<drain::Drain>,
    samples: measure::Samples,
    journal: Journal,
    /// Buffer for the head of a response. Empty between two responses.
    response_head: Vec<u8>,
    shared: Arc<Shared>,
    stats: Arc<Stats>,
    clock: Clock,
    /// Maximum wait that the backend was given in this turn. `None` means no limit.
    timeout: Option<Duration>,
    /// Time of the current turn in milliseconds of the shard's clock, which all deadlines of the shard use.
    now_ms: u64,
}

impl<B: Backend> Shard<B> {
    /// Creates a shard from its parts.
    pub(crate) fn new(parts: Parts<B>) -> Self {
        let Parts { settings, transport, mut hub, app, mailbox, addresses, shared, stats } = parts;
        hub.set_epoch_base(shared.epoch_base);
        let publisher = Publisher::new(addresses.iter().map(|address| address.door.clone()), &shared.bans);
        let mut shard = Self {
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
            handshakes: Handshakes::default(),
            oldest_idle: idle::OldestIdle::default(),
            stopwatch: Stopwatch::default(),
            mailbox,
            addresses,
            stuck: mail::Stuck::default(),
            questions: VecDeque::new(),
            memory: memory::Memory::default(),
            unfinished: unfinished::Unfinished::default(),
            bounds: Bounds::default(),
            full_log: events::FullLog::default(),
            deferred: HashMap::new(),
            context: ContextState::new(publisher),
            drain: None,
            samples: measure::Samples::default(),
            response_head: Vec::new(),
            shared,
            stats,
        };
        shard.context.tokens.verifier.clone_from(&shard.settings.verifier);
        shard.context.skips_lagged = shard.settings.lag_policy == LagPolicy::Skip;
        shard.start_app();
        shard
    }

    /// Runs turns until the server's shutdown is complete.
    ///
    /// # Errors
    /// The backend's poll fails.
    pub(crate) fn run(&mut self) -> std::io::Result<()> {
        let mut events = Events::default();
        while !self.is_over() {
            self.turn(&mut events)?;
        }
        self.journal.end();
        Ok(())
    }

    /// Runs one turn: waits for events, and does all work that the events cause.
    pub(crate) fn turn(&mut self, events: &mut Events) -> std::io::Result<()> {
        let timeout = self.timeout();
        self.transport.poll(timeout, events)?;
        self.work(events);
        Ok(())
    }

    /// Does the work of a turn after the wait for `events`: input, mail, deadlines, then sends. The order matters.
    pub(crate) fn work(&mut self, events: &mut Events) {
        self.stopwatch.begin_turn(self.bounds.input_time, self.transport.clock_ns());
        // The clock and the settings are updated first, so that all later steps use the current values.
        self.tell_time(events.len());
        self.hub.tick(self.now_ms);
        self.count_turn();
        self.apply_update();
        for event in events.drain() {
            self.handle(event);
        }
        // Clients resume after the events, since an event may report that a paused connection is closed and its slot is
        // free.
        self.resume_served();
        self.resume_publishers();
        self.resume_short_of_memory();
        // Mail comes after the input, so that this shard handles requests to itself in the turn that created them.
        self.take_mail();
        self.resume_rate_limited();
        // Deadlines come after all input, so that a client that answered in time is not closed. After a pause of the
        // process, the shard reads input for several turns before it judges deadlines.
        if self.clock.may_judge() {
            self.fire_timers();
            self.fire_app_timers();
            self.check_unfinished();
            self.relieve();
            self.drain_step();
        }
        self.tell_occupancies();
        self.journal.tick(self.now_ms);
        // Sends come last, so that the messages and answers of all steps above leave with the single system call of the
        // next turn.
        self.send();
        self.post();
        self.measure_turn();
    }

    /// Sets the time of the turn, after a wait that reported `events` events. After a pause of the process the shard's
    /// clock is behind the backend's clock, and token expiries are adjusted.
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

    /// Returns the maximum time that the backend may wait for events; `None` means no limit. Before a wait, prepares
    /// the waker, so that mail from other shards ends the wait.
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
        let deadlines = timers.into_iter().chain([
            self.next_drain_ms(),
            self.journal.next_due_ms(),
            self.context.timers.next_due_ms(),
            self.next_unfinished_ms(),
            self.next_relief_ms(),
            retry,
        ]);
        let next = deadlines.flatten().min()?;
        Some(Duration::from_millis(next.saturating_sub(self.now_ms).max(1)))
    }

    fn has_work(&mut self) -> bool {
        self.has_own_mail()
            || self.hub.occupancy_reports() > 0
            || self.may_answer_questions()
            || self.hub.has_more()
            || self.flow.has_served()
            || self.may_resume_publishers()
            || self.may_resume_short_of_memory()
    }

    /// Hands pending messages of up to [`Bounds::sends_per_turn`] clients to the backend.
    fn send(&mut self) {
        // Clients that missed messages are closed or notified before later messages are sent to them.
        self.tell_lagged();
        self.hub.update_batching();
        let mut budget = self.bounds.sends_per_turn;
        if self.hub.is_busy() {
            // While the shard is busy, more messages arrive. A client that is visited in a later turn gets them all in
            // one send.
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
