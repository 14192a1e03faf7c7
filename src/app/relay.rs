//! `relay`: sends every message unchanged to all members of the sender's room.

use std::collections::HashMap;

use super::{App, Claims, ClientId, CloseCode, Context, Incoming, Opening};

/// The application `relay`: sends every message, text or binary, unchanged to all members of the sender's room. A client
/// that sends a message although its token does not allow it to publish in the room is closed with 1008. The
/// user of a client with a token is the claim `sub`.
#[derive(Debug, Default)]
pub struct Relay {
    /// Claims in the tokens of this shard's clients, by client number. Empty without tokens.
    claims: HashMap<u64, Claims>,
}

impl App for Relay {
    fn on_open(&mut self, context: &mut Context<'_>, client: ClientId, opening: Opening<'_>) {
        if let Some(claims) = opening.claims {
            if let Some(user) = claims.user()
                && let Err(problem) = context.set_user(client, user)
            {
                return context.close(client, CloseCode::POLICY, &format!("the token's sub: {problem}"));
            }
            self.claims.insert(client.number, claims.clone());
        }
        context.join(client, opening.room, 0);
    }

    fn on_message(&mut self, context: &mut Context<'_>, client: ClientId, message: Incoming<'_>) {
        if let Some(claims) = self.claims.get(&client.number)
            && context.rooms(client).iter().any(|room| !claims.may_publish(room))
        {
            return context.close(client, CloseCode::POLICY, "the token does not allow publishing here");
        }
        context.publish_to_rooms_of(client, message.into());
    }

    fn on_close(&mut self, _: &mut Context<'_>, client: ClientId) {
        self.claims.remove(&client.number);
    }
}
