//! Events with the number of subscribers of a channel, for applications that want them.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use super::encode::{Data, encode_event};
use super::home::channel;
use super::webhooks::Reporter;
use super::{Context, Message};

/// Time for which changes of a channel gather.
const GATHER: Duration = Duration::from_millis(500);
/// Time for which changes of a channel with more than [`MANY`] subscribers gather.
const GATHER_MANY: Duration = Duration::from_secs(5);
const MANY: usize = 100;
/// Timer of the instance that counts the subscribers of changed channels.
pub(super) const COUNT_TIMER: u64 = 3;
/// Bit that tells the tokens of these counts from those of other questions for members.
const TOKEN: u64 = 1 << 63;

/// The channels whose home is this shard and whose number of subscribers has changed.
#[derive(Debug, Default)]
pub(super) struct SubscriptionCounts {
    /// Rooms to count, by the time at which they are counted.
    due: BTreeSet<(Duration, Box<str>)>,
    /// State of each room with subscribers, or with a count that is due.
    rooms: HashMap<Box<str>, Counted>,
    /// Rooms that are being counted, by the token of the question.
    asked: HashMap<u64, Box<str>>,
    last_token: u64,
}

/// The last count of a room.
#[derive(Clone, Copy, Debug, Default)]
struct Counted {
    count: usize,
    is_due: bool,
}

impl SubscriptionCounts {
    /// Notes that a client has subscribed to a room, or has left it.
    pub(super) fn change(&mut self, context: &mut Context<'_>, room: Box<str>) {
        let counted = self.rooms.entry(room.clone()).or_default();
        if std::mem::replace(&mut counted.is_due, true) {
            return;
        }
        let wait = if counted.count > MANY { GATHER_MANY } else { GATHER };
        self.due.insert((context.now() + wait, room));
        self.set_timer(context);
    }

    /// Counts the rooms whose time has come.
    pub(super) fn count(&mut self, context: &mut Context<'_>) {
        while let Some((at, _)) = self.due.first()
            && *at <= context.now()
            && let Some((_, room)) = self.due.pop_first()
        {
            self.last_token += 1;
            let token = self.last_token | TOKEN;
            context.ask_members(&room, None, 0, token);
            if let Some(counted) = self.rooms.get_mut(&room) {
                counted.is_due = false;
            }
            self.asked.insert(token, room);
        }
        self.set_timer(context);
    }

    /// Publishes a count. Returns false if the token is that of another question.
    pub(super) fn take(
        &mut self,
        context: &mut Context<'_>,
        reporter: &Reporter,
        token: u64,
        count: usize,
    ) -> bool {
        let Some(room) = self.asked.remove(&token) else { return token & TOKEN != 0 };
        let counted = self.rooms.entry(room.clone()).or_default();
        if std::mem::replace(&mut counted.count, count) != count {
            let data = format!("{{\"subscription_count\":{count}}}");
            let name = "pusher_internal:subscription_count";
            let event = encode_event(name, Some(channel(&room)), Data::Text(&data), None);
            context.publish_to_room(&room, Message::text(&event));
            reporter.counted(&room, count);
        }
        if self.rooms.get(&room).is_some_and(|counted| counted.count == 0 && !counted.is_due) {
            self.rooms.remove(&room);
        }
        true
    }

    fn set_timer(&self, context: &mut Context<'_>) {
        if let Some((at, _)) = self.due.first() {
            context.set_timer(at.saturating_sub(context.now()), COUNT_TIMER);
        }
    }
}
