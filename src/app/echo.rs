//! `echo`: sends every message back to its sender.

use super::{App, ClientId, Context, Incoming, Opening};

/// Sends every message back to its sender, text and binary.
#[derive(Debug, Default)]
pub struct Echo;

impl App for Echo {
    fn on_open(&mut self, _context: &mut Context<'_>, _client: ClientId, _opening: Opening<'_>) {}

    fn on_message(&mut self, context: &mut Context<'_>, client: ClientId, message: Incoming<'_>) {
        context.send_to_client(client, message.into());
    }
}
