//! Tests of epoll backend properties that the conformance suite cannot see.

use std::io::Write;
use std::net::TcpStream;

use super::*;

#[test]
fn an_idle_connection_is_small() {
    assert_eq!(size_of::<Option<EpollSocket>>(), 16);
}

/// Checks that events of a closed socket are ignored while another process holds the socket, as after a fork.
#[test]
fn events_of_a_closed_socket_that_another_process_holds_are_ignored() {
    let listener = Listener::tcp("127.0.0.1:0".parse().expect("an address")).expect("listen");
    let address = listener.local_addr().expect("bound");
    let mut epoll = Epoll::new(&BackendOptions::default(), vec![listener]).expect("a descriptor");
    let mut client = TcpStream::connect(address).expect("connect");
    let mut events = Vec::new();
    let mut poll_until = |epoll: &mut Epoll, is_it: fn(&IoEvent) -> bool| {
        while !events.iter().any(is_it) {
            epoll.poll(Some(Duration::from_secs(1)), &mut events).expect("polled");
        }
    };
    poll_until(&mut epoll, |event| matches!(event, IoEvent::Accepted { slot: 0, .. }));
    let elsewhere = epoll.at(0).fd.try_clone().expect("a descriptor");
    epoll.close(0, Close::Graceful);
    poll_until(&mut epoll, |event| matches!(event, IoEvent::Closed { slot: 0 }));

    client.write_all(b"for nobody").expect("written");
    let before = events.len();
    epoll.poll(Some(Duration::from_secs(1)), &mut events).expect("polled");
    assert_eq!(events.len(), before);

    let mut next = TcpStream::connect(address).expect("connect");
    next.write_all(b"for us").expect("written");
    client.write_all(b"for nobody").expect("written");
    let received = loop {
        epoll.poll(Some(Duration::from_secs(1)), &mut events).expect("polled");
        if let Some(IoEvent::Received { slot: 0, buffer }) = events.last_mut() {
            break buffer.bytes_mut().to_vec();
        }
    };
    assert_eq!(received, b"for us");
    drop(elsewhere);
}

#[test]
fn timeouts_round_up() {
    assert_eq!(whole_milliseconds(Some(Duration::ZERO)), EpollTimeout::ZERO);
    assert_eq!(whole_milliseconds(Some(Duration::from_nanos(1))), EpollTimeout::from(1u8));
    assert_eq!(whole_milliseconds(Some(Duration::MAX)), EpollTimeout::MAX);
    assert_eq!(whole_milliseconds(None), EpollTimeout::NONE);
}
