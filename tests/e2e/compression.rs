//! permessage-deflate over the wire. RFC 7692

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};
use uproar::config::{self, AppName, BackendName, Config};

use crate::support::raw::{BINARY, CLOSE, RawClient, TEXT, frame, upgrade_request};
use crate::support::{TestServer, config, wait_until};

on_both_backends!(
    what_is_offered_decides_what_is_agreed,
    compressed_messages_are_understood_and_answered,
    a_room_serves_both_kinds_of_clients,
    a_bomb_is_closed_with_1009,
    damaged_data_is_closed_with_1007,
    windows_are_counted_and_have_a_cap,
    short_messages_are_sent_plain,
);

const WORDS: &str = "roar and roar and roar and roar again, ";

/// A client that compresses, with one engine a direction for its whole life.
struct Deflating {
    raw: RawClient,
    out: Compress,
    back: Decompress,
    /// Whether each message begins anew: ours, and the server's.
    anew: (bool, bool),
}

impl Deflating {
    /// Offers, and keeps to the answer.
    fn open(server: &TestServer, path: &str, offer: &str) -> Self {
        let mut raw = RawClient::connect(server.address());
        let answer = negotiate(&mut raw, path, offer).expect("compression is agreed");
        let anew =
            (answer.contains("client_no_context_takeover"), answer.contains("server_no_context_takeover"));
        let out = Compress::new(Compression::default(), false);
        Self { raw, out, back: Decompress::new(false), anew }
    }

    fn say(&mut self, text: &str) {
        let payload = self.compress(text.as_bytes());
        self.raw.send(&frame(TEXT | 0x40, &payload));
    }

    fn compress(&mut self, message: &[u8]) -> Vec<u8> {
        if self.anew.0 {
            self.out.reset();
        }
        let mut payload = Vec::with_capacity(message.len() + 1_000);
        self.out.compress_vec(message, &mut payload, FlushCompress::Sync).expect("compresses");
        payload.truncate(payload.len() - 4);
        payload
    }

    /// The next text message, and how many bytes it had on the way.
    fn hear(&mut self) -> (String, usize) {
        let (first, payload) = self.raw.receive_frame();
        let content = match first {
            TEXT => payload.clone(),
            0xc1 => {
                if self.anew.1 {
                    self.back.reset(false);
                }
                let mut content = Vec::with_capacity(1 << 20);
                let input = [&payload[..], &[0, 0, 0xff, 0xff]].concat();
                self.back.decompress_vec(&input, &mut content, FlushDecompress::Sync).expect("DEFLATE");
                content
            }
            _ => panic!("a frame begins with {first:#x}"),
        };
        (String::from_utf8(content).expect("text"), payload.len())
    }
}

/// Opens a WebSocket with an offer; what the server makes of it.
fn negotiate(raw: &mut RawClient, path: &str, offer: &str) -> Option<String> {
    let request = upgrade_request(path);
    let (line, rest) = request.split_once("\r\n").expect("a request line");
    raw.send(format!("{line}\r\nSec-WebSocket-Extensions: {offer}\r\n{rest}").as_bytes());
    let head = raw.expect_upgrade();
    let answers = head.lines().filter_map(|line| line.strip_prefix("Sec-WebSocket-Extensions: "));
    let answers: Vec<&str> = answers.collect();
    assert!(answers.len() < 2, "{head}");
    answers.first().map(ToString::to_string)
}

fn server(backend: BackendName, app: AppName, compression: config::Compression) -> TestServer {
    TestServer::start(&Config { compression, ..config(backend, app, 2) })
}

fn what_is_offered_decides_what_is_agreed(backend: BackendName) {
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

fn compressed_messages_are_understood_and_answered(backend: BackendName) {
    for compression in [config::Compression::Shared, config::Compression::Dedicated] {
        let server = server(backend, AppName::Echo, compression);
        for offer in [
            "permessage-deflate",
            "permessage-deflate; client_max_window_bits",
            "permessage-deflate; client_no_context_takeover",
            "permessage-deflate; server_no_context_takeover",
            "permessage-deflate; server_max_window_bits=9",
        ] {
            let mut client = Deflating::open(&server, "/", offer);
            if offer.contains("client_max_window_bits") {
                client.out = Compress::new_with_window_bits(Compression::default(), false, 12);
            }
            for count in [0, 1, 10, 1_000, 3, 20_000] {
                let text = WORDS.repeat(count) + &format!("for {count}");
                client.send_text(&text);
                let (heard, on_the_way) = client.hear();
                assert!(heard == text, "{offer}: {count}");
                let is_small =
                    count > 3 && !(offer.contains("=9") && compression == config::Compression::Shared);
                assert!(!is_small || on_the_way < text.len() / 5, "{offer}: {on_the_way} of {}", text.len());
            }
            client.raw.send(&frame(CLOSE, &[3, 232]));
            assert_eq!(client.raw.receive_close().0, 1000);
        }
    }
}

fn a_room_serves_both_kinds_of_clients(backend: BackendName) {
    for compression in [config::Compression::Shared, config::Compression::Dedicated] {
        let server = server(backend, AppName::Relay, compression);
        let mut plain: Vec<RawClient> =
            (0..4).map(|_| RawClient::open(server.address(), "/room/den")).collect();
        let offers = ["permessage-deflate", "permessage-deflate; server_max_window_bits=10"];
        let mut deflating: Vec<Deflating> =
            (0..8).map(|n| Deflating::open(&server, "/room/den", offers[n % 2])).collect();
        // Whoever hears her own words has joined on every shard that there is.
        for client in &mut deflating {
            client.send_text("here");
            while client.hear().0 != "here" {}
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
                while client.hear().0 != text {}
            }
            for client in &mut plain {
                while client.receive_frame().1 != text.as_bytes() {}
            }
        }
    }
}

fn a_bomb_is_closed_with_1009(backend: BackendName) {
    let base = config(backend, AppName::Echo, 1);
    let server = TestServer::start(&Config { max_message: 100_000, ..base });
    let mut client = Deflating::open(&server, "/", "permessage-deflate");
    // 64 MiB of zeros in 64 KiB: as much as may be announced.
    let bomb = client.compress(&vec![0; 64 << 20]);
    assert!(bomb.len() < 100_000);
    client.raw.try_send(&frame(BINARY | 0x40, &bomb));
    assert_eq!(client.raw.receive_close().0, 1009);
    client.raw.expect_end();
}

fn damaged_data_is_closed_with_1007(backend: BackendName) {
    let server = TestServer::echo(backend);
    for (first, payload) in
        [(TEXT | 0x40, &[0xff, 0xff, 0xff][..]), (TEXT | 0x40, &[0x00, 0x01, 0x00, 0xfe, 0xff, 0xff, 0x00])]
    {
        let mut client = Deflating::open(&server, "/", "permessage-deflate");
        client.raw.try_send(&frame(first, payload));
        assert_eq!(client.raw.receive_close().0, 1007);
    }
    let mut client = Deflating::open(&server, "/", "permessage-deflate");
    client.raw.try_send(&frame(0x80 | 0x40, b""));
    assert_eq!(client.raw.receive_close().0, 1002);
}

fn windows_are_counted_and_have_a_cap(backend: BackendName) {
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
    wait_until("the window is given back", || reserved() == 2 << 15);
    assert!(open().1, "and another client has it");
    drop(clients);
    wait_until("all are given back", || reserved() == 0);
}

fn short_messages_are_sent_plain(backend: BackendName) {
    let base = config(backend, AppName::Echo, 1);
    let server = TestServer::start(&Config { compression_threshold: 50, ..base });
    let mut client = Deflating::open(&server, "/", "permessage-deflate");
    for (len, first) in [(49, TEXT), (50, TEXT | 0x40)] {
        client.send_text(&"a".repeat(len));
        assert_eq!(client.raw.receive_frame().0, first, "{len}");
    }
}
