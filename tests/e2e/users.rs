//! Users: messages to all connections of a user, their rooms, their end, questions for them, and bans.

use std::net::TcpStream;
use std::time::Duration;

use serde_json::json;
use uproar::app::{App, ClientId, CloseCode, Context, Incoming, Message, Opening, User};
use uproar::config::{AppName, BackendName};
use uproar::publisher::{Publisher, Receipt};

use crate::support::client::Client;
use crate::support::token::{SECRET, now, token};
use crate::support::{TIMEOUT, TestServer, config, wait_until};
use crate::tokens::with_secret;

on_both_backends!(
    a_message_reaches_all_connections_of_a_user,
    a_thread_outside_learns_how_many_connections_it_reached,
    a_connection_may_change_its_user,
    the_connections_of_a_user_are_closed_and_forgotten,
    a_user_joins_and_leaves_rooms_on_all_connections,
    a_question_lists_connections_and_rooms,
    a_banned_user_is_closed_and_kept_out,
    an_identifier_has_1_to_255_characters,
    a_token_gives_the_relay_its_user,
    a_banned_token_is_refused_before_the_upgrade,
    a_banned_nickname_is_refused,
    a_nickname_is_the_chats_user,
);

/// Does what clients say with the first word of a message.
struct Users;

impl App for Users {
    fn on_open(&mut self, context: &mut Context<'_>, client: ClientId, opening: Opening<'_>) {
        context.join(client, opening.room, 0);
        context.send_to_client(client, Message::text("open"));
    }

    fn on_message(&mut self, context: &mut Context<'_>, client: ClientId, message: Incoming<'_>) {
        let mut words = message.text().unwrap_or_default().splitn(3, ' ');
        let (verb, user) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let rest = words.next().unwrap_or_default();
        match verb {
            "be" => match context.set_user(client, user) {
                Ok(()) => context.send_to_user(user, Message::text(&format!("{user} came"))),
                Err(error) => context.send_to_client(client, Message::text(&error.to_string())),
            },
            "nobody" => {
                context.clear_user(client);
                context.send_to_client(client, Message::text("you are nobody"));
            }
            "to" => context.send_to_user(user, Message::text(rest)),
            "close" => context.close_user(user, CloseCode(4_002), rest),
            "join" => context.join_user(user, rest, 0),
            "leave" => context.leave_user(user, rest),
            "publish" => context.publish_to_room(user, Message::text(rest)),
            "ban" => context.ban_user(user, Duration::from_secs(600)),
            "who" => context.ask_user(user, client.number),
            _ => {}
        }
    }

    fn on_user(&mut self, context: &mut Context<'_>, user: User) {
        let asked_by = user.token;
        let mut rooms: Vec<&String> = user.clients.iter().flat_map(|listed| &listed.rooms).collect();
        rooms.sort_unstable();
        let text = format!("{} {} {} {rooms:?}", user.user, user.count, user.clients.len());
        // The clients of this test are few, so that one of this shard has the number.
        let clients: Vec<ClientId> =
            context.members("lobby").filter(|client| client.number == asked_by).collect();
        context.send_to_clients(&clients, Message::text(&text));
    }
}

/// A server with the application [`Users`].
struct Rig {
    server: TestServer,
    publisher: Publisher,
}

impl Rig {
    fn start(backend: BackendName, workers: u16) -> Self {
        let server = TestServer::start_app(&config(backend, AppName::Relay, workers), |_| Box::new(Users));
        let publisher = server.publisher();
        Self { server, publisher }
    }

    fn open(&self) -> Client {
        let mut client = Client::open(self.server.address(), "/");
        client.expect_text("open");
        client
    }

    /// Opens `count` clients of a user. The kernel spreads them over the workers.
    fn open_as(&self, user: &str, count: usize) -> Vec<Client> {
        let mut clients: Vec<Client> = Vec::new();
        for _ in 0..count {
            let mut client = self.open();
            client.send_text(&format!("be {user}"));
            clients.push(client);
            for client in &mut clients {
                client.expect_text(&format!("{user} came"));
            }
        }
        clients
    }

    /// Sends a message to a user from outside, and returns the receipt.
    fn receipt(&self, user: &str) -> Receipt {
        let (sender, receipts) = std::sync::mpsc::channel();
        let then = move |receipt| _ = sender.send(receipt);
        self.publisher.send_to_user_then(user, Message::text("from outside"), then).expect("there is room");
        receipts.recv_timeout(TIMEOUT).expect("the receipt comes")
    }
}

fn expect_all(clients: &mut [Client], text: &str) {
    for client in clients {
        client.expect_text(text);
    }
}

fn a_message_reaches_all_connections_of_a_user(backend: BackendName) {
    for workers in [1, 2] {
        let rig = Rig::start(backend, workers);
        let (mut ann, mut bob) = (rig.open_as("ann", 6), rig.open_as("bob", 3));
        for number in 0..20 {
            let text = format!("to ann {number} {}", "long ".repeat(number * 20));
            bob[number % 3].send_text(&text);
            expect_all(&mut ann, &text["to ann ".len()..]);
        }
        ann[0].send_text("to nobody at all");
        ann[0].send_text("to bob hello");
        expect_all(&mut bob, "hello");
    }
}

fn a_thread_outside_learns_how_many_connections_it_reached(backend: BackendName) {
    for workers in [1, 2] {
        let rig = Rig::start(backend, workers);
        assert_eq!(rig.receipt("ann"), Receipt::Unheard);
        let mut ann = rig.open_as("ann", 5);
        assert_eq!(rig.receipt("ann"), Receipt::Sent(5));
        expect_all(&mut ann, "from outside");
        for number in 0..100 {
            rig.publisher.send_to_user("ann", Message::text(&number.to_string())).expect("there is room");
        }
        (0..100).for_each(|number| expect_all(&mut ann, &number.to_string()));
        ann.truncate(2);
        wait_until("the home knows of the ends", || rig.receipt("ann") == Receipt::Sent(2));
        drop(ann);
        wait_until("the home forgets the user", || rig.receipt("ann") == Receipt::Unheard);
    }
}

fn a_connection_may_change_its_user(backend: BackendName) {
    for workers in [1, 2] {
        let rig = Rig::start(backend, workers);
        let mut client = rig.open();
        for user in ["ann", "bob", "bob", "ann"] {
            client.send_text(&format!("be {user}"));
            client.expect_text(&format!("{user} came"));
        }
        assert_eq!((rig.receipt("ann"), rig.receipt("bob")), (Receipt::Sent(1), Receipt::Unheard));
        client.expect_text("from outside");
        client.send_text("nobody");
        client.expect_text("you are nobody");
        wait_until("the home forgets the user", || rig.receipt("ann") == Receipt::Unheard);
    }
}

fn the_connections_of_a_user_are_closed_and_forgotten(backend: BackendName) {
    for workers in [1, 2] {
        let rig = Rig::start(backend, workers);
        let mut bob = rig.open_as("bob", 1);
        for is_outside in [false, true] {
            let mut ann = rig.open_as("ann", 4);
            bob[0].send_text("to ann a last word");
            match is_outside {
                true => {
                    expect_all(&mut ann, "a last word");
                    rig.publisher.close_user("ann", CloseCode(4_002), "go").expect("there is room");
                }
                false => {
                    bob[0].send_text("close ann go");
                    expect_all(&mut ann, "a last word");
                }
            }
            for mut client in ann {
                assert_eq!(client.wait_for_close(), (4_002, "go".to_owned()));
            }
            wait_until("the home forgets the user", || rig.receipt("ann") == Receipt::Unheard);
        }
        bob[0].send_text("to bob still here");
        bob[0].expect_text("still here");
    }
}

fn a_user_joins_and_leaves_rooms_on_all_connections(backend: BackendName) {
    for workers in [1, 2] {
        let rig = Rig::start(backend, workers);
        let (mut ann, mut bob) = (rig.open_as("ann", 4), rig.open_as("bob", 1));
        bob[0].send_text("join ann tea");
        // The answer to a user's message comes after the join on each shard; the room's home then knows the shards.
        bob[0].send_text("to ann joined");
        expect_all(&mut ann, "joined");
        let members = || {
            let pending =
                rig.publisher.publish_with_receipt("tea", Message::text("here?")).expect("there is room");
            matches!(pending.wait_timeout(TIMEOUT), Ok(Receipt::Ordered(_)))
        };
        wait_until("the room has members", members);
        ann[0].send_text("publish tea hot");
        for client in &mut ann {
            while client.receive_text() != "hot" {}
        }
        rig.publisher.leave_user("ann", "tea").expect("there is room");
        wait_until("the room has no members", || !members());
        bob[0].send_text("publish tea cold");
        bob[0].send_text("to ann left");
        for client in &mut ann {
            loop {
                let text = client.receive_text();
                assert_ne!(text, "cold", "a message of a room that the client has left");
                if text == "left" {
                    break;
                }
            }
        }
        rig.publisher.join_user("ann", "tea", 0).expect("there is room");
        wait_until("the room has members again", members);
    }
}

fn a_question_lists_connections_and_rooms(backend: BackendName) {
    for workers in [1, 2] {
        let rig = Rig::start(backend, workers);
        let mut asker = rig.open();
        asker.send_text("who ann");
        asker.expect_text("ann 0 0 []");
        let mut ann = rig.open_as("ann", 3);
        ann[0].send_text("join ann tea");
        ann[0].send_text("to ann joined");
        expect_all(&mut ann, "joined");
        asker.send_text("who ann");
        asker.expect_text(r#"ann 3 3 ["lobby", "lobby", "lobby", "tea", "tea", "tea"]"#);
        let _many = (0..100)
            .map(|_| {
                let mut client = rig.open();
                client.send_text("be eve");
                client
            })
            .collect::<Vec<_>>();
        wait_until("all clients have their user", || rig.receipt("eve") == Receipt::Sent(100));
        let last = rig.open_as_one_more("eve");
        asker.send_text("who eve");
        assert!(asker.receive_text().starts_with("eve 101 100 "), "the list is cut off");
        drop(last);
    }
}

impl Rig {
    /// Opens another client of a user that has clients.
    fn open_as_one_more(&self, user: &str) -> Client {
        let mut client = self.open();
        client.send_text(&format!("be {user}"));
        while client.receive_text() != format!("{user} came") {}
        client
    }
}

fn a_banned_user_is_closed_and_kept_out(backend: BackendName) {
    for workers in [1, 2] {
        let rig = Rig::start(backend, workers);
        let (ann, mut bob) = (rig.open_as("ann", 4), rig.open_as("bob", 1));
        bob[0].send_text("ban ann");
        for mut client in ann {
            assert_eq!(client.wait_for_close(), (1_008, "banned".to_owned()));
        }
        let bans = rig.publisher.bans();
        assert!(bans.len() == 1 && bans[0].user == "ann" && bans[0].left <= Duration::from_secs(600));
        let mut client = rig.open();
        client.send_text("be ann");
        client.expect_text("the user is banned; lift the ban, or wait until it ends");
        assert!(rig.publisher.unban_user("ann") && !rig.publisher.unban_user("ann"));
        client.send_text("be ann");
        client.expect_text("ann came");
        rig.publisher.ban_user("ann", Duration::from_secs(600)).expect("there is room");
        assert_eq!(client.wait_for_close(), (1_008, "banned".to_owned()));
    }
}

fn an_identifier_has_1_to_255_characters(backend: BackendName) {
    let rig = Rig::start(backend, 2);
    let mut client = rig.open();
    for user in [String::new(), "x".repeat(256)] {
        client.send_text(&format!("be {user}"));
        client.expect_text("the identifier of a user has 1 to 255 characters");
    }
    let longest = "\u{1f600}".repeat(255);
    client.send_text(&format!("be {longest}"));
    client.expect_text(&format!("{longest} came"));
}

fn start(backend: BackendName, name: &str, app: AppName) -> TestServer {
    TestServer::start(&with_secret(config(backend, app, 2), name, SECRET))
}

fn token_of(user: &str) -> String {
    token(&json!({"exp": now() + 3_600, "sub": user}))
}

fn a_token_gives_the_relay_its_user(backend: BackendName) {
    let server = start(backend, "relay users", AppName::Relay);
    let publisher = server.publisher();
    let mut ann = Client::open(server.address(), &format!("/room/a?token={}", token_of("ann")));
    ann.send_text("ready");
    ann.expect_text("ready");
    let mut bob = Client::open(server.address(), &format!("/room/a?token={}", token_of("bob")));
    publisher.send_to_user("ann", Message::text("for ann")).expect("there is room");
    ann.expect_text("for ann");
    bob.send_text("from bob");
    bob.expect_text("from bob");
    ann.expect_text("from bob");
}

fn a_banned_token_is_refused_before_the_upgrade(backend: BackendName) {
    for app in [AppName::Relay, AppName::Chat, AppName::Echo] {
        let server = start(backend, "banned tokens", app);
        let publisher = server.publisher();
        publisher.ban_user("ann", Duration::from_secs(600)).expect("there is room");
        let status = |user: &str| {
            let stream = TcpStream::connect(server.address()).expect("the server accepts the connection");
            Client::open_on(stream, &format!("/?token={}", token_of(user)))
                .map_or_else(|status| status, |_| 101)
        };
        assert_eq!((status("ann"), status("bob")), (403, 101));
        assert!(publisher.unban_user("ann"));
        assert_eq!(status("ann"), 101);
    }
}

fn a_banned_nickname_is_refused(backend: BackendName) {
    let server = TestServer::start(&config(backend, AppName::Chat, 2));
    let publisher = server.publisher();
    publisher.ban_user("ann", Duration::from_secs(600)).expect("there is room");
    let mut client = Client::open(server.address(), "/");
    client.receive_text();
    for name in ["ann", "Ann"] {
        client.send_text(&format!("/nick {name}"));
        client.expect_text(&format!("* the name {name} is banned"));
    }
    assert!(publisher.unban_user("ann"));
    client.send_text("/nick ann");
    assert!(client.receive_text().ends_with(" is now ann"));
    publisher.ban_user("ann", Duration::from_secs(600)).expect("there is room");
    assert_eq!(client.wait_for_close(), (1_008, "banned".to_owned()));
}

fn a_nickname_is_the_chats_user(backend: BackendName) {
    let server = TestServer::start(&config(backend, AppName::Chat, 2));
    let publisher = server.publisher();
    let mut client = Client::open(server.address(), "/");
    client.receive_text();
    for name in ["Ann", "bob"] {
        client.send_text(&format!("/nick {name}"));
        assert!(client.receive_text().ends_with(&format!(" is now {name}")));
        publisher.send_to_user(name, Message::text("psst")).expect("there is room");
        client.expect_text("psst");
    }
}
