//! The server under seccomp filters that restrict its system calls.

use nix::sys::signal::Signal;
use uproar::config::BackendName;

use crate::support::chat_user::ChatUser;
use crate::support::client::Client;
use crate::support::metrics::{Metrics, http_get};
use crate::support::process::{Process, backend_arg, settings_file, uproar};
use crate::support::receiver::{Receiver, Reply};
use crate::support::seccomp::{run_with_few_rings, run_with_only_syscalls, run_without_syscalls};
use crate::support::service_manager::ServiceManager;
use crate::support::tls::{Identity, TlsClient, VERSIONS, arg};
use crate::support::token::SECRET;
use crate::support::wait_until;

on_both_backends!(the_server_needs_only_the_system_calls_that_the_unit_allows);

/// Returns the system calls in the systemd unit's `SystemCallFilter=` lines.
fn allowed_calls() -> Vec<&'static str> {
    let unit = include_str!("../../deploy/uproar.service");
    let lists = unit.lines().filter_map(|line| line.strip_prefix("SystemCallFilter="));
    lists.flat_map(str::split_whitespace).collect()
}

fn the_server_needs_only_the_system_calls_that_the_unit_allows(backend: BackendName) {
    let manager = ServiceManager::new();
    let name = format!("sandboxed {backend:?}");
    let path = settings_file(&name, "max-message = 1000\n");
    let directory = tempfile::tempdir().expect("a directory");
    let socket = format!("--listen=unix:{}/socket", directory.path().display());
    let identity = Identity::new();
    let (cert, key) = (identity.cert(), identity.key());
    let listen = ["--listen=127.0.0.1:0", "--listen=tls:127.0.0.2:0", &socket, "--admin=127.0.0.1:0"];
    let args = ["--workers=2", "--config", &path, "--tls-cert", arg(&cert), "--tls-key", arg(&key)];
    // The first endpoint has a name to resolve and a certificate, the second one a server that does not listen.
    let endpoint = Receiver::start_tls(&identity, |_, _| Reply::status(200));
    let (webhook, secret) = (endpoint.url("/hooks"), identity.file("secret", SECRET));
    let hooks = ["--webhook", &webhook, "--webhook=http://127.0.0.1:1/", "--webhook-messages=garden"];
    let hooks = [&hooks[..], &["--webhook-secret-file", arg(&secret), "--ca-file", arg(&cert)]].concat();
    let others = ["--drain-seconds=0.5", backend_arg(backend)];
    let mut command = uproar(&[&listen[..], &args, &hooks, &others].concat());
    manager.attach(&mut command).env("WATCHDOG_USEC", "500000");
    let server = run_with_only_syscalls(&allowed_calls(), || Process::run(&mut command));
    let admin = server.admin_address();
    manager.wait_for("READY=1");

    let mut ada = ChatUser::join_on_worker(server.address, "garden", 1);
    let mut bob = ChatUser::join_on_worker(server.address, "garden", 2);
    ada.set_name("ada");
    bob.expect_text(&format!("* {} is now ada", ada.default_name()));
    for round in 0..20 {
        let long = format!("{round} {}", "x".repeat(500));
        ada.send_text(&long);
        bob.expect_text(&format!("ada: {long}"));
    }
    let mut eve =
        TlsClient::connect(server.tls_address(), "/room/garden", &identity.client_config(&VERSIONS));
    eve.send_text("hello");
    while !bob.receive_text().ends_with(": hello") {}
    drop(eve);
    wait_until("the webhook gets the messages", || {
        endpoint.requests().iter().any(|request| request.body.contains("ada: 19 "))
    });
    for path in ["/", "/healthz", "/readyz"] {
        assert_eq!(http_get(admin, path).status, 200);
    }
    assert!(Metrics::fetch(admin).sum("uproar_opened_total", &[]) >= 2.0);
    // Wait until idle connections are parked and the watchdog has woken the workers.
    (0..20).for_each(|_| drop(manager.wait_for("WATCHDOG=1")));

    settings_file(&name, "max-message = 10\n");
    server.signal(Signal::SIGHUP);
    manager.wait_for("RELOADING=1");
    manager.wait_for("READY=1");
    bob.send_text("more than ten bytes");
    assert_eq!(bob.wait_for_close().0, 1009);
    server.signal(Signal::SIGTERM);
    assert_eq!(ada.wait_for_close().0, 1001);
    let ended = server.wait();
    assert_eq!(ended.code, Some(0), "find the call that the unit lacks with strace -f: {}", ended.log);
}

/// Checks that the filter of these tests works: without a call that the server needs, the filter kills the server.
#[test]
fn a_server_is_killed_at_a_call_that_the_filter_forbids() {
    let calls: Vec<_> = allowed_calls().into_iter().filter(|call| *call != "accept4").collect();
    let mut command = uproar(&["--listen=127.0.0.1:0", "--app=echo", "--backend=epoll"]);
    let server = run_with_only_syscalls(&calls, || Process::run(&mut command));
    let _client = std::net::TcpStream::connect(server.address).expect("the server listens");
    assert_eq!(server.wait().code, None);
}

/// Docker's default seccomp profile refuses the io_uring system calls, like this filter.
#[test]
fn without_io_uring_the_server_warns_and_uses_epoll() {
    let refused = ["io_uring_setup", "io_uring_enter", "io_uring_register"];
    let mut command = uproar(&["--listen=127.0.0.1:0", "--app=echo"]);
    let server = run_without_syscalls(&refused, || Process::run(&mut command));
    assert!(server.ready_line.contains("backend epoll"), "{}", server.ready_line);
    wait_until("the log gives the reason", || {
        server.log().contains("io_uring is not available; using epoll")
    });
    assert!(server.log().contains("seccomp"), "{}", server.log());
    let mut client = Client::open(server.address, "/");
    client.send_text("here");
    client.expect_text("here");
    server.signal(Signal::SIGTERM);
    assert_eq!(client.wait_for_close().0, 1001);
    assert_eq!(server.wait().code, Some(0));

    let mut command = uproar(&["--listen=127.0.0.1:0", "--backend=io-uring"]);
    let ended = run_without_syscalls(&refused, || Process::try_run(&mut command))
        .err()
        .expect("no fallback from --backend io-uring");
    assert_eq!(ended.code, Some(2));
    assert!(ended.log.contains("seccomp") && ended.log.contains("use --backend auto"), "{}", ended.log);
}

#[test]
fn all_workers_use_epoll_when_one_gets_no_ring() {
    let start = |backend, least| {
        let mut command = uproar(&["--listen=127.0.0.1:0", "--app=echo", "--workers=24", backend]);
        run_with_few_rings(least, || Process::try_run(&mut command))
    };
    // The server opens 24 listeners, 24 listeners for the fallback, then rings and other descriptors. So about half the
    // rings fail.
    let server = start("--backend=auto", 3 + 48 + 12).unwrap_or_else(|ended| panic!("{}", ended.log));
    assert!(server.ready_line.contains("backend epoll, workers 24"), "{}", server.ready_line);
    let why = "io_uring is not available for every worker; using epoll";
    wait_until("the log gives the reason", || server.log().contains(why));
    let mut clients: Vec<_> = (0..32).map(|_| Client::open(server.address, "/")).collect();
    for client in &mut clients {
        client.send_text("here");
        client.expect_text("here");
    }
    drop(clients);
    server.signal(Signal::SIGTERM);
    assert_eq!(server.wait().code, Some(0));

    // Without a fallback, only 24 listeners have descriptors before the rings.
    let ended = start("--backend=io-uring", 3 + 24 + 12).err().expect("no fallback from --backend io-uring");
    assert_eq!(ended.code, Some(2));
    assert!(ended.log.contains("use --backend auto"), "{}", ended.log);
}
