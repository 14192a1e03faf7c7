//! A server that runs out of file descriptors.

use nix::sys::signal::Signal;
use uproar::config::BackendName;

use crate::support::process::{Process, backend_arg};
use crate::support::raw::{BINARY, PING, RawClient, frame, upgrade_request};
use crate::support::wait_until;

on_both_backends!(without_free_descriptors_accepting_pauses);

fn without_free_descriptors_accepting_pauses(backend: BackendName) {
    let args = ["--app=echo", "--workers=1", "--ping-seconds=0.5", "--drain-seconds=0", backend_arg(backend)];
    let server = Process::start_with_descriptors(64, &args);
    let warnings = || server.log().matches("no descriptor is left").count();
    let mut inside: Vec<_> = (0..40).map(|_| RawClient::connect(server.address)).collect();
    for raw in &mut inside {
        raw.send(upgrade_request("/").as_bytes());
    }
    wait_until("the log reports that accepting pauses", || warnings() > 0);
    let count = server.log().split("connections=").nth(1).map(|rest| rest.trim().parse::<usize>());
    let count = count.and_then(Result::ok).expect("the log line has the number of connections");
    // The clients that were not accepted wait in the kernel's accept queue.
    let mut outside = inside.split_off(count);
    assert!(outside.len() > 3);
    inside.iter_mut().for_each(|raw| drop(raw.expect_upgrade()));
    for raw in &mut inside {
        raw.send(&frame(BINARY, b"in"));
        while raw.receive_frame() != (BINARY, b"in".to_vec()) {}
    }
    // Wait for a ping. A loop that spins on the listener would use this time for many turns.
    while inside[0].receive_frame().0 != PING {}
    assert_eq!(warnings(), 1, "{}", server.log());
    // Each connection that ends frees a descriptor for a waiting client.
    for raw in &mut outside {
        inside.pop();
        raw.expect_upgrade();
        raw.send(&frame(BINARY, b"in"));
        while raw.receive_frame() != (BINARY, b"in".to_vec()) {}
    }
    wait_until("the log reports that accepting continues", || {
        server.log().contains("accepting connections again")
    });
    drop((inside, outside));
    server.signal(Signal::SIGTERM);
    let ended = server.wait();
    assert_eq!(ended.code, Some(0), "{}", ended.log);
    let turns = ended.log.split(" turns=").nth(1).and_then(|rest| rest.split([',', ' ']).next());
    let turns: u64 = turns.and_then(|turns| turns.parse().ok()).expect(&ended.log);
    // The server needs a few turns for each event. A loop that spins makes about a hundred times as many.
    assert!(turns < 2_000, "{turns} turns");
}
