//! A listener on a path, as a proxy on the same host uses it.

use std::os::unix::net::UnixStream;
use std::path::Path;

use tungstenite::{Message, WebSocket};
use uproar::app::Echo;
use uproar::config::{AppName, BackendName, Config, Endpoint, Takeover};
use uproar::server::Server;

use crate::support::client::Client;
use crate::support::process::{expect_start_failure, uproar};
use crate::support::{TIMEOUT, TestServer, config};

on_both_backends!(
    clients_of_a_path_and_of_a_port_share_a_room,
    a_path_is_free_again_when_the_server_has_ended,
    a_start_that_fails_takes_a_path_from_nobody,
    who_comes_by_a_path_counts_for_no_address,
);

fn clients_of_a_path_and_of_a_port_share_a_room(backend: BackendName) {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("uproar.sock");
    let server = TestServer::start(&on(&path, config(backend, AppName::Relay, 2)));
    let mut by_port = Client::open(server.address(), "/");
    // Enough of them that each worker has some.
    let mut by_path: Vec<_> = (0..8).map(|_| open(&path)).collect();
    for client in &mut by_path {
        client.send(Message::text("by path")).expect("sent");
        by_port.expect_text("by path");
    }
    for (at, client) in by_path.iter_mut().enumerate() {
        // It hears itself and those who said something after it had joined.
        for _ in at..8 {
            assert_eq!(client.read().expect("a message"), Message::text("by path"));
        }
    }
    by_port.send_text("by port");
    for client in &mut by_path {
        while client.read().expect("a message") != Message::text("by port") {}
    }
}

fn a_path_is_free_again_when_the_server_has_ended(backend: BackendName) {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("uproar.sock");
    for _ in 0..2 {
        let server = TestServer::start(&on(&path, config(backend, AppName::Echo, 1)));
        let mut client = open(&path);
        client.send(Message::text("here")).expect("sent");
        assert_eq!(client.read().expect("a message"), Message::text("here"));
        drop((client, server));
    }
}

fn a_start_that_fails_takes_a_path_from_nobody(backend: BackendName) {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("uproar.sock");
    let entries = || std::fs::read_dir(directory.path()).expect("readable").count();
    let settings = on(&path, config(backend, AppName::Echo, 2));
    // The last of its workers fails when everything else is there.
    let fail = |config: &Config| {
        Server::start_app(config, |worker| {
            assert_eq!(worker, 0, "told to panic");
            Box::<Echo>::default()
        })
    };
    fail(&settings).expect_err("its application panics");
    assert_eq!(entries(), 0);
    let server = TestServer::start(&settings);
    fail(&Config { takeover: Takeover::On, ..settings }).expect_err("its application panics");
    assert_eq!(entries(), 1);
    let mut client = open(&path);
    client.send(Message::text("still here")).expect("sent");
    assert_eq!(client.read().expect("a message"), Message::text("still here"));
    drop((client, server));
}

fn who_comes_by_a_path_counts_for_no_address(backend: BackendName) {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("uproar.sock");
    let base = Config { max_connections_per_ip: 1, ..config(backend, AppName::Echo, 1) };
    let server = TestServer::start(&on(&path, base));
    let clients = [open(&path), open(&path), open(&path)];
    assert_eq!(server.connections(), (3, 0));
    drop(clients);
}

#[test]
fn a_path_that_cannot_be_had_is_said_with_a_way_out() {
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

/// The settings with a listener on `path`, too.
fn on(path: &Path, mut config: Config) -> Config {
    config.listen.push(Endpoint::Unix(path.into()));
    config
}

fn open(path: &Path) -> WebSocket<UnixStream> {
    let stream = UnixStream::connect(path).expect("connect");
    stream.set_read_timeout(Some(TIMEOUT)).expect("a socket");
    tungstenite::client("ws://localhost/", stream).expect("the handshake").0
}
