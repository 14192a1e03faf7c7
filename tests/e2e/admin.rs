//! The admin listener: metrics, health checks and the live page.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::sys::signal::Signal;
use uproar::app::{App, ClientId, Context, Incoming, Opening};
use uproar::config::{AppName, BackendName, Config};
use uproar::server::Server;

use crate::support::client::Client;
use crate::support::metrics::{Metrics, http_get};
use crate::support::process::{Process, backend_arg, expect_start_failure, settings_file, uproar};
use crate::support::raw::{BINARY, RawClient, TEXT, close_payload, frame};
use crate::support::receiver::{Receiver, Reply};
use crate::support::tls::Identity;
use crate::support::{TIMEOUT, TestServer, config, wait_until};

on_both_backends!(
    counters_match_known_traffic,
    connections_are_counted_by_state,
    refusals_and_closes_are_counted_by_reason_and_code,
    memory_metrics_rise_with_use,
    only_the_hung_shard_fails_the_health_check,
    a_draining_server_is_not_ready,
    health_checks_are_answered_beside_a_thousand_silent_and_slow_clients,
    requests_for_foreign_host_names_get_421,
    host_names_in_the_settings_are_allowed,
    metrics_report_whether_the_last_reload_succeeded,
);

fn admin_config(backend: BackendName, app: AppName, workers: u16) -> Config {
    Config { admin: Some(SocketAddr::from(([127, 0, 0, 1], 0))), ..config(backend, app, workers) }
}

fn start(backend: BackendName, app: AppName, workers: u16) -> (TestServer, SocketAddr) {
    let server = TestServer::start(&admin_config(backend, app, workers));
    let admin = server.admin_address().expect("it has an admin listener");
    (server, admin)
}

fn counters_match_known_traffic(backend: BackendName) {
    let (server, admin) = start(backend, AppName::Relay, 2);
    let mut clients: Vec<_> = (0..5).map(|_| Client::open(server.address(), "/room/counted")).collect();
    // A client receives its own message once it is a member of the room.
    for (number, client) in clients.iter_mut().enumerate() {
        client.send_text(&format!("here {number}"));
        while client.receive_text() != format!("here {number}") {}
    }
    clients[0].send_text("all here");
    for client in &mut clients {
        while client.receive_text() != "all here" {}
    }
    let before = Metrics::fetch(admin);
    for number in 0..20 {
        clients[1].send_text(&format!("message {number}"));
        for client in &mut clients {
            client.expect_text(&format!("message {number}"));
        }
    }
    let after = Metrics::fetch(admin);
    let risen = |name: &str| after.sum(name, &[]) - before.sum(name, &[]);
    assert_eq!(risen("uproar_received_messages_total"), 20.0);
    assert_eq!(risen("uproar_ordered_messages_total"), 20.0);
    assert_eq!(risen("uproar_deliveries_total"), 100.0);
    assert_eq!(risen("uproar_sends_total"), 100.0, "one send per message, because the clients wait for each");
    // A server frame has a header of 2 bytes; a client frame also has a mask of 4 bytes.
    let text: usize = (0..20).map(|number| format!("message {number}").len()).sum();
    assert_eq!(risen("uproar_received_bytes_total"), (text + 20 * 6) as f64);
    assert_eq!(risen("uproar_sent_bytes_total"), (5 * (text + 20 * 2)) as f64);
    assert_eq!(after.sum("uproar_opened_total", &[]), 5.0);
    // Latency is sampled on every 16th slot only. Of five clients on two shards, at least one has slot 0.
    assert!(risen("uproar_send_latency_seconds_count") >= 20.0);
    assert!(risen("uproar_turn_duration_seconds_count") >= 20.0);
    for histogram in ["uproar_send_latency_seconds", "uproar_turn_duration_seconds"] {
        let all = after.sum(&format!("{histogram}_bucket"), &[("le", "+Inf")]);
        assert_eq!(all, after.sum(&format!("{histogram}_count"), &[]));
    }
    let name = if backend == BackendName::IoUring { "io-uring" } else { "epoll" };
    assert_eq!(after.sum("uproar_info", &[("backend", name)]), 1.0);
    assert!(after.sum("process_resident_memory_bytes", &[]) > 1e6);
}

fn connections_are_counted_by_state(backend: BackendName) {
    let (server, admin) = start(backend, AppName::Echo, 2);
    let state = |state: &str| Metrics::fetch(admin).sum("uproar_connections", &[("state", state)]);
    let silent: Vec<_> = (0..3).map(|_| RawClient::connect(server.address())).collect();
    let open: Vec<_> = (0..4).map(|_| Client::open(server.address(), "/")).collect();
    wait_until("three connections are in their handshake", || state("handshake") == 3.0);
    assert_eq!(state("open"), 4.0);
    let mut lingering = RawClient::open(server.address(), "/");
    lingering.send(&frame(0x83, b"no such opcode"));
    // The client has received the server's close frame and keeps its side open, so its connection lingers.
    wait_until("one connection lingers", || state("lingering") == 1.0);
    drop((silent, open, lingering));
    let states = ["handshake", "answering", "idle", "open", "closing", "ending", "lingering", "gone"];
    wait_until("all connections are closed", || states.iter().all(|name| state(name) == 0.0));
    let metrics = Metrics::fetch(admin);
    assert_eq!(metrics.sum("uproar_accepted_total", &[]), 8.0);
    assert_eq!(metrics.sum("uproar_closed_total", &[]), 8.0);
}

fn refusals_and_closes_are_counted_by_reason_and_code(backend: BackendName) {
    let base = admin_config(backend, AppName::Chat, 1);
    let server = TestServer::start(&Config { max_connections: 1, ..base });
    let admin = server.admin_address().expect("it has an admin listener");
    for (request, status) in [
        ("GET /nowhere HTTP/1.1\r\nHost: localhost\r\n\r\n", 404),
        ("POST / HTTP/1.1\r\nHost: localhost\r\n\r\n", 405),
        ("GET / HTTP/1.1\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5000000\r\n\r\n", 413),
    ] {
        let mut raw = RawClient::connect(server.address());
        raw.send(request.as_bytes());
        assert_eq!(raw.receive_response().status, status);
        drop(raw);
        wait_until("the connection is closed", || server.connections().0 == 0);
    }
    for (last, code) in [
        (frame(0x88, &close_payload(1000, "bye")), "1000"),
        (frame(0x88, &close_payload(4321, "mine")), "other"),
        (frame(0x88, b""), "1005"),
        (frame(BINARY, b"a chat takes text"), "1003"),
        (frame(TEXT, b"\xff"), "1007"),
        (frame(0x83, b""), "1002"),
    ] {
        let mut raw = RawClient::open(server.address(), "/");
        raw.send(&last);
        let ended = || Metrics::fetch(admin).sum("uproar_websocket_closes_total", &[("code", code)]);
        wait_until("its end is counted", || ended() == 1.0);
        drop(raw);
        wait_until("the connection is closed", || server.connections().0 == 0);
    }
    let stays = RawClient::open(server.address(), "/");
    let mut surplus = RawClient::connect(server.address());
    assert_eq!(surplus.receive_response().status, 503);
    stays.abort();
    wait_until("its end is counted", || {
        Metrics::fetch(admin).sum("uproar_websocket_closes_total", &[("code", "1006")]) == 1.0
    });
    let metrics = Metrics::fetch(admin);
    for reason in ["not_found", "method", "malformed", "too_large", "connections"] {
        assert_eq!(metrics.sum("uproar_refused_total", &[("reason", reason)]), 1.0, "{reason}");
    }
    assert_eq!(metrics.sum("uproar_refused_total", &[]), 5.0);
    assert_eq!(metrics.sum("uproar_websocket_closes_total", &[]), 7.0);
    assert_eq!(metrics.sum("uproar_opened_total", &[]), 7.0);
}

fn memory_metrics_rise_with_use(backend: BackendName) {
    let (server, admin) = start(backend, AppName::Chat, 2);
    let fresh = Metrics::fetch(admin);
    assert_eq!((fresh.sum("uproar_rooms", &[]), fresh.sum("uproar_log_bytes", &[])), (0.0, 0.0));
    assert_eq!(fresh.sum("uproar_receive_buffer_bytes", &[]), f64::from(2 * 256 * (32 << 10)));
    let mut client = Client::open(server.address(), "/room/kept");
    client.receive_text();
    client.send_text("remember this");
    client.receive_text();
    // Each request for `/metrics` collects the current values from all shards, so the test need not wait.
    let talking = Metrics::fetch(admin);
    assert!((1.0..=2.0).contains(&talking.sum("uproar_rooms", &[])), "on its home, and where its member is");
    assert!(talking.sum("uproar_log_bytes", &[]) >= 13.0);
    assert_eq!(talking.sum("uproar_outbox_bytes", &[]), 0.0);
}

/// A test application that blocks its shard at each message until the flag is set.
struct BlockingApp(Arc<AtomicBool>);

impl App for BlockingApp {
    fn on_open(&mut self, _context: &mut Context<'_>, _client: ClientId, _opening: Opening<'_>) {}

    fn on_message(&mut self, _context: &mut Context<'_>, _client: ClientId, _message: Incoming<'_>) {
        wait_until("it is released", || self.0.load(Ordering::SeqCst));
    }
}

fn only_the_hung_shard_fails_the_health_check(backend: BackendName) {
    let released = Arc::new(AtomicBool::new(false));
    let own = Arc::clone(&released);
    let make = move |_| Box::new(BlockingApp(Arc::clone(&own))) as Box<dyn App>;
    let server = TestServer::start_app(&admin_config(backend, AppName::Relay, 2), make);
    let admin = server.admin_address().expect("it has an admin listener");
    assert_eq!(http_get(admin, "/healthz").body, "ok\n");
    let mut client = Client::open(server.address(), "/");
    let owner = Metrics::fetch(admin).sum("uproar_connections", &[("shard", "1"), ("state", "open")]);
    client.send_text("sleep");
    wait_until("the health check reports the hung shard", || http_get(admin, "/healthz").status == 503);
    let body = http_get(admin, "/healthz").body;
    // The other shard was idle for just as long and must count as healthy.
    assert_eq!(body.lines().count(), 1, "{body}");
    assert!(body.starts_with(&format!("shard {owner} has not turned for ")), "{body}");
    // The admin listener answers new requests although many requests wait for the hung shard.
    // HEAD requests, because a response without a body fits in the socket's buffer until the test reads it.
    let waiting: Vec<_> = (0..100)
        .flat_map(|_| [("/healthz", 503), ("/metrics", 200)])
        .map(|(path, status)| {
            let mut stream = TcpStream::connect(admin).expect("connected");
            stream.set_read_timeout(Some(TIMEOUT)).expect("a time-out");
            stream
                .write_all(format!("HEAD {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes())
                .expect("sent");
            (path, status, stream)
        })
        .collect();
    assert!(get_with_timeout(admin, "/readyz").expect("an answer").starts_with("HTTP/1.1 200 "));
    assert!(get_with_timeout(admin, "/healthz").expect("an answer").starts_with("HTTP/1.1 503 "));
    for (path, status, mut stream) in waiting {
        let mut response = String::new();
        stream.read_to_string(&mut response).unwrap_or_else(|error| panic!("{path}: {error}"));
        assert!(response.starts_with(&format!("HTTP/1.1 {status} ")), "{path}: {response}");
    }
    let metrics = Metrics::fetch(admin);
    assert!(metrics.sum("uproar_turn_age_seconds", &[("shard", &owner.to_string())]) >= 5.0);
    released.store(true, Ordering::SeqCst);
    wait_until("the shard is healthy again", || http_get(admin, "/healthz").status == 200);
}

fn a_draining_server_is_not_ready(backend: BackendName) {
    let args = [backend_arg(backend), "--admin=127.0.0.1:0", "--drain-seconds=60", "--workers=1"];
    let server = Process::start(&args);
    let admin = server.admin_address();
    assert_eq!(http_get(admin, "/readyz").body, "ok\n");
    let clients: Vec<_> = (0..2).map(|_| Client::open(server.address, "/")).collect();
    server.signal(Signal::SIGTERM);
    wait_until("the server is not ready", || http_get(admin, "/readyz").status == 503);
    assert!(http_get(admin, "/readyz").body.starts_with("draining"));
    assert_eq!(http_get(admin, "/healthz").status, 200, "a draining server is healthy");
    assert_eq!(Metrics::fetch(admin).sum("uproar_draining", &[]), 1.0);
    drop(clients);
    assert_eq!(server.wait().code, Some(0));
}

#[test]
fn without_the_option_there_is_no_admin_listener() {
    let server = Server::start(&config(BackendName::Epoll, AppName::Echo, 1)).expect("it starts");
    assert_eq!(server.admin_address(), None);
    server.stop();
}

#[test]
fn the_admin_listener_is_closed_with_the_server() {
    let config = admin_config(BackendName::Auto, AppName::Echo, 1);
    let mut server = Server::start(&config).expect("it starts");
    let admin = server.admin_address().expect("it has an admin listener");
    assert_eq!(http_get(admin, "/readyz").status, 200);
    server.stop();
    server.join();
    let error = TcpStream::connect(admin).expect_err("the listener is closed");
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
}

#[test]
fn invalid_requests_are_refused_and_slow_clients_time_out() {
    let (_server, admin) = start(BackendName::Auto, AppName::Echo, 1);
    for (request, status, part) in [
        ("GET /nowhere HTTP/1.1\r\nHost: localhost\r\n\r\n", 404, "try /, /metrics, /healthz or /readyz"),
        ("POST /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n", 405, "GET and HEAD"),
        ("GET /metrics HTTP/1.1\r\n\r\n", 400, "Host"),
        ("\x16\x03\x01 hello\r\n\r\n", 400, ""),
        ("GET /metrics?x=1 HTTP/1.1\r\nHost: localhost\r\nConnection: keep-alive\r\n\r\n", 200, "# HELP"),
        ("HEAD /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n", 200, ""),
        ("HEAD /nowhere HTTP/1.1\r\nHost: localhost\r\n\r\n", 404, ""),
    ] {
        let mut raw = RawClient::connect(admin);
        raw.send(request.as_bytes());
        let response = raw.receive_response();
        assert_eq!(response.status, status, "{request}: {response:?}");
        assert!(response.body.contains(part), "{request}: {response:?}");
        assert_eq!(response.body.is_empty(), request.starts_with("HEAD"), "{request}");
    }
    let mut endless = RawClient::connect(admin);
    endless.try_send(format!("GET / HTTP/1.1\r\nHost: localhost\r\nX: {}", "x".repeat(20_000)).as_bytes());
    assert_eq!(endless.receive_status(), Some(431));
    let mut silent: Vec<_> = (0..6).map(|_| RawClient::connect(admin)).collect();
    silent[0].send(b"GET /metr");
    for raw in &mut silent {
        assert_eq!(raw.receive_response().status, 408);
    }
}

/// Requests a path from the admin listener, with a timeout of 10 seconds like a health check.
fn get_with_timeout(admin: SocketAddr, path: &str) -> std::io::Result<String> {
    let timeout = Duration::from_secs(10);
    let mut stream = TcpStream::connect_timeout(&admin, timeout)?;
    stream.set_read_timeout(Some(timeout))?;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: {admin}\r\n\r\n").as_bytes())?;
    let mut response = String::new();
    stream.read_to_string(&mut response)?;
    Ok(response)
}

fn health_checks_are_answered_beside_a_thousand_silent_and_slow_clients(backend: BackendName) {
    let (server, admin) = start(backend, AppName::Chat, 2);
    let ok = |path: &str| {
        let response = get_with_timeout(admin, path).unwrap_or_else(|error| panic!("{path}: {error}"));
        assert!(response.starts_with("HTTP/1.1 200 "), "{path}: {response}");
    };
    let mut silent: Vec<_> = (0..1_000).map(|_| TcpStream::connect(admin).expect("connected")).collect();
    ok("/healthz");
    // Send incomplete requests. A third of the clients then close their side.
    for (at, stream) in silent.iter_mut().enumerate() {
        let _ = stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: localh");
        if at % 3 == 0 {
            let _ = stream.shutdown(Shutdown::Write);
        }
    }
    ok("/healthz");
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut slow: Vec<_> = (0..100).map(|_| TcpStream::connect(admin).expect("connected")).collect();
            while !is_over.load(Ordering::SeqCst) {
                slow.iter_mut().for_each(|stream| drop(stream.write_all(b"G")));
                std::thread::sleep(Duration::from_millis(50));
            }
        });
        // These clients request the metrics and do not read the response.
        let unread: Vec<_> = (0..300)
            .map(|_| {
                let mut stream = TcpStream::connect(admin).expect("connected");
                let _ = stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n");
                stream
            })
            .collect();
        for path in ["/healthz", "/readyz", "/metrics", "/", "/healthz"] {
            ok(path);
        }
        is_over.store(true, Ordering::SeqCst);
        drop(unread);
    });
    // The admin listener has closed its oldest connections to accept newer ones.
    silent[0].set_read_timeout(Some(TIMEOUT)).expect("a time-out");
    // On a busy machine, a client whose request was late may have got a response before the end.
    let end = silent[0].read_to_end(&mut Vec::new());
    assert!(
        end.as_ref().map_or_else(|error| error.kind() == ErrorKind::ConnectionReset, |_| true),
        "the connection is closed: {end:?}"
    );
    drop(server);
}

fn requests_for_foreign_host_names_get_421(backend: BackendName) {
    let (_server, admin) = start(backend, AppName::Echo, 1);
    let ask_as = |host: &str, path: &str| {
        let mut raw = RawClient::connect(admin);
        raw.send(format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes());
        raw.receive_response()
    };
    for path in ["/", "/metrics", "/healthz", "/readyz"] {
        for host in ["rebound.example", "rebound.example:9100", "127.0.0.1.rebound.example"] {
            let response = ask_as(host, path);
            assert_eq!(response.status, 421, "{host}{path}: {response:?}");
            for part in [host, "--server-names"] {
                assert!(response.body.contains(part), "{part}: {}", response.body);
            }
            assert!(!response.body.contains("uproar_"), "{}", response.body);
        }
        for host in ["localhost", "LOCALHOST:9100", "uproar.localhost", "127.0.0.1:1", "[::1]", "10.1.2.3"] {
            assert_eq!(ask_as(host, path).status, 200, "{host}{path}");
        }
    }
}

fn host_names_in_the_settings_are_allowed(backend: BackendName) {
    let base = admin_config(backend, AppName::Echo, 1);
    let status = |server: &TestServer, host: &str| {
        let mut raw = RawClient::connect(server.admin_address().expect("it has an admin listener"));
        raw.send(format!("GET /metrics HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes());
        raw.receive_response().status
    };
    let server_names = vec!["admin.example".parse().expect("a name")];
    let named = Config { server_names, ..base.clone() };
    let server = TestServer::start(&named);
    assert_eq!((status(&server, "admin.example:9100"), status(&server, "rebound.example")), (200, 421));
    let allowed_origins = vec!["https://chat.example".parse().expect("an origin")];
    server.control().reload(&Config { allowed_origins, ..base.clone() }).expect("it is valid");
    assert_eq!((status(&server, "chat.example"), status(&server, "admin.example")), (200, 421));
    // An admin listener on all addresses allows every host name unless the settings list names.
    let any = Config { admin: Some(SocketAddr::from(([0, 0, 0, 0], 0))), ..base };
    assert_eq!(status(&TestServer::start(&any), "rebound.example"), 200);
    let any = Config { server_names: named.server_names, ..any };
    let server = TestServer::start(&any);
    assert_eq!((status(&server, "admin.example"), status(&server, "rebound.example")), (200, 421));
}

fn metrics_report_whether_the_last_reload_succeeded(backend: BackendName) {
    let name = format!("reload metrics {backend:?}");
    let path = settings_file(&name, "max-message = 100\n");
    let args = ["--config", &path, "--admin=127.0.0.1:0", backend_arg(backend)];
    let server = Process::start(&args);
    let read = || {
        let metrics = Metrics::fetch(server.admin_address());
        let time = metrics.sum("uproar_config_last_reload_success_timestamp_seconds", &[]);
        (metrics.sum("uproar_config_last_reload_successful", &[]), time)
    };
    let reload = |text: &str, last: &str| {
        let seen = server.log().len();
        settings_file(&name, text);
        server.signal(Signal::SIGHUP);
        wait_until(last, || server.log()[seen..].contains(last));
        read()
    };
    let (successful, started) = read();
    assert!(successful == 1.0 && started > 1.7e9, "the start counts: {successful} {started}");
    assert_eq!(reload("max-mesage = 1\n", "nothing changes"), (0.0, started));
    let (successful, second) = reload("max-message = 200\n", "1 changed");
    assert!(successful == 1.0 && second > started, "{successful} {second} {started}");
    assert_eq!(reload("history-bytes = 9\nlag-window = 1\n", "nothing changes"), (0.0, second));
}

#[test]
fn an_unusable_admin_address_is_refused_with_a_remedy() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("bound").to_string();
    expect_start_failure(&mut uproar(&["--admin", &address]), &[&address, "cannot listen on", "--admin"]);
    let parts = ["192.0.2.1:9100", "cannot listen on", "no interface"];
    expect_start_failure(&mut uproar(&["--admin", "192.0.2.1:9100"]), &parts);
    let parts = ["--admin 127.0.0.1:8000", "--listen", "another port"];
    expect_start_failure(&mut uproar(&["--admin", "127.0.0.1:8000"]), &parts);
}

/// Checks that each metric in the Grafana dashboard exists and has the labels that the dashboard's queries group by.
#[test]
fn the_grafana_dashboard_uses_existing_metrics_and_labels() {
    let identity = Identity::new();
    // Some metrics exist only with certificates, others only with keys from a URL or with webhooks.
    let keys = include_str!("../files/jwks.json");
    let provider = Receiver::start(|_, _| Reply::Respond(200, String::new(), keys.to_owned()));
    let auth_jwks = Some(provider.url("/keys").parse().expect("a URL"));
    let webhook = vec![provider.url("/hook").parse().expect("a URL")];
    let secret = settings_file("the secret of webhooks", "x".repeat(32));
    let webhook_secret_file = Some(secret.parse().expect("a secret"));
    let config = Config {
        auth_jwks,
        webhook,
        webhook_secret_file,
        ..admin_config(BackendName::Auto, AppName::Chat, 2)
    };
    let server = TestServer::start(&identity.with_tls_listener(config));
    let fetch = || Metrics::fetch(server.admin_address().expect("it has an admin listener"));
    wait_until("the keys are fetched", || {
        fetch().series.iter().any(|series| series.name == "uproar_jwks_last_success_timestamp_seconds")
    });
    let metrics = fetch();
    let text = include_str!("../../deploy/grafana-dashboard.json");
    let dashboard: serde_json::Value = serde_json::from_str(text).expect("valid JSON");
    let mut queries = Vec::new();
    gather_queries(&dashboard, &mut queries);
    assert!(queries.len() > 10, "{queries:?}");
    let manual = include_str!("../../docs/operations.md");
    for name in words(manual).filter(|word| word.starts_with("uproar_")) {
        assert!(metrics.series.iter().any(|series| series.name == name), "{name} in docs/operations.md");
    }
    for query in &queries {
        for name in words(query).filter(|word| word.starts_with("uproar_") || word.starts_with("process_")) {
            assert!(metrics.series.iter().any(|series| series.name == name), "{name} in {query}");
        }
        for label in groupings(query) {
            assert!(
                metrics.series.iter().any(|series| series.labels.contains_key(label)),
                "{label} in {query}"
            );
        }
        for (label, value) in selectors(query) {
            let exists = metrics.series.iter().any(|series| {
                series.labels.get(label).is_some_and(|own| own == value || value.starts_with('$'))
            });
            // Prometheus itself adds the labels `job` and `instance` to every series.
            assert!(exists || ["job", "instance"].contains(&label), "{label}={value} in {query}");
        }
    }
}

fn gather_queries(value: &serde_json::Value, found: &mut Vec<String>) {
    match value {
        serde_json::Value::Object(fields) => {
            for (key, field) in fields {
                match field.as_str().filter(|_| ["expr", "definition"].contains(&key.as_str())) {
                    Some(query) => found.push(query.to_owned()),
                    None => gather_queries(field, found),
                }
            }
        }
        serde_json::Value::Array(items) => items.iter().for_each(|item| gather_queries(item, found)),
        _ => {}
    }
}

fn words(query: &str) -> impl Iterator<Item = &str> {
    query.split(|char: char| !char.is_ascii_alphanumeric() && char != '_')
}

/// Returns the labels that a PromQL query groups by.
fn groupings(query: &str) -> impl Iterator<Item = &str> {
    let lists = query.split("by (").skip(1).filter_map(|rest| rest.split(')').next());
    lists.flat_map(|list| list.split(", "))
}

/// Returns the labels that a PromQL query selects, with their values.
fn selectors(query: &str) -> Vec<(&str, &str)> {
    let in_braces = query.split('{').skip(1).filter_map(|rest| rest.split('}').next());
    in_braces
        .flat_map(|inner| inner.split(','))
        .filter_map(|pair| pair.split_once('='))
        .map(|(label, value)| {
            (label.trim().trim_end_matches('!'), value.trim_matches(|char| "~\"".contains(char)))
        })
        .collect()
}
