//! Who the server is: its certificate and key, from files that may change while it runs.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::SystemTime;

use rustls::crypto::ring;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::NoServerSessionStorage;
use rustls::version::{TLS12, TLS13};
use rustls::{Error, ServerConfig};

use super::expiry::Expiry;

/// Bytes that a file may have; whoever names a device or a log by mistake is told.
const MAX_LEN: u64 = 1 << 20;

/// What is wrong with a certificate or a key: one line, with the way out. It tells nothing of the key.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// A file cannot be read.
    #[error("{option} {}: {error}; {remedy}", path.display())]
    Unreadable {
        /// Of which option.
        option: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        error: io::Error,
        /// What to do.
        remedy: &'static str,
    },
    /// A file does not hold what it should.
    #[error("{option} {}: {what}", path.display())]
    Unusable {
        /// Of which option.
        option: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong, and what is wanted.
        what: String,
    },
    /// The key is another certificate's.
    #[error(
        "--tls-key {} does not belong to the first certificate of --tls-cert {}; give the key that this certificate was \
         made for, and its certificate before those of its issuers",
        key.display(), cert.display()
    )]
    Mismatch {
        /// The file with the certificate.
        cert: PathBuf,
        /// The file with the key.
        key: PathBuf,
    },
    /// The system gives no random bytes for the keys of tickets.
    #[error("cannot make a key for session tickets: {0}")]
    Tickets(Error),
}

/// What new connections are shown, by all shards; it can be replaced.
#[derive(Debug)]
pub(crate) struct Identity {
    current: Mutex<Arc<Credentials>>,
    /// Whoever waits for its end sees that it is there.
    pub(super) alive: OnceLock<Sender<()>>,
}

/// A certificate with its key, and the rest that TLS needs to know.
#[derive(Debug)]
pub(crate) struct Credentials {
    /// The file with the certificate.
    cert: PathBuf,
    chain: Vec<CertificateDer<'static>>,
    expiry: Option<Expiry>,
    config: Arc<ServerConfig>,
}

impl Identity {
    pub(crate) fn new(credentials: Credentials) -> Self {
        Self { current: Mutex::new(Arc::new(credentials)), alive: OnceLock::new() }
    }

    /// Has new connections shown other credentials. With the same certificate nothing changes, so that tickets stay
    /// valid.
    pub(crate) fn replace(&self, credentials: Credentials) {
        let mut current = self.current();
        if current.chain != credentials.chain {
            *current = Arc::new(credentials);
        }
    }

    /// When the certificate expires, in seconds since 1970, if that can be told.
    pub(crate) fn expiry_s(&self) -> Option<i64> {
        self.current().expiry.map(Expiry::timestamp_s)
    }

    /// See [`Credentials::warning`].
    pub(super) fn warning(&self, now: SystemTime) -> Option<String> {
        self.current().warning(now)
    }

    pub(super) fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.current().config)
    }

    fn current(&self) -> MutexGuard<'_, Arc<Credentials>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Credentials {
    /// Reads a certificate, which those of its issuers may follow, and its key; both are PEM.
    ///
    /// # Errors
    /// See [`IdentityError`].
    pub(crate) fn read(cert: &Path, key: &Path) -> Result<Self, IdentityError> {
        let chain = read_chain(cert)?;
        let private = read_key(key)?;
        let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(&[&TLS13, &TLS12])
            .expect("the provider has suites for both versions");
        let config = builder.with_no_client_auth().with_single_cert(chain.clone(), private);
        let mut config = config.map_err(|error| match error {
            Error::InconsistentKeys(_) => IdentityError::Mismatch { cert: cert.into(), key: key.into() },
            Error::InvalidCertificate(why) => {
                unusable(CERT, cert, format!("not a certificate: {why}; {WANT_CERT}"))
            }
            _ => unusable(KEY, key, format!("no key of a kind that is known; {WANT_KEY}")),
        })?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        config.ticketer = ring::Ticketer::new().map_err(IdentityError::Tickets)?;
        // Each connection of a client brings it another one.
        config.send_tls13_tickets = 1;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        let expiry = chain.first().and_then(Expiry::of);
        Ok(Self { cert: cert.into(), chain, expiry, config: Arc::new(config) })
    }

    /// What is to be said of a certificate that expires soon or has expired: one line, with the way out.
    pub(crate) fn warning(&self, now: SystemTime) -> Option<String> {
        self.expiry.and_then(|expiry| expiry.warning(&self.cert, now))
    }
}

const CERT: &str = "--tls-cert";
const KEY: &str = "--tls-key";
const WANT_CERT: &str = "want PEM with -----BEGIN CERTIFICATE-----, as certbot's fullchain.pem is";
const WANT_KEY: &str = "want PEM with an RSA, ECDSA or Ed25519 key (-----BEGIN PRIVATE KEY-----)";

fn read_chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, IdentityError> {
    let bytes = read(CERT, path)?;
    let chain: Vec<_> = CertificateDer::pem_slice_iter(&bytes)
        .collect::<Result<_, _>>()
        .map_err(|_| unusable(CERT, path, format!("broken PEM; {WANT_CERT}")))?;
    if chain.is_empty() {
        return Err(unusable(CERT, path, format!("no certificate is in it; {WANT_CERT}")));
    }
    Ok(chain)
}

fn read_key(path: &Path) -> Result<PrivateKeyDer<'static>, IdentityError> {
    let bytes = read(KEY, path)?;
    PrivateKeyDer::from_pem_slice(&bytes).map_err(|error| {
        // The error's own text may show a line of the file.
        let what = match error {
            pem::Error::NoItemsFound if is_encrypted(&bytes) => {
                "the key is encrypted; write it without a passphrase: openssl pkey -in FILE -out PLAIN".into()
            }
            pem::Error::NoItemsFound => format!("no private key is in it; {WANT_KEY}"),
            _ => format!("broken PEM; {WANT_KEY}"),
        };
        unusable(KEY, path, what)
    })
}

fn is_encrypted(bytes: &[u8]) -> bool {
    let mark = b"BEGIN ENCRYPTED PRIVATE KEY";
    bytes.windows(mark.len()).any(|window| window == mark)
}

fn read(option: &'static str, path: &Path) -> Result<Vec<u8>, IdentityError> {
    let mut bytes = Vec::new();
    let file = File::open(path).and_then(|file| file.take(MAX_LEN + 1).read_to_end(&mut bytes));
    file.map_err(|error| IdentityError::Unreadable {
        option,
        path: path.into(),
        remedy: match error.kind() {
            io::ErrorKind::PermissionDenied => "give this user the right to read it",
            _ => "name a file with PEM",
        },
        error,
    })?;
    if bytes.len() as u64 > MAX_LEN {
        return Err(unusable(
            option,
            path,
            format!("it has more than {MAX_LEN} bytes; name a file with PEM"),
        ));
    }
    Ok(bytes)
}

fn unusable(option: &'static str, path: &Path, what: String) -> IdentityError {
    IdentityError::Unusable { option, path: path.into(), what }
}
