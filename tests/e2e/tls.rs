//! TLS listeners, next to plain listeners and with both TLS versions.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use nix::sys::signal::Signal;
use tungstenite::protocol::CloseFrame;
use tungstenite::protocol::frame::coding::CloseCode;
use tungstenite::{Error, Message};
use uproar::config::{AppName, BackendName, Config};

use crate::support::chat_user::ChatUser;
use crate::support::client::Client;
use crate::support::metrics::Metrics;
use crate::support::process::{Process, backend_arg, settings_file, uproar};
use crate::support::raw::{RawClient, frame, upgrade_request};
use crate::support::tls::{Identity, TlsClient, VERSIONS, arg, connect, https_request};
use crate::support::{TIMEOUT, TestServer, config, send_until_closed, wait_until};

on_both_backends!(
    clients_with_and_without_tls_share_a_room,
    large_messages_are_echoed,
    many_messages_arrive_in_order,
    a_flood_of_one_byte_records_is_echoed_and_delays_no_other_client,
    the_page_is_served_completely,
    client_and_server_send_close_notify,
    a_client_that_ends_without_close_notify_is_released,
    a_plain_http_request_is_told_that_the_port_speaks_tls,
    other_protocols_get_an_alert_and_are_counted,
    a_client_that_keeps_sending_another_protocol_is_reset,
    a_refused_client_is_told_over_tls,
    a_tls_handshake_has_a_deadline,
    a_client_that_half_closes_before_its_refusal_is_released_at_once,
    sessions_are_resumed_on_any_worker,
    a_proxy_header_comes_before_the_tls_handshake,
    a_server_that_shuts_down_sends_close_frames_over_tls,
);

fn clients_with_and_without_tls_share_a_room(backend: BackendName) {
    let identity = Identity::new();
    let server = TestServer::start(&identity.with_tls_listener(config(backend, AppName::Relay, 2)));
    let plain = server.endpoints()[1].tcp().expect("a TCP listener");
    let mut other = Client::open(plain, "/");
    let mut secure = Vec::new();
    for version in VERSIONS.repeat(4) {
        let mut client = TlsClient::connect(server.address(), "/", &identity.client_config(&[version]));
        client.send_text("over TLS");
        other.expect_text("over TLS");
        client.expect_text("over TLS");
        secure.push(client);
    }
    other.send_text("in plain");
    for client in &mut secure {
        while client.receive() != Message::text("in plain") {}
    }
}

fn large_messages_are_echoed(backend: BackendName) {
    let identity = Identity::new();
    let server = TestServer::start(&identity.with_tls_listener(config(backend, AppName::Echo, 1)));
    for version in VERSIONS {
        let mut client = TlsClient::connect(server.address(), "/", &identity.client_config(&[version]));
        for len in [0, 1, 125, 16_384, 65_536, 300_000, 1 << 20] {
            let bytes: Vec<u8> = (0..len).map(|at: usize| (at ^ (at >> 8)) as u8).collect();
            client.send(Message::binary(bytes.clone()));
            assert!(client.receive() == Message::binary(bytes), "{len} bytes came back changed");
        }
    }
}

fn many_messages_arrive_in_order(backend: BackendName) {
    let identity = Identity::new();
    let server = TestServer::start(&identity.with_tls_listener(config(backend, AppName::Relay, 2)));
    let client = identity.client_config(&VERSIONS);
    let mut clients: Vec<_> = (0..20).map(|_| TlsClient::connect(server.address(), "/", &client)).collect();
    // A client that receives its own message is a member of the room.
    for (number, client) in clients.iter_mut().enumerate() {
        client.send_text(&format!("here {number}"));
        while client.receive() != Message::text(format!("here {number}")) {}
    }
    for number in 0..500 {
        clients[0]
            .socket
            .write(Message::text(format!("{number} {}", "x".repeat(number))))
            .expect("the message can be buffered");
    }
    clients[0].socket.flush().expect("the server reads");
    for client in &mut clients {
        for number in 0..500 {
            let text = format!("{number} {}", "x".repeat(number));
            let mut next = client.receive();
            while next.to_text().is_ok_and(|text| text.starts_with("here")) {
                next = client.receive();
            }
            assert_eq!(next, Message::text(text));
        }
    }
}

fn a_flood_of_one_byte_records_is_echoed_and_delays_no_other_client(backend: BackendName) {
    const MESSAGES: usize = 2_000;
    let identity = Identity::new();
    let server = TestServer::start(&identity.with_tls_listener(config(backend, AppName::Echo, 1)));
    for version in VERSIONS {
        let client = identity.client_config(&[version]);
        let mut other = TlsClient::connect(server.address(), "/", &client);
        let mut flood = TlsClient::connect(server.address(), "/", &client);
        let stream = flood.socket.get_mut();
        let mut records = Vec::new();
        for number in 0..MESSAGES {
            for byte in frame(0x81, format!("message {number}").as_bytes()) {
                stream.conn.writer().write_all(&[byte]).expect("to memory");
                stream.conn.write_tls(&mut records).expect("to memory");
            }
        }
        let mut socket = stream.sock.try_clone().expect("cloned");
        let sender = std::thread::spawn(move || socket.write_all(&records).expect("the server reads"));
        for number in 0..MESSAGES {
            if number % 100 == 0 {
                other.send_text("meanwhile");
                other.expect_text("meanwhile");
            }
            flood.expect_text(&format!("message {number}"));
        }
        sender.join().expect("the server reads everything");
    }
}

fn the_page_is_served_completely(backend: BackendName) {
    let identity = Identity::new();
    let server = TestServer::start(&identity.with_tls_listener(config(backend, AppName::Chat, 1)));
    for version in VERSIONS {
        let stream = connect(server.address(), &identity.client_config(&[version]));
        let page = https_request(stream, "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        assert!(page.starts_with("HTTP/1.1 200 OK\r\n") && page.ends_with("</html>\n"), "{page}");
    }
}

/// TLS ends with close_notify after the WebSocket closing handshake, whichever side starts the handshake.
fn client_and_server_send_close_notify(backend: BackendName) {
    let identity = Identity::new();
    let base = Config { max_message: 10, ..config(backend, AppName::Echo, 1) };
    let server = TestServer::start(&identity.with_tls_listener(base));
    for (version, client_closes) in
        VERSIONS.into_iter().flat_map(|version| [(version, true), (version, false)])
    {
        let mut client = TlsClient::connect(server.address(), "/", &identity.client_config(&[version]));
        if client_closes {
            let frame = CloseFrame { code: CloseCode::Normal, reason: "bye".into() };
            client.socket.close(Some(frame)).expect("the server reads");
        } else {
            client.send_text("longer than ten bytes");
        }
        let error = std::iter::repeat_with(|| client.socket.read()).find_map(Result::err);
        assert!(matches!(error, Some(Error::ConnectionClosed)), "{error:?}");
        let end = client.socket.get_mut().read(&mut [0]).expect("close_notify before the end of the stream");
        assert_eq!(end, 0);
    }
}

fn a_client_that_ends_without_close_notify_is_released(backend: BackendName) {
    let identity = Identity::new();
    let server = TestServer::start(&identity.with_tls_listener(config(backend, AppName::Echo, 1)));
    let client = identity.client_config(&VERSIONS);
    let mut open = TlsClient::connect(server.address(), "/", &client);
    open.send_text("hello");
    open.expect_text("hello");
    open.socket.get_mut().sock.shutdown(Shutdown::Write).expect("a connected socket");
    // Two clients leave during the TLS handshake: after half of the client hello, and after all of it.
    let mut stream = connect(server.address(), &client);
    let mut hello = Vec::new();
    stream.conn.write_tls(&mut hello).expect("to memory");
    stream.sock.write_all(&hello[..hello.len() / 2]).expect("the server reads");
    drop(stream);
    let mut stream = connect(server.address(), &client);
    stream.conn.write_tls(&mut stream.sock).expect("the server reads");
    drop(stream);
    wait_until("all connections are released", || server.connections().0 == 0);
}

fn a_plain_http_request_is_told_that_the_port_speaks_tls(backend: BackendName) {
    let identity = Identity::new();
    let server = TestServer::start(&identity.with_tls_listener(config(backend, AppName::Chat, 1)));
    for text in ["GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", &upgrade_request("/"), "HEAD"] {
        let mut raw = RawClient::connect(server.address());
        raw.send(text.as_bytes());
        let response = raw.receive_response();
        assert_eq!(response.status, 400);
        assert!(response.body.contains("https://") && response.body.contains("wss://"), "{response:?}");
    }
}

fn other_protocols_get_an_alert_and_are_counted(backend: BackendName) {
    let identity = Identity::new();
    let base =
        Config { admin: Some("127.0.0.1:0".parse().expect("valid")), ..config(backend, AppName::Echo, 1) };
    let server = TestServer::start(&identity.with_tls_listener(base));
    for garbage in
        [&b"\x00\x00\x00\x00\x00\x00"[..], b"ssh-2.0\r\n", b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00"]
    {
        let mut stream = TcpStream::connect(server.address()).expect("the server accepts the connection");
        stream.set_read_timeout(Some(TIMEOUT)).expect("a TCP socket");
        stream.write_all(garbage).expect("the server reads");
        let mut alert = Vec::new();
        stream.read_to_end(&mut alert).expect("an alert and the end of the stream");
        // A TLS alert record: type 21, two bytes of content, level 2 (fatal). RFC 8446 §6
        assert!(alert.len() == 7 && alert[0] == 21 && alert[5] == 2, "{alert:?}");
    }
    let mut raw = RawClient::connect(server.address());
    raw.send(b"GET / HTTP/1.1\r\n\r\n");
    assert_eq!(raw.receive_response().status, 400);
    let mut client = TlsClient::connect(server.address(), "/", &identity.client_config(&VERSIONS));
    client.send_text("hello");
    client.expect_text("hello");
    let metrics = Metrics::fetch(server.admin_address().expect("an admin listener"));
    assert_eq!(metrics.sum("uproar_refused_total", &[("reason", "tls")]), 3.0);
    assert_eq!(metrics.sum("uproar_refused_total", &[("reason", "no_tls")]), 1.0);
    assert_eq!(metrics.sum("uproar_tls_handshakes_total", &[]), 1.0);
}

fn a_client_that_keeps_sending_another_protocol_is_reset(backend: BackendName) {
    let identity = Identity::new();
    let base = Config { close_seconds: 100 * TIMEOUT, ..config(backend, AppName::Echo, 1) };
    let server = TestServer::start(&identity.with_tls_listener(base));
    let sent =
        send_until_closed(TcpStream::connect(server.address()).expect("the server accepts the connection"));
    assert!(sent < 128 << 20, "not reset after {sent} bytes");
}

fn a_refused_client_is_told_over_tls(backend: BackendName) {
    let identity = Identity::new();
    let base = Config { max_connections: 1, ..config(backend, AppName::Echo, 1) };
    let server = TestServer::start(&identity.with_tls_listener(base));
    let client = identity.client_config(&VERSIONS);
    let mut inside = TlsClient::connect(server.address(), "/", &client);
    let answer =
        https_request(connect(server.address(), &client), "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    // A plain HTTP request to the TLS listener is refused in plain text. A silent connection is closed.
    let mut raw = RawClient::connect(server.address());
    raw.send(b"GET / HTTP/1.1\r\n\r\n");
    assert_eq!(raw.receive_response().status, 503);
    let silent = TcpStream::connect(server.address()).expect("the server accepts the connection");
    wait_until("all connections but one are released", || server.connections().0 == 1);
    inside.send_text("still here");
    inside.expect_text("still here");
    drop(silent);
}

fn a_tls_handshake_has_a_deadline(backend: BackendName) {
    let identity = Identity::new();
    let short = Duration::from_millis(50);
    let base = Config { handshake_seconds: short, close_seconds: short, ..config(backend, AppName::Echo, 1) };
    let server = TestServer::start(&identity.with_tls_listener(base));
    let client = identity.client_config(&VERSIONS);
    let silent = connect(server.address(), &client);
    let mut halfway = connect(server.address(), &client);
    halfway.conn.write_tls(&mut halfway.sock).expect("the server reads");
    // A client that has finished the TLS handshake gets an HTTP response.
    let mut idle = connect(server.address(), &client);
    let mut answer = String::new();
    idle.read_to_string(&mut answer).expect("text in UTF-8 and close_notify");
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    wait_until("all connections are released", || server.connections().0 == 0);
    drop((silent, halfway));
}

fn a_client_that_half_closes_before_its_refusal_is_released_at_once(backend: BackendName) {
    let identity = Identity::new();
    let base = Config {
        admin: Some("127.0.0.1:0".parse().expect("valid")),
        handshake_seconds: Duration::from_millis(20),
        close_seconds: 100 * TIMEOUT,
        ..config(backend, AppName::Echo, 1)
    };
    let server = TestServer::start(&identity.with_tls_listener(base));
    let client = identity.client_config(&VERSIONS);
    let silent = connect(server.address(), &client);
    let mut halfway = connect(server.address(), &client);
    halfway.conn.write_tls(&mut halfway.sock).expect("the server reads");
    let mut other_protocol = TcpStream::connect(server.address()).expect("the server accepts the connection");
    let metrics = || Metrics::fetch(server.admin_address().expect("an admin listener"));
    wait_until("all three are refused", || {
        metrics().sum("uproar_refused_total", &[("reason", "timeout")]) == 3.0
    });
    assert_eq!(server.connections().0, 3);
    other_protocol.write_all(b"\0\x01\x02\x03\x04\x05").expect("the server reads");
    for stream in [&silent.sock, &halfway.sock] {
        stream.shutdown(Shutdown::Write).expect("a connected socket");
    }
    wait_until("all connections are released", || server.connections().0 == 0);
}

fn sessions_are_resumed_on_any_worker(backend: BackendName) {
    let identity = Identity::new();
    let server = TestServer::start(&identity.with_tls_listener(config(backend, AppName::Echo, 2)));
    for version in VERSIONS {
        let config = identity.client_config(&[version]);
        for round in 0..20 {
            let mut client = TlsClient::connect(server.address(), "/", &config);
            client.send_text("hello");
            client.expect_text("hello");
            assert_eq!(client.is_resumed(), round > 0, "round {round}");
        }
    }
}

/// A proxy that passes TLS through sends its PROXY header before the TLS handshake.
fn a_proxy_header_comes_before_the_tls_handshake(backend: BackendName) {
    let identity = Identity::new();
    let server = TestServer::start(&identity.with_tls_listener(Config {
        trusted_proxies: vec!["127.0.0.1".parse().expect("a network")],
        proxy_protocol: true,
        max_connections_per_ip: 1,
        ..config(backend, AppName::Echo, 1)
    }));
    let client = identity.client_config(&VERSIONS);
    let header = |last: u8| format!("PROXY TCP4 192.0.2.{last} 192.0.2.100 40000 8443\r\n");
    let through = |last: u8| {
        let mut stream = connect(server.address(), &client);
        stream.sock.write_all(header(last).as_bytes()).expect("the server reads");
        stream
    };
    let mut clients = [1, 2].map(|last| TlsClient::upgrade(through(last), "/"));
    for client in &mut clients {
        client.send_text("hello");
        client.expect_text("hello");
    }
    assert_eq!(server.connections(), (2, 2));
    let answer = https_request(through(2), &upgrade_request("/"));
    assert!(answer.starts_with("HTTP/1.1 429 "), "{answer}");
    // The PROXY header and the client hello arrive in one packet.
    let mut stream = connect(server.address(), &client);
    let mut first = header(3).into_bytes();
    stream.conn.write_tls(&mut first).expect("to memory");
    stream.sock.write_all(&first).expect("the server reads");
    let mut third = TlsClient::upgrade(stream, "/");
    third.send_text("hello");
    third.expect_text("hello");
    // Without a PROXY header there is no TLS handshake, so the refusal is plain text.
    let mut headless = connect(server.address(), &client);
    let mut hello = Vec::new();
    headless.conn.write_tls(&mut hello).expect("to memory");
    let mut raw = RawClient::connect(server.address());
    raw.send(&hello);
    assert_eq!(raw.receive_response().status, 400);
}

/// Starts an echo server with a plain and a TLS listener, without a settings file.
pub(crate) fn start(backend: BackendName, identity: &Identity) -> Process {
    let (cert, key) = (identity.cert(), identity.key());
    let listen = ["--listen=127.0.0.1:0", "--listen=tls:127.0.0.1:0", "--app=echo", "--workers=1"];
    let files = ["--tls-cert", arg(&cert), "--tls-key", arg(&key), backend_arg(backend)];
    Process::run(&mut uproar(&[&listen[..], &files].concat()))
}

fn a_server_that_shuts_down_sends_close_frames_over_tls(backend: BackendName) {
    let identity = Identity::new();
    let server = start(backend, &identity);
    let mut client = TlsClient::connect(server.tls_address(), "/", &identity.client_config(&VERSIONS));
    let mut other = TlsClient::connect(server.tls_address(), "/", &identity.client_config(&VERSIONS));
    other.send_text("hello");
    other.expect_text("hello");
    server.signal(Signal::SIGTERM);
    assert_eq!(client.wait_for_close().0, 1001);
    assert_eq!(other.wait_for_close().0, 1001);
    assert_eq!(server.wait().code, Some(0));
}

#[test]
fn a_settings_file_configures_tls() {
    let identity = Identity::new();
    let text = format!(
        "listen = [\"127.0.0.1:0\", \"tls:127.0.0.1:0\"]\ntls-cert = {:?}\ntls-key = {:?}\nworkers = 1\n",
        identity.cert(),
        identity.key()
    );
    let path = settings_file("tls", text);
    let server = Process::run(&mut uproar(&["--config", &path]));
    let mut ada =
        TlsClient::connect(server.tls_address(), "/room/garden", &identity.client_config(&VERSIONS));
    assert!(ada.receive().to_text().expect("text").contains("welcome to garden"));
    let mut bob = ChatUser::join(server.address, "garden");
    bob.send_text("hello");
    while !ada.receive().to_text().expect("text").ends_with(": hello") {}
}
