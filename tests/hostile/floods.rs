//! Attacks that flood the server with frames.

use std::io::{ErrorKind, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use uproar::config::{BackendName, Config};

use crate::harness::{chat, chat_without_rates, run_attack};
use crate::support::TIMEOUT;
use crate::support::raw::{PING, PONG, RawClient, TEXT, frame};

slowly_on_both_backends!(
    endless_empty_fragments,
    ten_million_empty_fragments_without_rates,
    pings,
    pings_without_rates,
    pongs,
    tiny_frames,
    tiny_frames_without_rates,
);

/// Number of flooding connections.
const FLOODERS: usize = 20;
/// Minimum duration of a flood.
const FLOOD: Duration = Duration::from_millis(1_000);
/// Number of messages that the chat accepts from one client at once, by its default message rate.
const BURST: u64 = 80;
/// Number of messages a second that the chat accepts from one client, by its default message rate.
const RATE: u64 = 20;

/// Opens `count` WebSockets that never read.
fn open_flooders(address: SocketAddr, count: usize) -> Vec<TcpStream> {
    let open = |_| {
        let (stream, _) = RawClient::open(address, "/room/pit").with_small_window().into_parts();
        stream.set_nonblocking(true).expect("non-blocking");
        stream
    };
    (0..count).map(open).collect()
}

/// Writes `unit` again and again on all streams, for at least `FLOOD` and until `is_over` returns true. Calls `is_over`
/// with the number of units written so far. Returns the number of streams that the server has closed.
#[must_use]
fn flood(streams: Vec<TcpStream>, unit: &[u8], mut is_over: impl FnMut(usize) -> bool) -> usize {
    let count = streams.len();
    let block = unit.repeat((64 << 10) / unit.len());
    let mut total = 0;
    let mut streams: Vec<_> = streams.into_iter().map(|stream| (stream, 0)).collect();
    let begin = Instant::now();
    while !streams.is_empty() && (begin.elapsed() < FLOOD || !is_over(total / unit.len())) {
        assert!(begin.elapsed() < TIMEOUT, "timed out while flooding");
        // A short write may end within the block; the next write continues there.
        streams.retain_mut(|(stream, sent)| match stream.write(&block[*sent % block.len()..]) {
            Ok(len) => {
                *sent += len;
                total += len;
                true
            }
            Err(error) => error.kind() == ErrorKind::WouldBlock,
        });
        let mut awaited: Vec<_> =
            streams.iter().map(|(stream, _)| PollFd::new(stream.as_fd(), PollFlags::POLLOUT)).collect();
        poll(&mut awaited, PollTimeout::from(20_u8)).expect("poll waits");
    }
    count - streams.len()
}

/// Fragments count against the byte rate only: the message rate counts whole messages.
fn endless_empty_fragments(backend: BackendName) {
    const BYTES: u32 = 64 << 10;
    let config = Config { byte_rate: Some(BYTES), ..chat(backend) };
    run_attack("endless empty fragments", &config, |server| {
        let mut patient = RawClient::open(server.address(), "/room/pit");
        let mut bytes = frame(0x01, b"the longest message");
        bytes.extend(frame(0x00, b"").repeat(65_534));
        bytes.extend(frame(0x80, b""));
        patient.send(&bytes);
        while !patient.receive_frame().1.ends_with(b": the longest message") {}
        let (before, begin) = (server.totals(), Instant::now());
        let mut streams = open_flooders(server.address(), 4);
        for stream in &mut streams {
            stream.write_all(&frame(0x01, b"endless")).expect("room for a frame");
        }
        let is_over = |_| server.totals().throttled >= before.throttled + 8;
        assert_eq!(flood(streams, &frame(0x00, b""), is_over), 0);
        let received = server.totals().bytes_in - before.bytes_in;
        // Allowed: the burst, the rate, and 16 MiB that a ring may receive ahead (twice the size of its buffers).
        let seconds = begin.elapsed().as_secs() + 1;
        let allowed = 4 * u64::from(BYTES) * (4 + seconds) + (16 << 20);
        assert!(received <= allowed, "{received} bytes in {seconds} s, {allowed} allowed");
    });
}

/// Without rate limits, the server receives fragments as fast as they arrive and delivers the message made of them.
fn ten_million_empty_fragments_without_rates(backend: BackendName) {
    const BLOCK: usize = 10_000;
    run_attack("ten million empty fragments without rates", &chat_without_rates(backend), |server| {
        let before = server.totals();
        let mut patient = RawClient::open(server.address(), "/room/pit");
        patient.send(&frame(0x01, b"the longest "));
        let block = frame(0x00, b"").repeat(BLOCK);
        for _ in 0..10_000_000 / BLOCK {
            patient.send(&block);
        }
        patient.send(&frame(0x80, b"message"));
        while !patient.receive_frame().1.ends_with(b": the longest message") {}
        let totals = server.totals();
        assert!(totals.bytes_in - before.bytes_in >= 60_000_000);
        assert_eq!((totals.throttled, totals.failed), (before.throttled, before.failed));
    });
}

fn pings(backend: BackendName) {
    control_frames("ping flood", backend, PING);
}

fn pongs(backend: BackendName) {
    control_frames("pong flood", backend, PONG);
}

fn control_frames(row: &str, backend: BackendName, first: u8) {
    run_attack(row, &chat(backend), |server| {
        let is_over = |sent| sent > FLOODERS * 1_000 && server.totals().throttled >= FLOODERS as u64;
        assert_eq!(flood(open_flooders(server.address(), FLOODERS), &frame(first, b""), is_over), 0);
    });
}

/// Without rate limits, unread pongs stop the flood: the server stops reading from a client with too many pongs
/// pending.
fn pings_without_rates(backend: BackendName) {
    run_attack("ping flood without rates", &chat_without_rates(backend), |server| {
        let mut last = 0;
        let is_blocked = |sent| sent > 0 && std::mem::replace(&mut last, sent) == sent;
        assert_eq!(flood(open_flooders(server.address(), 2), &frame(PING, &[7; 125]), is_blocked), 0);
        assert_eq!(server.totals().throttled, 0);
    });
}

fn tiny_frames(backend: BackendName) {
    run_attack("tiny frames", &chat(backend), |server| {
        let begin = Instant::now();
        let before = server.totals().messages_in;
        let is_over = |_| server.totals().throttled >= FLOODERS as u64;
        assert_eq!(flood(open_flooders(server.address(), FLOODERS), &frame(TEXT, b"x"), is_over), 0);
        let received = server.totals().messages_in - before;
        let seconds = begin.elapsed().as_secs() + 1;
        // Includes 200 messages a second for the chat users, who send half as many.
        let allowed = FLOODERS as u64 * (BURST + 1 + RATE * seconds) + 200 * seconds;
        assert!(received <= allowed, "{received} messages in {seconds} s, {allowed} allowed");
    });
}

/// Without rate limits, as in a relay by default, flooders lag because they do not read the room's messages. The server
/// closes flooders that lag, and resets their connections when they keep sending.
fn tiny_frames_without_rates(backend: BackendName) {
    run_attack("tiny frames without rates", &chat_without_rates(backend), |server| {
        assert_eq!(flood(open_flooders(server.address(), 2), &frame(TEXT, b"x"), |_| false), 2);
        let totals = server.totals();
        assert_eq!((totals.lagged, totals.throttled), (2, 0));
    });
}
