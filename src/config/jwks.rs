//! The public keys that verify access tokens. The key set has a file of its own, or a URL.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use crate::files;
#[cfg(feature = "outgoing")]
use crate::outgoing::Url;
#[cfg(feature = "outgoing")]
use crate::token::RemoteKeys;
use crate::token::{KeySet, Keys};

/// Maximum length of a key set in bytes.
pub(crate) const MAX_LEN: u64 = 1 << 20;

/// The public keys that verify access tokens: a JSON Web Key Set (RFC 7517), read from a file or fetched from a URL.
#[derive(Clone)]
pub struct Jwks(Source);

#[derive(Clone)]
enum Source {
    File {
        path: PathBuf,
        keys: Arc<KeySet>,
    },
    #[cfg(feature = "outgoing")]
    Url {
        url: Url,
        keys: Arc<RemoteKeys>,
    },
}

impl Jwks {
    /// Reads the key set from the file at `path`. Keys for other purposes than RS256, ES256 and EdDSA (Ed25519)
    /// signatures are left out.
    ///
    /// # Errors
    /// Returns an error text with the remedy if the file cannot be read, is no key set, has a weak, damaged or private
    /// key, or has no key that can verify tokens.
    pub fn read(path: &Path) -> Result<Self, String> {
        let bytes = files::read(path, MAX_LEN).map_err(|error| error.to_string())?;
        Ok(Self(Source::File { path: path.into(), keys: Arc::new(KeySet::parse(&bytes)?) }))
    }

    /// Names the URL of a key set, which a running server fetches. The URL begins with `https://`; `http://` is allowed
    /// for loopback hosts.
    ///
    /// # Errors
    /// Returns an error text with the remedy if the URL cannot be used.
    #[cfg(feature = "outgoing")]
    pub fn at(url: Url) -> Result<Self, String> {
        if !url.has_tls() && !url.is_loopback() {
            return Err("keys that are fetched without encryption could be anybody's; use https://".into());
        }
        Ok(Self(Source::Url { url, keys: Arc::default() }))
    }

    /// Returns the path of the key set's file. `None` for a URL.
    pub fn path(&self) -> Option<&Path> {
        match &self.0 {
            Source::File { path, .. } => Some(path),
            #[cfg(feature = "outgoing")]
            Source::Url { .. } => None,
        }
    }

    /// Returns the keys of the set.
    pub(crate) fn keys(&self) -> Keys {
        match &self.0 {
            Source::File { keys, .. } => Keys::Fixed(Arc::clone(keys)),
            #[cfg(feature = "outgoing")]
            Source::Url { keys, .. } => Keys::Remote(Arc::clone(keys)),
        }
    }

    /// Returns the same option for another server, whose keys are not fetched yet.
    #[cfg(feature = "outgoing")]
    pub(crate) fn fresh(&self) -> Self {
        match &self.0 {
            Source::File { .. } => self.clone(),
            Source::Url { url, .. } => Self(Source::Url { url: url.clone(), keys: Arc::default() }),
        }
    }

    /// Returns the URL of the key set and the keys that are fetched from it. `None` for a file.
    #[cfg(feature = "outgoing")]
    pub(crate) fn remote(&self) -> Option<(&Url, &Arc<RemoteKeys>)> {
        match &self.0 {
            Source::File { .. } => None,
            Source::Url { url, keys } => Some((url, keys)),
        }
    }
}

impl FromStr for Jwks {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.starts_with("http://") || text.starts_with("https://") {
            #[cfg(feature = "outgoing")]
            return Self::at(text.parse()?);
            #[cfg(not(feature = "outgoing"))]
            return Err("URLs need the feature `outgoing`; download the key set to a file".into());
        }
        Self::read(Path::new(text))
    }
}

impl PartialEq for Jwks {
    fn eq(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (Source::File { path, keys }, Source::File { path: other, keys: others }) => {
                path == other && keys == others
            }
            #[cfg(feature = "outgoing")]
            (Source::Url { url, .. }, Source::Url { url: other, .. }) => url == other,
            #[cfg(feature = "outgoing")]
            _ => false,
        }
    }
}

impl Eq for Jwks {}

impl fmt::Debug for Jwks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_tuple("Jwks");
        match &self.0 {
            Source::File { path, .. } => shown.field(path),
            #[cfg(feature = "outgoing")]
            Source::Url { url, .. } => shown.field(url),
        };
        shown.finish()
    }
}
