//! An application's mistake ends one connection, not the server.

use uproar::app::{App, ClientId, CloseCode, Context, Incoming, Opening};
use uproar::config::{AppName, BackendName};
use uproar::server::Server;

use crate::support::client::Client;
use crate::support::{TestServer, config};

on_both_backends!(
    a_panic_closes_its_client_alone,
    a_code_that_cannot_be_sent_closes_its_client_alone,
    an_application_that_cannot_be_made_is_an_error_at_the_start,
);

/// Says everything to everyone, and does not survive the word `boom`.
struct Fragile;

impl App for Fragile {
    fn on_open(&mut self, context: &mut Context<'_>, client: ClientId, opening: Opening<'_>) {
        assert_ne!(opening.room, "boom", "told to panic");
        context.join(client, opening.room, 0);
    }

    fn on_message(&mut self, context: &mut Context<'_>, client: ClientId, message: Incoming<'_>) {
        assert_ne!(message.text(), Some("boom"), "told to panic");
        context.publish_to_rooms_of(client, message.into());
    }

    fn on_close(&mut self, _context: &mut Context<'_>, _client: ClientId) {
        panic!("told to panic, even at the end");
    }
}

fn a_panic_closes_its_client_alone(backend: BackendName) {
    let server = TestServer::start_app(&config(backend, AppName::Relay, 2), |_| Box::new(Fragile));
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
    // One for the message and one for the room, and each end made another.
    assert_eq!(server.totals().panics, 4);
    drop(others);
}

/// Closes its clients with a code that stands for a connection without a close frame.
struct Wrong;

impl App for Wrong {
    fn on_open(&mut self, _context: &mut Context<'_>, _client: ClientId, _opening: Opening<'_>) {}

    fn on_message(&mut self, context: &mut Context<'_>, client: ClientId, _message: Incoming<'_>) {
        context.close(client, CloseCode(1006), "gone");
    }
}

// RFC 6455 §7.4.1: 1006 must not be sent.
fn a_code_that_cannot_be_sent_closes_its_client_alone(backend: BackendName) {
    let server = TestServer::start_app(&config(backend, AppName::Relay, 1), |_| Box::new(Wrong));
    for _ in 0..2 {
        let mut client = Client::open(server.address(), "/");
        client.send_text("close me");
        assert_eq!(client.wait_for_close(), (1011, "the server made a mistake".into()));
    }
    assert_eq!(server.totals().panics, 2);
}

fn an_application_that_cannot_be_made_is_an_error_at_the_start(backend: BackendName) {
    let make = |worker| -> Box<dyn App> {
        assert_ne!(worker, 1, "told to panic");
        Box::new(Fragile)
    };
    let error = Server::start_app(&config(backend, AppName::Relay, 2), make).expect_err("worker 2 panics");
    assert!(error.to_string().contains("cannot start the application"), "{error}");
}
