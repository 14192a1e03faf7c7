//! The protocol state of one connection: WebSocket, or HTTP with GET or POST requests.

use crate::http;
use crate::target::Target;
use crate::url::Protocol;
use crate::ws::deflate::Inflater;
use crate::ws::{self, Agreed, Offer, ProtocolError, Step};

/// The client's side of a connection.
#[derive(Debug)]
pub(super) enum Client {
    WebSocket(ws::Client),
    Http(http::Client),
    /// The client publishes with HTTP requests. It is open once its stream is.
    Publisher {
        /// Whether the server may announce that it ends the connection after a response.
        may_end: bool,
    },
}

impl Default for Client {
    fn default() -> Self {
        Self::WebSocket(ws::Client::default())
    }
}

impl Client {
    /// Creates a client for the target's protocol, and appends its first request to `out`.
    pub(super) fn start(target: &Target, offer: Offer, rng: &mut fastrand::Rng, out: &mut Vec<u8>) -> Self {
        match target.protocol {
            Protocol::WebSocket => {
                let mut nonce = [0; 16];
                rng.fill(&mut nonce);
                Self::WebSocket(ws::Client::start(&target.host, &target.resource, nonce, offer, out))
            }
            Protocol::Http => {
                http::write_request(out, &target.host, &target.resource);
                Self::Http(http::Client::default())
            }
        }
    }

    /// Returns whether the connection is open without a handshake of its protocol.
    pub(super) fn needs_no_handshake(&self) -> bool {
        matches!(self, Self::Publisher { .. })
    }

    /// Returns the negotiated compression. `None` before the end of the handshake, or without compression.
    pub(super) fn agreed(&self) -> Option<Agreed> {
        match self {
            Self::WebSocket(client) => client.agreed(),
            Self::Http(_) | Self::Publisher { .. } => None,
        }
    }

    /// Returns whether the next input may be compared with messages that another connection has received.
    pub(super) fn is_between_plain_messages(&self) -> bool {
        matches!(self, Self::WebSocket(client) if client.is_between_plain_messages())
    }

    /// Decodes the next event at the front of `input`, as [`ws::Client::next`] does.
    pub(super) fn next<'a>(
        &'a mut self,
        input: &'a [u8],
        inflater: &'a mut Inflater,
    ) -> Result<Step<'a>, ProtocolError> {
        match self {
            Self::WebSocket(client) => client.next(input, inflater),
            Self::Http(client) => client.next(input),
            Self::Publisher { may_end } => http::next_response(input, *may_end),
        }
    }

    /// Handles the end of the server's stream after the unconsumed bytes `rest`. Returns an error if the stream ends
    /// too early.
    pub(super) fn end_of_stream(&self, rest: &[u8]) -> Result<(), ProtocolError> {
        match self {
            Self::WebSocket(client) => client.end_of_stream(rest),
            Self::Http(client) => client.end_of_stream(rest),
            Self::Publisher { .. } => http::end_of_responses(rest),
        }
    }
}
