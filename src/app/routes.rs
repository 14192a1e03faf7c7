//! The routes of applications whose clients open a room by its URL.

use percent_encoding::percent_decode_str;

use crate::names;
use crate::protocol::{Refusal, Status};

use super::session::session_in_query;
use super::{Answer, HttpRequest, Response, Upgrade};

/// Name of the room at the path `/`.
const LOBBY: &str = "lobby";

/// Answers a request for the room of its path: `/room/NAME`, or `/` for the room `lobby`. A WebSocket handshake opens
/// the WebSocket, with a session if the query has `session=ID` (see [`session_in_query`]). A GET or HEAD request without a handshake gets the page, or 426 without a page. Other paths get 404.
pub fn rooms(request: &HttpRequest<'_>, page: Option<fn() -> Response>) -> Answer {
    let room = match request.path() {
        "/" => Ok(LOBBY.to_owned()),
        path => match path.strip_prefix("/room/") {
            Some(name) => room_name(name),
            None => Err(Refusal::new(Status::NotFound, "Nothing is here; try / or /room/NAME.")),
        },
    };
    match (room, page) {
        (Err(refusal), _) => Answer::Refuse(refusal),
        (Ok(room), _) if request.is_upgrade() => match session_in_query(request) {
            Ok(session) => Answer::Open(Upgrade { session, ..Upgrade::to(room) }),
            Err(refusal) => Answer::Refuse(refusal),
        },
        (Ok(_), _) if !request.is_read() => {
            let reason = "Only GET and HEAD requests are answered here.";
            let refusal = Refusal::new(Status::MethodNotAllowed, reason);
            Answer::Refuse(Refusal { allow: "GET, HEAD", ..refusal })
        }
        (Ok(_), Some(page)) => Answer::Respond(page()),
        (Ok(room), None) => Answer::open(room),
    }
}

/// Returns the canonical form of a room's percent-encoded name in a request path.
fn room_name(encoded: &str) -> Result<String, Refusal> {
    let bad = |reason| Refusal::new(Status::BadRequest, reason);
    let name = percent_decode_str(encoded)
        .decode_utf8()
        .map_err(|_| bad("A room's name is UTF-8, percent-encoded where the URL needs it."))?;
    let name = names::room_name(&name).map_err(|_| {
        bad("A room's name has 1 to 64 bytes: visible words with one space between them, without / < > &.")
    })?;
    Ok(name.into_owned())
}
