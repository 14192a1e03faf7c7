//! Who a client is when proxies stand before the server.

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, TcpStream};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use nix::sys::signal::Signal;
use tungstenite::Message;
use uproar::config::{AppName, BackendName, Config, Endpoint};

use crate::process::refuses;
use crate::support::metrics::Metrics;
use crate::support::process::{Process, backend_arg, settings_file, uproar};
use crate::support::raw::{Raw, TEXT, connect_from, frame, upgrade_request};
use crate::support::{PATIENCE, TestServer, config, until};

on_both_backends!(
    the_client_of_a_trusted_proxy_is_who_is_counted,
    untrusted_headers_are_ignored,
    both_headers_are_read_and_must_agree,
    who_is_hidden_counts_for_nobody,
    a_path_is_a_trusted_proxy,
    who_is_refused_makes_room_for_others,
    a_new_list_of_proxies_holds_at_once,
    a_proxy_header_names_the_client,
    a_proxy_header_of_version_2_names_the_client,
    a_proxy_header_may_be_cut_anywhere,
    a_proxy_that_speaks_for_itself_is_served,
    what_is_no_proxy_header_is_refused,
    a_proxy_header_that_does_not_come_is_timed_out,
    who_is_no_proxy_sends_no_proxy_header,
    headers_behind_a_proxy_header_are_judged_by_its_address,
    a_path_begins_with_a_proxy_header,
    the_log_and_the_metrics_tell,
);

const PROXY: [u8; 4] = [127, 0, 0, 1];
const STRANGER: [u8; 4] = [127, 0, 0, 9];

/// A server that trusts 127.0.0.1 and 127.0.0.2, and lets each address have one connection.
fn trusting(backend: BackendName) -> Config {
    let trusted_proxies = ["127.0.0.1", "127.0.0.2/32"].map(|text| text.parse().expect("a network")).to_vec();
    Config { trusted_proxies, max_connections_per_ip: 1, ..config(backend, AppName::Echo, 2) }
}

fn with_proxy_protocol(backend: BackendName) -> Config {
    Config { proxy_protocol: true, ..trusting(backend) }
}

fn connect(server: &TestServer, from: [u8; 4]) -> TcpStream {
    connect_from(IpAddr::from(from), server.address())
}

/// The upgrade with these lines in its head.
fn upgrade_with(headers: &str) -> String {
    upgrade_request("/").replacen("\r\n\r\n", &format!("\r\n{headers}\r\n"), 1)
}

/// A connection that has asked for an upgrade; what it says first, and the lines in the head.
fn ask(server: &TestServer, from: [u8; 4], first: &[u8], headers: &str) -> Raw {
    let mut raw = Raw::over(connect(server, from));
    raw.send(&[first, upgrade_with(headers).as_bytes()].concat());
    raw
}

/// Opens a WebSocket, with what it says first and these lines in its head; the status where it is refused.
#[track_caller]
fn open(server: &TestServer, from: [u8; 4], first: &[u8], headers: &str) -> Result<Raw, u16> {
    let mut raw = ask(server, from, first, headers);
    let mut kept = raw.peek_status();
    match kept.take() {
        Some(101) => {
            raw.switched();
            Ok(raw)
        }
        other => Err(other.expect("an answer")),
    }
}
