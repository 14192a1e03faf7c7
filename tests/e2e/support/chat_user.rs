//! A test client for the chat application: joins a room and reads the chat's welcome line.

use std::net::SocketAddr;
use std::ops::{Deref, DerefMut};

use super::client::Client;

/// A connected chat user, with the default name that the server gave the user.
pub(crate) struct ChatUser {
    client: Client,
    /// User number in the default name `User #NUMBER (WORKER)`.
    pub(crate) number: u64,
    /// The worker that serves the user, counted from 1.
    pub(crate) worker: u16,
}

impl ChatUser {
    /// Connects to the chat room `room` and reads the welcome line.
    pub(crate) fn join(address: SocketAddr, room: &str) -> Self {
        let mut client = Client::open(address, &format!("/room/{room}"));
        let welcome = client.receive_text();
        let name = welcome
            .strip_prefix(&format!("* welcome to {room}, you are User #"))
            .and_then(|rest| rest.strip_suffix("); /help lists the commands"));
        let (number, worker) = name.and_then(|name| name.split_once(" (")).expect(&welcome);
        let (number, worker) = (number.parse().expect(&welcome), worker.parse().expect(&welcome));
        Self { client, number, worker }
    }

    /// Connects again and again until the kernel assigns a connection to `worker`. Drops the other connections.
    pub(crate) fn join_on_worker(address: SocketAddr, room: &str, worker: u16) -> Self {
        std::iter::repeat_with(|| Self::join(address, room))
            .take(1000)
            .find(|user| user.worker == worker)
            .expect("the kernel spreads connections over the workers")
    }

    /// Returns the user's name before any `/nick` command.
    pub(crate) fn default_name(&self) -> String {
        format!("User #{} ({})", self.number, self.worker)
    }

    /// Changes the default name to `name` with `/nick` and reads the chat's announcement.
    pub(crate) fn set_name(&mut self, name: &str) {
        self.send_text(&format!("/nick {name}"));
        let announcement = format!("* {} is now {name}", self.default_name());
        self.expect_text(&announcement);
    }
}

impl Deref for ChatUser {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

impl DerefMut for ChatUser {
    fn deref_mut(&mut self) -> &mut Client {
        &mut self.client
    }
}
