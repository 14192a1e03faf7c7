//! Publishing to one room, to several or to a user, once for each `Idempotency-Key`.

use std::borrow::Cow;
use std::sync::{Arc, Mutex, PoisonError};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::app::{Answer, App, Context, HttpRequest, Incoming, Message, Refusal, Status};
use crate::hub::Kind;
use crate::publisher::{Publisher, Receipt};

use super::attempts::{Entry, Found};
use super::call::{DeferredCall, room};
use super::reply::{Problem, Reply};
use super::{Api, ApiNote, Ask, direct};

/// Maximum number of rooms of one call.
const MAX_ROOMS: usize = 100;
/// Maximum length of an `Idempotency-Key` in bytes.
const MAX_IDEMPOTENCY_KEY: usize = 255;

/// A message for rooms or for a user.
#[derive(Debug)]
pub(super) struct Publication {
    pub(super) to: Recipients,
    pub(super) kind: Kind,
    pub(super) payload: Box<[u8]>,
}

/// The recipients of a message.
#[derive(Debug)]
pub(super) enum Recipients {
    Rooms(Rooms),
    /// A user, and the author of the message.
    User {
        user: String,
        author: Option<String>,
    },
}

/// The rooms of a message.
#[derive(Debug)]
pub(super) struct Rooms {
    names: Vec<String>,
    /// Whether the answer has a list of results, one for each room.
    is_list: bool,
}

/// A call with an `Idempotency-Key`, on its way to the key's home shard.
#[derive(Debug)]
pub(super) struct Attempt {
    /// Name of the API key and the `Idempotency-Key`.
    name: String,
    /// Digest of the request, so that another request with the same key is noticed.
    fingerprint: [u8; 32],
    publication: Publication,
    call: DeferredCall,
}

/// The receiver of a publication's outcome.
#[derive(Debug)]
pub(super) enum Sink {
    Call(DeferredCall),
    Attempt(Arc<Entry>),
}

/// The receipts of a publication that have arrived so far.
#[derive(Debug)]
struct Gathering {
    results: Vec<Option<Result<Receipt, Problem>>>,
    missing: usize,
    rooms: Rooms,
    sink: Option<Sink>,
}

/// Body of a call for several rooms.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    rooms: Vec<String>,
    text: Option<String>,
    binary: Option<String>,
    #[serde(rename = "as")]
    author: Option<String>,
}

/// Handles `POST /api/rooms/ROOM/messages`.
pub(super) fn post_to_room(
    api: &mut Api,
    context: &mut Context<'_>,
    ask: &mut Ask<'_>,
) -> Result<Answer, Problem> {
    let room = ask.room()?;
    let author = ask.parameters.take("as");
    ask.parameters.end("as")?;
    let kind = body_kind(ask.request)?;
    let message = Incoming { kind, payload: ask.request.body() };
    let payload = api.payload(message, |app| app.on_api_message(author.as_deref(), message))?;
    let to = Recipients::Rooms(Rooms { names: vec![room], is_list: false });
    api.publish(context, ask, Publication { to, kind, payload })
}

/// Handles `POST /api/messages`.
pub(super) fn post_to_rooms(
    api: &mut Api,
    context: &mut Context<'_>,
    ask: &mut Ask<'_>,
) -> Result<Answer, Problem> {
    ask.parameters.end("")?;
    if media_type(ask.request).is_none_or(|(media, _)| !media.eq_ignore_ascii_case("application/json")) {
        return Err(media_type_problem("application/json"));
    }
    let Body { rooms, text, binary, author } = serde_json::from_slice(ask.request.body()).map_err(|error| {
        let remedy = "Send {\"rooms\": [\"ROOM\", …], \"text\": \"…\"}, or \"binary\" in base64 instead of \"text\".";
        Problem::bad("json", format!("The body is not the expected JSON: {error}."), remedy)
    })?;
    if rooms.is_empty() || rooms.len() > MAX_ROOMS {
        let message = format!("The list \"rooms\" has {} rooms.", rooms.len());
        return Err(Problem::bad("rooms", message, format!("Name 1 to {MAX_ROOMS} rooms.")));
    }
    let mut names: Vec<String> = Vec::new();
    for name in &rooms {
        let name = room(name)?;
        if names.contains(&name) {
            return Err(Problem::bad(
                "rooms",
                format!("The room {name} is in the list twice."),
                "Name it once.",
            ));
        }
        names.push(name);
    }
    let (kind, payload) = match (text, binary) {
        (Some(text), None) => (Kind::Text, text.into_bytes()),
        (None, Some(binary)) => {
            let bytes = BASE64_STANDARD.decode(&binary).map_err(|error| {
                let message = format!("The member \"binary\" is not base64: {error}.");
                Problem::bad("base64", message, "Use the standard alphabet with padding.")
            })?;
            (Kind::Binary, bytes)
        }
        _ => {
            let message = "The body has neither \"text\" nor \"binary\", or both.";
            return Err(Problem::bad("json", message, "Send one of them."));
        }
    };
    let message = Incoming { kind, payload: &payload };
    let payload = api.payload(message, |app| app.on_api_message(author.as_deref(), message))?;
    let to = Recipients::Rooms(Rooms { names, is_list: true });
    api.publish(context, ask, Publication { to, kind, payload })
}

impl Api {
    /// Checks a message, and returns the payload that the application makes of it in `make`.
    pub(super) fn payload<'a>(
        &mut self,
        message: Incoming<'a>,
        make: impl FnOnce(&mut dyn App) -> Result<Cow<'a, [u8]>, Refusal>,
    ) -> Result<Box<[u8]>, Problem> {
        if message.payload.is_empty() {
            return Err(Problem::bad("empty", "The message is empty.", "Send at least one byte."));
        }
        let limit = self.backends.max_message();
        if message.payload.len() > limit {
            return Err(Problem::too_large(limit));
        }
        let is_text = message.kind == Kind::Text;
        if is_text && message.text().is_none() {
            let remedy = "Send UTF-8, or send the bytes as application/octet-stream.";
            return Err(Problem::bad("utf8", "The text is not UTF-8.", remedy));
        }
        let payload = make(&mut *self.inner)?;
        if is_text && (Incoming { kind: Kind::Text, payload: &payload }).text().is_none() {
            let remedy = "Report this to the application's author.";
            let message = "The application made a text that is not UTF-8.";
            return Err(Problem::new(Status::InternalServerError, "application", message, remedy));
        }
        Ok(payload.into())
    }

    /// Publishes, by way of the home shard of the `Idempotency-Key` if the call has one.
    pub(super) fn publish(
        &mut self,
        context: &mut Context<'_>,
        ask: &Ask<'_>,
        publication: Publication,
    ) -> Result<Answer, Problem> {
        let key = idempotency_key(ask.request)?;
        let (answer, call) = ask.defer(context);
        let Some(key) = key else {
            publish(context.publisher(), publication, Sink::Call(call));
            return Ok(answer);
        };
        let name = format!("{} {key}", ask.call.key());
        let heap_bytes = name.len() + publication.payload.len() + publication.to.heap_bytes();
        let fingerprint = fingerprint(ask.request);
        let home = context.home_of(&name);
        let attempt = Attempt { name, fingerprint, publication, call };
        context.ask_sized(home, ApiNote::Attempt(Box::new(attempt)), heap_bytes);
        Ok(answer)
    }

    /// Handles an attempt on the home shard of its `Idempotency-Key`: publishes, or gives the first call's answer.
    pub(super) fn attempt(&mut self, context: &mut Context<'_>, attempt: Attempt) {
        let Attempt { name, fingerprint, publication, call } = attempt;
        match self.attempts.find(context.now(), name, fingerprint) {
            Found::Entry(entry) => {
                if entry.join(call) {
                    publish(context.publisher(), publication, Sink::Attempt(entry));
                }
            }
            Found::Other => {
                let message = "Another request had this Idempotency-Key within the last minute.";
                let remedy = "Use a new key for each message; repeat a request unchanged.";
                let status = Status::UnprocessableContent;
                call.finish(Err(Problem::new(status, "idempotency_key_reused", message, remedy)));
            }
            Found::Full => {
                call.finish(Err(Problem::busy(
                    "Too many requests had an Idempotency-Key within the last minute.",
                )));
            }
        }
    }
}

impl Recipients {
    fn heap_bytes(&self) -> usize {
        match self {
            Self::Rooms(Rooms { names, .. }) => {
                names.iter().map(|name| size_of::<String>() + name.len()).sum()
            }
            Self::User { user, author } => user.len() + author.as_ref().map_or(0, String::len),
        }
    }
}

impl Sink {
    /// Gives the outcome to the calls that wait for it.
    pub(super) fn finish(self, outcome: Result<Reply, Problem>) {
        match self {
            Self::Call(call) => call.finish(outcome),
            Self::Attempt(entry) => entry.complete(&outcome),
        }
    }
}

/// Sends a message to its recipients. The sink gets the outcome.
fn publish(publisher: &Publisher, publication: Publication, sink: Sink) {
    let Publication { to, kind, payload } = publication;
    match to {
        Recipients::Rooms(rooms) => publish_to_rooms(publisher, rooms, Message::new(kind, &payload), sink),
        Recipients::User { user, author } => direct::send(publisher, (user, author), kind, payload, sink),
    }
}

/// Publishes a message to all its rooms. The sink gets the outcome when all receipts have arrived.
fn publish_to_rooms(publisher: &Publisher, rooms: Rooms, message: Message<'_>, sink: Sink) {
    let names = rooms.names.clone();
    let results = vec![None; names.len()];
    let gathering = Gathering { results, missing: names.len(), rooms, sink: Some(sink) };
    let gathering = Arc::new(Mutex::new(gathering));
    for (index, room) in names.iter().enumerate() {
        let then = Arc::clone(&gathering);
        let published = publisher.publish_then(room, message, move |receipt| add(&then, index, Ok(receipt)));
        if let Err(error) = published {
            add(&gathering, index, Err(error.into()));
        }
    }
}

/// Adds the result for one room.
fn add(gathering: &Mutex<Gathering>, index: usize, result: Result<Receipt, Problem>) {
    let mut gathering = gathering.lock().unwrap_or_else(PoisonError::into_inner);
    gathering.results[index] = Some(result);
    gathering.missing -= 1;
    if gathering.missing > 0 {
        return;
    }
    let outcome = gathering.outcome();
    if let Some(sink) = gathering.sink.take() {
        sink.finish(outcome);
    }
}

impl Gathering {
    /// Returns the outcome of the whole call.
    fn outcome(&mut self) -> Result<Reply, Problem> {
        let results = std::mem::take(&mut self.results).into_iter();
        let mut results =
            results.map(|result| result.unwrap_or_else(|| Err(Problem::stopped())).and_then(placed));
        if !self.rooms.is_list {
            return results.next().unwrap_or_else(|| Err(Problem::stopped())).map(|json| Reply::new(&json));
        }
        let results = self.rooms.names.iter().zip(results).map(|(room, result)| {
            let mut json = result.unwrap_or_else(|problem| json!({ "error": problem.json() }));
            json["room"] = json!(room);
            json
        });
        Ok(Reply::new(&json!({ "results": results.collect::<Vec<_>>() })))
    }
}

/// Returns the place of a message in its room's order as JSON. An epoch needs more digits than the numbers of
/// JavaScript have, so it is a string.
fn placed(receipt: Receipt) -> Result<Value, Problem> {
    match receipt {
        Receipt::Ordered(place) => Ok(json!({ "number": place.number, "epoch": place.epoch.to_string() })),
        Receipt::Sent(_) | Receipt::Unheard => Ok(json!({ "number": null, "epoch": null })),
        Receipt::Refused => {
            let message = "The application refused the message.";
            let remedy = "Ask the application's author for the reason.";
            Err(Problem::new(Status::Forbidden, "refused", message, remedy))
        }
        Receipt::Stopped => Err(Problem::stopped()),
    }
}

/// Returns the kind of message that the body's media type stands for.
pub(super) fn body_kind(request: &HttpRequest<'_>) -> Result<Kind, Problem> {
    match media_type(request) {
        Some((media, true)) if media.eq_ignore_ascii_case("text/plain") => Ok(Kind::Text),
        Some((media, _)) if media.eq_ignore_ascii_case("application/octet-stream") => Ok(Kind::Binary),
        _ => Err(media_type_problem("text/plain (UTF-8) or application/octet-stream")),
    }
}

fn media_type_problem(expected: &str) -> Problem {
    let message = "The route does not take a body of this media type.";
    let remedy = format!("Send the body with the header Content-Type: {expected}.");
    Problem::new(Status::UnsupportedMediaType, "media_type", message, remedy)
}

/// Returns the media type of the body, and whether its charset is UTF-8 or not named.
fn media_type<'a>(request: &HttpRequest<'a>) -> Option<(&'a str, bool)> {
    let mut parts = request.header("Content-Type")?.split(';').map(str::trim);
    let media = parts.next()?;
    let charset =
        parts.filter_map(|part| part.split_once('=')).find(|(name, _)| name.eq_ignore_ascii_case("charset"));
    let is_utf8 = charset.is_none_or(|(_, charset)| {
        let charset = charset.trim_matches('"');
        ["utf-8", "utf8", "us-ascii"].iter().any(|known| known.eq_ignore_ascii_case(charset))
    });
    Some((media, is_utf8))
}

/// Returns the `Idempotency-Key` of a request.
fn idempotency_key<'a>(request: &HttpRequest<'a>) -> Result<Option<&'a str>, Problem> {
    let mut keys = request.headers("Idempotency-Key");
    let Some(key) = keys.next() else { return Ok(None) };
    let is_key =
        |key: &[u8]| (1..=MAX_IDEMPOTENCY_KEY).contains(&key.len()) && key.iter().all(u8::is_ascii_graphic);
    match str::from_utf8(key).ok().filter(|key| is_key(key.as_bytes())) {
        Some(key) if keys.next().is_none() => Ok(Some(key)),
        _ => {
            let remedy = format!("Send it once, with 1 to {MAX_IDEMPOTENCY_KEY} visible ASCII characters.");
            Err(Problem::bad("idempotency_key", "The header Idempotency-Key is not usable.", remedy))
        }
    }
}

/// Returns a digest of the parts of a request that decide its effect.
fn fingerprint(request: &HttpRequest<'_>) -> [u8; 32] {
    let mut digest = Sha256::new();
    let texts = [
        request.path(),
        request.query().unwrap_or_default(),
        request.header("Content-Type").unwrap_or_default(),
    ];
    for text in texts {
        digest.update((text.len() as u64).to_le_bytes());
        digest.update(text);
    }
    digest.update(request.body());
    digest.finalize().into()
}
