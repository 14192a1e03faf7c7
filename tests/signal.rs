//! Tests of `Server::run_until_signal`, in a test program of their own because signals affect the whole process.

use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, raise};
use tungstenite::Message;
use uproar::app::Echo;
use uproar::config::BackendName;
use uproar::{Options, Server};

fn start(backend: BackendName) -> Server {
    let options = Options {
        listen: vec!["127.0.0.1:0".parse().expect("an endpoint")],
        backend,
        workers: Some(1),
        drain_seconds: Duration::ZERO,
        ..Options::default()
    };
    Server::start_app(options, |_worker| Box::<Echo>::default()).expect("it starts")
}

/// Returns whether the server's thread that waits for signals is running. The server starts that thread after setting
/// its signal handlers. The handlers stay set when the server ends.
fn is_waiting_for_signals() -> bool {
    let tasks = std::fs::read_dir("/proc/self/task").expect("readable");
    // A thread may end between the listing of the directory and the read of its name.
    let names = tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok());
    names.into_iter().any(|name| name.trim() == "signals")
}

#[test]
fn a_program_that_runs_until_a_signal_closes_its_clients_and_returns() {
    for (backend, signal) in [(BackendName::IoUring, Signal::SIGTERM), (BackendName::Epoll, Signal::SIGINT)] {
        let server = start(backend);
        let address = server.endpoints()[0].tcp().expect("a TCP address");
        let (mut client, _) = tungstenite::connect(format!("ws://{address}/")).expect("a WebSocket");
        let running = thread::spawn(|| server.run_until_signal());
        let deadline = Instant::now() + Duration::from_secs(30);
        while !is_waiting_for_signals() {
            assert!(Instant::now() < deadline, "no thread waits for {signal}");
            thread::sleep(Duration::from_millis(1));
        }
        raise(signal).expect("sent to this process");
        let Message::Close(Some(close)) = client.read().expect("a close frame") else { panic!("no close") };
        assert_eq!(u16::from(close.code), 1001);
        drop(client);
        let totals = running.join().expect("no panic").expect("no error");
        assert_eq!((totals.accepted, totals.closed), (1, 1));
    }
    // `run_until_signal` also returns when the server is stopped in another way.
    let server = start(BackendName::Auto);
    let control = server.control();
    let running = thread::spawn(|| server.run_until_signal());
    control.stop();
    running.join().expect("no panic").expect("no error");
}
