//! Calls into the application. Every handler runs here: its panic is caught, and the clients that it wants closed are
//! closed after it has returned.

use std::panic::{AssertUnwindSafe, catch_unwind};

use tracing::error;

use crate::app::{App, ClientId, Closing, Context, Incoming, Opening};
use crate::config::LagPolicy;
use crate::hub::{ClientNumber, History, Lagged, Occupancy, Slot};
use crate::io::Backend;
use crate::protocol::CloseCode;

use super::connection::Phase;
use super::{Shard, ShardId};

impl<B: Backend> Shard<B> {
    /// Completes a WebSocket handshake: marks the client as open, and calls the application's `on_open`.
    pub(super) fn opened(&mut self, slot: Slot, opening: Opening<'_>) {
        self.set_phase(slot, Phase::Open);
        self.connections[slot as usize].flow.forget_spent();
        self.set_deadline(slot, self.settings.ping_ms);
        self.stats.opened.add(1);
        self.with_client(slot, |app, context, client| app.on_open(context, client, opening));
        if self.is_leaving() {
            self.leave_client(slot);
        }
    }

    /// Hands a client's message to the application. Pauses the client when published messages cannot be passed on yet.
    pub(super) fn message(&mut self, slot: Slot, message: Incoming<'_>) {
        if !self.is_open(slot) {
            return;
        }
        self.stats.messages_in.add(1);
        self.journal.heard(slot);
        // Earlier handlers may have published to a saturated room, which is not this client's doing.
        self.hub.take_overload();
        self.with_client(slot, |app, context, client| app.on_message(context, client, message));
        let congested = self.is_congested() | self.hub.take_overload();
        if congested && self.is_open(slot) {
            self.pause_publisher(slot);
        }
    }

    /// Handles a client that missed messages: closes it or calls the application's `on_lag`, by the lag policy.
    pub(super) fn lagged(&mut self, lagged: &Lagged) {
        let Lagged { slot, missed } = *lagged;
        if !self.is_open(slot) {
            return;
        }
        self.stats.lagged.add(1);
        match self.settings.lag_policy {
            LagPolicy::Close => self.begin_closing(slot, false, CloseCode::TRY_AGAIN, "lagged"),
            LagPolicy::Skip => {
                self.with_client(slot, |app, context, client| app.on_lag(context, client, missed));
            }
        }
    }

    /// Calls the application's `on_close` for a client that is gone. The client still is a member of its rooms.
    pub(super) fn gone(&mut self, slot: Slot) {
        self.hub.begin_finish(slot);
        self.with_client(slot, |app, context, client| app.on_close(context, client));
    }

    /// Calls the application's `on_added` for a client that an action on its user has added to a room.
    pub(super) fn added(&mut self, slot: Slot, room: &str) {
        self.with_client(slot, |app, context, client| app.on_added(context, client, room));
    }

    /// Calls the application's `on_removed` for a client that an action on its user has removed from a room.
    pub(super) fn removed(&mut self, slot: Slot, room: &str) {
        self.with_client(slot, |app, context, client| app.on_removed(context, client, room));
    }

    /// Calls the application's `on_start`, before the first turn.
    pub(super) fn start_app(&mut self) {
        self.with_app(|app, context| app.on_start(context));
        // The first turn may wait for long, so it must not keep mail for other shards.
        self.post();
    }

    /// Calls the application's `on_timer` for each of its timers whose deadline has passed.
    pub(super) fn fire_app_timers(&mut self) {
        while let Some(token) = self.context.timers.expired(self.now_ms) {
            self.with_app(|app, context| app.on_timer(context, token));
        }
    }

    /// Tells the application which rooms of this home shard have got their first member or lost their last one. Changes
    /// that the handlers make are told in the next turn.
    pub(super) fn tell_occupancies(&mut self) {
        for _ in 0..self.hub.occupancy_reports() {
            let Some(Occupancy { room, is_occupied }) = self.hub.poll_occupancy() else { return };
            self.with_app(|app, context| match is_occupied {
                true => app.on_occupied(context, &room),
                false => app.on_vacated(context, &room),
            });
        }
    }

    /// Tells the application about a member of a room whose home is this shard. `user` is the member's user, or empty.
    pub(super) fn tell_member(&mut self, room: &str, client: ClientNumber, is_here: bool, user: &[u8]) {
        let client = self.hub.identify(client);
        let user = str::from_utf8(user).ok().filter(|user| !user.is_empty());
        self.with_app(|app, context| match is_here {
            true => app.on_joined(context, room, client, user),
            false => app.on_left(context, room, client),
        });
    }

    /// Calls a handler of the application for a client. If the handler panics, only this client is closed, with code
    /// 1011.
    pub(super) fn with_client(
        &mut self,
        slot: Slot,
        handler: impl FnOnce(&mut dyn App, &mut Context<'_>, ClientId),
    ) {
        let client = self.hub.client(slot);
        let handle = |app: &mut dyn App, context: &mut Context<'_>| {
            context.caller = ClientNumber::of(client);
            handler(app, context, client);
        };
        if self.with_app(handle).is_none() {
            self.begin_closing(slot, true, CloseCode::INTERNAL, "the server made a mistake");
        }
    }

    /// Asks the application for the limits of the history of a new room whose home is this shard.
    pub(super) fn history_of(&mut self, room: &str) -> Option<History> {
        let app = &mut *self.app;
        let result = catch_unwind(AssertUnwindSafe(|| app.history_of(room)));
        self.unless_panicked(result).flatten()
    }

    /// Returns the application's descriptions of clients of this shard, which are members of the room.
    pub(super) fn describe_members(&mut self, room: &str, clients: &[ClientId]) -> Vec<String> {
        let app = &mut *self.app;
        let describe = || clients.iter().map(|client| app.describe_member(room, *client)).collect();
        let result = catch_unwind(AssertUnwindSafe(describe));
        self.unless_panicked(result).unwrap_or_else(|| vec![String::new(); clients.len()])
    }

    /// Asks the application for the limits of the histories of the rooms that joins have created.
    pub(super) fn settle_new_rooms(&mut self) {
        while let Some(room) = self.hub.poll_new_room() {
            let history = self.history_of(&room);
            self.hub.set_history(&room, history);
        }
    }

    /// Calls a handler of the application, then closes the clients that it asked to close. Returns `None` when the
    /// handler panicked.
    pub(super) fn with_app<R>(
        &mut self,
        handler: impl FnOnce(&mut dyn App, &mut Context<'_>) -> R,
    ) -> Option<R> {
        let ShardId { index: shard, count: shard_count } = self.settings.id;
        let (now_ms, state) = (self.now_ms, &mut self.context);
        let mut context = Context { hub: &mut self.hub, shard, shard_count, caller: None, now_ms, state };
        let app = &mut *self.app;
        let result = catch_unwind(AssertUnwindSafe(|| handler(app, &mut context)));
        let result = self.unless_panicked(result);
        self.settle_new_rooms();
        self.settle_resumed();
        self.charge_replays();
        while let Some(slot) = self.context.tokens.renewed.pop() {
            self.set_deadline(slot, self.settings.ping_ms);
        }
        while let Some(Closing { slot, code, reason }) = self.context.closing.pop() {
            self.begin_closing(slot, true, code, &reason);
        }
        result
    }

    /// Returns the result of a handler. `None` for a panic, which is logged and counted.
    fn unless_panicked<R>(&self, result: std::thread::Result<R>) -> Option<R> {
        if result.is_err() {
            error!("a handler of the application panicked");
            self.stats.panics.add(1);
        }
        result.ok()
    }
}
