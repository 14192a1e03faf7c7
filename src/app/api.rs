//! The HTTP API for backends: an application that answers requests below `/api/` and leaves everything else to the
//! application that it wraps. docs/api.md describes it for users.
//!
//! A call is checked in this order: key, route, method, scope, then what its handler needs. [`ROUTES`] lists all routes
//! with their handlers. A handler that needs another shard or a receipt defers the call ([`Ask::defer`]). What the
//! instances of several shards do for a call travels as an [`ApiNote`], a type that no wrapped application knows.

mod attempts;
mod call;
mod direct;
mod publish;
mod read;
mod reply;
mod users;

use std::borrow::Cow;
use std::collections::VecDeque;
use std::sync::Arc;

use crate::backends::{Backends, Scope};
use crate::hub::{ClientId, History, Kind, Note};
use crate::protocol::Refusal;

use super::{Answer, App, Context, HttpRequest, Incoming, Members, Opening, ResumedRoom, User};

use attempts::Attempts;
use call::{Ask, Call, Parameters, bearer, segments};
use direct::{Delivery, ToUser};
use publish::Attempt;
use read::{Reading, Walk};
use reply::Problem;

/// Start of all paths of the API.
const PREFIX: &str = "/api/";

/// The application that serves the API and wraps another application.
pub(crate) struct Api {
    inner: Box<dyn App>,
    backends: Arc<Backends>,
    /// Recent calls with an `Idempotency-Key` whose home is this shard.
    attempts: Attempts,
    /// Walks over this shard's rooms for lists of rooms. The first one is in progress.
    walks: VecDeque<Walk>,
}

/// Note from one instance of [`Api`] to another.
enum ApiNote {
    /// Publishes unless a call with the same `Idempotency-Key` has done it.
    Attempt(Box<Attempt>),
    /// Adds the shard's rooms to a list of rooms.
    Walk(Box<Walk>),
    /// Continues the first walk of the shard, in the turn after the last step.
    Step,
    /// Reads the place and the kept messages of a room whose home is the shard.
    Read(Box<Reading>),
    /// Passes a message on to the shards that have clients of a user whose home is the shard.
    ToUser(Box<ToUser>),
}

/// A route: a path, and a handler for each method.
struct Route {
    /// The path. A segment in capital letters stands for any text.
    template: &'static str,
    methods: &'static [Method],
}

struct Method {
    name: &'static str,
    scope: Scope,
    handler: Handler,
}

/// Handler of a route. Returns the deferral of [`Ask::defer`], whose call counts and logs its answer.
type Handler = fn(&mut Api, &mut Context<'_>, &mut Ask<'_>) -> Result<Answer, Problem>;

/// All routes of the API.
const ROUTES: &[Route] = &[
    Route {
        template: "/api/bans",
        methods: &[Method { name: "GET", scope: Scope::Admin, handler: users::get_bans }],
    },
    Route {
        template: "/api/bans/USER",
        methods: &[Method { name: "DELETE", scope: Scope::Admin, handler: users::delete_ban }],
    },
    Route {
        template: "/api/messages",
        methods: &[Method { name: "POST", scope: Scope::Publish, handler: publish::post_to_rooms }],
    },
    Route {
        template: "/api/rooms",
        methods: &[Method { name: "GET", scope: Scope::Read, handler: read::get_rooms }],
    },
    Route {
        template: "/api/rooms/ROOM",
        methods: &[Method { name: "GET", scope: Scope::Read, handler: read::get_room }],
    },
    Route {
        template: "/api/rooms/ROOM/members",
        methods: &[Method { name: "GET", scope: Scope::Read, handler: read::get_members }],
    },
    Route {
        template: "/api/rooms/ROOM/messages",
        methods: &[
            Method { name: "GET", scope: Scope::Read, handler: read::get_messages },
            Method { name: "POST", scope: Scope::Publish, handler: publish::post_to_room },
        ],
    },
    Route {
        template: "/api/users/USER",
        methods: &[
            Method { name: "GET", scope: Scope::Read, handler: users::get_user },
            Method { name: "DELETE", scope: Scope::Admin, handler: users::delete_user },
        ],
    },
    Route {
        template: "/api/users/USER/messages",
        methods: &[Method { name: "POST", scope: Scope::Publish, handler: direct::post_to_user }],
    },
    Route {
        template: "/api/users/USER/rooms/ROOM",
        methods: &[
            Method { name: "PUT", scope: Scope::Admin, handler: users::put_room },
            Method { name: "DELETE", scope: Scope::Admin, handler: users::delete_room },
        ],
    },
];

impl Api {
    pub(crate) fn new(inner: Box<dyn App>, backends: Arc<Backends>) -> Self {
        Self { inner, backends, attempts: Attempts::default(), walks: VecDeque::new() }
    }

    /// Answers a call. Returns `None` while the API is off.
    fn call(&mut self, context: &mut Context<'_>, request: &HttpRequest<'_>) -> Option<Answer> {
        let keys = self.backends.keys()?;
        let route = Route::of(request.path());
        let template = route.as_ref().map_or("none", |(route, _)| route.template);
        let key = bearer(request).and_then(|key| keys.find(key).ok_or_else(Problem::unknown_key));
        if key.is_ok() {
            context.excuse_from_rates();
        }
        let name = key.as_ref().ok().map(|key| &*key.name);
        let call = Call::new(Arc::clone(&self.backends), request.method(), template, name);
        let outcome = key.and_then(|key| {
            let (route, segments) = route.ok_or_else(Problem::no_route)?;
            let method = route.method(request.method())?;
            if !key.allows(method.scope) {
                return Err(Problem::scope(&key.name, method.scope));
            }
            let parameters = Parameters::parse(request.query())?;
            let mut ask = Ask { request, segments, parameters, call: &call };
            (method.handler)(self, context, &mut ask)
        });
        Some(outcome.unwrap_or_else(|problem| Answer::Respond(call.record(Err(problem)))))
    }

    fn take_note(&mut self, context: &mut Context<'_>, note: ApiNote) {
        match note {
            ApiNote::Attempt(attempt) => self.attempt(context, *attempt),
            ApiNote::Walk(walk) => self.begin_walk(context, *walk),
            ApiNote::Step => self.step(context),
            ApiNote::Read(reading) => reading.answer(context),
            ApiNote::ToUser(message) => message.pass_on(context),
        }
    }
}

impl Route {
    /// Returns the route of a path, with the path's segments in place of the capital ones of the template. The segments
    /// are percent-encoded.
    fn of(path: &str) -> Option<(&'static Self, Vec<&str>)> {
        ROUTES.iter().find_map(|route| Some((route, segments(route.template, path)?)))
    }

    fn method(&self, name: &str) -> Result<&'static Method, Problem>
    where
        Self: 'static,
    {
        // The server leaves the body out of a response to HEAD.
        let name = if name == "HEAD" { "GET" } else { name };
        self.methods.iter().find(|method| method.name == name).ok_or_else(|| {
            let mut names: Vec<_> = self.methods.iter().map(|method| method.name).collect();
            if names.contains(&"GET") {
                names.insert(1, "HEAD");
            }
            Problem::method(&names.join(", "))
        })
    }
}

impl App for Api {
    fn on_request(&mut self, context: &mut Context<'_>, request: &HttpRequest<'_>) -> Answer {
        if request.path().starts_with(PREFIX)
            && let Some(answer) = self.call(context, request)
        {
            return answer;
        }
        self.inner.on_request(context, request)
    }

    fn on_ask(&mut self, context: &mut Context<'_>, note: Note) {
        match note.downcast::<ApiNote>() {
            Ok(note) => self.take_note(context, *note),
            Err(note) => self.inner.on_ask(context, note),
        }
    }

    fn on_tell(&mut self, context: &mut Context<'_>, note: Note) {
        match note.downcast::<Delivery>() {
            Ok(delivery) => self.deliver(context, &delivery),
            Err(note) => self.inner.on_tell(context, note),
        }
    }

    forward!(
        history,
        history_of,
        rates,
        on_start,
        on_open,
        on_message,
        on_close,
        on_added,
        on_removed,
        on_publish,
        on_publish_at,
        on_api_message,
        on_api_user_message,
        on_api_delivery,
        watches_occupancy,
        on_occupied,
        on_vacated,
        watches_members,
        on_joined,
        on_left,
        on_lag,
        on_resumed,
        describe_member,
        on_members,
        on_user,
        on_timer,
    );
}
