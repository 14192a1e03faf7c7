//! Negotiation of the extension permessage-deflate (RFC 7692 §7.1).

use serde::{Deserialize, Serialize};

/// The compression that the client offers.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Offer {
    /// No compression.
    #[default]
    Off,
    /// Each message is compressed by itself, in both directions.
    On,
    /// A message may refer to earlier ones, if the server keeps its context.
    Takeover,
}

/// The compression that client and server have agreed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Agreed {
    /// The server's messages may refer to earlier messages of the server.
    pub server_context: bool,
    /// The client's messages may refer to earlier messages of the client.
    pub client_context: bool,
    /// Base-2 logarithm of the client's compression window in bytes.
    pub client_window_bits: u8,
}

/// Base-2 logarithm of the default compression window in bytes.
const MAX_WINDOW_BITS: u8 = 15;
const NAME: &str = "permessage-deflate";

impl Offer {
    /// Returns the value of the request's `Sec-WebSocket-Extensions` header. `None` offers no compression.
    pub(super) fn header(self) -> Option<&'static str> {
        match self {
            Self::Off => None,
            Self::On => Some("permessage-deflate; client_no_context_takeover; server_no_context_takeover"),
            Self::Takeover => Some("permessage-deflate; client_max_window_bits"),
        }
    }

    /// Parses the `Sec-WebSocket-Extensions` header of the server's answer. Refused compression is an error, because
    /// the run is about compression.
    pub(super) fn read_answer(self, answer: Option<&str>) -> Result<Option<Agreed>, String> {
        match (self, answer) {
            (Self::Off, None) => Ok(None),
            (Self::Off, Some(value)) => {
                Err(format!("the server chose sec-websocket-extensions `{value}`, which was not offered"))
            }
            (_, None) => Err("the server did not agree to permessage-deflate; turn its compression on, \
                              or give --compression off"
                .to_owned()),
            (_, Some(value)) => {
                let fault = |reason| format!("the server answered with the extension `{value}`: {reason}");
                self.read_parameters(value).map(Some).map_err(fault)
            }
        }
    }

    fn read_parameters(self, value: &str) -> Result<Agreed, String> {
        if value.contains(',') {
            return Err("that is more than one".to_owned());
        }
        let mut parts = value.split(';').map(str::trim);
        if !parts.next().is_some_and(|name| name.eq_ignore_ascii_case(NAME)) {
            return Err(format!("only {NAME} was offered"));
        }
        let takeover = self == Self::Takeover;
        let mut agreed =
            Agreed { server_context: true, client_context: takeover, client_window_bits: MAX_WINDOW_BITS };
        let mut seen = Vec::new();
        for part in parts {
            let (name, value) = part.split_once('=').map_or((part, None), |(name, value)| {
                (name.trim_end(), Some(value.trim_start().trim_matches('"')))
            });
            if seen.contains(&name) {
                return Err(format!("{name} is there twice"));
            }
            seen.push(name);
            match (name, value) {
                ("server_no_context_takeover", None) => agreed.server_context = false,
                ("client_no_context_takeover", None) => agreed.client_context = false,
                // RFC 7692 §7.1.2.1: a server may limit its own window without a request.
                ("server_max_window_bits", Some(bits)) => drop(window_bits(bits)?),
                ("client_max_window_bits", Some(bits)) if takeover => {
                    agreed.client_window_bits = window_bits(bits)?;
                }
                // RFC 7692 §7.1.2.2: a server may send this parameter only if the client has offered it.
                ("client_max_window_bits", Some(_)) => return Err(format!("{name} was not offered")),
                _ => return Err(format!("`{part}` is no parameter of an answer")),
            }
        }
        if !takeover && agreed.server_context {
            // RFC 7692 §7.1.1.1: a server accepts `server_no_context_takeover` by repeating it.
            return Err("server_no_context_takeover was demanded and is not there".to_owned());
        }
        Ok(agreed)
    }
}

/// Parses a window size in bits: a decimal number from 8 to 15 without a leading zero (RFC 7692 §7.1.2).
fn window_bits(value: &str) -> Result<u8, String> {
    match value {
        "8" | "9" | "10" | "11" | "12" | "13" | "14" | "15" => Ok(value.parse().unwrap_or(MAX_WINDOW_BITS)),
        _ => Err(format!("a window of `{value}` bits is none of 8 to 15")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOTH: &str = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";

    fn agreed(server_context: bool, client_context: bool, client_window_bits: u8) -> Option<Agreed> {
        Some(Agreed { server_context, client_context, client_window_bits })
    }

    #[test]
    fn allowed_answers_are_accepted() {
        for (offer, answer, expected) in [
            (Offer::On, BOTH, agreed(false, false, 15)),
            (Offer::On, "Permessage-Deflate;server_no_context_takeover", agreed(false, false, 15)),
            (Offer::Takeover, "permessage-deflate", agreed(true, true, 15)),
            (Offer::Takeover, BOTH, agreed(false, false, 15)),
            (
                Offer::Takeover,
                "permessage-deflate; client_max_window_bits=\"9\" ; server_max_window_bits = 8",
                agreed(true, true, 9),
            ),
        ] {
            assert_eq!(offer.read_answer(Some(answer)), Ok(expected), "{answer}");
        }
        assert_eq!(Offer::Off.read_answer(None), Ok(None));
    }

    #[test]
    fn an_answer_that_was_not_offered_is_refused() {
        for (offer, answer, reason) in [
            (Offer::Off, Some("permessage-deflate"), "which was not offered"),
            (Offer::On, None, "did not agree"),
            (Offer::Takeover, None, "did not agree"),
            (Offer::On, Some("permessage-deflate"), "demanded"),
            (Offer::On, Some("permessage-deflate; client_no_context_takeover"), "demanded"),
            (Offer::Takeover, Some("x-webkit-deflate-frame"), "only permessage-deflate"),
            (Offer::Takeover, Some("permessage-deflate, permessage-deflate"), "more than one"),
            (Offer::Takeover, Some("permessage-deflate; client_max_window_bits"), "no parameter"),
            (Offer::Takeover, Some("permessage-deflate; client_max_window_bits=16"), "none of 8 to 15"),
            (Offer::Takeover, Some("permessage-deflate; server_max_window_bits=08"), "none of 8 to 15"),
            (Offer::Takeover, Some("permessage-deflate; server_no_context_takeover=1"), "no parameter"),
            (Offer::Takeover, Some("permessage-deflate; mux"), "no parameter"),
            (Offer::Takeover, Some("permessage-deflate;"), "no parameter"),
        ] {
            let fault = offer.read_answer(answer).expect_err("it is wrong");
            assert!(fault.contains(reason), "{answer:?}: {fault}");
        }
        let unasked = format!("{BOTH}; client_max_window_bits=15");
        assert!(Offer::On.read_answer(Some(&unasked)).is_err_and(|fault| fault.contains("not offered")));
        let twice = format!("{BOTH}; server_no_context_takeover");
        assert!(Offer::On.read_answer(Some(&twice)).is_err_and(|fault| fault.contains("twice")));
    }
}
