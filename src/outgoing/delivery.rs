//! Delivery of events to one endpoint of another server: a bounded queue, and a thread that sends batches in order.
//!
//! The format of the events and of the requests is the [`Format`]'s affair. A batch that the endpoint does not accept with
//! a status of 2xx is sent again, with growing delays, until its newest event is [`RETRY_FOR`] old. Later events wait, so
//! the endpoint gets all events in the order in which they were handed over.

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded, select_biased, unbounded};
use ring::rand::{SecureRandom, SystemRandom};
use tracing::{debug, info, warn};

use super::{Backoff, Client, SendError, Url};

/// Age up to which an event is sent again.
const RETRY_FOR: Duration = Duration::from_secs(300);
/// Time limit for one request.
const PATIENCE: Duration = Duration::from_secs(10);
/// Time for which events gather after the first one, so that they travel in one request.
const GATHER: Duration = Duration::from_millis(10);
/// Maximum number of events in a request.
const BATCH_EVENTS: usize = 200;
/// Maximum size of the events in a request in bytes, unless one event is longer.
const BATCH_BYTES: usize = 256 << 10;
/// Maximum number of events in the queue of an endpoint.
const QUEUE_EVENTS: usize = 100_000;
/// Maximum size of the events in the queue of an endpoint in bytes.
const QUEUE_BYTES: usize = 16 << 20;
/// Minimum interval between log lines about dropped events.
const DROP_LOG_INTERVAL: Duration = Duration::from_secs(60);
/// Stack size of an endpoint's thread in bytes.
const STACK_BYTES: usize = 512 << 10;

/// Makes requests of events, in the format that an application's receivers know.
pub(crate) trait Format: Send + Sync + std::fmt::Debug {
    /// Makes the request for a batch. Called again for each attempt.
    fn prepare(&self, batch: &Batch<'_>) -> Prepared;
}

/// The events of one request, serialised.
#[derive(Debug)]
pub(crate) struct Batch<'a> {
    /// Number of the batch at its endpoint, from 1 on. It stays the same when the batch is sent again.
    pub(crate) number: u64,
    /// Time at which the batch was put together, in milliseconds since 1970.
    pub(crate) time_ms: u64,
    pub(crate) events: Vec<&'a [u8]>,
}

/// The body and the header fields of a request.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: Vec<u8>,
}

/// The destination of an endpoint's events. A reload replaces it.
#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) url: Url,
    pub(crate) client: Client,
    pub(crate) format: Arc<dyn Format>,
}

/// Counters of an endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Number of events that the endpoint has accepted.
    pub(crate) sent: u64,
    /// Number of requests that failed.
    pub(crate) failures: u64,
    /// Number of events dropped because the queue was full.
    pub(crate) dropped_full: u64,
    /// Number of events dropped because they were not accepted in time, or before the server ended.
    pub(crate) dropped_late: u64,
    /// Number of events in the queue.
    pub(crate) queued: u64,
    /// Size of the events in the queue in bytes.
    pub(crate) queued_bytes: u64,
}

/// The delivery of events to one endpoint, on a thread of its own. Dropping the value ends the thread after its current
/// request.
#[derive(Debug)]
pub(crate) struct Delivery {
    shared: Arc<Shared>,
    /// Disconnected when the thread has ended.
    ended: Receiver<()>,
}

/// An event with the time at which it happened.
#[derive(Clone, Debug)]
struct Event {
    at: Instant,
    bytes: Arc<[u8]>,
}

/// The part of a delivery that its thread and the threads that hand events over share.
#[derive(Debug)]
struct Shared {
    /// Name of the endpoint for the log, without secrets.
    name: String,
    target: RwLock<Arc<Target>>,
    sender: Sender<Event>,
    queued: AtomicUsize,
    queued_bytes: AtomicUsize,
    sent: AtomicU64,
    failures: AtomicU64,
    dropped_full: AtomicU64,
    dropped_late: AtomicU64,
    closing: Mutex<Closing>,
}

/// The end of a delivery.
#[derive(Debug)]
struct Closing {
    /// Dropped when the delivery ends, which wakes the thread.
    signal: Option<Sender<()>>,
    /// Time at which the thread gives up the events that are left.
    deadline: Option<Instant>,
}

impl Delivery {
    /// Starts the thread of an endpoint. `name` appears in the log.
    ///
    /// # Errors
    /// The operating system cannot start the thread.
    pub(crate) fn start(name: String, target: Target) -> io::Result<Self> {
        let (sender, events) = unbounded();
        let (signal, closed) = bounded(0);
        let (running, ended) = bounded(0);
        let closing = Mutex::new(Closing { signal: Some(signal), deadline: None });
        let shared = Arc::new(Shared {
            name,
            target: RwLock::new(Arc::new(target)),
            sender,
            queued: AtomicUsize::new(0),
            queued_bytes: AtomicUsize::new(0),
            sent: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            dropped_full: AtomicU64::new(0),
            dropped_late: AtomicU64::new(0),
            closing,
        });
        let line = Live { shared: Arc::clone(&shared), closed, random: SystemRandom::new() };
        let worker = Worker::new(Arc::clone(&shared), events);
        std::thread::Builder::new().name("webhook".into()).stack_size(STACK_BYTES).spawn(move || {
            worker.run(&line);
            drop(running);
        })?;
        Ok(Self { shared, ended })
    }

    /// Hands an event over. Never waits: an event for which the queue has no space is dropped and counted.
    pub(crate) fn push(&self, bytes: &Arc<[u8]>) {
        self.shared.push(bytes);
    }

    /// Replaces the destination from the next attempt on.
    pub(crate) fn set_target(&self, target: Target) {
        *self.shared.target.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(target);
    }

    /// Returns the destination.
    pub(crate) fn target(&self) -> Arc<Target> {
        self.shared.target()
    }

    /// Returns the name of the endpoint, which has no secrets.
    pub(crate) fn name(&self) -> &str {
        &self.shared.name
    }

    /// Returns the counters of the endpoint.
    pub(crate) fn counts(&self) -> Counts {
        self.shared.counts()
    }

    /// Ends the delivery: the thread sends what is in the queue until `deadline`, and no event may be handed over any
    /// more.
    pub(crate) fn close(&self, deadline: Instant) {
        let mut closing = self.shared.closing();
        closing.deadline = Some(deadline);
        closing.signal = None;
    }

    /// Waits until the thread has ended, or until `deadline`.
    pub(crate) fn wait(&self, deadline: Instant) {
        let _ = self.ended.recv_deadline(deadline);
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        if self.shared.closing().signal.is_some() {
            self.close(Instant::now());
        }
    }
}

impl Shared {
    fn push(&self, bytes: &Arc<[u8]>) {
        let (queued, all) = (1 + self.queued.fetch_add(1, Ordering::Relaxed), bytes.len());
        let queued_bytes = all + self.queued_bytes.fetch_add(all, Ordering::Relaxed);
        if queued > QUEUE_EVENTS || queued_bytes > QUEUE_BYTES {
            self.release(1, all);
            self.dropped_full.fetch_add(1, Ordering::Relaxed);
            return;
        }
        // The channel is unbounded, so this never waits. It fails only after the thread has ended.
        if self.sender.send(Event { at: Instant::now(), bytes: Arc::clone(bytes) }).is_err() {
            self.release(1, all);
            self.dropped_late.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Gives the space of events in the queue back.
    fn release(&self, events: usize, bytes: usize) {
        self.queued.fetch_sub(events, Ordering::Relaxed);
        self.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    fn target(&self) -> Arc<Target> {
        Arc::clone(&self.target.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn closing(&self) -> MutexGuard<'_, Closing> {
        self.closing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn counts(&self) -> Counts {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counts {
            sent: load(&self.sent),
            failures: load(&self.failures),
            dropped_full: load(&self.dropped_full),
            dropped_late: load(&self.dropped_late),
            queued: self.queued.load(Ordering::Relaxed) as u64,
            queued_bytes: self.queued_bytes.load(Ordering::Relaxed) as u64,
        }
    }
}

/// The outside of a delivery's thread: the clock, the network and the end. Tests have a simulated one.
trait Line {
    fn now(&self) -> Instant;
    /// Waits, or returns at once while the delivery is ending.
    fn wait(&self, time: Duration);
    /// Waits for the next event. `None` when the delivery is ending and no event is left.
    fn next(&self, events: &Receiver<Event>) -> Option<Event>;
    /// Returns the time at which the thread gives up, once the delivery is ending.
    fn deadline(&self) -> Option<Instant>;
    fn send(&self, batch: &Batch<'_>, patience: Duration) -> Result<(), SendError>;
    fn random(&self) -> u8;
}

/// The real outside of a delivery's thread.
struct Live {
    shared: Arc<Shared>,
    closed: Receiver<()>,
    random: SystemRandom,
}

impl Line for Live {
    fn now(&self) -> Instant {
        Instant::now()
    }

    fn wait(&self, time: Duration) {
        // While the delivery is ending, the short pause keeps failing attempts from taking the whole processor.
        if self.closed.recv_timeout(time) == Err(RecvTimeoutError::Disconnected) {
            std::thread::sleep(time.min(GATHER));
        }
    }

    fn next(&self, events: &Receiver<Event>) -> Option<Event> {
        select_biased! {
            recv(events) -> event => event.ok(),
            recv(self.closed) -> _ => events.try_recv().ok(),
        }
    }

    fn deadline(&self) -> Option<Instant> {
        self.shared.closing().deadline
    }

    fn send(&self, batch: &Batch<'_>, patience: Duration) -> Result<(), SendError> {
        let target = self.shared.target();
        let Prepared { headers, body } = target.format.prepare(batch);
        target.client.post(&target.url, &headers, &body, patience)
    }

    fn random(&self) -> u8 {
        let mut byte = [0];
        // Without randomness the delays are not varied, which does no harm.
        let _ = self.random.fill(&mut byte);
        byte[0]
    }
}

/// The state of a delivery's thread.
struct Worker {
    shared: Arc<Shared>,
    events: Receiver<Event>,
    /// The events of the next batch, in order.
    gathered: VecDeque<Event>,
    /// An event that did not fit into the batch before.
    held: Option<Event>,
    backoff: Backoff,
    batches: u64,
    /// Time of the last log line about dropped events.
    drops_logged: Option<Instant>,
    /// Number of dropped events that are in the log.
    logged_drops: u64,
}

impl Worker {
    fn new(shared: Arc<Shared>, events: Receiver<Event>) -> Self {
        let (gathered, backoff) = (VecDeque::new(), Backoff::default());
        Self {
            shared,
            events,
            gathered,
            held: None,
            backoff,
            batches: 0,
            drops_logged: None,
            logged_drops: 0,
        }
    }

    fn run(mut self, line: &impl Line) {
        while self.gather(line) {
            self.deliver(line);
            self.log_drops(line.now());
        }
        self.log_drops(line.now() + DROP_LOG_INTERVAL);
    }

    /// Puts the next batch together. Returns false when the delivery has ended.
    fn gather(&mut self, line: &impl Line) -> bool {
        let Some(first) = self.held.take().or_else(|| line.next(&self.events)) else { return false };
        if self.shared.queued.load(Ordering::Relaxed) < BATCH_EVENTS && line.deadline().is_none() {
            line.wait(GATHER);
        }
        let (mut next, mut bytes) = (Some(first), 0);
        while let Some(event) = next {
            if line.now().saturating_duration_since(event.at) > RETRY_FOR {
                self.give_up(1, event.bytes.len());
            } else {
                let is_full = self.gathered.len() == BATCH_EVENTS || bytes + event.bytes.len() > BATCH_BYTES;
                if is_full && !self.gathered.is_empty() {
                    self.held = Some(event);
                    break;
                }
                bytes += event.bytes.len();
                self.gathered.push_back(event);
            }
            next = self.events.try_recv().ok();
        }
        true
    }

    /// Sends the batch until the endpoint accepts it or its events are too old.
    fn deliver(&mut self, line: &impl Line) {
        let Some(newest) = self.gathered.back().map(|event| event.at) else { return };
        self.batches += 1;
        let gathered = std::mem::take(&mut self.gathered);
        let (events, bytes) = (gathered.len(), gathered.iter().map(|event| event.bytes.len()).sum());
        let time_ms = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64;
        let parts = gathered.iter().map(|event| &*event.bytes).collect();
        let batch = Batch { number: self.batches, time_ms, events: parts };
        loop {
            let end = line.deadline().map_or(newest + RETRY_FOR, |deadline| deadline.min(newest + RETRY_FOR));
            let patience =
                line.deadline().map_or(PATIENCE, |_| end.saturating_duration_since(line.now()).min(PATIENCE));
            if patience.is_zero() {
                return self.give_up(events, bytes);
            }
            match line.send(&batch, patience) {
                Ok(()) => {
                    self.shared.sent.fetch_add(events as u64, Ordering::Relaxed);
                    self.shared.release(events, bytes);
                    if self.backoff.succeeded() {
                        info!(endpoint = self.shared.name, "the webhook endpoint takes events again");
                    }
                    return;
                }
                Err(error) => self.failed(&error),
            }
            let delay = self.backoff.failed(line.random());
            if line.deadline().is_none() && line.now() + delay > end {
                return self.give_up(events, bytes);
            }
            line.wait(delay);
            self.log_drops(line.now());
        }
    }

    fn failed(&self, error: &SendError) {
        self.shared.failures.fetch_add(1, Ordering::Relaxed);
        let name = &self.shared.name;
        match self.backoff.failures() {
            0 => warn!(
                endpoint = name,
                %error,
                "a webhook endpoint does not take events; each is sent again for {} s",
                RETRY_FOR.as_secs()
            ),
            count => {
                debug!(endpoint = name, %error, count, "the webhook endpoint still does not take events")
            }
        }
    }

    /// Drops events that were not accepted in time.
    fn give_up(&self, events: usize, bytes: usize) {
        self.shared.dropped_late.fetch_add(events as u64, Ordering::Relaxed);
        self.shared.release(events, bytes);
    }

    /// Logs how many events were dropped, at most once in [`DROP_LOG_INTERVAL`].
    fn log_drops(&mut self, now: Instant) {
        let Counts { dropped_full, dropped_late, .. } = self.shared.counts();
        let dropped = dropped_full + dropped_late;
        let is_due = self.drops_logged.is_none_or(|last| now >= last + DROP_LOG_INTERVAL);
        if dropped == self.logged_drops || !is_due {
            return;
        }
        let (name, count) = (&self.shared.name, dropped - self.logged_drops);
        warn!(
            endpoint = name,
            count,
            full = dropped_full,
            late = dropped_late,
            "events for a webhook were dropped"
        );
        (self.drops_logged, self.logged_drops) = (Some(now), dropped);
    }
}
