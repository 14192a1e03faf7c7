//! Users: actions on all clients of a user, wherever they are connected.

use crate::hub::{Message, UserAction};
use crate::io::Backend;
use crate::protocol::CloseCode;

use super::Shard;

impl<B: Backend> Shard<B> {
    /// Handles the number of clients that another shard, or this one, has of a user. This shard is the user's home.
    ///
    /// A client may have got its user just before the user was banned, so that the home learned of the client after it
    /// closed the user's clients. Therefore the home looks at the bans again.
    pub(super) fn count_user(&mut self, from: u16, user: &str, count: u32) {
        self.hub.count_user(from, user, count);
        if count > 0 && self.shared.bans.has(user) {
            self.hub.pass_to_user(user, UserAction::Close(CloseCode::POLICY), b"banned");
        }
    }

    /// Does an action on the clients that this shard has of a user.
    pub(super) fn act_on_user(&mut self, user: &str, action: UserAction, payload: &[u8]) {
        match (action, str::from_utf8(payload).unwrap_or_default()) {
            (UserAction::Send(kind), _) => self.hub.send_to_user_here(user, Message::new(kind, payload)),
            (UserAction::Close(code), reason) => {
                for slot in self.hub.clients_of_user(user).to_vec() {
                    self.begin_closing(slot, true, code, reason);
                }
            }
            (UserAction::Join { history }, room) => {
                for slot in self.hub.clients_of_user(user).to_vec() {
                    if !self.hub.is_member(slot, room) && self.hub.join(slot, room, history) {
                        self.added(slot, room);
                    }
                }
                self.settle_new_rooms();
                self.settle_resumed();
                self.charge_replays();
            }
            (UserAction::Leave, room) => {
                for slot in self.hub.clients_of_user(user).to_vec() {
                    if self.hub.is_member(slot, room) {
                        self.hub.leave(slot, room);
                        self.removed(slot, room);
                    }
                }
            }
        }
    }
}
