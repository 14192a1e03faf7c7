//! Encodes HTTP responses. Each response is short, complete and the last on its connection.

use std::borrow::Cow;
use std::fmt;

use super::deflate::Agreement;
use super::handshake::AcceptKey;

/// An HTTP status code that the server uses. RFC 9110 §15, RFC 6585
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum Status {
    /// Success: the response has the requested content.
    Ok = 200,
    /// The request breaks a rule of HTTP or of the WebSocket handshake.
    BadRequest = 400,
    /// The request needs a valid token.
    Unauthorized = 401,
    /// The server does not allow the request, for instance because of the page's origin.
    Forbidden = 403,
    /// The path of the request does not exist on this server.
    NotFound = 404,
    /// The path of the request does not allow the request's method.
    MethodNotAllowed = 405,
    /// The request head did not arrive in time.
    RequestTimeout = 408,
    /// The request has content; this server accepts none.
    ContentTooLarge = 413,
    /// The request target is too long.
    UriTooLong = 414,
    /// The request names a host that is not this server.
    MisdirectedRequest = 421,
    /// The path needs a WebSocket handshake, or another version of the WebSocket protocol.
    UpgradeRequired = 426,
    /// The client has too many connections.
    TooManyRequests = 429,
    /// The request head is too long.
    HeaderFieldsTooLarge = 431,
    /// The server met an unexpected condition.
    InternalServerError = 500,
    /// The server is full or shutting down.
    ServiceUnavailable = 503,
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
            Self::BadRequest => "Bad Request",
            Self::Unauthorized => "Unauthorized",
            Self::Forbidden => "Forbidden",
            Self::NotFound => "Not Found",
            Self::MethodNotAllowed => "Method Not Allowed",
            Self::RequestTimeout => "Request Timeout",
            Self::ContentTooLarge => "Content Too Large",
            Self::UriTooLong => "URI Too Long",
            Self::MisdirectedRequest => "Misdirected Request",
            Self::UpgradeRequired => "Upgrade Required",
            Self::TooManyRequests => "Too Many Requests",
            Self::HeaderFieldsTooLarge => "Request Header Fields Too Large",
            Self::InternalServerError => "Internal Server Error",
            Self::ServiceUnavailable => "Service Unavailable",
        }
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

    /// Appends the response for this refusal to `out`, with the header fields that its status demands.
    pub fn respond(&self, out: &mut Vec<u8>) {
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
        respond(self.status, headers, "text/plain; charset=utf-8", body.as_bytes(), self.head_only, out);
    }
}

/// Appends an HTTP response to `out`. The caller must close the connection after the response.
///
/// `head_only` means a response to a HEAD request: all header fields, but no body. RFC 9110 §9.3.2
pub fn respond(
    status: Status,
    extra_headers: &[(&str, &str)],
    content_type: &str,
    body: &[u8],
    head_only: bool,
    out: &mut Vec<u8>,
) {
    let mut head = format!(
        "HTTP/1.1 {status}\r\nConnection: close\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\n",
        body.len()
    );
    for (name, value) in extra_headers {
        debug_assert!(
            !name.contains(['\r', '\n']) && !value.contains(['\r', '\n']),
            "a line break in {name}"
        );
        head.extend([name, ": ", value, "\r\n"]);
    }
    head.push_str("\r\n");
    out.extend_from_slice(head.as_bytes());
    if !head_only {
        out.extend_from_slice(body);
    }
}

/// Appends the 101 response that upgrades the connection to a WebSocket. `agreement` is the negotiated compression. RFC
/// 6455 §4.2.2
pub fn switching_protocols(accept: &AcceptKey, agreement: Option<&Agreement>, out: &mut Vec<u8>) {
    out.extend_from_slice(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ",
    );
    out.extend_from_slice(accept.as_str().as_bytes());
    if let Some(agreement) = agreement {
        out.extend_from_slice(format!("\r\nSec-WebSocket-Extensions: {agreement}").as_bytes());
    }
    out.extend_from_slice(b"\r\n\r\n");
}
