//! Orders the messages of rooms, forwards them to other shards, and forgets unused rooms.

use std::cmp::Reverse;

use super::direct::STALL_MS;
use super::log::Log;
use super::room::{Home, Room, Subscriber};
use super::rooms::{self, RoomId, RoomKey};
use super::{Batch, ClientNumber, Delivery, Hub, Message, Position, Snapshot, with_frame};

/// Minimum memory in bytes of a room's logs that [`Hub::cut_logs`] cuts. A room whose members read has less.
const MIN_CUT: usize = 192 << 10;

impl Hub {
    /// Gives a message the next number in the room's order, and forwards the message to all members. Called on the
    /// room's home shard. `key` is the home shard's key of the room, if the publisher knows it. Returns the message's
    /// position, or `None` if the room does not exist, so that nobody gets the message. [`Hub::set_history`] creates a
    /// room without members, which keeps the message as history.
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
        let id = key.and_then(|key| self.rooms.resolve(key)).or_else(|| self.rooms.find(room))?;
        debug_assert_eq!((&*self.rooms[id].name, self.rooms[id].home_shard), (room, self.options.shard));
        let number = self.rooms[id].log.head();
        with_frame(message, |parts| {
            for subscriber in self.rooms[id].home.iter().flat_map(|home| &home.subscribers) {
                let except = except.filter(|_| except_shard == Some(subscriber.shard));
                let add = |batch: &mut Batch<Delivery>| batch.frame(subscriber.room, number, parts, except);
                self.outgoing.delivery(subscriber.shard, add);
            }
            self.exclude(id, number, except);
            self.rooms[id].append(parts, &mut self.deflater);
            self.note_time(id, number);
        });
        let epoch = self.rooms.epoch(id)?;
        // This may forget the room, if it has no members and histories take too much memory.
        self.appended(id);
        Some(Position { epoch, number })
    }

    /// Adds `shard` as a subscriber of the room: sends it the history now and every further message. Called on the
    /// room's home shard. `subscriber` is the key of the room on `shard`. Creates the room if it does not exist, with
    /// the history of the options; call [`Hub::set_history`] before for another history.
    pub fn subscribe(&mut self, shard: u16, room: &str, subscriber: RoomKey) {
        let id = self.rooms.find(room).unwrap_or_else(|| self.insert_room(room));
        let limits = self.history_limits(id);
        let known = &mut self.rooms[id];
        let first = known.log.tail(limits.messages.into(), limits.bytes);
        let keys = (subscriber, known.key);
        let history = known.history;
        self.outgoing.delivery(shard, |batch| batch.snapshot(keys, history, first, known.log.frames(first)));
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

    /// Handles the answer to a subscription. `frames` are the frames of the history, one after another.
    pub fn snapshot(&mut self, snapshot: &Snapshot, mut frames: &[u8]) {
        let id = self.rooms.resolve(snapshot.room).expect("a room stays until its snapshot comes");
        let mut log = Log::starting_at(snapshot.first);
        for len in &snapshot.frame_lens {
            let (frame, rest) = frames.split_at(*len as usize);
            log.append(&[frame]);
            frames = rest;
        }
        self.rooms[id].history = snapshot.history;
        self.keeps_histories |= self.keeps_history(snapshot.history);
        let limits = self.history_limits(id);
        self.rooms[id].start(log, snapshot.home, &limits);
        for index in 0..self.rooms[id].members.len() {
            self.report_replay(id, index);
            self.note_start(id, index);
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
        self.expire_sessions();
        self.send_due_pings();
        while let Some(due) = self.rooms.timers.expired(now_ms) {
            for key in due {
                if let Some(id) = self.rooms.resolve(key) {
                    self.rooms[id].timed = false;
                    self.rest(id);
                }
            }
        }
    }

    /// Cuts the logs of the rooms with the most memory until about `bytes` bytes are free. Members that are behind in
    /// these rooms lag. Returns the number of freed bytes.
    pub(crate) fn cut_logs(&mut self, bytes: usize) -> usize {
        self.shrink_logs(bytes, MIN_CUT, Room::cut)
    }

    /// Works like [`Hub::cut_logs`], for logs of all sizes.
    pub(crate) fn cut_small_logs(&mut self, bytes: usize) -> usize {
        self.shrink_logs(bytes, 1, Room::cut)
    }

    /// Drops spare chunks, then the histories of the rooms with the most memory, until about `bytes` bytes are free.
    /// Returns the number of freed bytes.
    pub(crate) fn trim_logs(&mut self, bytes: usize) -> usize {
        self.spare_outboxes.clear();
        let spare = self.spare_chunks.clear();
        spare + self.shrink_logs(bytes.saturating_sub(spare), MIN_CUT, Room::drop_history)
    }

    fn shrink_logs(&mut self, bytes: usize, min: usize, shrink: fn(&mut Room)) -> usize {
        let mut logs: Vec<_> = self.rooms.iter().map(|room| (room.memory(), room.key)).collect();
        logs.retain(|(memory, _)| *memory >= min);
        logs.sort_unstable_by_key(|(memory, key)| (Reverse(*memory), key.serial()));
        let mut freed = 0;
        for (memory, key) in logs {
            if freed >= bytes {
                break;
            }
            if let Some(id) = self.rooms.resolve(key) {
                shrink(&mut self.rooms[id]);
                freed += memory - self.rooms[id].memory();
                self.weigh(id);
            }
        }
        freed
    }

    /// Returns the time in milliseconds at which [`Hub::tick`] is due next. `None` without a timer.
    pub fn next_tick_ms(&self) -> Option<u64> {
        let dues = [self.rooms.timers.next_due_ms(), self.next_ping_ms(), self.sessions_due_ms()];
        dues.into_iter().flatten().min()
    }
}

impl Hub {
    /// Notes the arrival time of message `number` in a room that keeps messages for newcomers or for sessions.
    fn note_time(&mut self, id: RoomId, number: u64) {
        let messages = self.history_limits(id).messages;
        let first = if self.retains(id) { self.rooms[id].log.first() } else { u64::MAX };
        if let Some(home) = self.rooms[id].home.as_mut().filter(|_| messages > 0 || first < u64::MAX) {
            let oldest = (number + 1).saturating_sub(messages.into());
            home.times.note(number, self.now_ms, oldest.min(first));
        }
    }

    /// Excludes a client from message `number` of room `id`, if the client is a member on this shard.
    fn exclude(&mut self, id: RoomId, number: u64, except: Option<ClientNumber>) {
        let Some(client) = except else { return };
        if let Some(slot) = self.find(self.identify(client))
            && self.clients[slot as usize].memberships.find(id).is_some()
        {
            self.rooms[id].excluded.insert((slot, number));
        }
    }

    /// Creates a room that does not exist for a client that joins it. Subscribes to the room when its home is another
    /// shard.
    pub(super) fn make_room(&mut self, room: &str) -> RoomId {
        let id = self.insert_room(room);
        match self.rooms[id].home_shard {
            home if home == self.options.shard => self.new_rooms.push(self.rooms[id].key),
            home => {
                let key = self.rooms[id].key;
                self.outgoing.request(home, |batch| batch.subscribe(room, key));
            }
        }
        id
    }

    pub(super) fn insert_room(&mut self, room: &str) -> RoomId {
        let home = self.home_of(room);
        let is_home = home == self.options.shard;
        let id = self.rooms.insert(room, home, is_home.then(Home::default));
        self.rooms[id].used_ms = self.now_ms;
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
        let kept_ms = self.history_limits(id).kept_ms;
        let room = &mut self.rooms[id];
        if !room.members.is_empty() || !room.live {
            return;
        }
        room.used_ms = self.now_ms;
        if room.home.is_some() {
            let abandoned = room.is_abandoned() && !self.retains(id);
            if abandoned && (kept_ms == 0 || self.rooms[id].log.head() == 0) {
                self.forget(id);
            } else {
                self.set_timer(id);
                self.weigh(id);
            }
            return;
        }
        self.outgoing.request(room.home_shard, |batch| batch.unsubscribe(&room.name));
        self.forget(id);
    }

    pub(super) fn forget(&mut self, id: RoomId) {
        let room = self.rooms.remove(id);
        self.saturated -= usize::from(room.saturated);
    }

    pub(super) fn set_timer(&mut self, id: RoomId) {
        let kept_ms = self.history_limits(id).kept_ms;
        self.rooms.set_timer(id, self.now_ms, kept_ms, self.retention_ms());
    }

    /// Handles a room's timer: frees the memory of a room unused for long enough, or forgets the room.
    fn rest(&mut self, id: RoomId) {
        let kept_ms = self.history_limits(id).kept_ms;
        let is_retained = self.retains(id);
        let idle_ms = self.now_ms.saturating_sub(self.rooms[id].used_ms);
        if self.rooms[id].is_abandoned() && idle_ms >= kept_ms && !is_retained {
            return self.forget(id);
        }
        if self.rooms[id]
            .home
            .as_ref()
            .is_some_and(|home| home.session_shards > 0 || home.retained_until_ms > 0)
        {
            let kept = self.kept_from(id);
            self.rooms[id].trim(kept);
        }
        let room = &mut self.rooms[id];
        if room.is_consumed() && !room.queued && idle_ms >= rooms::REST_MS {
            room.release();
        }
        if is_retained || room.is_abandoned() || room.memory() > 0 && room.is_consumed() {
            self.set_timer(id);
        }
        self.weigh(id);
    }
}
