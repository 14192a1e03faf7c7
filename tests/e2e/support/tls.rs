//! Certificates, and clients that trust them.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{CertificateParams, KeyPair};
use rustls::crypto::ring;
use rustls::pki_types::ServerName;
use rustls::{
    ClientConfig, ClientConnection, HandshakeKind, RootCertStore, StreamOwned, SupportedProtocolVersion,
};
use tempfile::TempDir;
use tungstenite::{Message, WebSocket};
use uproar::config::{Config, Endpoint};

use super::PATIENCE;

/// The protocol versions that servers speak.
pub(crate) const VERSIONS: [&SupportedProtocolVersion; 2] =
    [&rustls::version::TLS12, &rustls::version::TLS13];

pub(crate) type TlsStream = StreamOwned<ClientConnection, TcpStream>;

/// A directory with `cert.pem` and `key.pem`, for `localhost`.
pub(crate) struct Identity {
    directory: TempDir,
    roots: RootCertStore,
}

impl Identity {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let mut identity = Self { directory, roots: RootCertStore::empty() };
        identity.renew();
        identity
    }

    /// Writes another certificate and its key over those that were there.
    pub(crate) fn renew(&mut self) {
        self.renew_until(SystemTime::now() + Duration::from_secs(1_000_000_000));
    }

    /// The same, with one that expires then.
    pub(crate) fn renew_until(&mut self, end: SystemTime) {
        let signing_key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(["localhost".into()]).expect("a name");
        params.not_after = end.into();
        let cert = params.self_signed(&signing_key).expect("a certificate");
        std::fs::write(self.cert(), cert.pem()).expect("written");
        std::fs::write(self.key(), signing_key.serialize_pem()).expect("written");
        self.roots = RootCertStore::empty();
        self.roots.add(cert.der().clone()).expect("a certificate");
    }

    pub(crate) fn cert(&self) -> PathBuf {
        self.directory.path().join("cert.pem")
    }

    pub(crate) fn key(&self) -> PathBuf {
        self.directory.path().join("key.pem")
    }

    /// The path of another file in the directory, with this text.
    pub(crate) fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.directory.path().join(name);
        std::fs::write(&path, text).expect("written");
        path
    }

    /// The settings with a listener that has TLS as the first one.
    pub(crate) fn on(&self, mut config: Config) -> Config {
        config.listen.insert(0, Endpoint::Tls(SocketAddr::from(([127, 0, 0, 1], 0))));
        config.tls_cert = Some(self.cert());
        config.tls_key = Some(self.key());
        config
    }

    /// What clients of some versions go by; they remember their sessions in it.
    pub(crate) fn client(&self, versions: &[&'static SupportedProtocolVersion]) -> Arc<ClientConfig> {
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(versions)
            .expect("versions that the provider has")
            .with_root_certificates(self.roots.clone())
            .with_no_client_auth();
        Arc::new(config)
    }
}

/// A connection whose TLS handshake begins with its first use.
pub(crate) fn connect(address: SocketAddr, config: &Arc<ClientConfig>) -> TlsStream {
    let stream = TcpStream::connect(address).expect("a connection");
    stream.set_read_timeout(Some(PATIENCE)).expect("a time-out");
    stream.set_nodelay(true).expect("no delay");
    let name = ServerName::try_from("localhost").expect("a name");
    StreamOwned::new(ClientConnection::new(Arc::clone(config), name).expect("a client"), stream)
}

/// A WebSocket over TLS.
pub(crate) struct TlsClient {
    pub(crate) socket: WebSocket<TlsStream>,
}

impl TlsClient {
    pub(crate) fn open(address: SocketAddr, path: &str, config: &Arc<ClientConfig>) -> Self {
        Self::open_on(connect(address, config), path)
    }

    pub(crate) fn open_on(stream: TlsStream, path: &str) -> Self {
        let (socket, _) = tungstenite::client(format!("wss://localhost{path}"), stream).expect("a WebSocket");
        Self { socket }
    }

    pub(crate) fn send(&mut self, message: Message) {
        self.socket.send(message).expect("sent");
    }

    pub(crate) fn say(&mut self, text: &str) {
        self.send(Message::text(text));
    }

    pub(crate) fn hears(&mut self, text: &str) {
        assert_eq!(self.message(), Message::text(text));
    }

    pub(crate) fn message(&mut self) -> Message {
        loop {
            match self.socket.read().expect("a message") {
                Message::Ping(_) | Message::Pong(_) => {}
                message => return message,
            }
        }
    }

    pub(crate) fn is_resumed(&self) -> bool {
        self.socket.get_ref().conn.handshake_kind() == Some(HandshakeKind::Resumed)
    }

    pub(crate) fn certificate(&self) -> Vec<u8> {
        let chain = self.socket.get_ref().conn.peer_certificates().expect("the handshake is over");
        chain[0].to_vec()
    }
}

/// What an HTTP request over TLS is answered with, to an end that the server says.
pub(crate) fn request(mut stream: TlsStream, text: &str) -> String {
    stream.write_all(text.as_bytes()).expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("a text, and close_notify");
    answer
}

/// The path as an argument.
pub(crate) fn arg(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}
