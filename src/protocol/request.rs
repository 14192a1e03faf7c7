//! HTTP requests: collecting, parsing and checking by the rules of HTTP/1.1. RFC 9112

use super::body::{BodyDecoder, BodyLength};
use super::handshake::{AcceptKey, lists, negotiate, values};
use super::response::{Refusal, Status};
use super::take_up_to;
use httparse::{EMPTY_HEADER, Error, Header};
use smallvec::SmallVec;

/// Maximum length in bytes of a request head with its final empty line.
pub const MAX_HEAD_LEN: usize = 16 * 1024;

/// Maximum number of header lines of a request.
pub const MAX_HEADERS: usize = 64;

/// A valid HTTP request with its whole body.
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
    /// The body of the request, decoded if it came in chunks. Empty for a request without a body.
    pub body: &'a [u8],
    /// Whether the client lets the connection go on after the response. RFC 9112 §9.3
    pub keep_alive: bool,
    /// The head of the request, including the final empty line.
    head: &'a [u8],
    /// The header lines of the request, including the final empty line.
    header_lines: &'a [u8],
}

/// A parsed request head.
#[derive(Clone, Copy, Debug)]
struct Head<'a> {
    /// The request with an empty body.
    request: Request<'a>,
    body: BodyLength,
    /// Whether the client waits for `100 Continue` before it sends the body. RFC 9110 §10.1.1
    expects_continue: bool,
}

/// The progress that the bytes of one read make with an HTTP request.
#[derive(Debug)]
pub(super) enum Step<'a> {
    /// The request is not complete.
    More,
    /// The client waits for `100 Continue` before it sends the body.
    Continue,
    Whole(Request<'a>),
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

    /// Returns the subprotocols that the client offers, in its order of preference. RFC 6455 §4.1, item 10
    pub fn subprotocols(&self) -> impl Iterator<Item = &'a str> {
        let values = self.headers("Sec-WebSocket-Protocol");
        let values = values.filter_map(|value| str::from_utf8(value).ok());
        values.flat_map(|value| value.split(',')).map(str::trim).filter(|name| !name.is_empty())
    }

    /// Returns the credentials of all Authorization fields with the scheme Bearer. The scheme's name is
    /// case-insensitive. RFC 6750 §2.1, RFC 9110 §11.1
    pub fn bearer(&self) -> impl Iterator<Item = &'a [u8]> {
        self.headers("Authorization").filter_map(|value| {
            let (scheme, credentials) = value.split_at_checked("Bearer ".len())?;
            scheme.eq_ignore_ascii_case(b"Bearer ").then(|| credentials.trim_ascii())
        })
    }

    /// Returns the value of the first cookie with this name. Names are case-sensitive. RFC 6265 §4.2
    pub fn cookie(&self, name: &str) -> Option<&'a str> {
        let pairs = self.headers("Cookie").filter_map(|value| str::from_utf8(value).ok());
        let mut pairs =
            pairs.flat_map(|value| value.split(';')).filter_map(|pair| pair.trim().split_once('='));
        pairs.find(|(known, _)| *known == name).map(|(_, value)| value)
    }

    /// Returns the head of the request, including the final empty line.
    pub(crate) fn head(&self) -> &'a [u8] {
        self.head
    }

    /// Returns the request with this head, which [`Request::head`] returned earlier, and an empty body.
    pub(crate) fn from_head(head: &'a [u8]) -> Option<Self> {
        Head::parse(head, usize::MAX).ok().map(|head| head.request)
    }

    /// Returns whether this is a HEAD request, whose response must not have a body.
    pub fn is_head(&self) -> bool {
        self.method == "HEAD"
    }
}

impl<'a> Head<'a> {
    /// Parses and checks a complete request head. `max_body` is the maximum length of the request's body in bytes.
    fn parse(head: &'a [u8], max_body: usize) -> Result<Self, Refusal> {
        let mut headers = [EMPTY_HEADER; MAX_HEADERS];
        let mut parsed = httparse::Request::new(&mut headers);
        let status = parsed.parse(head).map_err(refusal)?;
        let (Some(method), Some(target), Some(version)) = (parsed.method, parsed.path, parsed.version) else {
            return Err(refusal(Error::Token));
        };
        if status.is_partial() || has_bare_line_feed(head) {
            return Err(refusal(Error::NewLine));
        }
        let headers: &[Header<'a>] = parsed.headers;
        let is_http_1_0 = version == 0;
        let host = host(headers, is_http_1_0)?;
        let body = BodyLength::of(headers, is_http_1_0, max_body)?;
        if body != BodyLength::Known(0) && lists(headers, "Upgrade", "websocket") {
            // The bytes after a handshake are frames, so a proxy must not take them for content.
            let reason = "A WebSocket handshake has no request content; send it without.";
            return Err(Refusal::new(Status::ContentTooLarge, reason));
        }
        let upgrade = negotiate(method, is_http_1_0, headers)?;
        let (authority, target) = split_target(target)?;
        let (path, query) = match target.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (target, None),
        };
        let request_line_len = head.iter().position(|&byte| byte == b'\n').map_or(0, |at| at + 1);
        Ok(Self {
            request: Request {
                method,
                path,
                query,
                host: authority.or(host),
                upgrade,
                body: &[],
                // RFC 9112 §9.3: a connection of HTTP/1.0 ends with its response. The server may ignore the field
                // `Connection: keep-alive` of HTTP/1.0.
                keep_alive: !is_http_1_0 && !lists(headers, "Connection", "close"),
                head,
                header_lines: &head[request_line_len..],
            },
            body,
            expects_continue: expects_continue(headers, is_http_1_0)?,
        })
    }
}

/// Returns whether a line of a request head ends in a line feed alone. A server may accept such lines (RFC 9112 §2.2).
/// But an intermediary may see the head's end elsewhere, so that the rest passes as another request.
fn has_bare_line_feed(head: &[u8]) -> bool {
    let mut before = 0;
    head.iter().any(|&byte| std::mem::replace(&mut before, byte) != b'\r' && byte == b'\n')
}

/// Returns whether the client waits for `100 Continue`. A server ignores this expectation in HTTP/1.0. RFC 9110 §10.1.1
fn expects_continue(headers: &[Header<'_>], is_http_1_0: bool) -> Result<bool, Refusal> {
    let mut expects = false;
    for value in values(headers, "Expect") {
        if !value.eq_ignore_ascii_case(b"100-continue") {
            let reason = "The only expectation that this server meets is \"100-continue\".";
            return Err(Refusal::new(Status::ExpectationFailed, reason));
        }
        expects = !is_http_1_0;
    }
    Ok(expects)
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

/// The buffer of a request that has arrived in part.
#[derive(Debug)]
pub(super) struct RequestBuffer {
    /// The head, then the decoded part of the body.
    bytes: Vec<u8>,
    /// Whether the last line in `bytes` is empty so far, so that a line feed would end the head.
    line_is_empty: bool,
    /// Length of `bytes` at which the incomplete head is checked next. This length doubles with each check, so that a
    /// head in many parts is rarely parsed.
    try_at: usize,
    /// Length of the head, or 0 while it is incomplete.
    head_len: usize,
    body: BodyDecoder,
}

/// Moves bytes from `input` to a request up to its end. A request that arrives whole and not in chunks borrows `input`.
/// The part of a request that arrived before is in `buffer`. `max_body` is the maximum length of a body in bytes.
pub(super) fn next_step<'a, 'i: 'a>(
    buffer: &'a mut Option<Box<RequestBuffer>>,
    input: &mut &'i mut [u8],
    max_body: usize,
) -> Result<Step<'a>, Refusal> {
    if buffer.is_none() {
        // RFC 9112 §2.2: empty lines before a request are ignored.
        let start = input.iter().position(|byte| !matches!(byte, b'\r' | b'\n')).unwrap_or(input.len());
        take_up_to(start, input);
        if input.is_empty() {
            return Ok(Step::More);
        }
        if let Some(len) = head_end(&input[..input.len().min(MAX_HEAD_LEN)], &mut false) {
            let bytes = take_up_to(len, input);
            let Head { request, body, expects_continue } = Head::parse(bytes, max_body)?;
            match body {
                BodyLength::Known(0) => return Ok(Step::Whole(request)),
                BodyLength::Known(len) if len <= input.len() => {
                    return Ok(Step::Whole(Request { body: take_up_to(len, input), ..request }));
                }
                _ => *buffer = Some(Box::new(RequestBuffer::with_head(bytes, body))),
            }
            if expects_continue && input.is_empty() {
                return Ok(Step::Continue);
            }
        }
    }
    buffer.get_or_insert_default().take_in(input, max_body)
}

impl Default for RequestBuffer {
    fn default() -> Self {
        Self {
            bytes: Vec::new(),
            line_is_empty: false,
            try_at: 0,
            head_len: 0,
            body: BodyDecoder::new(BodyLength::Known(0)),
        }
    }
}

impl RequestBuffer {
    /// Creates the buffer of a request whose head is complete.
    fn with_head(head: &[u8], body: BodyLength) -> Self {
        Self { bytes: head.to_vec(), head_len: head.len(), body: BodyDecoder::new(body), ..Self::default() }
    }

    /// Moves bytes from `input` to the buffer, up to the end of the request.
    fn take_in(&mut self, input: &mut &mut [u8], max_body: usize) -> Result<Step<'_>, Refusal> {
        if self.head_len == 0 {
            if !self.take_in_head(input)? {
                return Ok(Step::More);
            }
            let Head { body, expects_continue, .. } = Head::parse(&self.bytes, max_body)?;
            self.head_len = self.bytes.len();
            self.body = BodyDecoder::new(body);
            // RFC 9110 §10.1.1: no `100 Continue` if a part of the body has arrived.
            if expects_continue && body != BodyLength::Known(0) && input.is_empty() {
                return Ok(Step::Continue);
            }
        }
        if !self.body.take_in(input, &mut self.bytes, self.head_len, max_body)? {
            return Ok(Step::More);
        }
        let (head, body) = self.bytes.split_at(self.head_len);
        // The length of the body was checked at the end of the head. The limit may have changed since then.
        let Head { request, .. } = Head::parse(head, usize::MAX)?;
        Ok(Step::Whole(Request { body, ..request }))
    }

    /// Returns the memory of the buffer in bytes.
    pub(super) fn memory(&self) -> usize {
        size_of::<Self>() + self.bytes.capacity()
    }

    /// Moves bytes from `input` to the buffer, up to the end of the head. Returns whether the head is complete.
    fn take_in_head(&mut self, input: &mut &mut [u8]) -> Result<bool, Refusal> {
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
fn head_end(bytes: &[u8], line_is_empty: &mut bool) -> Option<usize> {
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
