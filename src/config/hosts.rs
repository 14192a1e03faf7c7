//! The host names of the server, as a defence against DNS rebinding. In this attack, a foreign page points its own host
//! name to a local server's address. Then the page's origin and the Host header are equal.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use super::origins::{Quoted, split_port};
use super::{Endpoint, Options, Origin};

/// An entry of `--server-names`: a host name of the server, or a pattern of host names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerName {
    /// Allows every host name (`*`).
    Any,
    /// Allows one host name. The text is in lower case.
    Exactly(String),
    /// Allows all subdomains of a host name. The text is this name in lower case behind a dot.
    Below(String),
}

const EXPECTED: &str = "expected a host name like chat.example.org or *.example.org, without a scheme or port, or * for \
                        all of them";

impl FromStr for ServerName {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "*" {
            return Ok(Self::Any);
        }
        let (is_below, name) = text.strip_prefix("*.").map_or((false, text), |name| (true, name));
        match split_port(name) {
            Some((name, None)) if !name.is_empty() && !name.starts_with('.') => Ok(match is_below {
                true => Self::Below(format!(".{name}")),
                false => Self::Exactly(name.trim_end_matches('.').into()),
            }),
            _ => Err(EXPECTED),
        }
    }
}

impl ServerName {
    fn matches(&self, name: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Exactly(own) => own == name,
            Self::Below(end) => name.len() > end.len() && name.ends_with(&**end),
        }
    }
}

/// The host names of the server, from the settings `--server-names` and `--allowed-origins`.
#[derive(Clone, Debug)]
pub(crate) struct HostNames {
    names: Vec<ServerName>,
    origins: Vec<Origin>,
}

impl HostNames {
    pub(crate) fn new(options: &Options) -> Self {
        Self { names: options.server_names.clone(), origins: options.allowed_origins.clone() }
    }

    /// Returns whether `--server-names` is set.
    pub(crate) fn has_list(&self) -> bool {
        !self.names.is_empty()
    }

    /// Returns whether the Host header `host` names this server. `is_local` means that the listener has a loopback or
    /// private address. Without `--server-names`, such a listener accepts the hosts of `--allowed-origins`, and other
    /// listeners accept any name. IP addresses and `localhost` are always accepted.
    pub(crate) fn is_own(&self, host: Option<&str>, is_local: bool) -> bool {
        if !self.has_list() && !is_local {
            return true;
        }
        let Some((host, _)) = host.and_then(split_port) else { return false };
        let name = host.strip_suffix('.').unwrap_or(&host);
        // DNS cannot point an IP address or `localhost` to another host (RFC 6761 §6.3).
        if is_address(name) || name == "localhost" || name.ends_with(".localhost") {
            return true;
        }
        match self.has_list() {
            true => self.names.iter().any(|own| own.matches(name)),
            false => self.origins.iter().any(|origin| origin.has_host(name)),
        }
    }
}

/// Returns the response body for a request with a foreign host name.
pub(crate) fn foreign_host(host: Option<&str>) -> String {
    let host = Quoted(host.unwrap_or_default().as_bytes());
    format!("This server does not have the host name {host}; add the name to --server-names of the server.")
}

fn is_address(host: &str) -> bool {
    host.starts_with('[') || host.parse::<Ipv4Addr>().is_ok()
}

/// Returns whether `endpoint` is a TCP endpoint that only this host or a private network can reach.
pub(crate) fn is_local(endpoint: &Endpoint) -> bool {
    endpoint.tcp().is_some_and(|address| is_local_address(address.ip()))
}

/// Returns whether `address` is a loopback, private or link-local address.
pub(crate) fn is_local_address(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(address) => address.is_loopback() || address.is_private() || address.is_link_local(),
        IpAddr::V6(address) => {
            address == Ipv6Addr::LOCALHOST || address.is_unique_local() || address.is_unicast_link_local()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accepts(host: &str, names: &[&str], origins: &[&str], is_local: bool) -> bool {
        let names: Vec<ServerName> = names.iter().map(|text| text.parse().expect(text)).collect();
        let origins: Vec<Origin> = origins.iter().map(|text| text.parse().expect(text)).collect();
        HostNames { names, origins }.is_own(Some(host), is_local)
    }

    #[test]
    fn a_local_listener_accepts_addresses_and_localhost_only() {
        for (host, expected) in [
            ("127.0.0.1:8000", true),
            ("192.168.1.5", true),
            ("[::1]:8000", true),
            ("[::1]", true),
            ("localhost", true),
            ("LocalHost:8000", true),
            ("localhost.:8000", true),
            ("uproar.localhost:8000", true),
            ("evil.example", false),
            ("evil.example:8000", false),
            ("127.0.0.1.evil.example", false),
            ("localhost.evil.example", false),
            ("notlocalhost", false),
            ("1.2.3", false),
            ("", false),
        ] {
            assert_eq!(accepts(host, &[], &[], true), expected, "{host}");
            assert!(accepts(host, &[], &[], false), "{host}");
        }
        let none = HostNames::new(&Options::default());
        assert!(!none.is_own(None, true) && none.is_own(None, false));
    }

    #[test]
    fn the_names_of_allowed_origins_are_own_names_without_a_list() {
        let origins = ["https://chat.example:8443", "https://*.example.org", "null"];
        for (host, expected) in [
            ("chat.example", true),
            ("Chat.Example.:1", true),
            ("a.example.org", true),
            ("example.org", false),
            ("evil.example", false),
            ("null", false),
        ] {
            assert_eq!(accepts(host, &[], &origins, true), expected, "{host}");
        }
        assert!(accepts("evil.example", &[], &["*"], true));
        assert!(!accepts("chat.example", &["other.example"], &origins, true), "the list is complete");
    }

    #[test]
    fn a_list_holds_on_every_listener() {
        for is_local in [true, false] {
            for (host, expected) in [
                ("chat.example", true),
                ("CHAT.example:443", true),
                ("chat.example.", true),
                ("a.b.example.org", true),
                ("example.org", false),
                ("evil.example", false),
                ("127.0.0.1", true),
                ("localhost", true),
            ] {
                let names = ["Chat.Example", "*.example.org"];
                assert_eq!(accepts(host, &names, &[], is_local), expected, "{host}");
            }
            assert!(accepts("anything.example", &["*"], &[], is_local));
        }
    }

    #[test]
    fn loopback_and_private_addresses_are_local() {
        for (address, expected) in [
            ("127.0.0.1", true),
            ("127.9.9.9", true),
            ("10.0.0.1", true),
            ("172.16.0.1", true),
            ("192.168.0.1", true),
            ("169.254.0.1", true),
            ("::1", true),
            ("fd00::1", true),
            ("fe80::1", true),
            ("::ffff:127.0.0.1", true),
            ("0.0.0.0", false),
            ("::", false),
            ("192.0.2.1", false),
            ("172.32.0.1", false),
            ("2001:db8::1", false),
        ] {
            assert_eq!(is_local_address(address.parse().expect(address)), expected, "{address}");
        }
    }

    #[test]
    fn a_text_that_is_no_host_name_is_refused() {
        for text in ["", "a:80", "https://a", "a/b", "*.", "*a.org", "a b", ".a", "*..a", "a,b"] {
            assert_eq!(text.parse::<ServerName>(), Err(EXPECTED), "{text}");
        }
    }
}
