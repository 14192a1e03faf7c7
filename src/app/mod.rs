//! Applications: the reaction to clients that come, send messages and go.
//!
//! A user of this library implements [`App`]. Every shard has an instance of its own, so an application needs no locks.
//! Instances talk to each other by notes. The crate's documentation has examples.

mod chat;
mod echo;
mod relay;
mod strip;

use std::any::Any;

pub use crate::hub::{ClientId, Kind, Message, Note};
pub use crate::protocol::frame::CloseCode;
pub use crate::token::Claims;
pub use chat::{Chat, ChatOptions};
pub use echo::Echo;
pub use relay::Relay;

use crate::hub::{Hub, Slot};

/// The HTML page of the chat.
pub const CHAT_PAGE: &str = include_str!("chat.html");

/// A message from a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Incoming<'a> {
    /// Text or binary.
    pub kind: Kind,
    /// The payload. That of a text message is valid UTF-8.
    pub payload: &'a [u8],
}

impl<'a> Incoming<'a> {
    /// Returns the text, or `None` for a binary message.
    pub fn text(&self) -> Option<&'a str> {
        match self.kind {
            Kind::Text => simdutf8::basic::from_utf8(self.payload).ok(),
            Kind::Binary => None,
        }
    }
}

impl<'a> From<Incoming<'a>> for Message<'a> {
    /// Makes a message with the same kind and payload, to send it on unchanged.
    fn from(Incoming { kind, payload }: Incoming<'a>) -> Self {
        Self::new(kind, payload)
    }
}

/// The request with which a client opened its WebSocket.
#[derive(Clone, Copy, Debug)]
pub struct Opening<'a> {
    /// The room that the path names, in the canonical form of its name.
    pub room: &'a str,
    /// The query of the URL, percent-encoded as it was sent. It may have the client's token in it.
    pub query: Option<&'a str>,
    /// The claims of the client's token, on a server that requires one (`--auth-hmac-secret-file`). They allow `room`; an
    /// application that lets clients into other rooms asks [`Claims::may_join`].
    pub claims: Option<&'a Claims>,
}

/// An application.
///
/// Handlers of one instance are called one after the other, on the thread of its shard. A handler that takes long
/// delays all clients of that shard. A handler that panics closes the client that it was called for with 1011; the
/// other clients do not notice.
///
/// # Order of calls
/// For each client: [`App::on_open`], then [`App::on_message`] and [`App::on_lag`] any number of times, then
/// [`App::on_close`]. The other handlers are called at any time.
pub trait App {
    /// Returns how many of its last messages a room keeps for clients that join it. Called once when the server starts
    /// and again on each reload.
    fn history(&self) -> u32 {
        0
    }

    /// Returns the limits of a client per second: messages and control frames, and bytes. 0 means no limit. They hold
    /// where the options set no limit.
    fn rates(&self) -> (u32, u32) {
        (0, 0)
    }

    /// Returns whether a browser that opens the URL of a room gets the chat page.
    fn has_page(&self) -> bool {
        false
    }

    /// Called when a client has opened its WebSocket. The client is in no room yet.
    fn on_open(&mut self, context: &mut Context<'_>, client: ClientId, opening: Opening<'_>);

    /// Called for each message of a client.
    fn on_message(&mut self, context: &mut Context<'_>, client: ClientId, message: Incoming<'_>);

    /// Called once when a client is gone or is being closed. Nothing can be sent to it any more.
    fn on_close(&mut self, context: &mut Context<'_>, client: ClientId) {
        let _ = (context, client);
    }

    /// Called once for each message to a room, on the room's home shard, before the message gets its place in the
    /// room's order. Returning `false`, or a panic, drops the message.
    fn on_publish(&mut self, room: &str, kind: Kind, payload: &[u8]) -> bool {
        let _ = (room, kind, payload);
        true
    }

    /// Called under the lag policy `skip` when a client read too slowly: it will not get `missed` messages. The default
    /// tells the client.
    fn on_lag(&mut self, context: &mut Context<'_>, client: ClientId, missed: u64) {
        let text = format!("* {missed} messages missed");
        context.send_to_client(client, Message::text(&text));
    }

    /// Called with a note that an instance, maybe this one, has sent by [`Context::ask`].
    fn on_ask(&mut self, context: &mut Context<'_>, note: Note) {
        let _ = (context, note);
    }

    /// Called with a note that an instance, maybe this one, has sent by [`Context::tell`].
    fn on_tell(&mut self, context: &mut Context<'_>, note: Note) {
        let _ = (context, note);
    }
}

/// The actions of a handler.
///
/// Memberships change at once. Messages leave after the handler returned. Methods that take a client know the clients
/// of their own shard only; for any other client they do nothing.
pub struct Context<'a> {
    hub: &'a mut Hub,
    shard: u16,
    shards: u16,
    closing: &'a mut Vec<(Slot, CloseCode, String)>,
}

impl<'a> Context<'a> {
    pub(crate) fn new(
        hub: &'a mut Hub,
        (shard, shards): (u16, u16),
        closing: &'a mut Vec<(Slot, CloseCode, String)>,
    ) -> Self {
        Self { hub, shard, shards, closing }
    }

    /// Returns the index of this shard and the number of shards.
    pub fn shard(&self) -> (u16, u16) {
        (self.shard, self.shards)
    }

    /// Returns the home shard of a name. It orders the messages of the room of that name. An application may keep there
    /// what exists once on the whole server.
    pub fn home_of(&self, name: &str) -> u16 {
        self.hub.home_of(name)
    }

    /// Returns whether the client is on this shard and still connected.
    pub fn is_here(&self, client: ClientId) -> bool {
        self.hub.find(client).is_some()
    }

    /// Sends a message to one client of this shard. Does nothing when the client is gone.
    pub fn send_to_client(&mut self, client: ClientId, message: Message<'_>) {
        if let Some(slot) = self.hub.find(client) {
            self.hub.send(slot, message);
        }
    }

    /// Sends one copy of a message to several clients of this shard. Nothing happens for those that are gone.
    pub fn send_to_clients(&mut self, clients: &[ClientId], message: Message<'_>) {
        let slots: Vec<Slot> = clients.iter().filter_map(|client| self.hub.find(*client)).collect();
        self.hub.send_to_all(&slots, message);
    }

    /// Sends a message to all members of a room, on all shards. A client that caused the message gets it, too, if it
    /// is a member.
    pub fn publish_to_room(&mut self, room: &str, message: Message<'_>) {
        self.hub.publish(room, message);
    }

    /// Makes a client a member of `room`. It gets at most `history` of the messages that the room has kept, then all
    /// new ones. Does nothing when it is a member already.
    pub fn join(&mut self, client: ClientId, room: &str, history: u32) {
        if let Some(slot) = self.hub.find(client) {
            self.hub.join(slot, room, history);
        }
    }

    /// Ends a client's membership of `room`. What was published before is still sent to it.
    pub fn leave(&mut self, client: ClientId, room: &str) {
        if let Some(slot) = self.hub.find(client) {
            self.hub.leave(slot, room);
        }
    }

    /// Returns the rooms that a client is a member of, in no particular order.
    pub fn rooms(&self, client: ClientId) -> Vec<String> {
        self.hub
            .find(client)
            .map_or_else(Vec::new, |slot| self.hub.rooms_of(slot).map(String::from).collect())
    }

    /// Sends a message to all members of every room that `client` is in, `client` included. Does nothing when the
    /// client is gone.
    pub fn publish_to_rooms_of(&mut self, client: ClientId, message: Message<'_>) {
        if let Some(slot) = self.hub.find(client) {
            self.hub.publish_from(slot, message);
        }
    }

    /// Returns the ages, in seconds, of the messages that a newcomer to `room` would see, the oldest first. Only the
    /// shard that the room belongs to ([`Context::home_of`]) knows them; elsewhere the list is empty.
    pub fn history_ages(&self, room: &str) -> Vec<u32> {
        self.hub.history_ages(room)
    }

    /// Returns how many messages of `room` a client of this shard has not been sent yet. `None` when it is not a member,
    /// or when the room's past has not come from its home yet.
    pub fn unsent(&self, client: ClientId, room: &str) -> Option<u64> {
        self.hub.unsent(self.hub.find(client)?, room)
    }

    /// Returns the members of `room` that are on this shard.
    pub fn members(&self, room: &str) -> impl ExactSizeIterator<Item = ClientId> {
        self.hub.members(room)
    }

    /// Closes a client after it has been sent its pending messages. At most 123 bytes of the reason are sent.
    ///
    /// # Panics
    /// No close frame may carry the code (RFC 6455 §7.4.1), for instance 1005 or 1006.
    pub fn close(&mut self, client: ClientId, code: CloseCode, reason: &str) {
        assert!(code.is_sendable(), "close code {} cannot be sent; try 1000, or 3000 to 4999", code.0);
        if let Some(slot) = self.hub.find(client) {
            self.closing.push((slot, code, reason.into()));
        }
    }

    /// Sends a note to the application instance of `shard` and calls [`App::on_ask`] there. A shard that is busy takes
    /// such notes later.
    ///
    /// # Panics
    /// There is no such shard.
    pub fn ask<N: Any + Send>(&mut self, shard: u16, note: N) {
        self.ask_sized(shard, note, 0);
    }

    /// [`Context::ask`] with a note that owns `heap_bytes` bytes of text or other data on the heap. They count against
    /// the memory that messages between shards may take before publishers must wait.
    pub fn ask_sized<N: Any + Send>(&mut self, shard: u16, note: N, heap_bytes: usize) {
        self.hub.outgoing(shard).requests.note(Box::new(note), heap_bytes);
    }

    /// Answers a note: sends a note to the application instance of `shard` and calls [`App::on_tell`] there. A shard
    /// takes answers however busy it is. So `on_tell` should ask for something only when a client's request needs it.
    ///
    /// # Panics
    /// There is no such shard.
    pub fn tell<N: Any + Send>(&mut self, shard: u16, note: N) {
        self.tell_sized(shard, note, 0);
    }

    /// [`Context::tell`] with a note that owns `heap_bytes` bytes of text or other data on the heap. They count against
    /// the memory that messages between shards may take before publishers must wait.
    pub fn tell_sized<N: Any + Send>(&mut self, shard: u16, note: N, heap_bytes: usize) {
        self.hub.outgoing(shard).deliveries.note(Box::new(note), heap_bytes);
    }
}
