//! A client that writes its bytes itself, so that it can be rude.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream};
use std::os::fd::{AsFd, AsRawFd};

use nix::libc;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, bind, connect, setsockopt, socket, sockopt,
};

use super::PATIENCE;

pub(crate) const TEXT: u8 = 0x81;
pub(crate) const BINARY: u8 = 0x82;
pub(crate) const CLOSE: u8 = 0x88;
pub(crate) const PING: u8 = 0x89;
pub(crate) const PONG: u8 = 0x8a;

/// A TCP connection, and what to say on it.
pub(crate) struct Raw {
    reader: BufReader<TcpStream>,
}

/// An answer of the server in HTTP.
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Raw {
    pub(crate) fn connect(address: SocketAddr) -> Self {
        Self::over(TcpStream::connect(address).expect("a connection"))
    }

    pub(crate) fn over(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).expect("a time-out");
        stream.set_nodelay(true).expect("no delay");
        Self { reader: BufReader::new(stream) }
    }

    /// Opens a WebSocket at `path`.
    pub(crate) fn open(address: SocketAddr, path: &str) -> Self {
        let mut raw = Self::connect(address);
        raw.send(upgrade_request(path).as_bytes());
        raw.switched();
        raw
    }

    /// Takes the answer that opens the WebSocket; its head.
    pub(crate) fn switched(&mut self) -> String {
        let head = self.head();
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        head
    }

    /// Whether the answer opens the WebSocket; another status.
    pub(crate) fn is_switched(&mut self) -> Result<(), u16> {
        let head = self.head();
        match head.get(9..12).and_then(|status| status.parse().ok()).expect(&head) {
            101 => Ok(()),
            status => Err(status),
        }
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.reader.get_mut().write_all(bytes).expect("sent");
    }

    /// Sends what the server may not want any more: a refusal may overtake the rest of what is refused.
    pub(crate) fn try_send(&mut self, bytes: &[u8]) {
        let _ = self.reader.get_mut().write_all(bytes);
    }

    /// First byte and payload of the next frame.
    pub(crate) fn frame(&mut self) -> (u8, Vec<u8>) {
        let [first, second] = self.take::<2>();
        let len = match second {
            126 => usize::from(u16::from_be_bytes(self.take())),
            127 => u64::from_be_bytes(self.take()) as usize,
            len => usize::from(len),
        };
        assert!(len < 1 << 31, "a mask bit or an absurd length: {second}");
        let mut payload = vec![0; len];
        self.reader.read_exact(&mut payload).expect("the whole payload");
        (first, payload)
    }

    /// The next frame, which is a close frame with a code; its code and reason.
    pub(crate) fn close_frame(&mut self) -> (u16, String) {
        let (first, payload) = self.frame();
        assert_eq!(first, CLOSE, "{}", String::from_utf8_lossy(&payload));
        let (code, reason) = payload.split_first_chunk().expect("a code");
        (u16::from_be_bytes(*code), String::from_utf8(reason.to_vec()).expect("text"))
    }

    /// The whole answer, which the end of the stream follows.
    pub(crate) fn response(&mut self) -> Response {
        let head = self.head();
        let status = head.get(9..12).and_then(|status| status.parse().ok()).expect(&head);
        let mut body = String::new();
        self.reader.read_to_string(&mut body).expect("a body in UTF-8, and the end");
        Response { status, head, body }
    }

    /// The status of the answer, as far as it came: what was sent after the server's last word may have made a
    /// reset of the rest.
    pub(crate) fn status(&mut self) -> Option<u16> {
        let mut line = String::new();
        self.reader.read_line(&mut line).ok()?;
        line.get(9..12)?.parse().ok()
    }

    /// All that still comes, to the end.
    pub(crate) fn rest(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        self.reader.read_to_end(&mut rest).expect("the end");
        rest
    }

    /// The next line of a head up to its empty line.
    fn head(&mut self) -> String {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            let len = self.reader.read_line(&mut head).expect("a line");
            assert_ne!(len, 0, "the end came within the head: {head:?}");
        }
        head
    }

    /// Checks that the stream ends here.
    pub(crate) fn end(&mut self) {
        assert_eq!(self.rest(), [0; 0], "nothing comes after the last word");
    }

    /// Waits until the server has reset the connection.
    pub(crate) fn reset(&mut self) {
        let error = self.reader.read_to_end(&mut Vec::new()).expect_err("a reset, no end");
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    }

    /// Ends our direction.
    pub(crate) fn half_close(&mut self) {
        self.reader.get_mut().shutdown(Shutdown::Write).expect("shut down");
    }

    /// Goes without a word: the server sees a reset.
    pub(crate) fn abort(self) {
        let linger = libc::linger { l_onoff: 1, l_linger: 0 };
        setsockopt(&self.reader.get_ref().as_fd(), sockopt::Linger, &linger).expect("linger");
    }

    /// Lets the kernel hold less that we have not read; with still less, loopback segments would not fit.
    pub(crate) fn with_small_window(self) -> Self {
        setsockopt(&self.reader.get_ref().as_fd(), sockopt::RcvBuf, &(256 << 10)).expect("a buffer size");
        self
    }

    /// The connection without what was read ahead, and that.
    pub(crate) fn into_parts(self) -> (TcpStream, Vec<u8>) {
        let ahead = self.reader.buffer().to_vec();
        (self.reader.into_inner(), ahead)
    }

    fn take<const LEN: usize>(&mut self) -> [u8; LEN] {
        let mut bytes = [0; LEN];
        self.reader.read_exact(&mut bytes).expect("more of a frame");
        bytes
    }
}

/// A connection from an address of our own choice.
pub(crate) fn connect_from(source: IpAddr, address: SocketAddr) -> TcpStream {
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let socket = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).expect("a socket");
    let source = SockaddrStorage::from(SocketAddr::new(source, 0));
    bind(socket.as_raw_fd(), &source).expect("an address of the loopback interface");
    connect(socket.as_raw_fd(), &SockaddrStorage::from(address)).expect("a connection");
    socket.into()
}

pub(crate) fn upgrade_request(path: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
}

/// A client's frame: first byte, length in its shortest form, mask, masked payload. RFC 6455 §5.2
pub(crate) fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    const KEY: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
    let mut bytes = vec![first];
    match payload.len() {
        len @ ..126 => bytes.push(0x80 | len as u8),
        len @ ..65_536 => {
            bytes.push(0x80 | 126);
            bytes.extend((len as u16).to_be_bytes());
        }
        len => {
            bytes.push(0x80 | 127);
            bytes.extend((len as u64).to_be_bytes());
        }
    }
    bytes.extend(KEY);
    bytes.extend(payload.iter().zip(KEY.iter().cycle()).map(|(byte, key)| byte ^ key));
    bytes
}

/// The payload of a close frame.
pub(crate) fn close_payload(code: u16, reason: &str) -> Vec<u8> {
    [&code.to_be_bytes(), reason.as_bytes()].concat()
}
