//! One connection's TLS: ciphertext in, plaintext out, and the other way round. It holds no bytes while it is idle.

use std::sync::Arc;

use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{
    ConnectionState, EncodeError, EncodeTlsData, EncryptError, UnbufferedStatus, WriteTraffic,
};
use rustls::{Error, HandshakeKind, InvalidMessage, ServerConfig};

/// Bytes of a record's header: type, version and length. RFC 8446 §5.1
const HEADER_LEN: usize = 5;
/// Longest plaintext of a record.
const MAX_RECORD_LEN: usize = 16 << 10;
/// More than what encryption adds to a record, header included, in any suite.
const MAX_RECORD_OVERHEAD: usize = 64;
/// Longest record on the wire, in any version. RFC 5246 §6.2.3
const MAX_WIRE_LEN: usize = HEADER_LEN + MAX_RECORD_LEN + 2048;
/// A short record counts as so many bytes of a share.
const RECORD_COST: usize = 256;
/// Bytes that may be kept until a record, or a handshake message over several records, is complete.
/// BoringSSL takes no more than 16 KiB of a client that has no certificate, either.
pub(super) const MAX_PARTIAL_LEN: usize = 2 * MAX_WIRE_LEN;

/// The TLS state of one connection, without any of its input and output.
pub(super) struct Session {
    connection: UnbufferedServerConnection,
    /// What is not complete yet: a record, or a handshake message over several of them.
    partial: Vec<u8>,
    /// Where in `partial` the record begins that is not complete; before it are records that were looked at.
    open_at: usize,
    /// What TLS itself has to say: handshake messages, tickets, alerts.
    outgoing: Vec<u8>,
    has_peer_closed: bool,
}

impl Session {
    /// # Errors
    /// None, with a configuration as [`super::identity`] makes it.
    pub(super) fn new(config: Arc<ServerConfig>) -> Result<Self, Error> {
        Ok(Self {
            connection: UnbufferedServerConnection::new(config)?,
            partial: Vec::new(),
            open_at: 0,
            outgoing: Vec::new(),
            has_peer_closed: false,
        })
    }

    /// Whether the handshake is over, so that there is plaintext.
    pub(super) fn is_ready(&self) -> bool {
        !self.connection.is_handshaking()
    }

    /// Whether the client went on with a former session instead of a whole handshake.
    pub(super) fn is_resumed(&self) -> bool {
        self.connection.handshake_kind() == Some(HandshakeKind::Resumed)
    }

    /// Whether the peer has said that it sends no more.
    pub(super) fn has_peer_closed(&self) -> bool {
        self.has_peer_closed
    }

    /// What TLS itself has to say now.
    pub(super) fn take_outgoing(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.outgoing)
    }

    /// How many of the first bytes of `input` may be taken in: whole records, as long as something is left of `share`,
    /// to which they are charged, and what follows the last of them when that is all. A short record costs more than its bytes.
    pub(super) fn share_len(&self, input: &[u8], share: &mut usize) -> usize {
        let mut len = 0;
        while len < input.len() && *share > 0 {
            let record_len = if len == 0 { self.open_len(input) } else { record_len(&input[len..]) };
            let taken = record_len.unwrap_or(usize::MAX).min(input.len() - len);
            *share = share.saturating_sub(taken.max(RECORD_COST));
            len += taken;
        }
        len
    }

    /// Takes in what arrived, which is decrypted in place, and appends what it holds to `plaintext`.
    ///
    /// # Errors
    /// What the peer did wrong; the alert that tells it so is then among what is to be sent.
    pub(super) fn receive(&mut self, input: &mut [u8], plaintext: &mut Vec<u8>) -> Result<(), Error> {
        let result = self.take_in(input, plaintext);
        if result.is_err() {
            self.encode_alert();
        }
        result
    }

    /// Appends `plaintext`, encrypted, to `out`.
    ///
    /// # Errors
    /// When the keys are used up: with TLS 1.2 they cannot be renewed.
    pub(super) fn encrypt(&mut self, plaintext: &[u8], out: &mut Vec<u8>) -> Result<(), EncryptError> {
        let records = plaintext.len().div_ceil(MAX_RECORD_LEN) + 1;
        let room = plaintext.len() + records * MAX_RECORD_OVERHEAD;
        self.write(room, out, |traffic, out| traffic.encrypt(plaintext, out))
    }

    /// Appends to `out` that we send no more.
    pub(super) fn close_notify(&mut self, out: &mut Vec<u8>) -> Result<(), EncryptError> {
        self.write(MAX_RECORD_OVERHEAD, out, |traffic, out| traffic.queue_close_notify(out))
    }

    /// How many bytes of `input`, perhaps more than there are, belong to the record that is not complete; without one, to
    /// the first record. `None` when its header is not complete either.
    fn open_len(&self, input: &[u8]) -> Option<usize> {
        let open = self.partial.get(self.open_at..).unwrap_or_default();
        let mut header = open.iter().chain(input).copied().take(HEADER_LEN);
        let header: [u8; HEADER_LEN] = std::array::from_fn(|_| header.next().unwrap_or_default());
        let is_whole = open.len() + input.len() >= HEADER_LEN;
        is_whole.then(|| record_len(&header).unwrap_or_default() - open.len())
    }

    fn take_in(&mut self, mut input: &mut [u8], plaintext: &mut Vec<u8>) -> Result<(), Error> {
        while !self.partial.is_empty() && !input.is_empty() {
            let taken = missing_len(&self.partial[self.open_at..]).min(input.len());
            let (head, rest) = input.split_at_mut(taken);
            self.partial.extend_from_slice(head);
            input = rest;
            self.process_partial(plaintext)?;
        }
        if input.is_empty() || self.has_peer_closed {
            return Ok(());
        }
        let whole = whole_records_len(input);
        let done = self.process(input, plaintext)?;
        if done < input.len() && !self.has_peer_closed {
            self.partial = input[done..].to_vec();
            self.open_at = whole.saturating_sub(done);
        }
        self.check_partial()
    }

    /// Looks at what is kept, to which something was added.
    fn process_partial(&mut self, plaintext: &mut Vec<u8>) -> Result<(), Error> {
        let mut partial = std::mem::take(&mut self.partial);
        if whole_records_len(&partial[self.open_at..]) > 0 {
            self.open_at = partial.len();
        }
        let done = self.process(&mut partial, plaintext)?;
        if done == partial.len() || self.has_peer_closed {
            // Its memory is given back, too.
            self.open_at = 0;
            return Ok(());
        }
        partial.drain(..done);
        self.open_at -= done.min(self.open_at);
        self.partial = partial;
        self.check_partial()
    }

    fn check_partial(&self) -> Result<(), Error> {
        if self.partial.len() > MAX_PARTIAL_LEN {
            return Err(Error::InvalidMessage(InvalidMessage::HandshakePayloadTooLarge));
        }
        Ok(())
    }

    /// Goes on with `input` until more is needed. Returns how many of its first bytes are of no more use.
    fn process(&mut self, input: &mut [u8], plaintext: &mut Vec<u8>) -> Result<usize, Error> {
        let mut done = 0;
        loop {
            let UnbufferedStatus { discard, state } = self.connection.process_tls_records(&mut input[done..]);
            match state? {
                ConnectionState::ReadTraffic(mut traffic) => {
                    while let Some(record) = traffic.next_record() {
                        plaintext.extend_from_slice(record?.payload);
                    }
                }
                ConnectionState::EncodeTlsData(data) => encode(data, &mut self.outgoing),
                ConnectionState::TransmitTlsData(data) => data.done(),
                ConnectionState::PeerClosed => self.has_peer_closed = true,
                // It waits: for more input, or for something to send. Early data is not asked for.
                _ => return Ok(done + discard),
            }
            done += discard;
        }
    }

    /// Has `write` fill `room` bytes after `out`, or as many as it asks for.
    fn write(
        &mut self,
        mut room: usize,
        out: &mut Vec<u8>,
        write: impl Fn(&mut WriteTraffic<'_, ServerConnectionData>, &mut [u8]) -> Result<usize, EncryptError>,
    ) -> Result<(), EncryptError> {
        loop {
            // What is kept is shown again, since it may hold a part of a handshake message.
            match self.connection.process_tls_records(&mut self.partial).state {
                Ok(ConnectionState::WriteTraffic(mut traffic)) => {
                    let start = out.len();
                    out.resize(start + room, 0);
                    let result = write(&mut traffic, &mut out[start..]);
                    out.truncate(start + result.as_ref().map_or(0, |written| *written));
                    match result {
                        Err(EncryptError::InsufficientSize(size)) if size.required_size > room => {
                            room = size.required_size;
                        }
                        other => return other.map(drop),
                    }
                }
                Ok(ConnectionState::EncodeTlsData(data)) => encode(data, out),
                Ok(ConnectionState::TransmitTlsData(data)) => data.done(),
                // Nothing can be written any more.
                _ => return Err(EncryptError::EncryptExhausted),
            }
        }
    }

    /// Gathers the alert about what the peer did wrong.
    fn encode_alert(&mut self) {
        // While there is something to be sent, no input is looked at.
        while self.connection.wants_write() {
            match self.connection.process_tls_records(&mut []).state {
                Ok(ConnectionState::ReadTraffic(mut traffic)) => while traffic.next_record().is_some() {},
                Ok(ConnectionState::EncodeTlsData(data)) => encode(data, &mut self.outgoing),
                _ => return,
            }
        }
    }

    /// Bytes that it keeps.
    #[cfg(test)]
    pub(super) fn kept_len(&self) -> usize {
        self.partial.capacity() + self.outgoing.capacity()
    }
}

/// Appends a message of TLS itself to `out`.
fn encode(mut data: EncodeTlsData<'_, ServerConnectionData>, out: &mut Vec<u8>) {
    let start = out.len();
    let Err(EncodeError::InsufficientSize(size)) = data.encode(&mut []) else { return };
    out.resize(start + size.required_size, 0);
    let written = data.encode(&mut out[start..]).unwrap_or(0);
    out.truncate(start + written);
}

/// How many bytes are missing from the record that `bytes` begin, or from its header.
fn missing_len(bytes: &[u8]) -> usize {
    record_len(bytes).unwrap_or(HEADER_LEN) - bytes.len()
}

/// Bytes of the records that are complete in `bytes`.
fn whole_records_len(bytes: &[u8]) -> usize {
    let mut whole = 0;
    while let Some(len) = record_len(&bytes[whole..]).filter(|len| whole + len <= bytes.len()) {
        whole += len;
    }
    whole
}

/// Bytes of the record that `bytes` begin with, its header included, when that is there.
fn record_len(bytes: &[u8]) -> Option<usize> {
    let header = bytes.first_chunk::<HEADER_LEN>()?;
    Some(HEADER_LEN + usize::from(u16::from_be_bytes([header[3], header[4]])))
}
