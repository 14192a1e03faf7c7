//! Messages between a Pusher client and its server: the greeting, the subscription, then events.

use std::mem;

use crate::end::End;
use crate::pusher::event::{self, Member, ServerEvent};
use crate::ws::Agreed;
use crate::ws::frame::Opcode;

use super::receive::Next;
use super::{ConnectionState, Connections, Handler, Payload};

/// The next message of a Pusher server that completes the opening of a connection.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) enum Awaited {
    /// The connection is open, or its WebSocket handshake is not complete.
    #[default]
    Nothing,
    /// `pusher:connection_established`.
    Greeting,
    /// The confirmation of the subscription.
    Subscription,
}

impl Connections {
    /// Queues a message on the connection in `slot`: a text, or the client event of a Pusher channel that has the text.
    /// [`Connections::flush`] writes the message to the socket.
    pub(crate) fn queue_text(&mut self, slot: usize, payload: &[u8]) {
        let Some(session) = &self.options.pusher else { return self.queue(slot, Opcode::Text, payload) };
        let mut text = mem::take(&mut self.event);
        event::write_client_event(&session.channel, payload, &mut text);
        self.queue(slot, Opcode::Text, &text);
        self.event = text;
    }

    /// Makes the guest in `slot` a member of the presence channel with a user identifier.
    pub(crate) fn join(&mut self, slot: usize, user_id: &str) {
        let Some(session) = &self.options.pusher else { return };
        let member = Member { user_id: user_id.to_owned() };
        let text = event::subscribe(&session.app, &self.slots[slot].socket_id, &session.channel, &member);
        self.queue(slot, Opcode::Text, text.as_bytes());
    }

    /// Ends the membership of the guest in `slot`.
    pub(crate) fn leave_channel(&mut self, slot: usize) {
        let Some(session) = &self.options.pusher else { return };
        let text = event::unsubscribe(&session.channel);
        self.queue(slot, Opcode::Text, text.as_bytes());
    }

    /// Asks the Pusher server of `slot` for a `pusher:pong`.
    pub(crate) fn queue_pusher_ping(&mut self, slot: usize) {
        self.queue(slot, Opcode::Text, event::PING.as_bytes());
    }

    /// Starts to wait for the greeting of a Pusher server.
    pub(super) fn await_greeting(&mut self, slot: usize, agreed: Option<Agreed>) {
        let entry = &mut self.slots[slot];
        entry.agreed = agreed;
        entry.awaited = Awaited::Greeting;
    }

    /// Handles a message of a Pusher server, which has `consumed` bytes on the wire.
    pub(super) fn handle_pusher(
        &mut self,
        slot: usize,
        text: &str,
        consumed: usize,
        handler: &mut impl Handler,
        now: u64,
    ) -> Next {
        let event = ServerEvent::parse(text);
        let reports_members = self.options.pusher.as_ref().is_some_and(|session| session.reports_members);
        let is_open = self.slots[slot].state != ConnectionState::Opening;
        let is_for_traffic = match &event {
            ServerEvent::Message | ServerEvent::Pong => true,
            ServerEvent::Members => reports_members,
            _ => false,
        };
        if is_for_traffic && is_open {
            self.wire.count(consumed, text.len());
            handler.on_message(self, slot, Payload { is_text: true, bytes: text.as_bytes() }, now);
            return Next::Event;
        }
        self.wire.frame_bytes += consumed as u64;
        match (event, self.slots[slot].awaited) {
            (ServerEvent::Ping, _) => self.queue(slot, Opcode::Text, event::PONG.as_bytes()),
            (ServerEvent::Error(text), _) => {
                self.finish(slot, 1000, End::Pusher(text), handler);
                return Next::Ended;
            }
            (ServerEvent::Established(socket_id), Awaited::Greeting) => return self.greeted(slot, socket_id),
            (ServerEvent::Subscribed, Awaited::Subscription) => {
                self.slots[slot].awaited = Awaited::Nothing;
                return Next::Opened;
            }
            _ => {}
        }
        Next::Event
    }

    /// Subscribes to the channel of the connection in `slot`. A guest's connection is open without that.
    fn greeted(&mut self, slot: usize, socket_id: String) -> Next {
        let Some(session) = &self.options.pusher else { return Next::Event };
        let entry = &mut self.slots[slot];
        if session.is_guest(entry.id) {
            (entry.awaited, entry.socket_id) = (Awaited::Nothing, socket_id);
            return Next::Opened;
        }
        entry.awaited = Awaited::Subscription;
        let text = session.subscription(entry.id, &socket_id);
        self.queue(slot, Opcode::Text, text.as_bytes());
        Next::Event
    }
}
