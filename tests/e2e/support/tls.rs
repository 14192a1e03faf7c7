//! Test certificates, and TLS clients that trust the certificates.

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
use uproar::config::{Config, Endpoint};

use super::TIMEOUT;
use super::client::Client;

/// The TLS versions that the server supports.
pub(crate) const VERSIONS: [&SupportedProtocolVersion; 2] =
    [&rustls::version::TLS12, &rustls::version::TLS13];

/// A client's TLS stream over a TCP connection.
pub(crate) type TlsStream = StreamOwned<ClientConnection, TcpStream>;

/// A self-signed certificate for `localhost` and its key: `cert.pem` and `key.pem` in a temporary directory.
pub(crate) struct Identity {
    directory: TempDir,
    /// Root certificates that clients trust: only this certificate.
    roots: RootCertStore,
}

impl Identity {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let mut identity = Self { directory, roots: RootCertStore::empty() };
        identity.renew();
        identity
    }

    /// Replaces the certificate and its key with new ones.
    pub(crate) fn renew(&mut self) {
        self.renew_until(SystemTime::now() + Duration::from_secs(1_000_000_000));
    }

    /// Replaces the certificate and its key with new ones that expire at `end`.
    pub(crate) fn renew_until(&mut self, end: SystemTime) {
        let signing_key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(["localhost".into()]).expect("a valid name");
        params.not_after = end.into();
        let cert = params.self_signed(&signing_key).expect("a certificate");
        std::fs::write(self.cert(), cert.pem()).expect("a writable directory");
        std::fs::write(self.key(), signing_key.serialize_pem()).expect("a writable directory");
        self.roots = RootCertStore::empty();
        self.roots.add(cert.der().clone()).expect("a certificate");
    }

    pub(crate) fn cert(&self) -> PathBuf {
        self.directory.path().join("cert.pem")
    }

    pub(crate) fn key(&self) -> PathBuf {
        self.directory.path().join("key.pem")
    }

    /// Writes the file `name` into the certificate's directory. Returns the path of the file.
    pub(crate) fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.directory.path().join(name);
        std::fs::write(&path, text).expect("a writable directory");
        path
    }

    /// Returns `config` with a TLS listener for this certificate as the first listener.
    pub(crate) fn with_tls_listener(&self, mut config: Config) -> Config {
        config.listen.insert(0, Endpoint::Tls(SocketAddr::from(([127, 0, 0, 1], 0))));
        config.tls_cert = Some(self.cert());
        config.tls_key = Some(self.key());
        config
    }

    /// Returns TLS settings of clients that trust this certificate. The settings also hold the clients' TLS sessions.
    pub(crate) fn client_config(&self, versions: &[&'static SupportedProtocolVersion]) -> Arc<ClientConfig> {
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(versions)
            .expect("versions that the provider supports")
            .with_root_certificates(self.roots.clone())
            .with_no_client_auth();
        Arc::new(config)
    }
}

/// Connects over TCP. The TLS handshake begins with the first read or write of the stream.
pub(crate) fn connect(address: SocketAddr, config: &Arc<ClientConfig>) -> TlsStream {
    let stream = TcpStream::connect(address).expect("the server accepts the connection");
    stream.set_read_timeout(Some(TIMEOUT)).expect("a TCP socket");
    stream.set_nodelay(true).expect("a TCP socket");
    let name = ServerName::try_from("localhost").expect("a valid name");
    StreamOwned::new(ClientConnection::new(Arc::clone(config), name).expect("valid settings"), stream)
}

/// A WebSocket client over TLS.
pub(crate) type TlsClient = Client<TlsStream>;

impl TlsClient {
    /// Connects with TLS and opens a WebSocket at `path`.
    pub(crate) fn connect(address: SocketAddr, path: &str, config: &Arc<ClientConfig>) -> Self {
        Self::upgrade(connect(address, config), path)
    }

    /// Opens a WebSocket at `path` over an existing TLS connection.
    pub(crate) fn upgrade(stream: TlsStream, path: &str) -> Self {
        Self::try_open_url(stream, &format!("wss://localhost{path}"))
            .expect("the server accepts the handshake")
    }

    /// Returns whether the connection resumed an earlier TLS session.
    pub(crate) fn is_resumed(&self) -> bool {
        self.socket.get_ref().conn.handshake_kind() == Some(HandshakeKind::Resumed)
    }

    /// Returns the server's certificate in DER.
    pub(crate) fn certificate(&self) -> Vec<u8> {
        let chain = self.socket.get_ref().conn.peer_certificates().expect("the handshake is over");
        chain[0].to_vec()
    }
}

/// Sends an HTTP request over TLS and returns the response. Panics unless the server ends with close_notify.
pub(crate) fn https_request(mut stream: TlsStream, text: &str) -> String {
    stream.write_all(text.as_bytes()).expect("the server reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("text in UTF-8 and close_notify");
    answer
}

/// Returns `path` as a command-line argument.
pub(crate) fn arg(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}
