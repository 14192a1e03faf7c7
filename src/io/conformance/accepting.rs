//! Tests of accepting: peer addresses, limits, and the end of accepting.

use std::collections::HashSet;
use std::io::{Read, Write};
use std::net::{Ipv6Addr, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use crate::io::{Backend, BackendOptions, Close, IoEvent, Listener, Slot};

use super::rig::{Make, Rig, read};

pub(super) fn peer_addresses<B: Backend>(make: Make<B>) {
    for address in ["127.0.0.1:0", "[::1]:0"] {
        let mut rig = Rig::with(make, address, &BackendOptions::default());
        for _ in 0..40 {
            let client = rig.dial();
            assert_eq!(rig.accepted().1, client.local_addr().expect("connected"));
        }
    }
}

pub(super) fn dual_stack_peer_is_ipv4<B: Backend>(make: Make<B>) {
    let mut rig = Rig::with(make, "[::]:0", &BackendOptions::default());
    assert_eq!(rig.address.ip(), Ipv6Addr::UNSPECIFIED);
    let client = TcpStream::connect(("127.0.0.1", rig.address.port())).expect("connect over IPv4");
    assert_eq!(rig.accepted().1, client.local_addr().expect("connected"));
}

pub(super) fn several_at_once<B: Backend>(make: Make<B>) {
    let mut rig = Rig::new(make);
    let clients: Vec<TcpStream> = (0..100).map(|_| rig.dial()).collect();
    let expected: HashSet<SocketAddr> =
        clients.iter().map(|client| client.local_addr().expect("connected")).collect();
    let accepted: Vec<(Slot, SocketAddr)> = clients.iter().map(|_| rig.accepted()).collect();
    let slots: HashSet<Slot> = accepted.iter().map(|(slot, _)| *slot).collect();
    assert_eq!(slots.len(), clients.len());
    assert_eq!(accepted.iter().map(|(_, peer)| *peer).collect::<HashSet<_>>(), expected);
    rig.nothing_more();
}

fn is_paused(event: &IoEvent) -> Option<()> {
    matches!(event, IoEvent::AcceptPaused).then_some(())
}

fn is_resumed(event: &IoEvent) -> Option<()> {
    matches!(event, IoEvent::AcceptResumed).then_some(())
}

pub(super) fn accepting_pauses_once<B: Backend>(make: Make<B>) {
    let mut rig = Rig::with(make, "127.0.0.1:0", &BackendOptions { slots: 2, ..BackendOptions::default() });
    let (_first, slot) = rig.connect();
    let (_second, _) = rig.connect();
    rig.wait_for(is_paused);
    let mut waiting = rig.dial();
    waiting.write_all(b"at last").expect("the kernel takes it");
    rig.nothing_more();
    rig.rests();

    rig.close(slot, Close::Graceful);
    rig.wait_for(is_resumed);
    let (slot, peer) = rig.accepted();
    assert_eq!(peer, waiting.local_addr().expect("connected"));
    assert_eq!(rig.receive(&[(slot, 7)])[&slot], b"at last");
    rig.wait_for(is_paused);
    rig.nothing_more();
}

/// Connects more clients than slots: each further client waits in the backlog until another client leaves.
pub(super) fn waiting_clients_are_accepted_later<B: Backend>(make: Make<B>) {
    let mut rig = Rig::with(make, "127.0.0.1:0", &BackendOptions { slots: 4, ..BackendOptions::default() });
    let clients: Vec<TcpStream> = (0..40).map(|_| rig.dial()).collect();
    for _ in &clients {
        let (slot, peer) = rig.accepted();
        rig.send(slot, peer.to_string().as_bytes());
        rig.sent(slot);
        rig.close(slot, Close::Graceful);
    }
    for mut client in clients {
        let mut text = String::new();
        client.read_to_string(&mut text).expect("the greeting, then the end");
        assert_eq!(text, client.local_addr().expect("connected").to_string());
    }
}

pub(super) fn stops_accepting<B: Backend>(make: Make<B>) {
    let mut rig = Rig::new(make);
    let (client, slot) = rig.connect();
    rig.backend.stop_accepting();
    rig.turn();
    rig.turn();
    // No process listens on the port, so the kernel refuses the connection.
    let refused = TcpStream::connect(rig.address).expect_err("nobody listens");
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    rig.send(slot, b"still here");
    rig.sent(slot);
    assert_eq!(read(&client, 10), b"still here");
    rig.nothing_more();
}

/// Checks that a shared listener stays open for the other worker.
pub(super) fn stops_accepting_what_is_shared<B: Backend>(make: Make<B>) {
    let kept = Listener::tcp("127.0.0.1:0".parse().expect("valid")).expect("listen");
    let mut rig = Rig::on(make, kept.try_clone().expect("a descriptor"), &BackendOptions::default());
    drop(rig.connect());
    rig.stop_accepting();
    let client = TcpStream::connect(rig.address).expect("the other worker listens");
    rig.turn();
    let (_, peer) = kept.accept().expect("the client waits");
    assert_eq!(peer, Some(client.local_addr().expect("connected")));
}

/// Checks that listening stops although a forked process or an io_uring still holds the listener's socket.
pub(super) fn stops_listening_although_another_process_has_the_socket<B: Backend>(make: Make<B>) {
    let listener = Listener::tcp("127.0.0.1:0".parse().expect("valid")).expect("listen");
    let elsewhere = listener.try_clone().expect("a descriptor");
    let mut rig = Rig::on(make, listener, &BackendOptions::default());
    rig.turn();
    rig.stop_accepting();
    let refused = TcpStream::connect(rig.address).expect_err("nobody listens");
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    drop(elsewhere);
}

pub(super) fn slots_are_reused<B: Backend>(make: Make<B>) {
    let mut rig = Rig::with(make, "127.0.0.1:0", &BackendOptions { slots: 3, ..BackendOptions::default() });
    let mut slots = HashSet::new();
    for turn in 0..30_u8 {
        let (mut client, slot) = rig.connect();
        slots.insert(slot);
        // A receive of the slot's last connection must not take these bytes. The close of the last connection must not
        // end the new connection.
        client.write_all(&[turn]).expect("written");
        assert_eq!(rig.receive(&[(slot, 1)])[&slot], [turn]);
        rig.close(slot, Close::Graceful);
        assert_eq!(client.read(&mut [0]).expect("the end"), 0);
    }
    assert!(slots.len() <= 3, "slots are not dense: {slots:?}");
    rig.nothing_more();
}

pub(super) fn two_listeners<B: Backend>(make: Make<B>) {
    let listeners =
        ["127.0.0.1:0", "[::1]:0"].map(|at| Listener::tcp(at.parse().expect("valid")).expect("listen"));
    let addresses = listeners.each_ref().map(|listener| listener.local_addr().expect("bound"));
    let backend = make(&BackendOptions::default(), listeners.into()).expect("this backend must exist");
    let mut rig = Rig { backend, address: addresses[0], events: Default::default() };
    for (at, address) in (0..).zip(addresses) {
        let client = TcpStream::connect(address).expect("connect");
        let from = rig.wait_for(|event| match event {
            IoEvent::Accepted { listener, peer, .. } => Some((*listener, *peer)),
            _ => None,
        });
        assert_eq!(from, (at, Some(client.local_addr().expect("connected"))));
    }
}

/// Checks that two backends accept from one Unix socket, as two workers do.
pub(super) fn workers_share_a_unix_socket<B: Backend>(make: Make<B>) {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("socket");
    let listener = Listener::unix(&path).expect("listen");
    let rig = |listener: Listener| Rig {
        backend: make(&BackendOptions::default(), vec![listener]).expect("this backend must exist"),
        address: SocketAddr::from(([127, 0, 0, 1], 0)),
        events: Default::default(),
    };
    let mut rigs = [rig(listener.try_clone().expect("a descriptor")), rig(listener)];
    let mut clients: Vec<UnixStream> =
        (0..20).map(|_| UnixStream::connect(&path).expect("connect")).collect();
    for (client, byte) in clients.iter_mut().zip(0..) {
        client.write_all(&[byte]).expect("written");
    }
    let mut heard = HashSet::new();
    while heard.len() < clients.len() {
        for rig in &mut rigs {
            rig.poll(Some(Duration::from_millis(1)));
            while let Some(event) = rig.events.pop_front() {
                match event {
                    IoEvent::Accepted { peer, .. } => assert_eq!(peer, None),
                    IoEvent::Received { slot, mut buffer } => {
                        heard.extend(buffer.bytes_mut().iter().copied());
                        rig.send(slot, &buffer.bytes_mut()[..1]);
                        rig.backend.recycle(buffer);
                    }
                    other => assert!(matches!(other, IoEvent::Sent { .. }), "{other:?}"),
                }
            }
        }
    }
    for rig in &mut rigs {
        rig.turn();
    }
    for (mut client, byte) in clients.into_iter().zip(0..) {
        let mut echoed = [0];
        client.read_exact(&mut echoed).expect("echoed");
        assert_eq!(echoed, [byte]);
    }
}
