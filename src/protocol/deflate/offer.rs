//! What a client offers, and what is made of it. RFC 7692 §5 and §7.1

use std::fmt;

use super::MAX_WINDOW_BITS;

/// What a client is asked to use when it leaves the choice to us: a chatter's messages find what they repeat within
/// 4 KiB, and that is what a connection may cost.
const CLIENT_WINDOW_BITS: u8 = 12;
/// What we use ourselves for one client alone: the engine takes the whole window up anew for each message, and a small
/// one is taken up sooner.
const OWN_WINDOW_BITS: u8 = 12;
/// Offers that are looked at; who sends more has made its point.
const MOST_OFFERS: usize = 16;

/// What the server is ready for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// Whether what we send may refer to earlier messages.
    pub server_takeover: bool,
    /// Bytes that may be kept for this connection's windows.
    pub context_memory: usize,
}

/// What was agreed with a client. Its text is the value of `Sec-WebSocket-Extensions` in the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Agreement {
    /// Whether what we send may refer to earlier messages.
    pub server_takeover: bool,
    /// Whether what the client sends may.
    pub client_takeover: bool,
    /// The window that the client asked us to use, as a power of two.
    pub server_window_bits: Option<u8>,
    /// The window that we asked the client to use.
    pub client_window_bits: Option<u8>,
}

impl Agreement {
    /// The window of what we send.
    pub fn server_bits(&self) -> u8 {
        self.server_window_bits.unwrap_or(MAX_WINDOW_BITS)
    }

    /// The window of what we send to this client alone; no client has to be told that it is smaller than it may be.
    pub fn own_bits(&self) -> u8 {
        self.server_bits().min(OWN_WINDOW_BITS)
    }

    /// The window of what the client sends.
    pub fn client_bits(&self) -> u8 {
        self.client_window_bits.unwrap_or(MAX_WINDOW_BITS)
    }

    /// Bytes that the connection's windows may come to.
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

/// Takes the first acceptable offer among the values of `Sec-WebSocket-Extensions`, in the client's order of
/// preference. `None`: the connection goes without compression.
pub fn negotiate<'a>(values: impl Iterator<Item = &'a [u8]>, terms: Terms) -> Option<Agreement> {
    let offers = values.flat_map(|value| split_unquoted(value, b','));
    offers.take(MOST_OFFERS).filter_map(Offer::parse).map(|offer| offer.agree(terms)).next()
}

/// An offer whose parameters are all known, right, and there once. RFC 7692 §7 has the others declined.
#[derive(Debug, Default)]
struct Offer {
    server_no_context_takeover: bool,
    client_no_context_takeover: bool,
    server_max_window_bits: Option<u8>,
    /// The inner value is what the client says about the window that it would use itself.
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

    fn agree(self, terms: Terms) -> Agreement {
        // RFC 7692 §7.1.2.2: only a client that mentions its window can be told to use a smaller one.
        let client_window_bits =
            self.client_max_window_bits.map(|hint| hint.unwrap_or(MAX_WINDOW_BITS).min(CLIENT_WINDOW_BITS));
        let mut agreement = Agreement {
            server_takeover: false,
            client_takeover: !self.client_no_context_takeover,
            server_window_bits: self.server_max_window_bits,
            client_window_bits,
        };
        if agreement.context_memory() > terms.context_memory {
            agreement.client_takeover = false;
        }
        if !agreement.client_takeover {
            // Nothing is kept, so the window may be as large as the client likes.
            agreement.client_window_bits = None;
        }
        agreement.server_takeover = terms.server_takeover && !self.server_no_context_takeover;
        if agreement.context_memory() > terms.context_memory {
            agreement.server_takeover = false;
        }
        agreement
    }
}

/// A decimal number from 8 to 15 without leading zeros. RFC 7692 §7.1.2
fn window_bits(value: &[u8]) -> Option<u8> {
    // RFC 6455 §9.1: a value may be quoted.
    let value = value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\"")).unwrap_or(value);
    match value {
        [digit @ b'8'..=b'9'] => Some(digit - b'0'),
        [b'1', digit @ b'0'..=b'5'] => Some(10 + digit - b'0'),
        _ => None,
    }
}

/// Splits a header value at `separator`, but not within quotation marks. RFC 9110 §5.6.4
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
