//! Which web pages may open a WebSocket: the browser names the page's origin in each handshake, RFC 6455 §4.1.

use std::str::FromStr;

/// An entry of `--allowed-origins`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Every page.
    Any,
    /// Pages of one host.
    Exactly {
        /// `http://` or `https://`.
        scheme: &'static str,
        /// `example.org`, with a port unless it is the usual one.
        host: String,
    },
    /// Pages of every host below another.
    Below {
        /// The same.
        scheme: &'static str,
        /// `.example.org`, the same.
        host: String,
    },
}

const WANTED: &str = "want an origin like https://example.org or https://*.example.org, or * for all of them";

impl FromStr for Origin {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "*" {
            return Ok(Self::Any);
        }
        let text = text.to_ascii_lowercase();
        let (scheme, host) = split(&text).ok_or(WANTED)?;
        let (is_below, name) = host.strip_prefix("*.").map_or((false, host), |name| (true, name));
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-.:[]_".contains(&byte);
        if name.is_empty() || !name.bytes().all(is_plain) {
            return Err(WANTED);
        }
        Ok(match is_below {
            true => Self::Below { scheme, host: format!(".{name}") },
            false => Self::Exactly { scheme, host: name.into() },
        })
    }
}

impl Origin {
    fn allows(&self, scheme: &str, host: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Exactly { scheme: own, host: name } => *own == scheme && name.eq_ignore_ascii_case(host),
            Self::Below { scheme: own, host: end } => {
                let (_, tail) =
                    host.split_at_checked(host.len().saturating_sub(end.len())).unwrap_or((host, ""));
                *own == scheme && host.len() > end.len() && tail.eq_ignore_ascii_case(end)
            }
        }
    }
}

/// Whether a page of `origin` may open a WebSocket: one of those in the list, or, where the list is empty, one that the
/// host that was asked has itself.
pub(crate) fn is_allowed(origin: &[u8], allowed: &[Origin], host: Option<&str>) -> bool {
    if allowed.contains(&Origin::Any) {
        return true;
    }
    // Of `null`, a page without an origin of its own, nothing is known.
    let Some((scheme, page_host)) = str::from_utf8(origin).ok().and_then(split) else { return false };
    if allowed.is_empty() {
        return host.is_some_and(|host| without_port(scheme, host).eq_ignore_ascii_case(page_host));
    }
    allowed.iter().any(|origin| origin.allows(scheme, page_host))
}

/// The scheme, and the host with its port unless that is the scheme's usual one.
fn split(origin: &str) -> Option<(&'static str, &str)> {
    let scheme = ["http://", "https://"].into_iter().find(|scheme| origin.starts_with(scheme))?;
    Some((scheme, without_port(scheme, &origin[scheme.len()..])))
}

fn without_port<'a>(scheme: &str, host: &'a str) -> &'a str {
    host.strip_suffix(if scheme == "http://" { ":80" } else { ":443" }).unwrap_or(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allows(list: &[&str], origin: &str, host: &str) -> bool {
        let list: Vec<Origin> = list.iter().map(|text| text.parse().expect(text)).collect();
        is_allowed(origin.as_bytes(), &list, Some(host))
    }

    #[test]
    fn without_a_list_a_page_of_the_same_host_may_come() {
        for (origin, host, expected) in [
            ("http://127.0.0.1:8000", "127.0.0.1:8000", true),
            ("http://[::1]:8000", "[::1]:8000", true),
            ("https://chat.example.org", "chat.example.org", true),
            ("https://chat.example.org", "Chat.Example.org:443", true),
            ("http://chat.example.org", "chat.example.org:80", true),
            ("https://chat.example.org", "chat.example.org:80", false),
            ("https://example.org", "chat.example.org", false),
            ("https://chat.example.org.evil.net", "chat.example.org", false),
            ("http://127.0.0.1:8001", "127.0.0.1:8000", false),
            ("null", "null", false),
            ("file://", "", false),
            ("", "", false),
        ] {
            assert_eq!(allows(&[], origin, host), expected, "{origin} at {host}");
        }
        assert!(!is_allowed(b"https://\xff", &[], Some("x")));
        assert!(!is_allowed(b"https://x", &[], None));
    }

    #[test]
    fn with_a_list_only_pages_that_it_names_may_come() {
        let list = ["https://example.org", "https://*.chat.org", "http://*.dev:8080", "HTTPS://Port.org:443"];
        for (origin, expected) in [
            ("https://example.org", true),
            ("http://example.org", false),
            ("https://example.org:8443", false),
            ("https://a.example.org", false),
            ("https://a.chat.org", true),
            ("https://a.b.Chat.org", true),
            ("https://chat.org", false),
            ("https://.chat.org", false),
            ("https://evilchat.org", false),
            ("http://a.chat.org", false),
            ("http://x.dev:8080", true),
            ("http://x.dev", false),
            ("https://port.org", true),
            ("https://host", false),
            ("null", false),
        ] {
            assert_eq!(allows(&list, origin, "host"), expected, "{origin}");
        }
        assert!(allows(&["*"], "null", "host") && allows(&["https://a", "*"], "http://b", "host"));
    }

    #[test]
    fn what_is_no_origin_is_refused() {
        for text in [
            "example.org",
            "ftp://x",
            "https://",
            "https://a/b",
            "https://*",
            "https://*a.org",
            "https://a b",
            "null",
        ] {
            assert_eq!(text.parse::<Origin>(), Err(WANTED), "{text}");
        }
    }
}
