//! The fixture of the TLS tests: the TLS layer over the test backend `Wire`, and a rustls client that talks to it.

use std::io::{Read, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{CertificateParams, KeyPair};
use rustls::crypto::ring;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore, SupportedProtocolVersion};

use crate::chunk::Span;
use crate::io::wire::{BUFFER_LEN, Wire};
use crate::io::{IoEvent, More, Slot};
use crate::tls::{Credentials, Identity, TlsLayer, TlsOptions};
use crate::transport::{Event, Events, Layers, Transport};

/// The server's side of a test, and the events that the transport has reported.
pub(super) struct Rig {
    pub(super) transport: Transport<Wire>,
    pub(super) identity: Arc<Identity>,
    pub(super) config: Arc<ClientConfig>,
    /// The plaintext that the server received.
    pub(super) heard: Vec<u8>,
    /// The slot of each send that the backend has completed, in order.
    pub(super) answered: Vec<Slot>,
    /// Number of `Received` events so far.
    pub(super) received: usize,
    /// All events other than `Received`.
    pub(super) events: Vec<Event>,
    /// Lengths of the pieces into which input is split, used cyclically.
    pub(super) pieces: Vec<usize>,
    next_piece: usize,
}

/// Makes a certificate for `localhost`, and the root store of a client that trusts it.
pub(super) fn credentials() -> (Credentials, RootCertStore) {
    credentials_until(SystemTime::now() + Duration::from_secs(1_000_000_000))
}

/// Makes a certificate for `localhost` that expires at `end`, and the root store of a client that trusts it.
pub(in crate::tls) fn credentials_until(end: SystemTime) -> (Credentials, RootCertStore) {
    let directory = tempfile::tempdir().expect("a directory");
    let signing_key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::new(["localhost".into()]).expect("a name");
    params.not_after = end.into();
    let cert = params.self_signed(&signing_key).expect("a certificate");
    let [cert_file, key_file]: [PathBuf; 2] = ["cert.pem", "key.pem"].map(|name| directory.path().join(name));
    std::fs::write(&cert_file, cert.pem()).expect("written");
    std::fs::write(&key_file, signing_key.serialize_pem()).expect("written");
    let mut roots = RootCertStore::empty();
    roots.add(cert.der().clone()).expect("a certificate");
    (Credentials::read(&cert_file, &key_file).expect("usable"), roots)
}

pub(super) fn client_config(
    roots: RootCertStore,
    versions: &[&'static SupportedProtocolVersion],
) -> Arc<ClientConfig> {
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(versions)
        .expect("versions that the provider has")
        .with_root_certificates(roots)
        .with_no_client_auth();
    Arc::new(config)
}

impl Rig {
    /// Makes a server with two listeners, the second one with TLS.
    pub(super) fn new(versions: &[&'static SupportedProtocolVersion]) -> Self {
        let (credentials, roots) = credentials();
        let identity = Arc::new(Identity::new(credentials));
        let options = TlsOptions { listeners: vec![false, true], identity: Arc::clone(&identity) };
        let layers = Layers { proxy: None, tls: Some(TlsLayer::new(options)) };
        Self {
            transport: Transport::new(Wire::new(), layers),
            identity,
            config: client_config(roots, versions),
            heard: Vec::new(),
            answered: Vec::new(),
            received: 0,
            events: Vec::new(),
            pieces: vec![BUFFER_LEN],
            next_piece: 0,
        }
    }

    pub(super) fn wire(&mut self) -> &mut Wire {
        self.transport.backend_mut()
    }

    /// Makes the backend accept a connection from a listener.
    pub(super) fn accept(&mut self, slot: Slot, listener: u16) {
        self.wire().coming.push_back(IoEvent::Accepted { slot, listener, peer: None });
        self.turn();
        let is_accepted =
            |event: &Event| matches!(event, Event::Io(IoEvent::Accepted { slot: at, .. }) if *at == slot);
        assert!(self.events.iter().any(is_accepted), "{:?}", self.events);
        self.events.clear();
    }

    pub(super) fn client(&self) -> ClientConnection {
        let name = ServerName::try_from("localhost").expect("a name");
        ClientConnection::new(Arc::clone(&self.config), name).expect("a client")
    }

    /// Makes the backend accept a connection, and completes its handshake. Returns the client.
    pub(super) fn connect(&mut self, slot: Slot) -> ClientConnection {
        self.accept(slot, 1);
        let mut client = self.client();
        self.talk(slot, &mut client);
        assert!(!client.is_handshaking());
        assert!(self.events.is_empty() && self.heard.is_empty(), "{:?}", self.events);
        client
    }

    /// Makes `bytes` arrive from the client, split into pieces of the lengths in `pieces`.
    pub(super) fn arrive(&mut self, slot: Slot, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let len = self.pieces[self.next_piece % self.pieces.len()].min(bytes.len());
            self.next_piece += 1;
            let (piece, rest) = bytes.split_at(len);
            self.queue(slot, piece);
            // Up to three pieces arrive in one turn.
            if self.next_piece.is_multiple_of(3) || rest.is_empty() {
                self.turn();
            }
            bytes = rest;
        }
    }

    /// Sends `span` from the server.
    pub(super) fn send(&mut self, slot: Slot, span: Span) {
        self.transport.send(slot, span, More::Follows);
    }

    /// Makes `bytes` arrive from the client with the next turn.
    pub(super) fn queue(&mut self, slot: Slot, bytes: &[u8]) {
        self.wire().queue(slot, bytes);
    }

    pub(super) fn has_events(&mut self) -> bool {
        !self.wire().coming.is_empty()
    }

    /// Returns whether input waits for a later turn.
    pub(super) fn is_waiting(&mut self) -> bool {
        self.transport.tls_layer().is_some_and(|tls| !tls.waiting.is_empty() || !tls.served.is_empty())
    }

    /// Makes the backend report an event, and runs a turn.
    pub(super) fn report(&mut self, event: IoEvent) {
        self.wire().coming.push_back(event);
        self.turn();
    }

    /// Completes the send that waits in the backend. Returns whether there was one.
    pub(super) fn release(&mut self) -> bool {
        let wire = self.wire();
        let Some((slot, span)) = wire.waiting.take() else { return false };
        wire.out.extend_from_slice(span.bytes());
        self.report(IoEvent::Sent { slot });
        true
    }

    pub(super) fn turn(&mut self) {
        let mut events = Events::default();
        let is_sent = |event: &IoEvent| if let IoEvent::Sent { slot } = event { Some(*slot) } else { None };
        self.transport.poll(None, &mut events).expect("it works");
        let answered: Vec<_> = self.wire().coming.iter().filter_map(is_sent).collect();
        self.answered.extend(answered);
        for event in events.drain() {
            match event {
                Event::Io(IoEvent::Received { mut buffer, .. }) => {
                    self.received += 1;
                    self.heard.extend_from_slice(buffer.bytes_mut());
                    self.transport.recycle(buffer);
                }
                other => self.events.push(other),
            }
        }
        assert_eq!(self.wire().lent, 0, "the backend's buffers are back after each turn");
    }

    /// Passes bytes between client and server until neither side has any to send. Returns the plaintext that the client
    /// read.
    pub(super) fn talk(&mut self, slot: Slot, client: &mut ClientConnection) -> Vec<u8> {
        let mut read = Vec::new();
        loop {
            let mut request = Vec::new();
            while client.wants_write() {
                client.write_tls(&mut request).expect("to memory");
            }
            self.arrive(slot, &request);
            while self.has_events() || self.is_waiting() {
                self.turn();
            }
            let answer = std::mem::take(&mut self.wire().out);
            let mut rest = &answer[..];
            while !rest.is_empty() {
                client.read_tls(&mut rest).expect("from memory");
                client.process_new_packets().expect("right");
                let mut some = [0; 16 << 10];
                while let Ok(len @ 1..) = client.reader().read(&mut some) {
                    read.extend_from_slice(&some[..len]);
                }
            }
            if request.is_empty() && answer.is_empty() {
                return read;
            }
        }
    }

    /// Sends `bytes` from the client, and checks that the server receives exactly these bytes.
    pub(super) fn hear(&mut self, slot: Slot, client: &mut ClientConnection, bytes: &[u8]) {
        let mut rest = bytes;
        while !rest.is_empty() {
            let len = client.writer().write(rest).expect("to memory");
            rest = &rest[len..];
            self.talk(slot, client);
        }
        assert!(std::mem::take(&mut self.heard) == bytes, "the server receives the bytes");
    }

    /// Sends `bytes` from the server, and checks that the client reads exactly these bytes.
    pub(super) fn say(&mut self, slot: Slot, client: &mut ClientConnection, bytes: &[u8]) {
        self.send(slot, Span::copy_of(bytes));
        assert!(self.talk(slot, client) == bytes, "the client reads the bytes");
        assert_eq!(self.sent(), 1);
    }

    /// Removes the `Sent` events from `events`, and returns the number removed.
    pub(super) fn sent(&mut self) -> usize {
        let before = self.events.len();
        self.events.retain(|event| !matches!(event, Event::Io(IoEvent::Sent { .. })));
        before - self.events.len()
    }

    /// Returns the number of bytes of memory that the session of `slot` keeps.
    pub(super) fn kept_len(&mut self, slot: Slot) -> usize {
        let tls = self.transport.tls_layer().expect("a listener has TLS");
        tls.at(slot).session.as_ref().map_or(0, |session| session.kept_len())
    }
}
