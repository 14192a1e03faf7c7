//! The secret that signs access tokens. The secret has a file of its own.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::files;

/// Minimum length of a secret in bytes. RFC 7518 §3.2: at least as long as the hash of HS256.
const MIN_LEN: usize = 32;
/// Maximum length of a secret's file in bytes.
const MAX_LEN: u64 = 4096;

/// The secret that signs access tokens, read from a file. The `Debug` form shows the path of this file only.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret {
    path: PathBuf,
    bytes: Arc<[u8]>,
}

impl Secret {
    /// Reads the secret from the file at `path`: all bytes of the file, without a byte-order mark at the start and a
    /// line break at the end.
    ///
    /// # Errors
    /// Returns an error text with the remedy if the file cannot be read, or its secret is too short or too long.
    pub fn read(path: &Path) -> Result<Self, String> {
        let bytes = files::read(path, MAX_LEN).map_err(|error| error.to_string())?;
        let secret = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
        let secret = secret.strip_suffix(b"\r").unwrap_or(secret);
        if secret.len() < MIN_LEN {
            return Err(format!(
                "its secret has {} bytes; use at least {MIN_LEN} random bytes, as openssl rand -hex 32 prints them",
                secret.len()
            ));
        }
        Ok(Self { path: path.into(), bytes: secret.into() })
    }

    /// Returns the path of the secret's file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the bytes of the secret.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

named_by_path!(Secret);

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Secret, String> {
        let path = std::env::temp_dir().join(format!("uproar-{}-{}", std::process::id(), text.len()));
        std::fs::write(&path, text).expect("written");
        let secret = Secret::read(&path);
        std::fs::remove_file(&path).expect("it is there");
        secret
    }

    #[test]
    fn a_byte_order_mark_and_a_final_line_break_are_not_part_of_the_secret() {
        let text = "0123456789abcdef0123456789abcdef";
        for start in ["", "\u{feff}"] {
            for end in ["", "\n", "\r\n"] {
                let secret = read(&format!("{start}{text}{end}")).expect("long enough");
                assert_eq!(secret.bytes(), text.as_bytes());
            }
        }
        assert_eq!(read(&format!("{text}\n\n")).expect("long enough").bytes().len(), 33);
    }

    #[test]
    fn a_secret_of_a_wrong_length_is_refused_and_a_right_one_is_never_shown() {
        assert!(read("hush").is_err_and(|what| what.contains("has 4 bytes") && what.contains("at least 32")));
        assert!(read(&"x".repeat(31)).is_err_and(|what| what.contains("has 31 bytes")));
        assert!(read(&"x".repeat(5000)).is_err_and(|what| what.contains("more than 4096 bytes")));
        let shown = format!("{:?}", read(&"hush".repeat(10)).expect("long enough"));
        assert!(shown.contains("uproar-") && !shown.contains("hush"), "{shown}");
    }
}
