//! `pusher`: the Pusher protocol, so that stock client and server libraries work unchanged. docs/pusher.md describes it
//! for users.
//!
//! A channel is a room of the hub. Several [`PusherApp`]s share one server: the name of a channel's room begins with the
//! identifier of its application.

mod apps;
mod channel;
mod encode;
mod rest;
mod signature;
mod socket_id;

pub use apps::{PusherApp, PusherApps};

use super::{Answer, App, ClientId, Context, HttpRequest, Incoming, Opening};

use apps::Table;

/// The application `pusher`: one instance for each shard.
#[derive(Debug)]
pub struct Pusher {
    /// Where this instance finds new applications after a reload.
    apps: PusherApps,
    /// The applications that this instance serves.
    table: std::sync::Arc<Table>,
}

impl Pusher {
    /// Creates the instance of a shard. All instances share `apps`.
    pub fn new(apps: PusherApps) -> Self {
        let table = apps.table();
        Self { apps, table }
    }
}

impl App for Pusher {
    fn on_request(&mut self, context: &mut Context<'_>, request: &HttpRequest<'_>) -> Answer {
        match request.path() {
            path if path.starts_with("/apps/") => rest::answer(self, context, request),
            _ => Answer::NotMine,
        }
    }

    fn on_open(&mut self, _: &mut Context<'_>, _: ClientId, _: Opening<'_>) {}

    fn on_message(&mut self, _: &mut Context<'_>, _: ClientId, _: Incoming<'_>) {}
}
