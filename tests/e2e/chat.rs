//! The chat, as its clients see it.

use std::time::{Duration, Instant};

use tungstenite::Message;
use uproar::config::{AppName, BackendName, Config};

use crate::support::chatter::Chatter;
use crate::support::client::Client;
use crate::support::{PATIENCE, TestServer, config, until};

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
    binary_is_refused,
    newcomers_see_the_last_fifty,
    history_is_bounded_by_its_bytes,
    history_ends_some_time_after_the_last_member,
);

const WORKERS: u16 = 4;

fn chat(backend: BackendName, workers: u16) -> TestServer {
    TestServer::start(&config(backend, AppName::Chat, workers))
}

/// A user on each worker, all in `room`.
fn one_on_each_worker(server: &TestServer, room: &str) -> Vec<Chatter> {
    (1..=WORKERS).map(|worker| Chatter::enter_on(server.address(), room, worker)).collect()
}

fn a_line_reaches_everyone_on_every_worker(backend: BackendName) {
    let server = chat(backend, WORKERS);
    let mut users = one_on_each_worker(&server, "lobby");
    for speaker in 0..users.len() {
        let label = users[speaker].label();
        users[speaker].say("0");
        for user in &mut users {
            user.hears(&format!("{label}: 0"));
        }
    }
    // The path `/` leads to the same room.
    let mut visitor = Client::open(server.address(), "/");
    assert!(visitor.line().starts_with("* welcome to lobby, "));
    visitor.hears(&format!("{}: 0", users[0].label()));
}

fn one_worker_is_enough(backend: BackendName) {
    let server = chat(backend, 1);
    let mut ada = Chatter::enter(server.address(), "lobby");
    let mut bob = Chatter::enter(server.address(), "lobby");
    assert_ne!(ada.number, bob.number);
    ada.say("hello");
    let text = format!("User #{} (1): hello", ada.number);
    ada.hears(&text);
    bob.hears(&text);
}

fn names(backend: BackendName) {
    let server = chat(backend, WORKERS);
    let mut users = one_on_each_worker(&server, "lobby");
    let [ada, bob, ..] = &mut users[..] else { panic!("four users") };
    ada.take_name("Ada");
    bob.hears(&format!("* {} is now Ada", ada.label()));
    ada.say("hello");
    bob.hears("Ada: hello");
    ada.hears("Ada: hello");
    for (wanted, answer) in [
        ("ADA", "* the name ADA is taken"),
        ("", "* a name has 1 to 32 characters; try /nick alice"),
        (&"n".repeat(33), "* a name has 1 to 32 characters; try /nick alice"),
        ("a b", "* a name has no spaces and only visible characters; try /nick alice"),
        ("*", "* a name does not begin with * and has none of : , < > &; try /nick alice"),
    ] {
        bob.say(&format!("/nick {wanted}"));
        bob.hears(answer);
    }
    // The old name is free at once for whoever hears that it was given up.
    ada.say("/nick Countess");
    ada.hears("* Ada is now Countess");
    bob.hears("* Ada is now Countess");
    claim_until_granted(bob, "ada");
}

/// Asks for a name that was given up elsewhere, until the word of it has come through.
fn claim_until_granted(user: &mut Chatter, name: &str) {
    let (granted, taken) =
        (format!("* {} is now {name}", user.label()), format!("* the name {name} is taken"));
    until("the name is free again", || {
        user.say(&format!("/nick {name}"));
        let answer = user.line();
        assert!(answer == granted || answer == taken, "{answer}");
        answer == granted
    });
}

fn only_one_gets_a_name(backend: BackendName) {
    let server = chat(backend, WORKERS);
    // Each has a room of its own, so that it hears only what it is told itself.
    let mut users: Vec<_> = (0..8_u16)
        .map(|at| Chatter::enter_on(server.address(), &format!("room-{at}"), at % WORKERS + 1))
        .collect();
    for round in 0..20 {
        let name = format!("round-{round}");
        for user in &mut users {
            user.say(&format!("/nick {name}"));
        }
        let answers: Vec<_> = users.iter_mut().map(|user| user.line()).collect();
        let granted = answers.iter().filter(|answer| answer.ends_with(&format!(" is now {name}"))).count();
        let taken = answers.iter().filter(|answer| **answer == format!("* the name {name} is taken")).count();
        assert_eq!((granted, taken), (1, 7), "{answers:?}");
    }
    let mut fresh = Chatter::enter_on(server.address(), "fresh", 1);
    fresh.say("/nick round-19");
    fresh.hears("* the name round-19 is taken");
    drop(users);
    claim_until_granted(&mut fresh, "round-19");
}

/// Two claims at once: whatever ada is called then, nobody else can be.
fn haste_loses_no_name(backend: BackendName) {
    let server = chat(backend, 1);
    let mut ada = Chatter::enter(server.address(), "ada");
    let mut bob = Chatter::enter(server.address(), "bob");
    ada.take_name("a");
    for _ in 0..10 {
        ada.say_at_once(&["/nick b", "/nick a"]);
        let answers = [ada.line(), ada.line()];
        let name = if answers.contains(&"* b is now a".to_owned()) { "a" } else { "b" };
        assert!(answers.contains(&"* a is now b".to_owned()), "{answers:?}");
        bob.say(&format!("/nick {name}"));
        bob.hears(&format!("* the name {name} is taken"));
        if name == "b" {
            ada.say("/nick a");
            ada.hears("* b is now a");
        }
    }
}

fn a_message_is_one_line(backend: BackendName) {
    let server = chat(backend, 1);
    let mut ada = Chatter::enter(server.address(), "lobby");
    let mut bob = Chatter::enter(server.address(), "lobby");
    ada.take_name("ada");
    bob.hears(&format!("* {} is now ada", ada.label()));
    ada.say("hi\n* from admin: pay");
    bob.hears("ada: hi * from admin: pay");
    bob.say("/msg ada hi\r\nada: no");
    ada.hears("ada: hi * from admin: pay");
    ada.hears(&format!("* from {}: hi  ada: no", bob.label()));
}

fn private_messages_find_their_reader(backend: BackendName) {
    let server = chat(backend, WORKERS);
    for worker in 1..=WORKERS {
        let mut ada = Chatter::enter_on(server.address(), "here", 1);
        let mut bob = Chatter::enter_on(server.address(), &format!("there-{worker}"), worker);
        let name = format!("bob-{worker}");
        bob.take_name(&name);
        ada.say(&format!("/msg {name} hello <b>you</b> & me"));
        bob.hears(&format!("* from {}: hello you & me", ada.label()));
        ada.hears(&format!("* to {name}: hello you & me"));
        // It was for nobody else, and for nobody's room.
        bob.say("next");
        bob.hears(&format!("{name}: next"));
        ada.say("/msg nobody hello");
        ada.hears("* nobody is called nobody; /who lists who is here");
        ada.say("/msg");
        ada.hears("* who should hear what? try /msg alice hello");
    }
}

fn rooms_keep_to_themselves(backend: BackendName) {
    let server = chat(backend, WORKERS);
    let mut ada = Chatter::enter_on(server.address(), "garden", 1);
    let mut bob = Chatter::enter_on(server.address(), "kitchen", 2);
    ada.take_name("ada");
    bob.take_name("bob");
    ada.say("in the garden");
    ada.hears("ada: in the garden");
    bob.say("/join garden");
    bob.hears("* you are in garden");
    bob.hears(&format!("* {} is now ada", ada.label()));
    bob.hears("ada: in the garden");
    bob.say("me too");
    ada.hears("bob: me too");
    bob.hears("bob: me too");
    ada.say("/join kitchen");
    ada.hears("* you are in kitchen");
    ada.hears(&format!("* {} is now bob", bob.label()));
    bob.say("alone");
    bob.hears("bob: alone");
    ada.say("in the kitchen");
    ada.hears("ada: in the kitchen");
    for bad in ["", "a/b", "a\u{200b}b", &"r".repeat(65)] {
        ada.say(&format!("/join {bad}"));
        let answer = ada.line();
        assert!(
            answer.starts_with("* a room's name has ") && answer.ends_with("; try /join garden"),
            "{answer}"
        );
    }
}

fn who_lists_all_workers(backend: BackendName) {
    let server = chat(backend, WORKERS);
    let mut users = one_on_each_worker(&server, "lobby");
    users[1].take_name("bob");
    let label = users[1].label();
    for other in [0, 2, 3] {
        users[other].hears(&format!("* {label} is now bob"));
    }
    let mut names: Vec<_> = [0, 2, 3].iter().map(|at| users[*at].label()).collect();
    names.push("bob".into());
    names.sort_unstable();
    // Those who were turned away on the way to the right worker may still be leaving.
    until("only the four are here", || {
        users[0].say("/who");
        users[0].line() == format!("* in lobby (4): {}", names.join(", "))
    });
}

fn commands_answer_only_their_sender(backend: BackendName) {
    let server = chat(backend, WORKERS);
    let mut users = one_on_each_worker(&server, "lobby");
    users[0].say("/help");
    let help = users[0].line();
    for command in ["/nick NAME", "/join ROOM", "/msg NAME TEXT", "/who", "/help"] {
        assert!(help.starts_with("* ") && help.contains(command), "{help}");
    }
    for (command, answer) in [
        ("/fly away", "* unknown command /fly; /help lists the commands"),
        ("/", "* unknown command /; /help lists the commands"),
        ("/<i>x</i>", "* unknown command /x; /help lists the commands"),
    ] {
        users[0].say(command);
        users[0].hears(answer);
    }
    let label = users[0].label();
    users[0].say("done");
    for user in &mut users {
        user.hears(&format!("{label}: done"));
    }
}

fn html_is_stripped(backend: BackendName) {
    let server = chat(backend, 2);
    let mut ada = Chatter::enter(server.address(), "lobby");
    let label = ada.label();
    for (said, heard) in [
        ("<b>bold</b> & <i>it</i>", "bold & it"),
        ("<script>alert(1)</script>", "alert(1)"),
        ("<<b>script>x</script>", "script>x"),
        ("1 < 2 &lt; 3", "1 < 2 &lt; 3"),
        ("grüße 👋", "grüße 👋"),
    ] {
        ada.say(said);
        ada.hears(&format!("{label}: {heard}"));
    }
    ada.say("<br>");
    ada.hears("* nothing was left of your message without its HTML tags");
}

fn binary_is_refused(backend: BackendName) {
    let server = chat(backend, 2);
    let mut ada = Chatter::enter(server.address(), "lobby");
    ada.send(Message::binary(vec![1, 2, 3]));
    assert_eq!(ada.closed(), (1003, "this chat takes text messages only".into()));
}

fn newcomers_see_the_last_fifty(backend: BackendName) {
    let server = chat(backend, WORKERS);
    let mut ada = Chatter::enter_on(server.address(), "lobby", 1);
    let label = ada.label();
    let line = |number: usize| format!("{label}: line {number}");
    for number in 0..60 {
        ada.say(&format!("line {number}"));
        ada.hears(&line(number));
    }
    for worker in 1..=WORKERS {
        let mut newcomer = Chatter::enter_on(server.address(), "lobby", worker);
        for number in 10 + usize::from(worker) - 1..60 + usize::from(worker) - 1 {
            newcomer.hears(&line(number));
        }
        // What is said from now on follows without a hole.
        ada.say(&format!("line {}", 59 + worker));
        ada.hears(&line(59 + usize::from(worker)));
        newcomer.hears(&line(59 + usize::from(worker)));
    }
    // The past outlives the last member.
    drop(ada);
    until("all have left", || server.connections().0 == 0);
    let mut newcomer = Chatter::enter(server.address(), "lobby");
    for number in 14..64 {
        newcomer.hears(&line(number));
    }
}

fn history_is_bounded_by_its_bytes(backend: BackendName) {
    const BYTES: usize = 2000;
    let base = config(backend, AppName::Chat, WORKERS);
    let server = TestServer::start(&Config { history_bytes: BYTES as u32, ..base });
    let mut ada = Chatter::enter_on(server.address(), "lobby", 1);
    let label = ada.label();
    let line = |number: usize| format!("{label}: {number} {}", "x".repeat(200));
    for number in 0..30 {
        ada.say(&line(number)[label.len() + 2..]);
        ada.hears(&line(number));
    }
    // A header of four bytes counts too.
    let fitting = BYTES / (line(10).len() + 4);
    for worker in 1..=WORKERS {
        let mut newcomer = Chatter::enter_on(server.address(), "lobby", worker);
        for number in 30 - fitting..30 {
            newcomer.hears(&line(number));
        }
    }
}

fn history_ends_some_time_after_the_last_member(backend: BackendName) {
    let base = config(backend, AppName::Chat, 1);
    let server = TestServer::start(&Config { history_seconds: Duration::from_millis(50), ..base });
    let mut ada = Chatter::enter(server.address(), "lobby");
    let old = format!("{}: old", ada.label());
    ada.say("old");
    ada.hears(&old);
    drop(ada);
    let deadline = Instant::now() + PATIENCE;
    let mut wait = Duration::from_millis(100);
    loop {
        // Nobody may be there meanwhile, and whoever looks is somebody.
        until("nobody is there", || server.connections().0 == 0);
        std::thread::sleep(wait);
        let mut visitor = Chatter::enter(server.address(), "lobby");
        let own = format!("{}: new", visitor.label());
        visitor.say("new");
        if visitor.line() == own {
            return;
        }
        assert!(Instant::now() < deadline, "the past does not end");
        wait *= 2;
    }
}
