//! Tokens: who may open a WebSocket, under which name, into which rooms, and for how long.

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use uproar::config::{AppName, BackendName, Config, Secret};

use crate::process::refuses;
use crate::support::client::Client;
use crate::support::metrics::Metrics;
use crate::support::process::{Process, backend_arg, output, settings_file, uproar};
use crate::support::raw::{Raw, Response, frame, upgrade_request};
use crate::support::token::{SECRET, now, signed, token, token_of};
use crate::support::{TestServer, config, until};

on_both_backends!(
    each_refusal_says_what_is_wrong_and_is_counted,
    a_token_is_taken_from_the_query_or_the_header,
    pages_need_no_token,
    rooms_are_limited_at_the_upgrade_and_by_join,
    the_name_is_that_of_the_token,
    a_user_is_there_twice_under_one_name,
    a_name_that_is_none_or_anothers_is_refused,
    nothing_is_said_before_the_name_is_granted,
    a_token_without_a_name_gives_none,
    a_connection_ends_with_its_token,
    echo_and_relay_want_tokens_too,
    a_new_secret_holds_for_whoever_comes,
    a_broken_secret_changes_nothing,
);

/// Settings of a server that wants tokens signed with `secret`.
fn with_secret(base: Config, name: &str, secret: &str) -> Config {
    let name = format!("{name} {:?} {:?}", base.backend, base.app);
    let path = settings_file(&name, secret);
    let secret = Secret::read(path.as_ref()).expect("it is long enough");
    Config { auth_hmac_secret_file: Some(secret), ..base }
}

fn start(backend: BackendName, name: &str, app: AppName) -> TestServer {
    TestServer::start(&with_secret(config(backend, app, 2), name, SECRET))
}

/// Opens a WebSocket with a token in the query.
fn open(server: &TestServer, path: &str, token: &str) -> Client {
    Client::open(server.address(), &format!("{path}?token={token}"))
}

/// The answer to a handshake with these further header lines.
fn answer(server: &TestServer, path: &str, headers: &str) -> Response {
    let mut raw = Raw::connect(server.address());
    raw.send(upgrade_request(path).replacen("\r\n\r\n", &format!("\r\n{headers}\r\n"), 1).as_bytes());
    raw.response()
}

fn each_refusal_says_what_is_wrong_and_is_counted(backend: BackendName) {
    let base = Config { admin: Some(([127, 0, 0, 1], 0).into()), ..config(backend, AppName::Chat, 1) };
    let server = TestServer::start(&with_secret(base, "refusals", SECRET));
    let (later, header) = (now() + 3600, json!({"alg": "HS256"}));
    let cases = [
        ("..".into(), 401, "token_malformed", "is no JWT"),
        ("abc".into(), 401, "token_malformed", "is no JWT"),
        (token(&json!({"sub": "ada"})), 401, "token_malformed", "exp"),
        (token(&json!({"exp": later, "sub": 7})), 401, "token_malformed", "sub, a text"),
        (token(&json!({"exp": later, "aud": "x"})), 401, "token_malformed", "aud"),
        (signed(&json!({"alg": "HS512"}), &json!({"exp": later}), SECRET), 401, "token_malformed", "HS256"),
        (signed(&json!({"alg": "none"}), &json!({"exp": later}), SECRET), 401, "token_malformed", "HS256"),
        (signed(&header, &json!({"exp": later}), "another secret"), 401, "token_signature", "signature"),
        (token(&json!({"exp": now() - 11})), 401, "token_expired", "has expired"),
        (token(&json!({"exp": later, "nbf": later})), 401, "token_early", "not valid yet"),
        (token(&json!({"exp": later, "rooms": ["lawn"]})), 403, "token_room", "rooms"),
    ];
    let mut counts = std::collections::BTreeMap::from([("token_missing", 1), ("token_malformed", 1)]);
    let check = |response: Response, status, part: &str| {
        assert_eq!(response.status, status, "{}", response.body);
        assert!(response.body.contains(part), "{part}: {}", response.body);
        assert!(!response.body.contains(SECRET));
        let challenge = response.head.contains("\r\nWWW-Authenticate: Bearer\r\n");
        assert_eq!(challenge, status == 401, "{}", response.head);
    };
    check(answer(&server, "/", "Authorization: Basic YTpi\r\n"), 401, "wants a token");
    let twice = format!("/?token={}", token_of("ada"));
    check(
        answer(&server, &twice, &format!("Authorization: Bearer {}\r\n", token_of("ada"))),
        401,
        "one token",
    );
    for (token, status, reason, part) in cases {
        check(answer(&server, "/room/garden", &format!("Authorization: Bearer {token}\r\n")), status, part);
        *counts.entry(reason).or_default() += 1;
    }
    let metrics = Metrics::of(server.admin_address().expect("it has one"));
    for (reason, count) in counts {
        let refused = metrics.sum("uproar_refused_total", &[("reason", reason)]);
        assert_eq!(refused, f64::from(count), "{reason}");
    }
    assert_eq!(server.totals().opened, 0);
}

fn a_token_is_taken_from_the_query_or_the_header(backend: BackendName) {
    let server = start(backend, "places", AppName::Chat);
    let welcome = "* welcome to lobby, you are ada; /help lists the commands";
    open(&server, "/", &token_of("ada")).hears(welcome);
    let query = format!("/?a=b&token={}&c", token_of("ada").replace('.', "%2E"));
    Client::open(server.address(), &query).hears(welcome);
    for scheme in ["Bearer", "bearer"] {
        let mut raw = Raw::connect(server.address());
        let header = format!("\r\nAuthorization: {scheme} {}\r\n\r\n", token_of("ada"));
        raw.send(upgrade_request("/").replacen("\r\n\r\n", &header, 1).as_bytes());
        raw.switched();
        assert_eq!(raw.frame().1, welcome.as_bytes());
    }
}

fn pages_need_no_token(backend: BackendName) {
    let server = start(backend, "pages", AppName::Chat);
    for path in ["/", "/room/garden", "/?token=bad"] {
        let mut raw = Raw::connect(server.address());
        raw.send(format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n").as_bytes());
        assert_eq!(raw.response().status, 200, "{path}");
    }
}

fn rooms_are_limited_at_the_upgrade_and_by_join(backend: BackendName) {
    let server = start(backend, "rooms", AppName::Chat);
    let limited = token(&json!({"exp": now() + 60, "sub": "ada", "rooms": ["garden", "café noir"]}));
    assert_eq!(answer(&server, &format!("/?token={limited}"), "").status, 403);
    let mut ada = open(&server, "/room/garden", &limited);
    ada.hears("* welcome to garden, you are ada; /help lists the commands");
    ada.say("/join lawn");
    ada.hears("* your token does not allow the room lawn");
    ada.say("still in the garden");
    ada.hears("ada: still in the garden");
    ada.say("/join café noir");
    ada.hears("* you are in café noir");
    let none: Value = json!({"exp": now() + 60, "rooms": []});
    assert_eq!(answer(&server, &format!("/room/garden?token={}", token(&none)), "").status, 403);
}

fn the_name_is_that_of_the_token(backend: BackendName) {
    let server = start(backend, "name", AppName::Chat);
    let mut ada = open(&server, "/", &token_of("Ada"));
    ada.hears("* welcome to lobby, you are Ada; /help lists the commands");
    ada.say("/nick bob");
    ada.hears("* names come from tokens here; yours stays as it is");
    // At once, without waiting for the word of the instance that keeps the name.
    ada.say("hello");
    ada.hears("Ada: hello");
    ada.say("/who");
    ada.hears("* in lobby (1): Ada");
}

fn a_user_is_there_twice_under_one_name(backend: BackendName) {
    let server = start(backend, "twice", AppName::Chat);
    let enter = |user| {
        let mut client = open(&server, "/", &token_of(user));
        client.hears(&format!("* welcome to lobby, you are {user}; /help lists the commands"));
        client
    };
    let (mut first, mut second, mut bob) = (enter("ada"), enter("ada"), enter("bob"));
    bob.say("/who");
    bob.hears("* in lobby (3): ada, ada, bob");
    bob.say("/msg ada psst");
    bob.hears("* to ada: psst");
    for ada in [&mut first, &mut second] {
        ada.hears("* from bob: psst");
    }
    // One may go, and the other is still found.
    drop(first);
    bob.say("/msg ada still there?");
    bob.hears("* to ada: still there?");
    second.hears("* from bob: still there?");
    drop(second);
    until("nobody is called ada", || {
        bob.say("/msg ada gone?");
        bob.line() == "* nobody is called ada; /who lists who is here"
    });
}

fn a_name_that_is_none_or_anothers_is_refused(backend: BackendName) {
    let server = start(backend, "no name", AppName::Chat);
    for (sub, problem) in [
        ("", "a name has 1 to 32 characters"),
        ("a b", "a name has no spaces and only visible characters"),
        ("*a", "a name does not begin with * and has none of : , < > &"),
    ] {
        let reason = format!("the token's sub: {problem}");
        assert_eq!(open(&server, "/", &token_of(sub)).closed(), (1008, reason));
    }
    let mut ada = open(&server, "/", &token_of("Ada"));
    ada.say("/who");
    until("she has her name", || ada.line().starts_with("* in lobby"));
    // Another user of the issuer, who cannot be told from her.
    assert_eq!(open(&server, "/", &token_of("ada")).closed(), (1008, "the name ada is taken".into()));
    ada.say("still me");
    until("she is there", || ada.line() == "Ada: still me");
}

fn nothing_is_said_before_the_name_is_granted(backend: BackendName) {
    let server = start(backend, "early", AppName::Chat);
    let mut ada = open(&server, "/", &token_of("ada"));
    ada.hears("* welcome to lobby, you are ada; /help lists the commands");
    // What they say comes together with their requests. Some are on the worker that keeps the name, and some on the other one.
    let say_at_once = |user: &str| {
        let mut raw = Raw::connect(server.address());
        let request = upgrade_request(&format!("/?token={}", token_of(user)));
        let texts = ["one", "/who", "two"].map(|text| frame(0x81, text.as_bytes())).concat();
        raw.send(&[request.as_bytes(), &texts].concat());
        raw.switched();
        raw
    };
    for _ in 0..8 {
        let mut false_ada = say_at_once("Ada");
        assert_eq!(false_ada.close_frame(), (1008, "the name Ada is taken".into()));
        let mut unnamed = say_at_once("a da");
        assert_eq!(unnamed.close_frame().0, 1008);
        ada.say("alone");
        ada.hears("ada: alone");
    }
    for _ in 0..8 {
        let mut bob = say_at_once("bob");
        let mut heard = || String::from_utf8(bob.frame().1).expect("text");
        assert_eq!(heard(), "* welcome to lobby, you are bob; /help lists the commands");
        while heard() != "* in lobby (2): ada, bob" {}
        for text in ["one", "two"] {
            ada.hears(&format!("bob: {text}"));
        }
        drop(bob);
        until("he is gone", || server.connections().0 == 1);
    }
    // Who leaves before the name is granted has said it all the same, unless the name is refused.
    for user in ["carl", "Ada", "carl"] {
        let mut raw = Raw::connect(server.address());
        let request = upgrade_request(&format!("/?token={}", token_of(user)));
        let frames = [frame(0x81, b"bye"), frame(0x81, b"/who"), frame(0x88, &[])].concat();
        raw.send(&[request.as_bytes(), &frames].concat());
        raw.switched();
        until("it is gone", || server.connections().0 == 1);
        if user == "carl" {
            ada.hears("carl: bye");
        }
        ada.say("so");
        ada.hears("ada: so");
    }
}

fn a_token_without_a_name_gives_none(backend: BackendName) {
    let server = start(backend, "nameless", AppName::Chat);
    let mut client = open(&server, "/", &token(&json!({"exp": now() + 60})));
    assert!(client.line().starts_with("* welcome to lobby, you are User #"));
    // It could take the name of somebody who has one.
    client.say("/nick ada");
    client.hears("* names come from tokens here; yours stays as it is");
}

fn a_connection_ends_with_its_token(backend: BackendName) {
    let server = start(backend, "expiry", AppName::Chat);
    // Ten seconds are given to clocks that differ.
    let mut ada = open(&server, "/", &token(&json!({"exp": now() - 7, "sub": "ada"})));
    let mut bob = open(&server, "/", &token_of("bob"));
    bob.hears("* welcome to lobby, you are bob; /help lists the commands");
    ada.hears("* welcome to lobby, you are ada; /help lists the commands");
    ada.say("in time");
    bob.hears("ada: in time");
    assert_eq!(ada.closed(), (1008, "token expired".into()));
    bob.say("mine is good");
    bob.hears("bob: mine is good");
}

fn echo_and_relay_want_tokens_too(backend: BackendName) {
    for app in [AppName::Echo, AppName::Relay] {
        let server = start(backend, "others", app);
        assert_eq!(answer(&server, "/", "").status, 401);
        let limited = token(&json!({"exp": now() + 60, "rooms": ["a"]}));
        assert_eq!(answer(&server, &format!("/room/b?token={limited}"), "").status, 403);
        let mut client = open(&server, "/room/a", &limited);
        client.say("hello");
        client.hears("hello");
    }
}

fn a_new_secret_holds_for_whoever_comes(backend: BackendName) {
    let base = config(backend, AppName::Echo, 2);
    let server = TestServer::start(&base);
    let mut early = Client::open(server.address(), "/");
    let reload = |config: &Config| server.control().reload(config).expect("it can be");
    reload(&with_secret(base.clone(), "first", SECRET));
    assert_eq!(answer(&server, "/", "").status, 401);
    let mut first = open(&server, "/", &token_of("ada"));
    let other = "another secret for tests, of more than 32 bytes";
    reload(&with_secret(base.clone(), "second", other));
    assert_eq!(answer(&server, &format!("/?token={}", token_of("ada")), "").status, 401);
    let second = signed(&json!({"alg": "HS256"}), &json!({"exp": now() + 60}), other);
    let mut second = open(&server, "/", &second);
    reload(&base);
    let mut late = Client::open(server.address(), "/");
    for client in [&mut early, &mut first, &mut second, &mut late] {
        client.say("still here");
        client.hears("still here");
    }
}

fn a_broken_secret_changes_nothing(backend: BackendName) {
    let name = format!("broken secret {backend:?}");
    let path = settings_file(&name, format!("{SECRET}\n"));
    let flag = format!("--auth-hmac-secret-file={path}");
    let server = Process::start(&["--app=echo", "--log=trace", &flag, backend_arg(backend)]);
    let status = |token: &str| {
        let mut raw = Raw::connect(server.address);
        raw.send(upgrade_request(&format!("/?token={token}")).as_bytes());
        raw.status()
    };
    let old = token_of("ada");
    let new = signed(&json!({"alg": "HS256"}), &json!({"exp": now() + 60}), &"x".repeat(32));
    assert_eq!((status(&old), status(&new)), (Some(101), Some(401)));
    // Without a file of settings the secret is read again all the same.
    settings_file(&name, "too short");
    server.signal(Signal::SIGHUP);
    let said = format!("'{path}' for '--auth-hmac-secret-file <FILE>': its secret has 9 bytes");
    until("the log says what is wrong", || server.log().contains(&said));
    assert!(server.log().contains("nothing changes"));
    assert_eq!((status(&old), status(&new)), (Some(101), Some(401)));
    settings_file(&name, "x".repeat(32));
    server.signal(Signal::SIGHUP);
    until("it is read again", || {
        server.log().contains("another secret in") && server.log().contains("0 changed")
    });
    assert_eq!((status(&old), status(&new)), (Some(401), Some(101)));
    server.signal(Signal::SIGTERM);
    let log = server.ended().log;
    for secret in [SECRET, &old, &new, &"x".repeat(32), "too short"] {
        assert!(!log.contains(secret), "{secret}: {log}");
    }
}

#[test]
fn a_secret_that_is_none_keeps_the_server_from_starting() {
    let short = settings_file("short secret", "hush\n");
    for (path, why) in [
        (&*short, "its secret has 4 bytes"),
        ("/nowhere/secret", "No such file"),
        ("/dev/zero", "more than 4096 bytes"),
    ] {
        for command in ["check", "serve"] {
            let parts = ["--auth-hmac-secret-file", path, why, "at least 32"];
            refuses(&mut uproar(&[command, "--auth-hmac-secret-file", path]), &parts);
        }
    }
}

#[test]
fn check_shows_where_the_secret_is_and_not_what_it_is() {
    let path = settings_file("shown secret", SECRET);
    let printed = output(&mut uproar(&["check", "--auth-hmac-secret-file", &path]));
    let text = String::from_utf8([printed.stdout, printed.stderr].concat()).expect("text");
    assert!(text.contains(&format!("auth-hmac-secret-file = \"{path}\"")), "{text}");
    assert!(!text.contains(SECRET), "{text}");
}
