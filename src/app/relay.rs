//! `relay`: sends every message unchanged to all members of the sender's room.

use std::collections::{HashMap, HashSet};

use super::{App, Claims, ClientId, CloseCode, Context, Incoming, Message, Opening, Renewal, ResumedRoom};

/// Close code of a client that has missed messages for good.
const MISSED: CloseCode = CloseCode(4001);

/// The application `relay`: sends every message, text or binary, unchanged to all members of the sender's room. A client
/// that sends a message although its token does not allow it to publish in the room is closed with 1008. The
/// user of a client with a token is the claim `sub`.
///
/// A client that connects with `?session=ID` continues where it stopped. If it missed messages for good, it is closed with
/// 4001 and the reason `missed N`, or told under the lag policy `skip`.
///
/// A client that connects with `?renew=1` replaces its token with the text message `/token TOKEN`, which is not relayed.
#[derive(Debug, Default)]
pub struct Relay {
    /// Claims in the tokens of this shard's clients, by client number. Empty without tokens.
    claims: HashMap<u64, Claims>,
    /// Numbers of this shard's clients that may renew their tokens: those that connected with `?renew=1`.
    renewing: HashSet<u64>,
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
            if opening.query.is_some_and(|query| query.split('&').any(|parameter| parameter == "renew=1")) {
                self.renewing.insert(client.number);
            }
        }
        context.join(client, opening.room, 0);
    }

    fn on_message(&mut self, context: &mut Context<'_>, client: ClientId, message: Incoming<'_>) {
        if self.renewing.contains(&client.number)
            && let Some(token) = message.text().and_then(|text| text.strip_prefix("/token "))
        {
            return self.renew(context, client, token.trim());
        }
        if let Some(claims) = self.claims.get(&client.number)
            && context.rooms(client).iter().any(|room| !claims.may_publish(room))
        {
            return context.close(client, CloseCode::POLICY, "the token does not allow publishing here");
        }
        context.publish_to_rooms_of(client, message.into());
    }

    fn on_resumed(&mut self, context: &mut Context<'_>, client: ClientId, resumed: ResumedRoom<'_>) {
        match resumed.missed {
            Some(0) => {}
            Some(count) if context.skips_lagged() => self.on_lag(context, client, count),
            None if context.skips_lagged() => {
                context.send_to_client(client, Message::text("* messages missed"));
            }
            Some(count) => context.close(client, MISSED, &format!("missed {count}")),
            None => context.close(client, MISSED, "missed messages"),
        }
    }

    fn on_close(&mut self, _: &mut Context<'_>, client: ClientId) {
        self.claims.remove(&client.number);
        self.renewing.remove(&client.number);
    }
}

impl Relay {
    /// Replaces the client's token. Closes the client if the new token is refused or does not allow its room.
    fn renew(&mut self, context: &mut Context<'_>, client: ClientId, token: &str) {
        match context.renew(client, token) {
            Ok(Renewal { claims, left }) if left.is_empty() => {
                self.claims.insert(client.number, claims);
            }
            Ok(_) => context.close(client, CloseCode::POLICY, "the new token does not allow this room"),
            Err(error) => context.close(client, CloseCode::POLICY, &error.to_string()),
        }
    }
}
