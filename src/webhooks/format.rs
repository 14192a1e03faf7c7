//! The requests of webhooks: a JSON body and its signature.

use std::fmt;
use std::fmt::Write;
use std::io;
use std::sync::Arc;

use ring::hmac::{HMAC_SHA256, Key, sign};
use ring::rand::{SecureRandom, SystemRandom};

use crate::outgoing::{Batch, Format, Prepared};

/// The format of this server's own webhooks: `{"id":…,"time":…,"events":[…]}`, signed with HMAC-SHA256 in the header
/// field `Uproar-Signature`.
pub(super) struct Signed {
    run: Arc<str>,
    key: Key,
}

impl Signed {
    /// Creates the format. `run` begins the identifiers of all requests.
    pub(super) fn new(run: Arc<str>, secret: &[u8]) -> Self {
        Self { run, key: Key::new(HMAC_SHA256, secret) }
    }
}

impl Format for Signed {
    fn prepare(&self, batch: &Batch<'_>) -> Prepared {
        let Batch { number, time_ms, events } = batch;
        let mut body = format!(r#"{{"id":"{}-{number}","time":{time_ms},"events":["#, self.run).into_bytes();
        body.extend_from_slice(&events.join(&b','));
        body.extend_from_slice(b"]}");
        let signature = format!("sha256={}", hex(sign(&self.key, &body).as_ref()));
        let headers = vec![("Content-Type", "application/json".to_owned()), ("Uproar-Signature", signature)];
        Prepared { headers, body }
    }
}

impl fmt::Debug for Signed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signed").field("run", &self.run).finish_non_exhaustive()
    }
}

/// Returns a random text for this process.
///
/// # Errors
/// The operating system gives no random bytes.
pub(super) fn random_run() -> io::Result<Arc<str>> {
    let mut bytes = [0; 8];
    let filled = SystemRandom::new().fill(&mut bytes);
    filled.map_err(|_| io::Error::other("getrandom(2) gives no random bytes"))?;
    Ok(hex(&bytes).into())
}

/// Returns bytes in hexadecimal digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_body_is_one_object_and_its_signature_can_be_computed_again() {
        let secret = b"0123456789abcdef0123456789abcdef";
        let signed = Signed::new("cafe".into(), secret);
        let batch =
            Batch { number: 12, time_ms: 1_700_000_000_000, events: vec![br#"{"a":1}"#, br#"{"b":2}"#] };
        let Prepared { headers, body } = signed.prepare(&batch);
        let expected = r#"{"id":"cafe-12","time":1700000000000,"events":[{"a":1},{"b":2}]}"#;
        assert_eq!(str::from_utf8(&body), Ok(expected));
        // Computed with: printf %s BODY | openssl dgst -sha256 -hmac SECRET
        let signature = "sha256=b7ee45a1a661c7c0a25fef0012962368adfa78dbb13f08352ade4181f9f0b7b6";
        assert_eq!(headers[1], ("Uproar-Signature", signature.to_owned()));
        assert!(!format!("{signed:?}").contains("0123"));
    }

    #[test]
    fn two_processes_have_different_identifiers() {
        let (one, other) = (random_run().expect("random"), random_run().expect("random"));
        assert_eq!(one.len(), 16);
        assert_ne!(one, other);
    }
}
