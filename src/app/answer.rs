//! Answers of an application to HTTP requests.

use std::any::Any;
use std::borrow::Cow;

use crate::page;
use crate::protocol::response::respond_head;
use crate::protocol::{Refusal, Status};

use super::responder::Deferral;

/// The header fields that the server alone decides, because they say where a response ends.
const OWN_FIELDS: [&str; 3] = ["Connection", "Content-Length", "Transfer-Encoding"];

/// The answer of an application to an HTTP request.
#[derive(Debug)]
pub enum Answer {
    /// Open the WebSocket. If the request is no WebSocket handshake, the client gets 426.
    Open(Upgrade),
    /// Send this response. An answer to a WebSocket handshake refuses the WebSocket.
    Respond(Response),
    /// Send this error, a text for people, and count it as a refusal in the metrics.
    Refuse(Refusal),
    /// Answer later: see [`HttpRequest::defer`](super::HttpRequest::defer).
    Later(Deferral),
    /// The application has nothing at this path. The client gets 404.
    NotMine,
}

impl Answer {
    /// Opens the WebSocket for a room. [`Opening::room`](super::Opening::room) then has the name, and a token must allow
    /// the room. The client joins no room by itself.
    pub fn open(room: impl Into<String>) -> Self {
        Self::Open(Upgrade::to(room))
    }

    /// Refuses the request with a status and a text for people.
    pub fn refuse(status: Status, reason: &'static str) -> Self {
        Self::Refuse(Refusal::new(status, reason))
    }
}

/// The way in which a WebSocket opens.
#[derive(Debug, Default)]
pub struct Upgrade {
    /// The room that the client asked for, in the canonical form of its name; empty without a room. On a server that
    /// requires tokens, the client's token must allow this room.
    pub room: String,
    /// The subprotocol of the connection, one of [`HttpRequest::subprotocols`](super::HttpRequest::subprotocols). `None`
    /// for no subprotocol. Browsers fail to connect if they offered some and get none. RFC 6455 §4.2.2
    pub subprotocol: Option<String>,
    /// A value for [`App::on_open`](super::App::on_open), such as the user that the application has found. See
    /// [`Opening::take`](super::Opening::take).
    pub value: Option<Box<dyn Any + Send>>,
    /// The identifier of the client's session. `None` for a client without a session. See [`Upgrade::with_session`].
    pub session: Option<String>,
}

impl Upgrade {
    /// Opens the WebSocket for a room: see [`Answer::open`].
    pub fn to(room: impl Into<String>) -> Self {
        Self { room: room.into(), ..Self::default() }
    }

    /// Chooses a subprotocol: see [`Upgrade::subprotocol`].
    #[must_use]
    pub fn with_subprotocol(self, subprotocol: impl Into<String>) -> Self {
        Self { subprotocol: Some(subprotocol.into()), ..self }
    }

    /// Gives the client a session, with an identifier that [`check_session_id`](super::check_session_id) accepts. The
    /// session outlives the connection: a client that returns with the same identifier, and the same `sub` in its token,
    /// continues in its rooms where it stopped. The WebSocket opens when the session is there, at once. Of two
    /// connections with one session the new one wins; the old one is closed with 4002.
    ///
    /// The client acknowledges messages by its pongs, so it costs pings while it gets messages. Does nothing on a server
    /// without sessions (`--session-seconds 0`).
    #[must_use]
    pub fn with_session(self, id: impl Into<String>) -> Self {
        Self { session: Some(id.into()), ..self }
    }

    /// Gives [`App::on_open`](super::App::on_open) a value: see [`Upgrade::value`].
    #[must_use]
    pub fn with_value<T: Any + Send>(self, value: T) -> Self {
        Self { value: Some(Box::new(value)), ..self }
    }
}

impl From<Upgrade> for Answer {
    fn from(upgrade: Upgrade) -> Self {
        Self::Open(upgrade)
    }
}

impl From<Refusal> for Answer {
    fn from(refusal: Refusal) -> Self {
        Self::Refuse(refusal)
    }
}

/// An HTTP response with its whole body. The server adds `Content-Length` and `Connection`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// The status of the response.
    pub status: Status,
    /// The media type of the body. Empty: the response has no `Content-Type` field.
    pub content_type: Cow<'static, str>,
    /// Further header fields: names and values. Fields with a line break are left out, and so are the fields that the
    /// server adds. `Connection: close` makes this the last response on its connection.
    pub headers: Vec<(Cow<'static, str>, Cow<'static, str>)>,
    /// The body of the response. The server leaves it out of a response to HEAD.
    pub body: Cow<'static, [u8]>,
}

impl Response {
    /// Creates a response with a body of this media type.
    pub fn new(
        status: Status,
        content_type: impl Into<Cow<'static, str>>,
        body: impl Into<Cow<'static, [u8]>>,
    ) -> Self {
        Self { status, content_type: content_type.into(), headers: Vec::new(), body: body.into() }
    }

    /// Creates a response with a plain text.
    pub fn text(status: Status, text: impl Into<String>) -> Self {
        Self::new(status, "text/plain; charset=utf-8", text.into().into_bytes())
    }

    /// Creates a response with a JSON text.
    pub fn json(status: Status, json: impl Into<String>) -> Self {
        Self::new(status, "application/json", json.into().into_bytes())
    }

    /// Creates a response with an HTML page that has exactly one inline script and one inline style, both elements without
    /// attributes. Its content security policy allows nothing else to run, and connections to this server only. Hashes both
    /// elements, so an application makes the response once and sends clones.
    ///
    /// # Panics
    /// The page has no inline script or no inline style.
    pub fn page(html: &'static str) -> Self {
        let policy = page::policy(html);
        let response = Self::new(Status::Ok, page::CONTENT_TYPE, html.as_bytes());
        page::headers(&policy)
            .into_iter()
            .fold(response, |response, (name, value)| response.with_header(name, value.to_owned()))
    }

    /// Appends the status line and the header fields to `out`. The caller appends the body, if the response sends one.
    pub(crate) fn encode_head(&self, keep_alive: bool, out: &mut Vec<u8>) {
        // A line break in a field would let its text pass as other fields or as another response.
        let is_line = |text: &str| !text.contains(['\r', '\n']);
        let headers = self.headers.iter().map(|(name, value)| (&**name, &**value));
        let is_own = |name: &str| OWN_FIELDS.iter().any(|own| own.eq_ignore_ascii_case(name));
        let headers = headers.filter(|(name, value)| is_line(name) && is_line(value) && !is_own(name));
        let content_type = if is_line(&self.content_type) { &*self.content_type } else { "" };
        respond_head(self.status, headers, content_type, self.body.len(), keep_alive, out);
    }

    /// Returns whether the response is the last one on its connection, because it has the field `Connection: close`.
    pub(crate) fn closes(&self) -> bool {
        let is_close = |name: &str, value: &str| {
            name.eq_ignore_ascii_case("Connection") && value.eq_ignore_ascii_case("close")
        };
        self.headers.iter().any(|(name, value)| is_close(name, value))
    }

    /// Adds a header field.
    #[must_use]
    pub fn with_header(
        mut self,
        name: impl Into<Cow<'static, str>>,
        value: impl Into<Cow<'static, str>>,
    ) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }
}

impl From<Response> for Answer {
    fn from(response: Response) -> Self {
        Self::Respond(response)
    }
}
