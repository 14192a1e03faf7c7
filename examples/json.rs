//! An example of a JSON protocol with an HTTP endpoint of its own: a board of notes.
//!
//! Run `cargo run --example json`. Then `curl 127.0.0.1:8000/notes` lists the notes, and the option `-d '{"text": "hi"}'`
//! adds one. WebSocket clients at this path get each new note, and add one with the same JSON.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use serde_json::{Value, json};
use uproar::app::{Answer, App, ClientId, Context, HttpRequest, Incoming, Message, Opening};
use uproar::app::{Responder, Response, Status};
use uproar::{Options, Publisher, Server, StartError};

/// Work for the thread that owns the notes, as a database would, so that no handler waits.
enum Work {
    List(Responder),
    Add(String, Option<Responder>),
}

/// The application.
struct Board(SyncSender<Work>);

impl App for Board {
    fn on_request(&mut self, context: &mut Context<'_>, request: &HttpRequest<'_>) -> Answer {
        let (later, responder) = request.defer(context);
        let work = match (request.path(), request.method()) {
            ("/notes", _) if request.is_upgrade() => return Answer::open("notes"),
            ("/notes", "GET" | "HEAD") => Work::List(responder),
            ("/notes", "POST") if let Some(text) = text(request.body()) => Work::Add(text, Some(responder)),
            ("/notes", "POST") => return Answer::refuse(Status::BadRequest, "Send {\"text\": …}."),
            _ => return Answer::NotMine,
        };
        self.0.try_send(work).map_or_else(|_| Answer::refuse(Status::ServiceUnavailable, "Busy."), |()| later)
    }

    fn on_open(&mut self, context: &mut Context<'_>, client: ClientId, _: Opening<'_>) {
        context.join(client, "notes", 0);
    }

    fn on_message(&mut self, context: &mut Context<'_>, client: ClientId, message: Incoming<'_>) {
        let work = text(message.payload).map(|text| Work::Add(text, None));
        if work.is_none_or(|work| self.0.try_send(work).is_err()) {
            context.send_to_client(client, Message::text(r#"{"error": "no text, or busy"}"#));
        }
    }
}

fn text(json: &[u8]) -> Option<String> {
    Some(serde_json::from_slice::<Value>(json).ok()?.get("text")?.as_str()?.to_owned())
}

/// Does the work until the server has stopped. Each new note is published to the WebSocket clients.
fn own_notes(work: Receiver<Work>, publisher: &Publisher) {
    let mut notes = Vec::new();
    for work in work {
        match work {
            Work::List(responder) => responder.answer(Response::json(Status::Ok, json!(notes).to_string())),
            Work::Add(text, responder) => {
                let note = json!({"id": notes.len(), "text": text});
                let published = publisher.publish("notes", Message::text(&note.to_string()));
                published.unwrap_or_else(|error| eprintln!("clients miss a note: {error}"));
                let response = Response::json(Status::Created, note.to_string());
                responder.into_iter().for_each(|responder| responder.answer(response.clone()));
                notes.push(note);
            }
        }
    }
}

/// Starts the server and the thread.
pub(crate) fn start(options: Options) -> Result<Server, StartError> {
    let (sender, work) = sync_channel(1_000);
    let server = Server::start_app(options, move |_worker| Box::new(Board(sender.clone())))?;
    let publisher = server.publisher();
    std::thread::spawn(move || own_notes(work, &publisher));
    Ok(server)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    start(Options::default())?.run_until_signal().map(drop).map_err(Into::into)
}
