//! The client's half of HTTP/1.1 with keep-alive (RFC 9112), without input or output.
//!
//! [`Client`] sends GET requests for one resource. The first request is the connection's opening handshake: the
//! connection is open when its response has arrived. A publisher sends requests that each have a message in their body,
//! and [`next_response`] reads the responses.

use crate::ws::handshake::{MAX_HEAD, MAX_HEADERS, explanation, has_token, header};
use crate::ws::{ProtocolError, Step, WsEvent};

/// The protocol state of one connection that sends GET requests.
#[derive(Debug, Default)]
pub(crate) struct Client {
    is_open: bool,
}

/// Appends a GET request for `resource` on `host` to `out`.
pub(crate) fn write_request(out: &mut Vec<u8>, host: &str, resource: &str) {
    for part in ["GET ", resource, " HTTP/1.1\r\nHost: ", host, "\r\n\r\n"] {
        out.extend_from_slice(part.as_bytes());
    }
}

impl Client {
    /// Decodes the next event at the front of `input`: the body of a response, as a binary message. Before the first
    /// body comes [`WsEvent::Opened`], which consumes nothing.
    pub(crate) fn next<'a>(&mut self, input: &'a [u8]) -> Result<Step<'a>, ProtocolError> {
        let Some(response) = read_response(input, false, Accepted::Ok)? else {
            return Ok(Step { consumed: 0, event: WsEvent::NeedsMore });
        };
        if !self.is_open {
            self.is_open = true;
            return Ok(Step { consumed: 0, event: WsEvent::Opened });
        }
        Ok(Step { consumed: response.len, event: WsEvent::Binary(response.body) })
    }

    /// Handles the end of the server's stream after the unconsumed bytes `rest`. Returns an error if the stream ends
    /// inside a response.
    pub(crate) fn end_of_stream(&self, rest: &[u8]) -> Result<(), ProtocolError> {
        end_of_stream(rest, Accepted::Ok)
    }
}

/// Decodes the next event at the front of `input`: a response with any status. `may_end` says that a response may announce
/// the end of the connection.
pub(crate) fn next_response(input: &[u8], may_end: bool) -> Result<Step<'_>, ProtocolError> {
    let accepted = if may_end { Accepted::Last } else { Accepted::Any };
    Ok(match read_response(input, false, accepted)? {
        Some(Response { status, reason, body, len }) => {
            Step { consumed: len, event: WsEvent::Response { status, reason, body } }
        }
        None => Step { consumed: 0, event: WsEvent::NeedsMore },
    })
}

/// Handles the end of a publisher's stream as [`Client::end_of_stream`] does.
pub(crate) fn end_of_responses(rest: &[u8]) -> Result<(), ProtocolError> {
    end_of_stream(rest, Accepted::Last)
}

/// The responses that a client handles. Others end the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Accepted {
    /// Responses with the status 200.
    Ok,
    /// Responses with any status that keep the connection open.
    Any,
    /// Responses with any status.
    Last,
}

/// A whole response.
struct Response<'a> {
    status: u16,
    reason: &'a str,
    body: &'a [u8],
    /// Length of head and body, in bytes.
    len: usize,
}

fn end_of_stream(rest: &[u8], accepted: Accepted) -> Result<(), ProtocolError> {
    match read_response(rest, true, accepted)? {
        None if !rest.is_empty() => Err(ProtocolError::ResponseCut(rest.len())),
        _ => Ok(()),
    }
}

/// Parses the response at the front of `bytes`. Returns `None` if it is not whole. `at_end` says that the server has
/// closed the connection.
fn read_response(
    bytes: &[u8],
    at_end: bool,
    accepted: Accepted,
) -> Result<Option<Response<'_>>, ProtocolError> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let fault = |text: String| Err(ProtocolError::Response(text));
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut response = httparse::Response::new(&mut headers);
    let head_len = match response.parse(bytes) {
        Ok(httparse::Status::Complete(head_len)) => head_len,
        Ok(httparse::Status::Partial) if bytes.len() > MAX_HEAD => {
            return fault(format!("its head is over {MAX_HEAD} bytes"));
        }
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(error) => return fault(error.to_string()),
    };
    let status = response.code.unwrap_or(0);
    if accepted == Accepted::Ok && status != 200 {
        let Some((reason, body)) = explanation(&response, &bytes[head_len..], at_end) else {
            return Ok(None);
        };
        return Err(ProtocolError::Status { status, reason, body });
    }
    let is_last = header(&response, "connection").is_some_and(|value| has_token(value, "close"));
    if is_last && accepted != Accepted::Last {
        return fault(format!(
            "it has the status {status} and `Connection: close`, and this scenario needs keep-alive (or \
             --publish-reconnect)"
        ));
    }
    let body_len = header(&response, "content-length").and_then(|len| len.parse::<usize>().ok());
    let is_chunked = header(&response, "transfer-encoding").is_some_and(|value| has_token(value, "chunked"));
    let rest = &bytes[head_len..];
    let body = match body_len {
        Some(len) => rest.get(..len).map(|body| (body, len)),
        None if is_chunked && accepted != Accepted::Ok => read_chunks(rest)?,
        // RFC 9112 §6.3: a response with the status 204 has no body and no Content-Length.
        None if status == 204 => Some((&[][..], 0)),
        None => return fault("it has no Content-Length, which this scenario needs".to_owned()),
    };
    let reason = response.reason.unwrap_or("");
    Ok(body.map(|(body, len)| Response { status, reason, body, len: head_len + len }))
}

/// Parses a chunked body without trailers at the front of `bytes` (RFC 9112 §7.1). Returns its first chunk, which is all of
/// a short body, and the length of all chunks in bytes. Returns `None` if the body is not whole.
fn read_chunks(bytes: &[u8]) -> Result<Option<(&[u8], usize)>, ProtocolError> {
    let fault = |text: &str| Err(ProtocolError::Response(text.to_owned()));
    let (mut at, mut first) = (0, None);
    loop {
        let (start, len) = match httparse::parse_chunk_size(&bytes[at..]) {
            Ok(httparse::Status::Complete((head_len, len))) => (at + head_len, len as usize),
            Ok(httparse::Status::Partial) => return Ok(None),
            Err(_) => return fault("the length of a chunk is not a hexadecimal number"),
        };
        let last_end = bytes.len().saturating_sub(2);
        let Some(end) = start.checked_add(len).filter(|&end| end <= last_end) else { return Ok(None) };
        if &bytes[end..end + 2] != b"\r\n" {
            return fault("a chunk is longer than it says, or its body has trailers");
        }
        let first = *first.get_or_insert_with(|| &bytes[start..end]);
        at = end + 2;
        if len == 0 {
            return Ok(Some((first, at)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO: &[u8] =
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhiHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";

    /// Returns the events of a client that gets `input` in pieces of `size` bytes.
    fn events(input: &[u8], size: usize) -> Result<Vec<String>, ProtocolError> {
        let (mut client, mut kept, mut events) = (Client::default(), Vec::new(), Vec::new());
        for piece in input.chunks(size) {
            kept.extend_from_slice(piece);
            loop {
                let Step { consumed, event } = client.next(&kept)?;
                if event == WsEvent::NeedsMore {
                    break;
                }
                events.push(format!("{event:?}"));
                kept.drain(..consumed);
            }
        }
        client.end_of_stream(&kept).map(|()| events)
    }

    #[test]
    fn responses_cut_anywhere_give_the_same_events() {
        for size in 1..=TWO.len() {
            let expected = ["Opened", "Binary([104, 105])", "Binary([])"].map(str::to_owned);
            assert_eq!(events(TWO, size).as_deref(), Ok(&expected[..]), "{size}");
        }
    }

    #[test]
    fn a_response_that_cannot_be_used_is_an_error_that_says_why() {
        for (input, reason) in [
            ("HTTP/1.1 404 Not Found\r\nContent-Length: 4\r\n\r\ngone", "404 Not Found: \"gone\""),
            ("HTTP/1.1 200 OK\r\n\r\n", "no Content-Length"),
            ("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", "`Connection: close`"),
            ("SSH-2.0-server\r\n", "not a usable HTTP response"),
            ("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ncut", "closed after 41 bytes"),
        ] {
            let error = events(input.as_bytes(), input.len()).expect_err(input).to_string();
            assert!(error.contains(reason), "{input:?}: {error}");
        }
    }

    #[test]
    fn a_publisher_gets_responses_with_any_status() {
        let input = "HTTP/1.1 429 Too Many Requests\r\nContent-Length: 4\r\n\r\nfullHTTP/1.1 204 No Content\r\n\r\nHTT";
        let first = next_response(input.as_bytes(), false).expect("it is a response");
        let event = WsEvent::Response { status: 429, reason: "Too Many Requests", body: b"full" };
        assert_eq!(first.event, event);
        let rest = &input.as_bytes()[first.consumed..];
        let second = next_response(rest, false).expect("it is a response");
        assert_eq!(second.event, WsEvent::Response { status: 204, reason: "No Content", body: b"" });
        let rest = &rest[second.consumed..];
        assert_eq!(next_response(rest, false), Ok(Step { consumed: 0, event: WsEvent::NeedsMore }));
        assert_eq!(end_of_responses(rest), Err(ProtocolError::ResponseCut(3)));
        assert_eq!(end_of_responses(b""), Ok(()));
    }

    #[test]
    fn a_chunked_response_is_read_whole() {
        let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        let input = format!("{head}5;x=y\r\nhello\r\n1\r\n!\r\n0\r\n\r\n");
        for cut in 0..input.len() {
            let step = next_response(&input.as_bytes()[..cut], false);
            assert_eq!(step, Ok(Step { consumed: 0, event: WsEvent::NeedsMore }), "{cut}");
        }
        let event = WsEvent::Response { status: 200, reason: "OK", body: b"hello" };
        let step = next_response(input.as_bytes(), false);
        assert_eq!(step, Ok(Step { consumed: input.len(), event }));
        for (wrong, reason) in [
            ("x\r\n", "not a hexadecimal number"),
            ("1\r\nhello", "longer than it says"),
            ("0\r\nA: b\r\n\r\n", "has trailers"),
        ] {
            let error =
                next_response(format!("{head}{wrong}").as_bytes(), false).expect_err(wrong).to_string();
            assert!(error.contains(reason), "{wrong:?}: {error}");
        }
        for huge in ["ffffffffffffffff\r\nhello", "fffffffffffffff0\r\n"] {
            let input = format!("{head}{huge}");
            let step = next_response(input.as_bytes(), false).expect("it may go on");
            assert_eq!(step.event, WsEvent::NeedsMore, "{huge:?}");
        }
    }
}
