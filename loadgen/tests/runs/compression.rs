//! Runs with permessage-deflate against a server that compresses. The server may have one fault.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Output;
use std::thread;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};
use serde_json::Value;
use sha1::{Digest as _, Sha1};

use crate::server::loadgen;

/// A fault of the compressing test server.
#[derive(Clone, Copy, PartialEq)]
enum Fault {
    None,
    /// The handshake's answer has this header line instead of the correct extension header.
    Answer(&'static str),
    /// The server's third message has two frames that are both marked as compressed.
    Continuation,
    /// The server's third message is not valid DEFLATE data.
    Garbage,
    /// The server's third message refers to bytes that were never sent.
    Context,
}

const TAIL: [u8; 4] = [0, 0, 0xFF, 0xFF];

/// Starts an echo server that compresses. The server keeps its compression context unless the client asks it not to.
fn serve(fault: Fault) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let address = listener.local_addr().expect("it is bound");
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // The result is ignored, because a client may leave at any time.
            thread::spawn(move || Peer::welcome(stream, fault).map(Peer::echo));
        }
    });
    address
}

struct Peer {
    reader: BufReader<TcpStream>,
    stream: TcpStream,
    fault: Fault,
    takeover: bool,
    deflater: Compress,
    inflater: Decompress,
    messages: usize,
}

impl Peer {
    fn welcome(stream: TcpStream, fault: Fault) -> Option<Self> {
        stream.set_nodelay(true).ok()?;
        let mut reader = BufReader::new(stream.try_clone().ok()?);
        let mut request = String::new();
        while !request.ends_with("\r\n\r\n") {
            reader.read_line(&mut request).ok().filter(|&len| len > 0)?;
        }
        let value = |name: &str| {
            let line = request.lines().find(|line| line.starts_with(name))?;
            line.split_once(": ").map(|(_, value)| value.to_owned())
        };
        let seal = format!("{}258EAFA5-E914-47DA-95CA-C5AB0DC85B11", value("Sec-WebSocket-Key")?);
        let accept = BASE64_STANDARD.encode(Sha1::digest(seal));
        let takeover = !value("Sec-WebSocket-Extensions")?.contains("server_no_context_takeover");
        let right = if takeover {
            "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits=10\r\n"
        } else {
            "Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover; \
             client_no_context_takeover\r\n"
        };
        let answer = if let Fault::Answer(wrong) = fault { wrong } else { right };
        let response = format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: {accept}\r\n{answer}\r\n"
        );
        let deflater = Compress::new(Compression::new(6), false);
        let window_bits = if takeover { 10 } else { 15 };
        let inflater = Decompress::new_with_window_bits(false, window_bits);
        let mut peer = Self { reader, stream, fault, takeover, deflater, inflater, messages: 0 };
        peer.stream.write_all(response.as_bytes()).ok()?;
        Some(peer)
    }

    /// Echoes messages until the client sends a close frame or an uncompressed message.
    fn echo(mut self) -> Option<()> {
        loop {
            let (first, payload) = self.read_frame()?;
            if first == 0x88 {
                return self.stream.write_all(&frame(0x88, &payload)).ok();
            }
            let text = self.inflate(&payload).filter(|_| first == 0xC1)?;
            self.messages += 1;
            let compressed = self.deflate(&text)?;
            let answer = match self.fault {
                Fault::Continuation if self.messages == 3 => {
                    let (front, back) = compressed.split_at(compressed.len() / 2);
                    [frame(0x41, front), frame(0xC0, back)].concat()
                }
                Fault::Garbage if self.messages == 3 => frame(0xC1, &[0x06, 0x07]),
                // A compressed message that begins with a back-reference, although the server has no context.
                Fault::Context if self.messages == 3 => frame(0xC1, &[0xF2, 0x00, 0x11, 0x00, 0x00]),
                _ => frame(0xC1, &compressed),
            };
            self.stream.write_all(&answer).ok()?;
        }
    }

    /// Returns the first byte and the payload of the client's next frame.
    fn read_frame(&mut self) -> Option<(u8, Vec<u8>)> {
        let mut head = [0; 2];
        self.reader.read_exact(&mut head).ok()?;
        let len = match head[1] & 0x7F {
            126 => {
                let mut long = [0; 2];
                self.reader.read_exact(&mut long).ok()?;
                usize::from(u16::from_be_bytes(long))
            }
            short => usize::from(short),
        };
        let mut key = [0; 4];
        self.reader.read_exact(&mut key).ok()?;
        let mut payload = vec![0; len];
        self.reader.read_exact(&mut payload).ok()?;
        payload.iter_mut().zip(key.iter().cycle()).for_each(|(byte, key)| *byte ^= key);
        Some((head[0], payload))
    }

    fn inflate(&mut self, compressed: &[u8]) -> Option<Vec<u8>> {
        if !self.takeover {
            self.inflater.reset(false);
        }
        let mut out = Vec::with_capacity(1 << 16);
        let whole = [compressed, &TAIL].concat();
        self.inflater.decompress_vec(&whole, &mut out, FlushDecompress::None).ok()?;
        Some(out)
    }

    fn deflate(&mut self, text: &[u8]) -> Option<Vec<u8>> {
        if !self.takeover {
            self.deflater.reset();
        }
        let mut out = Vec::with_capacity(1 << 16);
        self.deflater.compress_vec(text, &mut out, FlushCompress::Sync).ok()?;
        out.truncate(out.len() - TAIL.len());
        Some(out)
    }
}

fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![first];
    match payload.len() {
        len @ 0..126 => frame.push(len as u8),
        len => {
            frame.push(126);
            frame.extend((len as u16).to_be_bytes());
        }
    }
    frame.extend(payload);
    frame
}

const ECHO: &str = "echo -c 3 --threads 2 --rate 60 --duration 500ms --grace 1s --size 600 --payload json";

fn echo(fault: Fault, name: &str, compression: &str) -> (Output, Value) {
    loadgen(serve(fault), name, &format!("{ECHO} --compression {compression}"))
}

#[test]
fn compressed_echoes_return_and_are_shorter_on_the_wire() {
    let ratio = |compression: &str| {
        let (output, figures) = echo(Fault::None, &format!("deflate-{compression}"), compression);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        assert_eq!(
            (&figures["messages"]["sent"], &figures["messages"]["received"]),
            (&30.into(), &30.into())
        );
        let wire = &figures["wire"];
        assert_eq!((&wire["messages"], &wire["payload_bytes"]), (&30.into(), &(30 * 600).into()));
        wire["ratio"].as_f64().expect("messages came")
    };
    let (alone, together) = (ratio("on"), ratio("takeover"));
    assert!(1.5 < alone && alone < together, "{alone}, {together}");
}

#[test]
fn a_server_that_negotiates_another_compression_is_refused() {
    for (answer, compression, reason) in [
        ("", "on", "did not agree to permessage-deflate"),
        ("Sec-WebSocket-Extensions: permessage-deflate\r\n", "on", "server_no_context_takeover was demanded"),
        (
            "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits=7\r\n",
            "takeover",
            "`7` bits",
        ),
    ] {
        let (output, figures) = echo(Fault::Answer(answer), "answer", compression);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!((output.status.code(), figures), (Some(2), Value::Null), "{said}");
        assert!(said.contains(reason), "{said}");
    }
}

#[test]
fn a_wrong_compressed_message_fails_the_run() {
    for (fault, reason) in [
        (
            Fault::Continuation,
            "a frame begins with 0xc0: it has reserved bits that no negotiated extension uses",
        ),
        (Fault::Garbage, "a compressed message cannot be decompressed"),
        (Fault::Context, "a compressed message cannot be decompressed"),
    ] {
        let (output, figures) = echo(fault, "wrong", "on");
        let text = String::from_utf8_lossy(&output.stdout);
        assert_eq!((output.status.code(), &figures["passed"]), (Some(1), &false.into()), "{text}");
        assert!(text.contains(&format!("3 times: {reason}")), "{text}");
        assert!(figures["messages"]["lost"].as_u64() >= Some(3), "{text}");
    }
}

#[test]
fn idle_connections_send_first_with_speak() {
    let address = serve(Fault::None);
    let idle = "idle -c 20 --threads 2 --duration 200ms --speak 2 --compression takeover";
    let (output, figures) = loadgen(address, "speak", idle);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    // Each of 20 connections sends two messages at first and one at the end. The latency counts only the last message.
    assert_eq!((&figures["messages"]["sent"], &figures["messages"]["received"]), (&60.into(), &60.into()));
    assert_eq!(figures["latency"]["count"], 20);
    assert!(figures["bytes_per_connection"]["server_rss"].is_number());

    let (output, figures) = loadgen(serve(Fault::Garbage), "mute", idle);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!((&figures["messages"]["received"], &figures["messages"]["lost"]), (&40.into(), &20.into()));
}
