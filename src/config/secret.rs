//! A secret that is kept in a file of its own.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

/// Fewer bytes could be guessed. RFC 7518 §3.2
const MIN_LEN: usize = 32;
/// Bytes that a file may have; whoever names a device by mistake is told.
const MAX_LEN: u64 = 4096;

/// The secret that tokens are signed with, read from its file. It is shown as the file's path and nothing else.
///
/// The server checks tokens with the crate `jsonwebtoken`, for which it installs a provider that knows HS256 alone. A
/// program that uses that crate for other algorithms installs its own before it starts the server.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret {
    path: PathBuf,
    bytes: Arc<[u8]>,
}

impl Secret {
    /// Reads the secret: all bytes of the file but a line break at the end.
    ///
    /// # Errors
    /// Why the file cannot be read, or what is wrong with its content.
    pub fn read(path: &Path) -> Result<Self, String> {
        let wrong = |what: &dyn fmt::Display| {
            format!("{what}; name a file with at least {MIN_LEN} random bytes, as openssl rand -hex 32 makes")
        };
        let mut bytes = Vec::new();
        let file = File::open(path).map_err(|error| wrong(&error))?;
        file.take(MAX_LEN + 1).read_to_end(&mut bytes).map_err(|error| wrong(&error))?;
        if bytes.len() as u64 > MAX_LEN {
            return Err(wrong(&format_args!("it has more than {MAX_LEN} bytes")));
        }
        let secret = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
        let secret = secret.strip_suffix(b"\r").unwrap_or(secret);
        if secret.len() < MIN_LEN {
            return Err(wrong(&format_args!("its secret has {} bytes", secret.len())));
        }
        Ok(Self { path: path.into(), bytes: secret.into() })
    }

    /// The file that it is from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The secret itself.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

impl FromStr for Secret {
    type Err = String;

    fn from_str(path: &str) -> Result<Self, String> {
        Self::read(Path::new(path))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Secret").field(&self.path).finish()
    }
}

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
    fn a_line_break_at_the_end_is_none_of_the_secret() {
        let text = "0123456789abcdef0123456789abcdef";
        for end in ["", "\n", "\r\n"] {
            assert_eq!(read(&format!("{text}{end}")).expect("long enough").bytes(), text.as_bytes());
        }
        assert_eq!(read(&format!("{text}\n\n")).expect("long enough").bytes().len(), 33);
    }

    #[test]
    fn what_is_too_short_or_too_long_is_refused_and_what_is_right_not_shown() {
        assert!(read("hush").is_err_and(|what| what.contains("has 4 bytes") && what.contains("at least 32")));
        assert!(read(&"x".repeat(31)).is_err_and(|what| what.contains("has 31 bytes")));
        assert!(read(&"x".repeat(5000)).is_err_and(|what| what.contains("more than 4096 bytes")));
        let shown = format!("{:?}", read(&"hush".repeat(10)).expect("long enough"));
        assert!(shown.contains("uproar-") && !shown.contains("hush"), "{shown}");
    }
}
