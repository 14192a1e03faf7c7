//! The client's address of a connection: its peer, or the client that a trusted proxy names.
//!
//! Connections of trusted proxies do not count against the limit per address. Once a PROXY header, or a header field of
//! the request, names the client, the connection has the client's address and counts for it.

use std::net::IpAddr;

use tracing::debug;

use crate::config::Network;
use crate::hub::Slot;
use crate::io::Backend;
use crate::protocol::{Refusal, Request, Status, forwarded};
use crate::stats::Refused;

use super::Shard;
use super::admission::Place;
use super::connection::{Connection, HostRule, Phase};

impl<B: Backend> Shard<B> {
    /// Returns whether an address belongs to a trusted proxy.
    pub(super) fn is_proxy(&self, address: IpAddr) -> bool {
        Network::any_has(&self.settings.proxies, address)
    }

    /// Returns the rule for checking the Host header on a connection that the listener with this index has accepted.
    pub(super) fn host_rule(&self, listener: u16, peer: Option<IpAddr>) -> HostRule {
        if peer.is_none_or(|peer| self.is_proxy(peer)) {
            HostRule::Proxied
        } else if self.settings.local_listeners.get(usize::from(listener)) == Some(&true) {
            HostRule::Local
        } else {
            HostRule::Public
        }
    }

    /// Handles a PROXY header. It names the client or another proxy as `peer`, or hides the client (`None`).
    pub(super) fn proxy_header(&mut self, slot: Slot, peer: Option<IpAddr>) {
        let connection = &mut self.connections[slot as usize];
        if connection.phase != Phase::Handshake {
            return;
        }
        if let Some(peer) = peer {
            self.set_peer(slot, peer, None);
        } else {
            self.shared.admission.relocate(connection.peer, connection.place, None, None);
            connection.place = Place::Hidden;
        }
    }

    /// Refuses a connection of a trusted proxy whose PROXY header is missing or invalid.
    pub(super) fn invalid_proxy_header(&mut self, slot: Slot, reason: &'static str) {
        if self.connections[slot as usize].phase == Phase::Handshake {
            self.refuse(slot, Refused::ProxyHeader, &Refusal::new(Status::BadRequest, reason));
        }
    }

    /// Finds the client of a request in the header fields of trusted proxies. Refuses the connection when the client's
    /// address has too many connections, or when header fields name different clients.
    pub(super) fn find_client(&mut self, slot: Slot, request: &Request<'_>) {
        let Connection { peer, place, .. } = self.connections[slot as usize];
        // A connection without an address came over a Unix socket, whose peers are always trusted.
        if place == Place::Hidden || peer.is_some_and(|peer| !self.is_proxy(peer)) {
            return;
        }
        match forwarded::client(request, peer, |address| self.is_proxy(address)) {
            Ok(client) if client == peer => {}
            Ok(client) => client.into_iter().for_each(|client| self.set_peer(slot, client, Some(request))),
            Err(refusal) => {
                let refusal = Refusal { head_only: request.is_head(), ..refusal };
                self.refuse(slot, Refused::Forwarded, &refusal);
            }
        }
    }

    /// Sets the client address that a proxy named in a PROXY header or in a `request`, and counts the connection for that
    /// address.
    fn set_peer(&mut self, slot: Slot, peer: IpAddr, request: Option<&Request<'_>>) {
        let counts = !self.is_proxy(peer);
        let now_ns = self.transport.now_ns();
        let connection = &mut self.connections[slot as usize];
        let proxy = connection.peer.replace(peer);
        debug!(slot, proxy = proxy.map(display), client = %peer, "a proxy names its client");
        // Later requests on a proxy's connection are no new connections of their clients, but a WebSocket is one.
        let is_new =
            connection.place != Place::Reused || request.is_some_and(|request| request.upgrade.is_some());
        let admission = &self.shared.admission;
        let to = counts.then_some(peer);
        connection.place = admission.relocate(proxy, connection.place, to, is_new.then_some(now_ns));
        self.handshakes.move_to(slot, peer);
        if let Place::Over(excess) = self.connections[slot as usize].place {
            self.turn_away(slot, excess, request.is_some_and(Request::is_head));
        }
    }

    /// Gives a connection of a trusted proxy the address back that it had before the last request, `proxy`. The next
    /// request may be another client's.
    pub(super) fn return_to_proxy(&mut self, slot: Slot, proxy: Option<IpAddr>) {
        let connection = &mut self.connections[slot as usize];
        if connection.peer != proxy {
            self.shared.admission.relocate(connection.peer, connection.place, None, None);
            connection.place = Place::Reused;
            connection.peer = proxy;
        }
    }
}
