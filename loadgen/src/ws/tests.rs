//! Tests of the WebSocket client: a byte stream gives the same events however it is divided into reads.

use super::*;

const HEAD: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                    Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

fn started() -> Client {
    let mut request = Vec::new();
    let client =
        Client::start("localhost:8000", "/room/bench", *b"the sample nonce", Offer::Off, &mut request);
    let request = String::from_utf8(request).expect("the request is text");
    assert!(request.starts_with("GET /room/bench HTTP/1.1\r\nHost: localhost:8000\r\n"));
    assert!(request.contains("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"));
    client
}

/// Feeds `bytes` to a client in reads that end at `cuts`. Returns the client's events.
fn events(bytes: &[u8], cuts: &[usize]) -> Vec<String> {
    let mut client = started();
    let mut inflater = Inflater::default();
    let mut seen = Vec::new();
    let mut buffer: Vec<u8> = Vec::new();
    let mut fed = 0;
    for &cut in cuts.iter().chain([&bytes.len()]) {
        buffer.extend_from_slice(&bytes[fed..cut]);
        fed = cut;
        let mut done = 0;
        loop {
            match client.next(&buffer[done..], &mut inflater) {
                Err(error) => {
                    seen.push(format!("{error:?}"));
                    return seen;
                }
                Ok(Step { consumed, event: WsEvent::NeedsMore }) => {
                    done += consumed;
                    break;
                }
                Ok(Step { consumed, event }) => {
                    done += consumed;
                    seen.push(format!("{event:?}"));
                }
            }
        }
        buffer.drain(..done);
    }
    seen
}

fn conversation() -> Vec<u8> {
    let mut bytes = HEAD.as_bytes().to_vec();
    bytes.extend([0x81, 2, b'h', b'i']);
    bytes.extend([0x01, 2, 0xC3, 0xA9, 0x89, 1, b'p', 0x00, 1, 0xE2, 0x80, 2, 0x82, 0xAC]);
    bytes.extend([0x82, 126, 0, 130]);
    bytes.extend([7; 130]);
    bytes.extend([0x8A, 0, 0x88, 4, 0x03, 0xF5, b'o', b'k', 0x81, 1, b'x']);
    bytes
}

#[test]
fn any_cut_gives_the_same_events() {
    let bytes = conversation();
    let whole = events(&bytes, &[]);
    assert_eq!(whole.len(), 9);
    assert_eq!(whole[1], "Text(\"hi\")");
    assert_eq!(whole[3], "Ping([112])");
    assert_eq!(whole[5], "Text(\"é€\")");
    assert_eq!(whole[8], "Closed { code: Some(1013), reason: \"ok\" }");
    for cut in 0..bytes.len() {
        assert_eq!(events(&bytes, &[cut]), whole, "cut at {cut}");
    }
    let one_at_a_time: Vec<usize> = (0..bytes.len()).collect();
    assert_eq!(events(&bytes, &one_at_a_time), whole);
}

#[test]
fn a_violation_of_the_protocol_has_its_close_code() {
    let faults: [(&[u8], ProtocolError, u16); 7] = [
        (&[0x81, 1, 0xFF], ProtocolError::Utf8, 1007),
        (&[0x88, 3, 0x03, 0xE8, 0xFF], ProtocolError::Utf8, 1007),
        (&[0x88, 1, 0x03], ProtocolError::Close, 1002),
        (&[0x88, 2, 0x03, 0xED], ProtocolError::Close, 1002),
        (&[0x88, 2, 0x13, 0x88], ProtocolError::Close, 1002),
        (&[0x80, 0], ProtocolError::Fragments(Opcode::Continuation, "outside a fragmented message"), 1002),
        (&[0x01, 0, 0x81, 0], ProtocolError::Fragments(Opcode::Text, "inside a fragmented message"), 1002),
    ];
    for (bytes, fault, code) in faults {
        let seen = events(&[HEAD.as_bytes(), bytes].concat(), &[]);
        assert_eq!(seen.last(), Some(&format!("{fault:?}")));
        assert_eq!(fault.close_code(), code);
    }
}

#[test]
fn an_end_inside_the_handshake_is_an_error_and_later_it_is_not() {
    let mut client = started();
    assert!(client.end_of_stream(b"").is_err());
    assert!(client.next(HEAD.as_bytes(), &mut Inflater::default()).is_ok());
    assert_eq!(client.end_of_stream(b"\x81"), Ok(()));
}

/// Feeds `bytes` to a client after a handshake with compression. Returns the messages.
fn compressed_events(parameters: &str, bytes: &[u8], one_at_a_time: bool) -> Vec<String> {
    let mut client = Client::start("h", "/", *b"the sample nonce", Offer::Takeover, &mut Vec::new());
    let mut inflater = Inflater::default();
    let line = format!("Sec-WebSocket-Extensions: permessage-deflate{parameters}\r\n\r\n");
    let head = HEAD.replace("\r\n\r\n", &format!("\r\n{line}"));
    assert!(client.next(head.as_bytes(), &mut inflater).is_ok_and(|step| step.event == WsEvent::Opened));
    let mut seen = Vec::new();
    let (mut done, mut fed) = (0, if one_at_a_time { 0 } else { bytes.len() });
    loop {
        match client.next(&bytes[done..fed], &mut inflater) {
            Ok(Step { event: WsEvent::NeedsMore, .. }) if fed < bytes.len() => fed += 1,
            Ok(Step { event: WsEvent::NeedsMore, .. }) => return seen,
            Ok(Step { consumed, event }) => {
                done += consumed;
                if event != WsEvent::Nothing {
                    seen.push(format!("{event:?}"));
                }
            }
            Err(error) => {
                seen.push(format!("{error:?}"));
                return seen;
            }
        }
    }
}

/// The compressed message "Hello" of RFC 7692, in one frame.
const HELLO: [u8; 9] = [0xC1, 7, 0xF2, 0x48, 0xCD, 0xC9, 0xC9, 0x07, 0x00];
/// The compressed message "Hello" of RFC 7692, in two fragments with a ping between them.
const HELLO_CUT: [u8; 14] = [0x41, 3, 0xF2, 0x48, 0xCD, 0x89, 1, b'p', 0x80, 4, 0xC9, 0xC9, 0x07, 0x00];
/// The compressed message "Hello" of RFC 7692, as a reference to an earlier "Hello".
const HELLO_AGAIN: [u8; 7] = [0xC1, 5, 0xF2, 0x00, 0x11, 0x00, 0x00];
const PLAIN: [u8; 4] = [0x81, 2, b'h', b'i'];

#[test]
fn compressed_messages_are_inflated_however_they_are_cut() {
    let hello = "Text(\"Hello\")";
    let alone = [&HELLO[..], &PLAIN, &HELLO_CUT, &HELLO].concat();
    let together = [&HELLO[..], &PLAIN, &HELLO_AGAIN, &HELLO_CUT, &HELLO_AGAIN].concat();
    for one_at_a_time in [false, true] {
        let seen = compressed_events("; server_no_context_takeover", &alone, one_at_a_time);
        assert_eq!(seen, [hello, "Text(\"hi\")", "Ping([112])", hello, hello]);
        let seen = compressed_events("", &together, one_at_a_time);
        assert_eq!(seen, [hello, "Text(\"hi\")", hello, "Ping([112])", hello, hello]);
    }
}

#[test]
fn a_violation_of_the_compression_is_refused() {
    let refers = [&HELLO[..], &HELLO_AGAIN].concat();
    for (bytes, fault) in [
        (&[0x41, 1, 0xF2, 0xC0, 0][..], "ReservedBits(192)"),
        (&[0xC9, 0][..], "ReservedBits(201)"),
        (&[0xC1, 2, 0x06, 0x07][..], "Deflate"),
        (&refers[..], "Deflate"),
        // A text message with the byte FF in a stored block, which is not UTF-8.
        (&[0xC1, 7, 0x00, 0x01, 0x00, 0xFE, 0xFF, 0xFF, 0x00][..], "Utf8"),
    ] {
        let seen = compressed_events("; server_no_context_takeover", bytes, false);
        assert_eq!(seen.last().map(String::as_str), Some(fault));
    }
    assert_eq!(ProtocolError::Deflate.close_code(), 1007);
}
