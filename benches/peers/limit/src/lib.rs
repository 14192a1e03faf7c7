//! The byte handling of both limit programs: the least work that passes the load generator's checks.
//!
//! A limit program is not a WebSocket server. It shows the kernel's cost for the receives and sends of a scenario. The
//! distance between a real server and a limit program is the cost of the real server's own code. A limit program has
//! one thread and one room, and
//!
//! - answers only the `Sec-WebSocket-Key` of a request, on any path;
//! - uses the size of a client's first frame for all frames of that client, so that it reads no further header;
//! - unmasks, because every client has its own masks and the load generator compares each byte;
//! - reads the opcode only to find a close frame, and answers the close frame;
//! - sends the frames of one turn with one send per client;
//! - takes a client whose first bytes are `POST` for a publisher: it puts the body of each request into the room as a text
//!   message, and answers with a fixed response. All requests of the client have the lengths of the first one.
//!
//! There is no other frame logic: no check of headers, lengths or UTF-8, no control frames, no fragments, no message
//! limit. There are no timers, no limits per client or address, no history, no application and no metrics. A client
//! that sends messages of different sizes breaks the program, and so does a client that is more than 64 MiB behind.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use peer::App;
use sha1::{Digest as _, Sha1};

/// Number of the room's latest bytes that are kept for slow clients.
const ROOM_LEN: usize = 64 << 20;
const KEY_HEADER: &[u8] = b"Sec-WebSocket-Key: ";
/// Length of a `Sec-WebSocket-Key`, in bytes (RFC 6455 §4.1: base64 of 16 bytes).
const KEY_LEN: usize = 24;
const CLOSE_NORMALLY: [u8; 4] = [0x88, 2, 0x03, 0xE8];
const LENGTH_HEADER: &[u8] = b"Content-Length: ";
/// The response to a request that publishes.
const ACCEPTED: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";

/// The error of a connection that must be closed after its pending bytes are sent.
#[derive(Debug, PartialEq, Eq)]
pub struct Ended;

/// The parse state of one client's bytes.
#[derive(Debug, Default)]
pub struct Input {
    /// The client's handshake has succeeded.
    pub is_open: bool,
    /// The start of a request or frame that has not arrived whole.
    kept: Vec<u8>,
    /// Length of the header of the client's first frame, in bytes; 0 before the first frame.
    header_len: usize,
    /// Length of the client's first frame with its header, in bytes; 0 before the first frame.
    frame_len: usize,
    /// Lengths of head and body of a publisher's first request, in bytes. `None` before it, and for other clients.
    request_lens: Option<(usize, usize)>,
}

impl Input {
    /// Handles bytes received from a client. Message frames are appended to `own` with `App::Echo`, and to `room` with
    /// `App::Relay`. Other answers are appended to `own`.
    ///
    /// # Errors
    /// Returns an error if the client has closed, or if its bytes make no sense.
    pub fn receive(
        &mut self,
        bytes: &[u8],
        app: App,
        own: &mut Vec<u8>,
        room: &mut Vec<u8>,
    ) -> Result<(), Ended> {
        if self.kept.is_empty() {
            let used = self.take(bytes, app, own, room)?;
            self.kept.extend_from_slice(&bytes[used..]);
        } else {
            let mut kept = std::mem::take(&mut self.kept);
            kept.extend_from_slice(bytes);
            let used = self.take(&kept, app, own, room)?;
            kept.drain(..used);
            self.kept = kept;
        }
        Ok(())
    }

    fn take(
        &mut self,
        bytes: &[u8],
        app: App,
        own: &mut Vec<u8>,
        room: &mut Vec<u8>,
    ) -> Result<usize, Ended> {
        let mut used = 0;
        if self.request_lens.is_some() || (!self.is_open && bytes.starts_with(b"POST")) {
            return self.take_requests(bytes, own, room);
        }
        if !self.is_open {
            let Some(head_len) = answer(bytes, own)? else { return Ok(0) };
            self.is_open = true;
            used = head_len;
        }
        let out = if app == App::Echo { &mut *own } else { room };
        let mut rest = &bytes[used..];
        while let [first, second, ..] = *rest {
            if first & 0x08 != 0 {
                own.extend_from_slice(&CLOSE_NORMALLY);
                return Err(Ended);
            }
            if self.frame_len == 0 && !self.measure(rest, second) {
                break;
            }
            let Some((frame, next)) = rest.split_at_checked(self.frame_len) else { break };
            unmask(frame, self.header_len, out);
            used += self.frame_len;
            rest = next;
        }
        Ok(used)
    }

    /// Handles the whole requests in a publisher's bytes. Returns the number of handled bytes.
    fn take_requests(&mut self, bytes: &[u8], own: &mut Vec<u8>, room: &mut Vec<u8>) -> Result<usize, Ended> {
        if self.request_lens.is_none() {
            self.request_lens = request_lens(bytes)?;
        }
        let Some((head_len, body_len)) = self.request_lens else { return Ok(0) };
        let mut used = 0;
        while let Some(request) = bytes[used..].get(..head_len + body_len) {
            append_frame(&request[head_len..], room);
            own.extend_from_slice(ACCEPTED);
            used += request.len();
        }
        Ok(used)
    }

    /// Stores the lengths of the client's first frame. Returns false if the frame's header is incomplete.
    fn measure(&mut self, frame: &[u8], second: u8) -> bool {
        let (header_len, payload_len) = match (second & 0x7F, frame) {
            (126, &[_, _, a, b, ..]) => (4, usize::from(u16::from_be_bytes([a, b]))),
            (127, &[_, _, a, b, c, d, e, f, g, h, ..]) => {
                (10, u64::from_be_bytes([a, b, c, d, e, f, g, h]) as usize)
            }
            (126 | 127, _) => return false,
            (len, _) => (2, usize::from(len)),
        };
        self.header_len = header_len;
        self.frame_len = header_len + 4 + payload_len;
        true
    }
}

/// The latest 64 MiB of the room's frames, as they are sent to clients.
///
/// A position in the room counts all bytes that were ever appended.
pub struct Room {
    ring: Box<[u8]>,
    head: u64,
}

impl Default for Room {
    fn default() -> Self {
        Self { ring: vec![0; ROOM_LEN].into(), head: 0 }
    }
}

impl Room {
    /// Returns the position after the last appended byte.
    #[must_use]
    pub fn head(&self) -> u64 {
        self.head
    }

    /// Appends encoded frames to the room.
    pub fn append(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let at = self.head as usize % ROOM_LEN;
            let count = bytes.len().min(ROOM_LEN - at);
            self.ring[at..at + count].copy_from_slice(&bytes[..count]);
            self.head += count as u64;
            bytes = &bytes[count..];
        }
    }

    /// Returns the room's bytes from `position` on that are contiguous in memory.
    ///
    /// # Errors
    /// Returns an error if the bytes at `position` are no longer kept.
    pub fn since(&self, position: u64) -> Result<&[u8], Ended> {
        let len = (self.head - position) as usize;
        if len > ROOM_LEN {
            return Err(Ended);
        }
        let at = position as usize % ROOM_LEN;
        Ok(&self.ring[at..(at + len).min(ROOM_LEN)])
    }
}

/// Answers the handshake request if it is complete, and returns its length in bytes. Returns `None` for an incomplete
/// request.
fn answer(bytes: &[u8], out: &mut Vec<u8>) -> Result<Option<usize>, Ended> {
    let Some(end) = find(bytes, b"\r\n\r\n") else { return Ok(None) };
    let key_at = find(bytes, KEY_HEADER).ok_or(Ended)? + KEY_HEADER.len();
    let key = bytes.get(key_at..key_at + KEY_LEN).ok_or(Ended)?;
    // The value of `Sec-WebSocket-Accept` (RFC 6455 §4.2.2).
    let digest =
        Sha1::new().chain_update(key).chain_update("258EAFA5-E914-47DA-95CA-C5AB0DC85B11").finalize();
    let head = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n";
    let accept = BASE64_STANDARD.encode(digest);
    out.extend_from_slice(format!("{head}Sec-WebSocket-Accept: {accept}\r\n\r\n").as_bytes());
    Ok(Some(end + 4))
}

/// Returns the lengths of head and body of the request at the front of `bytes`. `None` if its head is incomplete.
fn request_lens(bytes: &[u8]) -> Result<Option<(usize, usize)>, Ended> {
    let Some(end) = find(bytes, b"\r\n\r\n") else { return Ok(None) };
    let length_at = find(&bytes[..end], LENGTH_HEADER).ok_or(Ended)? + LENGTH_HEADER.len();
    let digits = bytes[length_at..end].split(|&byte| byte == b'\r').next().unwrap_or(&[]);
    let body_len = std::str::from_utf8(digits).ok().and_then(|digits| digits.parse().ok()).ok_or(Ended)?;
    Ok(Some((end + 4, body_len)))
}

/// Appends a text frame of the server to `out` (RFC 6455 §5.2).
fn append_frame(payload: &[u8], out: &mut Vec<u8>) {
    let len = payload.len();
    match (u8::try_from(len), u16::try_from(len)) {
        (Ok(short @ 0..126), _) => out.extend_from_slice(&[0x81, short]),
        (_, Ok(medium)) => {
            out.extend_from_slice(&[0x81, 126]);
            out.extend_from_slice(&medium.to_be_bytes());
        }
        _ => {
            out.extend_from_slice(&[0x81, 127]);
            out.extend_from_slice(&(len as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(payload);
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

/// Appends the server's frame that repeats a client's masked frame (RFC 6455 §5.3).
fn unmask(frame: &[u8], header_len: usize, out: &mut Vec<u8>) {
    let (header, rest) = frame.split_at(header_len);
    let (key, payload) = rest.split_at(4);
    out.extend_from_slice(&[header[0], header[1] & 0x7F]);
    out.extend_from_slice(&header[2..]);
    let start = out.len();
    out.extend_from_slice(payload);
    let [a, b, c, d] = [key[0], key[1], key[2], key[3]];
    let wide_key = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let (words, last) = out[start..].as_chunks_mut::<8>();
    for word in words {
        *word = (u64::from_ne_bytes(*word) ^ wide_key).to_ne_bytes();
    }
    for (byte, key) in last.iter_mut().zip(key.iter().cycle()) {
        *byte ^= key;
    }
}
