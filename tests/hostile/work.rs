//! Attacks that make the server work: compressed messages that are long and costly to handle, and replays of history.

use std::io::{ErrorKind, Read as _};
use std::time::{Duration, Instant};

use flate2::{Compress, Compression, FlushCompress};
use uproar::config::{BackendName, Config};

use crate::harness::{chat, run_attack};
use crate::support::TestServer;
use crate::support::chat_user::ChatUser;
use crate::support::metrics::{Metrics, http_get};
use crate::support::raw::{RawClient, TEXT, frame, server_frame_lens, upgrade_request_with};
use crate::support::wait_until;

slowly_on_both_backends!(
    compressed_markup_from_one_client,
    compressed_markup_from_thirty_clients,
    replays_of_history,
);

/// Length of a message that the attackers send compressed: in a release build the longest that the server accepts. A debug
/// build takes some twenty times as long for a byte.
const LONG: usize = if cfg!(debug_assertions) { 64 << 10 } else { 1 << 20 };
/// Byte rate of each client. For messages of 1 MiB it is the default of the chat.
const RATE: usize = LONG / 4;
/// Length of an attack with compressed messages.
const SPELL: Duration = Duration::from_secs(9);
/// Texts that are costly to clean of HTML tags.
const TEXTS: [&str; 3] = ["&<", "<i/><", "<a x"];
/// Maximum duration of a turn, in seconds: an upper bound of a bucket in the metrics. A worker whose turn takes 5 seconds
/// counts as hung.
const MAX_TURN: &str = "1.073741824";

/// Returns the frame of a compressed message of [`LONG`] bytes.
fn bomb(text: &str) -> Vec<u8> {
    let message = text.repeat(LONG / text.len());
    let mut packed = Vec::with_capacity(LONG);
    Compress::new(Compression::best(), false)
        .compress_vec(message.as_bytes(), &mut packed, FlushCompress::Sync)
        .expect("compresses");
    let packed = frame(TEXT | 0x40, &packed[..packed.len() - 4]);
    assert!(packed.len() < LONG / 100, "{} bytes are no bomb", packed.len());
    packed
}

/// Sends ten bombs at once, and receives for [`SPELL`]. Returns the number of messages that have come back, in the
/// client's own room.
fn send_bombs(server: &TestServer, number: usize) -> usize {
    let mut raw = RawClient::connect(server.address());
    let path = format!("/room/pit-{number}");
    raw.send(upgrade_request_with(&path, &["Sec-WebSocket-Extensions: permessage-deflate"]).as_bytes());
    raw.expect_upgrade();
    assert_eq!(raw.receive_frame().0 & 0x8f, TEXT, "the chat welcomes its users");
    let begin = Instant::now();
    raw.send(&bomb(TEXTS[number % TEXTS.len()]).repeat(10));
    let (mut stream, mut received) = raw.into_parts();
    stream.set_read_timeout(Some(Duration::from_millis(100))).expect("a TCP socket");
    let mut buffer = vec![0; 64 << 10];
    while begin.elapsed() < SPELL {
        match stream.read(&mut buffer) {
            Ok(0) => panic!("the server ended the connection"),
            Ok(len) => received.extend_from_slice(&buffer[..len]),
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}"),
        }
    }
    let (mut rest, mut count) = (&received[..], 0);
    while let Some((header_len, payload_len)) = server_frame_lens(rest)
        && rest.len() >= header_len + payload_len
    {
        count += usize::from(rest[0] & 0x8f == TEXT);
        rest = &rest[header_len + payload_len..];
    }
    count
}

/// Lets `attackers` clients send compressed messages. Asserts that each message costs its decompressed length of the
/// client's byte rate, that no turn takes long, and that the server counts as healthy throughout.
fn compressed_markup(name: &str, backend: BackendName, attackers: usize) {
    let admin = Some(([127, 0, 0, 1], 0).into());
    let config = Config { admin, byte_rate: Some(RATE as u32), ..chat(backend) };
    run_attack(name, &config, |server| {
        let admin = server.admin_address().expect("an admin listener");
        std::thread::scope(|scope| {
            let attacks: Vec<_> =
                (0..attackers).map(|number| scope.spawn(move || send_bombs(server, number))).collect();
            while attacks.iter().any(|attack| !attack.is_finished()) {
                assert_eq!(http_get(admin, "/healthz").status, 200);
                std::thread::sleep(Duration::from_millis(50));
            }
            let counts: Vec<usize> =
                attacks.into_iter().map(|attack| attack.join().expect("the connection stays open")).collect();
            // The first message uses up the burst, and the second overdraws it. A part of a message counts as one.
            let most = 3 + SPELL.as_secs() as usize * RATE / LONG;
            assert!(counts.iter().all(|count| *count <= most), "over {most}: {counts:?}");
            assert!(counts.iter().any(|count| *count >= 2), "{counts:?}");
        });
        let metrics = Metrics::fetch(admin);
        let all = metrics.sum("uproar_turn_duration_seconds_count", &[]);
        let short = metrics.sum("uproar_turn_duration_seconds_bucket", &[("le", MAX_TURN)]);
        assert!(short >= all, "{} turns took more than {MAX_TURN} s", all - short);
    });
}

/// The whole attack is 12 KB.
fn compressed_markup_from_one_client(backend: BackendName) {
    compressed_markup("compressed markup from one client", backend, 1);
}

fn compressed_markup_from_thirty_clients(backend: BackendName) {
    compressed_markup("compressed markup from thirty clients", backend, 30);
}

/// Joining rooms in turns replays their history each time. The history counts as if the client had sent it.
fn replays_of_history(backend: BackendName) {
    const HISTORY: usize = 60_000;
    // With one worker, each join finds the history at once. Otherwise a client may leave before it arrives.
    let config = Config { workers: Some(1), ..chat(backend) };
    run_attack("replays of history", &config, |server| {
        for room in ["deep", "deeper"] {
            let mut writer = ChatUser::join(server.address(), room);
            let label = writer.default_name();
            let line = "x".repeat(HISTORY / 4);
            for _ in 0..4 {
                writer.send_text(&line);
                writer.expect_text(&format!("{label}: {line}"));
            }
        }
        let mut client = ChatUser::join(server.address(), "pit");
        let (before, begin) = (server.totals().bytes_out, Instant::now());
        // Each join costs a quarter of a second of the byte rate, so the burst is used up after 16 joins.
        const JOINS: usize = 36;
        let joins: Vec<_> = (0..JOINS).map(|n| format!("/join {}", ["deep", "deeper"][n % 2])).collect();
        client.send_texts_together(&joins.iter().map(String::as_str).collect::<Vec<_>>());
        let mut received = 0;
        while received < JOINS {
            received += usize::from(client.receive_text().starts_with("* you are in deep"));
        }
        let took = begin.elapsed();
        assert!(took >= Duration::from_secs(3), "{JOINS} replays of {HISTORY} bytes took {took:?}");
        assert!(
            server.totals().bytes_out - before >= (JOINS * HISTORY / 2) as u64,
            "the history was replayed"
        );
        wait_until("the client was paused", || server.totals().throttled > 0);
    });
}
