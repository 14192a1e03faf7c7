//! Makes temporary TLS certificates for the servers of one comparison.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The key type of a TLS certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KeyKind {
    /// An ECDSA key on the curve P-256.
    Ecdsa,
    /// An RSA key with 2,048 bits.
    Rsa,
}

/// The paths of two PEM files: a self-signed certificate for 127.0.0.1 and its private key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) cert: PathBuf,
    pub(crate) key: PathBuf,
}

/// The TLS certificates of a comparison. Dropping the value removes the certificates' directory.
#[derive(Debug)]
pub(crate) struct Identities {
    directory: PathBuf,
    ecdsa: Option<Identity>,
    rsa: Option<Identity>,
}

impl Identities {
    /// Makes a certificate for each key type in `kinds` with `openssl`, in a new directory below `parent`.
    pub(crate) fn create(parent: &Path, kinds: &[KeyKind]) -> Result<Self, String> {
        let mut identities = Self { directory: parent.join("certificates"), ecdsa: None, rsa: None };
        if kinds.contains(&KeyKind::Ecdsa) {
            let key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"];
            identities.ecdsa = Some(identities.make("ecdsa", &key)?);
        }
        if kinds.contains(&KeyKind::Rsa) {
            identities.rsa = Some(identities.make("rsa", &["-newkey", "rsa:2048"])?);
        }
        Ok(identities)
    }

    /// Returns the certificate with a key of type `kind`, or `None` if no such certificate was made.
    pub(crate) fn with_key(&self, kind: KeyKind) -> Option<&Identity> {
        match kind {
            KeyKind::Ecdsa => self.ecdsa.as_ref(),
            KeyKind::Rsa => self.rsa.as_ref(),
        }
    }

    fn make(&self, name: &str, key_options: &[&str]) -> Result<Identity, String> {
        let failed = |reason: String| format!("no certificate can be made: {reason}");
        fs::create_dir_all(&self.directory).map_err(|error| failed(error.to_string()))?;
        let [cert, key] = ["cert", "key"].map(|part| self.directory.join(format!("{name}-{part}.pem")));
        let output = Command::new("openssl")
            .args(["req", "-x509", "-nodes", "-days", "2", "-subj", "/CN=localhost"])
            .args(["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"])
            .args(key_options)
            .arg("-keyout")
            .arg(&key)
            .arg("-out")
            .arg(&cert)
            .output()
            .map_err(|error| {
                failed(format!("openssl cannot be started ({error}); install the package openssl"))
            })?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(failed(format!("openssl failed ({}): {}", output.status, said.trim())));
        }
        Ok(Identity { cert, key })
    }
}

impl Drop for Identities {
    fn drop(&mut self) {
        // The error is ignored: the directory does not exist if no certificate was made.
        let _ = fs::remove_dir_all(&self.directory);
    }
}
