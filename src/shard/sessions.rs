//! Sessions: a WebSocket with a session opens once the session's home shard has answered, and continues its rooms.

use sha2::{Digest, Sha256};

use crate::app::{self, Claims, ResumedRoom, Resumption};
use crate::hub::{RangePart, Resumed, SessionKey, SessionRecord, SessionReply, Slot};
use crate::io::Backend;
use crate::protocol::{CloseCode, Refusal, Request, Status};
use crate::stats::Refused;

use super::Shard;
use super::connection::Connection;
use super::deferred::{Pending, Waits};
use super::requests::Answered;

/// Close code of a client that lost its session to a later client.
const RESUMED_ELSEWHERE: CloseCode = CloseCode(4002);

impl<B: Backend> Shard<B> {
    /// Asks for the session of a client whose WebSocket is about to open. The client waits for the answer.
    pub(super) fn ask_for_session(
        &mut self,
        slot: Slot,
        request: &Request<'_>,
        upgrade: app::Upgrade,
        (claims, id): (Option<Claims>, &str),
    ) -> Answered {
        let key = session_key(claims.as_ref().and_then(Claims::user), id);
        // The numbers of two requests of a connection differ.
        let number = self.stats.requests.get();
        let Connection { peer, .. } = self.connections[slot as usize];
        let pending = Box::new(Pending { upgrade, claims });
        self.hub.ask_for_session(slot, key, number);
        self.wait(slot, number, peer, Waits::Session { head: request.head().into(), pending })
    }

    /// Handles a reply of a session's home shard.
    pub(super) fn take_session_reply(&mut self, reply: SessionReply) {
        match reply {
            SessionReply::Attached { key, client, request, record } => {
                let slot = self.hub.find(self.hub.identify(client));
                match slot.filter(|slot| self.waits_for_session(*slot, request)) {
                    Some(slot) => {
                        let resumption = record.as_ref().map(resumption);
                        self.hub.attach(slot, key, record.unwrap_or_default());
                        self.open_with_session(slot, resumption);
                    }
                    None => self.hub.return_session(key, client, record.unwrap_or_default()),
                }
            }
            SessionReply::Full { client, request } => {
                if let Some(slot) = self.hub.find(self.hub.identify(client))
                    && self.waits_for_session(slot, request)
                {
                    self.open_with_session(slot, None);
                }
            }
            SessionReply::Superseded { client, request } => {
                if let Some(slot) = self.hub.find(self.hub.identify(client))
                    && self.waits_for_session(slot, request)
                {
                    let reason = "Another connection asks for this session, too, and gets it.";
                    let refusal = Refusal::new(Status::Conflict, reason);
                    self.conclude_later(slot, |shard| shard.refuse(slot, Refused::Application, &refusal));
                }
            }
            SessionReply::Yield { client } => {
                if let Some(slot) = self.hub.find_leaving(self.hub.identify(client))
                    && self.hub.has_session(slot)
                {
                    self.hub.detach(slot);
                    self.begin_closing(slot, false, RESUMED_ELSEWHERE, "session resumed elsewhere");
                }
            }
        }
    }

    /// Tells the application about clients that continue in rooms where their sessions stopped. Then these clients get
    /// their messages.
    pub(super) fn settle_resumed(&mut self) {
        while let Some(resumed) = self.hub.poll_resumed() {
            self.tell_resumed(&resumed);
            self.hub.begin_resumed(&resumed, None);
        }
    }

    /// Handles messages of a room from a session's position on, as the room's home has them. `frames` are the encoded
    /// frames, one after another.
    pub(super) fn take_range(&mut self, part: &RangePart, frames: &[u8]) {
        if let Some(resumed) = self.hub.take_range(part) {
            self.tell_resumed(&resumed);
            self.hub.begin_resumed(&resumed, Some((frames, part.frame_lens.len() as u64)));
            self.charge_replays();
        }
    }

    fn tell_resumed(&mut self, resumed: &Resumed) {
        let Resumed { slot, ref room, first, missed, .. } = *resumed;
        let room = ResumedRoom { room, first, missed };
        if self.is_open(slot) {
            self.with_client(slot, |app, context, client| app.on_resumed(context, client, room));
        }
    }

    fn waits_for_session(&self, slot: Slot, request: u64) -> bool {
        self.deferred.get(&slot).is_some_and(|deferred| deferred.waits_for_session(request))
    }

    fn open_with_session(&mut self, slot: Slot, resumption: Option<Resumption>) {
        let waits = self.deferred.remove(&slot).map(|deferred| deferred.waits);
        let Some(Waits::Session { head, pending }) = waits else { return };
        let Pending { upgrade, claims } = *pending;
        self.conclude_later(slot, |shard| match Request::from_head(&head) {
            Some(request) => shard.complete_upgrade(slot, &request, upgrade, claims, resumption),
            None => Answered::Ended,
        });
    }
}

/// Returns the key of a session. Two users with the same identifier of a session have two sessions.
fn session_key(user: Option<&str>, id: &str) -> SessionKey {
    let user = user.unwrap_or_default();
    let digest = Sha256::new().chain_update((user.len() as u64).to_le_bytes()).chain_update(user);
    let hash = digest.chain_update(id).finalize();
    SessionKey::new(std::array::from_fn(|index| hash[index]))
}

/// Returns what the application learns of a session that a client continues.
fn resumption(record: &SessionRecord) -> Resumption {
    let rooms = record.rooms.iter().map(|(name, _)| name.as_ref().to_owned()).collect();
    Resumption { rooms, state: record.state.clone(), said_goodbye: record.said_goodbye }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_of_different_users_never_have_the_same_key() {
        let pairs = [(None, "ab"), (Some("a"), "b"), (Some("ab"), ""), (Some("b"), "a"), (Some("a"), "c")];
        for (at, (user, id)) in pairs.into_iter().enumerate() {
            assert_eq!(session_key(user, id), session_key(user, id));
            assert!(pairs[..at].iter().all(|(other, at)| session_key(*other, at) != session_key(user, id)));
        }
    }
}
