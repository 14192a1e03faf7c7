//! The server program: its first line on stdout, its settings and its start errors.

use std::net::TcpListener;

use nix::sys::signal::Signal;

use crate::support::client::Client;
use crate::support::process::{Process, expect_start_failure, uproar};

#[test]
fn the_first_line_on_stdout_names_address_app_backend_and_workers() {
    for (args, app, backend, workers) in [
        (&["--app=relay", "--backend=epoll", "--workers=3"][..], "relay", "epoll", 3),
        (&["--app=echo", "--backend=io-uring", "--workers=1"], "echo", "io-uring", 1),
        (&["serve", "--backend=auto", "--workers=2"], "chat", "io-uring", 2),
    ] {
        let server = Process::start(args);
        let address = server.address;
        assert_eq!(
            server.ready_line,
            format!("listening on {address} (app {app}, backend {backend}, workers {workers})\n")
        );
        drop(Client::open(address, "/"));
        server.signal(Signal::SIGTERM);
        assert_eq!(server.wait().code, Some(0));
    }
}

#[test]
fn environment_variables_set_the_options_that_flags_do_not() {
    let mut command = uproar(&["--app=echo"]);
    let variables = [
        ("UPROAR_LISTEN", "127.0.0.1:0"),
        ("UPROAR_APP", "relay"),
        ("UPROAR_BACKEND", "epoll"),
        ("UPROAR_WORKERS", "3"),
    ];
    let server = Process::run(command.envs(variables));
    assert!(server.ready_line.ends_with(" (app echo, backend epoll, workers 3)\n"), "{}", server.ready_line);
}

#[test]
fn a_port_in_use_is_a_start_error_with_a_hint() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("bound").to_string();
    let parts = [&address, "cannot listen on", "the port", "--listen"];
    expect_start_failure(&mut uproar(&["--listen", &address]), &parts);
    // Another uproar server sets SO_REUSEPORT, so the kernel alone would not refuse a second server on its address.
    let other = Process::start(&[]);
    let address = other.address.to_string();
    expect_start_failure(&mut uproar(&["--listen", &address]), &[&address, "cannot listen on", "--listen"]);
}

#[test]
fn an_address_of_another_machine_is_a_start_error_with_a_hint() {
    let parts = ["192.0.2.1:8000", "cannot listen on", "no interface"];
    expect_start_failure(&mut uproar(&["--listen", "192.0.2.1:8000"]), &parts);
}
