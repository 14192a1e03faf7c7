//! Web pages that may open a WebSocket, judged by their origin and by the server name in their request.

use std::net::SocketAddr;

use uproar::config::{AppName, BackendName, Config};

use crate::support::raw::{RawClient, upgrade_request};
use crate::support::{TestServer, config};

on_both_backends!(
    apps_and_files_can_be_allowed_one_by_one,
    a_refusal_names_the_origin_and_the_option,
    a_page_that_reaches_a_local_server_by_a_name_of_its_own_is_refused,
    names_of_the_server_are_accepted_and_others_refused,
    a_trusted_proxy_may_pass_on_any_host,
    ordinary_requests_to_a_local_server_must_name_it,
    by_default_pages_of_other_origins_are_refused,
    a_list_of_origins_replaces_the_default,
    a_reloaded_list_applies_to_new_connections,
);

/// Sends an upgrade request with the headers `Host` and `Origin`, like a web page. Returns the connection.
fn handshake(server: &TestServer, host: &str, origin: &str) -> RawClient {
    let mut raw = RawClient::connect(server.address());
    let request = upgrade_request("/");
    let (line, rest) = request.split_once("\r\n").expect("a request line");
    let headers: Vec<_> = rest.split("\r\n").filter(|line| !line.starts_with("Host: ")).collect();
    raw.send(format!("{line}\r\nHost: {host}\r\nOrigin: {origin}\r\n{}", headers.join("\r\n")).as_bytes());
    raw
}

/// Returns the HTTP status that a web page of `origin` gets when it uses the server's address.
fn status(server: &TestServer, origin: &str) -> Option<u16> {
    handshake(server, &server.address().to_string(), origin).receive_status()
}

/// Returns the origin of the server's own web page.
fn own(server: &TestServer) -> String {
    format!("http://{}", server.address())
}

fn by_default_pages_of_other_origins_are_refused(backend: BackendName) {
    let server = TestServer::start(&config(backend, AppName::Chat, 2));
    assert_eq!(status(&server, &own(&server)), Some(101));
    for foreign in ["https://elsewhere.example", "null", "file://", "http://127.0.0.1.evil.example"] {
        assert_eq!(status(&server, foreign), Some(403), "{foreign}");
    }
    // Clients that are not browsers send no Origin header.
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

fn apps_and_files_can_be_allowed_one_by_one(backend: BackendName) {
    let origins = [
        "file://",
        "capacitor://localhost",
        "tauri://localhost",
        "ionic://localhost",
        "chrome-extension://abcdefghijklmnopabcdefghijklmnop",
        "moz-extension://6b2ee39c-6c5d-4a0c-8f35-df6b0a0f3f3b",
        "app://obsidian.md",
        "null",
    ];
    for own in origins {
        let server = TestServer::start(&list(backend, &[own]));
        for origin in origins {
            let expected = if origin == own { 101 } else { 403 };
            assert_eq!(status(&server, origin), Some(expected), "{origin} with {own}");
        }
    }
}

fn a_refusal_names_the_origin_and_the_option(backend: BackendName) {
    let server = TestServer::start(&config(backend, AppName::Relay, 1));
    let address = server.address().to_string();
    let long = format!("https://{}.example", "x".repeat(500));
    for (origin, shown) in [
        ("https://evil.example", "\"https://evil.example\""),
        ("capacitor://localhost", "\"capacitor://localhost\""),
        ("null", "\"null\""),
        ("<b>\"\u{e9}", "\"<b>\\\"\\xc3\\xa9\""),
        (&long, &format!("\"https://{}…\"", "x".repeat(92))),
    ] {
        let response = handshake(&server, &address, origin).receive_response();
        assert_eq!(response.status, 403, "{origin}");
        for part in [shown, "--allowed-origins"] {
            assert!(response.body.contains(part), "{part}: {}", response.body);
        }
    }
}

/// DNS rebinding: the page's origin and the Host header agree on a foreign name that resolves to this server.
fn a_page_that_reaches_a_local_server_by_a_name_of_its_own_is_refused(backend: BackendName) {
    let server = TestServer::start(&config(backend, AppName::Relay, 1));
    let port = server.address().port();
    for host in
        ["rebound.example", "127.0.0.1.rebound.example", "localhost.rebound.example", "chat.localhost.x"]
    {
        let host = format!("{host}:{port}");
        let response = handshake(&server, &host, &format!("http://{host}")).receive_response();
        assert_eq!(response.status, 421, "{host}: {response:?}");
        for part in [&*host, "--server-names"] {
            assert!(response.body.contains(part), "{part}: {}", response.body);
        }
    }
    for host in ["127.0.0.1", "localhost", "chat.localhost", "[::1]", "192.168.1.5"] {
        let host = format!("{host}:{port}");
        assert_eq!(
            handshake(&server, &host, &format!("http://{host}")).receive_status(),
            Some(101),
            "{host}"
        );
    }
    // A client without an Origin header is accepted: DNS rebinding needs a browser.
    drop(RawClient::open(server.address(), "/"));
}

fn names_of_the_server_are_accepted_and_others_refused(backend: BackendName) {
    let server_names = ["chat.example", "*.example.org"].map(|name| name.parse().expect("a name")).to_vec();
    let named = Config { server_names, ..config(backend, AppName::Relay, 1) };
    // The list of server names also applies to a listener on all addresses.
    let any = Config { listen: vec![SocketAddr::from(([0, 0, 0, 0], 0)).into()], ..named.clone() };
    for settings in [named, any] {
        let server = TestServer::start(&settings);
        for (host, expected) in [
            ("chat.example", 101),
            ("a.example.org:81", 101),
            ("127.0.0.1", 101),
            ("localhost", 101),
            ("example.org", 421),
            ("rebound.example", 421),
        ] {
            assert_eq!(
                handshake(&server, host, &format!("http://{host}")).receive_status(),
                Some(expected),
                "{host}"
            );
            // With a list of server names, clients that are not browsers must use one of these names, too.
            let mut raw = RawClient::connect(server.address());
            raw.send(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes());
            assert_eq!(raw.receive_status(), Some(if expected == 101 { 426 } else { 421 }), "{host}");
        }
        let other = Config { server_names: vec!["rebound.example".parse().expect("a name")], ..settings };
        server.control().reload(&other).expect("it is valid");
        assert_eq!(
            handshake(&server, "rebound.example", "http://rebound.example").receive_status(),
            Some(101)
        );
        assert_eq!(handshake(&server, "chat.example", "http://chat.example").receive_status(), Some(421));
    }
    let any = Config {
        listen: vec![SocketAddr::from(([0, 0, 0, 0], 0)).into()],
        ..config(backend, AppName::Relay, 1)
    };
    let public = TestServer::start(&any);
    assert_eq!(handshake(&public, "chat.example", "http://chat.example").receive_status(), Some(101));
}

fn a_trusted_proxy_may_pass_on_any_host(backend: BackendName) {
    let trusted_proxies = vec!["127.0.0.1".parse().expect("an address")];
    let server = TestServer::start(&Config { trusted_proxies, ..config(backend, AppName::Relay, 1) });
    assert_eq!(handshake(&server, "chat.example", "http://chat.example").receive_status(), Some(101));
}

/// DNS rebinding without a WebSocket: a page sends ordinary requests to a foreign name that resolves to this server.
fn ordinary_requests_to_a_local_server_must_name_it(backend: BackendName) {
    let allowed_origins = ["https://chat.example".parse().expect("an origin")].to_vec();
    let own = Config { allowed_origins, ..config(backend, AppName::Chat, 1) };
    let server = TestServer::start(&own);
    let port = server.address().port();
    for (host, is_own) in [
        ("127.0.0.1", true),
        ("[::1]", true),
        ("localhost", true),
        ("chat.example", true),
        ("rebound.example", false),
        ("127.0.0.1.rebound.example", false),
        ("sub.chat.example", false),
    ] {
        for (method, status) in [("GET", 200), ("POST", 405), ("HEAD", 200), ("OPTIONS", 405)] {
            let mut raw = RawClient::connect(server.address());
            let fields = format!("Host: {host}:{port}\r\nConnection: close\r\n");
            raw.send(format!("{method} / HTTP/1.1\r\n{fields}\r\n").as_bytes());
            let expected = if is_own { status } else { 421 };
            assert_eq!(raw.receive_response().status, expected, "{method} {host}");
        }
    }
    // Only a client that is no browser names no host.
    let mut raw = RawClient::connect(server.address());
    raw.send(b"GET / HTTP/1.0\r\n\r\n");
    assert_eq!(raw.receive_response().status, 200);
    // A listener on all addresses has names that it cannot know.
    let public = Config { listen: vec![SocketAddr::from(([0, 0, 0, 0], 0)).into()], ..own };
    let server = TestServer::start(&public);
    let mut raw = RawClient::connect(server.address());
    raw.send(b"GET / HTTP/1.1\r\nHost: rebound.example\r\n\r\n");
    assert_eq!(raw.receive_response().status, 200);
}
