//! Answers to HTTP requests that another thread gives later, and what `on_request` tells `on_open`.

use std::sync::Mutex;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

use uproar::app::{
    Answer, App, ClientId, Context, HttpRequest, Incoming, Message, Opening, Responder, Response, Status,
    Upgrade,
};
use uproar::config::{AppName, BackendName, Config};

use crate::support::raw::{RawClient, TEXT, frame, upgrade_request, upgrade_request_with};
use crate::support::{TIMEOUT, TestServer, config, wait_until};

on_both_backends!(
    an_answer_may_come_from_another_thread,
    later_requests_wait_for_a_deferred_answer,
    a_dropped_responder_answers_with_500,
    only_the_first_of_two_responders_answers,
    an_answer_to_a_client_that_has_left_reaches_nobody,
    a_client_that_half_closes_gets_its_deferred_answer,
    a_deferral_of_another_request_is_a_mistake,
    a_deferred_answer_opens_or_refuses_a_websocket,
    the_value_of_a_request_reaches_its_websocket,
    an_application_chooses_a_subprotocol,
    a_deferred_answer_at_shutdown_ends_the_connection,
    a_request_without_an_answer_gets_503_at_the_end_of_the_drain,
    a_proxy_gets_its_connection_back_after_a_deferred_answer,
);

/// The deferred requests of a test: the path of each, and its responder.
type Deferred = Receiver<(String, Responder)>;

/// An application that defers the answers to paths below `/later/`.
struct Deferring {
    requests: Sender<(String, Responder)>,
    /// A deferral of an earlier request.
    stale: Option<Answer>,
}

/// The user of a connection, as `on_request` tells it to `on_open`.
struct User(String);

impl App for Deferring {
    fn on_request(&mut self, context: &mut Context<'_>, request: &HttpRequest<'_>) -> Answer {
        let path = request.path();
        if path.starts_with("/later/") {
            let (answer, responder) = request.defer(context);
            self.requests.send((path.into(), responder)).expect("the test lives");
            return answer;
        }
        match path {
            "/stale" => {
                let (answer, responder) = request.defer(context);
                self.requests.send((path.into(), responder)).expect("the test lives");
                self.stale.replace(answer).unwrap_or(Answer::NotMine)
            }
            "/twice" => {
                let (_, first) = request.defer(context);
                let (answer, second) = request.defer(context);
                first.answer(Response::text(Status::Ok, "first"));
                second.answer(Response::text(Status::Ok, "second"));
                answer
            }
            "/user" => {
                let name = request.header("X-Name").unwrap_or_default().to_owned();
                Upgrade::to("lobby").with_value(User(name)).into()
            }
            "/chosen" => match request.subprotocols().find(|offered| offered.starts_with("v2.")) {
                Some(chosen) => Upgrade::to("lobby").with_subprotocol(chosen).into(),
                None => Upgrade::to("lobby").into(),
            },
            "/wrong" => Upgrade::to("lobby").with_subprotocol("unheard-of").into(),
            _ => Response::text(Status::Ok, path.to_owned()).into(),
        }
    }

    fn on_open(&mut self, context: &mut Context<'_>, client: ClientId, mut opening: Opening<'_>) {
        assert!(opening.take::<u8>().is_none(), "a value of another type stays");
        let name = opening.take::<User>().map_or_else(|| "nobody".into(), |user| user.0);
        context.send_to_client(client, Message::text(&name));
    }

    fn on_message(&mut self, context: &mut Context<'_>, client: ClientId, message: Incoming<'_>) {
        context.send_to_client(client, message.into());
    }
}

fn start(settings: &Config) -> (TestServer, Deferred) {
    let (requests, deferred) = channel();
    let requests = Mutex::new(requests);
    let make = move |_| -> Box<dyn App> {
        let requests = requests.lock().expect("no test panics here").clone();
        Box::new(Deferring { requests, stale: None })
    };
    (TestServer::start_app(settings, make), deferred)
}

fn start_one(backend: BackendName) -> (TestServer, Deferred) {
    start(&config(backend, AppName::Echo, 1))
}

fn get(path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").into_bytes()
}

/// Returns the responder of the next deferred request, which must have this path.
fn next(deferred: &Deferred, path: &str) -> Responder {
    let (asked, responder) = deferred.recv_timeout(TIMEOUT).expect("a deferred request");
    assert_eq!(asked, path);
    responder
}

fn text(text: &str) -> Response {
    Response::text(Status::Ok, text.to_owned())
}

fn expect_body(raw: &mut RawClient, body: &str) {
    assert_eq!(raw.receive_response().body, body);
}

fn an_answer_may_come_from_another_thread(backend: BackendName) {
    let (server, deferred) = start(&config(backend, AppName::Echo, 2));
    let answerer = thread::spawn(move || {
        for (path, responder) in deferred {
            // The workers sleep by now.
            thread::sleep(Duration::from_millis(20));
            responder.answer(text(&format!("answer to {path}")));
        }
    });
    let mut clients: Vec<_> = (0..10).map(|_| RawClient::connect(server.address())).collect();
    for round in 0..3 {
        for (number, raw) in clients.iter_mut().enumerate() {
            raw.send(&get(&format!("/later/{round}/{number}")));
        }
        for (number, raw) in clients.iter_mut().enumerate() {
            expect_body(raw, &format!("answer to /later/{round}/{number}"));
        }
    }
    drop(clients);
    drop(server);
    answerer.join().expect("it ends with the server");
}

fn later_requests_wait_for_a_deferred_answer(backend: BackendName) {
    let (server, deferred) = start_one(backend);
    let mut raw = RawClient::connect(server.address());
    raw.send(&[get("/now"), get("/later/1"), get("/then"), get("/later/2"), b"HEAD".to_vec()].concat());
    expect_body(&mut raw, "/now");
    let first = next(&deferred, "/later/1");
    // The rest of the next request arrives while the first one waits.
    raw.send(b" /later/3 HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert_eq!(server.totals().requests, 2);
    first.answer(text("one"));
    expect_body(&mut raw, "one");
    expect_body(&mut raw, "/then");
    next(&deferred, "/later/2").answer(text("two"));
    expect_body(&mut raw, "two");
    next(&deferred, "/later/3").answer(text("three"));
    assert!(raw.receive_head().contains("\r\nContent-Length: 5\r\n"), "without its body");
    raw.send(&get("/last"));
    expect_body(&mut raw, "/last");
}

fn a_dropped_responder_answers_with_500(backend: BackendName) {
    let (server, deferred) = start_one(backend);
    let mut raw = RawClient::connect(server.address());
    raw.send(&get("/later/1"));
    drop(next(&deferred, "/later/1"));
    assert_eq!(raw.receive_response().status, 500);
    raw.send(&get("/now"));
    expect_body(&mut raw, "/now");
}

fn only_the_first_of_two_responders_answers(backend: BackendName) {
    let (server, _deferred) = start_one(backend);
    let mut raw = RawClient::connect(server.address());
    for _ in 0..3 {
        raw.send(&get("/twice"));
        expect_body(&mut raw, "first");
        raw.send(&get("/now"));
        expect_body(&mut raw, "/now");
    }
}

fn an_answer_to_a_client_that_has_left_reaches_nobody(backend: BackendName) {
    let (server, deferred) = start_one(backend);
    let mut gone = RawClient::connect(server.address());
    gone.send(&get("/later/gone"));
    let responder = next(&deferred, "/later/gone");
    gone.abort();
    wait_until("the connection is released", || server.connections().0 == 0);
    // The next connection has the slot of the former one, and a deferred request, too.
    let mut raw = RawClient::connect(server.address());
    raw.send(&get("/later/here"));
    let here = next(&deferred, "/later/here");
    responder.answer(text("for another client"));
    here.answer(text("here"));
    expect_body(&mut raw, "here");
}

fn a_client_that_half_closes_gets_its_deferred_answer(backend: BackendName) {
    let (server, deferred) = start_one(backend);
    for behind in [&b""[..], b"GET /un"] {
        let mut raw = RawClient::connect(server.address());
        raw.send(&[&get("/later/1"), behind].concat());
        raw.half_close();
        let responder = next(&deferred, "/later/1");
        thread::sleep(Duration::from_millis(20));
        responder.answer(text("answer"));
        expect_body(&mut raw, "answer");
        raw.expect_end();
    }
}

fn a_deferral_of_another_request_is_a_mistake(backend: BackendName) {
    let (server, deferred) = start_one(backend);
    let mut raw = RawClient::connect(server.address());
    raw.send(&get("/stale"));
    assert_eq!(raw.receive_response().status, 404);
    raw.send(&get("/stale"));
    assert_eq!(raw.receive_response().status, 500);
    // Neither request waits any more.
    next(&deferred, "/stale").answer(text("late"));
    next(&deferred, "/stale").answer(text("late"));
    raw.send(&get("/now"));
    expect_body(&mut raw, "/now");
}

fn a_deferred_answer_opens_or_refuses_a_websocket(backend: BackendName) {
    let (server, deferred) = start_one(backend);
    let mut raw = RawClient::connect(server.address());
    raw.send(&get("/now"));
    expect_body(&mut raw, "/now");
    // A message follows the handshake before it is answered.
    raw.send(&[upgrade_request("/later/open").into_bytes(), frame(TEXT, b"early")].concat());
    next(&deferred, "/later/open").answer(Upgrade::to("lobby").with_value(User("ada".into())));
    raw.expect_upgrade();
    assert_eq!(raw.receive_frame(), (TEXT, b"ada".to_vec()));
    assert_eq!(raw.receive_frame(), (TEXT, b"early".to_vec()));
    raw.send(&frame(TEXT, b"late"));
    assert_eq!(raw.receive_frame(), (TEXT, b"late".to_vec()));
    let refuse = Answer::refuse(Status::Forbidden, "no");
    for (answer, status) in [(refuse, 403), (text("page").into(), 200), (Answer::NotMine, 404)] {
        let mut raw = RawClient::connect(server.address());
        raw.send(&[upgrade_request("/later/refuse").into_bytes(), frame(TEXT, b"early")].concat());
        next(&deferred, "/later/refuse").answer(answer);
        let response = raw.receive_response();
        assert_eq!(response.status, status, "{response:?}");
        assert!(response.head.contains("\r\nConnection: close\r\n"), "{}", response.head);
    }
    // An ordinary request opens no WebSocket.
    let mut raw = RawClient::connect(server.address());
    raw.send(&get("/later/open"));
    next(&deferred, "/later/open").answer(Answer::open("lobby"));
    assert_eq!(raw.receive_response().status, 426);
}

fn the_value_of_a_request_reaches_its_websocket(backend: BackendName) {
    let (server, _deferred) = start_one(backend);
    for (headers, name) in [(&["X-Name: ada"][..], "ada"), (&[], "")] {
        let mut raw = RawClient::connect(server.address());
        raw.send(upgrade_request_with("/user", headers).as_bytes());
        raw.expect_upgrade();
        assert_eq!(raw.receive_frame(), (TEXT, name.into()));
    }
    let mut raw = RawClient::open(server.address(), "/chosen");
    assert_eq!(raw.receive_frame(), (TEXT, b"nobody".to_vec()), "without a value");
}

fn an_application_chooses_a_subprotocol(backend: BackendName) {
    let (server, _deferred) = start_one(backend);
    for (headers, chosen) in [
        (&["Sec-WebSocket-Protocol: v1.chat, v2.chat"][..], Some("v2.chat")),
        (&["Sec-WebSocket-Protocol: v1.chat", "Sec-WebSocket-Protocol: v2.x,v2.y"], Some("v2.x")),
        (&["Sec-WebSocket-Protocol: v1.chat"], None),
        (&[], None),
    ] {
        let mut raw = RawClient::connect(server.address());
        raw.send(upgrade_request_with("/chosen", headers).as_bytes());
        let head = raw.expect_upgrade();
        let field = head.lines().find_map(|line| line.strip_prefix("Sec-WebSocket-Protocol: "));
        assert_eq!(field, chosen, "{headers:?}: {head}");
    }
    // A choice that the client does not offer would make it fail.
    let mut raw = RawClient::connect(server.address());
    raw.send(upgrade_request_with("/wrong", &["Sec-WebSocket-Protocol: v1.chat"]).as_bytes());
    assert_eq!(raw.receive_response().status, 500);
}

fn a_deferred_answer_at_shutdown_ends_the_connection(backend: BackendName) {
    let base = config(backend, AppName::Echo, 1);
    let (server, deferred) = start(&Config { drain_seconds: 10 * TIMEOUT, ..base });
    let mut idle = RawClient::connect(server.address());
    idle.send(&get("/now"));
    expect_body(&mut idle, "/now");
    let mut raw = RawClient::connect(server.address());
    raw.send(&[get("/later/1"), get("/now")].concat());
    let responder = next(&deferred, "/later/1");
    server.stop();
    idle.expect_end();
    responder.answer(text("answer"));
    let response = raw.receive_response();
    assert_eq!(response.body, "answer", "and no answer to the request behind it");
    assert!(response.head.contains("\r\nConnection: close\r\n"), "{}", response.head);
}

fn a_request_without_an_answer_gets_503_at_the_end_of_the_drain(backend: BackendName) {
    let (server, deferred) = start_one(backend);
    let mut raw = RawClient::connect(server.address());
    raw.send(&[get("/later/1"), get("/now")].concat());
    let responder = next(&deferred, "/later/1");
    server.stop();
    let response = raw.receive_response();
    assert_eq!(response.status, 503, "{response:?}");
    responder.answer(text("late"));
    raw.half_close();
    drop(raw);
}

fn a_proxy_gets_its_connection_back_after_a_deferred_answer(backend: BackendName) {
    let base = config(backend, AppName::Echo, 1);
    let trusted_proxies = vec!["127.0.0.1".parse().expect("an address")];
    let (server, deferred) = start(&Config { trusted_proxies, max_connections_per_ip: 1, ..base });
    let mut proxy = RawClient::connect(server.address());
    for client in ["1.2.3.4", "1.2.3.5"] {
        let fields = format!("Host: localhost\r\nX-Forwarded-For: {client}\r\n");
        proxy.send(format!("GET /later/1 HTTP/1.1\r\n{fields}\r\n").as_bytes());
        let responder = next(&deferred, "/later/1");
        assert_eq!(server.connections(), (1, 1), "the request counts for its client");
        responder.answer(text("answer"));
        expect_body(&mut proxy, "answer");
        assert_eq!(server.connections(), (1, 0));
    }
}
