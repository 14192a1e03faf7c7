//! Attacks by not reading.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use uproar::config::{BackendName, Config};

use crate::chatters::ROOMS;
use crate::scene::{beside_chatters, chat, chat_without_rates};
use crate::support::raw::{RawClient, TEXT, frame};
use crate::support::{TestServer, wait_until};

at_length_on_both_backends!(
    readers_of_a_byte_a_second,
    readers_that_stop,
    publishers_at_full_speed_against_readers_that_stop,
);

/// Members of the chatters' own rooms that read next to nothing.
fn readers_of_a_byte_a_second(backend: BackendName) {
    beside_chatters("a byte a second", &chat(backend), |server| {
        let mut slow: Vec<_> = (0..80)
            .map(|n| {
                let path = format!("/room/{}", ROOMS[n % ROOMS.len()]);
                RawClient::open(server.address(), &path).with_small_window().into_parts().0
            })
            .collect();
        for _ in 0..2 {
            for stream in &mut slow {
                stream.read_exact(&mut [0]).expect("a byte of what is owed");
            }
            std::thread::sleep(Duration::from_secs(1));
        }
    });
}

/// Readers that stop, in a room of their own.
fn stopped(server: &TestServer, count: usize) -> Vec<RawClient> {
    (0..count).map(|_| RawClient::open(server.address(), "/room/pit").with_small_window()).collect()
}

/// Has a client publish `bytes` again and again, as fast as they are taken, until told to end.
fn publish(mut stream: TcpStream, bytes: &[u8], is_over: &AtomicBool) {
    stream.set_write_timeout(Some(Duration::from_millis(50))).expect("a time-out");
    let mut at = 0;
    while !is_over.load(Ordering::Relaxed) {
        match stream.write(&bytes[at..]) {
            Ok(len) => at = (at + len) % bytes.len(),
            // Nothing was taken for a while: it has to wait for the room.
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => return,
        }
    }
}

/// Nobody waits for them: they lag, and are closed.
fn readers_that_stop(backend: BackendName) {
    let config = Config { lag_window: 64 << 10, history_bytes: 4 << 10, ..chat_without_rates(backend) };
    beside_chatters("readers that stop", &config, |server| {
        let readers = stopped(server, 20);
        let mut publisher = RawClient::open(server.address(), "/room/pit");
        let line = frame(TEXT, &[b'x'; 8 << 10]);
        let begin = Instant::now();
        wait_until("all of them have lagged", || {
            // It reads what it says itself, and says no more than it hears.
            publisher.send(&line);
            while publisher.receive_frame().1.len() < 8 << 10 {}
            server.totals().lagged >= 20
        });
        wait_until("the attack has lasted", || begin.elapsed() > Duration::from_millis(800));
        drop(readers);
    });
}

fn publishers_at_full_speed_against_readers_that_stop(backend: BackendName) {
    let config = Config { lag_window: 256 << 10, ..chat_without_rates(backend) };
    beside_chatters("full speed against a slow room", &config, |server| {
        let readers = stopped(server, 20);
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
            wait_until("somebody has lagged, and the attack has lasted", || {
                // The publishers do not read either, and when they have lagged nobody says anything more.
                server.totals().lagged > 3 && begin.elapsed() > Duration::from_millis(800)
            });
            is_over.store(true, Ordering::Relaxed);
        });
        drop(readers);
    });
}
