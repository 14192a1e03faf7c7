//! Benchmarks of compression. Rows are chat messages of one length: compressed for a room, compressed for one client
//! with context takeover, and decompressed. Each row's name contains the compression ratio.

use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput};
use uproar::protocol::Opcode;
use uproar::protocol::deflate::{Deflater, Inflater, Window};
use uproar::protocol::frame::{encode_header, first};

const LENS: [usize; 7] = [64, 128, 256, 512, 1 << 10, 4 << 10, 64 << 10];

fn main() {
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .configure_from_args();
    for len in LENS {
        of_length(&mut criterion, len);
    }
    criterion.final_summary();
}

fn of_length(criterion: &mut Criterion, len: usize) {
    let frames: Vec<Vec<u8>> = (0..32).map(|n| frame(&message(len, n))).collect();
    let mut deflater = Deflater::new(0);
    let kept = |packed: usize| format!("{:.0} % left", packed as f64 * 100.0 / (frames.len() * len) as f64);
    let shared: usize = frames.iter().map(|frame| deflater.compress(frame).len()).sum();
    let mut window = Window::new(12);
    let own: usize =
        frames.iter().map(|frame| deflater.compress_within(frame, &mut window, true).len()).sum();
    let mut group = criterion.benchmark_group(format!("deflate/{len}"));
    group.throughput(Throughput::Bytes(len as u64));
    let mut next = frames.iter().cycle();
    group.bench_function(BenchmarkId::new("for all", kept(shared)), |bencher| {
        bencher.iter(|| deflater.compress(black_box(next.next().expect("endless"))).len());
    });
    group.bench_function(BenchmarkId::new("for one", kept(own)), |bencher| {
        bencher.iter(|| {
            deflater.compress_within(black_box(next.next().expect("endless")), &mut window, true).len()
        });
    });
    let packed = deflater.compress(&frames[0]).to_vec();
    let packed = first(&packed).filter(|frame| frame.rsv1);
    if let Some(packed) = packed {
        let mut inflater = Inflater::default();
        for (name, bits) in [("inflate, anew", None), ("inflate, 4 KiB before it", Some(12))] {
            let mut window = bits.map(Window::new);
            group.bench_function(name, |bencher| {
                bencher.iter(|| {
                    inflater.inflate(black_box(packed.payload), window.as_mut(), len).expect("DEFLATE").len()
                });
            });
        }
    }
    group.finish();
}

fn frame(payload: &[u8]) -> Vec<u8> {
    [encode_header(Opcode::Text, true, false, payload.len()).as_bytes(), payload].concat()
}

/// Returns a JSON chat message of about `len` bytes: words from a small vocabulary in random order.
fn message(len: usize, seed: u64) -> Vec<u8> {
    const WORDS: &str = "the meeting is moved to tomorrow at ten please bring your notes and coffee thanks \
                         everyone see you there server restart done ok lunch where who why deploy release great";
    let words: Vec<&str> = WORDS.split(' ').collect();
    let mut state = seed;
    let mut random = move |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    };
    let mut text = String::new();
    while text.len() < len {
        text += &format!("{{\"room\":\"lobby\",\"user\":{},\"text\":\"", random(1_000_000));
        (0..3 + random(12)).for_each(|_| text.extend([words[random(words.len())], " "]));
        text += "\"},";
    }
    text.truncate(len);
    text.into_bytes()
}
