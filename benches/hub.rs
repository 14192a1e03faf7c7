//! Benchmarks of the hub: appending to a room's log, finding a reader's pending messages, and the bookkeeping of a
//! fan-out. The benchmark's backend takes every send at once and sends nothing.

mod mail;

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput};
use uproar::hub::{Hub, HubOptions, Kind, Message, Outbound};

use mail::{bring_mail, bring_requests};

/// The payload of a chat message.
const PAYLOAD: [u8; 64] = [b'a'; 64];

/// Number of messages that are appended before the members read.
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

/// Benchmark `append`: messages to a room with a member, up to the room's logs. `publish`: from an application on the
/// room's home shard (batched, taken out, ordered). `order`: on the home shard alone. `remote`: from another shard to
/// the home and back (batched, ordered, batched, delivered). Sends are not measured; the logs are emptied off the
/// clock.
fn append(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("append");
    for len in [16, 64, 1 << 10, 16 << 10] {
        let payload = vec![b'a'; len];
        group.throughput(Throughput::ElementsAndBytes { elements: BATCH, bytes: BATCH * len as u64 });

        let (mut bench, message) = (Bench::new(1), Message::new(Kind::Text, &payload));
        let room = bench.room.clone();
        group.bench_function(BenchmarkId::new("publish", len), |bencher| {
            bencher.iter_custom(|rounds| {
                bench.time(rounds, |hub| {
                    (0..BATCH).for_each(|_| hub.publish(black_box(&room), black_box(message)));
                    bring_requests(hub, 0, None);
                })
            });
        });
        group.bench_function(BenchmarkId::new("order", len), |bencher| {
            bencher.iter_custom(|rounds| {
                bench.time(rounds, |hub| {
                    for _ in 0..BATCH {
                        hub.order(black_box(&room), None, black_box(message));
                    }
                })
            });
        });

        let (mut home, mut other) = (Bench::on(0, 2, 1), Bench::on(1, 2, 1));
        bring_mail(&mut other.hub, &mut home.hub);
        group.bench_function(BenchmarkId::new("remote", len), |bencher| {
            bencher.iter_custom(|rounds| {
                let mut elapsed = Duration::ZERO;
                for _ in 0..rounds {
                    let start = Instant::now();
                    (0..BATCH).for_each(|_| other.hub.publish_from(0, black_box(message)));
                    bring_mail(&mut other.hub, &mut home.hub);
                    elapsed += start.elapsed();
                    assert_eq!((home.send_all(), other.send_all()), (BATCH, BATCH));
                }
                elapsed
            });
        });
    }
    group.finish();
}

/// Benchmark `gather`: one reader's pending messages are found, handed out and taken. The cost depends on the number of
/// chunks, not of messages.
fn gather(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("gather");
    for messages in [1, BATCH, 1_024] {
        let mut bench = Bench::new(1);
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

/// Benchmark of a fan-out to idle members: one message to members without a send in flight. The time is per member.
fn fan_out(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("fan-out");
    for members in [1, 1_000, 20_000] {
        let mut bench = Bench::new(members);
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

/// Benchmark of a fan-out to busy members: messages come while every member has a send in flight. The pass visits all
/// members in vain, and each completion asks for the pending messages. The time is per member and message.
fn fan_out_busy(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("fan-out");
    let members = 1_000;
    for messages in [1, 16] {
        let mut bench = Bench::new(members);
        bench.order(messages);
        bench.poll();
        group.throughput(Throughput::Elements(messages * u64::from(members)));
        group.bench_function(BenchmarkId::new("busy members, messages", messages), |bencher| {
            bencher.iter(|| {
                bench.order(messages);
                assert_eq!(bench.poll(), 0, "every member is busy");
                bench.complete();
                // The messages of the next chunk are sent after the next completion.
                assert!(bench.poll() >= u64::from(members), "every member gets something");
            });
        });
    }
    group.finish();
}

/// A hub with one room, and a backend that completes its sends only in [`Bench::complete`].
struct Bench {
    hub: Hub,
    room: String,
    in_flight: Vec<Outbound>,
}

impl Bench {
    /// Creates the hub of a server with one shard, with `members` members in the room.
    fn new(members: u32) -> Self {
        Self::on(0, 1, members)
    }

    /// Creates the hub of shard `shard` of `shards`, with `members` members in a room whose home is shard 0.
    fn on(shard: u16, shards: u16, members: u32) -> Self {
        let mut hub = Hub::new(HubOptions {
            shard,
            shards,
            lag_window: 1 << 20,
            history: 50,
            history_bytes: 64 << 10,
            history_ms: 600_000,
            compression_threshold: 128,
            max_rooms: 1_000,
            occupancy: false,
            member_reports: false,
            session_ms: 0,
            ack_ms: 0,
            max_sessions: 0,
            history_memory: 0,
        });
        let mut names = (0..).map(|n| format!("room {n}")).filter(|name| hub.home_of(name) == 0);
        let room = names.next().expect("there is always one more");
        for slot in 0..members {
            hub.open(slot);
            hub.join(slot, &room, 0);
        }
        let mut bench = Self { hub, room, in_flight: Vec::with_capacity(members as usize) };
        // The hub checks each new member once and finds nothing to send.
        assert_eq!(bench.send_all(), 0);
        bench
    }

    /// Measures `rounds` calls of `run`. After each call, sends the pending messages off the clock.
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
        for _ in 0..messages {
            self.hub.order(black_box(&self.room), None, black_box(message));
        }
    }

    /// Takes every send that the hub hands out. Returns the number of messages in the sends.
    fn poll(&mut self) -> u64 {
        let mut messages = 0;
        while let Some(outbound) = self.hub.poll_send(&mut usize::MAX.clone()) {
            messages += outbound.messages;
            self.in_flight.push(outbound);
        }
        messages
    }

    /// Completes all sends in flight.
    fn complete(&mut self) {
        for Outbound { slot, span, .. } in self.in_flight.drain(..) {
            drop(black_box(span));
            self.hub.sent(slot);
        }
    }

    /// Polls and completes sends until nothing is pending. Returns the number of messages sent.
    fn send_all(&mut self) -> u64 {
        let mut messages = 0;
        while self.hub.has_more() {
            messages += self.poll();
            self.complete();
        }
        messages
    }
}
