//! The opening handshake: the rules for an upgrade to WebSocket. RFC 6455 §4.2

use super::response::{Refusal, Status};
use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{GeneralPurpose, GeneralPurposeConfig};
use httparse::Header;
use sha1::{Digest, Sha1};
use std::fmt;

/// The only supported version of the WebSocket protocol: the value of `Sec-WebSocket-Version`. RFC 6455 §4.1
const VERSION: &[u8] = b"13";

/// The constant that is hashed together with a client's key. RFC 6455 §1.3
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// The base64 engine for handshake keys. Ignores unused bits at the end of a key: in the example key of RFC 6455 §4.1,
/// these bits are not zero.
const BASE64: GeneralPurpose =
    GeneralPurpose::new(&STANDARD, GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true));

/// The accept key: the answer to a client's key, which proves that the server speaks WebSocket. RFC 6455 §4.2.2
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct AcceptKey([u8; 28]);

impl AcceptKey {
    /// Computes the accept key for `key`, the value of `Sec-WebSocket-Key`.
    pub fn new(key: &[u8]) -> Self {
        let digest = Sha1::new().chain_update(key).chain_update(GUID).finalize();
        let mut text = [0; 28];
        let len = BASE64.encode_slice(digest, &mut text).expect("20 bytes make 28 characters");
        assert_eq!(len, text.len(), "20 bytes make 28 characters");
        Self(text)
    }

    /// Returns the accept key as the value of `Sec-WebSocket-Accept`.
    pub fn as_str(&self) -> &str {
        str::from_utf8(&self.0).expect("base64 is ASCII")
    }
}

impl fmt::Debug for AcceptKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AcceptKey({})", self.as_str())
    }
}

/// Checks the WebSocket handshake and returns the accept key. Returns `None` if the request does not ask for a
/// WebSocket.
pub(super) fn negotiate(
    method: &str,
    is_http_1_0: bool,
    headers: &[Header<'_>],
) -> Result<Option<AcceptKey>, Refusal> {
    // RFC 9110 §7.8: a server may ignore an upgrade to another protocol.
    if !lists(headers, "Upgrade", "websocket") {
        return Ok(None);
    }
    let bad = |reason| Err(Refusal::new(Status::BadRequest, reason));
    if is_http_1_0 {
        return bad("A WebSocket handshake needs HTTP/1.1; in nginx, set proxy_http_version 1.1.");
    }
    if !lists(headers, "Connection", "Upgrade") {
        return bad(
            "A WebSocket handshake needs the header field \"Connection: Upgrade\"; a proxy may drop it.",
        );
    }
    if method != "GET" {
        let reason = "A WebSocket handshake is a GET request; use that method.";
        return Err(Refusal::new(Status::MethodNotAllowed, reason));
    }
    let mut versions = values(headers, "Sec-WebSocket-Version");
    if (versions.next(), versions.next()) != (Some(VERSION), None) {
        let reason = "This server speaks version 13 of WebSocket; send \"Sec-WebSocket-Version: 13\" once.";
        return Err(Refusal::new(Status::UpgradeRequired, reason));
    }
    let mut keys = values(headers, "Sec-WebSocket-Key");
    let (Some(key), None) = (keys.next(), keys.next()) else {
        return bad("A WebSocket handshake needs the header field Sec-WebSocket-Key exactly once.");
    };
    if BASE64.decode_slice(key, &mut [0; 18]) != Ok(16) {
        return bad("Sec-WebSocket-Key must be 16 bytes in base64, which makes 24 characters.");
    }
    Ok(Some(AcceptKey::new(key)))
}

/// Returns the values of all header fields with this name, without surrounding white space. Ignores the name's case.
pub(super) fn values<'a>(headers: &[Header<'a>], name: &str) -> impl Iterator<Item = &'a [u8]> {
    let named = headers.iter().filter(move |header| header.name.eq_ignore_ascii_case(name));
    named.map(|header| header.value.trim_ascii())
}

/// Returns whether the comma-separated lists in the header fields with this name contain `token`. Ignores case.
pub(super) fn lists(headers: &[Header<'_>], name: &str, token: &str) -> bool {
    // RFC 9110 §5.6.1: one list may be spread over several header lines.
    values(headers, name)
        .flat_map(|value| value.split(|&byte| byte == b','))
        .any(|item| item.trim_ascii().eq_ignore_ascii_case(token.as_bytes()))
}
