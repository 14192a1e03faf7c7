//! The keys of backends: their file's format, and the comparison with the key of a call.

use std::fmt;

use sha2::{Digest, Sha256};
use subtle::{Choice, ConditionallySelectable, ConstantTimeEq};

/// Minimum length of a key in bytes.
const MIN_KEY_LEN: usize = 16;
/// Maximum length of a key in bytes.
const MAX_KEY_LEN: usize = 512;
/// Maximum length of a key's name in bytes.
const MAX_NAME_LEN: usize = 64;
/// Maximum number of keys. Each call is compared with every key.
const MAX_KEYS: usize = 100;

/// Right of a key to call a part of the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    /// Read rooms, members and kept messages.
    Read,
    /// Publish messages.
    Publish,
    /// Do everything.
    Admin,
}

impl Scope {
    /// Returns the scope's name in the file of keys.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Publish => "publish",
            Self::Admin => "admin",
        }
    }

    fn bit(self) -> u8 {
        match self {
            Self::Read => 1,
            Self::Publish => 2,
            // The scope admin includes the others.
            Self::Admin => 7,
        }
    }
}

/// A key of a backend. Only the SHA-256 digest of the key is kept.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct ApiKey {
    /// The key's name, for the log and the metrics.
    pub(crate) name: Box<str>,
    /// Bits of the key's scopes, see [`Scope::bit`].
    scopes: u8,
    digest: [u8; 32],
}

impl ApiKey {
    /// Returns whether the key has this scope.
    pub(crate) fn allows(&self, scope: Scope) -> bool {
        self.scopes & scope.bit() == scope.bit()
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiKey")
            .field("name", &self.name)
            .field("scopes", &self.scopes)
            .finish_non_exhaustive()
    }
}

/// All keys of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KeySet(Vec<ApiKey>);

impl KeySet {
    /// Parses the content of a file of keys: one key a line, as `NAME SCOPES KEY`. Lines that begin with `#` are
    /// comments.
    ///
    /// # Errors
    /// Returns the number of the first wrong line, from 1 on, and the error with the remedy. The error never has the
    /// key.
    pub(crate) fn parse(text: &[u8]) -> Result<Self, (usize, String)> {
        let mut keys: Vec<ApiKey> = Vec::new();
        let mut last = 1;
        for (number, line) in (1..).zip(text.split(|byte| *byte == b'\n')) {
            last = number;
            let line = str::from_utf8(line)
                .map_err(|_| (number, "not UTF-8; save the file in that encoding".into()))?;
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let key = parse_line(line).map_err(|problem| (number, problem))?;
            if keys.iter().any(|other| other.name == key.name) {
                let problem =
                    format!("the name {} is on an earlier line; give each key its own name", key.name);
                return Err((number, problem));
            }
            if keys.iter().any(|other| other.digest == key.digest) {
                return Err((
                    number,
                    format!("the key of {} is on an earlier line; create another", key.name),
                ));
            }
            keys.push(key);
            if keys.len() > MAX_KEYS {
                return Err((number, format!("there are more than {MAX_KEYS} keys; remove some")));
            }
        }
        if keys.is_empty() {
            return Err((last, "there is no key; add a line NAME SCOPES KEY".into()));
        }
        Ok(Self(keys))
    }

    /// Returns the key with these bytes. The time does not depend on how much of a key is right.
    pub(crate) fn find(&self, key: &[u8]) -> Option<&ApiKey> {
        let digest = Sha256::digest(key);
        let mut found = 0_u32;
        for (number, known) in (1..).zip(&self.0) {
            let is_equal: Choice = known.digest[..].ct_eq(&digest[..]);
            found.conditional_assign(&number, is_equal);
        }
        found.checked_sub(1).map(|index| &self.0[index as usize])
    }
}

fn parse_line(line: &str) -> Result<ApiKey, String> {
    let mut words = line.split_whitespace();
    let (Some(name), Some(scopes), Some(key), None) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return Err("expected three words: NAME SCOPES KEY".into());
    };
    let is_name = |char: char| char.is_ascii_alphanumeric() || matches!(char, '-' | '_' | '.');
    if name.len() > MAX_NAME_LEN || !name.chars().all(is_name) {
        // The word may be a key in the wrong place, so it is not shown.
        return Err(format!(
            "the name has to be at most {MAX_NAME_LEN} letters, digits, -, _ or . of ASCII; write NAME SCOPES KEY"
        ));
    }
    let mut bits = 0;
    for scope in scopes.split(',') {
        let known =
            [Scope::Read, Scope::Publish, Scope::Admin].into_iter().find(|known| known.name() == scope);
        let known = known.ok_or_else(|| {
            format!(
                "the scopes of {name} have to be read, publish or admin, separated by commas without spaces"
            )
        })?;
        bits |= known.bit();
    }
    if !(MIN_KEY_LEN..=MAX_KEY_LEN).contains(&key.len()) {
        return Err(format!(
            "the key of {name} has {} bytes; use {MIN_KEY_LEN} to {MAX_KEY_LEN}, as openssl rand -hex 32 prints them",
            key.len()
        ));
    }
    if !key.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(format!("the key of {name} has characters other than visible ASCII; create another"));
    }
    Ok(ApiKey { name: name.into(), scopes: bits, digest: Sha256::digest(key).into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "0123456789abcdef";

    #[test]
    fn keys_are_found_by_all_their_bytes_and_have_their_scopes() {
        let text = format!("# backends\n\nphp read,publish {KEY}1\r\n ops\tadmin {KEY}2\nsite read {KEY}3");
        let keys = KeySet::parse(text.as_bytes()).expect("valid");
        let scopes = [Scope::Read, Scope::Publish, Scope::Admin];
        for (digit, name, allowed) in
            [(1, "php", [true, true, false]), (2, "ops", [true; 3]), (3, "site", [true, false, false])]
        {
            let key = keys.find(format!("{KEY}{digit}").as_bytes()).expect("known");
            assert_eq!((&*key.name, scopes.map(|scope| key.allows(scope))), (name, allowed));
        }
        for wrong in ["", KEY, "0123456789abcdef11", "0123456789abcdef4", " 0123456789abcdef1"] {
            assert_eq!(keys.find(wrong.as_bytes()), None, "{wrong:?}");
        }
    }

    #[test]
    fn a_wrong_line_is_named_and_no_key_is_shown() {
        for (text, line, part) in [
            (String::new(), 1, "there is no key"),
            ("# nothing\n".into(), 2, "there is no key"),
            (format!("php {KEY}"), 1, "three words"),
            (format!("a read {KEY}\nphp read {KEY} more"), 2, "three words"),
            (format!("php write {KEY}"), 1, "scopes of php"),
            (format!("php read, {KEY}"), 1, "scopes of php"),
            (format!("php read,,publish {KEY}"), 1, "scopes of php"),
            ("php read short".into(), 1, "has 5 bytes"),
            (format!("p/p read {KEY}"), 1, "the name has to be"),
            (format!("{KEY}{KEY}{KEY}{KEY}x read php"), 1, "the name has to be"),
            (format!("php read {KEY}é"), 1, "visible ASCII"),
            (format!("php read {KEY}\nphp read x{KEY}"), 2, "the name php"),
            (format!("php read {KEY}\nops read {KEY}"), 2, "the key of ops"),
            (format!("php read {}", "x".repeat(513)), 1, "has 513 bytes"),
        ] {
            let (found, problem) = KeySet::parse(text.as_bytes()).expect_err(&text);
            assert_eq!(found, line, "{text}");
            assert!(problem.contains(part) && !problem.contains(KEY), "{text}: {problem}");
        }
        let many: String = (0..101).map(|n| format!("n{n} read {KEY}{n}\n")).collect();
        assert_eq!(KeySet::parse(many.as_bytes()).expect_err("too many").0, 101);
        assert_eq!(KeySet::parse(b"php read \xff").expect_err("no UTF-8").0, 1);
    }

    #[test]
    fn debug_output_has_no_key_and_no_digest() {
        let keys = KeySet::parse(format!("php read {KEY}").as_bytes()).expect("valid");
        let shown = format!("{keys:?}");
        assert!(shown.contains("php") && !shown.contains(KEY) && !shown.contains("digest"), "{shown}");
    }
}
