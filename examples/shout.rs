//! An example application: it sends every message, in capitals, to all clients in the room.
//!
//! Run `cargo run --example shout`, then connect WebSocket clients to `ws://127.0.0.1:8000/room/NAME`. Ctrl-C stops the
//! server.

use uproar::app::{App, ClientId, CloseCode, Context, Incoming, Kind, Message, Opening};
use uproar::{Options, Server, StartError};

/// The application. Every worker has its own instance, so the counter needs no lock.
#[derive(Default)]
struct Shout {
    /// The number of clients that have connected to this worker.
    guests: u64,
}

impl App for Shout {
    fn on_open(&mut self, context: &mut Context<'_>, client: ClientId, opening: Opening<'_>) {
        self.guests += 1;
        let hello = format!("YOU ARE GUEST {} OF THIS WORKER", self.guests);
        context.send_to_client(client, Message::text(&hello));
        context.join(client, opening.room, 0);
    }

    fn on_message(&mut self, context: &mut Context<'_>, client: ClientId, message: Incoming<'_>) {
        match message.text() {
            None => context.close(client, CloseCode::UNSUPPORTED, "text only"),
            Some("bye") => context.close(client, CloseCode::NORMAL, "BYE"),
            Some(text) => context.publish_to_rooms_of(client, Message::text(&(text.to_uppercase() + "!"))),
        }
    }

    fn on_publish(&mut self, room: &str, _sender: Option<ClientId>, _kind: Kind, payload: &[u8]) -> bool {
        println!("{room}: {}", String::from_utf8_lossy(payload));
        true
    }
}

/// Starts the server. Separate from `main`, so that a test can start the server on another port.
pub(crate) fn start(options: Options) -> Result<Server, StartError> {
    Server::start_app(options, |_worker| Box::<Shout>::default())
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let server = start(Options::default())?;
    println!("listening on {}", server.endpoints()[0]);
    server.run_until_signal()?;
    Ok(())
}
