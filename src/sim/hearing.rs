//! A client's view of its stream: the messages that it got, checked against the stream's true order.

use super::truth::{Application, Line, Streams, stream_of};

pub(super) struct Hearing {
    application: Application,
    /// Number of the client's connection among the connections of all clients.
    serial: u64,
    /// The stream that the client follows. Unknown after the client missed messages, which may have told of another
    /// room.
    stream: Option<String>,
    /// Positions in the stream of the first message that the client got and of the next message to come.
    heard: Option<(usize, usize)>,
    /// Messages that came before the first message with an id. That id tells the position of all of these messages.
    unplaced: Vec<Line>,
    /// Number of missed messages that the server reported.
    missed: usize,
    /// Number of messages that the server skipped before a message that came.
    left_out: usize,
    /// Position of the first message that the client got before it returned.
    earliest: Option<usize>,
    /// Position up to which the client has heard everything, or was told of the loss, before it returned with its session.
    /// The next message that comes must not be behind it. `None` unless the client has just returned.
    limit: Option<usize>,
    /// Number of the first message that the client sent after it learned that it is in the stream.
    since: u64,
}

impl Hearing {
    pub(super) fn new(application: Application, serial: u64, room: &str) -> Self {
        let (stream, heard) = match application {
            Application::Echo => (stream_of(serial), Some((0, 0))),
            Application::Relay | Application::Chat | Application::Lodge | Application::Pusher => {
                (room.to_owned(), None)
            }
        };
        let (stream, unplaced) = (Some(stream), Vec::new());
        Self {
            application,
            serial,
            stream,
            heard,
            unplaced,
            missed: 0,
            left_out: 0,
            earliest: None,
            limit: None,
            since: 0,
        }
    }

    /// Records that the client is in another room, after it sent `said` messages.
    pub(super) fn enter(&mut self, room: &str, said: u64) {
        *self = Self { since: said, ..Self::new(self.application, self.serial, room) };
    }

    /// Returns the name of the stream, if it is known.
    pub(super) fn stream(&self) -> Option<&str> {
        self.stream.as_deref()
    }

    /// Returns the view of a client that returns with its session, on another connection.
    pub(super) fn resumed(self, serial: u64) -> Self {
        let (first, limit) = match (self.heard, self.limit) {
            (Some((first, next)), _) => (Some(first), Some(next)),
            (None, limit) => (self.earliest, limit),
        };
        let stream = self.stream.unwrap_or_default();
        Self { earliest: first, limit, missed: self.missed, ..Self::new(self.application, serial, &stream) }
    }

    /// Records that the server does not know what the client has missed.
    pub(super) fn forget(&mut self) {
        (self.limit, self.earliest) = (None, None);
        self.unplaced.clear();
    }

    /// Records that the server reported `count` missed messages.
    pub(super) fn miss(&mut self, count: usize) {
        self.unplaced.clear();
        self.missed += count;
        self.limit = self.limit.map(|limit| limit + count);
        match self.application {
            Application::Relay => self.heard = self.heard.map(|(first, next)| (first, next + count)),
            // Messages that were echoed in the same turn may come before the report.
            Application::Echo => {}
            // The missed messages may include answers, lines of former rooms, and the notice of another room.
            Application::Chat | Application::Lodge | Application::Pusher => {
                (self.stream, self.heard) = (None, None)
            }
        }
    }

    /// Checks a message that the client got. With `skips` the server may skip messages and report them later.
    pub(super) fn hear(&mut self, truth: &Streams, skips: bool, line: Line) {
        let serial = self.serial;
        if let (Some(stream), Some((_, next))) = (&self.stream, &mut self.heard) {
            if self.application == Application::Echo && skips {
                let place = self.application.id_of(&line.bytes).and_then(|id| truth.place(id));
                let left_out = place.and_then(|(_, position)| position.checked_sub(*next)).unwrap_or(0);
                self.left_out += left_out;
                *next += left_out;
            }
            let expected = truth.lines(stream).get(*next);
            assert_eq!(Some(&line), expected, "connection {serial}, {next} of {stream}");
            *next += 1;
            return;
        }
        let id = self.application.id_of(&line.bytes);
        self.unplaced.push(line);
        let Some(id) = id else { return };
        let Some((stream, position)) = truth.place(id) else { panic!("{id:x} has no place in any order") };
        let next = position + 1;
        assert!(
            self.stream.as_ref().is_none_or(|expected| expected == stream),
            "connection {serial} is in {:?} and got message {id:x} of {stream}",
            self.stream
        );
        let first = next.checked_sub(self.unplaced.len()).expect("nothing comes before the first message");
        assert_eq!(
            self.unplaced,
            truth.lines(stream)[first..next],
            "connection {serial}, {first} of {stream}"
        );
        self.unplaced.clear();
        if let Some(limit) = self.limit.take() {
            assert!(
                first <= limit,
                "connection {serial} returned and got {first} of {stream} after {limit} messages"
            );
        }
        self.stream = Some(stream.clone());
        self.heard = Some((self.earliest.unwrap_or(first).min(first), next));
    }

    /// Returns the stream and the position of the first message that the client got. Without any message, the position
    /// is the stream's end. Call this method when the client has all of its messages.
    pub(super) fn first(&self, truth: &Streams) -> Option<(&str, usize)> {
        let stream = self.stream.as_deref()?;
        let newest = truth.lines(stream).len() - self.unplaced.len();
        Some((stream, self.heard.map_or(newest, |(first, _)| first)))
    }

    /// Panics if the client lacks messages of its stream.
    pub(super) fn check_current(&self, truth: &Streams) {
        let Some(stream) = &self.stream else { return };
        let (serial, len) = (self.serial, truth.lines(stream).len());
        match self.heard {
            Some((_, next)) if self.application == Application::Echo => {
                // A dropped report about missed messages counts as a missed message itself.
                let left_out = self.left_out + len - next;
                let is_told = left_out <= self.missed && (left_out > 0 || self.missed == 0);
                assert!(
                    is_told,
                    "connection {serial} missed {left_out} messages and was told {}",
                    self.missed
                );
            }
            Some((_, next)) => assert_eq!(next, len, "connection {serial} has not got all of {stream}"),
            None => {
                let is_newest = truth.lines(stream).ends_with(&self.unplaced);
                assert!(is_newest, "connection {serial} has not got the end of {stream}");
                if let Some(limit) = self.limit {
                    let first = len - self.unplaced.len();
                    assert!(
                        first <= limit,
                        "connection {serial} returned and lacks messages of {stream} from {limit}"
                    );
                    return;
                }
                let own = truth.said(serial, self.since, Some(stream));
                assert!(own <= self.missed, "connection {serial} has heard nothing, not even itself");
            }
        }
    }
}
