//! Reading: rooms, members and kept messages.

use std::collections::BTreeMap;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

use crate::app::{
    Answer, Context, KeptMessage, KeptPage, MAX_KEPT_MESSAGES, MAX_LISTED_MEMBERS, MembersCursor,
};
use crate::hub::Kind;

use super::call::{DeferredCall, Parameters, shown};
use super::reply::{Problem, Reply};
use super::{Api, ApiNote, Ask};

/// Default number of entries in a list.
const DEFAULT_LIMIT: u32 = 100;
/// Maximum number of rooms in a list.
const MAX_LISTED_ROOMS: u32 = 1_000;
/// Number of positions that a walk over a shard's rooms looks at in one turn.
const POSITIONS_PER_TURN: usize = 1_000;

/// A walk over the rooms of all shards, one shard after the other. It finds the first rooms in the order of their names.
#[derive(Debug)]
pub(super) struct Walk {
    prefix: String,
    /// Name after which the list begins.
    after: Option<String>,
    /// Maximum number of rooms in the answer.
    limit: usize,
    /// The first rooms by name of the shards that the walk has left, with their numbers of members: at most one more than
    /// `limit`. A room of the answer is among the first ones of each shard that has it, so its count is complete.
    found: BTreeMap<String, usize>,
    /// Rooms of the present shard.
    here: BTreeMap<String, usize>,
    /// Position on the present shard at which the walk continues.
    position: usize,
    call: DeferredCall,
}

/// A question for a room, on its way to the room's home shard.
#[derive(Debug)]
pub(super) struct Reading {
    room: String,
    what: What,
    call: DeferredCall,
}

/// The part of a room that a [`Reading`] asks for.
#[derive(Debug)]
enum What {
    /// The place of the room's last message, and the number of members.
    Place,
    /// The kept messages after a number.
    Messages { after: Option<u64>, limit: u32 },
}

/// Handles `GET /api/rooms`.
pub(super) fn get_rooms(
    _: &mut Api,
    context: &mut Context<'_>,
    ask: &mut Ask<'_>,
) -> Result<Answer, Problem> {
    let prefix = ask.parameters.take("prefix").unwrap_or_default();
    let after = ask.parameters.take("after");
    let limit = limit(&mut ask.parameters, MAX_LISTED_ROOMS)? as usize;
    ask.parameters.end("prefix, after, limit")?;
    let (answer, call) = ask.defer(context);
    let (found, here) = (BTreeMap::new(), BTreeMap::new());
    let walk = Walk { prefix, after, limit, found, here, position: 0, call };
    context.ask(0, ApiNote::Walk(Box::new(walk)));
    Ok(answer)
}

/// Handles `GET /api/rooms/ROOM`.
pub(super) fn get_room(_: &mut Api, context: &mut Context<'_>, ask: &mut Ask<'_>) -> Result<Answer, Problem> {
    let room = ask.room()?;
    ask.parameters.end("")?;
    Ok(read(context, ask, room, What::Place))
}

/// Handles `GET /api/rooms/ROOM/members`.
pub(super) fn get_members(
    _: &mut Api,
    context: &mut Context<'_>,
    ask: &mut Ask<'_>,
) -> Result<Answer, Problem> {
    let room = ask.room()?;
    let after = ask.parameters.take("after").map(|text| parse_cursor(&text)).transpose()?;
    let limit = limit(&mut ask.parameters, MAX_LISTED_MEMBERS)?;
    ask.parameters.end("after, limit")?;
    let (answer, call) = ask.defer(context);
    context.ask_members_then(&room, after, limit, |members| {
        let listed = members.members.iter();
        let listed = listed.map(|member| json!({ "id": member.client.number, "name": member.description }));
        call.finish(Ok(Reply::new(&json!({
            "room": members.room,
            "count": members.count,
            "members": listed.collect::<Vec<_>>(),
            "next": members.next.map(|next| format!("{}.{}", next.shard, next.below)),
        }))));
    });
    Ok(answer)
}

/// Handles `GET /api/rooms/ROOM/messages`.
pub(super) fn get_messages(
    _: &mut Api,
    context: &mut Context<'_>,
    ask: &mut Ask<'_>,
) -> Result<Answer, Problem> {
    let room = ask.room()?;
    let after = ask.parameters.take("after").map(|text| {
        let message = format!("The parameter after is no message's number: {}.", shown(&text));
        text.parse().map_err(|_| Problem::bad("parameter", message, "Take the number from the member next."))
    });
    let after = after.transpose()?;
    let limit = limit(&mut ask.parameters, MAX_KEPT_MESSAGES)?;
    ask.parameters.end("after, limit")?;
    Ok(read(context, ask, room, What::Messages { after, limit }))
}

/// Sends a question to the home shard of a room.
fn read(context: &mut Context<'_>, ask: &Ask<'_>, room: String, what: What) -> Answer {
    let (answer, call) = ask.defer(context);
    let home = context.home_of(&room);
    context.ask(home, ApiNote::Read(Box::new(Reading { room, what, call })));
    answer
}

impl Reading {
    /// Answers the question on the room's home shard.
    pub(super) fn answer(self, context: &mut Context<'_>) {
        let Self { room, what, call } = self;
        match what {
            What::Place => {
                let page = context.kept_messages(&room, u64::MAX, 0);
                context.ask_members_then(&room, None, 0, move |members| {
                    let last = page.as_ref().and_then(|page| page.next.checked_sub(1));
                    call.finish(Ok(Reply::new(&json!({
                        "room": members.room,
                        "members": members.count,
                        "epoch": page.as_ref().map(|page| page.epoch.to_string()),
                        "last": last,
                        "kept": page.map_or(0, |page| page.next - page.first),
                    }))));
                });
            }
            What::Messages { after, limit } => {
                let from = after.map_or(0, |after| after.saturating_add(1));
                let page = context.kept_messages(&room, from, limit);
                call.finish(Ok(Reply::new(&messages_json(&room, page.as_ref()))));
            }
        }
    }
}

/// Returns a page of messages as JSON.
fn messages_json(room: &str, page: Option<&KeptPage>) -> Value {
    let messages = page.map_or(&[][..], |page| &page.messages);
    let last = messages.last().map(|message| message.number);
    let next = last.filter(|last| page.is_some_and(|page| last + 1 < page.next));
    let messages = messages.iter().map(|KeptMessage { number, kind, payload, age_s }| {
        let (name, content) = match kind {
            Kind::Text => ("text", String::from_utf8_lossy(payload).into_owned()),
            Kind::Binary => ("binary", BASE64_STANDARD.encode(payload)),
        };
        json!({ "number": number, "age": age_s, name: content })
    });
    json!({
        "room": room,
        "epoch": page.map(|page| page.epoch.to_string()),
        "messages": messages.collect::<Vec<_>>(),
        "next": next,
    })
}

impl Api {
    /// Begins a walk over the rooms of this shard, or lets it wait for other walks.
    pub(super) fn begin_walk(&mut self, context: &mut Context<'_>, walk: Walk) {
        self.walks.push_back(walk);
        if self.walks.len() == 1 {
            self.step(context);
        }
    }

    /// Takes one step of the first walk, and lets the next step follow in a later turn.
    pub(super) fn step(&mut self, context: &mut Context<'_>) {
        let Some(walk) = self.walks.front_mut() else { return };
        if walk.step(context)
            && let Some(walk) = self.walks.pop_front()
        {
            walk.leave(context);
        }
        if !self.walks.is_empty() {
            context.ask(context.shard(), ApiNote::Step);
        }
    }
}

impl Walk {
    /// Looks at the next rooms of this shard. Returns whether the walk has seen all of them.
    fn step(&mut self, context: &Context<'_>) -> bool {
        let Self { prefix, after, limit, here, position, .. } = self;
        let next = context.scan_rooms(*position, POSITIONS_PER_TURN, |name, members| {
            if !name.starts_with(&**prefix) || after.as_deref().is_some_and(|after| name <= after) {
                return;
            }
            let is_early =
                here.len() <= *limit || here.last_key_value().is_some_and(|(last, _)| name <= &**last);
            if is_early {
                here.insert(name.into(), members);
                keep_first(here, *limit + 1);
            }
        });
        *position = next.unwrap_or(0);
        next.is_none()
    }

    /// Goes on to the next shard, or answers after the last one.
    fn leave(mut self, context: &mut Context<'_>) {
        for (name, members) in std::mem::take(&mut self.here) {
            *self.found.entry(name).or_default() += members;
        }
        keep_first(&mut self.found, self.limit + 1);
        let next_shard = context.shard() + 1;
        if next_shard < context.shard_count() {
            let heap_bytes = self.found.keys().map(|name| name.len() + size_of::<(String, usize)>()).sum();
            return context.ask_sized(next_shard, ApiNote::Walk(Box::new(self)), heap_bytes);
        }
        let has_more = self.found.len() > self.limit;
        keep_first(&mut self.found, self.limit);
        let next = self.found.last_key_value().map(|(name, _)| name.clone()).filter(|_| has_more);
        let rooms = self.found.iter().map(|(room, members)| json!({ "room": room, "members": members }));
        let json = json!({ "rooms": rooms.collect::<Vec<_>>(), "next": next });
        self.call.finish(Ok(Reply::new(&json)));
    }
}

/// Removes the last entries of a map until it has at most `count`.
fn keep_first(map: &mut BTreeMap<String, usize>, count: usize) {
    while map.len() > count {
        map.pop_last();
    }
}

/// Takes the parameter `limit`.
pub(super) fn limit(parameters: &mut Parameters, max: u32) -> Result<u32, Problem> {
    let Some(text) = parameters.take("limit") else { return Ok(DEFAULT_LIMIT) };
    text.parse().ok().filter(|limit| (1..=max).contains(limit)).ok_or_else(|| {
        let message = format!("The parameter limit is not usable: {}.", shown(&text));
        Problem::bad("parameter", message, format!("Send a whole number from 1 to {max}."))
    })
}

/// Parses the cursor of a list of members, as its member `next` shows it.
fn parse_cursor(text: &str) -> Result<MembersCursor, Problem> {
    let cursor = text.split_once('.').and_then(|(shard, below)| {
        Some(MembersCursor { shard: shard.parse().ok()?, below: below.parse().ok()? })
    });
    cursor.ok_or_else(|| {
        let message = format!("The parameter after is no place in the list: {}.", shown(text));
        Problem::bad("parameter", message, "Take it from the member next of the last answer.")
    })
}
