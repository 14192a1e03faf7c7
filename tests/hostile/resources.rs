//! Attacks on limited resources: descriptors, receive buffers and memory.

use std::io::Write;
use std::net::TcpStream;
use std::process::Command;

use nix::sys::signal::Signal;
use uproar::config::{BackendName, Config};

use crate::chat_users::USERS;
use crate::harness::{attack_during_conversation, chat_without_rates, report, run_attack, wait_for_turn};
use crate::support::process::{Process, backend_arg, uproar};
use crate::support::raw::{BINARY, RawClient, TEXT, frame, upgrade_request};
use crate::support::wait_until;

slowly_on_both_backends!(descriptors_run_out, receive_buffers_run_out, memory_runs_out,);

/// Without free descriptors, the server still serves connected users. New connections wait in the kernel until
/// descriptors are free again.
fn descriptors_run_out(backend: BackendName) {
    let _exclusive = wait_for_turn();
    let args = ["--workers=1", "--drain-seconds=0", backend_arg(backend)];
    let server = Process::start_with_descriptors(USERS as u32 + 70, &args);
    let ((), noticed) = attack_during_conversation(server.address, || {
        let connections: Vec<_> = (0..400).map(|_| RawClient::connect(server.address)).collect();
        wait_until("the log reports that accepting pauses", || {
            server.log().contains("no descriptor is left")
        });
        drop(connections);
        let mut late = RawClient::connect(server.address);
        late.send(upgrade_request("/").as_bytes());
        late.expect_upgrade();
    });
    report("descriptors run out", backend, noticed);
    server.signal(Signal::SIGTERM);
    let ended = server.wait();
    assert_eq!(ended.code, Some(0), "{}", ended.log);
}

/// The server has two receive buffers for all chat users and for clients that send long messages.
fn receive_buffers_run_out(backend: BackendName) {
    let config = Config { receive_buffers: 2, ..chat_without_rates(backend) };
    run_attack("two receive buffers", &config, |server| {
        let mut raws: Vec<_> = (0..20).map(|_| RawClient::open(server.address(), "/room/pit")).collect();
        let line = frame(TEXT, &[b'x'; 30_000]);
        for _ in 0..3 {
            raws.iter_mut().for_each(|raw| raw.send(&line));
        }
        // Every client receives all sixty messages of the twenty clients.
        for raw in &mut raws {
            for _ in 0..60 {
                while raw.receive_frame().1.len() < 30_000 {}
            }
        }
    });
}

/// Under any memory limit, the server either runs or ends with a message: a line at the start, or Rust's abort message
/// when an allocation fails later.
fn memory_runs_out(backend: BackendName) {
    let _exclusive = wait_for_turn();
    let (mut started, mut refused) = (0, 0);
    // With less memory (in MiB) the program cannot be loaded, so it cannot print a message.
    let least = if cfg!(debug_assertions) { 28 } else { 12 };
    for mebibytes in [least, least + 8, 40, 80, 120, 200, 300, 400] {
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
                started += 1;
                exhaust_memory(&server);
                let exit = server.wait();
                let is_reported = exit.log.contains("memory allocation of") || exit.log.contains("ended");
                assert!(is_reported, "{mebibytes} MiB: {:?}: {}", exit.code, exit.log);
            }
            Err(exit) => {
                refused += 1;
                assert!(!exit.log.trim().is_empty(), "{mebibytes} MiB: {:?} without a message", exit.code);
            }
        }
    }
    assert!(started > 0 && refused > 0, "{started} started, {refused} did not");
}

/// Sends unfinished messages on many connections. Then sends SIGTERM, in case the server is still running.
fn exhaust_memory(server: &Process) {
    let mut held: Vec<TcpStream> = Vec::new();
    let unfinished = frame(BINARY, &vec![1; 900_000]);
    for _ in 0..300 {
        let Ok(mut stream) = TcpStream::connect(server.address) else { break };
        stream.set_write_timeout(Some(crate::support::TIMEOUT)).expect("a TCP socket");
        let all = [upgrade_request("/room/pit").as_bytes(), &unfinished[..800_000]].concat();
        if stream.write_all(&all).is_err() {
            break;
        }
        held.push(stream);
    }
    server.signal(Signal::SIGTERM);
}
