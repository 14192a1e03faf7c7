//! Parser of WebSocket URLs (RFC 3986 and RFC 6455 §3) and HTTP URLs, and the lookup of their hosts.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, ToSocketAddrs as _};

use fluent_uri::Uri;
use fluent_uri::component::{Authority, Host};
use nix::net::if_::if_nametoindex;
use percent_encoding::percent_decode_str;
use serde::{Deserialize, Serialize};

/// The protocol that a scenario speaks. It decides which schemes a URL may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Protocol {
    /// WebSocket: `ws` or, with TLS, `wss`.
    WebSocket,
    /// HTTP: `http` or, with TLS, `https`.
    Http,
}

/// The parts of a URL.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Url {
    /// Whether the scheme is `wss` or `https` (TLS).
    pub(crate) is_secure: bool,
    pub(crate) host: UrlHost,
    pub(crate) port: u16,
    /// The value of the Host header (RFC 6455 §4.1): the host in lower case, and the port unless it is the default
    /// port.
    pub(crate) host_header: String,
    /// The resource name of the request line (RFC 6455 §3): path and query.
    pub(crate) resource: String,
}

/// The host of a URL.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum UrlHost {
    /// An IP address, and the index of an IPv6 address's network interface. The index is 0 if the URL names no
    /// interface.
    Address(IpAddr, u32),
    /// A host name in lower case. Its addresses need a lookup.
    Name(String),
}

impl Protocol {
    /// Returns the schemes of the protocol without and with TLS.
    fn schemes(self) -> [&'static str; 2] {
        match self {
            Self::WebSocket => ["ws", "wss"],
            Self::Http => ["http", "https"],
        }
    }

    fn example(self) -> &'static str {
        match self {
            Self::WebSocket => "ws://127.0.0.1:8000/room/bench",
            Self::Http => "http://127.0.0.1:8000/",
        }
    }
}

impl Url {
    /// Parses a URL of `protocol`. An error names the wrong part of the URL and the correct form.
    pub(crate) fn parse(url: &str, protocol: Protocol) -> Result<Self, String> {
        let ([plain, secure], example) = (protocol.schemes(), protocol.example());
        let (text, zone) = split_zone(url);
        let uri =
            Uri::parse(text.as_str()).map_err(|error| syntax_error(url, &text, error.index(), protocol))?;
        let (is_secure, default_port) = match uri.scheme().as_str().to_ascii_lowercase().as_str() {
            scheme if scheme == plain => (false, 80),
            scheme if scheme == secure => (true, 443),
            scheme @ ("ws" | "http") => {
                return Err(format!("{url}: write {plain}:// instead of {scheme}://"));
            }
            scheme @ ("wss" | "https") => {
                return Err(format!("{url}: write {secure}:// instead of {scheme}://"));
            }
            other => {
                return Err(format!(
                    "{url}: `{other}` is not a scheme for this load; a URL begins with {plain}:// or {secure}://, as \
                     in {example}"
                ));
            }
        };
        let no_host = || format!("{url}: the host is missing; write it after `//`, as in {example}");
        let authority = uri.authority().ok_or_else(no_host)?;
        if authority.has_userinfo() {
            // The error text must not repeat the URL, because the URL may contain a password.
            return Err(
                "the URL has a user name or password before `@`, which loadgen does not send; remove it"
                    .to_owned(),
            );
        }
        if uri.fragment().is_some() {
            return Err(format!(
                "{url}: a fragment is not sent to a server; remove the part after `#`, or write `%23` for a `#` in \
                 the path"
            ));
        }
        let host = host(&authority, zone.as_deref()).map_err(|reason| format!("{url}: {reason}"))?;
        if host == UrlHost::Name(String::new()) {
            return Err(no_host());
        }
        let port = match authority.port_to_u16() {
            Ok(None) => default_port,
            Ok(Some(port @ 1..)) => port,
            Ok(Some(0)) | Err(_) => return Err(format!("{url}: a port is a number from 1 to 65535")),
        };
        let mut host_header = match &host {
            UrlHost::Name(name) => name.clone(),
            UrlHost::Address(..) => authority.host().to_ascii_lowercase(),
        };
        if port != default_port {
            host_header += &format!(":{port}");
        }
        // RFC 6455 §3: an empty path is `/`, and an empty query is left out.
        let path = Some(uri.path().as_str()).filter(|path| !path.is_empty()).unwrap_or("/");
        let query = uri.query().map(|query| query.as_str()).filter(|query| !query.is_empty());
        let resource = path.to_owned() + &query.map_or_else(String::new, |query| format!("?{query}"));
        Ok(Self { is_secure, host, port, host_header, resource })
    }

    /// Looks the host up. Returns each address once: IPv4 before IPv6, otherwise in the resolver's order.
    pub(crate) fn addresses(&self) -> Result<Vec<SocketAddr>, String> {
        let mut addresses = Vec::new();
        match &self.host {
            UrlHost::Address(IpAddr::V6(address), scope_id) => {
                addresses.push(SocketAddrV6::new(*address, self.port, 0, *scope_id).into());
            }
            UrlHost::Address(address, _) => addresses.push(SocketAddr::new(*address, self.port)),
            // RFC 6761 §6.3: `localhost` names always mean the loopback addresses. The resolver and /etc/hosts are not
            // asked.
            UrlHost::Name(name) if is_localhost(name) => {
                addresses.push((Ipv4Addr::LOCALHOST, self.port).into());
                addresses.push((Ipv6Addr::LOCALHOST, self.port).into());
            }
            UrlHost::Name(name) => {
                let found = (name.as_str(), self.port).to_socket_addrs();
                for address in found.map_err(|error| format!("the host `{name}` was not found: {error}"))? {
                    if !addresses.contains(&address) {
                        addresses.push(address);
                    }
                }
                if addresses.is_empty() {
                    return Err(format!("the host `{name}` has no address"));
                }
            }
        }
        addresses.sort_by_key(SocketAddr::is_ipv6);
        Ok(addresses)
    }

    /// Returns the name that the server's TLS certificate must have: a host name, or an IP address without brackets and
    /// zone.
    pub(crate) fn server_name(&self) -> String {
        match &self.host {
            UrlHost::Address(address, _) => address.to_string(),
            UrlHost::Name(name) => name.trim_end_matches('.').to_owned(),
        }
    }
}

/// Returns whether `name` is `localhost` or ends in `.localhost`.
fn is_localhost(name: &str) -> bool {
    name.trim_end_matches('.').rsplit('.').next() == Some("localhost")
}

/// Splits the zone off an IPv6 address in brackets, as in `[fe80::1%25eth0]` (RFC 6874) or `[fe80::1%eth0]`. Returns
/// the URL without the zone, and the zone.
///
/// The URL grammar of RFC 3986 has no zones, and a Host header must not contain a zone.
fn split_zone(url: &str) -> (String, Option<String>) {
    let unchanged = || (url.to_owned(), None);
    let Some(start) = url.find("://").map(|at| at + 3) else { return unchanged() };
    let end = url[start..].find(['/', '?', '#']).map_or(url.len(), |at| start + at);
    let authority = &url[start..end];
    let (Some(open), Some(close)) = (authority.find('['), authority.find(']')) else { return unchanged() };
    let Some(percent) = authority[..close].find('%').filter(|&percent| percent > open) else {
        return unchanged();
    };
    let written = &authority[percent + 1..close];
    let encoded = written.strip_prefix("25").filter(|rest| !rest.is_empty()).unwrap_or(written);
    let zone = percent_decode_str(encoded).decode_utf8_lossy().into_owned();
    (format!("{}{}", &url[..start + percent], &url[start + close..]), Some(zone))
}

fn host(authority: &Authority<'_>, zone: Option<&str>) -> Result<UrlHost, String> {
    match authority.host_parsed() {
        Host::Ipv4(address) => Ok(UrlHost::Address(address.into(), 0)),
        Host::Ipv6(address) => Ok(UrlHost::Address(address.into(), zone.map_or(Ok(0), scope_id)?)),
        Host::RegName(name) => {
            let decoded = name.decode().to_string().unwrap_or_default();
            let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
            if !decoded.bytes().all(is_plain) || (decoded.is_empty() && !name.is_empty()) {
                return Err(format!(
                    "the host `{name}` has characters that no host name has; write an international name in its \
                     ASCII form, which begins with `xn--`"
                ));
            }
            // A host name may end with a dot (RFC 3986 §3.2.2).
            let labels = decoded.strip_suffix('.').unwrap_or(&decoded);
            if !decoded.is_empty() && labels.split('.').any(str::is_empty) {
                return Err(format!("the host `{name}` has nothing between two dots; correct its name"));
            }
            Ok(UrlHost::Name(decoded.to_ascii_lowercase()))
        }
        _ => Err(format!("`{}` is neither an IPv4 nor an IPv6 address", authority.host())),
    }
}

/// Returns the index of the network interface whose name or number is `zone`.
fn scope_id(zone: &str) -> Result<u32, String> {
    let unknown = |_| format!("there is no network interface `{zone}`; `ip link` lists them");
    zone.parse().or_else(|_| if_nametoindex(zone).map_err(unknown))
}

/// Returns the error text for the character at `index` of `text`, where the URL's syntax is wrong.
fn syntax_error(url: &str, text: &str, index: usize, protocol: Protocol) -> String {
    let ([plain, secure], example) = (protocol.schemes(), protocol.example());
    if !url.contains("://") {
        return format!("{url}: a URL begins with {plain}:// or {secure}://, as in {example}");
    }
    match text.get(index..).and_then(|rest| rest.chars().next()) {
        Some('%') => {
            format!("{url}: `%` is not followed by two hexadecimal digits; write `%25` for a percent sign")
        }
        _ if text[..index].rfind('[') > text[..index].rfind(']') => {
            format!("{url}: the brackets do not hold an IPv6 address, as in ws://[::1]:8000/")
        }
        Some(symbol) => {
            let mut bytes = [0; 4];
            let encoded: String =
                symbol.encode_utf8(&mut bytes).bytes().map(|byte| format!("%{byte:02X}")).collect();
            format!(
                "{url}: `{symbol}` is not allowed at this place of a URL; write `{encoded}` in a path or query"
            )
        }
        None => format!("{url}: the URL is incomplete; an example is {example}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(url: &str) -> Url {
        Url::parse(url, Protocol::WebSocket).unwrap_or_else(|reason| panic!("{reason}"))
    }

    #[test]
    fn a_url_gives_host_port_and_resource_name() {
        for (url, host_header, port, resource) in [
            ("ws://127.0.0.1:8000/room/bench?x=1", "127.0.0.1:8000", 8000, "/room/bench?x=1"),
            ("ws://127.0.0.1:8000?x=1", "127.0.0.1:8000", 8000, "/?x=1"),
            ("ws://127.0.0.1:8000?", "127.0.0.1:8000", 8000, "/"),
            ("ws://127.0.0.1:8000/a?", "127.0.0.1:8000", 8000, "/a"),
            ("ws://127.0.0.1:8000", "127.0.0.1:8000", 8000, "/"),
            ("WS://LocalHost:8000/Room", "localhost:8000", 8000, "/Room"),
            ("ws://example.com/", "example.com", 80, "/"),
            ("ws://example.com:80/", "example.com", 80, "/"),
            ("ws://example.com:/", "example.com", 80, "/"),
            ("ws://example.com:443/", "example.com:443", 443, "/"),
            ("wss://example.com/", "example.com", 443, "/"),
            ("Wss://example.com:443/", "example.com", 443, "/"),
            ("wss://example.com:80/", "example.com:80", 80, "/"),
            ("ws://example.com:008000/", "example.com:8000", 8000, "/"),
            ("ws://ex%61mple.com/%7Eme/caf%c3%a9?q=%20&%26", "example.com", 80, "/%7Eme/caf%c3%a9?q=%20&%26"),
            ("ws://h/a;b=1,2/@:!$&'()*+,;=//?/?:@", "h", 80, "/a;b=1,2/@:!$&'()*+,;=//?/?:@"),
            ("ws://[::1]:8000/", "[::1]:8000", 8000, "/"),
            ("ws://[2001:DB8::1]", "[2001:db8::1]", 80, "/"),
            ("ws://[::ffff:127.0.0.1]/", "[::ffff:127.0.0.1]", 80, "/"),
        ] {
            let parts = parsed(url);
            assert_eq!(
                (parts.host_header.as_str(), parts.port, parts.resource.as_str()),
                (host_header, port, resource),
                "{url}"
            );
            assert_eq!(parts.is_secure, url.to_ascii_lowercase().starts_with("wss:"), "{url}");
        }
    }

    #[test]
    fn an_ipv6_zone_chooses_the_interface_and_stays_out_of_the_host_header() {
        let loopback = if_nametoindex("lo").expect("there is a loopback interface");
        for (zone, index) in
            [("%25lo", loopback), ("%lo", loopback), ("%257", 7), ("%7", 7), ("%25%6Co", loopback)]
        {
            let parts = parsed(&format!("ws://[fe80::1{zone}]:8000/a"));
            assert_eq!(parts.host_header, "[fe80::1]:8000", "{zone}");
            assert_eq!(parts.host, UrlHost::Address("fe80::1".parse().expect("an address"), index), "{zone}");
            let addresses = parts.addresses().expect("an address needs no lookup");
            assert!(
                matches!(addresses[..], [SocketAddr::V6(address)] if address.scope_id() == index),
                "{zone}"
            );
        }
    }

    #[test]
    fn an_error_names_the_part_that_is_wrong() {
        for (url, reason) in [
            ("http://127.0.0.1/", "write ws:// instead of http://"),
            ("HTTPS://127.0.0.1/", "write wss:// instead"),
            ("ftp://127.0.0.1/", "`ftp` is not a scheme for this load"),
            ("127.0.0.1:8000/room", "begins with ws:// or wss://"),
            ("localhost:8000/room", "begins with ws:// or wss://"),
            ("", "begins with ws:// or wss://"),
            ("ws:/path", "the host is missing"),
            ("ws:path", "the host is missing"),
            ("ws://", "the host is missing"),
            ("ws:///path", "the host is missing"),
            ("ws://:8000/", "the host is missing"),
            ("ws://me@127.0.0.1/", "user name or password"),
            ("ws://me:secret@127.0.0.1/", "user name or password"),
            ("ws://127.0.0.1/#top", "a fragment is not sent"),
            ("ws://127.0.0.1/?a#", "a fragment is not sent"),
            ("ws://127.0.0.1:65536/", "a port is a number"),
            ("ws://127.0.0.1:0/", "a port is a number"),
            ("ws://127.0.0.1:80a/", "`a` is not allowed"),
            ("ws://127.0.0.1/a b", "`%20`"),
            ("ws://127.0.0.1/café", "`%C3%A9`"),
            ("ws://127.0.0.1/%zz", "write `%25`"),
            ("ws://127.0.0.1/a\\b", "`%5C`"),
            ("ws://[::1/", "do not hold an IPv6 address"),
            ("ws://[::g]/", "do not hold an IPv6 address"),
            ("ws://[]/", "do not hold an IPv6 address"),
            ("ws://[v1.x]/", "neither an IPv4 nor an IPv6 address"),
            ("ws://[fe80::1%25nowhere]/", "no network interface `nowhere`"),
            ("ws://caf%C3%A9.example/", "`xn--`"),
            ("ws://a%20b/", "`xn--`"),
            ("ws://%ff/", "`xn--`"),
            ("ws://./", "nothing between two dots"),
            ("ws://a..b/", "nothing between two dots"),
            ("ws://.a/", "nothing between two dots"),
            ("ws://a../", "nothing between two dots"),
        ] {
            let fault = Url::parse(url, Protocol::WebSocket).expect_err(url);
            assert!(fault.contains(reason), "{url}: {fault}");
        }
        let fault =
            Url::parse("ws://me:secret@127.0.0.1/", Protocol::WebSocket).expect_err("it has a password");
        assert!(!fault.contains("secret"), "{fault}");
    }

    #[test]
    fn an_http_load_takes_http_urls_only() {
        let parse = |url| Url::parse(url, Protocol::Http);
        let parts = parse("http://Example.com/page?a=1").expect("it is an HTTP URL");
        assert_eq!(
            (parts.port, parts.is_secure, parts.host_header.as_str(), parts.resource.as_str()),
            (80, false, "example.com", "/page?a=1")
        );
        let parts = parse("https://127.0.0.1").expect("it is an HTTPS URL");
        assert_eq!((parts.port, parts.is_secure, parts.resource.as_str()), (443, true, "/"));
        for (url, reason) in [
            ("ws://127.0.0.1/", "write http:// instead of ws://"),
            ("wss://127.0.0.1/", "write https:// instead of wss://"),
            ("127.0.0.1/", "begins with http:// or https://"),
        ] {
            let fault = parse(url).expect_err(url);
            assert!(fault.contains(reason), "{url}: {fault}");
        }
    }

    #[test]
    fn any_text_is_a_url_for_a_request_line_or_an_error() {
        const PARTS: [&str; 24] = [
            "ws",
            "wss",
            "WS",
            ":",
            "//",
            "/",
            "?",
            "#",
            "@",
            "[",
            "]",
            "::1",
            "%",
            "%25",
            "%41",
            "lo",
            "h",
            ".",
            "80",
            "é",
            " ",
            "\r\n",
            "\\",
            "127.0.0.1",
        ];
        let mut rng = fastrand::Rng::with_seed(6455);
        for round in 0..50_000 {
            let start = if rng.bool() { "ws://" } else { "" };
            let rest: String = (0..rng.usize(..8)).map(|_| PARTS[rng.usize(..PARTS.len())]).collect();
            let url = start.to_owned() + &rest;
            let Ok(parts) = Url::parse(&url, Protocol::WebSocket) else { continue };
            let is_clean = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
            assert!(
                is_clean(&parts.resource) && parts.resource.starts_with('/'),
                "{round}: {url:?}: {parts:?}"
            );
            assert!(
                is_clean(&parts.host_header) && !parts.host_header.contains(['/', '@']),
                "{url:?}: {parts:?}"
            );
            assert!(parts.port > 0 && !parts.server_name().is_empty(), "{url:?}: {parts:?}");
        }
    }

    #[test]
    fn every_address_of_a_name_is_found_ipv4_first() {
        let both = ["127.0.0.1:8000", "[::1]:8000"].map(|text| text.parse().expect("it is an address"));
        for name in ["localhost", "LOCALHOST.", "a.localhost"] {
            let addresses = parsed(&format!("ws://{name}:8000/")).addresses();
            assert_eq!(addresses.as_deref(), Ok(&both[..]), "{name}");
        }
        assert!(!is_localhost("localhost.example") && !is_localhost("mylocalhost"));
        let unknown = parsed("ws://no-such-host.invalid/").addresses().expect_err("nobody has this name");
        assert!(unknown.contains("`no-such-host.invalid`"), "{unknown}");
    }
}
