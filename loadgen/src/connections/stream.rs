//! The byte stream of one connection: TCP, with or without TLS.

use std::io::{self, Read as _, Write as _};
use std::sync::Arc;

use mio::net::TcpStream;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};

/// The longest TLS record with its header, in bytes, rounded up (RFC 5246 §6.2.3).
const MAX_RECORD: usize = 18 * 1024;

/// A nonblocking byte stream to a server.
pub(super) enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream>),
}

/// A TLS session over a TCP socket.
pub(super) struct TlsStream {
    session: ClientConnection,
    socket: TcpStream,
}

/// The result of one read from a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Received {
    /// Number of bytes that were put into the buffer. With TLS, 0 does not mean the end of the stream.
    pub(super) len: usize,
    /// The socket may have more bytes to read.
    pub(super) more: bool,
    /// The server has closed its sending direction.
    pub(super) ended: bool,
    /// TLS bytes to be sent wait for room in the socket.
    pub(super) blocked: bool,
}

impl Stream {
    /// Starts a TLS session over `socket` with the server that the certificate name `name` identifies.
    pub(super) fn tls(
        socket: TcpStream,
        config: Arc<ClientConfig>,
        name: ServerName<'static>,
    ) -> io::Result<Self> {
        let session = ClientConnection::new(config, name).map_err(io::Error::other)?;
        Ok(Self::Tls(Box::new(TlsStream { session, socket })))
    }

    /// Returns whether the TCP connection and, with TLS, the session are established.
    pub(super) fn is_established(&self) -> bool {
        match self {
            Self::Plain(socket) => socket.peer_addr().is_ok(),
            Self::Tls(stream) => !stream.session.is_handshaking(),
        }
    }

    /// Returns the smallest buffer that a read may have, in bytes.
    pub(super) fn least_room(&self) -> usize {
        match self {
            Self::Plain(_) => 1,
            Self::Tls(_) => 2 * MAX_RECORD,
        }
    }

    /// Reads once from the socket into `space`. `scratch` is a buffer for bytes that TLS decrypts.
    pub(super) fn read(&mut self, space: &mut [u8], scratch: &mut [u8]) -> io::Result<Received> {
        match self {
            Self::Plain(socket) => {
                let len = socket.read(space)?;
                Ok(Received { len, more: len == space.len(), ended: len == 0, blocked: false })
            }
            Self::Tls(stream) => stream.read(space, scratch),
        }
    }

    /// Hands bytes to the socket or the TLS session. Returns the number of accepted bytes.
    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.write(bytes),
            Self::Tls(stream) => stream.write(bytes),
        }
    }

    /// Sends the encrypted bytes that the TLS session still holds. A plain stream holds none.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(_) => Ok(()),
            Self::Tls(stream) => stream.flush(),
        }
    }

    /// Sends TLS's close notification to the server. The socket closes when the stream is dropped.
    pub(super) fn close(&mut self) {
        if let Self::Tls(stream) = self {
            stream.session.send_close_notify();
            // An error is ignored, because the connection ends with or without the notification.
            let _ = stream.flush();
        }
    }
}

impl TlsStream {
    fn read(&mut self, space: &mut [u8], scratch: &mut [u8]) -> io::Result<Received> {
        // This read may complete an earlier, incomplete TLS record. So `space` needs room for one record more than
        // `scratch`.
        let scratch_len = scratch.len().min(space.len() - MAX_RECORD);
        let count = self.socket.read(&mut scratch[..scratch_len])?;
        let mut input = &scratch[..count];
        let (mut len, mut ended) = (0, count == 0);
        while !input.is_empty() && !ended {
            self.session.read_tls(&mut input)?;
            let state = self.session.process_new_packets().map_err(|error| {
                // Sends the TLS alert with the error to the server, if the socket has room.
                let _ = self.session.write_tls(&mut self.socket);
                io::Error::new(io::ErrorKind::InvalidData, error)
            })?;
            ended = state.peer_has_closed();
            len += self.take_plaintext(&mut space[len..])?;
        }
        let blocked = match self.flush() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => true,
            // A broken connection is not reported here. The next read ends the connection, after the bytes received
            // before.
            _ => false,
        };
        Ok(Received { len, more: count == scratch_len, ended, blocked })
    }

    fn take_plaintext(&mut self, space: &mut [u8]) -> io::Result<usize> {
        let mut len = 0;
        while len < space.len() {
            match self.session.reader().read(&mut space[len..]) {
                Ok(0) => break,
                Ok(count) => len += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(len)
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.flush()?;
        let count = self.session.writer().write(bytes)?;
        match self.flush() {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
            _ if count == 0 => Err(io::ErrorKind::WouldBlock.into()),
            _ => Ok(count),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        while self.session.wants_write() {
            if self.session.write_tls(&mut self.socket)? == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
        }
        Ok(())
    }
}
