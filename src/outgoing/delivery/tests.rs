//! Tests of the delivery with a simulated endpoint and clock.

use std::cell::{Cell, RefCell};

use super::*;

/// A simulated outside: an endpoint that refuses its first requests, and a clock that only waits move.
struct Simulated {
    now: Cell<Instant>,
    refusals: Cell<u32>,
    waits: RefCell<Vec<Duration>>,
    /// Accepted events as text, batch by batch.
    accepted: RefCell<Vec<Vec<String>>>,
    /// Numbers of the batches of all attempts.
    numbers: RefCell<Vec<u64>>,
    deadline: Option<Instant>,
}

impl Simulated {
    fn refusing(refusals: u32) -> Self {
        Self {
            now: Cell::new(Instant::now()),
            refusals: Cell::new(refusals),
            waits: RefCell::default(),
            accepted: RefCell::default(),
            numbers: RefCell::default(),
            deadline: None,
        }
    }
}

impl Line for Simulated {
    fn now(&self) -> Instant {
        self.now.get()
    }

    fn wait(&self, time: Duration) {
        self.now.set(self.now.get() + time);
        self.waits.borrow_mut().push(time);
    }

    fn next(&self, events: &Receiver<Event>) -> Option<Event> {
        events.try_recv().ok()
    }

    fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    fn send(&self, batch: &Batch<'_>, patience: Duration) -> Result<(), SendError> {
        assert!(!patience.is_zero());
        self.numbers.borrow_mut().push(batch.number);
        if self.refusals.get() > 0 {
            self.refusals.set(self.refusals.get() - 1);
            return Err(SendError::Status(500));
        }
        let texts = batch.events.iter().map(|event| String::from_utf8_lossy(event).into_owned());
        self.accepted.borrow_mut().push(texts.collect());
        Ok(())
    }

    fn random(&self) -> u8 {
        0
    }
}

#[derive(Debug)]
struct Unused;

impl Format for Unused {
    fn prepare(&self, _: &Batch<'_>) -> Prepared {
        unreachable!("the simulated endpoint gets batches")
    }
}

/// Returns a worker whose queue has these events.
fn worker(events: &[String]) -> (Arc<Shared>, Worker) {
    let (sender, receiver) = unbounded();
    let url: Url = "http://localhost/".parse().expect("valid");
    let client = Client::new(&crate::outgoing::Trust::new(&[]), &url);
    let target = Arc::new(Target { url, client, format: Arc::new(Unused) });
    let shared = Arc::new(Shared {
        name: "test".into(),
        target: RwLock::new(target),
        sender,
        queued: AtomicUsize::new(0),
        queued_bytes: AtomicUsize::new(0),
        sent: AtomicU64::new(0),
        failures: AtomicU64::new(0),
        dropped_full: AtomicU64::new(0),
        dropped_late: AtomicU64::new(0),
        closing: Mutex::new(Closing { signal: None, deadline: None }),
    });
    events.iter().for_each(|event| shared.push(&event.as_bytes().into()));
    let worker = Worker::new(Arc::clone(&shared), receiver);
    (shared, worker)
}

fn numbered(count: usize) -> Vec<String> {
    (0..count).map(|number| number.to_string()).collect()
}

#[test]
fn events_arrive_in_order_in_batches_and_a_refused_batch_is_repeated() {
    let events = numbered(3 * BATCH_EVENTS / 2);
    let (shared, worker) = worker(&events);
    let line = Simulated::refusing(3);
    worker.run(&line);
    assert_eq!(line.accepted.borrow().concat(), events);
    assert_eq!(line.accepted.borrow()[0].len(), BATCH_EVENTS);
    assert_eq!(*line.numbers.borrow(), [1, 1, 1, 1, 2]);
    let waits: Vec<_> = line.waits.borrow().iter().filter(|wait| **wait > GATHER).copied().collect();
    assert_eq!(waits, [500, 1_000, 2_000].map(Duration::from_millis));
    let sent = events.len() as u64;
    assert_eq!(shared.counts(), Counts { sent, failures: 3, ..Counts::default() });
}

#[test]
fn an_event_is_given_up_after_five_minutes_and_later_ones_are_tried() {
    let (shared, worker) = worker(&numbered(3));
    let line = Simulated::refusing(u32::MAX);
    worker.run(&line);
    let waited: Duration = line.waits.borrow().iter().sum();
    assert!(waited <= RETRY_FOR && waited > RETRY_FOR - Duration::from_secs(35), "{waited:?}");
    let failures = line.numbers.borrow().len() as u64;
    assert!((10..30).contains(&failures), "{failures}");
    assert_eq!(shared.counts(), Counts { failures, dropped_late: 3, ..Counts::default() });
}

#[test]
fn a_long_event_travels_alone_and_the_batch_has_a_limit_in_bytes() {
    let long = "x".repeat(BATCH_BYTES + 1);
    let half = "y".repeat(BATCH_BYTES / 2);
    let events: Vec<String> = vec!["a".into(), long.clone(), half.clone(), half.clone(), half.clone()];
    let (_, worker) = worker(&events);
    let line = Simulated::refusing(0);
    worker.run(&line);
    assert_eq!(*line.accepted.borrow(), [vec!["a".into()], vec![long], vec![half.clone(); 2], vec![half]]);
}

#[test]
fn the_queue_is_bounded_in_events_and_bytes_and_drops_are_counted() {
    let (shared, _worker) = worker(&numbered(QUEUE_EVENTS + 3));
    let Counts { queued, dropped_full, .. } = shared.counts();
    assert_eq!((queued, dropped_full), (QUEUE_EVENTS as u64, 3));
    let (shared, _worker) = worker(&vec!["z".repeat(1 << 20); 18]);
    let Counts { queued, queued_bytes, dropped_full, .. } = shared.counts();
    assert_eq!((queued, queued_bytes, dropped_full), (16, QUEUE_BYTES as u64, 2));
    let (shared, _worker) = worker(&["z".repeat(QUEUE_BYTES + 1), "a".into()]);
    assert_eq!((shared.counts().queued, shared.counts().dropped_full), (1, 1));
}

#[test]
fn an_ending_delivery_gives_up_at_its_deadline() {
    let (shared, worker) = worker(&numbered(2 * BATCH_EVENTS));
    let mut line = Simulated::refusing(u32::MAX);
    line.deadline = Some(line.now() + Duration::from_secs(2));
    worker.run(&line);
    let waited: Duration = line.waits.borrow().iter().sum();
    assert!(waited < Duration::from_secs(5), "{waited:?}");
    assert_eq!(shared.counts().dropped_late, 2 * BATCH_EVENTS as u64);
    assert_eq!(shared.counts().queued, 0);
}
