//! An example of a thread that publishes: it sends the time to the room `clock` every second.
//!
//! Run `cargo run --example clock`, then connect WebSocket clients to `ws://127.0.0.1:8000/room/clock`. Between two
//! messages the server sleeps. Ctrl-C stops the server, and then the thread.

use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use uproar::app::{App, ClientId, Context, Incoming, Message, Opening};
use uproar::publisher::{PublishError, Publisher};
use uproar::{Options, Server, StartError};

/// The application. Clients join a room and only listen.
struct Listen;

impl App for Listen {
    fn on_open(&mut self, context: &mut Context<'_>, client: ClientId, opening: Opening<'_>) {
        context.join(client, opening.room, 0);
    }

    fn on_message(&mut self, _: &mut Context<'_>, _: ClientId, _: Incoming<'_>) {}
}

/// Publishes the time, in seconds since 1970, until the server has stopped.
fn tick(publisher: &Publisher, interval: Duration) {
    loop {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        match publisher.publish("clock", Message::text(&now.as_secs().to_string())) {
            // The clients of a busy server miss one time and get the next.
            Ok(()) | Err(PublishError::Full) => thread::sleep(interval),
            Err(PublishError::TooLarge | PublishError::Stopped) => return,
        }
    }
}

/// Starts the server and its clock. Separate from `main`, so that a test can start the server on another port.
pub(crate) fn start(
    options: Options,
    interval: Duration,
) -> Result<(Server, thread::JoinHandle<()>), StartError> {
    let server = Server::start_app(options, |_worker| Box::new(Listen))?;
    let publisher = server.publisher();
    Ok((server, thread::spawn(move || tick(&publisher, interval))))
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (server, clock) = start(Options::default(), Duration::from_secs(1))?;
    println!("listening on {}", server.endpoints()[0]);
    server.run_until_signal()?;
    clock.join().map_err(|_| "the clock panicked")?;
    Ok(())
}
