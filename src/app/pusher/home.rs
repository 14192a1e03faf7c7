//! The state of rooms on their home shards: the members of presence channels, and the last events of cache channels.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::cache::{self, Cache};
use super::counts::SubscriptionCounts;
use super::encode::{Data, encode_event};
use super::presence::{NewMember, Presence, member_added, member_removed};
use super::problem::Rejection;
use super::webhooks::Reporter;
use super::{CACHE_TIMER, ClientId, Context, Message};

/// A client's join of a room, which waits for the answer of the room's home.
#[derive(Debug)]
pub(super) struct Join {
    pub(super) room: Box<str>,
    pub(super) client: ClientId,
    /// Number of the join on the client's shard, which tells it from a later join of the same room.
    pub(super) number: u64,
    pub(super) is_cache: bool,
    /// The user of a presence channel, and the maximum number of users there.
    pub(super) member: Option<(NewMember, u32)>,
}

/// A note to the home of a room.
#[derive(Debug)]
pub(super) enum Ask {
    Join(Box<Join>),
    /// A client has subscribed to a room, or has left it, in an application that counts subscriptions.
    Changed {
        room: Box<str>,
    },
    /// A client is gone from a presence channel.
    Leave {
        room: Box<str>,
        client: u64,
        user_id: Box<str>,
    },
    /// An event for a cache channel.
    Publish {
        room: Box<str>,
        event: Arc<str>,
        except: Option<ClientId>,
    },
    /// The home's note to itself: all events that it has published before come now. It answers the joins of the room.
    Gather {
        room: Box<str>,
    },
    /// The home's note to itself: an answer whose place in the room's order has come.
    Answer(Box<Answer>),
}

/// The answer to joins of a room.
#[derive(Debug)]
pub(super) struct Answer {
    room: Box<str>,
    waiting: Vec<(ClientId, u64)>,
    succeeded: Option<Arc<str>>,
    then: Option<Arc<str>>,
}

/// The answer of a room's home.
#[derive(Debug)]
pub(super) enum Told {
    /// The clients get the room's events from now on.
    Joined {
        room: Box<str>,
        /// The clients, each with the number of its join.
        joins: Vec<(ClientId, u64)>,
        /// The event `subscription_succeeded`. `None` for the one without data.
        succeeded: Option<Arc<str>>,
        /// A second event: the last one of a cache channel, or the news that there is none.
        then: Option<Arc<str>>,
    },
    /// The client cannot join the room.
    Refused { room: Box<str>, client: ClientId, number: u64, rejection: Rejection },
}

/// All rooms with state whose home is this shard.
#[derive(Debug, Default)]
pub(super) struct Home {
    rooms: HashMap<Box<str>, Room>,
    cache: Cache,
    pub(super) counts: SubscriptionCounts,
    pub(super) reporter: Reporter,
}

#[derive(Debug, Default)]
struct Room {
    presence: Presence,
    /// Clients that wait for an answer, each with the number of its join.
    waiting: Vec<(ClientId, u64)>,
}

impl Home {
    /// Handles a note. Returns the answer to clients of this shard, which must be handled at once: this shard's log of the
    /// room has no message yet that comes behind the answer.
    pub(super) fn take(&mut self, context: &mut Context<'_>, ask: Ask) -> Option<Told> {
        match ask {
            Ask::Answer(answer) => return answer.send(context),
            Ask::Join(join) => self.join(context, *join),
            Ask::Changed { room } => self.counts.change(context, room),
            Ask::Leave { room, client, user_id } => self.leave(context, &room, client, &user_id),
            Ask::Publish { room, event, except } => {
                publish(context, &room, except, &event);
                self.cache.insert(context.now(), &room, event);
                self.drop_expired(context);
            }
            Ask::Gather { room } => self.gather(context, room),
        }
        None
    }

    /// Returns the members of a presence channel. `None` if it has none, or if its home is another shard.
    pub(super) fn presence(&self, room: &str) -> Option<&Presence> {
        self.rooms.get(room).map(|room| &room.presence).filter(|presence| presence.len() > 0)
    }

    /// Returns the last event of a cache channel, as its subscribers have got it, and the time for which it is still kept.
    pub(super) fn cached(&self, now: Duration, room: &str) -> Option<(&str, Duration)> {
        self.cache.get(now, room).map(|(event, left)| (&**event, left))
    }

    /// Publishes the number of subscribers of a channel. Returns false if the token is that of another question.
    pub(super) fn take_count(&mut self, context: &mut Context<'_>, token: u64, count: usize) -> bool {
        self.counts.take(context, &self.reporter, token, count)
    }

    /// Drops the expired events of cache channels, and sets a timer for the next ones.
    pub(super) fn drop_expired(&mut self, context: &mut Context<'_>) {
        if let Some(left) = self.cache.expire(context.now()) {
            context.set_timer(left.min(cache::KEPT_FOR), CACHE_TIMER);
        }
    }

    fn join(&mut self, context: &mut Context<'_>, join: Join) {
        let Join { room, client, number, is_cache, member } = join;
        if member.is_none() && !is_cache {
            // The answer tells the shard that it follows the room now. There is nothing to wait for.
            let joins = vec![(client, number)];
            return context.tell(client.shard, Told::Joined { room, joins, succeeded: None, then: None });
        }
        let state = self.rooms.entry(room.clone()).or_default();
        if let Some((member, limit)) = member {
            if !state.presence.has(&member.user_id) && state.presence.len() >= limit as usize {
                let rejection = Rejection::limit(4100, format!("The channel has its {limit} members."));
                self.forget(&room);
                return context.tell(client.shard, Told::Refused { room, client, number, rejection });
            }
            let (event, user_id) = (member_added(channel(&room), &member), member.user_id.clone());
            if state.presence.add(client.number, member) {
                publish(context, &room, None, &event);
                self.reporter.added(&room, &user_id);
            }
        }
        state.waiting.push((client, number));
        if state.waiting.len() == 1 {
            context.ask(context.shard(), Ask::Gather { room });
        }
    }

    fn leave(&mut self, context: &mut Context<'_>, room: &str, client: u64, user_id: &str) {
        let Some(state) = self.rooms.get_mut(room) else { return };
        if state.presence.remove(client, user_id) {
            publish(context, room, None, &member_removed(channel(room), user_id));
            self.reporter.removed(context, room, user_id);
            self.forget(room);
        }
    }

    /// Makes the answer to all joins that wait. Their number may have grown since the note was sent, and other changes may
    /// be on their way, so the answer follows with another note: then all that it contains has been published.
    fn gather(&mut self, context: &mut Context<'_>, room: Box<str>) {
        let Some(state) = self.rooms.get_mut(&room) else { return };
        let waiting = std::mem::take(&mut state.waiting);
        let name = channel(&room);
        let (is_presence, is_cache) = super::channel::Channel::parse(name)
            .map_or((false, false), |channel| (channel.is_presence(), channel.is_cache));
        let succeeded: Option<Arc<str>> = is_presence.then(|| state.presence.succeeded(name).into());
        let then = is_cache.then(|| match self.cache.get(context.now(), &room) {
            Some((event, _)) => Arc::clone(event),
            None => {
                self.reporter.missed(context.now(), &room);
                encode_event("pusher:cache_miss", Some(name), Data::None, None).into()
            }
        });
        self.forget(&room);
        let bytes = succeeded.as_ref().map_or(0, |event| event.len()) + 24 * waiting.len();
        let answer = Answer { room, waiting, succeeded, then };
        context.ask_sized(context.shard(), Ask::Answer(Box::new(answer)), bytes);
    }

    /// Forgets a room without members and without clients that wait.
    fn forget(&mut self, room: &str) {
        if self.rooms.get(room).is_some_and(|room| room.presence.len() == 0 && room.waiting.is_empty()) {
            self.rooms.remove(room);
        }
    }
}

impl Answer {
    /// Sends the answer to the other shards of the clients, behind the messages that it must follow. Returns the answer to
    /// the clients of this shard.
    fn send(mut self, context: &mut Context<'_>) -> Option<Told> {
        let mut own = None;
        self.waiting.sort_by_key(|(client, _)| client.shard);
        let size = |event: &Option<Arc<str>>| event.as_ref().map_or(0, |event| event.len());
        let bytes = size(&self.succeeded) + size(&self.then);
        for joins in self.waiting.chunk_by(|(one, _), (other, _)| one.shard == other.shard) {
            let told = Told::Joined {
                room: self.room.clone(),
                joins: joins.to_vec(),
                succeeded: self.succeeded.clone(),
                then: self.then.clone(),
            };
            match joins[0].0.shard {
                shard if shard == context.shard() => own = Some(told),
                shard => context.tell_sized(shard, told, bytes),
            }
        }
        own
    }
}

/// Publishes an event to a room, except to one client.
fn publish(context: &mut Context<'_>, room: &str, except: Option<ClientId>, event: &str) {
    match except {
        Some(client) => context.publish_to_room_except(room, client, Message::text(event)),
        None => context.publish_to_room(room, Message::text(event)),
    }
}

/// Publishes an event to a channel, except to one client. The event of a cache channel becomes its last event.
pub(super) fn publish_event(
    context: &mut Context<'_>,
    room: &str,
    is_cache: bool,
    except: Option<ClientId>,
    event: &str,
) {
    if !is_cache {
        return publish(context, room, except, event);
    }
    let bytes = room.len() + event.len();
    let ask = Ask::Publish { room: room.into(), event: event.into(), except };
    context.ask_sized(context.home_of(room), ask, bytes);
}

/// Returns the name of the channel of a room: what follows the application's identifier.
pub(super) fn channel(room: &str) -> &str {
    room.split_once('/').map_or(room, |(_, name)| name)
}
