//! Where the load goes.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs as _};

use serde::{Deserialize, Serialize};

/// A server as its URL names it, and how connections spread over addresses that lead to it.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
pub(crate) struct Target {
    /// For the Host header.
    pub(crate) host: String,
    /// Path and query.
    pub(crate) path: String,
    address: SocketAddr,
    destinations: u32,
}

impl Target {
    /// Reads a `ws://` URL and looks its host up.
    pub(crate) fn parse(url: &str) -> Result<Self, String> {
        let Some(rest) = url.strip_prefix("ws://") else {
            return Err(if url.starts_with("wss://") {
                format!("{url}: TLS is not supported; measure the plain port")
            } else {
                format!("{url}: a URL begins with ws://, as in ws://127.0.0.1:8000/room/bench")
            });
        };
        let (host, path) = rest.find('/').map_or((rest, "/"), |at| rest.split_at(at));
        if path.bytes().any(|byte| !byte.is_ascii_graphic()) {
            return Err(format!("{url}: the path has characters that must be percent-encoded"));
        }
        let has_port = host.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
        let lookup = if has_port { host.to_owned() } else { format!("{host}:80") };
        let address = lookup
            .to_socket_addrs()
            .map_err(|error| format!("{url}: {error}"))?
            .min_by_key(SocketAddr::is_ipv6)
            .ok_or_else(|| format!("{url}: the host has no address"))?;
        Ok(Self { host: host.to_owned(), path: path.to_owned(), address, destinations: 1 })
    }

    /// Spreads the connections over `destinations` addresses of 127.0.0.0/8.
    pub(crate) fn spread(&mut self, destinations: u32) -> Result<(), String> {
        if destinations > 1 && self.first_loopback().is_none() {
            let host = &self.host;
            return Err(format!("--destinations needs a URL with an address of 127.0.0.0/8, not {host}"));
        }
        self.destinations = destinations;
        Ok(())
    }

    /// How many destinations `connections` need, at `ports` each.
    pub(crate) fn destinations_for(&self, connections: usize, ports: usize) -> u32 {
        if self.first_loopback().is_none() { 1 } else { connections.div_ceil(ports).max(1) as u32 }
    }

    /// Where connection `id` goes.
    pub(crate) fn address(&self, id: usize) -> SocketAddr {
        match self.first_loopback() {
            Some(first) if self.is_spread(id) => {
                let offset = (id % self.destinations as usize) as u32;
                // Addresses that end in 0 or 255 are as good as others in 127.0.0.0/8.
                SocketAddr::new(
                    IpAddr::V4(Ipv4Addr::from_bits(first.to_bits() + offset)),
                    self.address.port(),
                )
            }
            _ => self.address,
        }
    }

    /// Whether connection `id` goes to another address than that of the URL.
    pub(crate) fn is_spread(&self, id: usize) -> bool {
        !id.is_multiple_of(self.destinations as usize)
    }

    pub(crate) fn port(&self) -> u16 {
        self.address.port()
    }

    fn first_loopback(&self) -> Option<Ipv4Addr> {
        match self.address.ip() {
            IpAddr::V4(address) if address.is_loopback() => Some(address),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_taken_apart() {
        let target = Target::parse("ws://127.0.0.1:8000/room/bench?x=1").expect("it is a good URL");
        assert_eq!((target.host.as_str(), target.path.as_str()), ("127.0.0.1:8000", "/room/bench?x=1"));
        assert_eq!(target.address(7), SocketAddr::from(([127, 0, 0, 1], 8000)));
        let bare = Target::parse("ws://[::1]").expect("it is a good URL");
        assert_eq!((bare.path.as_str(), bare.port()), ("/", 80));
        for wrong in ["wss://127.0.0.1/", "http://127.0.0.1/", "ws://127.0.0.1/a b", "ws://"] {
            assert!(Target::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn connections_spread_over_the_loopback_net_alone() {
        let mut target = Target::parse("ws://127.0.0.1:8000/").expect("it is a good URL");
        assert_eq!(target.destinations_for(28_000, 14_000), 2);
        target.spread(300).expect("it is a loopback address");
        assert_eq!(target.address(299), SocketAddr::from(([127, 0, 1, 44], 8000)));
        assert_eq!(target.address(300), SocketAddr::from(([127, 0, 0, 1], 8000)));
        let mut six = Target::parse("ws://[::1]:8000/").expect("it is a good URL");
        assert_eq!(six.destinations_for(28_000, 14_000), 1);
        assert!(six.spread(2).is_err());
    }
}
