//! Public keys of an identity provider that are fetched from a URL: the keys in force, and when to fetch them again.
//!
//! A thread of its own fetches the keys ([`RemoteKeys::wait`] tells it when). The shards verify with the keys in force and
//! never wait.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant, SystemTime};

use super::KeySet;

/// Minimum interval between fetches for keys that tokens name and the server does not know.
const UNKNOWN_KEY_INTERVAL: Duration = Duration::from_secs(30);

/// The public keys of an identity provider, with the state of their fetches. Shared by the shards, the thread that fetches
/// the keys, and the admin listener.
#[derive(Debug, Default)]
pub(crate) struct RemoteKeys {
    /// `None` until the first successful fetch. Kept while later fetches fail.
    keys: RwLock<Option<Arc<KeySet>>>,
    state: Mutex<State>,
    changed: Condvar,
    fetched: AtomicU64,
    failed: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    /// Whether a fetch is wanted or under way.
    is_wanted: bool,
    /// Time of the last fetch that an unknown key caused.
    unknown_key: Option<Instant>,
    /// Time of the last successful fetch.
    succeeded: Option<SystemTime>,
    is_over: bool,
}

/// The reason why [`RemoteKeys::wait`] has returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wake {
    /// It is time for the next fetch.
    Fetch,
    /// No further fetch is needed.
    Over,
}

/// The state of the fetches, for metrics and health checks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RemoteState {
    /// Number of keys in force. `None` before the first successful fetch.
    pub(crate) keys: Option<usize>,
    pub(crate) fetched: u64,
    pub(crate) failed: u64,
    /// Time of the last successful fetch.
    pub(crate) succeeded: Option<SystemTime>,
}

impl RemoteKeys {
    /// Returns the keys in force. `None` before the first successful fetch.
    pub(super) fn keys(&self) -> Option<Arc<KeySet>> {
        self.keys.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Asks for a fetch because a token needs a key that is not in the set. Returns whether a fetch is under way now. At
    /// most one fetch in 30 seconds has this cause, so that bad tokens do not burden the provider.
    pub(super) fn want(&self, now: Instant) -> bool {
        let mut state = self.state();
        let is_due = |last: Instant| now.saturating_duration_since(last) >= UNKNOWN_KEY_INTERVAL;
        if !state.is_wanted && state.unknown_key.is_none_or(is_due) {
            state.is_wanted = true;
            state.unknown_key = Some(now);
            self.changed.notify_all();
        }
        state.is_wanted
    }

    /// Asks for a fetch now.
    pub(crate) fn refresh(&self) {
        self.state().is_wanted = true;
        self.changed.notify_all();
    }

    /// Waits until the next fetch is due: `pause` has passed, or a fetch is wanted.
    pub(crate) fn wait(&self, pause: Duration) -> Wake {
        let is_idle = |state: &mut State| !state.is_wanted && !state.is_over;
        let waited = self.changed.wait_timeout_while(self.state(), pause, is_idle);
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        if state.is_over {
            return Wake::Over;
        }
        state.is_wanted = true;
        Wake::Fetch
    }

    /// Stores the outcome of a fetch: the new keys, or `None` if the fetch failed, which leaves the old ones in force.
    /// Returns whether other keys are in force now.
    pub(crate) fn fetched(&self, keys: Option<KeySet>) -> bool {
        let mut is_new = false;
        let mut state = self.state();
        state.is_wanted = false;
        match keys {
            Some(keys) => {
                let mut old = self.keys.write().unwrap_or_else(PoisonError::into_inner);
                is_new = old.as_deref() != Some(&keys);
                *old = Some(Arc::new(keys));
                state.succeeded = Some(SystemTime::now());
                self.fetched.fetch_add(1, Ordering::Relaxed);
            }
            None => _ = self.failed.fetch_add(1, Ordering::Relaxed),
        }
        is_new
    }

    /// Ends the thread that fetches the keys after its current fetch. The keys stay in force.
    pub(crate) fn end(&self) {
        self.state().is_over = true;
        self.changed.notify_all();
    }

    /// Returns the state of the fetches.
    pub(crate) fn remote_state(&self) -> RemoteState {
        RemoteState {
            keys: self.keys().map(|keys| keys.len()),
            fetched: self.fetched.load(Ordering::Relaxed),
            failed: self.failed.load(Ordering::Relaxed),
            succeeded: self.state().succeeded,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some_keys() -> KeySet {
        KeySet::parse(include_bytes!("../../tests/files/jwks.json")).expect("usable")
    }

    #[test]
    fn unknown_keys_cause_one_fetch_in_30_seconds() {
        let (remote, start) = (RemoteKeys::default(), Instant::now());
        assert!(remote.want(start));
        assert_eq!(remote.wait(Duration::from_secs(100)), Wake::Fetch);
        // Tokens that come meanwhile wait for the same fetch.
        assert!(remote.want(start + Duration::from_secs(40)));
        remote.fetched(Some(some_keys()));
        assert!(!remote.want(start + Duration::from_secs(29)));
        assert!(remote.want(start + Duration::from_secs(30)));
        remote.fetched(None);
        assert!(!remote.want(start + Duration::from_secs(31)));
    }

    #[test]
    fn the_old_keys_stay_while_fetches_fail() {
        let remote = RemoteKeys::default();
        assert!(!remote.fetched(None) && remote.keys().is_none());
        assert!(remote.fetched(Some(some_keys())));
        assert!(!remote.fetched(Some(some_keys())) && !remote.fetched(None));
        let state = remote.remote_state();
        assert_eq!((state.keys, state.fetched, state.failed), (Some(1), 2, 2));
        assert!(state.succeeded.is_some());
    }

    #[test]
    fn the_wait_ends_after_its_time_and_at_the_end() {
        let remote = RemoteKeys::default();
        assert_eq!(remote.wait(Duration::ZERO), Wake::Fetch);
        remote.fetched(None);
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| remote.wait(Duration::from_secs(1_000)));
            remote.end();
            assert_eq!(waiting.join().expect("no panic"), Wake::Over);
        });
    }
}
