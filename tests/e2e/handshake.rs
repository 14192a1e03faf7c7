//! Valid and invalid HTTP requests to open a WebSocket.

use uproar::config::AppName;
use uproar::config::BackendName;

use crate::support::raw::{CLOSE, RawClient, Response, TEXT, close_payload, frame, upgrade_request};
use crate::support::{TestServer, config, wait_until};

on_both_backends!(
    invalid_requests_are_refused_with_a_reason,
    the_chat_page_is_served,
    the_refusal_of_a_head_request_has_no_body,
    the_refusal_of_a_method_names_the_allowed_methods,
    the_handshake_returns_the_accept_key,
    a_request_in_single_bytes_is_accepted,
    messages_may_follow_the_request_in_one_packet,
    a_request_costs_a_bounded_number_of_turns,
);

fn send_request(server: &TestServer, request: &[u8]) -> Response {
    let mut raw = RawClient::connect(server.address());
    raw.try_send(request);
    raw.receive_response()
}

/// Returns the valid upgrade request with the part `from` replaced by `to`.
fn request_with(from: &str, to: &str) -> Vec<u8> {
    let good = upgrade_request("/");
    assert!(good.contains(from));
    good.replace(from, to).into_bytes()
}

fn invalid_requests_are_refused_with_a_reason(backend: BackendName) {
    const KEY: &str = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    const VERSION: &str = "Sec-WebSocket-Version: 13\r\n";
    let server = TestServer::echo(backend);
    let rows: Vec<(&str, u16, Vec<u8>)> = vec![
        ("not HTTP", 400, b"\x16\x03\x01 hello\r\n\r\n".to_vec()),
        ("another version of HTTP", 400, request_with("HTTP/1.1", "HTTP/3.0")),
        ("HTTP/1.0", 400, request_with("HTTP/1.1", "HTTP/1.0")),
        ("no Host header", 400, request_with("Host: localhost\r\n", "")),
        (
            "two Host headers",
            400,
            request_with("Host: localhost\r\n", "Host: localhost\r\nHost: localhost\r\n"),
        ),
        ("a header name with a space", 400, request_with("Host: ", "Host : ")),
        ("a target without a slash", 400, request_with("GET / ", "GET room ")),
        ("no Connection header", 400, request_with("Connection: Upgrade\r\n", "")),
        ("another token in Connection", 400, request_with("Connection: Upgrade", "Connection: Upgraded")),
        ("no key", 400, request_with(KEY, "")),
        ("two keys", 400, request_with(KEY, &KEY.repeat(2))),
        ("a key of 15 bytes", 400, request_with("dGhlIHNhbXBsZSBub25jZQ==", "dGhlIHNhbXBsZSBub25j")),
        (
            "a key that is not base64",
            400,
            request_with("dGhlIHNhbXBsZSBub25jZQ==", "dGhlIHNhbXBsZSBub25jZ!=="),
        ),
        ("an invalid Content-Length", 400, request_with(KEY, "Content-Length: x\r\n")),
        ("a room without a name", 400, upgrade_request("/room/").into_bytes()),
        ("a room with a slash", 400, upgrade_request("/room/a%2Fb").into_bytes()),
        ("a room that is not UTF-8", 400, upgrade_request("/room/%ff").into_bytes()),
        ("an unknown path", 404, upgrade_request("/nowhere").into_bytes()),
        ("POST", 405, request_with("GET /", "POST /")),
        ("a body", 413, request_with(KEY, "Content-Length: 5\r\n")),
        ("a chunked body", 413, request_with(KEY, "Transfer-Encoding: chunked\r\n")),
        ("a long target", 414, upgrade_request(&format!("/{}", "x".repeat(17_000))).into_bytes()),
        ("no version", 426, request_with(VERSION, "")),
        ("version 8", 426, request_with("Version: 13", "Version: 8")),
        ("two versions", 426, request_with(VERSION, &VERSION.repeat(2))),
        ("no upgrade", 426, request_with("Upgrade: websocket\r\n", "")),
        ("another upgrade", 426, request_with("Upgrade: websocket", "Upgrade: h2c")),
        (
            "65 header lines",
            431,
            request_with("Host: localhost\r\n", &format!("Host: localhost\r\n{}", "X: y\r\n".repeat(60))),
        ),
        (
            "a long head",
            431,
            request_with("Host: localhost\r\n", &format!("Host: localhost\r\nX: {}\r\n", "y".repeat(17_000))),
        ),
    ];
    for (what, status, request) in rows {
        let response = send_request(&server, &request);
        assert_eq!(response.status, status, "{what}: {response:?}");
        let Response { head, body, .. } = &response;
        // Requests for another status are valid, so the connection is kept.
        let is_kept = what.ends_with("upgrade");
        assert_eq!(!head.contains("\r\nConnection: close\r\n"), is_kept, "{what}: {head}");
        assert!(head.contains(&format!("\r\nContent-Length: {}\r\n", body.len())), "{what}: {head}");
        assert!(body.len() > 20 && body.ends_with(".\n"), "{what}: {body:?} is not a sentence");
        match status {
            405 => assert!(head.contains("\r\nAllow: GET\r\n"), "{head}"),
            426 => assert!(head.contains("\r\nSec-WebSocket-Version: 13\r\n"), "{head}"),
            _ => {}
        }
    }
    assert_eq!(server.totals().opened, 0);
}

fn the_chat_page_is_served(backend: BackendName) {
    let server = TestServer::start(&config(backend, AppName::Chat, 1));
    for path in ["/", "/room/garden", "/?x=1"] {
        let response =
            send_request(&server, format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes());
        assert_eq!(response.status, 200, "{path}");
        assert!(response.head.contains("\r\nContent-Security-Policy: default-src 'none'; "), "{path}");
        assert!(response.body.contains("<title>"), "{path}");
        assert!(
            response.head.contains(&format!("\r\nContent-Length: {}\r\n", response.body.len())),
            "{path}"
        );
    }
    let head_only = send_request(&server, b"HEAD / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    assert_eq!((head_only.status, head_only.body.as_str()), (200, ""));
}

// A response to HEAD has no body. RFC 9110 §9.3.2
fn the_refusal_of_a_head_request_has_no_body(backend: BackendName) {
    let server = TestServer::echo(backend);
    for (path, status) in [("/nowhere", 404), ("/room/a%2Fb", 400), ("/", 426)] {
        let [get, head] = ["GET", "HEAD"].map(|method| {
            let fields = "Host: localhost\r\nConnection: close\r\n";
            send_request(&server, format!("{method} {path} HTTP/1.1\r\n{fields}\r\n").as_bytes())
        });
        assert_eq!((get.status, head.status), (status, status), "{path}");
        assert_eq!(get.head, head.head, "{path}");
        assert!(!get.body.is_empty() && head.body.is_empty(), "{path}: {:?}", head.body);
    }
}

// A response with status 405 lists the allowed methods. RFC 9110 §15.5.6
fn the_refusal_of_a_method_names_the_allowed_methods(backend: BackendName) {
    let server = TestServer::start(&config(backend, AppName::Chat, 1));
    let response = send_request(&server, b"DELETE /room/garden HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert_eq!(response.status, 405);
    assert!(response.head.contains("\r\nAllow: GET, HEAD\r\n"), "{}", response.head);
}

// Key and accept key are the example in RFC 6455 §1.3.
fn the_handshake_returns_the_accept_key(backend: BackendName) {
    let server = TestServer::echo(backend);
    let mut raw = RawClient::connect(server.address());
    raw.send(upgrade_request("/room/caf%C3%A9?token=1").as_bytes());
    raw.half_close();
    let response = raw.receive_response();
    assert_eq!(response.status, 101);
    assert!(
        response.head.contains("\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"),
        "{response:?}"
    );
}

fn a_request_in_single_bytes_is_accepted(backend: BackendName) {
    let server = TestServer::echo(backend);
    let mut raw = RawClient::connect(server.address());
    for byte in upgrade_request("/").bytes() {
        raw.send(&[byte]);
    }
    raw.expect_upgrade();
    for byte in frame(TEXT, "grüße".as_bytes()) {
        raw.send(&[byte]);
    }
    assert_eq!(raw.receive_frame(), (TEXT, "grüße".into()));
}

fn messages_may_follow_the_request_in_one_packet(backend: BackendName) {
    let server = TestServer::echo(backend);
    let mut raw = RawClient::connect(server.address());
    let close = frame(CLOSE, &close_payload(1000, "done"));
    raw.send(&[upgrade_request("/").as_bytes(), &frame(TEXT, b"one"), &frame(TEXT, b"two"), &close].concat());
    raw.expect_upgrade();
    assert_eq!(raw.receive_frame(), (TEXT, b"one".to_vec()));
    assert_eq!(raw.receive_frame(), (TEXT, b"two".to_vec()));
    assert_eq!(raw.receive_close(), (1000, String::new()));
    raw.expect_end();
}

fn a_request_costs_a_bounded_number_of_turns(backend: BackendName) {
    const REQUESTS: u64 = 50;
    let server = TestServer::echo(backend);
    for _ in 0..REQUESTS {
        assert_eq!(send_request(&server, b"GET /nowhere HTTP/1.1\r\nHost: localhost\r\n\r\n").status, 404);
    }
    wait_until("all connections are released", || server.connections().0 == 0);
    let turns = server.totals().turns;
    assert!(turns < 20 * REQUESTS, "{turns} turns");
}
