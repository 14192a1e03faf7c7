//! The token of the admin listener. The token has a file of its own.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::files;

/// Minimum length of the token in bytes.
const MIN_LEN: usize = 16;
/// Maximum length of the token in bytes.
const MAX_LEN: usize = 512;
/// Maximum length of the token's file in bytes.
const MAX_FILE_LEN: u64 = 4096;

/// The token of the admin listener, read from a file. The `Debug` form shows the path of this file only.
#[derive(Clone, PartialEq, Eq)]
pub struct AdminToken {
    path: PathBuf,
    bytes: Arc<[u8]>,
}

impl AdminToken {
    /// Reads the token from the file at `path`: 16 to 512 visible ASCII characters. White space and a byte-order mark
    /// around the token are not part of it.
    ///
    /// # Errors
    /// Returns an error text with the remedy if the file cannot be read, or has no such token. The text never has the
    /// token.
    pub fn read(path: &Path) -> Result<Self, String> {
        let bytes = files::read(path, MAX_FILE_LEN).map_err(|error| error.to_string())?;
        let token = bytes.trim_ascii();
        let remedy = "as openssl rand -hex 32 prints them";
        if token.is_empty() {
            return Err(format!(
                "the file is empty; write {MIN_LEN} to {MAX_LEN} random characters, {remedy}"
            ));
        }
        if !(MIN_LEN..=MAX_LEN).contains(&token.len()) {
            let len = token.len();
            return Err(format!("its token has {len} bytes; use {MIN_LEN} to {MAX_LEN}, {remedy}"));
        }
        // An Authorization field has one word of visible ASCII. RFC 6750 §2.1
        if !token.iter().all(u8::is_ascii_graphic) {
            return Err(format!(
                "its token has characters other than visible ASCII; use letters and digits, {remedy}"
            ));
        }
        Ok(Self { path: path.into(), bytes: token.into() })
    }

    /// Returns the path of the token's file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the bytes of the token.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

named_by_path!(AdminToken);

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<AdminToken, String> {
        let path = std::env::temp_dir().join(format!("uproar-token-{}-{}", std::process::id(), text.len()));
        std::fs::write(&path, text).expect("written");
        let token = AdminToken::read(&path);
        std::fs::remove_file(&path).expect("it is there");
        token
    }

    #[test]
    fn white_space_around_the_token_is_not_part_of_it() {
        let text = "0123456789abcdef";
        for (start, end) in [("", ""), ("\u{feff}", "\n"), ("", "\r\n"), (" \t", "\n\n")] {
            let token = read(&format!("{start}{text}{end}")).expect("long enough");
            assert_eq!(token.bytes(), text.as_bytes());
        }
    }

    #[test]
    fn a_file_without_a_fit_token_is_refused_and_the_token_is_never_shown() {
        for (text, part) in [
            (String::new(), "the file is empty"),
            ("\n".into(), "the file is empty"),
            ("hush".into(), "has 4 bytes; use 16 to 512"),
            ("hush".repeat(200), "has 800 bytes"),
            ("hush ".repeat(10), "other than visible ASCII"),
            ("hushé".repeat(10), "other than visible ASCII"),
        ] {
            let problem = read(&text).expect_err(&text);
            assert!(problem.contains(part) && !problem.contains("hush"), "{text:?}: {problem}");
        }
        let shown = format!("{:?}", read(&"hush".repeat(4)).expect("long enough"));
        assert!(shown.contains("uproar-token-") && !shown.contains("hush"), "{shown}");
    }
}
