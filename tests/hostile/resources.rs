//! Attacks on what the server has from the kernel: descriptors, buffers, memory.

use std::io::Write;
use std::net::TcpStream;
use std::process::Command;

use nix::sys::signal::Signal;
use uproar::config::{BackendName, Config};

use crate::chatters::CHATTERS;
use crate::scene::{alone, beside_chatters, chat_without_rates, during_talk, report};
use crate::support::process::{Process, backend_arg, uproar};
use crate::support::raw::{BINARY, RawClient, TEXT, frame, upgrade_request};
use crate::support::wait_until;

at_length_on_both_backends!(descriptors_run_out_while_people_chat, receive_buffers_run_out, memory_runs_out,);

/// Whoever is inside talks on; the others wait in the kernel, and come in as soon as there is room.
fn descriptors_run_out_while_people_chat(backend: BackendName) {
    let _alone = alone();
    let args = ["--workers=1", "--drain-seconds=0", backend_arg(backend)];
    let server = Process::start_with_descriptors(CHATTERS as u32 + 70, &args);
    let ((), noticed) = during_talk(server.address, || {
        let crowd: Vec<_> = (0..400).map(|_| RawClient::connect(server.address)).collect();
        wait_until("the log says that accepting pauses", || server.log().contains("no descriptor is left"));
        drop(crowd);
        let mut late = RawClient::connect(server.address);
        late.send(upgrade_request("/").as_bytes());
        late.expect_upgrade();
    });
    report("descriptors run out", backend, noticed);
    server.signal(Signal::SIGTERM);
    let ended = server.wait();
    assert_eq!(ended.code, Some(0), "{}", ended.log);
}

/// Two buffers for more than two hundred clients, some of which never stop sending.
fn receive_buffers_run_out(backend: BackendName) {
    let config = Config { receive_buffers: 2, ..chat_without_rates(backend) };
    beside_chatters("two receive buffers", &config, |server| {
        let mut raws: Vec<_> = (0..20).map(|_| RawClient::open(server.address(), "/room/pit")).collect();
        let line = frame(TEXT, &[b'x'; 30_000]);
        for _ in 0..3 {
            raws.iter_mut().for_each(|raw| raw.send(&line));
        }
        // Each hears all sixty.
        for raw in &mut raws {
            for _ in 0..60 {
                while raw.receive_frame().1.len() < 30_000 {}
            }
        }
    });
}

/// Under a limit on memory the server serves, or it says why not and ends: at its start with one line, later by
/// the abort with which Rust answers an allocation that fails.
fn memory_runs_out(backend: BackendName) {
    let _alone = alone();
    let (mut served, mut refused) = (0, 0);
    // In less an unoptimised program does not even load, and can say nothing.
    let least = if cfg!(debug_assertions) { 16 } else { 12 };
    for mebibytes in [least, 20, 40, 80, 120, 200, 300, 400] {
        let script = format!("ulimit -v {} && exec \"$0\" \"$@\"", mebibytes << 10);
        let program = uproar(&[]).get_program().to_owned();
        let mut command = Command::new("sh");
        command.args(["-c", &script]).arg(&program);
        command.args([
            "--listen=127.0.0.1:0",
            "--workers=1",
            "--app=relay",
            "--drain-seconds=0",
            backend_arg(backend),
        ]);
        match Process::try_run(&mut command) {
            Ok(server) => {
                served += 1;
                exhaust(&server);
                let ended = server.wait();
                let is_said = ended.log.contains("memory allocation of") || ended.log.contains("ended");
                assert!(is_said, "{mebibytes} MiB: {:?}: {}", ended.code, ended.log);
            }
            Err(ended) => {
                refused += 1;
                assert!(!ended.log.trim().is_empty(), "{mebibytes} MiB: {:?} without a word", ended.code);
            }
        }
    }
    assert!(served > 0 && refused > 0, "{served} served, {refused} did not start");
}

/// Has many clients send messages that never end; asks the server to end if that was not the end of it.
fn exhaust(server: &Process) {
    let mut held: Vec<TcpStream> = Vec::new();
    let unfinished = frame(BINARY, &vec![1; 900_000]);
    for _ in 0..300 {
        let Ok(mut stream) = TcpStream::connect(server.address) else { break };
        stream.set_write_timeout(Some(crate::support::TIMEOUT)).expect("a time-out");
        let all = [upgrade_request("/room/pit").as_bytes(), &unfinished[..800_000]].concat();
        if stream.write_all(&all).is_err() {
            break;
        }
        held.push(stream);
    }
    server.signal(Signal::SIGTERM);
}
