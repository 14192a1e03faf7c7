//! The byte stream of one connection: TCP, with or without TLS.

use std::io::{self, Read as _, Write as _};
use std::sync::Arc;

use mio::net::TcpStream;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};

/// The longest TLS record with its header, in bytes, rounded up (RFC 5246 §6.2.3).
const MAX_RECORD: usize = 18 * 1024;

/// A nonblocking stream to a server.
pub(super) enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream>),
}

/// A TLS session over a socket.
pub(super) struct TlsStream {
    session: ClientConnection,
    socket: TcpStream,
}

/// The result of one read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Received {
    /// The number of bytes that were put into the buffer. With TLS it may be 0 without an end.
    pub(super) len: usize,
    /// The socket may have more bytes.
    pub(super) more: bool,
    /// The server has ended its direction.
    pub(super) ended: bool,
    /// Bytes of TLS wait for room in the socket.
    pub(super) blocked: bool,
}

impl Stream {
    /// Starts a TLS session with the server that `name` names.
    pub(super) fn tls(
        socket: TcpStream,
        config: Arc<ClientConfig>,
        name: ServerName<'static>,
    ) -> io::Result<Self> {
        let session = ClientConnection::new(config, name).map_err(io::Error::other)?;
        Ok(Self::Tls(Box::new(TlsStream { session, socket })))
    }

    /// The least room that a read needs, in bytes.
    pub(super) fn least_room(&self) -> usize {
        match self {
            Self::Plain(_) => 1,
            Self::Tls(_) => 2 * MAX_RECORD,
        }
    }

    /// Reads once from the socket into `space`. `scratch` holds bytes that are to be decrypted.
    pub(super) fn read(&mut self, space: &mut [u8], scratch: &mut [u8]) -> io::Result<Received> {
        match self {
            Self::Plain(socket) => {
                let len = socket.read(space)?;
                Ok(Received { len, more: len == space.len(), ended: len == 0, blocked: false })
            }
            Self::Tls(stream) => stream.read(space, scratch),
        }
    }

    /// Takes bytes to be sent. Returns how many were taken.
    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.write(bytes),
            Self::Tls(stream) => stream.write(bytes),
        }
    }

    /// Sends what was taken and not sent yet.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(_) => Ok(()),
            Self::Tls(stream) => stream.flush(),
        }
    }

    /// Tells the server that nothing more is sent. The socket closes when the stream is dropped.
    pub(super) fn close(&mut self) {
        if let Self::Tls(stream) = self {
            stream.session.send_close_notify();
            // The connection is over in any case.
            let _ = stream.flush();
        }
    }
}

impl TlsStream {
    fn read(&mut self, space: &mut [u8], scratch: &mut [u8]) -> io::Result<Received> {
        // A record that began in an earlier read adds its plaintext, so there must be room for one more.
        let scratch_len = scratch.len().min(space.len() - MAX_RECORD);
        let count = self.socket.read(&mut scratch[..scratch_len])?;
        let mut input = &scratch[..count];
        let (mut len, mut ended) = (0, count == 0);
        while !input.is_empty() && !ended {
            self.session.read_tls(&mut input)?;
            let state = self.session.process_new_packets().map_err(|error| {
                // The alert that tells the server why is sent if the socket takes it.
                let _ = self.session.write_tls(&mut self.socket);
                io::Error::new(io::ErrorKind::InvalidData, error)
            })?;
            ended = state.peer_has_closed();
            len += self.take_plaintext(&mut space[len..])?;
        }
        let blocked = match self.flush() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => true,
            // The next read sees the end of a broken connection, after what came before it.
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
