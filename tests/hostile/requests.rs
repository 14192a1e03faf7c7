//! Attacks with ordinary HTTP requests.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use uproar::config::{BackendName, Config};

use crate::harness::{chat, chat_without_rates, run_attack};
use crate::support::raw::RawClient;
use crate::support::{TIMEOUT, TestServer, wait_until};

slowly_on_both_backends!(
    bodies_byte_by_byte,
    endless_chunks,
    a_pipeline_of_a_million_requests,
    a_pipeline_of_a_million_requests_at_the_default_rates,
    pipelines_that_nobody_reads,
    idle_connections,
);

const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";
const HEAD: &[u8] = b"HEAD / HTTP/1.1\r\nHost: localhost\r\n\r\n";
/// Head of a request whose body has chunks.
const CHUNKED: &[u8] = b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n";

/// The deadline of a request includes its body, whatever the client sends meanwhile.
fn bodies_byte_by_byte(backend: BackendName) {
    let config = Config { handshake_seconds: Duration::from_secs(1), ..chat(backend) };
    run_attack("bodies byte by byte", &config, |server| {
        let head = b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n";
        let mut slow: Vec<_> = (0..200)
            .map(|number| {
                let mut raw = RawClient::connect(server.address());
                // Half of the connections had a request before.
                if number % 2 == 0 {
                    raw.send(HEAD);
                    raw.receive_head();
                }
                raw.send(head);
                raw
            })
            .collect();
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_millis(1_500) {
            slow.iter_mut().for_each(|raw| raw.try_send(b"x"));
            std::thread::sleep(Duration::from_millis(100));
        }
        for raw in &mut slow {
            assert!(matches!(raw.receive_status(), Some(408) | None));
        }
        assert_eq!(server.totals().refused, 200);
    });
}

/// A body in chunks has a limit of bytes, and its extensions and trailers have another one.
fn endless_chunks(backend: BackendName) {
    let config = Config { max_request_body: 64 << 10, ..chat_without_rates(backend) };
    run_attack("endless chunks", &config, |server| {
        for (unit, status) in
            [(&b"1\r\nx\r\n"[..], 413), (b"1;name=value\r\nx\r\n", 431), (b"00000001\r\nx\r\n", 413)]
        {
            for _ in 0..20 {
                let mut raw = RawClient::connect(server.address());
                raw.send(CHUNKED);
                raw.try_send(&unit.repeat(100_000));
                assert!([Some(status), None].contains(&raw.receive_status()));
            }
        }
        assert_eq!(server.totals().refused, 60);
    });
}

/// Sends as many `requests` as the server reads, and reads `len` bytes meanwhile.
fn exchange(stream: &TcpStream, requests: &[u8], count: usize, len: usize) {
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let block = requests.repeat(1_000);
            (0..count / 1_000).for_each(|_| (&*stream).write_all(&block).expect("the server reads"));
        });
        let (mut reader, mut buffer, mut left) = (stream, vec![0; 64 << 10], len);
        while left > 0 {
            let part = left.min(buffer.len());
            let count = reader.read(&mut buffer[..part]).expect("responses arrive");
            assert!(count > 0, "the connection ended {left} bytes early");
            left -= count;
        }
    });
}

/// Without rates, all requests of a client that reads are answered. Other clients get their share of each turn.
fn a_pipeline_of_a_million_requests(backend: BackendName) {
    const REQUESTS: usize = 1_000_000;
    run_attack("a pipeline of a million requests", &chat_without_rates(backend), |server| {
        let mut raw = RawClient::connect(server.address());
        raw.send(HEAD);
        let len = raw.receive_head().len();
        let (stream, _) = raw.into_parts();
        exchange(&stream, HEAD, REQUESTS, REQUESTS * len);
        assert!(server.totals().requests > REQUESTS as u64);
    });
}

/// Writes as much of a million requests as the server takes within a second, without reading.
fn push_requests(server: &TestServer, requests: &[u8], connections: usize) -> Vec<TcpStream> {
    let block = requests.repeat(10_000);
    let streams: Vec<TcpStream> = (0..connections)
        .map(|_| RawClient::connect(server.address()).with_small_window().into_parts().0)
        .collect();
    let begin = Instant::now();
    for stream in &streams {
        stream.set_nonblocking(true).expect("a TCP socket");
    }
    let mut sent = vec![0; connections];
    while begin.elapsed() < Duration::from_secs(1) {
        for (mut stream, sent) in streams.iter().zip(&mut sent) {
            match stream.write(&block[*sent % block.len()..]) {
                Ok(len) => *sent += len,
                Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
            }
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    streams
}

/// Requests count against the message rate.
fn a_pipeline_of_a_million_requests_at_the_default_rates(backend: BackendName) {
    const CONNECTIONS: u64 = 20;
    run_attack("a pipeline of a million requests at the default rates", &chat(backend), |server| {
        let begin = Instant::now();
        let before = server.totals().requests;
        let streams = push_requests(server, HEAD, CONNECTIONS as usize);
        let made = server.totals().requests - before;
        // A burst of 80, then 20 a second, and what one buffer holds of the last.
        let allowed = CONNECTIONS * (81 + 20 * (begin.elapsed().as_secs() + 1));
        assert!(made >= CONNECTIONS && made <= allowed, "{made} requests, {allowed} allowed");
        drop(streams);
    });
}

/// Without rates, unread responses stop a pipeline: each client has at most a few of them in the server.
fn pipelines_that_nobody_reads(backend: BackendName) {
    const CONNECTIONS: usize = 50;
    run_attack("pipelines that nobody reads", &chat_without_rates(backend), |server| {
        let before = server.totals();
        let streams = push_requests(server, GET, CONNECTIONS);
        let mut last = 0;
        wait_until("the server waits for its clients", || {
            std::thread::sleep(Duration::from_millis(200));
            let made = server.totals().requests;
            std::mem::replace(&mut last, made) == made
        });
        // A page has some 50 KiB; a kernel takes a few MiB of each connection, and the server keeps 64 KiB and a page.
        let made = last - before.requests;
        assert!(made < 200 * CONNECTIONS as u64, "{made} responses");
        assert_eq!(server.totals().throttled, before.throttled);
        drop(streams);
    });
}

/// Connections that wait for their next request cost little, and end after the keep-alive time.
fn idle_connections(backend: BackendName) {
    let config = Config { keep_alive_seconds: Duration::from_secs(1), ..chat(backend) };
    run_attack("idle connections", &config, |server| {
        let mut idle: Vec<_> = (0..2_000).map(|_| RawClient::connect(server.address())).collect();
        idle.iter_mut().for_each(|raw| raw.send(HEAD));
        let begin = Instant::now();
        for raw in &mut idle {
            raw.receive_head();
        }
        idle.iter_mut().for_each(RawClient::expect_end);
        assert!(begin.elapsed() < TIMEOUT);
        assert_eq!(server.totals().refused, 0);
    });
}
