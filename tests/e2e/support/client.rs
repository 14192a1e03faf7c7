//! A well-behaved WebSocket client over TCP, TLS or a Unix socket.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;

use tungstenite::{Error, Message, WebSocket};

use super::TIMEOUT;

/// A blocking WebSocket test client. Panics when an expected message does not arrive in time.
pub(crate) struct Client<S = TcpStream> {
    pub(crate) socket: WebSocket<S>,
}

impl Client {
    /// Opens a WebSocket at `path` over a new TCP connection.
    pub(crate) fn open(address: SocketAddr, path: &str) -> Self {
        let stream = TcpStream::connect(address).expect("the server accepts the connection");
        Self::open_on(stream, path).expect("the server accepts the handshake")
    }

    /// Opens a WebSocket over the TCP connection `stream`. Returns the HTTP status when the server refuses the
    /// handshake.
    pub(crate) fn open_on(stream: TcpStream, path: &str) -> Result<Self, u16> {
        Self::try_open(stream, path).map_err(|error| match error {
            Error::Http(response) => response.status().as_u16(),
            error => panic!("the handshake failed: {error}"),
        })
    }

    /// Opens a WebSocket over the TCP connection `stream`. Returns any error of the handshake.
    pub(crate) fn try_open(stream: TcpStream, path: &str) -> Result<Self, Error> {
        stream.set_read_timeout(Some(TIMEOUT)).expect("a TCP socket");
        stream.set_nodelay(true).expect("a TCP socket");
        let address = stream.peer_addr().expect("a connected socket");
        Self::try_open_url(stream, &format!("ws://{address}{path}"))
    }
}

impl Client<UnixStream> {
    /// Opens a WebSocket at `/` over the Unix socket at `path`.
    pub(crate) fn open_unix(path: &Path) -> Self {
        let stream = UnixStream::connect(path).expect("the server accepts the connection");
        stream.set_read_timeout(Some(TIMEOUT)).expect("a Unix socket");
        Self::try_open_url(stream, "ws://localhost/").expect("the server accepts the handshake")
    }
}

impl<S: Read + Write> Client<S> {
    /// Opens a WebSocket over any connected stream. Returns any error of the handshake.
    pub(crate) fn try_open_url(stream: S, url: &str) -> Result<Self, Error> {
        match tungstenite::client(url, stream) {
            Ok((socket, _)) => Ok(Self { socket }),
            Err(tungstenite::HandshakeError::Failure(error)) => Err(error),
            Err(error) => panic!("the handshake failed: {error}"),
        }
    }

    pub(crate) fn send(&mut self, message: Message) {
        self.socket.send(message).expect("the message can be sent");
    }

    pub(crate) fn send_text(&mut self, text: &str) {
        self.send(Message::text(text));
    }

    /// Sends several text messages with one flush.
    pub(crate) fn send_texts_together(&mut self, texts: &[&str]) {
        for text in texts {
            self.socket.write(Message::text(*text)).expect("the message can be buffered");
        }
        self.socket.flush().expect("the messages can be sent");
    }

    /// Receives the next text or binary message. Answers pings and skips them.
    pub(crate) fn receive(&mut self) -> Message {
        loop {
            match self.socket.read().expect("a message arrives") {
                Message::Ping(_) | Message::Pong(_) => {}
                Message::Close(frame) => panic!("closed while waiting for a message: {frame:?}"),
                message => return message,
            }
        }
    }

    /// Receives the next message and returns its text. Panics when the message is not text.
    pub(crate) fn receive_text(&mut self) -> String {
        match self.receive() {
            Message::Text(text) => text.as_str().to_owned(),
            other => panic!("expected text, got {other:?}"),
        }
    }

    /// Receives the next message and asserts that it is the text message `text`.
    #[track_caller]
    pub(crate) fn expect_text(&mut self, text: &str) {
        assert_eq!(self.receive_text(), text);
    }

    /// Reads until the closing handshake is complete. Returns the code and reason of the server's close frame.
    pub(crate) fn wait_for_close(&mut self) -> (u16, String) {
        let mut closed = None;
        loop {
            match self.socket.read() {
                Ok(Message::Close(Some(frame))) => {
                    closed = Some((frame.code.into(), frame.reason.as_str().to_owned()));
                }
                Ok(_) => {}
                Err(Error::ConnectionClosed) => return closed.expect("a close frame with a code"),
                Err(error) => panic!("{error} instead of a closing handshake; close frame: {closed:?}"),
            }
        }
    }
}
