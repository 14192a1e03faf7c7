//! Encodes HTTP responses.

use std::borrow::Cow;
use std::fmt;
use std::io::Write;

use super::deflate::Agreement;
use super::handshake::AcceptKey;
use super::request::Request;

/// The response that asks a client for the body of its request. RFC 9110 §15.2.1
pub const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// An HTTP status code of a final response. RFC 9110 §15, RFC 6585
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum Status {
    /// Success: the response has the requested content.
    Ok = 200,
    /// Success: the request has created something.
    Created = 201,
    /// The request was accepted and is not complete yet.
    Accepted = 202,
    /// Success without content. The response has no body.
    NoContent = 204,
    /// The content has moved for good, to the URL in the field `Location`.
    MovedPermanently = 301,
    /// The content is at the URL in the field `Location` for now.
    Found = 302,
    /// The result is at the URL in the field `Location`, to be read with GET.
    SeeOther = 303,
    /// The client's copy of the content is still valid. The response has no body.
    NotModified = 304,
    /// The content is temporarily at the URL in the field `Location`. The client repeats its request there, with the
    /// same method.
    TemporaryRedirect = 307,
    /// The content has moved for good to the URL in the field `Location`. The client repeats its request there, with the
    /// same method.
    PermanentRedirect = 308,
    /// The request breaks a rule of HTTP, of the WebSocket handshake or of the application.
    BadRequest = 400,
    /// The request needs a valid token or other credentials.
    Unauthorized = 401,
    /// The server does not allow the request, for instance because of the page's origin.
    Forbidden = 403,
    /// The path of the request does not exist on this server.
    NotFound = 404,
    /// The path of the request does not allow the request's method.
    MethodNotAllowed = 405,
    /// The server has no form of the content that the client accepts.
    NotAcceptable = 406,
    /// The request did not arrive in time.
    RequestTimeout = 408,
    /// The request contradicts the current state.
    Conflict = 409,
    /// The content no longer exists.
    Gone = 410,
    /// The content of the request is too long, or not allowed.
    ContentTooLarge = 413,
    /// The request target is too long.
    UriTooLong = 414,
    /// The server does not take content of this type.
    UnsupportedMediaType = 415,
    /// The server does not meet an expectation in the field `Expect`.
    ExpectationFailed = 417,
    /// The request names a host that is not this server.
    MisdirectedRequest = 421,
    /// The content of the request is well-formed and still cannot be handled.
    UnprocessableContent = 422,
    /// The path needs a WebSocket handshake, or another version of the WebSocket protocol.
    UpgradeRequired = 426,
    /// The client has too many connections, or sends too many requests.
    TooManyRequests = 429,
    /// The request head is too long.
    HeaderFieldsTooLarge = 431,
    /// The server met an unexpected condition.
    InternalServerError = 500,
    /// The server does not have the requested function.
    NotImplemented = 501,
    /// Another server, on which the answer depends, gave an invalid answer.
    BadGateway = 502,
    /// The server is full or shutting down.
    ServiceUnavailable = 503,
    /// Another server, on which the answer depends, did not answer in time.
    GatewayTimeout = 504,
}

impl Status {
    /// Returns the three-digit status code for the status line.
    pub fn code(self) -> u16 {
        self as u16
    }

    /// Returns the reason phrase for the status line, for instance `Not Found`.
    pub fn phrase(self) -> &'static str {
        match self {
            Self::Ok => "OK",
            Self::Created => "Created",
            Self::Accepted => "Accepted",
            Self::NoContent => "No Content",
            Self::MovedPermanently => "Moved Permanently",
            Self::Found => "Found",
            Self::SeeOther => "See Other",
            Self::NotModified => "Not Modified",
            Self::TemporaryRedirect => "Temporary Redirect",
            Self::PermanentRedirect => "Permanent Redirect",
            Self::BadRequest => "Bad Request",
            Self::Unauthorized => "Unauthorized",
            Self::Forbidden => "Forbidden",
            Self::NotFound => "Not Found",
            Self::MethodNotAllowed => "Method Not Allowed",
            Self::NotAcceptable => "Not Acceptable",
            Self::RequestTimeout => "Request Timeout",
            Self::Conflict => "Conflict",
            Self::Gone => "Gone",
            Self::ContentTooLarge => "Content Too Large",
            Self::UriTooLong => "URI Too Long",
            Self::UnsupportedMediaType => "Unsupported Media Type",
            Self::ExpectationFailed => "Expectation Failed",
            Self::MisdirectedRequest => "Misdirected Request",
            Self::UnprocessableContent => "Unprocessable Content",
            Self::UpgradeRequired => "Upgrade Required",
            Self::TooManyRequests => "Too Many Requests",
            Self::HeaderFieldsTooLarge => "Request Header Fields Too Large",
            Self::InternalServerError => "Internal Server Error",
            Self::NotImplemented => "Not Implemented",
            Self::BadGateway => "Bad Gateway",
            Self::ServiceUnavailable => "Service Unavailable",
            Self::GatewayTimeout => "Gateway Timeout",
        }
    }

    /// Returns whether a response with this status has no body. RFC 9110 §15.3.5, §15.4.5
    fn has_no_body(self) -> bool {
        matches!(self, Self::NoContent | Self::NotModified)
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.code(), self.phrase())
    }
}

/// The refusal of an HTTP request: a status and a text with the error and the remedy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{status}: {reason}")]
pub struct Refusal {
    /// The HTTP status of the response.
    pub status: Status,
    /// The body of the response: the error and the remedy, for people.
    pub reason: Cow<'static, str>,
    /// The methods in the `Allow` field of a response with [`Status::MethodNotAllowed`]. RFC 9110 §10.2.1
    pub allow: &'static str,
    /// Whether the refused request is a HEAD request, whose response has no body. RFC 9110 §9.3.2
    pub head_only: bool,
}

impl Refusal {
    /// Creates a refusal of a GET request.
    pub const fn new(status: Status, reason: &'static str) -> Self {
        Self { status, reason: Cow::Borrowed(reason), allow: "GET", head_only: false }
    }

    /// Creates a refusal of a GET request with a text made for this request.
    pub fn with_text(status: Status, reason: String) -> Self {
        Self { reason: Cow::Owned(reason), ..Self::new(status, "") }
    }

    /// Appends the response for this refusal to `out`, with the header fields that its status demands. The response is
    /// the last one on its connection.
    pub fn respond(&self, out: &mut Vec<u8>) {
        self.respond_and(false, out);
    }

    /// Works like [`Refusal::respond`]. `keep_alive`: further responses follow on the connection.
    pub fn respond_and(&self, keep_alive: bool, out: &mut Vec<u8>) {
        let headers: &[(&str, &str)] = match self.status {
            // RFC 9110 §15.5.2, RFC 6750 §3: a 401 response names the authentication scheme.
            Status::Unauthorized => &[("WWW-Authenticate", "Bearer")],
            // RFC 9110 §15.5.6: a 405 response lists the allowed methods.
            Status::MethodNotAllowed => &[("Allow", self.allow)],
            // RFC 6455 §4.2.2 and §4.4; RFC 9110 §15.5.22 and §7.8: a 426 response names the protocol and its version.
            Status::UpgradeRequired => {
                &[("Upgrade", "websocket"), ("Connection", "Upgrade"), ("Sec-WebSocket-Version", "13")]
            }
            _ => &[],
        };
        let body = format!("{}\n", self.reason);
        respond(
            self.status,
            headers,
            "text/plain; charset=utf-8",
            body.as_bytes(),
            Form { head_only: self.head_only, keep_alive },
            out,
        );
    }
}

/// The form of a response that its request decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Form {
    /// Whether the response has all header fields but no body, as for a HEAD request. RFC 9110 §9.3.2
    pub head_only: bool,
    /// Whether further responses follow on the connection. Otherwise the caller must close the connection after the
    /// response.
    pub keep_alive: bool,
}

impl Form {
    /// The form of the last response on its connection. `head_only` means a response to a HEAD request.
    pub const fn last(head_only: bool) -> Self {
        Self { head_only, keep_alive: false }
    }

    /// Returns the form of the response to `request`, as the client wants it.
    pub fn of(request: &Request<'_>) -> Self {
        Self { head_only: request.is_head(), keep_alive: request.keep_alive }
    }

    /// Returns whether a response with this status has its body. RFC 9110 §9.3.2, §15.3.5, §15.4.5
    pub(crate) fn sends_body(self, status: Status) -> bool {
        !self.head_only && !status.has_no_body()
    }
}

/// Appends an HTTP response to `out`. Leaves the field `Content-Type` out if `content_type` is empty.
pub fn respond(
    status: Status,
    extra_headers: &[(&str, &str)],
    content_type: &str,
    body: &[u8],
    form: Form,
    out: &mut Vec<u8>,
) {
    respond_head(status, extra_headers.iter().copied(), content_type, body.len(), form.keep_alive, out);
    if form.sends_body(status) {
        out.extend_from_slice(body);
    }
}

/// Appends the status line and the header fields of a response with a body of `len` bytes to `out`. The body follows if
/// [`Form::sends_body`].
pub(crate) fn respond_head<'a>(
    status: Status,
    extra_headers: impl Iterator<Item = (&'a str, &'a str)>,
    content_type: &str,
    len: usize,
    keep_alive: bool,
    out: &mut Vec<u8>,
) {
    let connection = if keep_alive { "" } else { "Connection: close\r\n" };
    put(out, format_args!("HTTP/1.1 {status}\r\n{connection}"));
    if !content_type.is_empty() {
        put(out, format_args!("Content-Type: {content_type}\r\n"));
    }
    // RFC 9110 §8.6: a response that never has a body has no length, or its length is that of another response.
    if !status.has_no_body() {
        put(out, format_args!("Content-Length: {len}\r\n"));
    }
    for (name, value) in extra_headers {
        debug_assert!(
            !name.contains(['\r', '\n']) && !value.contains(['\r', '\n']),
            "a line break in {name}"
        );
        put(out, format_args!("{name}: {value}\r\n"));
    }
    out.extend_from_slice(b"\r\n");
}

/// Appends text to `out`.
fn put(out: &mut Vec<u8>, text: fmt::Arguments<'_>) {
    // Writing to a `Vec` never fails.
    let _ = out.write_fmt(text);
}

/// Appends the 101 response that upgrades the connection to a WebSocket. `agreement` is the negotiated compression.
/// `subprotocol` is one of the subprotocols that the client offers. RFC 6455 §4.2.2
pub fn switching_protocols(
    accept: &AcceptKey,
    agreement: Option<&Agreement>,
    subprotocol: Option<&str>,
    out: &mut Vec<u8>,
) {
    out.extend_from_slice(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ",
    );
    out.extend_from_slice(accept.as_str().as_bytes());
    if let Some(agreement) = agreement {
        put(out, format_args!("\r\nSec-WebSocket-Extensions: {agreement}"));
    }
    if let Some(subprotocol) = subprotocol {
        put(out, format_args!("\r\nSec-WebSocket-Protocol: {subprotocol}"));
    }
    out.extend_from_slice(b"\r\n\r\n");
}
