//! An example of messages to one user, whichever worker the user is connected to.
//!
//! Run `cargo run --example user`, then connect WebSocket clients to `ws://127.0.0.1:8000/room/NAME`, where NAME is the
//! user's name. `bob hello` sends `hello` to all connections of bob. Ctrl-C stops the server.

use uproar::app::{App, ClientId, CloseCode, Context, Incoming, Message, Opening};
use uproar::{Options, Server, StartError};

/// The application. It has no state: the server knows the users and their connections.
struct Users;

impl App for Users {
    fn on_open(&mut self, context: &mut Context<'_>, client: ClientId, opening: Opening<'_>) {
        if let Err(error) = context.set_user(client, opening.room) {
            context.close(client, CloseCode::POLICY, &error.to_string());
        }
    }

    fn on_message(&mut self, context: &mut Context<'_>, client: ClientId, message: Incoming<'_>) {
        let Some((to, text)) = message.text().and_then(|text| text.split_once(' ')) else { return };
        let from = context.user_of(client).unwrap_or_default();
        let text = format!("{from}: {text}");
        context.send_to_user(to, Message::text(&text));
    }
}

/// Starts the server. Separate from `main`, so that a test can start the server on another port.
pub(crate) fn start(options: Options) -> Result<Server, StartError> {
    Server::start_app(options, |_worker| Box::new(Users))
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    start(Options::default())?.run_until_signal()?;
    Ok(())
}
