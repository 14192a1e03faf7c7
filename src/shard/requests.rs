//! Answers to requests: the upgrade to a WebSocket, a response of the application, or an error.

use std::any::Any;

use tracing::error;

use crate::app::{self, Answer, Claims, HttpRequest, Opening, Resumption, TokenInUse};
use crate::config::Compression;
use crate::hub::Slot;
use crate::io::{Backend, Close};
use crate::protocol::deflate::{Agreement, MAX_WINDOW_BITS, OfferPolicy, negotiate};
use crate::protocol::response::{Form, switching_protocols};
use crate::protocol::{Protocol, Refusal, Request, Status};
use crate::publisher::Ticket;
use crate::stats::Refused;

use super::Shard;
use super::admission::Excess;
use super::connection::{Connection, Liveness, Phase};
use super::http;

/// Maximum time, in milliseconds, for a connection over a limit to read its error response.
const EXCESS_MS: u64 = 1_000;
/// Capacity in bytes up to which the buffer for response heads keeps its memory.
const KEPT_HEAD: usize = 4 << 10;

/// The data of a WebSocket that is about to open.
pub(super) struct Upgrade {
    pub(super) room: String,
    /// Query string of the request, if it has one.
    pub(super) query: Option<String>,
    /// Compression agreed with the client; `None` means no compression.
    pub(super) agreement: Option<Agreement>,
    /// Claims of the client's token; `None` when tokens are not required.
    pub(super) claims: Option<Claims>,
    /// Value that the application's `on_request` has for its `on_open`.
    pub(super) value: Option<Box<dyn Any + Send>>,
    /// The session that the client continues.
    pub(super) resumption: Option<Resumption>,
}

/// The part of a request that decides about the form of its answer.
#[derive(Clone, Copy)]
pub(super) struct Asked<'a> {
    /// Whether the response has no body, as for a HEAD request.
    pub(super) head_only: bool,
    /// Whether the client lets the connection go on after the response.
    pub(super) keep_alive: bool,
    /// The request, if it is a WebSocket handshake.
    pub(super) handshake: Option<&'a Request<'a>>,
}

impl<'a> Asked<'a> {
    pub(super) fn by(request: &'a Request<'a>) -> Self {
        let handshake = request.upgrade.is_some().then_some(request);
        Self { head_only: request.is_head(), keep_alive: request.keep_alive, handshake }
    }
}

/// The consequence of an answer for its connection.
pub(super) enum Answered {
    /// The connection becomes a WebSocket.
    Upgraded(Upgrade),
    /// The connection goes on with the client's next request.
    Kept,
    /// The connection ends.
    Ended,
    /// The request waits for a deferred answer.
    Later,
}

impl<B: Backend> Shard<B> {
    /// Answers a client's HTTP request.
    pub(super) fn answer(&mut self, slot: Slot, request: &Request<'_>) -> Answered {
        let proxy = self.connections[slot as usize].peer;
        if self.connections[slot as usize].phase.awaits_request() {
            self.find_client(slot, request);
        }
        if !self.connections[slot as usize].phase.awaits_request() {
            return Answered::Ended;
        }
        self.stats.requests.add(1);
        self.journal.asked(slot, request.path);
        // Earlier handlers may have published to a saturated room, which is not this client's doing.
        self.hub.take_overload();
        let ticket = Ticket { slot, number: self.stats.requests.get() };
        let answered = match self.route(slot, request, ticket) {
            Answer::Later(deferral) if deferral.is_of(ticket) => {
                return self.defer(slot, request, ticket, proxy);
            }
            Answer::Later(_) => {
                error!("the application deferred another request than the one that it was asked");
                self.conclude(slot, Asked::by(request), failed())
            }
            answer => self.conclude(slot, Asked::by(request), answer),
        };
        if matches!(answered, Answered::Kept) {
            self.return_to_proxy(slot, proxy);
            if self.is_congested() | self.hub.take_overload() {
                self.pause_publisher(slot);
            }
        }
        answered
    }

    /// Does what an answer asks of the connection and its protocol. `protocol` is the connection's, taken out of it.
    pub(super) fn follow(&mut self, slot: Slot, protocol: &mut Protocol, answered: Answered) {
        match answered {
            Answered::Upgraded(Upgrade { room, query, agreement, claims, value, resumption }) => {
                protocol.upgrade(agreement);
                let (query, claims) = (query.as_deref(), claims.as_ref());
                self.opened(slot, Opening { room: &room, query, claims, value, resumption });
            }
            Answered::Kept => protocol.answered(),
            Answered::Ended => protocol.discard(),
            Answered::Later => {}
        }
    }

    /// Sends the response to a request, or the one that opens the WebSocket.
    pub(super) fn conclude(&mut self, slot: Slot, asked: Asked<'_>, answer: Answer) -> Answered {
        let refusal = match answer {
            Answer::Open(upgrade) if let Some(request) = asked.handshake => {
                return self.upgrade(slot, request, upgrade);
            }
            Answer::Open(_) => {
                let reason = "This is a WebSocket server; connect with a WebSocket client.";
                Refusal::new(Status::UpgradeRequired, reason)
            }
            Answer::Respond(response) => {
                self.journal.answered(slot, response.status.code());
                let is_kept = !response.closes() && self.keeps(slot, asked);
                let form = Form { head_only: asked.head_only, keep_alive: is_kept };
                let body = if form.sends_body(response.status) { &*response.body } else { &[] };
                return self.send_answer(slot, is_kept, |out| response.encode_head(is_kept, out), body);
            }
            Answer::Refuse(refusal) => refusal,
            Answer::NotMine => Refusal::new(Status::NotFound, "Nothing is at this path."),
            Answer::Later(_) => unreachable!("the callers handle deferrals"),
        };
        let refusal = Refusal { head_only: asked.head_only, ..refusal };
        self.note_refusal(slot, why(refusal.status), &refusal);
        let is_kept = self.keeps(slot, asked);
        self.send_answer(slot, is_kept, |out| refusal.respond_and(is_kept, out), &[])
    }

    /// Opens the WebSocket that a request asks for, unless the client's token does not allow its room.
    fn upgrade(&mut self, slot: Slot, request: &Request<'_>, upgrade: app::Upgrade) -> Answered {
        let mut upgrade = upgrade;
        if let Some(chosen) = &upgrade.subprotocol
            && !request.subprotocols().any(|offered| offered == chosen)
        {
            error!(
                subprotocol = chosen,
                "the application chose a subprotocol that the client does not offer"
            );
            return self.conclude(slot, Asked::by(request), failed());
        }
        let claims = match self.claims(slot, request, &upgrade.room) {
            Ok(claims) => claims,
            Err((why, refusal)) => return self.refuse(slot, why, &refusal),
        };
        match upgrade.session.take().filter(|_| self.settings.has_sessions) {
            Some(id) => self.ask_for_session(slot, request, upgrade, (claims, &id)),
            None => self.complete_upgrade(slot, request, upgrade, claims, None),
        }
    }

    /// Opens the WebSocket that a request asks for, with the claims of its client's token and the session that the client
    /// continues.
    pub(super) fn complete_upgrade(
        &mut self,
        slot: Slot,
        request: &Request<'_>,
        upgrade: app::Upgrade,
        claims: Option<Claims>,
        resumption: Option<Resumption>,
    ) -> Answered {
        let app::Upgrade { room, subprotocol, value, .. } = upgrade;
        let Some(key) = &request.upgrade else { return Answered::Ended };
        self.journal.answered(slot, 101);
        let agreement = self.agree(slot, request);
        let mut response = Vec::new();
        switching_protocols(key, agreement.as_ref(), subprotocol.as_deref(), &mut response);
        self.hub.send_response(slot, &[&response]);
        let query = request.query.map(str::to_owned);
        Answered::Upgraded(Upgrade { room, query, agreement, claims, value, resumption })
    }

    /// Sends a response: a head that `encode_head` appends to a buffer, and a body. The connection then waits for the
    /// next request if `is_kept`, and otherwise ends.
    fn send_answer(
        &mut self,
        slot: Slot,
        is_kept: bool,
        encode_head: impl FnOnce(&mut Vec<u8>),
        body: &[u8],
    ) -> Answered {
        if !self.connections[slot as usize].phase.awaits_request() {
            return Answered::Ended;
        }
        let mut head = std::mem::take(&mut self.response_head);
        encode_head(&mut head);
        self.hub.send_response(slot, &[&head, body]);
        head.clear();
        head.shrink_to(KEPT_HEAD);
        self.response_head = head;
        if !is_kept {
            self.end(slot, true, &[]);
            return Answered::Ended;
        }
        if self.connections[slot as usize].phase != Phase::Idle {
            self.set_phase(slot, Phase::Idle);
        }
        self.set_deadline(slot, self.settings.keep_alive_ms);
        Answered::Kept
    }

    /// Returns whether the connection goes on after the response to this request.
    fn keeps(&self, slot: Slot, asked: Asked<'_>) -> bool {
        let has_ended = self.connections[slot as usize].liveness == Liveness::Ended;
        // The bytes behind a refused handshake may be frames.
        let is_wanted = asked.keep_alive && asked.handshake.is_none();
        is_wanted && self.settings.keep_alive_ms > 0 && !has_ended && !self.is_leaving()
    }

    /// Returns the application's answer to a request, or the refusal of a request that may not reach the application.
    fn route(&mut self, slot: Slot, request: &Request<'_>, ticket: Ticket) -> Answer {
        let Connection { peer, host_rule, .. } = self.connections[slot as usize];
        if let Err(refusal) = http::admit(request, &self.settings, host_rule) {
            return Answer::Refuse(refusal);
        }
        let asked = HttpRequest::new(request, peer, ticket);
        self.context.excused = false;
        let answer = self.with_app(|app, context| app.on_request(context, &asked)).unwrap_or_else(failed);
        if self.context.excused {
            self.connections[slot as usize].flow.forget_spent();
        }
        answer
    }

    /// Answers a request with an error response, and ends the connection.
    pub(super) fn refuse(&mut self, slot: Slot, why: Refused, refusal: &Refusal) -> Answered {
        self.note_refusal(slot, why, refusal);
        self.send_answer(slot, false, |out| refusal.respond(out), &[])
    }

    /// Counts and logs a refused request.
    fn note_refusal(&mut self, slot: Slot, why: Refused, refusal: &Refusal) {
        let peer = self.connections[slot as usize].peer;
        self.journal.refused(slot, why, refusal, peer, self.now_ms);
        self.stats.refused[why as usize].add(1);
    }

    /// Refuses a connection that is over a limit. `head_only` leaves out the body, as for a HEAD request. A connection
    /// over its address's rate is reset before its TLS handshake, which would cost more than all else.
    pub(super) fn turn_away(&mut self, slot: Slot, excess: Excess, head_only: bool) {
        let (why, refusal) = excess_refusal(excess);
        if excess == Excess::Rate && self.transport.awaits_handshake(slot) {
            return self.cut_off(slot, why, &refusal.reason);
        }
        self.refuse(slot, why, &Refusal { head_only, ..refusal });
        self.set_deadline(slot, self.settings.close_ms.min(EXCESS_MS));
    }

    /// Resets a connection without an answer, and counts and logs that.
    pub(super) fn cut_off(&mut self, slot: Slot, why: Refused, reason: &str) {
        let peer = self.connections[slot as usize].peer;
        self.journal.cut_off(why, reason, peer, self.now_ms);
        self.stats.refused[why as usize].add(1);
        self.close(slot, Close::Reset);
    }

    /// Checks the token of a client, if tokens are required, and stores its expiry. Returns the token's claims.
    fn claims(
        &mut self,
        slot: Slot,
        request: &Request<'_>,
        room: &str,
    ) -> Result<Option<Claims>, (Refused, Refusal)> {
        let Some(verifier) = &self.settings.verifier else { return Ok(None) };
        let (claims, left) = http::claims(request, room, verifier)?;
        if claims.user().is_some_and(|user| self.shared.bans.has(user)) {
            let reason = "The user in the token (sub) is banned from this server; try again later.";
            return Err((Refused::Banned, Refusal::new(Status::Forbidden, reason)));
        }
        let left_ms = u64::try_from(left.as_millis()).unwrap_or(u64::MAX);
        let expiry_ms = self.now_ms.saturating_add(left_ms);
        self.context.tokens.in_use.insert(slot, TokenInUse { expiry_ms, claims: claims.clone() });
        Ok(Some(claims))
    }

    /// Negotiates compression with a client, and tells the hub how to encode the client's messages. Returns `None` when
    /// messages are not compressed.
    fn agree(&mut self, slot: Slot, request: &Request<'_>) -> Option<Agreement> {
        let is_dedicated = match self.settings.compression {
            Compression::Off => return None,
            Compression::Shared => false,
            Compression::Dedicated => true,
        };
        let context_memory = self.settings.context_memory.saturating_sub(self.stats.context_bytes() as usize);
        let policy = OfferPolicy { server_takeover: is_dedicated, context_memory };
        let agreement = negotiate(request.headers("Sec-WebSocket-Extensions"), policy)?;
        let connection = &mut self.connections[slot as usize];
        connection.set_context_memory(agreement.context_memory());
        self.stats.context_bytes_reserved.add(connection.context_memory() as u64);
        match agreement.server_bits() {
            _ if is_dedicated => {
                self.hub.compress_dedicated(slot, agreement.own_bits(), agreement.server_takeover);
            }
            MAX_WINDOW_BITS => self.hub.compress(slot),
            // Shared frames need the largest window, so a client with a smaller window gets plain messages.
            _ => {}
        }
        Some(agreement)
    }
}

/// Returns the answer to a request that the application has failed to answer.
pub(super) fn failed() -> Answer {
    Answer::refuse(Status::InternalServerError, "The server made a mistake; try again later.")
}

/// Returns the refusal reason under which the metrics count an error response with this status.
pub(super) fn why(status: Status) -> Refused {
    match status {
        Status::Forbidden => Refused::Origin,
        Status::MisdirectedRequest => Refused::Host,
        Status::NotFound => Refused::NotFound,
        Status::MethodNotAllowed => Refused::Method,
        Status::UpgradeRequired => Refused::Upgrade,
        Status::ContentTooLarge | Status::UriTooLong | Status::HeaderFieldsTooLarge => Refused::TooLarge,
        Status::BadRequest | Status::RequestTimeout | Status::ExpectationFailed => Refused::Malformed,
        _ => Refused::Application,
    }
}

/// Returns the refusal reason for the metrics and the error response for a connection over a limit.
fn excess_refusal(excess: Excess) -> (Refused, Refusal) {
    let (why, status, reason) = match excess {
        Excess::Server => (
            Refused::Connections,
            Status::ServiceUnavailable,
            "This server has reached its connection limit; try again later.",
        ),
        Excess::Address => (
            Refused::Address,
            Status::TooManyRequests,
            "Your address has reached its connection limit; close a connection first.",
        ),
        Excess::Rate => (
            Refused::ConnectionRate,
            Status::TooManyRequests,
            "Your address opens connections too fast; wait a few seconds.",
        ),
    };
    (why, Refusal::new(status, reason))
}
