//! An application of one's own: everything that is said in a room is heard there in capitals.
//!
//! Run `cargo run --example shout`, then connect WebSocket clients to `ws://127.0.0.1:8000/room/NAME`.

use uproar::Options;
use uproar::app::{App, ClientId, CloseCode, Context, Incoming, Kind, Message, Opening};
use uproar::server::{Server, StartError};

/// Every worker has an instance, so this needs no lock.
#[derive(Default)]
struct Shout {
    /// Clients that came to this worker.
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
            Some(text) => {
                let loud = text.to_uppercase();
                context.publish_to_rooms_of(client, Message::text(&(loud + "!")));
            }
        }
    }

    fn on_publish(&mut self, room: &str, _kind: Kind, payload: &[u8]) -> bool {
        println!("{room}: {}", String::from_utf8_lossy(payload));
        true
    }
}

fn main() -> Result<(), StartError> {
    let mut server = Server::start_app(Options::default(), |_worker| Box::<Shout>::default())?;
    println!("listening on {:?}", server.endpoints());
    server.join();
    Ok(())
}
