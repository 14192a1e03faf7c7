//! Tokens, made without the crate that checks them.

use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Value, json};
use sha2::Sha256;

pub(crate) const SECRET: &str = "a secret for tests, of more than 32 bytes";

/// A token with these claims, signed with the secret. RFC 7515 §3.1
pub(crate) fn signed(header: &Value, claims: &Value, secret: &str) -> String {
    let text = [header, claims].map(|part| URL_SAFE_NO_PAD.encode(part.to_string())).join(".");
    let mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).expect("any length");
    format!("{text}.{}", URL_SAFE_NO_PAD.encode(mac.chain_update(&text).finalize().into_bytes()))
}

/// A good token with these claims.
pub(crate) fn token(claims: &Value) -> String {
    signed(&json!({"alg": "HS256", "typ": "JWT"}), claims, SECRET)
}

/// One for a user that is good for an hour.
pub(crate) fn token_of(user: &str) -> String {
    token(&json!({"exp": now() + 3600, "sub": user}))
}

/// Seconds since 1970.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs()
}
