//! A WebSocket client that writes raw bytes, so that tests can break the protocol.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream};
use std::os::fd::{AsFd, AsRawFd};

use nix::libc;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, bind, connect, setsockopt, socket, sockopt,
};

use super::TIMEOUT;

// First bytes of unfragmented frames: the FIN bit and the opcode. RFC 6455 §5.2
pub(crate) const TEXT: u8 = 0x81;
pub(crate) const BINARY: u8 = 0x82;
pub(crate) const CLOSE: u8 = 0x88;
pub(crate) const PING: u8 = 0x89;
pub(crate) const PONG: u8 = 0x8a;

/// A raw WebSocket client: a TCP connection to the server, with a buffered reader.
pub(crate) struct RawClient {
    reader: BufReader<TcpStream>,
}

/// An HTTP response that is not an upgrade.
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    /// Status line and header fields of the response.
    pub(crate) head: String,
    pub(crate) body: String,
}

impl RawClient {
    pub(crate) fn connect(address: SocketAddr) -> Self {
        Self::from_stream(TcpStream::connect(address).expect("the server accepts the connection"))
    }

    pub(crate) fn from_stream(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(TIMEOUT)).expect("a TCP socket");
        stream.set_nodelay(true).expect("a TCP socket");
        Self { reader: BufReader::new(stream) }
    }

    /// Opens a WebSocket at `path` over a new TCP connection.
    pub(crate) fn open(address: SocketAddr, path: &str) -> Self {
        let mut raw = Self::connect(address);
        raw.send(upgrade_request(path).as_bytes());
        raw.expect_upgrade();
        raw
    }

    /// Receives the response that opens the WebSocket and returns the response's head.
    pub(crate) fn expect_upgrade(&mut self) -> String {
        let head = self.receive_head();
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        head
    }

    /// Receives the response to an upgrade request. Returns the HTTP status when the server refuses.
    pub(crate) fn upgrade_result(&mut self) -> Result<(), u16> {
        let head = self.receive_head();
        match head.get(9..12).and_then(|status| status.parse().ok()).expect(&head) {
            101 => Ok(()),
            status => Err(status),
        }
    }

    /// Sends bytes. Panics when the server has reset the connection.
    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.reader.get_mut().write_all(bytes).expect("the server reads");
    }

    /// Sends bytes and ignores errors: the server may reset the connection before it has read all bytes.
    pub(crate) fn try_send(&mut self, bytes: &[u8]) {
        let _ = self.can_send(bytes);
    }

    /// Sends bytes. Returns false if the connection was reset.
    pub(crate) fn can_send(&mut self, bytes: &[u8]) -> bool {
        self.reader.get_mut().write_all(bytes).is_ok()
    }

    /// Receives the next frame. Returns the frame's first byte and payload.
    pub(crate) fn receive_frame(&mut self) -> (u8, Vec<u8>) {
        let mut header = Vec::new();
        let len = loop {
            header.extend(self.receive_byte());
            if let Some((_, len)) = server_frame_lens(&header) {
                break len;
            }
        };
        let mut payload = vec![0; len];
        self.reader.read_exact(&mut payload).expect("the whole payload arrives");
        (header[0], payload)
    }

    /// Receives the next frame, which must be a close frame. Returns the close code and reason.
    pub(crate) fn receive_close(&mut self) -> (u16, String) {
        let (first, payload) = self.receive_frame();
        assert_eq!(first, CLOSE, "{}", String::from_utf8_lossy(&payload));
        let (code, reason) = payload.split_first_chunk().expect("a code");
        (u16::from_be_bytes(*code), String::from_utf8(reason.to_vec()).expect("UTF-8"))
    }

    /// Receives a whole HTTP response. The body of a response that ends its connection is everything up to the end of
    /// the stream, and that of another one is as long as its `Content-Length`.
    pub(crate) fn receive_response(&mut self) -> Response {
        let head = self.receive_head();
        let status = head.get(9..12).and_then(|status| status.parse().ok()).expect(&head);
        let mut body = Vec::new();
        if status == 101 || head.contains("\r\nConnection: close\r\n") {
            self.reader.read_to_end(&mut body).expect("the end of the stream");
        } else if let Some((_, fields)) = head.split_once("\r\nContent-Length: ") {
            let (len, _) = fields.split_once("\r\n").expect(&head);
            body.resize(len.parse().expect(&head), 0);
            self.reader.read_exact(&mut body).expect("the whole body");
        }
        Response { status, head, body: String::from_utf8(body).expect("a body in UTF-8") }
    }

    /// Receives the status of an HTTP response. Returns `None` when the server resets the connection first. A client
    /// causes such a reset by sending after the server has closed.
    pub(crate) fn receive_status(&mut self) -> Option<u16> {
        let mut line = String::new();
        self.reader.read_line(&mut line).ok()?;
        line.get(9..12)?.parse().ok()
    }

    /// Receives all bytes up to the end of the stream.
    pub(crate) fn read_to_end_of_stream(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        self.reader.read_to_end(&mut rest).expect("the end of the stream");
        rest
    }

    /// Receives the head of an HTTP response, with the empty line that ends it.
    pub(crate) fn receive_head(&mut self) -> String {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            let len = self.reader.read_line(&mut head).expect("a line in UTF-8");
            assert_ne!(len, 0, "the stream ended within the head: {head:?}");
        }
        head
    }

    /// Asserts that the server sends no more bytes and ends the stream.
    pub(crate) fn expect_end(&mut self) {
        assert_eq!(self.read_to_end_of_stream(), [0; 0], "the server sent bytes after its last frame");
    }

    /// Asserts that the server resets the connection.
    pub(crate) fn expect_reset(&mut self) {
        let error = self.reader.read_to_end(&mut Vec::new()).expect_err("a reset, not an orderly end");
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    }

    /// Shuts down the sending direction of the connection. Does nothing if the server has reset the connection.
    pub(crate) fn half_close(&mut self) {
        match self.reader.get_mut().shutdown(Shutdown::Write) {
            Err(error) if error.kind() != std::io::ErrorKind::NotConnected => panic!("{error}"),
            _ => {}
        }
    }

    /// Closes the connection with a TCP reset.
    pub(crate) fn abort(self) {
        let linger = libc::linger { l_onoff: 1, l_linger: 0 };
        setsockopt(&self.reader.get_ref().as_fd(), sockopt::Linger, &linger).expect("a TCP socket");
    }

    /// Makes the kernel's receive buffer small, but large enough for one segment of the loopback interface.
    pub(crate) fn with_small_window(self) -> Self {
        setsockopt(&self.reader.get_ref().as_fd(), sockopt::RcvBuf, &(256 << 10)).expect("a TCP socket");
        self
    }

    /// Returns the TCP stream, and the received bytes that no method has returned yet.
    pub(crate) fn into_parts(self) -> (TcpStream, Vec<u8>) {
        let ahead = self.reader.buffer().to_vec();
        (self.reader.into_inner(), ahead)
    }

    fn receive_byte(&mut self) -> [u8; 1] {
        let mut byte = [0];
        self.reader.read_exact(&mut byte).expect("another byte of a frame arrives");
        byte
    }
}

/// Connects to `address` from the IP address `source`.
pub(crate) fn connect_from(source: IpAddr, address: SocketAddr) -> TcpStream {
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let socket = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).expect("a socket");
    let source = SockaddrStorage::from(SocketAddr::new(source, 0));
    bind(socket.as_raw_fd(), &source).expect("an address of the loopback interface");
    connect(socket.as_raw_fd(), &SockaddrStorage::from(address)).expect("a connection");
    socket.into()
}

/// Returns the HTTP request that opens a WebSocket at `path`.
pub(crate) fn upgrade_request(path: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
}

/// Returns the HTTP request that opens a WebSocket at `path`, with additional header lines.
pub(crate) fn upgrade_request_with(path: &str, headers: &[&str]) -> String {
    let lines: String = headers.iter().map(|line| format!("{line}\r\n")).collect();
    upgrade_request(path).replacen("\r\n\r\n", &format!("\r\n{lines}\r\n"), 1)
}

/// Returns the lengths in bytes of the header and the payload of the server frame at the start of `bytes`. Returns
/// `None` while the header is incomplete. RFC 6455 §5.2
pub(crate) fn server_frame_lens(bytes: &[u8]) -> Option<(usize, usize)> {
    let (&second, rest) = bytes.get(1..)?.split_first()?;
    assert!(second & 0x80 == 0, "a server must not mask its frames");
    Some(match second {
        126 => (4, usize::from(u16::from_be_bytes(*rest.first_chunk()?))),
        127 => (10, usize::try_from(u64::from_be_bytes(*rest.first_chunk()?)).expect("a length below 2^63")),
        len => (2, usize::from(len)),
    })
}

/// Returns an encoded client frame: `first` byte, length in its shortest form, mask, masked payload. RFC 6455 §5.2
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

/// Returns the payload of a close frame: close code, then reason.
pub(crate) fn close_payload(code: u16, reason: &str) -> Vec<u8> {
    [&code.to_be_bytes(), reason.as_bytes()].concat()
}
