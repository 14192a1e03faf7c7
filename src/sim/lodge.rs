//! An application with many rooms per client, and a client's view of its rooms.

use std::collections::HashMap;
use std::time::Duration;

use crate::app::{App, ClientId, CloseCode, Context, Incoming, Members, Message, Opening, User};

use super::truth::{Application, Line, Streams, Truth};
use super::users::UserView;

/// Returns whether the client that sent message `id` does not get the message itself.
fn leaves_out_sender(id: u64) -> bool {
    id % 4 == 1
}

/// Close code of a user's clients.
pub(super) const CLOSED: CloseCode = CloseCode(4_001);

/// An application that does what its clients say: `+ROOM` joins, `-ROOM` leaves, `=ROOM PAYLOAD` publishes, and `?ROOM`
/// asks for the room's members. `@USER` makes the client this user, or none if it is empty. `!USER TEXT` sends to a user, `xUSER`
/// closes the user's clients, `bUSER` bans the user, and `wUSER` asks for its clients. The application compares what the server
/// tells of rooms and users with [`Truth`].
pub(super) struct Lodge {
    truth: Truth,
    /// Questions for members by their tokens: the room, and the version of its members when the question was asked.
    asked: HashMap<u64, (String, u64)>,
    /// Questions for users by their tokens: the version of the clients' users when the question was asked.
    asked_users: HashMap<u64, u64>,
    next: u64,
}

impl Lodge {
    pub(super) fn new(truth: Truth) -> Self {
        Self { truth, asked: HashMap::new(), asked_users: HashMap::new(), next: 0 }
    }

    fn join(&self, context: &mut Context<'_>, client: ClientId, room: &str) {
        if context.join(client, room, 0) && self.truth.borrow_mut().come(room, client) {
            context.send_to_client(client, Message::text(&format!("* joined {room}")));
        }
    }

    fn set_user(&self, context: &mut Context<'_>, client: ClientId, user: &str) {
        let before = context.user_of(client).map(String::from);
        if user.is_empty() {
            context.clear_user(client);
        } else if context.set_user(client, user).is_err() {
            return context.send_to_client(client, Message::text("* refused"));
        }
        if before.as_deref() != Some(user) {
            self.truth.borrow_mut().set_user(client, Some(user).filter(|user| !user.is_empty()));
        }
        context.send_to_client(client, Message::text(&format!("* user {user}")));
    }

    fn publish(
        &self,
        context: &mut Context<'_>,
        client: ClientId,
        room: &str,
        message: Message<'_>,
        payload: &[u8],
    ) {
        match Application::Lodge.id_of(payload) {
            Some(id) if leaves_out_sender(id) => context.publish_to_room_except(room, client, message),
            _ => context.publish_to_room(room, message),
        }
    }
}

impl App for Lodge {
    fn watches_occupancy(&self) -> bool {
        true
    }

    fn on_open(&mut self, context: &mut Context<'_>, client: ClientId, opening: Opening<'_>) {
        self.join(context, client, opening.room);
    }

    fn on_message(&mut self, context: &mut Context<'_>, client: ClientId, message: Incoming<'_>) {
        let Some((sign, rest)) = message.payload.split_first() else { return };
        let end = rest.iter().position(|byte| *byte == b' ').unwrap_or(rest.len());
        let Ok(room) = str::from_utf8(&rest[..end]) else { return };
        match sign {
            b'+' => self.join(context, client, room),
            b'-' => {
                context.leave(client, room);
                if self.truth.borrow_mut().go(room, client) {
                    context.send_to_client(client, Message::text(&format!("* left {room}")));
                }
            }
            b'=' if end < rest.len() => {
                let payload = &rest[end + 1..];
                self.publish(context, client, room, Message::new(message.kind, payload), payload);
            }
            b'?' => {
                let version = self.truth.borrow().version(room);
                self.asked.insert(self.next, (room.into(), version));
                context.ask_members(room, None, 1_000, self.next);
                self.next += 1;
            }
            b'@' => self.set_user(context, client, room),
            b'!' if end < rest.len() => {
                context.send_to_user(room, Message::new(message.kind, &rest[end + 1..]));
            }
            b'x' => context.close_user(room, CLOSED, room),
            b'b' => context.ban_user(room, Duration::from_secs(3_600)),
            b'w' => {
                self.asked_users.insert(self.next, self.truth.borrow().users_version);
                context.ask_user(room, self.next);
                self.next += 1;
            }
            _ => {}
        }
    }

    fn on_user(&mut self, _: &mut Context<'_>, user: User) {
        let mut truth = self.truth.borrow_mut();
        let version = self.asked_users.remove(&user.token);
        truth.check(version.is_some(), || format!("two answers to one question: {user:?}"));
        if let Some(version) = version {
            truth.compare_user(version, &user);
        }
    }

    fn describe_member(&mut self, room: &str, client: ClientId) -> String {
        format!("{} in {room}", client.number)
    }

    fn on_members(&mut self, _: &mut Context<'_>, members: Members) {
        let mut truth = self.truth.borrow_mut();
        let asked = self.asked.remove(&members.token);
        truth.check(asked.is_some(), || format!("two answers to one question: {members:?}"));
        let Some((room, version)) = asked else { return };
        let is_described = members.room == room
            && members.count == members.members.len()
            && members
                .members
                .iter()
                .all(|one| one.description == format!("{} in {room}", one.client.number));
        truth.check(is_described, || format!("{members:?} of {room}"));
        let mut clients: Vec<ClientId> = members.members.iter().map(|member| member.client).collect();
        clients.sort_unstable_by_key(|client| client.number);
        truth.compare_members(&room, version, &clients);
    }

    fn on_occupied(&mut self, _: &mut Context<'_>, room: &str) {
        self.truth.borrow_mut().occupy(room, true);
    }

    fn on_vacated(&mut self, _: &mut Context<'_>, room: &str) {
        self.truth.borrow_mut().occupy(room, false);
    }

    fn watches_members(&self) -> bool {
        true
    }

    fn on_joined(&mut self, _: &mut Context<'_>, room: &str, client: ClientId, user: Option<&str>) {
        self.truth.borrow_mut().report_joined(room, client, user);
    }

    fn on_left(&mut self, _: &mut Context<'_>, room: &str, client: ClientId) {
        self.truth.borrow_mut().report_left(room, client);
    }

    fn on_close(&mut self, context: &mut Context<'_>, client: ClientId) {
        let mut rooms = context.rooms(client);
        rooms.sort_unstable();
        self.truth.borrow_mut().go_from_all(client, &rooms);
        if context.user_of(client).is_some() {
            self.truth.borrow_mut().set_user(client, None);
        }
    }
}

/// A client's rooms, and its place in the order of each.
#[derive(Debug, Default)]
pub(super) struct Stays {
    rooms: HashMap<String, Stay>,
    pub(super) user: UserView,
    /// Whether the client has missed messages, which may have told of other rooms.
    is_lost: bool,
}

#[derive(Debug)]
struct Stay {
    /// Position of the last message that the client got.
    last: Option<usize>,
    /// Number of the first message that the client sent after it learned that it is in the room.
    since: u64,
}

impl Stays {
    /// Returns the name of the `n`-th room, in an order that does not depend on the hash function. `None` without a room.
    pub(super) fn pick(&self, n: usize) -> Option<&str> {
        let mut names: Vec<&str> = self.rooms.keys().map(String::as_str).collect();
        names.sort_unstable();
        names.get(n % names.len().max(1)).copied()
    }

    /// Handles a notice of [`Lodge`] to a client that has sent `said` messages.
    pub(super) fn notice(&mut self, notice: &str, said: u64) {
        match notice.split_once(' ') {
            Some(("joined", room)) => {
                self.rooms.insert(room.into(), Stay { last: None, since: said });
            }
            Some(("left", room)) => drop(self.rooms.remove(room)),
            Some(("user", user)) => self.user.change(user),
            None if notice == "refused" => {}
            _ => panic!("the application sends no {notice}"),
        }
    }

    pub(super) fn miss(&mut self) {
        self.is_lost = true;
        self.user.is_lost = true;
    }

    /// Checks a message that the client with connection number `serial` got.
    pub(super) fn hear(&mut self, truth: &Streams, serial: u64, line: &Line) {
        let id = Application::Lodge.id_of(&line.bytes).expect("messages have ids");
        let Some((room, at)) = truth.place(id) else { panic!("{id:x} has no place in any order") };
        assert_eq!(line, &truth.lines(room)[*at]);
        assert!(!is_left_out(line, serial), "connection {serial} got {id:x}, which leaves it out");
        if self.is_lost {
            return;
        }
        let stay = self.rooms.get_mut(room);
        let stay = stay.unwrap_or_else(|| panic!("connection {serial} got {id:x}, but is not in {room}"));
        if let Some(last) = stay.last.replace(*at) {
            assert!(last < *at, "connection {serial} got {at} of {room} after {last}");
            let missed = truth.lines(room)[last + 1..*at].iter().find(|line| !is_left_out(line, serial));
            assert_eq!(
                missed, None,
                "connection {serial} missed a message between {last} and {at} of {room}"
            );
        }
    }

    /// Panics if the client lacks messages of its rooms.
    pub(super) fn check_current(&self, truth: &Streams, serial: u64) {
        for (room, stay) in self.rooms.iter().filter(|_| !self.is_lost) {
            let mut rest = truth.lines(room)[stay.last.map_or(0, |last| last + 1)..].iter();
            let is_missed = |line: &&Line| {
                let id = Application::Lodge.id_of(&line.bytes).expect("messages have ids");
                // A client that has got nothing may have joined after all messages but its own.
                let is_own = id >> 32 == serial && id as u32 >= stay.since as u32;
                !is_left_out(line, serial) && (stay.last.is_some() || is_own)
            };
            assert_eq!(rest.find(is_missed), None, "connection {serial} has not got all of {room}");
        }
    }
}

/// Returns whether the message was sent by the client with this connection number, and leaves it out.
fn is_left_out(line: &Line, serial: u64) -> bool {
    Application::Lodge.id_of(&line.bytes).is_some_and(|id| id >> 32 == serial && leaves_out_sender(id))
}
