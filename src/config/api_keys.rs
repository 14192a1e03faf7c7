//! The file with the keys of the HTTP API.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::backends::KeySet;
use crate::files;

/// Maximum length of the file in bytes.
const MAX_LEN: u64 = 256 << 10;

/// The keys of the HTTP API, read from a file. The `Debug` form shows the path of this file only.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiKeys {
    path: PathBuf,
    keys: Arc<KeySet>,
}

impl ApiKeys {
    /// Reads the keys from the file at `path`: one line `NAME SCOPES KEY` for each key, see docs/api.md.
    ///
    /// # Errors
    /// Returns an error text with the line and the remedy if the file cannot be read or has a wrong line. The text
    /// never has a key.
    pub fn read(path: &Path) -> Result<Self, String> {
        let bytes = files::read(path, MAX_LEN).map_err(|error| error.to_string())?;
        let keys = KeySet::parse(&bytes).map_err(|(line, problem)| format!("line {line}: {problem}"))?;
        Ok(Self { path: path.into(), keys: Arc::new(keys) })
    }

    /// Returns the path of the file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the keys.
    pub(crate) fn keys(&self) -> Arc<KeySet> {
        Arc::clone(&self.keys)
    }
}

named_by_path!(ApiKeys);
