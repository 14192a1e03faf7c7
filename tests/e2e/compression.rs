//! The WebSocket extension permessage-deflate. RFC 7692

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};
use uproar::config::{self, AppName, BackendName, Config};

use crate::support::raw::{BINARY, CLOSE, RawClient, TEXT, frame, upgrade_request_with};
use crate::support::{TestServer, config, wait_until};

on_both_backends!(
    the_offer_and_the_setting_decide_the_agreed_extension,
    compressed_messages_are_echoed,
    a_room_serves_clients_with_and_without_compression,
    a_compression_bomb_is_closed_with_1009,
    corrupt_compressed_data_is_closed_with_1007,
    the_memory_of_compression_windows_is_counted_and_limited,
    messages_below_the_threshold_are_not_compressed,
);

const WORDS: &str = "roar and roar and roar and roar again, ";

/// A client that compresses its messages, with one compressor and one decompressor for the whole connection.
struct DeflateClient {
    raw: RawClient,
    compress: Compress,
    decompress: Decompress,
    /// Whether the client (first) and the server (second) compress each message without context takeover.
    no_takeover: (bool, bool),
}

impl DeflateClient {
    /// Opens a WebSocket with the extension offer `offer` and applies the parameters of the server's answer.
    fn open(server: &TestServer, path: &str, offer: &str) -> Self {
        let mut raw = RawClient::connect(server.address());
        let answer = negotiate(&mut raw, path, offer).expect("compression is agreed");
        let no_takeover =
            (answer.contains("client_no_context_takeover"), answer.contains("server_no_context_takeover"));
        let compress = Compress::new(Compression::default(), false);
        Self { raw, compress, decompress: Decompress::new(false), no_takeover }
    }

    fn send_text(&mut self, text: &str) {
        let payload = self.deflate(text.as_bytes());
        self.raw.send(&frame(TEXT | 0x40, &payload));
    }

    /// Returns the compressed payload of a message. RFC 7692 §7.2.1
    fn deflate(&mut self, message: &[u8]) -> Vec<u8> {
        if self.no_takeover.0 {
            self.compress.reset();
        }
        let mut payload = Vec::with_capacity(message.len() + 1_000);
        self.compress.compress_vec(message, &mut payload, FlushCompress::Sync).expect("compresses");
        payload.truncate(payload.len() - 4);
        payload
    }

    /// Receives the next text message. Returns its text and the length of its payload on the wire, in bytes.
    fn receive_text(&mut self) -> (String, usize) {
        let (first, payload) = self.raw.receive_frame();
        let content = match first {
            TEXT => payload.clone(),
            0xc1 => {
                if self.no_takeover.1 {
                    self.decompress.reset(false);
                }
                let mut content = Vec::with_capacity(1 << 20);
                let input = [&payload[..], &[0, 0, 0xff, 0xff]].concat();
                self.decompress.decompress_vec(&input, &mut content, FlushDecompress::Sync).expect("DEFLATE");
                content
            }
            _ => panic!("unexpected first byte {first:#x}"),
        };
        (String::from_utf8(content).expect("text"), payload.len())
    }
}

/// Opens a WebSocket with an extension offer. Returns the server's answer, or `None` when it agreed to no extension.
fn negotiate(raw: &mut RawClient, path: &str, offer: &str) -> Option<String> {
    let header = format!("Sec-WebSocket-Extensions: {offer}");
    raw.send(upgrade_request_with(path, &[&header]).as_bytes());
    let head = raw.expect_upgrade();
    let answers = head.lines().filter_map(|line| line.strip_prefix("Sec-WebSocket-Extensions: "));
    let answers: Vec<&str> = answers.collect();
    assert!(answers.len() < 2, "{head}");
    answers.first().map(ToString::to_string)
}

fn server(backend: BackendName, app: AppName, compression: config::Compression) -> TestServer {
    TestServer::start(&Config { compression, ..config(backend, app, 2) })
}

fn the_offer_and_the_setting_decide_the_agreed_extension(backend: BackendName) {
    let servers = [config::Compression::Off, config::Compression::Shared, config::Compression::Dedicated]
        .map(|compression| server(backend, AppName::Echo, compression));
    for (offer, answers) in [
        (
            "permessage-deflate",
            [None, Some("permessage-deflate; server_no_context_takeover"), Some("permessage-deflate")],
        ),
        ("permessage-deflate; nonsense", [None; 3]),
        (
            "permessage-deflate; nonsense, permessage-deflate; client_no_context_takeover; \
             server_no_context_takeover",
            [
                None,
                Some("permessage-deflate; server_no_context_takeover; client_no_context_takeover"),
                Some("permessage-deflate; server_no_context_takeover; client_no_context_takeover"),
            ],
        ),
    ] {
        for (server, answer) in servers.iter().zip(answers) {
            let agreed = negotiate(&mut RawClient::connect(server.address()), "/", offer);
            assert_eq!(agreed.as_deref(), answer, "{offer}");
        }
    }
}

fn compressed_messages_are_echoed(backend: BackendName) {
    for compression in [config::Compression::Shared, config::Compression::Dedicated] {
        let server = server(backend, AppName::Echo, compression);
        for offer in [
            "permessage-deflate",
            "permessage-deflate; client_max_window_bits",
            "permessage-deflate; client_no_context_takeover",
            "permessage-deflate; server_no_context_takeover",
            "permessage-deflate; server_max_window_bits=9",
        ] {
            let mut client = DeflateClient::open(&server, "/", offer);
            if offer.contains("client_max_window_bits") {
                client.compress = Compress::new_with_window_bits(Compression::default(), false, 12);
            }
            for count in [0, 1, 10, 1_000, 3, 20_000] {
                let text = WORDS.repeat(count) + &format!("for {count}");
                client.send_text(&text);
                let (text_back, wire_len) = client.receive_text();
                assert!(text_back == text, "{offer}: {count}");
                let is_small =
                    count > 3 && !(offer.contains("=9") && compression == config::Compression::Shared);
                assert!(!is_small || wire_len < text.len() / 5, "{offer}: {wire_len} of {}", text.len());
            }
            client.raw.send(&frame(CLOSE, &[3, 232]));
            assert_eq!(client.raw.receive_close().0, 1000);
        }
    }
}

fn a_room_serves_clients_with_and_without_compression(backend: BackendName) {
    for compression in [config::Compression::Shared, config::Compression::Dedicated] {
        let server = server(backend, AppName::Relay, compression);
        let mut plain: Vec<RawClient> =
            (0..4).map(|_| RawClient::open(server.address(), "/room/den")).collect();
        let offers = ["permessage-deflate", "permessage-deflate; server_max_window_bits=10"];
        let mut deflating: Vec<DeflateClient> =
            (0..8).map(|n| DeflateClient::open(&server, "/room/den", offers[n % 2])).collect();
        // A client that receives its own message is a member of the room.
        for client in &mut deflating {
            client.send_text("here");
            while client.receive_text().0 != "here" {}
        }
        for client in &mut plain {
            client.send(&frame(TEXT, b"plain here"));
            while client.receive_frame().1 != b"plain here" {}
        }
        for n in 0..20 {
            let text = format!("{n}: {}", WORDS.repeat(n));
            match n % 2 {
                0 => deflating[n % 8].send_text(&text),
                _ => plain[n % 4].send(&frame(TEXT, text.as_bytes())),
            }
            for client in &mut deflating {
                while client.receive_text().0 != text {}
            }
            for client in &mut plain {
                while client.receive_frame().1 != text.as_bytes() {}
            }
        }
    }
}

fn a_compression_bomb_is_closed_with_1009(backend: BackendName) {
    let base = config(backend, AppName::Echo, 1);
    let server = TestServer::start(&Config { max_message: 100_000, ..base });
    let mut client = DeflateClient::open(&server, "/", "permessage-deflate");
    // 64 MiB of zeros, compressed to 64 KiB.
    let bomb = client.deflate(&vec![0; 64 << 20]);
    assert!(bomb.len() < 100_000);
    client.raw.try_send(&frame(BINARY | 0x40, &bomb));
    assert_eq!(client.raw.receive_close().0, 1009);
    client.raw.expect_end();
}

fn corrupt_compressed_data_is_closed_with_1007(backend: BackendName) {
    let server = TestServer::echo(backend);
    for (first, payload) in
        [(TEXT | 0x40, &[0xff, 0xff, 0xff][..]), (TEXT | 0x40, &[0x00, 0x01, 0x00, 0xfe, 0xff, 0xff, 0x00])]
    {
        let mut client = DeflateClient::open(&server, "/", "permessage-deflate");
        client.raw.try_send(&frame(first, payload));
        assert_eq!(client.raw.receive_close().0, 1007);
    }
    let mut client = DeflateClient::open(&server, "/", "permessage-deflate");
    client.raw.try_send(&frame(0x80 | 0x40, b""));
    assert_eq!(client.raw.receive_close().0, 1002);
}

fn the_memory_of_compression_windows_is_counted_and_limited(backend: BackendName) {
    let base = config(backend, AppName::Echo, 1);
    let server = TestServer::start(&Config { context_memory: 100_000, ..base });
    let reserved = || {
        let totals = server.totals();
        totals.context_bytes_reserved - totals.context_bytes_released
    };
    let open = || {
        let mut raw = RawClient::connect(server.address());
        let answer = negotiate(&mut raw, "/", "permessage-deflate").expect("agreed");
        (raw, !answer.contains("client_no_context_takeover"))
    };
    let mut clients: Vec<_> = (0..5).map(|_| open()).collect();
    assert_eq!(
        clients.iter().map(|(_, takeover)| *takeover).collect::<Vec<_>>(),
        [true, true, true, false, false]
    );
    assert_eq!(reserved(), 3 << 15);
    clients.remove(0);
    wait_until("the window is released", || reserved() == 2 << 15);
    assert!(open().1, "another client gets the window");
    drop(clients);
    wait_until("all windows are released", || reserved() == 0);
}

fn messages_below_the_threshold_are_not_compressed(backend: BackendName) {
    let base = config(backend, AppName::Echo, 1);
    let server = TestServer::start(&Config { compression_threshold: 50, ..base });
    let mut client = DeflateClient::open(&server, "/", "permessage-deflate");
    for (len, first) in [(49, TEXT), (50, TEXT | 0x40)] {
        client.send_text(&"a".repeat(len));
        assert_eq!(client.raw.receive_frame().0, first, "{len}");
    }
}
