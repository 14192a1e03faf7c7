//! URLs of other servers.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use percent_encoding::percent_decode_str;
use ureq::http::Uri;

/// Maximum length of a URL in bytes.
const MAX_LEN: usize = 2048;

/// An `http://` or `https://` URL of another server. A user and a password in it are sent as `Authorization: Basic`.
/// The `Debug` form shows only the [`Url::origin`], since the rest may be secret.
#[derive(Clone, PartialEq, Eq)]
pub struct Url {
    /// The URL as it was written.
    text: String,
    /// The URL without user and password.
    uri: Uri,
    /// Value of the field `Authorization`, if the URL has a user.
    authorization: Option<String>,
}

impl Url {
    /// Returns the scheme, the host and the port, if it is not the scheme's own: `https://example.org`.
    pub fn origin(&self) -> String {
        let authority = self.uri.authority().map_or("", |authority| authority.as_str());
        format!("{}://{authority}", self.uri.scheme_str().unwrap_or_default())
    }

    /// Returns whether requests to this URL are encrypted.
    pub(crate) fn has_tls(&self) -> bool {
        self.uri.scheme_str() == Some("https")
    }

    /// Returns whether the host is `localhost` or a loopback address.
    pub(crate) fn is_loopback(&self) -> bool {
        let host = self.uri.host().unwrap_or_default();
        let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
        host.eq_ignore_ascii_case("localhost") || address.is_ok_and(|address| address.is_loopback())
    }

    pub(super) fn uri(&self) -> &Uri {
        &self.uri
    }

    pub(super) fn authorization(&self) -> Option<&str> {
        self.authorization.as_deref()
    }
}

impl FromStr for Url {
    type Err = String;

    /// Parses a URL. The error never repeats the URL.
    fn from_str(text: &str) -> Result<Self, String> {
        let wanted = "expected a URL with a host, like https://example.org/hooks";
        let (scheme, rest) = text.split_once("://").ok_or(wanted)?;
        if !["http", "https"].iter().any(|known| scheme.eq_ignore_ascii_case(known)) {
            return Err("expected a URL that begins with https:// or http://".into());
        }
        if text.len() > MAX_LEN {
            return Err(format!("the URL has {} bytes; use at most {MAX_LEN}", text.len()));
        }
        if text.contains('#') {
            return Err("a URL for requests has no fragment; leave out # and what follows".into());
        }
        let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        let (user, host) = match authority.rsplit_once('@') {
            Some((user, host)) => (Some(user), host),
            None => (None, authority),
        };
        if host.is_empty() || host.starts_with(':') {
            return Err(wanted.into());
        }
        let slash = if path.starts_with('/') { "" } else { "/" };
        let uri: Uri = format!("{}://{host}{slash}{path}", scheme.to_ascii_lowercase()).parse().map_err(|_| {
            "the URL has characters that no URL may have; percent-encode them, and use the ASCII form (xn--) of the host"
        })?;
        let has_port = host.rsplit(']').next().is_some_and(|end| end.contains(':'));
        if has_port && uri.port_u16().is_none_or(|port| port == 0) {
            return Err(
                "the URL has a wrong port; use one from 1 to 65535, or leave it and the colon out".into()
            );
        }
        Ok(Self { text: text.into(), uri, authorization: user.map(basic) })
    }
}

/// Returns the value of the field `Authorization` for the part `USER:PASSWORD` of a URL. RFC 7617 §2
fn basic(user: &str) -> String {
    let (name, password) = user.split_once(':').unwrap_or((user, ""));
    let mut bytes: Vec<u8> = percent_decode_str(name).collect();
    bytes.push(b':');
    bytes.extend(percent_decode_str(password));
    format!("Basic {}", STANDARD.encode(bytes))
}

impl fmt::Debug for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Url").field(&self.origin()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_origin_has_no_secret() {
        for (text, origin) in [
            ("https://example.org", "https://example.org"),
            ("https://example.org:8443/hooks/secret?token=hush", "https://example.org:8443"),
            ("HTTP://ann:hush@127.0.0.1:80/", "http://127.0.0.1:80"),
            ("http://[::1]:8000?x", "http://[::1]:8000"),
            ("https://ann:hu@sh@example.org/", "https://example.org"),
        ] {
            let url: Url = text.parse().unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(url.origin(), origin, "{text}");
            assert_eq!(format!("{url:?}"), format!("Url({origin:?})"));
            assert_eq!(url.uri().query().is_some(), text.contains('?'));
        }
    }

    #[test]
    fn a_user_becomes_basic_authorization() {
        // RFC 7617 §2 has this example.
        let url: Url = "https://Aladdin:open%20sesame@example.org/".parse().expect("valid");
        assert_eq!(url.authorization(), Some("Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="));
        assert_eq!(url.uri().to_string(), "https://example.org/");
    }

    #[test]
    fn loopback_hosts_are_known() {
        for (text, is_loopback) in [
            ("http://localhost:1/", true),
            ("http://127.8.9.1/", true),
            ("http://[::1]/", true),
            ("http://localhost.example.org/", false),
            ("http://10.0.0.1/", false),
        ] {
            assert_eq!(text.parse::<Url>().expect("valid").is_loopback(), is_loopback, "{text}");
        }
    }

    #[test]
    fn a_wrong_url_is_refused_with_a_remedy_and_without_its_text() {
        for (text, part) in [
            ("example.org/hush", "like https://example.org"),
            ("ftp://hush/", "begins with https://"),
            ("https://", "with a host"),
            ("https:///hush", "with a host"),
            ("https://exämple.org/hush", "xn--"),
            ("https://example.org/hush me", "percent-encode"),
            ("https://example.org/#hush", "no fragment"),
            ("https://example.org:99999/hush", "wrong port"),
            ("https://example.org:0/hush", "wrong port"),
            ("https://[::1]:/hush", "wrong port"),
        ] {
            let error = text.parse::<Url>().expect_err(text);
            assert!(error.contains(part) && !error.contains("hush"), "{text}: {error}");
        }
    }
}
