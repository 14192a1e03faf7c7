//! Names of users and the clients that have them.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};

use crate::hub::ClientId;
use crate::names::user_key;

/// The names that belong to one instance of the chat, with the clients that have them.
#[derive(Debug, Default)]
pub(super) struct Directory {
    /// Holders of names, by the key of the name (see [`user_key`]).
    holders: HashMap<String, Holder>,
}

/// The clients that have a name.
#[derive(Debug)]
struct Holder {
    /// The name in the spelling of its first holder.
    name: String,
    /// Whether the name is from a token, so that every client that shows such a token is the same user.
    is_proven: bool,
    /// The client with the name. If the name is from a token, all connections of the user: possibly very many.
    clients: HashSet<ClientId>,
}

impl Directory {
    /// Gives the client the name, unless another user has it. Returns whether the client has it now.
    pub(super) fn grant(&mut self, name: &str, client: ClientId, is_proven: bool) -> bool {
        let vacant = || Holder { name: name.into(), is_proven, clients: HashSet::new() };
        let holder = self.holders.entry(user_key(name)).or_insert_with(vacant);
        let is_same_user = is_proven && holder.is_proven && holder.name == name;
        let is_granted = holder.clients.is_empty() || holder.clients.contains(&client) || is_same_user;
        if is_granted {
            holder.clients.insert(client);
        }
        is_granted
    }

    /// Takes the name from the client. A name without clients is free.
    pub(super) fn give_back(&mut self, name: &str, client: ClientId) {
        if let Entry::Occupied(mut holder) = self.holders.entry(user_key(name)) {
            holder.get_mut().clients.remove(&client);
            if holder.get().clients.is_empty() {
                holder.remove();
            }
        }
    }

    /// Returns the clients that have the name, by their shards; `None` when the name is free.
    pub(super) fn find(&self, name: &str) -> Option<HashMap<u16, Vec<ClientId>>> {
        let holder = self.holders.get(&user_key(name))?;
        let mut clients: HashMap<u16, Vec<ClientId>> = HashMap::new();
        for &client in &holder.clients {
            clients.entry(client.shard).or_default().push(client);
        }
        Some(clients)
    }
}
