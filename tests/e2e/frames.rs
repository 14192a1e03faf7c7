//! Frames, good and bad, over the wire. The rules are those of RFC 6455 §5.

use tungstenite::Message;
use uproar::config::{AppName, BackendName, Config};

use crate::support::client::Client;
use crate::support::raw::{BINARY, CLOSE, PING, PONG, RawClient, TEXT, close_payload, frame};
use crate::support::{TestServer, config};

on_both_backends!(
    broken_rules_close_with_their_code,
    the_longest_message_passes_and_no_longer_one,
    fragments_become_one_message,
    pings_are_answered,
    the_close_handshake_echoes_the_code,
    who_half_closes_gets_what_it_is_owed,
);

fn broken_rules_close_with_their_code(backend: BackendName) {
    let base = config(backend, AppName::Echo, 2);
    let server = TestServer::start(&Config { max_message: 1000, ..base });
    let continuation = |fin: u8, payload: &[u8]| frame(fin, payload);
    let rows: Vec<(&str, u16, Vec<u8>)> = vec![
        ("no mask", 1002, vec![TEXT, 2, b'h', b'i']),
        ("a reserved bit", 1002, frame(0xc1, b"hi")),
        ("a reserved opcode", 1002, frame(0x83, b"hi")),
        ("a reserved control opcode", 1002, frame(0x8b, b"")),
        ("a fragmented ping", 1002, frame(0x09, b"")),
        ("a long ping", 1002, frame(PING, &[0; 126])),
        ("nothing to continue", 1002, continuation(0x80, b"hi")),
        ("a message within a message", 1002, [frame(0x01, b"a"), frame(TEXT, b"b")].concat()),
        ("16 bits for a short length", 1002, vec![TEXT, 0xfe, 0, 125, 0, 0, 0, 0]),
        (
            "64 bits for a short length",
            1002,
            [&[TEXT, 0xff, 0, 0, 0, 0, 0, 0, 255, 255][..], &[0; 4]].concat(),
        ),
        ("the highest bit of a length", 1002, [&[TEXT, 0xff, 0x80][..], &[0; 11]].concat()),
        ("a close code of one byte", 1002, frame(CLOSE, &[3])),
        ("close code 1005", 1002, frame(CLOSE, &close_payload(1005, ""))),
        ("close code 999", 1002, frame(CLOSE, &close_payload(999, ""))),
        (
            "a close reason that is no text",
            1007,
            frame(CLOSE, &[&close_payload(1000, "")[..], &[0xff]].concat()),
        ),
        ("no UTF-8", 1007, frame(TEXT, b"\xc3\x28")),
        ("no UTF-8, and the message goes on", 1007, frame(0x01, b"abc\xff")),
        ("a cut character at the end", 1007, frame(TEXT, b"\xe2\x82")),
        ("a surrogate", 1007, frame(TEXT, b"\xed\xa0\x80")),
        ("too long", 1009, frame(BINARY, &[0; 1001])),
        ("too long together", 1009, [frame(0x02, &[0; 600]), continuation(0x80, &[0; 401])].concat()),
        ("absurdly long", 1009, [&[BINARY, 0xff, 0x7f][..], &[0xff; 7], &[0; 4]].concat()),
    ];
    let count = rows.len() as u64;
    for (what, code, bytes) in rows {
        let mut raw = RawClient::open(server.address(), "/");
        // What was right before is answered; what follows is not looked at.
        raw.send(&frame(TEXT, b"right"));
        raw.try_send(&[&bytes[..], &frame(TEXT, b"too late")].concat());
        assert_eq!(raw.receive_frame(), (TEXT, b"right".to_vec()), "{what}");
        let (said, reason) = raw.receive_close();
        assert_eq!(said, code, "{what}: {reason}");
        assert!(!reason.is_empty(), "{what}");
        raw.expect_end();
    }
    assert_eq!(server.totals().failed, count);
}

fn the_longest_message_passes_and_no_longer_one(backend: BackendName) {
    const LONGEST: usize = 1 << 20;
    let server = TestServer::echo(backend);
    let mut client = Client::open(server.address(), "/");
    for message in [Message::text("ä".repeat(LONGEST / 2)), Message::binary(vec![7; LONGEST])] {
        client.send(message.clone());
        assert!(client.receive() == message, "the echo differs");
    }
    client.send(Message::binary(vec![7; LONGEST + 1]));
    assert_eq!(client.wait_for_close(), (1009, "the message is longer than this server accepts".into()));
}

fn fragments_become_one_message(backend: BackendName) {
    const FRAGMENTS: usize = 65_536;
    let server = TestServer::echo(backend);
    let mut raw = RawClient::open(server.address(), "/");
    // A character may be cut where fragments meet, and a control frame may come between them.
    raw.send(
        &[frame(0x01, b"gr\xc3"), frame(PING, b"between"), frame(0x00, b"\xbc\xc3"), frame(0x80, b"\x9fe")]
            .concat(),
    );
    assert_eq!(raw.receive_frame(), (PONG, b"between".to_vec()));
    assert_eq!(raw.receive_frame(), (TEXT, "grüße".into()));
    let mut bytes = frame(0x02, b"f");
    bytes.extend(frame(0x00, b"f").repeat(FRAGMENTS - 2));
    bytes.extend(frame(0x80, b"f"));
    raw.send(&bytes);
    assert!(raw.receive_frame() == (BINARY, vec![b'f'; FRAGMENTS]), "the echo differs");
}

fn pings_are_answered(backend: BackendName) {
    let server = TestServer::echo(backend);
    let mut raw = RawClient::open(server.address(), "/");
    for payload in [&b""[..], b"hello", &[9; 125]] {
        raw.send(&frame(PING, payload));
        assert_eq!(raw.receive_frame(), (PONG, payload.to_vec()));
    }
    // A pong that nobody asked for is nothing to answer.
    raw.send(&[frame(PONG, b"unasked"), frame(TEXT, b"next")].concat());
    assert_eq!(raw.receive_frame(), (TEXT, b"next".to_vec()));
}

fn the_close_handshake_echoes_the_code(backend: BackendName) {
    let server = TestServer::echo(backend);
    for (sent, answered) in [
        (close_payload(1000, "bye"), close_payload(1000, "")),
        (close_payload(4999, ""), close_payload(4999, "")),
        (vec![], vec![]),
    ] {
        let mut raw = RawClient::open(server.address(), "/");
        raw.send(&[frame(CLOSE, &sent), frame(TEXT, b"too late")].concat());
        assert_eq!(raw.receive_frame(), (CLOSE, answered));
        raw.expect_end();
    }
    let mut client = Client::open(server.address(), "/");
    client.socket.close(None).expect("sent");
    until_closed(&mut client);
}

/// Reads until both sides have said their last word.
fn until_closed(client: &mut Client) {
    loop {
        match client.socket.read() {
            Ok(Message::Close(_)) => {}
            Err(tungstenite::Error::ConnectionClosed) => return,
            other => panic!("{other:?}"),
        }
    }
}

fn who_half_closes_gets_what_it_is_owed(backend: BackendName) {
    const MESSAGES: u8 = 200;
    const LEN: usize = 50_000;
    let base = config(backend, AppName::Echo, 1);
    let server = TestServer::start(&base);
    let (stream, _) = RawClient::open(server.address(), "/").into_parts();
    let mut reader = RawClient::from_stream(stream.try_clone().expect("a second handle"));
    let writer = std::thread::spawn(move || {
        let mut raw = RawClient::from_stream(stream);
        for number in 0..MESSAGES {
            raw.send(&frame(BINARY, &[number; LEN]));
        }
        raw.half_close();
    });
    for number in 0..MESSAGES {
        assert!(reader.receive_frame() == (BINARY, vec![number; LEN]), "the echo differs");
    }
    reader.expect_end();
    writer.join().expect("all was written");
}
