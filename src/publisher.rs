//! [`Publisher`]: the way into a running server from any thread.
//!
//! A publisher gives messages, notes and closings to the shards. Each shard has a bounded queue for them, its
//! **entrance**, and takes a bounded amount from it in each turn, like mail from other shards.

mod bans;
mod receipt;

use std::any::Any;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::hub::{self, ClientId, Kind, Message, Note, Slot, UserAction};
use crate::io::Waker;
use crate::protocol::frame::CloseCode;
use crate::sync::{Entrance, Limits, Rejection};

pub(crate) use bans::Bans;
pub use bans::{Ban, MAX_BANS};
pub(crate) use receipt::OnReceipt;
pub use receipt::{PendingReceipt, Position, Receipt, ReceiptFuture};

/// Maximum number of messages, notes and closings that wait for one shard.
pub(crate) const MAX_ENTRIES: usize = 4_096;
/// Maximum number of bytes that wait for one shard.
const MAX_BYTES: usize = 4 << 20;
/// Maximum number of bytes that a shard takes from its entrance in one turn, unless one entry has more.
const SHARE_BYTES: usize = 256 << 10;

/// The reason why the server did not accept a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// The queue of the shard is full: 4,096 messages or 4 MiB wait. The shard has more to do than it can, or it waits
    /// for another shard. Try again later, or drop the message.
    #[error("4,096 messages or 4 MiB wait for the shard; try again later")]
    Full,
    /// The message with its room's name, or the note, is larger than 4 MiB.
    #[error("the message is larger than 4 MiB; split it")]
    TooLarge,
    /// The server has stopped.
    #[error("the server has stopped")]
    Stopped,
}

/// The error of [`Publisher::ask`]. Returns the note.
pub struct AskError<N> {
    /// The reason why the server did not accept the note.
    pub reason: PublishError,
    /// The note, as it was given to [`Publisher::ask`].
    pub note: N,
}

impl<N> fmt::Debug for AskError<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AskError").field("reason", &self.reason).finish_non_exhaustive()
    }
}

impl<N> fmt::Display for AskError<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.reason.fmt(f)
    }
}

impl<N> std::error::Error for AskError<N> {}

/// A handle that publishes into a running server from any thread. Clones are cheap and reach the same server.
///
/// [`Server::publisher`](crate::Server::publisher) and [`Context::publisher`](crate::app::Context::publisher) return
/// one. No method waits for a shard: a method returns when its message is in the queue of the shard that handles the
/// message. It wakes the shard if that sleeps. A full queue is the error [`PublishError::Full`], and the caller keeps
/// the message. A message takes one or two allocations, a receipt one or two more.
///
/// Messages of one thread to the same shard are handled in the order of the calls. In particular, all messages to one
/// room are, since they go to the room's home shard. Calls that concern different shards have no order.
///
/// ```
/// use uproar::app::{Message, Relay};
/// use uproar::publisher::Receipt;
/// use uproar::{Options, Server};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let options = Options { listen: vec!["127.0.0.1:0".parse()?], ..Options::default() };
/// let mut server = Server::start_app(options, |_worker| Box::new(Relay::default()))?;
///
/// let publisher = server.publisher();
/// let thread = std::thread::spawn(move || -> Result<Receipt, uproar::publisher::PublishError> {
///     publisher.publish("news", Message::text("hello"))?;
///     Ok(publisher.publish_with_receipt("news", Message::text("again"))?.wait())
/// });
/// // The room has no members.
/// assert_eq!(thread.join().expect("no panic")?, Receipt::Unheard);
///
/// server.stop();
/// server.join();
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Publisher {
    doors: Arc<[Door]>,
    bans: Arc<Bans>,
}

impl fmt::Debug for Publisher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Publisher").field("shards", &self.doors.len()).finish_non_exhaustive()
    }
}

impl Publisher {
    /// Creates a publisher for the shards with these doors, in the order of the shards' indexes, and with the bans of their
    /// server.
    pub(crate) fn new(doors: impl Iterator<Item = Door>, bans: &Arc<Bans>) -> Self {
        Self { doors: doors.collect(), bans: Arc::clone(bans) }
    }

    /// Returns the number of shards: one for each worker.
    pub fn shard_count(&self) -> u16 {
        self.doors.len() as u16
    }

    /// Returns the home shard of a name: see [`Context::home_of`](crate::app::Context::home_of).
    pub fn home_of(&self, name: &str) -> u16 {
        hub::home_of(name, self.shard_count())
    }

    /// Publishes a message to all members of a room, like
    /// [`Context::publish_to_room`](crate::app::Context::publish_to_room).
    ///
    /// # Errors
    /// See [`PublishError`].
    pub fn publish(&self, room: &str, message: Message<'_>) -> Result<(), PublishError> {
        self.publish_and(room, message, None)
    }

    /// Publishes a message to a room, and returns its pending receipt.
    ///
    /// # Errors
    /// See [`PublishError`].
    pub fn publish_with_receipt(
        &self,
        room: &str,
        message: Message<'_>,
    ) -> Result<PendingReceipt, PublishError> {
        let (on_receipt, pending) = receipt::pending();
        self.publish_and(room, message, Some(on_receipt))?;
        Ok(pending)
    }

    /// Publishes a message to a room, and calls `then` with the receipt, once. `then` runs on the thread of the room's
    /// home shard and must not block: it delays all clients of the shard. After an error `then` is not called.
    ///
    /// # Errors
    /// See [`PublishError`].
    pub fn publish_then(
        &self,
        room: &str,
        message: Message<'_>,
        then: impl FnOnce(Receipt) + Send + 'static,
    ) -> Result<(), PublishError> {
        self.publish_and(room, message, Some(OnReceipt::new(then)))
    }

    fn publish_and(
        &self,
        room: &str,
        message: Message<'_>,
        on_receipt: Option<OnReceipt>,
    ) -> Result<(), PublishError> {
        let payload = message.to_payload();
        let bytes = room.len() + payload.len();
        let entry = Entry::Publish { room: room.into(), kind: message.kind(), payload, on_receipt };
        self.send(self.home_of(room), entry, bytes).map_err(|(reason, entry)| {
            if let Entry::Publish { on_receipt: Some(on_receipt), .. } = entry {
                on_receipt.dismiss();
            }
            reason
        })
    }

    /// Sends a message to one client, like [`Context::send_to_client`](crate::app::Context::send_to_client). The
    /// message is lost without an error when the client is gone.
    ///
    /// # Errors
    /// See [`PublishError`].
    pub fn send_to_client(&self, client: ClientId, message: Message<'_>) -> Result<(), PublishError> {
        let payload = message.to_payload();
        let bytes = payload.len();
        let entry = Entry::Send { client, kind: message.kind(), payload };
        self.send(client.shard, entry, bytes).map_err(|(reason, _)| reason)
    }

    /// Closes a client after sending its pending messages. At most 123 bytes of the reason are sent. Does nothing when
    /// the client is gone.
    ///
    /// # Errors
    /// See [`PublishError`].
    ///
    /// # Panics
    /// `code` cannot be sent in a close frame (RFC 6455 §7.4.1), for instance 1005 or 1006.
    pub fn close(&self, client: ClientId, code: CloseCode, reason: &str) -> Result<(), PublishError> {
        assert!(code.is_sendable(), "close code {} cannot be sent; try 1000, or 3000 to 4999", code.0);
        let entry = Entry::Close { client, code, reason: reason.into() };
        self.send(client.shard, entry, reason.len()).map_err(|(reason, _)| reason)
    }

    /// Sends a message to all clients of a user, like
    /// [`Context::send_to_user`](crate::app::Context::send_to_user).
    ///
    /// # Errors
    /// See [`PublishError`].
    pub fn send_to_user(&self, user: &str, message: Message<'_>) -> Result<(), PublishError> {
        self.act_on_user(user, UserAction::Send(message.kind()), message.to_payload(), None)
    }

    /// Sends a message to all clients of a user, and calls `then` with the receipt, once: [`Receipt::Sent`] with the number
    /// of the clients, [`Receipt::Unheard`] without clients, or [`Receipt::Stopped`]. `then` runs on the thread of the user's
    /// home shard and must not block: it delays all clients of the shard. After an error `then` is not called.
    ///
    /// # Errors
    /// See [`PublishError`].
    pub fn send_to_user_then(
        &self,
        user: &str,
        message: Message<'_>,
        then: impl FnOnce(Receipt) + Send + 'static,
    ) -> Result<(), PublishError> {
        let action = UserAction::Send(message.kind());
        self.act_on_user(user, action, message.to_payload(), Some(OnReceipt::new(then)))
    }

    /// Closes all clients of a user, like [`Context::close_user`](crate::app::Context::close_user).
    ///
    /// # Errors
    /// See [`PublishError`].
    ///
    /// # Panics
    /// `code` cannot be sent in a close frame (RFC 6455 §7.4.1), for instance 1005 or 1006.
    pub fn close_user(&self, user: &str, code: CloseCode, reason: &str) -> Result<(), PublishError> {
        assert!(code.is_sendable(), "close code {} cannot be sent; try 1000, or 3000 to 4999", code.0);
        self.act_on_user(user, UserAction::Close(code), reason.as_bytes().into(), None)
    }

    /// Makes all clients of a user members of a room, like [`Context::join_user`](crate::app::Context::join_user).
    ///
    /// # Errors
    /// See [`PublishError`].
    pub fn join_user(&self, user: &str, room: &str, history: u32) -> Result<(), PublishError> {
        self.act_on_user(user, UserAction::Join { history }, room.as_bytes().into(), None)
    }

    /// Ends the memberships of a room of all clients of a user, like
    /// [`Context::leave_user`](crate::app::Context::leave_user).
    ///
    /// # Errors
    /// See [`PublishError`].
    pub fn leave_user(&self, user: &str, room: &str) -> Result<(), PublishError> {
        self.act_on_user(user, UserAction::Leave, room.as_bytes().into(), None)
    }

    /// Keeps a user out for `duration`, like [`Context::ban_user`](crate::app::Context::ban_user).
    ///
    /// # Errors
    /// See [`PublishError`]. The ban holds also after an error, but clients of the user may not be closed; call this method
    /// again.
    pub fn ban_user(&self, user: &str, duration: Duration) -> Result<(), PublishError> {
        self.add_ban(user, duration);
        self.close_user(user, CloseCode::POLICY, "banned")
    }

    /// Lifts the ban of a user. Returns whether there was one.
    pub fn unban_user(&self, user: &str) -> bool {
        self.bans.remove(user)
    }

    /// Returns whether a user is banned now.
    pub fn is_banned(&self, user: &str) -> bool {
        self.bans.has(user)
    }

    /// Returns the bans of all users, the one that ends first first.
    pub fn bans(&self) -> Vec<Ban> {
        self.bans.all()
    }

    /// Adds a ban, without closing the user's clients.
    pub(crate) fn add_ban(&self, user: &str, duration: Duration) {
        self.bans.add(user, duration);
    }

    /// Does an action on all clients of a user, and calls `then` like [`Publisher::send_to_user_then`]. The code of a close
    /// must be sendable.
    pub(crate) fn act_on_user_then(
        &self,
        user: &str,
        action: UserAction,
        payload: &[u8],
        then: impl FnOnce(Receipt) + Send + 'static,
    ) -> Result<(), PublishError> {
        self.act_on_user(user, action, payload.into(), Some(OnReceipt::new(then)))
    }

    fn act_on_user(
        &self,
        user: &str,
        action: UserAction,
        payload: Box<[u8]>,
        on_receipt: Option<OnReceipt>,
    ) -> Result<(), PublishError> {
        let bytes = user.len() + payload.len();
        let entry = Entry::User { user: user.into(), action, payload, on_receipt };
        self.send(self.home_of(user), entry, bytes).map_err(|(reason, entry)| {
            if let Entry::User { on_receipt: Some(on_receipt), .. } = entry {
                on_receipt.dismiss();
            }
            reason
        })
    }

    /// Sends a note to the application instance of `shard`, where [`App::on_ask`](crate::app::App::on_ask) handles the
    /// note. An application that keeps its users' connections on their home shards ([`Publisher::home_of`]) reaches a
    /// user with one note.
    ///
    /// # Errors
    /// See [`PublishError`]. The error returns the note.
    ///
    /// # Panics
    /// `shard` is not below [`Publisher::shard_count`].
    pub fn ask<N: Any + Send>(&self, shard: u16, note: N) -> Result<(), AskError<N>> {
        self.ask_sized(shard, note, 0)
    }

    /// Works like [`Publisher::ask`], for a note that owns `heap_bytes` bytes on the heap. These bytes count against
    /// the limit of the shard's queue.
    ///
    /// # Errors
    /// See [`PublishError`]. The error returns the note.
    ///
    /// # Panics
    /// `shard` is not below [`Publisher::shard_count`].
    pub fn ask_sized<N: Any + Send>(
        &self,
        shard: u16,
        note: N,
        heap_bytes: usize,
    ) -> Result<(), AskError<N>> {
        let bytes = size_of::<N>() + heap_bytes;
        self.send(shard, Entry::Ask { note: Box::new(note) }, bytes).map_err(|(reason, entry)| {
            let Entry::Ask { note } = entry else { unreachable!("the entry that was sent comes back") };
            let note = *note.downcast().expect("the note that was sent comes back");
            AskError { reason, note }
        })
    }

    /// Gives the answer to a deferred request to its shard, whatever waits there: each request has one answer, so their
    /// number is bounded. `bytes` is the size of the answer.
    pub(crate) fn answer(&self, shard: u16, ticket: Ticket, answer: Note, bytes: usize) {
        let door = &self.doors[shard as usize];
        door.entrance.push_always(Entry::Answer { ticket, answer }, bytes);
        door.waker.wake();
    }

    /// Puts an entry into the queue of a shard, and wakes the shard. Returns an entry that is not accepted.
    fn send(&self, shard: u16, entry: Entry, bytes: usize) -> Result<(), (PublishError, Entry)> {
        let door = &self.doors[shard as usize];
        door.entrance.push(entry, bytes).map_err(|(rejection, entry)| {
            let reason = match rejection {
                Rejection::Full => PublishError::Full,
                Rejection::TooLarge => PublishError::TooLarge,
                Rejection::Closed => PublishError::Stopped,
            };
            (reason, entry)
        })?;
        door.waker.wake();
        Ok(())
    }
}

/// The name of a deferred request on its shard. No other request ever has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ticket {
    pub(crate) slot: Slot,
    /// Number of the request among all requests of the shard.
    pub(crate) number: u64,
}

/// A message, note, closing or answer on its way to a shard.
#[derive(Debug)]
pub(crate) enum Entry {
    /// A message to a room whose home is the shard.
    Publish { room: Box<str>, kind: Kind, payload: Box<[u8]>, on_receipt: Option<OnReceipt> },
    /// A message to a client of the shard.
    Send { client: ClientId, kind: Kind, payload: Box<[u8]> },
    /// The closing of a client of the shard.
    Close { client: ClientId, code: CloseCode, reason: Box<str> },
    /// An action on all clients of a user whose home is the shard.
    User { user: Box<str>, action: UserAction, payload: Box<[u8]>, on_receipt: Option<OnReceipt> },
    /// A note to the application instance of the shard.
    Ask { note: Note },
    /// The answer to a deferred request, an `app::Answer`.
    Answer { ticket: Ticket, answer: Note },
}

/// The sending end of a shard's entrance.
#[derive(Clone, Debug)]
pub(crate) struct Door {
    entrance: Arc<Entrance<Entry>>,
    waker: Waker,
}

/// The receiving end of a shard's entrance. Dropping it closes the entrance: entries that wait are dropped, and their
/// publishers get [`Receipt::Stopped`].
#[derive(Debug)]
pub(crate) struct Hall {
    entrance: Arc<Entrance<Entry>>,
    /// Entries that were taken and are not handled yet. Empty between turns.
    taken: Vec<Entry>,
}

/// Creates an entrance for at most `entries` entries, and returns its sending end and its receiving end. `waker` wakes
/// the shard.
pub(crate) fn entrance(waker: Waker, entries: usize) -> (Door, Hall) {
    let entrance = Arc::new(Entrance::new(Limits { entries, bytes: MAX_BYTES }));
    (Door { entrance: Arc::clone(&entrance), waker }, Hall { entrance, taken: Vec::new() })
}

impl Hall {
    /// Returns whether entries wait.
    pub(crate) fn has_entries(&self) -> bool {
        self.entrance.has_entries()
    }

    /// Takes the shard's share of one turn from the queue, at most `entries` entries. The caller returns the emptied
    /// list with [`Hall::put_back`], so that its memory is used again.
    pub(crate) fn take(&mut self, entries: usize) -> Vec<Entry> {
        self.entrance.take(Limits { entries, bytes: SHARE_BYTES }, &mut self.taken);
        std::mem::take(&mut self.taken)
    }

    /// Takes back the list of [`Hall::take`].
    pub(crate) fn put_back(&mut self, mut emptied: Vec<Entry>) {
        emptied.clear();
        self.taken = emptied;
    }

    /// Accepts no further entries, and drops those that wait.
    pub(crate) fn close(&self) {
        self.entrance.close().for_each(drop);
    }
}

/// Faults that the simulation injects.
#[cfg(test)]
impl Hall {
    /// Takes the first entry and drops it.
    pub(crate) fn drop_first(&mut self) {
        drop(self.take(1));
    }

    /// Reverses the entries that wait.
    pub(crate) fn reverse(&self) {
        self.entrance.reverse();
    }
}

impl Drop for Hall {
    fn drop(&mut self) {
        self.close();
    }
}
