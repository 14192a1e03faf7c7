//! Limits on connections, and the count of open connections after every kind of disconnect.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use uproar::config::{AppName, BackendName, Config};

use crate::support::client::Client;
use crate::support::raw::{
    BINARY, CLOSE, RawClient, close_payload, connect_from, frame, upgrade_request, upgrade_request_with,
};
use crate::support::tls::{self, Identity, TlsClient, VERSIONS};
use crate::support::{TestServer, config, wait_until};

on_both_backends!(
    connections_over_the_server_limit_get_503,
    connections_over_the_limit_of_their_address_get_429,
    refused_connections_do_not_count_against_the_server_limit,
    connections_over_the_rate_of_their_address_get_429,
    connections_over_the_rate_are_reset_before_their_tls_handshake,
    a_client_behind_a_proxy_has_its_own_rate,
    the_oldest_unfinished_request_of_the_address_with_the_most_makes_room,
    at_the_connection_limit_an_address_with_many_unfinished_requests_makes_room,
    unfinished_tls_handshakes_make_room_too,
    refused_connections_that_send_nothing_are_closed,
    the_connection_count_is_right_after_every_kind_of_end,
    ipv6_clients_are_served_and_counted,
    an_ipv4_client_of_an_ipv6_listener_counts_for_its_ipv4_address,
);

fn from(last: u8) -> IpAddr {
    Ipv4Addr::new(127, 0, 0, last).into()
}

/// Opens a WebSocket from the IP address `source`. Retries until the server accepts the client.
fn open_with_retries(address: SocketAddr, source: IpAddr) -> Client {
    let mut client = None;
    wait_until("the server accepts a client again", || {
        client = Client::open_on(connect_from(source, address), "/").ok();
        client.is_some()
    });
    client.expect("accepted")
}

/// A client above the connection limit gets 503 without sending a request. The server closes its connection soon after.
fn refused_connections_that_send_nothing_are_closed(backend: BackendName) {
    let base = config(backend, AppName::Echo, 1);
    let server = TestServer::start(&Config { max_connections: 1, ..base });
    let _inside = Client::open(server.address(), "/");
    let mut silent: Vec<_> = (0..50).map(|_| RawClient::connect(server.address())).collect();
    for raw in &mut silent {
        assert_eq!(raw.receive_response().status, 503);
    }
    wait_until("the refused connections are closed", || server.connections().0 == 1);
}

fn connections_over_the_server_limit_get_503(backend: BackendName) {
    let base = config(backend, AppName::Echo, 4);
    let server = TestServer::start(&Config { max_connections: 10, ..base });
    let mut clients: Vec<_> = (0..10).map(|_| Client::open(server.address(), "/")).collect();
    let mut refused = RawClient::connect(server.address());
    refused.send(upgrade_request("/").as_bytes());
    let response = refused.receive_response();
    assert_eq!(response.status, 503, "{response:?}");
    assert!(response.head.contains("\r\nConnection: close\r\n") && !response.body.is_empty(), "{response:?}");
    drop(refused);
    for client in &mut clients {
        client.send_text("still here");
        client.expect_text("still here");
    }
    clients.pop();
    clients.push(open_with_retries(server.address(), from(1)));
}

fn connections_over_the_limit_of_their_address_get_429(backend: BackendName) {
    let base = config(backend, AppName::Echo, 4);
    let server = TestServer::start(&Config { max_connections_per_ip: 3, ..base });
    let open = |last| Client::open_on(connect_from(from(last), server.address()), "/");
    let mut first: Vec<_> = (0..3).map(|_| open(1).expect("below the limit")).collect();
    let second: Vec<_> = (0..3).map(|_| open(2).expect("below the limit")).collect();
    assert_eq!(server.connections(), (6, 2));
    assert_eq!(open(1).err(), Some(429));
    assert_eq!(open(2).err(), Some(429));
    let third = open(3).expect("another address");
    first.pop();
    first.push(open_with_retries(server.address(), from(1)));
    assert_eq!(open(2).err(), Some(429));
    drop((first, second, third));
}

fn refused_connections_do_not_count_against_the_server_limit(backend: BackendName) {
    let base = config(backend, AppName::Echo, 2);
    let server = TestServer::start(&Config { max_connections: 8, max_connections_per_ip: 2, ..base });
    // One IP address opens more connections than the server's limit and sends nothing on them.
    let silent: Vec<_> = (0..20).map(|_| connect_from(from(1), server.address())).collect();
    wait_until("all are accepted", || server.totals().accepted == 20);
    let others: Vec<_> = (2..5)
        .map(|last| {
            Client::open_on(connect_from(from(last), server.address()), "/").expect("below the limit")
        })
        .collect();
    drop((silent, others));
}

/// Connects and disconnects by `connect` until it returns an error. Asserts that the connections before that are at most
/// those of a limit of one per second.
fn connect_until_over_the_rate<E>(mut connect: impl FnMut() -> Result<(), E>) -> E {
    let begin = Instant::now();
    for count in 0.. {
        if let Err(error) = connect() {
            let allowed = 4..=5 + begin.elapsed().as_secs();
            assert!(allowed.contains(&count), "{count} connections, {allowed:?} allowed");
            return error;
        }
    }
    unreachable!("the rate is limited")
}

fn connections_over_the_rate_of_their_address_get_429(backend: BackendName) {
    let base = config(backend, AppName::Echo, 3);
    let server = TestServer::start(&Config { connection_rate: 1, ..base });
    let open = |last| Client::open_on(connect_from(from(last), server.address()), "/").map(drop);
    assert_eq!(connect_until_over_the_rate(|| open(1)), 429);
    open(2).expect("another address");
    assert!(server.totals().refused > 0);
    wait_until("a second has passed", || open(1).is_ok());
}

fn connections_over_the_rate_are_reset_before_their_tls_handshake(backend: BackendName) {
    let identity = Identity::new();
    let base = identity.with_tls_listener(config(backend, AppName::Echo, 1));
    let server = TestServer::start(&Config { connection_rate: 1, max_connections_per_ip: 100, ..base });
    let client = identity.client_config(&VERSIONS);
    let address = server.address();
    connect_until_over_the_rate(|| {
        let mut stream = tls::connect(address, &client);
        stream.write_all(upgrade_request("/").as_bytes()).and_then(|()| stream.read_exact(&mut [0]))
    });
    RawClient::connect(address).expect_reset();
    assert!(server.totals().refused >= 2);
    let plain = server.endpoints()[1].tcp().expect("a TCP listener");
    assert_eq!(RawClient::connect(plain).receive_response().status, 429);
}

fn a_client_behind_a_proxy_has_its_own_rate(backend: BackendName) {
    let trusted_proxies = vec!["127.0.0.1".parse().expect("a network")];
    let base = config(backend, AppName::Echo, 2);
    let server = TestServer::start(&Config { connection_rate: 1, trusted_proxies, ..base });
    let open = |last: u8| {
        let mut raw = RawClient::connect(server.address());
        let header = format!("X-Forwarded-For: 192.0.2.{last}");
        raw.send(upgrade_request_with("/", &[&header]).as_bytes());
        raw.upgrade_result()
    };
    assert_eq!(connect_until_over_the_rate(|| open(1)), 429);
    open(2).expect("another client");
}

/// Connects from the IP address `source`, sends the beginning of a request and waits until `server` has accepted.
fn connect_slowly(server: &TestServer, source: IpAddr) -> RawClient {
    let accepted = server.totals().accepted;
    let mut raw = RawClient::from_stream(connect_from(source, server.address()));
    raw.send(&upgrade_request("/").as_bytes()[..8]);
    wait_until("the connection is accepted", || server.totals().accepted == accepted + 1);
    raw
}

/// Sends the rest of the request that `connect_slowly` began.
fn finish_slowly(mut raw: RawClient) {
    raw.send(&upgrade_request("/").as_bytes()[8..]);
    raw.expect_upgrade();
}

fn the_oldest_unfinished_request_of_the_address_with_the_most_makes_room(backend: BackendName) {
    let base = config(backend, AppName::Echo, 1);
    let server = TestServer::start(&Config { max_handshakes: 5, ..base });
    let mut inside: Vec<_> = (0..10).map(|_| Client::open(server.address(), "/")).collect();
    let honest = connect_slowly(&server, from(1));
    let mut many: Vec<_> = (0..4).map(|_| connect_slowly(&server, from(2))).collect();
    // The sixth unfinished request closes the oldest one of the address with four.
    let other = connect_slowly(&server, from(3));
    many.remove(0).expect_reset();
    many.push(connect_slowly(&server, from(2)));
    many.remove(0).expect_reset();
    assert_eq!(server.totals().refused, 2);
    // Requests that are complete do not count.
    finish_slowly(honest);
    finish_slowly(other);
    inside.push(Client::open(server.address(), "/"));
    many.drain(..).for_each(finish_slowly);
    for client in &mut inside {
        client.send_text("still here");
        client.expect_text("still here");
    }
    assert_eq!(server.totals().refused, 2);
}

fn at_the_connection_limit_an_address_with_many_unfinished_requests_makes_room(backend: BackendName) {
    let base = config(backend, AppName::Echo, 1);
    let server = TestServer::start(&Config { max_connections: 5, max_connections_per_ip: 4, ..base });
    let mut many: Vec<_> = (0..4).map(|_| connect_slowly(&server, from(2))).collect();
    let mut honest: Vec<_> = [1, 3, 4, 5]
        .map(|last| Client::open_on(connect_from(from(last), server.address()), "/").expect("accepted"))
        .into();
    many.drain(..3).for_each(|mut raw| raw.expect_reset());
    // The address has one unfinished request left, and keeps that one.
    assert_eq!(Client::open_on(connect_from(from(6), server.address()), "/").err(), Some(503));
    finish_slowly(many.remove(0));
    for client in &mut honest {
        client.send_text("still here");
        client.expect_text("still here");
    }
}

fn unfinished_tls_handshakes_make_room_too(backend: BackendName) {
    let identity = Identity::new();
    let base = identity.with_tls_listener(config(backend, AppName::Echo, 1));
    let server = TestServer::start(&Config { max_handshakes: 3, ..base });
    let mut silent: Vec<_> = (0..3)
        .map(|count| {
            let raw = RawClient::from_stream(connect_from(from(2), server.address()));
            wait_until("the connection is accepted", || server.totals().accepted == count + 1);
            raw
        })
        .collect();
    let mut client = TlsClient::connect(server.address(), "/", &identity.client_config(&VERSIONS));
    client.send_text("hello");
    client.expect_text("hello");
    silent[0].expect_reset();
    assert_eq!(server.totals().refused, 1);
}

/// Connects and disconnects in one of ten ways, chosen by `seed`.
fn misbehave(address: SocketAddr, seed: u64) {
    let source = from((seed % 5) as u8 + 1);
    let mut raw = RawClient::from_stream(connect_from(source, address));
    let request = upgrade_request("/");
    match seed / 5 % 10 {
        0 => {}
        1 => raw.abort(),
        2 => raw.half_close(),
        3 => raw.send(&request.as_bytes()[..40]),
        4 => {
            raw.send(b"GET / HTTP/1.1\r\n\r\n");
            assert!(matches!(raw.receive_response().status, 400 | 429 | 503));
        }
        5 => {
            raw.try_send(request.as_bytes());
            raw.abort();
        }
        6 => {
            raw.try_send(&[request.as_bytes(), &frame(CLOSE, &close_payload(1000, ""))].concat());
            drop(raw);
        }
        7 => {
            raw.try_send(&[request.as_bytes(), &frame(BINARY, &[1; 1000]), b"garbage"].concat());
            drop(raw);
        }
        8 => {
            raw.try_send(request.as_bytes());
            raw.half_close();
            raw.receive_response();
        }
        _ => {
            // Send nothing until the server's handshake timeout.
            let _ = raw.receive_response();
        }
    }
}

fn the_connection_count_is_right_after_every_kind_of_end(backend: BackendName) {
    let base = config(backend, AppName::Echo, 4);
    let server = TestServer::start(&Config {
        max_connections: 30,
        max_connections_per_ip: 8,
        handshake_seconds: Duration::from_millis(100),
        ..base
    });
    let address = server.address();
    let threads: Vec<_> = (0..8_u64)
        .map(|thread| {
            std::thread::spawn(move || {
                let mut state = thread + 1;
                for _ in 0..60 {
                    // Pseudorandom numbers, with the constants of Knuth's MMIX generator.
                    state =
                        state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    misbehave(address, state >> 33);
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().expect("no panic");
    }
    wait_until("all connections are closed", || server.connections() == (0, 0));
    // Each IP address can connect again, so the server counts none of the old connections.
    for last in 1..=5 {
        drop(Client::open_on(connect_from(from(last), address), "/").expect("below the limit"));
    }
}

fn ipv6_clients_are_served_and_counted(backend: BackendName) {
    let base = config(backend, AppName::Echo, 2);
    let listen = vec!["[::1]:0".parse().expect("an address")];
    let server = TestServer::start(&Config { listen, max_connections_per_ip: 1, ..base });
    let mut client = Client::open(server.address(), "/");
    client.send_text("hello");
    client.expect_text("hello");
    assert_eq!(server.connections(), (1, 1));
    let source = server.address().ip();
    assert_eq!(Client::open_on(connect_from(source, server.address()), "/").err(), Some(429));
    drop(client);
    drop(open_with_retries(server.address(), source));
}

fn an_ipv4_client_of_an_ipv6_listener_counts_for_its_ipv4_address(backend: BackendName) {
    let base = config(backend, AppName::Echo, 2);
    let listen = ["[::]:0", "127.0.0.1:0"].map(|address| address.parse().expect("an address")).to_vec();
    let server = TestServer::start(&Config { listen, max_connections_per_ip: 1, ..base });
    let [Some(dual), Some(plain)] = [0, 1].map(|at| server.endpoints()[at].tcp()) else {
        panic!("two addresses")
    };
    let dual = SocketAddr::from(([127, 0, 0, 1], dual.port()));
    let client = Client::open(dual, "/");
    assert_eq!(Client::open_on(connect_from(from(1), plain), "/").err(), Some(429));
    let other = Client::open_on(connect_from(from(2), plain), "/").expect("another address");
    drop((client, other));
}
