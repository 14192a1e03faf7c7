//! Attacks on the server's memory. Each asserts the peak of the process's resident memory.

use std::time::Duration;

use flate2::{Compress, Compression, FlushCompress};
use nix::sys::signal::Signal;
use uproar::config::BackendName;

use crate::harness::{attack_during_conversation, report, wait_for_turn};
use crate::support::process::{Process, backend_arg};
use crate::support::raw::{PONG, RawClient, TEXT, frame, upgrade_request_with};
use crate::support::wait_until;

slowly_on_both_backends!(
    small_frames_that_become_long_room_messages,
    small_frames_that_become_long_relayed_messages,
    small_frames_that_become_long_private_messages,
    readers_that_read_nothing_and_answer_pings,
    unfinished_messages_and_pongs,
    request_bodies_that_do_not_end,
);

/// Memory limit of the attacked servers in MiB: the least for two workers.
const LIMIT_MIB: u64 = 32;
/// Largest peak of the resident memory, in MiB. Beside the memory limit, the program and its pages, two sets of receive
/// buffers, 200 users and what the allocator keeps. Without a limit, each attack reaches more.
const PEAK_MIB: u64 = 160;
/// Length of the attackers' messages in bytes.
const LONG: usize = 1 << 20;

/// Starts a chat server with little memory and without rate limits, and runs `attack` on it during a conversation.
/// Asserts the peak of its memory. Returns the totals of its counters, as its last log line has them.
fn attack_memory(name: &str, backend: BackendName, args: &[&str], attack: impl FnOnce(&Process)) -> String {
    let _exclusive = wait_for_turn();
    let limit = format!("--memory-limit={}", LIMIT_MIB << 20);
    let usual = ["--workers=2", "--drain-seconds=0", "--message-rate=0", "--byte-rate=0", "--ping-seconds=1"];
    let server = Process::start(&[&usual[..], &[&limit, backend_arg(backend)], args].concat());
    let ((), measurements) = attack_during_conversation(server.address, || attack(&server));
    let peak_mib = server.memory_kib("VmHWM") >> 10;
    server.signal(Signal::SIGTERM);
    let ended = server.wait();
    println!("{name}: {peak_mib} MiB at the peak");
    report(name, backend, measurements);
    assert!(peak_mib < PEAK_MIB, "{peak_mib} MiB: {}", ended.log);
    ended.log
}

/// Returns the value of the counter `name` in the server's last log line.
fn counter(log: &str, name: &str) -> u64 {
    let (_, value) = log.rsplit_once(&format!(" {name}=")).unwrap_or_else(|| panic!("{name}: {log}"));
    value.split_whitespace().next().and_then(|value| value.parse().ok()).expect("a number")
}

/// Opens a WebSocket that compresses messages without context takeover.
fn open_compressed(server: &Process, path: &str) -> RawClient {
    let offer = "Sec-WebSocket-Extensions: permessage-deflate; client_no_context_takeover";
    let mut raw = RawClient::connect(server.address);
    raw.send(upgrade_request_with(path, &[offer]).as_bytes());
    raw.expect_upgrade();
    raw
}

/// Returns the frame of a compressed text message.
fn compressed(text: &[u8]) -> Vec<u8> {
    let mut compress = Compress::new(Compression::best(), false);
    let mut payload = Vec::with_capacity(64 << 10);
    compress.compress_vec(text, &mut payload, FlushCompress::Sync).expect("compresses");
    frame(TEXT | 0x40, &payload[..payload.len() - 4])
}

/// Twenty clients send 20 messages each, of 1 KB on the wire and 1 MiB in their room.
fn small_frames_that_become_long_room_messages(backend: BackendName) {
    send_long_messages("small frames, long messages", backend, &[]);
}

/// Sends the same messages to a relay, which does not look at them.
fn small_frames_that_become_long_relayed_messages(backend: BackendName) {
    send_long_messages("small frames, long relayed messages", backend, &["--app=relay"]);
}

fn send_long_messages(name: &str, backend: BackendName, args: &[&str]) {
    let log = attack_memory(name, backend, args, |server| {
        let lines = compressed(&[b'x'; LONG]).repeat(20);
        assert!(lines.len() < 64 << 10, "{} bytes", lines.len());
        let mut raws: Vec<_> =
            (0..20).map(|n| open_compressed(server, &format!("/room/pit{}", n % 4))).collect();
        raws.iter_mut().for_each(|raw| raw.try_send(&lines));
        std::thread::sleep(Duration::from_secs(2));
    });
    assert!(counter(&log, "memory_pauses") > 0, "{log}");
}

/// Twenty clients send 20 private messages of 1 MiB each to a user who reads nothing.
fn small_frames_that_become_long_private_messages(backend: BackendName) {
    let args = ["--max-private-message=1048576"];
    attack_memory("small frames, long private messages", backend, &args, |server| {
        let mut reader = RawClient::open(server.address, "/room/pit");
        reader.send(&frame(TEXT, b"/nick bob"));
        while !reader.receive_frame().1.ends_with(b" is now bob") {}
        let text = [b"/msg bob ".as_slice(), &[b'x'; LONG - 100]].concat();
        let lines = compressed(&text).repeat(20);
        let mut raws: Vec<_> = (0..20).map(|_| open_compressed(server, "/room/pit")).collect();
        raws.iter_mut().for_each(|raw| raw.try_send(&lines));
        std::thread::sleep(Duration::from_secs(2));
    });
}

/// Two hundred clients in rooms with long messages read nothing and send pongs. Each is closed for its memory, for its
/// lag, or because it takes nothing. The time to answer a ping is long enough for users on a busy machine.
fn readers_that_read_nothing_and_answer_pings(backend: BackendName) {
    let args = ["--lag-window=16777216", "--close-seconds=1"];
    let log = attack_memory("readers that only answer pings", backend, &args, |server| {
        let room = |n: usize| format!("/room/pit{}", n % 2);
        let mut readers: Vec<_> =
            (0..200).map(|n| RawClient::open(server.address, &room(n)).with_small_window()).collect();
        let lines = compressed(&[b'x'; LONG]).repeat(20);
        let mut publishers = Vec::new();
        send_pongs_until_closed(&mut readers, |pong| {
            // Publishers read nothing either. When they are closed, others fill the kernel's buffers of the readers.
            publishers.retain_mut(|publisher: &mut RawClient| publisher.can_send(pong));
            for n in publishers.len()..2 {
                let mut publisher = open_compressed(server, &room(n));
                publisher.try_send(&lines);
                publishers.push(publisher);
            }
        });
    });
    let closed = counter(&log, "stalled_sends") + counter(&log, "memory_closes") + counter(&log, "lagged");
    assert!(closed >= 200, "{log}");
}

/// Two hundred clients send a fragment of 1 MiB and then pongs, as if the message went on.
fn unfinished_messages_and_pongs(backend: BackendName) {
    let args = ["--message-seconds=2", "--close-seconds=1"];
    let log = attack_memory("unfinished messages", backend, &args, |server| {
        let fragment = frame(0x01, &[b'x'; LONG - 1_000]);
        let mut raws: Vec<_> = (0..200).map(|_| RawClient::open(server.address, "/room/pit")).collect();
        raws.iter_mut().for_each(|raw| raw.try_send(&fragment));
        send_pongs_until_closed(&mut raws, |_| {});
    });
    let closed = counter(&log, "late_messages") + counter(&log, "memory_closes");
    assert!(closed >= 200, "{log}");
}

/// Two hundred clients send all but the last byte of a request body of 1 MiB.
fn request_bodies_that_do_not_end(backend: BackendName) {
    let log = attack_memory("request bodies that do not end", backend, &[], |server| {
        let head = format!("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: {LONG}\r\n\r\n");
        let body = [b'x'; LONG - 1];
        let mut raws: Vec<_> = (0..200).map(|_| RawClient::connect(server.address)).collect();
        raws.iter_mut().for_each(|raw| _ = raw.can_send(head.as_bytes()) && raw.can_send(&body));
        std::thread::sleep(Duration::from_secs(1));
    });
    assert!(counter(&log, "memory_closes") > 0, "{log}");
}

/// Sends pongs on all connections, as fast as a client that answers pings may, until the server has closed all. Calls
/// `meanwhile` with the frame of a pong each time.
fn send_pongs_until_closed(raws: &mut [RawClient], mut meanwhile: impl FnMut(&[u8])) {
    let pong = frame(PONG, b"");
    wait_until("the server has closed the connections", || {
        std::thread::sleep(Duration::from_millis(100));
        meanwhile(&pong);
        raws.iter_mut().map(|raw| raw.can_send(&pong)).filter(|is_open| *is_open).count() == 0
    });
}
