//! An example of messages to one user, whichever worker the user is connected to.
//!
//! Run `cargo run --example user`, then connect WebSocket clients to `ws://127.0.0.1:8000/room/NAME`, where NAME is the
//! user's name. `bob hello` sends `hello` to all connections of bob. Ctrl-C stops the server.

use std::collections::HashMap;

use uproar::app::{App, ClientId, Context, Incoming, Message, Note, Opening};
use uproar::{Options, Server, StartError};

/// The application. The instance on the home shard of a name knows all connections of the user with that name.
#[derive(Default)]
struct Users {
    /// The names of this shard's own clients.
    names: HashMap<ClientId, String>,
    /// The connections of the users whose home is this shard.
    connections: HashMap<String, Vec<ClientId>>,
}

/// A note to the home shard of a user.
enum ToHome {
    Came(ClientId, String),
    Left(ClientId, String),
    Say { to: String, text: String },
}

/// A note to the shard of a client: send the client this text.
struct ToClient(ClientId, String);

impl App for Users {
    fn on_open(&mut self, context: &mut Context<'_>, client: ClientId, opening: Opening<'_>) {
        self.names.insert(client, opening.room.into());
        context.ask(context.home_of(opening.room), ToHome::Came(client, opening.room.into()));
    }

    fn on_message(&mut self, context: &mut Context<'_>, client: ClientId, message: Incoming<'_>) {
        let Some((to, text)) = message.text().and_then(|text| text.split_once(' ')) else { return };
        let text = format!("{}: {text}", self.names[&client]);
        context.ask(context.home_of(to), ToHome::Say { to: to.into(), text });
    }

    fn on_close(&mut self, context: &mut Context<'_>, client: ClientId) {
        let Some(name) = self.names.remove(&client) else { return };
        context.ask(context.home_of(&name), ToHome::Left(client, name));
    }

    fn on_ask(&mut self, context: &mut Context<'_>, note: Note) {
        match note.downcast::<ToHome>().map(|note| *note) {
            Ok(ToHome::Came(client, name)) => self.connections.entry(name).or_default().push(client),
            Ok(ToHome::Left(client, name)) => {
                let Some(clients) = self.connections.get_mut(&name) else { return };
                clients.retain(|other| *other != client);
                if clients.is_empty() {
                    self.connections.remove(&name);
                }
            }
            Ok(ToHome::Say { to, text }) => {
                for client in self.connections.get(&to).into_iter().flatten() {
                    context.tell(client.shard, ToClient(*client, text.clone()));
                }
            }
            Err(_) => {}
        }
    }

    fn on_tell(&mut self, context: &mut Context<'_>, note: Note) {
        let Ok(note) = note.downcast::<ToClient>() else { return };
        context.send_to_client(note.0, Message::text(&note.1));
    }
}

/// Starts the server. Separate from `main`, so that a test can start the server on another port.
pub(crate) fn start(options: Options) -> Result<Server, StartError> {
    Server::start_app(options, |_worker| Box::<Users>::default())
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    start(Options::default())?.run_until_signal()?;
    Ok(())
}
