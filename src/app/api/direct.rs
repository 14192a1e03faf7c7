//! Messages to all connections of a user.
//!
//! A message goes to the user's home shard, which passes it on to the shards that have clients of the user. The wrapped
//! application of each such shard sends it, since only the application knows the formats of its clients.

use std::sync::Arc;

use serde_json::json;

use crate::app::{Answer, Context, Incoming};
use crate::hub::Kind;
use crate::publisher::{AskError, Publisher};

use super::publish::{Publication, Recipients, Sink, body_kind};
use super::reply::{Problem, Reply};
use super::{Api, ApiNote, Ask};

/// A message for a user, on its way to the user's home shard.
#[derive(Debug)]
pub(super) struct ToUser {
    delivery: Delivery,
    sink: Sink,
}

/// A message for the clients that a shard has of a user. A note from the user's home shard.
#[derive(Clone, Debug)]
pub(super) struct Delivery {
    user: Arc<str>,
    author: Option<Arc<str>>,
    kind: Kind,
    payload: Arc<[u8]>,
}

/// Handles `POST /api/users/USER/messages`.
pub(super) fn post_to_user(
    api: &mut Api,
    context: &mut Context<'_>,
    ask: &mut Ask<'_>,
) -> Result<Answer, Problem> {
    let user = ask.user()?;
    let author = ask.parameters.take("as");
    ask.parameters.end("as")?;
    let kind = body_kind(ask.request)?;
    let message = Incoming { kind, payload: ask.request.body() };
    let payload = api.payload(message, |app| app.on_api_user_message(author.as_deref(), message))?;
    api.publish(context, ask, Publication { to: Recipients::User { user, author }, kind, payload })
}

/// Sends a message to the home shard of its user. The sink gets the number of connections that the message reaches.
pub(super) fn send(
    publisher: &Publisher,
    (user, author): (String, Option<String>),
    kind: Kind,
    payload: Box<[u8]>,
    sink: Sink,
) {
    let home = publisher.home_of(&user);
    let delivery =
        Delivery { user: user.into(), author: author.map(Into::into), kind, payload: payload.into() };
    let heap_bytes = delivery.heap_bytes() + size_of::<ToUser>();
    let note = ApiNote::ToUser(Box::new(ToUser { delivery, sink }));
    if let Err(AskError { reason, note: ApiNote::ToUser(message) }) =
        publisher.ask_sized(home, note, heap_bytes)
    {
        message.sink.finish(Err(reason.into()));
    }
}

impl ToUser {
    /// Passes the message on to the shards that have clients of the user. Called on the user's home shard.
    pub(super) fn pass_on(self, context: &mut Context<'_>) {
        let Self { delivery, sink } = self;
        let shards = context.shards_of_user(&delivery.user);
        let count: u32 = shards.iter().map(|(_, count)| count).sum();
        for (shard, _) in shards {
            context.tell_sized(shard, delivery.clone(), delivery.heap_bytes());
        }
        sink.finish(Ok(Reply::new(&json!({ "count": count }))));
    }
}

impl Delivery {
    fn heap_bytes(&self) -> usize {
        self.user.len() + self.author.as_deref().map_or(0, str::len) + self.payload.len()
    }
}

impl Api {
    /// Lets the wrapped application send a message to the user's clients of this shard.
    pub(super) fn deliver(&mut self, context: &mut Context<'_>, delivery: &Delivery) {
        let clients = context.clients_of_user(&delivery.user);
        if !clients.is_empty() {
            let message = Incoming { kind: delivery.kind, payload: &delivery.payload };
            self.inner.on_api_delivery(context, &clients, delivery.author.as_deref(), message);
        }
    }
}
