//! The layer over a backend to which happens what a test says.

use std::net::SocketAddr;

use super::*;
use crate::io::wire::Wire;

const PROXY: &str = "10.0.0.1:40000";
const OTHER: &str = "192.0.2.1:40000";
const HEADER: &[u8] = b"PROXY TCP4 198.51.100.7 192.0.2.2 56324 80\r\n";
const SOURCE: &str = "198.51.100.7:56324";

/// What the caller sees.
#[derive(Clone, Debug, PartialEq)]
enum Seen {
    Accepted,
    Proxied(Option<SocketAddr>),
    Unproxied,
    Bytes(Vec<u8>),
    Ended,
    Closed,
}

/// One connection.
struct Rig {
    layer: Proxied<Wire>,
    trusted: Arc<Trusted>,
}

impl Rig {
    fn new() -> Self {
        let trusted = Arc::new(Trusted::new(&["10.0.0.0/8".parse().expect("a network")]));
        let layer = Proxied::new(Wire::new(), Some(Arc::clone(&trusted)));
        Self { layer, trusted }
    }

    /// A connection from here; without an address it came by a path.
    fn accept(&mut self, peer: Option<&str>) -> Vec<Seen> {
        let peer = peer.map(|peer| peer.parse().expect("an address"));
        self.happens(Event::Accepted { slot: 3, listener: 0, peer })
    }

    fn receive(&mut self, bytes: &[u8]) -> Vec<Seen> {
        self.layer.inner.queue(3, bytes);
        self.turn()
    }

    fn happens(&mut self, event: Event) -> Vec<Seen> {
        self.layer.inner.coming.push_back(event);
        self.turn()
    }

    fn turn(&mut self) -> Vec<Seen> {
        let mut reported = Vec::new();
        self.layer.poll(None, &mut reported).expect("nothing can break");
        let seen = reported.into_iter().map(|event| match event {
            Event::Accepted { .. } => Seen::Accepted,
            Event::Proxied { peer, .. } => Seen::Proxied(peer),
            Event::Unproxied { .. } => Seen::Unproxied,
            Event::Received { mut buffer, .. } => {
                let bytes = buffer.bytes_mut().to_vec();
                self.layer.recycle(buffer);
                Seen::Bytes(bytes)
            }
            Event::Ended { .. } => Seen::Ended,
            Event::Closed { .. } => Seen::Closed,
            other => panic!("unexpected: {other:?}"),
        });
        let seen = seen.collect();
        assert_eq!(self.layer.inner.lent, 0, "every buffer goes back");
        seen
    }
}

fn source() -> Seen {
    Seen::Proxied(Some(SOURCE.parse().expect("an address")))
}

#[test]
fn a_header_is_taken_off_wherever_it_is_cut() {
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
                let (head, tail) = seen.split_first().expect("a header came");
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
fn one_byte_at_a_time_is_enough() {
    let mut rig = Rig::new();
    rig.accept(Some(PROXY));
    let (last, most) = HEADER.split_last().expect("some bytes");
    for byte in most {
        assert_eq!(rig.receive(&[*byte]), []);
    }
    assert_eq!(rig.receive(&[*last]), [source()]);
    assert_eq!(rig.receive(b"G"), [Seen::Bytes(b"G".to_vec())]);
    // Whatever looks like a header now is the client's.
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
fn a_proxy_may_hide_whom_it_speaks_for() {
    for hidden in [&b"PROXY UNKNOWN\r\n"[..], b"\r\n\r\n\0\r\nQUIT\n\x21\0\0\0"] {
        let mut rig = Rig::new();
        rig.accept(Some(PROXY));
        let seen = rig.receive(&[hidden, b"GET"].concat());
        assert_eq!(seen, [Seen::Proxied(None), Seen::Bytes(b"GET".to_vec())]);
    }
}

#[test]
fn who_is_not_trusted_sends_no_header() {
    let mut rig = Rig::new();
    rig.accept(Some(OTHER));
    assert_eq!(rig.receive(HEADER), [Seen::Bytes(HEADER.to_vec())]);
}

#[test]
fn what_comes_after_garbage_is_no_header() {
    let mut rig = Rig::new();
    rig.accept(Some(PROXY));
    assert_eq!(rig.receive(b"PR"), []);
    assert_eq!(rig.receive(b"ETTY"), [Seen::Unproxied]);
    assert_eq!(rig.receive(HEADER), [Seen::Bytes(HEADER.to_vec())]);
    assert_eq!(rig.happens(Event::Ended { slot: 3 }), [Seen::Ended]);
    assert_eq!(rig.happens(Event::Closed { slot: 3 }), [Seen::Closed]);
}

#[test]
fn a_header_that_never_ends_is_refused() {
    let mut rig = Rig::new();
    rig.accept(Some(PROXY));
    assert_eq!(rig.receive(b"PROXY UNKNOWN "), []);
    assert_eq!(rig.receive(&[b'x'; 92]), []);
    assert_eq!(rig.receive(b"x"), [Seen::Unproxied]);
}

#[test]
fn more_than_a_header_can_have_is_no_trouble() {
    let mut rig = Rig::new();
    rig.accept(Some(PROXY));
    assert_eq!(rig.receive(&HEADER[..10]), []);
    let rest = [&HEADER[10..], &[b'x'; 2 * MAX_HEADER_LEN]].concat();
    assert_eq!(rig.receive(&rest), [source(), Seen::Bytes(vec![b'x'; 2 * MAX_HEADER_LEN])]);
}

#[test]
fn a_slot_that_is_used_again_owes_its_own_header() {
    let mut rig = Rig::new();
    rig.accept(Some(PROXY));
    assert_eq!(rig.receive(&HEADER[..10]), []);
    assert_eq!(rig.happens(Event::Closed { slot: 3 }), [Seen::Closed]);
    rig.accept(Some(OTHER));
    assert_eq!(rig.receive(b"GET"), [Seen::Bytes(b"GET".to_vec())]);
    assert_eq!(rig.happens(Event::Closed { slot: 3 }), [Seen::Closed]);
    // All of it at once.
    let wire = &mut rig.layer.inner;
    wire.coming.push_back(Event::Accepted { slot: 3, listener: 0, peer: PROXY.parse().ok() });
    wire.queue(3, &HEADER[..7]);
    wire.queue(3, &HEADER[7..]);
    let seen = rig.happens(Event::Closed { slot: 3 });
    assert_eq!(seen, [Seen::Accepted, source(), Seen::Closed]);
}

#[test]
fn a_new_list_holds_for_whoever_comes() {
    let mut rig = Rig::new();
    rig.accept(Some(PROXY));
    rig.trusted.replace(&["192.0.2.1".parse().expect("an address")]);
    assert_eq!(rig.receive(HEADER), [source()]);
    rig.happens(Event::Closed { slot: 3 });
    rig.accept(Some(PROXY));
    assert_eq!(rig.receive(b"GET"), [Seen::Bytes(b"GET".to_vec())]);
    rig.happens(Event::Closed { slot: 3 });
    rig.accept(Some(OTHER));
    assert_eq!(rig.receive(HEADER), [source()]);
}
