//! A directory of the chat's user names and the clients that hold each name.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};

use crate::hub::ClientId;
use crate::names::user_key;

/// Directory of the user names whose home is one chat instance, with the clients that hold each name.
#[derive(Debug, Default)]
pub(super) struct Directory {
    /// Holder of each name in use, by the key of the name (see [`user_key`]).
    holders: HashMap<String, Holder>,
}

/// Holder of a name: the clients of one user.
#[derive(Debug)]
struct Holder {
    /// The identity in the token of the clients. `None` if the name does not come from a token.
    user: Option<String>,
    /// The clients with the name: one, or all connections of the user if the name comes from a token (possibly very
    /// many).
    clients: HashSet<ClientId>,
}

impl Directory {
    /// Grants a name to a client, unless another user has the name. Returns whether the client has the name now.
    /// Clients with tokens are one user if their identities, `user`, are equal. If `from` has the name, it loses the name
    /// to the client, which is its successor.
    pub(super) fn grant(
        &mut self,
        name: &str,
        client: ClientId,
        user: Option<String>,
        from: Option<ClientId>,
    ) -> bool {
        let vacant = || Holder { user: user.clone(), clients: HashSet::new() };
        let holder = self.holders.entry(user_key(name)).or_insert_with(vacant);
        let is_same_user = user.is_some() && holder.user == user;
        let is_successor = from.is_some_and(|from| holder.clients.remove(&from));
        let is_granted =
            holder.clients.is_empty() || holder.clients.contains(&client) || is_same_user || is_successor;
        if is_granted {
            holder.clients.insert(client);
        }
        is_granted
    }

    /// Releases a client's hold on a name. A name that no client holds is free.
    pub(super) fn give_back(&mut self, name: &str, client: ClientId) {
        if let Entry::Occupied(mut holder) = self.holders.entry(user_key(name)) {
            holder.get_mut().clients.remove(&client);
            if holder.get().clients.is_empty() {
                holder.remove();
            }
        }
    }

    /// Returns the clients that hold the name, grouped by their shards. `None` if the name is free.
    pub(super) fn find(&self, name: &str) -> Option<HashMap<u16, Vec<ClientId>>> {
        let holder = self.holders.get(&user_key(name))?;
        let mut clients: HashMap<u16, Vec<ClientId>> = HashMap::new();
        for &client in &holder.clients {
            clients.entry(client.shard).or_default().push(client);
        }
        Some(clients)
    }
}
