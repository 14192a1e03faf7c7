//! The REST API for backends, below `/apps/ID`.
//!
//! A request is checked in this order: application, signature, route, method, then what its handler needs. A handler
//! that needs another shard defers its answer: see [`look`] and [`list`].

mod events;
mod list;
mod look;
mod query;

use std::borrow::Cow;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use percent_encoding::percent_decode_str;
use serde_json::{Value, json};

use crate::app::{Answer, CloseCode, Context, HttpRequest, Response, Status};

use super::Pusher;
use super::apps::{AppIndex, PusherApp};
use super::channel::{Channel, shown};
use super::encode::{Data, encode_event};
use super::home::publish_event;
use super::signin::user_of;
use super::socket_id::{client_of, is_socket_id};

use events::BadBody;
use look::{Form, Inquiry};
use query::BadSignature;

pub(super) use events::{Event, parse_batch, parse_event};
pub(super) use query::SignedQuery;

/// Code with which the connections of a user are closed. Clients do not connect again.
const TERMINATED: CloseCode = CloseCode(4009);

/// Requests whose answers this shard is working on.
#[derive(Debug, Default)]
pub(super) struct Rest {
    counts: look::Counts,
    /// Walks that have reached this shard. The first one is in progress.
    walks: VecDeque<list::Walk>,
}

/// Note from one instance to another about a request.
pub(super) struct RestNote(Step);

/// A step of the work for a request.
#[derive(Debug)]
enum Step {
    /// Answers a question about a channel whose home is the shard.
    Look(Box<look::Look>),
    /// Adds the shard's channels to a list.
    Walk(Box<list::Walk>),
    /// Continues the first walk of the shard, in the turn after its last step.
    WalkOn,
}

/// The error of a request: a status, and a sentence for people.
#[derive(Debug)]
struct Problem {
    status: Status,
    message: Cow<'static, str>,
}

/// An authentic request, with its application.
struct Ask<'a> {
    request: &'a HttpRequest<'a>,
    query: SignedQuery<'a>,
    index: AppIndex,
    app: Arc<PusherApp>,
}

/// Attributes of channels that a request asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Info {
    user_count: bool,
    subscription_count: bool,
    cache: bool,
}

/// Answers `GET /up`, with which load balancers of other Pusher servers ask whether the server runs.
pub(super) fn up() -> Answer {
    ok(&json!({ "health": "OK" }))
}

/// Answers a request whose path begins with `/apps/` or `/users/`.
pub(super) fn answer(pusher: &mut Pusher, context: &mut Context<'_>, request: &HttpRequest<'_>) -> Answer {
    let answer = authenticate(pusher, request).and_then(|(ask, rest)| {
        context.excuse_from_rates();
        pusher.route(context, &ask, rest)
    });
    answer.unwrap_or_else(|problem| Answer::Respond(problem.response()))
}

/// Finds the application of a request, and checks the signature. Returns the rest of the path, too.
fn authenticate<'a>(pusher: &Pusher, request: &'a HttpRequest<'a>) -> Result<(Ask<'a>, &'a str), Problem> {
    let (query, path) = (SignedQuery::parse(request.query())?, request.path());
    let (found, rest) = match path.strip_prefix("/apps/") {
        Some(path) => {
            let (id, rest) = path.split_once('/').unwrap_or((path, ""));
            (pusher.table.by_id(&decode(id)?), rest)
        }
        // Python's library leaves out the application when it terminates connections. Its key is in the query.
        None => (query.value("auth_key").and_then(|key| pusher.table.by_key(&key)), &path[1..]),
    };
    let (index, app) = found.map(|(index, app)| (index, Arc::clone(app))).ok_or_else(|| {
        Problem::new(Status::NotFound, "the server has no such application; check the id in the path")
    })?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    query.check((&app.key, &app.secret), (request.method(), path), request.body(), now)?;
    if !app.is_enabled {
        let message = format!(
            "the application {} is disabled; set enabled = true in the file of --pusher-apps",
            app.id
        );
        return Err(Problem::new(Status::Forbidden, message));
    }
    Ok((Ask { request, query, index, app }, rest))
}

impl Pusher {
    /// Handles a note about a request.
    pub(super) fn take_rest_note(&mut self, context: &mut Context<'_>, note: RestNote) {
        match note.0 {
            Step::Look(look) => self.look(context, *look),
            Step::Walk(walk) => self.begin_walk(context, *walk),
            Step::WalkOn => self.walk_on(context),
        }
    }

    /// Handles an authentic request. `rest` is its path behind the application.
    fn route(&mut self, context: &mut Context<'_>, ask: &Ask<'_>, rest: &str) -> Result<Answer, Problem> {
        let method = if ask.request.is_read() { "GET" } else { ask.request.method() };
        let segments: Vec<&str> = rest.split('/').collect();
        match (method, &segments[..]) {
            ("POST", ["events"]) => self.trigger(context, ask),
            ("POST", ["batch_events"]) => self.trigger_batch(context, ask),
            ("POST", ["users", user, "terminate_connections"]) => {
                let user = user_of(&ask.app, &decode(user)?);
                context.close_user(&user, TERMINATED, "terminated by the application");
                Ok(ok(&json!({})))
            }
            ("GET", ["channels"]) => list::begin(context, ask),
            ("GET", ["channels", name]) => ask_about(context, ask, name, Form::Channel),
            ("GET", ["channels", name, "users"]) => ask_about(context, ask, name, Form::Users),
            ("GET", ["connections"]) => Ok(ok(&json!({ "connections": self.table.connections(ask.index) }))),
            (_, ["events" | "batch_events"] | ["users", _, "terminate_connections"]) => {
                Err(Problem::method("POST"))
            }
            (_, ["connections"] | ["channels"] | ["channels", _] | ["channels", _, "users"]) => {
                Err(Problem::method("GET"))
            }
            _ => Err(Problem::new(
                Status::NotFound,
                "the server's Pusher HTTP API has no such route; check the path",
            )),
        }
    }

    /// Handles `POST /apps/ID/events`.
    fn trigger(&mut self, context: &mut Context<'_>, ask: &Ask<'_>) -> Result<Answer, Problem> {
        let event = parse_event(ask.request.body(), ask.app.max_event_bytes as usize)?;
        let channels = channels_of(&event)?;
        let info = Info::parse(event.info.as_deref())?;
        self.publish(context, ask, &event, &channels)?;
        if info == Info::default() {
            return Ok(ok(&json!({})));
        }
        let names = channels.iter().map(|channel| channel.name.into()).collect();
        let (answer, inquiry) = Inquiry::begin(context, ask.request, Form::Event, names);
        for (index, channel) in channels.iter().enumerate() {
            inquiry.ask(context, index, channel.room(&ask.app.id), info.within(channel));
        }
        Ok(answer)
    }

    /// Handles `POST /apps/ID/batch_events`.
    fn trigger_batch(&mut self, context: &mut Context<'_>, ask: &Ask<'_>) -> Result<Answer, Problem> {
        let events = parse_batch(ask.request.body(), ask.app.max_event_bytes as usize)?;
        let mut checked = Vec::new();
        for event in &events {
            let channels = channels_of(event)?;
            let [channel] = channels[..] else {
                return Err(Problem::new(Status::BadRequest, "an event of a batch has one channel"));
            };
            checked.push((event, channel, Info::parse(event.info.as_deref())?));
        }
        for (event, channel, _) in &checked {
            self.publish(context, ask, event, &[*channel])?;
        }
        if checked.iter().all(|(.., info)| *info == Info::default()) {
            return Ok(ok(&json!({})));
        }
        let names = checked.iter().map(|(_, channel, _)| channel.name.into()).collect();
        let (answer, inquiry) = Inquiry::begin(context, ask.request, Form::Batch, names);
        for (index, (_, channel, info)) in checked.iter().enumerate() {
            inquiry.ask(context, index, channel.room(&ask.app.id), info.within(channel));
        }
        Ok(answer)
    }

    /// Publishes an event to its channels.
    fn publish(
        &self,
        context: &mut Context<'_>,
        ask: &Ask<'_>,
        event: &Event<'_>,
        channels: &[Channel<'_>],
    ) -> Result<(), Problem> {
        // An identifier of another server, or of a connection that has ended, excludes nobody.
        let except = match event.except.as_deref() {
            Some(id) if !is_socket_id(id) => {
                let message = format!("{:?} is no socket_id; send that of the client", shown(id));
                return Err(Problem::new(Status::BadRequest, message));
            }
            id => id.and_then(|id| client_of(id, self.apps.salt())),
        };
        for channel in channels {
            let text = encode_event(&event.name, Some(channel.name), Data::Json(&event.data), None);
            publish_event(context, &channel.room(&ask.app.id), channel.is_cache, except, &text);
        }
        Ok(())
    }
}

/// Asks the home shard of a channel's room about the channel with the percent-encoded name `name`.
fn ask_about(context: &mut Context<'_>, ask: &Ask<'_>, name: &str, form: Form) -> Result<Answer, Problem> {
    let name = decode(name)?;
    let channel = channel(&name)?;
    let info = Info::parse(ask.query.value("info").as_deref())?;
    let missing = match form {
        Form::Users if !channel.is_presence() => Some("users"),
        _ if info.user_count && !channel.is_presence() => Some("user_count"),
        _ if info.cache && !channel.is_cache => Some("cache"),
        _ => None,
    };
    if let Some(attribute) = missing {
        let kind = if attribute == "cache" { "cache" } else { "presence" };
        let message = format!("{name} has no {attribute}: it is not a {kind} channel");
        return Err(Problem::new(Status::BadRequest, message));
    }
    let (answer, inquiry) = Inquiry::begin(context, ask.request, form, vec![name.clone()]);
    inquiry.ask(context, 0, channel.room(&ask.app.id), info);
    Ok(answer)
}

/// Returns the channels of an event.
fn channels_of<'a>(event: &'a Event<'_>) -> Result<Vec<Channel<'a>>, Problem> {
    event.channels.iter().map(|name| channel(name)).collect()
}

fn channel(name: &str) -> Result<Channel<'_>, Problem> {
    Channel::parse(name).ok_or_else(|| {
        let message =
            format!("{:?} is no channel's name; use 1 to 200 letters, digits and _ - = @ , . ;", shown(name));
        Problem::new(Status::BadRequest, message)
    })
}

/// Returns the answer to a request that succeeded. The libraries for PHP take no status but 200.
fn ok(json: &Value) -> Answer {
    Answer::Respond(Response::json(Status::Ok, json.to_string()))
}

/// Decodes a segment of a path.
fn decode(segment: &str) -> Result<String, Problem> {
    let decoded = percent_decode_str(segment).decode_utf8();
    decoded.map(Into::into).map_err(|_| Problem::new(Status::BadRequest, "the path is not UTF-8"))
}

impl Info {
    /// Parses a list of attributes, separated by commas.
    fn parse(names: Option<&str>) -> Result<Self, Problem> {
        let mut info = Self::default();
        for name in names.unwrap_or_default().split(',').map(str::trim).filter(|name| !name.is_empty()) {
            match name {
                "user_count" => info.user_count = true,
                "subscription_count" => info.subscription_count = true,
                "cache" => info.cache = true,
                other => {
                    let message = format!(
                        "info has no attribute {:?}; use user_count, subscription_count or cache",
                        shown(other)
                    );
                    return Err(Problem::new(Status::BadRequest, message));
                }
            }
        }
        Ok(info)
    }

    /// Returns the attributes that a channel has.
    fn within(self, channel: &Channel<'_>) -> Self {
        Self {
            user_count: self.user_count && channel.is_presence(),
            subscription_count: self.subscription_count,
            cache: self.cache && channel.is_cache,
        }
    }
}

impl Problem {
    fn new(status: Status, message: impl Into<Cow<'static, str>>) -> Self {
        Self { status, message: message.into() }
    }

    fn method(allowed: &str) -> Self {
        Self::new(Status::MethodNotAllowed, format!("the route takes only {allowed}"))
    }

    fn response(self) -> Response {
        Response::json(self.status, json!({ "error": self.message }).to_string())
    }
}

impl From<BadSignature> for Problem {
    fn from(error: BadSignature) -> Self {
        let status = match error {
            BadSignature::Query => Status::BadRequest,
            _ => Status::Unauthorized,
        };
        Self::new(status, error.to_string())
    }
}

impl From<BadBody> for Problem {
    fn from(error: BadBody) -> Self {
        Self::new(error.status, error.message)
    }
}
