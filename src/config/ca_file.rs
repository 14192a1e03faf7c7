//! Certificate authorities that the server trusts when it connects to other servers, besides those of the system.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::CertificateDer;

use crate::files;
use crate::outgoing::certificates;

/// Maximum length of the file in bytes.
const MAX_LEN: u64 = 1 << 20;

/// Certificates of authorities, read from a file. The `Debug` form shows the path of this file only.
#[derive(Clone, PartialEq, Eq)]
pub struct CaFile {
    path: PathBuf,
    certificates: Arc<[CertificateDer<'static>]>,
}

impl CaFile {
    /// Reads the certificates (PEM) from the file at `path`.
    ///
    /// # Errors
    /// Returns an error text with the remedy if the file cannot be read, has no certificate, or has one that cannot be used.
    pub fn read(path: &Path) -> Result<Self, String> {
        let bytes = files::read(path, MAX_LEN).map_err(|error| error.to_string())?;
        Ok(Self { path: path.into(), certificates: certificates(&bytes)?.into() })
    }

    /// Returns the path of the file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the certificates.
    pub(crate) fn certificates(&self) -> &[CertificateDer<'static>] {
        &self.certificates
    }
}

named_by_path!(CaFile);
