//! Tests of io_uring backend properties that the conformance suite cannot see.

use std::net::TcpStream;

use super::*;

type Make = fn(&BackendOptions, Vec<Listener>) -> io::Result<Uring>;

/// Makes an io_uring backend with one listener. Returns the backend and the listener's address.
fn ring(make: Make) -> (Uring, SocketAddr) {
    let listener = Listener::tcp(SocketAddr::from(([127, 0, 0, 1], 0))).expect("listen");
    let address = listener.local_addr().expect("bound");
    (make(&BackendOptions::default(), vec![listener]).expect("this machine has io_uring"), address)
}

#[test]
fn completions_that_overflow_the_ring_are_counted_and_arrive() {
    const CLIENTS: usize = 64;
    let (mut backend, address) = ring(Uring::with_short_queue);
    let (_clients, slots) = connect(CLIENTS, &mut backend, address);
    for slot in slots {
        backend.send(slot, Span::copy_of(b"hello"), More::Follows);
    }
    let mut sent = 0;
    while sent < CLIENTS {
        sent += poll(&mut backend).iter().filter(|event| matches!(event, IoEvent::Sent { .. })).count();
    }
    assert_ne!(backend.usage().ring_overflows, 0, "the ring has room for 16");
}

#[test]
fn a_ring_with_many_connections_can_be_dropped() {
    let (mut backend, address) = ring(Uring::new);
    let _clients = connect(500, &mut backend, address);
    assert!(backend.kernel.quiesce(), "no operation is in flight any more, and all memory can be freed");
}

/// Connects `count` clients. Returns the clients and their slots.
fn connect(count: usize, backend: &mut Uring, address: SocketAddr) -> (Vec<TcpStream>, Vec<Slot>) {
    let clients = (0..count).map(|_| TcpStream::connect(address).expect("connected")).collect();
    let mut slots = Vec::new();
    while slots.len() < count {
        slots.extend(poll(backend).iter().filter_map(|event| match event {
            IoEvent::Accepted { slot, .. } => Some(*slot),
            _ => None,
        }));
    }
    (clients, slots)
}

fn poll(backend: &mut Uring) -> Vec<IoEvent> {
    let mut events = Vec::new();
    backend.poll(Some(Duration::from_secs(10)), &mut events).expect("the ring works");
    events
}
