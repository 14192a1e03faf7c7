//! Questions about single channels: counts, users and cached events, from the home shards of their rooms.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Map, Value, json};

use crate::app::{Answer, Context, HttpRequest, Responder};

use super::super::Pusher;
use super::super::presence::Presence;
use super::{Info, RestNote, Step, ok};

/// The answer of a request that asks about one or several channels.
#[derive(Clone, Debug)]
pub(super) struct Inquiry(Arc<Mutex<Gathering>>);

/// The form of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// The attributes of one channel.
    Channel,
    /// The users of one presence channel.
    Users,
    /// The attributes of each channel of an event, by name.
    Event,
    /// The attributes of the channel of each event of a batch, in their order.
    Batch,
}

#[derive(Debug)]
struct Gathering {
    form: Form,
    /// Names of the channels.
    names: Vec<String>,
    /// Answers for the channels, as JSON.
    found: Vec<Value>,
    missing: usize,
    responder: Option<Responder>,
}

/// A question about a channel, on its way to the home shard of the channel's room.
#[derive(Debug)]
pub(super) struct Look {
    room: String,
    info: Info,
    form: Form,
    /// Index of the channel in its inquiry.
    index: usize,
    inquiry: Inquiry,
}

/// Questions of this shard that wait for the number of a channel's subscriptions.
#[derive(Debug, Default)]
pub(super) struct Counts {
    last_token: u64,
    waiting: HashMap<u64, (Look, Map<String, Value>)>,
}

impl Inquiry {
    /// Defers the answer of a request that asks about the channels `names`. The caller asks about each of them.
    pub(super) fn begin(
        context: &Context<'_>,
        request: &HttpRequest<'_>,
        form: Form,
        names: Vec<String>,
    ) -> (Answer, Self) {
        let (answer, responder) = request.defer(context);
        let (found, missing) = (vec![Value::Null; names.len()], names.len());
        let gathering = Gathering { form, names, found, missing, responder: Some(responder) };
        (answer, Self(Arc::new(Mutex::new(gathering))))
    }

    /// Asks about the channel at `index`, whose room is `room`.
    pub(super) fn ask(&self, context: &mut Context<'_>, index: usize, room: String, info: Info) {
        let form = self.0.lock().unwrap_or_else(PoisonError::into_inner).form;
        let (home, heap_bytes) = (context.home_of(&room), room.len());
        let look = Look { room, info, form, index, inquiry: self.clone() };
        context.ask_sized(home, RestNote(Step::Look(Box::new(look))), heap_bytes);
    }

    /// Adds the answer for the channel at `index`. The last one answers the request.
    fn add(&self, index: usize, found: Value) {
        let mut gathering = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        gathering.found[index] = found;
        gathering.missing -= 1;
        if gathering.missing == 0
            && let Some(responder) = gathering.responder.take()
        {
            responder.answer(ok(&gathering.answer()));
        }
    }
}

impl Gathering {
    fn answer(&mut self) -> Value {
        let mut found = std::mem::take(&mut self.found);
        match self.form {
            Form::Channel | Form::Users => found.pop().unwrap_or_default(),
            Form::Event => {
                let channels: Map<_, _> = std::mem::take(&mut self.names).into_iter().zip(found).collect();
                json!({ "channels": channels })
            }
            Form::Batch => json!({ "batch": found }),
        }
    }
}

impl Pusher {
    /// Answers a question on the home shard of the channel's room, or finds out the number of subscriptions first.
    pub(super) fn look(&mut self, context: &mut Context<'_>, look: Look) {
        let Look { room, info, form, .. } = &look;
        if *form == Form::Users {
            let users = self.home.presence(room).into_iter().flat_map(Presence::ids);
            let users: Vec<_> = users.map(|id| json!({ "id": id })).collect();
            return look.inquiry.add(look.index, json!({ "users": users }));
        }
        let mut found = Map::new();
        if info.user_count {
            found.insert("user_count".into(), self.home.presence(room).map_or(0, Presence::len).into());
        }
        if info.cache {
            let cached = self.home.cached(context.now(), room).map(|(event, left)| {
                let event: Value = serde_json::from_str(event).unwrap_or_default();
                json!({ "data": event["data"], "ttl": left.as_secs() })
            });
            found.insert("cache".into(), cached.unwrap_or_default());
        }
        if *form != Form::Channel && !info.subscription_count {
            return look.inquiry.add(look.index, found.into());
        }
        let counts = &mut self.rest.counts;
        counts.last_token += 1;
        context.ask_members(room, None, 0, counts.last_token);
        counts.waiting.insert(counts.last_token, (look, found));
    }

    /// Answers the question that waited for the number of a channel's subscriptions.
    pub(in super::super) fn count_subscriptions(&mut self, token: u64, count: usize) {
        let Some((look, mut found)) = self.rest.counts.waiting.remove(&token) else { return };
        if look.form == Form::Channel {
            found.insert("occupied".into(), (count > 0).into());
        }
        if look.info.subscription_count {
            found.insert("subscription_count".into(), count.into());
        }
        look.inquiry.add(look.index, found.into());
    }
}
