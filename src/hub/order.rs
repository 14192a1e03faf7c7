//! Orders the messages of rooms, forwards them to other shards, and forgets unused rooms.

use super::direct::STALL_MS;
use super::log::Log;
use super::room::{Home, Subscriber};
use super::rooms::{self, RoomId, RoomKey};
use super::{ClientNumber, Hub, Message, Position, with_frame};

impl Hub {
    /// Gives a message the next number in the room's order, and forwards the message to all members. Called on the
    /// room's home shard. `key` is the home shard's key of the room, if the publisher knows it. Returns the message's
    /// position, or `None` if the room has neither members nor history, so that nobody gets the message.
    pub fn order(&mut self, room: &str, key: Option<RoomKey>, message: Message<'_>) -> Option<Position> {
        self.order_except(room, key, message, None)
    }

    /// Works like [`Hub::order`]. The client `except` does not get the message if it is a member of the room when the
    /// message reaches its shard. Later it may get the message as part of the room's history, if it joins again.
    pub fn order_except(
        &mut self,
        room: &str,
        key: Option<RoomKey>,
        message: Message<'_>,
        except: Option<ClientNumber>,
    ) -> Option<Position> {
        let except_shard = except.map(|client| self.identify(client).shard);
        let known = key.and_then(|key| self.rooms.resolve(key)).or_else(|| self.rooms.find(room));
        let id = match known {
            Some(id) => id,
            // The room does not exist, and a new room would keep no history.
            None if self.options.history == 0 => return None,
            None => self.make_room(room),
        };
        debug_assert_eq!((&*self.rooms[id].name, self.rooms[id].home_shard), (room, self.options.shard));
        let number = self.rooms[id].log.head();
        with_frame(message, |parts| {
            for subscriber in self.rooms[id].home.iter().flat_map(|home| &home.subscribers) {
                let except = except.filter(|_| except_shard == Some(subscriber.shard));
                let deliveries = &mut self.outgoing[subscriber.shard as usize].deliveries;
                deliveries.frame(subscriber.room, number, parts, except);
            }
            self.exclude(id, number, except);
            self.rooms[id].append(parts, &mut self.deflater);
            if let Some(home) = self.rooms[id].home.as_mut().filter(|_| self.options.history > 0) {
                home.times.note(number, self.now_ms, self.options.history);
            }
        });
        // A shard never uses a serial number again, and a room's home never changes.
        let epoch = self.epoch_base.wrapping_add(self.rooms[id].key.serial());
        // This may forget the room, if it has no members and histories take too much memory.
        self.appended(id);
        Some(Position { epoch, number })
    }

    /// Adds `shard` as a subscriber of the room: sends it the history now and every further message. Called on the
    /// room's home shard. `subscriber` is the key of the room on `shard`.
    pub fn subscribe(&mut self, shard: u16, room: &str, subscriber: RoomKey) {
        let id = self.find_or_make(room);
        let known = &mut self.rooms[id];
        let first = known.log.tail(self.options.history.into(), self.options.history_bytes);
        let keys = (subscriber, known.key);
        self.outgoing[shard as usize].deliveries.snapshot(keys, first, known.log.frames(first));
        let subscribers = &mut known.home.get_or_insert_default().subscribers;
        debug_assert!(
            subscribers.iter().all(|other| other.shard != shard),
            "a subscription ends before the next"
        );
        subscribers.push(Subscriber { shard, room: subscriber });
        self.note_occupancy(id);
        self.weigh(id);
    }

    /// Removes `shard` from the room's subscribers, so that it gets no further messages. Called on the room's home
    /// shard.
    pub fn unsubscribe(&mut self, shard: u16, room: &str) {
        if let Some(id) = self.rooms.find(room) {
            if let Some(home) = &mut self.rooms[id].home {
                home.subscribers.retain(|other| other.shard != shard);
            }
            self.note_occupancy(id);
            self.maybe_forget(id);
        }
    }

    /// Handles the answer to a subscription: the frames of the history, from message number `first` on. `home` is the
    /// key of the room on its home shard.
    pub fn snapshot<'a>(
        &mut self,
        room: RoomKey,
        home: RoomKey,
        first: u64,
        frames: impl Iterator<Item = &'a [u8]>,
    ) {
        let id = self.rooms.resolve(room).expect("a room stays until its snapshot comes");
        let mut log = Log::starting_at(first);
        for frame in frames {
            log.append(&[frame]);
        }
        self.rooms[id].start(log, home, self.options.history_bytes);
        for index in 0..self.rooms[id].members.len() {
            self.report_replay(id, index);
        }
        if self.rooms[id].members.is_empty() {
            return self.maybe_forget(id);
        }
        self.appended(id);
    }

    /// Appends message number `number`, an encoded frame from the home shard, to this shard's log of the room.
    /// The client `except` does not get the message.
    pub fn deliver(&mut self, room: RoomKey, number: u64, frame: &[u8], except: Option<ClientNumber>) {
        // This shard may have forgotten the room while its unsubscribe request is on its way.
        let Some(id) = self.rooms.resolve(room) else { return };
        let known = &mut self.rooms[id];
        let is_next = known.live && number == known.log.head();
        assert!(is_next, "message {number} of {} came after {}", known.name, known.log.head());
        known.append(&[frame], &mut self.deflater);
        self.exclude(id, number, except);
        self.appended(id);
    }

    /// Advances the hub's time to `now_ms`. Unused rooms free memory; rooms without members are forgotten when their
    /// history expires.
    pub fn tick(&mut self, now_ms: u64) {
        self.watched_ms += now_ms.saturating_sub(self.now_ms).min(STALL_MS / 2);
        self.now_ms = now_ms;
        while let Some(due) = self.rooms.timers.expired(now_ms) {
            for key in due {
                if let Some(id) = self.rooms.resolve(key) {
                    self.rooms[id].timed = false;
                    self.rest(id);
                }
            }
        }
    }

    /// Returns the time in milliseconds at which [`Hub::tick`] is due next. `None` without a timer.
    pub fn next_tick_ms(&self) -> Option<u64> {
        self.rooms.timers.next_due_ms()
    }
}

impl Hub {
    /// Excludes a client from message `number` of room `id`, if the client is a member on this shard.
    fn exclude(&mut self, id: RoomId, number: u64, except: Option<ClientNumber>) {
        let Some(client) = except else { return };
        if let Some(slot) = self.find(self.identify(client))
            && self.clients[slot as usize].memberships.find(id).is_some()
        {
            self.rooms[id].excluded.insert((slot, number));
        }
    }

    pub(super) fn find_or_make(&mut self, room: &str) -> RoomId {
        self.rooms.find(room).unwrap_or_else(|| self.make_room(room))
    }

    /// Creates a room that does not exist, and subscribes to it when its home is another shard.
    pub(super) fn make_room(&mut self, room: &str) -> RoomId {
        let home = self.home_of(room);
        let is_home = home == self.options.shard;
        let id = self.rooms.insert(room, home, is_home.then(Home::default));
        self.rooms[id].used_ms = self.now_ms;
        if !is_home {
            self.outgoing[home as usize].requests.subscribe(room, self.rooms[id].key);
        }
        id
    }

    /// Queues the room for a pass after an append to its log, and updates its saturation and weight.
    fn appended(&mut self, id: RoomId) {
        let room = &mut self.rooms[id];
        room.used_ms = self.now_ms;
        self.new_messages += 1;
        if !room.queued {
            room.queued = true;
            self.passes.push_back(room.key);
        }
        if !room.saturated && room.is_saturated(self.options.lag_window) {
            room.saturated = true;
            self.saturated += 1;
        }
        self.weigh(id);
    }

    /// Forgets a room without members, unless this shard is its home and keeps a history. On another shard the room
    /// stays until its snapshot arrives. So clients that join and leave meanwhile cause only one snapshot.
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
        self.outgoing[room.home_shard as usize].requests.unsubscribe(&room.name);
        self.forget(id);
    }

    fn forget(&mut self, id: RoomId) {
        let room = self.rooms.remove(id);
        self.saturated -= usize::from(room.saturated);
    }

    pub(super) fn set_timer(&mut self, id: RoomId) {
        self.rooms.set_timer(id, self.now_ms, self.options.history_ms);
    }

    /// Handles a room's timer: frees the memory of a room unused for long enough, or forgets the room.
    fn rest(&mut self, id: RoomId) {
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

    /// Updates the weight of room `id`. While all rooms together exceed `history_memory`, drops histories, the least
    /// recently used first. Rooms without members are forgotten before rooms with members lose their history.
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
