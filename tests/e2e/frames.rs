//! Valid and invalid frames. RFC 6455 §5

use tungstenite::Message;
use uproar::config::{AppName, BackendName, Config};

use crate::support::client::Client;
use crate::support::raw::{BINARY, CLOSE, PING, PONG, RawClient, TEXT, close_payload, frame};
use crate::support::{TestServer, config};

on_both_backends!(
    invalid_frames_are_closed_with_the_right_code,
    a_message_of_the_maximum_length_passes_and_a_longer_one_is_closed_with_1009,
    fragments_are_joined_into_one_message,
    pings_are_answered,
    the_close_handshake_echoes_the_code,
    a_client_that_half_closes_gets_all_pending_messages,
);

fn invalid_frames_are_closed_with_the_right_code(backend: BackendName) {
    let base = config(backend, AppName::Echo, 2);
    let server = TestServer::start(&Config { max_message: 1000, ..base });
    let rows: Vec<(&str, u16, Vec<u8>)> = vec![
        ("an unmasked frame", 1002, vec![TEXT, 2, b'h', b'i']),
        ("a reserved bit", 1002, frame(0xc1, b"hi")),
        ("a reserved opcode", 1002, frame(0x83, b"hi")),
        ("a reserved control opcode", 1002, frame(0x8b, b"")),
        ("a fragmented ping", 1002, frame(0x09, b"")),
        ("a long ping", 1002, frame(PING, &[0; 126])),
        ("a continuation without a message", 1002, frame(0x80, b"hi")),
        (
            "a new message before the end of the last one",
            1002,
            [frame(0x01, b"a"), frame(TEXT, b"b")].concat(),
        ),
        ("a 16-bit length below 126", 1002, vec![TEXT, 0xfe, 0, 125, 0, 0, 0, 0]),
        (
            "a 64-bit length below 65536",
            1002,
            [&[TEXT, 0xff, 0, 0, 0, 0, 0, 0, 255, 255][..], &[0; 4]].concat(),
        ),
        ("a length with its highest bit set", 1002, [&[TEXT, 0xff, 0x80][..], &[0; 11]].concat()),
        ("a close code of one byte", 1002, frame(CLOSE, &[3])),
        ("close code 1005", 1002, frame(CLOSE, &close_payload(1005, ""))),
        ("close code 999", 1002, frame(CLOSE, &close_payload(999, ""))),
        (
            "a close reason that is not UTF-8",
            1007,
            frame(CLOSE, &[&close_payload(1000, "")[..], &[0xff]].concat()),
        ),
        ("invalid UTF-8", 1007, frame(TEXT, b"\xc3\x28")),
        ("invalid UTF-8 in a first fragment", 1007, frame(0x01, b"abc\xff")),
        ("a truncated character at the end of a message", 1007, frame(TEXT, b"\xe2\x82")),
        ("a surrogate", 1007, frame(TEXT, b"\xed\xa0\x80")),
        ("a message that is too long", 1009, frame(BINARY, &[0; 1001])),
        (
            "fragments that are too long together",
            1009,
            [frame(0x02, &[0; 600]), frame(0x80, &[0; 401])].concat(),
        ),
        ("a length of almost 2^63", 1009, [&[BINARY, 0xff, 0x7f][..], &[0xff; 7], &[0; 4]].concat()),
    ];
    let count = rows.len() as u64;
    for (what, code, bytes) in rows {
        let mut raw = RawClient::open(server.address(), "/");
        // Messages before the invalid frame are echoed; bytes after it are ignored.
        raw.send(&frame(TEXT, b"right"));
        raw.try_send(&[&bytes[..], &frame(TEXT, b"too late")].concat());
        assert_eq!(raw.receive_frame(), (TEXT, b"right".to_vec()), "{what}");
        let (received, reason) = raw.receive_close();
        assert_eq!(received, code, "{what}: {reason}");
        assert!(!reason.is_empty(), "{what}");
        raw.expect_end();
    }
    assert_eq!(server.totals().failed, count);
}

fn a_message_of_the_maximum_length_passes_and_a_longer_one_is_closed_with_1009(backend: BackendName) {
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

fn fragments_are_joined_into_one_message(backend: BackendName) {
    const FRAGMENTS: usize = 65_536;
    let server = TestServer::echo(backend);
    let mut raw = RawClient::open(server.address(), "/");
    // A character may span two fragments, and a control frame may come between fragments.
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
    // An unsolicited pong gets no answer. RFC 6455 §5.5.3
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
    wait_until_closed(&mut client);
}

/// Reads from the client until the closing handshake is complete.
fn wait_until_closed(client: &mut Client) {
    loop {
        match client.socket.read() {
            Ok(Message::Close(_)) => {}
            Err(tungstenite::Error::ConnectionClosed) => return,
            other => panic!("{other:?}"),
        }
    }
}

fn a_client_that_half_closes_gets_all_pending_messages(backend: BackendName) {
    const MESSAGES: u8 = 200;
    const LEN: usize = 50_000;
    let base = config(backend, AppName::Echo, 1);
    let server = TestServer::start(&base);
    let (stream, _) = RawClient::open(server.address(), "/").into_parts();
    let mut reader = RawClient::from_stream(stream.try_clone().expect("the handle can be duplicated"));
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
    writer.join().expect("the server reads everything");
}
