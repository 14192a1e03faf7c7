//! What the backend reports, and what the client sent.

use std::collections::VecDeque;
use std::net::IpAddr;

use tracing::{debug, info, warn};

use crate::app::{Claims, Incoming, Opening};
use crate::config::Compression;
use crate::hub::Slot;
use crate::io::{Backend, Buffer, Close, IoEvent};
use crate::protocol::deflate::{Agreement, MAX_WINDOW_BITS, Terms, negotiate};
use crate::protocol::response::switching_protocols;
use crate::protocol::{self, CloseCode, Failure, Opcode, Refusal, Request, Status};
use crate::proxied::ProxyEvent;
use crate::stats::Refused;
use crate::tls::TlsEvent;
use crate::transport::Event;

use super::admission::{Excess, Place};
use super::connection::{Connection, Pause, Phase};
use super::http::{self, Route};
use super::life::{NO_CODE, NO_FRAME};
use super::{Held, Pace, Shard, UNREAD_LIMIT};

/// How long a connection over a limit may take to read that it is.
const EXCESS_MS: u64 = 1_000;
/// What a connection that is being closed may still send: 16 MiB at once, which is more than what was on its way
/// before the client could know, and then 4 MiB a second. Its answer to the close may come after that.
const FAREWELL_PACE: Pace = Pace { messages: 0, bytes: 4 << 20 };
/// How often the log says that no descriptor is left.
const FULL_LOG_MS: u64 = 60_000;

/// A WebSocket that opens.
struct Upgrade {
    room: String,
    query: Option<String>,
    /// About compression.
    agreement: Option<Agreement>,
    claims: Option<Claims>,
}

impl<B: Backend> Shard<B> {
    pub(super) fn handle(&mut self, event: Event) {
        match event {
            Event::Io(event) => self.handle_io(event),
            Event::Proxy(ProxyEvent::Client { slot, peer }) => self.proxied(slot, peer.map(|peer| peer.ip())),
            Event::Proxy(ProxyEvent::Invalid { slot, reason }) => self.unproxied(slot, reason),
            Event::Tls(TlsEvent::NoTls { slot, is_http }) => self.insecure(slot, is_http),
        }
    }

    fn handle_io(&mut self, event: IoEvent) {
        match event {
            IoEvent::Accepted { slot, peer, .. } => self.accepted(slot, peer.map(|peer| peer.ip())),
            IoEvent::Received { slot, buffer } => self.received(slot, buffer),
            IoEvent::Ended { slot } => self.ended(slot),
            IoEvent::Sent { slot } => self.sent(slot),
            IoEvent::Failed { slot, error } => {
                debug!(slot, %error, "connection lost");
                self.abandon(slot);
            }
            IoEvent::Closed { slot } => self.closed(slot),
            IoEvent::AcceptPaused => self.full(),
            IoEvent::AcceptResumed if std::mem::take(&mut self.full_told) => {
                info!("accepting connections again");
            }
            IoEvent::AcceptResumed => {}
        }
    }

    /// The table of descriptors is full. Under a churn of connections that happens often; it is said now and then.
    fn full(&mut self) {
        if self.full_logged_ms.is_none_or(|logged_ms| self.now_ms - logged_ms >= FULL_LOG_MS) {
            self.full_logged_ms = Some(self.now_ms);
            self.full_told = true;
            warn!(
                connections = self.live,
                "no descriptor is left for another connection; accepting goes on when one closes. \
                 Raise the limit (ulimit -n) or set --max-connections below it"
            );
        }
    }

    fn accepted(&mut self, slot: Slot, peer: Option<IpAddr>) {
        let index = slot as usize;
        if index >= self.connections.len() {
            self.connections.resize_with(index + 1, Connection::free);
        }
        let place = self.shared.admission.enter(peer.filter(|peer| !self.is_proxy(*peer)));
        self.connections[index] = Connection::new(peer, place, self.now_ms);
        self.live += 1;
        self.stats.accepted.add(1);
        self.journal.accepted(slot, self.now_ms);
        self.count_phase(Phase::Free, Phase::Handshake);
        self.hub.open(slot);
        self.set_deadline(slot, self.settings.handshake_ms);
        if let Place::Over(excess) = place {
            // At once: whoever is over a limit and says nothing keeps no descriptor from others.
            self.turn_away(slot, excess, false);
        } else if self.is_leaving_at_once() {
            self.leave_client(slot);
        }
    }

    /// The client does not speak TLS where it should. One that is being refused already hears that instead.
    fn insecure(&mut self, slot: Slot, is_http: bool) {
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

    /// Tells a connection that it is over a limit, and ends it. `head_only`: its request was a HEAD request.
    pub(super) fn turn_away(&mut self, slot: Slot, excess: Excess, head_only: bool) {
        let (why, refusal) = excess_refusal(excess);
        self.refuse(slot, why, &Refusal { head_only, ..refusal });
        self.set_deadline(slot, self.settings.close_ms.min(EXCESS_MS));
    }

    fn received(&mut self, slot: Slot, mut buffer: Buffer) {
        self.heard(slot);
        let input = buffer.bytes_mut();
        self.stats.bytes_in.add(input.len() as u64);
        self.journal.received(slot, input.len());
        if self.is_flooding_the_farewell(slot, input.len()) {
            self.backend.recycle(buffer);
            return self.close(slot, Close::Reset);
        }
        let is_held = self.connections[slot as usize].is_held();
        if is_held || !self.take_share(slot) {
            self.held.entry(slot).or_default().push_back(Held::Bytes(input.to_vec()));
        } else {
            self.take_in(slot, input);
            self.pause_if_unread(slot);
        }
        self.backend.recycle(buffer);
    }

    /// Handles what a client sent, up to its rates; what is over them is held.
    fn take_in(&mut self, slot: Slot, mut input: &mut [u8]) {
        let mut protocol = std::mem::take(&mut self.connections[slot as usize].protocol);
        let mut reader = std::mem::take(&mut self.reader);
        let mut is_over = false;
        loop {
            let before = input.len();
            let Some(event) = protocol.next(&mut input, &mut reader) else {
                // Fragments make no event, but are bytes.
                is_over |= self.charge(slot, 0, before);
                break;
            };
            is_over |= self.charge(slot, 1, before - input.len());
            match event {
                protocol::Event::Request(request) => match self.answer(slot, &request) {
                    Some(upgrade) => {
                        protocol.upgrade(upgrade.agreement);
                        let Upgrade { room, query, claims, .. } = &upgrade;
                        let opening = Opening { room, query: query.as_deref(), claims: claims.as_ref() };
                        self.opened(slot, opening);
                    }
                    None => protocol.discard(),
                },
                protocol::Event::Refused(refusal)
                    if self.connections[slot as usize].phase == Phase::Handshake =>
                {
                    self.refuse(slot, why(refusal.status), &refusal);
                }
                // It has been refused already.
                protocol::Event::Refused(_) => {}
                protocol::Event::Message { kind, payload } => {
                    self.message(slot, Incoming { kind, payload });
                }
                protocol::Event::Ping(payload) if self.is_open(slot) => {
                    self.send_control(slot, Opcode::Pong, payload);
                }
                protocol::Event::Ping(_) | protocol::Event::Pong(_) => {}
                protocol::Event::Close(frame) => {
                    let code = frame.map_or(CloseCode::NORMAL, |frame| frame.code);
                    self.closed_by_client(slot, code, frame.is_some());
                }
                protocol::Event::Failed(failure) => self.failed(slot, &failure),
            }
            if is_over && !input.is_empty() && self.is_open(slot) {
                self.held.entry(slot).or_default().push_front(Held::Bytes(input.to_vec()));
                break;
            }
        }
        self.connections[slot as usize].protocol = protocol;
        self.reader = reader;
        if is_over {
            self.pause_paced(slot);
        }
    }

    /// Answers a request; what follows when it opens a WebSocket.
    fn answer(&mut self, slot: Slot, request: &Request<'_>) -> Option<Upgrade> {
        if self.connections[slot as usize].phase == Phase::Handshake {
            self.find_client(slot, request);
        }
        if self.connections[slot as usize].phase != Phase::Handshake {
            return None;
        }
        self.journal.asked(slot, request.path);
        match Route::of(request, self.settings.has_page, &self.settings.origins) {
            Route::Open(key, room) => {
                let claims = match self.claims(slot, request, &room) {
                    Ok(claims) => claims,
                    Err((why, refusal)) => {
                        self.refuse(slot, why, &refusal);
                        return None;
                    }
                };
                self.journal.answered(slot, 101);
                let agreement = self.agree(slot, request);
                let mut response = Vec::new();
                switching_protocols(&key, agreement.as_ref(), &mut response);
                self.hub.send_response(slot, &response);
                let query = request.query.map(str::to_owned);
                Some(Upgrade { room, query, agreement, claims })
            }
            Route::Page { head_only } => {
                self.journal.answered(slot, Status::Ok.code());
                self.end(slot, true, http::page(head_only));
                None
            }
            Route::Refuse(refusal) => {
                self.refuse(slot, why(refusal.status), &refusal);
                None
            }
        }
    }

    /// What the token says with which a client wants into the room, if one is needed; notes when it expires.
    fn claims(
        &mut self,
        slot: Slot,
        request: &Request<'_>,
        room: &str,
    ) -> Result<Option<Claims>, (Refused, Refusal)> {
        let Some(verifier) = &self.settings.verifier else { return Ok(None) };
        let (claims, left) = http::claims(request, room, verifier)?;
        let left_ms = u64::try_from(left.as_millis()).unwrap_or(u64::MAX);
        self.expiries.insert(slot, self.now_ms.saturating_add(left_ms));
        Ok(Some(claims))
    }

    /// What is agreed with a client about compression, and has its messages compressed accordingly.
    fn agree(&mut self, slot: Slot, request: &Request<'_>) -> Option<Agreement> {
        let own = match self.settings.compression {
            Compression::Off => return None,
            Compression::Shared => false,
            Compression::Dedicated => true,
        };
        let context_memory = self.settings.context_memory.saturating_sub(self.stats.context_bytes() as usize);
        let terms = Terms { server_takeover: own, context_memory };
        let agreement = negotiate(request.headers("Sec-WebSocket-Extensions"), terms)?;
        let connection = &mut self.connections[slot as usize];
        connection.set_context_memory(agreement.context_memory());
        self.stats.context_bytes_reserved.add(connection.context_memory() as u64);
        match agreement.server_bits() {
            _ if own => self.hub.compress_dedicated(slot, agreement.own_bits(), agreement.server_takeover),
            MAX_WINDOW_BITS => self.hub.compress(slot),
            // What is made for all needs the usual window, so a client with a smaller one is sent plain messages.
            _ => {}
        }
        Some(agreement)
    }

    /// Answers with an error, and ends the connection.
    pub(super) fn refuse(&mut self, slot: Slot, why: Refused, refusal: &Refusal) {
        let peer = self.connections[slot as usize].peer;
        self.journal.refused(slot, (why, refusal), peer, self.now_ms);
        self.stats.refused[why as usize].add(1);
        let mut response = Vec::new();
        refusal.respond(&mut response);
        self.end(slot, true, &response);
    }

    fn opened(&mut self, slot: Slot, opening: Opening<'_>) {
        self.set_phase(slot, Phase::Open);
        self.set_deadline(slot, self.settings.ping_ms);
        self.stats.opened.add(1);
        self.with_client(slot, |app, context, client| app.on_open(context, client, opening));
        if self.is_leaving() {
            self.leave_client(slot);
        }
    }

    fn message(&mut self, slot: Slot, message: Incoming<'_>) {
        if !self.is_open(slot) {
            return;
        }
        self.stats.messages_in.add(1);
        self.journal.heard(slot);
        self.with_client(slot, |app, context, client| app.on_message(context, client, message));
        let congested = self.is_congested() || self.hub.is_saturated_for(slot);
        if congested && self.is_open(slot) {
            self.pause_publisher(slot);
        }
    }

    fn failed(&mut self, slot: Slot, failure: &Failure) {
        debug!(slot, code = failure.code.0, reason = failure.reason, "client broke the protocol");
        self.stats.failed.add(1);
        self.count_end(slot, failure.code.0);
        if self.is_open(slot) {
            let frame = close_frame(failure.code, failure.reason);
            self.end(slot, true, &frame);
        } else {
            self.finish_closing(slot);
        }
    }

    /// The client's half of the closing handshake, RFC 6455 §5.5.1: the first or the answer to ours.
    fn closed_by_client(&mut self, slot: Slot, code: CloseCode, has_code: bool) {
        self.connections[slot as usize].ended = true;
        self.count_end(slot, if has_code { code.0 } else { NO_CODE });
        if self.is_open(slot) {
            let frame = if has_code { close_frame(code, "") } else { vec![0x88, 0] };
            self.end(slot, true, &frame);
        } else {
            self.finish_closing(slot);
        }
    }

    fn ended(&mut self, slot: Slot) {
        if let Some(held) = self.held.get_mut(&slot) {
            return held.push_back(Held::End);
        }
        self.count_end(slot, NO_FRAME);
        let connection = &mut self.connections[slot as usize];
        connection.ended = true;
        match connection.phase {
            // It may have said its last word and still be reading: it gets what it is owed.
            Phase::Open => self.end(slot, true, &[]),
            Phase::Closing | Phase::Ending if !self.hub.is_idle(slot) => self.set_phase(slot, Phase::Ending),
            Phase::Free | Phase::Gone => {}
            _ => self.close(slot, Close::Graceful),
        }
    }

    fn sent(&mut self, slot: Slot) {
        self.hub.sent(slot);
        self.end_sample(slot);
        if self.connections[slot as usize].is_paused(Pause::Unread) {
            self.heard(slot);
            if self.hub.outbox_len(slot) == 0 {
                self.listen_again(slot, Pause::Unread);
            }
        }
        if self.connections[slot as usize].phase == Phase::Ending && self.hub.is_idle(slot) {
            self.linger(slot);
        }
    }

    /// Stops receiving from a client that does not read its answers; TCP tells it to wait.
    fn pause_if_unread(&mut self, slot: Slot) {
        let connection = &mut self.connections[slot as usize];
        let unread = connection.phase == Phase::Open && self.hub.outbox_len(slot) > UNREAD_LIMIT;
        if unread && connection.pause(Pause::Unread) {
            self.backend.pause(slot);
        }
    }

    /// Goes on with a client for which a reason to hold is gone: with what is held of it, then with what comes.
    pub(super) fn listen_again(&mut self, slot: Slot, gone: Pause) {
        self.connections[slot as usize].resume(gone);
        while !self.connections[slot as usize].is_held() {
            match self.held.get_mut(&slot).and_then(VecDeque::pop_front) {
                Some(Held::Bytes(mut bytes)) => {
                    if self.take_share(slot) {
                        self.take_in(slot, &mut bytes);
                        self.pause_if_unread(slot);
                    } else {
                        self.held.entry(slot).or_default().push_front(Held::Bytes(bytes));
                    }
                }
                Some(Held::End) => {
                    self.held.remove(&slot);
                    return self.ended(slot);
                }
                None => {
                    self.held.remove(&slot);
                    break;
                }
            }
        }
        if !self.connections[slot as usize].is_held() {
            self.backend.resume(slot);
        }
    }

    /// Whether another buffer of this client may be handled in this turn; otherwise it goes on in the next one.
    /// A flood that a ring has received all at once would hold up the others for as long as it takes to handle.
    fn take_share(&mut self, slot: Slot) -> bool {
        let turn = self.stats.turns.get() as u8;
        let connection = &mut self.connections[slot as usize];
        if connection.take_share(turn) {
            return true;
        }
        self.served.push(slot);
        if connection.pause(Pause::Share) {
            self.backend.pause(slot);
        }
        false
    }

    /// Goes on with clients that had their share of the last turn.
    pub(super) fn resume_served(&mut self) {
        for slot in std::mem::take(&mut self.served) {
            if self.connections[slot as usize].is_paused(Pause::Share) {
                self.listen_again(slot, Pause::Share);
            }
        }
    }

    /// Charges an open client for what it sent. True when it is over its rates.
    fn charge(&mut self, slot: Slot, messages: u32, bytes: usize) -> bool {
        let (pace, now_ms) = (self.settings.pace, self.now_ms);
        let connection = &mut self.connections[slot as usize];
        pace.is_limited()
            && connection.phase == Phase::Open
            && pace.charge(&mut connection.spent, now_ms, messages, bytes)
    }

    /// Charges a client that is being closed for what it sends nevertheless. True when that is too much.
    fn is_flooding_the_farewell(&mut self, slot: Slot, bytes: usize) -> bool {
        let connection = &mut self.connections[slot as usize];
        matches!(connection.phase, Phase::Closing | Phase::Ending | Phase::Lingering)
            && FAREWELL_PACE.charge(&mut connection.spent, self.now_ms, 0, bytes)
    }

    /// Stops receiving from a client that sends too fast, until it has waited for as long as it was too fast.
    fn pause_paced(&mut self, slot: Slot) {
        let connection = &mut self.connections[slot as usize];
        if connection.phase != Phase::Open || connection.is_paused(Pause::Pace) {
            // Of one that is being closed only its answer to that is wanted.
            return;
        }
        self.stats.throttled.add(1);
        self.pace_timers.set(self.now_ms + Pace::wait_ms(connection.spent, self.now_ms), slot);
        if connection.pause(Pause::Pace) {
            self.backend.pause(slot);
        }
    }

    /// Goes on with clients that have waited for long enough, or are being closed.
    pub(super) fn resume_paced(&mut self) {
        while let Some(slots) = self.pace_timers.expired(self.now_ms) {
            for slot in slots {
                let connection = &self.connections[slot as usize];
                let is_due = Pace::wait_ms(connection.spent, self.now_ms) == 0;
                // A timer of this slot's last connection comes too early; this one has its own.
                if connection.is_paused(Pause::Pace) && (is_due || connection.phase != Phase::Open) {
                    self.listen_again(slot, Pause::Pace);
                }
            }
        }
    }

    /// Stops receiving from a client whose messages cannot be passed on yet.
    fn pause_publisher(&mut self, slot: Slot) {
        let connection = &mut self.connections[slot as usize];
        if connection.is_paused(Pause::Published) {
            return;
        }
        self.paused.push(slot);
        self.stats.publisher_pauses.add(1);
        if connection.pause(Pause::Published) {
            self.backend.pause(slot);
        }
    }
}

/// What a connection over a limit is told.
fn excess_refusal(excess: Excess) -> (Refused, Refusal) {
    let (why, status, reason) = match excess {
        Excess::Server => (
            Refused::Connections,
            Status::ServiceUnavailable,
            "This server has all the connections that it may have; try again later.",
        ),
        Excess::Handshakes => (
            Refused::Handshakes,
            Status::ServiceUnavailable,
            "Too many connections have not sent their request yet; try again later.",
        ),
        Excess::Address => (
            Refused::Address,
            Status::TooManyRequests,
            "Your address has all the connections that it may have; close one first.",
        ),
    };
    (why, Refusal::new(status, reason))
}

/// What a request is counted under that is refused for what it asks.
fn why(status: Status) -> Refused {
    match status {
        Status::Forbidden => Refused::Origin,
        Status::NotFound => Refused::NotFound,
        Status::MethodNotAllowed => Refused::Method,
        Status::UpgradeRequired => Refused::Upgrade,
        Status::ContentTooLarge | Status::UriTooLong | Status::HeaderFieldsTooLarge => Refused::TooLarge,
        _ => Refused::Malformed,
    }
}

/// A whole close frame.
pub(super) fn close_frame(code: CloseCode, reason: &str) -> Vec<u8> {
    let payload = protocol::frame::close_payload(code, reason);
    let header = protocol::frame::encode_header(Opcode::Close, true, false, payload.as_bytes().len());
    [header.as_bytes(), payload.as_bytes()].concat()
}
