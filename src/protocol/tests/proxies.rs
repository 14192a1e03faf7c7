//! Tests of PROXY headers, `Forwarded` and `X-Forwarded-For`.

use std::net::IpAddr;

use proptest::prelude::*;

use super::judged_proxies::{judge_forwarded_hops, judge_proxy_header, judge_usual_hops};
use super::*;
use crate::protocol::forwarded::client;
use crate::protocol::proxy_header::{MAX_HEADER_LEN, ProxyHeader, Source};

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// Encodes a PROXY header of version 2.
fn binary(command: u8, family: u8, payload: &[u8]) -> Vec<u8> {
    let len = u16::try_from(payload.len()).expect("short").to_be_bytes();
    [SIGNATURE, &[command, family], &len, payload].concat()
}

/// Parses a PROXY header that arrives one byte at a time, followed by other bytes.
#[track_caller]
fn parsed(header: &[u8]) -> Source {
    let all = [header, b"GET / HTTP/1.1\r\n"].concat();
    for len in 0..header.len() {
        assert_eq!(ProxyHeader::parse(&all[..len]), Ok(None), "{len} bytes of {header:?}");
    }
    let whole = ProxyHeader::parse(header).expect("right").expect("whole");
    assert_eq!((ProxyHeader::parse(&all), whole.len), (Ok(Some(whole)), header.len()));
    whole.source
}

/// Returns the number of bytes after which the parser refuses the PROXY header. `None` if the parser never refuses it.
fn refused_at(bytes: &[u8]) -> Option<usize> {
    (0..=bytes.len()).find(|len| ProxyHeader::parse(&bytes[..*len]).is_err())
}

/// Checks the PROXY headers in the examples of the specification, and the longest lines that the specification allows.
#[test]
fn a_header_gives_the_source() {
    let source = |text: &str| Source::Client(text.parse().expect("an address"));
    assert_eq!(parsed(b"PROXY TCP4 192.0.2.1 192.0.2.2 56324 443\r\n"), source("192.0.2.1:56324"));
    assert_eq!(
        parsed(b"PROXY TCP4 255.255.255.255 255.255.255.255 65535 0\r\n"),
        source("255.255.255.255:65535")
    );
    let longest = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff";
    let line = format!("PROXY TCP6 {longest} {longest} 65535 65535\r\n");
    assert_eq!(parsed(line.as_bytes()), source(&format!("[{longest}]:65535")));
    for unknown in ["PROXY UNKNOWN\r\n", "PROXY UNKNOWN \r\n", "PROXY UNKNOWN a \0 \r b\r\n"] {
        assert_eq!(parsed(unknown.as_bytes()), Source::Hidden);
    }
    let line = format!("PROXY UNKNOWN {longest} {longest} 65535 65535\r\n");
    assert_eq!((parsed(line.as_bytes()), line.len()), (Source::Hidden, 107));

    let v4 = [192, 0, 2, 1, 192, 0, 2, 2, 0xdc, 0x04, 1, 187];
    let v6: Vec<u8> = [[0x20; 16], [0x21; 16]].concat().into_iter().chain([0, 80, 1, 187]).collect();
    // An extension (TLV) of version 2: type, length in two bytes, value.
    let tlv = [4, 0, 3, 1, 2, 3];
    assert_eq!(parsed(&binary(0x21, 0x11, &v4)), source("192.0.2.1:56324"));
    assert_eq!(parsed(&binary(0x21, 0x11, &[&v4[..], &tlv].concat())), source("192.0.2.1:56324"));
    let v6_source = source("[2020:2020:2020:2020:2020:2020:2020:2020]:80");
    assert_eq!(parsed(&binary(0x21, 0x21, &v6)), v6_source);
    let full = [&v6[..], &[0; MAX_HEADER_LEN - 16 - 36]].concat();
    assert_eq!(parsed(&binary(0x21, 0x21, &full)), v6_source);
    // LOCAL: the source is the proxy itself, whatever addresses follow.
    for header in [binary(0x20, 0, &[]), binary(0x20, 0x11, &v4), binary(0x20, 0xff, &[1])] {
        assert_eq!(parsed(&header), Source::Proxy);
    }
    // The client's address is unknown, or the client uses a Unix socket.
    for header in [binary(0x21, 0, &tlv), binary(0x21, 0x31, &[0; 216])] {
        assert_eq!(parsed(&header), Source::Hidden);
    }
}

#[test]
fn an_invalid_header_is_refused_at_its_first_invalid_byte() {
    for (bytes, at) in [
        ("GET / HTTP/1.1\r\n", 1),
        ("PUT / HTTP/1.1\r\n", 2),
        ("PROXY\tTCP4", 6),
        ("proxy TCP4", 1),
        ("PROXY \r\n", 8),
        ("PROXY TCP5 1.2.3.4 1.2.3.4 1 2\r\n", 32),
        ("PROXY TCP4 1.2.3.4 1.2.3.4 1 2\n", 31),
        ("PROXY TCP4 1.2.3.4  1.2.3.4 1 2\r\n", 33),
        ("PROXY TCP4 1.2.3.4\r1.2.3.4 1 2\r\n", 32),
        ("PROXY TCP4 1.2.3.4 1.2.3.4 1 2 \r\n", 33),
        ("PROXY TCP4 1.2.3.4 1.2.3.4 1\r\n", 30),
        ("PROXY TCP4 ::1 ::1 1 2\r\n", 24),
        ("PROXY TCP6 1.2.3.4 1.2.3.4 1 2\r\n", 32),
        ("PROXY TCP4 1.2.3.04 1.2.3.4 1 2\r\n", 33),
        ("PROXY TCP4 1.2.3.4 1.2.3.4 01 2\r\n", 33),
        ("PROXY TCP4 1.2.3.4 1.2.3.4 +1 2\r\n", 33),
        ("PROXY TCP4 1.2.3.4 1.2.3.4 1 65536\r\n", 36),
        ("PROXY UNKNOWNX\r\n", 16),
        ("\r\n\r\nGET", 5),
        ("\r\n\r\n\0\r\nQUIT\r", 12),
    ] {
        assert_eq!(refused_at(bytes.as_bytes()), Some(at), "{bytes:?}");
    }
    let endless = [b"PROXY UNKNOWN ".to_vec(), vec![b'x'; 200]].concat();
    assert_eq!(refused_at(&endless), Some(107));
    for (header, why) in [
        (binary(0x11, 0x11, &[0; 12]), "version 1 in binary"),
        (binary(0x22, 0x11, &[0; 12]), "a command that is none"),
        (binary(0x21, 0x12, &[0; 12]), "datagrams"),
        (binary(0x21, 0x41, &[0; 12]), "a family that is none"),
        (binary(0x21, 0x11, &[0; 11]), "too short for its addresses"),
        (binary(0x21, 0x21, &[0; 35]), "the same"),
        (binary(0x21, 0x31, &[0; 215]), "the same"),
        (binary(0x20, 0x00, &[0; MAX_HEADER_LEN - 15]), "too long"),
    ] {
        assert_eq!(refused_at(&header), Some(16), "{why}");
    }
}

/// Returns the client's address in the request headers `headers`. The addresses in `trusted` and the peer 10.0.0.1 are
/// trusted proxies.
fn client_of(headers: &str, trusted: &[&str]) -> Result<String, Refusal> {
    let mut head = format!("GET / HTTP/1.1\r\nHost: x\r\n{}\r\n", headers.replace('\n', "\r\n")).into_bytes();
    let (mut protocol, mut reader, mut input) = (Protocol::new(), Reader::default(), &mut head[..]);
    let Some(ProtocolEvent::Request(request)) = protocol.next(&mut input, &mut reader) else {
        panic!("{headers}")
    };
    let is_trusted = |address: IpAddr| trusted.contains(&&*address.to_string());
    let client = client(&request, "10.0.0.1".parse().ok(), is_trusted)?;
    Ok(client.expect("at least the peer").to_string())
}

#[test]
fn the_client_is_the_first_untrusted_address_from_the_right() {
    let trusted = ["10.0.0.2", "10.0.0.3", "2001:db8::1"];
    for (headers, expected) in [
        ("", "10.0.0.1"),
        ("X-Forwarded-For: 1.2.3.4\n", "1.2.3.4"),
        ("x-forwarded-for: 6.6.6.6, 1.2.3.4\n", "1.2.3.4"),
        ("X-Forwarded-For: 6.6.6.6,1.2.3.4 ,10.0.0.3,\t10.0.0.2\n", "1.2.3.4"),
        ("X-Forwarded-For: 6.6.6.6\nX-Forwarded-For: 1.2.3.4\nX-Forwarded-For: 10.0.0.2\n", "1.2.3.4"),
        ("X-Forwarded-For: , 1.2.3.4, ,10.0.0.2,,\n", "1.2.3.4"),
        ("X-Forwarded-For: 1.2.3.4:5678\n", "1.2.3.4"),
        ("X-Forwarded-For: 2001:db8::2\n", "2001:db8::2"),
        ("X-Forwarded-For: 1.2.3.4, [2001:db8::1]:80\n", "1.2.3.4"),
        ("X-Forwarded-For: ::ffff:1.2.3.4, ::ffff:10.0.0.2\n", "1.2.3.4"),
        // If all hops are trusted proxies, the farthest hop is the client.
        ("X-Forwarded-For: 10.0.0.3, 10.0.0.2\n", "10.0.0.3"),
        // A hop without an address ends the search for the client.
        ("X-Forwarded-For: \n", "10.0.0.1"),
        ("X-Forwarded-For: unknown\n", "10.0.0.1"),
        ("X-Forwarded-For: 1.2.3.4, unknown, 10.0.0.2\n", "10.0.0.2"),
        ("X-Forwarded-For: 1.2.3.4, garbage\n", "10.0.0.1"),
        ("X-Forwarded-For: 1.2.3.4, 1.2.3.04, 10.0.0.2\n", "10.0.0.2"),
        ("X-Forwarded-For: 1.2.3.4, \"5.6.7.8\"\n", "10.0.0.1"),
        ("X-Forwarded-For: 1.2.3.4, \u{e9}\n", "10.0.0.1"),
        ("Forwarded: for=1.2.3.4\n", "1.2.3.4"),
        ("Forwarded: for=6.6.6.6;by=1.1.1.1, For=\"1.2.3.4:5678\";proto=https;host=a\n", "1.2.3.4"),
        ("Forwarded: proto=https;for=\"[2001:db8::2]:4711\", for=\"[2001:db8::1]:_p\"\n", "2001:db8::2"),
        ("Forwarded: for=1.2.3.4\nForwarded: for=10.0.0.2\n", "1.2.3.4"),
        ("Forwarded: for=1.2.3.4;by=\"a,b;for=6.6.6.6\", for=10.0.0.2\n", "1.2.3.4"),
        ("Forwarded: for=1.2.3.4;by=\"\\\";for=6.6.6.6;a=\\\"\", for=10.0.0.2\n", "1.2.3.4"),
        ("Forwarded: for=1.2.3.4, for=_hidden, for=10.0.0.2\n", "10.0.0.2"),
        ("Forwarded: for=unknown\n", "10.0.0.1"),
        ("Forwarded: for=1.2.3.4, proto=https\n", "10.0.0.1"),
        ("Forwarded: for=1.2.3.4;for=5.6.7.8\n", "10.0.0.1"),
        ("Forwarded: for=\"1.2.3.4\n", "10.0.0.1"),
        ("Forwarded: for=\"\\1.2.3.4\"\n", "10.0.0.1"),
        // A quote that a client leaves open does not hide the address that a proxy appends.
        ("Forwarded: for=\"6.6.6.6, for=1.2.3.4\n", "1.2.3.4"),
        ("Forwarded: for=\"6.6.6.6\\, for=1.2.3.4, for=10.0.0.2\n", "1.2.3.4"),
        ("Forwarded: for=1.2.3.4\nX-Forwarded-For: 6.6.6.6, 1.2.3.4, 10.0.0.2\n", "1.2.3.4"),
    ] {
        assert_eq!(client_of(headers, &trusted).as_deref(), Ok(expected), "{headers}");
    }
}

#[test]
fn header_fields_that_contradict_each_other_are_refused() {
    for headers in [
        "Forwarded: for=6.6.6.6\nX-Forwarded-For: 1.2.3.4\n",
        "X-Forwarded-For: 6.6.6.6\nForwarded: for=1.2.3.4\n",
        "X-Forwarded-For: 1.2.3.4\nForwarded: for=unknown\n",
        "X-Forwarded-For: 1.2.3.4\nForwarded:\n",
    ] {
        let refusal = client_of(headers, &[]).expect_err(headers);
        assert_eq!(refusal.status, Status::BadRequest, "{headers}");
    }
}

proptest! {
    #![proptest_config(config(512))]

    #[test]
    fn lines_are_read_as_plainly(
        line in "PROXY (TCP4|TCP6|UNKNOWN|x)( ([0-9]{1,3}(\\.[0-9]{1,3}){3}|[0-9a-f:]{2,39})){0,3}( [0-9]{1,6}){0,3}\r?\n[a-z]{0,3}"
    ) {
        judge_proxy_header(line.as_bytes());
    }

    #[test]
    fn binary_headers_are_read_as_plainly(
        command in prop::sample::select(vec![0x20, 0x21, 0x22, 0x11]),
        family in prop::sample::select(vec![0, 0x11, 0x12, 0x21, 0x31, 0x41]),
        payload in prop::collection::vec(any::<u8>(), 0..300),
        behind in prop::collection::vec(any::<u8>(), 0..4),
    ) {
        judge_proxy_header(&[binary(command, family, &payload), behind].concat());
    }

    #[test]
    fn usual_lists_are_read_as_plainly(
        value in "(([0-9]{1,3}(\\.[0-9]{1,3}){3}|\\[?[0-9a-f:]{2,9}\\]?|unknown|_a)(:[0-9_a.]{0,6})? ?,? ?){0,5}"
    ) {
        judge_usual_hops(value.as_bytes());
    }

    #[test]
    fn standard_lists_are_read_as_plainly(
        value in "((for|For|by|x)=(\"(\\\\[\"\\\\a]|[a,;=])*\"|[0-9]{1,3}(\\.[0-9]{1,3}){3}|\"\\[[0-9a-f:]{2,9}\\](:[0-9_a.]{0,6})?\"|unknown|_a)[;,]? ?){0,5}"
    ) {
        judge_forwarded_hops(value.as_bytes());
    }
}
