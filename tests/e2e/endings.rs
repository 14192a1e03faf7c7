//! How the server ends.

use nix::sys::signal::Signal;
use uproar::config::{AppName, BackendName};

use crate::support::client::Client;
use crate::support::process::{Process, backend_arg};
use crate::support::raw::Raw;
use crate::support::{TestServer, config};

on_both_backends!(
    a_signal_closes_all_and_ends_with_0,
    a_second_signal_ends_at_once,
    stopping_from_the_library_does_the_same,
);

fn a_signal_closes_all_and_ends_with_0(backend: BackendName) {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let server = Process::start(&["--workers=2", "--drain-seconds=0.2", backend_arg(backend)]);
        // It comes first, so it is accepted when the others are.
        let mut waiting = Raw::connect(server.address);
        waiting.send(b"GET / HTTP/1.1\r\n");
        let clients: Vec<_> = (0..20).map(|_| Client::open(server.address, "/")).collect();
        server.signal(signal);
        for mut client in clients {
            assert_eq!(client.closed(), (1001, "the server is shutting down".into()));
        }
        assert_eq!(waiting.response().status, 503);
        drop(waiting);
        let ended = server.ended();
        assert_eq!(ended.code, Some(0), "{}", ended.log);
        assert!(ended.log.contains("ended totals=Totals { accepted: 21, closed: 21,"), "{}", ended.log);
    }
}

fn a_second_signal_ends_at_once(backend: BackendName) {
    let args = ["--workers=1", "--drain-seconds=600", "--close-seconds=600", backend_arg(backend)];
    let server = Process::start(&args);
    let mut client = Raw::open(server.address, "/");
    client.frame();
    server.signal(Signal::SIGTERM);
    // It does not answer, so the server waits for it.
    assert_eq!(client.close_frame().0, 1001);
    server.signal(Signal::SIGTERM);
    let ended = server.ended();
    assert_eq!(ended.code, Some(130), "{}", ended.log);
}

fn stopping_from_the_library_does_the_same(backend: BackendName) {
    let server = TestServer::start(&config(backend, AppName::Relay, 4));
    let clients: Vec<_> = (0..10).map(|_| Client::open(server.address(), "/")).collect();
    let control = server.control();
    control.stop();
    for mut client in clients {
        assert_eq!(client.closed(), (1001, "the server is shutting down".into()));
    }
}
