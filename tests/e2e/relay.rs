//! The relay application: message order, completeness and the cost of a delivery.

use std::collections::HashSet;

use tungstenite::Message;
use uproar::config::{AppName, BackendName, Config};
use uproar::hub::{self, Hub};

use crate::support::client::Client;
use crate::support::many_clients::ManyClients;
use crate::support::{TestServer, config};

on_both_backends!(
    text_and_binary_messages_arrive_unchanged,
    all_members_see_the_same_order,
    no_message_of_publishers_at_full_speed_is_lost,
    a_storm_takes_few_sends,
);

fn text_and_binary_messages_arrive_unchanged(backend: BackendName) {
    let server = TestServer::relay(backend, 2);
    let mut ada = Client::open(server.address(), "/");
    for message in [
        Message::text("plain"),
        Message::text("<b>not stripped</b> /help"),
        Message::text(""),
        Message::text("0"),
        Message::binary(vec![0, 255, 10]),
        Message::binary(vec![]),
        Message::binary(vec![7; 70_000]),
    ] {
        ada.send(message.clone());
        assert_eq!(ada.receive(), message);
    }
}

fn all_members_see_the_same_order(backend: BackendName) {
    const CLIENTS: u16 = 50;
    const EACH: u16 = 200;
    let server = TestServer::relay(backend, 4);
    let mut clients: Vec<_> = (0..CLIENTS).map(|_| Client::open(server.address(), "/room/order")).collect();
    // A client that receives its own message is a member of the room. After `begin` only the counted messages come.
    for (at, client) in clients.iter_mut().enumerate() {
        let here = Message::text(format!("here {at}"));
        client.send(here.clone());
        while client.receive() != here {}
    }
    clients[0].send_text("begin");
    let readers: Vec<_> = clients
        .into_iter()
        .zip(0..)
        .map(|(mut client, own): (_, u16)| {
            std::thread::spawn(move || {
                while client.receive() != Message::text("begin") {}
                for number in 0..EACH {
                    client.send(Message::binary([own.to_be_bytes(), number.to_be_bytes()].concat()));
                }
                (0..u32::from(CLIENTS) * u32::from(EACH))
                    .map(|_| match client.receive() {
                        Message::Binary(bytes) => u32::from_be_bytes(bytes[..].try_into().expect("4 bytes")),
                        other => panic!("{other:?}"),
                    })
                    .collect::<Vec<u32>>()
            })
        })
        .collect();
    let orders: Vec<_> =
        readers.into_iter().map(|reader| reader.join().expect("the client receives all messages")).collect();
    assert!(orders.iter().all(|order| *order == orders[0]), "two clients saw different orders");
    let distinct: HashSet<u32> = orders[0].iter().copied().collect();
    assert_eq!(
        distinct.len(),
        usize::from(CLIENTS) * usize::from(EACH),
        "a message is duplicated and another one missing"
    );
    for own in 0..u32::from(CLIENTS) {
        let numbers: Vec<u32> = orders[0]
            .iter()
            .filter(|message| **message >> 16 == own)
            .map(|message| message & 0xffff)
            .collect();
        assert!(numbers.is_sorted(), "the messages of client {own} are out of order");
    }
}

/// Returns the names of two rooms with different home shards.
fn rooms_with_different_homes(workers: u16) -> [String; 2] {
    let options = hub::HubOptions {
        shard: 0,
        shards: workers,
        lag_window: 0,
        history: 0,
        history_bytes: 0,
        history_ms: 0,
        compression_threshold: 128,
        max_rooms: 1_000,
        occupancy: false,
        member_reports: false,
        session_ms: 0,
        ack_ms: 0,
        max_sessions: 0,
        history_memory: 0,
    };
    let hub = Hub::new(options);
    let first = String::from("first");
    let other = (0..).map(|number| format!("other-{number}"));
    let second = other
        .into_iter()
        .find(|name| hub.home_of(name) != hub.home_of(&first))
        .expect("some name has another home");
    [first, second]
}

fn no_message_of_publishers_at_full_speed_is_lost(backend: BackendName) {
    const EACH: u32 = 150;
    const LEN: usize = 10_000;
    const MEMBERS: usize = 8;
    let base = config(backend, AppName::Relay, 4);
    // The lag window holds all messages, so no message may be lost.
    let total = EACH as usize * MEMBERS * (LEN + 4);
    let server = TestServer::start(&Config { lag_window: 2 * total as u32, ..base });
    let address = server.address();
    let threads: Vec<_> = rooms_with_different_homes(4)
        .into_iter()
        .map(|room| {
            std::thread::spawn(move || {
                let mut clients = ManyClients::join_room(address, &room, MEMBERS);
                let mut payload = vec![0; LEN];
                // All messages are sent before any client reads.
                for number in 0..EACH {
                    for member in 0..MEMBERS {
                        payload[0] = member as u8;
                        payload[1..5].copy_from_slice(&number.to_be_bytes());
                        clients.send_binary(member, &payload);
                    }
                }
                let mut next = [[0_u32; MEMBERS]; MEMBERS];
                let mut missing = EACH as usize * MEMBERS * MEMBERS;
                while missing > 0 {
                    clients.poll(|reader, _, payload| {
                        let number = u32::from_be_bytes(payload[1..5].try_into().expect("4 bytes"));
                        let expected = &mut next[reader][usize::from(payload[0])];
                        assert_eq!((number, payload.len()), (*expected, LEN));
                        *expected += 1;
                        missing -= 1;
                    });
                }
                clients
            })
        })
        .collect();
    let clients: Vec<_> =
        threads.into_iter().map(|thread| thread.join().expect("all messages arrive")).collect();
    assert_eq!(server.totals().lagged, 0);
    drop(clients);
}

fn a_storm_takes_few_sends(backend: BackendName) {
    const MEMBERS: usize = 500;
    const ROUNDS: usize = 4;
    let server = TestServer::relay(backend, 2);
    let mut clients = ManyClients::join_room(server.address(), "storm", MEMBERS);
    let before = server.totals();
    for _ in 0..ROUNDS {
        for member in 0..MEMBERS {
            clients.send_binary(member, b"hello, everybody");
        }
        let mut missing = MEMBERS * clients.len();
        while missing > 0 {
            clients.poll(|_, _, payload| {
                assert_eq!(payload, b"hello, everybody");
                missing -= 1;
            });
        }
    }
    let after = server.totals();
    assert_eq!(after.messages_in - before.messages_in, (ROUNDS * MEMBERS) as u64);
    assert_eq!(after.deliveries - before.deliveries, (ROUNDS * MEMBERS * MEMBERS) as u64);
    let sends_per_delivery =
        (after.sends - before.sends) as f64 / (after.deliveries - before.deliveries) as f64;
    assert!(sends_per_delivery < 0.05, "{sends_per_delivery}");
}
