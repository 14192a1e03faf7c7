//! A listener on a Unix socket, for a proxy on the same host.

use uproar::app::Echo;
use uproar::config::{AppName, BackendName, Config, Takeover};
use uproar::server::Server;

use crate::support::client::Client;
use crate::support::process::{expect_start_failure, uproar};
use crate::support::{TestServer, config, with_unix_listener};

on_both_backends!(
    clients_of_a_unix_socket_and_of_a_port_share_a_room,
    the_socket_file_is_removed_when_the_server_ends,
    a_failed_start_leaves_the_path_unchanged,
    clients_of_a_unix_socket_count_for_no_address,
);

fn clients_of_a_unix_socket_and_of_a_port_share_a_room(backend: BackendName) {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("uproar.sock");
    let server = TestServer::start(&with_unix_listener(&path, config(backend, AppName::Relay, 2)));
    let mut on_port = Client::open(server.address(), "/");
    // Enough clients that each worker serves some of them.
    let mut on_path: Vec<_> = (0..8).map(|_| Client::open_unix(&path)).collect();
    for client in &mut on_path {
        client.send_text("on the path");
        on_port.expect_text("on the path");
    }
    for (at, client) in on_path.iter_mut().enumerate() {
        // Each client receives at least its own message and the messages sent after it.
        for _ in at..8 {
            client.expect_text("on the path");
        }
    }
    on_port.send_text("on the port");
    for client in &mut on_path {
        while client.receive_text() != "on the port" {}
    }
}

fn the_socket_file_is_removed_when_the_server_ends(backend: BackendName) {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("uproar.sock");
    for _ in 0..2 {
        let server = TestServer::start(&with_unix_listener(&path, config(backend, AppName::Echo, 1)));
        let mut client = Client::open_unix(&path);
        client.send_text("here");
        client.expect_text("here");
        drop((client, server));
    }
}

fn a_failed_start_leaves_the_path_unchanged(backend: BackendName) {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("uproar.sock");
    let entries = || std::fs::read_dir(directory.path()).expect("readable").count();
    let settings = with_unix_listener(&path, config(backend, AppName::Echo, 2));
    // The application panics on the last worker, after everything else has been set up.
    let fail = |config: &Config| {
        Server::start_app(config, |worker| {
            assert_eq!(worker, 0, "told to panic");
            Box::<Echo>::default()
        })
    };
    fail(&settings).expect_err("the application panics");
    assert_eq!(entries(), 0);
    let server = TestServer::start(&settings);
    fail(&Config { takeover: Takeover::On, ..settings }).expect_err("the application panics");
    assert_eq!(entries(), 1);
    let mut client = Client::open_unix(&path);
    client.send_text("still here");
    client.expect_text("still here");
    drop((client, server));
}

fn clients_of_a_unix_socket_count_for_no_address(backend: BackendName) {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("uproar.sock");
    let base = Config { max_connections_per_ip: 1, ..config(backend, AppName::Echo, 1) };
    let server = TestServer::start(&with_unix_listener(&path, base));
    let clients = [Client::open_unix(&path), Client::open_unix(&path), Client::open_unix(&path)];
    assert_eq!(server.connections(), (3, 0));
    drop(clients);
}

#[test]
fn a_path_that_cannot_be_used_is_a_start_error_with_a_hint() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("file");
    std::fs::write(&file, "precious").expect("written");
    let taken = format!("unix:{}", file.display());
    expect_start_failure(
        &mut uproar(&["--listen", &taken]),
        &[&taken, "cannot listen on", "choose another path"],
    );
    assert_eq!(std::fs::read_to_string(&file).expect("still there"), "precious");
    let nowhere = format!("unix:{}/nowhere/socket", directory.path().display());
    expect_start_failure(
        &mut uproar(&["--listen", &nowhere]),
        &[&nowhere, "cannot listen on", "another path"],
    );
    let long = format!("unix:/{}", "long".repeat(40));
    expect_start_failure(&mut uproar(&["--listen", &long]), &[&long, "cannot listen on"]);
}
