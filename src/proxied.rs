//! Strips PROXY protocol headers from the connections of trusted proxies.
//!
//! A connection from a trusted proxy is reported when it is accepted, so limits and deadlines apply to the header, too.
//! The layer reports none of its bytes before the header is complete. Then the layer reports the client that the header
//! names, and the bytes that follow the header.

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use crate::config::Network;
use crate::io::{Backend, Buffer, IoEvent, Slot, canonical};
use crate::protocol::proxy_header::{MAX_HEADER_LEN, ProxyHeader, Source};
use crate::transport::Event;

/// The transport layer that reads PROXY headers.
pub(crate) struct ProxyLayer {
    trusted: Arc<Trusted>,
    /// The received parts of incomplete PROXY headers, by slot. Holds every connection whose header is still awaited.
    awaited: HashMap<Slot, Vec<u8>>,
}

/// An event about a PROXY header. `slot` names the connection.
#[derive(Debug)]
pub(crate) enum ProxyEvent {
    /// The PROXY header is complete. `peer` is the client's address, or `None` when the proxy hides it.
    Client { slot: Slot, peer: Option<SocketAddr> },
    /// The connection does not begin with a valid PROXY header; `reason` says why. The layer still reports the
    /// connection's bytes, which the caller must ignore.
    Invalid { slot: Slot, reason: &'static str },
}

/// The replaceable list of trusted proxies' networks. Connections from these networks begin with a PROXY header. All
/// shards share the list.
#[derive(Debug, Default)]
pub(crate) struct Trusted(Mutex<Arc<[Network]>>);

impl Trusted {
    /// Makes a list of these trusted networks.
    pub(crate) fn new(networks: &[Network]) -> Self {
        Self(Mutex::new(networks.into()))
    }

    /// Replaces the trusted networks for connections that are accepted from now on.
    pub(crate) fn replace(&self, networks: &[Network]) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = networks.into();
    }

    fn has(&self, address: IpAddr) -> bool {
        let networks = Arc::clone(&self.0.lock().unwrap_or_else(PoisonError::into_inner));
        Network::any_has(&networks, address)
    }
}

impl ProxyLayer {
    /// Makes a PROXY layer for the connections of `trusted` proxies.
    pub(crate) fn new(trusted: Arc<Trusted>) -> Self {
        Self { trusted, awaited: HashMap::new() }
    }

    /// Handles an event of the backend. Appends the resulting events to `events`.
    pub(crate) fn handle(&mut self, backend: &mut impl Backend, event: IoEvent, events: &mut Vec<Event>) {
        match event {
            IoEvent::Accepted { slot, peer, .. } => {
                // Only proxies connect through a Unix socket.
                if peer.is_none_or(|peer| self.trusted.has(peer.ip())) {
                    self.awaited.insert(slot, Vec::new());
                }
                events.push(event.into());
            }
            IoEvent::Received { slot, buffer } => match self.awaited.remove(&slot) {
                None => events.push(IoEvent::Received { slot, buffer }.into()),
                Some(part) => self.received(backend, slot, part, buffer, events),
            },
            IoEvent::Closed { slot } => {
                self.awaited.remove(&slot);
                events.push(event.into());
            }
            other => events.push(other.into()),
        }
    }

    /// Handles bytes of a connection whose PROXY header is not complete yet. `part` is the beginning of the header.
    fn received(
        &mut self,
        backend: &mut impl Backend,
        slot: Slot,
        mut part: Vec<u8>,
        mut buffer: Buffer,
        events: &mut Vec<Event>,
    ) {
        let part_len = part.len();
        let input = buffer.bytes_mut();
        part.extend_from_slice(&input[..input.len().min(MAX_HEADER_LEN - part_len)]);
        match ProxyHeader::parse(&part) {
            Ok(Some(ProxyHeader { len, source })) => {
                let client = match source {
                    // The proxy itself is the client, for instance in a health check.
                    Source::Proxy => None,
                    Source::Hidden => Some(ProxyEvent::Client { slot, peer: None }),
                    Source::Client(peer) => Some(ProxyEvent::Client { slot, peer: Some(canonical(peer)) }),
                };
                events.extend(client.map(Event::Proxy));
                buffer.skip(len - part_len);
                if !buffer.bytes_mut().is_empty() {
                    return events.push(IoEvent::Received { slot, buffer }.into());
                }
            }
            Ok(None) => {
                self.awaited.insert(slot, part);
            }
            Err(why) => events.push(ProxyEvent::Invalid { slot, reason: why.0 }.into()),
        }
        backend.recycle(buffer);
    }
}
