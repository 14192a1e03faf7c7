//! Recent calls with an `Idempotency-Key`.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::call::DeferredCall;
use super::reply::{Problem, Reply};

/// Time for which a call's answer is kept.
const KEPT: Duration = Duration::from_secs(60);
/// Maximum number of kept calls of one shard.
const MAX_ENTRIES: usize = 100_000;
/// Maximum memory of the kept names and answers of one shard, in bytes. Answers count with [`ANSWER_BYTES`] each.
const MAX_BYTES: usize = 64 << 20;
/// Memory of one kept call besides its name, in bytes: about that of a usual answer, its entry and its digest.
const ANSWER_BYTES: usize = 512;

/// The calls of the last minute whose home is this shard, by the names of their keys. Old ones are dropped when the next
/// call comes.
#[derive(Debug, Default)]
pub(super) struct Attempts {
    entries: HashMap<Arc<str>, Arc<Entry>>,
    /// Names of all entries and their ends, in the order of their ends.
    ends: VecDeque<(Duration, Arc<str>)>,
    bytes: usize,
}

/// A call that was made with an `Idempotency-Key`, once or several times.
#[derive(Debug)]
pub(super) struct Entry {
    fingerprint: [u8; 32],
    state: Mutex<State>,
}

#[derive(Debug)]
enum State {
    /// No call is in progress, and no answer is kept: the next call publishes.
    Open,
    /// A call is in progress, and these calls wait for its answer.
    InProgress(Vec<DeferredCall>),
    Done(Result<Reply, Problem>),
}

/// The result of [`Attempts::find`].
pub(super) enum Found {
    /// The entry of the call's key, perhaps a new one.
    Entry(Arc<Entry>),
    /// The `Idempotency-Key` belongs to an earlier request that differs.
    Other,
    /// No more entries fit.
    Full,
}

impl Attempts {
    /// Returns the entry with this name, or adds one.
    pub(super) fn find(&mut self, now: Duration, name: String, fingerprint: [u8; 32]) -> Found {
        while let Some((end, _)) = self.ends.front()
            && *end <= now
        {
            let Some((_, name)) = self.ends.pop_front() else { break };
            self.bytes -= weight(&name);
            self.entries.remove(&name);
        }
        if self.entries.len() < self.entries.capacity() / 8 {
            self.entries.shrink_to(self.entries.len() * 2);
            self.ends.shrink_to(self.entries.len() * 2);
        }
        if let Some(entry) = self.entries.get(&*name) {
            return if entry.fingerprint == fingerprint {
                Found::Entry(Arc::clone(entry))
            } else {
                Found::Other
            };
        }
        let bytes = self.bytes + weight(&name);
        if self.entries.len() >= MAX_ENTRIES || bytes > MAX_BYTES {
            return Found::Full;
        }
        self.bytes = bytes;
        let (name, entry) =
            (Arc::from(name), Arc::new(Entry { fingerprint, state: Mutex::new(State::Open) }));
        self.ends.push_back((now + KEPT, Arc::clone(&name)));
        self.entries.insert(name, Arc::clone(&entry));
        Found::Entry(entry)
    }
}

impl Entry {
    /// Adds a call. Answers it at once if the answer is kept. Returns whether the caller must publish and call
    /// [`Entry::complete`].
    pub(super) fn join(&self, call: DeferredCall) -> bool {
        let mut state = self.lock();
        match &mut *state {
            State::Open => {
                *state = State::InProgress(vec![call]);
                true
            }
            State::InProgress(calls) => {
                calls.push(call);
                false
            }
            State::Done(outcome) => {
                call.finish(outcome.clone());
                false
            }
        }
    }

    /// Answers all calls that wait, and keeps the outcome unless a repeated call may have a better one.
    pub(super) fn complete(&self, outcome: &Result<Reply, Problem>) {
        let is_final = outcome.as_ref().err().is_none_or(|problem| !problem.is_temporary());
        let next = if is_final { State::Done(outcome.clone()) } else { State::Open };
        let State::InProgress(calls) = std::mem::replace(&mut *self.lock(), next) else { return };
        for call in calls {
            call.finish(outcome.clone());
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn weight(name: &str) -> usize {
    name.len() + ANSWER_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_new(attempts: &mut Attempts, seconds: u64, name: &str, digit: u8) -> Option<bool> {
        let before = attempts.entries.len();
        match attempts.find(Duration::from_secs(seconds), name.into(), [digit; 32]) {
            Found::Entry(_) => Some(attempts.entries.len() > before),
            Found::Other | Found::Full => None,
        }
    }

    #[test]
    fn an_entry_lives_for_a_minute_and_belongs_to_one_request() {
        let mut attempts = Attempts::default();
        assert_eq!(is_new(&mut attempts, 10, "php a", 1), Some(true));
        assert_eq!(is_new(&mut attempts, 69, "php a", 1), Some(false));
        assert_eq!(is_new(&mut attempts, 69, "php a", 2), None);
        assert_eq!(is_new(&mut attempts, 69, "ops a", 2), Some(true));
        let Found::Entry(_) = attempts.find(Duration::from_secs(70), "php a".into(), [2; 32]) else {
            panic!("the minute is over");
        };
        assert_eq!((attempts.entries.len(), attempts.ends.len()), (2, 2));
    }

    #[test]
    fn no_entry_of_the_last_minute_is_dropped_for_another() {
        let mut attempts = Attempts::default();
        for number in 0..MAX_ENTRIES {
            assert_eq!(is_new(&mut attempts, 1, &number.to_string(), 0), Some(true));
        }
        assert!(matches!(attempts.find(Duration::from_secs(60), "more".into(), [0; 32]), Found::Full));
        assert_eq!(is_new(&mut attempts, 60, "5", 0), Some(false));
        assert!(matches!(attempts.find(Duration::from_secs(61), "more".into(), [0; 32]), Found::Entry(_)));
        assert_eq!((attempts.entries.len(), attempts.bytes), (1, weight("more")));
    }
}
