//! Events of the transport. Each has a method with its name.

use std::net::IpAddr;

use tracing::{debug, info, warn};

use crate::hub::Slot;
use crate::io::{Backend, IoEvent};
use crate::protocol::{Refusal, Status};
use crate::proxied::ProxyEvent;
use crate::stats::Refused;
use crate::tls::TlsEvent;
use crate::transport::Event;

use super::Shard;
use super::admission::Place;
use super::connection::{Connection, Phase};
use super::flow::Pause;
use super::life::NO_FRAME;

/// Minimum interval in milliseconds between two log lines that say that no descriptor is left.
const FULL_LOG_MS: u64 = 60_000;

/// State that limits the log lines about missing descriptors. A server at its descriptor limit may reach the limit many
/// times a second.
#[derive(Debug, Default)]
pub(super) struct FullLog {
    /// Time of the last warning that no descriptor is left, in milliseconds. `None` before the first warning.
    logged_ms: Option<u64>,
    /// Whether the next resumption of accepting is logged, because the shortage of descriptors was logged.
    is_told: bool,
}

impl FullLog {
    /// Warns that no descriptor is left, at most once in [`FULL_LOG_MS`].
    fn full(&mut self, now_ms: u64, connections: usize) {
        if self.logged_ms.is_none_or(|logged_ms| now_ms - logged_ms >= FULL_LOG_MS) {
            self.logged_ms = Some(now_ms);
            self.is_told = true;
            warn!(
                connections,
                "no descriptor is left for another connection; accepting resumes when a connection closes. \
                 Raise the limit (ulimit -n) or set --max-connections below it"
            );
        }
    }

    /// Logs that accepting connections has resumed, if the shortage of descriptors was logged.
    fn accepting(&mut self) {
        if std::mem::take(&mut self.is_told) {
            info!("accepting connections again");
        }
    }
}

impl<B: Backend> Shard<B> {
    /// Handles an event of the backend, of the PROXY layer or of the TLS layer.
    pub(super) fn handle(&mut self, event: Event) {
        match event {
            Event::Io(event) => self.handle_io(event),
            Event::Proxy(ProxyEvent::Client { slot, peer }) => {
                self.proxy_header(slot, peer.map(|peer| peer.ip()))
            }
            Event::Proxy(ProxyEvent::Invalid { slot, reason }) => self.invalid_proxy_header(slot, reason),
            Event::Tls(TlsEvent::NoTls { slot, is_http }) => self.no_tls(slot, is_http),
        }
    }

    fn handle_io(&mut self, event: IoEvent) {
        match event {
            IoEvent::Accepted { slot, listener, peer } => {
                self.accepted(slot, listener, peer.map(|peer| peer.ip()));
            }
            IoEvent::Received { slot, buffer } => self.received(slot, buffer),
            IoEvent::Ended { slot } => self.ended(slot),
            IoEvent::Sent { slot } => self.sent(slot),
            IoEvent::Failed { slot, error } => {
                debug!(slot, %error, "connection lost");
                self.abandon(slot, NO_FRAME);
            }
            IoEvent::Closed { slot } => self.closed(slot),
            IoEvent::AcceptPaused => self.full_log.full(self.now_ms, self.live),
            IoEvent::AcceptResumed => self.full_log.accepting(),
        }
    }

    fn accepted(&mut self, slot: Slot, listener: u16, peer: Option<IpAddr>) {
        let index = slot as usize;
        if index >= self.connections.len() {
            self.connections.resize_with(index + 1, Connection::free);
        }
        let place = self.enter(peer);
        self.connections[index] = Connection::new(peer, place, self.now_ms);
        self.connections[index].host_rule = self.host_rule(listener, peer);
        self.live += 1;
        self.stats.accepted.add(1);
        self.journal.accepted(slot, self.transport.now_ms());
        self.count_phase(Phase::Free, Phase::Handshake);
        self.hub.open(slot);
        self.set_deadline(slot, self.settings.handshake_ms);
        if let Place::Over(excess) = place {
            // A connection over a limit is refused before its request arrives, so that a silent client does not keep a
            // descriptor.
            self.turn_away(slot, excess, false);
        } else if self.is_leaving_at_once() {
            self.leave_client(slot);
        } else {
            self.begin_handshake(slot);
        }
    }

    /// Refuses a client that speaks no TLS on a TLS listener, unless the client is being refused already.
    fn no_tls(&mut self, slot: Slot, is_http: bool) {
        if self.connections[slot as usize].phase != Phase::Handshake {
            return;
        }
        if is_http {
            let reason = "This port speaks TLS; use https:// or wss:// instead of http:// or ws://.";
            self.refuse(slot, Refused::NoTls, &Refusal::new(Status::BadRequest, reason));
        } else {
            self.stats.refused[Refused::Tls as usize].add(1);
            self.end(slot, false, &[]);
        }
    }

    /// Handles the backend's report that a send to a client is complete.
    fn sent(&mut self, slot: Slot) {
        self.hub.sent(slot);
        self.end_sample(slot);
        let connection = &self.connections[slot as usize];
        let is_unread = connection.flow.is_paused(Pause::Unread);
        if is_unread || connection.phase == Phase::Idle {
            self.heard(slot);
            if is_unread && self.hub.outbox_len(slot) == 0 {
                self.resume(slot, Pause::Unread);
            }
        }
        if self.connections[slot as usize].phase == Phase::Ending && self.hub.is_idle(slot) {
            self.linger(slot);
        }
    }
}
