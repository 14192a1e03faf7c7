//! The Origin header: which web pages may open a WebSocket.

use uproar::config::{AppName, BackendName, Config};

use crate::support::raw::{RawClient, upgrade_request};
use crate::support::{TestServer, config};

on_both_backends!(
    by_default_pages_of_other_origins_are_refused,
    a_list_of_origins_replaces_the_default,
    a_reloaded_list_applies_to_new_connections,
);

/// The status of a handshake with this Origin header.
fn status(server: &TestServer, origin: &str) -> Option<u16> {
    let mut raw = RawClient::connect(server.address());
    let header = format!("\r\nOrigin: {origin}\r\n\r\n");
    raw.send(upgrade_request("/").replacen("\r\n\r\n", &header, 1).as_bytes());
    raw.receive_status()
}

/// The origin of the server's own page.
fn own(server: &TestServer) -> String {
    // The host that `upgrade_request` names.
    let request = upgrade_request("/");
    let host = request.lines().find_map(|line| line.strip_prefix("Host: ")).expect("a host");
    assert!(server.address().ip().is_loopback());
    format!("http://{host}")
}

fn by_default_pages_of_other_origins_are_refused(backend: BackendName) {
    let server = TestServer::start(&config(backend, AppName::Chat, 2));
    assert_eq!(status(&server, &own(&server)), Some(101));
    for foreign in ["https://elsewhere.example", "null", "file://", "http://127.0.0.1.evil.example"] {
        assert_eq!(status(&server, foreign), Some(403), "{foreign}");
    }
    // What is no browser names no origin.
    drop(RawClient::open(server.address(), "/"));
    assert_eq!(server.totals().refused, 4);
}

fn list(backend: BackendName, origins: &[&str]) -> Config {
    let allowed_origins = origins.iter().map(|origin| origin.parse().expect("an origin")).collect();
    Config { allowed_origins, ..config(backend, AppName::Relay, 2) }
}

fn a_list_of_origins_replaces_the_default(backend: BackendName) {
    let server = TestServer::start(&list(backend, &["https://chat.example", "https://*.example.org"]));
    for (origin, expected) in [
        ("https://chat.example", 101),
        ("https://a.b.example.org", 101),
        ("https://example.org", 403),
        ("http://chat.example", 403),
        ("null", 403),
    ] {
        assert_eq!(status(&server, origin), Some(expected), "{origin}");
    }
    assert_eq!(status(&server, &own(&server)), Some(403), "the list does not include the own origin");
}

fn a_reloaded_list_applies_to_new_connections(backend: BackendName) {
    let server = TestServer::start(&list(backend, &["https://old.example"]));
    assert_eq!(status(&server, "https://new.example"), Some(403));
    server.control().reload(&list(backend, &["https://new.example"])).expect("the settings are valid");
    assert_eq!(status(&server, "https://new.example"), Some(101));
    assert_eq!(status(&server, "https://old.example"), Some(403));
}
