//! Who a connection is from: its peer or, where that is a proxy that is trusted, the client that it names.
//!
//! A proxy counts for no address. Its client does as soon as it is named, by a PROXY header before the request or by the
//! request's own header fields, and is from then on what the connection is from.

use std::net::IpAddr;

use tracing::debug;

use crate::config::Network;
use crate::hub::Slot;
use crate::io::Backend;
use crate::protocol::{Refusal, Request, Status, forwarded};
use crate::stats::Refused;

use super::Shard;
use super::admission::Place;
use super::connection::{Connection, Phase};

impl<B: Backend> Shard<B> {
    pub(super) fn is_proxy(&self, address: IpAddr) -> bool {
        Network::any_has(&self.settings.proxies, address)
    }

    /// A PROXY header has named the peer, which may be a proxy again, or has hidden it.
    pub(super) fn proxied(&mut self, slot: Slot, peer: Option<IpAddr>) {
        let connection = &mut self.connections[slot as usize];
        if connection.phase != Phase::Handshake {
            return;
        }
        if let Some(peer) = peer {
            self.set_peer(slot, peer, false);
        } else {
            self.shared.admission.relocate((connection.peer, connection.place), None);
            connection.place = Place::Hidden;
        }
    }

    /// A proxy has sent no PROXY header although it should.
    pub(super) fn unproxied(&mut self, slot: Slot, reason: &'static str) {
        if self.connections[slot as usize].phase == Phase::Handshake {
            self.refuse(slot, Refused::ProxyHeader, &Refusal::new(Status::BadRequest, reason));
        }
    }

    /// Finds the client that a request is from. The connection is ended when that has too many, or cannot be told.
    pub(super) fn find_client(&mut self, slot: Slot, request: &Request<'_>) {
        let Connection { peer, place, .. } = self.connections[slot as usize];
        // Without an address it came by a path, which is for proxies.
        if place == Place::Hidden || peer.is_some_and(|peer| !self.is_proxy(peer)) {
            return;
        }
        match forwarded::client(request, peer, |address| self.is_proxy(address)) {
            Ok(client) if client == peer => {}
            Ok(client) => {
                client.into_iter().for_each(|client| self.set_peer(slot, client, request.is_head()))
            }
            Err(refusal) => {
                let refusal = Refusal { head_only: request.is_head(), ..refusal };
                self.refuse(slot, Refused::Forwarded, &refusal);
            }
        }
    }

    fn set_peer(&mut self, slot: Slot, peer: IpAddr, head_only: bool) {
        let counts = !self.is_proxy(peer);
        let connection = &mut self.connections[slot as usize];
        let proxy = connection.peer.replace(peer);
        debug!(slot, ?proxy, client = %peer, "a proxy names its client");
        let was = (proxy, connection.place);
        connection.place = self.shared.admission.relocate(was, counts.then_some(peer));
        if let Place::Over(excess) = connection.place {
            self.turn_away(slot, excess, head_only);
        }
    }
}
