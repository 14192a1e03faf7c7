//! Attacks with slow, silent, half-closed and reset connections.

use std::time::Duration;

use uproar::config::{BackendName, Config};

use crate::chat_users::{ROOMS, USERS};
use crate::harness::{chat, run_attack};
use crate::support::raw::{RawClient, TEXT, frame, upgrade_request};
use crate::support::wait_until;

slowly_on_both_backends!(
    requests_byte_by_byte,
    silent_connections,
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

fn silent_connections(backend: BackendName) {
    const SILENT: usize = 5_000;
    let config = Config { handshake_seconds: Duration::from_secs(1), max_handshakes: 1_000, ..chat(backend) };
    run_attack("5,000 silent connections", &config, |server| {
        let mut silent: Vec<_> = (0..SILENT).map(|_| RawClient::connect(server.address())).collect();
        let statuses: Vec<_> = silent.iter_mut().map(|raw| raw.receive_response().status).collect();
        let [refused, timed_out] =
            [503, 408].map(|wanted| statuses.iter().filter(|status| **status == wanted).count());
        assert_eq!(refused + timed_out, SILENT);
        assert!(timed_out >= 1_000 && refused > 0, "{timed_out} timed out, {refused} were refused at once");
    });
}

fn header_floods(backend: BackendName) {
    run_attack("header flood", &chat(backend), |server| {
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
