//! A text or binary message that the hub sends to clients.

use crate::protocol::frame::Kind;

/// The place of a message in the order of its room.
///
/// The messages of a room have consecutive numbers, starting with 0 in each epoch. A new epoch begins when the room is
/// created: after the server's start, and after the server forgot the room because it had neither members nor history.
/// Numbers of different epochs cannot be compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// Epoch of the room. No other epoch of the same room has this value, also not after a restart of the server.
    pub epoch: u64,
    /// Number of the message in its epoch.
    pub number: u64,
}

/// A text or binary message for clients. A message borrows its payload; sending copies the bytes once.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    pub(super) kind: Kind,
    parts: Parts<'a>,
}

#[derive(Clone, Copy, Debug)]
enum Parts<'a> {
    One([&'a [u8]; 1]),
    Many(&'a [&'a [u8]]),
}

impl<'a> Message<'a> {
    /// Makes a text message.
    pub const fn text(text: &'a str) -> Self {
        Self::new(Kind::Text, text.as_bytes())
    }

    /// Makes a binary message.
    pub const fn binary(payload: &'a [u8]) -> Self {
        Self::new(Kind::Binary, payload)
    }

    /// Makes a message of the given kind. The payload of a text message must be valid UTF-8; clients close the
    /// connection otherwise (RFC 6455 §8.1).
    pub const fn new(kind: Kind, payload: &'a [u8]) -> Self {
        Self { kind, parts: Parts::One([payload]) }
    }

    /// Makes one message whose payload is the concatenation of `parts`. The payload of a text message must be valid
    /// UTF-8; clients close the connection otherwise (RFC 6455 §8.1).
    pub const fn from_parts(kind: Kind, parts: &'a [&'a [u8]]) -> Self {
        Self { kind, parts: Parts::Many(parts) }
    }

    /// Returns whether the message is text or binary.
    pub(crate) const fn kind(&self) -> Kind {
        self.kind
    }

    /// Returns a copy of the payload.
    pub(crate) fn to_payload(self) -> Box<[u8]> {
        self.parts().concat().into()
    }

    /// Returns the pieces of the payload in order.
    pub(super) const fn parts(&self) -> &[&'a [u8]] {
        match &self.parts {
            Parts::One(part) => part,
            Parts::Many(parts) => parts,
        }
    }
}
