//! Attacks by many connections at once that end slowly, by many hops of proxies, and by storms of signals.

use std::io::Read;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use uproar::config::{BackendName, Config};

use crate::chat_users::USERS;
use crate::harness::{attack_during_conversation, chat, report, run_attack, wait_for_turn};
use crate::support::process::{Process, backend_arg, settings_file, uproar};
use crate::support::raw::{RawClient, upgrade_request, upgrade_request_with};
use crate::support::wait_until;

slowly_on_both_backends!(
    pages_read_at_one_byte_a_second,
    thousands_of_lingering_connections,
    many_trusted_hops,
    a_storm_of_reloads,
);

const PAGE: &[u8] = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";

/// Readers of the page that take a byte a second have the time of a closing connection, and no more.
fn pages_read_at_one_byte_a_second(backend: BackendName) {
    let config = Config { close_seconds: Duration::from_secs(2), ..chat(backend) };
    run_attack("pages read at a byte a second", &config, |server| {
        let connect = |_| RawClient::connect(server.address()).with_small_window();
        let mut slow: Vec<_> = (0..500).map(connect).collect();
        slow.iter_mut().for_each(|raw| raw.send(PAGE));
        let mut streams: Vec<_> = slow.into_iter().map(|raw| raw.into_parts().0).collect();
        for stream in &mut streams {
            stream.read_exact(&mut [0]).expect("the first byte of the page arrives");
        }
        let begin = Instant::now();
        wait_until("the slow readers are released", || {
            if begin.elapsed() > Duration::from_secs(1) {
                streams.iter_mut().for_each(|stream| drop(stream.read(&mut [0])));
            }
            server.connections().0 == USERS as u64
        });
        assert!(begin.elapsed() < Duration::from_secs(20), "{:?}", begin.elapsed());
    });
}

/// Clients that get an answer and never close have the time of a closing connection, and no more.
fn thousands_of_lingering_connections(backend: BackendName) {
    let config = Config { close_seconds: Duration::from_secs(1), ..chat(backend) };
    run_attack("4,000 lingering connections", &config, |server| {
        let lingering: Vec<_> = (0..4_000)
            .map(|n| {
                let mut raw = RawClient::connect(server.address());
                raw.send(if n % 2 == 0 {
                    PAGE
                } else {
                    b"GET /nowhere HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
                });
                raw
            })
            .collect();
        wait_until("the lingering connections are released", || server.connections().0 == USERS as u64);
        drop(lingering);
    });
}

/// Header fields as long as a request may be, in which every hop but the first is a trusted proxy.
fn many_trusted_hops(backend: BackendName) {
    let trusted_proxies = vec!["127.0.0.0/8".parse().expect("a network")];
    run_attack("1,400 trusted hops", &Config { trusted_proxies, ..chat(backend) }, |server| {
        let plain = format!("X-Forwarded-For: 192.0.2.1{}", ",127.0.0.1".repeat(1_400));
        let quoted = format!("Forwarded: for=192.0.2.1{}", ",for=\"127.0.0.1\"".repeat(900));
        let open = format!("Forwarded: for=192.0.2.1,{}", "\"\\".repeat(7_000));
        for _ in 0..200 {
            for header in [&plain, &quoted, &open] {
                let mut raw = RawClient::connect(server.address());
                raw.send(upgrade_request_with("/room/attic", &[header]).as_bytes());
                assert_eq!(raw.receive_status(), Some(101));
            }
        }
    });
}

/// Signals that come faster than settings are read are taken together. Clients connect meanwhile.
fn a_storm_of_reloads(backend: BackendName) {
    let _exclusive = wait_for_turn();
    let name = format!("storm of reloads {}", backend_arg(backend));
    let path = settings_file(&name, "workers = 2\ndrain-seconds = 0\nlisten = \"127.0.0.1:0\"\n");
    let server = Process::run(&mut uproar(&["--config", &path, backend_arg(backend)]));
    let ((), noticed) = attack_during_conversation(server.address, || {
        for n in 0..1_000 {
            server.signal(Signal::SIGHUP);
            if n % 10 == 0 {
                let mut raw = RawClient::connect(server.address);
                raw.send(upgrade_request("/room/attic").as_bytes());
                raw.expect_upgrade();
            }
        }
    });
    report("1,000 reloads", backend, noticed);
    server.signal(Signal::SIGTERM);
    let ended = server.wait();
    assert_eq!(ended.code, Some(0), "{}", ended.log);
}
