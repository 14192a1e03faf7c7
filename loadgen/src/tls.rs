//! The TLS options of a run, and the checks of a server's certificate.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::version::{TLS12, TLS13};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    SupportedProtocolVersion,
};
use serde::{Deserialize, Serialize};

/// The TLS options of a run with a `wss://` URL.
#[derive(Debug, Default, Clone, clap::Args, Serialize, Deserialize)]
pub(crate) struct TlsOptions {
    /// wss://: accept any certificate.
    #[arg(long, conflicts_with = "ca_file")]
    pub(crate) insecure: bool,
    /// wss://: trust the certificates in this PEM file instead of the system's.
    ///
    /// They may be authorities, or the server's own certificate.
    #[arg(long, value_name = "FILE")]
    pub(crate) ca_file: Option<PathBuf>,
    /// wss://: use this version of TLS only; the newest that the server has if not given.
    #[arg(long, value_name = "VERSION", value_enum)]
    pub(crate) tls_version: Option<TlsVersion>,
}

/// A version of TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
pub(crate) enum TlsVersion {
    #[value(name = "1.2")]
    #[serde(rename = "1.2")]
    Tls12,
    #[value(name = "1.3")]
    #[serde(rename = "1.3")]
    Tls13,
}

impl TlsOptions {
    /// Returns the first TLS option that was given, as written on the command line. `None` if no TLS option was given.
    pub(crate) fn given(&self) -> Option<&'static str> {
        let options = [
            (self.insecure, "--insecure"),
            (self.ca_file.is_some(), "--ca-file"),
            (self.tls_version.is_some(), "--tls-version"),
        ];
        options.into_iter().find_map(|(is_given, name)| is_given.then_some(name))
    }

    /// Creates the TLS configuration that all connections of a run share.
    ///
    /// TLS sessions are not resumed, because each connection stands for a different client.
    pub(crate) fn client_config(&self) -> Result<ClientConfig, String> {
        let provider = Arc::new(ring::default_provider());
        let versions: &[&SupportedProtocolVersion] = match self.tls_version {
            Some(TlsVersion::Tls12) => &[&TLS12],
            Some(TlsVersion::Tls13) => &[&TLS13],
            None => &[&TLS13, &TLS12],
        };
        let verifier: Arc<dyn ServerCertVerifier> = match &self.ca_file {
            _ if self.insecure => Arc::new(AcceptAny { provider: provider.clone() }),
            Some(path) => Arc::new(TrustedFile::read(path, provider.clone())?),
            None => system_verifier(provider.clone())?,
        };
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .map_err(|error| format!("TLS cannot be used: {error}"))?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        config.resumption = Resumption::disabled();
        Ok(config)
    }
}

/// Returns an explanation of a TLS error, with a hint for the user.
pub(crate) fn describe(error: &Error) -> String {
    match error {
        // A trusted authority with the issuer's name but another key gives `BadSignature`.
        Error::InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::BadSignature) => {
            "the server's certificate is not signed by a trusted authority; give --ca-file FILE, or --insecure to \
             accept any certificate"
                .to_owned()
        }
        Error::InvalidCertificate(reason) => {
            format!("the server's certificate is refused: {reason}; correct --url, or give --insecure")
        }
        Error::InvalidMessage(_) => {
            "the server does not speak TLS on this port; use ws:// or correct the port".to_owned()
        }
        Error::AlertReceived(alert) => format!("the server sent the TLS alert {alert:?}; see its log"),
        Error::PeerIncompatible(reason) => {
            format!("the server and loadgen have no way of TLS in common ({reason:?}); see --tls-version")
        }
        other => format!("TLS failed: {other}"),
    }
}

/// Returns a verifier that checks certificates against the authorities that the operating system trusts.
fn system_verifier(provider: Arc<CryptoProvider>) -> Result<Arc<dyn ServerCertVerifier>, String> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build();
    let verifier = verifier.map_err(|error| {
        format!("this system has no trusted certificates ({error}); give --ca-file FILE or --insecure")
    })?;
    Ok(verifier)
}

/// A verifier that accepts every certificate, but checks that the server has the certificate's key.
#[derive(Debug)]
struct AcceptAny {
    provider: Arc<CryptoProvider>,
}

/// A verifier that accepts the certificates of a file, and certificates signed with the keys of that file's
/// certificates.
///
/// The file's own certificates are compared directly: `openssl req -x509` marks its certificate as an authority, and an
/// authority's certificate is no valid server certificate.
#[derive(Debug)]
struct TrustedFile {
    certificates: Vec<CertificateDer<'static>>,
    signed: Arc<WebPkiServerVerifier>,
    provider: Arc<CryptoProvider>,
}

impl TrustedFile {
    fn read(path: &Path, provider: Arc<CryptoProvider>) -> Result<Self, String> {
        let name = path.display();
        let bytes = fs::read(path).map_err(|error| format!("--ca-file {name} cannot be read: {error}"))?;
        // Some editors put a byte-order mark at the start of a file.
        let pem = bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(&bytes);
        let certificates = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>();
        let certificates =
            certificates.map_err(|error| format!("--ca-file {name} is not a PEM file: {error}"))?;
        if certificates.is_empty() {
            return Err(format!("--ca-file {name} has no certificate; it needs a block `BEGIN CERTIFICATE`"));
        }
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(certificates.iter().cloned());
        let signed = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build();
        let signed =
            signed.map_err(|error| format!("--ca-file {name} has no usable certificate: {error}"))?;
        Ok(Self { certificates, signed, provider })
    }
}

impl ServerCertVerifier for TrustedFile {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if self.certificates.contains(certificate) {
            verify_server_name(&ParsedCertificate::try_from(certificate)?, name)?;
            return Ok(ServerCertVerified::assertion());
        }
        self.signed.verify_server_cert(certificate, intermediates, name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

impl ServerCertVerifier for AcceptAny {
    fn verify_server_cert(
        &self,
        _certificate: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
