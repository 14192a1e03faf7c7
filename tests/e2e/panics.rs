//! A panic of the application closes one connection and does not stop the server.

use uproar::app::{App, ClientId, CloseCode, Context, Incoming, Opening};
use uproar::config::{AppName, BackendName};
use uproar::server::Server;

use crate::support::client::Client;
use crate::support::{TestServer, config};

on_both_backends!(
    a_panic_closes_only_its_client,
    closing_with_a_reserved_code_closes_only_its_client,
    a_panic_while_creating_the_application_is_a_start_error,
);

/// A test application: relays messages, and panics at the message `boom`, at the room `boom` and at each close.
struct Panicking;

impl App for Panicking {
    fn on_open(&mut self, context: &mut Context<'_>, client: ClientId, opening: Opening<'_>) {
        assert_ne!(opening.room, "boom", "told to panic");
        context.join(client, opening.room, 0);
    }

    fn on_message(&mut self, context: &mut Context<'_>, client: ClientId, message: Incoming<'_>) {
        assert_ne!(message.text(), Some("boom"), "told to panic");
        context.publish_to_rooms_of(client, message.into());
    }

    fn on_close(&mut self, _context: &mut Context<'_>, _client: ClientId) {
        panic!("told to panic at the close");
    }
}

fn a_panic_closes_only_its_client(backend: BackendName) {
    let server = TestServer::start_app(&config(backend, AppName::Relay, 2), |_| Box::new(Panicking));
    let mut others: Vec<_> = (0..4).map(|_| Client::open(server.address(), "/")).collect();
    let mut speaker = Client::open(server.address(), "/");
    speaker.send_text("boom");
    assert_eq!(speaker.wait_for_close(), (1011, "the server made a mistake".into()));
    let mut newcomer = Client::open(server.address(), "/room/boom");
    assert_eq!(newcomer.wait_for_close(), (1011, "the server made a mistake".into()));
    for other in &mut others {
        other.send_text("go on");
        while other.receive_text() != "go on" {}
    }
    // Four panics: one for the message, one for the room, and one for the close of each of the two clients.
    assert_eq!(server.totals().panics, 4);
    drop(others);
}

/// A test application that closes its clients with the reserved code 1006.
struct ReservedCode;

impl App for ReservedCode {
    fn on_open(&mut self, _context: &mut Context<'_>, _client: ClientId, _opening: Opening<'_>) {}

    fn on_message(&mut self, context: &mut Context<'_>, client: ClientId, _message: Incoming<'_>) {
        context.close(client, CloseCode(1006), "gone");
    }
}

// An endpoint must not send close code 1006. RFC 6455 §7.4.1
fn closing_with_a_reserved_code_closes_only_its_client(backend: BackendName) {
    let server = TestServer::start_app(&config(backend, AppName::Relay, 1), |_| Box::new(ReservedCode));
    for _ in 0..2 {
        let mut client = Client::open(server.address(), "/");
        client.send_text("close me");
        assert_eq!(client.wait_for_close(), (1011, "the server made a mistake".into()));
    }
    assert_eq!(server.totals().panics, 2);
}

fn a_panic_while_creating_the_application_is_a_start_error(backend: BackendName) {
    let make = |worker| -> Box<dyn App> {
        assert_ne!(worker, 1, "told to panic");
        Box::new(Panicking)
    };
    let error = Server::start_app(&config(backend, AppName::Relay, 2), make).expect_err("worker 2 panics");
    assert!(error.to_string().contains("cannot start the application"), "{error}");
}
