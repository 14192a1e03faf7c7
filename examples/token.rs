//! An example server that accepts only clients with a valid access token and greets them by name.
//!
//! Run `cargo run --example token -- SECRET_FILE`, where the file has at least 32 random bytes (`openssl rand -hex
//! 32`). Clients connect to `ws://127.0.0.1:8000/room/NAME?token=TOKEN` with a JWT (HS256, signed with the secret)
//! whose claims are `exp`, `sub` (the name) and optionally `rooms` (the rooms that the client may join).

use std::path::Path;

use uproar::app::{App, ClientId, CloseCode, Context, Incoming, Message, Opening};
use uproar::config::Secret;
use uproar::{Options, Server, StartError};

/// The application. The server calls `on_open` only for clients with a valid token and refuses other clients with 401.
struct Members;

impl App for Members {
    fn on_open(&mut self, context: &mut Context<'_>, client: ClientId, opening: Opening<'_>) {
        let Some(name) = opening.claims.and_then(|claims| claims.user()) else {
            return context.close(client, CloseCode::POLICY, "the token has no sub");
        };
        context.send_to_client(client, Message::text(&format!("hello, {name}")));
        context.join(client, opening.room, 0);
    }

    fn on_message(&mut self, context: &mut Context<'_>, client: ClientId, message: Incoming<'_>) {
        context.publish_to_rooms_of(client, message.into());
    }
}

/// Starts the server with the secret in `file`. Separate from `main`, so that a test can start the server on another
/// port.
pub(crate) fn start(file: &Path, options: Options) -> Result<Server, Box<dyn std::error::Error>> {
    let auth_hmac_secret_file = Some(Secret::read(file)?);
    let options = Options { auth_hmac_secret_file, ..options };
    let started: Result<Server, StartError> = Server::start_app(options, |_worker| Box::new(Members));
    Ok(started?)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let file = std::env::args().nth(1).ok_or("usage: token SECRET_FILE")?;
    let server = start(Path::new(&file), Options::default())?;
    println!("listening on {}", server.endpoints()[0]);
    server.run_until_signal()?;
    Ok(())
}
