//! `echo`: sends every message back to its sender.

use super::{App, ClientId, Context, Incoming, Opening};

/// The application `echo`: sends every message, text or binary, back to its sender.
#[derive(Debug, Default)]
pub struct Echo;

impl App for Echo {
    fn on_open(&mut self, _context: &mut Context<'_>, _client: ClientId, _opening: Opening<'_>) {}

    fn on_message(&mut self, context: &mut Context<'_>, client: ClientId, message: Incoming<'_>) {
        context.send_to_client(client, message.into());
    }
}
