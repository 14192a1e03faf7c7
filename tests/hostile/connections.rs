//! Attacks with connections: slow ones, silent ones, broken ones, and many.

use std::time::Duration;

use uproar::config::{BackendName, Config};

use crate::chatters::{CHATTERS, ROOMS};
use crate::scene::{beside_chatters, chat};
use crate::support::raw::{RawClient, TEXT, frame, upgrade_request};
use crate::support::wait_until;

at_length_on_both_backends!(
    requests_that_come_byte_by_byte,
    connections_that_never_speak,
    floods_of_headers,
    peers_that_close_one_half,
    storms_of_resets,
);

fn requests_that_come_byte_by_byte(backend: BackendName) {
    let soon = Duration::from_millis(600);
    let config = Config { handshake_seconds: soon, close_seconds: soon, ..chat(backend) };
    beside_chatters("slow handshake", &config, |server| {
        let mut slow: Vec<_> = (0..300).map(|_| RawClient::connect(server.address())).collect();
        let request = upgrade_request("/");
        let mut bytes = request.as_bytes().chunks(1).take(request.len() - 1);
        wait_until("none of them is served any more", || {
            if let Some(byte) = bytes.next() {
                slow.iter_mut().for_each(|raw| raw.try_send(byte));
            }
            server.connections().0 == CHATTERS as u64
        });
        for raw in &mut slow {
            // The bytes that came after the end may have made a reset of it.
            assert_eq!(raw.receive_status(), Some(408));
        }
    });
}

fn connections_that_never_speak(backend: BackendName) {
    const SILENT: usize = 5_000;
    let config = Config { handshake_seconds: Duration::from_secs(1), max_handshakes: 1_000, ..chat(backend) };
    beside_chatters("5,000 silent connections", &config, |server| {
        let mut silent: Vec<_> = (0..SILENT).map(|_| RawClient::connect(server.address())).collect();
        let statuses: Vec<_> = silent.iter_mut().map(|raw| raw.receive_response().status).collect();
        let [refused, late] = [503, 408].map(|of| statuses.iter().filter(|status| **status == of).count());
        assert_eq!(refused + late, SILENT);
        assert!(late >= 1_000 && refused > 0, "{late} had the time for a request, {refused} were refused");
    });
}

fn floods_of_headers(backend: BackendName) {
    beside_chatters("header flood", &chat(backend), |server| {
        let long = format!("GET / HTTP/1.1\r\nX-Long: {}", "x".repeat(32 << 10));
        let many = format!("GET / HTTP/1.1\r\n{}", "X-Many: x\r\n".repeat(2_000));
        let several = format!("GET / HTTP/1.1\r\nHost: x\r\n{}\r\n", "X-Many: x\r\n".repeat(100));
        for _ in 0..100 {
            for flood in [&long, &many, &several] {
                let mut raw = RawClient::connect(server.address());
                raw.try_send(flood.as_bytes());
                assert_eq!(raw.receive_status(), Some(431));
            }
        }
    });
}

/// They get what they are owed, and the end.
fn peers_that_close_one_half(backend: BackendName) {
    beside_chatters("half-closed peers", &chat(backend), |server| {
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
            raw.send(&frame(TEXT, b"my last word")[..7]);
        }
        peers.iter_mut().for_each(RawClient::half_close);
        for (n, raw) in peers.iter_mut().enumerate() {
            let rest = raw.read_to_end_of_stream();
            assert_eq!(rest.is_empty(), n % 4 < 2, "{n}: the welcome and the room's past, then the end");
        }
    });
}

fn storms_of_resets(backend: BackendName) {
    const RESETS: usize = 10_000;
    beside_chatters("10,000 resets", &chat(backend), |server| {
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
        wait_until("all are gone", || server.connections().0 == CHATTERS as u64);
        let totals = server.totals();
        assert!(totals.accepted > (RESETS / 2) as u64, "{totals:?}");
    });
}
