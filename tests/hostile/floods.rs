//! Attacks by mere quantity.

use std::io::{ErrorKind, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use uproar::config::{BackendName, Config};

use crate::scene::{beside_chatters, chat, chat_without_rates};
use crate::support::TIMEOUT;
use crate::support::raw::{PING, PONG, RawClient, TEXT, frame};

at_length_on_both_backends!(
    endless_empty_fragments,
    ten_million_empty_fragments_without_rates,
    pings,
    pings_without_rates,
    pongs,
    tiny_frames,
    tiny_frames_without_rates,
);

/// Connections that flood.
const FLOODERS: usize = 20;
/// How long they do.
const FLOOD: Duration = Duration::from_millis(1_000);
/// What the chat lets one client send: at once, and in a second.
const BURST: u64 = 80;
const RATE: u64 = 20;

/// Opens WebSockets that will never be read from.
fn flooders(address: SocketAddr, count: usize) -> Vec<TcpStream> {
    let open = |_| {
        let (stream, _) = RawClient::open(address, "/room/pit").with_small_window().into_parts();
        stream.set_nonblocking(true).expect("non-blocking");
        stream
    };
    (0..count).map(open).collect()
}

/// Writes `unit`s on all streams, as fast as they take them, for a while and until `is_over`, which is told how many
/// there were. Says how many of them the server has ended.
#[must_use]
fn flood(streams: Vec<TcpStream>, unit: &[u8], mut is_over: impl FnMut(usize) -> bool) -> usize {
    let count = streams.len();
    let block = unit.repeat((64 << 10) / unit.len());
    let mut total = 0;
    let mut streams: Vec<_> = streams.into_iter().map(|stream| (stream, 0)).collect();
    let begin = Instant::now();
    while !streams.is_empty() && (begin.elapsed() < FLOOD || !is_over(total / unit.len())) {
        assert!(begin.elapsed() < TIMEOUT, "flooded in vain");
        // A short write goes on where it stopped.
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

/// Fragments are no messages of their own, but their bytes count.
fn endless_empty_fragments(backend: BackendName) {
    const BYTES: u32 = 64 << 10;
    let config = Config { byte_rate: Some(BYTES), ..chat(backend) };
    beside_chatters("endless empty fragments", &config, |server| {
        let mut patient = RawClient::open(server.address(), "/room/pit");
        let mut bytes = frame(0x01, b"as deep as it may be");
        bytes.extend(frame(0x00, b"").repeat(65_534));
        bytes.extend(frame(0x80, b""));
        patient.send(&bytes);
        while !patient.receive_frame().1.ends_with(b": as deep as it may be") {}
        let (before, begin) = (server.totals(), Instant::now());
        let mut streams = flooders(server.address(), 4);
        for stream in &mut streams {
            stream.write_all(&frame(0x01, b"never ends")).expect("room for a frame");
        }
        let is_over = |_| server.totals().throttled >= before.throttled + 8;
        assert_eq!(flood(streams, &frame(0x00, b""), is_over), 0);
        let taken = server.totals().bytes_in - before.bytes_in;
        // The burst, and 16 MiB for what a ring had received ahead: twice what its buffers hold.
        let seconds = begin.elapsed().as_secs() + 1;
        let allowed = 4 * u64::from(BYTES) * (4 + seconds) + (16 << 20);
        assert!(taken <= allowed, "{taken} bytes in {seconds} s, {allowed} allowed");
    });
}

/// Without rates they are taken as fast as they come, and the message that they are part of is as good as any.
fn ten_million_empty_fragments_without_rates(backend: BackendName) {
    const BLOCK: usize = 10_000;
    beside_chatters("ten million empty fragments without rates", &chat_without_rates(backend), |server| {
        let before = server.totals();
        let mut patient = RawClient::open(server.address(), "/room/pit");
        patient.send(&frame(0x01, b"as deep as "));
        let block = frame(0x00, b"").repeat(BLOCK);
        for _ in 0..10_000_000 / BLOCK {
            patient.send(&block);
        }
        patient.send(&frame(0x80, b"it may be"));
        while !patient.receive_frame().1.ends_with(b": as deep as it may be") {}
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
    beside_chatters(row, &chat(backend), |server| {
        let is_over = |sent| sent > FLOODERS * 1_000 && server.totals().throttled >= FLOODERS as u64;
        assert_eq!(flood(flooders(server.address(), FLOODERS), &frame(first, b""), is_over), 0);
    });
}

/// Without rates the answers themselves are the limit: nobody reads them, and so nothing more is received.
fn pings_without_rates(backend: BackendName) {
    beside_chatters("ping flood without rates", &chat_without_rates(backend), |server| {
        let mut last = 0;
        let is_stuck = |sent| sent > 0 && std::mem::replace(&mut last, sent) == sent;
        assert_eq!(flood(flooders(server.address(), 2), &frame(PING, &[7; 125]), is_stuck), 0);
        assert_eq!(server.totals().throttled, 0);
    });
}

fn tiny_frames(backend: BackendName) {
    beside_chatters("tiny frames", &chat(backend), |server| {
        let begin = Instant::now();
        let before = server.totals().messages_in;
        let is_over = |_| server.totals().throttled >= FLOODERS as u64;
        assert_eq!(flood(flooders(server.address(), FLOODERS), &frame(TEXT, b"x"), is_over), 0);
        let taken = server.totals().messages_in - before;
        let seconds = begin.elapsed().as_secs() + 1;
        // The chatters' own ones are among them: 100 a second.
        let allowed = FLOODERS as u64 * (BURST + 1 + RATE * seconds) + 200 * seconds;
        assert!(taken <= allowed, "{taken} taken in {seconds} s, {allowed} allowed");
    });
}

/// What a relay has by default. Whoever does not read what everybody hears, its own words too, has lagged, is told so, and is cut
/// off if it goes on.
fn tiny_frames_without_rates(backend: BackendName) {
    beside_chatters("tiny frames without rates", &chat_without_rates(backend), |server| {
        assert_eq!(flood(flooders(server.address(), 2), &frame(TEXT, b"x"), |_| false), 2);
        let totals = server.totals();
        assert_eq!((totals.lagged, totals.throttled), (2, 0));
    });
}
