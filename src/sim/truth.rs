//! The true order of every stream of messages, recorded as the server decides it.
//!
//! A stream is a room, whose messages its home shard orders. With `echo` a stream is the messages of one client.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::panic::resume_unwind;
use std::rc::Rc;

use crate::app::{
    Answer, App, Chat, ClientId, Context, Echo, HttpRequest, Incoming, Kind, Members, Note, Opening, Pusher,
    Relay, ResumedRoom, User, publish_as_backend,
};

use super::asker::{self, Deferred};

use super::lodge::Lodge;
use super::lounge;

/// Payload on which the application's handler `on_message` panics.
pub(super) const BOOM: &[u8] = b"!boom";
/// Payload on which the application's handler `on_publish` panics, so that nobody gets the message.
pub(super) const HUSH: &[u8] = b"!hush";

/// The application that the simulated shards run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Application {
    Relay,
    Echo,
    Chat,
    /// [`Lodge`]: clients in many rooms.
    Lodge,
    /// [`lounge`]: clients of the Pusher protocol.
    Pusher,
}

impl Application {
    pub(super) fn instance(self, truth: &Truth) -> Box<dyn App> {
        match self {
            Self::Relay => Box::<Relay>::default(),
            Self::Echo => Box::<Echo>::default(),
            Self::Chat => Box::<Chat>::default(),
            Self::Lodge => Box::new(Lodge::new(Rc::clone(truth))),
            Self::Pusher => Box::new(Pusher::new(lounge::apps())),
        }
    }

    /// Returns the id of a client's message, if its payload was made by [`payload`].
    pub(super) fn id_of(self, message: &[u8]) -> Option<u64> {
        let said = match self {
            Self::Relay | Self::Echo | Self::Lodge => message,
            Self::Pusher => return None,
            // A chat message has its sender's name first, as in `alice: hello` or `User #17 (2): hello`.
            Self::Chat => &message[message.windows(2).position(|pair| pair == b": ")? + 2..],
        };
        let id = u64::from_str_radix(str::from_utf8(said.get(..16)?).ok()?, 16).ok()?;
        (payload(id) == said).then_some(id)
    }
}

/// A message of a stream, exactly as every client must get it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) kind: Kind,
    pub(super) bytes: Vec<u8>,
}

/// The true order of all streams, by stream name.
#[derive(Debug, Default)]
pub(super) struct Streams {
    lines: HashMap<String, Vec<Line>>,
    /// Place of each message, by message id: the name of its stream and its position there.
    places: HashMap<u64, (String, usize)>,
    /// The last message id of each client (by connection number) in each stream.
    last: HashMap<(String, u64), u64>,
    /// The members of each room, with [`Application::Lodge`].
    attendances: HashMap<String, Attendance>,
    /// Failed checks of handlers. Shards catch the panics of handlers, so these checks do not panic themselves.
    problems: Vec<String>,
    /// Number of answers with a room's members that were compared with the true members.
    pub(super) compared: u64,
    /// Number of reports that a room is occupied or vacated.
    pub(super) occupancies: u64,
    /// Number of reports about single members of rooms.
    pub(super) member_reports: u64,
    /// The user of each client that has one, by the client's number, with [`Application::Lodge`].
    users: BTreeMap<u64, String>,
    /// Number of changes of `users`.
    pub(super) users_version: u64,
    /// Number of answers with a user's clients that were compared with the true clients.
    pub(super) compared_users: u64,
}

/// The members of a room.
#[derive(Debug, Default)]
struct Attendance {
    /// The members, by their numbers.
    members: BTreeMap<u64, ClientId>,
    /// Number of changes of `members`.
    version: u64,
    /// Whether the room has members, as the server reported last.
    is_occupied: bool,
    /// The members as the server reported them, by their numbers, each with its user.
    reported: BTreeMap<u64, Option<String>>,
}

pub(super) type Truth = Rc<RefCell<Streams>>;

impl Streams {
    /// Returns the messages of a stream, in order.
    pub(super) fn lines(&self, stream: &str) -> &[Line] {
        self.lines.get(stream).map_or(&[], Vec::as_slice)
    }

    /// Returns the position of the oldest of the last `count` messages of a stream, or of fewer messages, so that their
    /// frames have at most `bytes` bytes in total.
    pub(super) fn tail(&self, stream: &str, count: u32, mut bytes: usize) -> usize {
        let lines = self.lines(stream);
        let is_shown = |line: &&Line| {
            let frame = line.bytes.len() + if line.bytes.len() < 126 { 2 } else { 4 };
            let fits = frame <= bytes;
            bytes = bytes.saturating_sub(frame);
            fits
        };
        lines.len() - lines.iter().rev().take(count as usize).take_while(is_shown).count()
    }

    /// Returns the name of the stream that contains message `id`, and the message's position there.
    pub(super) fn place(&self, id: u64) -> Option<&(String, usize)> {
        self.places.get(&id)
    }

    /// Returns how many messages of client `serial` were ordered, from its message number `first` on, in one stream or
    /// in all.
    pub(super) fn said(&self, serial: u64, first: u64, stream: Option<&str>) -> usize {
        let is_meant = |id: u64, at: &str| {
            id >= serial << 32 | first && id >> 32 == serial && stream.is_none_or(|one| one == at)
        };
        self.places.iter().filter(|(id, (at, _))| is_meant(**id, at)).count()
    }

    /// Records that a client has joined a room. Returns whether it was no member before.
    pub(super) fn come(&mut self, room: &str, client: ClientId) -> bool {
        let attendance = self.attendances.entry(room.into()).or_default();
        let is_new = attendance.members.insert(client.number, client).is_none();
        attendance.version += u64::from(is_new);
        is_new
    }

    /// Records that a client has left a room. Returns whether it was a member before.
    pub(super) fn go(&mut self, room: &str, client: ClientId) -> bool {
        let attendance = self.attendances.entry(room.into()).or_default();
        let was_there = attendance.members.remove(&client.number).is_some();
        attendance.version += u64::from(was_there);
        was_there
    }

    /// Records that a client has left all rooms. Checks that `rooms`, in order of their names, are its rooms.
    pub(super) fn go_from_all(&mut self, client: ClientId, rooms: &[String]) {
        let is_here = |attendance: &Attendance| attendance.members.contains_key(&client.number);
        let here = self.attendances.iter().filter(|(_, attendance)| is_here(attendance));
        let mut names: Vec<&String> = here.map(|(room, _)| room).collect();
        names.sort_unstable();
        let problem = format!("{client:?} was in {names:?} at its end, not in {rooms:?}");
        let is_right = rooms.iter().eq(names);
        self.check(is_right, || problem);
        for room in rooms {
            self.go(room, client);
        }
    }

    /// Returns the number of changes of the room's members.
    pub(super) fn version(&self, room: &str) -> u64 {
        self.attendances.get(room).map_or(0, |attendance| attendance.version)
    }

    /// Compares an answer with the room's members, unless they have changed since the question, at `version`.
    pub(super) fn compare_members(&mut self, room: &str, version: u64, clients: &[ClientId]) {
        if self.version(room) == version {
            let members = self.attendances.get(room).map(|attendance| attendance.members.values());
            let members: Vec<ClientId> = members.into_iter().flatten().copied().collect();
            self.check(clients == members, || format!("{clients:?} are in {room} instead of {members:?}"));
            self.compared += 1;
        }
    }

    /// Records a client's user, or that it has none.
    pub(super) fn set_user(&mut self, client: ClientId, user: Option<&str>) {
        match user {
            Some(user) => drop(self.users.insert(client.number, user.into())),
            None => drop(self.users.remove(&client.number)),
        }
        self.users_version += 1;
    }

    /// Compares an answer with the clients of a user, unless clients have changed their users since the question, at
    /// `version`.
    pub(super) fn compare_user(&mut self, version: u64, answer: &User) {
        if self.users_version == version {
            let has_user = |(number, user): (&u64, &String)| (*user == answer.user).then_some(*number);
            let expected: Vec<u64> = self.users.iter().filter_map(has_user).collect();
            let listed: Vec<u64> = answer.clients.iter().map(|listed| listed.client.number).collect();
            let is_right = listed == expected && answer.count == expected.len();
            self.check(is_right, || format!("{answer:?} instead of the clients {expected:?}"));
            self.compared_users += 1;
        }
    }

    /// Records the server's report that a room is occupied or vacated. Checks that the reports alternate.
    pub(super) fn occupy(&mut self, room: &str, is_occupied: bool) {
        let attendance = self.attendances.entry(room.into()).or_default();
        let was_occupied = std::mem::replace(&mut attendance.is_occupied, is_occupied);
        self.check(was_occupied != is_occupied, || {
            format!("{room} is reported twice as occupied: {is_occupied}")
        });
        self.occupancies += 1;
    }

    /// Records the server's report that a client is a member of a room, or has another user. Checks that it is news.
    pub(super) fn report_joined(&mut self, room: &str, client: ClientId, user: Option<&str>) {
        let attendance = self.attendances.entry(room.into()).or_default();
        let old = attendance.reported.insert(client.number, user.map(Into::into));
        let is_news = old.is_none_or(|old| old.as_deref() != user);
        self.check(is_news, || format!("{client:?} is reported twice as a member of {room}: {user:?}"));
        self.member_reports += 1;
    }

    /// Records the server's report that a client is no member of a room any more. Checks that it was one.
    pub(super) fn report_left(&mut self, room: &str, client: ClientId) {
        let attendance = self.attendances.entry(room.into()).or_default();
        let was_there = attendance.reported.remove(&client.number).is_some();
        self.check(was_there, || format!("{client:?} has left {room}, where it was not reported"));
        self.member_reports += 1;
    }

    /// Records a failed check of a handler.
    pub(super) fn check(&mut self, is_right: bool, problem: impl FnOnce() -> String) {
        if !is_right {
            self.problems.push(problem());
        }
    }

    /// Panics if a check of a handler has failed.
    pub(super) fn check_handlers(&self) {
        assert!(self.problems.is_empty(), "{:#?}", self.problems);
    }

    /// Panics unless the rooms with members are those that were reported as occupied, and their members and users are those
    /// that were reported. Call this method when the server has handled everything.
    pub(super) fn check_occupancies(&self) {
        for (room, Attendance { members, is_occupied, reported, .. }) in &self.attendances {
            assert_eq!(*is_occupied, !members.is_empty(), "{room} is occupied, with the members {members:?}");
            let user_of = |number: &u64| (*number, self.users.get(number).cloned());
            let expected: BTreeMap<u64, Option<String>> = members.keys().map(user_of).collect();
            assert_eq!(*reported, expected, "the reported members of {room}");
        }
    }

    /// Appends a message to a stream. Panics if the message's id is out of order.
    fn push(&mut self, stream: String, id: Option<u64>, line: Line) {
        let lines = self.lines.entry(stream.clone()).or_default();
        if let Some(id) = id {
            let before = self.places.insert(id, (stream.clone(), lines.len()));
            assert_eq!(before, None, "message {id:x} is ordered once");
            let last = self.last.insert((stream, id >> 32), id);
            assert!(last < Some(id), "message {id:x} is ordered after {last:x?}, which was said later");
        }
        lines.push(line);
    }
}

/// Returns the name of the stream of one client's messages to `echo`.
pub(super) fn stream_of(serial: u64) -> String {
    format!("client {serial}")
}

/// Returns the payload of message `id`: the id, then bytes derived from the id.
pub(super) fn payload(id: u64) -> Vec<u8> {
    let len = match id.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56 {
        short @ 0..200 => short as usize / 4,
        long => long as usize * 8,
    };
    let mut bytes = format!("{id:016x}").into_bytes();
    bytes.resize(16 + len, b'a' + (id % 26) as u8);
    bytes
}

/// An application that wraps another application and records the true order of the messages.
pub(super) struct Watch {
    pub(super) inner: Box<dyn App>,
    pub(super) application: Application,
    pub(super) truth: Truth,
    pub(super) deferred: Deferred,
}

impl Watch {
    fn note(&self, stream: String, id: Option<u64>, kind: Kind, payload: &[u8]) {
        if let Some(id) = id.filter(|_| self.application != Application::Chat) {
            assert_eq!(kind, kind_of(id), "message {id:x} came as another kind");
        }
        self.truth.borrow_mut().push(stream, id, Line { kind, bytes: payload.to_vec() });
    }
}

impl App for Watch {
    fn history(&self) -> u32 {
        self.inner.history()
    }

    fn on_request(&mut self, context: &mut Context<'_>, request: &HttpRequest<'_>) -> Answer {
        asker::answer(&self.deferred, context, request)
            .unwrap_or_else(|| self.inner.on_request(context, request))
    }

    fn on_open(&mut self, context: &mut Context<'_>, client: ClientId, opening: Opening<'_>) {
        self.inner.on_open(context, client, opening);
    }

    fn on_message(&mut self, context: &mut Context<'_>, client: ClientId, message: Incoming<'_>) {
        if message.payload == BOOM {
            // Unwinds like a panic, but prints nothing.
            resume_unwind(Box::new("boom"));
        }
        if self.application == Application::Echo
            && let Some(id) = self.application.id_of(message.payload)
        {
            self.note(stream_of(id >> 32), Some(id), message.kind, message.payload);
        }
        if self.application == Application::Pusher
            && let Some((room, is_cache, event)) = lounge::backend_event(message.payload)
        {
            return publish_as_backend(context, &room, is_cache, event);
        }
        self.inner.on_message(context, client, message);
    }

    fn on_close(&mut self, context: &mut Context<'_>, client: ClientId) {
        self.inner.on_close(context, client);
    }

    fn on_publish(&mut self, room: &str, sender: Option<ClientId>, kind: Kind, payload: &[u8]) -> bool {
        if payload.ends_with(HUSH) {
            resume_unwind(Box::new("hush"));
        }
        self.note(room.to_owned(), self.application.id_of(payload), kind, payload);
        self.inner.on_publish(room, sender, kind, payload)
    }

    fn on_lag(&mut self, context: &mut Context<'_>, client: ClientId, missed: u64) {
        self.inner.on_lag(context, client, missed);
    }

    fn on_resumed(&mut self, context: &mut Context<'_>, client: ClientId, resumed: ResumedRoom<'_>) {
        self.inner.on_resumed(context, client, resumed);
    }

    fn watches_occupancy(&self) -> bool {
        self.inner.watches_occupancy()
    }

    fn on_occupied(&mut self, context: &mut Context<'_>, room: &str) {
        self.inner.on_occupied(context, room);
    }

    fn on_vacated(&mut self, context: &mut Context<'_>, room: &str) {
        self.inner.on_vacated(context, room);
    }

    fn watches_members(&self) -> bool {
        self.inner.watches_members()
    }

    fn on_joined(&mut self, context: &mut Context<'_>, room: &str, client: ClientId, user: Option<&str>) {
        self.inner.on_joined(context, room, client, user);
    }

    fn on_left(&mut self, context: &mut Context<'_>, room: &str, client: ClientId) {
        self.inner.on_left(context, room, client);
    }

    fn describe_member(&mut self, room: &str, client: ClientId) -> String {
        self.inner.describe_member(room, client)
    }

    fn on_members(&mut self, context: &mut Context<'_>, members: Members) {
        self.inner.on_members(context, members);
    }

    fn on_user(&mut self, context: &mut Context<'_>, user: User) {
        self.inner.on_user(context, user);
    }

    fn on_ask(&mut self, context: &mut Context<'_>, note: Note) {
        self.inner.on_ask(context, note);
    }

    fn on_tell(&mut self, context: &mut Context<'_>, note: Note) {
        self.inner.on_tell(context, note);
    }

    fn on_timer(&mut self, context: &mut Context<'_>, token: u64) {
        self.inner.on_timer(context, token);
    }
}

/// Returns the type of message `id`: text or binary.
pub(super) fn kind_of(id: u64) -> Kind {
    if id.is_multiple_of(3) { Kind::Binary } else { Kind::Text }
}
