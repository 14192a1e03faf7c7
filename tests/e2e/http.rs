//! HTTP requests that are no WebSocket handshakes: connections that are used again, pipelines, and bodies.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use uproar::app::{
    Answer, App, ClientId, Context, HttpRequest, Incoming, Message, Opening, Response, Status,
};
use uproar::config::{AppName, BackendName, Config};

use crate::support::raw::{RawClient, TEXT, connect_from, frame, upgrade_request, upgrade_request_with};
use crate::support::{TestServer, config, wait_until};

on_both_backends!(
    a_connection_answers_many_requests,
    pipelined_requests_are_answered_in_order,
    a_pipeline_that_nobody_reads_waits_in_the_socket,
    bodies_arrive_whole_however_they_are_sent,
    a_body_over_the_limit_gets_413_at_once,
    a_client_that_expects_100_continue_gets_it,
    requests_that_could_smuggle_others_are_refused,
    a_response_ends_its_connection_when_one_side_wants_it,
    a_head_request_keeps_its_connection,
    without_keep_alive_every_response_ends_its_connection,
    an_idle_connection_ends_after_the_keep_alive_time,
    a_later_request_that_does_not_arrive_in_time_gets_408,
    idle_connections_do_not_count_as_handshakes,
    at_the_connection_limit_the_longest_idle_connection_makes_room,
    a_websocket_opens_on_a_connection_that_was_used_before,
    a_refused_handshake_ends_its_connection,
    a_client_that_half_closes_gets_all_responses,
    a_proxy_passes_on_requests_of_several_clients,
    requests_count_against_the_rates_of_a_client,
    a_response_of_the_last_requests_at_shutdown_ends_the_connection,
);

/// An application with a few pages. Its WebSockets send back what they get.
struct Pages;

const LONG: &[u8] = &[b'x'; 100_000];

impl App for Pages {
    fn on_request(&mut self, _: &mut Context<'_>, request: &HttpRequest<'_>) -> Answer {
        let answer = match request.path() {
            "/echo" => {
                let body = String::from_utf8_lossy(request.body());
                Response::text(Status::Ok, format!("{} {body}", request.method()))
            }
            "/len" => Response::text(Status::Ok, request.body().len().to_string()),
            "/long" => Response::new(Status::Ok, "text/plain", LONG),
            "/nothing" => Response::new(Status::NoContent, "", &b""[..]),
            "/close" => Response::text(Status::Ok, "bye")
                .with_header("connection", "close")
                .with_header("Content-Length", "1000"),
            "/address" => {
                let address = request.client_address().expect("a TCP connection");
                Response::text(Status::Ok, address.to_string())
            }
            "/talk" => return Answer::open("talk"),
            _ => return Answer::NotMine,
        };
        answer.into()
    }

    fn on_open(&mut self, context: &mut Context<'_>, client: ClientId, _: Opening<'_>) {
        context.send_to_client(client, Message::text("hello"));
    }

    fn on_message(&mut self, context: &mut Context<'_>, client: ClientId, message: Incoming<'_>) {
        context.send_to_client(client, message.into());
    }
}

fn start(settings: &Config) -> TestServer {
    TestServer::start_app(settings, |_| Box::new(Pages))
}

fn pages(backend: BackendName) -> TestServer {
    start(&config(backend, AppName::Echo, 1))
}

fn get(path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").into_bytes()
}

fn post(path: &str, body: &str) -> Vec<u8> {
    let len = body.len();
    format!("POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len}\r\n\r\n{body}").into_bytes()
}

/// Sends a request, and asserts that its response has this status and body and keeps the connection.
fn expect_kept(raw: &mut RawClient, request: &[u8], status: u16, body: &str) {
    raw.send(request);
    let response = raw.receive_response();
    assert_eq!((response.status, response.body.as_str()), (status, body));
    assert!(!response.head.contains("\r\nConnection:"), "{}", response.head);
}

fn a_connection_answers_many_requests(backend: BackendName) {
    let server = pages(backend);
    let mut raw = RawClient::connect(server.address());
    for number in 0..20 {
        let body = number.to_string();
        expect_kept(&mut raw, &post("/echo", &body), 200, &format!("POST {body}"));
        expect_kept(&mut raw, &get("/echo"), 200, "GET ");
        // An error of the application keeps the connection, too, and so do empty lines between requests.
        expect_kept(&mut raw, &get("/nowhere"), 404, "Nothing is at this path.\n");
        raw.send(b"\r\n\r\n");
        // A request in single bytes.
        for byte in get("/nothing") {
            raw.send(&[byte]);
        }
        let response = raw.receive_response();
        assert_eq!((response.status, response.body.as_str()), (204, ""));
    }
    let totals = server.totals();
    assert_eq!((totals.accepted, totals.requests), (1, 80));
}

fn pipelined_requests_are_answered_in_order(backend: BackendName) {
    let server = pages(backend);
    let mut raw = RawClient::connect(server.address());
    let pipeline: Vec<u8> = (0..1_000).flat_map(|number| post("/echo", &number.to_string())).collect();
    raw.send(&pipeline);
    for number in 0..1_000 {
        assert_eq!(raw.receive_response().body, format!("POST {number}"));
    }
    // Requests behind one that ends the connection are not answered.
    raw.send(&[get("/echo"), get("/close"), get("/echo")].concat());
    assert_eq!(raw.receive_response().body, "GET ");
    assert_eq!(raw.receive_response().body, "bye");
    assert_eq!(server.totals().requests, 1_002);
}

/// The responses of the pipeline are 100 MB. The server makes only a few of them until the client reads.
fn a_pipeline_that_nobody_reads_waits_in_the_socket(backend: BackendName) {
    const REQUESTS: usize = 1_000;
    let server = pages(backend);
    let mut raw = RawClient::connect(server.address()).with_small_window();
    raw.send(&get("/long").repeat(REQUESTS));
    let made = || server.totals().requests;
    wait_until("the server waits for the client", || {
        let before = made();
        std::thread::sleep(Duration::from_millis(50));
        before > 0 && made() == before
    });
    assert!(made() < 200, "{} responses were made", made());
    for _ in 0..REQUESTS {
        assert_eq!(raw.receive_response().body.len(), LONG.len());
    }
    assert_eq!(made(), REQUESTS as u64);
}

fn bodies_arrive_whole_however_they_are_sent(backend: BackendName) {
    let server = pages(backend);
    let mut raw = RawClient::connect(server.address());
    let chunked = |body: &str| {
        let head = "POST /echo HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n";
        format!("{head}{body}").into_bytes()
    };
    for (request, body) in [
        (post("/echo", ""), ""),
        (post("/echo", "a body"), "a body"),
        (chunked("0\r\n\r\n"), ""),
        (chunked("3;name=value\r\na b\r\n3\r\nody\r\n0\r\nTrailer: x\r\n\r\n"), "a body"),
    ] {
        expect_kept(&mut raw, &request, 200, &format!("POST {body}"));
        for byte in request {
            raw.send(&[byte]);
        }
        assert_eq!(raw.receive_response().body, format!("POST {body}"));
    }
    let long = "x".repeat(1 << 20);
    expect_kept(&mut raw, &post("/len", &long), 200, "1048576");
    expect_kept(&mut raw, &post("/echo", "after it"), 200, "POST after it");
}

fn a_body_over_the_limit_gets_413_at_once(backend: BackendName) {
    let server = start(&Config { max_request_body: 10, ..config(backend, AppName::Echo, 1) });
    let mut raw = RawClient::connect(server.address());
    expect_kept(&mut raw, &post("/len", "0123456789"), 200, "10");
    // The body is announced and not sent.
    raw.send(b"POST /len HTTP/1.1\r\nHost: localhost\r\nContent-Length: 11\r\n\r\n");
    let response = raw.receive_response();
    assert_eq!(response.status, 413, "{response:?}");
    assert!(response.head.contains("\r\nConnection: close\r\n"), "{}", response.head);
    let mut raw = RawClient::connect(server.address());
    raw.send(
        b"POST /len HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n01234\r\n6\r\n",
    );
    assert_eq!(raw.receive_response().status, 413);
    let server = start(&Config { max_request_body: 0, ..config(backend, AppName::Echo, 1) });
    let mut raw = RawClient::connect(server.address());
    expect_kept(&mut raw, &post("/len", ""), 200, "0");
    raw.send(&post("/len", "x"));
    assert_eq!(raw.receive_response().status, 413);
}

fn a_client_that_expects_100_continue_gets_it(backend: BackendName) {
    let server = pages(backend);
    let mut raw = RawClient::connect(server.address());
    for _ in 0..2 {
        raw.send(
            b"POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n",
        );
        assert_eq!(raw.receive_head(), "HTTP/1.1 100 Continue\r\n\r\n");
        raw.send(b"body");
        assert_eq!(raw.receive_response().body, "POST body");
    }
    // A client that does not wait gets no 100, and one that will get 413 gets it before the body.
    expect_kept(
        &mut raw,
        b"POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\nbody",
        200,
        "POST body",
    );
    raw.send(
        b"POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4000000\r\nExpect: 100-continue\r\n\r\n",
    );
    assert_eq!(raw.receive_response().status, 413);
}

fn requests_that_could_smuggle_others_are_refused(backend: BackendName) {
    let server = pages(backend);
    let behind = String::from_utf8(get("/echo")).expect("text");
    for (what, fields, body) in [
        ("two lengths", "Content-Length: 5\r\nContent-Length: 6\r\n", "01234"),
        ("two equal lengths", "Content-Length: 5\r\nContent-Length: 5\r\n", "01234"),
        ("a list of lengths", "Content-Length: 5, 5\r\n", "01234"),
        ("a negative length", "Content-Length: -5\r\n", "01234"),
        ("a length and chunks", "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"),
        ("an unknown encoding", "Transfer-Encoding: xchunked\r\n", "0\r\n\r\n"),
        ("two encodings", "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"),
        ("another encoding", "Transfer-Encoding: gzip, chunked\r\n", "0\r\n\r\n"),
        ("a folded field", "Transfer-Encoding:\r\n chunked\r\n", "0\r\n\r\n"),
        ("a space before the colon", "Transfer-Encoding : chunked\r\n", "0\r\n\r\n"),
        ("a bare line feed", "X: y\nContent-Length: 5\r\n", "01234"),
        ("a size with a sign", "Transfer-Encoding: chunked\r\n", "+0\r\n\r\n"),
        ("a size in hexadecimal notation", "Transfer-Encoding: chunked\r\n", "0x0\r\n\r\n"),
        ("a chunk that ends in a line feed", "Transfer-Encoding: chunked\r\n", "1\r\na\n0\r\n\r\n"),
        ("a size without digits", "Transfer-Encoding: chunked\r\n", "\r\n\r\n"),
    ] {
        let mut raw = RawClient::connect(server.address());
        expect_kept(&mut raw, &get("/echo"), 200, "GET ");
        let head = format!("POST /echo HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n");
        raw.send(format!("{head}{body}{behind}").as_bytes());
        // The response is the last one: the request behind it is not answered.
        let response = raw.receive_response();
        assert_eq!(response.status, 400, "{what}: {response:?}");
        assert!(response.head.contains("\r\nConnection: close\r\n"), "{what}: {}", response.head);
        assert!(!response.body.contains("HTTP/1.1"), "{what}: {}", response.body);
    }
}

fn a_response_ends_its_connection_when_one_side_wants_it(backend: BackendName) {
    let server = pages(backend);
    for request in [
        "GET /echo HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        "GET /echo HTTP/1.1\r\nHost: localhost\r\nConnection: x, CLOSE\r\n\r\n",
        "GET /echo HTTP/1.0\r\n\r\n",
        "GET /echo HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
        "GET /close HTTP/1.1\r\nHost: localhost\r\n\r\n",
    ] {
        let mut raw = RawClient::connect(server.address());
        expect_kept(&mut raw, &get("/echo"), 200, "GET ");
        raw.send(request.as_bytes());
        // The body is all that follows the head, so the connection has ended.
        let response = raw.receive_response();
        assert!(response.head.contains("\r\nConnection: close\r\n"), "{request}: {}", response.head);
        assert!(["GET ", "bye"].contains(&&*response.body), "{request}: {}", response.body);
        let len = format!("\r\nContent-Length: {}\r\n", response.body.len());
        assert!(response.head.contains(&len) && response.head.matches("Content-Length").count() == 1);
    }
}

fn a_head_request_keeps_its_connection(backend: BackendName) {
    let server = pages(backend);
    let mut raw = RawClient::connect(server.address());
    for _ in 0..3 {
        raw.send(b"HEAD /long HTTP/1.1\r\nHost: localhost\r\n\r\n");
        assert!(raw.receive_head().contains("\r\nContent-Length: 100000\r\n"));
        raw.send(b"HEAD /nowhere HTTP/1.1\r\nHost: localhost\r\n\r\n");
        assert!(raw.receive_head().starts_with("HTTP/1.1 404 "));
    }
    expect_kept(&mut raw, &get("/echo"), 200, "GET ");
}

fn without_keep_alive_every_response_ends_its_connection(backend: BackendName) {
    let server = start(&Config { keep_alive_seconds: Duration::ZERO, ..config(backend, AppName::Echo, 1) });
    for path in ["/echo", "/nowhere"] {
        let mut raw = RawClient::connect(server.address());
        raw.send(&get(path));
        assert!(raw.receive_response().head.contains("\r\nConnection: close\r\n"));
    }
}

fn an_idle_connection_ends_after_the_keep_alive_time(backend: BackendName) {
    let keep_alive_seconds = Duration::from_millis(300);
    let server = start(&Config { keep_alive_seconds, ..config(backend, AppName::Echo, 1) });
    let mut raw = RawClient::connect(server.address());
    let mut begin = Instant::now();
    for _ in 0..4 {
        // Each request begins the time anew.
        std::thread::sleep(Duration::from_millis(100));
        begin = Instant::now();
        expect_kept(&mut raw, &get("/echo"), 200, "GET ");
    }
    raw.send(b"\r\n");
    raw.expect_end();
    assert!(begin.elapsed() >= keep_alive_seconds, "{:?}", begin.elapsed());
    let totals = server.totals();
    assert_eq!((totals.refused, totals.requests), (0, 4));
}

fn a_later_request_that_does_not_arrive_in_time_gets_408(backend: BackendName) {
    let base = config(backend, AppName::Echo, 1);
    let server = start(&Config { handshake_seconds: Duration::from_millis(100), ..base });
    for beginning in [
        &b"G"[..],
        b"GET / HTTP/1.1\r\n",
        b"POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\n1234",
    ] {
        let mut raw = RawClient::connect(server.address());
        expect_kept(&mut raw, &get("/echo"), 200, "GET ");
        // Idle for longer than a request may take.
        std::thread::sleep(Duration::from_millis(150));
        raw.send(beginning);
        assert_eq!(raw.receive_response().status, 408);
    }
}

fn idle_connections_do_not_count_as_handshakes(backend: BackendName) {
    let server = start(&Config { max_handshakes: 2, ..config(backend, AppName::Echo, 1) });
    let mut idle: Vec<_> = (0..10)
        .map(|_| {
            let mut raw = RawClient::connect(server.address());
            expect_kept(&mut raw, &get("/echo"), 200, "GET ");
            raw
        })
        .collect();
    idle.iter_mut().for_each(|raw| expect_kept(raw, &get("/echo"), 200, "GET "));
    // An unfinished later request counts: the third one ends the first one.
    for raw in &mut idle[..3] {
        let before = server.totals().bytes_in;
        raw.send(b"GET ");
        wait_until("the beginning has arrived", || server.totals().bytes_in == before + 4);
    }
    wait_until("one connection is reset", || server.totals().refused == 1);
    assert_eq!(server.connections().0, 9);
}

fn at_the_connection_limit_the_longest_idle_connection_makes_room(backend: BackendName) {
    let server = start(&Config { max_connections: 3, ..config(backend, AppName::Echo, 1) });
    let connect = || {
        let mut raw = RawClient::connect(server.address());
        expect_kept(&mut raw, &get("/echo"), 200, "GET ");
        // Each connection has another last sign of life.
        std::thread::sleep(Duration::from_millis(5));
        raw
    };
    let [mut first, mut second, mut third] = [(); 3].map(|()| connect());
    expect_kept(&mut first, &get("/echo"), 200, "GET ");
    let fourth = RawClient::open(server.address(), "/talk");
    second.expect_end();
    let fifth = RawClient::open(server.address(), "/talk");
    third.expect_end();
    drop((second, third));
    expect_kept(&mut first, &get("/echo"), 200, "GET ");
    // The next search for idle connections is allowed then.
    std::thread::sleep(Duration::from_millis(150));
    let sixth = RawClient::open(server.address(), "/talk");
    first.expect_end();
    // WebSockets make no room.
    assert_eq!(RawClient::connect(server.address()).receive_response().status, 503);
    drop((fourth, fifth, sixth));
}

fn a_websocket_opens_on_a_connection_that_was_used_before(backend: BackendName) {
    let server = pages(backend);
    let mut raw = RawClient::connect(server.address());
    expect_kept(&mut raw, &post("/echo", "first"), 200, "POST first");
    let upgrade = upgrade_request("/talk").into_bytes();
    // All in one packet: two requests, the handshake, and a message behind it.
    raw.send(&[get("/long"), get("/echo"), upgrade, frame(TEXT, b"one")].concat());
    assert_eq!(raw.receive_response().body.len(), LONG.len());
    assert_eq!(raw.receive_response().body, "GET ");
    raw.expect_upgrade();
    assert_eq!(raw.receive_frame(), (TEXT, b"hello".to_vec()));
    assert_eq!(raw.receive_frame(), (TEXT, b"one".to_vec()));
    raw.send(&frame(TEXT, b"two"));
    assert_eq!(raw.receive_frame(), (TEXT, b"two".to_vec()));
    assert_eq!(server.totals().accepted, 1);
}

fn a_refused_handshake_ends_its_connection(backend: BackendName) {
    let server = pages(backend);
    for (path, status) in [("/nowhere", 404), ("/echo", 200)] {
        let mut raw = RawClient::connect(server.address());
        expect_kept(&mut raw, &get("/echo"), 200, "GET ");
        // The bytes behind a refused handshake may be WebSocket frames, so the server reads no request from them.
        raw.send(&[upgrade_request(path).into_bytes(), get("/echo")].concat());
        let response = raw.receive_response();
        assert_eq!(response.status, status, "{response:?}");
        assert!(response.head.contains("\r\nConnection: close\r\n"), "{}", response.head);
        assert!(!response.body.contains("HTTP/1.1"), "{}", response.body);
    }
}

fn a_client_that_half_closes_gets_all_responses(backend: BackendName) {
    let server = pages(backend);
    let mut raw = RawClient::connect(server.address());
    raw.send(&[get("/long").repeat(20), post("/echo", "last"), b"GET /un".to_vec()].concat());
    raw.half_close();
    for _ in 0..20 {
        assert_eq!(raw.receive_response().body.len(), LONG.len());
    }
    assert_eq!(raw.receive_response().body, "POST last");
    raw.expect_end();
}

fn a_proxy_passes_on_requests_of_several_clients(backend: BackendName) {
    let base = config(backend, AppName::Echo, 1);
    let trusted_proxies = vec!["127.0.0.1".parse().expect("an address")];
    let server = start(&Config { trusted_proxies, max_connections_per_ip: 1, ..base });
    let from = |client: &str| {
        format!("GET /address HTTP/1.1\r\nHost: localhost\r\nX-Forwarded-For: {client}\r\n\r\n").into_bytes()
    };
    let mut proxy = RawClient::connect(server.address());
    for _ in 0..3 {
        for client in ["1.2.3.4", "1.2.3.5", "2001:db8::1"] {
            expect_kept(&mut proxy, &from(client), 200, client);
            assert_eq!(server.connections(), (1, 0), "between two requests it counts for no client");
        }
        // Nobody is named: the address of the client before must not stick.
        expect_kept(&mut proxy, &get("/address"), 200, "127.0.0.1");
        // A request in two parts.
        proxy.send(b"GET /address HTTP/1.1\r\n");
        expect_kept(&mut proxy, b"Host: localhost\r\nX-Forwarded-For: 1.2.3.6\r\n\r\n", 200, "1.2.3.6");
    }
    // A WebSocket counts for its client, and then the client's requests on the connection of a proxy are over its limit.
    let mut other = RawClient::connect(server.address());
    expect_kept(&mut other, &from("1.2.3.4"), 200, "1.2.3.4");
    other.send(upgrade_request_with("/talk", &["X-Forwarded-For: 1.2.3.5"]).as_bytes());
    other.expect_upgrade();
    assert_eq!(server.connections(), (2, 1));
    expect_kept(&mut proxy, &from("1.2.3.4"), 200, "1.2.3.4");
    proxy.send(&from("1.2.3.5"));
    assert_eq!(proxy.receive_response().status, 429);
}

fn requests_count_against_the_rates_of_a_client(backend: BackendName) {
    let base = config(backend, AppName::Echo, 1);
    let settings = Config { message_rate: Some(50), byte_rate: Some(0), ..base };
    let server = start(&settings);
    let mut raw = RawClient::connect(server.address());
    let begin = Instant::now();
    raw.send(&get("/echo").repeat(225));
    (0..225).for_each(|_| assert_eq!(raw.receive_response().body, "GET "));
    // 200 requests are a burst, the others come at the rate.
    assert!(begin.elapsed() >= Duration::from_millis(400), "{:?}", begin.elapsed());
    assert!(server.totals().throttled > 0);
    // On the connection of a trusted proxy, they do not.
    let trusted_proxies = vec!["127.0.0.0/8".parse().expect("a network")];
    let server = start(&Config { trusted_proxies, ..settings });
    let proxy = connect_from(IpAddr::from([127, 0, 0, 2]), server.address());
    let mut raw = RawClient::from_stream(proxy);
    raw.send(&get("/echo").repeat(1_000));
    (0..1_000).for_each(|_| assert_eq!(raw.receive_response().body, "GET "));
    assert_eq!(server.totals().throttled, 0);
}

fn a_response_of_the_last_requests_at_shutdown_ends_the_connection(backend: BackendName) {
    let base = config(backend, AppName::Echo, 1);
    let server = start(&Config { drain_seconds: Duration::from_secs(600), ..base });
    let mut idle = RawClient::connect(server.address());
    expect_kept(&mut idle, &get("/echo"), 200, "GET ");
    let mut busy = RawClient::connect(server.address());
    expect_kept(&mut busy, &get("/echo"), 200, "GET ");
    busy.send(b"GET /echo HTTP/1.1\r\n");
    wait_until("the beginning has arrived", || server.totals().bytes_in as usize > 2 * get("/echo").len());
    let others: Vec<_> = (0..50).map(|_| RawClient::open(server.address(), "/talk")).collect();
    server.stop();
    // The idle connection is in the first slot, so it is closed first, with FIN and without a response.
    idle.expect_end();
    busy.send(b"Host: localhost\r\n\r\n");
    let response = busy.receive_response();
    assert_eq!(response.body, "GET ");
    assert!(response.head.contains("\r\nConnection: close\r\n"), "{}", response.head);
    drop(others);
}
