//! HTTP request heads: collecting, parsing and checking by the rules of HTTP/1.1. RFC 9112

use super::handshake::{AcceptKey, negotiate, values};
use super::response::{Refusal, Status};
use super::take_up_to;
use httparse::{EMPTY_HEADER, Error, Header};
use smallvec::SmallVec;

/// Maximum length in bytes of a request head with its final empty line.
pub const MAX_HEAD_LEN: usize = 16 * 1024;

/// Maximum number of header lines of a request.
pub const MAX_HEADERS: usize = 64;

/// A valid HTTP request without a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request<'a> {
    /// The method of the request, exactly as the client sent it.
    pub method: &'a str,
    /// The path of the request target: the part before the first `?`. Begins with `/`, or is `*`. Percent-encoding is
    /// not decoded.
    pub path: &'a str,
    /// The query of the request target: the part behind the first `?`. `None` without a `?`.
    pub query: Option<&'a str>,
    /// The host that the request names, with a port if the client sent one. `None` only for HTTP/1.0 without a host.
    pub host: Option<&'a str>,
    /// The accept key that answers a valid WebSocket handshake. `None` for a plain HTTP request.
    pub upgrade: Option<AcceptKey>,
    /// The header lines of the request, including the final empty line.
    header_lines: &'a [u8],
}

impl<'a> Request<'a> {
    /// Returns the value of the first header field with this name. Returns `None` if there is no such field or the
    /// value is not UTF-8. Ignores the name's case.
    pub fn header(&self, name: &str) -> Option<&'a str> {
        self.headers(name).next().and_then(|value| str::from_utf8(value).ok())
    }

    /// Returns the values of all header fields with this name. Ignores the name's case.
    pub fn headers(&self, name: &str) -> impl Iterator<Item = &'a [u8]> {
        let mut headers = [EMPTY_HEADER; MAX_HEADERS];
        let parsed = httparse::parse_headers(self.header_lines, &mut headers);
        let headers = if let Ok(httparse::Status::Complete((_, headers))) = parsed { headers } else { &[] };
        let found: SmallVec<[&'a [u8]; 4]> = values(headers, name).collect();
        found.into_iter()
    }

    /// Returns whether this is a HEAD request, whose response must not have a body.
    pub fn is_head(&self) -> bool {
        self.method == "HEAD"
    }

    /// Parses and checks a complete request head.
    pub(super) fn parse(head: &'a [u8]) -> Result<Self, Refusal> {
        let mut headers = [EMPTY_HEADER; MAX_HEADERS];
        let mut parsed = httparse::Request::new(&mut headers);
        let status = parsed.parse(head).map_err(refusal)?;
        let (Some(method), Some(target), Some(version)) = (parsed.method, parsed.path, parsed.version) else {
            return Err(refusal(Error::Token));
        };
        if status.is_partial() {
            return Err(refusal(Error::NewLine));
        }
        let headers: &[Header<'a>] = parsed.headers;
        let is_http_1_0 = version == 0;
        let host = host(headers, is_http_1_0)?;
        refuse_body(headers)?;
        let upgrade = negotiate(method, is_http_1_0, headers)?;
        let (authority, target) = split_target(target)?;
        let (path, query) = match target.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (target, None),
        };
        let request_line_len = head.iter().position(|&byte| byte == b'\n').map_or(0, |at| at + 1);
        let header_lines = &head[request_line_len..];
        Ok(Self { method, path, query, host: authority.or(host), upgrade, header_lines })
    }
}

/// Returns the value of the `Host` field. RFC 9112 §3.2: exactly one such field in HTTP/1.1, at most one before.
fn host<'a>(headers: &[Header<'a>], is_http_1_0: bool) -> Result<Option<&'a str>, Refusal> {
    let mut hosts = values(headers, "Host");
    let host = match (hosts.next(), hosts.next()) {
        (Some(host), None) => host,
        (None, _) if is_http_1_0 => return Ok(None),
        _ => return Err(Refusal::new(Status::BadRequest, "Send the header field Host exactly once.")),
    };
    match str::from_utf8(host) {
        Ok(host) if is_host(host) => Ok(Some(host)),
        _ => {
            Err(Refusal::new(Status::BadRequest, "The header field Host must be a name or address in ASCII."))
        }
    }
}

fn is_host(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// Returns a refusal for a request with content: no request to this server needs content. RFC 9112 §6
fn refuse_body(headers: &[Header<'_>]) -> Result<(), Refusal> {
    const BODY: Refusal = Refusal::new(
        Status::ContentTooLarge,
        "This server takes no request content; send the request without it.",
    );
    if values(headers, "Transfer-Encoding").next().is_some() {
        return Err(BODY);
    }
    for len in values(headers, "Content-Length") {
        if len.is_empty() || !len.iter().all(u8::is_ascii_digit) {
            return Err(Refusal::new(
                Status::BadRequest,
                "The header field Content-Length must be a number.",
            ));
        }
        if len.iter().any(|&digit| digit != b'0') {
            return Err(BODY);
        }
    }
    Ok(())
}

/// Splits a request target into its authority and the rest. Only a target in absolute form has an authority; every
/// server must accept this form. RFC 9112 §3.2.2
fn split_target(target: &str) -> Result<(Option<&str>, &str), Refusal> {
    if target.starts_with('/') || target == "*" {
        return Ok((None, target));
    }
    let absolute = target.split_once("://").filter(|(scheme, _)| {
        ["http", "https", "ws", "wss"].iter().any(|known| scheme.eq_ignore_ascii_case(known))
    });
    let Some((_, rest)) = absolute else {
        return Err(Refusal::new(
            Status::BadRequest,
            "The request target must be a path that begins with \"/\".",
        ));
    };
    let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    if !is_host(authority) {
        let reason = "The host in the request target must be a name or address in ASCII.";
        return Err(Refusal::new(Status::BadRequest, reason));
    }
    // An empty path means `/`. A target with a query but no path is refused, since it has no `/` to borrow.
    match path {
        "" => Ok((Some(authority), "/")),
        _ if path.starts_with('/') => Ok((Some(authority), path)),
        _ => Err(Refusal::new(Status::BadRequest, "The request target must have a path before its query.")),
    }
}

/// Converts an error of the HTTP parser to a refusal.
fn refusal(error: Error) -> Refusal {
    let (status, reason) = match error {
        Error::TooManyHeaders => {
            (Status::HeaderFieldsTooLarge, "The request has too many header lines; send at most 64.")
        }
        Error::Version => {
            (Status::BadRequest, "The request line must end in HTTP/1.1; other versions are not spoken.")
        }
        Error::HeaderName => {
            (Status::BadRequest, "The name of a header field has a character that is not allowed.")
        }
        Error::HeaderValue => {
            (Status::BadRequest, "The value of a header field has a character that is not allowed.")
        }
        Error::NewLine => (Status::BadRequest, "A line of the request head does not end in CR LF."),
        _ => {
            (Status::BadRequest, "This is not HTTP; a request begins with a line such as \"GET / HTTP/1.1\".")
        }
    };
    Refusal::new(status, reason)
}

/// The buffer of a request head that has arrived in part.
#[derive(Debug, Default)]
pub(super) struct HeadBuffer {
    bytes: Vec<u8>,
    /// Whether the last line in `bytes` is empty so far, so that a line feed would end the head.
    line_is_empty: bool,
    /// Length of `bytes` at which the incomplete head is checked next. This length doubles with each check, so that a
    /// head in many parts is rarely parsed.
    try_at: usize,
}

impl HeadBuffer {
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Moves bytes from `input` to the buffer, up to the end of the head. Returns whether the head is complete.
    pub(super) fn take_in(&mut self, input: &mut &mut [u8]) -> Result<bool, Refusal> {
        let window = &input[..input.len().min(MAX_HEAD_LEN - self.bytes.len())];
        let end = head_end(window, &mut self.line_is_empty);
        let part = take_up_to(end.unwrap_or(window.len()), input);
        self.bytes.extend_from_slice(part);
        if end.is_none() && self.bytes.len() >= self.try_at {
            self.try_at = MAX_HEAD_LEN.min(2 * self.bytes.len());
            refuse_early(&self.bytes)?;
        }
        Ok(end.is_some())
    }
}

/// Returns the number of bytes up to the end of a request head, or `None` if `bytes` do not contain the end.
/// `line_is_empty` tells whether the line at the start of `bytes` is empty so far, and is updated.
pub(super) fn head_end(bytes: &[u8], line_is_empty: &mut bool) -> Option<usize> {
    for (at, byte) in bytes.iter().enumerate() {
        match byte {
            b'\n' if *line_is_empty => return Some(at + 1),
            b'\n' => *line_is_empty = true,
            b'\r' => {}
            _ => *line_is_empty = false,
        }
    }
    None
}

/// Returns a refusal if a request head that has arrived in part is already invalid or too long.
fn refuse_early(bytes: &[u8]) -> Result<(), Refusal> {
    let mut headers = [EMPTY_HEADER; MAX_HEADERS];
    httparse::Request::new(&mut headers).parse(bytes).map_err(refusal)?;
    match bytes.len() {
        ..MAX_HEAD_LEN => Ok(()),
        _ if bytes.contains(&b'\n') => Err(Refusal::new(
            Status::HeaderFieldsTooLarge,
            "The request head is too long; send at most 16 KiB.",
        )),
        _ => Err(Refusal::new(Status::UriTooLong, "The request line is too long; send at most 16 KiB.")),
    }
}
