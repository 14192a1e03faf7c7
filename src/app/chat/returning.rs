//! Clients of the chat that return with their session: their room, their name, and what they missed.

use crate::app::{ClientId, Context, ResumedRoom, Resumption};
use crate::names::user_key;

use super::notice::Notice;
use super::{Ask, Chat, Newcomer, home_of_name};

/// Number of bytes before the name in the bytes that the chat keeps with a session.
const OWNER_LEN: usize = 14;

impl Chat {
    /// Handles a client that returns with its session: it enters the room where it was, else `room`, and gets its name
    /// back unless it had said goodbye or somebody else has the name now.
    pub(super) fn welcome_back(
        &mut self,
        context: &mut Context<'_>,
        client: ClientId,
        resumption: &Resumption,
        room: &str,
    ) {
        let room = self.room_of(client, resumption).unwrap_or(room);
        let kept = owner_and_name(&resumption.state).filter(|_| !resumption.said_goodbye);
        let Some((owner, name)) = kept else {
            context.set_session_state(client, &[]);
            return self.enter(context, client, room);
        };
        if context.is_banned(name) || context.is_banned(&user_key(name)) {
            return self.enter(context, client, room);
        }
        self.names.insert(client.number, name.into());
        self.newcomers.insert(client.number, Newcomer { room: room.into(), ..Newcomer::default() });
        let home = home_of_name(name, context);
        context.ask(home, Ask::Claim { name: name.into(), client, user: None, from: Some(owner) });
    }

    /// Returns the room in which a returning client was, if its token still allows the room.
    pub(super) fn room_of<'a>(&self, client: ClientId, resumption: &'a Resumption) -> Option<&'a str> {
        let claims = self.claims.get(&client.number);
        let mut rooms = resumption.rooms.iter().map(String::as_str);
        rooms.find(|room| claims.is_none_or(|claims| claims.may_join(room)))
    }

    /// Lets a client without a token enter its room, after the answer to the claim of its former name.
    pub(super) fn readmit(
        &mut self,
        context: &mut Context<'_>,
        client: ClientId,
        name: &str,
        has_name: bool,
    ) {
        let Some(newcomer) = self.newcomers.remove(&client.number) else { return };
        if has_name && context.set_user(client, name).is_ok() {
            keep_name(context, client, name);
        } else if !has_name {
            self.names.remove(&client.number);
        }
        self.admit(context, client, newcomer);
        if !has_name {
            self.tell(context, client, &Notice::Taken { name });
        }
    }

    /// Tells a client from which message on it continues in its room, and what it has missed.
    pub(super) fn tell_resumed(&self, context: &mut Context<'_>, client: ClientId, resumed: ResumedRoom<'_>) {
        let ResumedRoom { room, first, missed } = resumed;
        if self.structured.contains(&client.number) {
            let next = first.number;
            return self.tell(context, client, &Notice::Resumed { room, next, missed });
        }
        match missed {
            Some(0) => {}
            Some(count) => self.tell(context, client, &Notice::Missed { count }),
            None => self.tell(context, client, &"messages missed; the server does not know how many".into()),
        }
    }
}

/// Keeps the name of a client with its session, if it has one.
pub(super) fn keep_name(context: &mut Context<'_>, client: ClientId, name: &str) {
    let ClientId { shard, slot, number } = client;
    let owner = [&number.to_le_bytes()[..], &slot.to_le_bytes(), &shard.to_le_bytes()].concat();
    context.set_session_state(client, &[&owner, name.as_bytes()].concat());
}

/// Returns the client that had the name, and the name, from the bytes that [`keep_name`] has kept.
fn owner_and_name(state: &[u8]) -> Option<(ClientId, &str)> {
    let (owner, name) = state.split_at_checked(OWNER_LEN)?;
    let owner = ClientId {
        number: u64::from_le_bytes(owner[..8].try_into().ok()?),
        slot: u32::from_le_bytes(owner[8..12].try_into().ok()?),
        shard: u16::from_le_bytes(owner[12..].try_into().ok()?),
    };
    Some((owner, str::from_utf8(name).ok()?))
}
