//! Sessions, as an application sees them: a client that returns continues where it stopped.

use percent_encoding::percent_decode_str;

use crate::hub::MAX_SESSION_STATE;
use crate::protocol::{Refusal, Status};

use super::{ClientId, Context, HttpRequest, Position};

/// The session that a returning client continues.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resumption {
    /// Names of the rooms in which the session has a position, sorted. A client that joins one of them gets the messages
    /// that it has not acknowledged instead of the room's history. A room that the client does not join again keeps its
    /// position for the next connection.
    pub rooms: Vec<String>,
    /// The bytes of the last [`Context::set_session_state`].
    pub state: Vec<u8>,
    /// Whether the last connection of the client ended with a close frame that the client sent first.
    pub said_goodbye: bool,
}

/// A room in which a client continues where its session stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResumedRoom<'a> {
    /// Name of the room.
    pub room: &'a str,
    /// The first message that the client gets. It may be one that the client has got without acknowledging it.
    pub first: Position,
    /// Number of messages before `first` that the client has not acknowledged, and that the server does not have any
    /// more. `None` if the number is unknown, because the server has forgotten the room meanwhile.
    pub missed: Option<u64>,
}

impl Context<'_> {
    /// Returns whether a client of this shard has a session.
    pub fn has_session(&self, client: ClientId) -> bool {
        self.hub.find_leaving(client).is_some_and(|slot| self.hub.has_session(slot))
    }

    /// Keeps bytes with a client's session, instead of those kept before: see [`Resumption::state`]. Does nothing for a
    /// client without a session.
    ///
    /// # Panics
    /// If `state` has more than 1,024 bytes.
    pub fn set_session_state(&mut self, client: ClientId, state: &[u8]) {
        assert!(state.len() <= MAX_SESSION_STATE, "{} bytes; a session keeps 1024 at most", state.len());
        if let Some(slot) = self.hub.find_leaving(client) {
            self.hub.set_session_state(slot, state);
        }
    }

    /// Returns whether clients that miss messages go on (`--lag-policy skip`), instead of being closed.
    pub fn skips_lagged(&self) -> bool {
        self.state.skips_lagged
    }
}

/// Returns the identifier of a session in the query parameter `session`, for
/// [`Upgrade::with_session`](super::Upgrade::with_session). `None` without the parameter.
///
/// # Errors
/// Returns the refusal of an identifier that [`check_session_id`] refuses.
pub fn session_in_query(request: &HttpRequest<'_>) -> Result<Option<String>, Refusal> {
    let parameters = request.query().unwrap_or_default().split('&');
    let Some(encoded) = parameters.filter_map(|parameter| parameter.strip_prefix("session=")).next() else {
        return Ok(None);
    };
    let id = percent_decode_str(encoded).decode_utf8_lossy().into_owned();
    check_session_id(&id)?;
    Ok(Some(id))
}

/// Checks the identifier of a session: 16 to 64 visible ASCII characters. Whoever knows the identifier of a client without
/// a token can take its session, so it must be random.
///
/// # Errors
/// Returns a refusal with the status 400, which does not repeat the identifier.
pub fn check_session_id(id: &str) -> Result<(), Refusal> {
    if (16..=64).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Ok(());
    }
    let reason = "The identifier of a session has 16 to 64 visible ASCII characters; make it random.";
    Err(Refusal::new(Status::BadRequest, reason))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identifier_has_16_to_64_visible_characters() {
        for id in ["0123456789abcdef", "~!@#$%^&*()_+-=?", &"x".repeat(64)] {
            assert_eq!(check_session_id(id), Ok(()), "{id}");
        }
        for id in [
            "",
            "0123456789abcde",
            &"x".repeat(65),
            "0123456789 abcdef",
            "0123456789äabcdef",
            "0123456789abcdef\n",
        ] {
            assert!(check_session_id(id).is_err_and(|refusal| refusal.status == Status::BadRequest), "{id}");
        }
    }
}
