//! An example of several rooms with presence: members learn who comes and goes.
//!
//! Run `cargo run --example presence`, then connect WebSocket clients to `ws://127.0.0.1:8000/room/NAME`, where NAME is
//! the user's name. `join ROOM` enters a room, `leave ROOM` leaves it, and `say ROOM TEXT` sends a text to it.

use std::collections::{HashMap, HashSet};

use uproar::app::{App, ClientId, Context, Incoming, Message, Note, Opening};
use uproar::{Options, Server, StartError};

/// The application. The instance on the home shard of a room knows the room's members on all shards.
#[derive(Default)]
struct Presence {
    /// The name and the rooms of each of this shard's clients.
    users: HashMap<ClientId, (String, HashSet<String>)>,
    /// The members of the rooms whose home is this shard, by room.
    members: HashMap<String, Vec<(ClientId, String)>>,
}

/// A note to the home shard of a room: the client with this name has come (`true`) or left.
struct Moved(ClientId, String, String, bool);

impl App for Presence {
    fn on_open(&mut self, _: &mut Context<'_>, client: ClientId, opening: Opening<'_>) {
        self.users.insert(client, (opening.room.into(), HashSet::new()));
    }

    fn on_message(&mut self, context: &mut Context<'_>, client: ClientId, message: Incoming<'_>) {
        let mut words = message.text().unwrap_or_default().splitn(3, ' ');
        let (Some(command), Some(room)) = (words.next(), words.next()) else { return };
        let Some((name, rooms)) = self.users.get_mut(&client) else { return };
        match (command, words.next()) {
            ("join", None) if rooms.insert(room.into()) => _ = context.join(client, room, 0),
            ("leave", None) if rooms.remove(room) => context.leave(client, room),
            ("say", Some(text)) if rooms.contains(room) => {
                return context.publish_to_room(room, Message::text(&format!("{room} {name}: {text}")));
            }
            _ => return context.send_to_client(client, Message::text("join, leave or say?")),
        }
        context.ask(context.home_of(room), Moved(client, name.clone(), room.into(), command == "join"));
    }

    fn on_close(&mut self, context: &mut Context<'_>, client: ClientId) {
        let Some((name, rooms)) = self.users.remove(&client) else { return };
        for room in rooms {
            context.ask(context.home_of(&room), Moved(client, name.clone(), room, false));
        }
    }

    fn on_ask(&mut self, context: &mut Context<'_>, note: Note) {
        let Ok(note) = note.downcast::<Moved>() else { return };
        let Moved(client, name, room, has_come) = *note;
        let sign = if has_come { '+' } else { '-' };
        context.publish_to_room(&room, Message::text(&format!("{room} {sign}{name}")));
        let members = self.members.entry(room.clone()).or_default();
        members.retain(|(other, _)| *other != client);
        if has_come {
            let names: String = members.iter().map(|(_, name)| format!(" {name}")).collect();
            context.tell(client.shard, (client, format!("{room}:{names}")));
            members.push((client, name));
        } else if members.is_empty() {
            self.members.remove(&room);
        }
    }

    fn on_tell(&mut self, context: &mut Context<'_>, note: Note) {
        let Ok(note) = note.downcast::<(ClientId, String)>() else { return };
        context.send_to_client(note.0, Message::text(&note.1));
    }
}

/// Starts the server. Separate from `main`, so that a test can start the server on another port.
pub(crate) fn start(options: Options) -> Result<Server, StartError> {
    Server::start_app(options, |_worker| Box::<Presence>::default())
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    start(Options::default())?.run_until_signal()?;
    Ok(())
}
