//! The hub's rooms: their order, their copies on other shards, and how they come and go.

use super::log::Log;
use super::rooms::RoomId;
use super::{Hub, Message, home_of, rooms, with_frame};

impl Hub {
    /// As the home shard, gives a message its place in the room's order and brings it on its way to all members.
    pub fn order(&mut self, room: &str, message: Message<'_>) {
        debug_assert_eq!(self.home_of(room), self.options.shard, "only the home shard orders {room}");
        if self.options.history == 0 && self.rooms.find(room).is_none() {
            return;
        }
        let id = self.find_or_make(room);
        with_frame(message, |parts| {
            let number = self.rooms[id].log.head();
            let subscribers = self.rooms[id].home.iter().flat_map(|home| &home.subscribers);
            for &shard in subscribers {
                self.outgoing[shard as usize].deliveries.frame(room, number, parts);
            }
            self.rooms[id].append(parts, &mut self.deflater);
        });
        self.appended(id);
    }

    /// As the home shard, answers `shard` with the room's history and sends it every message from now on.
    pub fn subscribe(&mut self, shard: u16, room: &str) {
        let id = self.find_or_make(room);
        let known = &mut self.rooms[id];
        let first = known.log.tail(self.options.history.into(), self.options.history_bytes);
        self.outgoing[shard as usize].deliveries.snapshot(room, first, known.log.frames(first));
        let home = known.home.get_or_insert_default();
        if !home.subscribers.contains(&shard) {
            home.subscribers.push(shard);
        }
        self.weigh(id);
    }

    /// As the home shard, stops sending the room's messages to `shard`.
    pub fn unsubscribe(&mut self, shard: u16, room: &str) {
        if let Some(id) = self.rooms.find(room) {
            if let Some(home) = &mut self.rooms[id].home {
                home.subscribers.retain(|other| *other != shard);
            }
            self.maybe_forget(id);
        }
    }

    /// Takes the answer to a subscription: the kept frames, the first of which is message `first`.
    pub fn snapshot<'a>(&mut self, room: &str, first: u64, frames: impl Iterator<Item = &'a [u8]>) {
        let Some(id) = self.rooms.find(room).filter(|id| !self.rooms[*id].live) else { return };
        let mut log = Log::starting_at(first);
        for frame in frames {
            log.append(&[frame]);
        }
        self.rooms[id].start(log, self.options.history_bytes);
        if self.rooms[id].members.is_empty() {
            return self.maybe_forget(id);
        }
        self.appended(id);
    }

    /// Takes message `number` of a room, encoded, from its home shard.
    pub fn deliver(&mut self, room: &str, number: u64, frame: &[u8]) {
        // Before the snapshot come messages of a subscription that ended; the snapshot has them.
        let Some(id) = self.rooms.find(room).filter(|id| self.rooms[*id].live) else { return };
        let known = &mut self.rooms[id];
        assert_eq!(number, known.log.head(), "messages of {room} come in order and without a hole");
        known.append(&[frame], &mut self.deflater);
        self.appended(id);
    }

    /// Passes the time in: rooms that nobody uses give their memory back, and go when their time has come.
    pub fn tick(&mut self, now_ms: u64) {
        self.now_ms = now_ms;
        while let Some(due) = self.rooms.timers.expired(now_ms) {
            for (id, serial) in due {
                if self.rooms.get(id).is_some_and(|room| room.serial == serial) {
                    self.rooms[id].timed = false;
                    self.rest(id);
                }
            }
        }
    }

    /// When [`Hub::tick`] has something to do again.
    pub fn next_tick_ms(&self) -> Option<u64> {
        self.rooms.timers.next_due_ms()
    }
}

impl Hub {
    pub(super) fn find_or_make(&mut self, room: &str) -> RoomId {
        if let Some(id) = self.rooms.find(room) {
            return id;
        }
        let home = self.home_of(room);
        if home != self.options.shard {
            self.outgoing[home as usize].requests.subscribe(room);
        }
        let id = self.rooms.insert(room, home == self.options.shard);
        self.rooms[id].used_ms = self.now_ms;
        id
    }

    /// Something was appended to the room's log.
    pub(super) fn appended(&mut self, id: RoomId) {
        let room = &mut self.rooms[id];
        room.used_ms = self.now_ms;
        self.came += 1;
        if !room.queued {
            room.queued = true;
            self.passes.push_back((id, room.serial));
        }
        if !room.saturated && room.is_saturated(self.options.lag_window) {
            room.saturated = true;
            self.saturated += 1;
        }
        self.weigh(id);
    }

    /// A room without members is kept only at home, and only for its history; or elsewhere until its snapshot
    /// comes, so that no later subscription takes it for its own.
    pub(super) fn maybe_forget(&mut self, id: RoomId) {
        let room = &mut self.rooms[id];
        if !room.members.is_empty() || !room.live {
            return;
        }
        room.used_ms = self.now_ms;
        if room.home.is_some() {
            let abandoned = room.is_abandoned();
            if abandoned && (self.options.history_ms == 0 || room.log.head() == 0) {
                self.forget(id);
            } else {
                self.set_timer(id);
                self.weigh(id);
            }
            return;
        }
        let home = home_of(&room.name, self.options.shards);
        self.outgoing[home as usize].requests.unsubscribe(&room.name);
        self.forget(id);
    }

    pub(super) fn forget(&mut self, id: RoomId) {
        let room = self.rooms.remove(id);
        self.saturated -= usize::from(room.saturated);
    }

    pub(super) fn set_timer(&mut self, id: RoomId) {
        self.rooms.set_timer(id, self.now_ms, self.options.history_ms);
    }

    /// A room's timer fired: it may have been idle for long enough to rest, or to go.
    pub(super) fn rest(&mut self, id: RoomId) {
        let room = &mut self.rooms[id];
        let idle_ms = self.now_ms.saturating_sub(room.used_ms);
        if room.is_abandoned() && idle_ms >= self.options.history_ms {
            return self.forget(id);
        }
        if room.is_consumed() && !room.queued && idle_ms >= rooms::REST_MS {
            room.release();
        }
        if room.is_abandoned() || room.memory() > 0 && room.is_consumed() {
            self.set_timer(id);
        }
        self.weigh(id);
    }

    /// Counts what a room's log holds. When all of them hold too much, rooms give up their histories: those that
    /// nobody is in go, and then others lose what newcomers would see, always the least recently used first.
    pub(super) fn weigh(&mut self, id: RoomId) {
        if self.options.history == 0 || self.options.history_memory == 0 {
            return;
        }
        self.rooms.weigh(id);
        while self.has_too_much_history() {
            let Some(least) = self.rooms.take_least() else { return };
            if self.rooms[least].live && self.rooms[least].is_abandoned() {
                self.forget(least);
            } else {
                self.rooms[least].drop_history();
                self.rooms.weigh(least);
            }
        }
    }

    pub(super) fn has_too_much_history(&self) -> bool {
        self.options.history_memory > 0 && self.rooms.weight() > self.options.history_memory
    }
}
