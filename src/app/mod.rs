//! Applications: what happens when clients come, speak and go.
//!
//! An [`App`] is what a user of this library writes. Every shard has an instance of its own, so an application
//! needs no locks; instances talk to each other by notes.

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

/// The page that the server shows in a browser.
pub const CHAT_PAGE: &str = include_str!("chat.html");

/// What a client sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Incoming<'a> {
    /// Text or binary.
    pub kind: Kind,
    /// The payload; that of a text message is valid UTF-8.
    pub payload: &'a [u8],
}

impl<'a> Incoming<'a> {
    /// The text, when it is one.
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

/// An application. Handlers of one instance are called one after the other, on the thread of its shard; one that
/// takes long holds up all clients of that shard. One that panics costs the client it was called for its
/// connection (close code 1011), and nobody else anything.
pub trait App {
    /// How many of a room's last messages are kept for clients that join it, if they want them.
    fn history(&self) -> u32 {
        0
    }

    /// How many messages and control frames, and how many bytes, a client may send in a second where the settings
    /// do not say. 0: as many as it likes.
    fn rates(&self) -> (u32, u32) {
        (0, 0)
    }

    /// Whether browsers that ask for a room get the chat page.
    fn has_page(&self) -> bool {
        false
    }

    /// A client came through the WebSocket handshake.
    fn on_open(&mut self, context: &mut Context<'_>, client: ClientId, opening: Opening<'_>);

    /// A client sent a message.
    fn on_message(&mut self, context: &mut Context<'_>, client: ClientId, message: Incoming<'_>);

    /// A client is gone, or will hear nothing new. Nothing can be sent to it any more.
    fn on_close(&mut self, context: &mut Context<'_>, client: ClientId) {
        let _ = (context, client);
    }

    /// A message is about to get its place in a room's order. Called once for every message, on the shard that
    /// orders the room; false, or a panic, drops the message.
    fn on_publish(&mut self, room: &str, kind: Kind, payload: &[u8]) -> bool {
        let _ = (room, kind, payload);
        true
    }

    /// Under the lag policy `skip`: a client read too slowly and will not get `missed` messages.
    fn on_lag(&mut self, context: &mut Context<'_>, client: ClientId, missed: u64) {
        let text = format!("* {missed} messages missed");
        context.send_to_client(client, Message::text(&text));
    }

    /// Another instance, or this one, sent a note by [`Context::ask`].
    fn on_ask(&mut self, context: &mut Context<'_>, note: Note) {
        let _ = (context, note);
    }

    /// Another instance, or this one, sent a note by [`Context::tell`].
    fn on_tell(&mut self, context: &mut Context<'_>, note: Note) {
        let _ = (context, note);
    }
}

/// What a handler can do. Memberships change at once; what is sent or published leaves after the handler returned.
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

    /// Index of the shard that this is called on, and the number of shards.
    pub fn shard(&self) -> (u16, u16) {
        (self.shard, self.shards)
    }

    /// The shard that a name belongs to: it orders the messages of the room of that name, and its instance may keep
    /// what there is one of on the whole server.
    pub fn home_of(&self, name: &str) -> u16 {
        self.hub.home_of(name)
    }

    /// Whether a client of this shard is still there.
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

    /// Makes a client of this shard a member of `room`, after at most `history` of the room's kept messages.
    pub fn join(&mut self, client: ClientId, room: &str, history: u32) {
        if let Some(slot) = self.hub.find(client) {
            self.hub.join(slot, room, history);
        }
    }

    /// Ends a membership.
    pub fn leave(&mut self, client: ClientId, room: &str) {
        if let Some(slot) = self.hub.find(client) {
            self.hub.leave(slot, room);
        }
    }

    /// The rooms of a client of this shard, in no particular order.
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

    /// The members of `room` that are on this shard.
    pub fn members(&self, room: &str) -> impl ExactSizeIterator<Item = ClientId> {
        self.hub.members(room)
    }

    /// Closes a client's connection, after it got what it is owed. Of the reason 123 bytes are sent.
    ///
    /// # Panics
    /// When the code is one that no close frame may carry (RFC 6455 §7.4.1).
    pub fn close(&mut self, client: ClientId, code: CloseCode, reason: &str) {
        assert!(code.is_sendable(), "close code {} cannot be sent; try 1000, or 3000 to 4999", code.0);
        if let Some(slot) = self.hub.find(client) {
            self.closing.push((slot, code, reason.into()));
        }
    }

    /// Sends a small note to the application instance of `shard`, whose [`App::on_ask`] may answer it.
    pub fn ask<N: Any + Send>(&mut self, shard: u16, note: N) {
        self.hub.outgoing(shard).requests.note(Box::new(note), 0);
    }

    /// Answers a note: calls [`App::on_tell`] of the instance of `shard`. Handlers of that kind should ask
    /// nothing in turn but what a client's request makes necessary, since answers are always taken, however
    /// busy a shard is.
    pub fn tell<N: Any + Send>(&mut self, shard: u16, note: N) {
        self.hub.outgoing(shard).deliveries.note(Box::new(note), 0);
    }
}
