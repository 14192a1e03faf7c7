//! Attacks by clients that read slowly or not at all.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use uproar::config::{BackendName, Config};

use crate::chat_users::ROOMS;
use crate::harness::{chat, chat_without_rates, run_attack};
use crate::support::raw::{RawClient, TEXT, frame};
use crate::support::{TestServer, wait_until};

slowly_on_both_backends!(
    readers_at_one_byte_a_second,
    readers_that_stop,
    fast_publishers_and_readers_that_stop,
);

/// The attackers are members of the chat users' rooms and read one byte a second.
fn readers_at_one_byte_a_second(backend: BackendName) {
    run_attack("a byte a second", &chat(backend), |server| {
        let mut slow: Vec<_> = (0..80)
            .map(|n| {
                let path = format!("/room/{}", ROOMS[n % ROOMS.len()]);
                RawClient::open(server.address(), &path).with_small_window().into_parts().0
            })
            .collect();
        for _ in 0..2 {
            for stream in &mut slow {
                stream.read_exact(&mut [0]).expect("a byte of the room's messages arrives");
            }
            std::thread::sleep(Duration::from_secs(1));
        }
    });
}

/// Opens WebSockets that do not read. They are in the room `pit`, apart from the chat users.
fn open_stopped_readers(server: &TestServer, count: usize) -> Vec<RawClient> {
    (0..count).map(|_| RawClient::open(server.address(), "/room/pit").with_small_window()).collect()
}

/// Writes `bytes` again and again, as fast as the server reads, until `is_over` is set or the server closes.
fn publish(mut stream: TcpStream, bytes: &[u8], is_over: &AtomicBool) {
    stream.set_write_timeout(Some(Duration::from_millis(50))).expect("a TCP socket");
    let mut at = 0;
    while !is_over.load(Ordering::Relaxed) {
        match stream.write(&bytes[at..]) {
            Ok(len) => at = (at + len) % bytes.len(),
            // The server does not read from the room's publishers while it makes them wait.
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => return,
        }
    }
}

/// Members that stop reading lag and are closed. The room's publisher does not wait for such members.
fn readers_that_stop(backend: BackendName) {
    let config = Config { lag_window: 64 << 10, history_bytes: 4 << 10, ..chat_without_rates(backend) };
    run_attack("readers that stop", &config, |server| {
        let readers = open_stopped_readers(server, 20);
        let mut publisher = RawClient::open(server.address(), "/room/pit");
        let line = frame(TEXT, &[b'x'; 8 << 10]);
        let begin = Instant::now();
        wait_until("all readers have lagged", || {
            // The publisher waits for its own message before it sends the next one.
            publisher.send(&line);
            while publisher.receive_frame().1.len() < 8 << 10 {}
            server.totals().lagged >= 20
        });
        wait_until("the attack has lasted", || begin.elapsed() > Duration::from_millis(800));
        drop(readers);
    });
}

fn fast_publishers_and_readers_that_stop(backend: BackendName) {
    let config = Config { lag_window: 256 << 10, ..chat_without_rates(backend) };
    run_attack("full speed against a slow room", &config, |server| {
        let readers = open_stopped_readers(server, 20);
        let publishers: Vec<_> = (0..3)
            .map(|_| RawClient::open(server.address(), "/room/pit").with_small_window().into_parts().0)
            .collect();
        let is_over = AtomicBool::new(false);
        let line = frame(TEXT, &[b'x'; 1_000]).repeat(8);
        std::thread::scope(|scope| {
            for stream in publishers {
                scope.spawn(|| publish(stream, &line, &is_over));
            }
            let begin = Instant::now();
            wait_until("readers have lagged and the attack has lasted", || {
                // The three publishers do not read either, so up to three of the lagged clients are publishers.
                server.totals().lagged > 3 && begin.elapsed() > Duration::from_millis(800)
            });
            is_over.store(true, Ordering::Relaxed);
        });
        drop(readers);
    });
}
