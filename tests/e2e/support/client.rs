//! A well-behaved client.

use std::net::{SocketAddr, TcpStream};

use tungstenite::{Error, Message, WebSocket};

use super::PATIENCE;

/// A WebSocket client that waits for what must come.
pub(crate) struct Client {
    pub(crate) socket: WebSocket<TcpStream>,
}

impl Client {
    /// Opens a WebSocket at `path`.
    pub(crate) fn open(address: SocketAddr, path: &str) -> Self {
        let stream = TcpStream::connect(address).expect("a connection");
        Self::open_on(stream, path).expect("the handshake succeeds")
    }

    /// Opens a WebSocket over a connection; the status when the server answers otherwise.
    pub(crate) fn open_on(stream: TcpStream, path: &str) -> Result<Self, u16> {
        Self::try_open(stream, path).map_err(|error| match error {
            Error::Http(response) => response.status().as_u16(),
            error => panic!("the handshake gave {error}"),
        })
    }

    /// The same, or what came instead of an answer.
    pub(crate) fn try_open(stream: TcpStream, path: &str) -> Result<Self, Error> {
        stream.set_read_timeout(Some(PATIENCE)).expect("a time-out");
        stream.set_nodelay(true).expect("no delay");
        let address = stream.peer_addr().expect("connected");
        match tungstenite::client(format!("ws://{address}{path}"), stream) {
            Ok((socket, _)) => Ok(Self { socket }),
            Err(tungstenite::HandshakeError::Failure(error)) => Err(error),
            Err(error) => panic!("the handshake gave {error}"),
        }
    }

    pub(crate) fn send(&mut self, message: Message) {
        self.socket.send(message).expect("sent");
    }

    /// Sends a text message.
    pub(crate) fn say(&mut self, text: &str) {
        self.send(Message::text(text));
    }

    /// Says several things in one packet.
    pub(crate) fn say_at_once(&mut self, texts: &[&str]) {
        for text in texts {
            self.socket.write(Message::text(*text)).expect("buffered");
        }
        self.socket.flush().expect("sent");
    }

    /// The next text or binary message.
    pub(crate) fn message(&mut self) -> Message {
        loop {
            match self.socket.read().expect("a message") {
                Message::Ping(_) | Message::Pong(_) => {}
                Message::Close(frame) => panic!("closed while a message was awaited: {frame:?}"),
                message => return message,
            }
        }
    }

    /// The next message, which is text.
    pub(crate) fn line(&mut self) -> String {
        match self.message() {
            Message::Text(text) => text.as_str().to_owned(),
            other => panic!("wanted text, got {other:?}"),
        }
    }

    /// Checks that the next message is this text.
    #[track_caller]
    pub(crate) fn hears(&mut self, text: &str) {
        assert_eq!(self.line(), text);
    }

    /// Reads to the end: code and reason of the server's close frame.
    pub(crate) fn closed(&mut self) -> (u16, String) {
        let mut said = None;
        loop {
            match self.socket.read() {
                Ok(Message::Close(Some(frame))) => {
                    said = Some((frame.code.into(), frame.reason.as_str().to_owned()));
                }
                Ok(_) => {}
                Err(Error::ConnectionClosed) => return said.expect("a close frame with a code"),
                Err(error) => panic!("instead of a closing handshake: {error}; said before: {said:?}"),
            }
        }
    }
}
