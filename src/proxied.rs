//! Takes PROXY protocol headers off the connections of trusted proxies.
//!
//! Such a connection is reported when it is accepted, so that limits and deadlines hold for the header, too. Nothing
//! that it sends goes up before the header is complete. Then the layer reports the client that the header names, and
//! the bytes that follow the header.

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use crate::config::Network;
use crate::io::{Backend, Buffer, IoEvent, Slot, canonical};
use crate::protocol::proxy_header::{MAX_HEADER_LEN, ProxyHeader, Source};
use crate::transport::Event;

/// The layer that reads PROXY headers.
pub(crate) struct ProxyLayer {
    trusted: Arc<Trusted>,
    /// The beginnings of headers that are not complete, by slot. Holds every connection whose header is awaited.
    awaited: HashMap<Slot, Vec<u8>>,
}

/// An event about a PROXY header. `slot` is the connection that it is about.
#[derive(Debug)]
pub(crate) enum ProxyEvent {
    /// The header is complete. `peer` is the client's address, or `None` when the proxy hides it.
    Client { slot: Slot, peer: Option<SocketAddr> },
    /// The connection does not begin with a valid header; `reason` says why. The bytes that it sends from now on are
    /// reported and must be ignored.
    Invalid { slot: Slot, reason: &'static str },
}

/// The networks of the proxies whose connections begin with a header. All shards share it, and it can be replaced.
#[derive(Debug, Default)]
pub(crate) struct Trusted(Mutex<Arc<[Network]>>);

impl Trusted {
    /// Trusts these networks.
    pub(crate) fn new(networks: &[Network]) -> Self {
        Self(Mutex::new(networks.into()))
    }

    /// Replaces the networks for connections that are accepted from now on.
    pub(crate) fn replace(&self, networks: &[Network]) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = networks.into();
    }

    fn has(&self, address: IpAddr) -> bool {
        let networks = Arc::clone(&self.0.lock().unwrap_or_else(PoisonError::into_inner));
        Network::any_has(&networks, address)
    }
}

impl ProxyLayer {
    /// A layer for the connections of these proxies.
    pub(crate) fn new(trusted: Arc<Trusted>) -> Self {
        Self { trusted, awaited: HashMap::new() }
    }

    /// Handles an event of the backend, and appends the events that result from it.
    pub(crate) fn handle(&mut self, backend: &mut impl Backend, event: IoEvent, events: &mut Vec<Event>) {
        match event {
            IoEvent::Accepted { slot, peer, .. } => {
                // Only proxies connect by a Unix socket.
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

    /// Handles bytes of a connection whose header is not complete yet. `part` is the beginning of the header.
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
                    // The proxy speaks for itself, for instance in a health check.
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
