//! Renewal of access tokens: a connected client presents a fresh token before its old one expires.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use crate::hub::{ClientId, Slot};
use crate::token::{Claims, Verifier};

use super::Context;

/// The tokens of a shard's clients, and the verifier of fresh ones.
#[derive(Debug, Default)]
pub(crate) struct Tokens {
    /// Verifier of the tokens. `None` when no tokens are required.
    pub(crate) verifier: Option<Arc<Verifier>>,
    /// Tokens in use by slot. Clients without a token have no entry.
    pub(crate) in_use: HashMap<Slot, TokenInUse>,
    /// Clients whose token was renewed by the handler that has just run.
    pub(crate) renewed: Vec<Slot>,
}

/// The token of a connected client.
#[derive(Debug)]
pub(crate) struct TokenInUse {
    /// Expiry of the token, in milliseconds of the shard's clock.
    pub(crate) expiry_ms: u64,
    pub(crate) claims: Claims,
}

/// A renewed token: see [`Context::renew`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Renewal {
    /// The claims of the new token.
    pub claims: Claims,
    /// The rooms that the client has left, because the old token allowed them and the new one does not.
    pub left: Vec<String>,
}

/// The reason why a fresh token is refused. Its text is for people, and does not repeat the token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RenewError(&'static str);

impl fmt::Display for RenewError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for RenewError {}

impl Context<'_> {
    /// Replaces the token of a client of this shard by a fresh one, so that the client stays connected until the new
    /// token expires. The new token must have the same `sub`. The client leaves the rooms that its old token allowed
    /// and the new one does not; an application that keeps claims must replace them, too.
    ///
    /// # Errors
    /// Returns a [`RenewError`] if the new token is not valid or has another `sub`, or if the client has no token, for
    /// example because it is gone. Then the old token stays in force.
    pub fn renew(&mut self, client: ClientId, token: &str) -> Result<Renewal, RenewError> {
        let tokens = &mut self.state.tokens;
        let slot = self.hub.find(client);
        let Some((slot, in_use)) = slot.and_then(|slot| Some((slot, tokens.in_use.get_mut(&slot)?))) else {
            return Err(RenewError("This connection has no token that a new one could replace."));
        };
        let Some(verifier) = &tokens.verifier else {
            return Err(RenewError("This server does not require tokens any more."));
        };
        let verified = verifier.verify(token.as_bytes());
        let (claims, left) = verified.map_err(|bad| RenewError(bad.text()))?;
        if claims.user() != in_use.claims.user() {
            return Err(RenewError(
                "The new token is another user's: its claim sub differs from the old token's.",
            ));
        }
        let left_ms = u64::try_from(left.as_millis()).unwrap_or(u64::MAX);
        in_use.expiry_ms = self.now_ms.saturating_add(left_ms);
        let old = std::mem::replace(&mut in_use.claims, claims.clone());
        tokens.renewed.push(slot);
        let mut left = self.rooms(client);
        left.retain(|room| old.may_join(room) && !claims.may_join(room));
        for room in &left {
            self.leave(client, room);
        }
        Ok(Renewal { claims, left })
    }
}
