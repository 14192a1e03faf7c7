//! The last events of cache channels.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

/// Time for which the last event of a cache channel is kept.
pub(super) const KEPT_FOR: Duration = Duration::from_secs(30 * 60);
/// Maximum size of the events that an instance keeps, in bytes. Over it the oldest events are dropped.
const MAX_BYTES: usize = 64 << 20;
/// Size of an entry in addition to its texts, in bytes.
const ENTRY_BYTES: usize = 200;

/// The last event of each cache channel whose home is this shard, for half an hour.
#[derive(Debug, Default)]
pub(super) struct Cache {
    events: HashMap<Box<str>, Cached>,
    /// Rooms of the events, by the order of publication.
    order: BTreeMap<u64, Box<str>>,
    next: u64,
    bytes: usize,
}

#[derive(Debug)]
struct Cached {
    /// The whole event, as clients get it.
    event: Arc<str>,
    /// Time at which the event is dropped, by the shard's clock.
    end: Duration,
    number: u64,
}

impl Cache {
    /// Stores the last event of a room.
    pub(super) fn insert(&mut self, now: Duration, room: &str, event: Arc<str>) {
        self.remove(room);
        self.bytes += size(room, &event);
        let number = self.next;
        self.next += 1;
        self.order.insert(number, room.into());
        self.events.insert(room.into(), Cached { event, end: now + KEPT_FOR, number });
        while self.bytes > MAX_BYTES
            && let Some((_, room)) = self.order.first_key_value()
        {
            let room = room.clone();
            self.remove(&room);
        }
    }

    /// Returns the last event of a room, and the time for which it is still kept.
    pub(super) fn get(&self, now: Duration, room: &str) -> Option<(&Arc<str>, Duration)> {
        let cached = self.events.get(room).filter(|cached| cached.end > now)?;
        Some((&cached.event, cached.end - now))
    }

    /// Drops the events whose time is over. Returns the time until the next one, or `None` without events.
    pub(super) fn expire(&mut self, now: Duration) -> Option<Duration> {
        loop {
            let (_, room) = self.order.first_key_value()?;
            let end = self.events[room].end;
            if end > now {
                return Some(end - now);
            }
            let room = room.clone();
            self.remove(&room);
        }
    }

    fn remove(&mut self, room: &str) {
        if let Some(cached) = self.events.remove(room) {
            self.order.remove(&cached.number);
            self.bytes -= size(room, &cached.event);
        }
    }
}

fn size(room: &str, event: &str) -> usize {
    2 * room.len() + event.len() + ENTRY_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn the_last_event_is_kept_for_its_time() {
        let mut cache = Cache::default();
        assert_eq!((cache.expire(SECOND), cache.get(SECOND, "a")), (None, None));
        cache.insert(SECOND, "a", "1".into());
        cache.insert(2 * SECOND, "b", "2".into());
        cache.insert(3 * SECOND, "a", "3".into());
        assert_eq!(cache.get(4 * SECOND, "a"), Some((&"3".into(), KEPT_FOR - SECOND)));
        assert_eq!(cache.expire(4 * SECOND), Some(KEPT_FOR - 2 * SECOND));
        let late = 2 * SECOND + KEPT_FOR;
        assert_eq!(cache.get(late, "b"), None);
        assert_eq!(cache.expire(late), Some(SECOND));
        assert!(cache.get(late, "a").is_some());
        assert_eq!(cache.expire(late + SECOND), None);
        assert_eq!((cache.bytes, cache.events.len(), cache.order.len()), (0, 0, 0));
    }

    #[test]
    fn the_oldest_events_make_room() {
        let mut cache = Cache::default();
        let event: Arc<str> = "x".repeat(1 << 20).into();
        for number in 0..100 {
            cache.insert(SECOND, &number.to_string(), Arc::clone(&event));
        }
        assert!(cache.bytes <= MAX_BYTES && cache.events.len() == cache.order.len());
        assert!(cache.get(SECOND, "99").is_some() && cache.get(SECOND, "0").is_none());
    }
}
