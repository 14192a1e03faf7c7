//! Tests of runs with URLs of every form.

use std::net::{SocketAddr, TcpListener};

use serde_json::Value;

use crate::server::{Fault, Mode, run, serve, serve_on};

const ECHO: &str = "echo -c 2 --duration 100ms --warmup 0 --threads 1 --quiet";

fn passes(url: &str, name: &str) -> Value {
    let (output, figures) = run(url, name, ECHO);
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "{url}: {}", String::from_utf8_lossy(&said));
    figures
}

fn refused(url: &str, name: &str) -> String {
    let (output, _) = run(url, name, ECHO);
    assert_eq!(output.status.code(), Some(2), "{url}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn every_allowed_form_of_a_url_reaches_the_server() {
    let port = serve(Mode::Echo, Fault::None).port();
    for (index, url) in [
        format!("ws://127.0.0.1:{port}?x=1"),
        format!("ws://127.0.0.1:{port}"),
        format!("WS://127.0.0.1:{port}/"),
        format!("Ws://LOCALHOST:{port}/%7e/a%20b?c=%26"),
        format!("ws://127.1:{port}/"),
        format!("ws://localhost.:{port}/"),
    ]
    .iter()
    .enumerate()
    {
        passes(url, &format!("url-{index}"));
    }
}

#[test]
fn all_addresses_of_a_name_are_tried() {
    // Each server listens on only one of the two addresses of `localhost`.
    for address in ["127.0.0.1:0", "[::1]:0"] {
        let listener = TcpListener::bind(address).expect("the loopback interface has both addresses");
        let port = listener.local_addr().expect("it is bound").port();
        serve_on(listener, Mode::Echo, Fault::None);
        let figures = passes(&format!("ws://localhost:{port}/"), &format!("localhost-{}", address.len()));
        assert_eq!(figures["connections"]["opened"], 2, "{address}");
    }
    let unused =
        TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a port is free");
    let fault = refused(&format!("ws://localhost:{}/", unused.port()), "no-address");
    for address in ["127.0.0.1", "[::1]"].map(|ip| format!("{ip}:{} refused the connection", unused.port())) {
        assert!(fault.contains(&address), "{fault}");
    }
}

#[test]
fn an_ipv6_address_may_have_a_zone() {
    let listener = TcpListener::bind("[::1]:0").expect("the loopback interface has it");
    let port = listener.local_addr().expect("it is bound").port();
    serve_on(listener, Mode::Echo, Fault::None);
    passes(&format!("ws://[::1]:{port}/"), "ipv6");
    passes(&format!("ws://[::1%25lo]:{port}/"), "zone");
    assert!(refused("ws://[fe80::1%25nowhere]/", "no-zone").contains("`nowhere`"));
}

#[test]
fn a_url_with_a_part_that_websockets_do_not_have_is_refused() {
    let address: SocketAddr = ([127, 0, 0, 1], 1).into();
    for (url, reason) in [
        (format!("ws://me@{address}/"), "user name or password"),
        (format!("ws://{address}/#a"), "a fragment is not sent"),
        (format!("http://{address}/"), "write ws:// instead of http://"),
        (format!("{address}/"), "begins with ws:// or wss://"),
        (format!("ws://{address}/a b"), "%20"),
    ] {
        let fault = refused(&url, "refused-url");
        assert!(fault.contains(reason), "{url}: {fault}");
    }
}
