//! Workloads of the hub with a fixed number of messages, for counting instructions. `just instructions WORKLOAD` runs one
//! under callgrind and prints the instructions per message.
//!
//! Usage: `instructions WORKLOAD MESSAGES`. Workloads: `local` (published, ordered and sent to one member on one shard),
//! `remote` (published from another shard and delivered there), `fan-out` (one message to 100 members, per delivery), and
//! `rooms-N` (1,000 rooms with one member each get messages in turn; each client is in N of the rooms). Without
//! arguments each workload runs shortly.

mod mail;

use std::hint::black_box;

use uproar::hub::{Hub, HubOptions, Kind, Message};

use mail::{bring_mail, bring_requests};

/// The payload of a chat message.
const PAYLOAD: [u8; 64] = [b'a'; 64];
/// Number of members in the workload `fan-out`.
const MEMBERS: usize = 100;
/// Number of rooms in the workloads `rooms-N`.
const ROOMS: usize = 1_000;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    if let [workload, messages] = &arguments[..] {
        return run(workload, messages.parse().expect("MESSAGES is a number"));
    }
    for workload in ["local", "remote", "fan-out", "rooms-2", "rooms-1000"] {
        run(workload, 2_000);
    }
}

fn run(workload: &str, messages: usize) {
    match workload {
        "local" => in_rooms(messages, 1, 1, 1),
        "fan-out" => in_rooms(messages / MEMBERS, 1, MEMBERS, 1),
        "remote" => remote(messages),
        rooms => {
            let of_client = rooms.strip_prefix("rooms-").and_then(|count| count.parse().ok());
            let of_client = of_client.expect("a workload");
            in_rooms(messages, ROOMS, ROOMS / of_client, of_client);
        }
    }
}

fn hub(shard: u16, shards: u16) -> Hub {
    Hub::new(HubOptions {
        shard,
        shards,
        lag_window: 1 << 20,
        history: 50,
        history_bytes: 64 << 10,
        history_ms: 600_000,
        history_memory: 0,
        compression_threshold: 128,
        max_rooms: 10_000,
        occupancy: false,
        member_reports: false,
        session_ms: 0,
        ack_ms: 0,
        max_sessions: 0,
    })
}

/// The rooms get messages in turn. Each of the clients is in `of_client` rooms, which follow those of the client before
/// it. Every message is sent before the next.
fn in_rooms(messages: usize, rooms: usize, clients: usize, of_client: usize) {
    let mut hub = hub(0, 1);
    let names: Vec<String> = (0..rooms).map(|room| format!("room {room}")).collect();
    let mut next = names.iter().cycle();
    for slot in 0..clients as u32 {
        hub.open(slot);
        for name in next.by_ref().take(of_client) {
            hub.join(slot, name, 0);
        }
    }
    send_all(&mut hub);
    for name in names.iter().cycle().take(messages) {
        hub.publish(black_box(name), Message::new(Kind::Text, black_box(&PAYLOAD)));
        bring_requests(&mut hub, 0, None);
        send_all(&mut hub);
    }
}

/// A client on shard 1 publishes to its room, whose home is shard 0, and gets each message back.
fn remote(messages: usize) {
    let (mut home, mut other) = (hub(0, 2), hub(1, 2));
    let room = (0..).map(|n| format!("room {n}")).find(|name| home.home_of(name) == 0).expect("a name");
    other.open(0);
    other.join(0, &room, 0);
    bring_mail(&mut other, &mut home);
    send_all(&mut other);
    for _ in 0..messages {
        other.publish_from(0, Message::new(Kind::Text, black_box(&PAYLOAD)));
        bring_mail(&mut other, &mut home);
        send_all(&mut home);
        send_all(&mut other);
    }
}

/// Hands out and completes sends until nothing is pending.
fn send_all(hub: &mut Hub) {
    while hub.has_more() {
        hub.update_batching();
        while let Some(outbound) = hub.poll_send(&mut 256) {
            let slot = outbound.slot;
            drop(black_box(outbound));
            hub.sent(slot);
        }
    }
}
