//! Reloads of the settings by SIGHUP while clients are connected.

use std::time::Duration;

use nix::sys::signal::Signal;
use uproar::config::{self, AppName, BackendName, Config};

use crate::support::chat_user::ChatUser;
use crate::support::client::Client;
use crate::support::process::{Process, backend_arg, settings_file};
use crate::support::raw::{PING, RawClient, TEXT, frame, upgrade_request};
use crate::support::{TestServer, config, wait_until};

on_both_backends!(
    a_smaller_message_limit_applies_to_all_clients_at_once,
    an_invalid_file_changes_nothing,
    settings_that_need_a_restart_are_logged_and_stay,
    the_log_level_can_be_reloaded,
    a_flag_overrides_the_reloaded_file,
    without_a_settings_file_sighup_changes_nothing,
    new_limits_on_connections_apply_to_new_connections,
    a_new_rate_applies_to_open_connections,
    history_can_be_switched_off_and_on,
    a_new_compression_mode_applies_to_new_connections,
    new_timeouts_apply_to_new_connections,
    contradictory_settings_change_nothing,
);

/// A server process whose settings file the test changes.
struct Reloaded {
    server: Process,
    name: String,
    /// Length in bytes of the log that earlier calls of `reload` have read.
    seen: usize,
}

impl Reloaded {
    fn start(backend: BackendName, name: &str, text: &str, args: &[&str]) -> Self {
        let name = format!("{name} {backend:?}");
        let path = settings_file(&name, text);
        let server = Process::start(&[&["--config", &path, backend_arg(backend)], args].concat());
        Self { server, name, seen: 0 }
    }

    /// Writes `text` to the settings file and sends SIGHUP. Returns the new part of the log, up to the line with
    /// `last`.
    fn reload(&mut self, text: &str, last: &str) -> String {
        settings_file(&self.name, text);
        self.server.signal(Signal::SIGHUP);
        let mut found = String::new();
        wait_until(last, || {
            let log = self.server.log();
            let new = &log[self.seen..];
            let Some(at) = new.find(last) else { return false };
            let end = new[at..].find('\n').map_or(new.len(), |end| at + end);
            found = new[..end].into();
            self.seen += end;
            true
        });
        found
    }
}

fn a_smaller_message_limit_applies_to_all_clients_at_once(backend: BackendName) {
    let mut reloaded = Reloaded::start(backend, "smaller", "message-rate = 0\n", &["--workers=2"]);
    let address = reloaded.server.address;
    let mut ada = ChatUser::join_on_worker(address, "garden", 1);
    let mut bob = ChatUser::join_on_worker(address, "garden", 2);
    ada.set_name("ada");
    bob.expect_text(&format!("* {} is now ada", ada.default_name()));
    let long = "x".repeat(1_000);
    for round in 0..5 {
        ada.send_text(&format!("{round} {long}"));
        bob.expect_text(&format!("ada: {round} {long}"));
    }
    let log = reloaded.reload("message-rate = 0\nmax-message = 100\n", "1 changed");
    assert!(log.contains(" max-message: 1048576 → 100\n"), "{log}");
    for text in ["still here", "and here"] {
        ada.send_text(text);
        bob.expect_text(&format!("ada: {text}"));
    }
    // The new message limit applies to old and new clients.
    bob.send_text(&long);
    assert_eq!(bob.wait_for_close().0, 1009);
    let mut eve = ChatUser::join_on_worker(address, "garden", 2);
    eve.send_text(&"x".repeat(101));
    while eve.socket.read().is_ok() {}
    let log = reloaded.reload("message-rate = 0\nmax-message = 5000\n", "1 changed");
    assert!(log.contains(" max-message: 100 → 5000\n"), "{log}");
    let mut bob = ChatUser::join_on_worker(address, "lawn", 2);
    bob.send_text(&long);
    assert!(bob.receive_text().ends_with(&long));
}

fn an_invalid_file_changes_nothing(backend: BackendName) {
    let mut reloaded = Reloaded::start(backend, "wrong", "max-message = 2000\n", &["--app=echo"]);
    let mut client = Client::open(reloaded.server.address, "/");
    for (text, why) in [
        (
            "max-message = 10\nmax-mesage = 10\n",
            "uproar.toml:2: max-mesage: no such key; did you mean max-message?",
        ),
        ("max-message = 10\nworkers = \"many\"\n", "uproar.toml:2: workers: \"many\": expected a number"),
        (
            "max-message = 10\nhistory-bytes = 4096\nlag-window = 4096\n",
            "--history-bytes 4096 is more than half",
        ),
        ("max-message = 10\n\nlog = \"a=loud\"\n", "uproar.toml:3: log: \"a=loud\": "),
        ("max-message =\n", "uproar.toml:1: "),
    ] {
        let log = reloaded.reload(text, "nothing changes");
        assert!(log.contains("WARN") && log.contains(why), "{why}: {log}");
        assert!(!log.contains('→'), "{log}");
        let long = "x".repeat(2_000);
        client.send_text(&long);
        client.expect_text(&long);
    }
    std::fs::remove_file(settings_file(&reloaded.name, "")).expect("it was there");
    reloaded.server.signal(Signal::SIGHUP);
    wait_until("the log names the lost file", || {
        reloaded.server.log().contains("no such file; check the path")
    });
    // A valid settings file is applied after the invalid ones.
    let log = reloaded.reload("max-message = 1500\n", "1 changed");
    assert!(log.contains(" max-message: 2000 → 1500\n"), "{log}");
    client.send_text(&"x".repeat(1_501));
    assert_eq!(client.wait_for_close().0, 1009);
}

fn settings_that_need_a_restart_are_logged_and_stay(backend: BackendName) {
    let mut reloaded = Reloaded::start(backend, "fixed", "workers = 2\n", &[]);
    let text = "workers = 3\napp = \"echo\"\nmax-message = 100\n";
    // Each reload logs the settings that need a restart, as long as the settings file differs from the running server.
    for changed in ["1 changed", "0 changed"] {
        let log = reloaded.reload(text, changed);
        for line in [" app: needs a restart\n", " workers: needs a restart\n"] {
            assert!(log.contains(line), "{log}");
        }
        assert_eq!(log.contains(" max-message: 1048576 → 100\n"), changed == "1 changed", "{log}");
        assert!(!log.contains("listen"), "{log}");
    }
    let chatter = ChatUser::join(reloaded.server.address, "garden");
    assert!(chatter.worker <= 2);
    let log = reloaded.reload("workers = 2\nmax-message = 100\n", "0 changed");
    assert!(!log.contains("restart"), "{log}");
}

fn the_log_level_can_be_reloaded(backend: BackendName) {
    let mut reloaded = Reloaded::start(backend, "level", "log = \"info\"\n", &[]);
    let refused = |server: &Process| {
        let mut raw = RawClient::connect(server.address);
        raw.send(b"GET /nowhere HTTP/1.1\r\nHost: localhost\r\n\r\n");
        assert_eq!(raw.receive_response().status, 404);
    };
    refused(&reloaded.server);
    let log = reloaded.reload("log = \"uproar=debug\"\n", "1 changed");
    assert!(log.contains(" log: \"info\" → \"uproar=debug\"\n"), "{log}");
    assert!(!log.contains("connection ended"), "{log}");
    refused(&reloaded.server);
    wait_until("the log has the end of the connection", || {
        reloaded.server.log().contains("connection ended")
    });
}

fn a_flag_overrides_the_reloaded_file(backend: BackendName) {
    let args = ["--app=echo", "--max-message=50"];
    let mut reloaded = Reloaded::start(backend, "beaten again", "max-message = 100\n", &args);
    let log = reloaded.reload("max-message = 200\n", "0 changed");
    assert!(!log.contains("max-message"), "{log}");
    let mut client = Client::open(reloaded.server.address, "/");
    client.send_text(&"x".repeat(51));
    assert_eq!(client.wait_for_close().0, 1009);
}

fn without_a_settings_file_sighup_changes_nothing(backend: BackendName) {
    let server = Process::start(&["--app=echo", backend_arg(backend)]);
    let mut client = Client::open(server.address, "/");
    server.signal(Signal::SIGHUP);
    wait_until("the log gives the reason", || server.log().contains("name one with --config"));
    client.send_text("still here");
    client.expect_text("still here");
}

fn new_limits_on_connections_apply_to_new_connections(backend: BackendName) {
    let base = config(backend, AppName::Echo, 2);
    let server = TestServer::start(&base);
    let reload = |config: Config| server.control().reload(&config).expect("valid settings");
    let mut early: Vec<_> = (0..3).map(|_| Client::open(server.address(), "/")).collect();
    reload(Config { max_connections: 2, ..base.clone() });
    assert_eq!(RawClient::connect(server.address()).receive_response().status, 503);
    reload(Config { max_connections_per_ip: 1, ..base.clone() });
    let late = Client::open(server.address(), "/");
    assert_eq!(RawClient::connect(server.address()).receive_response().status, 429);
    reload(Config { max_handshakes: 1, ..base });
    // Each of the two workers may have one unfinished request, so one of three connections makes room.
    let slow = [(); 3].map(|()| RawClient::connect(server.address()));
    wait_until("a connection is closed", || server.totals().refused > 2);
    drop(slow);
    for client in &mut early {
        client.send_text("still here");
        client.expect_text("still here");
    }
    drop(late);
}

fn a_new_rate_applies_to_open_connections(backend: BackendName) {
    let base = config(backend, AppName::Echo, 1);
    let server = TestServer::start(&base);
    let mut raw = RawClient::open(server.address(), "/");
    raw.send(&frame(TEXT, b"x").repeat(100));
    (0..100).for_each(|_| assert_eq!(raw.receive_frame(), (TEXT, b"x".to_vec())));
    server.control().reload(&Config { message_rate: Some(1), ..base }).expect("valid settings");
    raw.send(&frame(TEXT, b"x").repeat(100));
    wait_until("the client is throttled", || server.totals().throttled == 1);
    raw.abort();
}

fn history_can_be_switched_off_and_on(backend: BackendName) {
    let base = config(backend, AppName::Chat, 2);
    let server = TestServer::start(&base);
    let mut ada = ChatUser::join(server.address(), "garden");
    ada.send_text("before");
    let first = ada.receive_text();
    server.control().reload(&Config { history_bytes: 0, ..base.clone() }).expect("valid settings");
    let mut bob = ChatUser::join(server.address(), "garden");
    ada.send_text("during");
    let second = ada.receive_text();
    bob.expect_text(&second);
    server.control().reload(&base).expect("valid settings");
    ada.send_text("after");
    let third = ada.receive_text();
    bob.expect_text(&third);
    let mut eve = ChatUser::join(server.address(), "garden");
    let seen = eve.receive_text();
    assert!([&first, &second, &third].contains(&&seen), "{seen}");
    if seen != third {
        // Messages from before the last reload may still be in the room's log, in order.
        while eve.receive_text() != third {}
    }
}

fn a_new_compression_mode_applies_to_new_connections(backend: BackendName) {
    let base = config(backend, AppName::Echo, 2);
    let server = TestServer::start(&base);
    let offer = "Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n";
    for (mode, is_agreed) in [
        (config::Compression::Shared, true),
        (config::Compression::Off, false),
        (config::Compression::Dedicated, true),
    ] {
        server.control().reload(&Config { compression: mode, ..base.clone() }).expect("valid settings");
        let mut raw = RawClient::connect(server.address());
        raw.send(upgrade_request("/").replace("\r\n\r\n", &format!("\r\n{offer}")).as_bytes());
        assert_eq!(raw.expect_upgrade().contains("permessage-deflate"), is_agreed, "{mode:?}");
        raw.send(&frame(TEXT, &[b'x'; 200]));
        assert_eq!(raw.receive_frame().1.len() < 200, is_agreed, "{mode:?}");
        let high = Config { compression: mode, compression_threshold: 201, ..base.clone() };
        server.control().reload(&high).expect("valid settings");
        raw.send(&frame(TEXT, &[b'x'; 200]));
        assert_eq!(raw.receive_frame().1.len(), 200, "{mode:?}");
    }
}

fn new_timeouts_apply_to_new_connections(backend: BackendName) {
    let base = config(backend, AppName::Echo, 1);
    let server = TestServer::start(&base);
    let short = Duration::from_millis(100);
    server.control().reload(&Config { ping_seconds: short, ..base.clone() }).expect("valid settings");
    assert_eq!(RawClient::open(server.address(), "/").receive_frame(), (PING, vec![]));
    server.control().reload(&Config { handshake_seconds: short, ..base }).expect("valid settings");
    assert_eq!(RawClient::connect(server.address()).receive_response().status, 408);
}

fn contradictory_settings_change_nothing(backend: BackendName) {
    let base = config(backend, AppName::Echo, 1);
    let server = TestServer::start(&base);
    let wrong = Config { max_message: 1, history_bytes: 1024, lag_window: 1024, ..base };
    let error = server.control().reload(&wrong).expect_err("history and window contradict");
    assert!(error.to_string().contains("--history-bytes 1024"), "{error}");
    let mut client = Client::open(server.address(), "/");
    client.send_text("longer than one byte");
    client.expect_text("longer than one byte");
}
