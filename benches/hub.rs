//! What the hub costs: appending to a room's log, gathering what a reader is owed, and the bookkeeping of a
//! fan-out, all before a backend that takes everything at once and sends nothing.

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput};
use uproar::hub::{Hub, Kind, Message, Options, Outbound, Request};
use uproar::protocol::frame::encode_header;

/// A message of chat.
const PAYLOAD: [u8; 64] = [b'a'; 64];

/// Messages that are appended before they are read.
const BATCH: u64 = 64;

fn main() {
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .configure_from_args();
    append(&mut criterion);
    gather(&mut criterion);
    fan_out(&mut criterion);
    fan_out_busy(&mut criterion);
    criterion.final_summary();
}

/// One message into the log of a room with a member: from an application on the room's home shard (`publish`:
/// batched, taken out, ordered), as its home shard (`order`: the header is encoded), and on another shard
/// (`deliver`: the frame is there already). Nothing is sent meanwhile; the log is emptied off the clock.
fn append(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("append");
    for len in [16, 64, 1 << 10] {
        let payload = vec![b'a'; len];
        group.throughput(Throughput::ElementsAndBytes { elements: BATCH, bytes: BATCH * len as u64 });

        let (mut bench, message) = (Bench::new(0, 1, 1), Message::new(Kind::Text, &payload));
        let room = bench.room.clone();
        group.bench_function(BenchmarkId::new("publish", len), |bencher| {
            bencher.iter_custom(|rounds| {
                bench.time(rounds, |hub| {
                    (0..BATCH).for_each(|_| hub.publish(black_box(&room), black_box(message)));
                    take_requests(hub);
                })
            });
        });
        group.bench_function(BenchmarkId::new("order", len), |bencher| {
            bencher.iter_custom(|rounds| {
                bench.time(rounds, |hub| {
                    (0..BATCH).for_each(|_| hub.order(black_box(&room), black_box(message)));
                })
            });
        });

        let header = encode_header(Kind::Text.opcode(), true, false, len);
        let frame = [header.as_bytes(), &payload].concat();
        let (mut bench, mut number) = (Bench::new(1, 2, 1), 0);
        let room = bench.room.clone();
        group.bench_function(BenchmarkId::new("deliver", len), |bencher| {
            bencher.iter_custom(|rounds| {
                bench.time(rounds, |hub| {
                    for _ in 0..BATCH {
                        hub.deliver(black_box(&room), number, black_box(&frame));
                        number += 1;
                    }
                })
            });
        });
    }
    group.finish();
}

/// What one reader is owed after so many messages came: found, handed out and taken. It is the same for one
/// message and for many, but for the chunks that they lie in.
fn gather(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("gather");
    for messages in [1, BATCH, 1_024] {
        let mut bench = Bench::new(0, 1, 1);
        group.throughput(Throughput::Elements(messages));
        group.bench_function(BenchmarkId::from_parameter(messages), |bencher| {
            bencher.iter_custom(|rounds| {
                let mut elapsed = Duration::ZERO;
                for _ in 0..rounds {
                    bench.order(messages);
                    let start = Instant::now();
                    let gathered = bench.send_all();
                    elapsed += start.elapsed();
                    assert_eq!(gathered, messages);
                }
                elapsed
            });
        });
    }
    group.finish();
}

/// One message to all members, none of which has a send under way; per member.
fn fan_out(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("fan-out");
    for members in [1, 1_000, 20_000] {
        let mut bench = Bench::new(0, 1, members);
        group.throughput(Throughput::Elements(members.into()));
        group.bench_function(BenchmarkId::new("idle members", members), |bencher| {
            bencher.iter(|| {
                bench.order(1);
                assert_eq!(bench.send_all(), u64::from(members));
            });
        });
    }
    group.finish();
}

/// Messages that come while every member has a send under way: the pass walks over all of them in vain, and
/// each completion asks for what has gathered; per member and message.
fn fan_out_busy(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("fan-out");
    let members = 1_000;
    for messages in [1, 16] {
        let mut bench = Bench::new(0, 1, members);
        bench.order(messages);
        bench.poll();
        group.throughput(Throughput::Elements(messages * u64::from(members)));
        group.bench_function(BenchmarkId::new("busy members, messages", messages), |bencher| {
            bencher.iter(|| {
                bench.order(messages);
                assert_eq!(bench.poll(), 0, "all are busy");
                bench.complete();
                // What lies in the next chunk comes with the next completion.
                assert!(bench.poll() >= u64::from(members), "everybody gets something");
            });
        });
    }
    group.finish();
}

/// A hub with one room, and a backend that holds what it was handed until it says that all was sent.
struct Bench {
    hub: Hub,
    room: String,
    in_flight: Vec<Outbound>,
}

impl Bench {
    /// Shard `shard` of `shards`, with so many members in a room whose home is shard 0.
    fn new(shard: u16, shards: u16, members: u32) -> Self {
        let mut hub = Hub::new(Options {
            shard,
            shards,
            lag_window: 1 << 20,
            history: 50,
            history_bytes: 64 << 10,
            history_ms: 600_000,
            compression_threshold: 128,
            history_memory: 0,
        });
        let mut names = (0..).map(|n| format!("room {n}")).filter(|name| hub.home_of(name) == 0);
        let room = names.next().expect("there is always one more");
        for slot in 0..members {
            hub.open(slot);
            hub.join(slot, &room, 0);
        }
        if shard != 0 {
            hub.snapshot(&room, 0, std::iter::empty());
        }
        let mut bench = Self { hub, room, in_flight: Vec::with_capacity(members as usize) };
        // Newcomers are looked at once.
        assert_eq!(bench.send_all(), 0);
        bench
    }

    /// The time that `rounds` calls of `run` take; after each, all that is owed is sent off the clock.
    fn time(&mut self, rounds: u64, mut run: impl FnMut(&mut Hub)) -> Duration {
        let mut elapsed = Duration::ZERO;
        for _ in 0..rounds {
            let start = Instant::now();
            run(&mut self.hub);
            elapsed += start.elapsed();
            assert_eq!(self.send_all(), BATCH);
        }
        elapsed
    }

    fn order(&mut self, messages: u64) {
        let message = Message::new(Kind::Text, &PAYLOAD);
        (0..messages).for_each(|_| self.hub.order(black_box(&self.room), black_box(message)));
    }

    /// Takes all that can be handed out, and counts the messages in it.
    fn poll(&mut self) -> u64 {
        let mut messages = 0;
        while let Some(outbound) = self.hub.poll_send(&mut usize::MAX.clone()) {
            messages += outbound.messages;
            self.in_flight.push(outbound);
        }
        messages
    }

    /// Says that all was sent.
    fn complete(&mut self) {
        for Outbound { slot, span, .. } in self.in_flight.drain(..) {
            drop(black_box(span));
            black_box(self.hub.sent(slot));
        }
    }

    /// Sends until nothing is owed, and counts the messages.
    fn send_all(&mut self) -> u64 {
        let mut messages = 0;
        while self.hub.has_more() {
            messages += self.poll();
            self.complete();
        }
        messages
    }
}

/// Brings the hub's requests to itself, as the shard loop does.
fn take_requests(hub: &mut Hub) {
    let mut batch = std::mem::take(&mut hub.outgoing(0).requests);
    batch.drain(|request, bytes| match request {
        Request::Publish { name_len, kind, .. } => {
            let (name, payload) = bytes.split_at(name_len);
            hub.order(str::from_utf8(name).expect("a room's name"), Message::new(kind, payload));
        }
        other => panic!("only messages were published, not {other:?}"),
    });
    // The shard keeps the batch's memory for the next turn.
    hub.outgoing(0).requests = batch;
}
