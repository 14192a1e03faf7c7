//! Tests of sending: complete delivery to fast and slow peers, and the end of one direction.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use crate::chunk::{Chunk, Span};
use crate::io::{Backend, Close, IoEvent, More, SendProgress, Slot};

use super::receiving::reset;
use super::rig::{Make, Rig, pattern, read};

/// Number of bytes that exceeds the socket buffers of both ends.
pub(super) const LARGE: usize = 24 << 20;

pub(super) fn arrives<B: Backend>(make: Make<B>) {
    let mut rig = Rig::new(make);
    let (client, slot) = rig.connect();
    for text in [&b"hello"[..], b"again"] {
        rig.send(slot, text);
        rig.sent(slot);
        assert_eq!(read(&client, 5), text);
    }
    rig.nothing_more();
}

pub(super) fn a_large_send_is_continued<B: Backend>(make: Make<B>) {
    let mut rig = Rig::new(make);
    let (mut client, slot) = rig.connect();
    let bytes = pattern(LARGE);
    rig.send(slot, &bytes);
    rig.nothing_more();
    // Receiving continues while the send is stuck.
    client.write_all(b"busy?").expect("written");
    assert_eq!(rig.receive(&[(slot, 5)])[&slot], b"busy?");
    let reader = thread::spawn(move || read(&client, LARGE));
    rig.sent(slot);
    assert!(reader.join().expect("read") == bytes);
    // The peer is gone. The backend reports the end of the stream, and no second `Sent`.
    assert!(rig.receive_all(slot).is_empty());
    rig.nothing_more();
}

pub(super) fn sends_after_the_peers_end<B: Backend>(make: Make<B>) {
    let mut rig = Rig::new(make);
    let (client, slot) = rig.connect();
    client.shutdown(Shutdown::Write).expect("connected");
    assert!(rig.receive_all(slot).is_empty());
    rig.send(slot, b"good bye");
    rig.sent(slot);
    assert_eq!(read(&client, 8), b"good bye");
    rig.nothing_more();
}

pub(super) fn shutdown_ends_one_direction<B: Backend>(make: Make<B>) {
    let mut rig = Rig::new(make);
    let (mut client, slot) = rig.connect();
    rig.send(slot, b"all");
    rig.sent(slot);
    rig.backend.shutdown(slot);
    rig.turn();
    let mut text = Vec::new();
    client.read_to_end(&mut text).expect("the text, then the end");
    assert_eq!(text, b"all");
    client.write_all(b"not yet").expect("the other direction is open");
    assert_eq!(rig.receive(&[(slot, 7)])[&slot], b"not yet");
    drop(client);
    assert!(rig.receive_all(slot).is_empty());
    rig.close(slot, Close::Graceful);
    rig.nothing_more();
}

pub(super) fn shutdown_waits_for_the_send<B: Backend>(make: Make<B>) {
    let mut rig = Rig::new(make);
    let (mut client, slot) = rig.connect();
    let bytes = pattern(LARGE);
    rig.send(slot, &bytes);
    rig.turn();
    rig.backend.shutdown(slot);
    rig.turn();
    let reader = thread::spawn(move || {
        let mut all = Vec::new();
        client.read_to_end(&mut all).expect("everything, then the end");
        all
    });
    rig.sent(slot);
    rig.turn();
    assert!(reader.join().expect("read") == bytes);
}

/// Checks that the last bytes and the FIN travel in one packet. The kernel holds the bytes back for 200 ms at most, so
/// an attempt may fail on a slow machine.
pub(super) fn last_bytes_travel_with_the_fin<B: Backend>(make: Make<B>) {
    let mut rig = Rig::new(make);
    let mut attempt = |is_closed: bool| {
        let (mut client, slot) = rig.connect();
        rig.backend.send(slot, Span::copy_of(b"the last words"), More::Ends);
        rig.sent(slot);
        client.set_nonblocking(true).expect("a socket");
        let has_waited =
            client.peek(&mut [0]).is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock);
        client.set_nonblocking(false).expect("a socket");
        match is_closed {
            true => rig.close(slot, Close::Graceful),
            false => rig.backend.shutdown(slot),
        }
        rig.turn();
        let mut text = Vec::new();
        client.read_to_end(&mut text).expect("the words, then the end");
        assert_eq!(text, b"the last words");
        has_waited
    };
    for is_closed in [false, true] {
        assert!(
            (0..5).any(|_| attempt(is_closed)),
            "the bytes travelled without the FIN, closed: {is_closed}"
        );
    }
    let bytes = pattern(LARGE);
    let (mut client, slot) = rig.connect();
    let reader = thread::spawn(move || {
        let mut all = Vec::new();
        client.read_to_end(&mut all).expect("everything, then the end");
        all
    });
    rig.backend.send(slot, Span::copy_of(&bytes), More::Ends);
    rig.sent(slot);
    rig.close(slot, Close::Graceful);
    rig.turn();
    assert!(reader.join().expect("read") == bytes);
}

pub(super) fn to_a_reset_peer<B: Backend>(make: Make<B>) {
    let mut rig = Rig::new(make);
    let (client, slot) = rig.connect();
    rig.send(slot, &pattern(LARGE));
    rig.nothing_more();
    reset(client);
    rig.failed(slot);
    // The kernel reports a reset once, perhaps to the send. Receiving then reports the end of the stream.
    rig.events.retain(|event| !matches!(event, IoEvent::Ended { .. }));
    // A caller that has not handled `Failed` yet may still make requests.
    rig.send(slot, b"into the void");
    rig.backend.shutdown(slot);
    rig.backend.pause(slot);
    rig.backend.resume(slot);
    rig.nothing_more();
    rig.close(slot, Close::Graceful);
    rig.nothing_more();
}

pub(super) fn one_chunk_to_many<B: Backend>(make: Make<B>) {
    let mut rig = Rig::new(make);
    let clients: Vec<(TcpStream, u32)> = (0..50).map(|_| rig.connect()).collect();
    let chunk = Chunk::with_capacity(300);
    for round in 0..3_u8 {
        chunk.append(&[round; 100]);
        let span = Span::new(&chunk, usize::from(round) * 100, usize::from(round) * 100 + 100);
        for (_, slot) in &clients {
            rig.send_span(*slot, span.clone());
        }
        // The chunk grows while its span is being sent. After this `drop`, only the backend holds the span.
        drop(span);
        for (_, slot) in &clients {
            rig.sent(*slot);
        }
    }
    for (client, _) in &clients {
        assert_eq!(read(client, 300), [[0_u8; 100], [1; 100], [2; 100]].concat());
    }
    assert_eq!(std::rc::Rc::strong_count(&chunk), 1, "every span was dropped");
}

/// Makes several requests at once on every connection, far more than a short submission queue holds.
pub(super) fn more_than_the_queue_holds<B: Backend>(make: Make<B>) {
    let mut rig = Rig::new(make);
    let clients: Vec<(TcpStream, u32)> = (0..300).map(|_| rig.connect()).collect();
    for (_, slot) in &clients {
        rig.send(*slot, &slot.to_ne_bytes());
        rig.backend.pause(*slot);
        rig.backend.shutdown(*slot);
    }
    for (mut client, slot) in clients {
        rig.sent(slot);
        rig.turn();
        let mut text = Vec::new();
        client.read_to_end(&mut text).expect("the number, then the end");
        assert_eq!(text, slot.to_ne_bytes());
        rig.backend.close(slot, Close::Reset);
    }
    let mut closed = 0;
    while closed < 300 {
        rig.wait_for(|event| matches!(event, IoEvent::Closed { .. }).then_some(()));
        closed += 1;
    }
    rig.nothing_more();
}

/// Checks the reports about a send in flight to a peer that reads nothing, then some bytes, then the rest.
pub(super) fn progress<B: Backend>(make: Make<B>) {
    let mut rig = Rig::new(make);
    let (client, slot) = rig.connect();
    assert_eq!(rig.backend.send_progress(slot), None);
    rig.backend.nudge(slot);
    let bytes = pattern(LARGE);
    rig.send(slot, &bytes);
    let start = rig.backend.send_progress(slot).expect("a send");
    assert_eq!(start.left, LARGE);
    // Sockets take some bytes, and take no more after a while. Nudges alone are no progress: six in a row change nothing.
    // On a busy machine the kernel pauses before it takes the last bytes.
    let mut unchanged = 0;
    let stuck = nudge_until(&mut rig, slot, |before, now| {
        unchanged = if before == now { unchanged + 1 } else { 0 };
        now.left < LARGE && unchanged == 6
    });
    assert!(stuck.moved_ns >= start.moved_ns);
    // The peer reads all that the kernel has taken.
    let mut got = read(&client, LARGE - stuck.left);
    let moved = nudge_until(&mut rig, slot, |_, now| now.left < stuck.left);
    assert!(moved.moved_ns > stuck.moved_ns, "{moved:?} after {stuck:?}");
    // Nudges lose, repeat and reorder no bytes.
    let reader = thread::spawn(move || {
        got.extend(read(&client, LARGE - got.len()));
        (client, got)
    });
    while rig.backend.send_progress(slot).is_some() {
        nudge(&mut rig, slot);
    }
    rig.sent(slot);
    let (_client, got) = reader.join().expect("read");
    assert!(got == bytes);
    rig.backend.nudge(slot);
    rig.nothing_more();
}

pub(super) fn nudged_while_closing<B: Backend>(make: Make<B>) {
    let mut rig = Rig::new(make);
    let clients: Vec<(TcpStream, Slot)> = (0..10).map(|_| rig.connect()).collect();
    for (number, (_, slot)) in clients.iter().enumerate() {
        rig.send(*slot, &pattern(LARGE));
        // Some connections are closed in the turn of their nudge, some in a later turn.
        if number % 2 == 0 {
            rig.turn();
        }
        rig.backend.nudge(*slot);
        rig.backend.close(*slot, Close::Reset);
        rig.backend.nudge(*slot);
    }
    clients.iter().for_each(|(_, slot)| rig.closed(*slot));
    rig.nothing_more();
}

/// Nudges the send of `slot`, and runs turns until the backend knows of the progress.
fn nudge<B: Backend>(rig: &mut Rig<B>, slot: Slot) {
    rig.backend.nudge(slot);
    (0..3).for_each(|_| rig.turn());
}

/// Nudges the send of `slot` until `is_met` returns true for its progress before and after a nudge. Returns the last
/// progress.
fn nudge_until<B: Backend>(
    rig: &mut Rig<B>,
    slot: Slot,
    mut is_met: impl FnMut(SendProgress, SendProgress) -> bool,
) -> SendProgress {
    let start = Instant::now();
    loop {
        let before = rig.backend.send_progress(slot).expect("a send");
        thread::sleep(Duration::from_millis(10));
        nudge(rig, slot);
        let now = rig.backend.send_progress(slot).expect("a send");
        if is_met(before, now) {
            return now;
        }
        assert!(start.elapsed() < Duration::from_secs(20), "{now:?}");
    }
}

pub(super) fn empty_span<B: Backend>(make: Make<B>) {
    let mut rig = Rig::new(make);
    let (client, slot) = rig.connect();
    rig.send(slot, b"");
    rig.sent(slot);
    rig.send(slot, b"more");
    rig.sent(slot);
    assert_eq!(read(&client, 4), b"more");
    assert!(!rig.events.iter().any(|event| matches!(event, IoEvent::Sent { .. })));
}
