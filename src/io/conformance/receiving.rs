//! Tests of receiving: pieces, ends of stream, resets, pauses, and too few buffers.

use std::io::Write;
use std::net::{Shutdown, TcpStream};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use nix::libc::linger;
use nix::sys::socket::{setsockopt, sockopt};

use crate::io::{Backend, BackendOptions, Buffer, Close, IoEvent, Slot};

use super::rig::{Make, Rig, pattern, read};

pub(super) fn in_pieces<B: Backend>(make: Make<B>) {
    let mut rig = Rig::new(make);
    let (mut client, slot) = rig.connect();
    for piece in [&b"one"[..], b"two", b"three"] {
        client.write_all(piece).expect("written");
        assert_eq!(rig.receive(&[(slot, piece.len())])[&slot], piece);
    }
    rig.nothing_more();
}

pub(super) fn more_than_a_buffer<B: Backend>(make: Make<B>) {
    let options = BackendOptions { buffers: 4, buffer_len: 64, ..BackendOptions::default() };
    let mut rig = Rig::with(make, "127.0.0.1:0", &options);
    let (mut client, slot) = rig.connect();
    // The input is many times longer than all buffers together, but not a multiple of their length.
    let bytes = pattern(100_001);
    client.write_all(&bytes).expect("the kernel takes it");
    assert!(rig.receive(&[(slot, bytes.len())])[&slot] == bytes);
}

pub(super) fn end_of_stream<B: Backend>(make: Make<B>) {
    let mut rig = Rig::new(make);
    let (client, slot) = rig.connect();
    client.shutdown(Shutdown::Write).expect("connected");
    assert!(rig.receive_all(slot).is_empty());
    rig.nothing_more();
}

pub(super) fn data_before_the_end<B: Backend>(make: Make<B>) {
    let options = BackendOptions { buffer_len: 512, ..BackendOptions::default() };
    let mut rig = Rig::with(make, "127.0.0.1:0", &options);
    let bytes = pattern(3000);
    let mut client = rig.dial();
    // All bytes and the FIN arrive before the backend accepts the connection.
    client.write_all(&bytes).expect("written");
    drop(client);
    let (slot, _) = rig.accepted();
    assert_eq!(rig.receive_all(slot), bytes);
    rig.nothing_more();
}

/// Closes `client` so that its peer sees a reset.
pub(super) fn reset(client: TcpStream) {
    setsockopt(&client, sockopt::Linger, &linger { l_onoff: 1, l_linger: 0 }).expect("a TCP socket");
}

pub(super) fn reset_by_peer<B: Backend>(make: Make<B>) {
    let mut rig = Rig::new(make);
    let (client, slot) = rig.connect();
    reset(client);
    assert_eq!(rig.failed(slot), std::io::ErrorKind::ConnectionReset);
    rig.nothing_more();
    rig.close(slot, Close::Graceful);
    rig.nothing_more();
}

/// Polls until all bytes that may arrive despite a pause have arrived. Returns these bytes.
fn settle<B: Backend>(rig: &mut Rig<B>) -> Vec<u8> {
    for _ in 0..10 {
        rig.turn();
    }
    let mut bytes = Vec::new();
    for event in rig.events.drain(..) {
        match event {
            IoEvent::Received { mut buffer, .. } => {
                bytes.extend_from_slice(buffer.bytes_mut());
                rig.backend.recycle(buffer);
            }
            other => panic!("unexpected while paused: {other:?}"),
        }
    }
    bytes
}

pub(super) fn pause_and_resume<B: Backend>(make: Make<B>) {
    let mut rig = Rig::new(make);
    let (mut client, slot) = rig.connect();
    for _ in 0..5 {
        rig.backend.pause(slot);
        // The backend may report bytes that arrived before the pause took effect, but here the client has sent none.
        assert!(settle(&mut rig).is_empty());
        client.write_all(b"held back").expect("written");
        assert!(settle(&mut rig).is_empty());
        rig.backend.resume(slot);
        assert_eq!(rig.receive(&[(slot, 9)])[&slot], b"held back");
    }
    rig.backend.pause(slot);
    assert!(settle(&mut rig).is_empty());
    client.write_all(b"last").expect("written");
    drop(client);
    assert!(settle(&mut rig).is_empty());
    rig.backend.resume(slot);
    assert_eq!(rig.receive_all(slot), b"last");
}

pub(super) fn paused_from_the_start<B: Backend>(make: Make<B>) {
    let mut rig = Rig::new(make);
    let (mut client, slot) = rig.connect();
    rig.backend.pause(slot);
    client.write_all(b"early").expect("written");
    let early = settle(&mut rig);
    rig.backend.resume(slot);
    let late = rig.receive(&[(slot, 5 - early.len())]).remove(&slot).unwrap_or_default();
    assert_eq!([early, late].concat(), b"early");
    rig.backend.close(slot, Close::Graceful);
    rig.closed(slot);
}

pub(super) fn resume_right_after_pause<B: Backend>(make: Make<B>) {
    let mut rig = Rig::new(make);
    let (mut client, slot) = rig.connect();
    let bytes = pattern(200);
    for byte in bytes.chunks(1) {
        rig.backend.pause(slot);
        rig.turn();
        rig.backend.resume(slot);
        rig.backend.pause(slot);
        rig.backend.resume(slot);
        client.write_all(byte).expect("written");
    }
    assert_eq!(rig.receive(&[(slot, bytes.len())])[&slot], bytes);
    rig.nothing_more();
}

pub(super) fn fewer_buffers_than_senders<B: Backend>(make: Make<B>) {
    const SENDERS: usize = 30;
    let options = BackendOptions { buffers: 2, buffer_len: 100, ..BackendOptions::default() };
    let mut rig = Rig::with(make, "127.0.0.1:0", &options);
    let mut clients: Vec<(TcpStream, Slot)> = (0..SENDERS).map(|_| rig.connect()).collect();
    for (at, (client, _)) in clients.iter_mut().enumerate() {
        client.write_all(&[at as u8; 1000]).expect("written");
    }
    assert_eq!(rig.backend.usage().starved, 0);
    // The test holds all buffers, and the other connections wait without an error.
    let held = [rig.received(), rig.received()];
    rig.nothing_more();
    assert_ne!(rig.backend.usage().starved, 0, "the waits are counted");

    let mut goals: Vec<(Slot, usize)> = clients.iter().map(|(_, slot)| (*slot, 1000)).collect();
    for (slot, mut buffer) in held {
        let goal = goals.iter_mut().find(|(at, _)| *at == slot).expect("a connection of this test");
        goal.1 -= buffer.bytes_mut().len();
        rig.backend.recycle(buffer);
    }
    let received = rig.receive(&goals);
    for (at, (slot, len)) in goals.into_iter().enumerate() {
        assert_eq!(received[&slot], vec![at as u8; len]);
    }
    rig.nothing_more();
}

/// Checks that clients get buffers in turn while each always has more to send than the buffers hold.
pub(super) fn all_senders_get_a_buffer_in_turn<B: Backend>(make: Make<B>) {
    let options = BackendOptions { buffers: 2, buffer_len: 100, ..BackendOptions::default() };
    let mut rig = Rig::with(make, "127.0.0.1:0", &options);
    let mut clients: Vec<(TcpStream, Slot)> = (0..4).map(|_| rig.connect()).collect();
    for (client, _) in &mut clients {
        client.write_all(&[1; 20_000]).expect("the kernel takes it");
    }
    // For each client, the number of buffers that other clients have got since its last buffer.
    let mut waited = [0; 4];
    for _ in 0..200 {
        let (slot, buffer) = rig.received();
        rig.backend.recycle(buffer);
        waited.iter_mut().for_each(|count| *count += 1);
        waited[clients.iter().position(|(_, at)| *at == slot).expect("a connection of this test")] = 0;
        assert!(waited.iter().all(|count| *count < 50), "buffers went to others: {waited:?}");
    }
}

pub(super) fn all_buffers_out_does_not_spin<B: Backend>(make: Make<B>) {
    let options = BackendOptions { buffers: 1, buffer_len: 8, ..BackendOptions::default() };
    let mut rig = Rig::with(make, "127.0.0.1:0", &options);
    let (mut client, slot) = rig.connect();
    client.write_all(b"12345678 and more").expect("written");
    let (_, mut buffer) = rig.received();
    assert_eq!(buffer.bytes_mut(), b"12345678");
    rig.rests();
    rig.backend.recycle(buffer);
    assert_eq!(rig.receive(&[(slot, 9)])[&slot], b" and more");
}

/// Makes a backend whose only buffer is out, and a second connection whose bytes wait for this buffer.
fn starved<B: Backend>(make: Make<B>) -> (Rig<B>, Buffer, [TcpStream; 2], Slot) {
    let options = BackendOptions { buffers: 1, buffer_len: 8, ..BackendOptions::default() };
    let mut rig = Rig::with(make, "127.0.0.1:0", &options);
    let (mut greedy, _) = rig.connect();
    greedy.write_all(b"mine").expect("written");
    let (_, buffer) = rig.received();
    let (mut client, slot) = rig.connect();
    client.write_all(b"waiting").expect("written");
    rig.nothing_more();
    (rig, buffer, [greedy, client], slot)
}

pub(super) fn closed_while_waiting_for_a_buffer<B: Backend>(make: Make<B>) {
    let (mut rig, buffer, _clients, slot) = starved(make);
    rig.close(slot, Close::Graceful);
    rig.backend.recycle(buffer);
    rig.nothing_more();
    // The next connection in this slot receives as usual.
    let (mut next, slot) = rig.connect();
    next.write_all(b"hello").expect("written");
    assert_eq!(rig.receive(&[(slot, 5)])[&slot], b"hello");
}

/// Checks that a connection's buffers are free for others again, however the connection ends.
pub(super) fn ends_lose_no_buffers<B: Backend>(make: Make<B>) {
    let options = BackendOptions { buffers: 2, ..BackendOptions::default() };
    let mut rig = Rig::with(make, "127.0.0.1:0", &options);
    for round in 0..12 {
        let (mut client, slot) = rig.connect();
        match round % 3 {
            0 => drop(client),
            1 => reset(client),
            _ => client.write_all(b"unheard").expect("written"),
        }
        rig.backend.close(slot, Close::Graceful);
        rig.closed(slot);
        rig.nothing_more();

        let (client, slot) = rig.connect();
        drop(client);
        assert!(rig.receive_all(slot).is_empty());
        rig.close(slot, Close::Graceful);
    }
    let (mut client, slot) = rig.connect();
    client.write_all(b"hello").expect("written");
    assert_eq!(rig.receive(&[(slot, 5)])[&slot], b"hello");
    rig.rests();
}

pub(super) fn resumed_while_waiting_for_a_buffer<B: Backend>(make: Make<B>) {
    let (mut rig, buffer, _clients, slot) = starved(make);
    rig.backend.pause(slot);
    rig.nothing_more();
    rig.backend.recycle(buffer);
    rig.nothing_more();
    rig.backend.resume(slot);
    assert_eq!(rig.receive(&[(slot, 7)])[&slot], b"waiting");
    rig.nothing_more();
}

/// Checks that a connection gets a buffer although silent connections are in front of it in the queue.
pub(super) fn silent_connections_delay_nobody<B: Backend>(make: Make<B>) {
    let options = BackendOptions { buffers: 1, buffer_len: 8, ..BackendOptions::default() };
    let mut rig = Rig::with(make, "127.0.0.1:0", &options);
    let (mut greedy, slot) = rig.connect();
    let silent: Vec<(TcpStream, Slot)> = (0..5).map(|_| rig.connect()).collect();
    greedy.write_all(b"12345678 and more").expect("written");
    let (_, buffer) = rig.received();
    for (_, silent) in &silent {
        rig.backend.pause(*silent);
    }
    rig.nothing_more();
    for (_, silent) in &silent {
        rig.backend.resume(*silent);
    }
    let (mut client, other) = rig.connect();
    client.write_all(b"waiting").expect("written");
    rig.nothing_more();
    rig.backend.recycle(buffer);
    // The polls have no timeout. If the test fails, a client that connects after 5 s ends the wait.
    let (heard, is_heard) = mpsc::channel();
    let address = rig.address;
    let late = thread::spawn(move || {
        is_heard.recv_timeout(Duration::from_secs(5)).is_err().then(|| TcpStream::connect(address))
    });
    let mut received = 0;
    while received < 16 {
        rig.poll(None);
        while let Some(event) = rig.events.pop_front() {
            let IoEvent::Received { slot: of, mut buffer } = event else {
                panic!("{event:?} instead of bytes")
            };
            assert!([slot, other].contains(&of));
            received += buffer.bytes_mut().len();
            rig.backend.recycle(buffer);
        }
    }
    heard.send(()).expect("the other thread waits");
    late.join().expect("it ends");
}

pub(super) fn bytes_can_be_changed<B: Backend>(make: Make<B>) {
    let mut rig = Rig::new(make);
    let (mut client, slot) = rig.connect();
    client.write_all(b"abc").expect("written");
    let (_, mut buffer) = rig.received();
    buffer.bytes_mut().reverse();
    let copy = buffer.bytes_mut().to_vec();
    rig.backend.recycle(buffer);
    rig.send(slot, &copy);
    rig.sent(slot);
    assert_eq!(read(&client, 3), b"cba");
}

pub(super) fn many_connections_echo<B: Backend>(make: Make<B>) {
    const CLIENTS: usize = 500;
    const ROUNDS: usize = 4;
    let mut rig = Rig::new(make);
    let clients: Vec<TcpStream> = (0..CLIENTS).map(|_| rig.dial()).collect();
    let writer = thread::spawn(move || {
        for round in 0..ROUNDS {
            for (at, mut client) in clients.iter().enumerate() {
                client.write_all(&pattern(at + round)[round..]).expect("written");
            }
            for (at, client) in clients.iter().enumerate() {
                assert!(read(client, at) == pattern(at + round)[round..]);
            }
        }
    });
    let mut ended = 0;
    while ended < CLIENTS {
        rig.poll(Some(Duration::from_millis(100)));
        for event in std::mem::take(&mut rig.events) {
            match event {
                IoEvent::Received { slot, mut buffer } => {
                    let copy = buffer.bytes_mut().to_vec();
                    rig.backend.recycle(buffer);
                    // The client waits for the echo of a round before it writes more, and a round fits in one segment.
                    rig.send(slot, &copy);
                }
                IoEvent::Ended { slot } => rig.backend.close(slot, Close::Graceful),
                IoEvent::Closed { .. } => ended += 1,
                IoEvent::Accepted { .. } | IoEvent::Sent { .. } => {}
                other => panic!("unexpected {other:?}"),
            }
        }
    }
    writer.join().expect("every client got its echo");
}
