//! Applications: the code that handles clients and their messages.
//!
//! A user of this library implements [`App`]. Each shard has its own instance, so an application needs no locks.
//! Instances send each other notes. The crate's documentation has examples.

#[macro_use]
mod forward;

mod answer;
mod api;
mod chat;
mod echo;
mod gathering;
#[cfg(feature = "outgoing")]
mod hooks;
mod members;
mod pusher;
mod relay;
mod renewal;
mod request;
mod responder;
mod routes;
mod session;
mod strip;
mod timers;
mod users;

use std::any::Any;
use std::borrow::Cow;
use std::time::Duration;

pub use crate::hub::{ClientId, History, KeptMessage, KeptPage, Kind, Message, Note, Position, UserClient};
use crate::hub::{ClientNumber, Hub, Origin, Slot, UserAction, is_user};
pub use crate::protocol::frame::CloseCode;
pub use crate::protocol::{Refusal, Status};
use crate::publisher::{Ban, Publisher};
pub use crate::token::Claims;

pub use answer::{Answer, Response, Upgrade};
pub(crate) use api::Api;
pub use chat::{Chat, ChatOptions};
pub use echo::Echo;
pub(crate) use gathering::Asker;
#[cfg(feature = "outgoing")]
pub(crate) use hooks::Hooks;
pub(crate) use members::MemberLists;
pub use members::{MAX_LISTED_MEMBERS, Member, Members, MembersCursor};
#[cfg(feature = "internals")]
pub use pusher::check_client_text;
#[cfg(feature = "internals")]
pub use pusher::inspect as pusher_parsers;
#[cfg(test)]
pub(crate) use pusher::publish_as_backend;
pub use pusher::{Pusher, PusherApp, PusherApps, PusherEvent, PusherReports, PusherWebhook};
pub use relay::Relay;
pub use renewal::{RenewError, Renewal};
pub(crate) use renewal::{TokenInUse, Tokens};
pub use request::HttpRequest;
pub use responder::{Deferral, Responder};
pub use routes::rooms;
pub use session::{ResumedRoom, Resumption, check_session_id, session_in_query};
#[cfg(feature = "internals")]
pub use strip::clean as clean_text;
pub(crate) use timers::AppTimers;
pub use users::{MAX_LISTED_CLIENTS, MAX_LISTED_ROOMS, User, UserError};
pub(crate) use users::{UserQuestions, clients_of_user};

/// Maximum number of messages in one answer of [`Context::kept_messages`].
pub const MAX_KEPT_MESSAGES: u32 = 1_000;
/// Maximum size of the messages in one answer of [`Context::kept_messages`], in bytes, unless one message is longer.
const KEPT_BYTES: usize = 256 << 10;

/// The HTML page of the chat, as the server sends it to browsers.
pub const CHAT_PAGE: &str = include_str!("app/chat.html");

/// A text or binary message from a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Incoming<'a> {
    /// The type of the message: text or binary.
    pub kind: Kind,
    /// The payload of the message. The payload of a text message is valid UTF-8.
    pub payload: &'a [u8],
}

impl<'a> Incoming<'a> {
    /// Returns the payload as text, or `None` for a binary message.
    pub fn text(&self) -> Option<&'a str> {
        match self.kind {
            Kind::Text => simdutf8::basic::from_utf8(self.payload).ok(),
            Kind::Binary => None,
        }
    }
}

impl<'a> From<Incoming<'a>> for Message<'a> {
    /// Makes an outgoing message with the kind and payload of an incoming message, to send it on unchanged.
    fn from(Incoming { kind, payload }: Incoming<'a>) -> Self {
        Self::new(kind, payload)
    }
}

/// The request with which a client opened its WebSocket connection.
#[derive(Debug)]
pub struct Opening<'a> {
    /// The room that [`App::on_request`] named in its answer, by default the room of the URL's path, in the canonical
    /// form of its name.
    pub room: &'a str,
    /// The query of the URL, percent-encoded as the client sent it. The query may contain the client's token.
    pub query: Option<&'a str>,
    /// The claims of the client's token, on a server that requires tokens (`--auth-hmac-secret-file`, `--auth-jwks`). These claims
    /// allow `room`. An application must check [`Claims::may_join`] before it lets the client into another room.
    pub claims: Option<&'a Claims>,
    /// The value that [`App::on_request`] gave with its answer: see [`Upgrade::with_value`].
    pub value: Option<Box<dyn Any + Send>>,
    /// The session that the client continues. `None` for a client without a session ([`Upgrade::with_session`]) or with a
    /// new one.
    pub resumption: Option<Resumption>,
}

impl Opening<'_> {
    /// Takes the value that [`App::on_request`] gave with its answer. Returns `None` without a value, or if the value is
    /// not a `T`.
    pub fn take<T: Any>(&mut self) -> Option<T> {
        let value = self.value.take()?;
        match value.downcast() {
            Ok(value) => Some(*value),
            Err(other) => {
                self.value = Some(other);
                None
            }
        }
    }
}

/// An application: the handlers of one shard.
///
/// The shard calls its handlers one after another on its thread. A slow handler delays all clients of the shard. If a
/// handler panics, the shard closes the client of that call with code 1011; other clients do not notice.
///
/// # Order of calls
/// For each client: [`App::on_request`], [`App::on_open`], then [`App::on_message`] and [`App::on_lag`] any number of
/// times, then
/// [`App::on_close`]. The other handlers may be called at any time.
pub trait App {
    /// Returns the maximum number of messages in a room's history, which clients get when they join.
    /// [`App::history_of`] sets other limits for single rooms. Called once when the server starts and again on each
    /// reload.
    fn history(&self) -> u32 {
        0
    }

    /// Returns the limits of the history of one room. `None`, or a panic, means the limits of all other rooms:
    /// [`App::history`] messages, kept for `--history-seconds`. Called on the room's home shard when the server creates
    /// the room, and for a message to a room that does not exist. The answer holds until the server forgets the room,
    /// which has then neither members nor history. `--history-bytes` and `--history-memory` limit every history.
    fn history_of(&mut self, room: &str) -> Option<History> {
        let _ = room;
        None
    }

    /// Returns the default rate limits of a client: first messages and control frames per second, then bytes per
    /// second. 0 means no limit. A rate set in [`Options`](crate::Options) replaces the default.
    fn rates(&self) -> (u32, u32) {
        (0, 0)
    }

    /// Answers an HTTP request on the main port. A WebSocket handshake is a request, too.
    ///
    /// The server checks the `Origin` and the `Host` of a handshake before this call, and the client's token after it.
    /// An answer that needs slow work comes later, see [`HttpRequest::defer`]. The client's next request on the
    /// connection is handled after this one is answered. By default a client opens a room by its path, see [`rooms`].
    /// If this handler panics, the client gets 500.
    fn on_request(&mut self, context: &mut Context<'_>, request: &HttpRequest<'_>) -> Answer {
        let _ = context;
        rooms(request, None)
    }

    /// Prepares the instance, for example sets a first timer. Called once, on the shard's thread, before all other
    /// handlers that get a context.
    fn on_start(&mut self, context: &mut Context<'_>) {
        let _ = context;
    }

    /// Handles a client that has opened its WebSocket connection. The client is not in a room yet.
    fn on_open(&mut self, context: &mut Context<'_>, client: ClientId, opening: Opening<'_>);

    /// Handles one message from a client.
    fn on_message(&mut self, context: &mut Context<'_>, client: ClientId, message: Incoming<'_>);

    /// Handles the end of a client that is gone or is being closed. Called once for each client. Nothing can be sent to
    /// the client any more. The client still is a member of its rooms, so [`Context::rooms`],
    /// [`Context::publish_to_rooms_of`] and [`Context::members`] know it; it leaves them after this call.
    fn on_close(&mut self, context: &mut Context<'_>, client: ClientId) {
        let _ = (context, client);
    }

    /// Handles a client that became a member of `room` by an action on its user: [`Context::join_user`] of any instance,
    /// [`Publisher::join_user`], or the HTTP API. Not called for [`Context::join`].
    fn on_added(&mut self, context: &mut Context<'_>, client: ClientId, room: &str) {
        let _ = (context, client, room);
    }

    /// Handles a client whose membership of `room` was ended by an action on its user: [`Context::leave_user`] of any
    /// instance, [`Publisher::leave_user`], or the HTTP API. Not called for [`Context::leave`].
    fn on_removed(&mut self, context: &mut Context<'_>, client: ClientId, room: &str) {
        let _ = (context, client, room);
    }

    /// Decides whether a message may be published to a room. Called once for each message, on the room's home shard,
    /// before the message gets its number. `sender` is the client whose message or event was being handled when the
    /// application published, on any shard; `None` for other handlers, such as [`App::on_tell`]. `false`, or a panic,
    /// drops the message.
    fn on_publish(&mut self, room: &str, sender: Option<ClientId>, kind: Kind, payload: &[u8]) -> bool {
        let _ = (room, sender, kind, payload);
        true
    }

    /// Decides whether a message may be published, like [`App::on_publish`], which it calls. For wrappers that need the
    /// message's place in the room's order: see [`Context::next_position`].
    #[doc(hidden)]
    fn on_publish_at(
        &mut self,
        context: &mut Context<'_>,
        room: &str,
        sender: Option<ClientId>,
        message: Incoming<'_>,
    ) -> bool {
        let _ = context;
        self.on_publish(room, sender, message.kind, message.payload)
    }

    /// Makes the payload of a message that a backend publishes through the HTTP API
    /// ([`Options::api_keys`](crate::Options::api_keys)). `author` is the user that the backend names with `?as=`. The
    /// payload has the kind of `message`; that of a text must be UTF-8. [`App::on_publish`] judges it afterwards.
    ///
    /// By default the payload is published unchanged, and an author is refused.
    ///
    /// # Errors
    /// Returns the refusal of a message that the application does not publish: its status, and a text for people.
    fn on_api_message<'a>(
        &mut self,
        author: Option<&str>,
        message: Incoming<'a>,
    ) -> Result<Cow<'a, [u8]>, Refusal> {
        match author {
            None => Ok(message.payload.into()),
            Some(_) => Err(Refusal::new(
                Status::BadRequest,
                "Messages have no authors here; leave the parameter \"as\" out.",
            )),
        }
    }

    /// Makes the payload of a message that a backend sends to a user through the HTTP API, like [`App::on_api_message`].
    /// [`App::on_api_delivery`] gets the payload on each shard that has clients of the user.
    ///
    /// By default does what [`App::on_api_message`] does.
    ///
    /// # Errors
    /// Returns the refusal of a message that the application does not send.
    fn on_api_user_message<'a>(
        &mut self,
        author: Option<&str>,
        message: Incoming<'a>,
    ) -> Result<Cow<'a, [u8]>, Refusal> {
        self.on_api_message(author, message)
    }

    /// Sends a backend's message to clients of this shard, which are all clients that the shard has of one user. The
    /// payload of `message` is that of [`App::on_api_user_message`]; `author` is unchanged. An application whose clients
    /// have several formats chooses the format of each here.
    ///
    /// By default sends the message unchanged.
    fn on_api_delivery(
        &mut self,
        context: &mut Context<'_>,
        clients: &[ClientId],
        author: Option<&str>,
        message: Incoming<'_>,
    ) {
        let _ = author;
        context.send_to_clients(clients, message.into());
    }

    /// Returns whether the application wants [`App::on_occupied`] and [`App::on_vacated`]. Called once when the server
    /// starts and again on each reload.
    fn watches_occupancy(&self) -> bool {
        false
    }

    /// Handles a room that has got its first member, counted over all shards. Called on the room's home shard, in turn
    /// with [`App::on_vacated`] for each room, if [`App::watches_occupancy`].
    fn on_occupied(&mut self, context: &mut Context<'_>, room: &str) {
        let _ = (context, room);
    }

    /// Handles a room that has lost its last member, counted over all shards. Called on the room's home shard. A member
    /// that moves between shards may leave the room empty for a moment.
    fn on_vacated(&mut self, context: &mut Context<'_>, room: &str) {
        let _ = (context, room);
    }

    /// Returns whether the application wants [`App::on_joined`] and [`App::on_left`]. Called once when the server starts
    /// and again on each reload. The calls cost a message between shards for each client that joins or leaves a room.
    fn watches_members(&self) -> bool {
        false
    }

    /// Handles a client of any shard that has become a member of a room, and a member whose user has changed. `user` is
    /// the client's user, if it has one. Called on the room's home shard, before [`App::on_publish`] for each message that
    /// the client publishes as a member, if [`App::watches_members`].
    fn on_joined(&mut self, context: &mut Context<'_>, room: &str, client: ClientId, user: Option<&str>) {
        let _ = (context, room, client, user);
    }

    /// Handles a client of any shard that is no member of a room any more. Called on the room's home shard, once after
    /// [`App::on_joined`], if [`App::watches_members`].
    fn on_left(&mut self, context: &mut Context<'_>, room: &str, client: ClientId) {
        let _ = (context, room, client);
    }

    /// Handles a client that reads too slowly and skips `missed` messages. Called only under the lag policy `skip`. By
    /// default sends the client a line that reports the missed messages.
    fn on_lag(&mut self, context: &mut Context<'_>, client: ClientId, missed: u64) {
        let text = format!("* {missed} messages missed");
        context.send_to_client(client, Message::text(&text));
    }

    /// Handles a client that continues in a room where its session stopped, after [`Context::join`]. The client gets the
    /// room's messages after this call, unless the handler closes it. A client that answers the close frame is not told
    /// again.
    ///
    /// By default sends a client that has missed messages a line that reports them.
    fn on_resumed(&mut self, context: &mut Context<'_>, client: ClientId, resumed: ResumedRoom<'_>) {
        let text = match resumed.missed {
            Some(0) => return,
            Some(count) => format!("* {count} messages missed in {}", resumed.room),
            None => format!("* messages missed in {}", resumed.room),
        };
        context.send_to_client(client, Message::text(&text));
    }

    /// Handles a note that an application instance sent with [`Context::ask`], or another thread with
    /// [`Publisher::ask`]. The sender may be this instance.
    fn on_ask(&mut self, context: &mut Context<'_>, note: Note) {
        let _ = (context, note);
    }

    /// Handles a note that an application instance sent with [`Context::tell`]. The sender may be this instance.
    fn on_tell(&mut self, context: &mut Context<'_>, note: Note) {
        let _ = (context, note);
    }

    /// Describes a client of this shard for the answers to [`Context::ask_members`] of any instance, for example with its
    /// user's name. If this handler panics, the answer has no descriptions of this shard's members.
    fn describe_member(&mut self, room: &str, client: ClientId) -> String {
        let _ = (room, client);
        String::new()
    }

    /// Handles the answer to [`Context::ask_members`].
    fn on_members(&mut self, context: &mut Context<'_>, members: Members) {
        let _ = (context, members);
    }

    /// Handles the answer to [`Context::ask_user`].
    fn on_user(&mut self, context: &mut Context<'_>, user: User) {
        let _ = (context, user);
    }

    /// Handles a timer that this instance set with [`Context::set_timer`]. The timer is over; set it again here for
    /// work that repeats.
    fn on_timer(&mut self, context: &mut Context<'_>, token: u64) {
        let _ = (context, token);
    }
}

/// Context of a handler call: the actions that an application's handler can take.
///
/// Memberships change at once. Messages are sent after the handler has returned. Methods that take a client do nothing
/// for a client that is gone or on another shard.
pub struct Context<'a> {
    pub(crate) hub: &'a mut Hub,
    /// Index of the shard that runs the handler.
    pub(crate) shard: u16,
    pub(crate) shard_count: u16,
    /// The client whose message or event is being handled.
    pub(crate) caller: Option<ClientNumber>,
    /// Time of the current turn, in milliseconds of the shard's clock.
    pub(crate) now_ms: u64,
    pub(crate) state: &'a mut ContextState,
}

/// The part of a [`Context`] that outlives a handler call.
#[derive(Debug)]
pub(crate) struct ContextState {
    publisher: Publisher,
    /// Clients that the shard closes after the handler has returned.
    pub(crate) closing: Vec<Closing>,
    pub(crate) timers: AppTimers,
    /// Whether the handler has excused the request that it handles from the client's rates.
    pub(crate) excused: bool,
    pub(crate) lists: MemberLists,
    pub(crate) user_questions: UserQuestions,
    pub(crate) tokens: Tokens,
    /// Whether the lag policy is `skip`.
    pub(crate) skips_lagged: bool,
}

impl ContextState {
    pub(crate) fn new(publisher: Publisher) -> Self {
        Self {
            publisher,
            closing: Vec::new(),
            timers: AppTimers::default(),
            excused: false,
            lists: MemberLists::default(),
            user_questions: UserQuestions::default(),
            tokens: Tokens::default(),
            skips_lagged: false,
        }
    }
}

/// A request of the application to close a client.
#[derive(Debug)]
pub(crate) struct Closing {
    pub(crate) slot: Slot,
    pub(crate) code: CloseCode,
    pub(crate) reason: String,
}

impl Context<'_> {
    /// Returns the index of this shard, from 0 on.
    pub fn shard(&self) -> u16 {
        self.shard
    }

    /// Returns the number of shards: one for each worker.
    pub fn shard_count(&self) -> u16 {
        self.shard_count
    }

    /// Returns the home shard of a name: the shard that orders the messages of the room with that name. An application
    /// can also use the home shard for state that exists once on the server, keyed by name.
    pub fn home_of(&self, name: &str) -> u16 {
        self.hub.home_of(name)
    }

    /// Returns a handle that publishes from any thread. A handler that needs slow work, such as a query of a database,
    /// gives a clone of the handle with the work to another thread, which answers through the handle: see the crate's
    /// documentation. The handle reaches all clients and shards, but a handler's own methods cost less.
    pub fn publisher(&self) -> &Publisher {
        &self.state.publisher
    }

    /// Returns the time of the shard's clock, counted from an arbitrary start. The time never goes back, stays the same
    /// during a handler call, and differs between shards. The clock stands still while the process is paused for more
    /// than half a second, for example by SIGSTOP.
    pub fn now(&self) -> Duration {
        Duration::from_millis(self.now_ms)
    }

    /// Sets a timer of this application instance: the shard calls [`App::on_timer`] with `token` once, when `after` has
    /// passed since [`Context::now`]. Replaces a timer with the same token that has not fired. A timer has a resolution
    /// of a millisecond and never fires early. It wakes a shard that sleeps.
    pub fn set_timer(&mut self, after: Duration, token: u64) {
        self.state.timers.set(self.now_ms, after, token);
    }

    /// Cancels the timer with this token. Does nothing when no such timer is set.
    pub fn cancel_timer(&mut self, token: u64) {
        self.state.timers.cancel(token);
    }

    /// Excuses the HTTP request that is being handled from the rates of clients: forgets what its connection was charged
    /// for so far. For requests of backends that have proven who they are, which may send more than a person. Does
    /// nothing outside [`App::on_request`].
    pub fn excuse_from_rates(&mut self) {
        self.state.excused = true;
    }

    /// Returns whether the client is connected to this shard.
    pub fn is_here(&self, client: ClientId) -> bool {
        self.hub.find(client).is_some()
    }

    /// Sends a message to one client of this shard. Does nothing when the client is gone.
    pub fn send_to_client(&mut self, client: ClientId, message: Message<'_>) {
        if let Some(slot) = self.hub.find(client) {
            self.hub.send(slot, message);
        }
    }

    /// Sends a message to several clients of this shard. The clients share one copy. Clients that are gone are left
    /// out.
    pub fn send_to_clients(&mut self, clients: &[ClientId], message: Message<'_>) {
        let slots: Vec<Slot> = clients.iter().filter_map(|client| self.hub.find(*client)).collect();
        self.hub.send_to_all(&slots, message);
    }

    /// Sends a message to all members of a room, on all shards. A member that caused the message gets it, too.
    pub fn publish_to_room(&mut self, room: &str, message: Message<'_>) {
        self.hub.publish_as(room, message, Origin { sender: self.caller, except: None });
    }

    /// Sends a message to all members of a room, on all shards, except one client. The client is named by its
    /// identifier and may be connected to any shard. If it joins the room again later, the message counts as history
    /// for it as for everybody.
    pub fn publish_to_room_except(&mut self, room: &str, except: ClientId, message: Message<'_>) {
        let origin = Origin { sender: self.caller, except: ClientNumber::of(except) };
        self.hub.publish_as(room, message, origin);
    }

    /// Makes a client a member of `room`. The client gets at most `history` messages of the room's history, then all
    /// new messages. A client whose session has a position in the room continues there instead: see
    /// [`App::on_resumed`]. Does nothing if the client is a member already.
    ///
    /// Returns whether the client is a member now. False means that it is gone, or is in as many rooms as
    /// `--max-rooms-per-connection` allows.
    pub fn join(&mut self, client: ClientId, room: &str, history: u32) -> bool {
        self.hub.find(client).is_some_and(|slot| self.hub.join(slot, room, history))
    }

    /// Works like [`Context::join`] without history, but the client gets no message of the room before [`Context::start`].
    /// An application that tells the client something first, which another shard has to find out, needs that.
    pub fn join_held(&mut self, client: ClientId, room: &str) -> bool {
        self.hub.find(client).is_some_and(|slot| self.hub.join_held(slot, room))
    }

    /// Lets a client that joined with [`Context::join_held`] get all messages of `room` that this shard gets from now on.
    /// Does nothing for a member that gets them already.
    ///
    /// Returns false if the client is no member, or while this shard does not get the room's messages, because it has
    /// joined it for its first member and the room's home shard ([`Context::home_of`]) has not answered yet. A note that
    /// the home tells this shard ([`Context::tell`]) after a question that followed the join comes behind this answer.
    pub fn start(&mut self, client: ClientId, room: &str) -> bool {
        self.hub.find(client).is_some_and(|slot| self.hub.start(slot, room))
    }

    /// Ends a client's membership of `room`. The client still gets the messages that its shard already has for the
    /// room.
    pub fn leave(&mut self, client: ClientId, room: &str) {
        if let Some(slot) = self.hub.find(client) {
            self.hub.leave(slot, room);
        }
    }

    /// Returns the names of the rooms of which a client is a member, in no particular order.
    pub fn rooms(&self, client: ClientId) -> Vec<String> {
        self.hub
            .find_leaving(client)
            .map_or_else(Vec::new, |slot| self.hub.rooms_of(slot).map(String::from).collect())
    }

    /// Sends a message to all members of every room that `client` is in, `client` included. Does nothing when the
    /// client is gone.
    pub fn publish_to_rooms_of(&mut self, client: ClientId, message: Message<'_>) {
        if let Some(slot) = self.hub.find_leaving(client) {
            self.hub.publish_from_as(slot, message, Origin { sender: self.caller, except: None });
        }
    }

    /// Returns the position that the next message of `room` gets. `None` if the room does not exist. Only the room's home
    /// shard knows the position.
    pub(crate) fn next_position(&self, room: &str) -> Option<Position> {
        self.hub.next_position(room)
    }

    /// Returns the ages, in seconds, of the messages in the history of `room`, oldest first. Only the room's home shard
    /// ([`Context::home_of`]) knows the ages; on other shards the list is empty.
    pub fn history_ages(&self, room: &str) -> Vec<u32> {
        self.hub.history_ages(room)
    }

    /// Returns the number of messages of `room` that wait to be sent to a client of this shard. `None` if the client is
    /// not a member, or while the room's history has not arrived from its home shard.
    pub fn unsent(&self, client: ClientId, room: &str) -> Option<u64> {
        self.hub.unsent(self.hub.find(client)?, room)
    }

    /// Returns the position in `room` at which a client of this shard continues after what is queued for it alone. `None`
    /// if the client is not a member, or while the room's history has not arrived from its home shard.
    pub fn position(&self, client: ClientId, room: &str) -> Option<Position> {
        self.hub.position(self.hub.find(client)?, room)
    }

    /// Asks for the members of `room` on all shards. [`App::on_members`] gets the answer with `token`: the number of all
    /// members, and at most `limit` of them, not more than [`MAX_LISTED_MEMBERS`]. Each comes with the text of
    /// [`App::describe_member`].
    ///
    /// A longer list comes in pages: ask again with `from` set to [`Members::next`]. A client that is a member all the
    /// time is on one of the pages. A client may be on two pages if members leave between the questions.
    ///
    /// Each shard answers when it has time, a bounded number of members per turn, so large rooms delay nobody.
    pub fn ask_members(&mut self, room: &str, from: Option<MembersCursor>, limit: u32, token: u64) {
        self.state.lists.ask(self.hub, self.shard_count, room, from, limit, Asker::App(token));
    }

    /// Works like [`Context::ask_members`]. `then` gets the answer instead of the application.
    pub(crate) fn ask_members_then(
        &mut self,
        room: &str,
        from: Option<MembersCursor>,
        limit: u32,
        then: impl FnOnce(Members) + 'static,
    ) {
        self.state.lists.ask(self.hub, self.shard_count, room, from, limit, Asker::Function(Box::new(then)));
    }

    /// Returns messages of the history of `room` from number `from` on, at most `limit` (not more than
    /// [`MAX_KEPT_MESSAGES`]) and about 256 KiB. A longer history comes in pages: ask again from the number after the
    /// last message on. `None` if the room does not exist. Only the room's home shard ([`Context::home_of`]) knows the
    /// history; on other shards the answer is `None`.
    pub fn kept_messages(&self, room: &str, from: u64, limit: u32) -> Option<KeptPage> {
        self.hub.kept_messages(room, from, limit.min(MAX_KEPT_MESSAGES), KEPT_BYTES)
    }

    /// Calls `each` with rooms of this shard: a room's name, and the number of its members that are connected to this
    /// shard. Looks at `count` positions from `from` on, of which each has at most one room. Returns the position at
    /// which the next call continues, or `None` at the end. An application that walks over many rooms continues in a
    /// later turn, for example by a note to itself, so that the walk delays nobody.
    ///
    /// A room that exists during the whole walk is seen once. The name of a room that was forgotten and created again
    /// may come twice. Rooms without members are seen on their home shard only.
    pub fn scan_rooms(&self, from: usize, count: usize, each: impl FnMut(&str, usize)) -> Option<usize> {
        self.hub.scan_rooms(from, count, each)
    }

    /// Returns the members of `room` that are connected to this shard. [`Context::ask_members`] asks all shards.
    pub fn members(&self, room: &str) -> impl ExactSizeIterator<Item = ClientId> {
        self.hub.members(room)
    }

    /// Gives a client a user, instead of the one that it had: the identifier of a person or a program, which may have
    /// clients on all shards. The identifier is compared as it is, byte by byte. A client loses its user after its
    /// [`App::on_close`], or with [`Context::clear_user`].
    ///
    /// # Errors
    /// See [`UserError`]. The client keeps the user that it had.
    pub fn set_user(&mut self, client: ClientId, user: &str) -> Result<(), UserError> {
        if !is_user(user) {
            return Err(UserError::Length);
        }
        if self.state.publisher.is_banned(user) {
            return Err(UserError::Banned);
        }
        if let Some(slot) = self.hub.find(client) {
            self.hub.set_user(slot, user);
        }
        Ok(())
    }

    /// Takes a client's user away. Does nothing for a client without a user.
    pub fn clear_user(&mut self, client: ClientId) {
        if let Some(slot) = self.hub.find(client) {
            self.hub.clear_user(slot);
        }
    }

    /// Returns the user of a client, or `None` for a client without a user.
    pub fn user_of(&self, client: ClientId) -> Option<&str> {
        self.hub.user_of(self.hub.find_leaving(client)?)
    }

    /// Sends a message to all clients of a user, on all shards. The clients of one shard share one copy. A client gets the
    /// messages of one sender in order, and each message that this shard sends after it gave the client the user.
    pub fn send_to_user(&mut self, user: &str, message: Message<'_>) {
        self.hub.send_to_user(user, message);
    }

    /// Closes all clients of a user, on all shards, after sending their pending messages. At most 123 bytes of the reason
    /// are sent. The user may connect again at once, see [`Context::ban_user`].
    ///
    /// # Panics
    /// `code` cannot be sent in a close frame (RFC 6455 §7.4.1), for instance 1005 or 1006.
    pub fn close_user(&mut self, user: &str, code: CloseCode, reason: &str) {
        assert!(code.is_sendable(), "close code {} cannot be sent; try 1000, or 3000 to 4999", code.0);
        self.hub.ask_for_user(user, UserAction::Close(code), reason.as_bytes());
    }

    /// Makes all clients of a user, on all shards, members of `room`: see [`Context::join`]. Clients that get the user
    /// later do not join.
    pub fn join_user(&mut self, user: &str, room: &str, history: u32) {
        self.hub.ask_for_user(user, UserAction::Join { history }, room.as_bytes());
    }

    /// Ends the memberships of `room` of all clients of a user, on all shards.
    pub fn leave_user(&mut self, user: &str, room: &str) {
        self.hub.ask_for_user(user, UserAction::Leave, room.as_bytes());
    }

    /// Asks for the clients of a user on all shards, and for their rooms. [`App::on_user`] gets the answer with `token`:
    /// the number of all clients, and at most [`MAX_LISTED_CLIENTS`] of them with at most [`MAX_LISTED_ROOMS`] rooms each.
    pub fn ask_user(&mut self, user: &str, token: u64) {
        self.state.user_questions.ask(self.hub, self.shard_count, user, Asker::App(token));
    }

    /// Works like [`Context::ask_user`]. `then` gets the answer instead of the application.
    pub(crate) fn ask_user_then(&mut self, user: &str, then: impl FnOnce(User) + 'static) {
        let asker = Asker::Function(Box::new(then));
        self.state.user_questions.ask(self.hub, self.shard_count, user, asker);
    }

    /// Returns the shards that have clients of a user, each with their number. Only the user's home shard knows them.
    pub(crate) fn shards_of_user(&self, user: &str) -> Vec<(u16, u32)> {
        self.hub.shards_of_user(user).to_vec()
    }

    /// Returns the clients of a user on this shard, in no particular order.
    pub(crate) fn clients_of_user(&self, user: &str) -> Vec<ClientId> {
        self.hub.clients_of_user(user).iter().map(|slot| self.hub.client(*slot)).collect()
    }

    /// Keeps a user out for `duration`, counted in real time: its clients on all shards are closed with 1008, no client
    /// gets the user, and a handshake whose token has the user as its `sub` is refused with 403. A new ban replaces the
    /// user's earlier one. Over 10,000 bans, the one that ends first makes room.
    ///
    /// To close the clients with another code, call [`Context::close_user`] first.
    pub fn ban_user(&mut self, user: &str, duration: Duration) {
        self.state.publisher.add_ban(user, duration);
        self.close_user(user, CloseCode::POLICY, "banned");
    }

    /// Lifts the ban of a user. Returns whether there was one.
    pub fn unban_user(&mut self, user: &str) -> bool {
        self.state.publisher.unban_user(user)
    }

    /// Returns whether a user is banned now.
    pub fn is_banned(&self, user: &str) -> bool {
        self.state.publisher.is_banned(user)
    }

    /// Returns the bans of all users, the one that ends first first.
    pub fn bans(&self) -> Vec<Ban> {
        self.state.publisher.bans()
    }

    /// Closes a client after sending its pending messages. At most 123 bytes of the reason are sent.
    ///
    /// # Panics
    /// `code` cannot be sent in a close frame (RFC 6455 §7.4.1), for instance 1005 or 1006.
    pub fn close(&mut self, client: ClientId, code: CloseCode, reason: &str) {
        assert!(code.is_sendable(), "close code {} cannot be sent; try 1000, or 3000 to 4999", code.0);
        if let Some(slot) = self.hub.find(client) {
            self.state.closing.push(Closing { slot, code, reason: reason.into() });
        }
    }

    /// Sends a note to the application instance of `shard`, where [`App::on_ask`] handles the note. A busy shard
    /// handles the note later.
    ///
    /// # Panics
    /// `shard` is not below [`Context::shard_count`].
    pub fn ask<N: Any + Send>(&mut self, shard: u16, note: N) {
        self.ask_sized(shard, note, 0);
    }

    /// Works like [`Context::ask`], for a note that owns `heap_bytes` bytes on the heap. These bytes count against the
    /// memory limit for messages between shards. Over that limit, publishers must wait.
    pub fn ask_sized<N: Any + Send>(&mut self, shard: u16, note: N, heap_bytes: usize) {
        self.hub.ask(shard, Box::new(note), heap_bytes);
    }

    /// Answers a note: sends a note to the application instance of `shard`, where [`App::on_tell`] handles the answer.
    /// A busy shard takes answers, too. So `on_tell` should call [`Context::ask`] only when a client's request needs
    /// it.
    ///
    /// # Panics
    /// `shard` is not below [`Context::shard_count`].
    pub fn tell<N: Any + Send>(&mut self, shard: u16, note: N) {
        self.tell_sized(shard, note, 0);
    }

    /// Works like [`Context::tell`], for a note that owns `heap_bytes` bytes on the heap. These bytes count against the
    /// memory limit for messages between shards. Over that limit, publishers must wait.
    pub fn tell_sized<N: Any + Send>(&mut self, shard: u16, note: N, heap_bytes: usize) {
        self.hub.tell(shard, Box::new(note), heap_bytes);
    }
}
