//! The client's address behind proxies: forwarding headers and the PROXY protocol.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use nix::sys::signal::Signal;
use uproar::config::{AppName, BackendName, Config, Network};

use crate::support::metrics::Metrics;
use crate::support::process::{Process, backend_arg, expect_start_failure, settings_file, uproar};
use crate::support::raw::{RawClient, TEXT, connect_from, frame, upgrade_request, upgrade_request_with};
use crate::support::{TIMEOUT, TestServer, config, send_until_closed, wait_until, with_unix_listener};

on_both_backends!(
    connections_through_a_trusted_proxy_count_for_the_client,
    headers_of_untrusted_peers_are_ignored,
    forwarded_and_x_forwarded_for_are_read_and_must_agree,
    a_client_that_its_proxy_hides_counts_for_no_address,
    a_refused_connection_frees_its_place,
    page_requests_count_for_the_client_too,
    a_reloaded_list_of_proxies_applies_at_once,
    unix_socket_peers_are_trusted,
    a_proxy_header_names_the_client,
    a_proxy_header_may_be_cut_anywhere,
    a_proxy_header_of_the_proxy_itself_counts_for_no_address,
    headers_of_a_client_that_a_proxy_header_hides_are_ignored,
    an_invalid_proxy_header_is_refused,
    a_client_that_keeps_sending_without_a_proxy_header_is_reset,
    a_missing_proxy_header_times_out,
    a_connection_counts_for_its_client_from_the_proxy_header_on,
    untrusted_peers_must_not_send_a_proxy_header,
    headers_after_a_proxy_header_are_trusted_if_its_address_is,
    unix_socket_connections_start_with_a_proxy_header,
    the_counts_are_right_after_random_connections,
    the_log_names_the_client_and_the_metrics_count_refusals,
);

const PROXY: [u8; 4] = [127, 0, 0, 1];
const STRANGER: [u8; 4] = [127, 0, 0, 9];

fn networks(list: &[&str]) -> Vec<Network> {
    list.iter().map(|text| text.parse().expect("a network")).collect()
}

/// Returns settings that trust the proxies 127.0.0.1 and 127.0.0.2 and allow one connection for each client address.
fn trusting(backend: BackendName) -> Config {
    let trusted_proxies = networks(&["127.0.0.1", "127.0.0.2/32"]);
    Config { trusted_proxies, max_connections_per_ip: 1, ..config(backend, AppName::Echo, 2) }
}

fn with_proxy_protocol(backend: BackendName) -> Config {
    Config { proxy_protocol: true, ..trusting(backend) }
}

/// Connects from the address `from`, sends `first`, opens a WebSocket with additional header lines and echoes a
/// message. Returns the HTTP status when the server refuses.
fn open(server: &TestServer, from: [u8; 4], first: &[u8], headers: &[&str]) -> Result<RawClient, u16> {
    let mut raw = RawClient::from_stream(connect_from(IpAddr::from(from), server.address()));
    // One write sends the PROXY header, the upgrade request and a message after it.
    raw.send(&[first, upgrade_request_with("/", headers).as_bytes(), &frame(TEXT, b"hello")].concat());
    raw.upgrade_result()?;
    assert_eq!(raw.receive_frame(), (TEXT, b"hello".to_vec()));
    Ok(raw)
}

/// Returns a version 1 PROXY header that names `source` as the client's address.
fn line(source: &str) -> Vec<u8> {
    format!("PROXY TCP4 {source} 127.0.0.1 40000 80\r\n").into_bytes()
}

/// Returns a version 2 PROXY header, with an additional TLV field after the addresses.
fn binary(command: u8, source: [u8; 4]) -> Vec<u8> {
    let addresses = [source, [127, 0, 0, 1], [156, 64, 0, 80]].concat();
    [b"\r\n\r\n\0\r\nQUIT\n", &[command, 0x11, 0, 16][..], &addresses, &[4, 0, 1, 0]].concat()
}

fn connections_through_a_trusted_proxy_count_for_the_client(backend: BackendName) {
    let server = TestServer::start(&trusting(backend));
    let first = open(&server, PROXY, b"", &["X-Forwarded-For: 1.2.3.4"])
        .expect("the first connection of its address");
    let second = open(&server, PROXY, b"", &["X-Forwarded-For: 6.6.6.6, 1.2.3.5, 127.0.0.2"])
        .expect("the first connection of its address");
    assert_eq!(server.connections(), (2, 2), "the proxy itself is not counted");
    assert_eq!(open(&server, PROXY, b"", &["X-Forwarded-For: 1.2.3.4"]).err(), Some(429));
    assert_eq!(open(&server, [127, 0, 0, 2], b"", &["X-Forwarded-For: 6.6.6.6,1.2.3.5"]).err(), Some(429));
    // A direct connection and one through the proxy count for the same client address.
    let third = open(&server, STRANGER, b"", &[]).expect("the first connection of its address");
    assert_eq!(open(&server, PROXY, b"", &["X-Forwarded-For: 127.0.0.9"]).err(), Some(429));
    drop((first, second, third));
    wait_until("the connections are released", || server.connections() == (0, 0));
    drop(open(&server, PROXY, b"", &["X-Forwarded-For: 1.2.3.4"]).expect("a place is free again"));
}

fn headers_of_untrusted_peers_are_ignored(backend: BackendName) {
    let server = TestServer::start(&trusting(backend));
    let first = open(&server, STRANGER, b"", &["X-Forwarded-For: 1.2.3.4"])
        .expect("the first connection of its address");
    assert_eq!(open(&server, STRANGER, b"", &["X-Forwarded-For: 1.2.3.5"]).err(), Some(429));
    // Contradictory forwarding headers of an untrusted peer are ignored, too.
    let contradiction = ["X-Forwarded-For: 1.2.3.5", "Forwarded: for=1.2.3.6"];
    let other =
        open(&server, [127, 0, 0, 8], b"", &contradiction).expect("the first connection of its address");
    drop(
        open(&server, PROXY, b"", &["X-Forwarded-For: 1.2.3.4"])
            .expect("the first connection of its address"),
    );
    drop((first, other));
}

fn forwarded_and_x_forwarded_for_are_read_and_must_agree(backend: BackendName) {
    let server = TestServer::start(&trusting(backend));
    let first = open(&server, PROXY, b"", &["Forwarded: for=\"1.2.3.4:5678\";proto=https"])
        .expect("the first connection of its address");
    assert_eq!(open(&server, PROXY, b"", &["X-Forwarded-For: 1.2.3.4"]).err(), Some(429));
    let both = ["Forwarded: for=6.6.6.6, for=1.2.3.4", "X-Forwarded-For: 1.2.3.4"];
    assert_eq!(open(&server, PROXY, b"", &both).err(), Some(429));
    // A proxy sets only one of the two headers, so the client may have sent the other one.
    let contradiction = ["Forwarded: for=6.6.6.6", "X-Forwarded-For: 1.2.3.5"];
    assert_eq!(open(&server, PROXY, b"", &contradiction).err(), Some(400));
    drop(first);
}

fn a_client_that_its_proxy_hides_counts_for_no_address(backend: BackendName) {
    let server = TestServer::start(&trusting(backend));
    let hidden = ["Forwarded: for=_hidden", "Forwarded: for=unknown", "X-Forwarded-For: garbage", "X: y"];
    let clients = hidden.map(|header| open(&server, PROXY, b"", &[header]).expect("counted for no address"));
    assert_eq!(server.connections(), (4, 0));
    drop(clients);
}

fn a_refused_connection_frees_its_place(backend: BackendName) {
    let base = trusting(backend);
    let server = TestServer::start(&Config { max_connections: 3, max_handshakes: 2, ..base });
    let first = open(&server, PROXY, b"", &["X-Forwarded-For: 1.2.3.4"])
        .expect("the first connection of its address");
    for _ in 0..20 {
        assert_eq!(open(&server, PROXY, b"", &["X-Forwarded-For: 1.2.3.4"]).err(), Some(429));
    }
    let second = open(&server, PROXY, b"", &["X-Forwarded-For: 1.2.3.5"])
        .expect("the first connection of its address");
    let third = open(&server, PROXY, b"", &["X-Forwarded-For: 1.2.3.6"])
        .expect("the first connection of its address");
    drop((first, second, third));
}

fn page_requests_count_for_the_client_too(backend: BackendName) {
    let base = trusting(backend);
    let server = TestServer::start(&Config { app: AppName::Chat, ..base });
    let send_request = |method: &str| {
        let mut raw = RawClient::connect(server.address());
        let request = format!("{method} / HTTP/1.1\r\nHost: localhost\r\nX-Forwarded-For: 1.2.3.4\r\n\r\n");
        raw.send(request.as_bytes());
        raw.receive_response()
    };
    assert_eq!(send_request("GET").status, 200);
    wait_until("the connection is released", || server.connections().0 == 0);
    let mut client = RawClient::connect(server.address());
    client.send(upgrade_request_with("/", &["X-Forwarded-For: 1.2.3.4"]).as_bytes());
    client.expect_upgrade();
    let (get, head) = (send_request("GET"), send_request("HEAD"));
    assert_eq!((get.status, head.status), (429, 429));
    assert!(get.body.contains("close a connection first") && head.body.is_empty(), "{get:?} {head:?}");
}

fn a_reloaded_list_of_proxies_applies_at_once(backend: BackendName) {
    let base = trusting(backend);
    let server = TestServer::start(&base);
    let first = open(&server, PROXY, b"", &["X-Forwarded-For: 1.2.3.4"])
        .expect("the first connection of its address");
    let strange = Config { trusted_proxies: networks(&["127.0.0.8/29"]), ..base };
    server.control().reload(&strange).expect("the settings are valid");
    assert_eq!(open(&server, STRANGER, b"", &["X-Forwarded-For: 1.2.3.4"]).err(), Some(429));
    let second = open(&server, PROXY, b"", &["X-Forwarded-For: 1.2.3.5"])
        .expect("the first connection of its address");
    assert_eq!(open(&server, PROXY, b"", &["X-Forwarded-For: 1.2.3.6"]).err(), Some(429));
    drop((first, second));
}

/// Sends `first` and an upgrade request over a Unix socket. Returns the connection and the head of the response.
fn upgrade_over_unix_socket(path: &Path, first: &[u8], headers: &[&str]) -> (UnixStream, String) {
    let mut stream = UnixStream::connect(path).expect("connect");
    stream.set_read_timeout(Some(TIMEOUT)).expect("a socket");
    stream
        .write_all(&[first, upgrade_request_with("/", headers).as_bytes()].concat())
        .expect("the server reads");
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).expect("another byte of the head arrives");
        head.extend(byte);
    }
    (stream, String::from_utf8(head).expect("text"))
}

fn unix_socket_peers_are_trusted(backend: BackendName) {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("uproar.sock");
    let base = Config { max_connections_per_ip: 1, ..config(backend, AppName::Echo, 2) };
    let server = TestServer::start(&with_unix_listener(&path, base));
    let (first, head) = upgrade_over_unix_socket(&path, b"", &["X-Forwarded-For: 6.6.6.6, 1.2.3.4"]);
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    assert_eq!(server.connections(), (1, 1));
    let (_, head) = upgrade_over_unix_socket(&path, b"", &["X-Forwarded-For: 1.2.3.4"]);
    assert!(head.starts_with("HTTP/1.1 429"), "{head}");
    // Peers on TCP are not trusted as proxies.
    drop(
        open(&server, PROXY, b"", &["X-Forwarded-For: 1.2.3.4"])
            .expect("the first connection of its address"),
    );
    drop(first);
}

fn a_proxy_header_names_the_client(backend: BackendName) {
    let server = TestServer::start(&with_proxy_protocol(backend));
    let first = open(&server, PROXY, &line("1.2.3.4"), &[]).expect("the first connection of its address");
    assert_eq!(open(&server, PROXY, &line("1.2.3.4"), &[]).err(), Some(429));
    assert_eq!(open(&server, PROXY, &binary(0x21, [1, 2, 3, 4]), &[]).err(), Some(429));
    let second = open(&server, [127, 0, 0, 2], &binary(0x21, [1, 2, 3, 5]), &[])
        .expect("the first connection of its address");
    assert_eq!(server.connections().1, 2);
    let v6 = b"PROXY TCP6 2001:db8::1 ::1 40000 80\r\n";
    let third = open(&server, PROXY, v6, &[]).expect("the first connection of its address");
    let mapped = b"PROXY TCP6 ::ffff:1.2.3.4 ::1 40000 80\r\n";
    assert_eq!(open(&server, PROXY, mapped, &[]).err(), Some(429));
    // The forwarding header is ignored when the PROXY header names a client that is not a trusted proxy.
    assert_eq!(open(&server, PROXY, &line("1.2.3.4"), &["X-Forwarded-For: 1.2.3.9"]).err(), Some(429));
    drop((first, second, third));
}

fn a_proxy_header_may_be_cut_anywhere(backend: BackendName) {
    let server = TestServer::start(&with_proxy_protocol(backend));
    for header in [line("1.2.3.4"), binary(0x21, [1, 2, 3, 4]), binary(0x20, [1, 2, 3, 4])] {
        let mut raw = RawClient::connect(server.address());
        for byte in [&header[..], upgrade_request("/").as_bytes()].concat() {
            raw.send(&[byte]);
        }
        raw.expect_upgrade();
        drop(raw);
        for cut in 1..header.len() {
            wait_until("the last connection is released", || server.connections().0 == 0);
            let before = server.totals().bytes_in;
            let mut raw = RawClient::connect(server.address());
            raw.send(&header[..cut]);
            wait_until("the connection is accepted", || server.connections().0 == 1);
            let request = b"GET /nowhere HTTP/1.1\r\nHost: localhost\r\n\r\n";
            raw.send(&[&header[cut..], request].concat());
            assert_eq!(raw.receive_response().status, 404, "cut at {cut}");
            let bytes_in = server.totals().bytes_in - before;
            assert_eq!(bytes_in, request.len() as u64, "the PROXY header counts as the client's bytes");
        }
        wait_until("the last connection is released", || server.connections().0 == 0);
    }
}

fn a_proxy_header_of_the_proxy_itself_counts_for_no_address(backend: BackendName) {
    let server = TestServer::start(&with_proxy_protocol(backend));
    let own = binary(0x20, [1, 2, 3, 4]);
    let clients = [&own; 3].map(|header| open(&server, PROXY, header, &[]).expect("counted for no address"));
    assert_eq!(server.connections(), (3, 0));
    // On a connection of the proxy itself, forwarding headers are trusted as on a connection without a PROXY header.
    let named = open(&server, PROXY, &own, &["X-Forwarded-For: 1.2.3.4"])
        .expect("the first connection of its address");
    assert_eq!(open(&server, PROXY, &own, &["X-Forwarded-For: 1.2.3.4"]).err(), Some(429));
    drop((clients, named));
}

/// A proxy that hides the client's address in the PROXY header does not read the request. Forwarding headers in the
/// request are the client's own.
fn headers_of_a_client_that_a_proxy_header_hides_are_ignored(backend: BackendName) {
    let server = TestServer::start(&with_proxy_protocol(backend));
    let unspecified = b"\r\n\r\n\0\r\nQUIT\n\x21\0\0\0";
    let path = [b"\r\n\r\n\0\r\nQUIT\n\x21\x31\0\xd8", &[b'/'; 216][..]].concat();
    let hidden = [&b"PROXY UNKNOWN\r\n"[..], b"PROXY UNKNOWN 1.2.3.5 b\r\n", unspecified, &path];
    let lines = ["X-Forwarded-For: 1.2.3.4", "Forwarded: for=1.2.3.6"];
    let clients = hidden.map(|header| open(&server, PROXY, header, &lines).expect("counted for no address"));
    assert_eq!(server.connections(), (4, 0));
    // The next client in a reused slot does not count as hidden.
    drop(clients);
    wait_until("the connections are released", || server.connections().0 == 0);
    let named =
        open(&server, PROXY, &line("127.0.0.2"), &lines[..1]).expect("the first connection of its address");
    assert_eq!(server.connections(), (1, 1));
    drop(named);
}

fn an_invalid_proxy_header_is_refused(backend: BackendName) {
    let server = TestServer::start(&with_proxy_protocol(backend));
    let endless = [b"PROXY UNKNOWN ", &[b'x'; 200][..]].concat();
    let long = [b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff", &[0; 100][..]].concat();
    let request = upgrade_request("/").into_bytes();
    for (at, bytes) in
        [&request[..], b"PROXY TCP4 x\r\n", b"\x16\x03\x01", b"\0", &endless, &long].iter().enumerate()
    {
        let mut raw = RawClient::connect(server.address());
        raw.send(bytes);
        let response = raw.receive_response();
        assert_eq!(response.status, 400, "{response:?}");
        assert!(response.body.contains("PROXY protocol header"), "{response:?}");
        assert_eq!(server.totals().refused, at as u64 + 1, "counted once");
    }
}

fn a_client_that_keeps_sending_without_a_proxy_header_is_reset(backend: BackendName) {
    let base = with_proxy_protocol(backend);
    let server = TestServer::start(&Config { close_seconds: 100 * TIMEOUT, ..base });
    let stream = connect_from(IpAddr::from(PROXY), server.address());
    (&stream).write_all(b"no header").expect("the server reads");
    let sent = send_until_closed(stream);
    assert!(sent < 128 << 20, "not reset after {sent} bytes");
}

fn a_missing_proxy_header_times_out(backend: BackendName) {
    let base = with_proxy_protocol(backend);
    let server = TestServer::start(&Config { handshake_seconds: Duration::from_millis(100), ..base });
    for beginning in [&b""[..], b"P", b"PROXY TCP4 1.2.3.4", b"\r\n\r\n\0\r\nQUIT\n\x21", &line("1.2.3.4")] {
        let mut raw = RawClient::connect(server.address());
        raw.send(beginning);
        assert_eq!(raw.receive_response().status, 408);
    }
    // A stream that ends within a PROXY header closes the connection.
    let mut raw = RawClient::connect(server.address());
    raw.send(b"PROXY TC");
    raw.half_close();
    raw.expect_end();
}

/// A connection counts for its client as soon as the PROXY header has arrived: the client's second connection is
/// refused before it sends a request.
fn a_connection_counts_for_its_client_from_the_proxy_header_on(backend: BackendName) {
    let server = TestServer::start(&with_proxy_protocol(backend));
    let mut first = RawClient::connect(server.address());
    first.send(&line("1.2.3.4"));
    wait_until("the server has read the header", || server.connections() == (1, 1));
    let mut second = RawClient::connect(server.address());
    second.send(&line("1.2.3.4"));
    assert_eq!(second.receive_response().status, 429);
    first.send(upgrade_request("/").as_bytes());
    first.expect_upgrade();
}

fn untrusted_peers_must_not_send_a_proxy_header(backend: BackendName) {
    let server = TestServer::start(&with_proxy_protocol(backend));
    let client = open(&server, STRANGER, b"", &[]).expect("the first connection of its address");
    assert_eq!(open(&server, [127, 0, 0, 8], &line("1.2.3.4"), &[]).err(), Some(400));
    drop(client);
}

fn headers_after_a_proxy_header_are_trusted_if_its_address_is(backend: BackendName) {
    let server = TestServer::start(&with_proxy_protocol(backend));
    // The PROXY header names a second trusted proxy, so the forwarding header is trusted.
    let first = open(&server, PROXY, &line("127.0.0.2"), &["X-Forwarded-For: 1.2.3.4"])
        .expect("the first connection of its address");
    assert_eq!(open(&server, PROXY, &line("127.0.0.2"), &["X-Forwarded-For: 1.2.3.4"]).err(), Some(429));
    let second = open(&server, PROXY, &line("127.0.0.2"), &["X-Forwarded-For: 1.2.3.5"])
        .expect("the first connection of its address");
    // The PROXY header names a client, so the forwarding header is ignored.
    let third = open(&server, PROXY, &line("1.2.3.6"), &["X-Forwarded-For: 1.2.3.7"])
        .expect("the first connection of its address");
    assert_eq!(open(&server, PROXY, &line("1.2.3.6"), &["X-Forwarded-For: 1.2.3.8"]).err(), Some(429));
    assert_eq!(server.connections().1, 3);
    drop((first, second, third));
}

fn unix_socket_connections_start_with_a_proxy_header(backend: BackendName) {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("uproar.sock");
    let base =
        Config { max_connections_per_ip: 1, proxy_protocol: true, ..config(backend, AppName::Echo, 2) };
    let server = TestServer::start(&with_unix_listener(&path, base));
    let (first, head) = upgrade_over_unix_socket(&path, &line("1.2.3.4"), &[]);
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    let (_, head) = upgrade_over_unix_socket(&path, &line("1.2.3.4"), &[]);
    assert!(head.starts_with("HTTP/1.1 429"), "{head}");
    let (_, head) = upgrade_over_unix_socket(&path, b"", &[]);
    assert!(head.starts_with("HTTP/1.1 400"), "{head}");
    drop(open(&server, PROXY, b"", &[]).expect("a proxy header is optional here"));
    drop(first);
}

/// Makes a connection with a PROXY header and a forwarding header. Headers and ending depend on `seed`.
fn connect_at_random(address: SocketAddr, seed: u64) {
    let peers = [PROXY, [127, 0, 0, 2], [127, 0, 0, 1], STRANGER];
    let peer = peers[(seed % 4) as usize];
    let named = format!("127.0.0.{}", seed / 4 % 4 + 1);
    let header = if peer == STRANGER { Vec::new() } else { line(&named) };
    let request = upgrade_request_with("/", &[&format!("X-Forwarded-For: 127.0.0.{}", seed / 16 % 3 + 7)]);
    let all = [&header[..], request.as_bytes(), &frame(TEXT, b"hello")].concat();
    let mut raw = RawClient::from_stream(connect_from(IpAddr::from(peer), address));
    match seed / 48 % 6 {
        0 => raw.abort(),
        1 => raw.try_send(&all[..20]),
        2 => {
            raw.try_send(&all[..header.len()]);
            raw.abort();
        }
        3 => {
            raw.try_send(&all[1..]);
            assert!(matches!(raw.receive_status(), Some(400 | 405 | 429 | 503) | None));
        }
        4 => {
            raw.try_send(&all);
            raw.half_close();
            assert!(matches!(raw.receive_status(), Some(101 | 429 | 503) | None));
        }
        _ => {
            raw.try_send(&all);
            assert!(matches!(raw.receive_status(), Some(101 | 429 | 503) | None));
        }
    }
}

fn the_counts_are_right_after_random_connections(backend: BackendName) {
    let base = with_proxy_protocol(backend);
    let server = TestServer::start(&Config { max_connections: 12, max_handshakes: 6, ..base });
    let address = server.address();
    let threads = (0..4_u64).map(|thread| {
        std::thread::spawn(move || {
            let mut state = thread + 1;
            for _ in 0..100 {
                // Pseudorandom numbers, with the constants of Knuth's MMIX generator.
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                connect_at_random(address, state >> 33);
            }
        })
    });
    for thread in threads.collect::<Vec<_>>() {
        thread.join().expect("every response is an expected one");
    }
    wait_until("the connections are released", || server.connections() == (0, 0));
    // The server accepts its maximum number of connections again, so no connection was counted twice.
    let clients: Vec<_> = (1..=12)
        .map(|last| open(&server, PROXY, &line(&format!("1.2.3.{last}")), &[]).expect("a free place"))
        .collect();
    assert_eq!(server.connections(), (12, 12));
    drop(clients);
}

fn the_log_names_the_client_and_the_metrics_count_refusals(backend: BackendName) {
    let (flags, log) = (["--proxy-protocol", "--trusted-proxies=127.0.0.1"], "--log=uproar=debug");
    let args = ["--app=echo", backend_arg(backend), "--admin=127.0.0.1:0", log];
    let server = Process::start(&[&args[..], &flags].concat());
    let mut raw = RawClient::connect(server.address);
    raw.send(&[line("192.0.2.77"), upgrade_request("/").into_bytes()].concat());
    raw.expect_upgrade();
    wait_until("the log names the client", || server.log().contains("192.0.2.77"));
    let mut raw = RawClient::connect(server.address);
    raw.send(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert_eq!(raw.receive_response().status, 400);
    let mut raw = RawClient::connect(server.address);
    raw.send(
        &[
            line("127.0.0.1"),
            upgrade_request_with("/", &["Forwarded: for=a", "X-Forwarded-For: 1.2.3.4"]).into_bytes(),
        ]
        .concat(),
    );
    assert_eq!(raw.receive_response().status, 400);
    let metrics = Metrics::fetch(server.admin_address());
    for reason in ["proxy_header", "forwarded"] {
        assert_eq!(metrics.sum("uproar_refused_total", &[("reason", reason)]), 1.0, "{reason}");
    }
}

#[test]
fn the_proxy_protocol_without_trusted_proxies_is_a_start_error_with_a_hint() {
    let parts = ["--proxy-protocol", "name the proxies with --trusted-proxies", "--listen unix:PATH"];
    expect_start_failure(&mut uproar(&["--proxy-protocol"]), &parts);
    let path = settings_file("proxies", "\nproxy-protocol = true\n");
    expect_start_failure(
        &mut uproar(&["check", "--config", &path]),
        &[&parts[..], &["uproar.toml:2"]].concat(),
    );
    let path = settings_file("proxies", "proxy-protocol = true\ntrusted-proxies = [\"10.0.0.0/8\"]\n");
    let server = Process::start(&["--config", &path]);
    settings_file("proxies", "proxy-protocol = true\n");
    server.signal(Signal::SIGHUP);
    wait_until("the log gives the reason", || server.log().contains("nothing changes: --proxy-protocol"));
}
