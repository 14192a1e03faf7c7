//! Endpoints: addresses and paths that the server listens on.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

/// Prefix of an endpoint that is the path of a Unix socket.
const UNIX: &str = "unix:";
/// Prefix of an endpoint that is the address of a TLS listener.
const TLS: &str = "tls:";

/// An address or path that the server listens on.
///
/// ```
/// use uproar::config::Endpoint;
///
/// assert_eq!("[::1]:8000".parse(), Ok(Endpoint::Tcp("[::1]:8000".parse().unwrap())));
/// assert_eq!("tls:0.0.0.0:8443".parse(), Ok(Endpoint::Tls("0.0.0.0:8443".parse().unwrap())));
/// assert_eq!("unix:/run/uproar.sock".parse(), Ok(Endpoint::Unix("/run/uproar.sock".into())));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// An IP address and a TCP port without TLS. Port 0 is any free port.
    Tcp(SocketAddr),
    /// An IP address and a TCP port with TLS. Port 0 is any free port.
    Tls(SocketAddr),
    /// The path of a Unix socket to listen on.
    Unix(PathBuf),
}

impl Endpoint {
    /// Returns the IP address and port of the endpoint, or `None` for a Unix socket.
    pub fn tcp(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(address) | Self::Tls(address) => Some(*address),
            Self::Unix(_) => None,
        }
    }

    /// Returns whether the endpoint uses TLS.
    pub fn has_tls(&self) -> bool {
        matches!(self, Self::Tls(_))
    }

    /// Returns an endpoint of this kind (with or without TLS) on another address. A Unix socket keeps its path.
    pub(crate) fn at(&self, address: SocketAddr) -> Self {
        match self {
            Self::Tcp(_) => Self::Tcp(address),
            Self::Tls(_) => Self::Tls(address),
            Self::Unix(path) => Self::Unix(path.clone()),
        }
    }

    /// Returns whether two endpoints cannot both be listened on: both have the same path, or the same port and
    /// overlapping addresses. Port 0 never overlaps, since each use is another port.
    pub(super) fn overlaps(&self, other: &Self) -> bool {
        let (Some(first), Some(second)) = (self.tcp(), other.tcp()) else { return self == other };
        let covers =
            |all: SocketAddr, one: SocketAddr| all.ip().is_unspecified() && (all.is_ipv6() || one.is_ipv4());
        let is_same = first.ip() == second.ip() || covers(first, second) || covers(second, first);
        is_same && first.port() == second.port() && first.port() != 0
    }
}

impl FromStr for Endpoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(address) = text.strip_prefix(TLS) {
            let wanted = "expected an address and a port after tls:, like tls:0.0.0.0:8443 or tls:[::]:8443";
            return address.parse().map(Self::Tls).map_err(|_| wanted.into());
        }
        match text.strip_prefix(UNIX) {
            Some("") => Err("expected a path after unix:, like unix:/run/uproar.sock".into()),
            Some(path) => Ok(Self::Unix(path.into())),
            None => text.parse().map(Self::Tcp).map_err(|_| {
                "expected an address and a port, like 127.0.0.1:8000 or [::1]:8000, one with TLS, like \
                 tls:0.0.0.0:8443, or a path, like unix:/run/uproar.sock"
                    .into()
            }),
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Tls(address) => write!(f, "{TLS}{address}"),
            Self::Unix(path) => write!(f, "{UNIX}{}", path.display()),
        }
    }
}

impl From<SocketAddr> for Endpoint {
    fn from(address: SocketAddr) -> Self {
        Self::Tcp(address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(text: &str) -> Endpoint {
        text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn endpoints_are_shown_as_they_are_written() {
        for text in ["127.0.0.1:8000", "[::1]:1", "tls:[::]:8443", "unix:/run/uproar.sock", "unix:here"] {
            assert_eq!(endpoint(text).to_string(), text);
        }
        for text in ["unix:", "tls:", "tls:8443", "tls:unix:a", "/run/uproar.sock", "127.0.0.1"] {
            assert!(text.parse::<Endpoint>().is_err_and(|error| error.contains("like")), "{text}");
        }
    }

    #[test]
    fn endpoints_overlap_when_they_are_the_same_or_one_is_all_addresses_of_a_family() {
        for (first, second, both) in [
            ("127.0.0.1:1", "127.0.0.1:1", true),
            ("127.0.0.1:1", "127.0.0.1:2", false),
            ("127.0.0.1:1", "127.0.0.2:1", false),
            ("127.0.0.1:0", "127.0.0.1:0", false),
            ("0.0.0.0:1", "127.0.0.1:1", true),
            ("0.0.0.0:1", "[::1]:1", false),
            ("[::]:1", "127.0.0.1:1", true),
            ("[::]:1", "0.0.0.0:1", true),
            ("[::]:1", "[::1]:1", true),
            ("tls:127.0.0.1:1", "127.0.0.1:1", true),
            ("tls:0.0.0.0:1", "tls:127.0.0.1:2", false),
            ("unix:/a", "unix:/a", true),
            ("unix:/a", "unix:/b", false),
            ("unix:/a", "127.0.0.1:1", false),
        ] {
            for (first, second) in [(first, second), (second, first)] {
                assert_eq!(endpoint(first).overlaps(&endpoint(second)), both, "{first} and {second}");
            }
        }
    }
}
