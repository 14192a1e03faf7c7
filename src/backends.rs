//! Backends of applications: the keys with which they call the HTTP API, and the counts of their calls.
//!
//! All shards share one [`Backends`]. A reload replaces its keys. Each call takes a lock for a moment; messages of
//! WebSocket clients never do.

mod calls;
mod keys;

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use tracing::{debug, info};

use calls::CallCounts;
pub(crate) use calls::{CallLabels, Outcome};

pub(crate) use keys::{KeySet, Scope};

/// Minimum interval between refusals in the log at the level info, so that guessed keys do not flood it.
const REFUSAL_INTERVAL: Duration = Duration::from_secs(1);

/// The keys in force and the counts of calls, shared by all shards and the admin listener.
#[derive(Debug, Default)]
pub(crate) struct Backends {
    /// `None` while the API is off.
    keys: RwLock<Option<Arc<KeySet>>>,
    counts: Mutex<CallCounts>,
    /// Time of the last refusal that was logged at the level info.
    refusal_logged: Mutex<Option<Instant>>,
    /// Maximum length of a published message in bytes.
    max_message: AtomicU32,
    /// Whether the server started with keys, so that its applications serve the API.
    is_served: bool,
}

impl Backends {
    /// Creates the shared state with these keys, and a limit for published messages in bytes. `None` turns the API off.
    pub(crate) fn new(keys: Option<Arc<KeySet>>, max_message: u32) -> Self {
        let is_served = keys.is_some();
        let max_message = AtomicU32::new(max_message);
        Self {
            keys: RwLock::new(keys),
            counts: Mutex::default(),
            refusal_logged: Mutex::default(),
            max_message,
            is_served,
        }
    }

    /// Returns whether the server started with keys. Otherwise the API stays off.
    pub(crate) fn is_served(&self) -> bool {
        self.is_served
    }

    /// Returns the maximum length of a published message in bytes.
    pub(crate) fn max_message(&self) -> usize {
        self.max_message.load(Ordering::Relaxed) as usize
    }

    /// Replaces the keys and the limit for published messages. `None` turns the API off.
    pub(crate) fn set(&self, keys: Option<Arc<KeySet>>, max_message: u32) {
        self.max_message.store(max_message, Ordering::Relaxed);
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = keys;
    }

    /// Returns the keys in force. `None` while the API is off.
    pub(crate) fn keys(&self) -> Option<Arc<KeySet>> {
        self.keys.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Counts an answered call and logs it: a refusal because of its key at the level info, at most one a second, and
    /// other calls at debug.
    pub(crate) fn record(&self, outcome: &Outcome<'_>) {
        let Outcome { method, route, key, status, code } = *outcome;
        let key = key.unwrap_or("none");
        let is_key_refused = matches!(status, 401 | 403) && code != "refused";
        match is_key_refused {
            true if self.may_log_refusal() => {
                info!(
                    method,
                    route, key, status, code, "an API call was refused; further ones are in the metrics"
                );
            }
            true => debug!(method, route, key, status, code, "an API call was refused"),
            false => debug!(method, route, key, status, "an API call was answered"),
        }
        self.counts.lock().unwrap_or_else(PoisonError::into_inner).add(route, key, status);
    }

    /// Returns whether a second has passed since the last refusal that was logged at info.
    fn may_log_refusal(&self) -> bool {
        let mut last = self.refusal_logged.lock().unwrap_or_else(PoisonError::into_inner);
        let is_due = last.is_none_or(|last| last.elapsed() >= REFUSAL_INTERVAL);
        if is_due {
            *last = Some(Instant::now());
        }
        is_due
    }

    /// Returns the number of answered calls for each route, key and status, in a fixed order.
    pub(crate) fn counts(&self) -> Vec<(CallLabels, u64)> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner).all()
    }
}
