//! The shard: the loop that brings sockets, protocol, application and rooms together.
//!
//! A turn handles what the backend reports, then the mail of other shards, then timers, then hands a bounded
//! number of sends to the backend, which gives them to the kernel in the next turn's one system call.

pub(crate) mod admission;
mod connection;
mod events;
mod http;
#[cfg(test)]
pub(crate) mod inspect;
mod journal;
mod life;
mod mail;
mod mailbox;
mod measure;
mod pace;
mod peers;
mod settings;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::app::App;
use crate::hub::{Hub, Slot};
use crate::io::{Backend, More, Waker};
use crate::protocol::{CloseCode, Reader};
use crate::stats::Stats;
use crate::timers::Timers;
use crate::transport::{Events, Transport};
use admission::Admission;
use connection::{Connection, Phase};
use journal::Journal;
#[cfg(test)]
pub(crate) use mailbox::mailbox_of;
pub(crate) use mailbox::{Address, Mailbox, mailbox};
pub(crate) use pace::Pace;
pub(crate) use settings::{Notice, Settings, hub_options};

/// Bytes of answers that a client may leave unread before nothing more is received from it.
const UNREAD_LIMIT: usize = 64 << 10;
/// What part of the sends of a turn is made while many messages come.
const BUSY_SHARE: usize = 4;
/// How soon a full mailbox is tried again, should its owner not have said that there is room.
const STUCK_RETRY_MS: u64 = 10;

/// What all shards of a server share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) admission: Admission,
    /// Set once: the server is to end.
    pub(crate) stopping: AtomicBool,
    pub(crate) notice: Notice,
}

impl Shared {
    /// Of a server that is to run.
    pub(crate) fn new(limits: admission::Limits) -> Self {
        Self {
            admission: Admission::new(limits),
            stopping: AtomicBool::new(false),
            notice: Notice::default(),
        }
    }
}

/// How much of a thing there may be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// Clients looked at in one turn for something to send. What is left waits for the next turn, after new
    /// events. The more, the fewer turns.
    pub(crate) sends_per_turn: usize,
    /// Bytes, about, that may wait for full mailboxes before publishers must.
    pub(crate) stuck_bytes: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { sends_per_turn: 256, stuck_bytes: 256 << 10 }
    }
}

/// An event that waits.
#[derive(Debug)]
enum Held {
    /// These bytes arrived.
    Bytes(Vec<u8>),
    /// The client's direction of the stream ended.
    End,
}

/// One worker: everything that lives on its thread.
pub(crate) struct Shard<B> {
    settings: Settings,
    /// Number of the notice that they are from.
    noticed: u32,
    backend: Transport<B>,
    waker: Waker,
    hub: Hub,
    app: Box<dyn App>,
    reader: Reader,
    /// By slot.
    connections: Vec<Connection>,
    /// Connections that have a slot.
    live: usize,
    timers: Timers<Slot>,
    /// When clients that send too fast may go on.
    pace_timers: Timers<Slot>,
    mailbox: Mailbox,
    /// By shard; our own is there too.
    addresses: Vec<Address>,
    stuck: mail::Stuck,
    bounds: Bounds,
    /// When the log last said that no descriptor is left.
    full_logged_ms: Option<u64>,
    /// Whether it is to say when there is one again.
    full_told: bool,
    /// Connections paused since they had their share of a turn.
    served: Vec<Slot>,
    /// Connections paused since what they publish cannot be passed on.
    paused: Vec<Slot>,
    /// What still arrived from clients of which nothing more was to be received for now. What answers it waits
    /// with it, so that being told to wait makes nobody lag.
    held: HashMap<Slot, VecDeque<Held>>,
    /// When the tokens of clients that showed one expire.
    expiries: HashMap<Slot, u64>,
    /// What the application asked to be closed.
    closing: Vec<(Slot, CloseCode, String)>,
    /// Set while the server ends.
    drain: Option<life::Drain>,
    samples: measure::Samples,
    journal: Journal,
    shared: Arc<Shared>,
    stats: Arc<Stats>,
    now_ms: u64,
}

impl<B: Backend> Shard<B> {
    pub(crate) fn new(
        settings: Settings,
        (backend, hub, app): (Transport<B>, Hub, Box<dyn App>),
        (mailbox, addresses): (Mailbox, Vec<Address>),
        (shared, stats): (Arc<Shared>, Arc<Stats>),
    ) -> Self {
        let now_ms = backend.now_ms();
        Self {
            reader: Reader::new(settings.limits),
            journal: Journal::new(settings.shard),
            settings,
            noticed: 0,
            waker: backend.waker(),
            backend,
            hub,
            app,
            connections: Vec::new(),
            live: 0,
            timers: Timers::default(),
            pace_timers: Timers::default(),
            mailbox,
            addresses,
            stuck: mail::Stuck::default(),
            bounds: Bounds::default(),
            full_logged_ms: None,
            full_told: false,
            served: Vec::new(),
            paused: Vec::new(),
            held: HashMap::new(),
            expiries: HashMap::new(),
            closing: Vec::new(),
            drain: None,
            samples: measure::Samples::default(),
            shared,
            stats,
            now_ms,
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

    /// One turn: one wait of the backend, and all that follows from it.
    pub(crate) fn turn(&mut self, events: &mut Events) -> std::io::Result<()> {
        let timeout = self.timeout();
        self.backend.poll(timeout, events)?;
        self.work(events);
        Ok(())
    }

    /// What follows from what the backend has reported.
    pub(crate) fn work(&mut self, events: &mut Events) {
        self.now_ms = self.backend.now_ms();
        self.hub.tick(self.now_ms);
        self.count_turn();
        self.take_notice();
        for event in events.drain() {
            self.handle(event);
        }
        // Not before: one of them may be that the connection is closed, and then its slot names nobody.
        self.resume_served();
        self.resume_publishers();
        self.take_mail();
        self.fire_timers();
        self.journal.tick(self.now_ms);
        self.resume_paced();
        self.drain_step();
        self.send();
        self.post();
        self.measure_turn();
    }

    /// How long the backend may wait; the waker is ready when it may wait at all.
    pub(crate) fn timeout(&mut self) -> Option<Duration> {
        if self.has_work() {
            return Some(Duration::ZERO);
        }
        self.waker.prepare();
        let is_stopping = self.shared.stopping.load(Ordering::SeqCst);
        let is_told = is_stopping != self.drain.is_some() || self.shared.notice.number() != self.noticed;
        let is_asked = self.stats.survey.question().is_some();
        if is_told || is_asked || self.has_mail() {
            self.waker.cancel();
            return Some(Duration::ZERO);
        }
        let retry = self.stuck.any.then_some(self.now_ms + STUCK_RETRY_MS);
        let timers = [self.timers.next_due_ms(), self.pace_timers.next_due_ms(), self.hub.next_tick_ms()];
        let deadlines = timers.into_iter().chain([self.next_drain_ms(), self.journal.next_due_ms(), retry]);
        let next = deadlines.flatten().min()?;
        Some(Duration::from_millis(next.saturating_sub(self.now_ms).max(1)))
    }

    fn has_work(&mut self) -> bool {
        let has_mail = !self.hub.outgoing(self.settings.shard).is_empty();
        has_mail || self.hub.has_more() || !self.served.is_empty() || self.may_resume_publishers()
    }

    /// Hands what clients are owed to the backend, up to the bound of a turn.
    fn send(&mut self) {
        // Before anything that came after what they missed.
        self.tell_lagged();
        self.hub.update_batching();
        let mut budget = self.bounds.sends_per_turn;
        if self.hub.is_busy() {
            // More messages come meanwhile, and those who are served later get them at once.
            budget = budget.div_ceil(BUSY_SHARE);
        }
        while let Some(outbound) = self.hub.poll_send(&mut budget) {
            self.begin_sample(outbound.slot);
            self.stats.sends.add(1);
            self.stats.deliveries.add(outbound.messages);
            self.stats.bytes_out.add(outbound.span.len() as u64);
            self.journal.sent(outbound.slot, outbound.messages, outbound.span.len());
            let is_end = outbound.is_last && self.connections[outbound.slot as usize].phase == Phase::Ending;
            let more = if is_end { More::Ends } else { More::Follows };
            self.backend.send(outbound.slot, outbound.span, more);
        }
        self.tell_lagged();
    }

    fn tell_lagged(&mut self) {
        while let Some(lagged) = self.hub.poll_lagged() {
            self.lagged(&lagged);
        }
    }
}
