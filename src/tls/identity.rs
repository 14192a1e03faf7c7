//! The server's certificate and private key, read from files that may change while the server runs.

use std::path::{Path, PathBuf};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::SystemTime;

use rustls::crypto::ring as provider;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::NoServerSessionStorage;
use rustls::version::{TLS12, TLS13};
use rustls::{Error, ServerConfig};
use sha2::{Digest, Sha256};
use x509_parser::der_parser::ber::BerObject;
use x509_parser::der_parser::parse_der;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::files;

use super::expiry::Expiry;

/// Maximum length of a certificate or key file in bytes.
const MAX_LEN: u64 = 1 << 20;

/// The reason why a certificate or key cannot be used, in one line with the remedy. The text shows nothing of the key.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// A certificate or key file cannot be read, or its content cannot be used.
    #[error("{option} {}: {what}", path.display())]
    Unusable {
        /// The command-line option that names the file.
        option: &'static str,
        /// The path of the certificate or key file.
        path: PathBuf,
        /// The fault of the file and the remedy.
        what: String,
    },
    /// The private key belongs to another certificate.
    #[error(
        "--tls-key {} does not belong to the first certificate of --tls-cert {}; use the key that the certificate was \
         issued for, and put the server's certificate before those of its issuers",
        key.display(), cert.display()
    )]
    Mismatch {
        /// The path of the file with the certificate.
        cert: PathBuf,
        /// The path of the file with the private key.
        key: PathBuf,
    },
    /// The system provides no random bytes for the keys of session tickets.
    #[error("cannot create a key for session tickets: {0}; check that getrandom(2) works here")]
    Tickets(Error),
}

/// The replaceable credentials for new TLS connections of all shards.
#[derive(Debug)]
pub(crate) struct Identity {
    current: Mutex<Arc<Credentials>>,
    /// The sender that keeps the warning thread alive: the thread ends when the sender is dropped.
    pub(super) alive: OnceLock<Sender<()>>,
}

/// A certificate chain, and the TLS configuration with its private key.
#[derive(Debug)]
pub(crate) struct Credentials {
    /// The path of the file with the certificate.
    cert: PathBuf,
    chain: Vec<CertificateDer<'static>>,
    expiry: Option<Expiry>,
    config: Arc<ServerConfig>,
}

impl Identity {
    pub(crate) fn new(credentials: Credentials) -> Self {
        Self { current: Mutex::new(Arc::new(credentials)), alive: OnceLock::new() }
    }

    /// Replaces the credentials for new connections. Returns whether the certificate chain is a new one. If the chain
    /// is equal to the current one, nothing changes, so that session tickets stay valid.
    pub(crate) fn replace(&self, credentials: Credentials) -> bool {
        let mut current = self.current();
        let is_new = current.chain != credentials.chain;
        if is_new {
            *current = Arc::new(credentials);
        }
        is_new
    }

    /// Returns the certificate's subject, expiry and fingerprint in one line.
    pub(crate) fn description(&self) -> String {
        let current = self.current();
        current.chain.first().map_or_else(String::new, describe)
    }

    /// Returns the expiry of the certificate in seconds since 1970, or `None` if it cannot be read.
    pub(crate) fn expiry_s(&self) -> Option<i64> {
        self.current().expiry.map(Expiry::timestamp_s)
    }

    /// Returns the warning about the current certificate: see [`Credentials::warning`].
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
    /// Reads a certificate chain and its private key from PEM files.
    ///
    /// # Errors
    /// When a file cannot be read or used, or the key does not belong to the certificate; see [`IdentityError`].
    pub(crate) fn read(cert: &Path, key: &Path) -> Result<Self, IdentityError> {
        let chain = read_chain(cert)?;
        let private = read_key(key)?;
        let builder = ServerConfig::builder_with_provider(Arc::new(provider::default_provider()))
            .with_protocol_versions(&[&TLS13, &TLS12])
            .expect("the provider has suites for both versions");
        let kind = key_kind(&private);
        let config = builder.with_no_client_auth().with_single_cert(chain.clone(), private);
        let mut config = config.map_err(|error| match error {
            Error::InconsistentKeys(_) => IdentityError::Mismatch { cert: cert.into(), key: key.into() },
            Error::InvalidCertificate(why) => {
                unusable(CERT, cert, format!("not a certificate: {why}; {WANT_CERT}"))
            }
            _ => unusable(KEY, key, format!("{kind} cannot be used; {WANT_KEY}")),
        })?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        config.ticketer = provider::Ticketer::new().map_err(IdentityError::Tickets)?;
        // Each connection gives the client a new session ticket, so one ticket per handshake is enough.
        config.send_tls13_tickets = 1;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        let expiry = chain.first().and_then(Expiry::of);
        Ok(Self { cert: cert.into(), chain, expiry, config: Arc::new(config) })
    }

    /// Returns a one-line warning with the remedy if the certificate expires soon or has expired, else `None`.
    pub(crate) fn warning(&self, now: SystemTime) -> Option<String> {
        self.expiry.and_then(|expiry| expiry.warning(&self.cert, now))
    }
}

/// Describes a certificate in one line. The fingerprint equals that of `openssl x509 -fingerprint -sha256`.
fn describe(certificate: &CertificateDer<'_>) -> String {
    let digest = Sha256::digest(certificate);
    let fingerprint: Vec<_> = digest.iter().map(|byte| format!("{byte:02X}")).collect();
    let parsed = X509Certificate::from_der(certificate).ok();
    let readable = parsed.map_or_else(String::new, |(_, certificate)| {
        let subject = certificate.subject().to_string();
        let subject = if subject.is_empty() { "no subject".into() } else { subject };
        let expiry = certificate.validity().not_after.to_datetime();
        format!("{subject}, expires {} {:02}:{:02} UTC, ", expiry.date(), expiry.hour(), expiry.minute())
    });
    format!("{readable}SHA-256 {}", fingerprint.join(":"))
}

const CERT: &str = "--tls-cert";
const KEY: &str = "--tls-key";
const WANT_CERT: &str = "expected PEM with -----BEGIN CERTIFICATE-----, as certbot's fullchain.pem is";
const WANT_KEY: &str = "expected PEM (-----BEGIN PRIVATE KEY-----) with an ECDSA key on the curve P-256 or P-384, an \
                        Ed25519 key, or an RSA key of 2048 to 4096 bits";

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
        // The text of the PEM error may show a line of the key file.
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

/// Names the kind of a private key, for the message that the key cannot be used.
fn key_kind(key: &PrivateKeyDer<'_>) -> String {
    let kind = match key {
        PrivateKeyDer::Pkcs1(key) => rsa_kind(key.secret_pkcs1_der()),
        PrivateKeyDer::Pkcs8(key) => pkcs8_kind(key.secret_pkcs8_der()),
        _ => None,
    };
    kind.unwrap_or_else(|| "this key".into())
}

/// Names the kind of a PKCS #8 key, `None` for a malformed key. RFC 5208 §5: a sequence of version, algorithm with
/// parameters, and key.
fn pkcs8_kind(der: &[u8]) -> Option<String> {
    let (_, info) = parse_der(der).ok()?;
    let [_, algorithm, key, ..] = &info.as_sequence().ok()?[..] else { return None };
    let [algorithm, parameters @ ..] = &algorithm.as_sequence().ok()?[..] else { return None };
    let oid = |object: &BerObject<'_>| object.as_oid().map(|oid| oid.to_id_string());
    Some(match &*oid(algorithm).ok()? {
        "1.2.840.113549.1.1.1" => return rsa_kind(key.as_slice().ok()?),
        "1.2.840.10045.2.1" => match &*oid(parameters.first()?).ok()? {
            "1.2.840.10045.3.1.7" => "an ECDSA key on the curve P-256".into(),
            "1.3.132.0.34" => "an ECDSA key on the curve P-384".into(),
            "1.3.132.0.35" => "an ECDSA key on the curve P-521".into(),
            "1.3.132.0.10" => "an ECDSA key on the curve secp256k1".into(),
            other => format!("an ECDSA key on the curve {other}"),
        },
        "1.2.840.113549.1.1.10" => "an RSA-PSS key".into(),
        "1.2.840.10040.4.1" => "a DSA key".into(),
        "1.3.101.113" => "an Ed448 key".into(),
        "1.3.101.112" => "an Ed25519 key".into(),
        other => format!("a key of the kind {other}"),
    })
}

/// Names an RSA key with its length in bits, `None` for a malformed key. RFC 8017 §A.1.2: a sequence of version,
/// modulus and more.
fn rsa_kind(der: &[u8]) -> Option<String> {
    let (_, key) = parse_der(der).ok()?;
    let modulus = key.as_sequence().ok()?.get(1)?.as_slice().ok()?;
    let zeros = modulus.iter().take_while(|byte| **byte == 0).count();
    let modulus = &modulus[zeros..];
    let bits = modulus.len() * 8 - modulus.first()?.leading_zeros() as usize;
    Some(format!("an RSA key of {bits} bits"))
}

fn is_encrypted(bytes: &[u8]) -> bool {
    let mark = b"BEGIN ENCRYPTED PRIVATE KEY";
    bytes.windows(mark.len()).any(|window| window == mark)
}

fn read(option: &'static str, path: &Path) -> Result<Vec<u8>, IdentityError> {
    files::read(path, MAX_LEN).map_err(|error| unusable(option, path, error.to_string()))
}

fn unusable(option: &'static str, path: &Path, what: String) -> IdentityError {
    IdentityError::Unusable { option, path: path.into(), what }
}
