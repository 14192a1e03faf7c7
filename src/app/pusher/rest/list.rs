//! The list of an application's channels: a walk over the rooms of all shards, one shard after the other.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::app::{Answer, Context, Responder, Status};

use super::super::Pusher;
use super::super::presence::Presence;
use super::{Ask, Info, Problem, RestNote, Step, ok};

/// Number of positions that a walk over a shard's rooms looks at in one turn.
const POSITIONS_PER_TURN: usize = 1_000;
/// Maximum number of channels of one list.
const MAX_CHANNELS: usize = 100_000;

/// A walk over the rooms of all shards that lists channels.
#[derive(Debug)]
pub(super) struct Walk {
    /// Start of the names of all rooms of the application: its identifier and a slash.
    app_prefix: String,
    /// Start of the names of the rooms to list.
    prefix: String,
    info: Info,
    found: BTreeMap<String, Counts>,
    /// Position on the present shard at which the walk continues.
    position: usize,
    responder: Responder,
}

/// Counts of a channel, over the shards that the walk has seen.
#[derive(Debug, Default)]
struct Counts {
    subscriptions: usize,
    users: usize,
}

/// Handles `GET /apps/ID/channels`.
pub(super) fn begin(context: &mut Context<'_>, ask: &Ask<'_>) -> Result<Answer, Problem> {
    let info = Info::parse(ask.query.value("info").as_deref())?;
    let filter = ask.query.value("filter_by_prefix").unwrap_or_default();
    if info.user_count && !filter.starts_with("presence-") {
        let message = "user_count is an attribute of presence channels; add filter_by_prefix=presence-";
        return Err(Problem::new(Status::BadRequest, message));
    }
    if info.cache {
        let message = "cache is no attribute of this list; ask for it at /channels/NAME";
        return Err(Problem::new(Status::BadRequest, message));
    }
    let (answer, responder) = ask.request.defer(context);
    let app_prefix = format!("{}/", ask.app.id);
    let prefix = format!("{app_prefix}{filter}");
    let walk = Walk { app_prefix, prefix, info, found: BTreeMap::new(), position: 0, responder };
    context.ask(0, RestNote(Step::Walk(Box::new(walk))));
    Ok(answer)
}

impl Pusher {
    /// Begins a walk over the rooms of this shard, or lets it wait for other walks.
    pub(super) fn begin_walk(&mut self, context: &mut Context<'_>, walk: Walk) {
        self.rest.walks.push_back(walk);
        if self.rest.walks.len() == 1 {
            self.walk_on(context);
        }
    }

    /// Takes one step of the first walk, and lets the next step follow in a later turn.
    pub(super) fn walk_on(&mut self, context: &mut Context<'_>) {
        let Some(mut walk) = self.rest.walks.pop_front() else { return };
        match self.look_at_rooms(context, &mut walk) {
            Some(next) => {
                walk.position = next;
                self.rest.walks.push_front(walk);
            }
            None => walk.leave(context),
        }
        if !self.rest.walks.is_empty() {
            context.ask(context.shard(), RestNote(Step::WalkOn));
        }
    }

    /// Looks at the next rooms of this shard. Returns the position at which the next step continues.
    fn look_at_rooms(&self, context: &Context<'_>, walk: &mut Walk) -> Option<usize> {
        let Walk { app_prefix, prefix, info, found, position, .. } = walk;
        context.scan_rooms(*position, POSITIONS_PER_TURN, |room, members| {
            if !room.starts_with(&**prefix) || found.len() > MAX_CHANNELS {
                return;
            }
            // Only the home shard of a presence channel's room has users.
            let users = if info.user_count { self.home.presence(room).map_or(0, Presence::len) } else { 0 };
            if members > 0 || users > 0 {
                let counts = found.entry(room[app_prefix.len()..].into()).or_default();
                counts.subscriptions += members;
                counts.users += users;
            }
        })
    }
}

impl Walk {
    /// Goes on to the next shard, or answers after the last one.
    fn leave(mut self, context: &mut Context<'_>) {
        let next_shard = context.shard() + 1;
        if next_shard < context.shard_count() {
            self.position = 0;
            let heap_bytes = self.found.keys().map(|name| name.len() + size_of::<(String, Counts)>()).sum();
            return context.ask_sized(next_shard, RestNote(Step::Walk(Box::new(self))), heap_bytes);
        }
        self.found.retain(|_, counts| counts.subscriptions > 0);
        if self.found.len() > MAX_CHANNELS {
            let message = format!("there are more than {MAX_CHANNELS} channels; narrow filter_by_prefix");
            return self.responder.answer(Problem::new(Status::BadRequest, message).response());
        }
        let channels: Map<_, _> =
            self.found.into_iter().map(|(name, counts)| (name, counts.json(self.info))).collect();
        self.responder.answer(ok(&json!({ "channels": channels })));
    }
}

impl Counts {
    fn json(&self, info: Info) -> Value {
        let mut json = Map::new();
        if info.user_count {
            json.insert("user_count".into(), self.users.into());
        }
        if info.subscription_count {
            json.insert("subscription_count".into(), self.subscriptions.into());
        }
        json.into()
    }
}
