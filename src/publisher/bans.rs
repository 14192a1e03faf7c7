//! Bans: users that may not connect for a while. All threads of a server share one list.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::hub::is_user;

/// Maximum number of bans. At this number, a new ban replaces the one that ends first.
pub const MAX_BANS: usize = 10_000;
/// Maximum length of a ban: about 100 years.
const MAX_DURATION: Duration = Duration::from_secs(100 * 365 * 86_400);

/// A ban, as [`Publisher::bans`](super::Publisher::bans) lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ban {
    /// The user's identifier.
    pub user: String,
    /// Time until the ban ends.
    pub left: Duration,
}

/// The bans of a server.
#[derive(Debug, Default)]
pub(crate) struct Bans {
    /// Number of bans in `list`, some of which may have ended. Without bans, a check takes no lock.
    count: AtomicUsize,
    list: Mutex<List>,
}

#[derive(Debug, Default)]
struct List {
    /// The end of each ban, by user.
    ends: HashMap<Arc<str>, Instant>,
    /// The bans in the order of their ends.
    queue: BTreeSet<(Instant, Arc<str>)>,
}

impl Bans {
    /// Bans a user from now on for `duration`, instead of an earlier ban of the user. Does nothing for an identifier that
    /// no user can have.
    pub(crate) fn add(&self, user: &str, duration: Duration) {
        if is_user(user) {
            self.change(|list, now| list.add(user, now + duration.min(MAX_DURATION)));
        }
    }

    /// Lifts the ban of a user. Returns whether there was one.
    pub(crate) fn remove(&self, user: &str) -> bool {
        self.change(|list, _| list.remove(user))
    }

    /// Returns whether a user is banned now.
    pub(crate) fn has(&self, user: &str) -> bool {
        self.count.load(Ordering::SeqCst) > 0 && self.change(|list, _| list.ends.contains_key(user))
    }

    /// Returns all bans, the one that ends first first.
    pub(crate) fn all(&self) -> Vec<Ban> {
        self.change(|list, now| {
            let ban = |(end, user): &(Instant, Arc<str>)| Ban { user: user.to_string(), left: *end - now };
            list.queue.iter().map(ban).collect()
        })
    }

    /// Drops the bans that have ended, and calls `change` with the list and the time.
    fn change<R>(&self, change: impl FnOnce(&mut List, Instant) -> R) -> R {
        let mut list: MutexGuard<'_, List> = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        list.expire(now);
        let result = change(&mut list, now);
        self.count.store(list.ends.len(), Ordering::SeqCst);
        result
    }
}

impl List {
    fn add(&mut self, user: &str, end: Instant) {
        self.remove(user);
        if self.queue.len() >= MAX_BANS
            && let Some((_, first)) = self.queue.pop_first()
        {
            self.ends.remove(&first);
        }
        let user: Arc<str> = user.into();
        self.ends.insert(Arc::clone(&user), end);
        self.queue.insert((end, user));
    }

    fn remove(&mut self, user: &str) -> bool {
        let removed = self.ends.remove_entry(user);
        removed.is_some_and(|(user, end)| self.queue.remove(&(end, user)))
    }

    fn expire(&mut self, now: Instant) {
        while let Some((end, _)) = self.queue.first()
            && *end <= now
        {
            let (_, user) = self.queue.pop_first().expect("there is a first ban");
            self.ends.remove(&user);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ban_is_listed_until_it_is_lifted_or_ends() {
        let bans = Bans::default();
        bans.add("ann", Duration::from_secs(1_000));
        bans.add("bob", Duration::from_secs(100));
        bans.add("", Duration::MAX);
        bans.add(&"x".repeat(256), Duration::MAX);
        bans.add("eve", Duration::ZERO);
        assert!(bans.has("ann") && bans.has("bob") && !bans.has("eve") && !bans.has("Ann"));
        let users: Vec<String> = bans.all().into_iter().map(|ban| ban.user).collect();
        assert_eq!(users, ["bob", "ann"]);
        assert!(bans.remove("bob") && !bans.remove("bob") && !bans.has("bob"));
        bans.add("ann", Duration::MAX);
        let all = bans.all();
        assert!(all.len() == 1 && all[0].left > Duration::from_secs(2_000), "a new ban replaces the old one");
        let mut list = bans.list.lock().expect("no panic");
        list.expire(Instant::now() + MAX_DURATION);
        assert!(list.ends.is_empty() && list.queue.is_empty());
    }

    #[test]
    fn over_the_limit_the_ban_that_ends_first_makes_room() {
        let mut list = List::default();
        let now = Instant::now();
        for number in 0..=MAX_BANS as u64 {
            list.add(&format!("user{number}"), now + Duration::from_secs(number ^ 1));
        }
        assert_eq!((list.ends.len(), list.queue.len()), (MAX_BANS, MAX_BANS));
        assert!(!list.ends.contains_key("user1") && list.ends.contains_key("user0"));
    }
}
