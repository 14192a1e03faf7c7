//! The certificate authorities that the client trusts.

use std::sync::Arc;

use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tracing::warn;
use ureq::tls::{Certificate, RootCerts};

use super::url::Url;

/// The certificates of the authorities that other servers may have their certificates from.
#[derive(Clone, Debug)]
pub(crate) struct Trust(Arc<Vec<Certificate<'static>>>);

impl Trust {
    /// Works like [`Trust::load`], but loads nothing if none of the `urls` needs TLS.
    pub(crate) fn for_urls<'a>(
        others: &[CertificateDer<'static>],
        urls: impl IntoIterator<Item = &'a Url>,
    ) -> Self {
        if urls.into_iter().any(Url::has_tls) { Self::load(others) } else { Self(Arc::default()) }
    }

    /// Loads the system's authorities (or those that the variables `SSL_CERT_FILE` and `SSL_CERT_DIR` name), and adds
    /// the certificates `others`.
    pub(crate) fn load(others: &[CertificateDer<'static>]) -> Self {
        let found = rustls_native_certs::load_native_certs();
        if found.certs.is_empty() && others.is_empty() {
            let error = found.errors.first().map_or_else(String::new, |error| format!(" ({error})"));
            warn!(
                "no certificate authority is known{error}, so no https server can be trusted; install the package \
                 ca-certificates, or name a file with --ca-file"
            );
        }
        let all = found.certs.iter().chain(others);
        Self(Arc::new(all.map(|der| Certificate::from_der(der).to_owned()).collect()))
    }

    pub(super) fn roots(&self) -> RootCerts {
        RootCerts::Specific(Arc::clone(&self.0))
    }
}

/// Parses certificates in PEM.
///
/// # Errors
/// Returns an error text with the remedy if there is no certificate, or one cannot be used.
pub(crate) fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|error| format!("it is not PEM: {error}"))?;
    if certificates.is_empty() {
        return Err("it has no certificate; write at least one, in PEM (-----BEGIN CERTIFICATE-----)".into());
    }
    for (at, certificate) in certificates.iter().enumerate() {
        RootCertStore::empty()
            .add(certificate.clone())
            .map_err(|error| format!("certificate number {} cannot be an authority: {error}", at + 1))?;
    }
    Ok(certificates)
}
