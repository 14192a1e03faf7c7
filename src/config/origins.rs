//! The origins of web pages that may open a WebSocket. A browser sends the page's origin with each handshake (RFC 6455
//! §4.1). The web view of an app sends the app's origin.

use std::borrow::Cow;
use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

/// Maximum number of bytes of a refused origin that an error text shows.
const SHOWN_LEN: usize = 100;

/// An entry of `--allowed-origins`: an allowed origin, or a pattern of origins.
///
/// ```
/// use uproar::config::Origin;
///
/// for text in ["https://example.org", "https://*.example.org", "capacitor://localhost", "file://", "null", "*"] {
///     assert!(text.parse::<Origin>().is_ok());
/// }
/// assert!("https://example.org/chat".parse::<Origin>().is_err());
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Allows every origin (`*`).
    Any,
    /// Allows the origin `null`, which browsers send for pages without an origin, like sandboxed frames.
    Null,
    /// Allows exactly one origin.
    Exactly(Site),
    /// Allows all origins whose host is a subdomain of this site's host, with this site's scheme and port.
    Below(Site),
}

/// An origin's scheme, host and port in the form of RFC 6454 §6.2, in lower case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Site {
    scheme: String,
    /// The host name or address. Empty for `file://`.
    host: String,
    /// The port. `None` stands for the default port of the scheme.
    port: Option<u16>,
}

const EXPECTED: &str = "expected an origin like https://example.org, https://*.example.org, capacitor://localhost, \
                        file:// or null, without a path, or * for all of them";

impl FromStr for Origin {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "*" => return Ok(Self::Any),
            _ if text.eq_ignore_ascii_case("null") => return Ok(Self::Null),
            _ => {}
        }
        let (scheme, host) = text.split_once("://").ok_or(EXPECTED)?;
        let below = host.strip_prefix("*.");
        let site = Site::parse(scheme, below.unwrap_or(host)).ok_or(EXPECTED)?;
        match below {
            Some(_) if site.host.is_empty() || site.host.starts_with('.') => Err(EXPECTED),
            Some(_) => Ok(Self::Below(site)),
            None => Ok(Self::Exactly(site)),
        }
    }
}

impl Origin {
    /// Returns whether one of the entries allows an `Origin` header with this value.
    ///
    /// ```
    /// use uproar::config::Origin;
    ///
    /// let allowed = ["https://*.example.org".parse()?];
    /// assert!(Origin::is_in(&allowed, b"https://shop.example.org"));
    /// assert!(!Origin::is_in(&allowed, b"https://example.com"));
    /// # Ok::<(), &str>(())
    /// ```
    pub fn is_in(allowed: &[Self], origin: &[u8]) -> bool {
        !allowed.is_empty() && is_allowed(origin, allowed, None)
    }

    fn allows(&self, origin: Option<&Site>) -> bool {
        match (self, origin) {
            (Self::Any, _) | (Self::Null, None) => true,
            (Self::Exactly(site), Some(origin)) => site == origin,
            (Self::Below(site), Some(origin)) => {
                let name = origin.host.strip_suffix(&site.host).and_then(|rest| rest.strip_suffix('.'));
                name.is_some_and(|name| !name.is_empty())
                    && (&site.scheme, site.port) == (&origin.scheme, origin.port)
            }
            (Self::Null | Self::Exactly(_) | Self::Below(_), _) => false,
        }
    }

    /// Returns whether `host` is the host of this entry or, for a `*.` entry, a subdomain of it. `host` is a name in
    /// lower case without a port.
    pub(super) fn has_host(&self, host: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Null => false,
            Self::Exactly(site) => site.host == host,
            Self::Below(site) => {
                let name = host.strip_suffix(&site.host).and_then(|rest| rest.strip_suffix('.'));
                name.is_some_and(|name| !name.is_empty())
            }
        }
    }
}

impl Site {
    /// Creates a site from `scheme` and `host`, which may have a port. Returns `None` if either text is invalid.
    fn parse(scheme: &str, host: &str) -> Option<Self> {
        let scheme = scheme.to_ascii_lowercase();
        let is_scheme = scheme.starts_with(|first: char| first.is_ascii_lowercase())
            && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte));
        let (host, port) = split_port(host)?;
        let is_web = ["http", "https"].contains(&&*scheme);
        if !is_scheme || host.is_empty() && (is_web || port.is_some()) {
            return None;
        }
        let default = match &*scheme {
            "http" => Some(80),
            "https" => Some(443),
            _ => None,
        };
        Some(Self { scheme, host: host.into_owned(), port: port.filter(|port| Some(*port) != default) })
    }
}

/// Splits `text` into a host and an optional port. Returns the host in lower case, and an IPv6 address in canonical
/// form. Returns `None` if `text` is invalid. Allocates nothing for a name or an IPv4 address in lower case.
pub(super) fn split_port(text: &str) -> Option<(Cow<'_, str>, Option<u16>)> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (address, port) = rest.split_once(']')?;
            (format!("[{}]", address.parse::<Ipv6Addr>().ok()?).into(), port)
        }
        None => {
            let (host, port) = text.split_at(text.find(':').unwrap_or(text.len()));
            let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~%!$&'()+;=".contains(&byte);
            if !host.bytes().all(is_plain) {
                return None;
            }
            let has_upper = host.bytes().any(|byte| byte.is_ascii_uppercase());
            (if has_upper { host.to_ascii_lowercase().into() } else { Cow::Borrowed(host) }, port)
        }
    };
    let Some(digits) = port.strip_prefix(':') else { return port.is_empty().then_some((host, None)) };
    let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    let port = digits.parse().ok().filter(|_| is_number)?;
    Some((host, Some(port)))
}

/// Returns whether a page of `origin` may open a WebSocket. If the list `allowed` is empty, only pages of `host` may,
/// the Host header of the request.
pub(crate) fn is_allowed(origin: &[u8], allowed: &[Origin], host: Option<&str>) -> bool {
    if allowed.contains(&Origin::Any) {
        return true;
    }
    let site = match origin {
        b"null" => None,
        _ => {
            let parts = str::from_utf8(origin).ok().and_then(|text| text.split_once("://"));
            let Some(site) = parts.and_then(|(scheme, host)| Site::parse(scheme, host)) else { return false };
            Some(site)
        }
    };
    if !allowed.is_empty() {
        return allowed.iter().any(|entry| entry.allows(site.as_ref()));
    }
    let web = site.filter(|site| ["http", "https"].contains(&&*site.scheme));
    web.is_some_and(|site| host.and_then(|host| Site::parse(&site.scheme, host)).as_ref() == Some(&site))
}

/// A header value for display in an error text: quoted, escaped, and cut to [`SHOWN_LEN`] bytes.
pub(crate) struct Quoted<'a>(pub(crate) &'a [u8]);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (start, rest) = self.0.split_at(self.0.len().min(SHOWN_LEN));
        write!(f, "\"{}{}\"", start.escape_ascii(), if rest.is_empty() { "" } else { "…" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allows(list: &[&str], origin: &str, host: &str) -> bool {
        let list: Vec<Origin> = list.iter().map(|text| text.parse().expect(text)).collect();
        is_allowed(origin.as_bytes(), &list, Some(host))
    }

    #[test]
    fn without_a_list_a_page_of_the_same_host_is_allowed() {
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
            ("capacitor://localhost", "localhost", false),
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
    fn with_a_list_only_its_origins_are_allowed() {
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
            ("file://", false),
        ] {
            assert_eq!(allows(&list, origin, "host"), expected, "{origin}");
        }
        assert!(allows(&["*"], "null", "host") && allows(&["https://a", "*"], "http://b", "host"));
    }

    #[test]
    fn origins_of_apps_and_files_are_allowed_one_by_one() {
        let all = [
            "file://",
            "capacitor://localhost",
            "tauri://localhost",
            "ionic://localhost",
            "chrome-extension://abcdefghijklmnopabcdefghijklmnop",
            "moz-extension://6b2ee39c-6c5d-4a0c-8f35-df6b0a0f3f3b",
            "app://obsidian.md",
            "app://.",
            "null",
            "http://[::1]:8100",
            "http://localhost:8100",
        ];
        for own in all {
            for origin in all {
                assert_eq!(allows(&[own], origin, "host"), own == origin, "{own} and {origin}");
            }
        }
        assert!(allows(&["Capacitor://LocalHost"], "capacitor://localhost", "host"));
        assert!(allows(&["http://[0:0::1]:80"], "http://[::1]", "host"));
        assert!(!allows(&["file://"], "file:///home/ada/page.html", "host"));
        assert!(!allows(&["null"], "Null", "host"), "browsers write it in lower case");
    }

    #[test]
    fn a_text_that_is_no_origin_is_refused() {
        for text in [
            "",
            "example.org",
            "https://",
            "https://a/b",
            "https://a/",
            "https://*",
            "https://*.",
            "https://*..a",
            "https://*a.org",
            "https://a b",
            "https://a:b",
            "https://a:",
            "https://a:+1",
            "https://a:65536",
            "https://[::1",
            "https://[x]",
            "https://user@a",
            "://a",
            "1a://b",
            "a b://c",
            "file:///home",
            "https://bücher.example",
        ] {
            assert_eq!(text.parse::<Origin>(), Err(EXPECTED), "{text}");
        }
    }

    #[test]
    fn a_shown_origin_is_escaped_and_cut() {
        assert_eq!(Quoted(b"https://a").to_string(), "\"https://a\"");
        assert_eq!(Quoted(b"a\"\xff\r\n").to_string(), "\"a\\\"\\xff\\r\\n\"");
        let long = Quoted(&[b'x'; 1000]).to_string();
        assert_eq!(long, format!("\"{}…\"", "x".repeat(100)));
    }
}
