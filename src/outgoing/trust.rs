//! The certificate authorities that the client trusts.

use std::sync::{Arc, OnceLock};

use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tracing::warn;
use ureq::tls::{Certificate, RootCerts};

use super::url::Url;

/// The certificates of the authorities that other servers may have their certificates from.
#[derive(Clone, Debug)]
pub(crate) struct Trust {
    /// The certificates besides those of the system.
    others: Arc<[CertificateDer<'static>]>,
    /// All certificates. Loaded for the first https URL.
    all: Arc<OnceLock<Arc<Vec<Certificate<'static>>>>>,
}

impl Trust {
    /// Creates the trust in the system's authorities (or those that the variables `SSL_CERT_FILE` and `SSL_CERT_DIR`
    /// name) and in `others`.
    pub(crate) fn new(others: &[CertificateDer<'static>]) -> Self {
        Self { others: others.into(), all: Arc::default() }
    }

    /// Returns the authorities for requests to `url`: none unless the URL needs TLS. The first URL that does loads the
    /// system's authorities.
    pub(super) fn roots_for(&self, url: &Url) -> RootCerts {
        let all = url.has_tls().then(|| Arc::clone(self.all.get_or_init(|| self.load())));
        RootCerts::Specific(all.unwrap_or_default())
    }

    fn load(&self) -> Arc<Vec<Certificate<'static>>> {
        let found = rustls_native_certs::load_native_certs();
        if found.certs.is_empty() && self.others.is_empty() {
            let error = found.errors.first().map_or_else(String::new, |error| format!(" ({error})"));
            warn!(
                "no certificate authority is known{error}, so no https server can be trusted; install the package \
                 ca-certificates, or name a file with --ca-file"
            );
        }
        let all = found.certs.iter().chain(&*self.others);
        Arc::new(all.map(|der| Certificate::from_der(der).to_owned()).collect())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn authorities_are_loaded_for_the_first_https_url() {
        let trust = Trust::new(&[]);
        let roots_for = |url: &str| trust.roots_for(&url.parse().expect("a URL"));
        assert!(matches!(roots_for("http://127.0.0.1/"), RootCerts::Specific(all) if all.is_empty()));
        assert!(trust.all.get().is_none());
        roots_for("https://example.org/");
        assert!(trust.all.get().is_some());
    }
}
