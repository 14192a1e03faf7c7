//! Attacks with slow, silent, half-closed and reset connections.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use uproar::config::{BackendName, Config};

use crate::chat_users::{ROOMS, USERS};
use crate::harness::{chat, run_attack};
use crate::support::raw::{RawClient, TEXT, connect_from, frame, upgrade_request};
use crate::support::wait_until;

slowly_on_both_backends!(
    requests_byte_by_byte,
    silent_connections,
    silent_connections_from_many_addresses,
    header_floods,
    half_closed_connections,
    connections_that_are_reset,
);

fn requests_byte_by_byte(backend: BackendName) {
    let soon = Duration::from_millis(600);
    let config = Config { handshake_seconds: soon, close_seconds: soon, ..chat(backend) };
    run_attack("slow handshake", &config, |server| {
        let mut slow: Vec<_> = (0..300).map(|_| RawClient::connect(server.address())).collect();
        let request = upgrade_request("/");
        let mut bytes = request.as_bytes().chunks(1).take(request.len() - 1);
        wait_until("all slow connections are refused", || {
            if let Some(byte) = bytes.next() {
                slow.iter_mut().for_each(|raw| raw.try_send(byte));
            }
            server.connections().0 == USERS as u64
        });
        for raw in &mut slow {
            // Read only the status: bytes sent after the server's close may have caused a reset.
            assert_eq!(raw.receive_status(), Some(408));
        }
    });
}

/// While one address keeps opening connections, every client of another address gets in.
fn silent_connections(backend: BackendName) {
    const SILENT: usize = 5_000;
    let config = Config { handshake_seconds: Duration::from_secs(2), max_handshakes: 1_000, ..chat(backend) };
    run_attack("5,000 silent connections", &config, |server| {
        let address = server.address();
        let attacker = IpAddr::from([127, 0, 0, 2]);
        let connect = move |_| RawClient::from_stream(connect_from(attacker, address));
        let attack = std::thread::spawn(move || (0..SILENT).map(connect).collect::<Vec<_>>());
        let mut honest = Vec::new();
        while !attack.is_finished() || honest.is_empty() {
            honest.push(RawClient::open(address, "/room/attic"));
            std::thread::sleep(Duration::from_millis(10));
        }
        let mut silent = attack.join().expect("the kernel accepts connections");
        let statuses: Vec<_> = silent.iter_mut().map(RawClient::receive_status).collect();
        let [reset, timed_out] =
            [None, Some(408)].map(|wanted| statuses.iter().filter(|status| **status == wanted).count());
        assert_eq!(reset + timed_out, SILENT);
        assert!(timed_out >= 900 && reset > 0, "{timed_out} timed out, {reset} were reset");
    });
}

/// An attack from more addresses than the limit. A client gets in if its handshake takes less time than the attackers
/// need for as many connections as the limit.
fn silent_connections_from_many_addresses(backend: BackendName) {
    const LIMIT: u32 = 1_000;
    const SILENT: u32 = 6_000;
    let config = Config { max_handshakes: LIMIT, ..chat(backend) };
    run_attack("silent connections from 6,000 addresses", &config, |server| {
        let address = server.address();
        let connect = move |n: u32| {
            let [_, _, high, low] = n.to_be_bytes();
            connect_from(IpAddr::from([127, 1 + high / 250, high % 250, low]), address)
        };
        let begin = Instant::now();
        let attack = std::thread::spawn(move || (0..SILENT).map(connect).collect::<Vec<_>>());
        let (mut tried, mut entered) = (0, 0);
        while !attack.is_finished() || tried == 0 {
            let mut raw = RawClient::connect(address);
            raw.try_send(upgrade_request("/room/attic").as_bytes());
            tried += 1;
            entered += u32::from(raw.receive_status() == Some(101));
        }
        let rate = f64::from(SILENT) / begin.elapsed().as_secs_f64();
        let survives = f64::from(LIMIT) / rate * 1e3;
        println!(
            "{entered} of {tried} clients got in; at {rate:.0} attackers a second, a handshake may take {survives:.0} ms"
        );
        assert!(server.totals().refused > u64::from(SILENT - 2 * LIMIT), "{:?}", server.totals());
        assert!(entered * 10 >= tried * 9, "{entered} of {tried} clients got in");
        drop(attack.join().expect("the kernel accepts connections"));
    });
}

fn header_floods(backend: BackendName) {
    run_attack("header flood", &chat(backend), |server| {
        let long = format!("GET / HTTP/1.1\r\nX-Long: {}", "x".repeat(32 << 10));
        let many = format!("GET / HTTP/1.1\r\n{}", "X-Many: x\r\n".repeat(2_000));
        let several = format!("GET / HTTP/1.1\r\nHost: localhost\r\n{}\r\n", "X-Many: x\r\n".repeat(100));
        for _ in 0..100 {
            for flood in [&long, &many, &several] {
                let mut raw = RawClient::connect(server.address());
                raw.try_send(flood.as_bytes());
                assert_eq!(raw.receive_status(), Some(431));
            }
        }
    });
}

/// A half-closed connection gets its pending messages and then the end of the stream.
fn half_closed_connections(backend: BackendName) {
    run_attack("half-closed peers", &chat(backend), |server| {
        let mut peers: Vec<_> = (0..400)
            .map(|n| match n % 4 {
                0 => RawClient::connect(server.address()),
                1 => {
                    let mut raw = RawClient::connect(server.address());
                    raw.send(b"GET /room/attic HTTP/1.1\r\nHo");
                    raw
                }
                _ => RawClient::open(server.address(), &format!("/room/{}", ROOMS[n % ROOMS.len()])),
            })
            .collect();
        for raw in peers.iter_mut().skip(3).step_by(4) {
            raw.send(&frame(TEXT, b"unfinished")[..7]);
        }
        peers.iter_mut().for_each(RawClient::half_close);
        for (n, raw) in peers.iter_mut().enumerate() {
            let rest = raw.read_to_end_of_stream();
            assert_eq!(
                rest.is_empty(),
                n % 4 < 2,
                "connection {n}: only members receive messages before the end"
            );
        }
    });
}

fn connections_that_are_reset(backend: BackendName) {
    const RESETS: usize = 10_000;
    run_attack("10,000 resets", &chat(backend), |server| {
        let request = upgrade_request("/room/attic");
        let all = [request.as_bytes(), &frame(TEXT, b"/who")].concat();
        for n in 0..RESETS {
            let mut raw = RawClient::connect(server.address());
            match n % 4 {
                0 => {}
                1 => raw.try_send(&request.as_bytes()[..30]),
                2 => raw.try_send(request.as_bytes()),
                _ => raw.try_send(&all),
            }
            raw.abort();
        }
        wait_until("all attackers are released", || server.connections().0 == USERS as u64);
        let totals = server.totals();
        assert!(totals.accepted > (RESETS / 2) as u64, "{totals:?}");
    });
}
