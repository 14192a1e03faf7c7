//! Requests whose answers the application has deferred.

use std::net::IpAddr;

use tracing::error;

use crate::app::{self, Answer, Claims, Note};
use crate::chunk::Counted;
use crate::hub::Slot;
use crate::io::Backend;
use crate::protocol::Request;
use crate::publisher::Ticket;

use super::Shard;
use super::connection::{Liveness, Phase};
use super::flow::Pause;
use super::requests::{Answered, Asked, failed};

/// A request that waits for its answer.
#[derive(Debug)]
pub(super) struct Deferred {
    /// Number of the request among all requests of the shard.
    number: u64,
    /// Address of the connection before the request: a trusted proxy's, if the request named its client.
    proxy: Option<IpAddr>,
    pub(super) waits: Waits,
    /// The memory of `waits`.
    _counted: Counted,
}

impl Deferred {
    /// Returns whether the request waits for its session, which was asked for with this number.
    pub(super) fn waits_for_session(&self, number: u64) -> bool {
        self.number == number && matches!(self.waits, Waits::Session { .. })
    }
}

/// The part of a request that its answer needs.
#[derive(Debug)]
pub(super) enum Waits {
    /// An ordinary request.
    Request { head_only: bool, keep_alive: bool },
    /// A WebSocket handshake, with the head of its request.
    Handshake(Box<[u8]>),
    /// A WebSocket handshake that the application has answered, and that waits for its session.
    Session { head: Box<[u8]>, pending: Box<Pending> },
}

/// A WebSocket that opens when its session is there.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) upgrade: app::Upgrade,
    pub(super) claims: Option<Claims>,
}

impl<B: Backend> Shard<B> {
    /// Lets a request wait for its answer.
    pub(super) fn defer(
        &mut self,
        slot: Slot,
        request: &Request<'_>,
        ticket: Ticket,
        proxy: Option<IpAddr>,
    ) -> Answered {
        let waits = match request.upgrade {
            Some(_) => Waits::Handshake(request.head().into()),
            None => Waits::Request { head_only: request.is_head(), keep_alive: request.keep_alive },
        };
        self.wait(slot, ticket.number, proxy, waits)
    }

    /// Lets a request with this number wait.
    pub(super) fn wait(&mut self, slot: Slot, number: u64, proxy: Option<IpAddr>, waits: Waits) -> Answered {
        let mut counted = Counted::default();
        let head_len = match &waits {
            Waits::Request { .. } => 0,
            Waits::Handshake(head) | Waits::Session { head, .. } => head.len(),
        };
        counted.set(size_of::<Deferred>() + head_len);
        self.set_phase(slot, Phase::Answering);
        self.deferred.insert(slot, Deferred { number, proxy, waits, _counted: counted });
        Answered::Later
    }

    /// Handles a deferred answer. Does nothing when the request does not wait any more, because its client is gone or
    /// has an answer.
    pub(super) fn take_answer(&mut self, ticket: Ticket, answer: Note) {
        let Ticket { slot, number } = ticket;
        let is_asked = |deferred: &Deferred| {
            deferred.number == number && !matches!(deferred.waits, Waits::Session { .. })
        };
        if !self.deferred.get(&slot).is_some_and(is_asked) {
            return;
        }
        let Some(Deferred { proxy, waits, .. }) = self.deferred.remove(&slot) else { return };
        let answer = match answer.downcast::<Answer>().map(|answer| *answer) {
            Ok(Answer::Later(_)) | Err(_) => {
                error!("the application answered a deferred request with another deferral");
                failed()
            }
            Ok(answer) => answer,
        };
        self.conclude_later(slot, |shard| match &waits {
            Waits::Request { head_only, keep_alive } => {
                let asked = Asked { head_only: *head_only, keep_alive: *keep_alive, handshake: None };
                let answered = shard.conclude(slot, asked, answer);
                if matches!(answered, Answered::Kept) {
                    shard.return_to_proxy(slot, proxy);
                }
                answered
            }
            Waits::Handshake(head) => match Request::from_head(head) {
                Some(request) => shard.conclude(slot, Asked::by(&request), answer),
                None => Answered::Ended,
            },
            Waits::Session { .. } => unreachable!("only a session's home answers this request"),
        });
    }

    /// Ends the wait of a deferred request with the answer that `conclude` sends. Then handles what the client has sent
    /// behind the request.
    pub(super) fn conclude_later(&mut self, slot: Slot, conclude: impl FnOnce(&mut Self) -> Answered) {
        self.set_phase(slot, Phase::Idle);
        let answered = conclude(self);
        if matches!(answered, Answered::Later) {
            // The handshake waits for its session.
            return;
        }
        let mut protocol = std::mem::take(&mut self.connections[slot as usize].protocol);
        self.memory.unfinished -= protocol.memory();
        self.follow(slot, &mut protocol, answered);
        self.memory.unfinished += protocol.memory();
        self.connections[slot as usize].protocol = protocol;
        self.pause_if_unread(slot);
        self.resume(slot, Pause::Answer);
        if self.is_open(slot) && self.connections[slot as usize].liveness == Liveness::Ended {
            // The client ended its stream while its handshake waited.
            self.ended(slot);
        }
    }
}
