//! A server that starts right after the previous server was killed.

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use uproar::config::BackendName;

use crate::support::client::Client;
use crate::support::process::{Process, backend_arg, expect_start_failure, uproar};

on_both_backends!(
    a_server_starts_right_after_the_last_one_was_killed,
    a_second_interrupt_leaves_the_addresses_to_the_next_server,
);

/// With io_uring, the kernel frees a server's listeners some 15 ms after the process is gone.
fn a_server_starts_right_after_the_last_one_was_killed(backend: BackendName) {
    restart(backend, 10, |server| {
        server.signal(Signal::SIGKILL);
    });
}

fn a_second_interrupt_leaves_the_addresses_to_the_next_server(backend: BackendName) {
    restart(backend, 3, |server| {
        server.signal(Signal::SIGINT);
        std::thread::sleep(Duration::from_millis(50));
        server.signal(Signal::SIGINT);
    });
}

/// Starts servers on the same addresses, one after another: each as soon as `end` has ended the server before.
fn restart(backend: BackendName, times: usize, end: fn(&Process)) {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("socket");
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let mut server = start(backend, &path, any, any);
    for _ in 0..times {
        let (address, admin) = (server.address, server.admin_address());
        // These connections put entries other than listeners into the ring's table of descriptors.
        let _clients = [Client::open(address, "/"), Client::open(address, "/room/other")];
        let _local = Client::open_unix(&path);
        end(&server);
        server.wait();
        server = start(backend, &path, address, admin);
        assert_eq!((server.address, server.admin_address()), (address, admin));
    }
    drop(Client::open(server.address, "/"));
    drop(Client::open_unix(&path));
}

fn start(backend: BackendName, path: &Path, address: SocketAddr, admin: SocketAddr) -> Process {
    let path = format!("unix:{}", path.display());
    let [address, admin] = [address, admin].map(|address| address.to_string());
    let args = ["--workers=2", "--drain-seconds=30", backend_arg(backend)];
    Process::run(uproar(&args).args(["--listen", &address, "--listen", &path, "--admin", &admin]))
}

#[test]
fn addresses_that_a_running_server_has_are_a_start_error_within_seconds() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("socket");
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let server = start(BackendName::IoUring, &path, any, any);
    let path = format!("unix:{}", path.display());
    let (address, admin) = (server.address.to_string(), server.admin_address().to_string());
    for (option, value) in [("--listen", &address), ("--listen", &path), ("--admin", &admin)] {
        let start = Instant::now();
        // The additional `--listen` is a free address, so that the server does not use the default address.
        let args = [option, value, "--listen", "127.0.0.1:0"];
        expect_start_failure(&mut uproar(&args), &[value, "cannot listen on", "another program"]);
        assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    }
}
