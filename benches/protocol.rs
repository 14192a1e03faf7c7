//! Benchmarks of the protocol: unmasking, UTF-8 checks, frame headers, buffers of frames, and the handshake.

use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput};
use uproar::protocol::frame::encode_header;
use uproar::protocol::mask::unmask;
use uproar::protocol::{Opcode, Protocol, ProtocolEvent, Reader, response};

/// The mask key. All its bytes are below 32, so that unmasking turns ASCII into ASCII. A buffer decoded in place stays
/// valid, and an iteration needs no fresh copy.
const KEY: [u8; 4] = [1, 2, 4, 8];

/// Length of one read in bytes.
const READ_LEN: usize = 16 * 1024;

/// A browser's opening request.
const REQUEST: &[u8] = b"GET /room/lounge HTTP/1.1\r\n\
    Host: chat.example.org\r\n\
    Connection: Upgrade\r\n\
    Pragma: no-cache\r\n\
    Cache-Control: no-cache\r\n\
    User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36\r\n\
    Upgrade: websocket\r\n\
    Origin: https://chat.example.org\r\n\
    Sec-WebSocket-Version: 13\r\n\
    Accept-Encoding: gzip, deflate, br, zstd\r\n\
    Accept-Language: en-GB,en;q=0.9\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
    Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n\r\n";

fn main() {
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .configure_from_args();
    mask(&mut criterion);
    utf8(&mut criterion);
    headers(&mut criterion);
    decode(&mut criterion);
    handshake(&mut criterion);
    criterion.final_summary();
}

/// Benchmark of unmasking, compared with a copy (the upper bound) and with a byte-by-byte loop. Payloads below 16 KiB
/// rotate through a buffer of 16 KiB, since real payloads were not stored a moment ago.
fn mask(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("mask");
    for len in [8, 15, 64, 1 << 10, 4 << 10, 16 << 10, 64 << 10, 128 << 10, 1 << 20] {
        group.throughput(Throughput::Bytes(len as u64));
        let mut data = vec![b'a'; len.max(16 << 10)];
        let source = data.clone();
        let starts: Vec<usize> = (0..data.len() / len).map(|payload| payload * len).collect();
        group.bench_function(BenchmarkId::new("unmask", len), |bencher| {
            let mut starts = starts.iter().cycle();
            bencher.iter(|| unmask(black_box(&mut data[next(&mut starts)..][..len]), black_box(KEY)));
        });
        group.bench_function(BenchmarkId::new("memcpy", len), |bencher| {
            let mut starts = starts.iter().cycle();
            bencher.iter(|| {
                let start = next(&mut starts);
                black_box(&mut data[start..][..len]).copy_from_slice(black_box(&source[start..][..len]));
            });
        });
        group.bench_function(BenchmarkId::new("byte loop", len), |bencher| {
            let mut starts = starts.iter().cycle();
            bencher.iter(|| unmask_by_byte(black_box(&mut data[next(&mut starts)..][..len]), black_box(KEY)));
        });
    }
    group.finish();
}

/// Returns the offset of the next payload in the buffer.
fn next<'s>(starts: &mut impl Iterator<Item = &'s usize>) -> usize {
    *starts.next().expect("endless")
}

/// Unmasks `data` byte by byte. RFC 6455 §5.3
fn unmask_by_byte(data: &mut [u8], key: [u8; 4]) {
    for (i, byte) in data.iter_mut().enumerate() {
        *byte ^= key[i % 4];
    }
}

/// Benchmark of UTF-8 checks: `basic` for complete texts, `compat` for parts of a text, and the standard library.
fn utf8(criterion: &mut Criterion) {
    for (language, pattern) in
        [("ascii", "Good evening to everyone! "), ("mixed", "Grüße aus Кёльн, 世界 🎉 ")]
    {
        let mut group = criterion.benchmark_group(format!("utf-8/{language}"));
        for len in [16, 125, 1 << 10, 64 << 10] {
            let text = pattern.repeat(len / pattern.len() + 1);
            let text = &text.as_bytes()[..text.floor_char_boundary(len)];
            group.throughput(Throughput::Bytes(text.len() as u64));
            group.bench_function(BenchmarkId::new("basic", len), |bencher| {
                bencher.iter(|| simdutf8::basic::from_utf8(black_box(text)).is_ok());
            });
            group.bench_function(BenchmarkId::new("compat", len), |bencher| {
                bencher.iter(|| simdutf8::compat::from_utf8(black_box(text)).is_ok());
            });
            group.bench_function(BenchmarkId::new("std", len), |bencher| {
                bencher.iter(|| std::str::from_utf8(black_box(text)).is_ok());
            });
        }
        group.finish();
    }
}

/// Benchmark of frame headers in their three forms. Decoding handles one whole frame with the shortest payload of the
/// header's form, so the two long forms include the unmasking.
fn headers(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("header");
    group.throughput(Throughput::Elements(1));
    for len in [0, 126, 65_536] {
        group.bench_function(BenchmarkId::new("encode", len), |bencher| {
            bencher.iter(|| encode_header(black_box(Opcode::Text), true, false, black_box(len)));
        });
    }
    for len in [0, 126, 65_536] {
        let mut frame = Vec::new();
        push_frame(Opcode::Binary, len, &mut frame);
        let mut protocol = open_connection();
        group.bench_function(BenchmarkId::new("decode", len), |bencher| {
            bencher.iter(|| events(&mut protocol, black_box(&mut frame)));
        });
    }
    group.finish();
}

/// Benchmark of decoding one full read of small messages: whole frames, or cut in the middle of a frame, as from a
/// client that sends without waiting.
fn decode(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("decode");
    for (kind, opcode) in [("text", Opcode::Text), ("binary", Opcode::Binary)] {
        for payload_len in [8, 64, 512] {
            let frame_len = frame_len(opcode, payload_len);
            let count = READ_LEN / frame_len;
            let mut read = frames(opcode, payload_len, count);
            let mut protocol = open_connection();
            group.throughput(Throughput::ElementsAndBytes {
                elements: count as u64,
                bytes: read.len() as u64,
            });
            group.bench_function(BenchmarkId::new(format!("{kind}, whole frames"), payload_len), |bencher| {
                bencher.iter(|| assert_eq!(events(&mut protocol, black_box(&mut read)), count));
            });

            // The stream is two reads long. It begins and ends with a whole frame, and the border between the reads
            // lies within a frame.
            let count = 2 * count + 1;
            let mut stream = frames(opcode, payload_len, count);
            let half = stream.len() / 2;
            group.throughput(Throughput::ElementsAndBytes {
                elements: count as u64,
                bytes: stream.len() as u64,
            });
            group.bench_function(BenchmarkId::new(format!("{kind}, one cut"), payload_len), |bencher| {
                bencher.iter(|| {
                    let (first, second) = black_box(&mut stream[..]).split_at_mut(half);
                    assert_eq!(events(&mut protocol, first) + events(&mut protocol, second), count);
                });
            });
        }
    }
    group.finish();
}

/// Benchmark of the handshake: from a browser's request head, whole or in two reads, to the bytes of the 101 response.
fn handshake(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("handshake");
    group.throughput(Throughput::Elements(1));
    let mut head = REQUEST.to_vec();
    let mut out = Vec::with_capacity(256);
    group.bench_function("one read", |bencher| {
        bencher.iter(|| {
            out.clear();
            let mut protocol = Protocol::new();
            answer(&mut protocol, black_box(&mut head), &mut out);
            assert!(protocol.is_open());
        });
    });
    let half = head.len() / 2;
    group.bench_function("two reads", |bencher| {
        bencher.iter(|| {
            out.clear();
            let mut protocol = Protocol::new();
            let (first, second) = black_box(&mut head[..]).split_at_mut(half);
            answer(&mut protocol, first, &mut out);
            answer(&mut protocol, second, &mut out);
            assert!(protocol.is_open());
        });
    });
    group.finish();
}

/// Returns a protocol state after its handshake.
fn open_connection() -> Protocol {
    let mut protocol = Protocol::new();
    answer(&mut protocol, &mut REQUEST.to_vec(), &mut Vec::new());
    assert!(protocol.is_open());
    protocol
}

/// Feeds `input` to the protocol. Upgrades the connection when the request head is complete, and writes the response to
/// `out`.
fn answer(protocol: &mut Protocol, mut input: &mut [u8], out: &mut Vec<u8>) {
    let mut reader = Reader::default();
    let Some(event) = protocol.next(&mut input, &mut reader) else { return };
    match event {
        ProtocolEvent::Request(request) => {
            response::switching_protocols(&request.upgrade.expect("a handshake"), None, None, out);
            protocol.upgrade(None);
        }
        other => panic!("the request is valid, not {other:?}"),
    }
}

/// Decodes all of `input` and returns the number of messages in it.
fn events(protocol: &mut Protocol, mut input: &mut [u8]) -> usize {
    let mut reader = Reader::default();
    let mut count = 0;
    while let Some(event) = protocol.next(&mut input, &mut reader) {
        match event {
            ProtocolEvent::Message { kind, payload } => {
                black_box((kind, payload));
                count += 1;
            }
            other => panic!("only messages were sent, not {other:?}"),
        }
    }
    count
}

fn frames(opcode: Opcode, payload_len: usize, count: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(count * frame_len(opcode, payload_len));
    for _ in 0..count {
        push_frame(opcode, payload_len, &mut bytes);
    }
    bytes
}

fn frame_len(opcode: Opcode, payload_len: usize) -> usize {
    encode_header(opcode, true, false, payload_len).as_bytes().len() + KEY.len() + payload_len
}

/// Appends a masked frame with `payload_len` bytes of payload to `out`.
fn push_frame(opcode: Opcode, payload_len: usize, out: &mut Vec<u8>) {
    let start = out.len();
    out.extend_from_slice(encode_header(opcode, true, false, payload_len).as_bytes());
    // RFC 6455 §5.2: the mask bit.
    out[start + 1] |= 0x80;
    out.extend_from_slice(&KEY);
    let payload = out.len();
    out.resize(payload + payload_len, b'a');
    unmask(&mut out[payload..], KEY);
}
