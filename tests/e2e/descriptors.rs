//! What happens when no descriptor is left.

use nix::sys::signal::Signal;
use uproar::config::BackendName;

use crate::support::process::{Process, backend_arg};
use crate::support::raw::{BINARY, PING, RawClient, frame, upgrade_request};
use crate::support::wait_until;

on_both_backends!(a_full_table_pauses_accepting);

fn a_full_table_pauses_accepting(backend: BackendName) {
    let args = ["--app=echo", "--workers=1", "--ping-seconds=0.5", "--drain-seconds=0", backend_arg(backend)];
    let server = Process::start_with_descriptors(64, &args);
    let warnings = || server.log().matches("no descriptor is left").count();
    let mut inside: Vec<_> = (0..40).map(|_| RawClient::connect(server.address)).collect();
    for raw in &mut inside {
        raw.send(upgrade_request("/").as_bytes());
    }
    wait_until("the log says that accepting pauses", || warnings() > 0);
    let count = server.log().split("connections=").nth(1).map(|rest| rest.trim().parse::<usize>());
    let count = count.and_then(Result::ok).expect("the log has the number");
    // The kernel holds the others until there is room.
    let mut outside = inside.split_off(count);
    assert!(outside.len() > 3);
    inside.iter_mut().for_each(|raw| drop(raw.expect_upgrade()));
    for raw in &mut inside {
        raw.send(&frame(BINARY, b"in"));
        while raw.receive_frame() != (BINARY, b"in".to_vec()) {}
    }
    // Time passes until somebody's silence has lasted too long; a loop that spins would use all of it.
    while inside[0].receive_frame().0 != PING {}
    assert_eq!(warnings(), 1, "{}", server.log());
    // Each that leaves lets one in.
    for raw in &mut outside {
        inside.pop();
        raw.expect_upgrade();
        raw.send(&frame(BINARY, b"in"));
        while raw.receive_frame() != (BINARY, b"in".to_vec()) {}
    }
    wait_until("the log says so", || server.log().contains("accepting connections again"));
    drop((inside, outside));
    server.signal(Signal::SIGTERM);
    let ended = server.wait();
    assert_eq!(ended.code, Some(0), "{}", ended.log);
    let turns = ended.log.split("turns: ").nth(1).and_then(|rest| rest.split([',', ' ']).next());
    let turns: u64 = turns.and_then(|turns| turns.parse().ok()).expect(&ended.log);
    // A few for each thing that happened; a loop that spun would have made a hundred times as many.
    assert!(turns < 2_000, "{turns} turns");
}
