//! `relay`: sends every message unchanged to all members of the sender's room.

use super::{App, ClientId, Context, Incoming, Opening};

/// The application `relay`: sends every message, text or binary, unchanged to all members of the sender's room.
#[derive(Debug, Default)]
pub struct Relay;

impl App for Relay {
    fn on_open(&mut self, context: &mut Context<'_>, client: ClientId, opening: Opening<'_>) {
        context.join(client, opening.room, 0);
    }

    fn on_message(&mut self, context: &mut Context<'_>, client: ClientId, message: Incoming<'_>) {
        context.publish_to_rooms_of(client, message.into());
    }
}
