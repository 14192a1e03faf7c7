//! The server under load: its name, its addresses, and the spread of connections over the addresses.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};

use serde::{Deserialize, Serialize};

use crate::url::{Protocol, Url};

/// The server under load that a run's URL names.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
pub(crate) struct Target {
    /// The protocol that connections to the server speak.
    pub(crate) protocol: Protocol,
    /// The value of the Host header.
    pub(crate) host: String,
    /// Path and query of the request line.
    pub(crate) resource: String,
    /// Whether connections to the server use TLS.
    pub(crate) is_secure: bool,
    /// The host name or IP address that the server's certificate must have.
    pub(crate) server_name: String,
    /// The addresses of the host, in the order of connection attempts. The list is not empty.
    addresses: Vec<SocketAddr>,
    destinations: u32,
}

impl Target {
    /// Parses a URL of `protocol` and looks up the addresses of its host.
    pub(crate) fn parse(url: &str, protocol: Protocol) -> Result<Self, String> {
        let parts = Url::parse(url, protocol)?;
        let addresses = parts.addresses().map_err(|reason| format!("{url}: {reason}"))?;
        let (is_secure, server_name) = (parts.is_secure, parts.server_name());
        let Url { host_header: host, resource, .. } = parts;
        Ok(Self { protocol, host, resource, is_secure, server_name, addresses, destinations: 1 })
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

    /// Returns the number of destinations that `connections` need when each destination has `ports` local ports.
    pub(crate) fn destinations_for(&self, connections: usize, ports: usize) -> u32 {
        if self.first_loopback().is_none() { 1 } else { connections.div_ceil(ports).max(1) as u32 }
    }

    /// Returns the number of addresses of the host.
    pub(crate) fn address_count(&self) -> usize {
        self.addresses.len()
    }

    /// Returns the destination of connection `id` when the connection uses the host's address number `index`.
    pub(crate) fn address(&self, index: usize, id: usize) -> SocketAddr {
        let address = self.addresses[index];
        match loopback(address) {
            Some(first) if self.is_spread(index, id) => {
                let offset = (id % self.destinations as usize) as u32;
                // In 127.0.0.0/8, addresses that end in 0 or 255 are usable.
                let spread = Ipv4Addr::from_bits(first.to_bits() + offset);
                SocketAddr::new(IpAddr::V4(spread), address.port())
            }
            _ => address,
        }
    }

    /// Returns whether connection `id` goes to another address than the host's address number `index`.
    pub(crate) fn is_spread(&self, index: usize, id: usize) -> bool {
        loopback(self.addresses[index]).is_some() && !id.is_multiple_of(self.destinations as usize)
    }

    /// Returns whether an address of the host belongs to this machine.
    pub(crate) fn is_local(&self) -> bool {
        // Only an address of this machine can be bound.
        self.addresses.iter().any(|address| TcpListener::bind((address.ip(), 0)).is_ok())
    }

    pub(crate) fn port(&self) -> u16 {
        self.addresses[0].port()
    }

    fn first_loopback(&self) -> Option<Ipv4Addr> {
        self.addresses.iter().copied().find_map(loopback)
    }
}

/// Returns the IPv4 address if it is in 127.0.0.0/8.
fn loopback(address: SocketAddr) -> Option<Ipv4Addr> {
    match address.ip() {
        IpAddr::V4(address) if address.is_loopback() => Some(address),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_spread_over_the_loopback_network_only() {
        let mut target =
            Target::parse("ws://127.0.0.1:8000/", Protocol::WebSocket).expect("it is a good URL");
        assert_eq!(target.destinations_for(28_000, 14_000), 2);
        target.spread(300).expect("it is a loopback address");
        assert_eq!(target.address(0, 299), SocketAddr::from(([127, 0, 1, 44], 8000)));
        assert_eq!(target.address(0, 300), SocketAddr::from(([127, 0, 0, 1], 8000)));
        let mut six = Target::parse("ws://[::1]:8000/", Protocol::WebSocket).expect("it is a good URL");
        assert_eq!(six.destinations_for(28_000, 14_000), 1);
        assert!(six.spread(2).is_err());
    }

    #[test]
    fn a_local_address_can_be_bound() {
        let is_local = |url| Target::parse(url, Protocol::WebSocket).expect("it is a good URL").is_local();
        assert!(is_local("ws://127.0.0.1:8000/") && is_local("ws://localhost:8000/"));
        // RFC 5737: 192.0.2.0/24 is for documentation, so no machine has an address in it.
        assert!(!is_local("ws://192.0.2.1:8000/"));
    }

    #[test]
    fn an_ipv6_address_is_never_spread() {
        let mut target =
            Target::parse("ws://127.0.0.1:8000/", Protocol::WebSocket).expect("it is a good URL");
        target.addresses.push("[::1]:8000".parse().expect("it is an address"));
        target.spread(300).expect("it is a loopback address");
        assert_eq!(target.address(1, 299), target.addresses[1]);
        assert!(!target.is_spread(1, 299));
    }
}
