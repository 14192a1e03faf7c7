//! Attacks on the chat itself: many rooms, hostile names and hostile messages.

use tungstenite::Message;
use uproar::config::{BackendName, Config};

use crate::harness::{chat, chat_without_rates, run_attack};
use crate::support::chat_user::ChatUser;
use crate::support::client::Client;
use crate::support::raw::{RawClient, upgrade_request};
use crate::support::wait_until;

on_both_backends!(
    a_thousand_new_rooms,
    a_thousand_new_rooms_at_the_default_rates,
    a_storm_into_a_watched_room,
    hostile_nicknames_and_room_names,
    hostile_messages,
);

/// The history of all rooms together has a memory limit. The server forgets the least recently used room first.
fn a_thousand_new_rooms(backend: BackendName) {
    const ROOMS: usize = 1_000;
    let config = Config { history_memory: 512 << 10, ..chat_without_rates(backend) };
    run_attack("a thousand /join", &config, |server| {
        let mut client = ChatUser::join(server.address(), "pit");
        let label = client.default_name();
        for n in 0..ROOMS {
            client.send_texts_together(&[&format!("/join fresh-{n}"), &format!("in {n}")]);
            client.expect_text(&format!("* you are in fresh-{n}"));
            client.expect_text(&format!("{label}: in {n}"));
        }
        client.send_text("/join fresh-0");
        client.expect_text("* you are in fresh-0");
        client.send_text("/who");
        let list = client.receive_text();
        assert!(list.starts_with("* in fresh-0 (1): "), "the room should be forgotten and empty: {list}");
        client.send_text(&format!("/join fresh-{}", ROOMS - 1));
        client.expect_text(&format!("* you are in fresh-{}", ROOMS - 1));
        client.expect_text(&format!("{label}: in {}", ROOMS - 1));
    });
}

/// `/join` commands count against the message rate.
fn a_thousand_new_rooms_at_the_default_rates(backend: BackendName) {
    run_attack("a thousand /join at the default rates", &chat(backend), |server| {
        let mut client = ChatUser::join(server.address(), "pit");
        let joins: Vec<_> = (0..1_000).map(|n| format!("/join fresh-{n}")).collect();
        client.send_texts_together(&joins.iter().map(String::as_str).collect::<Vec<_>>());
        for n in 0..90 {
            client.expect_text(&format!("* you are in fresh-{n}"));
        }
        wait_until("the client is paused", || server.totals().throttled > 0);
    });
}

/// Clients storm into a room whose members watch who comes and goes, and leave it again, while one watcher runs through
/// a thousand rooms. Each of the other watchers gets a few events, and knows the number of members at the end.
fn a_storm_into_a_watched_room(backend: BackendName) {
    const WATCHERS: usize = 100;
    run_attack("a storm into a watched room", &chat_without_rates(backend), |server| {
        let open = || Client::open(server.address(), "/room/pit?format=json&presence=1");
        let mut watchers: Vec<_> = (0..WATCHERS).map(|_| open()).collect();
        watchers.iter_mut().for_each(|watcher| _ = events_until(watcher, WATCHERS));
        let mut runner = open();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..500).for_each(|_| drop(ChatUser::join(server.address(), "pit"))));
            }
            for number in 0..1_000 {
                runner.send_text(&format!("/join run-{number}"));
                let room = format!("\"room\":\"run-{number}\",\"count\":1,");
                while !event(&mut runner).contains(&room) {}
            }
        });
        drop(runner);
        // A storm of less than 800 ms causes no event, since the members are the same again. The last guests stay.
        let guests = [(); 20].map(|()| ChatUser::join(server.address(), "pit"));
        let members = WATCHERS + guests.len();
        let events: usize =
            watchers.iter_mut().map(|watcher| events_until(watcher, members)).sum::<usize>() / WATCHERS;
        assert!(events < 1_000, "{events} events for each watcher of 4,000 changes");
    });
}

/// Receives the next JSON object.
fn event(client: &mut Client) -> String {
    loop {
        if let Message::Binary(bytes) = client.receive() {
            return String::from_utf8(bytes.to_vec()).expect("JSON is UTF-8");
        }
    }
}

/// Receives events until the room has so many members and no client of the storm is left. Returns the number of events.
fn events_until(watcher: &mut Client, members: usize) -> usize {
    let count = format!("\"room\":\"pit\",\"count\":{members},");
    (1..).find(|_| event(watcher).contains(&count)).expect("an endless range")
}

/// Returns names with invisible, reordering, stacking or markup characters.
fn hostile_names() -> Vec<String> {
    let mut names: Vec<String> = [
        "\u{202e}nimda",
        "ad\u{200b}min",
        "a\u{2066}b",
        "\u{feff}",
        "\u{3164}",
        "\u{2800}",
        "<b>x</b>",
        "<script>",
        "a&lt;b",
        "a\u{0}b",
        "a\u{1b}[31m",
        "a\u{85}b",
        "a\u{2028}b",
        "\u{e000}",
        "\u{301}a",
        "a\u{e0041}",
    ]
    .map(String::from)
    .to_vec();
    names.push(format!("a{}", "\u{300}".repeat(20)));
    names.push("x".repeat(10_000));
    names.push(format!("a{}", "\u{300}".repeat(200_000)));
    names.push("\u{1f468}\u{200d}\u{1f469}".into());
    names
}

fn hostile_nicknames_and_room_names(backend: BackendName) {
    run_attack("hostile names", &chat_without_rates(backend), |server| {
        let mut client = ChatUser::join(server.address(), "pit");
        for _ in 0..10 {
            for name in hostile_names() {
                client.send_text(&format!("/nick {name}"));
                let answer = client.receive_text();
                assert!(answer.ends_with("; try /nick alice"), "{name:?} gave {answer:?}");
                client.send_text(&format!("/join {name}"));
                let answer = client.receive_text();
                assert!(answer.ends_with("; try /join garden"), "{name:?} gave {answer:?}");
                if name.len() > 1_000 {
                    // The name is too long for a request target.
                    continue;
                }
                let encoded: String = name.bytes().map(|byte| format!("%{byte:02x}")).collect();
                let mut raw = RawClient::connect(server.address());
                raw.try_send(upgrade_request(&format!("/room/{encoded}")).as_bytes());
                assert_eq!(raw.receive_status(), Some(400), "{name:?}");
            }
        }
        // A name that looks like another user's name is refused.
        client.set_name("Zoë");
        let mut other = ChatUser::join(server.address(), "pit");
        for (imitation, shown) in [("zoë", "zoë"), ("Zoe\u{308}", "Zoë"), ("Ｚｏë", "Ｚｏë")] {
            other.send_text(&format!("/nick {imitation}"));
            let mut answer = other.receive_text();
            while !answer.starts_with("* the name") {
                answer = other.receive_text();
            }
            assert_eq!(answer, format!("* the name {shown} is taken"));
        }
    });
}

/// The chat delivers any message as a single line, whatever its text.
fn hostile_messages(backend: BackendName) {
    run_attack("hostile messages", &chat_without_rates(backend), |server| {
        let mut client = ChatUser::join(server.address(), "pit");
        let label = client.default_name();
        for (said, heard) in [
            ("a\n* from admin: b", "a * from admin: b"),
            ("a\r\nb\u{2028}c\u{2029}d\u{85}e", "a  b c d e"),
            ("\u{202e}\u{2067}txet", "txet"),
            ("a\u{0}b\u{1b}[2J", "a b [2J"),
            ("<img src=x onerror=alert(1)>hi", "hi"),
            ("<<b>script>x", "< script>x"),
            (&format!("a{}", "\u{300}".repeat(5_000)), &format!("a{}", "\u{300}".repeat(8))),
        ] {
            for _ in 0..20 {
                client.send_text(said);
                client.expect_text(&format!("{label}: {heard}"));
            }
        }
    });
}
