//! Tests of the rules for HTTP requests, each with its section of the RFC.

use super::response::Form;
use super::*;

const UPGRADE: [&str; 5] = [
    "Host: server.example.com",
    "Upgrade: websocket",
    "Connection: Upgrade",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Version: 13",
];

fn head(request_line: &str, headers: &[&str]) -> Vec<u8> {
    let lines = headers.iter().map(|line| format!("{line}\r\n"));
    format!("{request_line}\r\n{}\r\n", lines.collect::<String>()).into_bytes()
}

/// Passes the event of a request head to `judge` and returns the result. Checks that the head in single bytes gives an
/// equal result.
#[track_caller]
fn judge<T>(head: &[u8], judge: impl Fn(ProtocolEvent<'_>) -> T) -> T {
    let limits = MessageLimits::default();
    let whole = feed(&mut Protocol::new(), head, &limits);
    assert_eq!(feed_bytewise(&mut Protocol::new(), head, &limits), whole, "one byte at a time");
    let mut read = head.to_vec();
    judge(Protocol::new().next(&mut &mut read[..], &mut Reader::new(limits)).expect("a complete head"))
}

/// Returns the status of the response to a request: that of a refusal, 101 for an upgrade, or 200 for plain HTTP.
#[track_caller]
fn status(request_line: &str, headers: &[&str]) -> u16 {
    judge(&head(request_line, headers), |event| match event {
        ProtocolEvent::Request(Request { upgrade: Some(_), .. }) => 101,
        ProtocolEvent::Request(_) => 200,
        ProtocolEvent::Refused(refusal) => refusal.status.code(),
        other => panic!("{other:?}"),
    })
}

/// Returns the status of the response to a valid upgrade request in which the lines `new` replace the line `old`.
#[track_caller]
fn upgrade_with(old: &str, new: &[&str]) -> u16 {
    let kept = UPGRADE.iter().filter(|line| !line.starts_with(old)).copied();
    status("GET / HTTP/1.1", &kept.chain(new.iter().copied()).collect::<Vec<_>>())
}

// RFC 6455 §1.3: the example key and its accept key.
#[test]
fn the_accept_key_of_the_rfc() {
    let accept = judge(HANDSHAKE, |event| match event {
        ProtocolEvent::Request(request) => request.upgrade,
        _ => None,
    });
    let accept = accept.expect("an upgrade");
    assert_eq!(accept.as_str(), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    let mut out = Vec::new();
    response::switching_protocols(&accept, None, None, &mut out);
    let expected = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
        Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
    assert_eq!(String::from_utf8_lossy(&out), expected);
}

#[test]
fn a_request_has_its_method_target_and_headers() {
    let lines = ["host: a.example:80", "X-One:  1 ", "x-one: 2", "X-Bad: \u{e9}\u{e9}"];
    let mut bytes = head("POST /room/caf%C3%A9?a=1?b HTTP/1.1", &lines);
    // A header value in Latin-1 is allowed but not returned as text.
    bytes.retain(|&byte| byte != 0xc3);
    judge(&bytes, |event| {
        let ProtocolEvent::Request(request) = event else { panic!("{event:?}") };
        assert_eq!((request.method, request.path), ("POST", "/room/caf%C3%A9"));
        assert_eq!(request.query, Some("a=1?b"));
        assert_eq!(request.host, Some("a.example:80"));
        assert_eq!(request.header("X-ONE"), Some("1"));
        assert_eq!(request.header("X-Bad"), None);
        assert_eq!(request.header("X-Two"), None);
        assert_eq!(request.upgrade, None);
        assert!(!request.is_head());
    });
}

// RFC 9112 §3.2: the forms of a request target.
#[test]
fn targets_are_split_into_host_path_and_query() {
    let target = |target: &str| {
        judge(&head(&format!("GET {target} HTTP/1.1"), &["Host: x"]), |event| match event {
            ProtocolEvent::Request(request) => {
                let part = |text: Option<&str>| text.unwrap_or("-").to_owned();
                format!("{} {} {}", part(request.host), request.path, part(request.query))
            }
            ProtocolEvent::Refused(refusal) => refusal.status.to_string(),
            other => panic!("{other:?}"),
        })
    };
    assert_eq!(target("/"), "x / -");
    assert_eq!(target("/a?"), "x /a ");
    assert_eq!(target("*"), "x * -");
    // RFC 9112 §3.2.2: the authority of the request target counts, not the field Host.
    assert_eq!(target("http://y:1/a?b"), "y:1 /a b");
    assert_eq!(target("WSS://y"), "y / -");
    assert_eq!(target("http://y?b"), "400 Bad Request");
    for wrong in ["a", "ftp://y/", "y:443", "?a"] {
        assert_eq!(target(wrong), "400 Bad Request", "{wrong}");
    }
}

// RFC 9112 §2.2: a server ignores empty lines before a request.
#[test]
fn empty_lines_before_a_request_are_ignored() {
    assert_eq!(status("\r\n\r\nGET / HTTP/1.1", &UPGRADE), 101);
}

#[test]
fn what_is_not_http_is_refused() {
    for line in
        ["", "GET", "GET /", "GET / HTTP/2.0", "GET / FTP/1.1", "GET /a b HTTP/1.1", "G\u{1}T / HTTP/1.1"]
    {
        assert_eq!(status(line, &UPGRADE), 400, "{line}");
    }
    for line in ["no colon", "name : value", ": value", "a: \u{1}", " folded: line", "a: b\rc", "a: b\nc: d"]
    {
        assert_eq!(status("GET / HTTP/1.1", &["Host: x", line]), 400, "{line}");
    }
    // A TLS client on a port without TLS is refused at its first bytes.
    let seen = feed(&mut Protocol::new(), b"\x16\x03\x01\x02\x00", &MessageLimits::default());
    assert_eq!(seen, [Seen::Refused(Status::BadRequest)]);
}

// RFC 9112 §3.2: a request of HTTP/1.1 has exactly one Host field.
#[test]
fn a_request_has_exactly_one_host() {
    assert_eq!(status("GET / HTTP/1.1", &["Host: x"]), 200);
    assert_eq!(status("GET / HTTP/1.1", &["Host:"]), 200);
    assert_eq!(status("GET / HTTP/1.1", &[]), 400);
    assert_eq!(status("GET / HTTP/1.1", &["Host: x", "hOST: x"]), 400);
    assert_eq!(status("GET / HTTP/1.1", &["Host: x y"]), 400);
    assert_eq!(status("GET / HTTP/1.1", &["Host: \u{e9}"]), 400);
    assert_eq!(status("GET / HTTP/1.0", &[]), 200);
    assert_eq!(status("GET / HTTP/1.0", &["Host: x", "Host: y"]), 400);
}

// The bytes after a handshake are frames, so a handshake has no content.
#[test]
fn a_handshake_has_no_content() {
    assert_eq!(upgrade_with("-", &["Content-Length: 0"]), 101);
    assert_eq!(upgrade_with("-", &["Content-Length: 1"]), 413);
    assert_eq!(upgrade_with("-", &["Content-Length: -1"]), 400);
    assert_eq!(upgrade_with("-", &["Content-Length:"]), 400);
    assert_eq!(upgrade_with("-", &["Transfer-Encoding: chunked"]), 413);
}

// RFC 6455 §4.2.1, item 1: a handshake is a GET request of HTTP/1.1.
#[test]
fn an_upgrade_is_a_get_of_http_1_1() {
    assert_eq!(status("GET / HTTP/1.1", &UPGRADE), 101);
    assert_eq!(status("GET / HTTP/1.0", &UPGRADE), 400);
    assert_eq!(status("POST / HTTP/1.1", &UPGRADE), 405);
    assert_eq!(status("get / HTTP/1.1", &UPGRADE), 405);
}

// RFC 6455 §4.2.1, item 3: the field Upgrade of a handshake.
#[test]
fn the_upgrade_field_lists_websocket() {
    assert_eq!(upgrade_with("Upgrade", &["upgrade: WebSocket"]), 101);
    assert_eq!(upgrade_with("Upgrade", &["Upgrade: h2c ,\twebsocket"]), 101);
    assert_eq!(upgrade_with("Upgrade", &["Upgrade: h2c", "Upgrade: websocket"]), 101);
    // RFC 9110 §7.8: a server may ignore an upgrade to another protocol.
    assert_eq!(upgrade_with("Upgrade", &["Upgrade: h2c"]), 200);
    assert_eq!(upgrade_with("Upgrade", &["Upgrade: websockets"]), 200);
    assert_eq!(upgrade_with("Upgrade", &[]), 200);
}

// RFC 6455 §4.2.1, item 4: the field Connection of a handshake.
#[test]
fn the_connection_field_lists_upgrade() {
    assert_eq!(upgrade_with("Connection", &["Connection: keep-alive, upgrade"]), 101);
    assert_eq!(upgrade_with("Connection", &["Connection: keep-alive", "Connection: UPGRADE"]), 101);
    assert_eq!(upgrade_with("Connection", &["Connection: keep-alive"]), 400);
    assert_eq!(upgrade_with("Connection", &[]), 400);
}

// RFC 6455 §4.2.1, item 5: the key of a handshake.
#[test]
fn the_key_is_16_bytes_once() {
    let key = |values: &[&str]| {
        let lines: Vec<String> = values.iter().map(|value| format!("Sec-WebSocket-Key: {value}")).collect();
        upgrade_with("Sec-WebSocket-Key", &lines.iter().map(String::as_str).collect::<Vec<_>>())
    };
    assert_eq!(key(&["  x3JJHMbDL1EzLkh9GBhXDw==  "]), 101);
    // RFC 6455 §4.1: the example key has bits beyond its last byte, so such bits are ignored.
    assert_eq!(key(&["AQIDBAUGBwgJCgsMDQ4PEC=="]), 101);
    assert_eq!(key(&[]), 400);
    assert_eq!(key(&["x3JJHMbDL1EzLkh9GBhXDw==", "x3JJHMbDL1EzLkh9GBhXDw=="]), 400);
    for wrong in ["", "x3JJHMbDL1EzLkh9GBhXDw", "x3JJHMbDL1EzLkh9GBhX", "AQIDBAUGBwgJCgsMDQ4PEBE=", "???"] {
        assert_eq!(key(&[wrong]), 400, "{wrong}");
    }
    assert_eq!(key(&["A".repeat(1000).as_str()]), 400);
}

// RFC 6455 §4.2.1, item 6, and §4.2.2: the protocol version of a handshake.
#[test]
fn the_version_is_13() {
    for lines in [&["Sec-WebSocket-Version: 8"][..], &["Sec-WebSocket-Version: 013"], &[]] {
        assert_eq!(upgrade_with("Sec-WebSocket-Version", lines), 426, "{lines:?}");
    }
    assert_eq!(upgrade_with("-", &["Sec-WebSocket-Version: 13"]), 426, "twice");
}

#[test]
fn the_number_of_header_lines_is_limited() {
    let lines: Vec<String> = (1..=MAX_HEADERS).map(|n| format!("X-{n}: {n}")).collect();
    let mut lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    lines[0] = "Host: x";
    assert_eq!(status("GET / HTTP/1.1", &lines), 200);
    lines.push("One: more");
    assert_eq!(status("GET / HTTP/1.1", &lines), 431);
}

#[test]
fn a_head_has_at_most_16_kib() {
    let filled = |len: usize| {
        let empty = head("GET / HTTP/1.1", &["Host: x", "X: "]).len();
        head("GET / HTTP/1.1", &["Host: x", &format!("X: {}", "a".repeat(len - empty))])
    };
    let limits = MessageLimits::default();
    for (len, expected) in [(MAX_HEAD_LEN, None), (MAX_HEAD_LEN + 1, Some(Status::HeaderFieldsTooLarge))] {
        let bytes = filled(len);
        assert_eq!(bytes.len(), len);
        for cuts in [&[][..], &[1], &[100, 5000], &[MAX_HEAD_LEN - 1], &[MAX_HEAD_LEN]] {
            let seen = feed_cut(&mut Protocol::new(), &bytes, cuts, &limits);
            match (&seen[..], expected) {
                ([Seen::Request(..)], None) => {}
                ([Seen::Refused(status)], Some(expected)) => assert_eq!(*status, expected),
                _ => panic!("{len} bytes cut at {cuts:?}: {seen:?}"),
            }
        }
    }
    let long_target = format!("GET /{}", "a".repeat(MAX_HEAD_LEN));
    let seen = feed(&mut Protocol::new(), long_target.as_bytes(), &limits);
    assert_eq!(seen, [Seen::Refused(Status::UriTooLong)]);
}

#[test]
fn frames_may_follow_the_handshake_in_the_same_read() {
    let stream = [HANDSHAKE, &Frame::new(1, "early").encode()].concat();
    let seen = feed(&mut Protocol::new(), &stream, &MessageLimits::default());
    assert_eq!(seen[1..], [Seen::Message(Kind::Text, b"early".to_vec())]);
}

fn response_to(refusal: Refusal) -> String {
    let mut out = Vec::new();
    refusal.respond(&mut out);
    String::from_utf8(out).expect("ASCII")
}

#[test]
fn a_refusal_has_its_reason_and_the_header_fields_of_its_status() {
    let expected = "HTTP/1.1 404 Not Found\r\nConnection: close\r\nContent-Type: text/plain; charset=utf-8\r\n\
        Content-Length: 15\r\n\r\nNothing there.\n";
    assert_eq!(response_to(Refusal::new(Status::NotFound, "Nothing there.")), expected);
    // RFC 9110 §15.5.6: a 405 response lists the allowed methods.
    assert!(response_to(Refusal::new(Status::MethodNotAllowed, "")).contains("\r\nAllow: GET\r\n"));
    // RFC 6455 §4.4, RFC 9110 §15.5.22: a 426 response names the protocol version.
    let upgrade_required = response_to(Refusal::new(Status::UpgradeRequired, ""));
    assert!(upgrade_required.contains("\r\nSec-WebSocket-Version: 13\r\n"));
    assert!(upgrade_required.contains("\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"));
}

// RFC 9110 §9.3.2: the response to a HEAD request has no body.
#[test]
fn the_response_to_a_head_request_has_a_length_but_no_body() {
    let mut out = b"before ".to_vec();
    response::respond(Status::Ok, &[("ETag", "\"1\"")], "text/html", b"<p>", Form::last(true), &mut out);
    let expected = "before HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: text/html\r\n\
        Content-Length: 3\r\nETag: \"1\"\r\n\r\n";
    assert_eq!(String::from_utf8_lossy(&out), expected);
}

// RFC 3986 §3.2.2: a host is ASCII. Found by fuzzing.
#[test]
fn the_host_of_a_target_in_absolute_form_must_be_ascii_like_the_host_field() {
    assert_eq!(status("GET ws://example/ HTTP/1.1", &["Host: a"]), 200);
    assert_eq!(status("GET ws://ex\u{71a}mple/ HTTP/1.1", &["Host: a"]), 400);
}
