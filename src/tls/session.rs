//! The TLS session of one connection: it decrypts input and encrypts output. An idle session holds no bytes.

use std::sync::Arc;

use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{
    ConnectionState, EncodeError, EncodeTlsData, EncryptError, UnbufferedStatus, WriteTraffic,
};
use rustls::{Error, HandshakeKind, InvalidMessage, ServerConfig};

/// Length of a TLS record's header in bytes: type, version and length; RFC 8446 §5.1.
const HEADER_LEN: usize = 5;
/// Longest plaintext of a TLS record, in bytes; RFC 8446 §5.1.
const MAX_RECORD_LEN: usize = 16 << 10;
/// Upper bound of the bytes that encryption adds to a record in any cipher suite, including the record's header.
const MAX_RECORD_OVERHEAD: usize = 64;
/// Longest TLS record on the wire, with its header, in any TLS version, in bytes; RFC 5246 §6.2.3.
const MAX_WIRE_LEN: usize = HEADER_LEN + MAX_RECORD_LEN + 2048;
/// Minimum number of bytes that one record counts in a client's share of a turn.
const RECORD_COST: usize = 256;
/// Maximum number of bytes kept of an incomplete record, or of a handshake message that spans records. BoringSSL has
/// such a limit, too: 16 KiB for a client without a certificate.
pub(super) const MAX_PARTIAL_LEN: usize = 2 * MAX_WIRE_LEN;

/// The TLS session of one connection.
pub(super) struct Session {
    connection: UnbufferedServerConnection,
    /// Received bytes of an incomplete record, or of an incomplete handshake message that spans records.
    partial: Vec<u8>,
    /// Offset of the incomplete record in `partial`. TLS has processed the complete records in front of this offset.
    open_at: usize,
    /// Messages of the TLS protocol that wait to be sent: handshake messages, tickets, alerts.
    outgoing: Vec<u8>,
    has_peer_closed: bool,
}

impl Session {
    /// Starts the TLS session of a connection.
    ///
    /// # Errors
    /// Never, if [`super::identity`] made `config`.
    pub(super) fn new(config: Arc<ServerConfig>) -> Result<Self, Error> {
        Ok(Self {
            connection: UnbufferedServerConnection::new(config)?,
            partial: Vec::new(),
            open_at: 0,
            outgoing: Vec::new(),
            has_peer_closed: false,
        })
    }

    /// Returns whether the handshake is complete.
    pub(super) fn is_ready(&self) -> bool {
        !self.connection.is_handshaking()
    }

    /// Returns whether the handshake resumed an earlier session.
    pub(super) fn is_resumed(&self) -> bool {
        self.connection.handshake_kind() == Some(HandshakeKind::Resumed)
    }

    /// Returns whether the client has sent close_notify.
    pub(super) fn has_peer_closed(&self) -> bool {
        self.has_peer_closed
    }

    /// Removes and returns the waiting handshake messages, tickets and alerts of TLS.
    pub(super) fn take_outgoing(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.outgoing)
    }

    /// Returns the number of leading bytes of `input` that this turn may decrypt, and subtracts the cost from `share`.
    /// Counts whole records while `share` is above 0, and an incomplete record at the end. A record costs at least
    /// [`RECORD_COST`] bytes.
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

    /// Decrypts `input` in place, and appends the plaintext to `plaintext`.
    ///
    /// # Errors
    /// When the client broke a rule of TLS. The outgoing messages then contain the alert for the client.
    pub(super) fn receive(&mut self, input: &mut [u8], plaintext: &mut Vec<u8>) -> Result<(), Error> {
        let result = self.take_in(input, plaintext);
        if result.is_err() {
            self.encode_alert();
        }
        result
    }

    /// Encrypts `plaintext` and appends the records to `out`.
    ///
    /// # Errors
    /// When the encryption keys are used up. TLS 1.2 cannot renew its keys.
    pub(super) fn encrypt(&mut self, plaintext: &[u8], out: &mut Vec<u8>) -> Result<(), EncryptError> {
        let records = plaintext.len().div_ceil(MAX_RECORD_LEN) + 1;
        let room = plaintext.len() + records * MAX_RECORD_OVERHEAD;
        self.write(room, out, |traffic, out| traffic.encrypt(plaintext, out))
    }

    /// Encrypts close_notify, which ends the server's direction of the TLS stream, and appends it to `out`.
    ///
    /// # Errors
    /// When the encryption keys are used up.
    pub(super) fn close_notify(&mut self, out: &mut Vec<u8>) -> Result<(), EncryptError> {
        self.write(MAX_RECORD_OVERHEAD, out, |traffic, out| traffic.queue_close_notify(out))
    }

    /// Returns the number of bytes of `input` that belong to the incomplete record or, without one, to the first
    /// record. The number may exceed the length of `input`. Returns `None` when the record's header is incomplete.
    fn open_len(&self, input: &[u8]) -> Option<usize> {
        let open = self.partial.get(self.open_at..).unwrap_or_default();
        let mut header = open.iter().chain(input).copied().take(HEADER_LEN);
        let header: [u8; HEADER_LEN] = std::array::from_fn(|_| header.next().unwrap_or_default());
        let is_whole = open.len() + input.len() >= HEADER_LEN;
        is_whole.then(|| record_len(&header).unwrap_or_default() - open.len())
    }

    /// Decrypts `input` in place. Keeps an incomplete record or handshake message in `partial`.
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

    /// Processes the bytes in `partial`, after new bytes were added to it.
    fn process_partial(&mut self, plaintext: &mut Vec<u8>) -> Result<(), Error> {
        let mut partial = std::mem::take(&mut self.partial);
        if whole_records_len(&partial[self.open_at..]) > 0 {
            self.open_at = partial.len();
        }
        let done = self.process(&mut partial, plaintext)?;
        if done == partial.len() || self.has_peer_closed {
            // No byte of `partial` is needed any more, so its memory is freed here.
            self.open_at = 0;
            return Ok(());
        }
        partial.drain(..done);
        self.open_at -= done.min(self.open_at);
        self.partial = partial;
        self.check_partial()
    }

    /// Returns an error when `partial` is longer than [`MAX_PARTIAL_LEN`].
    fn check_partial(&self) -> Result<(), Error> {
        if self.partial.len() > MAX_PARTIAL_LEN {
            return Err(Error::InvalidMessage(InvalidMessage::HandshakePayloadTooLarge));
        }
        Ok(())
    }

    /// Processes `input` until TLS needs more bytes. Returns the number of leading bytes of `input` that are no longer
    /// needed.
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
                // TLS waits for more input or for output. Early data is not enabled, so TLS never reports any.
                _ => return Ok(done + discard),
            }
            done += discard;
        }
    }

    /// Calls `write` to append up to `room` bytes to `out`. Calls `write` again with more room if it asks for more.
    fn write(
        &mut self,
        mut room: usize,
        out: &mut Vec<u8>,
        write: impl Fn(&mut WriteTraffic<'_, ServerConnectionData>, &mut [u8]) -> Result<usize, EncryptError>,
    ) -> Result<(), EncryptError> {
        loop {
            // `partial` may hold a part of a handshake message, so TLS gets these bytes again.
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
                // The session can no longer write.
                _ => return Err(EncryptError::EncryptExhausted),
            }
        }
    }

    /// Encodes the alert about the client's error into `outgoing`.
    fn encode_alert(&mut self) {
        // While TLS has output, it reads no input.
        while self.connection.wants_write() {
            match self.connection.process_tls_records(&mut []).state {
                Ok(ConnectionState::ReadTraffic(mut traffic)) => while traffic.next_record().is_some() {},
                Ok(ConnectionState::EncodeTlsData(data)) => encode(data, &mut self.outgoing),
                _ => return,
            }
        }
    }

    /// Returns the number of bytes of memory that the session keeps.
    #[cfg(test)]
    pub(super) fn kept_len(&self) -> usize {
        self.partial.capacity() + self.outgoing.capacity()
    }
}

/// Encodes a handshake message, ticket or alert of TLS, and appends it to `out`.
fn encode(mut data: EncodeTlsData<'_, ServerConnectionData>, out: &mut Vec<u8>) {
    let start = out.len();
    let Err(EncodeError::InsufficientSize(size)) = data.encode(&mut []) else { return };
    out.resize(start + size.required_size, 0);
    let written = data.encode(&mut out[start..]).unwrap_or(0);
    out.truncate(start + written);
}

/// Returns the number of bytes missing from the first record in `bytes`, or from its header while that is incomplete.
fn missing_len(bytes: &[u8]) -> usize {
    record_len(bytes).unwrap_or(HEADER_LEN) - bytes.len()
}

/// Returns the total length in bytes of the complete records at the start of `bytes`.
fn whole_records_len(bytes: &[u8]) -> usize {
    let mut whole = 0;
    while let Some(len) = record_len(&bytes[whole..]).filter(|len| whole + len <= bytes.len()) {
        whole += len;
    }
    whole
}

/// Returns the length in bytes of the first record in `bytes`, including its header. `None` when the header is
/// incomplete.
fn record_len(bytes: &[u8]) -> Option<usize> {
    let header = bytes.first_chunk::<HEADER_LEN>()?;
    Some(HEADER_LEN + usize::from(u16::from_be_bytes([header[3], header[4]])))
}
