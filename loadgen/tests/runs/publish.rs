//! Runs of the scenario `publish` against a small test server, correct or with one fault, and against uproar.

use std::io::{self, BufRead, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};
use std::thread;

use rustls::version::TLS13;
use serde_json::{Value, json};
use uproar::Server;
use uproar::config::{ApiKeys, AppName, BackendName, Config};

use crate::processes::with_few_descriptors;
use crate::server::{PROGRAM, frame};
use crate::tls::serve_tls;

/// The behaviour of the test server at the seventh request of all publishers.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Fault {
    None,
    /// The server accepts the message and delivers it to nobody.
    Drop,
    /// The server delivers the message twice.
    Duplicate,
    /// The server alters the message's last byte.
    Corrupt,
    /// The server refuses the message with the status 429.
    Refuse,
    /// The server does not answer the request.
    Silent,
    /// The server answers and announces the end of the connection.
    Announced,
    /// The server closes the connection instead of an answer.
    Close,
    /// The server announces the end of the connection in each answer, and closes it.
    CloseEach,
}

/// The form in which the test server delivers a message.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Form {
    Plain,
    /// The message is in a JSON object.
    Json,
    /// The message is binary.
    Binary,
}

struct TestServer {
    fault: Fault,
    form: Form,
    subscribers: Vec<TcpStream>,
    count: u32,
    /// The heads and bodies of the requests.
    requests: Vec<(String, String)>,
}

/// Starts a test server. WebSocket clients subscribe, and other clients publish.
fn serve(fault: Fault, form: Form) -> (SocketAddr, Arc<Mutex<TestServer>>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let address = listener.local_addr().expect("it is bound");
    let server = TestServer { fault, form, subscribers: Vec::new(), count: 0, requests: Vec::new() };
    let server = Arc::new(Mutex::new(server));
    let shared = server.clone();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let server = shared.clone();
            // An error means that the client has left.
            thread::spawn(move || drop(serve_client(stream, &server)));
        }
    });
    (address, server)
}

fn serve_client(mut stream: TcpStream, server: &Mutex<TestServer>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut first = [0; 4];
    stream.peek(&mut first)?;
    if &first == b"GET " {
        // The client is open when it has the answer, so it must be a subscriber before that.
        server.lock().expect("no thread panics").subscribers.push(stream.try_clone()?);
        if let Ok(mut socket) = tungstenite::accept(stream) {
            while socket.read().is_ok() {}
        }
        return Ok(());
    }
    let mut reader = BufReader::new(stream.try_clone()?);
    loop {
        let (head, body) = read_request(&mut reader)?;
        let (answer, fault) = {
            let mut server = server.lock().expect("no thread panics");
            (server.publish(head, body), server.fault)
        };
        let Some(answer) = answer else { return Ok(()) };
        stream.write_all(answer.as_bytes())?;
        if fault == Fault::CloseEach {
            return Ok(());
        }
    }
}

fn read_request(reader: &mut impl BufRead) -> io::Result<(String, String)> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    let len = head.lines().find_map(|line| line.strip_prefix("Content-Length: ")).expect("it has a length");
    let mut body = vec![0; len.parse().expect("it is a number")];
    reader.read_exact(&mut body)?;
    Ok((head, String::from_utf8(body).expect("it is text")))
}

impl TestServer {
    /// Delivers a message. Returns the response, or `None` if the connection ends.
    fn publish(&mut self, head: String, body: String) -> Option<&'static str> {
        self.count += 1;
        let is_now = self.count == 7 || self.fault == Fault::CloseEach;
        let fault = if is_now { self.fault } else { Fault::None };
        match fault {
            Fault::Close => return None,
            Fault::Refuse => return Some("HTTP/1.1 429 Too Many Requests\r\nContent-Length: 4\r\n\r\nfull"),
            Fault::Drop => {}
            Fault::Duplicate => {
                self.deliver(&body);
                self.deliver(&body);
            }
            Fault::Corrupt => {
                let last = if body.ends_with('x') { "y" } else { "x" };
                self.deliver(&format!("{}{last}", &body[..body.len() - 1]));
            }
            _ => self.deliver(&body),
        }
        self.requests.push((head, body));
        Some(match fault {
            Fault::Silent => "",
            Fault::Announced | Fault::CloseEach => {
                "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            }
            _ => "HTTP/1.1 201 Created\r\nContent-Length: 2\r\n\r\nok",
        })
    }

    fn deliver(&mut self, body: &str) {
        let frame = match self.form {
            Form::Plain => frame(1, body.as_bytes()),
            Form::Binary => frame(2, body.as_bytes()),
            Form::Json => frame(1, json!({"room": "bench", "data": body}).to_string().as_bytes()),
        };
        for subscriber in &mut self.subscribers {
            let _ = subscriber.write_all(&frame);
        }
    }
}

/// Runs `loadgen publish` with `arguments` against the server at `address`. Returns the output and the JSON figures.
fn publish(address: SocketAddr, name: &str, arguments: &[&str]) -> (Output, String, Value) {
    let json = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("publish-{name}.json"));
    let _ = std::fs::remove_file(&json);
    let mut command = Command::new(PROGRAM);
    command.args(["publish", "--warmup", "0", "--grace", "1s", "--quiet"]);
    command.args(["--url", &format!("ws://{address}/room/bench"), "--json"]).arg(&json).args(arguments);
    let output = command.output().expect("the program can be started");
    let text = String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned();
    let figures = std::fs::read_to_string(&json).ok().and_then(|text| serde_json::from_str(&text).ok());
    (output, text, figures.unwrap_or(Value::Null))
}

/// Asserts that a run has passed and every subscriber has every message.
fn assert_passed((output, text, figures): &(Output, String, Value), subscribers: u64) {
    assert_eq!(output.status.code(), Some(0), "{text}");
    let messages = &figures["messages"];
    let sent = messages["sent"].as_u64().unwrap_or(0);
    assert!(sent > 0, "{messages}");
    assert_eq!(messages["received"].as_u64(), Some(sent * subscribers), "{messages}");
    for fault in ["lost", "duplicated", "reordered", "corrupt", "foreign", "refused", "unsent"] {
        assert_eq!(messages[fault], 0, "{fault} in {messages}");
    }
    let publish = &figures["publish"];
    assert_eq!(publish["subscribers"], subscribers);
    assert!(publish["accepted"].as_u64() <= Some(sent), "{publish}");
}

#[test]
fn an_open_loop_measures_responses_and_the_last_subscriber() {
    let (address, server) = serve(Fault::None, Form::Plain);
    let arguments =
        ["-c", "3", "--subscribers", "6", "--threads", "2", "--rate", "100", "--duration", "500ms"];
    let run = publish(address, "open", &arguments);
    assert_passed(&run, 6);
    let (_, text, figures) = &run;
    assert_eq!(figures["messages"]["sent"], 50);
    assert_eq!(figures["publish"]["statuses"], json!({"201": 50}));
    for summary in [&figures["publish"]["response_latency"], &figures["publish"]["last_subscriber_latency"]] {
        assert_eq!(summary["count"], 50);
    }
    assert_eq!(figures["latency"]["count"], 300);
    let [last, each] = [&figures["publish"]["last_subscriber_latency"], &figures["latency"]];
    assert_eq!(last["max_us"], each["max_us"], "the slowest delivery is one to a last subscriber");
    assert!(last["mean_us"].as_f64() >= each["mean_us"].as_f64(), "{last} {each}");
    assert_eq!(figures["one_order"], true);
    for line in ["published", "answered", "to the last", "50 times: 201"] {
        assert!(text.contains(line), "{line} in {text}");
    }
    let server = server.lock().expect("no thread panics");
    let (head, body) = &server.requests[0];
    assert!(head.starts_with("POST /api/rooms/bench/messages HTTP/1.1\r\nHost: 127.0.0.1:"), "{head}");
    assert!(head.contains("\r\nContent-Type: text/plain\r\n") && body.len() == 64, "{head}{body}");
}

#[test]
fn a_closed_loop_publishes_without_subscribers() {
    let (address, server) = serve(Fault::None, Form::Plain);
    let key = ["--api-key", "secret-key", "--publish-header", "X-More: a"];
    let run = publish(
        address,
        "closed",
        &[&["-c", "4", "--threads", "2", "--duration", "300ms"], &key[..]].concat(),
    );
    assert_passed(&run, 0);
    let (_, text, figures) = &run;
    assert_eq!(figures["publish"]["statuses"]["201"], figures["messages"]["sent"]);
    assert!(figures["publish"]["per_second"].as_f64() > Some(0.0), "{figures}");
    assert!(!text.contains("received  ") && !text.contains("to the last"), "{text}");
    assert!(!figures.to_string().contains("secret-key"), "figures are published: {figures}");
    let server = server.lock().expect("no thread panics");
    let (head, _) = &server.requests[0];
    assert!(head.contains("\r\nX-More: a\r\nAuthorization: Bearer secret-key\r\n"), "{head}");
}

#[test]
fn each_request_may_have_a_connection_of_its_own() {
    for (name, load, sent) in
        [("each-open", &["--rate", "60"][..], Some(18)), ("each-closed", &["--subscribers", "2"], None)]
    {
        let (address, _) = serve(Fault::CloseEach, Form::Plain);
        let arguments = ["-c", "3", "--threads", "2", "--duration", "300ms", "--publish-reconnect"];
        let run = publish(address, name, &[&arguments[..], load].concat());
        assert_passed(&run, if sent.is_some() { 0 } else { 2 });
        let requests = run.2["messages"]["sent"].as_u64().unwrap_or(0);
        assert!(sent.map_or(requests > 3, |sent| requests == sent), "{requests} requests");
        assert_eq!(run.2["connections"]["ended"], json!({}));
    }
}

#[test]
fn a_message_is_found_in_every_form() {
    for (form, body) in [
        (Form::Json, "{payload}"),
        (Form::Binary, "{payload}"),
        (Form::Plain, r#"{"room":"bench","text":"{payload-json}"}"#),
        (Form::Json, r#"<{payload}>"#),
    ] {
        let (address, _) = serve(Fault::None, form);
        let arguments =
            ["-c", "2", "--subscribers", "2", "--rate", "60", "--duration", "200ms", "--size", "300"];
        let more = ["--payload", "json", "--publish-body", body];
        let run = publish(address, "forms", &[&arguments[..], &more].concat());
        assert_passed(&run, 2);
    }
}

#[test]
fn helper_processes_publish_over_tls_and_their_results_add_up() {
    let (plain, _) = serve(Fault::None, Form::Plain);
    let server = serve_tls(plain, "publish", &["127.0.0.1"], false, &[&TLS13]);
    let mut command = with_few_descriptors();
    command.args(
        "publish -c 4 --subscribers 56 --rate 40 --duration 500ms --warmup 0 --quiet".split_whitespace(),
    );
    command
        .args(["--url", &format!("wss://{}/room/bench", server.address), "--ca-file"])
        .arg(&server.cert_file);
    let json = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("publish-helpers.json");
    let output = command.arg("--json").arg(&json).output().expect("the program can be started");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("20 sent, 1120 received"), "{text}");
    let figures = std::fs::read_to_string(&json).expect("the figures were written");
    let figures: Value = serde_json::from_str(&figures).expect("the figures are JSON");
    assert_eq!(figures["generator"].as_array().map(Vec::len), Some(2));
    assert_eq!(figures["publish"]["last_subscriber_latency"]["count"], 20, "{figures}");
    assert_eq!(figures["publish"]["statuses"], json!({"201": 20}));
}

#[test]
fn a_fault_fails_the_run_and_is_counted() {
    for (fault, count, reason) in [
        (Fault::Drop, "lost", "2 lost"),
        (Fault::Duplicate, "duplicated", "2 duplicated"),
        (Fault::Corrupt, "corrupt", "2 corrupt"),
        (Fault::Refuse, "refused", "1 times: 429 Too Many Requests: full"),
        (Fault::Silent, "lost", "1 lost"),
        (Fault::Announced, "lost", "`Connection: close`"),
        (Fault::Close, "lost", "ended the connection"),
    ] {
        let (address, _) = serve(fault, Form::Plain);
        let arguments = ["-c", "1", "--subscribers", "2", "--rate", "60", "--duration", "300ms"];
        let (output, text, figures) = publish(address, &format!("{fault:?}"), &arguments);
        assert_eq!(output.status.code(), Some(1), "{fault:?}: {text}");
        assert!(figures["messages"][count].as_u64() > Some(0), "{fault:?}: {figures}");
        assert!(text.contains(reason), "{fault:?}: {text}");
        if fault == Fault::Refuse {
            // The refused message is not expected at the subscribers.
            assert_eq!((&figures["messages"]["lost"], &figures["messages"]["sent"]), (&0.into(), &18.into()));
        }
    }
}

#[test]
fn wrong_options_and_rooms_are_named() {
    let (address, _) = serve(Fault::None, Form::Plain);
    for (arguments, reason) in [
        (&["--publish-url", "ws://127.0.0.1:1/"][..], "write http:// instead of ws://"),
        (&["--publish-body", "hello"], "the body has no message"),
        (&["--publish-header", "Host: a"], "loadgen sets the header Host itself"),
        (&["--url", "ws://127.0.0.1:1/chat"], "give --publish-url"),
        (&["--publish-url", "http://127.0.0.1:1/"], "127.0.0.1:1 refused the connection"),
    ] {
        let url = format!("ws://{address}/room/bench");
        let mut command = Command::new(PROGRAM);
        command.args(["publish", "--duration", "200ms", "--quiet", "-c", "1"]).args(arguments);
        if !arguments.contains(&"--url") {
            command.args(["--url", &url]);
        }
        let output = command.output().expect("the program can be started");
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {text}");
        assert!(text.contains(reason), "{arguments:?}: {text}");
    }
}

const KEY: &str = "0123456789abcdef";

/// Starts a relay with an API key on a free port.
fn uproar(backend: BackendName) -> (Server, SocketAddr) {
    let keys = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("publish-keys-{backend:?}"));
    std::fs::write(&keys, format!("loadgen publish {KEY}\n")).expect("the directory can be written");
    let config = Config {
        listen: vec!["127.0.0.1:0".parse().expect("an endpoint")],
        app: AppName::Relay,
        backend,
        workers: Some(2),
        api_keys: Some(ApiKeys::read(&keys).expect("valid keys")),
        drain_seconds: std::time::Duration::ZERO,
        ..Config::default()
    };
    let server = Server::start(&config).expect("the server starts");
    let address = server.endpoints()[0].tcp().expect("a TCP address");
    (server, address)
}

/// Publishes to uproar on `backend` in all ways, and with a wrong key.
fn publishes_to_uproar(backend: BackendName) {
    let (server, address) = uproar(backend);
    let name = |part: &str| format!("{backend:?}-{part}");
    let common = ["-c", "4", "--threads", "2", "--api-key", KEY];
    let open = ["--subscribers", "10", "--rate", "200", "--duration", "300ms"];
    assert_passed(&publish(address, &name("open"), &[&common[..], &open].concat()), 10);
    let closed = ["--subscribers", "3", "--duration", "200ms"];
    assert_passed(&publish(address, &name("closed"), &[&common[..], &closed].concat()), 3);
    assert_passed(&publish(address, &name("alone"), &[&common[..], &["--duration", "200ms"]].concat()), 0);
    let api = format!("http://{address}/api/messages");
    let json =
        ["--publish-url", &api, "--publish-header", "Content-Type: application/json", "--payload", "json"];
    let body = ["--size", "500", "--publish-body", r#"{"rooms":["bench"],"text":"{payload-json}"}"#];
    assert_passed(&publish(address, &name("json"), &[&common[..], &open, &json, &body].concat()), 10);
    let binary = ["--publish-header", "Content-Type: application/octet-stream"];
    assert_passed(&publish(address, &name("binary"), &[&common[..], &open, &binary].concat()), 10);

    let wrong = ["-c", "1", "--rate", "20", "--duration", "200ms", "--api-key", "fedcba9876543210"];
    let (output, text, figures) = publish(address, &name("wrong"), &wrong);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert_eq!(figures["messages"]["refused"], 4);
    assert!(text.contains("4 times: 401 Unauthorized: {\"error\":"), "{text}");
    server.stop();
}

#[test]
fn uproar_on_io_uring_delivers_what_is_published() {
    publishes_to_uproar(BackendName::IoUring);
}

#[test]
fn uproar_on_epoll_delivers_what_is_published() {
    publishes_to_uproar(BackendName::Epoll);
}
