//! Access of the simulation to a shard: its state, and control of the two parts of a turn.

use super::connection::Liveness;
use super::flow::Pause;
use super::*;
use crate::hub::{Batch, SessionCounts};
use crate::io::Uring;
use crate::io::uring::Kernel;
use crate::publisher::Hall;

impl<K: Kernel> Shard<Uring<K>> {
    /// Runs the part of a turn before the wait, and returns the maximum wait. [`Shard::end_turn`] runs the rest of the
    /// turn.
    pub(crate) fn begin_turn(&mut self, events: &mut Events) -> Option<Duration> {
        let timeout = self.timeout();
        self.transport.begin(timeout, events)
    }

    /// Runs the part of a turn after the wait: fetches the backend's events and handles them.
    pub(crate) fn end_turn(&mut self, events: &mut Events) {
        self.transport.end(events).expect("the simulated kernel does not break");
        self.work(events);
    }

    /// Drops the requests that full mailboxes did not take in this turn: a fault that the simulation injects.
    pub(crate) fn drop_stuck_requests(&mut self) {
        let others = (0..self.addresses.len() as u16).filter(|shard| *shard != self.settings.id.index);
        others.for_each(|shard| self.hub.outgoing(shard).requests = Batch::default());
    }

    /// Closes the entrance, as the end of a shard's thread does.
    pub(crate) fn close_entrance(&self) {
        self.mailbox.hall.close();
    }

    pub(crate) fn entrance(&mut self) -> &mut Hall {
        &mut self.mailbox.hall
    }

    /// Drops the list of paused publishers, so that they never resume: a fault that the simulation injects.
    pub(crate) fn forget_paused(&mut self) {
        self.flow.forget_publishers();
    }

    /// Drops the requests that wait for deferred answers: a fault that the simulation injects.
    pub(crate) fn forget_deferred(&mut self) {
        self.deferred.clear();
    }

    /// Loses members from unfinished lists: a fault that the simulation injects.
    pub(crate) fn lose_members(&mut self) {
        self.context.lists.lose_members();
    }

    pub(crate) fn session_counts(&self) -> SessionCounts {
        self.hub.session_counts()
    }

    pub(crate) fn hub(&mut self) -> &mut Hub {
        &mut self.hub
    }

    pub(crate) fn backend(&mut self) -> &mut Uring<K> {
        self.transport.backend_mut()
    }

    /// Sets the limits of the shard. Low limits are reached with a few clients and messages.
    pub(crate) fn set_bounds(&mut self, bounds: Bounds) {
        self.bounds = bounds;
    }

    pub(crate) fn is_finished(&self) -> bool {
        self.is_over()
    }

    /// Returns whether the shard handles input of the client now. It does not while the client is over its rate, leaves
    /// answers unread, publishes to full mailboxes, or has used up its share of the turn.
    pub(crate) fn listens_to(&self, slot: Slot) -> bool {
        let Some(connection) = self.connections.get(slot as usize) else { return false };
        connection.phase.is_talking()
            && connection.liveness != Liveness::Ended
            && ![Pause::Unread, Pause::Congestion, Pause::Rate, Pause::Share, Pause::Answer, Pause::Memory]
                .iter()
                .any(|why| connection.flow.is_paused(*why))
    }

    pub(crate) fn waker(&self) -> &Waker {
        &self.waker
    }

    /// Returns the maximum number of past messages that a new member of a room gets.
    pub(crate) fn history(&self) -> u32 {
        self.app.history()
    }

    pub(crate) fn stats(&self) -> &Stats {
        &self.stats
    }

    /// Returns one text for each kind of state that is left when all connections are closed. Empty when nothing leaks.
    pub(crate) fn leftovers(&self) -> Vec<String> {
        let (rooms, bytes) = self.hub.memory();
        let found = [
            ("connections", self.live),
            ("held streams", self.flow.held()),
            ("paused publishers", self.flow.publishers()),
            ("deferred requests", self.deferred.len()),
            ("questions for members", self.questions.len()),
            ("lists of members", self.context.lists.len()),
            ("questions for users", self.context.user_questions.waiting()),
            ("users", self.hub.user_entries()),
            ("sessions of clients", self.hub.linked()),
            ("sessions", self.hub.session_entries()),
            ("clients paused for memory", self.memory.paused()),
            ("held bytes", self.flow.held_bytes()),
            ("bytes of unfinished messages", self.memory.unfinished),
            ("deadlines of messages", self.unfinished.len()),
            ("closings", self.context.closing.len()),
            ("entries from outside", usize::from(self.mailbox.hall.has_entries())),
            ("rooms", rooms),
            ("bytes of logs", bytes),
            ("clients in the hub", self.hub.occupied()),
            ("bytes of windows", self.stats.context_bytes() as usize),
            ("sends", self.transport.usage().sends_under_way),
            ("unfinished handshakes", self.handshakes.len()),
            ("timers", usize::from(self.timers.next_due_ms().is_some())),
            ("room timers", usize::from(self.hub.next_tick_ms().is_some())),
            (
                "connections not counted as closed",
                (self.stats.accepted.get() - self.stats.closed.get()) as usize,
            ),
        ];
        found.iter().filter(|(_, count)| *count > 0).map(|(what, count)| format!("{count} {what}")).collect()
    }
}
