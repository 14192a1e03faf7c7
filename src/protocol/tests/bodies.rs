//! Tests of request bodies, of requests that follow each other on a connection, and of requests that intermediaries
//! may read differently.

use super::naive_bodies::check_body;
use super::*;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

/// Feeds requests in one read, in two reads cut at each byte, and in single bytes. Returns their events, which must not
/// depend on the cuts.
#[track_caller]
fn read(stream: &str, max_request_body: usize) -> Vec<Seen> {
    let limits = MessageLimits { max_request_body, ..MessageLimits::default() };
    let whole = feed(&mut Protocol::new(), stream.as_bytes(), &limits);
    for cut in 1..stream.len() {
        assert_eq!(feed_cut(&mut Protocol::new(), stream.as_bytes(), &[cut], &limits), whole, "cut at {cut}");
    }
    assert_eq!(feed_bytewise(&mut Protocol::new(), stream.as_bytes(), &limits), whole, "one byte at a time");
    whole
}

/// Returns the bodies of the requests in `stream`, and the status of the refusal that ends it, if any.
#[track_caller]
fn bodies(stream: &str) -> (Vec<String>, Option<u16>) {
    let (mut bodies, mut refused) = (Vec::new(), None);
    for seen in read(stream, 100) {
        match seen {
            Seen::Request(_, body) => bodies.push(String::from_utf8(body).expect("text")),
            Seen::Refused(status) => refused = Some(status.code()),
            other => panic!("{other:?}"),
        }
    }
    (bodies, refused)
}

/// Returns a POST request with these header lines, and the bytes after its head.
fn post(lines: &str, rest: &str) -> String {
    format!("POST /in HTTP/1.1\r\nHost: x\r\n{lines}\r\n{rest}")
}

fn accepted(bodies: &[&str]) -> (Vec<String>, Option<u16>) {
    (bodies.iter().map(|body| (*body).to_owned()).collect(), None)
}

fn refused(status: u16) -> (Vec<String>, Option<u16>) {
    (Vec::new(), Some(status))
}

// RFC 9112 §6.2, §7.1: the two forms of a body.
#[test]
fn a_body_has_a_length_or_comes_in_chunks() {
    assert_eq!(bodies(&post("Content-Length: 5\r\n", "hello")), accepted(&["hello"]));
    assert_eq!(bodies(&post("Content-Length: 0\r\n", "")), accepted(&[""]));
    assert_eq!(bodies(&post("Content-Length: 005\r\n", "hello")), accepted(&["hello"]));
    assert_eq!(bodies(&post("", "")), accepted(&[""]));
    let chunked = |rest: &str| bodies(&post("Transfer-Encoding: chunked\r\n", rest));
    assert_eq!(chunked("5\r\nhello\r\n0\r\n\r\n"), accepted(&["hello"]));
    assert_eq!(chunked("0a\r\n0123456789\r\n1\r\n\n\r\n000\r\n\r\n"), accepted(&["0123456789\n"]));
    // RFC 9112 §7.1.1, §7.1.2: a recipient ignores extensions that it does not know, and may drop trailer fields.
    let extended = "2;a=\"b c\"\r\nhi\r\n1 \t;\r\n!\r\n0;last\r\nDigest: x\r\nOne: more\r\n\r\n";
    assert_eq!(chunked(extended), accepted(&["hi!"]));
}

#[test]
fn requests_follow_each_other_on_a_connection() {
    let stream = [
        post("Content-Length: 3\r\n", "one"),
        "\r\n".to_owned(),
        "GET /two HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(),
        post("Transfer-Encoding: chunked\r\n", "5\r\nthree\r\n0\r\n\r\n"),
        String::from_utf8(HANDSHAKE.to_vec()).expect("text"),
    ]
    .concat();
    let seen = read(&stream, 100);
    let got: Vec<_> = seen
        .iter()
        .map(|seen| match seen {
            Seen::Request(request, body) => {
                (request.contains("AcceptKey"), str::from_utf8(body).expect("text"))
            }
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(got, [(false, "one"), (false, ""), (false, "three"), (true, "")]);
}

// RFC 9112 §9.3: the client decides whether the connection goes on.
#[test]
fn a_connection_ends_where_the_client_asks_for_it() {
    let goes_on = |request: &str| {
        let stream = format!("{request}GET /later HTTP/1.1\r\nHost: x\r\n\r\n");
        read(&stream, 0).len() == 2
    };
    assert!(goes_on("GET / HTTP/1.1\r\nHost: x\r\n\r\n"));
    assert!(goes_on("GET / HTTP/1.1\r\nHost: x\r\nConnection: keep-alive\r\n\r\n"));
    assert!(!goes_on("GET / HTTP/1.1\r\nHost: x\r\nConnection: Close\r\n\r\n"));
    assert!(!goes_on("GET / HTTP/1.1\r\nHost: x\r\nConnection: x, close\r\n\r\n"));
    assert!(!goes_on("GET / HTTP/1.0\r\n\r\n"));
    assert!(!goes_on("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"));
}

// RFC 9112 §6.3, items 3 to 5, and §11.2: what intermediaries may read differently is refused.
#[test]
fn a_request_with_a_doubtful_length_is_refused() {
    let hidden = "GET /hidden HTTP/1.1\r\nHost: x\r\n\r\n";
    for lines in [
        // Equal lengths are refused, too, although RFC 9112 §6.3, item 5, allows a server to accept them.
        "Content-Length: 5\r\nContent-Length: 5\r\n",
        "Content-Length: 5\r\ncontent-length: 6\r\n",
        "Content-Length: 0\r\nContent-Length: 5\r\n",
        "Content-Length: 5, 5\r\n",
        "Content-Length: +5\r\n",
        "Content-Length: -5\r\n",
        "Content-Length: 0x5\r\n",
        "Content-Length: 5 5\r\n",
        "Content-Length:\r\n",
        "Content-Length : 5\r\n",
        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 0\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: gzip, chunked\r\n",
        "Transfer-Encoding: chunked, identity\r\n",
        "Transfer-Encoding: identity\r\n",
        "Transfer-Encoding: xchunked\r\n",
        "Transfer-Encoding: \"chunked\"\r\n",
        "Transfer-Encoding:\r\n",
        "Transfer-Encoding : chunked\r\n",
        " Content-Length: 5\r\n",
        "X: y\r\n Content-Length: 5\r\n",
        "X: y\r\n\tz\r\n",
        "X: y\nContent-Length: 5\r\n",
        "X: y\rContent-Length: 5\r\n",
        "X: y\n\r\n",
        "X: y\r\r\n",
    ] {
        assert_eq!(bodies(&post(lines, hidden)), refused(400), "{lines:?}");
    }
    let http_1_0 = "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
    assert_eq!(bodies(http_1_0), refused(400));
    assert_eq!(bodies("POST / HTTP/1.0\r\nContent-Length: 2\r\n\r\nhi"), accepted(&["hi"]));
}

// RFC 9112 §7.1: a chunk's size is one or more hexadecimal digits, and lines end in CR LF.
#[test]
fn malformed_chunks_are_refused() {
    for chunks in [
        "\r\n",
        ";x\r\n",
        " 5\r\n",
        "-5\r\n",
        "+5\r\n",
        "0x5\r\n",
        "5 \r\n",
        "5 5\r\n",
        "5\n",
        "5\rx",
        "g\r\n",
        "5;\n",
        "5;a\rb",
        "5;\u{1}",
        "2\r\nhi\n",
        "2\r\nhi!",
        "2\r\nhi\r!",
        "0\r\n\n",
        "0\r\n X: y\r\n\r\n",
        "0\r\nX: y\n",
        "0\r\n\rx",
        "00000000000000005\r\n",
        "2\r\nhi\r\n\r\n",
    ] {
        let stream = post("Transfer-Encoding: chunked\r\n", chunks);
        assert_eq!(bodies(&stream), refused(400), "{chunks:?}");
    }
}

#[test]
fn a_body_over_the_limit_is_refused_as_soon_as_its_length_is_known() {
    assert_eq!(
        bodies(&post("Content-Length: 100\r\n", &"x".repeat(100))),
        accepted(&["x".repeat(100).as_str()])
    );
    for len in ["101", "18446744073709551615", "18446744073709551616", "99999999999999999999999999"] {
        assert_eq!(bodies(&post(&format!("Content-Length: {len}\r\n"), "")), refused(413), "{len}");
    }
    let chunked = |chunks: &str| bodies(&post("Transfer-Encoding: chunked\r\n", chunks));
    assert_eq!(chunked("65\r\n"), refused(413));
    assert_eq!(chunked("ffffffffffffffff\r\n"), refused(413));
    assert_eq!(chunked(&format!("64\r\n{}\r\n1\r\n", "x".repeat(100))), refused(413));
    assert_eq!(chunked(&format!("64\r\n{}\r\n0\r\n\r\n", "x".repeat(100))), accepted(&[&"x".repeat(100)]));
    assert_eq!(read(&post("Content-Length: 1\r\n", ""), 0), [Seen::Refused(Status::ContentTooLarge)]);
    assert_eq!(read(&post("Content-Length: 0\r\n", ""), 0).len(), 1);
}

#[test]
fn chunk_extensions_and_trailer_fields_have_a_limit() {
    let limits = MessageLimits::default();
    let status = |chunks: &str| {
        let stream = post("Transfer-Encoding: chunked\r\n", chunks);
        match &feed(&mut Protocol::new(), stream.as_bytes(), &limits)[..] {
            [Seen::Refused(status)] => status.code(),
            [Seen::Request(..)] => 200,
            other => panic!("{other:?}"),
        }
    };
    let half = "x".repeat(8 << 10);
    assert_eq!(status(&format!("0\r\n{half}\r\n{half}\r\n\r\n")), 200);
    assert_eq!(status(&format!("0\r\n{half}\r\n{half}\r\ny\r\n\r\n")), 431);
    assert_eq!(status(&"1;xxxxxxx\r\na\r\n".repeat(2_049)), 431);
}

// RFC 9110 §10.1.1: the server asks for a body that the client holds back, and only then.
#[test]
fn a_client_that_waits_for_100_continue_is_asked_for_its_body() {
    let expecting = |version: &str, lines: &str| format!("POST / HTTP/{version}\r\nHost: x\r\n{lines}\r\n");
    let events = |reads: &[&str]| {
        let (mut protocol, mut reader) = (Protocol::new(), Reader::default());
        let mut events = Vec::new();
        for read in reads {
            let mut read = read.as_bytes().to_vec();
            let mut input = &mut read[..];
            while let Some(event) = protocol.next(&mut input, &mut reader) {
                events.push(match event {
                    ProtocolEvent::Continue => "continue".to_owned(),
                    ProtocolEvent::Request(request) => str::from_utf8(request.body).expect("text").to_owned(),
                    ProtocolEvent::Refused(refusal) => refusal.status.to_string(),
                    other => panic!("{other:?}"),
                });
            }
        }
        events
    };
    let head = expecting("1.1", "Content-Length: 2\r\nExpect: 100-Continue\r\n");
    assert_eq!(events(&[&head, "hi"]), ["continue", "hi"]);
    assert_eq!(events(&[&head[..9], &head[9..], "h", "i"]), ["continue", "hi"]);
    assert_eq!(events(&[&format!("{head}h"), "i"]), ["hi"]);
    assert_eq!(events(&[&head[..9], &format!("{}hi", &head[9..])]), ["hi"]);
    let chunked = expecting("1.1", "Transfer-Encoding: chunked\r\nExpect: 100-continue\r\n");
    assert_eq!(events(&[&chunked, "2\r\nhi\r\n0\r\n\r\n"]), ["continue", "hi"]);
    assert_eq!(events(&[&expecting("1.1", "Expect: 100-continue\r\n")]), [""]);
    assert_eq!(events(&[&expecting("1.0", "Content-Length: 2\r\nExpect: 100-continue\r\n"), "hi"]), ["hi"]);
    assert_eq!(
        events(&[&expecting("1.1", "Content-Length: 2\r\nExpect: 200-ok\r\n")]),
        ["417 Expectation Failed"]
    );
    let long = expecting("1.1", "Content-Length: 99999999\r\nExpect: 100-continue\r\n");
    assert_eq!(events(&[&long]), ["413 Content Too Large"]);
}

/// An announced length alone costs no memory.
#[test]
fn a_request_owns_memory_for_the_bytes_that_have_arrived() {
    let (mut protocol, mut reader) = (Protocol::new(), Reader::default());
    let mut read = post("Content-Length: 1000000\r\n", "some").into_bytes();
    assert!(protocol.next(&mut &mut read[..], &mut reader).is_none());
    let State::Http { buffer: Some(buffer), .. } = &protocol.state else { panic!("{protocol:?}") };
    assert!(buffer.memory() < 1_000, "{}", buffer.memory());
}

#[test]
fn an_answered_request_leaves_no_buffer() {
    let (mut protocol, mut reader) = (Protocol::new(), Reader::default());
    let request = post("Content-Length: 4\r\n", "some");
    for _ in 0..3 {
        for part in [&request[..20], &request[20..]] {
            let mut read = part.as_bytes().to_vec();
            let mut input = &mut read[..];
            let is_whole = protocol.next(&mut input, &mut reader).is_some();
            assert_eq!((is_whole, input.len()), (part.ends_with("some"), 0));
        }
        assert!(protocol.is_mid_item());
        // A request that waits for its answer keeps the input behind it unread, and its own bytes no longer than needed.
        let mut later = b"GET".to_vec();
        let mut input = &mut later[..];
        assert!(
            protocol.next(&mut input, &mut reader).is_none() && input.len() == 3 && !protocol.is_mid_item()
        );
        protocol.answered();
        assert!(!protocol.is_mid_item() && !protocol.is_discarding());
    }
}

/// Returns a strategy for the bytes of a chunked body, mostly valid or with one fault.
fn chunks() -> impl Strategy<Value = Vec<u8>> {
    let size = |len: usize| {
        prop_oneof![
            6 => Just(format!("{len:x}")),
            1 => Just(format!("{len:04X}")),
            1 => select(vec!["", "g", "ffffffffffffffff", "+1", "1 ", "0"]).prop_map(str::to_owned),
        ]
    };
    let extension = prop_oneof![
        6 => Just(""),
        2 => select(vec![";", ";a", " ;a=\"b\"", "\t;x"]),
        1 => select(vec![" ", "x", ";\n", ";\r", ";\u{1}"]),
    ];
    let end = || prop_oneof![12 => Just("\r\n"), 1 => select(vec!["\n", "\r", "", "\r\r\n"])];
    let chunk = (vec(select(b"ab\r\n0".to_vec()), 1..12), extension, end(), end()).prop_flat_map(
        move |(data, extension, first, second)| {
            size(data.len()).prop_map(move |size| {
                [size.as_bytes(), extension.as_bytes(), first.as_bytes(), &data, second.as_bytes()].concat()
            })
        },
    );
    let last =
        select(vec!["0\r\n\r\n", "000;x\r\nA: b\r\n\r\n", "0\r\n A: b\r\n\r\n", "0\r\n\n", "0\r\nA\r", ""]);
    let rest = select(vec!["", "GET /next HTTP/1.1\r\nHost: x\r\n\r\n", "0\r\n\r\n", "\r\nGET"]);
    (vec(chunk, 0..4), last, rest)
        .prop_map(|(chunks, last, rest)| [&chunks.concat(), last.as_bytes(), rest.as_bytes()].concat())
}

proptest! {
    #![proptest_config(config(512))]

    #[test]
    fn chunked_bodies_cut_anywhere_agree_with_the_naive_reader(
        stream in prop_oneof![4 => chunks(), 1 => vec(any::<u8>(), 0..60)],
        cuts in vec(0..200_usize, 0..8),
        max in select(vec![0_usize, 5, 20, 1_000]),
    ) {
        check_body(true, 0, max, &cuts, &stream);
    }

    #[test]
    fn bodies_with_a_length_cut_anywhere_agree_with_the_naive_reader(
        content in vec(any::<u8>(), 0..40),
        rest in select(vec!["", "GET /next HTTP/1.1\r\nHost: x\r\n\r\n", "\r\n\r\n", "POST"]),
        len in 0..40_usize,
        cuts in vec(0..200_usize, 0..8),
        max in select(vec![0_usize, 10, 1_000]),
    ) {
        check_body(false, len, max, &cuts, &[&content[..], rest.as_bytes()].concat());
    }
}
