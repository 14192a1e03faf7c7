//! The opening handshake of a client (RFC 6455 §4.1).

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use sha1::{Digest as _, Sha1};

use super::ProtocolError;
use super::offer::{Agreed, Offer};

/// Longest accepted head of the server's HTTP response, in bytes.
pub(crate) const MAX_HEAD: usize = 16 * 1024;
/// Number of bytes of a refusal's HTTP body that the error message shows.
const MAX_BODY: usize = 512;
pub(crate) const MAX_HEADERS: usize = 64;
/// The start of the TLS record with which a TLS server refuses plain HTTP: type alert, version 3.x (RFC 8446 §5.1).
const TLS_ALERT: [u8; 2] = [21, 3];

/// The result of parsing the server's answer to the handshake.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// The head of the response, or the body of a refusal, has not arrived whole.
    NeedsMore,
    /// The handshake succeeded. The fields are the response's length in bytes and the negotiated compression.
    Accepted(usize, Option<Agreed>),
}

/// Returns the `Sec-WebSocket-Key` for the 16 bytes that identify a handshake.
pub(super) fn encode_key(nonce: [u8; 16]) -> String {
    BASE64_STANDARD.encode(nonce)
}

/// Returns the correct `Sec-WebSocket-Accept` for `key` (RFC 6455 §4.2.2).
pub(super) fn accept_for(key: &str) -> String {
    let digest =
        Sha1::new().chain_update(key).chain_update("258EAFA5-E914-47DA-95CA-C5AB0DC85B11").finalize();
    BASE64_STANDARD.encode(digest)
}

/// Appends the handshake request for `path` on `host` to `out`.
pub(super) fn write_request(out: &mut Vec<u8>, host: &str, path: &str, key: &str, offer: Offer) {
    let extensions =
        offer.header().map_or_else(String::new, |value| format!("Sec-WebSocket-Extensions: {value}\r\n"));
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n{extensions}\r\n"
    );
    out.extend_from_slice(request.as_bytes());
}

/// Parses the server's answer to the handshake. `at_end` says that the server has closed the connection.
pub(super) fn read_response(
    bytes: &[u8],
    accept: &str,
    offer: Offer,
    at_end: bool,
) -> Result<Answer, ProtocolError> {
    if bytes.starts_with(&TLS_ALERT) {
        return Err(ProtocolError::Handshake("the server speaks TLS; use wss:// in --url".to_owned()));
    }
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut response = httparse::Response::new(&mut headers);
    let head_len = match response.parse(bytes) {
        Ok(httparse::Status::Complete(head_len)) => head_len,
        Ok(httparse::Status::Partial) if bytes.len() > MAX_HEAD => {
            return Err(ProtocolError::Handshake(format!("the response head is over {MAX_HEAD} bytes")));
        }
        Ok(httparse::Status::Partial) if at_end => return Err(ProtocolError::HandshakeCut(bytes.len())),
        Ok(httparse::Status::Partial) => return Ok(Answer::NeedsMore),
        Err(error) => return Err(ProtocolError::Handshake(format!("not an HTTP response: {error}"))),
    };
    let status = response.code.unwrap_or(0);
    if status != 101 {
        let Some((reason, body)) = explanation(&response, &bytes[head_len..], at_end) else {
            return Ok(Answer::NeedsMore);
        };
        return Err(ProtocolError::Refused { status, reason, body });
    }
    check_switch(&response, accept)?;
    Ok(Answer::Accepted(head_len, read_extensions(&response, offer)?))
}

/// Checks the headers of a 101 response, in the order of RFC 6455 §4.1.
fn check_switch(response: &httparse::Response<'_, '_>, accept: &str) -> Result<(), ProtocolError> {
    let fault = |text: String| Err(ProtocolError::Handshake(text));
    if !header(response, "upgrade").is_some_and(|value| value.eq_ignore_ascii_case("websocket")) {
        return fault("the 101 response has no `Upgrade: websocket`".to_owned());
    }
    if !header(response, "connection").is_some_and(|value| has_token(value, "upgrade")) {
        return fault("the 101 response has no `Connection: Upgrade`".to_owned());
    }
    match header(response, "sec-websocket-accept") {
        Some(value) if value == accept => {}
        Some(value) => return fault(format!("Sec-WebSocket-Accept is `{value}` where `{accept}` is right")),
        None => return fault("the 101 response has no Sec-WebSocket-Accept".to_owned()),
    }
    if let Some(value) = header(response, "sec-websocket-protocol") {
        return fault(format!("the server chose sec-websocket-protocol `{value}`, which was not offered"));
    }
    Ok(())
}

/// Parses all `Sec-WebSocket-Extensions` headers as one list (RFC 6455 §9.1). Returns the negotiated compression.
fn read_extensions(
    response: &httparse::Response<'_, '_>,
    offer: Offer,
) -> Result<Option<Agreed>, ProtocolError> {
    let is_extensions =
        |header: &&httparse::Header<'_>| header.name.eq_ignore_ascii_case("sec-websocket-extensions");
    let values: Vec<_> = response
        .headers
        .iter()
        .filter(is_extensions)
        .map(|header| String::from_utf8_lossy(header.value).trim().to_owned())
        .collect();
    let answer = (!values.is_empty()).then(|| values.join(", "));
    offer.read_answer(answer.as_deref()).map_err(ProtocolError::Handshake)
}

/// Returns the reason phrase of an error response, and the start of its body. `None` if too little of the body has
/// arrived. `at_end` says that the server has closed the connection.
pub(crate) fn explanation(
    response: &httparse::Response<'_, '_>,
    body: &[u8],
    at_end: bool,
) -> Option<(String, String)> {
    let body_len = header(response, "content-length").and_then(|len| len.parse().ok());
    if !at_end && body.len() < body_len.unwrap_or(MAX_BODY).min(MAX_BODY) {
        return None;
    }
    let body = String::from_utf8_lossy(&body[..body.len().min(MAX_BODY)]).trim().to_owned();
    Some((response.reason.unwrap_or("").to_owned(), body))
}

/// Returns whether a comma-separated list has the token, in lower or upper case.
pub(crate) fn has_token(list: &str, token: &str) -> bool {
    list.split(',').any(|item| item.trim().eq_ignore_ascii_case(token))
}

/// Returns the value of the first header with this name.
pub(crate) fn header<'a>(response: &'a httparse::Response<'_, '_>, name: &str) -> Option<&'a str> {
    let header = response.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name))?;
    std::str::from_utf8(header.value).ok().map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

    fn good() -> String {
        format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: WebSocket\r\nConnection: keep-alive, Upgrade\r\n\
             Sec-WebSocket-Accept: {ACCEPT}\r\n\r\n"
        )
    }

    #[test]
    fn the_key_of_rfc_6455_has_its_answer() {
        // The example of RFC 6455 §1.3.
        assert_eq!(accept_for("dGhlIHNhbXBsZSBub25jZQ=="), ACCEPT);
        assert_eq!(encode_key(*b"the sample nonce"), "dGhlIHNhbXBsZSBub25jZQ==");
    }

    #[test]
    fn a_good_answer_is_accepted_whole_and_awaited_when_cut() {
        let bytes = [good().as_bytes(), &[0x81, 0]].concat();
        let head_len = bytes.len() - 2;
        for cut in 0..head_len {
            assert_eq!(read_response(&bytes[..cut], ACCEPT, Offer::Off, false), Ok(Answer::NeedsMore));
        }
        assert_eq!(read_response(&bytes, ACCEPT, Offer::Off, false), Ok(Answer::Accepted(head_len, None)));
    }

    #[test]
    fn wrong_answers_are_named() {
        let swaps = [
            ("Upgrade: WebSocket", "Upgrade: h2c", "Upgrade: websocket"),
            ("keep-alive, Upgrade", "close", "Connection: Upgrade"),
            (ACCEPT, "s3pPLMBiTxaQ9kYGzzhZRbK+xOp=", ACCEPT),
            ("\r\n\r\n", "\r\nSec-WebSocket-Extensions: x\r\n\r\n", "not offered"),
        ];
        for (from, to, named) in swaps {
            let Err(ProtocolError::Handshake(text)) =
                read_response(good().replace(from, to).as_bytes(), ACCEPT, Offer::Off, false)
            else {
                panic!("`{to}` was accepted");
            };
            assert!(text.contains(named), "{text}");
        }
        for (bytes, reason) in
            [(&b"SSH-2.0\r\n"[..], "not an HTTP response"), (&[21, 3, 3, 0, 2, 2, 70], "use wss://")]
        {
            let fault = read_response(bytes, ACCEPT, Offer::Off, false).expect_err("it is no answer");
            assert!(fault.to_string().contains(reason), "{fault}");
        }
    }

    #[test]
    fn a_refusal_shows_its_status_and_body() {
        let text = b"HTTP/1.1 404 Not Found\r\nContent-Length: 7\r\n\r\nno room";
        assert_eq!(read_response(&text[..text.len() - 1], ACCEPT, Offer::Off, false), Ok(Answer::NeedsMore));
        let refused = ProtocolError::Refused {
            status: 404,
            reason: "Not Found".to_owned(),
            body: "no room".to_owned(),
        };
        assert_eq!(read_response(text, ACCEPT, Offer::Off, false), Err(refused));
        let unmeasured = b"HTTP/1.1 503 Busy\r\n\r\nlater";
        assert_eq!(read_response(unmeasured, ACCEPT, Offer::Off, false), Ok(Answer::NeedsMore));
        assert!(matches!(
            read_response(unmeasured, ACCEPT, Offer::Off, true),
            Err(ProtocolError::Refused { status: 503, body, .. }) if body == "later"
        ));
        assert_eq!(
            read_response(b"HTTP/1.1 1", ACCEPT, Offer::Off, true),
            Err(ProtocolError::HandshakeCut(10))
        );
    }

    #[test]
    fn compression_is_offered_and_the_answer_is_read() {
        let head = |lines: &str| good().replace("\r\n\r\n", &format!("\r\n{lines}\r\n"));
        let mut request = Vec::new();
        write_request(&mut request, "localhost", "/", "key", Offer::Takeover);
        let offered = "\r\nSec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n\r\n";
        assert!(request.ends_with(offered.as_bytes()));

        let line = "sec-websocket-extensions: permessage-deflate; client_max_window_bits=12\r\n";
        let agreed = Agreed { server_context: true, client_context: true, client_window_bits: 12 };
        let bytes = head(line);
        let read = |text: &str, offer| read_response(text.as_bytes(), ACCEPT, offer, false);
        assert_eq!(read(&bytes, Offer::Takeover), Ok(Answer::Accepted(bytes.len(), Some(agreed))));
        for (text, offer) in
            [(&bytes, Offer::On), (&head(&line.repeat(2)), Offer::Takeover), (&good(), Offer::On)]
        {
            assert!(matches!(read(text, offer), Err(ProtocolError::Handshake(_))), "{text}");
        }
    }
}
