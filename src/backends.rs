//! Backends of applications: the keys with which they call the HTTP API, and the counts of their calls.
//!
//! All shards share one [`Backends`]. A reload replaces its keys. Each call takes a lock for a moment; messages of
//! WebSocket clients never do.

mod calls;
mod keys;

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use tracing::{debug, info};

use calls::CallCounts;
pub(crate) use calls::{CallLabels, Outcome};

pub(crate) use keys::{KeySet, Scope};

/// The keys in force and the counts of calls, shared by all shards and the admin listener.
#[derive(Debug, Default)]
pub(crate) struct Backends {
    /// `None` while the API is off.
    keys: RwLock<Option<Arc<KeySet>>>,
    counts: Mutex<CallCounts>,
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
        Self { keys: RwLock::new(keys), counts: Mutex::default(), max_message, is_served }
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

    /// Counts an answered call and logs it: a refusal because of its key at the level info, other calls at debug.
    pub(crate) fn record(&self, outcome: &Outcome<'_>) {
        let Outcome { method, route, key, status, code } = *outcome;
        let key = key.unwrap_or("none");
        if matches!(status, 401 | 403) && code != "refused" {
            info!(method, route, key, status, code, "an API call was refused");
        } else {
            debug!(method, route, key, status, "an API call was answered");
        }
        self.counts.lock().unwrap_or_else(PoisonError::into_inner).add(route, key, status);
    }

    /// Returns the number of answered calls for each route, key and status, in a fixed order.
    pub(crate) fn counts(&self) -> Vec<(CallLabels, u64)> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner).all()
    }
}
