//! The IP addresses and networks of trusted proxies.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;

/// An entry of `--trusted-proxies`: an IP address or an IP network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network(IpNet);

impl Network {
    /// Returns whether one of `networks` contains `address`. An IPv4-mapped IPv6 address counts as the IPv4 address.
    pub(crate) fn any_has(networks: &[Self], address: IpAddr) -> bool {
        let address = address.to_canonical();
        networks.iter().any(|network| network.0.contains(&address))
    }
}

impl FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let address = text.parse().map(|address: IpAddr| IpNet::from(address.to_canonical()));
        let network: IpNet = address.or_else(|_| text.parse()).map_err(|_| {
            "expected an address or a network, like 192.0.2.1, 10.0.0.0/8 or 2001:db8::/32".to_owned()
        })?;
        if network.addr().to_canonical() != network.addr() {
            return Err("write an IPv4 network in IPv4 form, like 10.0.0.0/8".into());
        }
        if network.trunc() != network {
            let (all, one) = (network.trunc(), network.addr());
            return Err(format!(
                "bits are set after the prefix; write {all} for the network, or {one} for this address alone"
            ));
        }
        Ok(Self(network))
    }
}

/// Writes a network in the form `ADDRESS/PREFIX`, and a network of one address as this address.
impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.prefix_len() == self.0.max_prefix_len() { self.0.addr().fmt(f) } else { self.0.fmt(f) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_has_the_addresses_of_all_its_networks() {
        let list = ["10.0.0.0/8", "192.0.2.1", "2001:db8::/32", "::1", "::ffff:192.0.2.9"];
        let networks = list.map(|text| text.parse().unwrap_or_else(|error| panic!("{text}: {error}")));
        for (address, expected) in [
            ("10.255.0.1", true),
            ("11.0.0.0", false),
            ("192.0.2.1", true),
            ("192.0.2.2", false),
            ("192.0.2.9", true),
            ("::ffff:10.0.0.1", true),
            ("2001:db8:ffff::1", true),
            ("2001:db9::1", false),
            ("::1", true),
            ("::2", false),
        ] {
            assert_eq!(Network::any_has(&networks, address.parse().expect(address)), expected, "{address}");
        }
        assert!(!Network::any_has(&[], IpAddr::from([127, 0, 0, 1])));
        assert!(Network::any_has(&["0.0.0.0/0".parse().expect("all")], IpAddr::from([1, 2, 3, 4])));
    }

    #[test]
    fn networks_are_shown_as_they_are_written() {
        for text in ["10.0.0.0/8", "192.0.2.1", "2001:db8::/32", "::1"] {
            assert_eq!(text.parse::<Network>().map(|network| network.to_string()).as_deref(), Ok(text));
        }
    }

    #[test]
    fn what_is_no_network_is_refused_with_a_way_out() {
        for (text, part) in [
            ("", "like 192.0.2.1"),
            ("proxy.example", "10.0.0.0/8"),
            ("10.0.0.0/33", "expected"),
            ("10.0.0.1:80", "expected"),
            ("10.0.0.1/8", "write 10.0.0.0/8 for the network, or 10.0.0.1 for"),
            ("2001:db8::1/32", "write 2001:db8::/32"),
            ("::ffff:10.0.0.0/104", "like 10.0.0.0/8"),
        ] {
            let error = text.parse::<Network>().expect_err(text);
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
