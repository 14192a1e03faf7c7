//! A WebSocket server for Linux with rooms: thread per core, on io_uring or epoll.
//!
//! The server handles handshakes, TLS, compression, limits, slow clients and the order of messages. An application
//! decides what happens when a client connects, sends a message and disconnects. This program sends every text back to
//! the whole room, in capitals:
//!
//! ```
//! use uproar::app::{App, ClientId, Context, Incoming, Message, Opening};
//! use uproar::{Options, Server};
//!
//! struct Shout;
//!
//! impl App for Shout {
//!     fn on_open(&mut self, context: &mut Context<'_>, client: ClientId, opening: Opening<'_>) {
//!         context.join(client, opening.room, 0);
//!     }
//!
//!     fn on_message(&mut self, context: &mut Context<'_>, client: ClientId, message: Incoming<'_>) {
//!         if let Some(text) = message.text() {
//!             context.publish_to_rooms_of(client, Message::text(&text.to_uppercase()));
//!         }
//!     }
//! }
//!
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let options = Options { listen: vec!["127.0.0.1:0".parse()?], ..Options::default() };
//!     let mut server = Server::start_app(options, |_worker| Box::new(Shout))?;
//!
//!     let address = server.endpoints()[0].tcp().expect("a TCP address");
//!     let (mut client, _response) = tungstenite::connect(format!("ws://{address}/room/garden"))?;
//!     client.send(tungstenite::Message::text("hello"))?;
//!     assert_eq!(client.read()?.to_text()?, "HELLO");
//!
//!     drop(client);
//!     server.stop();
//!     server.join();
//!     Ok(())
//! }
//! ```
//!
//! A server program that runs until a signal replaces the client part of this example by one line,
//! [`server.run_until_signal()?`](Server::run_until_signal): on SIGTERM or SIGINT the server closes all clients in
//! order.
//!
//! # Rooms
//!
//! A client opens `ws://HOST/room/NAME`, or `ws://HOST/` for the room `lobby`, and
//! [`Opening::room`](app::Opening::room) has the name. The client is a member of a room only after
//! [`Context::join`](app::Context::join), and can join several rooms. A room exists while it has members or history.
//! All members get the messages of a room in the same order, on all workers.
//!
//! [`App::history`](app::App::history) returns how many messages a room keeps. An argument of `join` sets how many of
//! these messages the new member gets first. [`App::on_publish`](app::App::on_publish) sees each message before the
//! message is ordered, and can drop the message. [`App::history_of`](app::App::history_of) sets other limits for one room.
//!
//! [`Context::ask_members`](app::Context::ask_members) lists the members of a room on all workers. The answer comes to
//! [`App::on_members`](app::App::on_members), in pages if the room is large.
//!
//! # Ways to send
//!
//! | method | who gets the message |
//! |---|---|
//! | [`send_to_client`](app::Context::send_to_client) | one client |
//! | [`send_to_user`](app::Context::send_to_user) | all clients of a user |
//! | [`publish_to_room`](app::Context::publish_to_room) | all members of a room |
//! | [`publish_to_rooms_of`](app::Context::publish_to_rooms_of) | all members of each room that a client is in |
//!
//! Sending never blocks and never fails: messages leave after the handler has returned. A client that reads messages
//! too slowly is closed with 1013, or loses the oldest messages ([`Options::lag_policy`](config::Options::lag_policy)).
//!
//! # Users
//!
//! A person may have several clients, on any workers. [`Context::set_user`](app::Context::set_user) gives a client a user,
//! which is any text of 1 to 255 characters, for example the `sub` of its token. Then
//! [`send_to_user`](app::Context::send_to_user), [`close_user`](app::Context::close_user),
//! [`join_user`](app::Context::join_user) and [`leave_user`](app::Context::leave_user) reach all clients of the user from
//! every worker, and the methods of [`Publisher`] with the same names from every thread.
//! [`ask_user`](app::Context::ask_user) lists the clients with their rooms. [`ban_user`](app::Context::ban_user) closes them and
//! keeps the user out for a while.
//!
//! ```
//! use uproar::app::{App, ClientId, CloseCode, Context, Incoming, Message, Opening};
//!
//! /// Takes the user's name from the URL `/room/NAME`. The message `bob hello` sends `hello` to all clients of bob.
//! struct Users;
//!
//! impl App for Users {
//!     fn on_open(&mut self, context: &mut Context<'_>, client: ClientId, opening: Opening<'_>) {
//!         if let Err(error) = context.set_user(client, opening.room) {
//!             context.close(client, CloseCode::POLICY, &error.to_string());
//!         }
//!     }
//!
//!     fn on_message(&mut self, context: &mut Context<'_>, _: ClientId, message: Incoming<'_>) {
//!         if let Some((user, text)) = message.text().and_then(|text| text.split_once(' ')) {
//!             context.send_to_user(user, Message::text(text));
//!         }
//!     }
//! }
//! ```
//!
//! # State
//!
//! Every worker thread has a **shard** of the clients and an application instance of its own. The kernel decides on
//! which shard a client lands, and the client stays there. Handlers of one instance run one after the other, so its
//! fields need no lock:
//!
//! ```
//! use std::collections::HashMap;
//!
//! use uproar::app::{App, ClientId, Context, Incoming, Message, Opening};
//!
//! /// Tells each client how many messages it has sent.
//! #[derive(Default)]
//! struct Count {
//!     sent: HashMap<ClientId, u64>,
//! }
//!
//! impl App for Count {
//!     fn on_open(&mut self, _: &mut Context<'_>, client: ClientId, _: Opening<'_>) {
//!         self.sent.insert(client, 0);
//!     }
//!
//!     fn on_message(&mut self, context: &mut Context<'_>, client: ClientId, _: Incoming<'_>) {
//!         let sent = self.sent.entry(client).or_default();
//!         *sent += 1;
//!         context.send_to_client(client, Message::text(&format!("{sent} so far")));
//!     }
//!
//!     fn on_close(&mut self, _: &mut Context<'_>, client: ClientId) {
//!         self.sent.remove(&client);
//!     }
//! }
//! ```
//!
//! # HTTP
//!
//! [`App::on_request`](app::App::on_request) answers every HTTP request on the main port. A WebSocket handshake is one of
//! them: the answer opens the WebSocket, and may give [`App::on_open`](app::App::on_open) a value, for instance the user
//! that a cookie names. A connection answers many requests, one after another, and may still become a WebSocket.
//!
//! ```
//! use uproar::app::{Answer, App, ClientId, Context, HttpRequest, Incoming, Opening, Response, Status, Upgrade};
//!
//! /// The user of a connection.
//! struct User(String);
//!
//! #[derive(Default)]
//! struct Members {
//!     visits: u64,
//! }
//!
//! impl App for Members {
//!     fn on_request(&mut self, _: &mut Context<'_>, request: &HttpRequest<'_>) -> Answer {
//!         match (request.path(), request.cookie("user")) {
//!             ("/talk", Some(name)) => Upgrade::to("lobby").with_value(User(name.to_owned())).into(),
//!             ("/talk", None) => Answer::refuse(Status::Unauthorized, "Log in first."),
//!             ("/visits", _) if request.is_read() => Response::text(Status::Ok, self.visits.to_string()).into(),
//!             _ => Answer::NotMine,
//!         }
//!     }
//!
//!     fn on_open(&mut self, context: &mut Context<'_>, client: ClientId, mut opening: Opening<'_>) {
//!         let user = opening.take::<User>().map_or_else(|| "nobody".to_owned(), |user| user.0);
//!         println!("{user} comes");
//!         self.visits += 1;
//!         context.join(client, opening.room, 0);
//!     }
//!
//!     fn on_message(&mut self, _: &mut Context<'_>, _: ClientId, _: Incoming<'_>) {}
//! }
//! ```
//!
//! The server reads a body whole, up to [`Options::max_request_body`], before the call. It checks the `Host` of each
//! request and the `Origin` of a handshake, and nothing else: a page of another site can send an ordinary request with
//! the user's cookies, so check `Origin` where that matters.
//!
//! # Notes between shards
//!
//! Methods that take a client work for clients of their own shard only. To reach another shard's clients or state, send
//! its instance a note, which is any `Send` value. [`Context::ask`](app::Context::ask) sends a request and calls
//! [`App::on_ask`](app::App::on_ask) there; [`Context::tell`](app::Context::tell) sends an answer and calls
//! [`App::on_tell`](app::App::on_tell). Something that exists once on the whole server lives on the shard that
//! [`Context::home_of`](app::Context::home_of) returns for its name:
//!
//! ```
//! use uproar::app::{App, ClientId, Context, Incoming, Message, Note, Opening};
//!
//! /// Numbers all clients of the server. The numbers come from one shard, the home of the name `counter`.
//! #[derive(Default)]
//! struct Number {
//!     last: u64,
//! }
//!
//! struct Ask(ClientId);
//! struct Answer(ClientId, u64);
//!
//! impl App for Number {
//!     fn on_open(&mut self, context: &mut Context<'_>, client: ClientId, _: Opening<'_>) {
//!         context.ask(context.home_of("counter"), Ask(client));
//!     }
//!
//!     fn on_ask(&mut self, context: &mut Context<'_>, note: Note) {
//!         let Ok(ask) = note.downcast::<Ask>() else { return };
//!         self.last += 1;
//!         context.tell(ask.0.shard, Answer(ask.0, self.last));
//!     }
//!
//!     fn on_tell(&mut self, context: &mut Context<'_>, note: Note) {
//!         let Ok(answer) = note.downcast::<Answer>() else { return };
//!         context.send_to_client(answer.0, Message::text(&format!("you are number {}", answer.1)));
//!     }
//!
//!     fn on_message(&mut self, _: &mut Context<'_>, _: ClientId, _: Incoming<'_>) {}
//! }
//! ```
//!
//! # What must not block
//!
//! A handler runs on the thread that serves all clients of its shard. A handler must not sleep, wait for a lock that
//! other threads hold for long, or read files and sockets: a handler of 10 ms delays every client of the shard by 10
//! ms. If a handler panics, the server closes the client of this call with 1011, and nothing else.
//!
//! Slow work, such as a query of a database, belongs on a thread of your own. The handler gives it the work with the
//! [`ClientId`](app::ClientId). The thread answers through a [`Publisher`]. Limit the work that waits: a bounded channel
//! that is full is a reason to answer the client with an error. The answer to an HTTP request can wait, too:
//! [`HttpRequest::defer`](app::HttpRequest::defer) returns a [`Responder`](app::Responder) for the thread. The example
//! `json` has one. An async runtime may run beside the server in the same way: its tasks use publishers and responders.
//!
//! ```
//! use std::sync::mpsc::{SyncSender, sync_channel};
//!
//! use uproar::app::{App, ClientId, Context, Incoming, Message, Opening};
//! use uproar::{Options, Publisher, Server};
//!
//! /// Answers each text with the result of slow work.
//! struct Queries(SyncSender<(ClientId, String, Publisher)>);
//!
//! impl App for Queries {
//!     fn on_open(&mut self, _: &mut Context<'_>, _: ClientId, _: Opening<'_>) {}
//!
//!     fn on_message(&mut self, context: &mut Context<'_>, client: ClientId, message: Incoming<'_>) {
//!         let Some(text) = message.text() else { return };
//!         let work = (client, text.to_owned(), context.publisher().clone());
//!         if self.0.try_send(work).is_err() {
//!             context.send_to_client(client, Message::text("busy; try again later"));
//!         }
//!     }
//! }
//!
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let (sender, work) = sync_channel::<(ClientId, String, Publisher)>(1_000);
//!     std::thread::spawn(move || {
//!         for (client, text, publisher) in work {
//!             // The query of the database would be here.
//!             let answer = format!("{text} has {} characters", text.chars().count());
//!             if let Err(error) = publisher.send_to_client(client, Message::text(&answer)) {
//!                 eprintln!("an answer is lost: {error}");
//!             }
//!         }
//!     });
//!     let options = Options { listen: vec!["127.0.0.1:0".parse()?], ..Options::default() };
//!     let mut server = Server::start_app(options, move |_worker| Box::new(Queries(sender.clone())))?;
//!
//!     let address = server.endpoints()[0].tcp().expect("a TCP address");
//!     let (mut client, _response) = tungstenite::connect(format!("ws://{address}/"))?;
//!     client.send(tungstenite::Message::text("hello"))?;
//!     assert_eq!(client.read()?.to_text()?, "hello has 5 characters");
//!
//!     drop(client);
//!     server.stop();
//!     server.join();
//!     Ok(())
//! }
//! ```
//!
//! # From outside
//!
//! [`Server::publisher`] returns a [`Publisher`], with which any thread publishes into a room, sends to a client, closes
//! a client, or sends a note to an application instance. A receipt tells whether a message was ordered, with its
//! number. Work of an instance that repeats or must happen later needs no thread: see
//! [`Context::set_timer`](app::Context::set_timer).
//!
//! # Features
//!
//! | feature | adds |
//! |---|---|
//! | `server` (default) | the program `uproar`: command line, settings file, log, service manager; turns on `admin` and `outgoing` |
//! | `admin` | the admin listener: metrics for Prometheus, health checks, live page |
//! | `outgoing` | requests to other servers: webhooks, keys of identity providers by URL |
//!
//! `default-features = false` leaves the engine: both backends, TLS, rooms, and the applications in [`app`]. The engine
//! logs with the crate `tracing`. A program that wants to see the log lines installs a subscriber. The HTTP client of the
//! feature `outgoing` logs with the crate `log`, at the level debug with whole URLs, which may be secret.

// Code of disabled features has no caller, so these lints are off then. The workspace's own checks enable all features.
#![cfg_attr(
    not(all(feature = "admin", feature = "internals")),
    allow(dead_code, unfulfilled_lint_expectations, unreachable_pub, unused_imports)
)]

#[cfg(feature = "admin")]
mod admin;
pub mod app;
mod backends;
#[cfg(not(feature = "internals"))]
mod chunk;
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod chunk;
pub mod config;
mod files;
#[cfg(not(feature = "internals"))]
mod hub;
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod hub;
#[cfg(not(feature = "internals"))]
mod io;
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod io;
mod names;
#[cfg(feature = "outgoing")]
mod outgoing;
mod page;
#[cfg(not(feature = "internals"))]
mod protocol;
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod protocol;
mod proxied;
pub mod publisher;
pub mod server;
mod shard;
#[cfg(test)]
mod sim;
#[cfg(not(feature = "internals"))]
mod stats;
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod stats;
mod sync;
#[cfg(not(feature = "internals"))]
mod timers;
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod timers;
mod tls;
mod token;
mod transport;
mod watch;
#[cfg(feature = "outgoing")]
mod webhooks;

pub use config::{Endpoint, Options};
pub use publisher::Publisher;
pub use server::{Server, StartError};
