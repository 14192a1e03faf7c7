//! The part of a stream that a client gets, checked against the stream's order.

use super::truth::{Application, Line, Streams, stream_of};

pub(super) struct Hearing {
    application: Application,
    /// Number of the connection among those of all clients.
    serial: u64,
    /// The stream that the client follows. Unknown after it missed messages that would have told.
    stream: Option<String>,
    /// Positions of the first message that the client got and of the next one.
    heard: Option<(usize, usize)>,
    /// Messages before the first one with an id, which tells the positions of all.
    unplaced: Vec<Line>,
    /// Number of messages that the server reported as missed.
    missed: usize,
    /// Number of messages that were skipped before a message that came.
    left_out: usize,
    /// Number of the client's first message after it learned that it is in the stream.
    since: u64,
}

impl Hearing {
    pub(super) fn new(application: Application, serial: u64, room: &str) -> Self {
        let (stream, heard) = match application {
            Application::Echo => (stream_of(serial), Some((0, 0))),
            Application::Relay | Application::Chat => (room.to_owned(), None),
        };
        let (stream, unplaced) = (Some(stream), Vec::new());
        Self { application, serial, stream, heard, unplaced, missed: 0, left_out: 0, since: 0 }
    }

    /// Notes that the client is in another room, after `said` messages of its own.
    pub(super) fn enter(&mut self, room: &str, said: u64) {
        *self = Self { since: said, ..Self::new(self.application, self.serial, room) };
    }

    /// Notes that the server reported `count` missed messages.
    pub(super) fn miss(&mut self, count: usize) {
        self.unplaced.clear();
        self.missed += count;
        match self.application {
            Application::Relay => self.heard = self.heard.map(|(first, next)| (first, next + count)),
            // Messages echoed in the same turn come before the report.
            Application::Echo => {}
            // Answers, lines of former rooms, and the notice of another room may be among them.
            Application::Chat => (self.stream, self.heard) = (None, None),
        }
    }

    /// Checks a message. With `skips` the server may skip messages and report them later.
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
        self.stream = Some(stream.clone());
        self.heard = Some((first, next));
    }

    /// The stream, and the position of the first message that the client got: the stream's end if it got none. Call it
    /// when the client is current.
    pub(super) fn first(&self, truth: &Streams) -> Option<(&str, usize)> {
        let stream = self.stream.as_deref()?;
        let newest = truth.lines(stream).len() - self.unplaced.len();
        Some((stream, self.heard.map_or(newest, |(first, _)| first)))
    }

    /// Panics if the client lacks messages.
    pub(super) fn check_current(&self, truth: &Streams) {
        let Some(stream) = &self.stream else { return };
        let (serial, len) = (self.serial, truth.lines(stream).len());
        match self.heard {
            Some((_, next)) if self.application == Application::Echo => {
                // A report that was dropped counts as a missed message.
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
                let own = truth.said(serial, self.since, Some(stream));
                assert!(own <= self.missed, "connection {serial} has heard nothing, not even itself");
            }
        }
    }
}
