//! Tests of the PROXY layer and the TLS layer together, over the test backend `Wire`.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::io::wire::Wire;
use crate::proxied::Trusted;

use super::*;

#[test]
fn without_layers_events_and_requests_go_straight_through() {
    let mut transport = Transport::plain(Wire::new());
    assert!(transport.layers.is_none());
    transport.backend.coming.push_back(IoEvent::Accepted { slot: 4, listener: 0, peer: None });
    transport.backend.queue(4, b"PROXY is no header here");
    let mut events = Events::default();
    transport.poll(None, &mut events).expect("the wire works");
    assert!(events.layered.is_empty() && events.unwrapped.is_empty());
    let mut received = Vec::new();
    for event in events.drain() {
        if let Event::Io(IoEvent::Received { mut buffer, .. }) = event {
            received.extend_from_slice(buffer.bytes_mut());
            transport.recycle(buffer);
        }
    }
    assert_eq!(received, b"PROXY is no header here");
    assert_eq!(transport.backend.lent, 0);
}

#[test]
fn the_events_of_a_layer_keep_their_place_among_those_of_the_backend() {
    let proxy = SocketAddr::from(([10, 0, 0, 1], 1));
    let trusted = Arc::new(Trusted::new(&["10.0.0.0/8".parse().expect("a network")]));
    let layers = Layers { proxy: Some(ProxyLayer::new(trusted)), tls: None };
    let mut transport = Transport::new(Wire::new(), layers);
    transport.backend.coming.push_back(IoEvent::Accepted { slot: 0, listener: 0, peer: Some(proxy) });
    transport.backend.queue(0, b"PROXY TCP4 198.51.100.7 192.0.2.2 56324 80\r\nGET");
    transport.backend.coming.push_back(IoEvent::Ended { slot: 0 });
    let mut events = Events::default();
    transport.poll(None, &mut events).expect("the wire works");
    let names: Vec<_> = events
        .drain()
        .map(|event| match event {
            Event::Io(IoEvent::Accepted { .. }) => "accepted",
            Event::Proxy(ProxyEvent::Client { peer: Some(_), .. }) => "client",
            Event::Io(IoEvent::Received { buffer, .. }) => {
                transport.recycle(buffer);
                "received"
            }
            Event::Io(IoEvent::Ended { .. }) => "ended",
            other => panic!("unexpected: {other:?}"),
        })
        .collect();
    assert_eq!(names, ["accepted", "client", "received", "ended"]);
    assert!(events.drain().next().is_none());
}
