//! Access tokens: which tokens are valid, and the name, rooms and lifetime that a token gives a connection.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use nix::sys::signal::Signal;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair};
use serde_json::{Value, json};
use uproar::config::{AppName, BackendName, Config, Jwks, Secret};

use crate::support::client::Client;
use crate::support::metrics::Metrics;
use crate::support::process::{
    Process, backend_arg, expect_start_failure, run_to_end, settings_file, uproar,
};
use crate::support::raw::{RawClient, Response, frame, upgrade_request};
use crate::support::token::{SECRET, now, signed, token, token_for};
use crate::support::{TestServer, config, wait_until};

on_both_backends!(
    each_refused_token_gets_a_reason_and_is_counted,
    a_token_is_taken_from_the_query_or_the_header,
    pages_need_no_token,
    the_rooms_of_a_token_limit_the_upgrade_and_join,
    a_user_has_the_name_in_the_token,
    two_connections_of_a_user_share_the_name,
    what_cannot_be_an_identity_is_refused_before_the_upgrade,
    users_of_one_name_are_told_apart,
    messages_wait_until_the_name_is_granted,
    a_token_without_a_name_gives_a_default_name,
    a_connection_is_closed_when_its_token_expires,
    echo_and_relay_require_tokens_too,
    keys_of_an_identity_provider_verify_tokens,
    new_keys_apply_after_sighup,
    issuer_and_audience_must_match,
    publish_limits_who_may_speak,
    a_renewed_token_keeps_a_chat_connection_open,
    a_relay_client_renews_its_token_if_it_asked_to,
    a_token_in_a_message_is_never_logged,
    a_new_secret_applies_to_new_connections,
    an_invalid_secret_changes_nothing,
    a_byte_order_mark_is_not_part_of_the_secret,
);

/// Returns settings of a server that requires tokens signed with `secret`.
pub(crate) fn with_secret(base: Config, name: &str, secret: &str) -> Config {
    let name = format!("{name} {:?} {:?}", base.backend, base.app);
    let path = settings_file(&name, secret);
    let secret = Secret::read(path.as_ref()).expect("it is long enough");
    Config { auth_hmac_secret_file: Some(secret), ..base }
}

fn start(backend: BackendName, name: &str, app: AppName) -> TestServer {
    TestServer::start(&with_secret(config(backend, app, 2), name, SECRET))
}

/// Opens a WebSocket with an access token in the query string.
fn open(server: &TestServer, path: &str, token: &str) -> Client {
    Client::open(server.address(), &format!("{path}?token={token}"))
}

/// Sends an upgrade request with additional header lines. Returns the HTTP response.
fn answer(server: &TestServer, path: &str, headers: &str) -> Response {
    let mut raw = RawClient::connect(server.address());
    raw.send(upgrade_request(path).replacen("\r\n\r\n", &format!("\r\n{headers}\r\n"), 1).as_bytes());
    raw.receive_response()
}

fn each_refused_token_gets_a_reason_and_is_counted(backend: BackendName) {
    let base = Config { admin: Some(([127, 0, 0, 1], 0).into()), ..config(backend, AppName::Chat, 1) };
    let server = TestServer::start(&with_secret(base, "refusals", SECRET));
    let (later, header) = (now() + 3600, json!({"alg": "HS256"}));
    let cases = [
        ("..".into(), 401, "token_malformed", "not a valid JWT"),
        ("abc".into(), 401, "token_malformed", "not a valid JWT"),
        (token(&json!({"sub": "ada"})), 401, "token_malformed", "exp"),
        (token(&json!({"exp": later, "sub": 7})), 401, "token_malformed", "sub and name strings"),
        (token(&json!({"exp": later, "aud": "x"})), 401, "token_malformed", "--auth-audience"),
        (signed(&json!({"alg": "HS512"}), &json!({"exp": later}), SECRET), 401, "token_malformed", "HS256"),
        (signed(&json!({"alg": "none"}), &json!({"exp": later}), SECRET), 401, "token_malformed", "HS256"),
        (
            signed(&json!({"alg": "RS256"}), &json!({"exp": later}), SECRET),
            401,
            "token_malformed",
            "--auth-jwks",
        ),
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
    check(answer(&server, "/", "Authorization: Basic YTpi\r\n"), 401, "requires a token");
    let twice = format!("/?token={}", token_for("ada"));
    check(
        answer(&server, &twice, &format!("Authorization: Bearer {}\r\n", token_for("ada"))),
        401,
        "one token",
    );
    for (token, status, reason, part) in cases {
        check(answer(&server, "/room/garden", &format!("Authorization: Bearer {token}\r\n")), status, part);
        *counts.entry(reason).or_default() += 1;
    }
    let metrics = Metrics::fetch(server.admin_address().expect("it has one"));
    for (reason, count) in counts {
        let refused = metrics.sum("uproar_refused_total", &[("reason", reason)]);
        assert_eq!(refused, f64::from(count), "{reason}");
    }
    assert_eq!(server.totals().opened, 0);
}

fn a_token_is_taken_from_the_query_or_the_header(backend: BackendName) {
    let server = start(backend, "places", AppName::Chat);
    let welcome = "* welcome to lobby, you are ada; /help lists the commands";
    open(&server, "/", &token_for("ada")).expect_text(welcome);
    let query = format!("/?a=b&token={}&c", token_for("ada").replace('.', "%2E"));
    Client::open(server.address(), &query).expect_text(welcome);
    for scheme in ["Bearer", "bearer"] {
        let mut raw = RawClient::connect(server.address());
        let header = format!("\r\nAuthorization: {scheme} {}\r\n\r\n", token_for("ada"));
        raw.send(upgrade_request("/").replacen("\r\n\r\n", &header, 1).as_bytes());
        raw.expect_upgrade();
        assert_eq!(raw.receive_frame().1, welcome.as_bytes());
    }
}

fn pages_need_no_token(backend: BackendName) {
    let server = start(backend, "pages", AppName::Chat);
    for path in ["/", "/room/garden", "/?token=bad"] {
        let mut raw = RawClient::connect(server.address());
        raw.send(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes());
        assert_eq!(raw.receive_response().status, 200, "{path}");
    }
}

fn the_rooms_of_a_token_limit_the_upgrade_and_join(backend: BackendName) {
    let server = start(backend, "rooms", AppName::Chat);
    let limited = token(&json!({"exp": now() + 60, "sub": "ada", "rooms": ["garden", "cafe\u{301} noir"]}));
    assert_eq!(answer(&server, &format!("/?token={limited}"), "").status, 403);
    // Composed and decomposed Unicode forms name the same room.
    for path in ["/room/caf%C3%A9%20noir", "/room/cafe%CC%81%20noir"] {
        open(&server, path, &limited)
            .expect_text("* welcome to café noir, you are ada; /help lists the commands");
    }
    let mut ada = open(&server, "/room/garden", &limited);
    ada.expect_text("* welcome to garden, you are ada; /help lists the commands");
    ada.send_text("/join lawn");
    ada.expect_text("* your token does not allow the room lawn");
    ada.send_text("still in the garden");
    ada.expect_text("ada: still in the garden");
    ada.send_text("/join café noir");
    ada.expect_text("* you are in café noir");
    let none: Value = json!({"exp": now() + 60, "rooms": []});
    assert_eq!(answer(&server, &format!("/room/garden?token={}", token(&none)), "").status, 403);
}

fn a_user_has_the_name_in_the_token(backend: BackendName) {
    let server = start(backend, "name", AppName::Chat);
    let mut ada = open(&server, "/", &token_for("Ada"));
    ada.expect_text("* welcome to lobby, you are Ada; /help lists the commands");
    ada.send_text("/nick bob");
    ada.expect_text("* names come from tokens here; yours stays as it is");
    // The client sends at once, before the application instance that keeps names has granted its name.
    ada.send_text("hello");
    ada.expect_text("Ada: hello");
    ada.send_text("/who");
    ada.expect_text("* in lobby (1): Ada");
}

fn two_connections_of_a_user_share_the_name(backend: BackendName) {
    let server = start(backend, "twice", AppName::Chat);
    let enter = |user| {
        let mut client = open(&server, "/", &token_for(user));
        client.expect_text(&format!("* welcome to lobby, you are {user}; /help lists the commands"));
        client
    };
    let (mut first, mut second, mut bob) = (enter("ada"), enter("ada"), enter("bob"));
    bob.send_text("/who");
    bob.expect_text("* in lobby (3): ada, ada, bob");
    bob.send_text("/msg ada psst");
    bob.expect_text("* to ada: psst");
    for ada in [&mut first, &mut second] {
        ada.expect_text("* from bob: psst");
    }
    // A private message still reaches the user's second connection after the first has ended.
    drop(first);
    bob.send_text("/msg ada still there?");
    bob.expect_text("* to ada: still there?");
    second.expect_text("* from bob: still there?");
    drop(second);
    wait_until("nobody is called ada", || {
        bob.send_text("/msg ada gone?");
        bob.receive_text() == "* nobody is called ada; /who lists who is here"
    });
}

fn what_cannot_be_an_identity_is_refused_before_the_upgrade(backend: BackendName) {
    let server = start(backend, "no name", AppName::Chat);
    for sub in [String::new(), "x".repeat(256), "a\nb".into()] {
        let response = answer(&server, &format!("/?token={}", token_for(&sub)), "");
        assert_eq!(response.status, 401);
        let text =
            "The token's sub cannot be an identity; use 1 to 255 characters without control characters.";
        assert!(response.body.contains(text), "{}", response.body);
    }
    let welcome = |name: &str| format!("* welcome to lobby, you are {name}; /help lists the commands");
    let long = "x".repeat(255);
    for (sub, name) in
        [("123e4567-e89b-12d3-a456-426614174000", "123e4567-e89b-12d3-a456-42661417"), (&long, &long[..32])]
    {
        open(&server, "/", &token_for(sub)).expect_text(&welcome(name));
    }
    let named = |name: &str| token(&json!({"exp": now() + 60, "sub": "auth0|17", "name": name}));
    open(&server, "/", &named("Ada Lovelace")).expect_text(&welcome("Ada_Lovelace"));
    open(&server, "/", &named("*: <,>")).expect_text(&welcome("auth0|17"));
}

fn users_of_one_name_are_told_apart(backend: BackendName) {
    let server = start(backend, "namesakes", AppName::Chat);
    let token = |sub: &str| token(&json!({"exp": now() + 60, "sub": sub, "name": "Ada"}));
    let enter = |sub: &str| {
        let mut client = open(&server, "/", &token(sub));
        let text = client.receive_text();
        let name = text.strip_prefix("* welcome to lobby, you are ").expect("welcome");
        let name = name.strip_suffix("; /help lists the commands").expect("welcome").to_owned();
        (client, name)
    };
    let (mut first, name) = enter("one");
    assert_eq!(name, "Ada");
    // The suffix is the start of SHA-256("two").
    let (mut second, name) = enter("two");
    assert_eq!(name, "Ada#3fc4");
    let (mut twin, name) = enter("two");
    assert_eq!(name, "Ada#3fc4");
    first.send_text("/msg Ada#3fc4 psst");
    first.expect_text("* to Ada#3fc4: psst");
    second.expect_text("* from Ada: psst");
    twin.expect_text("* from Ada: psst");
    second.send_text("hello");
    first.expect_text("Ada#3fc4: hello");
    let (_third, name) = enter("three");
    assert_eq!(name, "Ada#8b5b");
    drop(first);
    wait_until("the connection is closed", || server.connections().0 == 3);
}

/// Returns a pair of an ES256 key and its entry in a key set.
pub(crate) fn es256_key(id: &str) -> (EcdsaKeyPair, Value) {
    let random = SystemRandom::new();
    let key = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).expect("a key");
    let key =
        EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, key.as_ref(), &random).expect("a key");
    let point = key.public_key().as_ref();
    let [x, y] = [&point[1..33], &point[33..]].map(|number| URL_SAFE_NO_PAD.encode(number));
    (key, json!({"kty": "EC", "crv": "P-256", "kid": id, "alg": "ES256", "use": "sig", "x": x, "y": y}))
}

/// Returns a token with this header and these claims, signed with a key of the curve P-256.
pub(crate) fn es256_signed(header: &Value, claims: &Value, key: &EcdsaKeyPair) -> String {
    let text = [header, claims].map(|part| URL_SAFE_NO_PAD.encode(part.to_string())).join(".");
    let signature = key.sign(&SystemRandom::new(), text.as_bytes()).expect("signed");
    format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature))
}

fn keys_of_an_identity_provider_verify_tokens(backend: BackendName) {
    let (first, second) = (es256_key("a"), es256_key("b"));
    let ed = Ed25519KeyPair::from_pkcs8(
        Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).expect("a key").as_ref(),
    );
    let ed = ed.expect("a key");
    let x = URL_SAFE_NO_PAD.encode(ed.public_key());
    let ed_entry = json!({"kty": "OKP", "crv": "Ed25519", "kid": "c", "x": x});
    let set = json!({"keys": [first.1, second.1, ed_entry]}).to_string();
    let path = settings_file(&format!("keys {backend:?}"), set);
    let keys = Some(Jwks::read(path.as_ref()).expect("usable"));
    let base = with_secret(config(backend, AppName::Chat, 2), "with keys", SECRET);
    let server = TestServer::start(&Config { auth_jwks: keys, ..base });
    let claims = json!({"exp": now() + 60, "sub": "ada"});
    let welcome = "* welcome to lobby, you are ada; /help lists the commands";
    let of_b = |header: Value| es256_signed(&header, &claims, &second.0);
    open(&server, "/", &of_b(json!({"alg": "ES256", "kid": "b"}))).expect_text(welcome);
    let text = [json!({"alg": "EdDSA"}), claims.clone()].map(|part| URL_SAFE_NO_PAD.encode(part.to_string()));
    let text = text.join(".");
    let signature = URL_SAFE_NO_PAD.encode(ed.sign(text.as_bytes()));
    open(&server, "/", &format!("{text}.{signature}")).expect_text(welcome);
    // The secret is valid beside the keys.
    open(&server, "/", &token_for("ada")).expect_text(welcome);
    for (token, part) in [
        (of_b(json!({"alg": "ES256", "kid": "a"})), "signature does not match"),
        (of_b(json!({"alg": "ES256", "kid": "c"})), "no key for this token"),
        (of_b(json!({"alg": "ES256", "kid": "x"})), "no key for this token"),
        (of_b(json!({"alg": "ES256"})), "several keys"),
        (of_b(json!({"alg": "RS256"})), "no key for this token"),
        (signed(&json!({"alg": "HS256", "kid": "c"}), &claims, &x), "signature does not match"),
    ] {
        let response = answer(&server, &format!("/?token={token}"), "");
        assert_eq!(response.status, 401);
        assert!(response.body.contains(part), "{part}: {}", response.body);
    }
}

fn new_keys_apply_after_sighup(backend: BackendName) {
    let (old, new) = (es256_key("old"), es256_key("new"));
    let name = format!("rotated keys {backend:?}");
    let write = |entry: &Value| settings_file(&name, json!({"keys": [entry]}).to_string());
    let path = write(&old.1);
    let server = Process::start(&["--app=echo", &format!("--auth-jwks={path}"), backend_arg(backend)]);
    let status = |key: &EcdsaKeyPair| {
        let token = es256_signed(&json!({"alg": "ES256"}), &json!({"exp": now() + 60}), key);
        let mut raw = RawClient::connect(server.address);
        raw.send(upgrade_request(&format!("/?token={token}")).as_bytes());
        raw.receive_status()
    };
    assert_eq!((status(&old.0), status(&new.0)), (Some(101), Some(401)));
    settings_file(&name, "{}");
    server.signal(Signal::SIGHUP);
    wait_until("the log says what is wrong", || server.log().contains("it is no JSON Web Key Set"));
    assert_eq!((status(&old.0), status(&new.0)), (Some(101), Some(401)));
    write(&new.1);
    server.signal(Signal::SIGHUP);
    wait_until("the keys are reloaded", || server.log().contains("auth-jwks: new keys in"));
    assert_eq!((status(&old.0), status(&new.0)), (Some(401), Some(101)));
}

#[test]
fn unusable_key_sets_and_claims_without_keys_prevent_the_start() {
    let weak =
        json!({"keys": [{"kty": "RSA", "kid": "old", "n": URL_SAFE_NO_PAD.encode([255; 128]), "e": "AQAB"}]});
    let weak = settings_file("weak keys", weak.to_string());
    for (arguments, part) in [
        (
            ["check", "--auth-jwks", &*weak],
            "the key \"old\" has 1024 bits; use an RSA key of 2048 to 8192 bits",
        ),
        (["check", "--auth-jwks", "http://login.example/jwks"], "use https://"),
        (["check", "--auth-jwks", "https:///jwks"], "like https://example.org"),
        (["check", "--auth-issuer", "x"], "--auth-issuer is set, but nothing verifies tokens"),
        (["check", "--auth-audience", "x"], "--auth-audience is set, but nothing verifies tokens"),
    ] {
        expect_start_failure(&mut uproar(&arguments), &[part]);
    }
}

fn issuer_and_audience_must_match(backend: BackendName) {
    let base = with_secret(config(backend, AppName::Echo, 1), "audience", SECRET);
    let (auth_issuer, auth_audience) = (Some("https://id".into()), vec!["chat".into(), "api".into()]);
    let server = TestServer::start(&Config { auth_issuer, auth_audience, ..base });
    for (issuer, audience, status, part) in [
        ("https://id", json!("api"), 101, ""),
        ("https://id", json!(["x", "chat"]), 101, ""),
        ("https://id", json!("x"), 401, "its claim aud names none of the server's --auth-audience"),
        ("https://id", json!(null), 401, "its claim aud names none of the server's --auth-audience"),
        ("https://it", json!("api"), 401, "its claim iss differs from the server's --auth-issuer"),
    ] {
        let token = token(&json!({"exp": now() + 60, "iss": issuer, "aud": audience}));
        if status == 101 {
            open(&server, "/", &token).send_text("x");
            continue;
        }
        let response = answer(&server, &format!("/?token={token}"), "");
        assert_eq!(response.status, status);
        assert!(response.body.contains(part), "{}", response.body);
    }
}

/// Returns claims that expire in a few seconds, clock tolerance included.
fn soon(sub: &str) -> Value {
    json!({"exp": now() - 7, "sub": sub})
}

fn a_renewed_token_keeps_a_chat_connection_open(backend: BackendName) {
    let server = start(backend, "renewal", AppName::Chat);
    let mut ada = open(&server, "/room/garden", &token(&soon("ada")));
    let mut twin = open(&server, "/room/garden", &token(&soon("ada")));
    ada.expect_text("* welcome to garden, you are ada; /help lists the commands");
    twin.expect_text("* welcome to garden, you are ada; /help lists the commands");
    for (bad, text) in [
        (token_for("bob"), "The new token is another user's: its claim sub differs from the old token's."),
        (token(&json!({"exp": 1, "sub": "ada"})), "The token has expired (exp); get a new one."),
    ] {
        ada.send_text(&format!("/token {bad}"));
        ada.expect_text(&format!("* {text}"));
    }
    let renewed = token(
        &json!({"exp": now() + 3600, "sub": "ada", "rooms": ["garden", "lawn"], "publish": ["garden"]}),
    );
    ada.send_text("/help");
    assert!(ada.receive_text().ends_with("; /token TOKEN: replace your token before it expires"));
    ada.send_text(&format!("/token {renewed}"));
    ada.expect_text("* your token is renewed");
    // The twin's token has the expiry of the old token.
    assert_eq!(twin.wait_for_close(), (1008, "token expired".into()));
    ada.send_text("still here");
    ada.expect_text("ada: still here");
    ada.send_text("/join lobby");
    ada.expect_text("* your token does not allow the room lobby");
    ada.send_text(&format!(
        "/token {}",
        token(&json!({"exp": now() + 3600, "sub": "ada", "rooms": ["lawn"]}))
    ));
    ada.expect_text(
        "* your token is renewed and does not allow garden, which you have left; /join another room",
    );
    ada.send_text("/join lawn");
    ada.expect_text("* you are in lawn");
    // A shorter token ends the connection earlier.
    ada.send_text(&format!("/token {}", token(&json!({"exp": now() - 9, "sub": "ada"}))));
    assert_eq!(ada.wait_for_close(), (1008, "token expired".into()));
}

fn a_relay_client_renews_its_token_if_it_asked_to(backend: BackendName) {
    let server = start(backend, "relay renewal", AppName::Relay);
    let connect =
        |claims: &Value| Client::open(server.address(), &format!("/room/a?renew=1&token={}", token(claims)));
    let mut other = open(&server, "/room/a", &token_for("other"));
    let mut ada = connect(&soon("ada"));
    let mut twin = connect(&soon("ada"));
    ada.send_text(&format!("/token {}", token_for("ada")));
    assert_eq!(twin.wait_for_close(), (1008, "token expired".into()));
    ada.send_text("still here");
    other.expect_text("still here");
    // Without `?renew=1` the text is a message like any other.
    other.send_text("/token x");
    other.expect_text("/token x");
    for (new, reason) in [
        (token_for("bob"), "The new token is another user's: its claim sub differs from the old token's."),
        (
            token(&json!({"exp": now() + 60, "sub": "ada", "rooms": ["b"]})),
            "the new token does not allow this room",
        ),
    ] {
        let mut ada = connect(&json!({"exp": now() + 60, "sub": "ada"}));
        ada.send_text(&format!("/token {new}"));
        assert_eq!(ada.wait_for_close(), (1008, reason.into()));
    }
    other.send_text("end");
    other.expect_text("end");
}

fn a_token_in_a_message_is_never_logged(backend: BackendName) {
    let secret = settings_file(&format!("logged tokens {backend:?}"), SECRET);
    let flag = format!("--auth-hmac-secret-file={secret}");
    let first = token_for("ada");
    let right = token(&json!({"exp": now() + 1_800, "sub": "ada"}));
    let wrong = [
        token(&json!({"exp": now() + 900, "sub": "bob"})),
        token(&json!({"exp": 1, "sub": "ada"})),
        signed(&json!({"alg": "HS256"}), &json!({"exp": now() + 60, "sub": "ada"}), &"x".repeat(32)),
        "not.a.token".into(),
    ];
    for (app, query) in [("chat", ""), ("relay", "&renew=1")] {
        let app = format!("--app={app}");
        let server = Process::start(&[&app, "--log=trace", &flag, backend_arg(backend)]);
        let connect = || Client::open(server.address, &format!("/room/a?token={first}{query}"));
        for wrong in &wrong {
            let mut client = connect();
            client.send_text(&format!("/token {right}"));
            client.send_text(&format!("/token {wrong}"));
            client.send_text(&format!("/Token {wrong}"));
            match &*app {
                "--app=chat" => {
                    while client.receive_text() != "* unknown command /Token; /help lists the commands" {}
                }
                _ => assert_eq!(client.wait_for_close().0, 1008),
            }
        }
        server.signal(Signal::SIGTERM);
        let log = server.wait().log;
        assert!(log.contains("connection ended") && log.contains("room/a"), "{log}");
        for token in wrong.iter().chain([&first, &right]) {
            // All valid tokens have the same header, which is no secret.
            let (_, secret) = token.split_once('.').expect("a header");
            for part in secret.split('.').filter(|part| part.len() > 10).chain([&**token]) {
                assert!(!log.contains(part), "{part} of {token}: {log}");
            }
        }
    }
}

fn publish_limits_who_may_speak(backend: BackendName) {
    let limited = |rooms: Value| {
        token(&json!({"exp": now() + 60, "sub": "ada", "rooms": ["team-*"], "publish": rooms}))
    };
    let server = start(backend, "publish", AppName::Chat);
    assert_eq!(answer(&server, &format!("/room/else?token={}", limited(json!([]))), "").status, 403);
    let mut ada = open(&server, "/room/team-a", &limited(json!(["team-b*"])));
    ada.expect_text("* welcome to team-a, you are ada; /help lists the commands");
    ada.send_text("hello");
    ada.expect_text("* your token does not allow you to speak in team-a; your message was dropped");
    ada.send_text("/msg ada note to self");
    ada.expect_text("* from ada: note to self");
    ada.expect_text("* to ada: note to self");
    ada.send_text("/join team-bc");
    ada.expect_text("* you are in team-bc");
    ada.send_text("hello");
    ada.expect_text("ada: hello");
    let server = start(backend, "publish", AppName::Relay);
    let mut bob = open(&server, "/room/team-a", &limited(json!(["team-a"])));
    let mut ada = open(&server, "/room/team-a", &limited(json!([])));
    bob.send_text("first");
    bob.expect_text("first");
    ada.send_text("forbidden");
    assert_eq!(ada.wait_for_close(), (1008, "the token does not allow publishing here".into()));
    bob.send_text("second");
    bob.expect_text("second");
}

fn messages_wait_until_the_name_is_granted(backend: BackendName) {
    let server = start(backend, "early", AppName::Chat);
    let mut ada = open(&server, "/", &token_for("ada"));
    ada.expect_text("* welcome to lobby, you are ada; /help lists the commands");
    // Sends messages together with the upgrade request. Some connections are on the worker that keeps names, others on
    // the second worker.
    let say_at_once = |user: &str| {
        let mut raw = RawClient::connect(server.address());
        let request = upgrade_request(&format!("/?token={}", token_for(user)));
        let texts = ["one", "/who", "two"].map(|text| frame(0x81, text.as_bytes())).concat();
        raw.send(&[request.as_bytes(), &texts].concat());
        raw.expect_upgrade();
        raw
    };
    // The second user has the name of the first one in another spelling, and gets a suffix.
    for (user, name) in [("bob", "bob"), ("Ada", "Ada#99a5")].repeat(8) {
        let mut client = say_at_once(user);
        let mut heard = || String::from_utf8(client.receive_frame().1).expect("text");
        assert_eq!(heard(), format!("* welcome to lobby, you are {name}; /help lists the commands"));
        let mut names = ["ada", name];
        names.sort_unstable();
        while heard() != format!("* in lobby (2): {}", names.join(", ")) {}
        for text in ["one", "two"] {
            ada.expect_text(&format!("{name}: {text}"));
        }
        drop(client);
        wait_until("the connection is closed", || server.connections().0 == 1);
    }
    // Messages of a client that closes before its name is granted are delivered.
    for (user, name) in [("carl", "carl"), ("Ada", "Ada#99a5"), ("carl", "carl")] {
        let mut raw = RawClient::connect(server.address());
        let request = upgrade_request(&format!("/?token={}", token_for(user)));
        let frames = [frame(0x81, b"bye"), frame(0x81, b"/who"), frame(0x88, &[])].concat();
        raw.send(&[request.as_bytes(), &frames].concat());
        raw.expect_upgrade();
        wait_until("the connection is closed", || server.connections().0 == 1);
        ada.expect_text(&format!("{name}: bye"));
        ada.send_text("so");
        ada.expect_text("ada: so");
    }
}

fn a_token_without_a_name_gives_a_default_name(backend: BackendName) {
    let server = start(backend, "nameless", AppName::Chat);
    let mut client = open(&server, "/", &token(&json!({"exp": now() + 60})));
    assert!(client.receive_text().starts_with("* welcome to lobby, you are User #"));
    // Without a name in the token, a client could take the name of another user.
    client.send_text("/nick ada");
    client.expect_text("* names come from tokens here; yours stays as it is");
}

fn a_connection_is_closed_when_its_token_expires(backend: BackendName) {
    let server = start(backend, "expiry", AppName::Chat);
    // A token stays valid for ten seconds after its expiry, because clocks differ.
    let mut ada = open(&server, "/", &token(&json!({"exp": now() - 7, "sub": "ada"})));
    let mut bob = open(&server, "/", &token_for("bob"));
    bob.expect_text("* welcome to lobby, you are bob; /help lists the commands");
    ada.expect_text("* welcome to lobby, you are ada; /help lists the commands");
    ada.send_text("in time");
    bob.expect_text("ada: in time");
    assert_eq!(ada.wait_for_close(), (1008, "token expired".into()));
    bob.send_text("mine is good");
    bob.expect_text("bob: mine is good");
}

fn echo_and_relay_require_tokens_too(backend: BackendName) {
    for app in [AppName::Echo, AppName::Relay] {
        let server = start(backend, "others", app);
        assert_eq!(answer(&server, "/", "").status, 401);
        let limited = token(&json!({"exp": now() + 60, "rooms": ["a"]}));
        assert_eq!(answer(&server, &format!("/room/b?token={limited}"), "").status, 403);
        let mut client = open(&server, "/room/a", &limited);
        client.send_text("hello");
        client.expect_text("hello");
    }
}

fn a_new_secret_applies_to_new_connections(backend: BackendName) {
    let base = config(backend, AppName::Echo, 2);
    let server = TestServer::start(&base);
    let mut early = Client::open(server.address(), "/");
    let reload = |config: &Config| server.control().reload(config).expect("valid settings");
    reload(&with_secret(base.clone(), "first", SECRET));
    assert_eq!(answer(&server, "/", "").status, 401);
    let mut first = open(&server, "/", &token_for("ada"));
    let other = "another secret for tests, of more than 32 bytes";
    reload(&with_secret(base.clone(), "second", other));
    assert_eq!(answer(&server, &format!("/?token={}", token_for("ada")), "").status, 401);
    let second = signed(&json!({"alg": "HS256"}), &json!({"exp": now() + 60}), other);
    let mut second = open(&server, "/", &second);
    reload(&base);
    let mut late = Client::open(server.address(), "/");
    for client in [&mut early, &mut first, &mut second, &mut late] {
        client.send_text("still here");
        client.expect_text("still here");
    }
}

fn an_invalid_secret_changes_nothing(backend: BackendName) {
    let name = format!("broken secret {backend:?}");
    let path = settings_file(&name, format!("{SECRET}\n"));
    let flag = format!("--auth-hmac-secret-file={path}");
    let server = Process::start(&["--app=echo", "--log=trace", &flag, backend_arg(backend)]);
    let status = |token: &str| {
        let mut raw = RawClient::connect(server.address);
        raw.send(upgrade_request(&format!("/?token={token}")).as_bytes());
        raw.receive_status()
    };
    let old = token_for("ada");
    let new = signed(&json!({"alg": "HS256"}), &json!({"exp": now() + 60}), &"x".repeat(32));
    assert_eq!((status(&old), status(&new)), (Some(101), Some(401)));
    // SIGHUP reloads the secret also when there is no settings file.
    settings_file(&name, "too short");
    server.signal(Signal::SIGHUP);
    let said = format!("'{path}' for '--auth-hmac-secret-file <FILE>': its secret has 9 bytes");
    wait_until("the log says what is wrong", || server.log().contains(&said));
    assert!(server.log().contains("nothing changes"));
    assert_eq!((status(&old), status(&new)), (Some(101), Some(401)));
    settings_file(&name, "x".repeat(32));
    server.signal(Signal::SIGHUP);
    wait_until("the secret is reloaded", || {
        server.log().contains("auth-hmac-secret-file: new secret in") && server.log().contains(" 1 changed")
    });
    assert_eq!((status(&old), status(&new)), (Some(401), Some(101)));
    server.signal(Signal::SIGTERM);
    let log = server.wait().log;
    for secret in [SECRET, &old, &new, &"x".repeat(32), "too short"] {
        assert!(!log.contains(secret), "{secret}: {log}");
    }
}

#[test]
fn an_invalid_secret_file_prevents_the_start() {
    let short = settings_file("short secret", "hush\n");
    for (path, why) in [
        (&*short, "its secret has 4 bytes; use at least 32 random bytes"),
        ("/nowhere/secret", "no such file; check the path"),
        ("/dev/zero", "more than 4096 bytes; check that this is the right file"),
        ("/", "this is a directory; name the file in it"),
    ] {
        for command in ["check", "serve"] {
            let parts = ["--auth-hmac-secret-file", path, why];
            expect_start_failure(&mut uproar(&[command, "--auth-hmac-secret-file", path]), &parts);
        }
    }
}

fn a_byte_order_mark_is_not_part_of_the_secret(backend: BackendName) {
    for (start, end) in [("\u{feff}", ""), ("\u{feff}", "\r\n"), ("", "\n")] {
        let path = settings_file(&format!("marked secret {backend:?}"), format!("{start}{SECRET}{end}"));
        let flag = format!("--auth-hmac-secret-file={path}");
        let server = Process::start(&["--app=echo", &flag, backend_arg(backend)]);
        let mut raw = RawClient::connect(server.address);
        raw.send(upgrade_request(&format!("/?token={}", token_for("ada"))).as_bytes());
        assert_eq!(raw.receive_status(), Some(101), "{start:?} and {end:?}");
    }
}

#[test]
fn a_secret_in_utf_16_is_refused() {
    let utf16: Vec<u8> =
        "\u{feff}".encode_utf16().chain(SECRET.encode_utf16()).flat_map(u16::to_le_bytes).collect();
    let path = settings_file("wide secret", utf16);
    expect_start_failure(
        &mut uproar(&["check", "--auth-hmac-secret-file", &path]),
        &[&path, "UTF-16", "save it as UTF-8"],
    );
}

#[test]
fn check_prints_the_path_of_the_secret_and_not_the_secret() {
    let path = settings_file("shown secret", SECRET);
    let printed = run_to_end(&mut uproar(&["check", "--auth-hmac-secret-file", &path]));
    let text = String::from_utf8([printed.stdout, printed.stderr].concat()).expect("text");
    assert!(text.contains(&format!("auth-hmac-secret-file = \"{path}\"")), "{text}");
    assert!(!text.contains(SECRET), "{text}");
}
