//! Events for the webhooks of applications, in Pusher's format.
//!
//! The home shard of a channel's room reports what happens in the channel, so the events of a channel come in order. An
//! application without webhooks costs nothing: no event is made that nobody wants.

use std::collections::{HashMap, HashSet, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::encode::push_text;
use super::home::channel;
use super::{Context, PusherApp};

/// Time for which a channel without subscribers, or a member without connections, counts as there. A page that is loaded
/// again causes no events.
const GRACE: Duration = Duration::from_secs(3);
/// Maximum number of channels and members in their grace. Above it, the events are sent at once.
const MAX_GRACES: usize = 100_000;
/// Minimum time between two events about a cache channel without an event.
const MISS_INTERVAL: Duration = Duration::from_secs(5);
/// Timer of the instance that ends the grace of channels and members.
pub(super) const GRACE_TIMER: u64 = 2;

/// A kind of event that a webhook of a Pusher application can get.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PusherEvent {
    /// A channel has got its first subscriber.
    ChannelOccupied,
    /// A channel has lost its last subscriber.
    ChannelVacated,
    /// A user has come to a presence channel.
    MemberAdded,
    /// A user has left a presence channel.
    MemberRemoved,
    /// A client has sent an event to a channel.
    ClientEvent,
    /// A client has subscribed to a cache channel that has no event.
    CacheMiss,
    /// The number of subscribers of a channel has changed.
    SubscriptionCount,
}

impl PusherEvent {
    /// All kinds of events.
    pub const ALL: [Self; 7] = [
        Self::ChannelOccupied,
        Self::ChannelVacated,
        Self::MemberAdded,
        Self::MemberRemoved,
        Self::ClientEvent,
        Self::CacheMiss,
        Self::SubscriptionCount,
    ];

    /// Returns the name of the kind in the body of a webhook.
    pub fn name(self) -> &'static str {
        match self {
            Self::ChannelOccupied => "channel_occupied",
            Self::ChannelVacated => "channel_vacated",
            Self::MemberAdded => "member_added",
            Self::MemberRemoved => "member_removed",
            Self::ClientEvent => "client_event",
            Self::CacheMiss => "cache_miss",
            Self::SubscriptionCount => "subscription_count",
        }
    }
}

/// A webhook of a Pusher application: a server that is told what happens in the application's channels.
#[derive(Clone, PartialEq, Eq)]
pub struct PusherWebhook {
    /// URL to which the events are sent.
    pub url: String,
    /// Kinds of the events that are sent.
    pub events: Vec<PusherEvent>,
}

impl fmt::Debug for PusherWebhook {
    /// Leaves out the URL, which may have a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PusherWebhook").field("events", &self.events).finish_non_exhaustive()
    }
}

/// The receiver of the events for webhooks, which sends them to the applications' servers. Shards call it, so it must not
/// wait.
pub trait PusherReports: fmt::Debug + Send + Sync {
    /// Takes an event of the application with the identifier `app`. `json` is the event as it stands in the list `events`
    /// of a webhook's body.
    fn report(&self, app: &str, event: PusherEvent, json: &str);

    /// Adopts the applications that replace the present ones.
    ///
    /// # Errors
    /// Returns a text with the problem. Then nothing changes.
    fn replace(&self, apps: &[PusherApp]) -> Result<(), String>;
}

/// The reports of an instance.
#[derive(Debug, Default)]
pub(super) struct Reporter {
    reports: Option<Arc<dyn PusherReports>>,
    /// Kinds of events that each application's webhooks want, by its identifier. Applications without webhooks are left
    /// out.
    wanted: HashMap<String, Vec<PusherEvent>>,
    grace: Grace,
    misses: Misses,
}

/// The cache channels about which webhooks were told a moment ago that they have no event.
#[derive(Debug, Default)]
struct Misses {
    rooms: HashSet<Arc<str>>,
    /// The rooms with the times of their events, oldest first.
    queue: VecDeque<(Duration, Arc<str>)>,
}

/// Channels without subscribers and members without connections that still count as there.
#[derive(Debug, Default)]
struct Grace {
    /// The end of the grace of each room, and of each member by its room and user identifier.
    ends: HashMap<(Box<str>, Option<Box<str>>), Duration>,
    /// Entries of `ends` in the order of their ends. An entry whose end differs is stale.
    queue: VecDeque<(Duration, Box<str>, Option<Box<str>>)>,
}

impl Reporter {
    /// Adopts the present applications.
    pub(super) fn adopt<'a>(
        &mut self,
        reports: Option<Arc<dyn PusherReports>>,
        apps: impl Iterator<Item = &'a PusherApp>,
    ) {
        self.reports = reports;
        let wanted = apps.filter(|app| !app.webhooks.is_empty()).map(|app| {
            let events = app.webhooks.iter().flat_map(|webhook| webhook.events.clone()).collect();
            (app.id.clone(), events)
        });
        self.wanted = wanted.collect();
    }

    /// Returns whether a webhook of the room's application wants a kind of event.
    pub(super) fn wants(&self, room: &str, event: PusherEvent) -> bool {
        if self.wanted.is_empty() || self.reports.is_none() {
            return false;
        }
        self.wanted.get(app_of(room)).is_some_and(|events| events.contains(&event))
    }

    /// Reports an event of a channel. `more` appends further members of the JSON object, each after a comma.
    pub(super) fn report(&self, room: &str, event: PusherEvent, more: impl FnOnce(&mut String)) {
        if !self.wants(room, event) {
            return;
        }
        let mut json = format!("{{\"name\":\"{}\",\"channel\":", event.name());
        push_text(&mut json, channel(room));
        more(&mut json);
        json.push('}');
        if let Some(reports) = &self.reports {
            reports.report(app_of(room), event, &json);
        }
    }

    /// Reports that a channel is occupied, unless it was vacated a moment ago.
    pub(super) fn occupied(&mut self, room: &str) {
        if !self.grace.cancel(room, None) {
            self.report(room, PusherEvent::ChannelOccupied, |_| {});
        }
    }

    /// Reports after the grace that a channel is vacated.
    pub(super) fn vacated(&mut self, context: &mut Context<'_>, room: &str) {
        if self.grace.is_full() {
            self.report(room, PusherEvent::ChannelVacated, |_| {});
        } else if self.wants_any(room, [PusherEvent::ChannelOccupied, PusherEvent::ChannelVacated]) {
            self.grace.begin(context, room, None);
        }
    }

    /// Reports a new member, unless it left a moment ago.
    pub(super) fn added(&mut self, room: &str, user_id: &str) {
        if !self.grace.cancel(room, Some(user_id)) {
            self.report(room, PusherEvent::MemberAdded, |json| push_member(json, "user_id", user_id));
        }
    }

    /// Reports after the grace that a member has left.
    pub(super) fn removed(&mut self, context: &mut Context<'_>, room: &str, user_id: &str) {
        if self.grace.is_full() {
            self.report(room, PusherEvent::MemberRemoved, |json| push_member(json, "user_id", user_id));
        } else if self.wants_any(room, [PusherEvent::MemberAdded, PusherEvent::MemberRemoved]) {
            self.grace.begin(context, room, Some(user_id));
        }
    }

    /// Reports a client's event. `user_id` is that of a presence channel.
    pub(super) fn client_event(
        &self,
        room: &str,
        socket_id: &str,
        user_id: Option<&str>,
        event: &str,
        data: Option<&str>,
    ) {
        self.report(room, PusherEvent::ClientEvent, |json| {
            push_member(json, "event", event);
            push_member(json, "data", data.unwrap_or_default());
            push_member(json, "socket_id", socket_id);
            if let Some(user_id) = user_id {
                push_member(json, "user_id", user_id);
            }
        });
    }

    /// Reports that a cache channel has no event, at most once in a while for each channel.
    pub(super) fn missed(&mut self, now: Duration, room: &str) {
        if !self.wants(room, PusherEvent::CacheMiss) {
            return;
        }
        if self.misses.is_new(now, room) {
            self.report(room, PusherEvent::CacheMiss, |_| {});
        }
    }

    /// Reports the number of subscribers of a channel.
    pub(super) fn counted(&self, room: &str, count: usize) {
        self.report(room, PusherEvent::SubscriptionCount, |json| {
            *json += &format!(",\"subscription_count\":{count}");
        });
    }

    /// Reports the channels and members whose grace is over.
    pub(super) fn end_grace(&mut self, context: &mut Context<'_>) {
        let now = context.now();
        while let Some((room, user_id)) = self.grace.expired(now) {
            match user_id {
                None => self.report(&room, PusherEvent::ChannelVacated, |_| {}),
                Some(user_id) => self.report(&room, PusherEvent::MemberRemoved, |json| {
                    push_member(json, "user_id", &user_id);
                }),
            }
        }
        self.grace.set_timer(context);
    }

    fn wants_any<const N: usize>(&self, room: &str, events: [PusherEvent; N]) -> bool {
        events.into_iter().any(|event| self.wants(room, event))
    }
}

impl Misses {
    /// Returns whether the last event about a room is long enough ago. If so, notes that there is one now.
    fn is_new(&mut self, now: Duration, room: &str) -> bool {
        while let Some((_, old)) = self.queue.pop_front_if(|(at, _)| *at + MISS_INTERVAL <= now) {
            self.rooms.remove(&old);
        }
        if self.rooms.contains(room) {
            return false;
        }
        let room: Arc<str> = room.into();
        self.rooms.insert(Arc::clone(&room));
        self.queue.push_back((now, room));
        true
    }
}

impl Grace {
    fn begin(&mut self, context: &mut Context<'_>, room: &str, user_id: Option<&str>) {
        let is_first = self.queue.is_empty();
        self.add(context.now() + GRACE, room, user_id);
        if is_first {
            self.set_timer(context);
        }
    }

    fn add(&mut self, end: Duration, room: &str, user_id: Option<&str>) {
        let (room, user_id): (Box<str>, _) = (room.into(), user_id.map(Box::from));
        self.ends.insert((room.clone(), user_id.clone()), end);
        self.queue.push_back((end, room, user_id));
    }

    fn is_full(&self) -> bool {
        self.queue.len() >= MAX_GRACES
    }

    /// Ends a grace without an event. Returns false if there was none.
    fn cancel(&mut self, room: &str, user_id: Option<&str>) -> bool {
        !self.ends.is_empty() && self.ends.remove(&(room.into(), user_id.map(Box::from))).is_some()
    }

    /// Returns the next room, or room and member, whose grace is over.
    fn expired(&mut self, now: Duration) -> Option<(Box<str>, Option<Box<str>>)> {
        while let Some((end, ..)) = self.queue.front()
            && *end <= now
        {
            let (end, room, user_id) = self.queue.pop_front()?;
            let key = (room, user_id);
            if self.ends.get(&key) == Some(&end) {
                self.ends.remove(&key);
                return Some(key);
            }
        }
        None
    }

    fn set_timer(&self, context: &mut Context<'_>) {
        if let Some((end, ..)) = self.queue.front() {
            context.set_timer(end.saturating_sub(context.now()), GRACE_TIMER);
        }
    }
}

/// Returns the identifier of the application of a room.
fn app_of(room: &str) -> &str {
    room.split_once('/').map_or(room, |(app, _)| app)
}

/// Appends a member with a text to a JSON object.
fn push_member(json: &mut String, key: &str, text: &str) {
    *json += &format!(",\"{key}\":");
    push_text(json, text);
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[derive(Debug, Default)]
    struct Heard(Mutex<Vec<String>>);

    impl PusherReports for Heard {
        fn report(&self, app: &str, _: PusherEvent, json: &str) {
            self.0.lock().expect("no panic").push(format!("{app} {json}"));
        }

        fn replace(&self, _: &[PusherApp]) -> Result<(), String> {
            Ok(())
        }
    }

    fn reporter(events: &[PusherEvent]) -> (Reporter, Arc<Heard>) {
        let heard = Arc::<Heard>::default();
        let webhooks = vec![PusherWebhook { url: "https://example.org".into(), events: events.into() }];
        let app = PusherApp { webhooks, ..PusherApp::new("7", "key", "secret") };
        let mut reporter = Reporter::default();
        let others = PusherApp::new("8", "other", "secret");
        reporter.adopt(Some(Arc::clone(&heard) as _), [&app, &others].into_iter());
        (reporter, heard)
    }

    #[test]
    fn events_have_pushers_format() {
        let (mut reporter, heard) = reporter(&PusherEvent::ALL);
        let now = Duration::from_secs(9);
        reporter.occupied("7/a\"b");
        reporter.added("7/presence-a", "ann");
        reporter.client_event("7/private-a", "1.2", None, "client-x", Some("{\"y\":1}"));
        reporter.client_event("7/presence-a", "1.2", Some("ann"), "client-x", None);
        reporter.missed(now, "7/cache-a");
        reporter.missed(now + MISS_INTERVAL / 2, "7/cache-a");
        reporter.missed(now + MISS_INTERVAL, "7/cache-a");
        reporter.counted("7/a", 5);
        reporter.occupied("8/a");
        let expected = [
            r#"7 {"name":"channel_occupied","channel":"a\"b"}"#,
            r#"7 {"name":"member_added","channel":"presence-a","user_id":"ann"}"#,
            r#"7 {"name":"client_event","channel":"private-a","event":"client-x","data":"{\"y\":1}","socket_id":"1.2"}"#,
            r#"7 {"name":"client_event","channel":"presence-a","event":"client-x","data":"","socket_id":"1.2","user_id":"ann"}"#,
            r#"7 {"name":"cache_miss","channel":"cache-a"}"#,
            r#"7 {"name":"cache_miss","channel":"cache-a"}"#,
            r#"7 {"name":"subscription_count","channel":"a","subscription_count":5}"#,
        ];
        assert_eq!(*heard.0.lock().expect("no panic"), expected);
    }

    #[test]
    fn a_webhook_gets_only_the_kinds_that_it_wants() {
        let (mut reporter, heard) = reporter(&[PusherEvent::MemberAdded]);
        reporter.occupied("7/a");
        reporter.added("7/presence-a", "ann");
        assert_eq!(heard.0.lock().expect("no panic").len(), 1);
        assert!(
            !reporter.wants("8/a", PusherEvent::MemberAdded)
                && !reporter.wants("9/a", PusherEvent::MemberAdded)
        );
    }

    #[test]
    fn who_comes_back_within_the_grace_was_never_gone() {
        let second = Duration::from_secs(1);
        let mut grace = Grace::default();
        grace.add(3 * second, "7/a", None);
        grace.add(3 * second, "7/a", Some("ann"));
        assert!(
            grace.cancel("7/a", Some("ann"))
                && !grace.cancel("7/a", Some("ann"))
                && !grace.cancel("7/b", None)
        );
        grace.add(5 * second, "7/a", Some("ann"));
        assert_eq!(grace.expired(4 * second), Some(("7/a".into(), None)));
        assert_eq!(grace.expired(4 * second), None);
        assert_eq!(grace.expired(5 * second), Some(("7/a".into(), Some("ann".into()))));
        assert!(grace.expired(9 * second).is_none() && grace.queue.is_empty() && grace.ends.is_empty());
        for number in 0..MAX_GRACES {
            assert!(!grace.is_full());
            grace.add(3 * second, &number.to_string(), None);
        }
        assert!(grace.is_full());
    }
}
