//! The server's log in both formats: text and JSON.

use nix::sys::signal::Signal;
use serde_json::Value;
use uproar::config::BackendName;

use crate::support::client::Client;
use crate::support::process::{Process, backend_arg, run_to_end, settings_file, uproar};
use crate::support::raw::RawClient;
use crate::support::token::{SECRET, token_for};
use crate::support::wait_until;

on_both_backends!(
    each_json_line_is_an_object,
    the_end_of_a_connection_is_logged,
    many_refusals_make_few_lines,
    a_full_server_logs_warnings_with_the_count,
    messages_names_and_tokens_are_not_logged,
    the_json_lines_of_a_reload_have_fields,
    a_start_error_is_a_json_line,
);

fn refused(server: &Process, path: &str) {
    let mut raw = RawClient::connect(server.address);
    raw.send(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes());
    assert_eq!(raw.receive_response().status, 404);
}

/// Stops a server process and returns its whole log.
fn log_of(server: Process) -> String {
    server.signal(Signal::SIGTERM);
    server.wait().log
}

/// Parses each line of a JSON log as an object.
fn objects(log: &str) -> Vec<Value> {
    let parse = |line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    let lines: Vec<Value> = log.lines().map(parse).collect();
    assert!(lines.iter().all(|line| line["timestamp"].is_string() && line["level"].is_string()), "{log}");
    lines
}

fn with_message<'a>(lines: &'a [Value], message: &str) -> Vec<&'a Value> {
    lines
        .iter()
        .filter(|line| line["message"].as_str().is_some_and(|text| text.starts_with(message)))
        .collect()
}

fn each_json_line_is_an_object(backend: BackendName) {
    let args = ["--log-format=json", "--log=debug", "--workers=1", "--app=echo", backend_arg(backend)];
    let server = Process::start(&args);
    let mut client = Client::open(server.address, "/room/garden?who=nobody");
    client.send_text("hello");
    client.expect_text("hello");
    client.socket.close(None).expect("closing");
    while client.socket.read().is_ok() {}
    refused(&server, "/nowhere?x");
    wait_until("the log has both ends", || server.log().matches("connection ended").count() == 2);
    let lines = objects(&log_of(server));
    let refusals = with_message(&lines, "refused: Nothing is here");
    assert_eq!(refusals.len(), 1, "{lines:?}");
    let of = |key: &str| refusals[0][key].clone();
    assert_eq!(
        [of("reason"), of("address"), of("status")],
        [Value::from("not_found"), "127.0.0.1".into(), 404.into()]
    );
    let ends = with_message(&lines, "connection ended");
    let [first, second] = ends[..] else { panic!("{ends:?}") };
    for (key, value) in [
        ("level", Value::from("DEBUG")),
        ("address", "127.0.0.1".into()),
        ("path", "/room/garden".into()),
        ("status", 101.into()),
        ("code", 1005.into()),
        ("received_messages", 1.into()),
    ] {
        assert_eq!(first[key], value, "{key}: {first}");
    }
    assert!(
        first["received_bytes"].as_u64() > Some(100) && first["sent_bytes"].as_u64() > Some(100),
        "{first}"
    );
    assert!(first["seconds"].is_number(), "{first}");
    assert_eq!((&second["path"], &second["status"]), (&"/nowhere".into(), &404.into()), "{second}");
    assert_eq!(second["code"], Value::Null);
    let [end] = with_message(&lines, "ended")[..] else { panic!("{lines:?}") };
    for (key, value) in
        [("accepted", 2), ("opened", 1), ("refused", 1), ("received_messages", 1), ("closed", 2)]
    {
        assert_eq!(end[key], Value::from(value), "{key}: {end}");
    }
    let [room] = with_message(&lines, "room for")[..] else { panic!("{lines:?}") };
    assert!(room["limit"].is_u64() && room["descriptors"].is_u64(), "{room}");
    // No log value is formatted with `Debug`, which would hide its fields from programs.
    for line in &lines {
        let texts = line.as_object().expect("an object").values().filter_map(Value::as_str);
        assert!(!texts.into_iter().any(|text| text.contains(" { ") || text.contains("Some(")), "{line}");
    }
}

fn the_end_of_a_connection_is_logged(backend: BackendName) {
    let args =
        ["--log=info,uproar::shard::journal=debug", "--workers=1", "--app=relay", backend_arg(backend)];
    let server = Process::start(&args);
    let mut client = Client::open(server.address, "/room/garden");
    for text in ["one", "two"] {
        client.send_text(text);
        client.expect_text(text);
    }
    drop(client);
    wait_until("the log has the end", || server.log().contains("connection ended"));
    let log = log_of(server);
    let line = log.lines().find(|line| line.contains("connection ended")).expect("the line exists");
    for part in [
        "DEBUG",
        "address=\"127.0.0.1\"",
        "path=\"/room/garden\"",
        "code=1006",
        "received_messages=2",
        "deliveries=2",
    ] {
        assert!(line.contains(part), "{part}: {line}");
    }
    assert_eq!(log.matches("DEBUG").count(), 1, "{log}");
}

fn many_refusals_make_few_lines(backend: BackendName) {
    let server = Process::start(&["--log-format=json", "--workers=1", backend_arg(backend)]);
    for _ in 0..20 {
        refused(&server, "/nowhere");
    }
    let lines = objects(&log_of(server));
    let refusals = with_message(&lines, "refused");
    // The last summary of refusals comes at shutdown. A machine that pauses for 10 s causes a few more lines.
    assert!((2..10).contains(&refusals.len()), "{lines:?}");
    let told: u64 = refusals.iter().map(|line| line["count"].as_u64().unwrap_or(1)).sum();
    assert_eq!(told, 20, "{lines:?}");
    assert!(
        refusals.iter().all(|line| line["reason"] == "not_found" && line["level"] == "INFO"),
        "{lines:?}"
    );
}

fn a_full_server_logs_warnings_with_the_count(backend: BackendName) {
    let args =
        ["--log-format=json", "--log=warn", "--workers=1", "--max-connections=1", backend_arg(backend)];
    let server = Process::start(&args);
    let holder = Client::open(server.address, "/");
    for _ in 0..5 {
        assert_eq!(RawClient::connect(server.address).receive_response().status, 503);
    }
    drop(holder);
    let lines = objects(&log_of(server));
    assert_eq!(
        with_message(&lines, "refused: This server has reached its connection limit").len(),
        1,
        "{lines:?}"
    );
    let refusals = with_message(&lines, "refused");
    let told: u64 = refusals.iter().map(|line| line["count"].as_u64().unwrap_or(1)).sum();
    assert_eq!(told, 5, "{lines:?}");
    let is_alarm = |line: &&Value| line["level"] == "WARN" && line["reason"] == "connections";
    assert!(refusals.iter().all(is_alarm), "{lines:?}");
}

fn messages_names_and_tokens_are_not_logged(backend: BackendName) {
    let secret = settings_file(&format!("quiet log {backend:?}"), SECRET);
    let token = token_for("ada-lovelace");
    for level in ["--log=info", "--log=debug"] {
        let flags = [level, "--listen=127.0.0.1:0", backend_arg(backend)];
        let server = Process::run(uproar(&flags).args(["--auth-hmac-secret-file", &secret]));
        let mut ada = Client::open(server.address, &format!("/room/garden?token={token}"));
        ada.expect_text("* welcome to garden, you are ada-lovelace; /help lists the commands");
        ada.send_text("between us");
        ada.expect_text("ada-lovelace: between us");
        // Another user's name differs only in case, so it gets a suffix.
        let mut other = Client::open(server.address, &format!("/?token={}", token_for("Ada-Lovelace")));
        assert!(other.receive_text().starts_with("* welcome to lobby, you are Ada-Lovelace#"));
        let mut refused = RawClient::connect(server.address);
        refused.send(format!("GET /nowhere?token={token} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes());
        assert_eq!(refused.receive_response().status, 404);
        drop((ada, other, refused));
        let log = log_of(server);
        assert!(log.contains("not_found"), "{log}");
        for private in ["ovelace", "between us", &token, SECRET] {
            assert!(!log.contains(private), "{private}: {log}");
        }
        assert!(level == "--log=debug" || !log.contains("garden"), "{log}");
    }
}

fn the_json_lines_of_a_reload_have_fields(backend: BackendName) {
    let name = format!("json reload {backend:?}");
    let path = settings_file(&name, "log-format = \"json\"\n");
    let server = Process::start(&["--config", &path, backend_arg(backend)]);
    settings_file(&name, "log-format = \"json\"\nmax-message = 5000\nworkers = 1\nmessage-rate = 7\n");
    server.signal(Signal::SIGHUP);
    wait_until("the settings are reloaded", || server.log().contains("2 changed"));
    settings_file(&name, "max-message = 0\n");
    server.signal(Signal::SIGHUP);
    wait_until("the settings are reloaded", || server.log().contains("nothing changes"));
    let lines = objects(&log_of(server));
    for (message, key, value) in [
        ("max-message: 1048576 → 5000", "setting", Value::from("max-message")),
        ("max-message: 1048576 → 5000", "from", "1048576".into()),
        ("max-message: 1048576 → 5000", "to", "5000".into()),
        ("message-rate: not set → 7", "to", "7".into()),
        ("workers: needs a restart", "needs_restart", true.into()),
        ("SIGHUP: read", "changed", 2.into()),
        ("SIGHUP: read", "files", path.as_str().into()),
        ("SIGHUP: nothing changes", "level", "WARN".into()),
    ] {
        let [line] = with_message(&lines, message)[..] else { panic!("{message}: {lines:?}") };
        assert_eq!(line[key], value, "{key}: {line}");
    }
}

fn a_start_error_is_a_json_line(backend: BackendName) {
    let other = Process::start(&[]);
    let address = other.address.to_string();
    for log in ["info", "off"] {
        let args = ["--log-format=json", "--listen", &address, "--log", log, backend_arg(backend)];
        let ended = run_to_end(&mut uproar(&args));
        assert_eq!(ended.status.code(), Some(2));
        let lines = objects(&String::from_utf8(ended.stderr).expect("text"));
        assert_eq!(with_message(&lines, &format!("cannot listen on {address}")).len(), 1, "{lines:?}");
    }
}
