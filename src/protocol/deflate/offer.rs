//! Negotiation of permessage-deflate: parses a client's offers and accepts one. RFC 7692 §5 and §7.1

use std::fmt;

use super::MAX_WINDOW_BITS;

/// Largest window size, as a power of two, of messages from a client that lets the server choose. Chat messages repeat
/// text of the last 4 KiB, and the window costs that much memory per connection.
const CLIENT_WINDOW_BITS: u8 = 12;
/// Largest window size, as a power of two, of messages that the server compresses for one client alone. The engine
/// loads the window for each message, so a small window is faster.
const OWN_WINDOW_BITS: u8 = 12;
/// Maximum number of a client's compression offers that the server considers.
const MOST_OFFERS: usize = 16;

/// The server's limits for accepting a client's compression offer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OfferPolicy {
    /// Whether compressed messages of the server may refer to its earlier messages (context takeover).
    pub server_takeover: bool,
    /// Memory limit in bytes for the compression windows of one connection.
    pub context_memory: usize,
}

/// The negotiated compression parameters of a connection. `Display` writes the value of `Sec-WebSocket-Extensions` for
/// the response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Agreement {
    /// Whether compressed messages of the server may refer to its earlier messages (context takeover).
    pub server_takeover: bool,
    /// Whether compressed messages of the client may refer to its earlier messages (context takeover).
    pub client_takeover: bool,
    /// The server's window size as a power of two, if the client asked for a size. `None` means 15.
    pub server_window_bits: Option<u8>,
    /// The client's window size as a power of two, if the server asked for a size. `None` means 15.
    pub client_window_bits: Option<u8>,
}

impl Agreement {
    /// Returns the largest window size, as a power of two, that the server may use.
    pub fn server_bits(&self) -> u8 {
        self.server_window_bits.unwrap_or(MAX_WINDOW_BITS)
    }

    /// Returns the window size, as a power of two, of messages that the server compresses for this client alone. The
    /// server may always use a smaller window than agreed.
    pub fn own_bits(&self) -> u8 {
        self.server_bits().min(OWN_WINDOW_BITS)
    }

    /// Returns the window size of the client's messages as a power of two.
    pub fn client_bits(&self) -> u8 {
        self.client_window_bits.unwrap_or(MAX_WINDOW_BITS)
    }

    /// Returns the maximum memory in bytes for the compression windows of the connection.
    pub fn context_memory(&self) -> usize {
        let memory = |takeover: bool, bits: u8| if takeover { 1_usize << bits } else { 0 };
        memory(self.client_takeover, self.client_bits()) + memory(self.server_takeover, self.own_bits())
    }
}

impl fmt::Display for Agreement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("permessage-deflate")?;
        if !self.server_takeover {
            f.write_str("; server_no_context_takeover")?;
        }
        if !self.client_takeover {
            f.write_str("; client_no_context_takeover")?;
        }
        if let Some(bits) = self.server_window_bits {
            write!(f, "; server_max_window_bits={bits}")?;
        }
        if let Some(bits) = self.client_window_bits {
            write!(f, "; client_max_window_bits={bits}")?;
        }
        Ok(())
    }
}

/// Accepts the first valid offer in `values`, the `Sec-WebSocket-Extensions` fields in the client's order of
/// preference. Returns `None` if no offer is valid: the connection is not compressed.
pub fn negotiate<'a>(values: impl Iterator<Item = &'a [u8]>, policy: OfferPolicy) -> Option<Agreement> {
    let offers = values.flat_map(|value| split_unquoted(value, b','));
    offers.take(MOST_OFFERS).filter_map(Offer::parse).map(|offer| offer.agree(policy)).next()
}

/// A client's valid compression offer: all parameters are known, correct and not repeated. RFC 7692 §7: other offers
/// are declined.
#[derive(Debug, Default)]
struct Offer {
    server_no_context_takeover: bool,
    client_no_context_takeover: bool,
    server_max_window_bits: Option<u8>,
    /// The parameter `client_max_window_bits`. Outer option: whether the parameter is present. Inner option: the value
    /// of the parameter.
    client_max_window_bits: Option<Option<u8>>,
}

impl Offer {
    fn parse(offer: &[u8]) -> Option<Self> {
        let mut parts = split_unquoted(offer, b';');
        if !parts.next()?.eq_ignore_ascii_case(b"permessage-deflate") {
            return None;
        }
        let mut parsed = Self::default();
        for part in parts {
            let (name, value) = match part.iter().position(|&byte| byte == b'=') {
                Some(at) => (part[..at].trim_ascii(), Some(part[at + 1..].trim_ascii())),
                None => (part, None),
            };
            let is_first = match (name, value) {
                (b"server_no_context_takeover", None) => {
                    !std::mem::replace(&mut parsed.server_no_context_takeover, true)
                }
                (b"client_no_context_takeover", None) => {
                    !std::mem::replace(&mut parsed.client_no_context_takeover, true)
                }
                (b"server_max_window_bits", Some(value)) => {
                    parsed.server_max_window_bits.replace(window_bits(value)?).is_none()
                }
                (b"client_max_window_bits", value) => {
                    let bits = value.map(|value| window_bits(value).ok_or(())).transpose().ok()?;
                    parsed.client_max_window_bits.replace(bits).is_none()
                }
                _ => false,
            };
            if !is_first {
                return None;
            }
        }
        Some(parsed)
    }

    fn agree(self, policy: OfferPolicy) -> Agreement {
        // RFC 7692 §7.1.2.2: the server may limit the window only of a client that sends the parameter.
        let client_window_bits =
            self.client_max_window_bits.map(|hint| hint.unwrap_or(MAX_WINDOW_BITS).min(CLIENT_WINDOW_BITS));
        let mut agreement = Agreement {
            server_takeover: false,
            client_takeover: !self.client_no_context_takeover,
            server_window_bits: self.server_max_window_bits,
            client_window_bits,
        };
        if agreement.context_memory() > policy.context_memory {
            agreement.client_takeover = false;
        }
        if !agreement.client_takeover {
            // Without context takeover the client keeps no window, so the window size does not matter.
            agreement.client_window_bits = None;
        }
        agreement.server_takeover = policy.server_takeover && !self.server_no_context_takeover;
        if agreement.context_memory() > policy.context_memory {
            agreement.server_takeover = false;
        }
        agreement
    }
}

/// Parses a window size: a decimal number from 8 to 15 without leading zeros. RFC 7692 §7.1.2
fn window_bits(value: &[u8]) -> Option<u8> {
    // RFC 6455 §9.1: the value of an extension parameter may be quoted.
    let value = value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\"")).unwrap_or(value);
    match value {
        [digit @ b'8'..=b'9'] => Some(digit - b'0'),
        [b'1', digit @ b'0'..=b'5'] => Some(10 + digit - b'0'),
        _ => None,
    }
}

/// Splits a header value at each `separator` outside quotation marks. RFC 9110 §5.6.4
fn split_unquoted(value: &[u8], separator: u8) -> impl Iterator<Item = &[u8]> {
    let (mut is_quoted, mut is_escaped) = (false, false);
    let parts = value.split(move |&byte| {
        if std::mem::take(&mut is_escaped) {
            return false;
        }
        match byte {
            b'\\' if is_quoted => is_escaped = true,
            b'"' => is_quoted = !is_quoted,
            _ => {}
        }
        byte == separator && !is_quoted
    });
    parts.map(<[u8]>::trim_ascii)
}
