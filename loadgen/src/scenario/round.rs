//! Checks the messages of one round of a storm.
//!
//! A server that keeps one message order sends the same bytes to every connection. So the first connection that
//! receives a message checks it, and the other connections compare their bytes with the checked message. A comparison
//! takes a few nanoseconds per message and finds every difference. A connection that receives different bytes is
//! checked separately for the rest of the round.
//!
//! With a server that does not return messages to their sender, the order has one gap for each connection. A connection
//! skips its own message, and a message that the first connection did not get is inserted when another one gets it.

use std::collections::HashMap;

use crate::connections::Repeated;
use crate::ledger::Arrival;
use crate::plan::Share;

/// The checked frames of a round, and the number of these frames that each connection has received.
pub(crate) struct RoundCache {
    /// The checked frames as sent on the wire, one after the other, all of one length.
    frames: Vec<u8>,
    payload_len: usize,
    /// Sender and due time (in nanoseconds) of each checked frame.
    stamps: Vec<(u32, u64)>,
    /// For each sender, the index of its checked frame, or [`NOWHERE`].
    places: Vec<usize>,
    /// For each connection, the number of checked frames that the connection has received, or [`SEPARATE`].
    matched: Vec<usize>,
    /// For each separately checked connection, by slot: the senders whose messages of this round have arrived.
    separate: HashMap<usize, Senders>,
    /// The sender number of the first connection, if messages do not return to their sender.
    first_own: Option<usize>,
}

/// Value in `RoundCache::places` that marks a sender without a checked frame.
const NOWHERE: usize = usize::MAX;

/// Value in `RoundCache::matched` that marks a connection as checked separately.
const SEPARATE: usize = usize::MAX;

/// A set of sender numbers, stored as a bitmap.
#[derive(Clone)]
struct Senders(Vec<u64>);

impl Senders {
    fn none(senders: usize) -> Self {
        Self(vec![0; senders.div_ceil(64)])
    }

    /// Adds a sender to the set. Returns true if the sender was not in the set before.
    fn insert(&mut self, sender: u32) -> bool {
        let (word, bit) = (&mut self.0[sender as usize / 64], 1 << (sender % 64));
        let is_new = *word & bit == 0;
        *word |= bit;
        is_new
    }
}

impl RoundCache {
    /// Creates the cache of a worker with the connections `share`, which receive messages from `senders` senders. `echoes`
    /// says whether messages return to their sender.
    pub(crate) fn new(share: Share, senders: usize, echoes: bool) -> Self {
        Self {
            frames: Vec::new(),
            payload_len: 0,
            stamps: Vec::new(),
            places: vec![NOWHERE; senders],
            matched: vec![0; share.count],
            separate: HashMap::new(),
            first_own: (!echoes).then_some(share.first),
        }
    }

    /// Returns the number of senders in all workers. Every sender number is below this value.
    pub(crate) fn senders(&self) -> usize {
        self.places.len()
    }

    /// Clears the cache at the start of the next round.
    pub(crate) fn begin(&mut self) {
        self.frames.clear();
        self.stamps.clear();
        self.places.fill(NOWHERE);
        self.matched.fill(0);
        self.separate.clear();
    }

    /// Compares `input` of the connection `slot` with the checked frames. Returns the equal part. Calls `heard` with a
    /// due time (in nanoseconds) and the number of equal messages that share this due time, in the order of arrival.
    pub(crate) fn recognise(
        &mut self,
        slot: usize,
        input: &[u8],
        mut heard: impl FnMut(u64, u64),
    ) -> Repeated {
        let mut all = Repeated::default();
        loop {
            let part = self.recognise_part(slot, &input[all.bytes..], &mut heard);
            all.bytes += part.bytes;
            all.messages += part.messages;
            all.payload_bytes += part.payload_bytes;
            // After a connection's own message, which did not arrive, more may be equal.
            if part.messages == 0 || self.first_own.is_none() {
                return all;
            }
        }
    }

    /// Compares `input` with the checked frames up to the connection's own one.
    fn recognise_part(&mut self, slot: usize, input: &[u8], heard: &mut impl FnMut(u64, u64)) -> Repeated {
        let from = self.next_place(slot);
        if from >= self.stamps.len() {
            return Repeated::default();
        }
        let own = self.own_place(slot).filter(|&own| own >= from);
        let frame_len = self.frames.len() / self.stamps.len();
        let known = &self.frames[from * frame_len..own.unwrap_or(self.stamps.len()) * frame_len];
        let compared = known.len().min(input.len() / frame_len * frame_len);
        let (known, input) = (&known[..compared], &input[..compared]);
        let messages = if known == input {
            compared / frame_len
        } else {
            known
                .chunks_exact(frame_len)
                .zip(input.chunks_exact(frame_len))
                .take_while(|(a, b)| a == b)
                .count()
        };
        let bytes = messages * frame_len;
        for run in self.stamps[from..from + messages].chunk_by(|a, b| a.1 == b.1) {
            heard(run[0].1, run.len() as u64);
        }
        if messages > 0 {
            self.matched[slot] = from + messages;
        }
        Repeated { bytes, messages, payload_bytes: messages * self.payload_len }
    }

    /// Records a message that the caller has checked. Returns false if the connection has received the message before.
    pub(crate) fn note(&mut self, slot: usize, arrival: Arrival, payload: &[u8]) -> bool {
        if self.matched[slot] != SEPARATE {
            let fits = self.stamps.is_empty() || payload.len() == self.payload_len;
            let (place, sender) = (self.next_place(slot), arrival.sender as usize);
            let is_known = self.places[sender] != NOWHERE || self.is_beside_own(slot, place, sender);
            if fits && !is_known && self.is_gap(place, sender) {
                self.insert(place, arrival, payload);
                self.matched[slot] = place + 1;
                return true;
            }
            self.separate(slot);
        }
        self.separate.get_mut(&slot).is_some_and(|senders| senders.insert(arrival.sender))
    }

    /// Returns the place of the next checked frame that the connection `slot` gets, or [`SEPARATE`].
    fn next_place(&self, slot: usize) -> usize {
        let matched = self.matched[slot];
        if self.own_place(slot) == Some(matched) { matched + 1 } else { matched }
    }

    /// Returns the place of the connection's own message, which it does not get. `None` if there is none.
    fn own_place(&self, slot: usize) -> Option<usize> {
        let place = self.places[self.first_own? + slot];
        (place != NOWHERE).then_some(place)
    }

    /// Returns whether a message of `sender` that `slot` gets after its own message's place may also belong before it. The
    /// connection of `sender` has passed the place without a message of `sender`, and `slot` did not get its own message.
    fn is_beside_own(&self, slot: usize, place: usize, sender: usize) -> bool {
        let matched = self.matched[slot];
        let other = self.first_own.and_then(|first| self.matched.get(sender.checked_sub(first)?));
        place > matched && other.is_some_and(|&other| other > matched)
    }

    /// Returns whether all connections that have frames from `place` on have left out a message of `sender` there.
    fn is_gap(&self, place: usize, sender: usize) -> bool {
        let others = self.matched.iter().enumerate();
        let mut ahead = others.filter(|&(_, &matched)| matched != SEPARATE && matched > place);
        place == self.stamps.len()
            || self.first_own.is_some_and(|first| ahead.all(|(slot, _)| first + slot == sender))
    }

    /// Inserts a checked frame at `place`.
    fn insert(&mut self, place: usize, arrival: Arrival, payload: &[u8]) {
        let frame = [&frame_header(payload.len())[..], payload].concat();
        self.payload_len = payload.len();
        let at = place * frame.len();
        self.frames.splice(at..at, frame);
        self.stamps.insert(place, (arrival.sender, arrival.due_ns));
        self.places[arrival.sender as usize] = place;
        if place + 1 == self.stamps.len() {
            return;
        }
        for (place, &(sender, _)) in self.stamps.iter().enumerate().skip(place) {
            self.places[sender as usize] = place;
        }
        for matched in self.matched.iter_mut().filter(|matched| **matched != SEPARATE && **matched > place) {
            *matched += 1;
        }
    }

    /// Switches a connection to separate checks for the rest of the round.
    fn separate(&mut self, slot: usize) {
        let mut senders = Senders::none(self.places.len());
        for &(sender, _) in &self.stamps[..self.matched[slot]] {
            senders.insert(sender);
        }
        self.separate.insert(slot, senders);
        self.matched[slot] = SEPARATE;
    }
}

/// Returns the frame header of a text message from a server (RFC 6455 §5.2).
fn frame_header(payload_len: usize) -> Vec<u8> {
    match payload_len {
        0..=125 => vec![0x81, payload_len as u8],
        126..=0xFFFF => [&[0x81, 126][..], &(payload_len as u16).to_be_bytes()].concat(),
        _ => [&[0x81, 127][..], &(payload_len as u64).to_be_bytes()].concat(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arrival(sender: u32) -> Arrival {
        Arrival { sender, sequence: 0, due_ns: u64::from(sender / 2) }
    }

    fn share() -> Share {
        Share { worker: 0, workers: 1, first: 0, count: 3 }
    }

    fn frame(sender: u32) -> Vec<u8> {
        [frame_header(20), vec![sender as u8; 20]].concat()
    }

    /// Feeds one message of each sender to a connection. Returns the number of messages that were recognised, and the
    /// number of other messages that were new.
    fn listen(cache: &mut RoundCache, slot: usize, senders: &[u32]) -> (usize, usize) {
        let bytes: Vec<u8> = senders.iter().flat_map(|&sender| frame(sender)).collect();
        let (mut recognised, mut new, mut at) = (0, 0, 0);
        while at < bytes.len() {
            let mut counted = 0;
            let repeated = cache.recognise(slot, &bytes[at..], |_, count| counted += count as usize);
            assert_eq!(counted, repeated.messages);
            assert_eq!((repeated.bytes, repeated.payload_bytes), (counted * 22, counted * 20));
            recognised += repeated.messages;
            at += repeated.bytes;
            if at < bytes.len() {
                let sender = u32::from(bytes[at + 2]);
                new += usize::from(cache.note(slot, arrival(sender), &bytes[at + 2..at + 22]));
                at += 22;
            }
        }
        (recognised, new)
    }

    #[test]
    fn a_message_checked_on_one_connection_is_recognised_on_others() {
        let mut cache = RoundCache::new(share(), 10, true);
        assert_eq!(listen(&mut cache, 0, &[3, 1]), (0, 2));
        assert_eq!(listen(&mut cache, 1, &[3, 1, 4, 5]), (2, 2));
        assert_eq!(listen(&mut cache, 2, &[3]), (1, 0));
        assert_eq!(listen(&mut cache, 2, &[1, 4, 5, 6]), (3, 1));
        assert_eq!(listen(&mut cache, 0, &[4, 5, 6]), (3, 0));
        cache.begin();
        assert_eq!(listen(&mut cache, 0, &[3, 1]), (0, 2));
    }

    #[test]
    fn a_connection_with_another_order_is_checked_separately() {
        let mut cache = RoundCache::new(share(), 10, true);
        assert_eq!(listen(&mut cache, 0, &[1, 2, 3, 4]), (0, 4));
        assert_eq!(listen(&mut cache, 1, &[1, 3, 2, 3, 4, 1]), (1, 3));
        assert_eq!(listen(&mut cache, 2, &[1, 2, 3, 4, 4, 5]), (4, 1));
        assert_eq!(listen(&mut cache, 0, &[5, 1]), (0, 1));
        // A frame of another length does not fit into the cache, because all cached frames have one length.
        assert!(cache.note(2, arrival(6), b"longer than the others are"));
        assert_eq!(listen(&mut cache, 2, &[6, 7]), (0, 1));
    }

    #[test]
    fn a_connection_skips_its_own_message() {
        let mut cache = RoundCache::new(Share { first: 1, ..share() }, 10, false);
        // The connections are the senders 1, 2 and 3, so the first one does not get message 1.
        assert_eq!(listen(&mut cache, 0, &[5, 2, 3]), (0, 3));
        // The second connection cannot tell whether message 1 comes before its own message 2. The third one inserts it.
        assert_eq!(listen(&mut cache, 1, &[5, 1]), (1, 1));
        assert_eq!(listen(&mut cache, 2, &[5, 1, 2]), (2, 1));
        assert_eq!(listen(&mut cache, 1, &[3, 6, 5]), (0, 2));
        assert_eq!(listen(&mut cache, 2, &[6, 6]), (0, 1));
    }
}
