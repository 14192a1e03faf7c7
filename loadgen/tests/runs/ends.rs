//! Tests that every scenario fails if the server ends a connection that the client wanted to keep.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use nix::libc::linger;
use nix::sys::socket::{setsockopt, sockopt};
use serde_json::Value;
use tungstenite::WebSocket;

use crate::server::loadgen;

/// The way in which the test server ends a connection.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Way {
    /// The server sends a close frame with this code, then FIN.
    Close(u16),
    /// The server sends FIN without a close frame.
    Fin,
    /// The server resets the connection (RST).
    Reset,
    /// The server keeps the connection open but never reads again.
    Silence,
}

/// The time at which the test server ends a connection.
#[derive(Debug, Clone, Copy, PartialEq)]
enum When {
    /// The connection ends right after the handshake's answer. A close frame is sent in the answer's TCP segment.
    AtOnce,
    /// The connection ends after the client has sent bytes.
    AfterInput,
    /// The connection ends 150 ms after the handshake.
    Later,
}

const SCENARIOS: [(&str, &str); 8] = [
    ("echo", "echo -c 4 --duration 400ms --warmup 0"),
    ("echo-open", "echo -c 4 --rate 100 --duration 400ms --warmup 0"),
    ("broadcast", "broadcast -c 4 --rate 50 --duration 400ms --warmup 0"),
    ("storm", "storm -c 4 --duration 400ms --warmup 0"),
    ("idle", "idle -c 4 --duration 400ms --warmup 0"),
    ("idle-speak", "idle -c 4 --speak 1 --duration 400ms --warmup 0"),
    ("connect", "connect -c 4 --duration 400ms --warmup 0"),
    ("reconnect", "reconnect -c 4 --first-delay 10ms --duration 400ms --warmup 0"),
];

fn serve(way: Way, when: When) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let address = listener.local_addr().expect("it is bound");
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || turn_away(stream, way, when));
        }
    });
    address
}

/// Accepts a WebSocket connection and ends it in the given way at the given time.
fn turn_away(stream: TcpStream, way: Way, when: When) {
    let close_frame = |code: u16| [&[0x88, 2][..], &code.to_be_bytes()].concat();
    let bytes = match way {
        Way::Close(code) => close_frame(code),
        _ => Vec::new(),
    };
    let Some(mut stream) = (if when == When::AtOnce {
        // The handshake's answer and the close frame leave in one write.
        answer_with(stream, &bytes)
    } else {
        tungstenite::accept(stream).ok().map(WebSocket::into_inner)
    }) else {
        return;
    };
    match when {
        When::AtOnce => {}
        When::AfterInput => drop(stream.read(&mut [0; 100])),
        When::Later => thread::sleep(Duration::from_millis(150)),
    }
    if when != When::AtOnce {
        let _ = stream.write_all(&bytes);
    }
    match way {
        Way::Reset => {
            let _ = setsockopt(&stream, sockopt::Linger, &linger { l_onoff: 1, l_linger: 0 });
        }
        // Reads the client's last bytes, because unread bytes would turn the FIN into a reset.
        Way::Fin | Way::Close(_) => {
            let _ = stream.shutdown(std::net::Shutdown::Write);
            let _ = std::io::copy(&mut stream, &mut std::io::sink());
        }
        Way::Silence => loop {
            thread::park();
        },
    }
}

/// Answers the handshake and sends `bytes` in the same write. Returns `None` if the client has left.
fn answer_with(mut stream: TcpStream, bytes: &[u8]) -> Option<TcpStream> {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).ok()?;
        request.push(byte[0]);
    }
    let text = String::from_utf8(request).ok()?;
    let key = text.lines().find_map(|line| line.strip_prefix("Sec-WebSocket-Key: "))?;
    let accept = tungstenite::handshake::derive_accept_key(key.as_bytes());
    let head = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {accept}\r\n\r\n"
    );
    stream.write_all(&[head.as_bytes(), bytes].concat()).ok()?;
    Some(stream)
}

/// Runs a scenario against a server that ends connections. Returns the figures of the run, which must fail.
fn fails(way: Way, when: When, name: &str, arguments: &str) -> Value {
    let file = format!("ends-{name}-{way:?}-{when:?}").replace(['(', ')'], "");
    let limits = "--grace 300ms --drain 2s --connect-timeout 1s --threads 1 --quiet";
    let (output, figures) = loadgen(serve(way, when), &file, &format!("{arguments} {limits}"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(1), "{name}, {way:?}, {when:?}: {text}");
    assert_eq!(figures["passed"], false, "{name}, {way:?}, {when:?}");
    figures
}

/// Runs all scenarios at the same time against servers that end connections. Checks that each run fails and reports one
/// of `reasons`.
fn all_fail(way: Way, when: When, reasons: &[&str]) {
    thread::scope(|scope| {
        for (name, arguments) in SCENARIOS {
            scope.spawn(move || {
                let ended = fails(way, when, name, arguments)["connections"]["ended"].to_string();
                let is_named = reasons.iter().any(|reason| ended.contains(reason));
                assert!(is_named, "{name}, {way:?}, {when:?}: {ended}");
            });
        }
    });
}

#[test]
fn a_close_frame_that_the_client_did_not_ask_for_fails_every_scenario() {
    for when in [When::AtOnce, When::Later] {
        all_fail(Way::Close(1013), when, &["closed with code 1013"]);
    }
}

#[test]
fn a_fin_without_a_close_frame_fails_every_scenario() {
    for when in [When::AtOnce, When::Later] {
        all_fail(Way::Fin, when, &["without a close frame"]);
    }
}

#[test]
fn a_reset_fails_every_scenario() {
    for when in [When::AtOnce, When::Later] {
        all_fail(Way::Reset, when, &["the server reset the connection"]);
    }
}

#[test]
fn a_server_that_closes_normally_by_itself_fails_connect() {
    let figures = fails(Way::Close(1000), When::AtOnce, "connect", SCENARIOS[6].1);
    let ended = figures["connections"]["ended"].to_string();
    assert!(ended.contains("closed with code 1000"), "{ended}");
}

#[test]
fn an_end_instead_of_an_answer_to_the_close_frame_fails_connect() {
    for (way, reason) in [
        (Way::Close(1013), "closed with code 1013"),
        (Way::Fin, "without a close frame"),
        (Way::Reset, "reset"),
        (Way::Silence, "did not answer the client's close frame"),
    ] {
        let figures = fails(way, When::AfterInput, "connect", SCENARIOS[6].1);
        let ended = figures["connections"]["ended"].to_string();
        assert!(ended.contains(reason), "{way:?}: {ended}");
    }
}

#[test]
fn a_normal_answer_to_the_close_frame_passes_connect() {
    let address = serve(Way::Close(1000), When::AfterInput);
    let (output, figures) = loadgen(address, "answered", &format!("{} --threads 1 --quiet", SCENARIOS[6].1));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    assert_eq!(figures["connections"]["ended"], serde_json::json!({}));
}
