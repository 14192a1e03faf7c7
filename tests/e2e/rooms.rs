//! Rooms of applications: many rooms per client, messages that leave one client out, occupancy, histories of single
//! rooms, and lists of members.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use uproar::app::{App, ClientId, Context, History, Incoming, Kind, Members, Message, Opening};
use uproar::config::{AppName, BackendName};

use crate::support::client::Client;
use crate::support::{TestServer, config, wait_until};

on_both_backends!(
    a_message_reaches_all_members_but_one_on_any_worker,
    on_publish_knows_the_sender,
    rooms_are_occupied_and_vacated_in_turn_over_all_workers,
    on_close_knows_the_rooms_of_the_client,
    a_client_in_many_rooms_gets_the_messages_of_each,
    rooms_have_histories_of_their_own,
    a_list_of_members_comes_in_pages_from_all_workers,
    a_room_of_many_members_is_counted_while_others_talk,
    a_panic_while_members_are_described_costs_only_the_descriptions,
    a_panic_about_a_history_means_that_of_all_rooms,
);

/// Number of workers of the servers.
const WORKERS: u16 = 3;

/// The events that the instances of [`Rooms`] have seen, in the order of each instance.
type Seen = Arc<Mutex<Vec<String>>>;
type Known = Arc<Mutex<HashMap<u64, ClientId>>>;

/// Does what its clients say: `join ROOM`, `leave ROOM`, `say ROOM TEXT`, `tell ROOM TEXT` (not to the sender), `skip
/// ROOM NUMBER TEXT` (not to the client with this number), `who ROOM LIMIT` and `more`.
#[derive(Default)]
struct Rooms {
    seen: Seen,
    /// The clients of all instances, by their numbers.
    known: Known,
    clients: Vec<ClientId>,
    /// Where the last answer to `who` ended.
    last: Option<Members>,
}

impl Rooms {
    fn note(&self, line: String) {
        self.seen.lock().expect("no panic").push(line);
    }
}

impl App for Rooms {
    fn history_of(&mut self, room: &str) -> Option<History> {
        assert_ne!(room, "boom", "told to panic");
        let messages = room.strip_prefix("history-")?.parse().expect("a number");
        Some(History { messages, kept_for: Duration::from_secs(60) })
    }

    fn history(&self) -> u32 {
        2
    }

    fn watches_occupancy(&self) -> bool {
        true
    }

    fn on_open(&mut self, context: &mut Context<'_>, client: ClientId, _: Opening<'_>) {
        self.clients.push(client);
        self.known.lock().expect("no panic").insert(client.number, client);
        context.send_to_client(client, Message::text(&client.number.to_string()));
    }

    fn on_message(&mut self, context: &mut Context<'_>, client: ClientId, message: Incoming<'_>) {
        let words: Vec<&str> = message.text().expect("a text").splitn(3, ' ').collect();
        match words[..] {
            ["join", room] => {
                context.join(client, room, 100);
                context.send_to_client(client, Message::text("joined"));
            }
            ["leave", room] => context.leave(client, room),
            ["say", room, text] => context.publish_to_room(room, Message::text(text)),
            ["tell", room, text] => context.publish_to_room_except(room, client, Message::text(text)),
            ["skip", room, rest] => {
                let (number, text) = rest.split_once(' ').expect("a number and a text");
                let known = self.known.lock().expect("no panic");
                let except = known[&number.parse().expect("a number")];
                context.publish_to_room_except(room, except, Message::text(text));
            }
            ["who", room, limit] => {
                context.ask_members(room, None, limit.parse().expect("a number"), client.number);
            }
            ["more", limit] => {
                let last = self.last.take().expect("a page before");
                context.ask_members(&last.room, last.next, limit.parse().expect("a number"), client.number);
            }
            _ => panic!("{words:?}"),
        }
    }

    fn on_members(&mut self, context: &mut Context<'_>, members: Members) {
        let mut names: Vec<&str> = members.members.iter().map(|member| &*member.description).collect();
        names.sort_unstable();
        let more = if members.next.is_some() { " and more" } else { "" };
        let text = format!("{} {}: {}{more}", members.count, members.room, names.join(","));
        let client = self.clients.iter().find(|client| client.number == members.token).expect("it asked");
        context.send_to_client(*client, Message::text(&text));
        self.last = Some(members);
    }

    fn describe_member(&mut self, room: &str, client: ClientId) -> String {
        assert_ne!(room, "nameless", "told to panic");
        format!("#{}", client.number)
    }

    fn on_publish(&mut self, room: &str, sender: Option<ClientId>, _: Kind, payload: &[u8]) -> bool {
        let sender = sender.map(|sender| sender.number);
        self.note(format!("{room}: {sender:?} {}", String::from_utf8_lossy(payload)));
        payload != b"forbidden"
    }

    fn on_occupied(&mut self, _: &mut Context<'_>, room: &str) {
        self.note(format!("+{room}"));
    }

    fn on_vacated(&mut self, _: &mut Context<'_>, room: &str) {
        self.note(format!("-{room}"));
    }

    fn on_close(&mut self, context: &mut Context<'_>, client: ClientId) {
        let mut rooms = context.rooms(client);
        rooms.sort_unstable();
        self.note(format!("{} was in {}", client.number, rooms.join(",")));
        context.publish_to_rooms_of(client, Message::text("somebody left"));
    }
}

/// A server with the application [`Rooms`].
struct Rig {
    server: TestServer,
    seen: Seen,
}

impl Rig {
    fn start(backend: BackendName) -> Self {
        let seen = Seen::default();
        let (of_app, known) = (Arc::clone(&seen), Known::default());
        let server = TestServer::start_app(&config(backend, AppName::Relay, WORKERS), move |_| {
            let (seen, known) = (Arc::clone(&of_app), Arc::clone(&known));
            Box::new(Rooms { seen, known, ..Rooms::default() })
        });
        Self { server, seen }
    }

    /// Opens a client, and returns it with its number.
    fn open(&self) -> (u64, Client) {
        let mut client = Client::open(self.server.address(), "/");
        let number = client.receive_text().parse().expect("its number");
        (number, client)
    }

    /// Opens as many clients as needed for one on each worker, and returns them with their numbers. The others stay
    /// open, too.
    fn open_everywhere(&self) -> Vec<(u64, Client)> {
        let mut clients: Vec<(u64, Client)> = Vec::new();
        let is_on = |number: u64, worker: u64| (number - 1) % u64::from(WORKERS) == worker;
        while (0..u64::from(WORKERS)).any(|worker| !clients.iter().any(|(number, _)| is_on(*number, worker)))
        {
            clients.push(self.open());
        }
        clients
    }

    fn seen(&self) -> Vec<String> {
        self.seen.lock().expect("no panic").clone()
    }

    fn wait_for(&self, line: &str) {
        wait_until(line, || self.seen().iter().any(|seen| seen == line));
    }
}

fn join(client: &mut Client, room: &str) {
    client.send_text(&format!("join {room}"));
    client.expect_text("joined");
}

/// Joins the clients to the room, and waits until the room's home knows all of them.
fn join_all(clients: &mut [(u64, Client)], room: &str) {
    for (number, client) in &mut *clients {
        join(client, room);
        client.send_text(&format!("say {room} {number} is here"));
        while client.receive_text() != format!("{number} is here") {}
    }
    // Afterwards all members have heard the same messages.
    clients[0].1.send_text(&format!("say {room} ready"));
    for (_, client) in clients {
        while client.receive_text() != "ready" {}
    }
}

fn a_message_reaches_all_members_but_one_on_any_worker(backend: BackendName) {
    let rig = Rig::start(backend);
    let mut clients = rig.open_everywhere();
    join_all(&mut clients, "garden");
    for sender in 0..clients.len() {
        clients[sender].1.send_text(&format!("tell garden from {sender}"));
        clients[sender].1.send_text(&format!("say garden then {sender}"));
        for (at, (_, client)) in clients.iter_mut().enumerate() {
            if at != sender {
                client.expect_text(&format!("from {sender}"));
            }
            client.expect_text(&format!("then {sender}"));
        }
    }
    // Any member leaves any other out.
    for left_out in 0..clients.len() {
        let number = clients[left_out].0;
        for sender in [0, clients.len() - 1] {
            clients[sender].1.send_text(&format!("skip garden {number} not to {number}"));
            clients[sender].1.send_text("say garden to all");
            for (at, (_, client)) in clients.iter_mut().enumerate() {
                if at != left_out {
                    client.expect_text(&format!("not to {number}"));
                }
                client.expect_text("to all");
            }
        }
    }
}

fn on_publish_knows_the_sender(backend: BackendName) {
    let rig = Rig::start(backend);
    let mut clients = rig.open_everywhere();
    for room in ["one", "two", "three", "four"] {
        for (number, client) in &mut clients {
            client.send_text(&format!("say {room} forbidden"));
            rig.wait_for(&format!("{room}: Some({number}) forbidden"));
        }
    }
    rig.server.publisher().publish("one", Message::text("from outside")).expect("there is room");
    rig.wait_for("one: None from outside");
}

fn rooms_are_occupied_and_vacated_in_turn_over_all_workers(backend: BackendName) {
    let rig = Rig::start(backend);
    let rooms = ["a", "b", "c", "d", "e"];
    let mut clients = rig.open_everywhere();
    for round in 1..=3 {
        // A home that knew only some of the clients could see its room vacated in between.
        rooms.iter().for_each(|room| join_all(&mut clients, room));
        let count = |sign: &str| rig.seen().iter().filter(|line| line.starts_with(sign)).count();
        wait_until("all rooms are occupied", || count("+") == round * rooms.len());
        assert_eq!(count("-"), (round - 1) * rooms.len());
        for (_, client) in &mut clients {
            rooms.iter().for_each(|room| client.send_text(&format!("leave {room}")));
        }
        wait_until("all rooms are vacated", || count("-") == round * rooms.len());
        assert_eq!(count("+"), round * rooms.len());
    }
    for room in rooms {
        let of_room = rig.seen().into_iter().filter(|line| line.get(1..) == Some(room)).collect::<Vec<_>>();
        assert_eq!(
            of_room,
            ["+", "-"].repeat(3).iter().map(|sign| format!("{sign}{room}")).collect::<Vec<_>>()
        );
    }
    join(&mut clients[0].1, "a");
    drop(clients);
    wait_until("the loss of a connection vacates a room", || {
        rig.seen().iter().filter(|line| *line == "-a").count() == 4
    });
}

fn on_close_knows_the_rooms_of_the_client(backend: BackendName) {
    let rig = Rig::start(backend);
    let mut others = rig.open_everywhere();
    join_all(&mut others, "history-0");
    let (number, mut client) = rig.open();
    ["history-0", "b", "a"].iter().for_each(|room| join(&mut client, room));
    client.send_text("say history-0 I am here");
    for (_, other) in &mut others {
        other.expect_text("I am here");
    }
    drop(client);
    rig.wait_for(&format!("{number} was in a,b,history-0"));
    for (_, other) in &mut others {
        other.expect_text("somebody left");
    }
}

fn a_client_in_many_rooms_gets_the_messages_of_each(backend: BackendName) {
    const ROOMS: usize = 200;
    let rig = Rig::start(backend);
    let (_, mut client) = rig.open();
    let (_, mut speaker) = rig.open();
    for room in 0..ROOMS {
        join(&mut client, &format!("room-{room}"));
    }
    for room in 0..ROOMS {
        speaker.send_text(&format!("say room-{room} {room}"));
    }
    let mut heard: Vec<usize> =
        (0..ROOMS).map(|_| client.receive_text().parse().expect("a number")).collect();
    heard.sort_unstable();
    assert_eq!(heard, (0..ROOMS).collect::<Vec<_>>());
    for room in (0..ROOMS).filter(|room| room % 7 > 0) {
        client.send_text(&format!("leave room-{room}"));
    }
    join(&mut client, "last");
    for room in 0..ROOMS {
        speaker.send_text(&format!("say room-{room} {room} again"));
    }
    let left: Vec<usize> = (0..ROOMS).step_by(7).collect();
    let mut heard: Vec<String> = left.iter().map(|_| client.receive_text()).collect();
    heard.sort_unstable();
    let mut expected: Vec<String> = left.iter().map(|room| format!("{room} again")).collect();
    expected.sort_unstable();
    assert_eq!(heard, expected);
}

fn rooms_have_histories_of_their_own(backend: BackendName) {
    let rig = Rig::start(backend);
    let (number, mut speaker) = rig.open();
    let mut clients = rig.open_everywhere();
    for (room, kept) in [("plain", 2), ("history-0", 0), ("history-1", 1), ("history-5", 5)] {
        // The room has no member yet.
        let mut said: Vec<String> = (0..10).map(|n| n.to_string()).collect();
        for text in &said {
            speaker.send_text(&format!("say {room} {text}"));
        }
        rig.wait_for(&format!("{room}: Some({number}) 9"));
        for at in 0..clients.len() {
            let (number, client) = &mut clients[at];
            client.send_text(&format!("join {room}"));
            let end = format!("end-{number}");
            client.send_text(&format!("say {room} {end}"));
            let heard: Vec<String> =
                std::iter::from_fn(|| Some(client.receive_text()).filter(|text| *text != end))
                    .filter(|text| text != "joined")
                    .collect();
            assert_eq!(heard, said[said.len() - kept..], "{room}");
            // The next client may be on the shard of any of these clients.
            for (_, earlier) in &mut clients[..at] {
                while earlier.receive_text() != end {}
            }
            said.push(end);
        }
        for (_, client) in &mut clients {
            client.send_text(&format!("leave {room}"));
            client.send_text("who nowhere 0");
            while client.receive_text() != "0 nowhere: " {}
        }
    }
}

fn a_list_of_members_comes_in_pages_from_all_workers(backend: BackendName) {
    let rig = Rig::start(backend);
    let mut clients = rig.open_everywhere();
    while clients.len() < 7 {
        clients.push(rig.open());
    }
    join_all(&mut clients, "garden");
    let mut all: Vec<String> = clients.iter().map(|(number, _)| format!("#{number}")).collect();
    all.sort_unstable();
    let count = clients.len();
    for (_, client) in &mut clients {
        client.send_text("who garden 100");
        client.expect_text(&format!("{count} garden: {}", all.join(",")));
        client.send_text("who garden 0");
        client.expect_text(&format!("{count} garden:  and more"));
        client.send_text("who nowhere 10");
        client.expect_text("0 nowhere: ");
    }
    let (_, client) = &mut clients[0];
    client.send_text("who garden 3");
    let mut listed = Vec::new();
    loop {
        let page = client.receive_text();
        let names = page.strip_prefix(&format!("{count} garden: ")).expect("a page");
        let more = names.strip_suffix(" and more");
        let names: Vec<String> = more.unwrap_or(names).split(',').map(String::from).collect();
        assert!(names.len() <= 3, "{page}");
        listed.extend(names);
        if more.is_none() {
            break;
        }
        client.send_text("more 3");
    }
    listed.sort_unstable();
    assert_eq!(listed, all);
}

fn a_room_of_many_members_is_counted_while_others_talk(backend: BackendName) {
    const MEMBERS: usize = 300;
    const QUESTIONS: usize = 200;
    let rig = Rig::start(backend);
    let mut members: Vec<Client> = (0..MEMBERS).map(|_| rig.open().1).collect();
    members.iter_mut().for_each(|member| join(member, "crowd"));
    let (_, mut asking) = rig.open();
    let (_, mut talking) = rig.open();
    join(&mut talking, "garden");
    talking.send_text("say garden ready");
    talking.expect_text("ready");
    let questions = vec!["who crowd 1000"; QUESTIONS];
    asking.send_texts_together(&questions);
    for n in 0..20 {
        talking.send_text(&format!("say garden {n}"));
        talking.expect_text(&n.to_string());
    }
    for _ in 0..QUESTIONS {
        let answer = asking.receive_text();
        assert!(answer.starts_with("300 crowd: #"), "{answer}");
        assert_eq!(answer.split(',').count(), MEMBERS);
    }
}

fn a_panic_while_members_are_described_costs_only_the_descriptions(backend: BackendName) {
    let rig = Rig::start(backend);
    let (_, mut client) = rig.open();
    join(&mut client, "nameless");
    client.send_text("say nameless ready");
    client.expect_text("ready");
    client.send_text("who nameless 10");
    client.expect_text("1 nameless: ");
    assert_eq!(rig.server.totals().panics, 1);
}

fn a_panic_about_a_history_means_that_of_all_rooms(backend: BackendName) {
    let rig = Rig::start(backend);
    let (_, mut client) = rig.open();
    join(&mut client, "boom");
    client.send_text("say boom one");
    client.expect_text("one");
    let (_, mut other) = rig.open();
    other.send_text("join boom");
    let heard = [other.receive_text(), other.receive_text()];
    assert!(heard.contains(&"joined".into()) && heard.contains(&"one".into()), "{heard:?}");
    assert_eq!(rig.server.totals().panics, 1);
}
