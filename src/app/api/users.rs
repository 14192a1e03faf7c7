//! Users and bans: the connections of a user and their rooms, their end, and users that are kept out.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};

use crate::app::{Answer, CloseCode, Context};
use crate::hub::UserAction;
use crate::publisher::Receipt;

use super::call::{DeferredCall, Parameters, shown};
use super::read::limit;
use super::reply::{Problem, Reply};
use super::{Api, Ask};

/// Maximum length of a close reason in bytes. RFC 6455 §5.5
const MAX_REASON: usize = 123;
/// Maximum length of a ban in seconds: a year.
const MAX_BAN_SECONDS: u64 = 365 * 24 * 3600;
/// Maximum number of bans in a list.
const MAX_LISTED_BANS: u32 = 1_000;

/// Handles `GET /api/users/USER`.
pub(super) fn get_user(_: &mut Api, context: &mut Context<'_>, ask: &mut Ask<'_>) -> Result<Answer, Problem> {
    let user = ask.user()?;
    ask.parameters.end("")?;
    let (answer, call) = ask.defer(context);
    context.ask_user_then(&user, |user| {
        let listed = user.clients.iter().map(|listed| {
            let id = listed.client.number;
            json!({ "id": id, "rooms": listed.rooms, "room_count": listed.room_count })
        });
        let listed: Vec<Value> = listed.collect();
        call.finish(Ok(Reply::new(
            &json!({ "user": user.user, "count": user.count, "connections": listed }),
        )));
    });
    Ok(answer)
}

/// Handles `DELETE /api/users/USER`.
pub(super) fn delete_user(
    _: &mut Api,
    context: &mut Context<'_>,
    ask: &mut Ask<'_>,
) -> Result<Answer, Problem> {
    let user = ask.user()?;
    let code = close_code(&mut ask.parameters)?;
    let ban = ban_seconds(&mut ask.parameters)?;
    let default_reason = if ban.is_some() { "banned" } else { "disconnected" };
    let reason = ask.parameters.take("reason").unwrap_or_else(|| default_reason.into());
    if reason.len() > MAX_REASON {
        let message = format!("The parameter reason has {} bytes.", reason.len());
        return Err(Problem::bad("parameter", message, format!("Send at most {MAX_REASON} bytes.")));
    }
    ask.parameters.end("code, reason, ban")?;
    // The ban comes first: a connection that gets the user between the two would stay.
    if let Some(seconds) = ban {
        context.publisher().add_ban(&user, Duration::from_secs(seconds));
    }
    act(context, ask, &user, UserAction::Close(code), reason.as_bytes())
}

/// Handles `PUT /api/users/USER/rooms/ROOM`.
pub(super) fn put_room(
    api: &mut Api,
    context: &mut Context<'_>,
    ask: &mut Ask<'_>,
) -> Result<Answer, Problem> {
    let history = api.inner.history();
    act_in_room(context, ask, UserAction::Join { history })
}

/// Handles `DELETE /api/users/USER/rooms/ROOM`.
pub(super) fn delete_room(
    _: &mut Api,
    context: &mut Context<'_>,
    ask: &mut Ask<'_>,
) -> Result<Answer, Problem> {
    act_in_room(context, ask, UserAction::Leave)
}

/// Handles `GET /api/bans`.
pub(super) fn get_bans(_: &mut Api, context: &mut Context<'_>, ask: &mut Ask<'_>) -> Result<Answer, Problem> {
    let after = ask.parameters.take("after");
    let limit = limit(&mut ask.parameters, MAX_LISTED_BANS)? as usize;
    ask.parameters.end("after, limit")?;
    let mut bans = context.bans();
    let count = bans.len();
    bans.retain(|ban| after.as_deref().is_none_or(|after| &*ban.user > after));
    bans.sort_unstable_by(|one, other| one.user.cmp(&other.user));
    let next = if bans.len() > limit { bans.get(limit - 1).map(|ban| ban.user.clone()) } else { None };
    bans.truncate(limit);
    let listed = bans.iter().map(|ban| {
        // A ban with less than a second left still holds.
        json!({ "user": ban.user, "seconds": ban.left.as_secs() + u64::from(ban.left.subsec_nanos() > 0) })
    });
    let json = json!({ "count": count, "bans": listed.collect::<Vec<_>>(), "next": next });
    Ok(Answer::Respond(ask.call.record(Ok(Reply::new(&json)))))
}

/// Handles `DELETE /api/bans/USER`.
pub(super) fn delete_ban(
    _: &mut Api,
    context: &mut Context<'_>,
    ask: &mut Ask<'_>,
) -> Result<Answer, Problem> {
    let user = ask.user()?;
    ask.parameters.end("")?;
    let is_lifted = context.unban_user(&user);
    Ok(Answer::Respond(ask.call.record(Ok(Reply::new(&json!({ "lifted": is_lifted }))))))
}

/// Changes the memberships of all connections of the user in the path.
fn act_in_room(context: &Context<'_>, ask: &Ask<'_>, action: UserAction) -> Result<Answer, Problem> {
    let (user, room) = (ask.user()?, ask.room()?);
    ask.parameters.end("")?;
    act(context, ask, &user, action, room.as_bytes())
}

/// Does an action on all connections of a user, and answers with their number.
fn act(
    context: &Context<'_>,
    ask: &Ask<'_>,
    user: &str,
    action: UserAction,
    payload: &[u8],
) -> Result<Answer, Problem> {
    let (answer, call) = ask.defer(context);
    let call = Arc::new(Mutex::new(Some(call)));
    let then = Arc::clone(&call);
    let sent = context
        .publisher()
        .act_on_user_then(user, action, payload, move |receipt| finish(&then, reached(receipt)));
    if let Err(error) = sent {
        finish(&call, Err(error.into()));
    }
    Ok(answer)
}

/// Answers a call that either a receipt or an error of the sender answers.
fn finish(call: &Mutex<Option<DeferredCall>>, outcome: Result<Reply, Problem>) {
    if let Some(call) = call.lock().unwrap_or_else(PoisonError::into_inner).take() {
        call.finish(outcome);
    }
}

/// Returns the answer with the number of connections that an action reached.
fn reached(receipt: Receipt) -> Result<Reply, Problem> {
    match receipt {
        Receipt::Sent(count) => Ok(Reply::new(&json!({ "count": count }))),
        Receipt::Ordered(_) | Receipt::Unheard | Receipt::Refused => Ok(Reply::new(&json!({ "count": 0 }))),
        Receipt::Stopped => Err(Problem::stopped()),
    }
}

/// Takes the parameter `code`: a code that a close frame may carry.
fn close_code(parameters: &mut Parameters) -> Result<CloseCode, Problem> {
    let Some(text) = parameters.take("code") else { return Ok(CloseCode::POLICY) };
    text.parse().ok().map(CloseCode).filter(|code| code.is_sendable()).ok_or_else(|| {
        let message = format!("The parameter code is no close code that can be sent: {}.", shown(&text));
        Problem::bad("parameter", message, "Send 1000 to 1003, 1007 to 1014, or 3000 to 4999.")
    })
}

/// Takes the parameter `ban`: a number of seconds.
fn ban_seconds(parameters: &mut Parameters) -> Result<Option<u64>, Problem> {
    let Some(text) = parameters.take("ban") else { return Ok(None) };
    let seconds = text.parse().ok().filter(|seconds| (1..=MAX_BAN_SECONDS).contains(seconds));
    seconds.map(Some).ok_or_else(|| {
        let message = format!("The parameter ban is no usable number of seconds: {}.", shown(&text));
        Problem::bad("parameter", message, format!("Send 1 to {MAX_BAN_SECONDS}, which is a year."))
    })
}
