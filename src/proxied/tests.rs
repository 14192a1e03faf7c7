//! Tests of the PROXY layer over the test backend `Wire`.

use std::net::SocketAddr;

use crate::io::wire::Wire;
use crate::transport::{Events, Layers, Transport};

use super::*;

const PROXY: &str = "10.0.0.1:40000";
const OTHER: &str = "192.0.2.1:40000";
const HEADER: &[u8] = b"PROXY TCP4 198.51.100.7 192.0.2.2 56324 80\r\n";
const SOURCE: &str = "198.51.100.7:56324";

/// An event of the PROXY layer, as the layer above sees it.
#[derive(Clone, Debug, PartialEq)]
enum Seen {
    Accepted,
    Client(Option<SocketAddr>),
    Invalid,
    Bytes(Vec<u8>),
    Ended,
    Closed,
}

/// The fixture: a transport with the PROXY layer and one connection, in slot 3.
struct Rig {
    transport: Transport<Wire>,
    trusted: Arc<Trusted>,
}

impl Rig {
    fn new() -> Self {
        let trusted = Arc::new(Trusted::new(&["10.0.0.0/8".parse().expect("a network")]));
        let layers = Layers { proxy: Some(ProxyLayer::new(Arc::clone(&trusted))), tls: None };
        Self { transport: Transport::new(Wire::new(), layers), trusted }
    }

    /// Makes the backend accept a connection from `peer`, or from a Unix socket if `peer` is `None`.
    fn accept(&mut self, peer: Option<&str>) -> Vec<Seen> {
        let peer = peer.map(|peer| peer.parse().expect("an address"));
        self.happens(IoEvent::Accepted { slot: 3, listener: 0, peer })
    }

    fn receive(&mut self, bytes: &[u8]) -> Vec<Seen> {
        self.transport.backend_mut().queue(3, bytes);
        self.turn()
    }

    fn happens(&mut self, event: IoEvent) -> Vec<Seen> {
        self.transport.backend_mut().coming.push_back(event);
        self.turn()
    }

    fn turn(&mut self) -> Vec<Seen> {
        let mut events = Events::default();
        self.transport.poll(None, &mut events).expect("the wire works");
        let seen = events.drain().map(|event| match event {
            Event::Io(IoEvent::Accepted { .. }) => Seen::Accepted,
            Event::Proxy(ProxyEvent::Client { peer, .. }) => Seen::Client(peer),
            Event::Proxy(ProxyEvent::Invalid { .. }) => Seen::Invalid,
            Event::Io(IoEvent::Received { mut buffer, .. }) => {
                let bytes = buffer.bytes_mut().to_vec();
                self.transport.recycle(buffer);
                Seen::Bytes(bytes)
            }
            Event::Io(IoEvent::Ended { .. }) => Seen::Ended,
            Event::Io(IoEvent::Closed { .. }) => Seen::Closed,
            other => panic!("unexpected: {other:?}"),
        });
        let seen = seen.collect();
        assert_eq!(self.transport.backend_mut().lent, 0, "every buffer is back");
        seen
    }
}

fn source() -> Seen {
    Seen::Client(Some(SOURCE.parse().expect("an address")))
}

#[test]
fn a_header_is_removed_however_it_is_cut_into_pieces() {
    let all = [HEADER, b"GET /"].concat();
    for peer in [Some(PROXY), Some("[::ffff:10.0.0.1]:1"), None] {
        for first in 0..=all.len() {
            for second in first..=all.len() {
                let mut rig = Rig::new();
                assert_eq!(rig.accept(peer), [Seen::Accepted]);
                let mut seen = Vec::new();
                for part in [&all[..first], &all[first..second], &all[second..]] {
                    if !part.is_empty() {
                        seen.extend(rig.receive(part));
                    }
                }
                let (head, tail) = seen.split_first().expect("the header was reported");
                let bytes = tail.iter().flat_map(|seen| match seen {
                    Seen::Bytes(bytes) => bytes.clone(),
                    other => panic!("unexpected: {other:?}"),
                });
                assert_eq!((head, bytes.collect()), (&source(), b"GET /".to_vec()), "{first} {second}");
            }
        }
    }
}

#[test]
fn a_header_may_arrive_one_byte_at_a_time() {
    let mut rig = Rig::new();
    rig.accept(Some(PROXY));
    let (last, most) = HEADER.split_last().expect("some bytes");
    for byte in most {
        assert_eq!(rig.receive(&[*byte]), []);
    }
    assert_eq!(rig.receive(&[*last]), [source()]);
    assert_eq!(rig.receive(b"G"), [Seen::Bytes(b"G".to_vec())]);
    // A second PROXY header belongs to the client's bytes.
    assert_eq!(rig.receive(HEADER), [Seen::Bytes(HEADER.to_vec())]);
}

#[test]
fn a_proxy_may_speak_for_itself() {
    let mut rig = Rig::new();
    rig.accept(Some(PROXY));
    let local = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";
    assert_eq!(rig.receive(&[&local[..], b"GET"].concat()), [Seen::Bytes(b"GET".to_vec())]);
}

#[test]
fn a_proxy_may_hide_its_client() {
    for hidden in [&b"PROXY UNKNOWN\r\n"[..], b"\r\n\r\n\0\r\nQUIT\n\x21\0\0\0"] {
        let mut rig = Rig::new();
        rig.accept(Some(PROXY));
        let seen = rig.receive(&[hidden, b"GET"].concat());
        assert_eq!(seen, [Seen::Client(None), Seen::Bytes(b"GET".to_vec())]);
    }
}

#[test]
fn a_peer_that_is_not_trusted_sends_no_header() {
    let mut rig = Rig::new();
    rig.accept(Some(OTHER));
    assert_eq!(rig.receive(HEADER), [Seen::Bytes(HEADER.to_vec())]);
}

#[test]
fn a_header_after_an_invalid_one_counts_as_plain_bytes() {
    let mut rig = Rig::new();
    rig.accept(Some(PROXY));
    assert_eq!(rig.receive(b"PR"), []);
    assert_eq!(rig.receive(b"ETTY"), [Seen::Invalid]);
    assert_eq!(rig.receive(HEADER), [Seen::Bytes(HEADER.to_vec())]);
    assert_eq!(rig.happens(IoEvent::Ended { slot: 3 }), [Seen::Ended]);
    assert_eq!(rig.happens(IoEvent::Closed { slot: 3 }), [Seen::Closed]);
}

#[test]
fn a_header_that_never_ends_is_refused() {
    let mut rig = Rig::new();
    rig.accept(Some(PROXY));
    assert_eq!(rig.receive(b"PROXY UNKNOWN "), []);
    assert_eq!(rig.receive(&[b'x'; 92]), []);
    assert_eq!(rig.receive(b"x"), [Seen::Invalid]);
}

#[test]
fn a_long_request_may_follow_the_header_in_one_piece() {
    let mut rig = Rig::new();
    rig.accept(Some(PROXY));
    assert_eq!(rig.receive(&HEADER[..10]), []);
    let rest = [&HEADER[10..], &[b'x'; 2 * MAX_HEADER_LEN]].concat();
    assert_eq!(rig.receive(&rest), [source(), Seen::Bytes(vec![b'x'; 2 * MAX_HEADER_LEN])]);
}

#[test]
fn a_reused_slot_needs_a_header_of_its_own() {
    let mut rig = Rig::new();
    rig.accept(Some(PROXY));
    assert_eq!(rig.receive(&HEADER[..10]), []);
    assert_eq!(rig.happens(IoEvent::Closed { slot: 3 }), [Seen::Closed]);
    rig.accept(Some(OTHER));
    assert_eq!(rig.receive(b"GET"), [Seen::Bytes(b"GET".to_vec())]);
    assert_eq!(rig.happens(IoEvent::Closed { slot: 3 }), [Seen::Closed]);
    // The accept, the whole PROXY header and the close arrive in one turn.
    let wire = rig.transport.backend_mut();
    wire.coming.push_back(IoEvent::Accepted { slot: 3, listener: 0, peer: PROXY.parse().ok() });
    wire.queue(3, &HEADER[..7]);
    wire.queue(3, &HEADER[7..]);
    let seen = rig.happens(IoEvent::Closed { slot: 3 });
    assert_eq!(seen, [Seen::Accepted, source(), Seen::Closed]);
}

#[test]
fn a_new_list_of_proxies_holds_for_new_connections() {
    let mut rig = Rig::new();
    rig.accept(Some(PROXY));
    rig.trusted.replace(&["192.0.2.1".parse().expect("an address")]);
    assert_eq!(rig.receive(HEADER), [source()]);
    rig.happens(IoEvent::Closed { slot: 3 });
    rig.accept(Some(PROXY));
    assert_eq!(rig.receive(b"GET"), [Seen::Bytes(b"GET".to_vec())]);
    rig.happens(IoEvent::Closed { slot: 3 });
    rig.accept(Some(OTHER));
    assert_eq!(rig.receive(HEADER), [source()]);
}
