//! The chat application, as its clients see it.

use std::time::{Duration, Instant};

use tungstenite::Message;
use uproar::config::{AppName, BackendName, Config};

use crate::support::chat_user::ChatUser;
use crate::support::client::Client;
use crate::support::{TIMEOUT, TestServer, config, wait_until};

on_both_backends!(
    a_line_reaches_everyone_on_every_worker,
    one_worker_is_enough,
    names,
    only_one_gets_a_name,
    haste_loses_no_name,
    a_message_is_one_line,
    private_messages_find_their_reader,
    rooms_keep_to_themselves,
    who_lists_all_workers,
    commands_answer_only_their_sender,
    html_is_stripped,
    nothing_else_that_was_typed_is_lost,
    names_of_all_scripts_and_emoji_are_names,
    names_that_are_tricks_are_refused,
    rooms_whose_names_look_the_same_are_one,
    joining_where_one_is_does_nothing,
    a_private_message_has_a_limit,
    binary_is_refused,
    newcomers_see_the_last_fifty,
    history_is_bounded_by_its_bytes,
    history_ends_some_time_after_the_last_member,
);

const WORKERS: u16 = 4;

fn chat(backend: BackendName, workers: u16) -> TestServer {
    TestServer::start(&config(backend, AppName::Chat, workers))
}

/// Connects one chat user on each worker, all in `room`.
fn one_on_each_worker(server: &TestServer, room: &str) -> Vec<ChatUser> {
    (1..=WORKERS).map(|worker| ChatUser::join_on_worker(server.address(), room, worker)).collect()
}

fn a_line_reaches_everyone_on_every_worker(backend: BackendName) {
    let server = chat(backend, WORKERS);
    let mut users = one_on_each_worker(&server, "lobby");
    for speaker in 0..users.len() {
        let label = users[speaker].default_name();
        users[speaker].send_text("0");
        for user in &mut users {
            user.expect_text(&format!("{label}: 0"));
        }
    }
    // The path `/` leads to the room `lobby`, too.
    let mut visitor = Client::open(server.address(), "/");
    assert!(visitor.receive_text().starts_with("* welcome to lobby, "));
    visitor.expect_text(&format!("{}: 0", users[0].default_name()));
}

fn one_worker_is_enough(backend: BackendName) {
    let server = chat(backend, 1);
    let mut ada = ChatUser::join(server.address(), "lobby");
    let mut bob = ChatUser::join(server.address(), "lobby");
    assert_ne!(ada.number, bob.number);
    ada.send_text("hello");
    let text = format!("User #{} (1): hello", ada.number);
    ada.expect_text(&text);
    bob.expect_text(&text);
}

fn names(backend: BackendName) {
    let server = chat(backend, WORKERS);
    let mut users = one_on_each_worker(&server, "lobby");
    let [ada, bob, ..] = &mut users[..] else { panic!("four users") };
    ada.set_name("Ada");
    bob.expect_text(&format!("* {} is now Ada", ada.default_name()));
    ada.send_text("hello");
    bob.expect_text("Ada: hello");
    ada.expect_text("Ada: hello");
    for (wanted, answer) in [
        ("ADA", "* the name ADA is taken"),
        ("", "* a name has 1 to 32 characters; try /nick alice"),
        (&"n".repeat(33), "* a name has 1 to 32 characters; try /nick alice"),
        ("a b", "* a name has no spaces and only visible characters; try /nick alice"),
        ("*", "* a name does not begin with * and has none of : , < > &; try /nick alice"),
    ] {
        bob.send_text(&format!("/nick {wanted}"));
        bob.expect_text(answer);
    }
    // After the announcement of Ada's new name, another user can take the old name.
    ada.send_text("/nick Countess");
    ada.expect_text("* Ada is now Countess");
    bob.expect_text("* Ada is now Countess");
    claim_until_granted(bob, "ada");
}

/// Sends `/nick` until the chat grants `name`. A name that another user gave up stays taken until the worker that keeps
/// names has heard of the release.
fn claim_until_granted(user: &mut ChatUser, name: &str) {
    let (granted, taken) =
        (format!("* {} is now {name}", user.default_name()), format!("* the name {name} is taken"));
    wait_until("the name is free again", || {
        user.send_text(&format!("/nick {name}"));
        let answer = user.receive_text();
        assert!(answer == granted || answer == taken, "{answer}");
        answer == granted
    });
}

fn only_one_gets_a_name(backend: BackendName) {
    let server = chat(backend, WORKERS);
    // Each user is alone in a room, so that it receives only the answers to its own commands.
    let mut users: Vec<_> = (0..8_u16)
        .map(|at| ChatUser::join_on_worker(server.address(), &format!("room-{at}"), at % WORKERS + 1))
        .collect();
    for round in 0..20 {
        let name = format!("round-{round}");
        for user in &mut users {
            user.send_text(&format!("/nick {name}"));
        }
        let answers: Vec<_> = users.iter_mut().map(|user| user.receive_text()).collect();
        let granted = answers.iter().filter(|answer| answer.ends_with(&format!(" is now {name}"))).count();
        let taken = answers.iter().filter(|answer| **answer == format!("* the name {name} is taken")).count();
        assert_eq!((granted, taken), (1, 7), "{answers:?}");
    }
    let mut fresh = ChatUser::join_on_worker(server.address(), "fresh", 1);
    fresh.send_text("/nick round-19");
    fresh.expect_text("* the name round-19 is taken");
    drop(users);
    claim_until_granted(&mut fresh, "round-19");
}

/// Ada requests two names at once. Whichever name she then has, no other user can take that name.
fn haste_loses_no_name(backend: BackendName) {
    let server = chat(backend, 1);
    let mut ada = ChatUser::join(server.address(), "ada");
    let mut bob = ChatUser::join(server.address(), "bob");
    ada.set_name("a");
    for _ in 0..10 {
        ada.send_texts_together(&["/nick b", "/nick a"]);
        let answers = [ada.receive_text(), ada.receive_text()];
        let name = if answers.contains(&"* b is now a".to_owned()) { "a" } else { "b" };
        assert!(answers.contains(&"* a is now b".to_owned()), "{answers:?}");
        bob.send_text(&format!("/nick {name}"));
        bob.expect_text(&format!("* the name {name} is taken"));
        if name == "b" {
            ada.send_text("/nick a");
            ada.expect_text("* b is now a");
        }
    }
}

fn a_message_is_one_line(backend: BackendName) {
    let server = chat(backend, 1);
    let mut ada = ChatUser::join(server.address(), "lobby");
    let mut bob = ChatUser::join(server.address(), "lobby");
    ada.set_name("ada");
    bob.expect_text(&format!("* {} is now ada", ada.default_name()));
    ada.send_text("hi\n* from admin: pay");
    bob.expect_text("ada: hi * from admin: pay");
    bob.send_text("/msg ada hi\r\nada: no");
    ada.expect_text("ada: hi * from admin: pay");
    ada.expect_text(&format!("* from {}: hi  ada: no", bob.default_name()));
}

fn private_messages_find_their_reader(backend: BackendName) {
    let server = chat(backend, WORKERS);
    for worker in 1..=WORKERS {
        let mut ada = ChatUser::join_on_worker(server.address(), "here", 1);
        let mut bob = ChatUser::join_on_worker(server.address(), &format!("there-{worker}"), worker);
        let name = format!("bob-{worker}");
        bob.set_name(&name);
        ada.send_text(&format!("/msg {name} hello <b>you</b> & me"));
        bob.expect_text(&format!("* from {}: hello you & me", ada.default_name()));
        ada.expect_text(&format!("* to {name}: hello you & me"));
        // The private message reached no room: the next message in bob's room is his own.
        bob.send_text("next");
        bob.expect_text(&format!("{name}: next"));
        ada.send_text("/msg nobody hello");
        ada.expect_text("* nobody is called nobody; /who lists who is here");
        ada.send_text("/msg");
        ada.expect_text("* /msg needs a name and a text; try /msg alice hello");
    }
}

fn rooms_keep_to_themselves(backend: BackendName) {
    let server = chat(backend, WORKERS);
    let mut ada = ChatUser::join_on_worker(server.address(), "garden", 1);
    let mut bob = ChatUser::join_on_worker(server.address(), "kitchen", 2);
    ada.set_name("ada");
    bob.set_name("bob");
    ada.send_text("in the garden");
    ada.expect_text("ada: in the garden");
    bob.send_text("/join garden");
    bob.expect_text("* you are in garden");
    bob.expect_text(&format!("* {} is now ada", ada.default_name()));
    bob.expect_text("ada: in the garden");
    bob.send_text("me too");
    ada.expect_text("bob: me too");
    bob.expect_text("bob: me too");
    ada.send_text("/join kitchen");
    ada.expect_text("* you are in kitchen");
    ada.expect_text(&format!("* {} is now bob", bob.default_name()));
    bob.send_text("alone");
    bob.expect_text("bob: alone");
    ada.send_text("in the kitchen");
    ada.expect_text("ada: in the kitchen");
    for bad in ["", "a/b", "a\u{200b}b", &"r".repeat(65)] {
        ada.send_text(&format!("/join {bad}"));
        let answer = ada.receive_text();
        assert!(
            answer.starts_with("* a room's name has ") && answer.ends_with("; try /join garden"),
            "{answer}"
        );
    }
}

fn who_lists_all_workers(backend: BackendName) {
    let server = chat(backend, WORKERS);
    let mut users = one_on_each_worker(&server, "lobby");
    users[1].set_name("bob");
    let label = users[1].default_name();
    for other in [0, 2, 3] {
        users[other].expect_text(&format!("* {label} is now bob"));
    }
    let mut names: Vec<_> = [0, 2, 3].iter().map(|at| users[*at].default_name()).collect();
    names.push("bob".into());
    names.sort_unstable();
    // Clients that were dropped in search of the right worker may still be members of the room.
    wait_until("only the four are here", || {
        users[0].send_text("/who");
        users[0].receive_text() == format!("* in lobby (4): {}", names.join(", "))
    });
}

fn commands_answer_only_their_sender(backend: BackendName) {
    let server = chat(backend, WORKERS);
    let mut users = one_on_each_worker(&server, "lobby");
    users[0].send_text("/help");
    let help = users[0].receive_text();
    for command in ["/nick NAME", "/join ROOM", "/msg NAME TEXT", "/who", "/help"] {
        assert!(help.starts_with("* ") && help.contains(command), "{help}");
    }
    for (command, answer) in [
        ("/fly away", "* unknown command /fly; /help lists the commands"),
        ("/", "* unknown command /; /help lists the commands"),
        ("/<i>x</i>", "* unknown command /x; /help lists the commands"),
    ] {
        users[0].send_text(command);
        users[0].expect_text(answer);
    }
    let label = users[0].default_name();
    users[0].send_text("done");
    for user in &mut users {
        user.expect_text(&format!("{label}: done"));
    }
}

fn html_is_stripped(backend: BackendName) {
    let server = chat(backend, 2);
    let mut ada = ChatUser::join(server.address(), "lobby");
    let label = ada.default_name();
    for (said, heard) in [
        ("<b>bold</b> & <i>it</i>", "bold & it"),
        ("<script>alert(1)</script>", "alert(1)"),
        ("<<b>script>x</script>", "< script>x"),
        ("1 < 2 &lt; 3", "1 < 2 &lt; 3"),
        ("grüße 👋", "grüße 👋"),
    ] {
        ada.send_text(said);
        ada.expect_text(&format!("{label}: {heard}"));
    }
    ada.send_text("<br>");
    ada.expect_text("* nothing was left of your message without its HTML tags");
}

fn nothing_else_that_was_typed_is_lost(backend: BackendName) {
    let server = chat(backend, 2);
    let mut ada = ChatUser::join(server.address(), "lobby");
    let label = ada.default_name();
    for (said, heard) in [
        ("if (i<n && n>0) go", "if (i< n && n>0) go"),
        ("git clone <url> now", "git clone < url> now"),
        ("a<!-- not hidden -->b", "a< !-- not hidden -->b"),
        ("x < y", "x < y"),
        ("<", "<"),
    ] {
        ada.send_text(said);
        ada.expect_text(&format!("{label}: {heard}"));
    }
    ada.set_name("ada");
    ada.send_text("/msg ada it costs <b than that");
    let answers = [ada.receive_text(), ada.receive_text()];
    for answer in ["* from ada: it costs < b than that", "* to ada: it costs < b than that"] {
        assert!(answers.contains(&answer.to_owned()), "{answers:?}");
    }
}

fn names_of_all_scripts_and_emoji_are_names(backend: BackendName) {
    let server = chat(backend, 2);
    let mut ada = ChatUser::join(server.address(), "lobby");
    let mut old = ada.default_name();
    for name in ["ကျော်", "चीज़ों", "བསྒྲུབས", "שָׁלוֹם", "می\u{200c}خواهم", "👩🏽\u{200d}🚀", "❤️", "🇩🇪"]
    {
        ada.send_text(&format!("/nick {name}"));
        ada.expect_text(&format!("* {old} is now {name}"));
        old = name.into();
        ada.send_text(&format!("/join {name}"));
        ada.expect_text(&format!("* you are in {name}"));
    }
    // Composed and decomposed Unicode forms are the same name.
    ada.send_text("/nick Zoe\u{308}");
    ada.expect_text(&format!("* {old} is now Zoë"));
    let mut bob = ChatUser::join(server.address(), "elsewhere");
    bob.send_text("/nick ZOË");
    bob.expect_text("* the name ZOË is taken");
    bob.send_text("/msg zoe\u{308} hello");
    bob.expect_text("* to zoë: hello");
    ada.expect_text(&format!("* from {}: hello", bob.default_name()));
}

fn names_that_are_tricks_are_refused(backend: BackendName) {
    let server = chat(backend, 1);
    let mut eve = ChatUser::join(server.address(), "lobby");
    for name in [
        "\u{202e}eve",
        "e\u{200d}ve",
        "e\u{200b}ve",
        "eve\u{e0041}",
        "Z\u{351}\u{346}\u{34a}\u{30d}a",
        "eve\u{fe0f}",
        "eveא",
        "1א",
        "ก\u{e47}\u{e47}\u{e47}\u{e47}",
    ] {
        eve.send_text(&format!("/nick {name}"));
        let answer = eve.receive_text();
        assert!(
            answer.starts_with("* a name has ") && answer.ends_with("; try /nick alice"),
            "{name:?}: {answer}"
        );
    }
}

fn rooms_whose_names_look_the_same_are_one(backend: BackendName) {
    let server = chat(backend, WORKERS);
    let welcome = "* welcome to café, you are ";
    let mut ada = Client::open(server.address(), "/room/caf%C3%A9");
    let mut bob = Client::open(server.address(), "/room/cafe%CC%81");
    for client in [&mut ada, &mut bob] {
        let line = client.receive_text();
        assert!(line.starts_with(welcome), "{line}");
    }
    ada.send_text("hello");
    let line = ada.receive_text();
    bob.expect_text(&line);
    let mut carol = ChatUser::join(server.address(), "lobby");
    carol.send_text("/join cafe\u{301}");
    carol.expect_text("* you are in café");
    carol.expect_text(&line);
    for dots in [".", ".."] {
        carol.send_text(&format!("/join {dots}"));
        carol.expect_text(
            "* a room's name has more than one or two dots, which no URL can name; try /join garden",
        );
    }
}

fn joining_where_one_is_does_nothing(backend: BackendName) {
    let server = chat(backend, WORKERS);
    for worker in 1..=WORKERS {
        let mut ada = ChatUser::join_on_worker(server.address(), &format!("noir{worker}"), worker);
        let label = ada.default_name();
        for text in ["one", "two"] {
            ada.send_text(text);
            ada.expect_text(&format!("{label}: {text}"));
        }
        ada.send_text(&format!("/join noir{worker}"));
        ada.expect_text(&format!("* you are already in noir{worker}"));
        ada.send_text("three");
        ada.expect_text(&format!("{label}: three"));
    }
}

fn a_private_message_has_a_limit(backend: BackendName) {
    let server = chat(backend, 2);
    let mut ada = ChatUser::join(server.address(), "ada");
    let mut bob = ChatUser::join(server.address(), "bob");
    bob.set_name("bob");
    let longest = "x".repeat(8192);
    ada.send_text(&format!("/msg bob  {longest} "));
    ada.expect_text(&format!("* to bob: {longest}"));
    bob.expect_text(&format!("* from {}: {longest}", ada.default_name()));
    ada.send_text(&format!("/msg bob {longest}x"));
    ada.expect_text("* a private message has at most 8192 bytes; yours has 8193");
    ada.send_text("/msg bob short");
    bob.expect_text(&format!("* from {}: short", ada.default_name()));
}

fn binary_is_refused(backend: BackendName) {
    let server = chat(backend, 2);
    let mut ada = ChatUser::join(server.address(), "lobby");
    ada.send(Message::binary(vec![1, 2, 3]));
    assert_eq!(ada.wait_for_close(), (1003, "this chat takes text messages only".into()));
}

fn newcomers_see_the_last_fifty(backend: BackendName) {
    let server = chat(backend, WORKERS);
    let mut ada = ChatUser::join_on_worker(server.address(), "lobby", 1);
    let label = ada.default_name();
    let line = |number: usize| format!("{label}: line {number}");
    for number in 0..60 {
        ada.send_text(&format!("line {number}"));
        ada.expect_text(&line(number));
    }
    for worker in 1..=WORKERS {
        let mut newcomer = ChatUser::join_on_worker(server.address(), "lobby", worker);
        for number in 10 + usize::from(worker) - 1..60 + usize::from(worker) - 1 {
            newcomer.expect_text(&line(number));
        }
        // New messages follow the room's history without a gap.
        ada.send_text(&format!("line {}", 59 + worker));
        ada.expect_text(&line(59 + usize::from(worker)));
        newcomer.expect_text(&line(59 + usize::from(worker)));
    }
    // The room's history outlives the room's last member.
    drop(ada);
    wait_until("all have left", || server.connections().0 == 0);
    let mut newcomer = ChatUser::join(server.address(), "lobby");
    for number in 14..64 {
        newcomer.expect_text(&line(number));
    }
}

fn history_is_bounded_by_its_bytes(backend: BackendName) {
    const BYTES: usize = 2000;
    let base = config(backend, AppName::Chat, WORKERS);
    let server = TestServer::start(&Config { history_bytes: BYTES as u32, ..base });
    let mut ada = ChatUser::join_on_worker(server.address(), "lobby", 1);
    let label = ada.default_name();
    let line = |number: usize| format!("{label}: {number} {}", "x".repeat(200));
    for number in 0..30 {
        ada.send_text(&line(number)[label.len() + 2..]);
        ada.expect_text(&line(number));
    }
    // The 4-byte header of each frame counts against the history limit, too.
    let fitting = BYTES / (line(10).len() + 4);
    for worker in 1..=WORKERS {
        let mut newcomer = ChatUser::join_on_worker(server.address(), "lobby", worker);
        for number in 30 - fitting..30 {
            newcomer.expect_text(&line(number));
        }
    }
}

fn history_ends_some_time_after_the_last_member(backend: BackendName) {
    let base = config(backend, AppName::Chat, 1);
    let server = TestServer::start(&Config { history_seconds: Duration::from_millis(50), ..base });
    let mut ada = ChatUser::join(server.address(), "lobby");
    let old = format!("{}: old", ada.default_name());
    ada.send_text("old");
    ada.expect_text(&old);
    drop(ada);
    let deadline = Instant::now() + TIMEOUT;
    let mut wait = Duration::from_millis(100);
    loop {
        // The room must stay empty during the wait, and every visitor who checks the history is a member for a moment.
        wait_until("nobody is there", || server.connections().0 == 0);
        std::thread::sleep(wait);
        let mut visitor = ChatUser::join(server.address(), "lobby");
        let own = format!("{}: new", visitor.default_name());
        visitor.send_text("new");
        if visitor.receive_text() == own {
            return;
        }
        assert!(Instant::now() < deadline, "the past does not end");
        wait *= 2;
    }
}
