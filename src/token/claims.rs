//! The claims of an access token that the server and its applications use.

use std::sync::Arc;

use serde::Deserialize;

use super::BadToken;
use crate::names::{canonical, shown_name};

/// Maximum length of an identity, the claim `sub`, in characters. OpenID Connect Core §2 has the same limit.
const MAX_IDENTITY: usize = 255;

/// The claims of a client's access token, after verification. A clone costs no copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claims(Arc<Granted>);

/// The content of [`Claims`].
#[derive(Debug, PartialEq, Eq)]
struct Granted {
    user: Option<String>,
    name: Option<String>,
    rooms: Names,
    publish: Names,
}

impl Claims {
    /// Returns the claims of a token that has only an expiry.
    #[cfg(test)]
    pub(crate) fn unlimited() -> Self {
        let (rooms, publish) = (Names(None), Names(None));
        Self(Arc::new(Granted { user: None, name: None, rooms, publish }))
    }

    /// Returns the client's identity, the claim `sub`: 1 to 255 characters without control characters. `None` if the
    /// token has no such claim. Two clients with the same identity are the same user.
    pub fn user(&self) -> Option<&str> {
        self.0.user.as_deref()
    }

    /// Returns the name to show for the user: the claim `name`, or else the claim `sub`. The name has at most 32
    /// characters: spaces are replaced by `_`, characters that a name may not have are left out, and the rest is cut off.
    /// `None` if no name is left, or the token has no `sub`. Several users can have the same name.
    pub fn name(&self) -> Option<&str> {
        self.0.name.as_deref()
    }

    /// Returns whether the client may join `room`: the claim `rooms` has an entry for this name, or is missing.
    ///
    /// An entry with `*` at its end stands for all names that begin with the rest. Room names are compared in canonical
    /// form: `é` as one character equals `e` with a combining accent.
    pub fn may_join(&self, room: &str) -> bool {
        self.0.rooms.contains(room)
    }

    /// Returns whether the client may publish messages in `room`: the claim `publish` has an entry for this name, or is
    /// missing. Entries are as in [`Claims::may_join`]. The server does not check this claim, applications must.
    pub fn may_publish(&self, room: &str) -> bool {
        self.0.publish.contains(room)
    }
}

/// The claims of an access token as parsed from JSON. RFC 7519 §4.1
#[derive(Deserialize)]
pub(super) struct RawClaims {
    /// Expiry of the token in seconds since 1970, with an optional fraction: a NumericDate of RFC 7519 §2.
    pub(super) exp: f64,
    /// Time in seconds since 1970 before which the token is not valid.
    pub(super) nbf: Option<f64>,
    pub(super) iss: Option<String>,
    pub(super) aud: Option<Audiences>,
    sub: Option<String>,
    name: Option<String>,
    rooms: Option<Vec<String>>,
    publish: Option<Vec<String>>,
}

impl RawClaims {
    /// Checks the identity, and returns the claims in the form for applications.
    pub(super) fn granted(self) -> Result<Claims, BadToken> {
        if let Some(user) = &self.sub
            && (user.is_empty() || user.chars().count() > MAX_IDENTITY || user.contains(char::is_control))
        {
            return Err(BadToken::Identity);
        }
        let name = self.sub.as_deref().and_then(|user| {
            let name = self.name.as_deref().and_then(shown_name);
            name.or_else(|| shown_name(user))
        });
        let (rooms, publish) = (Names::new(self.rooms), Names::new(self.publish));
        Ok(Claims(Arc::new(Granted { user: self.sub, name, rooms, publish })))
    }
}

/// The claim `aud`: one audience or a list. RFC 7519 §4.1.3
#[derive(Deserialize)]
#[serde(untagged)]
pub(super) enum Audiences {
    One(String),
    Several(Vec<String>),
}

impl Audiences {
    /// Returns whether one of the audiences is in `expected`.
    pub(super) fn include_one_of(&self, expected: &[String]) -> bool {
        match self {
            Self::One(audience) => expected.contains(audience),
            Self::Several(audiences) => audiences.iter().any(|audience| expected.contains(audience)),
        }
    }
}

/// A list of room names from a claim, in canonical form. An entry with `*` at its end stands for a prefix. `None`
/// contains all rooms.
#[derive(Debug, PartialEq, Eq)]
struct Names(Option<Vec<String>>);

impl Names {
    fn new(names: Option<Vec<String>>) -> Self {
        Self(names.map(|names| names.iter().map(|name| canonical(name).into_owned()).collect()))
    }

    fn contains(&self, room: &str) -> bool {
        let Some(names) = &self.0 else { return true };
        let room = canonical(room);
        names.iter().any(|name| match name.strip_suffix('*') {
            Some(prefix) => room.starts_with(prefix),
            None => *name == room,
        })
    }
}
