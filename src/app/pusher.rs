//! `pusher`: the Pusher protocol, so that stock client and server libraries work unchanged. docs/pusher.md describes it
//! for users.
//!
//! A channel is a room of the hub. Several [`PusherApp`]s share one server: the name of a channel's room begins with the
//! identifier of its application.
//!
//! # How a subscription begins
//! A client hears nothing of a channel before `subscription_succeeded`, and everything afterwards. So it joins the room
//! held ([`Context::join_held`]). If its shard follows the room already and the channel is an ordinary one, it starts at
//! once. Otherwise the shard asks the room's home, and starts the client when the answer comes. The answer of a presence
//! channel has its members, that of a cache channel its last event.
//!
//! # Why lists and events agree
//! The home of a presence channel keeps its members ([`home`]). It publishes each change as an event of the room. A list
//! for new subscribers is taken after all changes so far were published, and travels behind these events: the home sends
//! itself a note, and answers when this note comes. So a list is true at exactly one place in the room's order, and a new
//! subscriber starts at that place.

mod apps;
mod cache;
mod channel;
mod client_events;
mod counts;
mod encode;
#[cfg(any(test, feature = "internals"))]
mod fuzzing;
mod home;
mod inbound;
#[cfg(feature = "internals")]
pub mod inspect;
mod opening;
mod presence;
mod problem;
mod rest;
mod signature;
mod signin;
mod socket_id;
mod subscriptions;
mod webhooks;

use std::borrow::Cow;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::{Arc, LazyLock};

pub use apps::{PusherApp, PusherApps};
#[cfg(feature = "internals")]
pub use fuzzing::check_client_text;
pub use webhooks::{PusherEvent, PusherReports, PusherWebhook};

use super::{
    Answer, App, ClientId, CloseCode, Context, HttpRequest, Incoming, Members, Message, Note, Opening,
    Refusal, Response, Status,
};

use apps::{AppIndex, Replaced, Table};
use client_events::Allowance;
use counts::COUNT_TIMER;
use home::{Ask, Home, Told};
use inbound::Frame;
use opening::Entrance;
use rest::{Rest, RestNote};
use signin::SignedIn;
use webhooks::GRACE_TIMER;

/// Timer of the instance that drops expired events of cache channels.
const CACHE_TIMER: u64 = 1;

/// The application `pusher`: one instance for each shard.
#[derive(Debug)]
pub struct Pusher {
    /// Where this instance finds new applications after a reload.
    apps: PusherApps,
    /// The applications that this instance serves.
    table: Arc<Table>,
    /// Version of `table`.
    version: u64,
    /// This instance's own copies of the applications, by index, so that shards share no counter. `None` for applications
    /// that are gone.
    own: Vec<Option<Rc<PusherApp>>>,
    /// The connections of this shard, by slot.
    connections: Vec<Connection>,
    /// State of the clients that need more than a connection, by their numbers.
    clients: HashMap<u64, Box<Client>>,
    /// Number of the next join that waits for an answer.
    next_join: u64,
    /// State of the rooms whose home is this shard.
    home: Home,
    rest: Rest,
}

/// A connection of an application.
#[derive(Clone, Copy, Debug, Default)]
struct Connection {
    /// Number of the client. 0 in a slot without a client.
    number: u64,
    app: AppIndex,
}

/// State of a client that is signed in, is in a presence channel, waits for an answer or sends events.
#[derive(Debug, Default)]
struct Client {
    subscriptions: subscriptions::Subscriptions,
    signed_in: Option<SignedIn>,
    allowance: Option<Allowance>,
}

impl Pusher {
    /// Creates the instance of a shard. All instances share `apps`.
    pub fn new(apps: PusherApps) -> Self {
        let mut pusher = Self {
            version: apps.version(),
            table: apps.table(),
            apps,
            own: Vec::new(),
            connections: Vec::new(),
            clients: HashMap::new(),
            next_join: 0,
            home: Home::default(),
            rest: Rest::default(),
        };
        pusher.copy_apps();
        pusher
    }

    fn copy_apps(&mut self) {
        self.own = self.table.all().map(|app| app.map(|app| Rc::new((**app).clone()))).collect();
        let apps = self.own.iter().flatten().map(|app| &**app);
        self.home.reporter.adopt(self.apps.reports(), apps);
    }

    /// Returns the application of a client. `None` for a client that is being closed because it has none.
    fn app_of(&self, client: ClientId) -> Option<Rc<PusherApp>> {
        let connection = self.connections.get(client.slot as usize)?;
        let app = self.own.get(connection.app as usize).filter(|_| connection.number == client.number)?;
        app.clone()
    }

    fn socket_id(&self, client: ClientId) -> String {
        socket_id::socket_id(client, self.apps.salt())
    }

    /// Adopts the latest applications. Closes the clients of those that are gone or disabled.
    fn adopt_apps(&mut self, context: &mut Context<'_>) {
        // The table may be newer than the version, and is then adopted once more.
        self.version = self.apps.version();
        self.table = self.apps.table();
        self.copy_apps();
        for (slot, connection) in (0_u32..).zip(&self.connections) {
            if connection.number == 0 {
                continue;
            }
            let client = ClientId { shard: context.shard(), slot, number: connection.number };
            match self.own.get(connection.app as usize).and_then(Option::as_ref) {
                Some(app) if app.is_enabled => {}
                Some(_) => problem::DISABLED.close(context, client),
                None => problem::NO_APP.close(context, client),
            }
        }
    }

    fn take_frame(
        &mut self,
        context: &mut Context<'_>,
        client: ClientId,
        app: &PusherApp,
        frame: &Frame<'_>,
    ) {
        match &*frame.event {
            "pusher:ping" => context.send_to_client(client, Message::text(encode::PONG)),
            "pusher:pong" => {}
            "pusher:subscribe" => self.subscribe(context, client, app, frame.data),
            "pusher:unsubscribe" => self.unsubscribe(context, client, app, frame.data),
            "pusher:signin" => self.sign_in(context, client, app, frame.data),
            name if name.starts_with("client-") => self.take_client_event(context, client, app, frame),
            name => {
                let name = channel::shown(name);
                let text =
                    format!("The server does not know the event {name}; client events begin with client-.");
                problem::send(context, client, None, &text);
            }
        }
    }
}

/// Returns whether a room is that of the channel of a user, about which webhooks are told nothing.
fn is_of_user(room: &str) -> bool {
    home::channel(room).starts_with('#')
}

/// Publishes an event to a room as the REST API does, for the simulation.
#[cfg(test)]
pub(crate) fn publish_as_backend(context: &mut Context<'_>, room: &str, is_cache: bool, event: &str) {
    home::publish_event(context, room, is_cache, None, event);
}

/// Returns the response with the page for a first try.
fn page() -> Response {
    static PAGE: LazyLock<Response> = LazyLock::new(|| Response::page(include_str!("pusher/page.html")));
    PAGE.clone()
}

impl App for Pusher {
    fn on_request(&mut self, context: &mut Context<'_>, request: &HttpRequest<'_>) -> Answer {
        if self.version != self.apps.version() {
            self.adopt_apps(context);
        }
        match request.path() {
            path if path.starts_with("/app/") => opening::answer(&self.table, request),
            "/" if request.is_read() && !request.is_upgrade() => Answer::Respond(page()),
            "/up" if request.is_read() => rest::up(),
            path if path.starts_with("/apps/") || path.starts_with("/users/") => {
                rest::answer(self, context, request)
            }
            _ => Answer::NotMine,
        }
    }

    fn on_open(&mut self, context: &mut Context<'_>, client: ClientId, mut opening: Opening<'_>) {
        match opening.take::<Entrance>() {
            Some(Entrance::Admitted(admission)) => {
                let slot = client.slot as usize;
                if slot >= self.connections.len() {
                    self.connections.resize(slot + 1, Connection::default());
                }
                self.connections[slot] = Connection { number: client.number, app: admission.keep() };
                let established = encode::connection_established(&self.socket_id(client));
                context.send_to_client(client, Message::text(&established));
            }
            Some(Entrance::Refused(problem)) => problem.close(context, client),
            None => problem::NO_PATH.close(context, client),
        }
    }

    fn on_message(&mut self, context: &mut Context<'_>, client: ClientId, message: Incoming<'_>) {
        let Some(app) = self.app_of(client) else { return };
        let frame = message.text().ok_or_else(|| "Events are text messages, not binary ones.".into());
        match frame.and_then(Frame::parse) {
            Ok(frame) => self.take_frame(context, client, &app, &frame),
            Err(text) => problem::send(context, client, None, &text),
        }
    }

    fn on_lag(&mut self, context: &mut Context<'_>, client: ClientId, missed: u64) {
        let is_present =
            self.clients.get(&client.number).is_some_and(|client| client.subscriptions.is_present());
        if is_present {
            // A client that misses an event has wrong members, and gets the right ones only when it subscribes again.
            return context.close(client, CloseCode::TRY_AGAIN, "lagged");
        }
        let text = format!("{missed} events were skipped, because the connection is too slow for them.");
        problem::send(context, client, None, &text);
    }

    fn on_close(&mut self, context: &mut Context<'_>, client: ClientId) {
        if self.app_of(client).is_some_and(|app| app.counts_subscriptions()) {
            for room in context.rooms(client) {
                subscriptions::note_change(context, &room);
            }
        }
        if let Some(mut state) = self.clients.remove(&client.number) {
            state.subscriptions.end(context, client);
        }
        if let Some(connection) = self.connections.get_mut(client.slot as usize)
            && connection.number == client.number
        {
            self.table.release(std::mem::take(connection).app);
        }
    }

    fn on_ask(&mut self, context: &mut Context<'_>, note: Note) {
        let note = match note.downcast::<Ask>() {
            Ok(ask) => {
                if let Some(told) = self.home.take(context, *ask) {
                    self.take_told(context, told);
                }
                return;
            }
            Err(note) => note,
        };
        match note.downcast::<RestNote>() {
            Ok(note) => self.take_rest_note(context, *note),
            Err(note) if note.is::<Replaced>() => self.adopt_apps(context),
            Err(_) => {}
        }
    }

    fn on_tell(&mut self, context: &mut Context<'_>, note: Note) {
        if let Ok(told) = note.downcast::<Told>() {
            self.take_told(context, *told);
        }
    }

    fn on_api_message<'a>(&mut self, _: Option<&str>, _: Incoming<'a>) -> Result<Cow<'a, [u8]>, Refusal> {
        let reason = "Messages here are events of channels; send them with the REST API below /apps.";
        Err(Refusal::new(Status::BadRequest, reason))
    }

    fn on_members(&mut self, context: &mut Context<'_>, members: Members) {
        if !self.home.take_count(context, members.token, members.count) {
            self.count_subscriptions(members.token, members.count);
        }
    }

    fn watches_occupancy(&self) -> bool {
        self.apps.reports().is_some()
    }

    fn on_occupied(&mut self, _: &mut Context<'_>, room: &str) {
        if !is_of_user(room) {
            self.home.reporter.occupied(room);
        }
    }

    fn on_vacated(&mut self, context: &mut Context<'_>, room: &str) {
        if !is_of_user(room) {
            self.home.reporter.vacated(context, room);
        }
    }

    fn on_timer(&mut self, context: &mut Context<'_>, token: u64) {
        match token {
            CACHE_TIMER => self.home.drop_expired(context),
            GRACE_TIMER => self.home.reporter.end_grace(context),
            COUNT_TIMER => self.home.counts.count(context),
            _ => {}
        }
    }
}
