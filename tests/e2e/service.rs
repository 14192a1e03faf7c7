//! The server under a service manager: passed sockets, notifications and the watchdog.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use nix::sys::ptrace;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use uproar::config::BackendName;

use crate::support::client::Client;
use crate::support::client_churn::ClientChurn;
use crate::support::metrics::Metrics;
use crate::support::process::{Process, backend_arg, expect_start_failure, settings_file, uproar};
use crate::support::raw::{RawClient, TEXT, frame, upgrade_request_with};
use crate::support::service_manager::{ServiceManager, command_with_sockets};
use crate::support::tls::{Identity, TlsClient, VERSIONS, arg};
use crate::support::wait_until;

on_both_backends!(
    the_manager_is_notified_of_start_reload_and_shutdown,
    the_watchdog_is_not_fed_while_a_worker_hangs,
    the_watchdog_is_fed_while_a_worker_is_busy,
    all_workers_accept_on_passed_sockets,
    no_client_is_refused_while_the_server_restarts,
    a_passed_socket_named_tls_uses_tls,
    peers_of_a_passed_unix_socket_are_trusted_proxies,
);

fn the_manager_is_notified_of_start_reload_and_shutdown(backend: BackendName) {
    let manager = ServiceManager::new();
    let name = format!("told {backend:?}");
    let path = settings_file(&name, "max-message = 100\n");
    let args =
        ["--app=echo", "--listen=127.0.0.1:0", "--drain-delay=1", "--drain-seconds=2", "--close-seconds=3"];
    let mut command = uproar(&[&args[..], &["--config", &path, backend_arg(backend)]].concat());
    let server = Process::run(manager.attach(&mut command));
    assert_eq!(manager.wait_for("="), "READY=1\n");
    manager.wait_for("STATUS=0 connections");
    let mut client = Client::open(server.address, "/");

    settings_file(&name, "max-message = 10\n");
    server.signal(Signal::SIGHUP);
    let reloading = manager.wait_for("RELOADING=1\n");
    let time = reloading.lines().find_map(|line| line.strip_prefix("MONOTONIC_USEC="));
    assert!(time.is_some_and(|time| time.parse::<u64>().is_ok_and(|time| time > 0)), "{reloading}");
    assert_eq!(manager.wait_for("READY=1"), "READY=1\n");
    client.send_text("more than ten bytes");
    assert_eq!(client.wait_for_close().0, 1009);

    server.signal(Signal::SIGTERM);
    // The announced stop time in microseconds: drain delay, drain time and close time, plus five seconds.
    assert!(manager.wait_for("STOPPING=1\n").contains("\nEXTEND_TIMEOUT_USEC=11000000\n"));
    assert_eq!(server.wait().code, Some(0));
    assert_eq!(manager.take_messages(), [""; 0]);
}

fn the_watchdog_is_not_fed_while_a_worker_hangs(backend: BackendName) {
    let manager = ServiceManager::new();
    let args = ["--app=echo", "--listen=127.0.0.1:0", "--workers=2", backend_arg(backend)];
    let mut command = uproar(&args);
    let server = Process::run(manager.attach(&mut command).env("WATCHDOG_USEC", "200000"));
    let complaints = || server.log().matches("the watchdog is not notified").count();
    for _ in 0..3 {
        manager.wait_for("WATCHDOG=1");
    }
    assert_eq!(complaints(), 0);
    let stopped = StoppedThread::new(server.thread("worker-2"));
    wait_until("the log reports the hung worker", || complaints() >= 1);
    manager.take_messages();
    wait_until("the log repeats the report", || complaints() >= 3);
    assert!(!manager.take_messages().concat().contains("WATCHDOG"));
    assert!(server.log().contains("shard 1 has not turned for "), "{}", server.log());
    drop(stopped);
    manager.wait_for("WATCHDOG=1");
    server.signal(Signal::SIGTERM);
    assert_eq!(server.wait().code, Some(0));
}

/// Keeps the only worker busy for longer than the 5 seconds after which a worker without a turn counts as hung.
fn the_watchdog_is_fed_while_a_worker_is_busy(backend: BackendName) {
    let manager = ServiceManager::new();
    let rates = ["--message-rate=0", "--byte-rate=0"];
    let args =
        ["--app=chat", "--listen=127.0.0.1:0", "--workers=1", rates[0], rates[1], backend_arg(backend)];
    let mut command = uproar(&args);
    let server = Process::run(manager.attach(&mut command).env("WATCHDOG_USEC", "200000"));
    manager.wait_for("WATCHDOG=1");
    // Nothing is left of such a message without its tags, so each gets a short notice as its answer.
    let message = frame(TEXT, "<i/>".repeat(16 << 10).as_bytes());
    let is_over = AtomicBool::new(false);
    let sent = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for number in 0..4 {
            let mut raw = RawClient::connect(server.address);
            raw.send(upgrade_request_with(&format!("/room/busy-{number}"), &[]).as_bytes());
            raw.expect_upgrade();
            let (mut writer, _) = raw.into_parts();
            let mut reader = writer.try_clone().expect("a descriptor");
            scope.spawn(move || std::io::copy(&mut reader, &mut std::io::sink()));
            let (message, is_over, sent) = (&message, &is_over, &sent);
            scope.spawn(move || {
                while !is_over.load(Ordering::Relaxed) {
                    writer.write_all(message).expect("the server takes messages");
                    sent.fetch_add(1, Ordering::Relaxed);
                }
                writer.shutdown(Shutdown::Both).expect("connected");
            });
        }
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_secs(7) {
            manager.take_messages();
            manager.wait_for("WATCHDOG=1");
        }
        is_over.store(true, Ordering::Relaxed);
    });
    assert!(sent.into_inner() > 100, "the worker had something to do");
    assert!(!server.log().contains("the watchdog is not notified"), "{}", server.log());
    server.signal(Signal::SIGTERM);
    assert_eq!(server.wait().code, Some(0));
}

fn all_workers_accept_on_passed_sockets(backend: BackendName) {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("socket");
    let by_path = UnixListener::bind(&path).expect("bound");
    let by_port = TcpListener::bind("127.0.0.1:0").expect("bound");
    let address = by_port.local_addr().expect("bound");
    let args =
        ["--app=relay", "--workers=3", "--listen=127.0.0.1:1", "--admin=127.0.0.1:0", backend_arg(backend)];
    let mut command = command_with_sockets([(by_port.into(), "web"), (by_path.into(), "proxy")], &args);
    let server = Process::run(&mut command);
    assert_eq!(server.address, address);
    let said = format!("listening on unix:{}, passed by the service manager", path.display());
    wait_until("the log names the passed socket", || server.log().contains(&said));
    let accepted = |worker: u16| {
        let labels = [("shard", &*worker.to_string())];
        Metrics::fetch(server.admin_address()).sum("uproar_accepted_total", &labels)
    };
    let mut clients = Vec::new();
    // A worker that has no CPU at the moment accepts few connections, so connect until each worker has ten.
    while [0, 1, 2].map(accepted).iter().any(|count| *count < 10.0) {
        assert!(clients.len() < 1000, "{:?}", [0, 1, 2].map(accepted));
        clients.push(Client::open(address, "/"));
    }
    let mut stream = UnixStream::connect(&path).expect("it listens");
    stream.write_all(b"GET /nowhere HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 404 "), "{answer}");
    drop(clients);
    server.signal(Signal::SIGTERM);
    assert_eq!(server.wait().code, Some(0));
}

fn no_client_is_refused_while_the_server_restarts(backend: BackendName) {
    let manager = ServiceManager::new();
    let socket = TcpListener::bind("127.0.0.1:0").expect("bound");
    let address = socket.local_addr().expect("bound");
    let start = || {
        let args = ["--app=echo", "--workers=2", "--drain-seconds=0.2", backend_arg(backend)];
        let passed = OwnedFd::from(socket.try_clone().expect("a descriptor"));
        let mut command = command_with_sockets([(passed, "web")], &args);
        let server = Process::run(manager.attach(&mut command));
        manager.wait_for("READY=1");
        server
    };
    let mut server = start();
    let churn = ClientChurn::start(address, 4);
    for _ in 0..3 {
        churn.wait_for_served(100);
        server.signal(Signal::SIGTERM);
        assert_eq!(server.wait().code, Some(0));
        server = start();
    }
    churn.wait_for_served(100);
    assert_eq!(churn.stop().1, 0, "no connection is reset");
    server.signal(Signal::SIGTERM);
    assert_eq!(server.wait().code, Some(0));
}

fn a_passed_socket_named_tls_uses_tls(backend: BackendName) {
    let identity = Identity::new();
    let [web, tls] = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").expect("bound"));
    let address = tls.local_addr().expect("bound");
    let (cert, key) = (identity.cert(), identity.key());
    let args = ["--app=echo", "--listen=tls:127.0.0.1:0", "--tls-cert", arg(&cert), "--tls-key", arg(&key)];
    let sockets = [(OwnedFd::from(web), "web"), (OwnedFd::from(tls), "tls")];
    let server =
        Process::run(&mut command_with_sockets(sockets, &[&args[..], &[backend_arg(backend)]].concat()));
    let mut secure = TlsClient::connect(address, "/", &identity.client_config(&VERSIONS));
    secure.send_text("over TLS");
    secure.expect_text("over TLS");
    let mut plain = Client::open(server.address, "/");
    plain.send_text("in plain");
    plain.expect_text("in plain");
}

fn peers_of_a_passed_unix_socket_are_trusted_proxies(backend: BackendName) {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("socket");
    let name = format!("passed path {backend:?}");
    let settings = |text| settings_file(&name, format!("proxy-protocol = true\n{text}"));
    let file = settings("");
    let by_port = || (OwnedFd::from(TcpListener::bind("127.0.0.1:0").expect("bound")), "web");
    let by_path = OwnedFd::from(UnixListener::bind(&path).expect("bound"));
    let args = ["--app=echo", "--config", &file, backend_arg(backend)];
    let server = Process::run(&mut command_with_sockets([by_port(), (by_path, "proxy")], &args));
    settings("max-message = 10\n");
    server.signal(Signal::SIGHUP);
    wait_until("the settings are reloaded", || server.log().contains("max-message"));
    assert!(!server.log().contains("nothing changes"), "{}", server.log());
    let mut proxy = UnixStream::connect(&path).expect("it listens");
    proxy
        .write_all(
            b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n\
              GET /nowhere HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        )
        .expect("sent");
    let mut answer = String::new();
    proxy.read_to_string(&mut answer).expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 404 "), "{answer}");

    let parts = ["--proxy-protocol", "name the proxies with --trusted-proxies"];
    expect_start_failure(
        &mut command_with_sockets([by_port()], &[&args[..], &["--listen=unix:/nowhere"]].concat()),
        &parts,
    );
}

#[test]
fn unusable_passed_sockets_are_refused_with_a_remedy() {
    let listening = || OwnedFd::from(TcpListener::bind("127.0.0.1:0").expect("bound"));
    let datagrams = || OwnedFd::from(UdpSocket::bind("127.0.0.1:0").expect("bound"));
    let (connected, _other) = UnixStream::pair().expect("a pair");
    let file = tempfile::tempfile().expect("a file");
    for (socket, name, why) in [
        (datagrams(), "web", "is not a stream socket"),
        (file.into(), "web", "is not a stream socket"),
        (connected.into(), "web", "does not listen"),
    ] {
        let parts = ["descriptor 4", name, why, "ListenStream=", "Accept=no"];
        expect_start_failure(&mut command_with_sockets([(listening(), "good"), (socket, name)], &[]), &parts);
    }
    expect_start_failure(
        &mut command_with_sockets([(listening(), "tls")], &[]),
        &["tls:127.0.0.1:", "needs a certificate", "--tls-cert"],
    );
    let mut command = command_with_sockets([(listening(), "web")], &[]);
    expect_start_failure(
        command.env("LISTEN_FDS", "many"),
        &["LISTEN_FDS=many", "expected the number of sockets", "unset it"],
    );
    let mut command = uproar(&[]);
    let variables = [("LISTEN_FDS", "1"), ("LISTEN_PID", "me")];
    expect_start_failure(
        command.envs(variables),
        &["LISTEN_PID=me", "expected the number of a process", "unset it"],
    );
}

/// A process may inherit the variables from a parent whose sockets were passed by a service manager.
#[test]
fn sockets_for_another_process_are_ignored() {
    let mut command = uproar(&["--listen=127.0.0.1:0", "--app=echo"]);
    let server = Process::run(command.envs([("LISTEN_FDS", "5"), ("LISTEN_PID", "1")]));
    let mut client = Client::open(server.address, "/");
    client.send_text("here");
    client.expect_text("here");
}

#[test]
fn the_watchdog_of_another_process_is_not_fed() {
    let manager = ServiceManager::new();
    let mut command = uproar(&["--listen=127.0.0.1:0", "--backend=epoll"]);
    let variables = [("WATCHDOG_USEC", "1000"), ("WATCHDOG_PID", "1")];
    let server = Process::run(manager.attach(&mut command).envs(variables));
    manager.wait_for("STATUS=0 connections");
    server.signal(Signal::SIGTERM);
    manager.wait_for("STOPPING=1");
    assert_eq!(server.wait().code, Some(0));
    assert!(!manager.take_messages().concat().contains("WATCHDOG"));
}

/// A thread of another process, stopped by ptrace. Only the thread that stopped it can resume it.
struct StoppedThread(Pid);

impl StoppedThread {
    fn new(thread: Pid) -> Self {
        ptrace::attach(thread).expect("a thread of a child may be traced");
        waitpid(thread, Some(WaitPidFlag::__WALL)).expect("it stops");
        Self(thread)
    }
}

impl Drop for StoppedThread {
    fn drop(&mut self) {
        // Detaching fails only if the process was killed.
        let _ = ptrace::detach(self.0, None);
    }
}
