//! The server that `benches/requests/run` measures: one worker that answers GET with a text of 100 bytes.
//!
//! The argument is the backend, `epoll` or `io-uring`.

use uproar::app::{Answer, App, ClientId, Context, HttpRequest, Incoming, Opening, Response, Status};
use uproar::config::{BackendName, Endpoint};
use uproar::{Options, Server};

/// The body of every response: 100 bytes.
const BODY: &[u8] = &[b'x'; 100];

struct Small;

impl App for Small {
    fn on_open(&mut self, _: &mut Context<'_>, _: ClientId, _: Opening<'_>) {}

    fn on_message(&mut self, _: &mut Context<'_>, _: ClientId, _: Incoming<'_>) {}

    fn on_request(&mut self, _: &mut Context<'_>, _: &HttpRequest<'_>) -> Answer {
        Response::new(Status::Ok, "text/plain", BODY).into()
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let backend = match std::env::args().nth(1).as_deref() {
        Some("epoll") => BackendName::Epoll,
        Some("io-uring") => BackendName::IoUring,
        other => return Err(format!("the backend is epoll or io-uring, not {other:?}").into()),
    };
    let options = Options {
        listen: vec!["127.0.0.1:0".parse::<Endpoint>()?],
        backend,
        workers: Some(1),
        message_rate: Some(0),
        byte_rate: Some(0),
        ..Options::default()
    };
    let server = Server::start_app(options, |_worker| Box::new(Small))?;
    println!("listening on {}", server.endpoints()[0]);
    server.run_until_signal()?;
    Ok(())
}
