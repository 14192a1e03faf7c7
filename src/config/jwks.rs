//! The public keys that verify access tokens. The key set has a file of its own.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::files;
use crate::token::KeySet;

/// Maximum length of a key set's file in bytes.
const MAX_LEN: u64 = 1 << 20;

/// The public keys that verify access tokens: a JSON Web Key Set (RFC 7517), read from a file.
#[derive(Clone, PartialEq, Eq)]
pub struct Jwks {
    path: PathBuf,
    keys: Arc<KeySet>,
}

impl Jwks {
    /// Reads the key set from the file at `path`. Keys for other purposes than RS256, ES256 and EdDSA (Ed25519)
    /// signatures are left out.
    ///
    /// # Errors
    /// Returns an error text with the remedy if the file cannot be read, is no key set, has a weak, damaged or private
    /// key, or has no key that can verify tokens.
    pub fn read(path: &Path) -> Result<Self, String> {
        if path.to_str().is_some_and(|text| text.starts_with("http://") || text.starts_with("https://")) {
            let text =
                "URLs are not supported yet; download the key set to a file, and send SIGHUP when it changes";
            return Err(text.into());
        }
        let bytes = files::read(path, MAX_LEN).map_err(|error| error.to_string())?;
        Ok(Self { path: path.into(), keys: Arc::new(KeySet::parse(&bytes)?) })
    }

    /// Returns the path of the key set's file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the keys of the set.
    pub(crate) fn keys(&self) -> Arc<KeySet> {
        Arc::clone(&self.keys)
    }
}

named_by_path!(Jwks);
