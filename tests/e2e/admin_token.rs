//! The token of the admin listener: `--admin-token-file`.

use std::net::SocketAddr;

use nix::sys::signal::Signal;
use uproar::config::{AdminToken, AppName, BackendName, Config};

use crate::support::process::{
    Process, backend_arg, expect_start_failure, run_to_end, settings_file, uproar,
};
use crate::support::raw::{RawClient, Response, connect_from};
use crate::support::{TestServer, config, wait_until};

on_both_backends!(
    without_the_option_no_request_needs_a_token,
    metrics_and_page_need_the_token_and_probes_do_not,
    the_form_sets_a_cookie_that_opens_page_and_metrics,
    a_wrong_form_gets_the_form_again_without_a_cookie,
    the_host_is_checked_before_the_token,
    another_token_ends_old_cookies_and_no_token_is_logged,
    a_reload_adds_the_option_and_takes_it_away,
    guesses_have_a_limit_for_each_address,
);

const TOKEN: &str = "admin-token+0123456789/=";
/// The token as a browser encodes it in a form.
const ENCODED: &str = "admin-token%2B0123456789%2F%3D";
const PATHS: [&str; 4] = ["/", "/metrics", "/healthz", "/readyz"];

/// Starts a server whose admin listener asks for [`TOKEN`].
fn start(backend: BackendName, name: &str) -> (TestServer, SocketAddr) {
    let path = settings_file(&format!("{name} {backend:?}"), format!("{TOKEN}\n"));
    let token = path.parse::<AdminToken>().expect("a token");
    start_with(backend, Some(token))
}

fn start_with(backend: BackendName, admin_token_file: Option<AdminToken>) -> (TestServer, SocketAddr) {
    let admin = Some(SocketAddr::from(([127, 0, 0, 1], 0)));
    let server = TestServer::start(&Config { admin, admin_token_file, ..config(backend, AppName::Echo, 1) });
    let admin = server.admin_address().expect("it has an admin listener");
    (server, admin)
}

/// Sends a request with these header lines and this body. The host is `localhost`.
fn request(admin: SocketAddr, line: &str, fields: &[&str], body: &str) -> Response {
    let mut raw = RawClient::connect(admin);
    let fields: String = fields.iter().map(|field| format!("{field}\r\n")).collect();
    raw.send(format!("{line} HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n{body}").as_bytes());
    raw.receive_response()
}

fn get(admin: SocketAddr, path: &str, fields: &[&str]) -> Response {
    request(admin, &format!("GET {path}"), fields, "")
}

fn post_form(admin: SocketAddr, body: &str) -> Response {
    let len = format!("Content-Length: {}", body.len());
    request(admin, "POST /", &["Content-Type: application/x-www-form-urlencoded", &len], body)
}

/// Returns the value of the response's header field `name`, which the response has at most once.
fn field<'a>(response: &'a Response, name: &str) -> Option<&'a str> {
    let mut values = response.head.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
    let value = values.next();
    assert_eq!(values.next(), None, "{}", response.head);
    value
}

/// Sends the form with `token` and returns the cookie that the response sets.
fn log_in(admin: SocketAddr, token: &str) -> String {
    let response = post_form(admin, &format!("token={token}"));
    assert_eq!((response.status, field(&response, "Location")), (303, Some("/")), "{response:?}");
    assert_eq!((&*response.body, field(&response, "Cache-Control")), ("", Some("no-store")));
    let set = field(&response, "Set-Cookie").expect("a cookie");
    let (cookie, attributes) = set.split_once("; ").expect("attributes");
    assert_eq!(attributes, "Path=/; HttpOnly; SameSite=Strict");
    assert!(cookie.starts_with(&format!("uproar-admin-{}=", admin.port())), "{cookie}");
    format!("Cookie: {cookie}")
}

#[track_caller]
fn expect_form(response: &Response, problem: &str) {
    assert_eq!((response.status, field(response, "WWW-Authenticate")), (401, Some("Bearer")), "{response:?}");
    assert!(response.body.contains("<form method=\"post\" action=\"/\">"), "{response:?}");
    assert_eq!(response.body.contains("role=alert"), !problem.is_empty(), "{response:?}");
    assert!(response.body.contains(problem), "{response:?}");
    let policy = field(response, "Content-Security-Policy").expect("a policy");
    assert!(policy.contains("default-src 'none'") && policy.contains("form-action 'self'"), "{policy}");
    assert_eq!((field(response, "Set-Cookie"), field(response, "Cache-Control")), (None, Some("no-store")));
}

fn without_the_option_no_request_needs_a_token(backend: BackendName) {
    let (_server, admin) = start_with(backend, None);
    for path in PATHS {
        assert_eq!(get(admin, path, &[]).status, 200, "{path}");
        assert_eq!(get(admin, path, &["Authorization: Bearer anything"]).status, 200, "{path}");
    }
    assert_eq!(request(admin, "POST /", &[], "").status, 405);
    assert_eq!(post_form(admin, "token=x").status, 413);
}

fn metrics_and_page_need_the_token_and_probes_do_not(backend: BackendName) {
    let (_server, admin) = start(backend, "needs a token");
    let right = format!("Authorization: Bearer {TOKEN}");
    for path in PATHS {
        assert_eq!(get(admin, path, &[&right]).status, 200, "{path}");
        let head = request(admin, &format!("HEAD {path}"), &[&right], "");
        assert_eq!((head.status, &*head.body), (200, ""), "{path}");
    }
    assert!(get(admin, "/metrics", &[&right]).body.contains("uproar_info"));
    assert!(get(admin, "/", &[&right]).body.contains("<script>"));
    let longer = format!("{right}x");
    for wrong in [&*longer, "Authorization: Bearer admin-token", "Authorization: Bearer "] {
        for path in ["/healthz", "/readyz"] {
            assert_eq!((get(admin, path, &[]).status, get(admin, path, &[wrong]).status), (200, 200));
        }
        for path in ["/metrics", "/"] {
            let response = get(admin, path, &[wrong]);
            assert_eq!(
                (response.status, field(&response, "WWW-Authenticate")),
                (401, Some("Bearer")),
                "{path} {wrong}"
            );
            assert!(!response.body.contains("uproar_info") && !response.body.contains("<script>"));
        }
    }
    let query = format!("/metrics?token={ENCODED}");
    for (path, fields, part) in [
        ("/metrics", &[][..], "requires its token; send \"Authorization: Bearer TOKEN\""),
        (&*query, &[], "requires its token"),
        ("/metrics", &["Authorization: Basic YTpi"], "requires its token"),
        ("/metrics", &[&*longer], "This is not the token of the admin listener"),
        ("/metrics", &[&*right, &*right], "Send one header field Authorization"),
    ] {
        let response = get(admin, path, fields);
        assert_eq!((response.status, response.body.contains(part)), (401, true), "{fields:?}: {response:?}");
    }
    let head = request(admin, "HEAD /metrics", &[], "");
    assert_eq!((head.status, &*head.body), (401, ""));
    assert_eq!(get(admin, "/nowhere", &[]).status, 404);
    assert_eq!(request(admin, "POST /metrics", &[&right], "").status, 405);
}

fn the_form_sets_a_cookie_that_opens_page_and_metrics(backend: BackendName) {
    let (_server, admin) = start(backend, "form");
    expect_form(&get(admin, "/", &[]), "");
    let head = request(admin, "HEAD /", &[], "");
    assert_eq!((head.status, &*head.body), (401, ""));
    let cookie = log_in(admin, ENCODED);
    assert!(!cookie.contains("0123456789"), "the token is in the cookie: {cookie}");
    assert!(get(admin, "/", &[&cookie]).body.contains("<script>"));
    assert!(get(admin, "/metrics", &["Cookie: theme=dark", &cookie]).body.contains("uproar_info"));
    // A client that waits for `100 Continue`, and one that sends its form in parts.
    let body = format!("token={ENCODED}");
    let head = format!("POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n", body.len());
    let mut raw = RawClient::connect(admin);
    raw.send(format!("{head}Expect: 100-continue\r\n\r\n").as_bytes());
    assert_eq!(raw.receive_head(), "HTTP/1.1 100 Continue\r\n\r\n");
    raw.send(body.as_bytes());
    assert_eq!(raw.receive_response().status, 303);
    let mut raw = RawClient::connect(admin);
    for byte in format!("{head}\r\n{body}").bytes() {
        raw.send(&[byte]);
    }
    assert_eq!(raw.receive_response().status, 303);
    // A wrong token is not made right by the cookie.
    assert_eq!(get(admin, "/metrics", &[&cookie, "Authorization: Bearer wrong"]).status, 401);
    let (name, value) = cookie.split_once('=').expect("a value");
    let lower = value.to_lowercase();
    for wrong in ["", TOKEN, &value[1..], &*lower] {
        let fields = [&*format!("{name}={wrong}")];
        expect_form(&get(admin, "/", &fields), "");
        assert_eq!(get(admin, "/metrics", &fields).status, 401, "{wrong}");
    }
    // Each process has a key of its own.
    let (_other, other) = start(backend, "other form");
    let renamed = cookie.replace(&admin.port().to_string(), &other.port().to_string());
    assert_eq!(get(other, "/metrics", &[&renamed]).status, 401);
}

fn a_wrong_form_gets_the_form_again_without_a_cookie(backend: BackendName) {
    let (_server, admin) = start(backend, "wrong form");
    let unescaped = format!("token={TOKEN}x");
    for body in ["", "token=", "token=wrong", &*unescaped, "password=x", "\0\u{ff}", "token=%"] {
        expect_form(&post_form(admin, body), "This is not the token of the admin listener");
    }
    // Text from the form never appears on the page.
    assert!(!post_form(admin, "token=<script>1").body.contains("<script>"));
    assert_eq!(post_form(admin, &format!("token={}", "x".repeat(3_000))).status, 413);
    assert_eq!(request(admin, "PUT /", &[], "").status, 405);
}

fn the_host_is_checked_before_the_token(backend: BackendName) {
    let (_server, admin) = start(backend, "foreign host");
    for line in ["GET /", "GET /metrics", "POST /"] {
        let mut raw = RawClient::connect(admin);
        let fields = format!("Host: evil.example\r\nAuthorization: Bearer {TOKEN}\r\n");
        raw.send(format!("{line} HTTP/1.1\r\n{fields}\r\n").as_bytes());
        assert_eq!(raw.receive_response().status, 421, "{line}");
    }
}

fn another_token_ends_old_cookies_and_no_token_is_logged(backend: BackendName) {
    let name = format!("reloaded admin token {backend:?}");
    let path = settings_file(&name, TOKEN);
    let flag = format!("--admin-token-file={path}");
    let server = Process::start(&["--admin=127.0.0.1:0", "--log=trace", &flag, backend_arg(backend)]);
    let admin = server.admin_address();
    let other = "other-token-0123456789";
    let bearer = |token: &str| get(admin, "/metrics", &[&format!("Authorization: Bearer {token}")]).status;
    let cookie = log_in(admin, ENCODED);
    let by_cookie = |cookie: &str| get(admin, "/metrics", &[cookie]).status;
    assert_eq!([bearer(TOKEN), bearer(other), by_cookie(&cookie)], [200, 401, 200]);
    let reload = |token: &str, line: &str| {
        settings_file(&name, token);
        server.signal(Signal::SIGHUP);
        wait_until(line, || server.log().contains(line));
    };
    let problem = "for '--admin-token-file <FILE>': its token has 5 bytes; use 16 to 512";
    reload("hushy", problem);
    assert_eq!([bearer(TOKEN), bearer("hushy"), by_cookie(&cookie)], [200, 401, 200]);
    // A line break after the token is not part of the token, so the old cookie stays valid.
    reload(&format!("{TOKEN}\n"), "0 changed");
    assert_eq!([bearer(TOKEN), by_cookie(&cookie)], [200, 200]);
    reload(other, "admin-token-file: new token in");
    assert_eq!([bearer(TOKEN), bearer(other), by_cookie(&cookie)], [401, 200, 401]);
    let new_cookie = log_in(admin, other);
    assert_eq!(by_cookie(&new_cookie), 200);
    post_form(admin, "token=guessed-0123456789");
    server.signal(Signal::SIGTERM);
    let log = server.wait().log;
    let value = |cookie: &str| cookie.split_once('=').expect("a value").1.to_owned();
    for secret in [TOKEN, ENCODED, other, "hushy", "guessed-0123456789", &value(&cookie), &value(&new_cookie)]
    {
        assert!(!log.contains(secret), "{secret}: {log}");
    }
}

fn a_reload_adds_the_option_and_takes_it_away(backend: BackendName) {
    let token = settings_file(&format!("added admin token {backend:?}"), TOKEN);
    let name = format!("adds the admin token {backend:?}");
    let path = settings_file(&name, "");
    let server = Process::start(&["--admin=127.0.0.1:0", "--config", &path, backend_arg(backend)]);
    let admin = server.admin_address();
    for (text, status, line) in [
        (format!("admin-token-file = {token:?}\n"), 401, "admin-token-file: not set → "),
        (String::new(), 200, "→ not set"),
    ] {
        settings_file(&name, text);
        server.signal(Signal::SIGHUP);
        wait_until(line, || server.log().contains(line));
        for path in ["/", "/metrics"] {
            assert_eq!(get(admin, path, &[]).status, status, "{path} {line}");
        }
        assert_eq!(
            post_form(admin, &format!("token={ENCODED}")).status,
            if status == 401 { 303 } else { 413 }
        );
    }
}

fn guesses_have_a_limit_for_each_address(backend: BackendName) {
    let token = settings_file(&format!("guessed admin token {backend:?}"), TOKEN);
    let args = ["--admin=127.0.0.1:0", "--admin-token-file", &token, backend_arg(backend)];
    let server = Process::start(&args);
    let admin = server.admin_address();
    let cookie = log_in(admin, ENCODED);
    let right = format!("Authorization: Bearer {TOKEN}");
    for guess in 0..10 {
        let wrong = format!("guess-{guess}-0123456789");
        let response = match guess % 2 {
            0 => get(admin, "/metrics", &[&format!("Authorization: Bearer {wrong}")]),
            _ => post_form(admin, &format!("token={wrong}")),
        };
        assert_eq!(response.status, 401, "{response:?}");
    }
    // From now on even the right token is refused, so that a guess tells nothing.
    for response in
        [get(admin, "/metrics", &[&right]), get(admin, "/", &[&right]), post_form(admin, "token=x")]
    {
        let seconds: u64 =
            field(&response, "Retry-After").and_then(|text| text.parse().ok()).expect("a time");
        assert_eq!((response.status, (1..=61).contains(&seconds)), (429, true), "{response:?}");
        assert!(response.body.contains("too many wrong tokens from this address"), "{response:?}");
    }
    // Sessions, probes and other addresses do not notice.
    assert_eq!(get(admin, "/metrics", &[&cookie]).status, 200);
    assert_eq!((get(admin, "/healthz", &[&right]).status, get(admin, "/readyz", &[]).status), (200, 200));
    let mut other = RawClient::from_stream(connect_from([127, 0, 0, 2].into(), admin));
    other.send(format!("GET /metrics HTTP/1.1\r\nHost: localhost\r\n{right}\r\n\r\n").as_bytes());
    assert_eq!(other.receive_response().status, 200);
    let line = "many wrong admin tokens; the address gets 429 for 60 s";
    wait_until("the guesses are logged", || server.log().contains(line));
    let log = server.log();
    assert!(log.contains("a wrong admin token address=127.0.0.1") && !log.contains("guess-"), "{log}");
}

#[test]
fn a_file_without_a_token_prevents_the_start_and_check_shows_no_token() {
    let path = settings_file("checked admin token", TOKEN);
    let empty = settings_file("empty admin token", "\n");
    let short = settings_file("short admin token", "hush");
    for command in ["check", "serve"] {
        for (file, problem) in [
            (&*empty, "the file is empty; write 16 to 512 random characters"),
            (&short, "its token has 4 bytes; use 16 to 512"),
            ("/nowhere/token", "no such file; check the path"),
        ] {
            let args = [command, "--admin", "127.0.0.1:0", "--admin-token-file", file];
            expect_start_failure(&mut uproar(&args), &["--admin-token-file", file, problem]);
        }
        let parts = ["--admin-token-file", &path, "there is no admin listener; add --admin ADDR:PORT"];
        expect_start_failure(&mut uproar(&[command, "--admin-token-file", &path]), &parts);
    }
    let args = ["check", "--admin", "127.0.0.1:0", "--admin-token-file", &path];
    let printed = run_to_end(&mut uproar(&args));
    let text = String::from_utf8([printed.stdout, printed.stderr].concat()).expect("text");
    assert!(text.contains(&format!("admin-token-file = \"{path}\"")), "{text}");
    assert!(!text.contains("0123456789"), "{text}");
}
