//! A client that knows what the chat says to newcomers.

use std::net::SocketAddr;
use std::ops::{Deref, DerefMut};

use super::client::Client;

/// A user of the chat.
pub(crate) struct Chatter {
    client: Client,
    /// Number of the user in the server's life.
    pub(crate) number: u64,
    /// Its worker, beginning with 1.
    pub(crate) worker: u16,
}

impl Chatter {
    /// Enters a room through its path and takes the welcome.
    pub(crate) fn enter(address: SocketAddr, room: &str) -> Self {
        let mut client = Client::open(address, &format!("/room/{room}"));
        let welcome = client.line();
        let label = welcome
            .strip_prefix(&format!("* welcome to {room}, you are User #"))
            .and_then(|rest| rest.strip_suffix("); /help lists the commands"));
        let (number, worker) = label.and_then(|label| label.split_once(" (")).expect(&welcome);
        let (number, worker) = (number.parse().expect(&welcome), worker.parse().expect(&welcome));
        Self { client, number, worker }
    }

    /// Enters a room until a connection lands on the wanted worker.
    pub(crate) fn enter_on(address: SocketAddr, room: &str, worker: u16) -> Self {
        std::iter::repeat_with(|| Self::enter(address, room))
            .take(1000)
            .find(|chatter| chatter.worker == worker)
            .expect("the kernel spreads connections over the workers")
    }

    /// What it is called before it chooses a name.
    pub(crate) fn label(&self) -> String {
        format!("User #{} ({})", self.number, self.worker)
    }

    /// Takes a name, and hears that it has it.
    pub(crate) fn take_name(&mut self, name: &str) {
        self.say(&format!("/nick {name}"));
        let text = format!("* {} is now {name}", self.label());
        self.hears(&text);
    }
}

impl Deref for Chatter {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

impl DerefMut for Chatter {
    fn deref_mut(&mut self) -> &mut Client {
        &mut self.client
    }
}
